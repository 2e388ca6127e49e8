//! `--encap geneve`: what a sensor makes of it, and a recorder of its option, whichever way datagrams leave.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use mirror_tests::{
    agent::{self, Agent},
    capture::Capture,
    captures::{self, Pcap, START, udp_frame},
    frames,
    generator::Generator,
    geneve::{self, HEADERS_LEN, Told},
    lab::{DEFAULT_VNI, Lab, MIRRORED, SENSOR, UPLINK},
    lock, pcap, replay,
    report::{Report, SinkReport},
    scratch::Scratch,
    sensor::Sensor,
    tshark,
};

/// Ways of datagrams and where to, with whether the agent sees what the host sends.
const WAYS: [(&str, &str, bool); 6] = [
    ("--transmit udp", "10.20.0.2", true),
    ("--transmit packet", "10.20.0.2", true),
    ("--transmit packet", "fd20::2", true),
    ("--mode redirect", "10.20.0.2", true),
    ("--mode redirect", "fd20::2", true),
    ("--hook xdp", "10.20.0.2", false),
];

/// A frame that came to the sensor.
struct Arrived {
    vni: u32,
    told: Option<Told>,
    frame: Vec<u8>,
}

fn keeping(lab: &Lab) -> Sensor<Vec<Arrived>> {
    Sensor::start_on(&lab.sensor, geneve::PORT, Vec::new(), |all: &mut Vec<Arrived>, datagram| {
        all.push(Arrived { vni: datagram.vni, told: datagram.told, frame: datagram.frame.to_vec() });
    })
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// The bytes inside, what is told of them, and what an independent decoder makes of the datagrams.
#[test]
fn each_way_sends_what_tshark_decodes() {
    const FRAMES: u64 = 150;
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::with_ipv6(), Scratch::new());
    // A veth pair would hand on checksums that are left to a card.
    lab.router.run(&format!("ethtool -K {UPLINK} tx off"));
    for (way, dest, sees_egress) in WAYS {
        let what = format!("{way} to {dest}");
        let sensor = keeping(&lab);
        let capture = Capture::start(&lab.sensor, "eth0", &scratch.path("datagrams"), "udp port 6081");
        let agent =
            Agent::start(&lab.router, &format!("-i eth0 -d {dest} --encap geneve --report json {way}"));
        let started = now();
        Generator::new("eth0").rate(5_000).send(&lab.client, 0..FRAMES);
        Generator::new(MIRRORED).rate(5_000).through_hooks().send(&lab.router, FRAMES..2 * FRAMES);
        let report = agent.stop_and_report();
        let ended = now();
        let datagrams = capture.stop();
        let (mut arrived, totals) = sensor.finish();

        assert_eq!(totals.malformed, 0, "{what}");
        assert_eq!(
            (&*report.encap, totals.datagrams, totals.bytes),
            ("geneve", report.datagrams_sent, report.bytes_sent),
            "{what}"
        );
        assert_eq!(report.frames.sent, report.frames.seen, "{what}: {:?}", report.frames);
        arrived.retain(|arrived| number_of(&arrived.frame).is_some());
        let expected = if sees_egress { 2 * FRAMES } else { FRAMES };
        assert_eq!(arrived.len() as u64, expected, "{what}");
        let mut last = [started; 2];
        for (index, Arrived { vni, told, frame }) in (0..).zip(&arrived) {
            let direction = u8::from(index >= FRAMES);
            assert_eq!(*frame, frames::frame(index), "{what}: frame {index}");
            assert_eq!(*vni, DEFAULT_VNI);
            let told = told.unwrap_or_else(|| panic!("{what}: nothing is told of frame {index}"));
            let interface = lab.mirrored_index;
            assert_eq!(
                told,
                Told { wire_len: frame.len() as u32, direction, interface, ..told },
                "{what}: {index}"
            );
            assert!(
                told.time >= last[usize::from(direction)],
                "{what}: frame {index} is older than the one before"
            );
            last[usize::from(direction)] = told.time;
        }
        assert!(last.iter().all(|&time| time <= ended), "{what}: {last:?} is to come at {ended}");

        // As the capture has them: in the order of arrival.
        let names = [
            "frame.protocols",
            "geneve.vni",
            "geneve.proto_type",
            "geneve.flags",
            "geneve.option.class",
            "geneve.option.type",
            "geneve.option.length",
            "geneve.option.unknown.data",
            "udp.checksum.status",
            "ip.checksum.status",
            "_ws.malformed",
        ];
        let options = ["ip.check_checksum:TRUE", "udp.check_checksum:TRUE"];
        let rows = tshark::fields(&datagrams, "geneve", &names, &options);
        assert_eq!(rows.len() as u64, totals.datagrams, "{what}");
        let mut told_in_hex: HashMap<String, usize> = HashMap::new();
        for row in &rows {
            let outer: Vec<&str> = row.iter().map(|field| field.split(',').next().unwrap()).collect();
            let v6 = dest.contains(':');
            let protocols =
                if v6 { "eth:ethertype:ipv6:udp:geneve:eth" } else { "eth:ethertype:ip:udp:geneve:eth" };
            assert!(row[0].starts_with(protocols), "{what}: {row:?}");
            assert_eq!(outer[1..4], ["0x001092", "0x6558", "0x00"], "{what}: {row:?}");
            assert_eq!(outer[4..6], ["0xff4d", "0x01"], "{what}: {row:?}");
            assert!(["20", "20 bytes"].contains(&outer[6]), "{what}: {row:?}");
            // Right; or none, which IPv4 allows.
            assert_eq!(outer[8], if v6 { "1" } else { "3" }, "{what}: the UDP checksum: {row:?}");
            assert!(v6 || outer[9] == "1", "{what}: the IP checksum: {row:?}");
            *told_in_hex.entry(outer[7].to_owned()).or_default() += 1;
        }
        for told in arrived.iter().filter_map(|arrived| arrived.told) {
            let third = u32::from(told.direction) << 24 | told.wire_len;
            let hex = format!("{:016x}{third:08x}{:08x}", told.time, told.interface);
            assert!(told_in_hex.contains_key(&hex), "{what}: tshark reads other data than {hex}");
        }
    }
}

