//! The agent's JSON report, as the contract describes it (design, section 4).

use std::collections::BTreeMap;

use serde::Deserialize;

/// One run of the agent.
#[derive(Debug, Deserialize)]
pub struct Report {
    pub schema: u32,
    pub mode: String,
    pub hook: String,
    pub encap: String,
    pub duration_s: f64,
    pub interfaces: Vec<Interface>,
    pub frames: Ledger,
    pub truncated: u64,
    /// Frames of the wire: a super-frame counts as often as it was cut.
    pub segments: u64,
    pub datagrams_sent: u64,
    pub bytes_sent: u64,
    pub send_errors: BTreeMap<String, u64>,
    pub destinations: Vec<Destination>,
    /// Only of a replay.
    pub replay: Option<Replay>,
}

/// How files were played.
#[derive(Debug, Deserialize)]
pub struct Replay {
    /// Times that the input was played to its end.
    pub passes: u64,
    /// Packets with a time before that of the packet in front of them.
    pub backward_timestamps: u64,
    /// How far behind its time the latest frame was.
    pub late_ms: f64,
}

#[derive(Debug, Deserialize)]
pub struct Interface {
    pub name: String,
    pub seen: u64,
    pub bytes: u64,
    /// Where it has a network of its own.
    pub vni: Option<u32>,
}

#[derive(Debug, Deserialize)]
pub struct Destination {
    pub address: String,
    /// Where the user gave a name.
    pub name: Option<String>,
    pub datagrams: u64,
    pub bytes: u64,
    /// Seconds.
    pub down_s: f64,
    pub times_down: u32,
    pub is_down: bool,
}

/// Where every frame went.
#[derive(Debug, Deserialize)]
pub struct Ledger {
    pub seen: u64,
    pub filtered: u64,
    pub sampled_out: u64,
    pub rate_limited: u64,
    pub own: u64,
    pub ring_full: u64,
    pub copy_failed: u64,
    pub too_big: u64,
    pub send_failed: u64,
    pub sent: u64,
}

impl Ledger {
    /// The frames that should have been mirrored and were not, by why.
    #[must_use]
    pub fn losses(&self) -> [(&'static str, u64); 5] {
        [
            ("rate_limited", self.rate_limited),
            ("ring_full", self.ring_full),
            ("copy_failed", self.copy_failed),
            ("too_big", self.too_big),
            ("send_failed", self.send_failed),
        ]
    }
}

impl Report {
    /// The seen and the bytes of one interface.
    ///
    /// # Panics
    /// Where the report does not name it.
    #[must_use]
    pub fn interface(&self, name: &str) -> &Interface {
        self.interfaces
            .iter()
            .find(|interface| interface.name == name)
            .unwrap_or_else(|| panic!("no {name} in {self:#?}"))
    }

    /// How files were played.
    ///
    /// # Panics
    /// Where this was no replay.
    #[must_use]
    pub fn replay(&self) -> &Replay {
        self.replay.as_ref().unwrap_or_else(|| panic!("no replay: {self:#?}"))
    }

    /// Checks everything that has to agree in a report, whatever happened in the run.
    ///
    /// # Panics
    /// Where it does not.
    pub fn check(&self) {
        let Ledger {
            seen,
            filtered,
            sampled_out,
            rate_limited,
            own,
            ring_full,
            copy_failed,
            too_big,
            send_failed,
            sent,
        } = self.frames;
        let accounted = filtered
            + sampled_out
            + rate_limited
            + own
            + ring_full
            + copy_failed
            + too_big
            + send_failed
            + sent;
        assert_eq!(seen, accounted, "the ledger does not balance: {:#?}", self.frames);
        let by_interface: u64 = self.interfaces.iter().map(|interface| interface.seen).sum();
        assert_eq!(by_interface, seen, "the interfaces' seen do not add up to the ledger's: {self:#?}");
        let (datagrams, bytes) = self.destinations.iter().fold((0, 0), |(datagrams, bytes), destination| {
            (datagrams + destination.datagrams, bytes + destination.bytes)
        });
        assert_eq!(datagrams, self.datagrams_sent, "the destinations' datagrams: {self:#?}");
        assert_eq!(bytes, self.bytes_sent, "the destinations' bytes: {self:#?}");
        assert!(self.truncated <= sent, "{self:#?}");
        assert_eq!(self.schema, 1);
        let hooks: &[&str] = match &*self.mode {
            "ring" => &["tc", "xdp"],
            "redirect" => &["tc"],
            "replay" => &["none"],
            other => panic!("mode {other}"),
        };
        assert!(hooks.contains(&&*self.hook), "{self:#?}");
        assert_eq!(self.replay.is_some(), self.mode == "replay", "{self:#?}");
        // A run that writes a capture has neither encapsulation nor destination.
        let encaps: &[&str] = if self.destinations.is_empty() { &["none"] } else { &["vxlan", "geneve"] };
        assert!(encaps.contains(&&*self.encap), "{self:#?}");
        assert!(self.duration_s > 0.0 && self.duration_s < 3600.0, "{self:#?}");
    }
}

/// One run of the sink.
#[derive(Debug, Deserialize)]
pub struct SinkReport {
    pub datagrams: u64,
    pub frames: u64,
    pub bytes: u64,
    pub malformed: u64,
    pub control: u64,
    pub vnis: BTreeMap<String, u64>,
    pub kernel_drops: u64,
}
