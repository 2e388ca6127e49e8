//! Links between hosts: veth pairs, with settled MACs, addresses and offloads.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::host::Host;

/// Connects two hosts. Both ends are up, with no address.
///
/// # Panics
/// Where the pair cannot be made.
pub fn veth(a: &Host, a_iface: &str, b: &Host, b_iface: &str) {
    a.ip(&format!("link add {a_iface} type veth peer name {b_iface} netns {}", b.name()));
    a.ip(&format!("link set {a_iface} up"));
    b.ip(&format!("link set {b_iface} up"));
}

/// As [`veth`], where `a`'s end gets the interface index `index`: one that no other host on the machine
/// has, so that it can be found in machine-wide lists (`bpftool link`).
///
/// # Panics
/// Where the pair cannot be made.
pub fn veth_with_index(a: &Host, a_iface: &str, index: u32, b: &Host, b_iface: &str) {
    a.ip(&format!("link add {a_iface} index {index} type veth peer name {b_iface} netns {}", b.name()));
    a.ip(&format!("link set {a_iface} up"));
    b.ip(&format!("link set {b_iface} up"));
}

impl Host {
    /// Adds an address with its prefix length. IPv6 without duplicate-address detection.
    ///
    /// # Panics
    /// Where the kernel refuses it.
    pub fn address(&self, iface: &str, address: &str) {
        let no_dad = if address.contains(':') { "nodad" } else { "" };
        self.ip(&format!("address add {address} dev {iface} {no_dad}"));
    }

    /// Sets an interface's MAC.
    ///
    /// # Panics
    /// Where the kernel refuses it.
    pub fn mac(&self, iface: &str, mac: &str) {
        self.ip(&format!("link set {iface} address {mac}"));
    }

    /// Sets an interface's MTU.
    ///
    /// # Panics
    /// Where the kernel refuses it.
    pub fn mtu(&self, iface: &str, mtu: u32) {
        self.ip(&format!("link set {iface} mtu {mtu}"));
    }

    /// Switches segmentation, GRO and checksum offloads off: every frame is then as on a real wire.
    ///
    /// # Panics
    /// Where ethtool fails.
    pub fn offloads_off(&self, iface: &str) {
        self.run(&format!(
            "ethtool -K {iface} tso off gso off gro off tx off rx off tx-udp-segmentation off"
        ));
    }

    /// Has each connection that comes in at `iface` handled by one processor (receive packet steering, the
    /// kernel's Documentation/networking/scaling.rst), as a card with several queues does. Without it, a
    /// sender that moves from one processor to another overtakes itself on a veth.
    ///
    /// # Panics
    /// Where the kernel has no packet steering.
    pub fn steer_connections(&self, iface: &str) {
        let processors = std::thread::available_parallelism().expect("processors").get().min(16);
        self.steer(iface, (1u32 << processors) - 1);
    }

    /// Has everything that comes in at `iface` handled by one processor, by the same means: as a card with one
    /// queue does.
    ///
    /// # Panics
    /// Where the kernel has no packet steering, or there is no such processor.
    pub fn steer_to(&self, iface: &str, processor: u32) {
        self.steer(iface, 1 << processor);
    }

    fn steer(&self, iface: &str, mask: u32) {
        let setting = format!("echo {mask:x} > /sys/class/net/{iface}/queues/rx-0/rps_cpus");
        crate::command::run(self.command("sh").args(["-c", &setting]));
    }

    /// Waits until a program listens on a TCP port, without connecting to it.
    ///
    /// # Panics
    /// Where none does in ten seconds.
    pub fn wait_for_listener(&self, port: u16) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.run(&format!("ss -Hltn sport = :{port}")).is_empty() {
            assert!(Instant::now() < deadline, "nobody listens on port {port}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}
