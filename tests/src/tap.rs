//! Counts frames on an interface without reading them: exact at any load.

use crate::{agent::sensor_port, host::Host, packet_socket::PacketSocket};

/// A counter, from when it is made.
#[derive(Debug)]
pub struct Tap(PacketSocket);

impl Tap {
    /// Counts every frame, in and out.
    ///
    /// # Panics
    /// Where there is no such interface.
    #[must_use]
    pub fn everything(host: &Host, iface: &str) -> Self {
        let iface = iface.to_owned();
        Self(host.within(move || PacketSocket::receiver(&iface)))
    }

    /// Counts outgoing VXLAN datagrams (IPv4 without options, UDP to port 4789) where they pass the
    /// interface's egress hooks. What a socket sends with `PACKET_QDISC_BYPASS` passes neither the hooks
    /// nor this tap (net/core/dev.c, `__dev_direct_xmit`), and both get what goes the usual way.
    ///
    /// # Panics
    /// Where there is no such interface.
    #[must_use]
    pub fn outgoing_vxlan(host: &Host, iface: &str) -> Self {
        let iface = iface.to_owned();
        Self(host.within(move || PacketSocket::receiver(&iface).filtered(&vxlan(OUTGOING))))
    }

    /// Counts VXLAN datagrams that come in, addressed to this host.
    ///
    /// # Panics
    /// Where there is no such interface.
    #[must_use]
    pub fn incoming_vxlan(host: &Host, iface: &str) -> Self {
        let iface = iface.to_owned();
        Self(host.within(move || PacketSocket::receiver(&iface).filtered(&vxlan(TO_THIS_HOST))))
    }

    /// Counts VXLAN datagrams that come in for another MAC address than the interface's.
    ///
    /// # Panics
    /// Where there is no such interface.
    #[must_use]
    pub fn misdirected_vxlan(host: &Host, iface: &str) -> Self {
        let iface = iface.to_owned();
        Self(host.within(move || PacketSocket::receiver(&iface).filtered(&vxlan(TO_ANOTHER_HOST))))
    }

    /// Counts IPv4 packets that an interface with this MTU could not have sent in one piece: longer ones, and
    /// fragments.
    ///
    /// # Panics
    /// Where there is no such interface.
    #[must_use]
    pub fn unfit(host: &Host, iface: &str, mtu: u32) -> Self {
        let iface = iface.to_owned();
        Self(host.within(move || PacketSocket::receiver(&iface).filtered(&unfit(mtu))))
    }

    /// How many there were since this was last asked.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.counted()
    }
}

/// linux/if_packet.h, packet types.
const TO_THIS_HOST: u32 = 0;
const TO_ANOTHER_HOST: u32 = 3;
const OUTGOING: u32 = 4;

/// `ether proto 0x0800 and ip[9] == 17 and ip[22:2] == 4789`, for headers without options, and a packet
/// type.
fn vxlan(packet_type: u32) -> [libc::sock_filter; 10] {
    // linux/filter.h: the packet's type is an ancillary field.
    const PACKET_TYPE: u32 = (-0x1000i32 + 4) as u32;
    let load = |size: u32, at: u32| op(libc::BPF_LD | size | libc::BPF_ABS, at, 0, 0);
    let equal =
        |value: u32, otherwise: u8| op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, 0, otherwise);
    [
        load(libc::BPF_W, PACKET_TYPE),
        equal(packet_type, 7),
        load(libc::BPF_H, 12),
        equal(0x0800, 5),
        load(libc::BPF_B, 14 + 9),
        equal(17, 3),
        load(libc::BPF_H, 14 + 22),
        equal(u32::from(sensor_port()), 1),
        op(libc::BPF_RET | libc::BPF_K, u32::MAX, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

/// `ether proto 0x0800 and (ip[2:2] > mtu or ip[6:2] & 0x3fff != 0)`.
fn unfit(mtu: u32) -> [libc::sock_filter; 8] {
    let load = |at: u32| op(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, at, 0, 0);
    [
        load(12),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0x0800, 0, 5),
        load(14 + 2),
        op(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, mtu, 2, 0),
        load(14 + 6),
        op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0x3fff, 0, 1),
        op(libc::BPF_RET | libc::BPF_K, u32::MAX, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

fn op(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lab::Lab, lock, vxlan};

    #[test]
    fn only_vxlan_that_leaves_is_counted() {
        let _turn = lock::shared();
        let lab = Lab::new();
        let (out, into) =
            (Tap::outgoing_vxlan(&lab.router, "eth1"), Tap::outgoing_vxlan(&lab.sensor, "eth0"));
        let incoming = Tap::incoming_vxlan(&lab.sensor, "eth0");
        let datagrams = (0..7).map(|port| (50_000 + port, vec![8; 100])).collect();
        vxlan::send(&lab.router, "10.20.0.2:4789", datagrams);
        vxlan::send(&lab.router, "10.20.0.2:4790", vec![(50_000, vec![8; 100])]);
        assert_eq!(out.count(), 7);
        assert_eq!(into.count(), 0, "they come in there");
        assert_eq!(incoming.count(), 7);
        assert_eq!(out.count(), 0, "asked again");
    }

    #[test]
    fn packets_that_are_too_long_or_in_pieces_are_counted() {
        let _turn = lock::shared();
        let lab = Lab::new();
        let unfit = Tap::unfit(&lab.sensor, "eth0", 1000);
        let send = |bytes: usize| vxlan::send(&lab.router, "10.20.0.2:4789", vec![(50_000, vec![8; bytes])]);
        send(1000 - 28);
        assert_eq!(unfit.count(), 0);
        send(1001 - 28);
        assert_eq!(unfit.count(), 1, "a byte too long");
        lab.router.mtu("eth1", 600);
        send(1000 - 28);
        assert_eq!(unfit.count(), 2, "two fragments");
    }
}
