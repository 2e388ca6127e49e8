//! What a replay has come to: counted by the sending thread, looked at by the control plane.

use std::{
    fmt::{self, Display, Formatter},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::{
    ledger::Count,
    select::Choice,
    source::capture::{STDIN, Unplayable},
};

/// Something in a capture that could not be played.
#[derive(Debug)]
pub enum Trouble {
    /// A packet that is no frame; the next one is played.
    Unplayable {
        /// Where it begins, in bytes of the capture as it is uncompressed.
        position: u64,
        /// Why.
        reason: Unplayable,
    },
    /// A frame that no datagram can carry; the next one is played.
    TooBig {
        /// As above.
        position: u64,
        /// Its length in bytes.
        len: usize,
        /// The length that fits.
        max: usize,
    },
    /// The rest of the file is not played.
    Damage(String),
}

/// Counts of one file over all passes. The sending thread alone writes them.
#[derive(Debug)]
struct File {
    path: PathBuf,
    frames: Count,
    /// Of those, the ones in this pass.
    frames_in_pass: Count,
    bytes: Count,
    filtered: Count,
    unplayable: Count,
    sampled_out: Count,
    rate_limited: Count,
    too_big: Count,
    /// The first of each kind, in words: what cannot be played, and what damage ends the file.
    first_unplayable: Mutex<Option<String>>,
    damage: Mutex<Option<String>>,
}

/// A replay in progress.
#[derive(Debug)]
pub struct Playback {
    files: Vec<File>,
    passes: Count,
    backward: Count,
    late_ns: AtomicU64,
    position: AtomicU64,
    reader_failed: AtomicBool,
}

/// What one file contributed.
#[derive(Clone, Debug)]
pub struct Played {
    /// As it was named.
    pub name: String,
    /// Frames and packets taken from it, whatever became of them.
    pub seen: u64,
    /// Bytes of the frames as they were on the wire.
    pub bytes: u64,
    /// Frames that the filter refused.
    pub filtered: u64,
    /// Packets that are no frames.
    pub unplayable: u64,
    /// Frames that no datagram can carry.
    pub too_big: u64,
    /// Frames of flows that sampling leaves out.
    pub sampled_out: u64,
    /// Frames for which the budget had no room.
    pub rate_limited: u64,
}

impl Playback {
    /// Nothing played yet.
    #[must_use]
    pub fn new(paths: &[PathBuf]) -> Self {
        let file = |path: &PathBuf| File {
            path: path.clone(),
            frames: Count::default(),
            frames_in_pass: Count::default(),
            bytes: Count::default(),
            filtered: Count::default(),
            unplayable: Count::default(),
            sampled_out: Count::default(),
            rate_limited: Count::default(),
            too_big: Count::default(),
            first_unplayable: Mutex::default(),
            damage: Mutex::default(),
        };
        Self {
            files: paths.iter().map(file).collect(),
            passes: Count::default(),
            backward: Count::default(),
            late_ns: AtomicU64::new(0),
            position: AtomicU64::new(0),
            reader_failed: AtomicBool::new(false),
        }
    }

    /// A file is played from its beginning.
    pub(super) fn begin_file(&self, file: usize) {
        if let Some(file) = self.files.get(file) {
            file.frames_in_pass.set(0);
        }
    }

    /// The reading thread ended before its time.
    pub(super) fn reader_failed(&self) {
        self.reader_failed.store(true, Ordering::Relaxed);
    }

    /// Frames of a file are on their way.
    pub(super) fn seen(&self, file: usize, frames: u64, bytes: u64) {
        if let Some(file) = self.files.get(file) {
            file.frames.add(frames);
            file.frames_in_pass.add(frames);
            file.bytes.add(bytes);
        }
    }

    /// The filter refused frames of a file.
    pub(super) fn filtered(&self, file: usize, frames: u64, bytes: u64) {
        if let Some(file) = self.files.get(file) {
            file.filtered.add(frames);
            file.bytes.add(bytes);
        }
    }

    /// Of a file's frames that were seen, one is not mirrored.
    pub(super) fn left_out(&self, file: usize, choice: Choice) {
        match (self.files.get(file), choice) {
            (Some(file), Choice::SampledOut) => file.sampled_out.add(1),
            (Some(file), Choice::RateLimited) => file.rate_limited.add(1),
            (_, Choice::Taken) | (None, _) => {}
        }
    }

    /// Counts what could not be played. Takes a lock for the first of a file, and for none after it.
    pub(super) fn note(&self, file: usize, trouble: &Trouble) {
        let Some(file) = self.files.get(file) else {
            return;
        };
        let (count, words) = match trouble {
            Trouble::Unplayable { .. } => (Some(&file.unplayable), &file.first_unplayable),
            Trouble::TooBig { .. } => (Some(&file.too_big), &file.first_unplayable),
            Trouble::Damage(_) => (None, &file.damage),
        };
        let is_first = count.is_none() || file.unplayable.get() + file.too_big.get() == 0;
        if let Some(count) = count {
            count.add(1);
        }
        if is_first {
            let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
            words.get_or_insert_with(|| match (trouble, file.frames_in_pass.get()) {
                (Trouble::Damage(damage), 1..) => {
                    let frames = file.frames_in_pass.get();
                    format!("{damage} (frames played before that: {frames})")
                }
                _ => trouble.to_string(),
            });
        }
    }

    pub(super) fn pass_ended(&self) {
        self.passes.add(1);
    }

    pub(super) fn note_pace(&self, backward: u64, late_ns: u64) {
        self.backward.set(backward);
        self.late_ns.store(late_ns, Ordering::Relaxed);
    }

    pub(super) fn moved_to(&self, position: u64) {
        self.position.store(position, Ordering::Relaxed);
    }

    /// What each file contributed so far, in the order of the command line.
    pub fn played(&self) -> impl Iterator<Item = Played> {
        self.files.iter().map(|file| {
            let [filtered, unplayable, too_big] =
                [&file.filtered, &file.unplayable, &file.too_big].map(Count::get);
            Played {
                name: file.path.display().to_string(),
                seen: file.frames.get() + filtered + unplayable + too_big,
                bytes: file.bytes.get(),
                filtered,
                unplayable,
                too_big,
                sampled_out: file.sampled_out.get(),
                rate_limited: file.rate_limited.get(),
            }
        })
    }

    /// Passes over all files that are complete.
    pub fn passes(&self) -> u64 {
        self.passes.get()
    }

    /// Frames with an earlier time than the one before.
    pub fn backward(&self) -> u64 {
        self.backward.get()
    }

    /// The longest time that a frame was late against its plan, in nanoseconds.
    pub fn late_ns(&self) -> u64 {
        self.late_ns.load(Ordering::Relaxed)
    }

    /// Bytes of the files, as they are stored, that have been sent in all passes.
    pub fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    /// What could not be played, in one line. `None` where all was.
    pub fn failure(&self) -> Option<String> {
        let mut lines: Vec<_> = self.files.iter().filter_map(File::failure).collect();
        if self.reader_failed.load(Ordering::Relaxed) {
            lines.push("the reading thread ended in a panic: this is a bug, please report it".into());
        }
        (!lines.is_empty()).then(|| lines.join("; "))
    }
}

impl File {
    fn failure(&self) -> Option<String> {
        let words = |of: &Mutex<Option<String>>| of.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let count = self.unplayable.get() + self.too_big.get();
        let unplayable = words(&self.first_unplayable).map(|first| match count {
            1 => format!("a packet could not be played: {first}"),
            _ => format!("{count} packets could not be played, the first: {first}"),
        });
        let parts: Vec<_> = [words(&self.damage), unplayable].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| format!("{}: {}", called(&self.path), parts.join("; ")))
    }
}

/// What people call an input.
pub fn called(path: &Path) -> impl Display {
    if path == Path::new(STDIN) { Path::new("standard input").display() } else { path.display() }
}

impl Display for Trouble {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unplayable { position, reason } => write!(f, "at byte {position}: {reason}"),
            Self::TooBig { position, len, max } => {
                write!(f, "at byte {position}: {len} bytes, and {max} is the longest that can be sent")
            }
            Self::Damage(words) => f.write_str(words),
        }
    }
}
