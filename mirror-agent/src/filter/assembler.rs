//! Instructions of extended BPF, and jumps to places that are not known yet.

use super::classic::code;

/// An instruction: `struct bpf_insn` of linux/bpf.h, its two registers apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    /// Class, and what belongs to it.
    pub code: u8,
    /// The register that is written to, or compared.
    pub dst: u8,
    /// The other one.
    pub src: u8,
    /// Of a jump: instructions to leave out; of an access to memory: bytes.
    pub off: i16,
    /// A number.
    pub imm: i32,
}

impl Insn {
    /// As the kernel takes it.
    #[must_use]
    pub fn bytes(&self) -> [u8; 8] {
        let [low, high] = self.off.to_ne_bytes();
        let [a, b, c, d] = self.imm.to_ne_bytes();
        [self.code, self.src << 4 | self.dst, low, high, a, b, c, d]
    }
}

/// A register, R0 to R10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg(pub u8);

/// Of a helper's result, and the function's.
pub const R0: Reg = Reg(0);
/// First argument.
pub const R1: Reg = Reg(1);
/// Second argument.
pub const R2: Reg = Reg(2);
/// Third argument.
pub const R3: Reg = Reg(3);
/// Fourth argument.
pub const R4: Reg = Reg(4);
/// Kept by helpers, as those up to R9.
pub const R6: Reg = Reg(6);
/// See [`R6`].
pub const R7: Reg = Reg(7);
/// See [`R6`].
pub const R8: Reg = Reg(8);
/// See [`R6`].
pub const R9: Reg = Reg(9);
/// The end of the stack.
pub const R10: Reg = Reg(10);

/// Classes of linux/bpf.h that classic BPF has not, or has for something else.
const LDX: u8 = 0x01;
const STX: u8 = 0x03;
const JMP: u8 = 0x05;
const JMP32: u8 = 0x06;
const ALU: u8 = 0x04;
const ALU64: u8 = 0x07;
/// Bit of ALU and JMP: the operand is a register.
const X: u8 = 0x08;
/// Mode of an access to memory.
const MEM: u8 = 0x60;
const MOV: u8 = 0xb0;
/// Operation of ALU: with X set, to or from big endian.
const END: u8 = 0xd0;
const JNE: u8 = 0x50;
const CALL: u8 = 0x80;
const EXIT: u8 = 0x90;
const JLT: u8 = 0xa0;
const JLE: u8 = 0xb0;

const ALWAYS: u8 = JMP | code::JA as u8;
const END_OF_ALL: u8 = JMP | EXIT;

/// Bytes of an access to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// One.
    B,
    /// Two.
    H,
    /// Four.
    W,
    /// Eight.
    Dw,
}

impl Size {
    fn bits(self) -> u8 {
        match self {
            Self::W => 0x00,
            Self::H => 0x08,
            Self::B => 0x10,
            Self::Dw => 0x18,
        }
    }
}

/// The second operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A register.
    Reg(Reg),
    /// A number.
    Imm(i32),
}

/// A condition between two numbers of 32 bits without a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `>`
    Greater,
    /// `>=`
    NotLess,
    /// `<`
    Less,
    /// `<=`
    NotGreater,
    /// A bit is in both.
    AnyBit,
}

impl Condition {
    fn op(self) -> u8 {
        match self {
            Self::Equal => code::JEQ as u8,
            Self::NotEqual => JNE,
            Self::Greater => code::JGT as u8,
            Self::NotLess => code::JGE as u8,
            Self::Less => JLT,
            Self::NotGreater => JLE,
            Self::AnyBit => code::JSET as u8,
        }
    }

    /// The opposite, where there is an instruction for it.
    #[must_use]
    pub fn opposite(self) -> Option<Self> {
        Some(match self {
            Self::Equal => Self::NotEqual,
            Self::NotEqual => Self::Equal,
            Self::Greater => Self::NotGreater,
            Self::NotGreater => Self::Greater,
            Self::NotLess => Self::Less,
            Self::Less => Self::NotLess,
            Self::AnyBit => return None,
        })
    }
}

/// A place to jump to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(usize);

