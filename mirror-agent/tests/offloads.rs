//! What the hooks tell of work that was left to the network card. Needs root: says so and passes where it is not.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "kernel_segments/link.rs"]
mod link;
mod net;
mod super_frames;

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::Duration,
};

use link::{Link, VnetHeader};
use mirror_agent::{
    cli::Attach,
    kernel::{
        accounts::Accounts,
        hooks::{Hooks, Manner, Place},
        load, skb_layout,
        support::Support,
    },
    links::Links,
    names::Names,
    source::Batch,
};
use mirror_common::{
    counters::HookCounters,
    flow,
    headers::Headers,
    own::Ports,
    record::{ChecksumPlace, Direction, FRAME_MAX, RecordHeader, Segmentation},
    settings::{Redirect, Select, Settings, SkbLayout, XdpLayout},
};
use net::{run, within};
use super_frames::{ACK, PSH, Stack, naive, payload, tcp, udp};

/// Enough for everything that a test sends: it is read when all is over.
const RING: u32 = 64 << 20;

const PORT: u16 = 7777;

struct Seen {
    header: RecordHeader,
    bytes: Vec<u8>,
}

impl Seen {
    fn checksum(&self) -> Option<ChecksumPlace> {
        ChecksumPlace::unpacked(self.header.checksum)
    }

    fn segmentation(&self) -> (Segmentation, u16) {
        (Segmentation::from_number(self.header.segmentation).unwrap(), self.header.gso_size)
    }

    fn is(&self, direction: Direction) -> bool {
        self.header.direction == direction as u16
    }
}

/// What the hooks of a host's eth0 see while `work` is done, and how they count it.
fn watch(
    host: &str,
    frame_max: usize,
    skb: SkbLayout,
    work: impl FnOnce() + Send + 'static,
) -> (Vec<Seen>, Vec<HookCounters>) {
    within(host, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let links = Links::connect(false).unwrap();
            let link = links.all().await.unwrap().into_iter().find(|link| link.name == "eth0").unwrap();
            let settings = Settings {
                rings: 1,
                frame_max: frame_max as u32,
                snaplen: u32::MAX,
                sensor_ports: Ports::NONE,
                time_stamps: 0,
                skb,
                select: Select::ALL,
                redirect: Redirect::OFF,
                has_filter: 0,
                xdp: XdpLayout::UNKNOWN,
            };
            let place = Place::Tc(Support::probe().unwrap().tc_hook(Attach::Auto).unwrap());
            let load::Loaded { ebpf, mut rings, counters, own_paths, .. } =
                load::load(&settings, RING, place, None).unwrap();
            let both = Direction::ALL.to_vec();
            let netlink = links.handle.clone();
            let accounts = Accounts::new(counters, both.clone(), Names::default());
            let mut hooks = Hooks::new(ebpf, accounts, own_paths, both, place, false, netlink);
            hooks.attach(&link, Manner::Named).await.unwrap();
            work();
            hooks.detach_all().await;
            let mut all = Vec::new();
            let ring = &mut rings[0];
            while let Some(end) = take(ring.batch(), &mut all) {
                ring.release(end);
            }
            for seen in &all {
                assert_eq!(seen.header.captured_len as usize, seen.bytes.len());
                assert_eq!(seen.header.original_len, seen.header.captured_len);
            }
            let counters = hooks.seen().unwrap().into_iter().map(|seen| seen.counters).collect();
            (all, counters)
        })
    })
}

/// The position behind a batch.
fn take(batch: Option<Batch<'_>>, into: &mut Vec<Seen>) -> Option<usize> {
    let batch = batch?;
    for frame in &batch.frames {
        into.push(Seen { header: *frame.header, bytes: frame.bytes.to_vec() });
    }
    Some(batch.end)
}

/// The layout of this kernel's `sk_buff`, or `None` where it is not told.
fn layout() -> Option<SkbLayout> {
    let layout = skb_layout::find();
    if layout.is_known == 0 {
        eprintln!("skipped: this kernel does not tell the layout of its sk_buff");
        return None;
    }
    Some(layout)
}

