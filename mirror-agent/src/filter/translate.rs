//! From classic BPF to extended BPF: a function that takes a hook's context and says whether the frame is wanted.
//!
//! Nothing is interpreted when a frame comes by. The accumulator is R7, the index register R8, the context R6; R9 has the
//! VLAN tag where that is in the metadata. A load looks where the frame lies open, and asks a helper for what does not.
//! No register keeps a packet's address from one load to the next: the verifier would follow every combination of what
//! it knows of it.

use std::fmt;

use super::{
    assembler::{
        Assembler, Condition, Insn, Label, Operand, R0, R1, R2, R3, R4, R6, R7, R8, R9, R10, Reg, Size,
    },
    classic::{self, BACKWARD_MAX, Program, code},
};

const CONTEXT: Reg = R6;
const ACCUMULATOR: Reg = R7;
const INDEX: Reg = R8;
/// Protocol in the upper half, control information in the lower one.
const TAG: Reg = R9;

/// Where a VLAN tag is on the wire, and where it ends (IEEE 802.1Q).
const TAG_AT: u32 = 12;
const TAG_END: u32 = 16;
const TAG_LEN: u32 = TAG_END - TAG_AT;

/// On the stack: eight bytes for a helper to write to.
const LOADED: i16 = -8;
/// On the stack: how often the program may still go back. Eight bytes, as the verifier wants for a number that it is to
/// remember.
const BACKWARD: i16 = -16;
/// On the stack: the first word of scratch memory; the others below.
const MEMORY: i16 = -20;

/// Helpers of linux/bpf.h.
const SKB_LOAD_BYTES: i32 = 26;
const XDP_GET_BUFF_LEN: i32 = 188;
const XDP_LOAD_BYTES: i32 = 189;

/// The largest offset at which a packet is read in place.
const OPEN_MAX: u32 = 0x7fff;

/// What the function is called with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// `struct __sk_buff`
    Tc,
    /// `struct xdp_md`
    Xdp {
        /// Whether the kernel copies from frames in several pieces (`bpf_xdp_load_bytes`, Linux 5.18).
        has_load_bytes: bool,
    },
}

impl Context {
    /// Where the addresses of a frame's open part are: its begin and its end.
    fn data(self) -> (i16, i16) {
        match self {
            Self::Tc => (76, 80),
            Self::Xdp { .. } => (0, 4),
        }
    }

    /// The helper that copies bytes of a frame.
    fn load_bytes(self) -> Option<i32> {
        match self {
            Self::Tc => Some(SKB_LOAD_BYTES),
            Self::Xdp { has_load_bytes } => has_load_bytes.then_some(XDP_LOAD_BYTES),
        }
    }
}

/// Fields of `struct __sk_buff`.
mod skb {
    pub const LEN: i16 = 0;
    pub const VLAN_PRESENT: i16 = 20;
    pub const VLAN_TCI: i16 = 24;
    pub const VLAN_PROTO: i16 = 28;
}

/// A program that has no translation, with the number of its classic instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A jump would be longer than the kernel's instructions can say.
    TooLong(usize),
    /// libpcap made an instruction that it is not known to make.
    Unknown(classic::Insn),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(insns) => write!(
                f,
                "the filter is too large for the kernel: it has {insns} instructions, and what they become is more than \
                 the kernel's jumps reach (32767): say it with networks and ranges"
            ),
            Self::Unknown(insn) => write!(f, "libpcap made an instruction that is not known here: {insn:?}"),
        }
    }
}

/// The function's instructions, for a program of libpcap's. R0 is 1 for a frame that is wanted, else 0.
///
/// # Errors
///
/// The program is too long.
pub fn translate(program: &Program, context: Context) -> Result<Vec<Insn>, Refusal> {
    let insns = program.insns();
    let mut translator =
        Translator { out: Assembler::default(), insns, reached: reached(insns), context, later: Vec::new() };
    translator.function()?;
    translator.out.finish().ok_or(Refusal::TooLong(insns.len()))
}

