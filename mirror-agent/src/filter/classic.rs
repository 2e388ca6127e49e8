//! Classic BPF: what libpcap's compiler makes of an expression, and what it means.

use std::fmt;

use super::libpcap;

/// An instruction: `struct bpf_insn` of pcap/bpf.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    /// What to do: class, and what belongs to it.
    pub code: u16,
    /// Instructions to leave out where a condition holds.
    pub jt: u8,
    /// Instructions to leave out where it does not.
    pub jf: u8,
    /// A number, an offset, or a place in the scratch memory.
    pub k: u32,
}

/// The parts of [`Insn::code`], as pcap/bpf.h has them. Extended BPF has the same values where it has the same thing.
pub mod code {
    /// Where the class is.
    pub const CLASS: u16 = 0x07;
    /// Load into the accumulator.
    pub const LD: u16 = 0x00;
    /// Load into the index register.
    pub const LDX: u16 = 0x01;
    /// Store the accumulator.
    pub const ST: u16 = 0x02;
    /// Store the index register.
    pub const STX: u16 = 0x03;
    /// Compute in the accumulator.
    pub const ALU: u16 = 0x04;
    /// Jump.
    pub const JMP: u16 = 0x05;
    /// End.
    pub const RET: u16 = 0x06;
    /// Copy between the registers.
    pub const MISC: u16 = 0x07;

    /// Where the size of a load is.
    pub const SIZE: u16 = 0x18;
    /// 32 bits.
    pub const W: u16 = 0x00;
    /// 16 bits.
    pub const H: u16 = 0x08;
    /// 8 bits.
    pub const B: u16 = 0x10;

    /// Where the addressing mode is.
    pub const MODE: u16 = 0xe0;
    /// The number `k`.
    pub const IMM: u16 = 0x00;
    /// The frame's bytes at `k`.
    pub const ABS: u16 = 0x20;
    /// The frame's bytes at the index register and `k`.
    pub const IND: u16 = 0x40;
    /// Scratch memory.
    pub const MEM: u16 = 0x60;
    /// The frame's length.
    pub const LEN: u16 = 0x80;
    /// Four times the lower half of the byte at `k`: an IPv4 header's length.
    pub const MSH: u16 = 0xa0;

    /// Where the operation is.
    pub const OP: u16 = 0xf0;
    /// Sum.
    pub const ADD: u16 = 0x00;
    /// Difference.
    pub const SUB: u16 = 0x10;
    /// Product.
    pub const MUL: u16 = 0x20;
    /// Quotient.
    pub const DIV: u16 = 0x30;
    /// Bits of either.
    pub const OR: u16 = 0x40;
    /// Bits of both.
    pub const AND: u16 = 0x50;
    /// Shift to the left.
    pub const LSH: u16 = 0x60;
    /// Shift to the right.
    pub const RSH: u16 = 0x70;
    /// The negative.
    pub const NEG: u16 = 0x80;
    /// Remainder.
    pub const MOD: u16 = 0x90;
    /// Bits of one only.
    pub const XOR: u16 = 0xa0;

    /// Always.
    pub const JA: u16 = 0x00;
    /// Where equal.
    pub const JEQ: u16 = 0x10;
    /// Where greater.
    pub const JGT: u16 = 0x20;
    /// Where not less.
    pub const JGE: u16 = 0x30;
    /// Where any bit is in both.
    pub const JSET: u16 = 0x40;

    /// Set where the operand is the index register, not `k`.
    pub const X: u16 = 0x08;
    /// What RET returns: the accumulator, where `k` is 0.
    pub const A: u16 = 0x10;
    /// Of MISC: from the index register to the accumulator; 0 is the other way.
    pub const TXA: u16 = 0x80;
}

/// Words of scratch memory.
pub const MEMORY: usize = 16;

/// How often a program may go back: `ip6 protochain` does, for each header of a chain. A frame with a longer chain is
/// refused. libpcap has no such bound, and follows some wrong chains in circles; but the kernel's verifier follows every
/// branch of every round, and remembers 8192 of them at most, of which a round has about 40. No right chain is as long.
pub const BACKWARD_MAX: u32 = 32;

