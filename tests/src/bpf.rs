//! A program of somebody else on an interface's TCX hook: two instructions, loaded by bpf(2) itself, so
//! that neither a compiler nor the agent's own loader is needed.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::Command,
};

use crate::{command, host::Host};

/// Which way packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Ingress,
    Egress,
}

/// What a program says about a packet (linux/bpf.h, `enum tcx_action_base`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Let the next program decide.
    Next = -1,
    /// Let it pass; no further program is asked.
    Pass = 0,
    /// Throw it away.
    Drop = 2,
}

/// The program, attached for as long as this lives.
#[derive(Debug)]
pub struct ForeignProgram {
    program: OwnedFd,
    _link: OwnedFd,
}

impl ForeignProgram {
    /// Attaches a program that gives every packet the same verdict.
    ///
    /// # Errors
    /// What the kernel said; EINVAL where it has no TCX (before 6.6).
    pub fn attach(host: &Host, index: u32, direction: Direction, verdict: Verdict) -> io::Result<Self> {
        host.within(move || {
            let program = load(direction, verdict)?;
            let link = create_link(&program, index, attach_type(direction), 0)?;
            Ok(Self { program, _link: link })
        })
    }

    /// As [`ForeignProgram::attach`], in front of whoever is there.
    ///
    /// # Errors
    /// As [`ForeignProgram::attach`].
    pub fn attach_first(host: &Host, index: u32, direction: Direction, verdict: Verdict) -> io::Result<Self> {
        const BPF_F_BEFORE: u32 = 1 << 3;
        host.within(move || {
            let program = load(direction, verdict)?;
            let link = create_link(&program, index, attach_type(direction), BPF_F_BEFORE)?;
            Ok(Self { program, _link: link })
        })
    }

    /// Attaches an XDP program that passes every frame, in front of the stack.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn attach_xdp(host: &Host, index: u32) -> io::Result<Self> {
        const BPF_PROG_TYPE_XDP: u32 = 6;
        const BPF_XDP: u32 = 37;
        const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
        // r0 = XDP_PASS; exit
        const INSTRUCTIONS: [u64; 2] = [2 << 32 | 0xb7, 0x95];
        host.within(move || {
            let program = load_program(BPF_PROG_TYPE_XDP, BPF_XDP, "foreign", &INSTRUCTIONS)?;
            let link = create_link(&program, index, BPF_XDP, XDP_FLAGS_SKB_MODE)?;
            Ok(Self { program, _link: link })
        })
    }

    /// The kernel's id of the program.
    ///
    /// # Panics
    /// Where /proc does not say.
    #[must_use]
    pub fn id(&self) -> u32 {
        let info =
            std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.program.as_raw_fd())).unwrap();
        let id = info.lines().find_map(|line| line.strip_prefix("prog_id:")).expect("prog_id");
        id.trim().parse().expect("a number")
    }

    /// How often it ran while [`RunCounts`] was on.
    ///
    /// # Panics
    /// Where bpftool does not know the program.
    #[must_use]
    pub fn runs(&self) -> u64 {
        let info =
            std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.program.as_raw_fd())).unwrap();
        let id = info.lines().find_map(|line| line.strip_prefix("prog_id:")).expect("prog_id").trim();
        let json = command::run(Command::new("bpftool").args(["-j", "prog", "show", "id", id]));
        let program: serde_json::Value = serde_json::from_str(&json).expect("bpftool -j");
        program["run_cnt"].as_u64().unwrap_or(0)
    }
}

/// While this lives, the kernel counts how often each program runs.
#[derive(Debug)]
pub struct RunCounts(#[expect(dead_code, reason = "held for its drop")] OwnedFd);

impl RunCounts {
    /// Switches counting on.
    ///
    /// # Panics
    /// Where the kernel refuses.
    #[must_use]
    pub fn on() -> Self {
        const BPF_ENABLE_STATS: i64 = 32;
        const BPF_STATS_RUN_TIME: u32 = 0;
        Self(bpf(BPF_ENABLE_STATS, &BPF_STATS_RUN_TIME).expect("BPF_ENABLE_STATS"))
    }
}

/// linux/bpf.h, `enum bpf_attach_type`.
fn attach_type(direction: Direction) -> u32 {
    match direction {
        Direction::Ingress => 46, // BPF_TCX_INGRESS
        Direction::Egress => 47,  // BPF_TCX_EGRESS
    }
}

fn load(direction: Direction, verdict: Verdict) -> io::Result<OwnedFd> {
    const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
    // r0 = verdict; exit
    let instructions = [(verdict as i32 as u32 as u64) << 32 | 0xb7, 0x95];
    load_program(BPF_PROG_TYPE_SCHED_CLS, attach_type(direction), "foreign", &instructions)
}

/// Loads a program of the kernel's type `kind` (linux/bpf.h, `enum bpf_prog_type`) that will be attached as
/// `attach_type` (`enum bpf_attach_type`).
///
/// # Errors
/// What the kernel said.
pub(crate) fn load_program(
    kind: u32,
    attach_type: u32,
    name: &str,
    instructions: &[u64],
) -> io::Result<OwnedFd> {
    /// The start of `union bpf_attr` for BPF_PROG_LOAD.
    #[repr(C)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
        prog_ifindex: u32,
        expected_attach_type: u32,
    }
    const BPF_PROG_LOAD: i64 = 5;
    lift_memory_lock_limit();
    let mut prog_name = [0; 16];
    prog_name[..name.len()].copy_from_slice(name.as_bytes());
    let attributes = Load {
        prog_type: kind,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name,
        prog_ifindex: 0,
        expected_attach_type: attach_type,
    };
    bpf(BPF_PROG_LOAD, &attributes)
}

