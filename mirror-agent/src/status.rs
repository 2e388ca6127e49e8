//! What a run says of itself when it is asked: the object of `/status`. Whoever asks reads it with the same types.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::report::Report;

/// A run, as it is at this moment.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Status {
    /// The agent's process.
    pub pid: u32,
    /// The agent's version.
    pub version: String,
    /// When it began: seconds since 1970.
    pub started: f64,
    /// The command line, the program's name apart.
    pub arguments: Vec<String>,
    /// Whether all hooks are attached and a sensor is reachable.
    pub ready: bool,
    /// Why it is not ready.
    pub not_ready: Vec<String>,
    /// The report so far, as `--report json` gives it at the end.
    pub report: Report,
    /// What was seen on each interface, those that are gone included; or in each capture.
    pub interfaces: Vec<InterfaceStatus>,
    /// What went to each sensor, and how.
    pub destinations: Vec<DestinationStatus>,
    /// The rings between kernel and agent: none in redirect mode and in a replay.
    pub rings: Vec<RingStatus>,
    /// What the host lost.
    pub host: HostStatus,
    /// Readings of the configuration that SIGHUP asked for.
    #[serde(default)]
    pub reloads: Reloads,
}

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct InterfaceStatus {
    /// Its name, or that of a capture.
    pub name: String,
    /// Its number; 0 of one that is gone, and of a capture.
    pub ifindex: u32,
    /// What the host received. All of a capture is here.
    pub ingress: Traffic,
    /// What the host sent.
    pub egress: Traffic,
}

/// Frames and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Traffic {
    /// Frames that the hook saw.
    pub frames: u64,
    /// Bytes of those.
    pub bytes: u64,
}

/// One sensor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct DestinationStatus {
    /// Address and port, of a name the last one.
    pub address: String,
    /// The name and port, where the user gave a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Datagrams handed to the network for it.
    pub datagrams: u64,
    /// Their UDP payload.
    pub bytes: u64,
    /// Whether it is taken to be down.
    pub is_down: bool,
    /// How datagrams leave: past the host's stack by a `packet` socket, by `xdp` or by a `program`; through it, `udp`; from
    /// within the `kernel` in redirect mode; `file` where they are written; `none` before the first one.
    pub transmit: String,
}

impl DestinationStatus {
    /// What metrics call it: as the user did, so that another address of a name is no other sensor.
    #[must_use]
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.address)
    }
}

/// One ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct RingStatus {
    /// Its number.
    pub index: u32,
    /// Bytes that it has.
    pub size: u64,
    /// Bytes of frames that wait to be sent.
    pub used: u64,
}

/// What the host lost, in all, since it was started: a mirror suffers from it too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct HostStatus {
    /// Datagrams that UDP sockets' send buffers had no room for, of IPv4 and IPv6 together.
    pub udp_send_buffer_errors: u64,
    /// Packets that processors' queues had no room for.
    pub softnet_dropped: u64,
    /// Packets that the interfaces dropped, received and sent, of those that are mirrored.
    pub iface_dropped: BTreeMap<String, u64>,
}

/// Readings of the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Reloads {
    /// Those that were put in force.
    pub done: u64,
    /// Those that failed, after which everything stayed as it was.
    pub failed: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut status = Status {
            report: Report { mode: "ring".into(), ..Report::default() },
            interfaces: vec![InterfaceStatus { name: "eth0".into(), ..InterfaceStatus::default() }],
            destinations: vec![DestinationStatus::default()],
            ..Status::default()
        };
        status.report.frames.seen = u64::MAX;
        let json = serde_json::to_string(&status).unwrap();
        let read: Status = serde_json::from_str(&json).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), json);
        assert_eq!((&*read.report.mode, read.report.frames.seen), ("ring", u64::MAX));
    }
}
