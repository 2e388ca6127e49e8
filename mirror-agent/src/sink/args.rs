//! The options of `mirror-agent sink`.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use clap::Args;
use mirror_common::{geneve, vxlan};

use crate::cli::{Encap, ReportForm, RunArgs, bytes};

/// What `mirror-agent sink` is to do.
#[derive(Args, Clone, Debug)]
pub struct SinkArgs {
    /// Address to receive on, IPv4 or IPv6; the port is 4789 unless given, or 6081 with --encap geneve
    #[arg(short, long, value_name = "ADDR[:PORT]", default_value = "0.0.0.0", value_parser = parse_listen)]
    pub listen: Listen,

    /// What frames come in
    #[arg(long, value_enum, value_name = "PROTOCOL", default_value_t = Encap::Vxlan)]
    pub encap: Encap,

    /// Write the frames to a capture (pcapng, nanoseconds); - is standard output
    #[arg(short, long, value_name = "FILE")]
    pub write: Option<PathBuf>,

    /// When to stop, and what to say meanwhile.
    #[command(flatten)]
    pub run: RunArgs,

    /// Final report: text on standard error, json on standard output (on standard error with -w -)
    #[arg(long, value_enum, value_name = "FORM", default_value_t = ReportForm::Text)]
    pub report: ReportForm,

    /// Size of the socket's receive buffer; KiB, MiB and GiB are understood
    #[arg(long, value_name = "BYTES", default_value = "64MiB", value_parser = receive_buffer)]
    pub rcvbuf: u32,
}

/// Where a sink listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    ip: IpAddr,
    /// `None` is the protocol's own.
    port: Option<u16>,
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self { ip: address.ip(), port: Some(address.port()) }
    }
}

impl SinkArgs {
    /// The address and the port to listen on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        let port = match self.encap {
            Encap::Vxlan => vxlan::PORT,
            Encap::Geneve => geneve::PORT,
        };
        SocketAddr::new(self.listen.ip, self.listen.port.unwrap_or(port))
    }
}

/// `192.0.2.1`, `192.0.2.1:4789`, `::`, `[::]` or `[::]:4789`.
fn parse_listen(text: &str) -> Result<Listen, String> {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let listen = if let Ok(address) = text.parse::<SocketAddr>() {
        address.into()
    } else if let Ok(ip) = text.parse::<IpAddr>() {
        Listen { ip, port: None }
    } else if let Some(Ok(ip)) = bracketed.map(str::parse::<Ipv6Addr>) {
        Listen { ip: ip.into(), port: None }
    } else {
        return Err("expected an address of this host, as in 192.0.2.1, 192.0.2.1:4789 or [::]:4789".into());
    };
    if listen.port == Some(0) {
        return Err(
            "port 0 would be any free port, which no mirror could know: give one from 1 to 65535".into()
        );
    }
    Ok(listen)
}

fn receive_buffer(text: &str) -> Result<u32, String> {
    let bytes = bytes(text)?;
    // The kernel takes a C int.
    let fits = u32::try_from(bytes).ok().filter(|bytes| (1..=i32::MAX as u32).contains(bytes));
    fits.ok_or_else(|| "must be from 1 byte to 2 GiB less one".into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses_go_with_and_without_port() {
        for (text, expected) in [
            ("192.0.2.1", "192.0.2.1:4789"),
            ("192.0.2.1:1", "192.0.2.1:1"),
            ("::", "[::]:4789"),
            ("[::1]", "[::1]:4789"),
            ("[::1]:65535", "[::1]:65535"),
        ] {
            let args = |encap| SinkArgs {
                listen: parse_listen(text).unwrap(),
                encap,
                write: None,
                run: RunArgs::default(),
                report: ReportForm::Text,
                rcvbuf: 1,
            };
            let address = args(Encap::Vxlan).address();
            assert_eq!(address, expected.parse::<SocketAddr>().unwrap(), "{text}");
            let port = if address.port() == 4789 { 6081 } else { address.port() };
            assert_eq!(args(Encap::Geneve).address(), SocketAddr::new(address.ip(), port), "{text}");
        }
    }

    #[test]
    fn listen_addresses_that_cannot_be_are_refused() {
        for text in [
            "",
            "localhost",
            "4789",
            "192.0.2.1:",
            "192.0.2.1:65536",
            "192.0.2.1:0",
            "[::]:0",
            "[192.0.2.1]",
            "[",
        ] {
            assert!(parse_listen(text).is_err(), "{text}");
        }
    }
}