/// Without the option there is as much in front of a frame as with VXLAN, and the sink has the time of arrival only.
#[test]
fn metadata_can_be_left_out() {
    const FRAMES: u64 = 100;
    let _turn = lock::shared();
    let lab = Lab::new();
    for way in ["", "--mode redirect"] {
        let sensor = keeping(&lab);
        let line = format!("-i eth0 -d {SENSOR} --encap geneve --no-metadata --vni 77 --report json {way}");
        let agent = Agent::start(&lab.router, &line);
        let sent = Generator::new("eth0").rate(5_000).send(&lab.client, 0..FRAMES);
        let report = agent.stop_and_report();
        let (arrived, totals) = sensor.finish();
        assert_eq!((report.datagrams_sent, totals.datagrams, totals.malformed), (FRAMES, FRAMES, 0), "{way}");
        assert_eq!(totals.bytes, sent.bytes + 8 * FRAMES, "{way}");
        for (index, arrived) in (0..).zip(&arrived) {
            assert_eq!((arrived.vni, arrived.told), (77, None), "{way}");
            assert_eq!(arrived.frame, frames::frame(index), "{way}");
        }
    }
}

/// What a recorder writes has the times of a capture on the mirrored interface, and direction and interface.
#[test]
fn recorder_keeps_the_times_of_capture() {
    const FRAMES: u64 = 1_500;
    let _turn = lock::shared();
    for way in ["--transmit udp", "--transmit packet", "--mode redirect"] {
        let (lab, scratch) = (Lab::new(), Scratch::new());
        let path = scratch.path("recorded.pcapng");
        let sink =
            Agent::start_sink(&lab.sensor, &format!("--encap geneve --report json -w {}", path.display()));
        assert_eq!(sink.wait_for_line("listening "), "listening on 0.0.0.0:6081");
        let on_interface = Capture::start(&lab.router, MIRRORED, &scratch.path("on-interface"), "");
        let line = format!("-i eth0 -d {SENSOR} --encap geneve --report json {way}");
        let agent = Agent::start(&lab.router, &line);
        let here =
            Generator::new(MIRRORED).rate(2_000).through_hooks().start(&lab.router, FRAMES..2 * FRAMES);
        Generator::new("eth0").rate(2_000).send(&lab.client, 0..FRAMES);
        here.finish();
        let report = agent.stop_and_report();
        let on_interface = pcap::read(&on_interface.stop());
        let received: SinkReport = sink.stop().json();
        assert_eq!((received.frames, received.malformed), (report.datagrams_sent, 0), "{way}");

        let captured: HashMap<u64, u64> =
            on_interface.iter().filter_map(|packet| Some((number_of(&packet.bytes)?, packet.time))).collect();
        let converted = scratch.path("converted.pcap");
        tshark::convert(&path, &converted);
        let names = ["frame.packet_flags_direction", "frame.interface_name"];
        let rows = tshark::fields(&path, "", &names, &[]);
        let mut apart = Vec::new();
        for (row, packet) in rows.iter().zip(pcap::read(&converted)) {
            assert_eq!(row[1], format!("geneve{DEFAULT_VNI}-if{}", lab.mirrored_index), "{way}");
            let Some(index) = number_of(&packet.bytes) else { continue };
            let direction = if index < FRAMES { "0x00000001" } else { "0x00000002" };
            assert_eq!(row[0], direction, "{way}: frame {index}");
            apart.push(packet.time.abs_diff(captured[&index]));
        }
        apart.sort_unstable();
        assert_eq!(apart.len() as u64, 2 * FRAMES, "{way}: frames compared");
        let at = |share: usize| apart[(apart.len() - 1) * share / 100] as f64 / 1e3;
        println!(
            "{way}: {} times differ from tcpdump's by {:.1} us at the median, {:.1} us at 99 %, {:.1} us at most",
            apart.len(),
            at(50),
            at(99),
            at(100)
        );
        assert!(at(50) < 50.0, "{way}: {} us at the median", at(50));
    }
}

