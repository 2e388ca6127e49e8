//! One load test at a time on this machine, over all test processes.
//!
//! A test that measures time or sends as fast as it can holds the lock alone; every other test shares it.

use std::fs::File;

const GATE: &str = "/tmp/mirror-tests.gate";
const ROOM: &str = "/tmp/mirror-tests.room";

/// Held for the length of a test.
#[derive(Debug)]
#[must_use = "the lock goes when this is dropped"]
pub struct Turn(#[expect(dead_code, reason = "held for its drop")] File);

/// Waits until no other test of this kind runs, on the whole machine.
///
/// # Panics
/// Where the lock files cannot be opened.
pub fn alone() -> Turn {
    // Holding the gate while waiting keeps later tests from going in first for ever.
    let gate = open(GATE);
    gate.lock().expect("cannot lock the gate");
    let room = open(ROOM);
    room.lock().expect("cannot lock");
    Turn(room)
}

/// Waits until no test runs that wants the machine for itself.
///
/// # Panics
/// Where the lock files cannot be opened.
pub fn shared() -> Turn {
    let gate = open(GATE);
    gate.lock().expect("cannot lock the gate");
    let room = open(ROOM);
    room.lock_shared().expect("cannot lock");
    Turn(room)
}

fn open(path: &str) -> File {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap_or_else(|error| panic!("cannot open {path}: {error} (the end-to-end tests need root)"))
}
