//! The translation of filters, run by an interpreter that is not the kernel's, against what classic programs mean: random
//! programs, random frames, of which any part may not lie open.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{cell::RefCell, ptr, slice};

use mirror_agent::filter::{
    assembler::Insn as Translated,
    classic::{Insn, Program, code},
    translate::{Context, translate},
};
use proptest::prelude::*;

/// Bytes of `struct __sk_buff` that are looked at.
const CONTEXT: usize = 192;
/// Longest frame.
const FRAME: usize = 96;

/// Memory below 4 GB: contexts have addresses of 32 bits.
struct Low(*mut u8);

impl Low {
    fn new() -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
        // SAFETY: a new mapping, of a page.
        let at =
            unsafe { libc::mmap(ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        Self(at.cast())
    }

    #[allow(
        clippy::mut_from_ref,
        reason = "the mapping is this value's own, and one slice at a time is used"
    )]
    fn bytes(&self) -> &mut [u8] {
        // SAFETY: the mapping has a page, and stays as long as this.
        unsafe { slice::from_raw_parts_mut(self.0, 4096) }
    }
}

impl Drop for Low {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length.
        unsafe { libc::munmap(self.0.cast(), 4096) };
    }
}

thread_local! {
    /// The frame that helpers copy from: as the kernel holds it.
    static HELD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn load_bytes(_: u64, at: u64, to: u64, len: u64, _: u64) -> u64 {
    HELD.with_borrow(|held| {
        // As the kernel has it: 32 bits.
        let at = at as u32 as usize;
        match held.get(at..at.saturating_add(len as usize)) {
            Some(bytes) => {
                // SAFETY: the program gives an address on its stack, with room for what it asks for.
                unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
                0
            }
            None => -14_i64 as u64,
        }
    })
}

fn len(_: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    HELD.with_borrow(|held| held.len() as u64)
}

/// What the translation makes of a frame, of which the first `open` bytes lie open.
fn verdict(program: &Program, context: Context, held: &[u8], open: usize, tag: Option<u32>) -> bool {
    let low = Low::new();
    let memory = low.bytes();
    let frame_at = low.0 as usize + CONTEXT;
    memory[CONTEXT..CONTEXT + open].copy_from_slice(&held[..open]);
    let mut field = |at: usize, value: u32| memory[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    let addresses = [frame_at as u32, (frame_at + open) as u32];
    match context {
        Context::Tc => {
            field(0, held.len() as u32);
            field(20, u32::from(tag.is_some()));
            let tag = tag.unwrap_or(0);
            field(24, tag & 0xffff);
            field(28, u32::from(((tag >> 16) as u16).to_be()));
            field(76, addresses[0]);
            field(80, addresses[1]);
        }
        Context::Xdp { .. } => {
            field(0, addresses[0]);
            field(4, addresses[1]);
        }
    }
    HELD.set(held.to_vec());
    let code: Vec<u8> = translate(program, context).unwrap().iter().flat_map(Translated::bytes).collect();
    let mut vm = rbpf::EbpfVmRaw::new(None).unwrap();
    // It wants the last instruction to be the end.
    vm.set_verifier(|_| Ok(())).unwrap();
    vm.set_program(&code).unwrap();
    vm.register_helper(26, load_bytes).unwrap();
    vm.register_helper(188, len).unwrap();
    vm.register_helper(189, load_bytes).unwrap();
    vm.execute_program(memory).unwrap() != 0
}

/// Offsets: near a tag, near the end, and far outside.
fn offset() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0..24_u32, 4 => 0..(FRAME as u32 + 8), 1 => any::<u32>(), 1 => 32_760..32_780_u32]
}

fn number() -> impl Strategy<Value = u32> {
    prop_oneof![0..40_u32, any::<u32>(), Just(0x8000_0000), Just(u32::MAX)]
}

