//! Reads captures ahead of the thread that sends, so that neither a disk, nor a pipe, nor decompression
//! disturbs its timing.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
};

use mirror_common::record::{DIRECTION_UNKNOWN, RecordHeader};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{chunk::Chunk, datagrams::Datagrams, playback::Trouble};
use crate::{
    affinity,
    filter::classic::Program,
    names::Names,
    privileges,
    source::capture::{CaptureReader, EthernetFrame, Packet},
};

/// Chunks on their way: what is read ahead, and with it the memory of a replay, is bounded by them.
pub(super) const CHUNKS: usize = 8;

/// What is read.
pub struct Order {
    /// The files, in the order in which they are played.
    pub files: Vec<PathBuf>,
    /// How often all of them are; 0 is for ever.
    pub passes: u64,
    /// Longest frame that the output takes, in bytes.
    pub frame_max: usize,
    /// Which frames are wanted; all, where there is none.
    pub filter: Option<Program>,
    /// Learns the interfaces that the captures name.
    pub names: Names,
}

/// The sending thread's end.
pub struct Link {
    pub(super) chunks: Receiver<Chunk>,
    pub(super) used: SyncSender<Chunk>,
    pub(super) filled: Arc<EventFd>,
}

/// The reading thread's end.
struct Reader {
    order: Order,
    chunks: Sender<Chunk>,
    used: Receiver<Chunk>,
    filled: Arc<EventFd>,
    chunk: Chunk,
    datagrams: Datagrams,
    /// Numbers of the files' interfaces, through all files.
    interfaces: HashMap<(usize, u32), u32>,
    /// Bytes read before this file, in all passes, and of this one.
    read_before: u64,
    read: Arc<AtomicU64>,
    /// The time of the last frame, for packets that have none.
    last_ns: u64,
}

/// The sending thread takes no more: the run is over.
struct NobodyReads;

/// Starts the thread. It ends by itself when everything is read, or when the other end of the link is gone;
/// one that waits for a pipe ends with the process.
///
/// # Errors
///
/// Out of file descriptors, or no room for another thread.
pub fn start(order: Order, sender_cpu: usize) -> io::Result<Link> {
    let (chunks, filled_chunks) = channel();
    let (used_chunks, used) = sync_channel(CHUNKS);
    let filled = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
    for _ in 1..CHUNKS {
        // There is room for all of them.
        let _ = used_chunks.try_send(Chunk::default());
    }
    let link = Link { chunks: filled_chunks, used: used_chunks, filled: Arc::clone(&filled) };
    let reader = Reader {
        order,
        chunks,
        used,
        filled,
        chunk: Chunk::default(),
        datagrams: Datagrams::new(),
        interfaces: HashMap::new(),
        read_before: 0,
        read: Arc::default(),
        last_ns: 0,
    };
    thread::Builder::new().name("mirror-read".into()).spawn(move || {
        if let Err(error) = leave(sender_cpu) {
            log::debug!("the reading thread may share a processor with the sending one: {error}");
        }
        if let Err(error) = privileges::keep_to_read(&reader.order.files) {
            log::warn!("the reading thread cannot give up capabilities: {error}");
        }
        // Dropped after the reader, whose end of the channel is closed by then, also in a panic: whoever
        // waits for a chunk learns that none will come.
        let _wake = WakeAtEnd(Arc::clone(&reader.filled));
        // Nobody reads any more: no news, it was the sending thread that left.
        let _ = reader.play_all();
    })?;
    Ok(link)
}

/// Wakes the sending thread when this one ends.
struct WakeAtEnd(Arc<EventFd>);

impl Drop for WakeAtEnd {
    fn drop(&mut self) {
        // Fails only if the count would overflow; then it is not 0, which is all that matters.
        let _ = self.0.write(1);
    }
}

/// Leaves the sending thread's processor to it, where there is another one.
fn leave(sender_cpu: usize) -> nix::Result<()> {
    let others: Vec<_> = affinity::allowed()?.into_iter().filter(|&cpu| cpu != sender_cpu).collect();
    if others.is_empty() { Ok(()) } else { affinity::pin_to(&others) }
}

impl Reader {
    fn play_all(mut self) -> Result<(), NobodyReads> {
        let mut pass = 0;
        while self.order.passes == 0 || pass < self.order.passes {
            let mut frames = 0;
            for file in 0..self.order.files.len() {
                frames += self.play(file)?;
                self.read_before += self.read.swap(0, Ordering::Relaxed);
            }
            self.chunk.ends_pass = true;
            self.hand_over()?;
            if frames == 0 {
                // A capture with no frames, played for ever, would keep a processor busy with nothing.
                break;
            }
            pass += 1;
        }
        self.chunk.is_last = true;
        self.hand_over()
    }