/// A frame that was cut for the mirror has the length in the capture that it had on the wire.
#[test]
fn recorder_keeps_lengths() {
    const FRAMES: u64 = 200;
    const SNAPLEN: usize = 96;
    let _turn = lock::shared();
    for way in ["", "--mode redirect"] {
        let (lab, scratch) = (Lab::new(), Scratch::new());
        let path = scratch.path("recorded.pcapng");
        let sink =
            Agent::start_sink(&lab.sensor, &format!("--encap geneve --report json -w {}", path.display()));
        let line = format!("-i eth0 -d {SENSOR} --encap geneve -s {SNAPLEN} --report json {way}");
        let agent = Agent::start(&lab.router, &line);
        Generator::new("eth0").rate(5_000).send(&lab.client, 0..FRAMES);
        let _ = agent.stop_and_report();
        std::thread::sleep(Duration::from_millis(150));
        let report: SinkReport = sink.stop().json();
        assert_eq!(report.frames, FRAMES, "{way}");
        let rows = tshark::fields(&path, "", &["frame.cap_len", "frame.len"], &[]);
        let expected: Vec<Vec<String>> = (0..FRAMES)
            .map(|index| frames::frame(index).len())
            .map(|length| vec![length.min(SNAPLEN).to_string(), length.to_string()])
            .collect();
        assert_eq!(rows, expected, "{way}");
    }
}

/// The number of a crafted frame; `None` where it is none.
fn number_of(frame: &[u8]) -> Option<u64> {
    frames::index_of(frame).filter(|&index| index < 10_000 && frames::frame(index) == frame)
}

/// A replay tells of a frame what the capture says.
#[test]
fn replay_tells_what_the_capture_says() {
    const FRAMES: u64 = 500;
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let [first, second] = ["first.pcap", "second.pcap"].map(|name| scratch.path(name));
    captures::crafted(FRAMES, 1_001).save(&first);
    let cut = udp_frame(7, 200);
    let mut pcap = Pcap::ethernet();
    pcap.record(START + 5_000_000_001, 200, 1_400, &cut);
    pcap.save(&second);
    let sensor = keeping(&lab);
    let outcome = replay::play(&lab, &[&first, &second], "--encap geneve --topspeed");
    let report: Report = outcome.report();
    let (arrived, totals) = sensor.finish();
    assert_eq!((report.frames.sent, totals.datagrams, totals.malformed), (FRAMES + 1, FRAMES + 1, 0));
    for (index, Arrived { told, frame, .. }) in (0..).zip(&arrived[..FRAMES as usize]) {
        assert_eq!(*frame, frames::frame(index));
        let wire_len = frame.len() as u32;
        assert_eq!(*told, Some(Told { time: START + index * 1_001, wire_len, direction: 2, interface: 1 }));
    }
    let last = arrived.last().unwrap();
    assert_eq!(last.frame, cut);
    assert_eq!(
        last.told,
        Some(Told { time: START + 5_000_000_001, wire_len: 1_400, direction: 2, interface: 2 })
    );

    // The same into a file.
    let to = scratch.path("outer.pcapng");
    let line = format!(
        "-r {} -w {} --write-outer --encap geneve --vni 9 --report json",
        first.display(),
        to.display()
    );
    let outcome = agent::run(&lab.router, &line, replay::PATIENCE);
    assert_eq!(outcome.report().encap, "geneve");
    let rows = tshark::fields(&to, "geneve", &["geneve.vni", "udp.dstport"], &[]);
    assert_eq!(rows.len() as u64, FRAMES);
    assert!(
        rows.iter().all(|row| row[0].starts_with("0x000009") && row[1].starts_with("6081")),
        "{:?}",
        rows[0]
    );
    let converted = scratch.path("outer.pcap");
    tshark::convert(&to, &converted);
    for (index, packet) in (0..).zip(pcap::read(&converted)) {
        let (vni, told, frame) = geneve::open(&packet.bytes[42..]).unwrap();
        assert_eq!((vni, frame), (9, &*frames::frame(index)));
        assert_eq!(told.unwrap().time, START + index * 1_001);
    }
}

