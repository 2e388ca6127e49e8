//! Real programs through a mirrored router: the sensor gets what tcpdump sees on the interface.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{collections::BTreeMap, path::Path, process::Command, time::Duration};

use mirror_tests::{
    agent::Agent,
    capture::Capture,
    command,
    generator::Generator,
    lab::{Lab, MIRRORED, RUN},
    lock, pcap,
    scratch::Scratch,
    sensor::Sensor,
    tshark,
    web::WebServer,
};

/// A frame that no program sends, to cut both captures at the same place.
fn marker(text: &str) -> Vec<u8> {
    let mut frame = [&[2, 0, 0, 0, 0x99, 1, 2, 0, 0, 0, 0x99, 2, 0x88, 0xb5][..], text.as_bytes()].concat();
    frame.resize(60, 0);
    frame
}

/// What lies between the two markers.
fn between_markers(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let at = |text| {
        let marker = marker(text);
        frames.iter().position(|frame| *frame == marker).unwrap_or_else(|| panic!("no marker {text}"))
    };
    frames[at("begin") + 1..at("end")].to_vec()
}

fn write(path: &Path, frames: &[Vec<u8>]) {
    let mut writer = pcap::Writer::create(path, 65_535);
    for (number, frame) in (0..).zip(frames) {
        writer.write(number * 1_000, frame);
    }
    writer.finish();
}

/// Frames by what scapy takes them for.
fn scapy(path: &Path) -> Vec<String> {
    let script = "
import sys
from scapy.all import rdpcap
for packet in rdpcap(sys.argv[1]):
    print(packet.summary(), len(packet))
";
    let text = command::run(Command::new(command::python_with_scapy()).args(["-c", script]).arg(path));
    text.lines().map(str::to_owned).collect()
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort();
    list
}

#[test]
fn sensor_gets_what_tcpdump_sees_on_the_interface() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::with_ipv6(), Scratch::new());
    lab.offloads_off();
    std::fs::write(scratch.path("file"), vec![0x42; 300_000]).unwrap();
    let _servers =
        ["10.20.0.2", "fd20::2"].map(|address| WebServer::start(&lab.sensor, address, scratch.folder()));

    let capture = Capture::start(&lab.router, MIRRORED, &scratch.path("tcpdump.pcap"), "");
    let sensor = Sensor::keeping(&lab.sensor);
    let agent = Agent::start(&lab.router, RUN);
    let mark = |text| {
        std::thread::sleep(Duration::from_millis(100));
        Generator::new("eth0").send_frames(&lab.client, vec![marker(text)]);
        std::thread::sleep(Duration::from_millis(100));
    };
    mark("begin");
    lab.client.run("ping -n -c 5 -i 0.02 -W 2 10.20.0.2");
    lab.client.run("ping -n -c 3 -i 0.02 -W 2 -s 4000 10.20.0.2");
    lab.client.run("ping -n -6 -c 5 -i 0.02 -W 2 fd20::2");
    lab.client.run("ping -n -6 -c 3 -i 0.02 -W 2 -s 4000 fd20::2");
    lab.client.run("curl --silent --fail --output /dev/null http://10.20.0.2:8000/file");
    lab.client.run("curl --silent --fail --output /dev/null http://[fd20::2]:8000/file");
    mark("end");
    let report = agent.stop_and_report();
    let seen: Vec<Vec<u8>> = pcap::read(&capture.stop()).into_iter().map(|packet| packet.bytes).collect();
    let (got, _) = sensor.finish();
    assert_eq!(report.frames.sent, got.len() as u64);
    let (seen, got) = (between_markers(&seen), between_markers(&got));
    println!("{} frames on the interface, {} at the sensor; {:?}", seen.len(), got.len(), report.frames);

    // Two processors at work: frames of different connections may be in another order, but no frame is
    // another.
    assert!(seen.len() > 400, "too little traffic to compare: {}", seen.len());
    let mut difference: BTreeMap<&[u8], i64> = BTreeMap::new();
    for frame in &seen {
        *difference.entry(frame).or_default() += 1;
    }
    for frame in &got {
        *difference.entry(frame).or_default() -= 1;
    }
    difference.retain(|_, count| *count != 0);
    if let Some((frame, count)) = difference.first_key_value() {
        let hex: String = frame.iter().take(96).map(|byte| format!("{byte:02x}")).collect();
        let who = if *count > 0 { "tcpdump" } else { "the sensor" };
        panic!("{} frames differ; only {who} got one of {} bytes: {hex}", difference.len(), frame.len());
    }

    let (seen_path, got_path) = (scratch.path("seen.pcap"), scratch.path("got.pcap"));
    write(&seen_path, &seen);
    write(&got_path, &got);
    // Nothing here depends on the frames before, which may come in another order.
    let columns = [
        "eth.type",
        "ip.src",
        "ip.dst",
        "ip.id",
        "ip.frag_offset",
        "ipv6.src",
        "ipv6.dst",
        "ipv6.fraghdr.offset",
        "icmp.seq",
        "icmpv6.echo.sequence_number",
        "tcp.seq_raw",
        "tcp.ack_raw",
        "tcp.len",
        "frame.len",
    ];
    let no_state = ["ip.defragment:FALSE", "ipv6.defragment:FALSE", "tcp.desegment_tcp_streams:FALSE"];
    let read = |path: &Path| sorted(tshark::fields(path, "", &columns, &no_state));
    assert_eq!(read(&seen_path), read(&got_path), "by tshark");
    assert_eq!(sorted(scapy(&seen_path)), sorted(scapy(&got_path)), "by scapy");
    for (filter, least) in [
        ("icmp", 16),
        ("icmpv6.type == 128 || icmpv6.type == 129", 10),
        ("ip && tcp", 200),
        ("ipv6 && tcp", 200),
    ] {
        let count = tshark::count(&got_path, filter);
        assert!(count >= least, "{count} frames of {filter}");
    }
}

/// With offloads on, frames of 64 kB cross the interface, and checksums are left to a card that is not
/// there. Whatever becomes of them has a name in the ledger.
#[test]
fn ledger_balances_with_offloads_on() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    std::fs::write(scratch.path("file"), vec![0x42; 20_000_000]).unwrap();
    let server = WebServer::start(&lab.router, "10.10.0.1", scratch.folder());
    let sensor = Sensor::start(&lab.sensor, (), |(), _| ());
    let agent = Agent::start(&lab.router, RUN);
    let size = lab
        .client
        .run("curl --silent --fail --output /dev/null -w %{size_download} http://10.10.0.1:8000/file");
    drop(server);
    let report = agent.stop_and_report();
    let (_, totals) = sensor.finish();
    println!(
        "{:?}, truncated {}, errors {:?}; {totals:?}",
        report.frames, report.truncated, report.send_errors
    );
    assert_eq!(size, "20000000");
    assert!(report.frames.seen > 300, "{:?}", report.frames);
    assert_eq!(totals.datagrams, report.datagrams_sent);
}
