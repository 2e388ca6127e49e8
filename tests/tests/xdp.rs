//! `--hook xdp`: in front of everything that drops, in the driver or on socket buffers, and never in the place of
//! somebody else's program. (What both kinds have in common with every other hook is in kernels.rs.)

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use mirror_tests::{
    agent::{self, Agent},
    bpf::{self, Direction, ForeignProgram, RunCounts, Verdict},
    captures::udp_frame,
    check::Check,
    frames::checksum::Sum,
    generator::Generator,
    lab::{Lab, MIRRORED, RUN, UPLINK},
    link::veth,
    lock,
    sensor::Sensor,
};

/// Both kinds, and the words by which the agent names them.
const KINDS: [(&str, &str); 2] =
    [("native", "eth0: XDP in the driver (veth)"), ("generic", "eth0: XDP generic (veth)")];

fn arguments(kind: &str) -> String {
    format!("{RUN} --hook xdp --xdp-attach {kind}")
}

#[test]
fn what_tc_drops_is_seen_nevertheless() {
    const FRAMES: u64 = 1_000;
    let _turn = lock::shared();
    let _counts = RunCounts::on();
    for (kind, place) in KINDS {
        let lab = Lab::new();
        if !bpf::has_tcx(&lab.router, lab.mirrored_index) {
            return println!("skipped: this kernel has no TCX, by which the test drops");
        }
        let dropping =
            ForeignProgram::attach(&lab.router, lab.mirrored_index, Direction::Ingress, Verdict::Drop)
                .unwrap();
        let sensor =
            Sensor::start(&lab.sensor, Check::new(0..FRAMES), |check, datagram| check.look(datagram));
        let agent = Agent::start(&lab.router, &arguments(kind));
        assert!(agent.stderr().contains(place), "{}", agent.stderr());
        Generator::new("eth0").rate(5_000).send(&lab.client, 0..FRAMES);
        let report = agent.stop_and_report();
        sensor.finish().0.assert_complete();
        assert_eq!((&*report.hook, report.frames.sent), ("xdp", FRAMES), "{kind}");
        assert_eq!(dropping.runs(), FRAMES, "{kind}: each was dropped, behind the agent");
    }
}

#[test]
fn another_xdp_program_stays_alone() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let foreign = ForeignProgram::attach_xdp(&lab.router, lab.mirrored_index).unwrap();
    let before = lab.router.run("ip -d link show");
    for kind in ["auto", "native", "generic"] {
        let outcome = agent::run(&lab.router, &arguments(kind), Duration::from_secs(10));
        let id = format!("foreign (number {})", foreign.id());
        outcome.assert_failed(1, &[MIRRORED, &id, "--hook tc"]);
        assert_eq!(lab.router.run("ip -d link show"), before, "{kind}");
    }
    drop(foreign);
    let _ = Agent::start(&lab.router, &arguments("auto")).stop_and_report();
}

/// A veth pair's driver takes frames of one page only, unless they may be in several pieces.
#[test]
fn jumbo_frames_are_complete() {
    const MTU: u32 = 9_000;
    const FRAMES: usize = 300;
    let _turn = lock::shared();
    let refused = "XDP generic (veth), since the driver does not take it: Numerical result out of range";
    for (kind, place) in [("auto", refused), ("frags", "XDP in the driver, with frames in several pieces")] {
        let lab = Lab::new();
        lab.client.mtu("eth0", MTU);
        lab.router.mtu(MIRRORED, MTU);
        lab.router.mtu(UPLINK, MTU + 100);
        lab.sensor.mtu("eth0", MTU + 100);
        let list: Vec<Vec<u8>> = [60, 1514, 4_000, 9_014]
            .into_iter()
            .cycle()
            .take(FRAMES)
            .enumerate()
            .map(|(index, length)| udp_frame(index as u16, length))
            .collect();
        let sensor = Sensor::keeping(&lab.sensor);
        let agent = Agent::start(&lab.router, &arguments(kind));
        assert!(agent.stderr().contains(place), "{}", agent.stderr());
        Generator::new("eth0").rate(2_000).send_frames(&lab.client, list.clone());
        let report = agent.stop_and_report();
        let (received, _) = sensor.finish();
        assert!(received == list, "{kind}: {} frames of {FRAMES}", received.len());
        assert_eq!(report.frames.sent, FRAMES as u64);
    }
}

