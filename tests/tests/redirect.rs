//! What is peculiar to redirect mode: it sends by headers that it learnt, and must notice when they are no longer
//! right. What it has in common with ring mode is tested by the tests of that mode (`cargo xtask test` runs
//! them a second time), and by kernels.rs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{thread::sleep, time::Duration};

use mirror_tests::{
    agent::{self, Agent},
    capture::Capture,
    command, frames,
    generator::Generator,
    host::Host,
    lab::{Lab, MIRRORED, RUN, UPLINK},
    link::veth,
    lock, pcap,
    scratch::Scratch,
    sensor::Sensor,
    tap::Tap,
};

const REDIRECT: &str = "--mode redirect";

/// Hands everything that has passed the agent's hook on to the `eth0` of a host of its own.
fn originals(lab: &Lab) -> Host {
    let far = Host::new("far");
    veth(&lab.router, "far0", &far, "eth0");
    lab.router.run(&format!("tc qdisc add dev {MIRRORED} clsact"));
    lab.router.run(&format!(
        "tc filter add dev {MIRRORED} ingress protocol all prio 9 u32 match u32 0 0 action mirred egress redirect dev far0"
    ));
    far
}

/// A second way to the sensor: `eth2` to its `eth1`.
fn second_way(lab: &Lab) {
    veth(&lab.router, "eth2", &lab.sensor, "eth1");
    lab.router.mtu("eth2", 2000);
    lab.sensor.mtu("eth1", 2000);
    lab.router.address("eth2", "10.21.0.1/24");
    lab.sensor.address("eth1", "10.21.0.2/24");
    for name in ["all", "eth0", "eth1"] {
        lab.sensor.set_sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "0");
    }
}

/// Deletes a neighbour entry, if there is one at the moment.
fn forget_neighbour(lab: &Lab, address: &str, iface: &str) {
    command::finish(lab.router.command("ip").args(["neigh", "del", address, "dev", iface]));
}

/// Neighbours, routes and MAC addresses change under load, and every frame is in the books: what is counted as sent
/// has arrived at an interface of the sensor, and the originals have all gone on.
#[test]
fn nothing_is_unaccounted_for_while_the_way_changes() {
    const FRAMES: u64 = 2_000_000;
    let _turn = lock::alone();
    let lab = Lab::new();
    second_way(&lab);
    // Tells the neighbours of a new address, as hosts do.
    lab.sensor.set_sysctl("net/ipv4/conf/eth0/arp_notify", "1");
    let far = originals(&lab);
    let gone_on = Tap::everything(&far, "eth0");
    let sensor = Sensor::start(&lab.sensor, (), |(), _| {});
    let taps: Vec<Tap> = ["eth0", "eth1"]
        .iter()
        .flat_map(|iface| {
            [Tap::incoming_vxlan(&lab.sensor, iface), Tap::misdirected_vxlan(&lab.sensor, iface)]
        })
        .collect();
    let agent = Agent::start(&lab.router, &format!("{RUN} {REDIRECT} --direction ingress"));
    let running = Generator::new("eth0").rate(200_000).start(&lab.client, 0..FRAMES);
    let mut rounds = 0;
    while running.sent() < FRAMES * 9 / 10 {
        let pause = || sleep(Duration::from_millis(100));
        forget_neighbour(&lab, "10.20.0.2", UPLINK);
        pause();
        lab.router.ip("route replace 10.20.0.2/32 via 10.21.0.2 dev eth2");
        pause();
        forget_neighbour(&lab, "10.21.0.2", "eth2");
        pause();
        lab.router.ip("route del 10.20.0.2/32");
        pause();
        lab.sensor.mac("eth0", &format!("02:00:00:00:21:{:02x}", rounds % 250));
        pause();
        lab.router.ip("route add unreachable 10.20.0.2/32");
        sleep(Duration::from_millis(20));
        lab.router.ip("route del unreachable 10.20.0.2/32");
        pause();
        rounds += 1;
    }
    let sent = running.finish();
    let report = agent.stop_and_report();
    let (_, totals) = sensor.finish();
    let arrived: u64 = taps.iter().map(Tap::count).sum();
    println!(
        "{rounds} rounds in {:?}: {:?}, {:?}; {arrived} arrived at the sensor's interfaces, {} at its socket",
        sent.time, report.frames, report.send_errors, totals.datagrams
    );
    assert_eq!(sent.frames, FRAMES);
    assert_eq!(gone_on.count(), FRAMES, "the originals");
    assert_eq!(report.frames.seen, FRAMES);
    assert_eq!(report.frames.sent + report.frames.send_failed, FRAMES, "{:?}", report.frames);
    assert_eq!(report.datagrams_sent, report.frames.sent);
    assert_eq!(arrived, report.datagrams_sent, "what was counted as sent is there");
    let errors: u64 = report.send_errors.values().sum();
    assert_eq!(errors, report.frames.send_failed, "each loss has a name: {:?}", report.send_errors);
    assert!(rounds >= 5, "{rounds} rounds");
    assert!(report.frames.sent > FRAMES * 8 / 10, "{:?}", report.frames);
}