/// Sends `samples` from the near host, and gives what the hook of `direction` on eth0 sees of them: that of the
/// near host as they leave, or that of the far host as they arrive.
fn pass(link: Link, direction: Direction, skb: SkbLayout, samples: &[Sample]) -> (Vec<Seen>, Link) {
    let host = if direction == Direction::Egress { link.near() } else { link.far() }.to_owned();
    let samples = samples.to_vec();
    let (sender, receiver) = std::sync::mpsc::channel();
    let (mut seen, _) = watch(&host, FRAME_MAX, skb, move || {
        for sample in &samples {
            link.send(&sample.vnet(), &sample.stack.bytes);
        }
        // What the far host's stack has yet to see.
        thread::sleep(Duration::from_millis(50));
        sender.send(link).unwrap();
    });
    seen.retain(|seen| seen.is(direction) && seen.bytes.starts_with(&super_frames::DESTINATION));
    (seen, receiver.recv().unwrap())
}

/// A frame as a virtual machine hands it to its host, with what is left to the card.
#[derive(Clone, Debug)]
struct Sample {
    stack: Stack,
    version: u8,
    /// `None`: nothing is.
    left: Option<(Segmentation, u16)>,
}

impl Sample {
    fn vnet(&self) -> VnetHeader {
        match self.left {
            // The kernel keeps no more of a long frame in its linear area than this says.
            None => VnetHeader { hdr_len: 14, ..VnetHeader::default() },
            Some((kind, size)) => {
                VnetHeader::of(&self.stack.header(kind, size), &self.stack.bytes, self.version)
            }
        }
    }

    fn assert_told(&self, seen: &Seen) {
        let what = format!("{:?}: {:?}", self.vnet(), seen.header);
        assert_eq!(seen.bytes, self.stack.bytes, "{what}");
        assert_eq!(seen.header.flow_hash, flow::hash(&Headers::of(&self.stack.bytes[..])), "{what}");
        assert_eq!(seen.segmentation(), self.left.unwrap_or((Segmentation::None, 0)), "{what}");
        assert_eq!(seen.checksum(), self.left.and_then(|_| self.stack.place()), "{what}");
    }
}

/// Every kind of super-frame behind every number of tags.
fn samples() -> Vec<Sample> {
    let long = payload(5000);
    let whole = (Segmentation::None, 0);
    let mut samples = Vec::new();
    for tags in [&[][..], &[(0x8100, 0x6064)], &[(0x88a8, 5), (0x8100, 6)]] {
        for (version, ethertype) in [(4, 0x0800), (6, 0x86dd)] {
            let ip = |stack: &Stack, protocol| {
                let stack = match version {
                    4 => stack.v4(protocol, 7, 0x4000, &[]),
                    _ => stack.v6(protocol, &[]),
                };
                stack.tagged(tags, ethertype)
            };
            let segments = |payload: &[u8]| ip(&tcp(9, ACK | PSH, &[], payload), 6);
            let datagrams = |payload: &[u8]| ip(&udp(payload), 17);
            for (stack, left) in [
                (segments(&long[..100]), None),
                (segments(&long[..100]), Some(whole)),
                (datagrams(&long[..101]), Some(whole)),
                (segments(&long), Some((Segmentation::Tcp, 1200))),
                (datagrams(&long), Some((Segmentation::Udp, 700))),
                (datagrams(&long), Some((Segmentation::Fragments, 1400))),
            ] {
                samples.push(Sample { stack, version, left });
            }
        }
    }
    samples
}

/// Out through the hook the outer tag is in the bytes; on the way in, the kernel has put it into the metadata.
#[test]
fn frames_of_a_virtual_machine() {
    let Some(layout) = layout() else { return };
    let Some(mut link) = Link::new() else { return };
    link.offloads("on");
    let mut samples = samples();
    samples.retain(|sample| link.takes(&sample.vnet(), &sample.stack.bytes));
    for direction in [Direction::Egress, Direction::Ingress] {
        let (seen, back) = pass(link, direction, layout, &samples);
        link = back;
        assert_eq!(seen.len(), samples.len(), "{direction:?}");
        for (sample, seen) in samples.iter().zip(&seen) {
            sample.assert_told(seen);
        }
        // The link is none that takes these whole.
        samples.retain(|sample| sample.left.is_none_or(|(kind, _)| kind != Segmentation::Fragments));
    }
}

