//! Kernel programs, whoever's they are, asked of the kernel by their numbers. Needs `CAP_SYS_ADMIN`.

use std::{
    fmt::{self, Display, Formatter},
    io, mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// A loaded program.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its number; 0 where it is none.
    id: u32,
    name: String,
    /// Instructions of 8 bytes, as the verifier left them; `None` where the kernel does not show them.
    instructions: Option<Vec<u64>>,
}

/// A bpf_link on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkOn {
    /// Its number.
    pub link: u32,
    /// Its program's.
    pub program: u32,
}

/// `enum bpf_cmd` of linux/bpf.h.
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
const BPF_LINK_GET_NEXT_ID: libc::c_long = 31;

/// The start of `union bpf_attr` for what goes by a number.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// The same for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct InfoByFd {
    fd: u32,
    len: u32,
    info: u64,
}

/// The start of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    translated_len: u32,
    jited: u64,
    translated: u64,
    load_time: u64,
    created_by: u32,
    map_count: u32,
    maps: u64,
    name: [u8; 16],
}

/// The start of `struct bpf_link_info`. The interface's number comes first for XDP and for TCX.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    ifindex: u32,
    attach_type: u32,
}

/// `enum bpf_link_type` of linux/bpf.h.
const LINK_XDP: u32 = 6;
const LINK_TCX: u32 = 11;

impl Program {
    /// The program with this number. One that is gone, or may not be seen, has no name.
    #[must_use]
    pub fn find(id: u32) -> Self {
        let unnamed = Self { id, name: String::new(), instructions: None };
        let Ok(fd) = open(BPF_PROG_GET_FD_BY_ID, id) else { return unnamed };
        let mut info = ProgramInfo::default();
        if inform(&fd, &mut info).is_err() {
            return unnamed;
        }
        let name = info.name.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).into_owned();
        let mut instructions = vec![0_u64; info.translated_len as usize / 8];
        let mut again = ProgramInfo {
            translated_len: info.translated_len,
            translated: instructions.as_mut_ptr().expose_provenance() as u64,
            ..ProgramInfo::default()
        };
        let is_shown = inform(&fd, &mut again).is_ok() && again.translated != 0 && !instructions.is_empty();
        Self { id, name, instructions: is_shown.then_some(instructions) }
    }

    /// What is no program.
    #[must_use]
    pub fn unknown(name: &str) -> Self {
        Self { id: 0, name: name.into(), instructions: None }
    }

    /// Its name, at most 15 characters; empty where it cannot be seen.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is one of an agent's.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.name.starts_with("mirror_")
    }

    /// Whether it can say 'next' of a frame, so that the next program sees it: whether it has that number anywhere, or
    /// may go on in another program. `None` where the kernel does not show it.
    #[must_use]
    pub fn says_next(&self) -> Option<bool> {
        self.instructions.as_deref().map(says_next)
    }
}

/// See [`Program::says_next`].
fn says_next(instructions: &[u64]) -> bool {
    /// Verdicts that end a chain (`TCX_PASS`, `TCX_DROP`, `TCX_REDIRECT`, and those of cls_bpf) are small and positive.
    const NEXT: u32 = u32::MAX;
    // 64 or 32 bits: dst = immediate.
    const MOVE: [u8; 2] = [0xb7, 0xb4];
    // Calls of helpers: 12 is bpf_tail_call, which the verifier leaves as its own instruction.
    const CALL: u8 = 0x85;
    const TAIL_CALL: u8 = 0xf0;
    instructions.iter().any(|instruction| {
        let bytes = instruction.to_ne_bytes();
        let immediate = u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        MOVE.contains(&bytes[0]) && immediate == NEXT
            || bytes[0] == TAIL_CALL | 0x05
            || bytes[0] == CALL && bytes[1] >> 4 == 0 && immediate == 12
    })
}

impl Display for Program {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match (self.name.as_str(), self.id) {
            ("", id) => write!(f, "program {id}"),
            (name, 0) => f.write_str(name),
            (name, id) => write!(f, "program {name} ({id})"),
        }
    }
}

/// The bpf_links of XDP and TCX on an interface.
#[must_use]
pub fn links_on(ifindex: u32) -> Vec<LinkOn> {
    let mut found = Vec::new();
    let mut query = ById::default();
    while bpf(BPF_LINK_GET_NEXT_ID, &mut query).is_ok() {
        query.id = query.next_id;
        let Ok(fd) = open(BPF_LINK_GET_FD_BY_ID, query.id) else { continue };
        let mut info = LinkInfo::default();
        if inform(&fd, &mut info).is_ok()
            && matches!(info.kind, LINK_XDP | LINK_TCX)
            && info.ifindex == ifindex
        {
            found.push(LinkOn { link: info.id, program: info.program });
        }
    }
    found
}

fn open(command: libc::c_long, id: u32) -> io::Result<OwnedFd> {
    let fd = bpf(command, &mut ById { id, ..ById::default() })?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just opened this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `info` is one of the structs above: integers, which may have any value, and addresses that the caller vouches for.
fn inform<T>(fd: &OwnedFd, info: &mut T) -> io::Result<()> {
    let mut query = InfoByFd {
        fd: fd.as_raw_fd().cast_unsigned(),
        len: mem::size_of::<T>() as u32,
        info: (&raw mut *info).expose_provenance() as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut query).map(drop)
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes `attributes` for the size that is said, and what they point to for the
    // lengths in them: the callers' own.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, mem::size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_have_the_kernels_layout() {
        assert_eq!((size_of::<ById>(), size_of::<InfoByFd>(), size_of::<ProgramInfo>()), (12, 16, 80));
        assert_eq!(mem::offset_of!(LinkInfo, ifindex), 16);
    }

    #[test]
    fn verdicts_are_told_apart() {
        // r0 = verdict; exit
        let program = |verdict: i32| [u64::from(verdict.cast_unsigned()) << 32 | 0xb7, 0x95];
        assert!(says_next(&program(-1)));
        for verdict in [0, 2, 7] {
            assert!(!says_next(&program(verdict)), "{verdict}");
        }
        // w0 = -1
        assert!(says_next(&[u64::from(u32::MAX) << 32 | 0xb4, 0x95]));
        // call bpf_tail_call, before and after the verifier
        assert!(says_next(&[12 << 32 | 0x85, 0x95]));
        assert!(says_next(&[0xf5, 0x95]));
    }
}
