//! A terminal that a test looks at and types into: tmux, with a server of its own.

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{command, scratch::Scratch};

/// How long anything may take to show up, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The terminal, with a shell in it.
#[derive(Debug)]
pub struct Tmux {
    socket: PathBuf,
    /// The socket's place.
    _scratch: Scratch,
}

impl Tmux {
    /// A shell in a terminal of that size, with these variables. Programs in it find no agents but those that run in it:
    /// they have a folder of control sockets of their own.
    ///
    /// # Panics
    /// Where it cannot be started.
    #[must_use]
    pub fn start(width: u16, height: u16, variables: &[(&str, &str)]) -> Self {
        let scratch = Scratch::new();
        let socket = scratch.path("tmux");
        let size = format!("-x {width} -y {height}");
        let line = format!(
            "mkdir -p /run/mirror-agent && mount -t tmpfs -o mode=0700 none /run/mirror-agent && \
             exec tmux -u -S {} -f /dev/null new-session -d {size} 'PS1=\"shell> \" exec bash --norc --noprofile'",
            socket.display()
        );
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "sh", "-c", &line]).env("LANG", "C.UTF-8").env("TERM", "xterm-256color");
        for name in ["NO_COLOR", "LC_ALL", "LC_CTYPE", "TMUX"] {
            unshare.env_remove(name);
        }
        unshare.envs(variables.iter().copied());
        command::run(&mut unshare);
        let tmux = Self { socket, _scratch: scratch };
        tmux.wait_for("a prompt", |screen| screen.contains("shell>"));
        tmux
    }

    fn tmux(&self, words: &[&str]) -> String {
        command::run(Command::new("tmux").arg("-S").arg(&self.socket).args(words))
    }

    /// Types a line, and Enter.
    pub fn line(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
        self.key("Enter");
    }

    /// Presses a key, by tmux's name of it.
    pub fn key(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    /// Gives the terminal another size.
    pub fn resize(&self, width: u16, height: u16) {
        self.tmux(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    /// What is on the screen.
    #[must_use]
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// The same with the codes of its colours.
    #[must_use]
    pub fn coloured_screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-e"])
    }

    /// Whether a program shows the screen that is not the shell's.
    #[must_use]
    pub fn is_alternate(&self) -> bool {
        self.tmux(&["display-message", "-p", "#{alternate_on}"]).trim() == "1"
    }

    /// Waits until the screen is as it should be, and gives it.
    ///
    /// # Panics
    /// Where it does not become so.
    pub fn wait_for(&self, what: &str, is_there: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if is_there(&screen) {
                return screen;
            }
            assert!(Instant::now() < deadline, "no {what} on the screen:\n{screen}");
            sleep(Duration::from_millis(50));
        }
    }

    /// Has the shell write the terminal's settings to a file, and gives them.
    ///
    /// # Panics
    /// Where it does not.
    pub fn settings(&self, file: &Path) -> String {
        let _ = std::fs::remove_file(file);
        self.line(&format!("stty -a > {0}.new; mv {0}.new {0}", file.display()));
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(text) = std::fs::read_to_string(file) {
                return text;
            }
            assert!(Instant::now() < deadline, "no answer of the shell:\n{}", self.screen());
            sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = Command::new("tmux").arg("-S").arg(&self.socket).arg("kill-server").output();
    }
}
