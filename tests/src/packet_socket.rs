//! Packet sockets (packet(7)): frames in and out of one interface, as they are on the wire.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// A raw packet socket on one interface.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// A socket that only sends. Call it in the host that has the interface.
    ///
    /// # Panics
    /// Where there is no such interface, or this is not root.
    #[must_use]
    pub fn sender(iface: &str) -> Self {
        Self::open(iface, 0)
    }

    /// A socket that sends by [`PacketSocket::send_to`] only.
    ///
    /// # Panics
    /// Where this is not root.
    #[must_use]
    pub fn unbound() -> Self {
        // SAFETY: socket touches no memory.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
        // SAFETY: `fd` was just opened, and nobody else has it.
        Self(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Sends a frame out of the interface with this number.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn send_to(&self, index: u32, frame: &[u8]) -> io::Result<()> {
        // SAFETY: all fields of sockaddr_ll are integers, for which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index as i32;
        // SAFETY: the kernel reads the frame and the address, each of the length that is said.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// A socket that gets every frame of the interface, in and out.
    ///
    /// # Panics
    /// As [`PacketSocket::sender`].
    #[must_use]
    pub fn receiver(iface: &str) -> Self {
        Self::open(iface, (libc::ETH_P_ALL as u16).to_be())
    }

    fn open(iface: &str, protocol: u16) -> Self {
        let socket = Self::unbound();
        let fd = socket.0.as_raw_fd();
        let name = CString::new(iface).unwrap();
        // SAFETY: `name` ends with a zero byte.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        assert_ne!(index, 0, "no interface {iface} here");
        // SAFETY: all fields of sockaddr_ll are integers, for which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = index as i32;
        // SAFETY: `address` is a sockaddr_ll of the size that is said.
        let result = unsafe {
            libc::bind(fd, (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t)
        };
        assert_eq!(result, 0, "cannot bind to {iface}: {}", io::Error::last_os_error());
        socket
    }

    /// Sends past the queue discipline, and past the egress hooks (TC, TCX) of this interface.
    ///
    /// # Panics
    /// Where the kernel refuses.
    #[must_use]
    pub fn bypassing_hooks(self) -> Self {
        self.set(libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1i32);
        self
    }

    /// What is sent starts with a `struct virtio_net_hdr`: how the frame behind it is to be cut, and where its
    /// checksum is to be filled in ([`crate::super_frames`]).
    ///
    /// # Panics
    /// Where the kernel refuses.
    #[must_use]
    pub fn with_vnet_header(self) -> Self {
        self.set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1i32);
        self
    }

    /// Lets through what a classic BPF program lets through.
    ///
    /// # Panics
    /// Where the kernel refuses it.
    #[must_use]
    pub fn filtered(self, program: &[libc::sock_filter]) -> Self {
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
        self.set(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program);
        self
    }

    /// How many frames passed the filter since the last call, whether or not anyone read them.
    ///
    /// # Panics
    /// Where the kernel does not say.
    #[must_use]
    pub fn counted(&self) -> u64 {
        /// `struct tpacket_stats`: reading it sets both counts to 0. `packets` includes the drops.
        #[repr(C)]
        struct Stats {
            packets: u32,
            drops: u32,
        }
        let mut stats = Stats { packets: 0, drops: 0 };
        let mut len = size_of::<Stats>() as libc::socklen_t;
        // SAFETY: `stats` takes the `len` bytes that the kernel may write.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut len,
            )
        };
        assert_eq!(result, 0, "packet statistics: {}", io::Error::last_os_error());
        u64::from(stats.packets)
    }

    fn set<T>(&self, level: i32, option: i32, value: &T) {
        // SAFETY: `value` is readable for its own size; the options used here keep no pointer to it.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                option,
                (&raw const *value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        assert_eq!(result, 0, "socket option {option}: {}", io::Error::last_os_error());
    }

    /// Hands `frames` to the kernel in one call; gives how many it took, at least one.
    ///
    /// # Errors
    /// What the kernel said where it took none.
    pub fn send(&self, frames: &[impl AsRef<[u8]>]) -> io::Result<usize> {
        let mut pieces: Vec<libc::iovec> = frames
            .iter()
            .map(AsRef::as_ref)
            .map(|frame| libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = pieces
            .iter_mut()
            .map(|piece| {
                // SAFETY: zero is a value for every field: null pointers and lengths of 0.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_iov = piece;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        // SAFETY: each message has one piece, in `pieces`, which points to a frame; all of them outlive the
        // call, and the kernel only reads the frames.
        let sent =
            unsafe { libc::sendmmsg(self.0.as_raw_fd(), messages.as_mut_ptr(), messages.len() as u32, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// Keeps the calling thread on one processor.
///
/// # Panics
/// Where there is no such processor.
pub fn pin(processor: usize) {
    // SAFETY: a processor set is a bit mask, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a whole processor set; CPU_SET checks the number against its size.
    unsafe { libc::CPU_SET(processor, &mut set) };
    // SAFETY: `set` is readable for the size that is said.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    assert_eq!(result, 0, "cannot pin to processor {processor}: {}", io::Error::last_os_error());
}
