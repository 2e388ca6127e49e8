//! tcpdump on an interface, for as long as its guard lives.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Stdio},
};

use crate::host::Host;

/// Longer than any frame in the tests that capture. In immediate mode the kernel's buffer has slots of this
/// size, so a generous one would leave few of them.
const SNAPLEN: &str = "4096";
/// The kernel's buffer, in KiB: 65536 slots.
const BUFFER: &str = "262144";

/// A running tcpdump that writes a file.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    stderr: BufReader<ChildStderr>,
    path: PathBuf,
}

impl Capture {
    /// Captures frames of up to [`SNAPLEN`] bytes on `iface` into `path`, those that `filter` lets through, and waits until it
    /// does.
    ///
    /// # Panics
    /// Where tcpdump does not start.
    #[must_use]
    pub fn start(host: &Host, iface: &str, path: &Path, filter: &str) -> Self {
        let mut child = host
            .command("tcpdump")
            .args([
                "-n",
                "--nano",
                "-Z",
                "root",
                "-s",
                SNAPLEN,
                "-B",
                BUFFER,
                "--immediate-mode",
                "-i",
                iface,
                "-w",
            ])
            .arg(path)
            .args(filter.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("cannot run tcpdump");
        let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "tcpdump on {iface} ended");
            assert!(!line.contains("tcpdump: syntax"), "{line}");
        }
        Self { child, stderr, path: path.to_owned() }
    }

    /// Ends it; gives the file's path.
    ///
    /// # Panics
    /// Where tcpdump missed a frame: nothing can be said then.
    #[must_use]
    pub fn stop(mut self) -> PathBuf {
        // Frames are on their way through the capture ring for a moment.
        std::thread::sleep(std::time::Duration::from_millis(200));
        // SAFETY: kill touches no memory. The child has not been waited for, so the id is still its own.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGINT) };
        let mut dropped = None;
        let mut line = String::new();
        while self.stderr.read_line(&mut line).unwrap() > 0 {
            if line.contains("dropped by kernel") {
                dropped = line.split_whitespace().next().and_then(|count| count.parse::<u64>().ok());
            }
            line.clear();
        }
        self.child.wait().expect("tcpdump");
        assert_eq!(dropped, Some(0), "tcpdump missed frames");
        self.path.clone()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
