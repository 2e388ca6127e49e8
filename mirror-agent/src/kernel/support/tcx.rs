//! TCX: TC hooks that hold programs by bpf_link, so that nothing outlives the agent.

use std::io;

use anyhow::{Context as _, Result};

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
/// `enum bpf_attach_type` of linux/bpf.h.
const BPF_TCX_INGRESS: u32 = 46;

/// Whether there are such hooks.
///
/// # Errors
///
/// The kernel does not say.
pub fn probe() -> Result<Ability> {
    let is_there = is_there(query()).context("cannot find out whether this kernel has TCX hooks")?;
    let remedy = "they came with Linux 6.6, --attach auto uses a clsact filter instead";
    Ok(Ability::new("TCX hooks", is_there, remedy))
}

/// Asks for the programs on the hook of an interface that no host has: number 0.
fn query() -> io::Result<()> {
    let mut query = Query {
        target_ifindex: 0,
        attach_type: BPF_TCX_INGRESS,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: 0,
        count: 0,
        padding: 0,
    };
    // SAFETY: `query` is readable and writable for the size that is said, and asks for no list.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>()) };
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
