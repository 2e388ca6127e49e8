//! What tshark makes of a capture.

use std::{path::Path, process::Command};

use crate::command;

/// The chosen fields of every frame that `filter` lets through, one row a frame. Repeated fields
/// (`ip.src` of both IP headers) are joined with commas, outermost first.
///
/// # Panics
/// Where tshark fails.
#[must_use]
pub fn fields(capture: &Path, filter: &str, fields: &[&str], options: &[&str]) -> Vec<Vec<String>> {
    let mut tshark = Command::new("tshark");
    tshark.args(["-n", "-r"]).arg(capture).args(["-T", "fields", "-E", "separator=/t"]);
    if !filter.is_empty() {
        tshark.args(["-Y", filter]);
    }
    for field in fields {
        tshark.args(["-e", field]);
    }
    for option in options {
        tshark.args(["-o", option]);
    }
    let output = command::run(&mut tshark);
    output.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

/// How many frames `filter` lets through.
///
/// # Panics
/// Where tshark fails.
#[must_use]
pub fn count(capture: &Path, filter: &str) -> usize {
    fields(capture, filter, &["frame.number"], &[]).len()
}

/// Writes `capture`, whatever its format, as a nanosecond pcap file.
///
/// # Panics
/// Where tshark cannot read it.
pub fn convert(capture: &Path, to: &Path) {
    let mut tshark = Command::new("tshark");
    command::run(tshark.arg("-r").arg(capture).args(["-F", "nsecpcap", "-w"]).arg(to));
}
