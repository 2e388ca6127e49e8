//! Which interfaces and which directions are mirrored.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::time::Duration;

use mirror_tests::{
    agent::Agent,
    check::Check,
    frames::{self, Kind, Plan},
    generator::Generator,
    host::Host,
    lab::{Lab, MIRRORED, RUN},
    link::veth,
    lock,
    sensor::Sensor,
};

#[test]
fn ready_line_says_what_is_mirrored_to_where() {
    let _turn = lock::shared();
    let lab = Lab::new();
    for (arguments, line) in [
        (
            "--iface eth0 --dest 10.20.0.2",
            "mirroring eth0 (ingress+egress) to 10.20.0.2:4789, vxlan vni 4242",
        ),
        (
            "--iface eth0 --dest 10.20.0.2:9999 --vni 0 --direction ingress",
            "mirroring eth0 (ingress) to 10.20.0.2:9999, vxlan vni 0",
        ),
    ] {
        let agent = Agent::start(&lab.router, arguments);
        assert_eq!(agent.wait_for_line("mirroring "), line);
        assert_eq!(agent.stop().code(), 0);
    }
}

#[test]
fn several_interfaces_are_mirrored_by_one_agent() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let others: Vec<Host> = (0..3).map(|_| Host::new("other")).collect();
    for (number, other) in (2..).zip(&others) {
        veth(&lab.router, &format!("eth{number}"), other, "eth0");
    }
    let sensor = Sensor::start(&lab.sensor, Check::new(0..8_000), |check, datagram| check.look(datagram));
    let agent = Agent::start(&lab.router, &format!("{RUN} --iface eth2 --iface eth4 --iface eth2"));
    Generator::new("eth0").rate(10_000).send(&lab.client, 0..3_000);
    Generator::new("eth0").rate(10_000).send(&others[0], 3_000..5_000);
    // eth3 is not mirrored.
    Generator::new("eth0").rate(10_000).send(&others[1], 0..1_000);
    Generator::new("eth0").rate(10_000).send(&others[2], 5_000..8_000);
    let report = agent.stop_and_report();
    sensor.finish().0.assert_complete();
    let mut seen: Vec<_> = report.interfaces.iter().map(|iface| (iface.name.as_str(), iface.seen)).collect();
    seen.sort_unstable();
    assert_eq!(seen, [("eth0", 3_000), ("eth2", 2_000), ("eth4", 3_000)]);
}

#[test]
fn direction_chooses_which_way_frames_are_mirrored() {
    const FRAMES: u64 = 4_000;
    let _turn = lock::shared();
    let lab = Lab::new();
    for attach in ["auto", "clsact"] {
        for (direction, expected) in
            [("ingress", 0..FRAMES), ("egress", FRAMES..2 * FRAMES), ("both", 0..2 * FRAMES)]
        {
            let check = Check::new(expected.clone());
            let sensor = Sensor::start(&lab.sensor, check, |check, datagram| check.look(datagram));
            let agent =
                Agent::start(&lab.router, &format!("{RUN} --direction {direction} --attach {attach}"));
            Generator::new("eth0").rate(10_000).send(&lab.client, 0..FRAMES);
            Generator::new(MIRRORED).rate(10_000).through_hooks().send(&lab.router, FRAMES..2 * FRAMES);
            let report = agent.stop_and_report();
            sensor.finish().0.assert_complete();
            assert_eq!(report.frames.seen, expected.end - expected.start, "--direction {direction}");
        }
    }
}

/// The kernel takes the outer VLAN tag out of a received frame; the sensor gets it back, in its place, also
/// where the frame is then as long as a frame can be.
#[test]
fn vlan_tags_are_as_they_were_on_the_wire() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let tagged = |plan: &Plan| {
        use Kind::{DoubleVlanUdp4, PriorityUdp4, QinqTcp4, VlanTcp4, VlanUdp6};
        matches!(plan.kind, VlanTcp4 | VlanUdp6 | QinqTcp4 | DoubleVlanUdp4 | PriorityUdp4)
    };
    let sent: Vec<Vec<u8>> = (0..20_000)
        .filter(|index| tagged(&Plan::of(*index)))
        .map(frames::frame)
        // A full IP packet behind a tag: 1518 bytes.
        .chain((0..40).map(|number: u64| {
            let mut frame = vec![2, 0x5e, 0, 0, 0, 1, 2, 0xc0, 0, 0, 0, 1, 0x81, 0, 0xe0, 5, 0x88, 0xb5];
            frame.resize(1_510, 7);
            frame.extend(number.to_be_bytes());
            frame
        }))
        .collect();
    assert!(sent.len() > 3_000 && sent.iter().any(|frame| frame.len() == 1_518));
    for (host, generator) in [
        (&lab.client, Generator::new("eth0").rate(10_000)),
        (&lab.router, Generator::new(MIRRORED).rate(10_000).through_hooks()),
    ] {
        let sensor = Sensor::keeping(&lab.sensor);
        let agent = Agent::start(&lab.router, RUN);
        generator.send_frames(host, sent.clone());
        let report = agent.stop_and_report();
        let (got, _) = sensor.finish();
        assert_eq!(report.frames.sent, sent.len() as u64);
        assert_eq!(got.len(), sent.len());
        for (number, (sent, got)) in sent.iter().zip(&got).enumerate() {
            assert_eq!(sent, got, "frame {number}");
        }
        assert_eq!(
            report.interface(MIRRORED).bytes,
            sent.iter().map(|frame| frame.len() as u64).sum::<u64>()
        );
    }
}

