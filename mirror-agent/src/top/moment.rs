//! Two looks at a run, and what passed between them.

use std::time::Instant;

use crate::{
    flows::answer::Answer,
    report::Report,
    status::{DestinationStatus, InterfaceStatus, Status, Traffic},
};

/// One look at a run.
#[derive(Clone, Debug)]
pub struct Moment {
    /// What it says of itself.
    pub status: Status,
    /// Its busiest flows, or why there are none to be had.
    pub flows: Result<Answer, String>,
    /// When that was.
    pub at: Instant,
}

/// The last look, and the one before it.
#[derive(Clone, Debug)]
pub struct View {
    /// The last look.
    pub now: Moment,
    /// The one before it, of the same run.
    pub before: Option<Moment>,
}

/// Frames and bits a second; `None` where there is nothing to compare with yet.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Frames, or datagrams, a second.
    pub frames: Option<f64>,
    /// Bits a second.
    pub bits: Option<f64>,
}

/// One interface, or one capture.
#[derive(Clone, Debug, PartialEq)]
pub struct Interface<'a> {
    /// As the run has it.
    pub status: &'a InterfaceStatus,
    /// What the host receives.
    pub ingress: Rate,
    /// What it sends.
    pub egress: Rate,
}

impl Interface<'_> {
    /// Frames seen so far, both ways.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.status.ingress.frames + self.status.egress.frames
    }

    /// Bytes of those.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.status.ingress.bytes + self.status.egress.bytes
    }
}

/// What becomes of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Neither good nor bad.
    Plain,
    /// What was wanted.
    Sent,
    /// A loss.
    Lost,
}

/// One name of the ledger.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// The name.
    pub name: &'static str,
    /// How many so far.
    pub total: u64,
    /// How many a second; `None` where there is nothing to compare with yet.
    pub rate: Option<f64>,
    /// What that means.
    pub kind: Kind,
    /// In words.
    pub meaning: &'static str,
}

impl View {
    /// Follows `last` with another look. What is not of the same run is not compared with.
    #[must_use]
    pub fn next(last: Option<Self>, now: Moment) -> Self {
        let is_same = |before: &Moment| {
            before.status.pid == now.status.pid
                && before.status.started == now.status.started
                && before.status.report.duration_s <= now.status.report.duration_s
        };
        let before = last.map(|last| last.now).filter(is_same);
        Self { now, before }
    }

    /// Seconds between the two looks, by the run's own clock; `None` with only one.
    #[must_use]
    pub fn seconds(&self) -> Option<f64> {
        let before = self.before.as_ref()?;
        let by_run = self.now.status.report.duration_s - before.status.report.duration_s;
        let seconds = if by_run > 0.0 {
            by_run
        } else {
            self.now.at.saturating_duration_since(before.at).as_secs_f64()
        };
        (seconds > 0.0).then_some(seconds)
    }

    /// A second's part of what a counter has grown; never below 0.
    fn rate(&self, before: u64, now: u64) -> Option<f64> {
        Some(now.saturating_sub(before) as f64 / self.seconds()?)
    }

    fn traffic_rate(&self, before: Traffic, now: Traffic) -> Rate {
        Rate {
            frames: self.rate(before.frames, now.frames),
            bits: self.rate(before.bytes, now.bytes).map(|bytes| bytes * 8.0),
        }
    }

