//! The program under test, as a process in a test host.

use std::{
    fmt::Write as _,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;

use crate::{geneve, host::Host, lab::VXLAN_PORT, report::Report};

/// How long the agent may take to load and attach, on a busy machine.
const START: Duration = Duration::from_secs(20);
/// How long it may take to end after a signal.
const STOP: Duration = Duration::from_secs(15);

/// The agent's binary: `MIRROR_AGENT`, else what `cargo xtask build` leaves.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn binary() -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/mirror-agent");
    let path = std::env::var_os("MIRROR_AGENT").map_or_else(built, PathBuf::from);
    path.canonicalize().unwrap_or_else(|error| {
        panic!("no agent at {}: {error}; `cargo xtask build` makes it", path.display())
    })
}

/// Set by [`be_quiet`].
static QUIET: AtomicBool = AtomicBool::new(false);

/// From now on an agent whose test panics keeps to itself what it said.
pub fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// A running agent, killed on drop.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    stdout: Transcript,
    stderr: Transcript,
}

/// How an agent ended.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Agent {
    /// Starts the agent in `host` with the words of `arguments`, and waits until it mirrors.
    ///
    /// # Panics
    /// Where it ends or says nothing in time, with what it printed.
    #[must_use]
    pub fn start(host: &Host, arguments: &str) -> Self {
        let agent = Self::spawn(&mut command(host, arguments));
        agent.wait_for_line("mirroring ");
        agent
    }

    /// As [`Agent::start`], where the agent may refuse: then how it ended.
    ///
    /// # Errors
    /// It ended before it mirrored anything.
    ///
    /// # Panics
    /// Where it neither mirrors nor ends in time.
    pub fn try_start(host: &Host, arguments: &str) -> Result<Self, Outcome> {
        let agent = Self::spawn(&mut command(host, arguments));
        let mirrors = agent
            .stderr
            .wait(START, |text| text.lines().any(|line| line.starts_with("mirroring ")).then_some(()));
        match mirrors {
            Ok(()) => Ok(agent),
            Err(_) => Err(agent.wait(STOP)),
        }
    }

    /// As [`Agent::start`], of the sink.
    ///
    /// # Panics
    /// As [`Agent::start`].
    #[must_use]
    pub fn start_sink(host: &Host, arguments: &str) -> Self {
        let agent = Self::spawn(&mut command(host, &format!("sink {arguments}")));
        agent.wait_for_line("listening ");
        agent
    }

    /// Starts a command that becomes the agent, and does not wait.
    ///
    /// # Panics
    /// Where it cannot be started.
    #[must_use]
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        let stdout = Transcript::of(child.stdout.take().expect("piped"));
        let stderr = Transcript::of(child.stderr.take().expect("piped"));
        Self { child, stdout, stderr }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed on standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits for a line on standard error that starts with `start`, and gives it.
    ///
    /// # Panics
    /// Where it does not come, or the agent ends before.
    pub fn wait_for_line(&self, start: &str) -> String {
        self.stderr
            .wait(START, |text| text.lines().find(|line| line.starts_with(start)).map(str::to_owned))
            .unwrap_or_else(|text| panic!("no line `{start}...` from the agent; it said:\n{text}"))
    }

    /// Waits until standard error has `needle` somewhere behind the first `skip` bytes.
    ///
    /// # Panics
    /// Where it does not come in `time`.
    pub fn wait_for_text(&self, skip: usize, needle: &str, time: Duration) {
        self.stderr
            .wait(time, |text| text.get(skip..).is_some_and(|text| text.contains(needle)).then_some(()))
            .unwrap_or_else(|text| panic!("no `{needle}` from the agent in {time:?}; it said:\n{text}"));
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill touches no memory. The child has not been waited for, so the id is still its own.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Whether it is gone.
    ///
    /// # Panics
    /// Where the kernel does not say.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("cannot wait").is_some()
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Panics
    /// As [`Agent::wait`].
    #[must_use]
    pub fn stop(self) -> Outcome {
        self.signal(libc::SIGTERM);
        self.wait(STOP)
    }

    /// Stops it, and gives its checked report.
    ///
    /// # Panics
    /// Where it does not end with 0, or the report is not right in itself.
    #[must_use]
    pub fn stop_and_report(self) -> Report {
        self.stop().report()
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// Where it does not end in `time`.
    #[must_use]
    pub fn wait(mut self, time: Duration) -> Outcome {
        let deadline = Instant::now() + time;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("cannot wait") {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "the agent is still there after {time:?}; it said:\n{}",
                self.stderr()
            );
            thread::sleep(Duration::from_millis(2));
        };
        Outcome { status, stdout: self.stdout.end(), stderr: lossy(self.stderr.end()) }
    }

    /// The processor time that all its threads have used, in clock ticks (10 ms).
    ///
    /// # Panics
    /// Where /proc does not say.
    #[must_use]
    pub fn cpu_ticks(&self) -> u64 {
        self.threads()
            .map(|thread| {
                let stat = fs::read_to_string(thread.join("stat")).expect("stat");
                // The name in brackets can hold anything; fields 14 and 15 count from behind it.
                let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
                fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
            })
            .sum()
    }

    /// The same, as the scheduler counts it: in nanoseconds.
    ///
    /// # Panics
    /// Where /proc does not say.
    #[must_use]
    pub fn cpu_nanoseconds(&self) -> u64 {
        self.threads()
            .map(|thread| {
                let stat = fs::read_to_string(thread.join("schedstat")).expect("schedstat");
                stat.split_whitespace().next().unwrap().parse::<u64>().unwrap()
            })
            .sum()
    }

    fn threads(&self) -> impl Iterator<Item = PathBuf> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("the agent is gone");
        tasks.map(|task| task.expect("task").path())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() && !QUIET.load(Ordering::Relaxed) {
            eprintln!("--- the agent said:\n{}---", self.stderr());
        }
    }
}