/// What the hooks can meet beside ordinary frames: the shortest that the kernel sends, and jumbo frames.
#[test]
fn shortest_and_jumbo_frames_are_mirrored_whole() {
    let _turn = lock::shared();
    let lab = Lab::new();
    for (host, iface) in
        [(&lab.client, "eth0"), (&lab.router, MIRRORED), (&lab.router, "eth1"), (&lab.sensor, "eth0")]
    {
        host.mtu(iface, if iface == "eth1" { 9_500 } else { 9_000 });
    }
    lab.sensor.mtu("eth0", 9_500);
    let header = [2, 0x5e, 0, 0, 0, 1, 2, 0xc0, 0, 0, 0, 1, 0x88, 0xb5];
    let sent: Vec<Vec<u8>> =
        [14, 15, 16, 17, 20, 33, 59, 60, 61, 64, 127, 128, 129, 255, 256, 257, 511, 512, 513]
            .into_iter()
            .chain([
                1_023, 1_024, 1_025, 1_513, 1_514, 1_515, 1_518, 1_535, 1_536, 1_537, 2_048, 4_097, 9_000,
                9_014,
            ])
            .map(|size| {
                let mut frame = header.to_vec();
                frame.extend((14..size).map(|at| (at * 7 + size) as u8));
                frame
            })
            .collect();
    let sensor = Sensor::keeping(&lab.sensor);
    let agent = Agent::start(&lab.router, RUN);
    Generator::new("eth0").rate(1_000).send_frames(&lab.client, sent.clone());
    let report = agent.stop_and_report();
    let (got, _) = sensor.finish();
    println!("{:?}", report.frames);
    let sizes = |frames: &[Vec<u8>]| frames.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(sizes(&got), sizes(&sent));
    assert_eq!(got, sent);
}

/// A sensor's link takes no more than an Ethernet usually does: what does not fit is cut into fragments by
/// the host, and put together at the sensor.
#[test]
fn datagrams_larger_than_the_path_still_arrive() {
    let _turn = lock::shared();
    let lab = Lab::new();
    lab.router.mtu("eth1", 1_500);
    lab.sensor.mtu("eth0", 1_500);
    let sensor = Sensor::start(&lab.sensor, Check::new(0..5_000), |check, datagram| check.look(datagram));
    let agent = Agent::start(&lab.router, RUN);
    Generator::new("eth0").rate(5_000).send(&lab.client, 0..5_000);
    let report = agent.stop_and_report();
    let (check, totals) = sensor.finish();
    println!("{:?}; {totals:?}", report.frames);
    check.assert_complete();
    assert_eq!(report.frames.sent, 5_000);
    assert_eq!(totals.datagrams, report.datagrams_sent);
}

/// Frames of a burst that no queue can hold: those that are lost have a name.
#[test]
fn small_ring_loses_frames_and_says_how_many() {
    let _turn = lock::alone();
    let lab = Lab::new();
    let _bound = lab.sensor.within(|| std::net::UdpSocket::bind("10.20.0.2:4789").unwrap());
    // The slower way: over a veth the other one keeps up with all that this generator has, most times.
    let agent = Agent::start(&lab.router, &format!("{RUN} --ring-size 128KiB --transmit udp"));
    let flood = Generator::new("eth0").flood(&lab.client, 0..512);
    std::thread::sleep(Duration::from_secs(1));
    flood.stop();
    let report = agent.stop_and_report();
    println!("{:?}", report.frames);
    assert!(report.frames.seen > 100_000, "{:?}", report.frames);
    assert!(report.frames.ring_full > 0, "the smallest ring held everything: {:?}", report.frames);
}

/// The kernel tells of a port that leaves its bridge as of a deletion; the agent detached from it.
#[test]
fn port_that_leaves_its_bridge_goes_on_being_mirrored() {
    let _turn = lock::shared();
    let lab = Lab::new();
    lab.router.ip("link add br0 type bridge");
    lab.router.ip("link set br0 up");
    lab.router.ip("link set eth0 master br0");
    let sensor = Sensor::start(&lab.sensor, 0, |count, _| *count += 1);
    let agent = Agent::start(&lab.router, RUN);
    let sender = Generator::new("eth0").rate(5_000).start(&lab.client, 0..5_000);
    std::thread::sleep(Duration::from_millis(300));
    lab.router.ip("link set eth0 nomaster");
    sender.finish();
    let outcome = agent.stop();
    assert!(!outcome.stderr.contains("gone"), "{outcome}");
    assert!(outcome.report().frames.seen >= 5_000, "{outcome}");
    let _ = sensor.finish();
}

/// An interface that got the name of one that was renamed was never mirrored.
#[test]
fn names_decide_what_is_mirrored_after_a_rename() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let other = Host::new("other");
    veth(&lab.router, "eth5", &other, "eth0");
    let sensor = Sensor::start(&lab.sensor, 0, |count, _| *count += 1);
    let agent = Agent::start(&lab.router, RUN);
    let said = agent.stderr().len();
    lab.router.ip("link set eth0 down");
    lab.router.ip("link set eth0 name old0");
    lab.router.ip("link set old0 up");
    agent.wait_for_text(said, "eth0 is gone", Duration::from_secs(3));
    Generator::new("eth0").rate(10_000).send(&lab.client, 0..1_000);
    lab.router.ip("link set eth5 down");
    lab.router.ip("link set eth5 name eth0");
    lab.router.ip("link set eth0 up");
    agent.wait_for_text(said, "eth0 is back", Duration::from_secs(3));
    Generator::new("eth0").rate(10_000).send(&other, 1_000..2_000);
    sensor.wait_for(1_000, Duration::from_secs(5));
    let report = agent.stop_and_report();
    assert_eq!(report.interface("eth0").seen, 1_000, "those of the interface that now has the name");
    assert_eq!(sensor.finish().1.datagrams, 1_000);
}