    /// Plays one file up to its end or to damage. Returns how many frames it had.
    fn play(&mut self, file: usize) -> Result<u64, NobodyReads> {
        self.next_chunk(file)?;
        self.chunk.begins_file = true;
        let mut capture = match CaptureReader::open(&self.order.files[file], Arc::clone(&self.read)) {
            Ok(capture) => capture,
            Err(error) => {
                self.note(Trouble::Damage(format!("{error:#}")));
                return Ok(0);
            }
        };
        let mut frames = 0;
        self.last_ns = 0;
        loop {
            if capture.needs_read() && !self.chunk.is_empty() {
                // The next byte may be long in coming.
                self.next_chunk(file)?;
            }
            let packet = match capture.next() {
                Ok(Some(packet)) => packet,
                Ok(None) => return Ok(frames),
                Err(damage) => {
                    self.note(Trouble::Damage(damage.to_string()));
                    return Ok(frames);
                }
            };
            let len = packet.frame.as_ref().map_or(0, EthernetFrame::captured_len);
            if self.chunk.is_full_for(len) {
                self.next_chunk(file)?;
            }
            let interface = packet.interface;
            let known = self.interfaces.get(&(file, interface)).copied();
            let number = known.unwrap_or(self.interfaces.len() as u32);
            frames += u64::from(self.take(&packet, number));
            if known.is_none() {
                self.interfaces.insert((file, interface), number);
                if let Some(name) = capture.interface_name(interface) {
                    self.order.names.learn(number, name);
                }
            }
        }
    }

    /// Puts a packet into the chunk. Returns whether it is a frame that can be sent, or could be.
    fn take(&mut self, packet: &Packet<'_>, interface: u32) -> bool {
        let position = packet.position;
        let frame = match &packet.frame {
            Ok(frame) => frame,
            Err(reason) => {
                self.note(Trouble::Unplayable { position, reason: *reason });
                return false;
            }
        };
        if let Some(filter) = &self.order.filter
            && !filter.takes(self.chunk.in_one_piece(frame), packet.original_len)
        {
            self.chunk.filtered(packet.original_len);
            return true;
        }
        let (len, max) = (frame.captured_len(), self.order.frame_max);
        if len > max {
            self.note(Trouble::TooBig { position, len, max });
            return false;
        }
        // One that has no time belongs to the one before it.
        let time_ns = packet.time_ns.unwrap_or(self.last_ns);
        self.last_ns = time_ns;
        let bytes = &mut self.chunk.bytes;
        let start = bytes.len();
        bytes.extend_from_slice(&frame.prefix);
        bytes.extend_from_slice(frame.rest);
        let flow_hash = self.datagrams.flow_hash(&bytes[start..], time_ns);
        self.chunk.headers.push(RecordHeader {
            time_ns,
            ifindex: interface,
            flow_hash,
            // The reader refuses what is longer than 2^18 bytes.
            captured_len: len as u32,
            original_len: packet.original_len,
            direction: packet.direction.map_or(DIRECTION_UNKNOWN, |direction| direction as u16),
            segmentation: 0,
            gso_size: 0,
            checksum: 0,
        });
        true
    }

    fn note(&mut self, trouble: Trouble) {
        self.chunk.troubles.push((self.chunk.headers.len(), trouble));
    }

    fn next_chunk(&mut self, file: usize) -> Result<(), NobodyReads> {
        self.hand_over()?;
        self.chunk.file = file;
        self.chunk.read_from = self.position();
        Ok(())
    }

    /// Hands the chunk to the sending thread and takes an empty one.
    fn hand_over(&mut self) -> Result<(), NobodyReads> {
        self.chunk.read_to = self.position();
        let next = self.used.recv().map_err(|_| NobodyReads)?;
        let chunk = std::mem::replace(&mut self.chunk, next);
        self.chunks.send(chunk).map_err(|_| NobodyReads)?;
        // Fails only if the count would overflow; then it is not 0, which is all that matters.
        let _ = self.filled.write(1);
        Ok(())
    }

    /// Bytes read so far, in all passes.
    fn position(&self) -> u64 {
        self.read_before + self.read.load(Ordering::Relaxed)
    }
}
