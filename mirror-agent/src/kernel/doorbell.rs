//! How a sleeping reader is woken: a flag in memory that hooks look at after each record.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering, fence},
    },
};

use mirror_common::record::{Doorbell as Shared, RINGS_MAX};

use crate::mapping::Mapping;

/// The doorbells of all rings, mapped.
#[derive(Clone, Debug)]
pub struct Doorbells(Arc<Mapping>);

impl Doorbells {
    /// Maps the array behind `fd`.
    ///
    /// # Errors
    ///
    /// What `mmap` says.
    pub fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let length = RINGS_MAX * size_of::<Shared>();
        Ok(Self(Arc::new(Mapping::new(fd, 0, length, libc::PROT_READ | libc::PROT_WRITE)?)))
    }

    /// The doorbell of a ring, or `None` where there is no ring of that number.
    #[must_use]
    pub fn ring(&self, index: usize) -> Option<Doorbell> {
        (index < RINGS_MAX).then(|| Doorbell { all: self.clone(), index })
    }
}

/// One ring's.
#[derive(Debug)]
pub struct Doorbell {
    all: Doorbells,
    index: usize,
}

impl Doorbell {
    /// Asks the next hook that writes a record to wake the reader. What the caller reads afterwards is
    /// no older than the request.
    pub fn arm(&self) {
        self.armed().store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The reader is awake.
    pub fn disarm(&self) {
        self.armed().store(0, Ordering::Relaxed);
    }

    fn armed(&self) -> &AtomicU32 {
        // SAFETY: the mapping has RINGS_MAX doorbells and `index` is below that; the flag is the first
        // word of each, aligned, and written by hooks in single stores.
        unsafe { self.all.0.address().cast::<Shared>().add(self.index).cast().as_ref() }
    }
}
