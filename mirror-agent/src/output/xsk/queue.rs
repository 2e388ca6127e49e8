//! Packets on their way through the rings of an AF_XDP socket: which memory is free, what waits to be sent,
//! and what became of it.

use std::collections::VecDeque;

use super::ring::Ring;
use crate::{
    mapping::Mapping,
    output::{
        TRIES,
        books::{Books, Part},
    },
};

/// Bytes for one packet: half a page, which the kernel allows and an Ethernet frame fits into.
pub(super) const CHUNK: usize = 2048;

/// Chunks: as many as the transmit rings of fast cards have places.
pub(super) const CHUNKS: usize = 2048;

/// Packets that wait to be sent: a batch of frames, most often.
pub(super) const TX_SLOTS: usize = 128;

/// An address behind the memory: the kernel skips such a descriptor (`xp_aligned_validate_desc` in
/// net/xdp/xsk_queue.h). What stands in the ring cannot be taken back, because the kernel remembers how far
/// the ring was filled.
const SKIPPED: libc::xdp_desc = libc::xdp_desc { addr: (CHUNKS * CHUNK) as u64, len: 1, options: 0 };

/// The sending half of an AF_XDP socket, without the socket.
#[derive(Debug)]
pub(super) struct Queue {
    tx: Ring<libc::xdp_desc>,
    completions: Ring<u64>,
    umem: Mapping,
    /// Chunks that nobody reads, the one that was used last on top: it is still in the processor's cache.
    free: Vec<u32>,
    /// By chunk: how often its address will still come back through the completion ring, and once more
    /// while it is staged.
    uses: Box<[u8; CHUNKS]>,
    /// What stands in the transmit ring from `head` on.
    pending: VecDeque<Pending>,
    /// Position of the first pending packet, which the kernel will look at next.
    head: u32,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    chunk: u32,
    length: u32,
    /// `None` for a packet that was given up.
    part: Option<Part>,
}

impl Pending {
    fn descriptor(&self) -> libc::xdp_desc {
        match self.part {
            Some(_) => {
                libc::xdp_desc { addr: u64::from(self.chunk) * CHUNK as u64, len: self.length, options: 0 }
            }
            None => SKIPPED,
        }
    }
}

impl Queue {
    /// `umem` has room for all chunks.
    pub(super) fn new(tx: Ring<libc::xdp_desc>, completions: Ring<u64>, umem: Mapping) -> Self {
        assert!(umem.length() >= CHUNKS * CHUNK, "the caller maps as much");
        Self {
            tx,
            completions,
            umem,
            free: (0..CHUNKS as u32).rev().collect(),
            uses: Box::new([0; CHUNKS]),
            pending: VecDeque::with_capacity(TX_SLOTS),
            head: 0,
        }
    }

    /// Whether another packet can be staged.
    pub(super) fn has_room(&self) -> bool {
        self.pending.len() < TX_SLOTS && !self.free.is_empty()
    }

    /// Whether nothing that was sent is still with the driver.
    pub(super) fn is_drained(&self) -> bool {
        self.free.len() == CHUNKS
    }

