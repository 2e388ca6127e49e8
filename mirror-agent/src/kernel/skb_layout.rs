//! Finds out where this kernel keeps what it left to the card, and whether the programs may read it.

use std::fs;

use anyhow::{Context as _, Result, bail};
use aya::{
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};
use mirror_common::settings::{GsoBits, SPAN_MAX, SkbLayout};

use super::btf::{Btf, Field, Struct};
use crate::console::notice;

/// The kernel's types, where it was built with them (CONFIG_DEBUG_INFO_BTF).
pub(super) const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// `CHECKSUM_PARTIAL` of include/linux/skbuff.h: a macro, which BTF does not have.
const CHECKSUM_PARTIAL: u32 = 3;

/// The layout for the programs. Where there is none, they go by the protocol when a frame is to be cut, and do not
/// tell where a checksum is missing: a line says so.
#[must_use]
pub fn find() -> SkbLayout {
    match try_find() {
        Ok(layout) => {
            log::debug!("what is left to the card is read from the kernel's sk_buff: {layout:?}");
            layout
        }
        Err(error) => {
            notice(format_args!(
                "super-frames are cut by their gso_size alone, and checksums left to the card are not completed: \
                 this kernel does not show its sk_buff: {error:#}"
            ));
            SkbLayout::UNKNOWN
        }
    }
}

/// The layout for XDP programs, which take nothing but the meaning of bits from it: nothing is said where there is none.
#[must_use]
pub fn find_quietly() -> SkbLayout {
    try_find().unwrap_or(SkbLayout::UNKNOWN)
}

/// Whether there is one.
///
/// # Errors
///
/// Why there is none.
pub fn check() -> Result<()> {
    try_find().map(drop)
}

fn try_find() -> Result<SkbLayout> {
    // Refused to who lacks CAP_PERFMON, and under lockdown of confidentiality.
    if !is_helper_supported(ProgramType::SchedClassifier, BpfHelper::BPF_FUNC_probe_read_kernel)
        .context("cannot find out whether programs may read the kernel's memory")?
    {
        bail!("programs may not read the kernel's memory (is it locked down?)");
    }
    let bytes = fs::read(KERNEL_BTF)
        .with_context(|| format!("cannot read {KERNEL_BTF} (CONFIG_DEBUG_INFO_BTF makes it)"))?;
    layout(&bytes).with_context(|| format!("cannot use {KERNEL_BTF}"))
}

/// The layout in this BTF.
fn layout(bytes: &[u8]) -> Result<SkbLayout> {
    let btf = Btf::parse(bytes)?;
    let named = |name| btf.structure(name).with_context(|| format!("it has no struct {name}"));
    let (skb, shared_info) = (named("sk_buff")?, named("skb_shared_info")?);
    let (ip_summed, ip_summed_mask, shift) = bit_field(&btf, skb, "ip_summed")?;
    let half = |name| whole(&btf, skb, name, 16);
    let (csum_start, csum_offset, mac_header) =
        (half("csum_start")?, half("csum_offset")?, half("mac_header")?);
    let halves = [csum_start, csum_offset, mac_header];
    if halves.iter().any(|at| at % 2 != 0) {
        bail!("fields of sk_buff are at odd offsets: {halves:?}");
    }
    let span = halves.iter().fold(ip_summed, |first, &at| first.min(at)) & !7;
    let end = halves.iter().fold(ip_summed + 1, |end, at| end.max(at + 2));
    let span_len = end - span;
    if span_len as usize > SPAN_MAX {
        bail!("the fields for checksums are {span_len} bytes apart in sk_buff");
    }
    Ok(SkbLayout {
        is_known: 1,
        span,
        span_len,
        ip_summed: ip_summed - span,
        ip_summed_mask,
        ip_summed_partial: CHECKSUM_PARTIAL << shift,
        csum_start: csum_start - span,
        csum_offset: csum_offset - span,
        mac_header: mac_header - span,
        head: whole(&btf, skb, "head", 64)?,
        // An offset from `head`, as on all machines of 64 bits.
        end: whole(&btf, skb, "end", 32)?,
        gso_type: whole(&btf, shared_info, "gso_type", 32)?,
        gso: gso_bits(&btf),
    })
}

