//! Two namespaces with a link, whose sending end leaves nothing to a card, and packet sockets on both ends that
//! tell and are told how frames are to be cut (`PACKET_VNET_HDR` of packet(7)).
#![allow(dead_code, reason = "not every test uses everything")]

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use mirror_common::record::{ChecksumPlace, RecordHeader, Segmentation};

use crate::super_frames::CWR;

/// `struct virtio_net_hdr` of linux/virtio_net.h, in host order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct VnetHeader {
    /// 1: a checksum is missing.
    pub flags: u8,
    /// 1 TCP over IPv4, 3 UFO, 4 TCP over IPv6, 5 UDP; with 0x80: CWR is set.
    pub gso_type: u8,
    pub hdr_len: u16,
    pub gso_size: u16,
    pub csum_start: u16,
    pub csum_offset: u16,
}

impl VnetHeader {
    /// What the kernel is told of a frame.
    pub fn of(header: &RecordHeader, bytes: &[u8], version: u8) -> Self {
        let place = ChecksumPlace::unpacked(header.checksum).unwrap();
        let kind = match Segmentation::from_number(header.segmentation).unwrap() {
            Segmentation::None => 0,
            Segmentation::Tcp | Segmentation::TcpFixedId => {
                if version == 4 {
                    1
                } else {
                    4
                }
            }
            Segmentation::Fragments => 3,
            Segmentation::Udp => 5,
        };
        let is_tcp = matches!(kind, 1 | 4);
        let ecn = if is_tcp && bytes[usize::from(place.start) + 13] & CWR != 0 { 0x80 } else { 0 };
        let head_len =
            place.start + if is_tcp { u16::from(bytes[usize::from(place.start) + 12] >> 4) * 4 } else { 8 };
        Self {
            flags: 1,
            gso_type: kind | ecn,
            hdr_len: if kind == 0 { 0 } else { head_len },
            gso_size: header.gso_size,
            csum_start: place.start,
            csum_offset: place.field,
        }
    }
}

const VNET_LEN: usize = size_of::<VnetHeader>();

/// Removed when dropped.
pub struct Link {
    hosts: Hosts,
    sender: OwnedFd,
    receiver: OwnedFd,
}

fn run(line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn within<T: Send + 'static>(host: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let file = File::open(format!("/run/netns/{host}")).unwrap();
    let thread = thread::spawn(move || {
        // SAFETY: `file` is open, and the call touches no memory.
        let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "cannot enter a network namespace");
        work()
    });
    thread.join().unwrap()
}

fn set(socket: &OwnedFd, level: i32, name: i32, value: i32) {
    // SAFETY: the options used here take an int.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), 4) };
    assert_eq!(result, 0, "option {name}: {}", io::Error::last_os_error());
}

/// A packet socket on `iface`. A receiver gets what arrives; `with_header`: behind a [`VnetHeader`].
fn open(host: &str, iface: &'static str, receives: bool, with_header: bool) -> OwnedFd {
    within(host, move || {
        let protocol = if receives { (libc::ETH_P_ALL as u16).to_be() } else { 0 };
        // SAFETY: socket touches no memory.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
        // SAFETY: `fd` was just opened, and nobody else has it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        if with_header {
            set(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1);
        }
        set(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1);
        set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20);
        set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 4 << 20);
        let name = std::ffi::CString::new(iface).unwrap();
        // SAFETY: all fields of sockaddr_ll are integers, for which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        // SAFETY: `name` ends with a zero byte.
        address.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) } as i32;
        let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: `address` is a sockaddr_ll of the size that is said.
        let result = unsafe { libc::bind(fd, (&raw const address).cast(), size) };
        assert_eq!(result, 0, "cannot bind to {iface}: {}", io::Error::last_os_error());
        socket
    })
}

fn send(socket: &OwnedFd, header: &VnetHeader, bytes: &[u8]) {
    try_send(socket, header, bytes).unwrap_or_else(|error| panic!("{header:?}: {error}"));
}

