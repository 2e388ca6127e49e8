//! What the injecting program and its user share: a BPF array of one value, mapped into memory.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{bpf, nanoseconds};

/// Offsets of the words of 8 bytes at the value's start.
pub const STOP: i16 = 0;
/// Frames passed on.
pub const SENT: i16 = 8;
/// The entry of the next frame.
pub const NEXT: i16 = 16;
/// Frames per nanosecond, times 2^32; 0 as fast as it goes.
pub const RATE: i16 = 24;
/// When counting by the rate began, and the frames passed on before.
pub const START: i16 = 32;
pub const BASE: i16 = 40;
/// Further behind than so many frames, it counts from now.
pub const BURST: i16 = 48;
/// Where the entries begin, and the power of two that is their distance: the frame's length, 4 bytes, 4 of
/// padding, and the first bytes of the frame.
pub const ENTRIES: i16 = 64;
pub const ENTRY_SHIFT: i32 = 6;
/// Bytes in which frames differ.
pub const HEAD: usize = 48;

/// The map.
#[derive(Debug)]
pub struct State {
    map: OwnedFd,
    memory: NonNull<u8>,
    len: usize,
    /// Nanoseconds of `bpf_ktime_get_ns`; 0 as long as it has not.
    began: AtomicU64,
    ended: AtomicU64,
}

// SAFETY: the memory is the mapping of this alone, which goes with it, and is only used as atomics once it is
// filled.
unsafe impl Send for State {}
// SAFETY: as above.
unsafe impl Sync for State {}

impl State {
    /// A map with an entry for each frame.
    ///
    /// # Errors
    /// What the kernel said.
    ///
    /// # Panics
    /// Where a frame does not go on as `longest` does.
    pub fn new(frames: &[Vec<u8>], longest: &[u8], rate: Option<u64>) -> io::Result<Self> {
        let len = ENTRIES as usize + (frames.len() << ENTRY_SHIFT);
        let map = create(len)?;
        // SAFETY: a new shared mapping of a descriptor, at an address that the kernel chooses.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).expect("mmap gives no null");
        let state = Self { map, memory, len, began: AtomicU64::new(0), ended: AtomicU64::new(0) };
        for (index, frame) in frames.iter().enumerate() {
            assert!(frame.len() >= HEAD, "a frame of {} bytes is too short", frame.len());
            assert_eq!(frame[HEAD..], longest[HEAD..frame.len()], "frames differ behind byte {HEAD}");
            let mut entry = [0; 8 + HEAD];
            entry[..4].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
            entry[8..].copy_from_slice(&frame[..HEAD]);
            let offset = ENTRIES as usize + (index << ENTRY_SHIFT);
            // SAFETY: the mapping has 64 bytes for each frame behind `ENTRIES`, and nobody else uses it yet.
            unsafe { ptr::copy_nonoverlapping(entry.as_ptr(), memory.as_ptr().add(offset), entry.len()) };
        }
        if let Some(rate) = rate {
            let per_ns = (u128::from(rate) << 32) / 1_000_000_000;
            state.word(RATE).store(u64::try_from(per_ns).expect("too fast").max(1), Ordering::Relaxed);
            state.word(BURST).store(rate / 1_000 + 1, Ordering::Relaxed);
        }
        Ok(state)
    }

    /// The first frame is due.
    pub fn begin(&self) {
        self.word(START).store(nanoseconds(), Ordering::Relaxed);
    }

    /// The first frame has passed, after what the kernel had to set up.
    pub fn note_first(&self) {
        self.began.store(nanoseconds(), Ordering::Relaxed);
    }

    pub fn map(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }

    pub fn sent(&self) -> u64 {
        self.word(SENT).load(Ordering::Relaxed)
    }

    /// Lets no more frames pass.
    pub fn stop(&self) {
        if !self.is_stopped() {
            self.word(STOP).store(1, Ordering::Relaxed);
            self.ended.store(nanoseconds(), Ordering::Relaxed);
        }
    }

    /// From the first frame to the stop.
    pub fn time(&self) -> Duration {
        let [began, ended] = [&self.began, &self.ended].map(|time| time.load(Ordering::Relaxed));
        Duration::from_nanos(ended.saturating_sub(began))
    }

    pub fn is_stopped(&self) -> bool {
        self.word(STOP).load(Ordering::Relaxed) != 0
    }

    fn word(&self, offset: i16) -> &AtomicU64 {
        // SAFETY: the words are in the mapping, aligned, and from now on used as atomics only; the program
        // reads and writes them whole.
        unsafe { AtomicU64::from_ptr(self.memory.as_ptr().add(offset as usize).cast()) }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing borrows from it any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.len) };
    }
}

/// An array with one value of `len` bytes.
fn create(len: usize) -> io::Result<OwnedFd> {
    /// The start of `union bpf_attr` for BPF_MAP_CREATE.
    #[repr(C)]
    struct Create {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        map_flags: u32,
    }
    const BPF_MAP_CREATE: i64 = 0;
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    const BPF_F_MMAPABLE: u32 = 1 << 10;
    let attributes = Create {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: len as u32,
        max_entries: 1,
        map_flags: BPF_F_MMAPABLE,
    };
    bpf::bpf(BPF_MAP_CREATE, &attributes)
}