/// A frame is too long by one byte where the headers say so, for each way and each treatment.
#[test]
fn the_longest_frame_is_shorter_by_the_option() {
    const MTU: usize = 1500;
    let _turn = lock::shared();
    let lab = Lab::with_ipv6();
    lab.router.mtu(UPLINK, MTU as u32);
    lab.sensor.mtu("eth0", MTU as u32);
    for way in ["--transmit udp", "--transmit packet", "--mode redirect"] {
        for (dest, ip_len) in [("10.20.0.2", 20), ("fd20::2", 40)] {
            let fits = MTU - ip_len - 8 - HEADERS_LEN;
            let frames = [60, fits, fits + 1, 1514, 70].map(|length| udp_frame(length as u16, length));
            for oversize in ["fragment", "truncate", "drop"] {
                let is_redirect_v6 = way == "--mode redirect" && ip_len == 40;
                if (is_redirect_v6 || way == "--transmit udp") && oversize == "truncate" {
                    // Refused: see redirect.rs. And what is cut for the path is for either transmitter.
                    continue;
                }
                let what = format!("{way} to {dest}, {oversize}");
                let sensor = keeping(&lab);
                let agent = Agent::start(
                    &lab.router,
                    &format!(
                        "-i eth0 --direction ingress -d {dest} --encap geneve --oversize {oversize} --report json {way}"
                    ),
                );
                Generator::new("eth0").rate(200).send_frames(&lab.client, frames.to_vec());
                let report = agent.stop_and_report();
                let (mut arrived, _) = sensor.finish();
                arrived.retain(|arrived| arrived.frame[6..12] == frames[0][6..12]);
                let is_left_out = oversize == "drop" || is_redirect_v6;
                let expected: Vec<(Vec<u8>, usize)> = frames
                    .iter()
                    .filter(|frame| !is_left_out || frame.len() <= fits)
                    .map(|frame| match oversize {
                        "truncate" => (frame[..frame.len().min(fits)].to_vec(), frame.len()),
                        _ => (frame.clone(), frame.len()),
                    })
                    .collect();
                let found: Vec<(Vec<u8>, usize)> = arrived
                    .into_iter()
                    .map(|arrived| (arrived.frame, arrived.told.unwrap().wire_len as usize))
                    .collect();
                let lengths: Vec<_> = found.iter().map(|(frame, wire_len)| (frame.len(), wire_len)).collect();
                assert!(found == expected, "{what}: {lengths:?}");
                let too_big = (frames.len() - expected.len()) as u64;
                let cut = if oversize == "truncate" { 2 } else { 0 };
                assert_eq!((report.frames.too_big, report.truncated), (too_big, cut), "{what}");
            }
        }
    }
}

/// By the rules of RFC 8926 for who looks at options.
#[test]
fn sink_drops_what_it_must_not_take() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let sink = Agent::start_sink(&lab.sensor, "--encap geneve --report json");
    let frame = frames::frame(1);
    let datagram = |start: [u8; 4], options: &[u8]| [&start[..], &[0, 0, 7, 0], options, &frame].concat();
    let payloads = vec![
        datagram([0, 0, 0x65, 0x58], &[]),
        datagram([2, 0, 0x65, 0x58], &[1, 2, 3, 1, 9, 9, 9, 9]),
        // A critical option that nobody knows.
        datagram([2, 0x40, 0x65, 0x58], &[1, 2, 0x83, 1, 9, 9, 9, 9]),
        // One that is longer than all of them together.
        datagram([2, 0, 0x65, 0x58], &[1, 2, 3, 2, 9, 9, 9, 9]),
        // A message between tunnel endpoints.
        datagram([0, 0x80, 0x65, 0x58], &[]),
        // IPv4 rather than Ethernet.
        datagram([0, 0, 0x08, 0], &[]),
        vec![0; 7],
    ];
    let count = payloads.len() as u64;
    let payloads = payloads.into_iter().map(|payload| (50_000, payload)).collect();
    mirror_tests::vxlan::send(&lab.router, "10.20.0.2:6081", payloads);
    std::thread::sleep(Duration::from_millis(200));
    let report: SinkReport = sink.stop().json();
    assert_eq!((report.datagrams, report.frames, report.control, report.malformed), (count, 2, 1, 4));
    assert_eq!(report.vnis, [("7".to_owned(), 2)].into());
}