/// The kernel's own, and the usual ones in place of those that it does not tell.
fn gso_bits(btf: &Btf<'_>) -> GsoBits {
    let usual = GsoBits::USUAL;
    let any = |names: &[&str], usual| {
        let bits = names.iter().filter_map(|name| btf.constant(name)).fold(0, |bits, bit| bits | bit);
        if bits == 0 { usual } else { bits }
    };
    let fixed_id = any(&["SKB_GSO_TCP_FIXEDID"], usual.fixed_id);
    GsoBits {
        tcp: any(&["SKB_GSO_TCPV4", "SKB_GSO_TCPV6"], usual.tcp),
        udp: any(&["SKB_GSO_UDP_L4"], usual.udp),
        fragments: any(&["SKB_GSO_UDP"], usual.fragments),
        fixed_id,
        fixed_inner_id: any(&["SKB_GSO_TCP_FIXEDID_INNER"], fixed_id),
        tunnel: any(
            &[
                "SKB_GSO_GRE",
                "SKB_GSO_GRE_CSUM",
                "SKB_GSO_IPXIP4",
                "SKB_GSO_IPXIP6",
                "SKB_GSO_UDP_TUNNEL",
                "SKB_GSO_UDP_TUNNEL_CSUM",
            ],
            usual.tunnel,
        ),
    }
}

fn field(btf: &Btf<'_>, structure: Struct, name: &str) -> Result<Field> {
    btf.field(structure, name).with_context(|| format!("it has no field {name}"))
}

/// Byte, mask and shift of a bit field of two bits.
fn bit_field(btf: &Btf<'_>, structure: Struct, name: &str) -> Result<(u32, u32, u32)> {
    let Field { offset, bits } = field(btf, structure, name)?;
    let in_byte = offset % 8;
    if bits != 2 || in_byte + bits > 8 || offset / 8 > OFFSET_MAX {
        bail!("{name} has {bits} bits at bit {offset}");
    }
    // On big-endian machines, bits are counted from the highest one.
    let shift = if cfg!(target_endian = "big") { 8 - bits - in_byte } else { in_byte };
    Ok((offset / 8, 0b11 << shift, shift))
}

/// The offset of a field of this size.
pub(super) fn whole(btf: &Btf<'_>, structure: Struct, name: &str, expected: u32) -> Result<u32> {
    let Field { offset, bits } = field(btf, structure, name)?;
    if bits != expected || offset % 8 != 0 || offset / 8 > OFFSET_MAX {
        bail!("{name} has {bits} bits at bit {offset}");
    }
    Ok(offset / 8)
}

/// More than the structs have bytes.
const OFFSET_MAX: u32 = 4096;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_tells() {
        let Ok(bytes) = fs::read(KERNEL_BTF) else {
            eprintln!("skipped: this kernel has no {KERNEL_BTF}");
            return;
        };
        let layout = layout(&bytes).unwrap();
        assert_eq!(layout.is_known, 1);
        assert_eq!(layout.ip_summed_mask & layout.ip_summed_partial, layout.ip_summed_partial);
        assert_eq!(layout.csum_offset, layout.csum_start + 2, "{layout:?}");
        // `head` is near the end of a struct of some 230 bytes, and aligned.
        assert!(
            layout.head.is_multiple_of(8) && layout.head > layout.span && layout.head < 512,
            "{layout:?}"
        );
        assert_eq!(layout.end + 4, layout.head, "{layout:?}");
        let GsoBits { tcp, udp, fragments, fixed_id, fixed_inner_id, tunnel } = layout.gso;
        let usual = GsoBits::USUAL;
        assert_eq!((tcp, udp, fragments, tunnel), (usual.tcp, usual.udp, usual.fragments, usual.tunnel));
        assert!(fixed_id.is_power_of_two() && fixed_inner_id.is_power_of_two(), "{layout:?}");
    }

    #[test]
    fn what_is_no_btf_is_refused() {
        let error = layout(b"no types at all").unwrap_err();
        assert!(error.to_string().contains("no BTF"), "{error:#}");
    }
}
