//! The injecting program: each run of it passes the next frame on, or nothing while none is due.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use super::{
    bpf,
    state::{BASE, BURST, ENTRIES, ENTRY_SHIFT, HEAD, NEXT, RATE, SENT, START, STOP},
};

/// linux/bpf.h: `BPF_PROG_TYPE_XDP`, `BPF_XDP`.
const XDP: (u32, u32) = (6, 37);
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
/// Helpers.
const KTIME_GET_NS: i32 = 5;
const XDP_ADJUST_TAIL: i32 = 65;
/// `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;

/// Instructions with jumps to places that have names.
#[derive(Debug, Default)]
struct Code {
    instructions: Vec<u64>,
    /// Jumps by where they are, to what they go.
    jumps: Vec<(usize, &'static str)>,
    places: Vec<(&'static str, usize)>,
}

/// A register.
type R = u64;

impl Code {
    fn put(&mut self, code: u64, to: R, from: R, offset: i16, value: i32) {
        let offset = u64::from(offset.cast_unsigned());
        let value = u64::from(value.cast_unsigned());
        self.instructions.push(code | to << 8 | from << 12 | offset << 16 | value << 32);
    }

    fn set(&mut self, to: R, value: i32) {
        self.put(0xb7, to, 0, 0, value);
    }

    fn copy(&mut self, to: R, from: R) {
        self.put(0xbf, to, from, 0, 0);
    }

    fn add(&mut self, to: R, value: i32) {
        self.put(0x07, to, 0, 0, value);
    }

    fn add_register(&mut self, to: R, from: R) {
        self.put(0x0f, to, from, 0, 0);
    }

    fn subtract(&mut self, to: R, from: R) {
        self.put(0x1f, to, from, 0, 0);
    }

    fn multiply(&mut self, to: R, from: R) {
        self.put(0x2f, to, from, 0, 0);
    }

    fn shift_left(&mut self, to: R, bits: i32) {
        self.put(0x67, to, 0, 0, bits);
    }

    fn shift_right(&mut self, to: R, bits: i32) {
        self.put(0x77, to, 0, 0, bits);
    }

    /// 4 bytes.
    fn load_word(&mut self, to: R, from: R, offset: i16) {
        self.put(0x61, to, from, offset, 0);
    }

    /// 8 bytes.
    fn load(&mut self, to: R, from: R, offset: i16) {
        self.put(0x79, to, from, offset, 0);
    }

    /// 8 bytes.
    fn store(&mut self, to: R, offset: i16, from: R) {
        self.put(0x7b, to, from, offset, 0);
    }

    fn call(&mut self, helper: i32) {
        self.put(0x85, 0, 0, 0, helper);
    }

    fn if_zero(&mut self, register: R, place: &'static str) {
        self.jump(0x15, register, 0, 0, place);
    }

    fn if_not_zero(&mut self, register: R, place: &'static str) {
        self.jump(0x55, register, 0, 0, place);
    }

    /// Unsigned.
    fn if_above(&mut self, register: R, other: R, place: &'static str) {
        self.jump(0x2d, register, other, 0, place);
    }

    /// Unsigned.
    fn if_below(&mut self, register: R, value: i32, place: &'static str) {
        self.jump(0xa5, register, 0, value, place);
    }

    fn jump(&mut self, code: u64, register: R, other: R, value: i32, place: &'static str) {
        self.jumps.push((self.instructions.len(), place));
        self.put(code, register, other, 0, value);
    }

    fn place(&mut self, name: &'static str) {
        self.places.push((name, self.instructions.len()));
    }

    fn leave(&mut self, verdict: i32) {
        self.set(0, verdict);
        self.put(0x95, 0, 0, 0, 0);
    }

    /// The instructions, with every jump's distance.
    fn finish(mut self) -> Vec<u64> {
        for (from, name) in self.jumps {
            let place = self.places.iter().find(|(place, _)| *place == name).expect("a place");
            self.instructions[from] |= ((place.1 - from - 1) as u64) << 16;
        }
        self.instructions
    }
}

/// Loads the program for a map with so many frames.
///
/// # Errors
/// What the kernel said.
pub fn load(map: BorrowedFd<'_>, frames: u32) -> io::Result<OwnedFd> {
    bpf::load_program(XDP.0, XDP.1, "injector", &instructions(map.as_raw_fd(), frames as i32))
}

/// Register 6 is the frame's context, 7 the map's value, 8 the number of the entry, 9 the entry.
fn instructions(map: i32, frames: i32) -> Vec<u64> {
    const BPF_PSEUDO_MAP_VALUE: u64 = 2;
    let mut code = Code::default();
    code.copy(6, 1);
    // The address of the value: two instructions' worth.
    code.put(0x18, 7, BPF_PSEUDO_MAP_VALUE, 0, map);
    code.put(0, 0, 0, 0, 0);
    code.load(1, 7, STOP);
    code.if_not_zero(1, "drop");

    // Due are BASE + (now - START) * RATE frames; further behind than BURST, counting begins again.
    code.load(8, 7, RATE);
    code.if_zero(8, "due");
    code.call(KTIME_GET_NS);
    code.copy(9, 0);
    code.load(1, 7, START);
    code.subtract(0, 1);
    code.multiply(0, 8);
    code.shift_right(0, 32);
    code.load(1, 7, BASE);
    code.add_register(0, 1);
    code.load(1, 7, SENT);
    code.if_above(1, 0, "drop");
    code.subtract(0, 1);
    code.load(2, 7, BURST);
    code.if_above(2, 0, "due");
    code.store(7, START, 9);
    code.store(7, BASE, 1);

    code.place("due");
    code.load(8, 7, NEXT);
    code.if_below(8, frames, "entry");
    code.set(8, 0);
    code.place("entry");
    code.copy(1, 8);
    code.add(1, 1);
    code.store(7, NEXT, 1);
    code.copy(9, 8);
    code.shift_left(9, ENTRY_SHIFT);
    code.add(9, i32::from(ENTRIES));
    code.copy(1, 7);
    code.add_register(1, 9);
    code.copy(9, 1);

    // Every frame starts as the longest one.
    code.load_word(2, 9, 0);
    code.load_word(3, 6, DATA_END);
    code.load_word(4, 6, DATA);
    code.subtract(3, 4);
    code.subtract(2, 3);
    code.if_zero(2, "length");
    code.copy(1, 6);
    code.call(XDP_ADJUST_TAIL);
    code.if_not_zero(0, "drop");
    code.place("length");
    code.load_word(3, 6, DATA_END);
    code.load_word(4, 6, DATA);
    code.copy(5, 4);
    code.add(5, HEAD as i32);
    code.if_above(5, 3, "drop");
    for word in (0..HEAD as i16).step_by(8) {
        code.load(1, 9, 8 + word);
        code.store(4, word, 1);
    }
    code.load(1, 7, SENT);
    code.add(1, 1);
    code.store(7, SENT, 1);
    code.leave(XDP_PASS);
    code.place("drop");
    code.leave(XDP_DROP);
    code.finish()
}
