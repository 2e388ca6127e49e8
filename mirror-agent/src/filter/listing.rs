//! Extended BPF as text, as `bpftool prog dump xlated` shows it.

use std::fmt::{self, Write as _};

use super::assembler::Insn;

/// Instructions, a line each.
pub struct Listing<'a>(pub &'a [Insn]);

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .enumerate()
            .try_for_each(|(at, insn)| writeln!(f, "{at:4}: ({:02x}) {}", insn.code, text(insn)))
    }
}

fn text(insn: &Insn) -> String {
    let &Insn { code, dst, src, off, imm } = insn;
    let is_wide = matches!(code & 0x07, 0x05 | 0x07);
    let width = if is_wide { 'r' } else { 'w' };
    let operand = if code & 0x08 == 0 { imm.to_string() } else { format!("{width}{src}") };
    let left = format!("{width}{dst}");
    match code & 0x07 {
        0x01 => format!("r{dst} = *({} *)(r{src} {})", size(code), signed(i32::from(off))),
        0x03 => format!("*({} *)(r{dst} {}) = r{src}", size(code), signed(i32::from(off))),
        0x04 | 0x07 => match code & 0xf0 {
            0xd0 => format!("r{dst} = be{imm} r{dst}"),
            0x80 => format!("{left} = -{left}"),
            0xb0 => format!("{left} = {operand}"),
            op => format!("{left} {}= {operand}", operator(op)),
        },
        _ => match code & 0xf0 {
            0x00 => format!("goto pc{off:+}"),
            0x80 => format!("call {}", helper(imm)),
            0x90 => "exit".to_owned(),
            op => {
                let mut text = format!("if {left} ");
                // Writing to a string cannot fail.
                let _ = match op {
                    0x40 => write!(text, "& {operand}"),
                    op => write!(text, "{} {}", relation(op), number(&operand, imm, code)),
                };
                format!("{text} goto pc{off:+}")
            }
        },
    }
}

/// Operands of comparisons have no sign.
fn number(operand: &str, imm: i32, code: u8) -> String {
    if code & 0x08 == 0 { format!("{:#x}", imm.cast_unsigned()) } else { operand.to_owned() }
}

fn signed(off: i32) -> String {
    format!("{off:+}")
}

fn size(code: u8) -> &'static str {
    match code & 0x18 {
        0x00 => "u32",
        0x08 => "u16",
        0x10 => "u8",
        _ => "u64",
    }
}

fn operator(op: u8) -> &'static str {
    match op {
        0x00 => "+",
        0x10 => "-",
        0x20 => "*",
        0x30 => "/",
        0x40 => "|",
        0x50 => "&",
        0x60 => "<<",
        0x70 => ">>",
        0x90 => "%",
        _ => "^",
    }
}

fn relation(op: u8) -> &'static str {
    match op {
        0x10 => "==",
        0x20 => ">",
        0x30 => ">=",
        0x50 => "!=",
        0xa0 => "<",
        _ => "<=",
    }
}

fn helper(number: i32) -> String {
    match number {
        26 => "bpf_skb_load_bytes#26".into(),
        188 => "bpf_xdp_get_buff_len#188".into(),
        189 => "bpf_xdp_load_bytes#189".into(),
        other => format!("#{other}"),
    }
}
