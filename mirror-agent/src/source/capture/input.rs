//! The bytes of a capture, decompressed.

use std::{
    fmt,
    fs::File,
    io::{self, BufReader, Cursor, Read},
    os::fd::AsFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, bail};
use flate2::bufread::MultiGzDecoder;

use super::damage::Reason;

/// The path that stands for standard input, as in tcpdump.
pub const STDIN: &str = "-";

/// Compressed bytes read at once.
const COMPRESSED_READ_LEN: usize = 64 * 1024;

/// Decompressed bytes handed on at once, unless the capture ends before.
const DECOMPRESSED_READ_LEN: usize = 64 * 1024;

/// Decompressed bytes asked for at once. Decompressors do not tell what they have done in a call that fails, so
/// that this much may be lost in front of data that is wrong.
const DECOMPRESSED_STEP_LEN: usize = 4 * 1024;

/// Binary logarithm of the longest window that a zstd frame may ask for: 128 MiB, the limit of the zstd tool.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// How a capture is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// RFC 1952, one member after another.
    Gzip,
    /// RFC 8878, one frame after another.
    Zstd,
}

impl Compression {
    /// The compression of what begins with `start`, at least 4 bytes unless there are no more.
    pub(super) fn of(start: &[u8]) -> Option<Self> {
        match *start {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            // A skippable frame, such as pzstd writes in front.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            _ => None,
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// Opens `path`, [`STDIN`] being standard input, and reads nothing yet.
pub(super) fn open(path: &Path, consumed: Arc<AtomicU64>) -> anyhow::Result<impl Read + Send + 'static> {
    let file = if path == Path::new(STDIN) {
        // The descriptor itself: `io::Stdin` would put a buffer and a lock between.
        io::stdin().as_fd().try_clone_to_owned().map(File::from)
    } else {
        File::open(path)
    };
    let file = file.context("cannot be opened")?;
    if file.metadata().context("cannot be opened")?.is_dir() {
        bail!("it is a directory: name the captures in it");
    }
    consumed.store(0, Ordering::Relaxed);
    Ok(Counted { file, consumed })
}

/// Counts what is read.
struct Counted {
    file: File,
    consumed: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(into)?;
        self.consumed.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Takes up interrupted reads again. Not every decompressor does.
struct Uninterrupted(Box<dyn Read + Send>);

impl Read for Uninterrupted {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(into) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

/// The decompressed bytes, read as they are asked for.
pub(super) struct Input {
    bytes: Box<dyn Read + Send>,
    compression: Option<Compression>,
    /// Comes up at the next read.
    failure: Option<Reason>,
}

impl Input {
    /// Of what is not compressed, or not known to be yet.
    pub(super) fn plain(bytes: Box<dyn Read + Send>) -> Self {
        Self { bytes: Box::new(Uninterrupted(bytes)), compression: None, failure: None }
    }

    /// Decompresses from now on what is `start` and the bytes after it.
    pub(super) fn decompress(self, compression: Compression, start: &[u8]) -> Result<Self, Reason> {
        let bytes = Cursor::new(start.to_vec()).chain(self.bytes);
        let bytes = BufReader::with_capacity(COMPRESSED_READ_LEN, bytes);
        let bytes: Box<dyn Read + Send> = match compression {
            Compression::Gzip => Box::new(MultiGzDecoder::new(bytes)),
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(bytes).map_err(Reason::Read)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(Reason::Read)?;
                Box::new(decoder)
            }
        };
        Ok(Self { bytes, compression: Some(compression), failure: None })
    }

    /// Reads some bytes; 0 at the end.
    pub(super) fn read(&mut self, into: &mut [u8]) -> Result<usize, Reason> {
        let Some(compression) = self.compression else {
            return self.bytes.read(into).map_err(Reason::Read);
        };
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let len = into.len().min(DECOMPRESSED_READ_LEN);
        let mut filled = 0;
        while filled < len {
            let end = len.min(filled + DECOMPRESSED_STEP_LEN);
            match self.bytes.read(&mut into[filled..end]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) => {
                    self.failure = Some(failure(compression, error));
                    break;
                }
            }
        }
        match self.failure.take() {
            Some(failure) if filled == 0 => Err(failure),
            later => {
                self.failure = later;
                Ok(filled)
            }
        }
    }
}

/// Tells an error of the file, which comes from the operating system, from one of the decompressor.
fn failure(compression: Compression, error: io::Error) -> Reason {
    if error.raw_os_error().is_some() {
        Reason::Read(error)
    } else if error.kind() == io::ErrorKind::UnexpectedEof {
        Reason::CompressedCut(compression)
    } else {
        Reason::CompressedWrong(compression, error)
    }
}
