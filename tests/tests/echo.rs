//! The agent's own datagrams are never mirrored again, wherever they pass.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::time::Duration;

use mirror_tests::{
    agent::Agent,
    check::Check,
    frames,
    generator::Generator,
    host::Host,
    lab::{Lab, RUN, SENSOR, UPLINK, VXLAN_PORT},
    link::veth,
    lock,
    sensor::{Datagram, Sensor},
    tap::Tap,
};

/// What a sensor got, told apart.
struct Inside {
    crafted: Check,
    /// Frames that are themselves datagrams to the sensor.
    nested: u64,
    /// Frames of the hosts' own stacks: ARP between router and sensor.
    stack: u64,
}

impl Inside {
    fn new(frames: u64) -> Self {
        Self { crafted: Check::new(0..frames), nested: 0, stack: 0 }
    }

    fn look(&mut self, datagram: Datagram<'_>) {
        let frame = datagram.frame;
        if is_to_sensor(frame) {
            self.nested += 1;
        } else if frame[6..10] == [0x02, 0, 0, 0] {
            self.stack += 1;
        } else {
            self.crafted.look(datagram);
        }
    }
}

/// Whether a frame is an IPv4 datagram to the sensor's VXLAN port.
fn is_to_sensor(frame: &[u8]) -> bool {
    let sensor: std::net::Ipv4Addr = SENSOR.parse().unwrap();
    frame.len() > 42
        && frame[12..14] == [0x08, 0]
        && frame[23] == 17
        && frame[30..34] == sensor.octets()
        && frame[36..38] == VXLAN_PORT.to_be_bytes()
}

#[test]
fn interface_that_carries_the_mirror_traffic_has_no_echo() {
    const RATE: u64 = 50_000;
    const FRAMES: u64 = RATE * 10;
    let _turn = lock::alone();
    let lab = Lab::new();
    let sensor = Sensor::start(&lab.sensor, Inside::new(FRAMES), |inside, datagram| inside.look(datagram));
    let tap = Tap::outgoing_vxlan(&lab.router, UPLINK);
    let agent = Agent::start(&lab.router, "--iface eth1 --dest 10.20.0.2 --report json");
    let sent = Generator::new("eth0").rate(RATE).send(&lab.sensor, 0..FRAMES);
    let report = agent.stop_and_report();
    let passed_the_hook = tap.count();
    let (inside, _) = sensor.finish();
    println!(
        "{:?} of load: {:?}, {} datagrams sent, {passed_the_hook} of them past the egress hook; \
         at the sensor {} crafted, {} of the stacks, {} echoes",
        sent.time,
        report.frames,
        report.datagrams_sent,
        inside.crafted.count(),
        inside.stack,
        inside.nested
    );
    assert!(sent.time >= Duration::from_secs_f64(9.9), "{:?} of load", sent.time);
    assert_eq!(inside.nested, 0, "echoes");
    assert_eq!(report.frames.own, passed_the_hook, "own frames against what passed the hook");
    inside.crafted.assert_complete();
    assert_eq!(report.frames.sent, FRAMES + inside.stack);
    assert_eq!(report.frames.seen, report.frames.sent + report.frames.own);
}

#[test]
fn both_interfaces_of_a_router_are_mirrored_without_echo() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let sensor = Sensor::start(&lab.sensor, Inside::new(5_000), |inside, datagram| inside.look(datagram));
    let tap = Tap::outgoing_vxlan(&lab.router, UPLINK);
    let agent = Agent::start(&lab.router, &format!("{RUN} --iface eth1"));
    Generator::new("eth0").rate(5_000).send(&lab.client, 0..5_000);
    let report = agent.stop_and_report();
    let (inside, _) = sensor.finish();
    assert_eq!(inside.nested, 0, "echoes");
    assert_eq!(report.frames.own, tap.count());
    inside.crafted.assert_complete();
}

/// The way to the sensor leads over a veth pair and a bridge of the same host, all of it mirrored:
/// `up0` - `port` in the bridge `br0` with `eth1`.
#[test]
fn veth_pair_and_bridge_on_the_way_to_the_sensor_have_no_echo() {
    let _turn = lock::shared();
    let (client, router, sensor_host) = (Host::new("client"), Host::new("router"), Host::new("sensor"));
    veth(&client, "eth0", &router, "eth0");
    veth(&router, "eth1", &sensor_host, "eth0");
    veth(&router, "up0", &router, "port");
    for (host, iface, mac) in [
        (&client, "eth0", "02:00:00:00:10:02"),
        (&router, "eth0", "02:00:00:00:10:01"),
        (&router, "eth1", "02:00:00:00:20:03"),
        (&router, "up0", "02:00:00:00:20:01"),
        (&router, "port", "02:00:00:00:20:04"),
        (&sensor_host, "eth0", "02:00:00:00:20:02"),
    ] {
        host.mac(iface, mac);
        host.mtu(iface, 2_000);
    }
    router.ip("link add br0 type bridge forward_delay 0");
    router.ip("link set br0 address 02:00:00:00:20:05 mtu 2000 up");
    router.ip("link set eth1 master br0");
    router.ip("link set port master br0");
    router.address("up0", "10.20.0.1/24");
    sensor_host.address("eth0", "10.20.0.2/24");
    router.run("ping -n -c 1 -W 2 10.20.0.2");

    let sensor = Sensor::start(&sensor_host, Inside::new(3_000), |inside, datagram| inside.look(datagram));
    let agent = Agent::start(&router, &format!("{RUN} --iface up0 --iface port --iface br0 --iface eth1"));
    Generator::new("eth0").rate(2_000).send(&client, 0..3_000);
    let report = agent.stop_and_report();
    let (inside, _) = sensor.finish();
    println!("{:?}", report.frames);
    assert_eq!(inside.nested, 0, "echoes");
    inside.crafted.assert_complete();
    // Out of up0, in at port, out of eth1. The interfaces are let go one after another: the datagram of a frame that the
    // host sends by itself at that moment may be seen by some of them only.
    let all = 3 * report.datagrams_sent;
    assert!((all - 2..=all).contains(&report.frames.own), "{:?}", report.frames);
}

/// The guard knows the agent's own datagrams, and does not take every VXLAN for them.
#[test]
fn vxlan_of_others_is_mirrored() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let sensor = Sensor::keeping(&lab.sensor);
    let agent = Agent::start(&lab.router, RUN);
    // To the sensor's port, at another address, and from another: a tunnel between two other hosts.
    let mut datagram = Vec::new();
    let udp =
        (0..).map(frames::Plan::of).find(|plan| plan.kind == frames::Kind::Udp4 && plan.size > 200).unwrap();
    udp.write(&mut datagram);
    datagram[36..38].copy_from_slice(&VXLAN_PORT.to_be_bytes());
    datagram[42..50].copy_from_slice(&[8, 0, 0, 0, 0, 0x10, 0x92, 0]);
    Generator::new("eth0").send_frames(&lab.client, vec![datagram.clone(); 50]);
    let report = agent.stop_and_report();
    assert_eq!(sensor.finish().0, vec![datagram; 50]);
    assert_eq!(report.frames.own, 0);
}
