//! Suricata on the sensor sees in the mirror what it sees on the wire.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{fs, net::UdpSocket, process::Child};

use mirror_tests::{
    agent, captures,
    generator::Generator,
    host::Host,
    lab::{CLIENT, Lab, ROUTER, SENSOR},
    lock, replay,
    scratch::Scratch,
    super_frames::{self, ACK, Cut, PSH, SuperFrame, TIME_STAMP, Transport},
    suricata::{Suricata, assert_same, encapsulate},
    tshark,
    web::WebServer,
    wire,
};

const DOWNLOADS: usize = 4;
const FILE: usize = 2_000_000;

/// An option that it does not know keeps Suricata from nothing.
#[test]
fn suricata_sees_the_same_in_geneve_as_in_vxlan() {
    const FRAMES: u64 = 3_000;
    let Some(suricata) = Suricata::find() else { return };
    let _turn = lock::shared();
    let (host, scratch) = (Host::new("host"), Scratch::new());
    let source = scratch.path("source.pcap");
    captures::crafted(FRAMES, 1_000).save(&source);
    let [in_vxlan, mut in_geneve] = ["vxlan", "geneve"].map(|encap| {
        let (to, converted) = (scratch.path("outer.pcapng"), scratch.path("outer.pcap"));
        let line = format!(
            "-r {} -w {} --write-outer --encap {encap} --report json",
            source.display(),
            to.display()
        );
        let report = agent::run(&host, &line, replay::PATIENCE).report();
        assert_eq!((&*report.encap, report.frames.sent), (encap, FRAMES));
        tshark::convert(&to, &converted);
        let seen = suricata.read(&converted);
        assert_eq!(seen.stat(&format!("decoder.{encap}")), FRAMES, "datagrams");
        seen
    });
    println!("{} flows in {FRAMES} frames", in_geneve.flows.len());
    assert!(in_geneve.flows.len() > 100, "{} flows", in_geneve.flows.len());
    for counts in in_geneve.flows.values_mut() {
        // It counts frames with their Ethernet header here, and in VXLAN without.
        for (frames, bytes) in [&mut counts.to_server, &mut counts.to_client] {
            *bytes -= 14 * *frames;
        }
    }
    assert_same(&in_geneve.flows, &in_vxlan.flows);
    // Its decoder of VXLAN calls all invalid that is not IP, that of GENEVE hands it on.
    for stat in ["decoder.tcp", "decoder.udp", "decoder.vlan", "tcp.invalid_checksum"] {
        assert_eq!(in_geneve.stat(stat), in_vxlan.stat(stat), "{stat}");
    }
}

#[test]
fn suricata_sees_the_same_in_the_mirror_as_on_the_wire() {
    let Some(suricata) = Suricata::find() else { return };
    let _turn = lock::alone();
    let (lab, scratch) = (Lab::with_ipv6(), Scratch::new());
    wire::settle(&lab);
    fs::write(scratch.path("file"), vec![0x42; FILE]).unwrap();
    // On the router, on the client, and behind the router.
    let servers =
        [(&lab.router, "fd10::1"), (&lab.client, CLIENT), (&lab.sensor, SENSOR), (&lab.router, ROUTER)];
    let _servers = servers.map(|(host, address)| WebServer::start(host, address, scratch.folder()));
    let _listeners =
        [&lab.client, &lab.router].map(|host| host.within(|| UdpSocket::bind("[::]:7000").unwrap()));
    let crafted = |tags, version, port| SuperFrame {
        version,
        tags,
        transport: Transport::Tcp { flags: ACK | PSH, options: &TIME_STAMP },
        payload: 30_001,
        cut: Cut::Segments(1400),
        port,
    };
    let watching = suricata.watch(&lab.sensor);
    let run = wire::mirror(&lab, &scratch, || {
        let downloads: Vec<Child> =
            [(&lab.client, "[fd10::1]"), (&lab.router, CLIENT), (&lab.client, SENSOR), (&lab.client, ROUTER)]
                .iter()
                .flat_map(|download| [download; DOWNLOADS])
                .map(|(host, server)| {
                    host.command("curl")
                        .args(["--silent", "--fail", "--max-time", "20", "--limit-rate", "2M"])
                        .args(["--output", "/dev/null", &format!("http://{server}:8000/file")])
                        .spawn()
                        .unwrap()
                })
                .collect();
        lab.client.run(&format!("ping -n -c 5 -i 0.02 -W 2 -s 1000 {SENSOR}"));
        super_frames::send(&lab.client, "eth0", vec![crafted(&[], 4, 1), crafted(&[(0x8100, 7)], 4, 2)]);
        super_frames::send(&lab.router, "eth0", vec![crafted(&[], 6, 3), crafted(&[(0x8100, 7)], 6, 4)]);
        // A wrong checksum is wrong in both.
        let wrong = SuperFrame { payload: 500, cut: Cut::Whole, ..crafted(&[], 4, 5) };
        Generator::new("eth0").through_hooks().send_frames(&lab.client, vec![wrong.bytes()[10..].to_vec()]);
        for mut download in downloads {
            assert!(download.wait().unwrap().success(), "a download");
        }
    });
    let mirrored = watching.stop();
    let encapsulated = scratch.path("encapsulated.pcap");
    let frames = encapsulate(&run.wire, &encapsulated);
    let on_the_wire = suricata.read(&encapsulated);

    run.assert_super_frames();
    run.assert_as_on_the_wire(4 * DOWNLOADS * FILE / 1448);
    assert_eq!(mirrored.stat("capture.kernel_drops"), 0, "suricata was too slow");
    println!("{frames} frames on the wire, {} flows", mirrored.flows.len());
    let large = mirrored.flows.values().filter(|counts| counts.to_client.1 > FILE as u64).count();
    assert_eq!(large, 4 * DOWNLOADS, "downloads");
    assert_same(&mirrored.flows, &on_the_wire.flows);
    for stat in [
        "decoder.tcp",
        "decoder.icmpv4",
        "decoder.vlan",
        "decoder.invalid",
        "tcp.invalid_checksum",
        "tcp.syn",
        "tcp.synack",
        "tcp.rst",
        "tcp.reassembly_gap",
        "tcp.pkt_on_wrong_thread",
        "app_layer.flow.http",
        "app_layer.tx.http",
    ] {
        println!("{stat}: {}", mirrored.stat(stat));
        assert_eq!(mirrored.stat(stat), on_the_wire.stat(stat), "{stat}");
    }
    assert_eq!(mirrored.stat("tcp.invalid_checksum"), 1, "the one that was sent so");
    assert_eq!(mirrored.stat("tcp.reassembly_gap"), 0);
    assert_eq!(mirrored.stat("app_layer.tx.http"), 4 * DOWNLOADS as u64);
}
