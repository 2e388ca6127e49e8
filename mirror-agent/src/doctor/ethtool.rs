//! What ethtool(8) shows, asked of the kernel by ioctl. Needs no right.

use std::{io, mem, net::Ipv6Addr, net::UdpSocket, os::fd::AsRawFd as _};

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_ringparam`, in descriptors.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Rings {
    command: u32,
    /// Most that the card can have for receiving.
    pub rx_max: u32,
    rx_mini_max: u32,
    rx_jumbo_max: u32,
    /// Most that it can have for sending.
    pub tx_max: u32,
    /// What it has for receiving.
    pub rx: u32,
    rx_mini: u32,
    rx_jumbo: u32,
    /// What it has for sending.
    pub tx: u32,
}

/// One of the kernel's switches: `ETHTOOL_G...` of linux/ethtool.h, and what ethtool(8) calls it with `-K`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    command: u32,
    /// The bit of `ETHTOOL_GFLAGS`; 0 where the command is the switch's own.
    flag: u32,
    /// Its name.
    pub name: &'static str,
}

const GET_FLAGS: u32 = 0x25;
const GET_RINGS: u32 = 0x10;

const fn own(command: u32, name: &'static str) -> Switch {
    Switch { command, flag: 0, name }
}

/// Tags that the card takes off.
pub const RX_VLAN: Switch = Switch { command: GET_FLAGS, flag: 1 << 8, name: "rxvlan" };
/// Segments that the card puts together, for good.
pub const LRO: Switch = Switch { command: GET_FLAGS, flag: 1 << 15, name: "lro" };
/// What the kernel leaves to the card, or does late.
pub const SWITCHES: [Switch; 7] =
    [own(0x14, "rx"), own(0x16, "tx"), own(0x1e, "tso"), own(0x23, "gso"), own(0x2b, "gro"), LRO, RX_VLAN];

/// Whether a switch of an interface is on.
///
/// # Errors
///
/// What the kernel says: no such interface.
pub fn is_on(name: &str, switch: Switch) -> io::Result<bool> {
    let mut value = Value { command: switch.command, data: 0 };
    ask(name, (&raw mut value).cast())?;
    Ok(if switch.flag == 0 { value.data != 0 } else { value.data & switch.flag != 0 })
}

/// The rings of a card.
///
/// # Errors
///
/// `EOPNOTSUPP`: it has none that can be seen.
pub fn rings(name: &str) -> io::Result<Rings> {
    let mut rings = Rings { command: GET_RINGS, ..Rings::default() };
    ask(name, (&raw mut rings).cast())?;
    Ok(rings)
}

/// `data` points to a struct of the size that its first word stands for.
fn ask(name: &str, data: *mut libc::c_char) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0").or_else(|_| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)))?;
    // SAFETY: all-zero is a valid ifreq: an empty name, and zeros in every member of the union.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = data;
    // SAFETY: SIOCETHTOOL reads an ifreq, and reads and writes what its data points to, of the size that the command
    // stands for: the callers' own structs.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_have_the_kernels_sizes() {
        assert_eq!((size_of::<Value>(), size_of::<Rings>()), (8, 36));
    }
}
