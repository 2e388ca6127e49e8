//! An archive for the kernel to unpack as its first file system, in the `newc` format
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_777;

/// An archive in the making. Everything in it is root's. The folder of a file must be there before it, which
/// [`Cpio::file`] and its like see to.
#[derive(Default)]
pub struct Cpio {
    bytes: Vec<u8>,
    names: BTreeSet<PathBuf>,
}

impl Cpio {
    /// Whether something is there under this name.
    pub fn has(&self, name: &Path) -> bool {
        self.names.contains(relative(name))
    }

    /// Adds a folder, with those that it is in.
    pub fn folder(&mut self, name: &Path) {
        let name = relative(name);
        if name.as_os_str().is_empty() || self.names.contains(name) {
            return;
        }
        if let Some(parent) = name.parent() {
            self.folder(parent);
        }
        self.entry(name, FOLDER, &[]);
    }

    /// Adds a file with these permission bits.
    pub fn file(&mut self, name: &Path, permissions: u32, bytes: &[u8]) {
        self.parent(name);
        self.entry(relative(name), FILE | permissions, bytes);
    }

    /// Adds a copy of a file of this machine, symbolic links followed.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn copy(&mut self, name: &Path, from: &Path) -> Result<()> {
        let cannot = || format!("cannot read {}", from.display());
        let permissions = fs::metadata(from).with_context(cannot)?.permissions().mode() & 0o777;
        self.file(name, permissions, &fs::read(from).with_context(cannot)?);
        Ok(())
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, name: &Path, to: &str) {
        self.parent(name);
        self.entry(relative(name), LINK, to.as_bytes());
    }

    /// The archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(Path::new("TRAILER!!!"), 0, &[]);
        self.bytes
    }

    fn parent(&mut self, name: &Path) {
        if let Some(parent) = relative(name).parent() {
            self.folder(parent);
        }
    }

    fn entry(&mut self, name: &Path, mode: u32, bytes: &[u8]) {
        let text = name.as_os_str().as_encoded_bytes();
        let inode = self.names.len() + 1;
        // Inode, mode, owner, group, links, time, length, four numbers of devices, length of the name, checksum.
        let fields = [inode, mode as usize, 0, 0, 1, 0, bytes.len(), 0, 0, 0, 0, text.len() + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(text);
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self.names.insert(name.to_owned());
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Names in an archive are relative to its root.
fn relative(name: &Path) -> &Path {
    name.strip_prefix("/").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_first_and_everything_is_aligned() {
        let mut cpio = Cpio::default();
        cpio.file(Path::new("/a/b/c"), 0o644, b"12345");
        cpio.link(Path::new("/a/d"), "b");
        assert!(cpio.has(Path::new("/a/b")) && cpio.has(Path::new("a/d")) && !cpio.has(Path::new("/b")));
        let bytes = cpio.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let at = |needle: &str| text.find(needle);
        // A header has 110 bytes; the names end with a zero.
        assert_eq!(at("a\0"), Some(110));
        assert!(at("a\0") < at("a/b\0") && at("a/b\0") < at("a/b/c\0") && at("a/b/c\0") < at("12345\0"));
        assert!(at("12345\0") < at("a/d\0") && at("a/d\0") < at("TRAILER!!!\0"));
        assert_eq!(text.matches("070701").count(), 5);
    }
}