    /// Copies a packet to where the kernel will read it. Does nothing where there is no room, or where the
    /// packet is longer than a chunk.
    pub(super) fn stage(&mut self, header: &[u8], body: [&[u8]; 2], part: Part) {
        let [head, bytes] = body;
        let length = header.len() + head.len() + bytes.len();
        if self.pending.len() == TX_SLOTS || length > CHUNK {
            debug_assert!(false, "the caller has asked for room");
            return;
        }
        let Some(chunk) = self.free.pop() else { return };
        // SAFETY: `chunk` is below CHUNKS, so CHUNK bytes of the mapping are there, and the packet is not
        // longer. The chunk is free: its address is in no ring, and the kernel has given it back as often
        // as it was sent.
        unsafe {
            let place = self.umem.address().as_ptr().add(chunk as usize * CHUNK);
            place.copy_from_nonoverlapping(header.as_ptr(), header.len());
            let place = place.add(header.len());
            place.copy_from_nonoverlapping(head.as_ptr(), head.len());
            place.add(head.len()).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        self.uses[chunk as usize] = 1;
        let pending = Pending { chunk, length: length as u32, part: Some(part) };
        self.tx.write(self.end(), pending.descriptor());
        self.pending.push_back(pending);
    }

    /// Sends what is staged, in order, by means of `kick`, which lets the kernel send some. Waits by means
    /// of `pause` where the kernel or the driver has no room, each packet for [`TRIES`] pauses at most.
    ///
    /// # Errors
    ///
    /// The errno by which the kernel says that the interface is down or gone, or EIO where the queue does not
    /// work. What was still staged is dropped, and not counted.
    pub(super) fn push_out(
        &mut self,
        books: &mut Books<'_>,
        mut kick: impl FnMut() -> Result<(), i32>,
        mut pause: impl FnMut(),
    ) -> Result<(), i32> {
        self.tx.produce(self.end());
        let mut tries = 0;
        // The kernel may skip descriptors without telling, and one at a call.
        let mut skips = self.pending.iter().filter(|packet| packet.part.is_none()).count();
        while self.pending.iter().any(|packet| packet.part.is_some()) || self.pending.len() == TX_SLOTS {
            let result = kick();
            let progress = self.taken();
            match result {
                Ok(()) | Err(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EINTR) => {
                    self.complete(progress, books);
                    self.reclaim();
                    if progress > 0 {
                        tries = 0;
                    } else if skips > 0 {
                        skips -= 1;
                    } else {
                        tries += 1;
                        if tries < TRIES {
                            pause();
                        } else if result.is_ok() {
                            // Says that all is well and does nothing: the driver does not use this queue.
                            self.drop_all();
                            return Err(libc::EIO);
                        } else {
                            tries = 0;
                            skips += 1;
                            self.give_up_first(books, result.err().unwrap_or(libc::EAGAIN))?;
                            skips += self.skip_lost(books);
                        }
                    }
                }
                // The driver dropped the last packet that was taken. The kernel's own position is published
                // only where one in front of it was sent.
                Err(libc::EBUSY) => {
                    let leading = self.pending.iter().take_while(|packet| packet.part.is_none()).count();
                    let taken = progress.max(leading + 1).min(self.pending.len());
                    self.complete(taken - 1, books);
                    tries = if taken > leading + 1 { 1 } else { tries + 1 };
                    self.dropped(books, tries);
                    self.reclaim();
                    if tries < TRIES {
                        pause();
                    } else {
                        tries = 0;
                        skips += self.skip_lost(books);
                    }
                }
                Err(errno) => {
                    self.complete(progress, books);
                    self.drop_all();
                    return Err(errno);
                }
            }
        }
        Ok(())
    }

    /// Takes back the chunks that the kernel has done with.
    pub(super) fn reclaim(&mut self) {
        let produced = self.completions.produced();
        let mut position = self.completions.consumed();
        while position != produced {
            let address = self.completions.read(position);
            position = position.wrapping_add(1);
            // The kernel returns what it was given; anything else would not be ours to touch.
            if let Ok(chunk) = u32::try_from(address / CHUNK as u64)
                && (chunk as usize) < CHUNKS
            {
                self.release(chunk);
            }
        }
        self.completions.consume(position);
    }

    /// Position behind the last staged packet.
    fn end(&self) -> u32 {
        self.head.wrapping_add(self.pending.len() as u32)
    }

    /// How many pending packets the kernel says that it took. Its published position may lag behind ours.
    fn taken(&self) -> usize {
        let taken = self.tx.consumed().wrapping_sub(self.head).cast_signed();
        usize::try_from(taken).unwrap_or(0).min(self.pending.len())
    }

    /// The first `count` pending packets were sent.
    fn complete(&mut self, count: usize, books: &mut Books<'_>) {
        for part in self.pending.drain(..count).filter_map(|packet| packet.part) {
            books.sent(part);
        }
        self.head = self.head.wrapping_add(count as u32);
    }

    /// The first pending packet was dropped by the driver, for the `tries`th time: puts it in front again,
    /// or gives it up. Its chunk comes back once for each try.
    fn dropped(&mut self, books: &mut Books<'_>, tries: u32) {
        let Some(packet) = self.pending.pop_front() else { return };
        self.head = self.head.wrapping_add(1);
        let Some(part) = packet.part else { return };
        if tries >= TRIES {
            books.gave_up(part, libc::ENOBUFS);
            return;
        }
        // At most TRIES uses at a time, which a byte holds.
        self.uses[packet.chunk as usize] += 1;
        self.pending.push_front(packet);
        let mut position = self.head;
        for packet in &self.pending {
            self.tx.write(position, packet.descriptor());
            position = position.wrapping_add(1);
        }
        self.tx.produce(position);
    }

    /// The kernel does not take the first packet. Fails where it does not even skip what was given up.
    fn give_up_first(&mut self, books: &mut Books<'_>, errno: i32) -> Result<(), i32> {
        let first = self.pending.iter().position(|packet| packet.part.is_some());
        let part = first.and_then(|index| self.skip(index)).ok_or(libc::EIO)?;
        books.gave_up(part, errno);
        Ok(())
    }

    /// Has the kernel skip the other packets of a frame that was given up. Returns how many.
    fn skip_lost(&mut self, books: &mut Books<'_>) -> usize {
        let is_lost = |packet: &Pending| packet.part.is_none_or(|part| books.is_lost(part.frame));
        let count = self.pending.iter().take_while(|packet| is_lost(packet)).count();
        let parts: usize =
            (0..count).filter_map(|index| self.skip(index)).map(|part| books.gave_up(part, 0)).count();
        parts
    }

    /// Forgets what is staged.
    fn drop_all(&mut self) {
        for index in 0..self.pending.len() {
            self.skip(index);
        }
    }

    /// Makes the kernel skip the pending packet at `index`. Returns its part where it was not skipped yet.
    fn skip(&mut self, index: usize) -> Option<Part> {
        let packet = self.pending.get_mut(index)?;
        let part = packet.part.take()?;
        let chunk = packet.chunk;
        self.tx.write(self.head.wrapping_add(index as u32), SKIPPED);
        self.release(chunk);
        Some(part)
    }

    fn release(&mut self, chunk: u32) {
        // `chunk` is below CHUNKS: from the free list, or checked.
        let uses = &mut self.uses[chunk as usize];
        match *uses {
            0 => {}
            1 => {
                *uses = 0;
                self.free.push(chunk);
            }
            _ => *uses -= 1,
        }
    }
}

#[cfg(test)]
mod tests;