#[test]
fn an_interface_that_comes_back_is_mirrored_again() {
    const FRAMES: u64 = 500;
    let _turn = lock::shared();
    let lab = Lab::new();
    let sensor =
        Sensor::start(&lab.sensor, Check::new(0..2 * FRAMES), |check, datagram| check.look(datagram));
    let agent = Agent::start(&lab.router, &arguments("auto"));
    Generator::new("eth0").rate(5_000).send(&lab.client, 0..FRAMES);
    let said = agent.stderr().len();
    lab.router.ip(&format!("link del {MIRRORED}"));
    veth(&lab.router, MIRRORED, &lab.client, "eth0");
    agent.wait_for_text(said, "eth0: XDP in the driver (veth)", Duration::from_secs(5));
    Generator::new("eth0").rate(5_000).send(&lab.client, FRAMES..2 * FRAMES);
    let report = agent.stop_and_report();
    sensor.finish().0.assert_complete();
    assert_eq!(report.frames.sent, 2 * FRAMES);
}

/// A veth pair hands on what the stack left to a card, and XDP is not told.
#[test]
fn checksums_that_a_local_sender_left_out_are_right() {
    const BYTES: usize = 300_000;
    const DATAGRAMS: u8 = 50;
    let _turn = lock::shared();
    for (kind, _) in KINDS {
        let lab = Lab::with_ipv6();
        let sensor = Sensor::keeping(&lab.sensor);
        let agent = Agent::start(&lab.router, &arguments(kind));
        for address in ["10.10.0.1", "fd10::1"] {
            let listener = lab.router.within(move || TcpListener::bind((address, 7777)).unwrap());
            let reader = lab.router.thread("reader", move || {
                let mut got = Vec::new();
                listener.accept().unwrap().0.read_to_end(&mut got).unwrap();
                got.len()
            });
            lab.client.within(move || {
                let any = if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
                let socket = UdpSocket::bind(any).unwrap();
                for number in 0..DATAGRAMS {
                    // Of odd lengths too.
                    let _ = socket.send_to(&vec![number; 20 + usize::from(number)], (address, 9999));
                }
                TcpStream::connect((address, 7777)).unwrap().write_all(&[0x5a; BYTES]).unwrap();
            });
            assert_eq!(reader.join().unwrap(), BYTES);
        }
        thread::sleep(Duration::from_millis(300));
        let report = agent.stop_and_report();
        let (received, _) = sensor.finish();
        assert_eq!(report.frames.sent, report.frames.seen);
        let mut right = [[0; 2]; 2];
        for frame in &received {
            let Some((is_v6, is_udp, is_right)) = transport(frame) else { continue };
            assert!(is_right, "{kind}: wrong checksum: {frame:02x?}");
            right[usize::from(is_v6)][usize::from(is_udp)] += 1;
        }
        for [tcp, udp] in right {
            assert!(tcp * 1514 > BYTES && udp >= usize::from(DATAGRAMS), "{kind}: {right:?}");
        }
    }
}

/// Of a frame with TCP or UDP and no IP options: whether it is IPv6, whether UDP, whether its checksum is right.
fn transport(frame: &[u8]) -> Option<(bool, bool, bool)> {
    let (is_v6, protocol, addresses, start, end) = match frame[12..14] {
        [0x08, 0x00] => {
            let length = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
            (false, frame[23], &frame[26..34], 34, 14 + length)
        }
        [0x86, 0xdd] => {
            let length = usize::from(u16::from_be_bytes([frame[18], frame[19]]));
            (true, frame[20], &frame[22..54], 54, 54 + length)
        }
        _ => return None,
    };
    if protocol != 6 && protocol != 17 {
        return None;
    }
    let length = (end - start) as u32;
    let sum = Sum::default().with(addresses).with(&[0, protocol]).with(&length.to_be_bytes());
    Some((is_v6, protocol == 17, sum.with(&frame[start..end]).finish() == 0))
}

/// The load of million.rs, shorter.
#[test]
fn frames_at_full_rate_arrive_byte_for_byte_and_in_order() {
    const FRAMES: u64 = 400_000;
    const RATE: u64 = 100_000;
    let _turn = lock::alone();
    for (kind, _) in KINDS {
        let lab = Lab::new();
        let sensor =
            Sensor::start(&lab.sensor, Check::new(0..FRAMES), |check, datagram| check.look(datagram));
        let agent = Agent::start(&lab.router, &arguments(kind));
        let sent = Generator::new("eth0").rate(RATE).send(&lab.client, 0..FRAMES);
        let report = agent.stop_and_report();
        let (check, totals) = sensor.finish();
        println!("{kind}: sent in {:?}; the agent: {:?}; the sensor: {totals:?}", sent.time, report.frames);
        let planned = Duration::from_secs(FRAMES / RATE);
        assert!(sent.time < planned.mul_f64(1.1), "the generator was too slow: {:?}", sent.time);
        check.assert_complete();
        assert_eq!((report.frames.seen, report.frames.sent), (FRAMES, FRAMES));
        assert_eq!(report.interface(MIRRORED).bytes, sent.bytes);
        assert_eq!(totals.bytes, sent.bytes + 8 * FRAMES);
    }
}
