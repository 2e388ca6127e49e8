//! Commands that have to succeed.

use std::{
    path::PathBuf,
    process::{Command, Output},
};

/// Runs `command` to its end and gives its standard output.
///
/// # Panics
/// Where it cannot be started or fails, with what it printed.
pub fn run(command: &mut Command) -> String {
    let output = finish(command);
    assert!(
        output.status.success(),
        "{command:?} failed with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `command` to its end, whatever it says.
///
/// # Panics
/// Where the program is not there, with the name of what to install.
pub fn finish(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| {
        panic!("cannot run {command:?}: {error} (packages: see the first lines of tests/src/lib.rs)")
    })
}

/// A Python that has scapy: the one on the PATH, else Debian's, for which `python3-scapy` is packaged.
///
/// # Panics
/// Where neither has it.
#[must_use]
pub fn python_with_scapy() -> PathBuf {
    ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(|python| {
            Command::new(python)
                .args(["-c", "import scapy"])
                .output()
                .is_ok_and(|output| output.status.success())
        })
        .expect("no python3 with scapy: apt-get install python3-scapy")
        .into()
}
