//! Reads frames in place, in the memory that the kernel programs wrote them to.
//!
//! Layout and protocol are those of kernel/bpf/ringbuf.c: one page with the consumer's position, which
//! the reader writes; one page with the producer's position; then the data, mapped twice in a row, so
//! that a record that runs over the end reads on. Each record has an 8-byte header of which the first
//! word is the length and two flags.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
};

use arrayvec::ArrayVec;
use mirror_common::record::{HEADER_LEN, RecordHeader};

use super::{Batch, Frame};
use crate::mapping::Mapping;

/// The one reader of a ring.
#[derive(Debug)]
pub struct RingReader {
    fd: OwnedFd,
    consumer: Mapping,
    producer: Mapping,
    /// Bytes of the ring, a power of two.
    size: usize,
    page: usize,
    /// Position up to which frames were released.
    position: usize,
}

/// How full a ring is, as somebody sees it who does not read it.
#[derive(Debug)]
pub struct RingGauge {
    consumer: Mapping,
    producer: Mapping,
    size: usize,
}

impl RingGauge {
    /// Bytes of the ring.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Bytes that wait to be read, and those of the frames that are being sent.
    #[must_use]
    pub fn used(&self) -> usize {
        // In this order the reader is never seen in front of the kernel.
        let [consumed, produced] = [&self.consumer, &self.producer].map(|mapping| {
            // SAFETY: the mapping's first word is the position: aligned, valid as long as the mapping, and written
            // atomically by the reader, or by the kernel.
            unsafe { mapping.address().cast::<AtomicUsize>().as_ref() }.load(Ordering::Acquire)
        });
        produced.wrapping_sub(consumed).min(self.size)
    }
}

/// Header words of a record: linux/bpf.h.
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
const RECORD_HEADER: usize = 8;

impl RingReader {
    /// Maps the ring behind `fd`, whose size is `size` bytes.
    ///
    /// # Errors
    ///
    /// What `mmap` says: out of memory, or a descriptor that is not a ring of that size.
    pub fn new(fd: OwnedFd, size: usize) -> io::Result<Self> {
        // SAFETY: the call has no preconditions.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).map_err(io::Error::other)?;
        let consumer = Mapping::new(fd.as_fd(), 0, page, libc::PROT_READ | libc::PROT_WRITE)?;
        let producer = Mapping::new(fd.as_fd(), page as u64, page + 2 * size, libc::PROT_READ)?;
        let mut reader = Self { fd, consumer, producer, size, page, position: 0 };
        reader.position = reader.consumer_position().load(Ordering::Relaxed);
        Ok(reader)
    }

    /// Committed frames from the position on, at most [`BATCH`](super::BATCH). `None` where nothing was
    /// committed; records with no frame make a batch too, so that they are released.
    pub fn batch(&mut self) -> Option<Batch<'_>> {
        // Pairs with the kernel's store-release: what lies in front of the position was written.
        let produced = self.producer_position().load(Ordering::Acquire);
        let used = produced.wrapping_sub(self.position);
        // At most 1024: a ring has no more bytes than its size.
        let occupancy = ((used << 10).div_ceil(self.size)) as u32;
        let mut batch = Batch { frames: ArrayVec::new(), end: self.position, occupancy: Some(occupancy) };
        while batch.end != produced && !batch.frames.is_full() {
            let word = self.word(batch.end).load(Ordering::Acquire);
            if word & BUSY != 0 {
                break;
            }
            let length = (word & !(BUSY | DISCARDED)) as usize;
            if word & DISCARDED == 0
                && let Some(frame) = self.frame(batch.end, length)
            {
                batch.frames.push(frame);
            }
            batch.end += (RECORD_HEADER + length).next_multiple_of(8);
        }
        (batch.end != self.position).then_some(batch)
    }

    /// Gives the place of all frames before `end` back to the kernel: no frame of a batch may be looked
    /// at afterwards, which the borrow of [`Self::batch`] sees to.
    pub fn release(&mut self, end: usize) {
        self.position = end;
        // Pairs with the kernel's load-acquire: our reads of the records are over.
        self.consumer_position().store(end, Ordering::Release);
    }

    /// A look at the positions from another thread.
    ///
    /// # Errors
    ///
    /// As for [`Self::new`].
    pub fn gauge(&self) -> io::Result<RingGauge> {
        let page = |number: u64| {
            Mapping::new(self.fd.as_fd(), number * self.page as u64, self.page, libc::PROT_READ)
        };
        Ok(RingGauge { consumer: page(0)?, producer: page(1)?, size: self.size })
    }

    /// Bytes that are reserved or committed and not yet released.
    pub fn used(&self) -> usize {
        self.producer_position().load(Ordering::Acquire).wrapping_sub(self.position)
    }

    fn consumer_position(&self) -> &AtomicUsize {
        // SAFETY: the mapping's first word is the position: aligned, valid as long as the mapping, and
        // accessed atomically by both sides.
        unsafe { self.consumer.address().cast().as_ref() }
    }

    fn producer_position(&self) -> &AtomicUsize {
        // SAFETY: as for the consumer's, and the kernel alone writes it.
        unsafe { self.producer.address().cast().as_ref() }
    }

    /// The first header word of the record at `position`.
    fn word(&self, position: usize) -> &AtomicU32 {
        // SAFETY: `position` is below the producer's, so a header was written there; records are aligned
        // to 8, and the index stays within the first of the two data mappings.
        unsafe { self.data(position).cast().as_ref() }
    }

    fn frame(&self, position: usize, length: usize) -> Option<Frame<'_>> {
        if length < HEADER_LEN {
            return None;
        }
        // SAFETY: the record is committed: its bytes do not change before the consumer's position moves
        // past it, which needs `&mut self`. The data is mapped twice, so `length` bytes follow in one
        // piece. `RecordHeader` is integers only and aligned to 8 as the record is.
        unsafe {
            let record = self.data(position).add(RECORD_HEADER);
            let header: &RecordHeader = record.cast().as_ref();
            let captured = (header.captured_len as usize).min(length - HEADER_LEN);
            let bytes = slice::from_raw_parts(record.add(HEADER_LEN).as_ptr(), captured);
            Some(Frame::whole(header, bytes))
        }
    }

    /// Address of the data at `position`.
    ///
    /// # Safety
    ///
    /// None to call it; what may be read there depends on the producer's position.
    unsafe fn data(&self, position: usize) -> NonNull<u8> {
        // SAFETY: the page and an index below `size` are within the mapping of page + 2 * size bytes.
        unsafe { self.producer.address().add(self.page + (position & (self.size - 1))) }
    }
}

impl AsFd for RingReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