fn try_send(socket: &OwnedFd, header: &VnetHeader, bytes: &[u8]) -> io::Result<()> {
    let iov = [
        libc::iovec { iov_base: (&raw const *header).cast_mut().cast(), iov_len: VNET_LEN },
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() },
    ];
    // SAFETY: both parts are readable for the length that is said.
    let sent = unsafe { libc::writev(socket.as_raw_fd(), iov.as_ptr(), 2) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    assert_eq!(sent, (VNET_LEN + bytes.len()) as isize, "{header:?}");
    Ok(())
}

/// The next packet, its VLAN tag put back, or `None` where none comes for `patience`.
fn receive(socket: &OwnedFd, patience: Duration) -> Option<Vec<u8>> {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: `poll` is one pollfd.
    if unsafe { libc::poll(&raw mut poll, 1, patience.as_millis() as i32) } != 1 {
        return None;
    }
    let mut buffer = vec![0; 70_000];
    let mut control = [0_u64; 16];
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: integers and pointers only, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut iov, 1);
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: `message` points to memory that is writable for the lengths that it says.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    buffer.truncate(usize::try_from(length).unwrap());
    // SAFETY: the kernel filled in the control messages, and nobody changed them.
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() }.unwrap();
    assert_eq!((first.cmsg_level, first.cmsg_type), (libc::SOL_PACKET, libc::PACKET_AUXDATA));
    // SAFETY: that kind of message carries this struct.
    let data: libc::tpacket_auxdata =
        unsafe { libc::CMSG_DATA(first).cast::<libc::tpacket_auxdata>().read_unaligned() };
    if data.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
        let tag = [data.tp_vlan_tpid.to_be_bytes(), data.tp_vlan_tci.to_be_bytes()].concat();
        buffer.splice(12..12, tag);
    }
    Some(buffer)
}

fn is_ours(frame: &[u8]) -> bool {
    frame.starts_with(&crate::super_frames::DESTINATION)
}

