//! The capture that a sink writes: one interface for each network and, where the mirror tells, each interface of its
//! host.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use mirror_common::{geneve::Metadata, record};

use super::tally::Received;
use crate::{
    cli::Encap,
    output::pcapng::{CaptureWriter, Direction, Frame, Target},
};

/// A capture with interfaces `vxlan<VNI>`, or `geneve<VNI>-if<INDEX>`.
pub struct Capture {
    writer: CaptureWriter,
    /// What interfaces' names begin with.
    protocol: &'static str,
    /// Interface numbers in the capture by VNI and the interface's number at the mirror, 0 where that is not told.
    interfaces: BTreeMap<(u32, u32), u32>,
    unflushed: bool,
}

impl Capture {
    /// Starts a capture in `path`, or on standard output where that is `-`. The section header leaves at
    /// once, so that a disk that is full already shows here.
    ///
    /// # Errors
    /// Those of the file.
    pub fn create(path: &Path, encap: Encap) -> io::Result<Self> {
        let writer = Target::open(path)?.begin()?;
        let protocol = match encap {
            Encap::Vxlan => "vxlan",
            Encap::Geneve => "geneve",
        };
        Ok(Self { writer, protocol, interfaces: BTreeMap::new(), unflushed: false })
    }

    /// Appends a frame whose datagram arrived at `arrival_ns` (since the epoch): with the time and the length that the
    /// mirror tells where it does.
    ///
    /// # Errors
    /// Those of the file.
    pub fn write(&mut self, received: &Received<'_>, arrival_ns: u64) -> io::Result<()> {
        self.unflushed = true;
        let Received { vni, metadata, frame } = *received;
        let Metadata { time_ns, wire_len, direction, ifindex } = metadata.unwrap_or(Metadata::UNKNOWN);
        let interface = match self.interfaces.get(&(vni, ifindex)) {
            Some(&number) => number,
            None => {
                let protocol = self.protocol;
                let mut name = format!("{protocol}{vni}");
                if ifindex != 0 {
                    name += &format!("-if{ifindex}");
                }
                let number = self.writer.add_interface(Some(&name))?;
                self.interfaces.insert((vni, ifindex), number);
                number
            }
        };
        let captured_len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        self.writer.write_frame(&Frame {
            interface,
            time_ns: if time_ns == 0 { arrival_ns } else { time_ns },
            direction: match record::Direction::from_number(direction) {
                Some(record::Direction::Ingress) => Some(Direction::Inbound),
                Some(record::Direction::Egress) => Some(Direction::Outbound),
                None => None,
            },
            // Whatever is told, it had as many bytes as came.
            original_len: captured_len.max(wire_len),
            data: &[frame],
        })
    }

    /// Whether there are frames that readers cannot see yet.
    #[must_use]
    pub fn unflushed(&self) -> bool {
        self.unflushed
    }

    /// Lets readers see every frame.
    ///
    /// # Errors
    /// Those of the file.
    pub fn flush(&mut self) -> io::Result<()> {
        self.unflushed = false;
        self.writer.flush()
    }

    /// Ends the capture.
    ///
    /// # Errors
    /// Those of the file.
    pub fn finish(mut self) -> io::Result<()> {
        if self.interfaces.is_empty() {
            // libpcap refuses a capture with no interface; it is to show that there was nothing.
            self.writer.add_interface(Some(self.protocol))?;
        }
        self.writer.flush()
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }
}
