//! The instruction that adds to a number in memory and tells what it was before.

use std::io;

use anyhow::Result;

use super::Ability;

/// `struct bpf_insn` of linux/bpf.h. Host byte order.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    /// Destination in the lower half, source in the upper.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// The start of `union bpf_attr` of linux/bpf.h, as `BPF_PROG_LOAD` reads it. Host byte order.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
}

/// `enum bpf_cmd` of linux/bpf.h.
const BPF_PROG_LOAD: libc::c_long = 5;
/// `enum bpf_prog_type` of linux/bpf.h.
const SOCKET_FILTER: u32 = 1;

/// Puts 0 on the stack, adds 1 to it, and returns what was there.
const PROGRAM: [Instruction; 4] = [
    // BPF_ALU64 | BPF_MOV | BPF_K: r0 = 0
    Instruction { code: 0xb7, registers: 0, offset: 0, immediate: 0 },
    // BPF_STX | BPF_DW | BPF_MEM: *(r10 - 8) = r0
    Instruction { code: 0x7b, registers: 0x0a, offset: -8, immediate: 0 },
    // BPF_STX | BPF_DW | BPF_ATOMIC, with BPF_ADD | BPF_FETCH: r0 = fetch_add(r10 - 8, r0)
    Instruction { code: 0xdb, registers: 0x0a, offset: -8, immediate: 1 },
    // BPF_JMP | BPF_EXIT
    Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 },
];

/// Whether a program with it can be loaded.
///
/// # Errors
///
/// None: where the kernel does not say why it refuses, it has not the instruction.
pub fn probe() -> Result<Ability> {
    let load = Load {
        kind: SOCKET_FILTER,
        count: PROGRAM.len() as u32,
        instructions: PROGRAM.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    // SAFETY: `load` is readable for the size that is said, and points to instructions and a string that live as long
    // as the program does.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) };
    if fd >= 0 {
        // SAFETY: the descriptor was just opened, and nobody else has it.
        unsafe { libc::close(fd as i32) };
    } else {
        log::debug!("no atomic fetch: {}", io::Error::last_os_error());
    }
    let remedy = "it came with Linux 5.12: use --mode ring with --limit";
    Ok(Ability::new("atomic instruction that counts frames across processors", fd >= 0, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_have_the_kernels_size() {
        assert_eq!(size_of::<Instruction>(), 8);
    }
}
