//! The ways to a sensor, over real links between network namespaces. Needs root: says so and passes where
//! it is not.
#![allow(clippy::unwrap_used, reason = "tests")]

mod nat;
mod net;

use std::{
    collections::VecDeque,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use mirror_agent::{
    cli::Transmit,
    ledger::OutputCounters,
    output::{Output as _, sensor::Way},
};
use nat::Nat;
use net::{Net, PATIENCE, SENSOR_V4, SENSOR_V6, Sample, Sensor, ip, open, open_for, run, send, until};

/// Sizes around everything that matters: small, just below and above the MTU, several fragments, the most
/// that a datagram takes.
const LENGTHS: [usize; 16] =
    [60, 61, 64, 590, 1400, 1435, 1436, 1437, 1440, 1456, 1457, 1464, 1514, 2900, 9000, 65_499];

fn samples(first: u32, count: u32) -> Vec<Sample> {
    (first..first + count)
        .map(|number| Sample::new(number, LENGTHS[(number as usize * 7 + number as usize / 16) % 16]))
        .collect()
}

fn compare(sensor: &Sensor, samples: &[Sample]) {
    for (index, sample) in samples.iter().enumerate() {
        let received = sensor.next().unwrap_or_else(|| panic!("frame {index} did not arrive"));
        let (port, bytes) = sample.expected();
        let number = u32::from_be_bytes(received.1[..4].try_into().unwrap());
        assert_eq!(number, u32::from_be_bytes(bytes[..4].try_into().unwrap()), "frame {index} is another");
        assert_eq!(received.0, port, "source port of frame {index}");
        assert!(received.1 == bytes, "bytes of frame {index}, {} long", bytes.len());
    }
    assert!(sensor.next().is_none(), "more than was sent");
}

/// Everything arrives by `way`, as it is and in order, also over changes of ways.
fn everything_arrives(net: &Net, address: &'static str, way: Way) {
    let sensor = net.sensor(address);
    let sent = net.send(move || {
        let mut output = open_for(way, address, Transmit::Auto, 0, 1);
        let counters = OutputCounters::default();
        let mut sent = until(&mut output, way, 0, &counters);
        // Over more than two seconds, so that it is learnt anew meanwhile.
        for _ in 0..11 {
            let some = samples(sent.len() as u32, 200);
            send(&mut output, &some, &counters);
            assert_eq!(output.way(), way);
            output.flush(&counters).unwrap();
            sent.extend(some);
            thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(counters.sent.get(), sent.len() as u64);
        assert_eq!(counters.datagrams.get(), sent.len() as u64);
        assert_eq!(counters.send_failed.get(), 0);
        let bytes: usize = sent.iter().map(|sample| sample.bytes.len() + 8).sum();
        assert_eq!(counters.bytes.get(), bytes as u64);
        sent
    });
    compare(&sensor, &sent);
}

#[test]
fn everything_arrives_by_af_xdp_over_ipv4() {
    let Some(net) = Net::new() else { return };
    everything_arrives(&net, SENSOR_V4, Way::Xdp);
}

#[test]
fn everything_arrives_by_af_xdp_over_ipv6() {
    let Some(net) = Net::new() else { return };
    everything_arrives(&net, SENSOR_V6, Way::Xdp);
}

#[test]
fn everything_arrives_by_a_program_over_ipv4() {
    let Some(net) = Net::new() else { return };
    everything_arrives(&net, SENSOR_V4, Way::Program);
}

#[test]
fn everything_arrives_by_a_program_over_ipv6() {
    let Some(net) = Net::new() else { return };
    everything_arrives(&net, SENSOR_V6, Way::Program);
}

#[test]
fn jumbo_frames_take_a_packet_socket() {
    let Some(net) = Net::new() else { return };
    net.near("link set eth0 mtu 9000");
    net.far("link set eth0 mtu 9000");
    everything_arrives(&net, SENSOR_V4, Way::PacketSocket);
}

/// Of two threads each has a program of its own, where there is one queue only.
#[test]
fn several_threads_have_a_program_each() {
    two_threads(Transmit::Packet, [Way::Program, Way::Program]);
}

/// What a queue drops is tried again, and in the end given up, and counted either way.
#[test]
fn what_a_full_queue_drops_is_counted() {
    let Some(net) = Net::new() else { return };
    let sensor = net.sensor(SENSOR_V4);
    let near = net.near.clone();
    let (sent, failed, count) = net.send(move || {
        let mut output = open_for(Way::Program, SENSOR_V4, Transmit::Auto, 0, 1);
        let counters = OutputCounters::default();
        let count = until(&mut output, Way::Program, 0, &counters).len() as u64;
        // A kilobyte a millisecond, of which 20 kB may wait.
        run(&format!(
            "ip netns exec {near} tc qdisc add dev eth0 root tbf rate 8mbit burst 2000 limit 20000"
        ));
        let some: Vec<Sample> = (0..100).map(|number| Sample::new(number, 1400)).collect();
        send(&mut output, &some, &counters);
        (counters.sent.get(), counters.send_failed.get(), count + 100)
    });
    let received = sensor.all().len() as u64;
    println!("{sent} sent, {failed} failed, {received} received");
    assert_eq!((sent + failed, received), (count, sent));
}

#[test]
fn a_route_with_a_smaller_mtu_is_heeded() {
    let Some(net) = Net::new() else { return };
    net.near("route add 10.20.0.2/32 dev eth0 mtu 1000");
    // What is larger does not even get through.
    net.far("link set eth0 mtu 1000");
    everything_arrives(&net, SENSOR_V4, Way::Xdp);
}

#[test]
fn devices_on_top_of_others_take_a_packet_socket() {
    let Some(net) = Net::new() else { return };
    for (add, name) in [
        ("link add br0 type bridge", "br0"),
        ("link add mv0 link eth0 type macvlan mode bridge", "mv0"),
        ("link add vx0 type vxlan id 9 remote 10.20.0.2 dstport 7000 dev eth0", "vx0"),
    ] {
        net.near(add);
        if name == "br0" {
            net.near("link set eth0 master br0");
            net.near("address flush dev eth0");
        } else {
            net.far(&add.replace("10.20.0.2", "10.20.0.1"));
            net.far(&format!("link set {name} up"));
        }
        net.near(&format!("link set {name} up"));
        let device = if name == "br0" { "eth0" } else { name };
        net.near(&format!("address add 10.30.0.1/24 dev {name}"));
        net.far(&format!("address add 10.30.0.2/24 dev {device}"));
        everything_arrives(&net, "10.30.0.2:4789", Way::PacketSocket);
        net.near(&format!("link del {name}"));
        if name == "br0" {
            net.far("address del 10.30.0.2/24 dev eth0");
            net.near("address add 10.20.0.1/24 dev eth0");
        }
    }
}

#[test]
fn loopback_stays_with_the_stack() {
    let Some(net) = Net::new() else { return };
    let counters = net.send(|| {
        let receiver = std::net::UdpSocket::bind("127.0.0.1:4789").unwrap();
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut output = open("127.0.0.1:4789", Transmit::Auto, 0, 1);
        let counters = OutputCounters::default();
        for number in 0..20 {
            let sample = Sample::new(number, 100);
            send(&mut output, std::slice::from_ref(&sample), &counters);
            assert_eq!(output.way(), Way::Stack);
            let mut buffer = [0; 2000];
            let (length, from) = receiver.recv_from(&mut buffer).unwrap();
            assert_eq!((from.port(), buffer[8..length].to_vec()), sample.expected());
        }
        let mut output = open("127.0.0.1:4789", Transmit::Packet, 0, 1);
        let samples = [Sample::new(0, 100), Sample::new(1, 100)];
        let frames = [samples[0].frame(), samples[1].frame()];
        let error = output.send(&frames, &counters).unwrap_err().to_string();
        assert_eq!(
            error,
            "--transmit packet cannot reach 127.0.0.1:4789: datagrams leave through lo, which is no Ethernet \
             device: use --transmit auto"
        );
        counters
    });
    assert_eq!(
        (counters.sent.get(), counters.send_failed.get()),
        (21, 1),
        "the first of the last two found out"
    );
}

#[test]
fn udp_is_always_the_stack() {
    let Some(net) = Net::new() else { return };
    let sensor = net.sensor(SENSOR_V4);
    let sent = net.send(|| {
        let mut output = open(SENSOR_V4, Transmit::Udp, 0, 1);
        let sent = samples(0, 200);
        send(&mut output, &sent, &OutputCounters::default());
        assert_eq!(output.way(), Way::Stack);
        sent
    });
    compare(&sensor, &sent);
}

#[test]
fn a_second_thread_takes_a_packet_socket_where_there_is_one_queue() {
    two_threads(Transmit::Auto, [Way::Xdp, Way::PacketSocket]);
}

/// Two threads send in turn to one interface, each its way: all of it arrives, in order.
fn two_threads(first: Transmit, ways: [Way; 2]) {
    let Some(net) = Net::new() else { return };
    let sensor = net.sensor(SENSOR_V4);
    let sent = net.send(move || {
        let counters = OutputCounters::default();
        let mut outputs = [(ways[0], first, 0), (ways[1], Transmit::Packet, 1)]
            .map(|(way, transmit, thread)| open_for(way, SENSOR_V4, transmit, thread, 2));
        let mut sent = Vec::new();
        for (output, way) in outputs.iter_mut().zip(ways) {
            sent.extend(until(output, way, sent.len() as u32, &counters));
        }
        for _ in 0..5 {
            for output in &mut outputs {
                let some = samples(sent.len() as u32, 100);
                send(output, &some, &counters);
                sent.extend(some);
            }
        }
        assert_eq!(counters.sent.get(), sent.len() as u64);
        sent
    });
    compare(&sensor, &sent);
}

#[test]
fn several_queues_serve_several_threads() {
    let Some(net) = Net::new() else { return };
    net.near("link del eth0");
    ip(&format!(
        "link add eth0 netns {} numtxqueues 2 numrxqueues 2 type veth peer name eth0 netns {} numtxqueues 2 \
         numrxqueues 2",
        net.near, net.far
    ));
    net.near("address add 10.20.0.1/24 dev eth0");
    net.far("address add 10.20.0.2/24 dev eth0");
    net.near("link set eth0 up");
    net.far("link set eth0 up");
    net.wait_until_up();
    let sensor = net.sensor(SENSOR_V4);
    let sent = net.send(|| {
        let counters = OutputCounters::default();
        let mut outputs = [0, 1].map(|thread| open(SENSOR_V4, Transmit::Auto, thread, 2));
        let mut sent = Vec::new();
        for output in &mut outputs {
            sent.extend(until(output, Way::Xdp, sent.len() as u32, &counters));
            let some = samples(sent.len() as u32, 300);
            send(output, &some, &counters);
            sent.extend(some);
        }
        sent
    });
    compare(&sensor, &sent);
}

#[test]
fn a_translated_source_address_is_learnt() {
    let Some(net) = Net::new() else { return };
    net.near("address add 10.20.0.9/24 dev eth0");
    let sensor = net.sensor(SENSOR_V4);
    let sent = net.send(|| {
        nat::add(Nat::Source, [10, 20, 0, 1].into(), [10, 20, 0, 9].into());
        let mut output = open(SENSOR_V4, Transmit::Auto, 0, 1);
        let counters = OutputCounters::default();
        let mut sent = until(&mut output, Way::Xdp, 0, &counters);
        let some = samples(sent.len() as u32, 100);
        send(&mut output, &some, &counters);
        sent.extend(some);
        sent
    });
    let sources: Vec<_> = std::iter::from_fn(|| sensor.next_source()).collect();
    assert_eq!(sources, vec![IpAddr::from([10, 20, 0, 9]); sent.len()]);
}

#[test]
fn a_translated_destination_stays_with_the_stack() {
    let Some(net) = Net::new() else { return };
    let sensor = net.sensor(SENSOR_V4);
    let sent = net.send(|| {
        const SERVICE: &str = "10.20.0.3:4789";
        nat::add(Nat::Destination, [10, 20, 0, 3].into(), [10, 20, 0, 2].into());
        let mut output = open(SERVICE, Transmit::Auto, 0, 1);
        let counters = OutputCounters::default();
        let mut sent = samples(0, 100);
        send(&mut output, &sent, &counters);
        assert_eq!(output.way(), Way::Stack);
        let mut output = open(SERVICE, Transmit::Packet, 0, 1);
        sent.push(Sample::new(100, 60));
        let error = output.send(&[sent[100].frame(), sent[0].frame()], &counters).unwrap_err().to_string();
        assert_eq!(
            error,
            "--transmit packet cannot reach 10.20.0.3:4789: datagrams leave through eth0, for another address \
             or port than asked for (NAT): use --transmit auto"
        );
        sent
    });
    compare(&sensor, &sent);
}

#[test]
fn another_route_is_followed() {
    let Some(net) = Net::new() else { return };
    ip(&format!("link add eth1 netns {} type veth peer name eth1 netns {}", net.near, net.far));
    for (host, number) in [(&net.near, 1), (&net.far, 2)] {
        ip(&format!("-n {host} address add 10.21.0.{number}/24 dev eth1"));
        ip(&format!("-n {host} link set eth1 up"));
        run(&format!("ip netns exec {host} sysctl -qw net.ipv4.conf.all.rp_filter=0"));
        run(&format!("ip netns exec {host} sysctl -qw net.ipv4.conf.eth1.rp_filter=0"));
    }
    thread::sleep(Duration::from_millis(1200));
    let sensor = net.sensor(SENSOR_V4);
    let near = net.near.clone();
    let sent = net.send(move || {
        let mut output = open(SENSOR_V4, Transmit::Auto, 0, 1);
        let counters = OutputCounters::default();
        let mut sent = until(&mut output, Way::Xdp, 0, &counters);
        ip(&format!("-n {near} route add 10.20.0.2/32 via 10.21.0.2 dev eth1 src 10.20.0.1"));
        let crossed = || {
            let text = run(&format!("ip -n {near} -s -j link show eth1"));
            let (_, transmitted) = text.split_once("\"tx\"").unwrap();
            let (_, packets) = transmitted.split_once("\"packets\":").unwrap();
            packets.split(|letter: char| !letter.is_ascii_digit()).next().unwrap().parse::<u64>().unwrap()
        };
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(2300) {
            let some = samples(sent.len() as u32, 8);
            send(&mut output, &some, &counters);
            sent.extend(some);
            thread::sleep(Duration::from_millis(5));
        }
        let before = crossed();
        let some = samples(sent.len() as u32, 320);
        send(&mut output, &some, &counters);
        sent.extend(some);
        assert_eq!(output.way(), Way::Xdp);
        assert!(crossed() >= before + 320, "not by the new route");
        sent
    });
    compare(&sensor, &sent);
}

/// What arrived was sent, in this order, and nothing twice.
fn is_subsequence(received: &[(u16, Vec<u8>)], sent: &[Sample]) -> bool {
    let mut left: VecDeque<_> = sent.iter().map(Sample::expected).collect();
    received.iter().all(|frame| {
        while let Some(next) = left.pop_front() {
            if next == *frame {
                return true;
            }
        }
        false
    })
}

/// Sends for a while, changes something, and goes on until it works again, each way.
fn survives(change: impl Fn(&Net), mend: impl Fn(&Net)) {
    for way in [Way::Xdp, Way::Program] {
        survives_by(way, &change, &mend);
    }
}

fn survives_by(way: Way, change: impl FnOnce(&Net), mend: impl FnOnce(&Net)) {
    let Some(net) = Net::new() else { return };
    let sensor = net.sensor(SENSOR_V4);
    let (mut output, counters, mut sent) = net.send(move || {
        let mut output = open_for(way, SENSOR_V4, Transmit::Auto, 0, 1);
        let counters = OutputCounters::default();
        let mut sent = until(&mut output, way, 0, &counters);
        let some = samples(sent.len() as u32, 50);
        send(&mut output, &some, &counters);
        sent.extend(some);
        (output, counters, sent)
    });
    let before = sent.len();
    change(&net);
    let (mut output, counters, mut sent) = net.send(move || {
        for _ in 0..5 {
            let some = samples(sent.len() as u32, 3);
            send(&mut output, &some, &counters);
            sent.extend(some);
            thread::sleep(Duration::from_millis(20));
        }
        (output, counters, sent)
    });
    mend(&net);
    let after = sent.len();
    let (counters, sent) = net.send(move || {
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(1500) {
            let some = samples(sent.len() as u32, 3);
            send(&mut output, &some, &counters);
            sent.extend(some);
            thread::sleep(Duration::from_millis(20));
        }
        let more = until(&mut output, way, sent.len() as u32, &counters);
        sent.extend(more);
        let last = samples(sent.len() as u32, 50);
        send(&mut output, &last, &counters);
        assert_eq!(output.way(), way);
        sent.extend(last);
        (counters, sent)
    });
    let received = sensor.all();
    println!(
        "{way:?}: sent {} failed {} received {} of {} ({before} before, {after} at the mend)",
        counters.sent.get(),
        counters.send_failed.get(),
        received.len(),
        sent.len()
    );
    assert_eq!(counters.sent.get() + counters.send_failed.get(), sent.len() as u64);
    assert!(is_subsequence(&received, &sent), "out of order or doubled");
    let expected = |samples: &[Sample]| samples.iter().map(Sample::expected).collect::<Vec<_>>();
    assert!(received[..before] == expected(&sent[..before]), "lost before the change");
    let last = &sent[sent.len() - 50..];
    assert!(received[received.len() - 50..] == expected(last), "lost after the mend");
}

#[test]
fn link_down_and_up() {
    survives(|net| net.near("link set eth0 down"), |net| net.near("link set eth0 up"));
}

#[test]
fn carrier_lost_and_back() {
    survives(|net| net.far("link set eth0 down"), |net| net.far("link set eth0 up"));
}

#[test]
fn another_next_hop() {
    survives(
        |net| {
            net.far("link set eth0 address 02:00:00:00:20:99");
            net.near("neighbour flush dev eth0");
        },
        |_| {},
    );
}

#[test]
fn interface_removed_and_made_again() {
    survives(
        |net| net.near("link del eth0"),
        |net| {
            ip(&format!("link add eth0 netns {} type veth peer name eth0 netns {}", net.near, net.far));
            net.near("address add 10.20.0.1/24 dev eth0");
            net.far("address add 10.20.0.2/24 dev eth0");
            net.near("link set eth0 up");
            net.far("link set eth0 up");
        },
    );
}