/// Which instructions can be come to: the verifier takes no others.
fn reached(insns: &[classic::Insn]) -> Vec<bool> {
    let mut reached = vec![false; insns.len()];
    let mut open = vec![0_usize];
    while let Some(at) = open.pop() {
        let Some(insn) = insns.get(at).filter(|_| !reached[at]) else { continue };
        reached[at] = true;
        match insn.code & code::CLASS {
            code::RET => {}
            code::JMP if insn.code & code::OP == code::JA => open.extend(target(at, insn)),
            code::JMP => open.extend([at + 1 + usize::from(insn.jt), at + 1 + usize::from(insn.jf)]),
            _ => open.push(at + 1),
        }
    }
    reached
}

/// Where an unconditional jump at `at` leads.
fn target(at: usize, insn: &classic::Insn) -> Option<usize> {
    (at + 1).checked_add_signed(insn.k.cast_signed() as isize)
}

struct Translator<'a> {
    out: Assembler,
    insns: &'a [classic::Insn],
    reached: Vec<bool>,
    context: Context,
    /// What is rarely come to, put behind the rest.
    later: Vec<Later>,
}

/// A piece of a program out of the way.
enum Later {
    /// Asks the helper for bytes at an offset: a number, or what is in R1.
    Fetch { from: Label, back: Label, at: Option<u32>, size: u32, to: Reg },
    /// Puts a number together of which a part is in the tag.
    Compose { from: Label, back: Label, at: u32, size: u32, to: Reg },
}

/// What belongs to one of the two bodies.
struct Body {
    is_tagged: bool,
    labels: Vec<Label>,
    accept: Label,
    reject: Label,
}

