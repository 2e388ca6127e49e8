//! Every kind of super-frame that the kernel makes, and of unfinished checksum: the sensor gets what was on the
//! wire.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{fs, net::UdpSocket, os::fd::AsRawFd as _, process::Command};

use mirror_tests::{
    analysis::Analysis,
    command,
    generator::Generator,
    host::Host,
    lab::{CLIENT, Lab, MIRRORED, ROUTER},
    link::veth,
    lock,
    scratch::Scratch,
    super_frames::{self, ACK, CWR, Cut, DESTINATION, FIN, PSH, SOURCE, SuperFrame, TIME_STAMP, Transport},
    tshark,
    web::WebServer,
    wire,
};

fn lab() -> Lab {
    let lab = Lab::with_ipv6();
    wire::settle(&lab);
    lab
}

/// Downloads a file of so many bytes from `server`, whose address it is, to `client`.
fn download(server: &Host, address: &str, client: &Host, bytes: usize) {
    let folder = Scratch::new();
    fs::write(folder.path("file"), vec![0x42; bytes]).unwrap();
    let _server = WebServer::start(server, address, folder.folder());
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let size = client.run(&format!(
        "curl --silent --fail --max-time 20 --output /dev/null --write-out %{{size_download}} http://{host}:8000/file"
    ));
    assert_eq!(size, bytes.to_string());
}

#[test]
fn tcp_over_ipv6() {
    const BYTES: usize = 20_000_000;
    let _turn = lock::alone();
    let (lab, scratch) = (lab(), Scratch::new());
    let run = wire::mirror(&lab, &scratch, || {
        download(&lab.router, "fd10::1", &lab.client, BYTES);
        download(&lab.client, "fd10::2", &lab.router, BYTES);
    });
    run.assert_super_frames();
    run.assert_as_on_the_wire(2 * BYTES / 1428);
    Analysis::of(&run.mirrored, "ipv6 && tcp").assert_clean(2 * BYTES / 1428);
    let streams = run.streams.chosen(|stream| stream.so_far().1 > BYTES as u64);
    assert_eq!(streams.len(), 2);
    assert!(streams.iter().all(|stream| stream.complete().is_some()), "not all of it");
}

/// Sends `payload` in one call, to be cut into datagrams of `size` bytes (udp(7), `UDP_SEGMENT`).
fn send_segmented(host: &Host, destination: &str, size: i32, payload: usize) {
    let destination = destination.to_owned();
    host.within(move || {
        let any = if destination.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(any).unwrap();
        // SAFETY: the option takes an int, which is what it is given.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                (&raw const size).cast(),
                4,
            )
        };
        assert_eq!(result, 0, "UDP_SEGMENT: {}", std::io::Error::last_os_error());
        let payload: Vec<u8> = (0..payload).map(|index| (index * 7 + index / 251) as u8).collect();
        assert_eq!(socket.send_to(&payload, &*destination).unwrap(), payload.len());
    });
}

#[test]
fn udp_gso() {
    let _turn = lock::shared();
    let (lab, scratch) = (lab(), Scratch::new());
    // Nobody tells the senders that no one listens.
    let _listeners =
        [&lab.client, &lab.router].map(|host| host.within(|| UdpSocket::bind("[::]:7000").unwrap()));
    // The last one is shorter, odd, or there is only one.
    let sizes = [(1200, 12_000), (1400, 40_001), (1399, 1400), (1472, 1471), (100, 5_999)];
    let run = wire::mirror(&lab, &scratch, || {
        for (size, payload) in sizes {
            send_segmented(&lab.router, &format!("{CLIENT}:7000"), size, payload);
            send_segmented(&lab.client, &format!("{ROUTER}:7000"), size, payload);
            // 20 bytes less fit into a frame.
            send_segmented(&lab.router, "[fd10::2]:7000", size - 20, payload - 20);
            send_segmented(&lab.client, "[fd10::1]:7000", size - 20, payload - 20);
        }
    });
    let datagrams = |less: i32| -> usize {
        sizes.iter().map(|(size, payload)| (payload - less as usize).div_ceil((size - less) as usize)).sum()
    };
    let expected = 2 * (datagrams(0) + datagrams(20));
    run.assert_super_frames();
    run.assert_as_on_the_wire(expected);
    let analysis = Analysis::of(&run.mirrored, "udp.dstport == 7000");
    assert_eq!(analysis.frames, expected);
    analysis.assert_clean(expected);
}

