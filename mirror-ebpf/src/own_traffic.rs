//! The guard against echo.

use mirror_common::{
    flow::Flow,
    ip::{ICMP, Packet},
    own::{MARK, Path},
};

use crate::{
    maps::{OWN_PATHS, settings},
    skb::Skb,
};

/// Whether a frame carries a datagram of the agent's, or an ICMP error that quotes one: mirroring such
/// errors would answer a sensor that refuses with yet more datagrams for it to refuse.
#[inline(always)]
pub fn is_own(skb: Skb, flow: &Flow) -> bool {
    if skb.mark() == MARK {
        return true;
    }
    let Flow::Ip(packet) = flow else {
        return false;
    };
    if leads_to_sensor(packet) {
        return true;
    }
    match packet.quote(&skb) {
        None => false,
        Some(at) => quote_leads_to_sensor(skb, at, packet.protocol == ICMP) != 0,
    }
}

/// A function of its own in the kernel too, because a second packet does not fit on one stack frame.
#[inline(never)]
fn quote_leads_to_sensor(skb: Skb, at: u32, is_v4: bool) -> u64 {
    let quoted = if is_v4 { Packet::v4(&skb, at) } else { Packet::v6(&skb, at) };
    u64::from(quoted.is_some_and(|quoted| leads_to_sensor(&quoted)))
}

#[inline(always)]
fn leads_to_sensor(packet: &Packet) -> bool {
    let Some(path) = Path::of(packet, settings().sensor_port as u16) else {
        return false;
    };
    // SAFETY: user space only adds paths, so the value is not recycled while it is read.
    unsafe { OWN_PATHS.get(&path.number()) }.is_some_and(|known| *known == path)
}