    /// All interfaces, in the run's order.
    #[must_use]
    pub fn interfaces(&self) -> Vec<Interface<'_>> {
        let before = |of: &InterfaceStatus| {
            let all = self.before.iter().flat_map(|before| &before.status.interfaces);
            // One that is new has counted from 0.
            all.clone()
                .find(|one| one.name == of.name && one.ifindex == of.ifindex)
                .or_else(|| all.clone().find(|one| one.name == of.name))
                .cloned()
                .unwrap_or_default()
        };
        let interface = |status| {
            let before = before(status);
            let ingress = self.traffic_rate(before.ingress, status.ingress);
            Interface { status, ingress, egress: self.traffic_rate(before.egress, status.egress) }
        };
        self.now.status.interfaces.iter().map(interface).collect()
    }

    /// All sensors, and what goes to them.
    #[must_use]
    pub fn destinations(&self) -> Vec<(&DestinationStatus, Rate)> {
        let before = |place: usize, of: &DestinationStatus| {
            let all = &self.before.as_ref()?.status.destinations;
            // The address of a name may change.
            all.get(place)
                .filter(|one| one.name == of.name && (of.name.is_some() || one.address == of.address))
        };
        let destination = |(place, status): (usize, _)| {
            let before = before(place, status).cloned().unwrap_or_default();
            let traffic = |of: &DestinationStatus| Traffic { frames: of.datagrams, bytes: of.bytes };
            (status, self.traffic_rate(traffic(&before), traffic(status)))
        };
        self.now.status.destinations.iter().enumerate().map(destination).collect()
    }

    /// The ledger.
    #[must_use]
    pub fn ledger(&self) -> Vec<Entry> {
        type Count = fn(&Report) -> u64;
        const NAMES: [(&str, Count, Kind, &str); 11] = [
            ("seen", |of| of.frames.seen, Kind::Plain, "by the hooks"),
            ("sent", |of| of.frames.sent, Kind::Sent, "on to a sensor"),
            ("filtered", |of| of.frames.filtered, Kind::Plain, "refused by the filter"),
            ("sampled_out", |of| of.frames.sampled_out, Kind::Plain, "left out by --sample"),
            ("rate_limited", |of| of.frames.rate_limited, Kind::Plain, "left out by --max-rate"),
            ("own", |of| of.frames.own, Kind::Plain, "the agent's own"),
            ("ring_full", |of| of.frames.ring_full, Kind::Lost, "no room in a ring"),
            ("copy_failed", |of| of.frames.copy_failed, Kind::Lost, "not to be read"),
            ("too_big", |of| of.frames.too_big, Kind::Lost, "too long for a datagram"),
            ("send_failed", |of| of.frames.send_failed, Kind::Lost, "refused by the network"),
            ("truncated", |of| of.truncated, Kind::Plain, "of those sent, cut"),
        ];
        NAMES
            .into_iter()
            .map(|(name, count, kind, meaning)| {
                let total = count(&self.now.status.report);
                let before = self.before.as_ref().map_or(0, |before| count(&before.status.report));
                Entry { name, total, rate: self.rate(before, total), kind, meaning }
            })
            .collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{flows::answer::Flow, ledger::Ledger, status::RingStatus};

    /// A run that has gone on for so many seconds, at even rates.
    pub fn moment(seconds: u64) -> Moment {
        let traffic = |frames: u64, bytes: u64| Traffic { frames: frames * seconds, bytes: bytes * seconds };
        let frames = Ledger {
            seen: 21_000 * seconds,
            sent: 20_000 * seconds,
            ring_full: 1_000 * seconds,
            too_big: 7,
            ..Ledger::default()
        };
        let report = Report {
            mode: "ring".into(),
            hook: "tc".into(),
            encap: "vxlan".into(),
            duration_s: seconds as f64,
            frames,
            ..Report::default()
        };
        let status = Status {
            pid: 4711,
            version: "0.1.0".into(),
            started: 1e9,
            arguments: ["--iface", "eth0", "udp"].map(String::from).into(),
            ready: true,
            report,
            interfaces: vec![InterfaceStatus {
                name: "eth0".into(),
                ifindex: 2,
                ingress: traffic(11_000, 5_500_000),
                egress: traffic(10_000, 600_000),
            }],
            destinations: vec![DestinationStatus {
                address: "10.20.0.2:4789".into(),
                datagrams: 20_000 * seconds,
                bytes: 6_000_000 * seconds,
                transmit: "packet".into(),
                ..DestinationStatus::default()
            }],
            rings: vec![RingStatus { index: 0, size: 16 << 20, used: 4 << 20 }],
            ..Status::default()
        };
        let flow = Flow {
            protocol: "udp".into(),
            a: "10.10.0.2:5000".into(),
            b: "10.20.0.2:9".into(),
            frames: 11_000,
            bytes: 5_500_000,
        };
        let flows = Answer { sampled_one_in: 6, seconds: 1.0, missed: 0, flows: vec![flow] };
        Moment { status, flows: Ok(flows), at: Instant::now() + Duration::from_secs(seconds) }
    }

    /// Two looks, a second apart.
    pub fn view() -> View {
        View::next(Some(View::next(None, moment(100))), moment(101))
    }

    #[test]
    fn rates_come_from_two_looks() {
        let first = View::next(None, moment(100));
        assert_eq!(first.interfaces()[0].ingress, Rate::default());
        assert!(first.ledger().iter().all(|entry| entry.rate.is_none()));
        let view = view();
        let interfaces = view.interfaces();
        assert_eq!(interfaces[0].ingress, Rate { frames: Some(11_000.0), bits: Some(44e6) });
        assert_eq!(interfaces[0].egress, Rate { frames: Some(10_000.0), bits: Some(4.8e6) });
        assert_eq!(view.destinations()[0].1, Rate { frames: Some(20_000.0), bits: Some(48e6) });
        let ledger = view.ledger();
        let lost: Vec<_> =
            ledger.iter().filter(|entry| entry.kind == Kind::Lost && entry.total > 0).collect();
        assert_eq!(
            lost.iter().map(|entry| (entry.name, entry.rate)).collect::<Vec<_>>(),
            [("ring_full", Some(1000.0)), ("too_big", Some(0.0))]
        );
    }

    #[test]
    fn a_run_that_begins_anew_has_no_rates_below_zero() {
        let mut again = moment(3);
        again.status.pid = 4712;
        let view = View::next(Some(view()), again);
        assert_eq!((view.before.is_none(), view.interfaces()[0].ingress), (true, Rate::default()));
        let view = View::next(Some(View::next(None, moment(100))), moment(4));
        assert_eq!(view.interfaces()[0].ingress, Rate::default(), "the same number, begun anew");
        let mut smaller = moment(101);
        smaller.status.interfaces[0].ingress.frames = 5;
        let view = View::next(Some(View::next(None, moment(100))), smaller);
        assert_eq!(view.interfaces()[0].ingress.frames, Some(0.0));
    }

    #[test]
    fn an_interface_that_is_new_has_counted_from_0() {
        let mut now = moment(101);
        now.status.interfaces.push(InterfaceStatus {
            name: "veth1".into(),
            ifindex: 9,
            ingress: Traffic { frames: 50, bytes: 5000 },
            ..InterfaceStatus::default()
        });
        let view = View::next(Some(View::next(None, moment(100))), now);
        assert_eq!(view.interfaces()[1].ingress.frames, Some(50.0));
    }
}
