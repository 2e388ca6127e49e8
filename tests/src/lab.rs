//! The usual set-up: client - router - sensor, the agent on the router.
//!
//! ```text
//!  client eth0 ---- eth0 router eth1 ---- eth0 sensor
//!  10.10.0.2     10.10.0.1   10.20.0.1    10.20.0.2
//! ```
//!
//! The sensor's link takes datagrams of 2000 bytes, so that every frame of an ordinary interface fits into
//! one.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::{
    host::Host,
    link::{veth, veth_with_index},
};

/// The interface that is mirrored.
pub const MIRRORED: &str = "eth0";
/// The router's interface towards the sensor.
pub const UPLINK: &str = "eth1";
/// The client's address.
pub const CLIENT: &str = "10.10.0.2";
/// The router's address on the client's side.
pub const ROUTER: &str = "10.10.0.1";
/// The router's address on the sensor's side: the source of every datagram.
pub const ROUTER_UPLINK: &str = "10.20.0.1";
/// The sensor's address.
pub const SENSOR: &str = "10.20.0.2";
/// The UDP port that IANA assigned to VXLAN.
pub const VXLAN_PORT: u16 = 4789;
/// The network identifier that the agent uses when nothing is said.
pub const DEFAULT_VNI: u32 = 4242;
/// The agent's usual arguments on the router.
pub const RUN: &str = "--iface eth0 --dest 10.20.0.2 --report json";

/// The three hosts.
#[derive(Debug)]
pub struct Lab {
    pub client: Host,
    pub router: Host,
    pub sensor: Host,
    /// The index of the router's mirrored interface; no other interface on the machine has it.
    pub mirrored_index: u32,
}

impl Lab {
    /// IPv4 only: nothing crosses the mirrored interface that the test did not cause.
    ///
    /// # Panics
    /// Where a host or a link cannot be made.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Host::new)
    }

    /// IPv6 too: client `fd10::2`, router `fd10::1` and `fd20::1`, sensor `fd20::2`.
    ///
    /// # Panics
    /// Where a host or a link cannot be made.
    #[must_use]
    pub fn with_ipv6() -> Self {
        let lab = Self::with(Host::with_ipv6);
        lab.client.address("eth0", "fd10::2/64");
        lab.router.address(MIRRORED, "fd10::1/64");
        lab.router.address(UPLINK, "fd20::1/64");
        lab.sensor.address("eth0", "fd20::2/64");
        lab.router.set_sysctl("net/ipv6/conf/all/forwarding", "1");
        lab.client.ip("-6 route add default via fd10::1");
        lab.sensor.ip("-6 route add default via fd20::1");
        lab
    }

    /// Switches offloads off on both links, so that everything forwarded crosses the mirrored interface in
    /// frames as on a real wire. (What the router's own TCP sends still passes its egress hook in one piece
    /// and without checksums: the kernel cuts it after the hook, net/core/dev.c, `validate_xmit_skb`.)
    ///
    /// # Panics
    /// Where ethtool fails.
    pub fn offloads_off(&self) {
        self.client.offloads_off("eth0");
        self.router.offloads_off(MIRRORED);
        self.router.offloads_off(UPLINK);
        self.sensor.offloads_off("eth0");
    }

    fn with(host: impl Fn(&str) -> Host) -> Self {
        let (client, router, sensor) = (host("client"), host("router"), host("sensor"));
        let mirrored_index = unique_index();
        veth_with_index(&router, MIRRORED, mirrored_index, &client, "eth0");
        veth(&router, UPLINK, &sensor, "eth0");
        client.mac("eth0", "02:00:00:00:10:02");
        router.mac(MIRRORED, "02:00:00:00:10:01");
        router.mac(UPLINK, "02:00:00:00:20:01");
        sensor.mac("eth0", "02:00:00:00:20:02");
        router.mtu(UPLINK, 2000);
        sensor.mtu("eth0", 2000);
        client.address("eth0", "10.10.0.2/24");
        router.address(MIRRORED, "10.10.0.1/24");
        router.address(UPLINK, "10.20.0.1/24");
        sensor.address("eth0", "10.20.0.2/24");
        router.set_sysctl("net/ipv4/ip_forward", "1");
        client.ip("route add default via 10.10.0.1");
        sensor.ip("route add default via 10.20.0.1");
        Self { client, router, sensor, mirrored_index }
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

/// An interface index that no other interface on this machine has, over all namespaces: every namespace
/// counts from 1, so the usual ones are taken in each.
#[must_use]
pub fn unique_index() -> u32 {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed) % 256;
    // Process ids go up to 2^22 at most, interface indices to 2^31 - 1.
    0x4000_0000 | (std::process::id() & 0x3f_ffff) << 8 | number
}