/// A program in the making.
#[derive(Default)]
pub struct Assembler {
    insns: Vec<Insn>,
    labels: Vec<Option<usize>>,
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    /// A new place, not known yet.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The place is here.
    pub fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.insns.len());
    }

    fn push(&mut self, code: u8, dst: Reg, src: Reg, off: i16, imm: i32) {
        self.insns.push(Insn { code, dst: dst.0, src: src.0, off, imm });
    }

    fn operate(&mut self, code: u8, dst: Reg, operand: Operand, off: i16) {
        match operand {
            Operand::Reg(src) => self.push(code | X, dst, src, off, 0),
            Operand::Imm(imm) => self.push(code, dst, R0, off, imm),
        }
    }

    /// `dst = src`, all 64 bits.
    pub fn mov64(&mut self, dst: Reg, operand: Operand) {
        self.operate(ALU64 | MOV, dst, operand, 0);
    }

    /// `dst = src`, of 32 bits; the upper half is 0.
    pub fn mov32(&mut self, dst: Reg, operand: Operand) {
        self.operate(ALU | MOV, dst, operand, 0);
    }

    /// `dst += src`, of 64 bits.
    pub fn add64(&mut self, dst: Reg, operand: Operand) {
        self.operate(ALU64 | code::ADD as u8, dst, operand, 0);
    }

    /// `dst -= src`, of 64 bits.
    pub fn sub64(&mut self, dst: Reg, src: Reg) {
        self.operate(ALU64 | code::SUB as u8, dst, Operand::Reg(src), 0);
    }

    /// `dst op= src` of 32 bits, for an operation of classic BPF; the upper half is 0.
    pub fn alu32(&mut self, op: u16, dst: Reg, operand: Operand) {
        self.operate(ALU | op as u8, dst, operand, 0);
    }

    /// From wire order, of 16 or 32 bits; what is above is 0.
    pub fn from_wire(&mut self, dst: Reg, bits: i32) {
        self.push(ALU | END | X, dst, R0, 0, bits);
    }

    /// `dst = *(base + off)`
    pub fn load(&mut self, size: Size, dst: Reg, base: Reg, off: i16) {
        self.push(LDX | MEM | size.bits(), dst, base, off, 0);
    }

    /// `*(base + off) = src`
    pub fn store(&mut self, size: Size, base: Reg, off: i16, src: Reg) {
        self.push(STX | MEM | size.bits(), base, src, off, 0);
    }

    /// A helper, by its number in linux/bpf.h.
    pub fn call(&mut self, helper: i32) {
        self.push(JMP | CALL, R0, R0, 0, helper);
    }

    /// Returns R0.
    pub fn exit(&mut self) {
        self.push(JMP | EXIT, R0, R0, 0, 0);
    }

    /// Jumps.
    pub fn jump(&mut self, to: Label) {
        self.note(to);
        self.push(JMP | code::JA as u8, R0, R0, 0, 0);
    }

    /// Jumps where the lower halves are in this relation.
    pub fn jump_if(&mut self, condition: Condition, left: Reg, right: Operand, to: Label) {
        self.note(to);
        self.operate(JMP32 | condition.op(), left, right, 0);
    }

    /// As [`Self::jump_if`], of all 64 bits; a number has its sign extended.
    pub fn jump_if64(&mut self, condition: Condition, left: Reg, right: Operand, to: Label) {
        self.note(to);
        self.operate(JMP | condition.op(), left, right, 0);
    }

    fn note(&mut self, to: Label) {
        self.jumps.push((self.insns.len(), to));
    }

    /// The program, without what nothing leads to: the verifier takes no such instructions. `None` where a jump is longer
    /// than an instruction can say: 32,767 instructions.
    pub fn finish(mut self) -> Option<Vec<Insn>> {
        let mut targets = vec![None; self.insns.len()];
        for &(at, label) in &self.jumps {
            targets[at] = Some(self.labels[label.0]?);
        }
        let mut is_reached = vec![false; self.insns.len()];
        let mut open = vec![0];
        while let Some(at) = open.pop() {
            let Some(insn) = self.insns.get(at).filter(|_| !is_reached[at]) else { continue };
            is_reached[at] = true;
            open.extend(targets[at]);
            if !matches!(insn.code, ALWAYS | END_OF_ALL) {
                open.push(at + 1);
            }
        }
        // Where each instruction is to be, and the place behind the last one.
        let mut places = Vec::with_capacity(self.insns.len() + 1);
        let mut place = 0_i64;
        for &is_reached in &is_reached {
            places.push(place);
            place += i64::from(is_reached);
        }
        places.push(place);
        for (at, target) in targets.iter().enumerate() {
            if let Some(target) = target.filter(|_| is_reached[at]) {
                self.insns[at].off = i16::try_from(places.get(target)? - places[at] - 1).ok()?;
            }
        }
        let kept = self.insns.into_iter().zip(is_reached).filter(|(_, is_reached)| *is_reached);
        Some(kept.map(|(insn, _)| insn).collect())
    }
}