const VLAN: &[(u16, u16)] = &[(0x8100, 0x2064)];
const QINQ: &[(u16, u16)] = &[(0x88a8, 5), (0x8100, 0x6006)];

/// Each with a port of its own.
fn crafted(all_tags: &[&'static [(u16, u16)]]) -> Vec<SuperFrame> {
    let mut list = Vec::new();
    for (tags, version) in all_tags.iter().flat_map(|tags| [(*tags, 4), (*tags, 6)]) {
        let mut add = |transport, payload, cut| {
            let port = 20_000 + list.len() as u16;
            list.push(SuperFrame { version, tags, transport, payload, cut, port });
        };
        for options in [&[][..], &TIME_STAMP] {
            for payload in [2_000, 10_001, 60_000] {
                for flags in [ACK, ACK | FIN | PSH, ACK | PSH | CWR] {
                    add(Transport::Tcp { flags, options }, payload, Cut::Segments(1400));
                }
            }
            for payload in [0, 1, 17, 1000] {
                add(Transport::Tcp { flags: ACK | PSH, options }, payload, Cut::Whole);
            }
        }
        for payload in [1201, 2400, 30_003] {
            add(Transport::Udp, payload, Cut::Segments(1200));
        }
        for payload in [0, 1, 1000, 1001] {
            add(Transport::Udp, payload, Cut::Whole);
        }
        // Not over IPv6: the fragments' identification is a random number of whoever cuts.
        if version == 4 {
            add(Transport::Udp, 10_001, Cut::Fragments(1400));
        }
    }
    list
}

fn frames_on_the_wire(list: &[SuperFrame]) -> usize {
    let count = |frame: &SuperFrame| match frame.cut {
        Cut::Whole => 1,
        Cut::Segments(size) => frame.payload.div_ceil(usize::from(size)),
        Cut::Fragments(size) => (frame.payload + 8).div_ceil(usize::from(size)),
    };
    list.iter().map(count).sum()
}

/// Only the frames that this program made.
const OURS: &str = "eth.src == 02:00:00:5e:20:01";

#[test]
fn crafted_super_frames_with_tags_and_options() {
    let _turn = lock::shared();
    let (lab, scratch) = (lab(), Scratch::new());
    let list = crafted(&[&[], VLAN, QINQ]);
    let run = wire::mirror(&lab, &scratch, || {
        super_frames::send(&lab.client, "eth0", list.clone());
        super_frames::send(&lab.router, MIRRORED, list.clone());
    });
    let expected = 2 * frames_on_the_wire(&list);
    run.assert_super_frames();
    run.assert_as_on_the_wire(expected);
    let analysis = Analysis::of(&run.mirrored, OURS);
    assert_eq!((analysis.frames, analysis.bad_checksums), (expected, 0), "{analysis:?}");
    assert!(analysis.good_checksums >= expected, "{analysis:?}");

    // FIN and PSH are on the last segment only, CWR is on the first only.
    let fields = ["tcp.srcport", "tcp.flags.fin", "tcp.flags.push", "tcp.flags.cwr"];
    let rows = tshark::fields(&run.mirrored, &format!("{OURS} && tcp"), &fields, &[]);
    for frame in list.iter().filter(|frame| frame.cut == Cut::Segments(1400)) {
        let Transport::Tcp { flags, .. } = frame.transport else { unreachable!("TCP is cut so") };
        let segments: Vec<_> = rows.iter().filter(|row| row[0] == frame.port.to_string()).collect();
        let (in_direction, rest) = segments.split_at(segments.len() / 2);
        assert_eq!(rest.len(), frame.payload.div_ceil(1400), "both ways");
        for segments in [in_direction, rest] {
            for (number, segment) in segments.iter().enumerate() {
                let (first, last) = (number == 0, number + 1 == segments.len());
                let expected =
                    [flags & FIN != 0 && last, flags & PSH != 0 && last, flags & CWR != 0 && first];
                assert_eq!(
                    segment[1..],
                    expected.map(|set| u8::from(set).to_string()),
                    "{number} of {frame:?}"
                );
            }
        }
    }
}

/// A tag that the kernel has taken off the bytes: a frame comes in at one interface with it, and goes out at
/// the mirrored one.
#[test]
fn super_frames_whose_tag_is_in_metadata_at_egress() {
    let _turn = lock::shared();
    let (lab, scratch) = (lab(), Scratch::new());
    let other = Host::new("other");
    veth(&lab.router, "eth2", &other, "eth0");
    lab.router.run("tc qdisc add dev eth2 clsact");
    lab.router.run(
        "tc filter add dev eth2 ingress protocol all prio 1 u32 match u32 0 0 \
         action mirred egress redirect dev eth0",
    );
    let list = crafted(&[VLAN, QINQ]);
    let run = wire::mirror(&lab, &scratch, || super_frames::send(&other, "eth0", list.clone()));
    let expected = frames_on_the_wire(&list);
    run.assert_super_frames();
    run.assert_as_on_the_wire(expected);
    let analysis = Analysis::of(&run.mirrored, &format!("{OURS} && vlan.id"));
    assert_eq!((analysis.frames, analysis.bad_checksums), (expected, 0), "{analysis:?}");
}

/// The underlay's link, and a device over it on the router and on the client: `ip link add`.
const TUNNELS: [(&str, &str, &str); 8] = [
    (
        "VXLAN with UDP checksums",
        "vxlan id 7 local 10.10.0.1 remote 10.10.0.2 dstport 4789 dev eth0 udpcsum",
        "vxlan id 7 local 10.10.0.2 remote 10.10.0.1 dstport 4789 dev eth0 udpcsum",
    ),
    (
        "VXLAN without UDP checksums",
        "vxlan id 7 local 10.10.0.1 remote 10.10.0.2 dstport 4789 dev eth0 noudpcsum",
        "vxlan id 7 local 10.10.0.2 remote 10.10.0.1 dstport 4789 dev eth0 noudpcsum",
    ),
    (
        "VXLAN over IPv6",
        "vxlan id 7 local fd10::1 remote fd10::2 dstport 4789 dev eth0",
        "vxlan id 7 local fd10::2 remote fd10::1 dstport 4789 dev eth0",
    ),
    (
        "VXLAN over IPv6 without UDP checksums",
        "vxlan id 7 local fd10::1 remote fd10::2 dstport 4789 dev eth0 udp6zerocsumtx udp6zerocsumrx",
        "vxlan id 7 local fd10::2 remote fd10::1 dstport 4789 dev eth0 udp6zerocsumtx udp6zerocsumrx",
    ),
    ("GENEVE", "geneve id 7 remote 10.10.0.2 dstport 6081", "geneve id 7 remote 10.10.0.1 dstport 6081"),
    ("GRE", "gre local 10.10.0.1 remote 10.10.0.2", "gre local 10.10.0.2 remote 10.10.0.1"),
    (
        "GRE with key and checksum",
        "gre local 10.10.0.1 remote 10.10.0.2 key 5 csum",
        "gre local 10.10.0.2 remote 10.10.0.1 key 5 csum",
    ),
    ("IPIP", "ipip local 10.10.0.1 remote 10.10.0.2", "ipip local 10.10.0.2 remote 10.10.0.1"),
];

#[test]
fn super_frames_in_tunnels() {
    const BYTES: usize = 3_000_000;
    let _turn = lock::alone();
    let mut tested = 0;
    for (name, router, client) in TUNNELS {
        let (lab, scratch) = (lab(), Scratch::new());
        let add = |host: &Host, device: &str, address: &str| {
            let line = format!("-n {} link add tun7 type {device}", host.name());
            let output = command::finish(Command::new("ip").args(line.split_whitespace()));
            if !output.status.success() {
                let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                println!("skipped: {name}: this kernel has no such device: {reason}");
                return false;
            }
            // No reports of multicast groups, which are sent when the kernel likes.
            host.set_sysctl("net/ipv6/conf/tun7/disable_ipv6", "1");
            host.ip("link set tun7 up");
            host.address("tun7", address);
            true
        };
        if !add(&lab.router, router, "10.77.0.1/24") || !add(&lab.client, client, "10.77.0.2/24") {
            continue;
        }
        println!("{name}");
        tested += 1;
        let run = wire::mirror(&lab, &scratch, || {
            download(&lab.router, "10.77.0.1", &lab.client, BYTES);
            download(&lab.client, "10.77.0.2", &lab.router, BYTES);
        });
        run.assert_super_frames();
        run.assert_as_on_the_wire(2 * BYTES / 1448);
        // A checksum that is not there is neither good nor bad; of the inner headers each has one.
        let mut analysis = Analysis::of(&run.mirrored, "tcp.len > 0");
        if router.contains("udp6zerocsumtx") {
            assert_eq!(std::mem::take(&mut analysis.forbidden_zeros), analysis.frames);
        }
        // Over a tunnel, TCP sends some segments of its first window twice, and tshark calls one that comes soon
        // out of order. It was so on the wire, as was just compared.
        if analysis.retransmissions > 0 {
            analysis.out_of_order = 0;
        }
        analysis.assert_clean(2 * BYTES / 1448);
    }
    assert!(tested >= 1, "no tunnel at all on this kernel");
}

/// What leaves a host wrong is wrong on the wire.
#[test]
fn wrong_checksums_stay_wrong() {
    let _turn = lock::shared();
    let (lab, scratch) = (lab(), Scratch::new());
    let mut list = Vec::new();
    for (tags, version) in [(&[][..], 4), (VLAN, 4), (&[], 6), (VLAN, 6)] {
        let transports = [Transport::Tcp { flags: ACK, options: &TIME_STAMP }, Transport::Udp];
        for (number, transport) in transports.into_iter().enumerate() {
            let port = 30_000 + number as u16;
            let frame = SuperFrame { version, tags, transport, payload: 500, cut: Cut::Whole, port };
            // Unfinished, and nobody was told so.
            list.push(frame.bytes()[10..].to_vec());
        }
    }
    let mut wrong_header = list[0].clone();
    wrong_header[14 + 10] ^= 1;
    list.push(wrong_header);
    assert!(list.iter().all(|frame| frame.starts_with(&DESTINATION) && frame[6..].starts_with(&SOURCE)));
    let run = wire::mirror(&lab, &scratch, || {
        Generator::new("eth0").through_hooks().send_frames(&lab.client, list.clone());
        Generator::new(MIRRORED).through_hooks().send_frames(&lab.router, list.clone());
    });
    run.assert_as_on_the_wire(2 * list.len());
    let mut got = run.mirrored_frames();
    got.retain(|frame| frame.starts_with(&DESTINATION));
    got.sort();
    let mut sent = [&list[..], &list[..]].concat();
    sent.sort();
    assert!(got == sent, "{} of {} frames as they were sent", got.len(), sent.len());
    let analysis = Analysis::of(&run.mirrored, OURS);
    assert_eq!(analysis.bad_checksums, 2 * (list.len() + 1), "{analysis:?}");
}