/// The copy leaves no trace on the original: the same bytes go on, in the same order.
#[test]
fn originals_go_on_unchanged() {
    const FRAMES: u64 = 3_000;
    let _turn = lock::shared();
    let lab = Lab::new();
    let far = originals(&lab);
    let scratch = Scratch::new();
    let capture = Capture::start(&far, "eth0", &scratch.path("originals.pcap"), "");
    let expected: Vec<Vec<u8>> = (0..FRAMES).map(frames::frame).collect();
    let agent = Agent::start(&lab.router, &format!("{RUN} {REDIRECT} --direction ingress"));
    Generator::new("eth0").rate(10_000).send(&lab.client, 0..FRAMES);
    let report = agent.stop_and_report();
    let gone_on: Vec<Vec<u8>> = pcap::read(&capture.stop()).into_iter().map(|packet| packet.bytes).collect();
    assert_eq!(report.frames.sent, FRAMES);
    assert!(gone_on == expected, "{} of {FRAMES}", gone_on.len());
}

#[test]
fn what_redirect_mode_cannot_do_is_refused() {
    let lab = Lab::with_ipv6();
    let second = Duration::from_secs(10);
    for (line, code, words) in [
        ("-i eth0", 1, ["127.0.0.1", "--mode ring"]),
        ("-i eth0 -d 10.20.0.1", 1, ["10.20.0.1", "--mode ring"]),
        ("-i eth0 -d 192.0.2.1", 1, ["192.0.2.1", "route"]),
        ("-i eth0 -d fd20::2 --oversize truncate", 1, ["fd20::2", "--mode ring"]),
        ("-i eth0 -w -", 2, ["--write", "--mode ring"]),
        ("-i eth0 -d 10.20.0.2 --hook xdp", 2, ["--hook xdp", "--mode ring"]),
        ("-i eth0 -d 10.20.0.2 --cpu 0", 2, ["--cpu", "--mode ring"]),
    ] {
        let before = lab.router.ip("-o link");
        agent::run(&lab.router, &format!("{line} {REDIRECT}"), second).assert_failed(code, &words);
        assert_eq!(lab.router.ip("-o link"), before, "{line}: a device stays");
    }
}

/// Without Ethernet there is nothing to put in front of.
#[test]
fn tunnel_to_the_sensor_is_refused() {
    let lab = Lab::new();
    lab.router.ip("tuntap add dev tun7 mode tun");
    lab.router.ip("link set tun7 up");
    lab.router.ip("route add 10.99.0.0/24 dev tun7");
    let outcome =
        agent::run(&lab.router, &format!("-i eth0 -d 10.99.0.2 {REDIRECT}"), Duration::from_secs(10));
    outcome.assert_failed(1, &["tun7", "--mode ring"]);
}
