//! `--iface NAME=vni:N`: frames are in the network of their interface, whichever way they leave.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{collections::BTreeMap, time::Duration};

use mirror_tests::{
    agent::{self, Agent},
    frames,
    generator::Generator,
    geneve,
    lab::{Lab, SENSOR, VXLAN_PORT},
    link::veth,
    lock,
    scratch::Scratch,
    sensor::Sensor,
    tshark,
};

const FRAMES: u64 = 200;

/// A lab with a second interface to mirror: `eth2`, on the client `eth1`.
fn lab() -> Lab {
    let lab = Lab::new();
    second_interface(&lab);
    lab
}

fn second_interface(lab: &Lab) {
    veth(&lab.router, "eth2", &lab.client, "eth1");
}

/// How many frames came in which network, by whether they are of the first interface.
type Counts = BTreeMap<(bool, u32), u64>;

fn counting(lab: &Lab, port: u16) -> Sensor<Counts> {
    Sensor::start_on(&lab.sensor, port, Counts::new(), |counts: &mut Counts, datagram| {
        let index = frames::index_of(datagram.frame).expect("too short");
        assert_eq!(datagram.frame, frames::frame(index));
        *counts.entry((index < FRAMES, datagram.vni)).or_default() += 1;
    })
}

#[test]
fn each_interface_has_its_network() {
    let _turn = lock::shared();
    let lab = lab();
    for (way, port) in [
        ("--transmit udp", VXLAN_PORT),
        ("--transmit packet --encap geneve", geneve::PORT),
        ("--mode redirect", VXLAN_PORT),
        ("--mode redirect --encap geneve", geneve::PORT),
        ("--hook xdp", VXLAN_PORT),
    ] {
        let sensor = counting(&lab, port);
        let line =
            format!("-i eth0=vni:100 -i eth2 --vni 7 --direction ingress -d {SENSOR} --report json {way}");
        let agent = Agent::start(&lab.router, &line);
        Generator::new("eth0").rate(5_000).send(&lab.client, 0..FRAMES);
        Generator::new("eth1").rate(5_000).send(&lab.client, FRAMES..3 * FRAMES);
        let report = agent.stop_and_report();
        let (counts, totals) = sensor.finish();
        assert_eq!(totals.malformed, 0, "{way}");
        assert_eq!(counts, [((true, 100), FRAMES), ((false, 7), 2 * FRAMES)].into(), "{way}");
        assert_eq!(["eth0", "eth2"].map(|name| report.interface(name).vni), [Some(100), None], "{way}");
    }
}

/// An interface that comes back has another number, and its network again.
#[test]
fn an_interface_keeps_its_network_when_it_comes_back() {
    let _turn = lock::shared();
    for way in ["--mode ring", "--mode redirect"] {
        let lab = lab();
        let sensor = counting(&lab, VXLAN_PORT);
        let agent = Agent::start(
            &lab.router,
            &format!("-i eth0 -i eth2=vni:16777215 --direction ingress -d {SENSOR} --report json {way}"),
        );
        lab.router.ip("link del eth2");
        agent.wait_for_text(0, "eth2 is gone", Duration::from_secs(5));
        second_interface(&lab);
        agent.wait_for_text(0, "eth2 is back", Duration::from_secs(5));
        Generator::new("eth1").rate(5_000).send(&lab.client, FRAMES..2 * FRAMES);
        let report = agent.stop_and_report();
        let (counts, _) = sensor.finish();
        assert_eq!(counts, [((false, 0xff_ffff), FRAMES)].into(), "{way}");
        assert_eq!(report.interface("eth2").vni, Some(0xff_ffff), "{way}");
    }
}

#[test]
fn networks_are_told_and_written() {
    let _turn = lock::shared();
    let (lab, scratch) = (lab(), Scratch::new());
    let path = scratch.path("outer.pcapng");
    let line = format!("-i eth0=vni:100 -i eth2 --direction ingress -w {} --write-outer", path.display());
    let agent = Agent::start(&lab.router, &line);
    Generator::new("eth0").rate(5_000).send(&lab.client, 0..FRAMES);
    Generator::new("eth1").rate(5_000).send(&lab.client, FRAMES..3 * FRAMES);
    let outcome = agent.stop();
    assert!(outcome.stderr.contains("seen on eth0, vni 100\n"), "{outcome}");
    assert!(outcome.stderr.contains("seen on eth2\n"), "{outcome}");
    let rows = tshark::fields(&path, "vxlan", &["vxlan.vni", "frame.interface_name"], &[]);
    let count =
        |vni: &str, name: &str| rows.iter().filter(|row| row[0] == vni && row[1] == name).count() as u64;
    assert_eq!((count("100", "eth0"), count("4242", "eth2")), (FRAMES, 2 * FRAMES));

    let agent = Agent::start(&lab.router, &format!("-i eth0=vni:100 -i eth2 -d {SENSOR}"));
    let told = agent.wait_for_line("mirroring ");
    assert_eq!(told, "mirroring eth0, eth2 (ingress+egress) to 10.20.0.2:4789, vxlan vni 4242, eth0 vni 100");
    let _ = agent.stop();
}

#[test]
fn networks_that_cannot_be_are_refused() {
    let _turn = lock::shared();
    let lab = Lab::new();
    for (line, words) in [
        ("-i eth0=vni:16777216", ["eth0=vni:16777216", "0 to 16777215"]),
        ("-i eth0=vni:x", ["eth0=vni:x", "0 to 16777215"]),
        ("-i eth0=mtu:9", ["eth0=mtu:9", "no setting"]),
        ("-i eth0=vni:1 -i eth0=vni:2", ["eth0=vni:2", "another network"]),
        ("-i eth0=vni:1 -w a", ["vni:N", "--write-outer"]),
        ("-i eth0 --no-metadata", ["--no-metadata", "--encap geneve"]),
        ("-i eth0 -w a --encap geneve", ["--encap", "--write-outer"]),
    ] {
        agent::run(&lab.router, line, Duration::from_secs(5)).assert_failed(2, &words);
    }
}