/// An instruction at some place, whose jumps are still numbers from 0 to 1 of what is left.
fn insn() -> impl Strategy<Value = (u16, u32, u8, u8)> {
    use code::*;
    let sizes = prop_oneof![Just(W), Just(H), Just(B)];
    let operations = prop::sample::select(vec![ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, NEG, MOD, XOR]);
    let relations = prop::sample::select(vec![JEQ, JGT, JGE, JSET]);
    let plain = |code: u16| move |k: u32| (code, k, 0, 0);
    prop_oneof![
        4 => (sizes.clone(), offset()).prop_map(|(size, k)| (LD | ABS | size, k, 0, 0)),
        4 => (sizes, offset()).prop_map(|(size, k)| (LD | IND | size, k, 0, 0)),
        1 => offset().prop_map(plain(LDX | MSH | B)),
        1 => number().prop_map(plain(LD | IMM)),
        2 => offset().prop_map(plain(LDX | IMM)),
        1 => Just((LD | LEN, 0, 0, 0)),
        1 => Just((LDX | LEN, 0, 0, 0)),
        1 => (0..16_u32).prop_map(plain(ST)),
        1 => (0..16_u32).prop_map(plain(STX)),
        1 => (0..16_u32).prop_map(plain(LD | MEM)),
        1 => (0..16_u32).prop_map(plain(LDX | MEM)),
        3 => (operations.clone(), number()).prop_map(|(op, k)| (ALU | op, k, 0, 0)),
        3 => operations.prop_map(|op| (ALU | op | X, 0, 0, 0)),
        4 => (relations.clone(), number(), any::<u8>(), any::<u8>()).prop_map(|(op, k, jt, jf)| (JMP | op, k, jt, jf)),
        2 => (relations, any::<u8>(), any::<u8>()).prop_map(|(op, jt, jf)| (JMP | op | X, 0, jt, jf)),
        1 => any::<u8>().prop_map(|skip| (JMP | JA, 0, skip, 0)),
        1 => Just((MISC, 0, 0, 0)),
        1 => Just((MISC | TXA, 0, 0, 0)),
        1 => Just((RET | A, 0, 0, 0)),
    ]
}

fn program() -> impl Strategy<Value = Program> {
    prop::collection::vec(insn(), 1..24).prop_map(|raw| {
        let len = raw.len();
        let mut insns: Vec<Insn> = raw
            .into_iter()
            .enumerate()
            .map(|(at, (code, k, jt, jf))| {
                // Up to the last of the two instructions that end it.
                let most = (len - at) as u8;
                let [jt, jf] = [jt, jf].map(|jump| jump % (most + 1));
                match code {
                    0x05 => Insn { code, jt: 0, jf: 0, k: u32::from(jt) },
                    code if code & code::CLASS == code::JMP => Insn { code, jt, jf, k },
                    code => Insn { code, jt: 0, jf: 0, k },
                }
            })
            .collect();
        insns.extend([1, 0].map(|k| Insn { code: code::RET, jt: 0, jf: 0, k }));
        Program::new(insns)
    })
}

/// Whether all ways of looking at a frame come to what the program means.
fn check(program: &Program, frame: &[u8], open: usize, tag: u32) -> Result<(), TestCaseError> {
    let wire = |frame: &[u8]| program.takes(frame, frame.len() as u32);
    let open = open.min(frame.len());
    prop_assert_eq!(verdict(program, Context::Tc, frame, open, None), wire(frame));
    let mut tagged = frame.to_vec();
    tagged.splice(12..12, tag.to_be_bytes());
    prop_assert_eq!(verdict(program, Context::Tc, frame, open, Some(tag)), wire(&tagged), "tagged");
    let pieces = Context::Xdp { has_load_bytes: true };
    prop_assert_eq!(verdict(program, pieces, frame, open, None), wire(frame), "XDP");
    let whole = Context::Xdp { has_load_bytes: false };
    prop_assert_eq!(verdict(program, whole, frame, frame.len(), None), wire(frame), "XDP of one piece");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn translations_mean_what_classic_programs_mean(
        program in program(),
        frame in prop::collection::vec(any::<u8>(), 14..FRAME),
        open in 0..FRAME,
        tag in any::<u32>(),
    ) {
        check(&program, &frame, open, tag)?;
    }
}

/// Each load, around a tag, bit by bit.
#[test]
fn every_load_around_a_tag_is_right() {
    const TAG: u32 = 0x8100_e72d;
    let frame: Vec<u8> = (0..40_u8).map(|at| at.wrapping_mul(0x9d) ^ 0x55).collect();
    for size in [code::W, code::H, code::B] {
        for at in 0..26 {
            for x in [0, 1.min(at), at] {
                let by_index = Insn { code: code::LD | code::IND | size, jt: 0, jf: 0, k: at - x };
                let load =
                    if x == 0 { Insn { code: code::LD | code::ABS | size, ..by_index } } else { by_index };
                for bit in (0..32).step_by(if size == code::W { 3 } else { 1 }) {
                    let insns = vec![
                        Insn { code: code::LDX | code::IMM, jt: 0, jf: 0, k: x },
                        load,
                        Insn { code: code::JMP | code::JSET, jt: 0, jf: 1, k: 1 << bit },
                        Insn { code: code::RET, jt: 0, jf: 0, k: 1 },
                        Insn { code: code::RET, jt: 0, jf: 0, k: 0 },
                    ];
                    // Of 22 bytes that lie open, and of all.
                    let program = Program::new(insns);
                    for open in [13, 22, 40] {
                        check(&program, &frame, open, TAG)
                            .unwrap_or_else(|error| panic!("{program:?}, {open}: {error}"));
                    }
                }
            }
        }
    }
}
