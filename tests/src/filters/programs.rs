//! Runs translated filters in the kernel (`BPF_PROG_TEST_RUN`), many in one program: a run says what each of them makes
//! of a frame.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use mirror_agent::filter::{
    assembler::Insn,
    classic::Program,
    translate::{Context, translate},
};

/// Filters in one program: as many as its result has bits.
pub const TOGETHER: usize = 32;

/// What is done to a frame before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing.
    Nothing,
    /// Its outer tag goes from its bytes to the metadata, as a card does it.
    TakeTagOut,
}

const fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn { code, dst, src, off, imm }
}

/// bpf_skb_load_bytes(r6, 12, r10 - 8, 4); if it is a tag: bpf_skb_vlan_pop(r6), bpf_skb_vlan_push(r6, protocol, tag).
const TAKE_TAG_OUT: [Insn; 18] = [
    insn(0xbf, 1, 6, 0, 0),
    insn(0xb7, 2, 0, 0, 12),
    insn(0xbf, 3, 10, 0, 0),
    insn(0x07, 3, 0, 0, -8),
    insn(0xb7, 4, 0, 0, 4),
    insn(0x85, 0, 0, 0, 26),
    insn(0x55, 0, 0, 11, 0),
    insn(0x69, 8, 10, -8, 0),
    insn(0x69, 9, 10, -6, 0),
    insn(0xdc, 9, 0, 0, 16),
    // 0x8100 and 0x88a8, as they are in memory.
    insn(0x15, 8, 0, 1, 0x0081),
    insn(0x55, 8, 0, 6, 0xa888),
    insn(0xbf, 1, 6, 0, 0),
    insn(0x85, 0, 0, 0, 19),
    insn(0xbf, 1, 6, 0, 0),
    insn(0xbf, 2, 8, 0, 0),
    insn(0xbf, 3, 9, 0, 0),
    insn(0x85, 0, 0, 0, 18),
];

/// The kernel runs no program on a frame that says to be IP and is too short for it, though it may come from a wire. Such
/// a one gets another type, and here its own back, from the mark: bpf_skb_store_bytes(r6, 12, r10 - 8, 2, 0).
const GIVE_TYPE_BACK: [Insn; 10] = [
    insn(0x61, 1, 6, 8, 0),
    insn(0x15, 1, 0, 8, 0),
    insn(0x6b, 10, 1, -8, 0),
    insn(0xbf, 1, 6, 0, 0),
    insn(0xb7, 2, 0, 0, 12),
    insn(0xbf, 3, 10, 0, 0),
    insn(0x07, 3, 0, 0, -8),
    insn(0xb7, 4, 0, 0, 2),
    insn(0xb7, 5, 0, 0, 0),
    insn(0x85, 0, 0, 0, 9),
];

/// Loads filters as one program, whose result has a bit for each.
///
/// # Panics
/// Where the kernel refuses it, with the verifier's words.
#[must_use]
pub fn load(filters: &[&Program], context: Context, before: Before) -> OwnedFd {
    let functions: Vec<_> =
        filters.iter().map(|program| translate(program, context).expect("translation")).collect();
    let prologue: &[Insn] = match (context, before) {
        (_, Before::TakeTagOut) => &TAKE_TAG_OUT,
        (Context::Tc, Before::Nothing) => &GIVE_TYPE_BACK,
        (Context::Xdp { .. }, Before::Nothing) => &[],
    };
    let mut insns = vec![insn(0xbf, 6, 1, 0, 0)];
    insns.extend(prologue);
    insns.push(insn(0xb7, 7, 0, 0, 0));
    // Four for each call, and two at the end.
    let mut place = insns.len() + 4 * filters.len() + 2;
    for (index, function) in functions.iter().enumerate() {
        insns.push(insn(0xbf, 1, 6, 0, 0));
        let distance = place - insns.len() - 1;
        insns.push(insn(0x85, 0, 1, 0, distance as i32));
        insns.push(insn(0x67, 0, 0, 0, index as i32));
        insns.push(insn(0x4f, 7, 0, 0, 0));
        place += function.len();
    }
    insns.push(insn(0xbf, 0, 7, 0, 0));
    insns.push(insn(0x95, 0, 0, 0, 0));
    let bytes: Vec<u8> = insns.iter().chain(functions.iter().flatten()).flat_map(Insn::bytes).collect();
    load_bytes(&bytes, context)
}

/// The start of `union bpf_attr` of linux/bpf.h, as `BPF_PROG_LOAD` reads it.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

fn load_bytes(bytes: &[u8], context: Context) -> OwnedFd {
    let mut log = vec![0_u8; 1 << 20];
    let kind = if context == Context::Tc { 3 } else { 6 };
    let mut load = Load {
        kind,
        count: (bytes.len() / 8) as u32,
        instructions: bytes.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
    };
    let mut fd = bpf(5, &raw mut load);
    if fd < 0 {
        (load.log_level, load.log_size, load.log) = (1, log.len() as u32, log.as_mut_ptr() as u64);
        fd = bpf(5, &raw mut load);
    }
    if fd < 0 {
        let error = io::Error::last_os_error();
        let text = String::from_utf8_lossy(&log);
        let text = text.trim_end_matches('\0');
        let tail: Vec<_> = text.lines().rev().take(30).collect();
        panic!("{error}: {}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
    }
    // SAFETY: the descriptor was just opened, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// The start of `union bpf_attr`, as `BPF_PROG_TEST_RUN` reads it.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    result: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
}

/// What a program returns for a frame.
///
/// # Panics
/// Where the kernel does not run it.
#[must_use]
pub fn result(program: BorrowedFd<'_>, context: Context, frame: &[u8]) -> u32 {
    /// For experiments (IEEE 802).
    const OTHER: [u8; 2] = [0x88, 0xb5];
    let mut run = TestRun {
        program: program.as_raw_fd() as u32,
        size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        ..TestRun::default()
    };
    let mut skb = [0_u32; 48];
    let mut changed = [0; 54];
    let header = match frame[12..14] {
        [0x08, 0x00] => 20,
        [0x86, 0xdd] => 40,
        _ => 0,
    };
    if context == Context::Tc && frame.len() < 14 + header {
        // The mark, of `struct __sk_buff`.
        skb[2] = u32::from(u16::from_ne_bytes([frame[12], frame[13]]));
        changed[..frame.len()].copy_from_slice(frame);
        changed[12..14].copy_from_slice(&OTHER);
        run.data_in = changed.as_ptr() as u64;
        (run.context_in, run.context_size_in) = (skb.as_ptr() as u64, size_of_val(&skb) as u32);
    }
    assert_eq!(bpf(10, &raw mut run), 0, "{} for {} bytes", io::Error::last_os_error(), frame.len());
    run.result
}

fn bpf<T>(command: i32, attribute: *mut T) -> i64 {
    // SAFETY: the attribute is of the size that is said, and what it points to is live.
    unsafe { libc::syscall(libc::SYS_bpf, command, attribute, size_of::<T>()) }
}