impl Link {
    /// `None` where this is not root.
    pub fn new() -> Option<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        // SAFETY: the call has no preconditions.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("skipped: network namespaces need root");
            return None;
        }
        let name =
            |role| format!("mt-{}-ks{}-{role}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let hosts = Hosts(name("near"), name("far"));
        let (near, far) = (&hosts.0, &hosts.1);
        for host in [near, far] {
            run(&format!("ip netns add {host}"));
            for key in ["accept_dad=0", "dad_transmits=0", "router_solicitations=0"] {
                run(&format!("ip netns exec {host} sysctl -qw net.ipv6.conf.default.{key}"));
            }
        }
        run(&format!("ip link add eth0 netns {near} type veth peer name eth0 netns {far}"));
        for (host, number) in [(near, 1), (far, 2)] {
            run(&format!("ip -n {host} address add 10.77.0.{number}/24 dev eth0"));
            run(&format!("ip -n {host} address add fd77::{number}/64 dev eth0"));
            run(&format!("ip -n {host} link set eth0 mtu 1600 up"));
        }
        let started = Instant::now();
        while !String::from_utf8_lossy(
            &Command::new("ip").args(["-n", near, "-o", "link", "show", "eth0"]).output().unwrap().stdout,
        )
        .contains("state UP")
        {
            assert!(started.elapsed() < Duration::from_secs(10), "the link does not come up");
            thread::sleep(Duration::from_millis(10));
        }
        thread::sleep(Duration::from_millis(50));
        let sender = open(near, "eth0", false, true);
        let receiver = open(far, "eth0", true, false);
        let link = Self { hosts, sender, receiver };
        link.offloads("off");
        Some(link)
    }

    /// The namespace of the sending end.
    pub fn near(&self) -> &str {
        &self.hosts.0
    }

    /// The namespace of the receiving end.
    pub fn far(&self) -> &str {
        &self.hosts.1
    }

    /// Whether the sending end says that it cuts and completes itself.
    pub fn offloads(&self, state: &str) {
        let features = [
            "tx",
            "sg",
            "tso",
            "gso",
            "tx-udp-segmentation",
            "tx-udp_tnl-segmentation",
            "tx-udp_tnl-csum-segmentation",
        ];
        let line: Vec<String> = features.iter().map(|feature| format!("{feature} {state}")).collect();
        run(&format!("ip netns exec {} ethtool -K eth0 {}", self.hosts.0, line.join(" ")));
    }

    pub fn send(&self, header: &VnetHeader, bytes: &[u8]) {
        send(&self.sender, header, bytes);
    }

    /// Sends, and says whether this kernel knows that kind of super-frame: UDP's are taken since Linux 6.2.
    pub fn takes(&self, header: &VnetHeader, bytes: &[u8]) -> bool {
        match try_send(&self.sender, header, bytes) {
            Ok(()) => true,
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && header.gso_type == 5 => {
                eprintln!("skipped: this kernel does not take {header:?}");
                false
            }
            Err(error) => panic!("{header:?}: {error}"),
        }
    }

    pub fn receive(&self) -> Option<Vec<u8>> {
        loop {
            let frame = receive(&self.receiver, Duration::from_secs(2))?;
            if is_ours(&frame) {
                return Some(frame);
            }
        }
    }

    pub fn assert_silent(&self, name: &str) {
        while let Some(frame) = receive(&self.receiver, Duration::ZERO) {
            assert!(!is_ours(&frame), "{name}: the kernel made more: {} bytes", frame.len());
        }
    }

    /// A VXLAN device on the sending end.
    pub fn vxlan(&self, checksum: &str, remote: &str, local: &str) -> Vxlan<'_> {
        let near = &self.hosts.0;
        run(&format!(
            "ip -n {near} link add vx0 type vxlan id 9 remote {remote} local {local} dstport 4789 dev eth0 {checksum}"
        ));
        run(&format!("ip -n {near} link set vx0 up"));
        let far = String::from_utf8_lossy(
            &Command::new("ip")
                .args(["netns", "exec", &self.hosts.1, "cat", "/sys/class/net/eth0/address"])
                .output()
                .unwrap()
                .stdout,
        )
        .trim()
        .to_owned();
        run(&format!("ip -n {near} neighbour replace {remote} lladdr {far} dev eth0"));
        let sender = open(near, "vx0", false, true);
        let receiver = open(&self.hosts.1, "eth0", true, true);
        Vxlan { link: self, sender, receiver }
    }
}

/// Removed when dropped.
pub struct Vxlan<'a> {
    link: &'a Link,
    sender: OwnedFd,
    receiver: OwnedFd,
}

impl Vxlan<'_> {
    pub fn send(&self, header: &VnetHeader, bytes: &[u8]) {
        send(&self.sender, header, bytes);
    }

    /// The next frame that carries one of ours, and what the kernel tells of it.
    pub fn receive_whole(&self) -> Option<(VnetHeader, Vec<u8>)> {
        loop {
            let packet = receive(&self.receiver, Duration::from_millis(500))?;
            let (header, frame) = packet.split_at(VNET_LEN);
            let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
            let header = VnetHeader {
                flags: header[0],
                gso_type: header[1],
                hdr_len: half(2),
                gso_size: half(4),
                csum_start: half(6),
                csum_offset: half(8),
            };
            let at = if frame.get(12..14)? == [8, 0] { 14 + 20 } else { 14 + 40 } + 16;
            if frame.get(at..).is_some_and(is_ours) {
                return Some((header, frame.to_vec()));
            }
        }
    }
}

impl Drop for Vxlan<'_> {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["-n", &self.link.hosts.0, "link", "del", "vx0"]).output();
    }
}

/// Names of namespaces, which are removed when dropped.
struct Hosts(String, String);

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in [&self.0, &self.1] {
            let _ = Command::new("ip").args(["netns", "del", host]).output();
        }
    }
}