/// Headers outside the linear area are fetched in another way, and read as the same.
#[test]
fn headers_outside_the_linear_area() {
    let Some(layout) = layout() else { return };
    let Some(mut link) = Link::new() else { return };
    link.offloads("on");
    for host in [link.near(), link.far()] {
        run(&format!("ip -n {host} link set eth0 mtu 9000"));
    }
    let long = payload(5000);
    let padding: &[u8] = &[1, 4, 0, 0, 0, 0];
    let (segments, datagrams) = (tcp(9, ACK, &[], &long), udp(&long));
    let samples = [
        segments.v4(6, 7, 0, &[]).ethernet(0x0800),
        datagrams.v4(17, 7, 0, &[0x94, 4, 0, 0]).tagged(&[(0x8100, 6)], 0x0800),
        segments.v6(6, &[(0, padding), (60, padding)]).tagged(&[(0x88a8, 5), (0x8100, 6)], 0x86dd),
        datagrams.v6(17, &[]).ethernet(0x86dd),
        Stack::plain(&long).ethernet(0x88b5),
    ]
    .map(|stack| Sample { stack, version: 4, left: None });
    for direction in Direction::ALL {
        let (seen, back) = pass(link, direction, layout, &samples);
        link = back;
        assert_eq!(seen.len(), samples.len(), "{direction:?}");
        for (sample, seen) in samples.iter().zip(&seen) {
            sample.assert_told(seen);
        }
    }
}

/// As the kernel's own VXLAN device hands them over: the inner packet is what is cut and completed.
#[test]
fn super_frames_in_a_tunnel() {
    let Some(layout) = layout() else { return };
    let Some(link) = Link::new() else { return };
    link.offloads("on");
    let host = link.near().to_owned();
    let ends = [("10.77.0.2", "10.77.0.1", 4), ("fd77::2", "fd77::1", 6)];
    let segments = tcp(9, ACK, &[], &payload(20_001));
    let mut inner: Vec<_> = [
        (segments.v4(6, 5, 0x4000, &[]).ethernet(0x0800), 4, Segmentation::Tcp),
        (segments.v6(6, &[]).ethernet(0x86dd), 6, Segmentation::Tcp),
        (udp(&payload(20_001)).v4(17, 5, 0, &[]).ethernet(0x0800), 4, Segmentation::Udp),
    ]
    .map(|(stack, version, kind)| Sample { stack, version, left: Some((kind, 1300)) })
    .into();
    inner.retain(|sample| link.takes(&sample.vnet(), &sample.stack.bytes));
    let sent = inner.clone();
    let (seen, _) = watch(&host, FRAME_MAX, layout, move || {
        for (remote, local, _) in ends {
            let vxlan = link.vxlan("udpcsum", remote, local);
            for sample in &sent {
                vxlan.send(&sample.vnet(), &sample.stack.bytes);
                assert!(vxlan.receive_whole().is_some());
            }
        }
    });
    let mut seen = seen.into_iter().filter(|seen| seen.bytes.len() > 20_000);
    for (_, _, outer) in ends {
        let outer_len = if outer == 4 { 50 } else { 70 };
        for sample in &inner {
            let name = format!("{:?} over IPv{} over IPv{outer}", sample.left, sample.version);
            let seen = seen.next().unwrap_or_else(|| panic!("{name}: not seen"));
            assert_eq!(seen.bytes[outer_len..], sample.stack.bytes, "{name}");
            assert_eq!(Some(seen.segmentation()), sample.left, "{name}");
            let mut place = sample.stack.place().unwrap();
            place.start += outer_len as u16;
            assert_eq!(seen.checksum(), Some(place), "{name}");
        }
    }
    assert!(seen.next().is_none());
}

