//! What the host lost on its own, as its kernel counts: a mirror suffers from it too.

use std::{collections::BTreeMap, fs};

use crate::status::{HostStatus, InterfaceStatus};

/// Reads the counts, and remembers those of interfaces that went and came back: their own begin at 0 again.
#[derive(Debug, Default)]
pub struct Host {
    interfaces: BTreeMap<String, Drops>,
}

/// An interface's count.
#[derive(Clone, Copy, Debug, Default)]
struct Drops {
    /// What it counted before it was made anew.
    before: u64,
    last: u64,
}

impl Host {
    /// The counts now, of `interfaces` where there is one for each. What cannot be read is 0.
    pub fn read(&mut self, interfaces: &[InterfaceStatus]) -> HostStatus {
        let file = |name: &str| fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default();
        let now = interface_drops(&file("dev"));
        for (name, drops) in now {
            if interfaces.iter().any(|interface| interface.name == name) {
                self.interfaces.entry(name).or_default().advance(drops);
            }
        }
        // Those that nobody tells of any more were forgotten there too.
        self.interfaces.retain(|name, _| interfaces.iter().any(|interface| interface.name == *name));
        HostStatus {
            udp_send_buffer_errors: udp_send_buffer_errors(&file("snmp"))
                + udp6_send_buffer_errors(&file("snmp6")),
            softnet_dropped: softnet_dropped(&file("softnet_stat")),
            iface_dropped: self
                .interfaces
                .iter()
                .map(|(name, drops)| (name.clone(), drops.total()))
                .collect(),
        }
    }
}

impl Drops {
    fn advance(&mut self, now: u64) {
        if now < self.last {
            self.before += self.last;
        }
        self.last = now;
    }

    fn total(self) -> u64 {
        self.before + self.last
    }
}

/// `SndbufErrors` of the lines `Udp:` of /proc/net/snmp, of which the first has the names.
fn udp_send_buffer_errors(text: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let both = names.split_whitespace().zip(values.split_whitespace());
    let found = both.filter(|(name, _)| *name == "SndbufErrors").map(|(_, value)| value);
    found.filter_map(|value| value.parse::<u64>().ok()).sum()
}

/// The same of /proc/net/snmp6, with a name and a value in each line.
fn udp6_send_buffer_errors(text: &str) -> u64 {
    let value = |line: &str| line.strip_prefix("Udp6SndbufErrors")?.trim().parse::<u64>().ok();
    text.lines().filter_map(value).sum()
}

/// The second column of /proc/net/softnet_stat, a line for each processor, hexadecimal (net/core/net-procfs.c).
fn softnet_dropped(text: &str) -> u64 {
    let dropped = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    text.lines().filter_map(dropped).sum()
}

/// Received and sent packets that were dropped, by interface, of /proc/net/dev (net/core/net-procfs.c).
fn interface_drops(text: &str) -> Vec<(String, u64)> {
    const RECEIVED: usize = 3;
    const SENT: usize = 11;
    let drops = |line: &str| {
        let (name, counts) = line.split_once(':')?;
        let counts: Vec<u64> = counts.split_whitespace().filter_map(|count| count.parse().ok()).collect();
        Some((name.trim().to_owned(), counts.get(RECEIVED)? + counts.get(SENT)?))
    };
    text.lines().filter_map(drops).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_the_kernel() {
        let snmp = "Ip: Forwarding\nIp: 1\nUdp: InDatagrams NoPorts SndbufErrors InCsumErrors\nUdp: 7 8 9 10\n\
                    UdpLite: InDatagrams SndbufErrors\nUdpLite: 1 5\n";
        assert_eq!(udp_send_buffer_errors(snmp), 9);
        assert_eq!(udp6_send_buffer_errors("Udp6RcvbufErrors  \t3\nUdp6SndbufErrors \t4\n"), 4);
        assert_eq!(softnet_dropped("00000001 0000000a 00000000\n00000002 00000010 0000\n"), 26);
        let dev = "Inter-|   Receive                                                |  Transmit\n \
                   face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop\n\
                   \x20 eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        assert_eq!(interface_drops(dev), [("eth0".to_owned(), 16)]);
        for text in ["", "Udp:", "Udp: SndbufErrors\nUdp: x", "zz zz", "eth0:", ":"] {
            assert_eq!(udp_send_buffer_errors(text) + softnet_dropped(text), 0);
            assert!(interface_drops(text).is_empty());
        }
    }

    #[test]
    fn an_interface_that_is_made_anew_goes_on_counting() {
        let mut drops = Drops::default();
        let totals: Vec<u64> = [5, 7, 0, 3, 2]
            .into_iter()
            .map(|now| {
                drops.advance(now);
                drops.total()
            })
            .collect();
        assert_eq!(totals, [5, 7, 7, 10, 12]);
    }
}
