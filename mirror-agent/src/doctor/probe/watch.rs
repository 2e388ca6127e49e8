//! Sees a probe frame wherever it passes an interface of this host, bare or at the end of a datagram.

use std::{
    io, mem,
    os::fd::{AsRawFd as _, OwnedFd},
};

use super::frame::TAIL;
use crate::output::{packet_socket, sockopt};

/// A packet socket on all interfaces that gets what ends with the probe's last bytes. It makes the host slower as long as
/// it is open, because each packet is run through its filter.
#[derive(Debug)]
pub struct Watch(OwnedFd);

/// A packet that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Number of the interface.
    pub ifindex: u32,
    /// Whether it was on its way out.
    pub is_outgoing: bool,
    /// Its bytes; from the network header on where the interface has no Ethernet header.
    pub bytes: Vec<u8>,
}

impl Watch {
    /// Starts to look for what ends with `tail`.
    ///
    /// # Errors
    ///
    /// No right to: it takes `CAP_NET_RAW`.
    pub fn open(tail: [u8; TAIL]) -> io::Result<Self> {
        let socket = sockopt::open(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, 0)?;
        let mut program = filter(tail);
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // The kernel copies the program within the call.
        sockopt::set(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
        // Only now is anything received, so that nothing comes past the filter.
        packet_socket::bind(&socket, 0, libc::ETH_P_ALL as u16)?;
        Ok(Self(socket))
    }

    /// What was seen since the last call.
    ///
    /// # Errors
    ///
    /// What `recvfrom` says, such as that an interface went down.
    pub fn look(&self) -> io::Result<Vec<Seen>> {
        let mut all = Vec::new();
        loop {
            match self.receive() {
                Ok(seen) => all.push(seen),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(all),
                // Of an interface that went down: what others show still counts.
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn receive(&self) -> io::Result<Seen> {
        let mut buffer = [0; 2048];
        // SAFETY: all-zero is a valid sockaddr_ll: integers.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        let mut length = mem::size_of_val(&address) as libc::socklen_t;
        // SAFETY: the pointers are to locals, with their lengths.
        let received = unsafe {
            libc::recvfrom(
                self.0.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
                (&raw mut address).cast(),
                &raw mut length,
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        Ok(Seen {
            ifindex: address.sll_ifindex.cast_unsigned(),
            is_outgoing: address.sll_pkttype == libc::PACKET_OUTGOING,
            bytes: buffer[..received].to_vec(),
        })
    }
}

/// Classic BPF: lets through what ends with `tail`.
fn filter(tail: [u8; TAIL]) -> Vec<libc::sock_filter> {
    const WORD: usize = size_of::<u32>();
    let line = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut program = vec![
        line(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0),
        line(libc::BPF_ALU | libc::BPF_SUB | libc::BPF_K, TAIL as u32),
        line(libc::BPF_MISC | libc::BPF_TAX, 0),
    ];
    for (index, word) in tail.chunks_exact(WORD).enumerate() {
        let word = word.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
        // What is shorter has nothing there, and is refused by the kernel.
        program.push(line(libc::BPF_LD | libc::BPF_W | libc::BPF_IND, (index * WORD) as u32));
        let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        program.push(libc::sock_filter { code: equal as u16, jt: 1, jf: 0, k: word });
        program.push(line(libc::BPF_RET | libc::BPF_K, 0));
    }
    program.push(line(libc::BPF_RET | libc::BPF_K, u32::MAX));
    program
}
