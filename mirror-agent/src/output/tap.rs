//! Sees one of the agent's own datagrams as it leaves: with what outer header, through which interface.

use std::{
    io, mem,
    net::SocketAddr,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Instant,
};

use mirror_common::own;

use super::{packet_socket, sockopt};
use crate::encap::outer::Version;

/// A packet socket that gets what this host sends from one UDP port, and nothing else. It makes the host
/// slower as long as it is open, because each packet is run through its filter.
#[derive(Debug)]
pub(super) struct Tap(OwnedFd);

/// What the kernel says of a packet besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// The interface that it left through.
    pub(crate) ifindex: u32,
    /// That interface's type: ARPHRD_ETHER and others of linux/if_arp.h.
    pub(crate) hardware: u16,
    /// Whether a VLAN tag stands beside the bytes rather than in them.
    pub(crate) is_tagged: bool,
}

impl Tap {
    /// Listens for datagrams to `sensor` from `source_port`.
    pub(super) fn open(sensor: SocketAddr, source_port: u16, is_marked: bool) -> io::Result<Self> {
        let socket = sockopt::open(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, 0)?;
        let mut program = filter(Version::of(sensor.ip()), source_port, is_marked);
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // The kernel copies the program within the call.
        sockopt::set(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
        sockopt::set(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, &1_i32)?;
        // Only now is anything received, so that nothing comes past the filter.
        packet_socket::bind(&socket, 0, libc::ETH_P_ALL as u16)?;
        Ok(Self(socket))
    }

    /// The next packet, in `buffer`: the length of what is there. Waits until `deadline`; `None` is that
    /// none came.
    pub(super) fn next(&self, buffer: &mut [u8], deadline: Instant) -> io::Result<Option<(usize, Metadata)>> {
        loop {
            match self.receive(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => return result.map(Some),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            let wait = libc::timespec { tv_sec: 0, tv_nsec: left.as_nanos().min(999_999_999) as _ };
            // SAFETY: one pollfd, and a time, both alive during the call; no signal mask.
            unsafe { libc::ppoll(&raw mut poll, 1, &raw const wait, std::ptr::null()) };
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Metadata)> {
        // SAFETY: all-zero is a valid sockaddr_ll: integers.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        let mut control = [0_u64; 16];
        let mut iovec = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: all-zero is a valid msghdr: null pointers and zero lengths.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_name = (&raw mut address).cast();
        message.msg_namelen = mem::size_of_val(&address) as libc::socklen_t;
        message.msg_iov = &raw mut iovec;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = mem::size_of_val(&control) as _;
        // SAFETY: the pointers in `message` are to locals and to `buffer`, with their lengths.
        let length = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, 0) };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        let mut is_tagged = false;
        // SAFETY: the kernel filled the control buffer of `message`; the macros stay within its length.
        let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        while !header.is_null() {
            // SAFETY: not null, so a whole header in the control buffer, which is aligned to 8.
            let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
            if (level, kind) == (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
                // SAFETY: a control message of this type holds a tpacket_auxdata (packet(7)).
                let auxiliary: libc::tpacket_auxdata =
                    unsafe { std::ptr::read_unaligned(libc::CMSG_DATA(header).cast()) };
                is_tagged |= auxiliary.tp_status & libc::TP_STATUS_VLAN_VALID != 0;
            }
            // SAFETY: as for the first header.
            header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
        }
        let metadata = Metadata {
            ifindex: address.sll_ifindex.cast_unsigned(),
            hardware: address.sll_hatype,
            is_tagged,
        };
        Ok((length, metadata))
    }
}

/// Classic BPF: lets through what is on its way out, has the agent's mark where it sets one, and whose
/// UDP source port is `port` where the IP header has no options or extensions.
fn filter(version: Version, port: u16, is_marked: bool) -> Vec<libc::sock_filter> {
    const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
    const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let line = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let special = |offset: i32| (libc::SKF_AD_OFF + offset).cast_unsigned();
    let udp = (libc::SKF_NET_OFF + version.header_len() as i32).cast_unsigned();
    let mut program = Vec::new();
    // Each test skips the line that refuses.
    let unless = |k: u32| {
        let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        [libc::sock_filter { code: equal as u16, jt: 1, jf: 0, k }, line(RETURN, 0)]
    };
    program.push(line(LOAD_WORD, special(libc::SKF_AD_PKTTYPE)));
    program.extend(unless(u32::from(libc::PACKET_OUTGOING)));
    if is_marked {
        program.push(line(LOAD_WORD, special(libc::SKF_AD_MARK)));
        program.push(line(AND, own::MARK_MASK));
        program.extend(unless(own::MARK));
    }
    program.push(line(LOAD_HALF, udp));
    program.extend(unless(u32::from(port)));
    program.push(line(RETURN, u32::MAX));
    program
}
