//! Finds out where an XDP program finds a socket buffer's `skb_shared_info`.

use std::fs;

use anyhow::{Context as _, Result, bail};
use aya::{
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};
use mirror_common::settings::XdpLayout;

use super::{
    btf::Btf,
    skb_layout::{KERNEL_BTF, whole},
    support::Support,
};
use crate::console::notice;

/// `SMP_CACHE_BYTES` of include/linux/cache.h, to which the kernel aligns what is behind a buffer's data: a macro,
/// which BTF does not have.
const CACHE_BYTES: u32 = if cfg!(target_arch = "s390x") {
    256
} else if cfg!(target_arch = "powerpc64") {
    128
} else {
    64
};

/// The layout for the programs. Where it is not known, super-frames go as they are.
#[must_use]
pub fn find(support: &Support) -> XdpLayout {
    let has_load_bytes = u32::from(support.xdp_frags.is_there());
    let layout = try_find().unwrap_or_else(|error| {
        notice(format_args!("super-frames in generic XDP are not cut: {error:#}"));
        XdpLayout::UNKNOWN
    });
    XdpLayout { has_load_bytes, ..layout }
}

fn try_find() -> Result<XdpLayout> {
    // Refused to who lacks CAP_PERFMON, and under lockdown of confidentiality.
    if !is_helper_supported(ProgramType::Xdp, BpfHelper::BPF_FUNC_probe_read_kernel)
        .context("cannot find out whether programs may read the kernel's memory")?
    {
        bail!("programs may not read the kernel's memory (is it locked down?)");
    }
    let bytes = fs::read(KERNEL_BTF).with_context(|| format!("cannot read {KERNEL_BTF}"))?;
    layout(&bytes).with_context(|| format!("cannot use {KERNEL_BTF}"))
}

fn layout(bytes: &[u8]) -> Result<XdpLayout> {
    let btf = Btf::parse(bytes)?;
    let named = |name| btf.structure(name).with_context(|| format!("it has no struct {name}"));
    let (buff, shared_info) = (named("xdp_buff")?, named("skb_shared_info")?);
    let size = btf.size(shared_info).context("skb_shared_info has no size")?;
    Ok(XdpLayout {
        has_load_bytes: 0,
        is_known: 1,
        data_hard_start: whole(&btf, buff, "data_hard_start", 64)?,
        frame_sz: whole(&btf, buff, "frame_sz", 32)?,
        shared_info_len: size.next_multiple_of(CACHE_BYTES),
        gso_size: whole(&btf, shared_info, "gso_size", 16)?,
        gso_type: whole(&btf, shared_info, "gso_type", 32)?,
    })
}