/// Segments that the far host merges before its hook sees them.
#[test]
fn received_segments_that_were_merged() {
    let Some(layout) = layout() else { return };
    let Some(mut link) = Link::new() else { return };
    let far = link.far().to_owned();
    run(&format!("ip netns exec {far} ethtool -K eth0 gro on"));
    // Merging ends with the timer, not when the queue is empty.
    for (name, value) in [("napi_defer_hard_irqs", 10), ("gro_flush_timeout", 20_000_000)] {
        let output = std::process::Command::new("ip")
            .args(["netns", "exec", &far, "sh", "-c", &format!("echo {value} > /sys/class/net/eth0/{name}")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
    for (is_fixed, kind) in [(false, Segmentation::Tcp), (true, Segmentation::TcpFixedId)] {
        let segment = |number: u32| {
            let id = if is_fixed { 7 } else { 7 + number as u16 };
            let stack = tcp(1 + 1000 * number, ACK, &[], &payload(1000)).v4(6, id, 0x4000, &[]);
            Sample { stack: stack.ethernet(0x0800), version: 4, left: Some((Segmentation::None, 0)) }
        };
        let sent: Vec<_> = (0..4).map(segment).collect();
        let (seen, back) = pass(link, Direction::Ingress, layout, &sent);
        link = back;
        let told: Vec<_> = seen.iter().map(|seen| (seen.bytes.len(), seen.segmentation())).collect();
        assert_eq!(told, [(54 + 4000, (kind, 1000))]);
        assert_eq!(seen[0].checksum(), Some(ChecksumPlace { start: 34, field: 16 }));
        let length = 20 + 4000_u32;
        let pseudo = [&super_frames::V4[..], &[0, 6], &length.to_be_bytes()].concat();
        assert_eq!(seen[0].bytes[50..52], naive(&pseudo).to_be_bytes(), "the pseudo-header's sum");
    }
}

/// The sum that the kernel leaves at the place of a checksum for the card to complete.
fn pseudo_header_sum(frame: &[u8], place: ChecksumPlace) -> u16 {
    let start = usize::from(place.start);
    let protocol = if place.field == 16 { 6 } else { 17 };
    let addresses = if frame[14] >> 4 == 4 { &frame[26..34] } else { &frame[22..54] };
    let length = (frame.len() - start) as u32;
    naive(&[addresses, &[0, protocol], &length.to_be_bytes()].concat())
}

/// Whether the transport header at `at` has the tests' port. The hosts' stacks send of their own, too.
fn has_port(seen: &Seen, at: usize) -> bool {
    let ports = seen.bytes.get(at..at + 4);
    ports.is_some_and(|ports| ports[..2] == PORT.to_be_bytes() || ports[2..] == PORT.to_be_bytes())
}

fn assert_is_left(seen: &Seen, place: ChecksumPlace) {
    assert_eq!(seen.checksum(), Some(place), "{:?}", seen.header);
    let at = usize::from(place.start + place.field);
    let field = u16::from_be_bytes([seen.bytes[at], seen.bytes[at + 1]]);
    assert_eq!(field, pseudo_header_sum(&seen.bytes, place));
}

#[test]
fn tcp_of_the_hosts_own() {
    let Some(layout) = layout() else { return };
    let Some(net) = net::Net::new() else { return };
    const BYTES: usize = 2 << 20;
    for (far, start) in [("10.20.0.2", 34), ("fd20::2", 54)] {
        let listener = within(&net.far, move || TcpListener::bind((far, PORT)).unwrap());
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(&all).unwrap();
        });
        let (seen, _) = watch(&net.near, FRAME_MAX, layout, move || {
            let mut stream = TcpStream::connect((far, PORT)).unwrap();
            stream.write_all(&vec![1; BYTES]).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            assert_eq!(all.len(), BYTES);
        });
        server.join().unwrap();
        for direction in Direction::ALL {
            let mut cut = 0;
            let at = usize::from(start);
            let is_data =
                |seen: &&Seen| seen.is(direction) && seen.bytes.len() > at + 60 && has_port(seen, at);
            for seen in seen.iter().filter(is_data) {
                assert_is_left(seen, ChecksumPlace { start, field: 16 });
                let header_len = usize::from(seen.bytes[at + 12] >> 4) * 4;
                let segment = 1514 - at - header_len;
                if seen.bytes.len() > 1514 {
                    cut += 1;
                    assert_eq!(seen.segmentation(), (Segmentation::Tcp, segment as u16));
                } else {
                    assert_eq!(seen.segmentation(), (Segmentation::None, 0));
                }
            }
            assert!(cut > 10, "{cut} super-frames {direction:?} with {far}");
        }
    }
}

#[test]
fn udp_of_the_hosts_own() {
    let Some(layout) = layout() else { return };
    let Some(net) = net::Net::new() else { return };
    let far = within(&net.far, || UdpSocket::bind(("10.20.0.2", PORT)).unwrap());
    let (seen, _) = watch(&net.near, FRAME_MAX, layout, move || {
        let socket = UdpSocket::bind(("10.20.0.1", PORT)).unwrap();
        socket.send_to(&[1; 100], ("10.20.0.2", PORT)).unwrap();
        let size: i32 = 500;
        // SAFETY: the option takes an int.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                (&raw const size).cast(),
                4,
            )
        };
        assert_eq!(result, 0);
        socket.send_to(&[2; 1800], ("10.20.0.2", PORT)).unwrap();
        far.send_to(&[3; 100], ("10.20.0.1", PORT)).unwrap();
    });
    let seen: Vec<_> = seen.into_iter().filter(|seen| has_port(seen, 34)).collect();
    let told: Vec<_> =
        seen.iter().map(|seen| (seen.header.direction, seen.bytes.len(), seen.segmentation())).collect();
    let (out, back) = (Direction::Egress as u16, Direction::Ingress as u16);
    let whole = (Segmentation::None, 0);
    assert_eq!(told, [(out, 142, whole), (out, 1842, (Segmentation::Udp, 500)), (back, 142, whole)]);
    for seen in &seen {
        assert_is_left(seen, ChecksumPlace { start: 34, field: 6 });
    }
}