impl Outcome {
    /// The exit code.
    ///
    /// # Panics
    /// Where a signal ended it.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("ended by a signal: {self}"))
    }

    /// The report of a run that ended well, checked in itself.
    ///
    /// # Panics
    /// Where it did not end with 0, or the report is not right in itself.
    #[must_use]
    pub fn report(&self) -> Report {
        assert_eq!(self.code(), 0, "{self}");
        let report: Report = self.json();
        report.check();
        report
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// Where it is not one object of that shape.
    #[must_use]
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("bad report: {error}\n{self}"))
    }

    /// Checks a failure: the exit code, and one line that starts with the program's name and has every one
    /// of `words`.
    ///
    /// # Panics
    /// Where it was not so.
    pub fn assert_failed(&self, code: i32, words: &[&str]) {
        self.assert_no_panic();
        assert_eq!(self.code(), code, "{self}");
        // clap's own messages, for wrong flags, start with `error: ` and may have a usage line after them.
        let start =
            |line: &&str| line.starts_with("mirror-agent: ") || code == 2 && line.starts_with("error: ");
        let line = self.stderr.lines().find(start).unwrap_or_else(|| panic!("no error line: {self}"));
        for word in words {
            assert!(line.contains(word), "`{word}` is not in the error line `{line}`\n{self}");
        }
    }

    /// Checks that it did not fall over.
    ///
    /// # Panics
    /// Where it did.
    pub fn assert_no_panic(&self) {
        assert!(!self.stderr.contains("panicked"), "{self}");
        assert!(self.status.code().is_some_and(|code| code != 101), "{self}");
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut stdout = lossy(self.stdout.clone());
        if stdout.len() > 4000 {
            stdout = format!("({} bytes)", stdout.len());
        }
        write!(f, "{}\n--- standard error:\n{}", self.status, self.stderr)?;
        f.write_str("--- standard output:\n")?;
        f.write_str(&stdout)?;
        f.write_char('\n')
    }
}

/// The command line that runs the agent in `host`.
#[must_use]
pub fn command(host: &Host, arguments: &str) -> Command {
    let mut command = host.command(binary());
    command.args(arguments.split_whitespace()).args(path(arguments)).env_remove("RUST_LOG");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MIRROR_") {
            command.env_remove(name);
        }
    }
    command
}

/// What `MIRROR_TEST_PATH` adds to the arguments of a live run, such as `--mode redirect`: so the tests of one path
/// through the kernel are run for another. Nothing where they are about the path that they name themselves.
fn path(arguments: &str) -> Vec<String> {
    let own =
        ["--mode", "--hook", "--transmit", "--cpu", "--ring-size", "-w", "--write", "-r", "--read", "sink"];
    let mut words = arguments.split_whitespace();
    if words.any(|word| own.contains(&word)) {
        return Vec::new();
    }
    let path = std::env::var("MIRROR_TEST_PATH").unwrap_or_default();
    path.split_whitespace().map(str::to_owned).collect()
}

/// Whether `MIRROR_TEST_PATH` asks for redirect mode.
#[must_use]
pub fn is_redirecting() -> bool {
    std::env::var("MIRROR_TEST_PATH").is_ok_and(|path| path.contains("redirect"))
}

/// The port that the agent sends to where nothing else is said: GENEVE's where `MIRROR_TEST_PATH` asks for that.
#[must_use]
pub fn sensor_port() -> u16 {
    let is_geneve = std::env::var("MIRROR_TEST_PATH").is_ok_and(|path| path.contains("geneve"));
    if is_geneve { geneve::PORT } else { VXLAN_PORT }
}

/// Runs the agent to its own end.
///
/// # Panics
/// Where it takes longer than `time`.
#[must_use]
pub fn run(host: &Host, arguments: &str, time: Duration) -> Outcome {
    Agent::spawn(&mut command(host, arguments)).wait(time)
}

/// Everything that comes out of a pipe, read by a thread as it comes.
#[derive(Debug)]
struct Transcript {
    state: Arc<(Mutex<State>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    ended: bool,
}

impl Transcript {
    fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let state = Arc::<(Mutex<State>, Condvar)>::default();
        let shared = state.clone();
        let reader = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            loop {
                let len = pipe.read(&mut buffer).unwrap_or(0);
                let mut state = shared.0.lock().unwrap();
                state.bytes.extend_from_slice(&buffer[..len]);
                state.ended = len == 0;
                shared.1.notify_all();
                if len == 0 {
                    break;
                }
            }
        });
        Self { state, reader: Some(reader) }
    }

    fn text(&self) -> String {
        lossy(self.state.0.lock().unwrap().bytes.clone())
    }

    /// Waits until `find` finds something in the text; gives the text where it does not.
    fn wait<T>(&self, time: Duration, find: impl Fn(&str) -> Option<T>) -> Result<T, String> {
        let deadline = Instant::now() + time;
        let mut state = self.state.0.lock().unwrap();
        loop {
            let text = lossy(state.bytes.clone());
            // A line is whole when the next one starts, or nothing more comes.
            let whole =
                if state.ended { &text[..] } else { text.rfind('\n').map_or("", |end| &text[..=end]) };
            if let Some(found) = find(whole) {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return Err(text);
            }
            state = self.state.1.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Everything, once the pipe is closed.
    fn end(&mut self) -> Vec<u8> {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("reader");
        }
        std::mem::take(&mut self.state.0.lock().unwrap().bytes)
    }
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
