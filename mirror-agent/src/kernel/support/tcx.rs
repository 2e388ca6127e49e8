//! TCX: TC hooks that hold programs by bpf_link, so that nothing outlives the agent.

use std::io;

use anyhow::{Context as _, Result};
use mirror_common::record::Direction;

use super::Ability;

/// The start of `union bpf_attr` of linux/bpf.h, as `BPF_PROG_QUERY` reads it. Host byte order.
#[repr(C)]
struct Query {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
}

/// `enum bpf_cmd` of linux/bpf.h.
const BPF_PROG_QUERY: libc::c_long = 16;
/// `enum bpf_attach_type` of linux/bpf.h. `BPF_TCX_EGRESS` is the next one.
const BPF_TCX_INGRESS: u32 = 46;

/// Whether there are such hooks.
///
/// # Errors
///
/// The kernel does not say.
pub fn probe() -> Result<Ability> {
    // Of an interface that no host has.
    let is_there = is_there(query(0, BPF_TCX_INGRESS).map(drop))
        .context("cannot find out whether this kernel has TCX hooks")?;
    let remedy = "they came with Linux 6.6, --attach auto uses a clsact filter instead";
    Ok(Ability::new("TCX hooks", is_there, remedy))
}

/// How many programs there are on an interface's hook, whoever's they are.
///
/// # Errors
///
/// The interface is gone, or the kernel has no such hooks.
pub fn programs_on(ifindex: u32, direction: Direction) -> io::Result<u32> {
    query(ifindex, BPF_TCX_INGRESS + direction as u32)
}

/// Whether the program with number `id` is among them.
///
/// # Errors
///
/// As for [`programs_on`].
pub fn has_program(ifindex: u32, direction: Direction, id: u32) -> io::Result<bool> {
    let mut ids = [0_u32; MANY];
    let mut query = Query {
        target_ifindex: ifindex,
        attach_type: BPF_TCX_INGRESS + direction as u32,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: (&raw mut ids).expose_provenance() as u64,
        count: MANY as u32,
        padding: 0,
    };
    ask(&mut query)?;
    Ok(ids.contains(&id))
}

/// Programs that a hook takes (`BPF_MPROG_MAX` of kernel/bpf/mprog.c).
const MANY: usize = 64;

/// A program on a TCX hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct On {
    /// Its number.
    pub program: u32,
    /// The number of the link that holds it there; 0 where there is none.
    pub link: u32,
}

/// The programs on an interface's hook, in the order in which they run.
///
/// # Errors
///
/// As for [`programs_on`].
pub fn on(ifindex: u32, direction: Direction) -> io::Result<Vec<On>> {
    /// [`Query`] and what follows it.
    #[repr(C)]
    struct Long {
        query: Query,
        prog_attach_flags: u64,
        link_ids: u64,
        link_attach_flags: u64,
        revision: u64,
    }
    let (mut programs, mut links) = ([0_u32; MANY], [0_u32; MANY]);
    let mut query = Long {
        query: Query {
            target_ifindex: ifindex,
            attach_type: BPF_TCX_INGRESS + direction as u32,
            query_flags: 0,
            attach_flags: 0,
            prog_ids: (&raw mut programs).expose_provenance() as u64,
            count: MANY as u32,
            padding: 0,
        },
        prog_attach_flags: 0,
        link_ids: (&raw mut links).expose_provenance() as u64,
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: `query` is readable and writable for the size that is said, and both lists take `count` numbers.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Long>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let all = programs.into_iter().zip(links).take(query.query.count as usize);
    Ok(all.map(|(program, link)| On { program, link }).collect())
}

/// Asks for the number of programs on a hook of an interface.
fn query(target_ifindex: u32, attach_type: u32) -> io::Result<u32> {
    let mut query = Query {
        target_ifindex,
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: 0,
        count: 0,
        padding: 0,
    };
    ask(&mut query)?;
    Ok(query.count)
}

fn ask(query: &mut Query) -> io::Result<()> {
    // SAFETY: `query` is readable and writable for the size that is said, and so is the list that it asks for, if it
    // does, for `count` numbers: the callers' own.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut *query, size_of::<Query>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A kernel that knows the hooks looks for the interface first (kernel/bpf/tcx.c, `tcx_prog_query`); one that
/// does not, refuses the kind of hook (kernel/bpf/syscall.c, `bpf_prog_query`).
fn is_there(answer: io::Result<()>) -> io::Result<bool> {
    match answer {
        Ok(()) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENODEV) => Ok(true),
            Some(libc::EINVAL) => Ok(false),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let answer = |code| Err(io::Error::from_raw_os_error(code));
        assert!(is_there(Ok(())).unwrap());
        assert!(is_there(answer(libc::ENODEV)).unwrap());
        assert!(!is_there(answer(libc::EINVAL)).unwrap());
        assert_eq!(is_there(answer(libc::EPERM)).unwrap_err().raw_os_error(), Some(libc::EPERM));
    }
}
