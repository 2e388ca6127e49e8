//! Memory that the process shares with the kernel.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::{self, NonNull},
};

/// Memory shared with the kernel, unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    address: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory belongs to the process, not to a thread; who reads and writes it does so atomically
// or under a ring's protocol.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `length` bytes of what is behind `fd` at `offset`, shared.
    ///
    /// # Errors
    ///
    /// What `mmap` says.
    pub fn new(fd: BorrowedFd<'_>, offset: u64, length: usize, protection: i32) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        Self::map(length, protection, libc::MAP_SHARED, fd.as_raw_fd(), offset)
    }

    /// Maps `length` bytes of new memory, all zero, to be handed to the kernel in another way.
    ///
    /// # Errors
    ///
    /// What `mmap` says: out of memory.
    pub fn anonymous(length: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        Self::map(length, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    fn map(length: usize, protection: i32, flags: i32, fd: i32, offset: libc::off_t) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let address = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, fd, offset) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self { address, length })
    }

    /// Bytes of the mapping.
    pub fn length(&self) -> usize {
        self.length
    }

    /// First byte of the mapping.
    pub fn address(&self) -> NonNull<u8> {
        self.address
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made; nothing borrowed from it outlives its owner.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.length) };
    }
}