/// Kernels before 5.11 count programs and maps against the limit on locked memory, those of all processes of a user
/// together: the rings of an agent are enough to use it up.
fn lift_memory_lock_limit() {
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the call reads the struct that it is given. Where it fails, newer kernels do not care and older ones
    // refuse the program.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) };
}

fn create_link(program: &OwnedFd, index: u32, attach_type: u32, flags: u32) -> io::Result<OwnedFd> {
    /// The start of `union bpf_attr` for BPF_LINK_CREATE.
    #[repr(C)]
    struct Create {
        prog_fd: u32,
        target_ifindex: u32,
        attach_type: u32,
        flags: u32,
    }
    const BPF_LINK_CREATE: i64 = 28;
    let attributes =
        Create { prog_fd: program.as_raw_fd() as u32, target_ifindex: index, attach_type, flags };
    bpf(BPF_LINK_CREATE, &attributes)
}

/// A program on a TCX hook. Debian 12's bpftool does not know TCX: its `net` leaves them out, and its
/// `link` shows only their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    pub program: u32,
    /// 0 where it is attached without a link.
    pub link: u32,
}

/// What is on an interface's TCX hook, in the order in which it runs; nothing where the kernel has none.
///
/// # Panics
/// Where there are more than 16.
#[must_use]
pub fn attached(host: &Host, index: u32, direction: Direction) -> Vec<Attached> {
    query(host, index, direction).unwrap_or_else(|error| {
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "cannot ask for TCX programs: {error}");
        Vec::new()
    })
}

/// Whether the kernel has TCX: whether a program can be attached there.
///
/// # Panics
/// Where that fails for another reason than that it has none.
#[must_use]
pub fn has_tcx(host: &Host, index: u32) -> bool {
    match ForeignProgram::attach(host, index, Direction::Ingress, Verdict::Next) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "cannot attach to TCX: {error}");
            false
        }
    }
}

fn query(host: &Host, index: u32, direction: Direction) -> io::Result<Vec<Attached>> {
    /// The start of `union bpf_attr` for BPF_PROG_QUERY.
    #[repr(C)]
    struct Query {
        target_ifindex: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        count: u32,
        padding: u32,
        prog_attach_flags: u64,
        link_ids: u64,
        link_attach_flags: u64,
        revision: u64,
    }
    const BPF_PROG_QUERY: i64 = 16;
    host.within(move || {
        let (mut programs, mut links) = ([0u32; 16], [0u32; 16]);
        let mut query = Query {
            target_ifindex: index,
            attach_type: attach_type(direction),
            query_flags: 0,
            attach_flags: 0,
            prog_ids: programs.as_mut_ptr() as u64,
            count: programs.len() as u32,
            padding: 0,
            prog_attach_flags: 0,
            link_ids: links.as_mut_ptr() as u64,
            link_attach_flags: 0,
            revision: 0,
        };
        // SAFETY: `query` is readable and writable for the size that is said, and both lists take `count`
        // ids.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>()) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        let all = programs.into_iter().zip(links).take(query.count as usize);
        Ok(all.map(|(program, link)| Attached { program, link }).collect())
    })
}

/// bpf(2) with a command that gives a descriptor.
pub(crate) fn bpf<T>(command: i64, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `attributes` for its own size, and what its addresses point to (the
    // instructions, the licence) lives in the callers' frames until this returns.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just opened this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{generator::Generator, lab::Lab, lock};

    #[test]
    fn foreign_program_runs_for_every_frame_and_goes_with_its_guard() {
        let _turn = lock::shared();
        let lab = Lab::new();
        let _counts = RunCounts::on();
        let program = match ForeignProgram::attach(
            &lab.router,
            lab.mirrored_index,
            Direction::Ingress,
            Verdict::Next,
        ) {
            Ok(program) => program,
            Err(error) => return eprintln!("skipped: no TCX in this kernel: {error}"),
        };
        Generator::new("eth0").send(&lab.client, 0..123);
        assert_eq!(program.runs(), 123);
        let ingress = || attached(&lab.router, lab.mirrored_index, Direction::Ingress);
        assert_eq!(ingress().len(), 1);
        assert_eq!(ingress()[0].program, program.id());
        assert_eq!(attached(&lab.router, lab.mirrored_index, Direction::Egress), []);
        drop(program);
        assert_eq!(ingress(), []);
    }
}
