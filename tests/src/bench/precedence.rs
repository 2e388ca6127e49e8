//! Precedence over what else runs on the machine, for as long as the benchmark does.

use std::fs;

/// As nice as the agent's sending threads are: the agent, the other mirrors and the generator are then alike.
const NICE: i32 = -15;
/// The nice value of a session beside other sessions (sched(7), "The autogroup feature").
const AUTOGROUP: &str = "/proc/self/autogroup";

/// The benchmark, with all that it starts, goes first. Where the kernel refuses, it does not. After SIGKILL the
/// session (the terminal) keeps its precedence.
#[derive(Debug)]
#[must_use = "the precedence goes when this is dropped"]
pub struct Precedence {
    /// What the session had before.
    session: Option<String>,
}

impl Precedence {
    /// Takes it.
    pub fn take() -> Self {
        // SAFETY: setpriority touches no memory.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
        // `/autogroup-74 nice 0`
        let text = fs::read_to_string(AUTOGROUP).unwrap_or_default();
        let session = text.split_whitespace().last().map(str::to_owned);
        if session.is_some() {
            let _ = fs::write(AUTOGROUP, NICE.to_string());
        }
        Self { session }
    }
}

impl Drop for Precedence {
    fn drop(&mut self) {
        if let Some(session) = &self.session {
            let _ = fs::write(AUTOGROUP, session);
        }
    }
}
