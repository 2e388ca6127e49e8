//! What the kernel says of an interface, by ioctl: a sending thread has no netlink.

use std::{
    ffi::CStr,
    io, mem,
    os::fd::{AsRawFd as _, OwnedFd},
};

use super::sockopt;

/// An interface by its number.
#[derive(Debug)]
pub(super) struct Interface {
    ifindex: u32,
    socket: OwnedFd,
    request: libc::ifreq,
}

/// `struct ethtool_drvinfo` of linux/ethtool.h.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    others: [u8; 160],
}

const ETHTOOL_GDRVINFO: u32 = 3;

impl Interface {
    /// Finds the interface with this number.
    pub(super) fn find(ifindex: u32) -> io::Result<Self> {
        let socket = sockopt::open(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
        // SAFETY: all-zero is a valid ifreq: an empty name, and zeros in every member of the union.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        request.ifr_ifru.ifru_ifindex = ifindex.cast_signed();
        let mut found = Self { ifindex, socket, request };
        found.ask(libc::SIOCGIFNAME as _)?;
        Ok(found)
    }

    /// Its number.
    pub(super) fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Its name.
    pub(super) fn name(&self) -> String {
        let name = self.request.ifr_name.map(|letter| letter as u8);
        CStr::from_bytes_until_nul(&name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// The largest network packet that it takes.
    pub(super) fn mtu(&mut self) -> io::Result<usize> {
        self.ask(libc::SIOCGIFMTU as _)?;
        // SAFETY: SIOCGIFMTU has filled this member.
        let mtu = unsafe { self.request.ifr_ifru.ifru_mtu };
        usize::try_from(mtu).map_err(io::Error::other)
    }

    /// Whether it is up, and has a link.
    pub(super) fn is_up(&mut self) -> io::Result<bool> {
        const NEEDED: i32 = libc::IFF_UP | libc::IFF_RUNNING;
        self.ask(libc::SIOCGIFFLAGS as _)?;
        // SAFETY: SIOCGIFFLAGS has filled this member.
        let flags = unsafe { self.request.ifr_ifru.ifru_flags };
        Ok(i32::from(flags) & NEEDED == NEEDED)
    }

    /// The name of its driver, as ethtool(8) tells it; empty where there is none.
    pub(super) fn driver(&mut self) -> String {
        let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], others: [0; 160] };
        self.request.ifr_ifru.ifru_data = (&raw mut info).cast();
        if self.ask(libc::SIOCETHTOOL as _).is_err() {
            return String::new();
        }
        CStr::from_bytes_until_nul(&info.driver)
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    fn ask(&mut self, what: libc::Ioctl) -> io::Result<()> {
        // SAFETY: the requests of this module read and write an ifreq, and SIOCETHTOOL what its data points
        // to, of the size that its first word stands for.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), what, &raw mut self.request) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
