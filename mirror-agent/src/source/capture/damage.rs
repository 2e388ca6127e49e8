//! Why a capture cannot be read on.

use std::{fmt, io};

use super::{CAPTURED_MAX, INTERFACES_MAX, PACKET_BLOCK_MAX, input::Compression, link_type};
use arrayvec::ArrayVec;

/// Reading cannot go on: where, and why. One line, to stand behind the name of the file.
#[derive(Debug)]
pub struct Damage {
    /// Bytes from the beginning of the (decompressed) capture to the record or block that is damaged; for an
    /// input that cannot be read, to where it ends.
    pub position: u64,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What is wrong. Lengths are in bytes.
#[derive(Debug)]
pub enum Reason {
    /// Not a single byte.
    Empty,
    /// Neither pcap nor pcapng; its first bytes, of which there may be fewer.
    NotACapture(ArrayVec<u8, 4>),
    /// A version that this reader does not know.
    Version {
        /// `pcap` or `pcapng`.
        format: &'static str,
        /// The part that changes when older readers cannot read on.
        major: u16,
        /// The other part.
        minor: u16,
    },
    /// A pcapng section whose byte order mark is none.
    ByteOrder([u8; 4]),
    /// The input cannot be read.
    Read(io::Error),
    /// Compressed data that ends in the middle.
    CompressedCut(Compression),
    /// Compressed data that is wrong.
    CompressedWrong(Compression, io::Error),
    /// The capture ends inside a header of a fixed length.
    HeaderCut {
        /// Whose header.
        of: &'static str,
        /// What it is long.
        len: usize,
        /// What there is of it.
        there: usize,
    },
    /// The capture ends inside a packet.
    PacketCut {
        /// Its length, as its header says.
        len: u32,
        /// What there is of it.
        there: u64,
    },
    /// The capture ends inside a block.
    BlockCut {
        /// Its length, as its header says.
        len: u32,
        /// What there is of it.
        there: u64,
    },
    /// More captured than [`CAPTURED_MAX`].
    PacketTooLong(u32),
    /// A block that cannot be that short, or does not end at a multiple of 4.
    BlockLength(u32),
    /// A block that has to be kept as a whole, and is longer than [`PACKET_BLOCK_MAX`].
    BlockTooLong(u32),
    /// A block's length in front and behind differ.
    Trailer {
        /// In front.
        len: u32,
        /// Behind.
        trailer: u32,
    },
    /// A packet that is longer than its block has room for.
    PacketBeyondBlock {
        /// Its length.
        len: u32,
        /// The room.
        room: usize,
    },
    /// A description of an interface with an option that is not as the format wants it.
    InterfaceOption(u16),
    /// An interface that was not described.
    UnknownInterface {
        /// Its number in the section.
        interface: u32,
        /// Interfaces described so far in this section.
        described: usize,
    },
    /// More than [`INTERFACES_MAX`].
    TooManyInterfaces,
    /// Packets of this link type cannot be made Ethernet frames.
    LinkType(u32),
}

impl std::error::Error for Damage {}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.position, self.reason)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the input is empty"),
            Self::NotACapture(start) => {
                f.write_str("the input is not a capture: it starts with")?;
                start.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
                match start.as_slice() {
                    [0xfd, b'7', b'z', ..] => f.write_str(" (xz; gzip and zstd are understood)"),
                    [b'B', b'Z', b'h', ..] => f.write_str(" (bzip2; gzip and zstd are understood)"),
                    [0x04, 0x22, 0x4d, 0x18] => f.write_str(" (lz4; gzip and zstd are understood)"),
                    _ => Ok(()),
                }
            }
            Self::Version { format, major, minor } => {
                write!(f, "version {major}.{minor} of {format} is not supported")
            }
            Self::ByteOrder([a, b, c, d]) => {
                write!(f, "the section's byte order mark is {a:02x} {b:02x} {c:02x} {d:02x}, which is none")
            }
            Self::Read(error) => write!(f, "cannot be read: {error}"),
            Self::CompressedCut(compression) => write!(f, "the {compression} data ends in the middle"),
            Self::CompressedWrong(compression, error) => {
                write!(f, "the {compression} data is wrong: {error}")
            }
            Self::HeaderCut { of, len, there } => {
                write!(f, "the header of a {of} has {len} bytes, and the capture ends after {there} of them")
            }
            Self::PacketCut { len, there } => {
                write!(f, "the packet says {len} bytes, and the capture ends after {there} of them")
            }
            Self::BlockCut { len, there } => {
                write!(f, "the block says {len} bytes, and the capture ends after {there} of them")
            }
            Self::PacketTooLong(len) => {
                write!(f, "the packet says {len} bytes, and no capture holds more than {CAPTURED_MAX} of one")
            }
            Self::BlockLength(len) => {
                write!(f, "the block says {len} bytes, which none of its kind can have")
            }
            Self::BlockTooLong(len) => {
                write!(
                    f,
                    "the block says {len} bytes, and {PACKET_BLOCK_MAX} are the most for one of its kind"
                )
            }
            Self::Trailer { len, trailer } => {
                write!(f, "the block says {len} bytes at its beginning and {trailer} at its end")
            }
            Self::PacketBeyondBlock { len, room } => {
                write!(f, "the packet says {len} bytes, and its block has room for {room}")
            }
            Self::InterfaceOption(code) => write!(f, "option {code} of the interface has a wrong length"),
            Self::UnknownInterface { described: 0, .. } => {
                f.write_str("a packet comes before any interface of its section")
            }
            Self::UnknownInterface { interface, described } => {
                write!(
                    f,
                    "the packet is of interface {interface}, and its section has {described}, from 0 on"
                )
            }
            Self::TooManyInterfaces => write!(f, "one interface more than {INTERFACES_MAX}"),
            Self::LinkType(number) => link_type::write_unsupported(f, *number),
        }
    }
}
