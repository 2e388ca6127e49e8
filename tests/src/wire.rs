//! What was on the wire, by the kernel itself, with every offload of the real path left on.
//!
//! A super-frame and an unfinished checksum are never on a wire: the card cuts and completes them, and where a
//! card can do neither, the kernel does so in software as the frame leaves (net/core/dev.c,
//! `validate_xmit_skb`). So whatever crosses an interface is handed, by `tc` mirred, to an interface that can do
//! neither, too. What leaves that one is what a capture with offloads off shows, and nothing has changed for
//! the traffic and for the agent.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    agent::Agent,
    capture::Capture,
    flows::{self, Streams},
    host::Host,
    lab::{Lab, MIRRORED, RUN, UPLINK},
    link::veth,
    pcap,
    report::Report,
    scratch::Scratch,
    sensor::Sensor,
    tap::Tap,
};

/// The interface that does nothing for the kernel.
const PLAIN: &str = "wire0";
/// `ethtool -K`: no segmentation of any kind, no checksums, no tags.
const NOTHING: &str = "tx off sg off tso off gso off gro off txvlan off tx-udp-segmentation off \
                       tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off tx-gre-segmentation off \
                       tx-gre-csum-segmentation off tx-ipxip4-segmentation off tx-ipxip6-segmentation off";
/// Longer than the longest frame of an interface with the usual MTU: two tags.
const LONGEST: usize = 1522;

/// A capture of what crosses an interface, cut and completed.
#[derive(Debug)]
pub struct Wire {
    capture: Capture,
    _far: Host,
}

impl Wire {
    /// Captures what `iface` gets and sends into `path`.
    ///
    /// # Panics
    /// Where the kernel refuses a part of it.
    #[must_use]
    pub fn start(host: &Host, iface: &str, path: &Path) -> Self {
        // Nobody there answers what was not meant for it. And hardly anything gets there: too long for that end,
        // it is dropped behind the tap, and does not fill the processor's queue, which the real link shares.
        let far = Host::new("wire");
        veth(host, PLAIN, &far, "eth0");
        far.mtu("eth0", 68);
        host.set_sysctl(&format!("net/ipv6/conf/{PLAIN}/disable_ipv6"), "1");
        host.run(&format!("ethtool -K {PLAIN} {NOTHING}"));
        let capture = Capture::start(host, PLAIN, path, "");
        host.run(&format!("tc qdisc add dev {iface} clsact"));
        for direction in ["ingress", "egress"] {
            host.run(&format!(
                "tc filter add dev {iface} {direction} protocol all prio 1 u32 match u32 0 0 \
                 action mirred egress mirror dev {PLAIN}"
            ));
        }
        Self { capture, _far: far }
    }

    /// Ends it; gives the file's path.
    ///
    /// # Panics
    /// Where the capture missed a frame.
    #[must_use]
    pub fn stop(self) -> PathBuf {
        self.capture.stop()
    }
}

/// Keeps TCP on the mirrored link from losing segments before they get to the hook, and from sending any twice:
/// an analyser would see that rightly.
///
/// # Panics
/// Where the kernel refuses it.
pub fn settle(lab: &Lab) {
    for (host, iface) in [(&lab.client, "eth0"), (&lab.router, MIRRORED)] {
        // What is in flight is less than a veth's queue takes, and does not overtake itself (order.rs says more).
        host.set_sysctl("net/ipv4/tcp_rmem", "4096 65536 65536");
        host.steer_connections(iface);
        // No tail loss probes: on a busy machine, an acknowledgement is often late.
        host.set_sysctl("net/ipv4/tcp_early_retrans", "0");
    }
}

/// A run of the agent, and what was on the wire meanwhile.
#[derive(Debug)]
pub struct Run {
    pub report: Report,
    /// A capture of what got to the sensor, in the order of arrival.
    pub mirrored: PathBuf,
    /// The TCP streams in it.
    pub streams: Streams,
    /// A capture of what was on the wire.
    pub wire: PathBuf,
}

/// Mirrors `traffic` on the router of `lab`, with a [`Wire`] on the mirrored link. Nothing was lost, and every
/// datagram went in one piece and was no longer than the way to the sensor takes.
///
/// # Panics
/// Where this is not so.
#[must_use]
pub fn mirror(lab: &Lab, scratch: &Scratch, traffic: impl FnOnce()) -> Run {
    let wire = Wire::start(&lab.client, "eth0", &scratch.path("wire.pcap"));
    let mut run = mirror_alone(lab, scratch, traffic);
    run.wire = wire.stop();
    run
}

