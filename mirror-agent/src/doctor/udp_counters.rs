//! What the kernel counts of UDP datagrams that it lost, in /proc/net/snmp and /proc/net/snmp6 (the network namespace's
//! own).

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};

/// A kind of loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A socket's receive buffer was full.
    Rcvbuf,
    /// A send buffer was full, or the interface's queue dropped what was sent.
    Sndbuf,
    /// All UDP sockets together had too much memory (net.ipv4.udp_mem).
    Mem,
    /// A checksum was wrong.
    Csum,
    /// A datagram could not be received for any reason: those above but [`Self::Sndbuf`] are among them.
    In,
    /// Nobody listened at the port. Not a loss by itself: see the check `sensor-answers`.
    NoPorts,
}

impl Kind {
    /// The losses.
    pub const LOSSES: [Self; 5] = [Self::Rcvbuf, Self::Sndbuf, Self::Mem, Self::Csum, Self::In];

    /// As the kernel names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rcvbuf => "RcvbufErrors",
            Self::Sndbuf => "SndbufErrors",
            Self::Mem => "MemErrors",
            Self::Csum => "InCsumErrors",
            Self::In => "InErrors",
            Self::NoPorts => "NoPorts",
        }
    }
}

/// The counts since the network namespace was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UdpCounters {
    v4: BTreeMap<String, u64>,
    v6: BTreeMap<String, u64>,
}

impl UdpCounters {
    /// As they are now.
    ///
    /// # Errors
    ///
    /// There is no /proc.
    pub fn read() -> Result<Self> {
        const V4: &str = "/proc/net/snmp";
        let v4 = fs::read_to_string(V4).with_context(|| format!("cannot read {V4}"))?;
        // Not there where IPv6 is switched off.
        let v6 = fs::read_to_string("/proc/net/snmp6").unwrap_or_default();
        Ok(Self { v4: of_v4(&v4), v6: of_v6(&v6) })
    }

    /// What was counted of a kind, of IPv4 and IPv6 together. Kernels before 5.11 do not count all.
    #[must_use]
    pub fn get(&self, kind: Kind) -> u64 {
        self.of_name(kind.name())
    }

    /// Datagrams that sockets were given.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.of_name("InDatagrams")
    }

    fn of_name(&self, name: &str) -> u64 {
        [&self.v4, &self.v6].iter().filter_map(|counts| counts.get(name)).sum()
    }
}

/// Two lines, names and numbers, both with `Udp:` in front.
fn of_v4(text: &str) -> BTreeMap<String, u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let (Some(names), Some(numbers)) = (lines.next(), lines.next()) else { return BTreeMap::new() };
    names
        .split_whitespace()
        .zip(numbers.split_whitespace())
        .filter_map(|(name, number)| Some((name.to_owned(), number.parse().ok()?)))
        .collect()
}

/// A line for each number.
fn of_v6(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| line.strip_prefix("Udp6")?.split_once(char::is_whitespace))
        .filter_map(|(name, number)| Some((name.to_owned(), number.trim().parse().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_are_added_up() {
        let v4 = "Ip: Forwarding\nIp: 1\nUdp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors \
                  InCsumErrors IgnoredMulti MemErrors\nUdp: 5 1 7 2 4 3 2 0 1\nUdpLite: InDatagrams\nUdpLite: 9\n";
        let v6 =
            "Udp6InDatagrams                  \t10\nUdp6RcvbufErrors \t40\nUdpLite6RcvbufErrors \t1000\n";
        let counters = UdpCounters { v4: of_v4(v4), v6: of_v6(v6) };
        let counts = Kind::LOSSES.map(|kind| counters.get(kind));
        assert_eq!(counts, [44, 3, 1, 2, 7]);
        assert_eq!((counters.received(), counters.get(Kind::NoPorts)), (15, 1));
    }

    #[test]
    fn what_is_not_there_is_none() {
        assert_eq!(UdpCounters { v4: of_v4("Udp: a"), v6: of_v6("") }.get(Kind::Mem), 0);
    }
}
