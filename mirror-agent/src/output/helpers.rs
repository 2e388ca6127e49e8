//! Threads that do for the sending threads what takes long, or a capability.

use std::{
    any::Any,
    io,
    sync::{
        Mutex, PoisonError,
        mpsc::{Sender, channel, sync_channel},
    },
    thread,
};

use crate::privileges::{self, Capability};

/// Something to do.
type Job = Box<dyn FnOnce() + Send>;

/// A thread that closes sockets: the kernel first waits until no processor looks at them any more
/// (`synchronize_net`), which takes 10 ms and more.
#[derive(Clone, Debug)]
pub(super) struct Closer(Sender<Job>);

impl Closer {
    /// One thread serves all.
    pub(super) fn start() -> io::Result<Self> {
        static STARTED: Mutex<Option<Sender<Job>>> = Mutex::new(None);
        serve(&STARTED, "mirror-close", || privileges::keep(&[])).map(Self)
    }

    pub(super) fn close(&self, what: impl Any + Send) {
        // The thread lives as long as the agent; were it gone, closing here would do too.
        let _ = self.0.send(Box::new(move || drop(what)));
    }
}

/// A thread that opens sockets, of which each takes a capability that a sending thread, with others' bytes in its hands,
/// does not keep.
#[derive(Clone, Debug)]
pub(super) struct Openings(Sender<Job>);

impl Openings {
    /// One thread serves all.
    pub(super) fn start() -> io::Result<Self> {
        static STARTED: Mutex<Option<Sender<Job>>> = Mutex::new(None);
        serve(&STARTED, "mirror-open", privileges::keep_to_open).map(Self)
    }

    /// Has it opened, and waits for it. Who has the capability needs no help.
    pub(super) fn open<T: Send + 'static>(
        &self,
        open: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        if privileges::has(Capability::CAP_NET_RAW) {
            return open();
        }
        let (answer, answers) = sync_channel(1);
        // Who asks waits.
        let job = move || drop(answer.send(open()));
        let gone = || io::Error::other("the thread that opens sockets is gone");
        self.0.send(Box::new(job)).map_err(|_| gone())?;
        answers.recv().map_err(|_| gone())?
    }
}

/// The one thread of this kind, which is started where there is none yet.
fn serve(
    started: &Mutex<Option<Sender<Job>>>,
    name: &str,
    begin: impl FnOnce() + Send + 'static,
) -> io::Result<Sender<Job>> {
    let mut started = started.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(jobs) = &*started {
        return Ok(jobs.clone());
    }
    let (sender, receiver) = channel::<Job>();
    thread::Builder::new().name(name.into()).spawn(move || {
        begin();
        receiver.into_iter().for_each(|job| job());
    })?;
    Ok(started.insert(sender).clone())
}
