//! A ring of AF_XDP: memory in which kernel and user space pass each other descriptors
//! (Documentation/networking/af_xdp.rst).

use std::{
    io,
    marker::PhantomData,
    os::fd::BorrowedFd,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::mapping::Mapping;

/// A ring with descriptors of type `T`: a 64-bit address, or an `xdp_desc`. Positions count up and wrap; a
/// position's slot is its lower bits.
#[derive(Debug)]
pub(super) struct Ring<T> {
    mapping: Mapping,
    producer: usize,
    consumer: usize,
    descriptors: usize,
    slots: u32,
    _descriptors: PhantomData<T>,
}

impl<T: Copy> Ring<T> {
    /// Maps the ring of `slots` slots, a power of two, at `offset` of an AF_XDP socket.
    pub(super) fn map(
        socket: BorrowedFd<'_>,
        offset: u64,
        places: &libc::xdp_ring_offset,
        slots: usize,
    ) -> io::Result<Self> {
        let length = places.desc as usize + slots * size_of::<T>();
        let mapping = Mapping::new(socket, offset, length, libc::PROT_READ | libc::PROT_WRITE)?;
        Self::new(mapping, [places.producer, places.consumer, places.desc], slots).ok_or_else(|| {
            io::Error::other("the kernel lays AF_XDP rings out in a way that this agent does not know")
        })
    }

    /// A ring in `mapping`, where producer, consumer and descriptors are at these offsets.
    pub(super) fn new(mapping: Mapping, places: [u64; 3], slots: usize) -> Option<Self> {
        let [producer, consumer, descriptors] = places.map(|place| place as usize);
        let fits = descriptors.checked_add(slots.checked_mul(size_of::<T>())?)? <= mapping.length()
            && producer.max(consumer) + 4 <= mapping.length()
            && producer.is_multiple_of(4)
            && consumer.is_multiple_of(4)
            && descriptors.is_multiple_of(align_of::<T>())
            && slots.is_power_of_two();
        fits.then_some(Self {
            mapping,
            producer,
            consumer,
            descriptors,
            slots: slots as u32,
            _descriptors: PhantomData,
        })
    }

    /// Up to where there are descriptors. What was written in front of the position is visible.
    pub(super) fn produced(&self) -> u32 {
        self.position(self.producer).load(Ordering::Acquire)
    }

    /// There are descriptors up to `position`.
    pub(super) fn produce(&self, position: u32) {
        self.position(self.producer).store(position, Ordering::Release);
    }

    /// Up to where descriptors were taken.
    pub(super) fn consumed(&self) -> u32 {
        self.position(self.consumer).load(Ordering::Acquire)
    }

    /// Descriptors were taken up to `position`.
    pub(super) fn consume(&self, position: u32) {
        self.position(self.consumer).store(position, Ordering::Release);
    }

    /// The descriptor at `position`.
    pub(super) fn read(&self, position: u32) -> T {
        // SAFETY: the slot lies within the mapping and is aligned (`new`). The kernel writes there only
        // what lies behind the producer's position, and does not while it is in front of it.
        unsafe { self.slot(position).read() }
    }

    /// Writes the descriptor at `position`.
    pub(super) fn write(&self, position: u32, descriptor: T) {
        // SAFETY: as for `read`; in copy mode the kernel reads only within a system call of the one thread
        // that owns the ring.
        unsafe { self.slot(position).write(descriptor) }
    }

    /// # Safety
    ///
    /// None to call it; who reads or writes there keeps to the ring's protocol.
    unsafe fn slot(&self, position: u32) -> *mut T {
        let index = (position & (self.slots - 1)) as usize;
        // SAFETY: `new` has seen that all slots lie within the mapping.
        unsafe { self.mapping.address().as_ptr().add(self.descriptors).cast::<T>().add(index) }
    }

    fn position(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: within the mapping and aligned (`new`), and accessed atomically by both sides.
        unsafe { self.mapping.address().add(offset).cast().as_ref() }
    }
}