/// What is too long for the output is refused, other than what is to be cut.
#[test]
fn super_frames_may_be_longer_than_a_datagram() {
    let Some(layout) = layout() else { return };
    let Some(link) = Link::new() else { return };
    link.offloads("on");
    let long = tcp(9, ACK, &[], &payload(65_535 - 40)).v4(6, 7, 0x4000, &[]).tagged(&[(0x8100, 1)], 0x0800);
    let sample = Sample { stack: long, version: 4, left: Some((Segmentation::Tcp, 1448)) };
    let plain = Sample { stack: Stack::plain(&[0x5a; 587]).ethernet(0x88b5), version: 4, left: None };
    let host = link.near().to_owned();
    let sent = [sample.clone(), plain];
    let (mut seen, counters) = watch(&host, 600, layout, move || {
        for sample in &sent {
            link.send(&sample.vnet(), &sample.stack.bytes);
        }
    });
    seen.retain(|seen| seen.bytes.starts_with(&super_frames::DESTINATION));
    assert_eq!(seen.len(), 1);
    sample.assert_told(&seen[0]);
    assert_eq!(counters[Direction::Egress as usize].too_big, 1);
}

/// On a kernel that does not tell where things are.
#[test]
fn kinds_are_guessed_by_protocol() {
    let Some(link) = Link::new() else { return };
    link.offloads("on");
    let mut sent: Vec<_> = samples()
        .into_iter()
        .filter(|sample| sample.left.is_some_and(|(kind, _)| kind != Segmentation::Fragments))
        .collect();
    sent.retain(|sample| link.takes(&sample.vnet(), &sample.stack.bytes));
    let (seen, _) = pass(link, Direction::Egress, SkbLayout::UNKNOWN, &sent);
    assert_eq!(seen.len(), sent.len());
    for (sample, seen) in sent.iter().zip(&seen) {
        assert_eq!(Some(seen.segmentation()), sample.left);
        assert_eq!(seen.checksum(), None);
    }
}