/// A program as libpcap makes it: it ends with a `ret`, and no jump leads out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    insns: Box<[Insn]>,
}

impl Program {
    /// The caller vouches for what is said above.
    #[must_use]
    pub fn new(insns: Vec<Insn>) -> Self {
        Self { insns: insns.into() }
    }

    /// The instructions.
    #[must_use]
    pub fn insns(&self) -> &[Insn] {
        &self.insns
    }

    /// Whether it takes a frame of `wire_len` bytes of which `frame` was captured, as `bpf_filter` of libpcap has it: a
    /// load from outside of what was captured refuses, and so does a division by zero.
    #[must_use]
    pub fn takes(&self, frame: &[u8], wire_len: u32) -> bool {
        run(&self.insns, frame, wire_len).unwrap_or(0) != 0
    }
}

/// The classic program, as `tcpdump -d` shows it.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.insns
            .iter()
            .enumerate()
            .try_for_each(|(number, insn)| writeln!(f, "{}", libpcap::image(insn, number)))
    }
}

/// Bytes that a load of this size takes.
pub(super) const fn size(code: u16) -> u32 {
    match code & code::SIZE {
        code::B => 1,
        code::H => 2,
        _ => 4,
    }
}

/// `None` where it ends early.
fn run(insns: &[Insn], frame: &[u8], wire_len: u32) -> Option<u32> {
    let load = |at: u64, size: u32| -> Option<u32> {
        let at = usize::try_from(at).ok()?;
        let bytes = frame.get(at..at.checked_add(size as usize)?)?;
        Some(bytes.iter().fold(0, |number, &byte| number << 8 | u32::from(byte)))
    };
    let (mut a, mut x, mut memory) = (0_u32, 0_u32, [0_u32; MEMORY]);
    let (mut at, mut backward) = (0_usize, 0);
    loop {
        let &Insn { code, jt, jf, k } = insns.get(at)?;
        at += 1;
        match code & code::CLASS {
            class @ (code::LD | code::LDX) => {
                let value = match code & code::MODE {
                    code::IMM => k,
                    code::ABS => load(u64::from(k), size(code))?,
                    code::IND => load(u64::from(x) + u64::from(k), size(code))?,
                    code::MEM => *memory.get(k as usize)?,
                    code::LEN => wire_len,
                    code::MSH => (load(u64::from(k), 1)? & 0xf) * 4,
                    _ => return None,
                };
                *(if class == code::LD { &mut a } else { &mut x }) = value;
            }
            code::ST => *memory.get_mut(k as usize)? = a,
            code::STX => *memory.get_mut(k as usize)? = x,
            code::ALU => a = compute(code, a, if code & code::X == 0 { k } else { x })?,
            code::JMP => {
                let operand = if code & code::X == 0 { k } else { x };
                let holds = match code & code::OP {
                    code::JA => {
                        let distance = k.cast_signed();
                        backward += u32::from(distance < 0);
                        if backward > BACKWARD_MAX {
                            return None;
                        }
                        at = at.checked_add_signed(distance as isize)?;
                        continue;
                    }
                    code::JEQ => a == operand,
                    code::JGT => a > operand,
                    code::JGE => a >= operand,
                    code::JSET => a & operand != 0,
                    _ => return None,
                };
                at += usize::from(if holds { jt } else { jf });
            }
            code::RET => return Some(if code & code::SIZE == code::A { a } else { k }),
            _ if code & code::TXA != 0 => a = x,
            _ => x = a,
        }
    }
}

fn compute(code: u16, a: u32, operand: u32) -> Option<u32> {
    Some(match code & code::OP {
        code::ADD => a.wrapping_add(operand),
        code::SUB => a.wrapping_sub(operand),
        code::MUL => a.wrapping_mul(operand),
        code::DIV => a.checked_div(operand)?,
        code::MOD => a.checked_rem(operand)?,
        code::OR => a | operand,
        code::AND => a & operand,
        code::XOR => a ^ operand,
        // As libpcap has it: nothing is left.
        code::LSH => a.checked_shl(operand).unwrap_or(0),
        code::RSH => a.checked_shr(operand).unwrap_or(0),
        code::NEG => a.wrapping_neg(),
        _ => return None,
    })
}
