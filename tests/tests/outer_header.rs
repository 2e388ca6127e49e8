//! What other programs read from the outer headers: tshark decodes them as VXLAN, and the ports are those
//! of RFC 7348 section 5.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::collections::{HashMap, HashSet};

use mirror_tests::{
    agent::Agent,
    capture::Capture,
    check::Check,
    frames::{self, Flow, Plan},
    generator::Generator,
    lab::{DEFAULT_VNI, Lab},
    lock, pcap,
    scratch::Scratch,
    sensor::Sensor,
    tshark,
};

const FRAMES: u64 = 20_000;
/// Bytes of the outer Ethernet, IPv4, UDP and VXLAN headers.
const OUTER: usize = 14 + 20 + 8 + 8;

#[test]
fn tshark_decodes_the_datagrams_as_vxlan_with_ports_by_connection() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let sensor = Sensor::start(&lab.sensor, Check::new(0..FRAMES).vni(0xabcdef), |check, datagram| {
        check.look(datagram)
    });
    let capture = Capture::start(&lab.sensor, "eth0", &scratch.path("outer.pcap"), "udp");
    let agent = Agent::start(&lab.router, "--iface eth0 --dest 10.20.0.2 --vni 11259375 --report json");
    Generator::new("eth0").rate(10_000).send(&lab.client, 0..FRAMES);
    let report = agent.stop_and_report();
    sensor.finish().0.assert_complete();
    let path = capture.stop();
    assert_eq!(report.frames.sent, FRAMES);

    let names = [
        "frame.protocols",
        "ip.src",
        "ip.dst",
        "udp.srcport",
        "udp.dstport",
        "vxlan.vni",
        "vxlan.flags",
        "ip.checksum.status",
        "ip.flags.df",
    ];
    let rows = tshark::fields(&path, "", &names, &["ip.check_checksum:TRUE"]);
    let packets = pcap::read(&path);
    assert_eq!(rows.len() as u64, FRAMES, "one UDP datagram for each frame, and no others");
    assert_eq!(packets.len(), rows.len());
    let mut port_of: HashMap<Flow, HashSet<u16>> = HashMap::new();
    let mut directions: HashMap<Flow, HashSet<bool>> = HashMap::new();
    for (row, packet) in rows.iter().zip(&packets) {
        // Repeated fields are listed from the outermost header on.
        let outermost: Vec<&str> = row.iter().map(|field| field.split(',').next().unwrap()).collect();
        assert!(row[0].starts_with("eth:ethertype:ip:udp:vxlan:eth:"), "{row:?}");
        assert_eq!(outermost[1..3], ["10.20.0.1", "10.20.0.2"], "{row:?}");
        assert_eq!(outermost[4], "4789", "{row:?}");
        assert_eq!(outermost[5], "11259375", "{row:?}");
        assert_eq!(outermost[6], "0x0800", "only the I flag: {row:?}");
        assert_eq!(outermost[7], "1", "the outer IP checksum is good: {row:?}");
        let port: u16 = outermost[3].parse().unwrap();
        assert!(port >= 49_152, "{row:?}");
        let plan = Plan::of(frames::index_of(&packet.bytes[OUTER..]).unwrap());
        if let Some(flow) = plan.flow() {
            port_of.entry(flow).or_default().insert(port);
            directions.entry(flow).or_default().insert(plan.reply);
        }
    }

    let both_ways = directions.values().filter(|ways| ways.len() == 2).count();
    assert!(both_ways > 1_000, "{both_ways} flows in both directions: too few to tell");
    let split: Vec<_> = port_of.iter().filter(|(_, ports)| ports.len() > 1).collect();
    assert!(split.is_empty(), "{} flows from several ports, such as {:?}", split.len(), split[0]);

    // Flows thrown at 16384 ports at random hit so many of them; fewer means that the hash is poor.
    let ports: HashSet<u16> = port_of.values().flatten().copied().collect();
    let expected = 16_384.0 * (1.0 - (-(port_of.len() as f64) / 16_384.0).exp());
    println!(
        "{} flows, {both_ways} of them both ways, from {} ports (by chance: {expected:.0})",
        port_of.len(),
        ports.len()
    );
    assert!(ports.len() as f64 > expected * 0.9, "{} ports for {} flows", ports.len(), port_of.len());
    let mut sixteenths = [0; 16];
    for port in &ports {
        sixteenths[usize::from(port - 49_152) / 1_024] += 1;
    }
    let even = ports.len() / 16;
    assert!(
        sixteenths.iter().all(|count| (even / 2..=even * 2).contains(count)),
        "ports are not spread over the range: {sixteenths:?}"
    );
}

#[test]
fn ipv6_sensor_gets_every_frame_from_the_same_ports() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::with_ipv6(), Scratch::new());
    // Discovery on the client's link is mirrored too; the comparison is of the crafted frames only.
    let sensor = Sensor::start(&lab.sensor, Check::new(0..2_000).from("fd20::1"), |check, datagram| {
        if datagram.frame[6..10] != [2, 0, 0, 0] {
            check.look(datagram);
        }
    });
    let capture = Capture::start(&lab.sensor, "eth0", &scratch.path("outer.pcap"), "udp");
    let agent = Agent::start(&lab.router, "--iface eth0 --dest [fd20::2]:4789 --report json");
    Generator::new("eth0").rate(10_000).send(&lab.client, 0..2_000);
    let report = agent.stop_and_report();
    sensor.finish().0.assert_complete();
    assert_eq!(report.destinations[0].address, "[fd20::2]:4789");
    let rows = tshark::fields(
        &capture.stop(),
        "",
        &["frame.protocols", "vxlan.vni", "udp.checksum.status"],
        &["udp.check_checksum:TRUE", "udp.ignore_ipv6_zero_checksum:FALSE"],
    );
    assert_eq!(rows.len() as u64, report.datagrams_sent);
    for row in &rows {
        assert!(row[0].starts_with("eth:ethertype:ipv6:udp:vxlan:eth:"), "{row:?}");
        assert_eq!(row[1], DEFAULT_VNI.to_string(), "{row:?}");
        assert!(row[2].starts_with('1'), "the outer UDP checksum, which IPv6 needs, is not good: {row:?}");
    }
}
