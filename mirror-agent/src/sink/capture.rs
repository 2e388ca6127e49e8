//! The capture that a sink writes: one interface for each VXLAN network.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use crate::output::pcapng::{CaptureWriter, Frame, Target};

/// A capture with interfaces `vxlan<VNI>`.
pub struct Capture {
    writer: CaptureWriter,
    /// Interface numbers by VNI.
    interfaces: BTreeMap<u32, u32>,
    unflushed: bool,
}

impl Capture {
    /// Starts a capture in `path`, or on standard output where that is `-`. The section header leaves at
    /// once, so that a disk that is full already shows here.
    ///
    /// # Errors
    /// Those of the file.
    pub fn create(path: &Path) -> io::Result<Self> {
        let writer = Target::open(path)?.begin()?;
        Ok(Self { writer, interfaces: BTreeMap::new(), unflushed: false })
    }

    /// Appends a frame of network `vni` that arrived at `time_ns` (since the epoch).
    ///
    /// # Errors
    /// Those of the file.
    pub fn write(&mut self, vni: u32, time_ns: u64, frame: &[u8]) -> io::Result<()> {
        self.unflushed = true;
        let interface = match self.interfaces.get(&vni) {
            Some(&number) => number,
            None => {
                let number = self.writer.add_interface(Some(&format!("vxlan{vni}")))?;
                self.interfaces.insert(vni, number);
                number
            }
        };
        let original_len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        self.writer.write_frame(&Frame { interface, time_ns, direction: None, original_len, data: &[frame] })
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
            self.writer.add_interface(Some("vxlan"))?;
        }
        self.writer.flush()
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }
}