impl Translator<'_> {
    fn function(&mut self) -> Result<(), Refusal> {
        self.out.mov64(CONTEXT, Operand::Reg(R1));
        self.out.mov32(ACCUMULATOR, Operand::Imm(0));
        self.out.mov32(INDEX, Operand::Imm(0));
        for word in self.words_read() {
            self.out.store(Size::W, R10, memory(word), ACCUMULATOR);
        }
        if self.has_backward_jumps() {
            self.out.mov64(R1, Operand::Imm(BACKWARD_MAX as i32));
            self.out.store(Size::Dw, R10, BACKWARD, R1);
        }
        if self.context != Context::Tc {
            return self.body(false);
        }
        let tagged = self.out.label();
        self.out.load(Size::W, R1, CONTEXT, skb::VLAN_PRESENT);
        self.out.jump_if(Condition::NotEqual, R1, Operand::Imm(0), tagged);
        self.body(false)?;
        self.out.place(tagged);
        // The protocol is in wire order, the control information in host order.
        self.out.load(Size::W, TAG, CONTEXT, skb::VLAN_PROTO);
        self.out.from_wire(TAG, 16);
        self.out.alu32(code::LSH, TAG, Operand::Imm(16));
        self.out.load(Size::W, R1, CONTEXT, skb::VLAN_TCI);
        self.out.alu32(code::AND, R1, Operand::Imm(0xffff));
        self.out.alu32(code::OR, TAG, Operand::Reg(R1));
        self.body(true)
    }

    /// Words of scratch memory that are read.
    fn words_read(&self) -> Vec<u32> {
        let is_read = |insn: &&classic::Insn| {
            matches!(insn.code & code::CLASS, code::LD | code::LDX) && insn.code & code::MODE == code::MEM
        };
        let mut words: Vec<u32> = self.insns.iter().filter(is_read).map(|insn| insn.k).collect();
        words.sort_unstable();
        words.dedup();
        words.retain(|&word| word < classic::MEMORY as u32);
        words
    }

    fn has_backward_jumps(&self) -> bool {
        self.insns.iter().any(|insn| insn.code == code::JMP | code::JA && insn.k.cast_signed() < 0)
    }

    fn body(&mut self, is_tagged: bool) -> Result<(), Refusal> {
        let labels = self.insns.iter().map(|_| self.out.label()).collect();
        let body = Body { is_tagged, labels, accept: self.out.label(), reject: self.out.label() };
        for at in 0..self.insns.len() {
            if self.reached[at] {
                self.out.place(body.labels[at]);
                self.insn(&body, at)?;
            }
        }
        for (label, verdict) in [(body.accept, 1), (body.reject, 0)] {
            self.out.place(label);
            self.out.mov32(R0, Operand::Imm(verdict));
            self.out.exit();
        }
        while let Some(later) = self.later.pop() {
            match later {
                Later::Fetch { from, back, at, size, to } => {
                    self.out.place(from);
                    self.fetch(&body, at, size, to);
                    self.out.jump(back);
                }
                Later::Compose { from, back, at, size, to } => {
                    self.out.place(from);
                    self.compose(&body, at, size, to);
                    self.out.jump(back);
                }
            }
        }
        Ok(())
    }

    fn insn(&mut self, body: &Body, at: usize) -> Result<(), Refusal> {
        let insn = self.insns[at];
        let classic::Insn { code, k, .. } = insn;
        let unknown = Err(Refusal::Unknown(insn));
        let by_index = code & code::X != 0;
        match code & code::CLASS {
            class @ (code::LD | code::LDX) => {
                let to = if class == code::LD { ACCUMULATOR } else { INDEX };
                match code & code::MODE {
                    code::IMM => self.out.mov32(to, Operand::Imm(k.cast_signed())),
                    code::ABS => self.load(body, k, classic::size(code), to),
                    code::IND => self.load_indexed(body, k, classic::size(code)),
                    code::MEM if k < classic::MEMORY as u32 => self.out.load(Size::W, to, R10, memory(k)),
                    code::LEN => self.len(body, to),
                    code::MSH => {
                        self.load(body, k, 1, to);
                        self.out.alu32(code::AND, to, Operand::Imm(0xf));
                        self.out.alu32(code::LSH, to, Operand::Imm(2));
                    }
                    _ => return unknown,
                }
            }
            code::ST if k < classic::MEMORY as u32 => {
                self.out.store(Size::W, R10, memory(k), ACCUMULATOR);
            }
            code::STX if k < classic::MEMORY as u32 => self.out.store(Size::W, R10, memory(k), INDEX),
            code::ALU => match code & code::OP {
                op @ (code::ADD..=code::XOR) => self.compute(body, op, by_index, k),
                _ => return unknown,
            },
            code::JMP => {
                let operand = if by_index { Operand::Reg(INDEX) } else { Operand::Imm(k.cast_signed()) };
                let condition = match code & code::OP {
                    code::JA => {
                        self.jump(body, at, &insn);
                        return Ok(());
                    }
                    code::JEQ => Condition::Equal,
                    code::JGT => Condition::Greater,
                    code::JGE => Condition::NotLess,
                    code::JSET => Condition::AnyBit,
                    _ => return unknown,
                };
                self.branch(body, at, condition, operand);
            }
            code::RET if code & code::SIZE == code::A => {
                self.out.jump_if(Condition::NotEqual, ACCUMULATOR, Operand::Imm(0), body.accept);
                self.out.jump(body.reject);
            }
            code::RET => {
                let verdict = if k == 0 { body.reject } else { body.accept };
                self.out.jump(verdict);
            }
            code::MISC if code & code::TXA != 0 => self.out.mov32(ACCUMULATOR, Operand::Reg(INDEX)),
            code::MISC => self.out.mov32(INDEX, Operand::Reg(ACCUMULATOR)),
            _ => return unknown,
        }
        Ok(())
    }

    /// Where a jump to instruction `at` is to lead: what only returns is not gone to first.
    fn destination(&self, body: &Body, at: usize) -> Label {
        match self.insns.get(at) {
            Some(insn) if insn.code == code::RET => {
                if insn.k == 0 {
                    body.reject
                } else {
                    body.accept
                }
            }
            _ => body.labels.get(at).copied().unwrap_or(body.reject),
        }
    }

    fn jump(&mut self, body: &Body, at: usize, insn: &classic::Insn) {
        if insn.k.cast_signed() < 0 {
            self.count_backward(body);
        }
        let to = target(at, insn).map_or(body.reject, |to| self.destination(body, to));
        self.out.jump(to);
    }

    /// Before the program goes back: the verifier wants to see that this ends. It would also follow what it knows of the
    /// registers from one round to the next, as many ways as there are through them; so they are made to be anything,
    /// by a number that it knows nothing of.
    fn count_backward(&mut self, body: &Body) {
        self.out.load(Size::Dw, R1, R10, BACKWARD);
        self.out.jump_if64(Condition::Equal, R1, Operand::Imm(0), body.reject);
        self.out.add64(R1, Operand::Imm(-1));
        self.out.store(Size::Dw, R10, BACKWARD, R1);
        let (data, _) = self.context.data();
        match self.context {
            Context::Tc => self.out.load(Size::W, R2, CONTEXT, skb::LEN),
            Context::Xdp { .. } => {
                let (_, end) = self.context.data();
                self.out.load(Size::W, R2, CONTEXT, end);
                self.out.load(Size::W, R1, CONTEXT, data);
                self.out.sub64(R2, R1);
            }
        }
        for reg in [ACCUMULATOR, INDEX] {
            self.out.alu32(code::ADD, reg, Operand::Reg(R2));
            self.out.alu32(code::SUB, reg, Operand::Reg(R2));
        }
    }

    fn branch(&mut self, body: &Body, at: usize, condition: Condition, operand: Operand) {
        let insn = self.insns[at];
        let [yes, no] = [insn.jt, insn.jf].map(|skip| at + 1 + usize::from(skip));
        let is_next = |to: usize| to == at + 1;
        let [to_yes, to_no] = [yes, no].map(|to| self.destination(body, to));
        if to_yes == to_no {
            return self.out.jump(to_yes);
        }
        match condition.opposite() {
            Some(opposite) if is_next(yes) => self.out.jump_if(opposite, ACCUMULATOR, operand, to_no),
            _ => {
                self.out.jump_if(condition, ACCUMULATOR, operand, to_yes);
                if !is_next(no) {
                    self.out.jump(to_no);
                }
            }
        }
    }

    fn compute(&mut self, body: &Body, op: u16, by_index: bool, k: u32) {
        let operand = if by_index { Operand::Reg(INDEX) } else { Operand::Imm(k.cast_signed()) };
        match (op, by_index) {
            (code::NEG, _) => self.out.alu32(code::NEG, ACCUMULATOR, Operand::Imm(0)),
            (code::DIV | code::MOD, true) => {
                self.out.jump_if(Condition::Equal, INDEX, Operand::Imm(0), body.reject);
                self.out.alu32(op, ACCUMULATOR, operand);
            }
            (code::DIV | code::MOD, false) if k == 0 => {
                // The rest of the program is there all the same, for the verifier.
                self.out.jump_if(Condition::Equal, ACCUMULATOR, Operand::Reg(ACCUMULATOR), body.reject);
            }
            (code::LSH | code::RSH, true) => {
                // As libpcap has it, nothing is left; the processor would shift by the rest.
                let in_range = self.out.label();
                self.out.jump_if(Condition::Less, INDEX, Operand::Imm(32), in_range);
                self.out.mov32(ACCUMULATOR, Operand::Imm(0));
                let done = self.out.label();
                self.out.jump(done);
                self.out.place(in_range);
                self.out.alu32(op, ACCUMULATOR, operand);
                self.out.place(done);
            }
            (code::LSH | code::RSH, false) if k > 31 => self.out.mov32(ACCUMULATOR, Operand::Imm(0)),
            _ => self.out.alu32(op, ACCUMULATOR, operand),
        }
    }

    /// The frame's length on the wire.
    fn len(&mut self, body: &Body, to: Reg) {
        match self.context {
            Context::Tc => {
                self.out.load(Size::W, to, CONTEXT, skb::LEN);
                if body.is_tagged {
                    self.out.alu32(code::ADD, to, Operand::Imm(TAG_LEN as i32));
                }
            }
            Context::Xdp { has_load_bytes: true } => {
                self.out.mov64(R1, Operand::Reg(CONTEXT));
                self.out.call(XDP_GET_BUFF_LEN);
                self.out.mov32(to, Operand::Reg(R0));
            }
            Context::Xdp { has_load_bytes: false } => {
                let (data, end) = self.context.data();
                self.out.load(Size::W, R2, CONTEXT, data);
                self.out.load(Size::W, R3, CONTEXT, end);
                self.out.sub64(R3, R2);
                self.out.mov32(to, Operand::Reg(R3));
            }
        }
    }

    /// Loads `size` bytes at `at` of the frame on the wire.
    fn load(&mut self, body: &Body, at: u32, size: u32, to: Reg) {
        if !body.is_tagged || at.saturating_add(size) <= TAG_AT {
            self.load_held(body, at, size, to);
        } else if at >= TAG_END {
            self.load_held(body, at - TAG_LEN, size, to);
        } else {
            self.compose(body, at, size, to);
        }
    }

    /// A number of which at least a part is in the tag.
    fn compose(&mut self, body: &Body, at: u32, size: u32, to: Reg) {
        if at >= TAG_AT && at + size <= TAG_END {
            self.out.mov32(to, Operand::Reg(TAG));
            let below = (TAG_END - at - size) * 8;
            if below > 0 {
                self.out.alu32(code::RSH, to, Operand::Imm(below as i32));
            }
            if at > TAG_AT {
                self.out.alu32(code::AND, to, Operand::Imm((1 << (size * 8)) - 1));
            }
            return;
        }
        self.out.mov32(to, Operand::Imm(0));
        for byte in at..at + size {
            if (TAG_AT..TAG_END).contains(&byte) {
                self.out.mov32(R1, Operand::Reg(TAG));
                self.out.alu32(code::RSH, R1, Operand::Imm(((TAG_END - 1 - byte) * 8) as i32));
                self.out.alu32(code::AND, R1, Operand::Imm(0xff));
            } else {
                let at = if byte < TAG_AT { byte } else { byte - TAG_LEN };
                self.load_held(body, at, 1, R1);
            }
            self.out.alu32(code::LSH, to, Operand::Imm(8));
            self.out.alu32(code::OR, to, Operand::Reg(R1));
        }
    }

    /// Loads `size` bytes at `at` of what the kernel holds.
    fn load_held(&mut self, body: &Body, at: u32, size: u32, to: Reg) {
        let (data, end) = self.context.data();
        let (from, back) = (self.out.label(), self.out.label());
        if at > OPEN_MAX {
            match i32::try_from(at) {
                Ok(_) => self.fetch(body, Some(at), size, to),
                Err(_) => self.reject_always(body),
            }
            return;
        }
        self.out.load(Size::W, R2, CONTEXT, data);
        self.out.load(Size::W, R3, CONTEXT, end);
        self.out.mov64(R1, Operand::Reg(R2));
        self.out.add64(R1, Operand::Imm((at + size) as i32));
        self.out.jump_if64(Condition::Greater, R1, Operand::Reg(R3), self.fetching(body, from));
        // OPEN_MAX fits.
        self.out.load(width(size), to, R2, at as i16);
        self.in_host_order(size, to);
        self.out.place(back);
        self.later.push(Later::Fetch { from, back, at: Some(at), size, to });
    }

    /// Loads bytes at the index register and `k` of the frame on the wire into the accumulator.
    fn load_indexed(&mut self, body: &Body, k: u32, size: u32) {
        let (data, end) = self.context.data();
        let to = ACCUMULATOR;
        let is_behind = body.is_tagged && k >= TAG_END;
        let Ok(k) = i32::try_from(if is_behind { k - TAG_LEN } else { k }) else {
            return self.reject_always(body);
        };
        let (from, back) = (self.out.label(), self.out.label());
        self.out.mov32(R1, Operand::Reg(INDEX));
        self.out.add64(R1, Operand::Imm(k));
        if body.is_tagged && !is_behind {
            let (behind, held) = (self.out.label(), self.out.label());
            self.out.jump_if64(Condition::NotLess, R1, Operand::Imm(TAG_END as i32), behind);
            for at in TAG_AT + 1 - size..TAG_END {
                let from = self.out.label();
                self.out.jump_if64(Condition::Equal, R1, Operand::Imm(at as i32), from);
                self.later.push(Later::Compose { from, back, at, size, to });
            }
            self.out.jump(held);
            self.out.place(behind);
            self.out.add64(R1, Operand::Imm(-(TAG_LEN as i32)));
            self.out.place(held);
        }
        self.out.jump_if64(Condition::Greater, R1, Operand::Imm(OPEN_MAX as i32), self.fetching(body, from));
        self.out.load(Size::W, R2, CONTEXT, data);
        self.out.load(Size::W, R3, CONTEXT, end);
        self.out.add64(R2, Operand::Reg(R1));
        self.out.mov64(R0, Operand::Reg(R2));
        self.out.add64(R0, Operand::Imm(size as i32));
        self.out.jump_if64(Condition::Greater, R0, Operand::Reg(R3), self.fetching(body, from));
        self.out.load(width(size), to, R2, 0);
        self.in_host_order(size, to);
        self.out.place(back);
        self.later.push(Later::Fetch { from, back, at: None, size, to });
    }

    /// Where to go for bytes that do not lie open: outside of the frame, where there is no helper.
    fn fetching(&self, body: &Body, from: Label) -> Label {
        if self.context.load_bytes().is_some() { from } else { body.reject }
    }

    fn fetch(&mut self, body: &Body, at: Option<u32>, size: u32, to: Reg) {
        let Some(helper) = self.context.load_bytes() else {
            return self.reject_always(body);
        };
        match at {
            Some(at) => self.out.mov32(R2, Operand::Imm(at.cast_signed())),
            None => {
                // The helper takes 32 bits.
                self.out.jump_if64(Condition::Greater, R1, Operand::Imm(i32::MAX), body.reject);
                self.out.mov64(R2, Operand::Reg(R1));
            }
        }
        self.out.mov64(R1, Operand::Reg(CONTEXT));
        self.out.mov64(R3, Operand::Reg(R10));
        self.out.add64(R3, Operand::Imm(i32::from(LOADED)));
        self.out.mov32(R4, Operand::Imm(size as i32));
        self.out.call(helper);
        self.out.jump_if64(Condition::NotEqual, R0, Operand::Imm(0), body.reject);
        self.out.load(width(size), to, R10, LOADED);
        self.in_host_order(size, to);
    }

    fn in_host_order(&mut self, size: u32, to: Reg) {
        if size > 1 {
            self.out.from_wire(to, size as i32 * 8);
        }
    }

    /// The rest of the program is there all the same, for the verifier.
    fn reject_always(&mut self, body: &Body) {
        self.out.jump_if(Condition::Equal, ACCUMULATOR, Operand::Reg(ACCUMULATOR), body.reject);
    }
}

fn width(size: u32) -> Size {
    match size {
        1 => Size::B,
        2 => Size::H,
        _ => Size::W,
    }
}

/// Where a word of scratch memory is on the stack.
fn memory(word: u32) -> i16 {
    MEMORY - 4 * word as i16
}
