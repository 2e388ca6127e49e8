//! One agent per interface.
//!
//! Two agents on one interface would send everything twice, and the later one could not tell what an
//! earlier one left behind from what a running one uses. An abstract Unix socket (unix(7)) is the claim:
//! it belongs to the network namespace as the interface does, two cannot have the same name, and the
//! kernel removes it when the agent is gone, however it went.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use socket2::{Domain, SockAddr, Socket, Type};

/// An interface that this agent alone mirrors. Dropping it frees the interface.
#[derive(Debug)]
pub struct Claim {
    _socket: UnixListener,
}

/// Why an interface could not be claimed.
#[derive(Debug)]
pub enum Refusal {
    /// Another agent has it; its process number, where it can be seen from here.
    Taken(Option<i32>),
    /// The system refused for another reason.
    Failed(io::Error),
}

impl Claim {
    /// Claims the interface with this number.
    ///
    /// # Errors
    ///
    /// See [`Refusal`].
    pub fn new(ifindex: u32) -> Result<Self, Refusal> {
        Self::named(&format!("mirror-agent/interface/{ifindex}"))
    }

    /// Claims a name.
    ///
    /// # Errors
    ///
    /// See [`Refusal`].
    pub fn named(name: &str) -> Result<Self, Refusal> {
        let address = SocketAddr::from_abstract_name(name).map_err(Refusal::Failed)?;
        match UnixListener::bind_addr(&address) {
            Ok(socket) => Ok(Self { _socket: socket }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(Refusal::Taken(owner(name))),
            Err(error) => Err(Refusal::Failed(error)),
        }
    }
}

/// The process that listens at an abstract name: the kernel notes it with the socket. Does not wait
/// where that has no room for another connection.
fn owner(name: &str) -> Option<i32> {
    let stream = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).ok()?;
    // A leading zero byte makes the name abstract.
    stream.connect(&SockAddr::unix(format!("\0{name}")).ok()?).ok()?;
    let pid = getsockopt(&stream, PeerCredentials).ok()?.pid();
    // 0: a process of another PID namespace.
    (pid != 0).then_some(pid)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn second_claim_names_the_first() {
        // Beyond the numbers that a kernel gives.
        let ifindex = u32::MAX - std::process::id();
        let claim = Claim::new(ifindex).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(matches!(Claim::new(ifindex), Err(Refusal::Taken(Some(pid))) if pid == own));
        drop(claim);
        assert!(Claim::new(ifindex).is_ok());
    }
}
