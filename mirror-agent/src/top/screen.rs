//! The terminal: taken over, and given back as it was, however the program ends.

use std::{
    io::{self, IsTerminal as _, Stdout, Write as _, stdout},
    panic,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result, bail};
use ratatui::{
    Frame, Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::{Hide, Show},
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};

/// Whether the terminal is ours at the moment.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal, while it is ours.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Takes the terminal over. Given back on drop, and before a panic is told.
    ///
    /// # Errors
    ///
    /// Standard output is no terminal, or one that does not take it.
    pub fn open() -> Result<Self> {
        if !stdout().is_terminal() {
            bail!("standard output is no terminal: `mirror-agent top --once` prints a table");
        }
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let next = panic::take_hook();
            panic::set_hook(Box::new(move |panic| {
                give_back();
                next(panic);
            }));
        });
        let terminal = take().context("cannot use the terminal")?;
        Ok(Self { terminal })
    }

    /// Draws a picture.
    ///
    /// # Errors
    ///
    /// The terminal is gone.
    pub fn draw(&mut self, picture: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(picture)?;
        Ok(())
    }

    /// Gives the terminal back, stops this process until somebody has it go on, and takes the terminal over again.
    ///
    /// # Errors
    ///
    /// The terminal is gone.
    pub fn suspend(&mut self) -> io::Result<()> {
        give_back();
        // SAFETY: the call touches no memory. It returns once the process goes on.
        unsafe { libc::raise(libc::SIGSTOP) };
        self.take_again()
    }

    /// After a pause in which others may have used the terminal.
    ///
    /// # Errors
    ///
    /// The terminal is gone.
    pub fn take_again(&mut self) -> io::Result<()> {
        // Else it would be taken to be in raw mode still.
        let _ = disable_raw_mode();
        self.terminal = take()?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn take() -> io::Result<Terminal<CrosstermBackend<Stdout>>> {
    IS_TAKEN.store(true, Ordering::SeqCst);
    let result = enable_raw_mode().and_then(|()| {
        execute!(stdout(), EnterAlternateScreen, Hide)?;
        // It asks for the size only: the thread that reads keys would take the answer to anything else.
        Terminal::new(CrosstermBackend::new(stdout()))
    });
    if result.is_err() {
        give_back();
    }
    result
}

/// Leaves the terminal as it was found. There is nobody to tell where that fails.
fn give_back() {
    if IS_TAKEN.swap(false, Ordering::SeqCst) {
        let _ = execute!(stdout(), Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
        let _ = stdout().flush();
    }
}
