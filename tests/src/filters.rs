//! Many expressions over many frames, and what tcpdump makes of them.

pub mod programs;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    command::{python_with_scapy, run},
    pcap::{self, Packet},
    scratch::Scratch,
};

/// Frames in the capture that all expressions are tried on.
pub const FRAMES: usize = 20_000;

/// The expressions, those that are too long for a line of a test's output among them.
#[must_use]
pub fn expressions() -> Vec<&'static str> {
    include_str!("filters/expressions.txt").lines().filter(|line| !line.starts_with('#')).collect()
}

/// A capture of varied frames, always the same ones. A frame's time says which it is.
///
/// # Panics
/// Where it cannot be made.
#[must_use]
pub fn capture(scratch: &Scratch, count: usize) -> (PathBuf, Vec<Packet>) {
    let (script, path) = (scratch.path("frames.py"), scratch.path("frames.pcap"));
    fs::write(&script, include_str!("filters/frames.py")).unwrap();
    let mut python = Command::new(python_with_scapy());
    run(python.arg(&script).args([&count.to_string(), "7"]).arg(&path));
    let frames = pcap::read(&path);
    assert_eq!(frames.len(), count);
    (path, frames)
}

/// The numbers of the frames of a capture that tcpdump takes.
///
/// # Panics
/// Where tcpdump refuses the expression.
#[must_use]
pub fn tcpdump(scratch: &Scratch, capture: &Path, expression: &str) -> BTreeSet<usize> {
    let (file, taken) = (scratch.path("expression"), scratch.path("taken.pcap"));
    fs::write(&file, expression).unwrap();
    run(Command::new("tcpdump").arg("-r").arg(capture).arg("-F").arg(&file).arg("-w").arg(&taken));
    numbers(&pcap::read(&taken))
}

/// Which frames these are.
#[must_use]
pub fn numbers(frames: &[Packet]) -> BTreeSet<usize> {
    frames.iter().map(|frame| (frame.time / 1_000_000_000) as usize).collect()
}
