//! Captures in pcapng (draft-ietf-opsawg-pcapng), with time stamps in nanoseconds.
//!
//! pcap-file writes what comes once, the section header and the interfaces. Packet blocks are written here:
//! pcap-file's own need a vector of options and one contiguous slice for each frame.
//!
//! The same calls give the same bytes on every machine: little endian, and neither clock nor host name in
//! the section header.

use std::{
    borrow::Cow,
    fs::{File, Metadata},
    io::{self, BufWriter, Write},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use pcap_file::{
    DataLink, Endianness,
    pcapng::{
        PcapNgWriteError, PcapNgWriter,
        blocks::interface_description::{
            InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
        },
    },
};

/// The path that stands for standard output, as in tcpdump.
pub const STDOUT: &str = "-";

/// Bytes collected before a write to the file.
const BUFFER_LEN: usize = 256 * 1024;

/// Which way a frame crossed its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Received by the host.
    Inbound,
    /// Sent by the host.
    Outbound,
}

/// One captured Ethernet frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The interface, as [`CaptureWriter::add_interface`] numbered it.
    pub interface: u32,
    /// Time of capture: nanoseconds since 1970-01-01 00:00:00 UTC.
    pub time_ns: u64,
    /// `None` where it is not known.
    pub direction: Option<Direction>,
    /// Bytes the frame had on the wire; never fewer than `data` has.
    pub original_len: u32,
    /// The captured bytes in order, in as many parts as they lie in.
    pub data: &'a [&'a [u8]],
}

/// Writes a capture, frames in the order of the calls.
///
/// What was written is certain to have left only after [`CaptureWriter::flush`]. After an error the capture
/// may end inside a block: give it up.
pub struct CaptureWriter<W: Write = File> {
    blocks: PcapNgWriter<BufWriter<W>>,
}

/// A file that is to become a capture, and has not been touched.
#[derive(Debug)]
pub struct Target {
    file: File,
    is_stdout: bool,
}

impl Target {
    /// Opens `path`; [`STDOUT`] is standard output. Waits, where it is a FIFO that nobody reads.
    ///
    /// # Errors
    /// Those of opening `path`. The path is not part of the message.
    pub fn open(path: &Path) -> io::Result<Self> {
        let is_stdout = path == Path::new(STDOUT);
        let file = if is_stdout {
            // The descriptor itself: `io::Stdout` would look for line ends in every frame.
            File::from(io::stdout().as_fd().try_clone_to_owned()?)
        } else {
            File::options().write(true).create(true).truncate(false).open(path)?
        };
        Ok(Self { file, is_stdout })
    }

    /// What the file system knows of it.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    /// Replaces what was there by a capture's header.
    ///
    /// # Errors
    /// Those of the file.
    pub fn begin(self) -> io::Result<CaptureWriter> {
        if !self.is_stdout && self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        let mut writer = CaptureWriter::new(self.file)?;
        // At once, so that a full disk shows here.
        writer.flush()?;
        Ok(writer)
    }
}

impl<W: Write> CaptureWriter<W> {
    /// Starts a capture in `out`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(out: W) -> io::Result<Self> {
        let out = BufWriter::with_capacity(BUFFER_LEN, out);
        let blocks = PcapNgWriter::with_endianness(out, Endianness::Little).map_err(into_io)?;
        Ok(Self { blocks })
    }

    /// Adds an Ethernet interface, with a name where it has one, and returns its number, for
    /// [`Frame::interface`]. Frames may come before it.
    ///
    /// # Errors
    /// Those of the file; `InvalidInput` for a name longer than 65,535 bytes.
    pub fn add_interface(&mut self, name: Option<&str>) -> io::Result<u32> {
        let number = self.interface_count();
        let mut interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, 0);
        let name = name.map(|name| InterfaceDescriptionOption::IfName(Cow::Borrowed(name)));
        let resolution = InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO);
        interface.options = name.into_iter().chain([resolution]).collect();
        self.blocks.write_pcapng_block(interface).map_err(into_io)?;
        Ok(number)
    }

    /// Interfaces added so far.
    #[must_use]
    pub fn interface_count(&self) -> u32 {
        u32::try_from(self.blocks.interfaces().len()).unwrap_or(u32::MAX)
    }

    /// Appends `frame`. Allocates nothing.
    ///
    /// # Errors
    /// Those of the file; `InvalidInput`, with nothing written, for an interface that was not added, for
    /// more captured bytes than `original_len` and for a frame that no block can hold (4 GiB).
    pub fn write_frame(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        if frame.interface >= self.interface_count() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "frame of an unknown interface"));
        }
        write_enhanced_packet(self.blocks.get_mut(), frame)
    }

    /// Hands everything that was written to the operating system.
    ///
    /// # Errors
    /// Those of the file, such as a full disk or a closed pipe, also of earlier writes.
    pub fn flush(&mut self) -> io::Result<()> {
        self.blocks.get_mut().flush()
    }
}

impl<W: Write + AsFd> AsFd for CaptureWriter<W> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.blocks.get_ref().get_ref().as_fd()
    }
}

/// Writes an Enhanced Packet Block, draft-ietf-opsawg-pcapng section 4.3:
///
/// ```text
/// block type 6 | block length | interface | time, high half | time, low half
/// captured length | original length | data, padded to 4 bytes
/// [epb_flags option, end of options] | block length again
/// ```
fn write_enhanced_packet(out: &mut impl Write, frame: &Frame<'_>) -> io::Result<()> {
    const BLOCK_TYPE: u32 = 6;
    /// Every field but the data and the options.
    const FIXED_LEN: usize = 32;

    let captured = frame.data.iter().map(|part| part.len()).sum::<usize>();
    let options = frame.direction.map(flags_option);
    let block_len = captured.next_multiple_of(4) + FIXED_LEN + options.map_or(0, |bytes| bytes.len());
    let (Ok(captured_len), Ok(block_len)) = (u32::try_from(captured), u32::try_from(block_len)) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "frame too long for a capture"));
    };
    if frame.original_len < captured_len {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "frame captured longer than it was"));
    }

    let fields = [
        BLOCK_TYPE,
        block_len,
        frame.interface,
        (frame.time_ns >> 32) as u32,
        frame.time_ns as u32,
        captured_len,
        frame.original_len,
    ];
    for field in fields {
        out.write_all(&field.to_le_bytes())?;
    }
    for part in frame.data {
        out.write_all(part)?;
    }
    out.write_all(&[0; 3][..captured.next_multiple_of(4) - captured])?;
    if let Some(bytes) = options {
        out.write_all(&bytes)?;
    }
    out.write_all(&block_len.to_le_bytes())
}

/// The epb_flags option (code 2, 4 bytes, the direction in the two lowest bits) and the end of the options.
fn flags_option(direction: Direction) -> [u8; 12] {
    let bits = match direction {
        Direction::Inbound => 1,
        Direction::Outbound => 2,
    };
    [2, 0, 4, 0, bits, 0, 0, 0, 0, 0, 0, 0]
}

/// The error of the file itself, so that callers see its kind.
fn into_io(error: PcapNgWriteError) -> io::Error {
    match error {
        PcapNgWriteError::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidInput, other),
    }
}

#[cfg(test)]
mod tests;
