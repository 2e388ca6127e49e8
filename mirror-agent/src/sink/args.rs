//! The options of `mirror-agent sink`.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use clap::Args;
use mirror_common::vxlan;

use crate::cli::{ReportForm, RunArgs, bytes};

/// What `mirror-agent sink` is to do.
#[derive(Args, Clone, Debug)]
pub struct SinkArgs {
    /// Address to receive VXLAN on, IPv4 or IPv6; port 4789 unless given
    #[arg(short, long, value_name = "ADDR[:PORT]", default_value = "0.0.0.0:4789", value_parser = parse_listen)]
    pub listen: SocketAddr,

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

/// `192.0.2.1`, `192.0.2.1:4789`, `::`, `[::]` or `[::]:4789`.
fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = if let Ok(address) = text.parse::<SocketAddr>() {
        address
    } else if let Ok(ip) = text.parse::<IpAddr>() {
        SocketAddr::new(ip, vxlan::PORT)
    } else if let Some(Ok(ip)) = bracketed.map(str::parse::<Ipv6Addr>) {
        SocketAddr::new(ip.into(), vxlan::PORT)
    } else {
        return Err("expected an address of this host, as in 192.0.2.1, 192.0.2.1:4789 or [::]:4789".into());
    };
    if address.port() == 0 {
        return Err(
            "port 0 would be any free port, which no mirror could know: give one from 1 to 65535".into()
        );
    }
    Ok(address)
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
            assert_eq!(parse_listen(text).unwrap(), expected.parse::<SocketAddr>().unwrap(), "{text}");
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