/// As [`mirror`], without a capture on the wire.
///
/// # Panics
/// As [`mirror`].
#[must_use]
pub fn mirror_alone(lab: &Lab, scratch: &Scratch, traffic: impl FnOnce()) -> Run {
    // A veth hands datagrams for UDP GSO on in one piece; what a card would send is to be counted.
    lab.router.run(&format!("ethtool -K {UPLINK} tx-udp-segmentation off"));
    let mirrored = scratch.path("mirrored.pcap");
    let state = (pcap::Writer::create(&mirrored, 65_535), Streams::default());
    let sensor = Sensor::start(&lab.sensor, state, |(writer, streams), datagram| {
        writer.write(datagram.time, datagram.frame);
        streams.look(datagram.frame);
    });
    let unfit = Tap::unfit(&lab.sensor, "eth0", mtu(&lab.router, UPLINK));
    let datagrams = Tap::incoming_vxlan(&lab.sensor, "eth0");
    let agent = Agent::start(&lab.router, RUN);
    traffic();
    // The last acknowledgements.
    std::thread::sleep(Duration::from_millis(150));
    let report = agent.stop_and_report();
    let ((writer, streams), totals) = sensor.finish();
    writer.finish();
    println!("{:?}, {} segments; {totals:?}", report.frames, report.segments);
    assert_eq!(report.frames.sent, report.frames.seen, "a frame was lost");
    assert_eq!(totals.datagrams, report.datagrams_sent, "a datagram was lost");
    assert_eq!(unfit.count(), 0, "datagrams that are larger than the MTU, or in pieces");
    assert_eq!(datagrams.count(), totals.datagrams, "the taps on the sensor's interface see the datagrams");
    assert_eq!(report.segments, totals.datagrams, "a datagram is one segment");
    Run { report, mirrored, streams, wire: PathBuf::new() }
}

impl Run {
    /// The frames that got to the sensor.
    #[must_use]
    pub fn mirrored_frames(&self) -> Vec<Vec<u8>> {
        frames(&self.mirrored)
    }

    /// The frames on the wire.
    ///
    /// # Panics
    /// Where the tap does not show wire frames.
    #[must_use]
    pub fn wire_frames(&self) -> Vec<Vec<u8>> {
        let frames = frames(&self.wire);
        let longest = frames.iter().map(Vec::len).max().unwrap_or(0);
        assert!(longest <= LONGEST, "{longest} bytes on the tap");
        frames
    }

    /// Checks that the sensor got what was on the wire: in each direction of each connection the same frames
    /// in the same order, byte for byte. (Address resolution, which has a clock of its own, aside.)
    ///
    /// # Panics
    /// Where it did not, or less than `least` frames were compared.
    pub fn assert_as_on_the_wire(&self, least: usize) {
        flows::assert_same(&self.wire_frames(), &self.mirrored_frames(), least);
    }

    /// Checks that the traffic was what the test is about: frames that are more than one on the wire.
    ///
    /// # Panics
    /// Where the hook saw wire frames only.
    pub fn assert_super_frames(&self) {
        let seen = self.report.frames.sent;
        assert!(self.report.segments > seen, "{} segments of {seen} frames", self.report.segments);
    }
}

fn frames(path: &Path) -> Vec<Vec<u8>> {
    pcap::read(path).into_iter().map(|packet| packet.bytes).collect()
}

fn mtu(host: &Host, iface: &str) -> u32 {
    let links: serde_json::Value =
        serde_json::from_str(&host.ip(&format!("-j link show {iface}"))).expect("ip -j");
    links[0]["mtu"].as_u64().expect("no MTU") as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lock,
        super_frames::{self, ACK, Cut, PSH, SOURCE, SuperFrame, TIME_STAMP, Transport},
    };

    /// The tap says the truth: the same super-frames, from an interface whose offloads are off, arrive so.
    #[test]
    fn the_tap_shows_what_arrives_from_an_interface_with_offloads_off() {
        let _turn = lock::shared();
        let (lab, scratch) = (Lab::new(), Scratch::new());
        let tcp = Transport::Tcp { flags: ACK | PSH, options: &TIME_STAMP };
        let frame = |version, tags, transport, cut, port| SuperFrame {
            version,
            tags,
            transport,
            payload: 20_001,
            cut,
            port,
        };
        let list = vec![
            frame(4, &[], tcp, Cut::Segments(1448), 1),
            frame(6, &[(0x8100, 7)], tcp, Cut::Segments(1000), 2),
            frame(4, &[(0x8100, 0x6007)], Transport::Udp, Cut::Segments(1400), 3),
            frame(6, &[], Transport::Udp, Cut::Segments(999), 4),
        ];
        let ours = |path: PathBuf| -> Vec<Vec<u8>> {
            frames(&path).into_iter().filter(|frame| frame[6..12] == SOURCE).collect()
        };
        let wire = Wire::start(&lab.client, "eth0", &scratch.path("wire.pcap"));
        super_frames::send(&lab.client, "eth0", list.clone());
        super_frames::send(&lab.router, "eth0", list.clone());
        let tapped = ours(wire.stop());

        let mut arrived = Vec::new();
        for (from, to) in [(&lab.client, &lab.router), (&lab.router, &lab.client)] {
            from.run(&format!("ethtool -K eth0 {NOTHING}"));
            let capture = Capture::start(to, "eth0", &scratch.path("arrived.pcap"), "");
            super_frames::send(from, "eth0", list.clone());
            arrived.extend(ours(capture.stop()));
        }
        assert_eq!(arrived.len(), 2 * (14 + 21 + 15 + 21));
        assert!(tapped == arrived, "{} frames on the tap", tapped.len());
    }
}
