//! The limit on locked memory, against which kernels before 5.11 count rings and maps.

use anyhow::{Context as _, Result, bail};
use aya::{
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};

use crate::doctor::{capability, check::Check, finding::Finding, host::Host};

/// See the module.
pub const CHECK: Check = Check {
    id: "memlock",
    title: "memory that may be locked (ulimit -l): rings and maps count against it before Linux 5.11",
    look,
    counters: None,
};

/// What lets a process raise the limit, as the agent does by itself.
const SYS_RESOURCE: u8 = 24;

/// Rings of 16 MiB, and maps.
const ENOUGH: u64 = 256 << 20;

fn look(host: &Host) -> Result<Vec<Finding>> {
    if !host.may(capability::BPF) {
        bail!("the kernel tells how it counts to who has CAP_BPF only");
    }
    // Came with the version that counts against the cgroup's memory instead, as libbpf's probe_memcg_account has it.
    let is_free = is_helper_supported(ProgramType::SocketFilter, BpfHelper::BPF_FUNC_ktime_get_coarse_ns)
        .context("cannot find out which helpers this kernel has")?;
    Ok(vec![judge(is_free, limit(), host.may(SYS_RESOURCE))])
}

/// Bytes; `u64::MAX` for no limit.
fn limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call writes the struct that it is given. Where it fails, the limit stays 0.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    limit.rlim_cur
}

fn judge(is_free: bool, limit: u64, may_raise: bool) -> Finding {
    if is_free {
        return Finding::ok("this kernel does not count BPF maps against the limit on locked memory");
    }
    if may_raise || limit >= ENOUGH {
        return Finding::ok(
            "this kernel counts BPF maps against the limit on locked memory, which is or will be high enough",
        );
    }
    let why = "rings and maps count against it on this kernel, and the agent may not raise it (CAP_SYS_RESOURCE): the start fails";
    let found = format!("ulimit -l is {} KiB", limit / 1024);
    // Of the pasting shell, and what it starts from then on.
    Finding::fail(found, why).mend("ulimit -l unlimited", format!("ulimit -S -l {}", limit / 1024))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Status;

    #[test]
    fn only_an_old_kernel_with_a_low_limit_that_stays_fails() {
        let status = |is_free, limit, may_raise| judge(is_free, limit, may_raise).status;
        assert_eq!(status(true, 65_536, false), Status::Ok);
        assert_eq!(status(false, 65_536, true), Status::Ok);
        assert_eq!(status(false, u64::MAX, false), Status::Ok);
        assert_eq!(status(false, 65_536, false), Status::Fail);
    }
}
