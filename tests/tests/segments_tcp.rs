//! TCP with every offload left on: the hook sees pieces of up to 64 kB with unfinished checksums, and the
//! sensor gets what was on the wire.
//!
//! `cargo xtask test -- --ignored five_gigabytes` sends so many through iperf3.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use mirror_tests::{
    agent,
    analysis::Analysis,
    command,
    flows::{BLOCK, Stream, digest},
    geneve,
    host::Host,
    lab::{Lab, ROUTER, UPLINK},
    lock,
    scratch::Scratch,
    web::WebServer,
    wire::{self, Run},
};

/// A frame of the mirrored interface, 1500 bytes behind its Ethernet header, just fits into a datagram.
fn uplink_mtu() -> u32 {
    1500 + if agent::sensor_port() == geneve::PORT { 70 } else { 50 }
}
/// Most bytes of TCP payload in a frame with time stamps.
const SEGMENT: usize = 1448;

fn lab() -> Lab {
    let lab = Lab::new();
    lab.router.mtu(UPLINK, uplink_mtu());
    lab.sensor.mtu("eth0", uplink_mtu());
    wire::settle(&lab);
    lab
}

/// The mirrored streams that carry more than a handshake and a few lines.
fn large(run: &Run) -> Vec<&Stream> {
    let streams = run.streams.chosen(|stream| stream.so_far().1 > 1_000_000);
    for stream in &streams {
        assert!(!stream.has_gap() && stream.early == 0, "not in order, or not all of it");
    }
    streams
}

/// An iperf3 transfer whose receiver keeps what it gets.
#[derive(Clone, Copy)]
struct Transfer {
    /// Of iperf3.
    direction: &'static str,
    /// Bytes in front of the data: who the client is.
    cookie: usize,
    receiver_is_server: bool,
}

/// From the client, in at the mirrored interface; and from the router, out of it.
const UP: Transfer = Transfer { direction: "", cookie: 37, receiver_is_server: true };
const DOWN: Transfer = Transfer { direction: "--reverse", cookie: 0, receiver_is_server: false };

impl Transfer {
    /// Sends so many bytes at `rate` bits a second, in iperf3's notation (`0`: as fast as it goes), and writes
    /// what the receiver gets to `file`.
    fn run(self, lab: &Lab, bytes: usize, rate: &str, file: &Path) {
        let keep = ["--file".as_ref(), file.as_os_str()];
        let iperf3 = |host: &Host, keeps: bool| {
            let mut iperf3 = host.command("timeout");
            iperf3.args(["120", "iperf3"]).args(keep.iter().filter(|_| keeps)).stdout(Stdio::null());
            iperf3
        };
        let mut server = iperf3(&lab.router, self.receiver_is_server)
            .args(["--server", "--one-off"])
            .spawn()
            .expect("cannot run iperf3");
        lab.router.wait_for_listener(5201);
        command::run(
            iperf3(&lab.client, !self.receiver_is_server)
                .args(["--client", ROUTER, "--bytes", &bytes.to_string(), "--bitrate", rate])
                .args(self.direction.split_whitespace()),
        );
        assert!(server.wait().unwrap().success(), "the iperf3 server");
    }
}

/// What a receiver got, in blocks as the mirrored stream has them.
struct Received {
    /// What is in the same block as the cookie.
    start: Vec<u8>,
    rest: Stream,
}

impl Received {
    fn read(transfer: Transfer, mut file: impl Read) -> Self {
        let mut start = vec![0; BLOCK - transfer.cookie];
        file.read_exact(&mut start).unwrap();
        let (mut rest, mut buffer) = (Stream::default(), vec![0; BLOCK]);
        loop {
            match file.read(&mut buffer).unwrap() {
                0 => return Self { start, rest },
                length => rest.add(&buffer[..length]),
            }
        }
    }

    /// Checks that one of the mirrored streams has the same. It may have more: the receiver stops reading when
    /// it is told that all is sent, and resets the connection, so that the last of `bytes` is in no file, or
    /// not even on the wire.
    fn assert_mirrored(&self, streams: &[&Stream], bytes: usize) {
        let stream = streams.iter().find(|stream| stream.head.ends_with(&self.start));
        let stream = stream.expect("no mirrored stream starts as the received one");
        let (received, mirrored) = (self.start.len() as u64 + self.rest.so_far().1, stream.so_far().1);
        println!("{received} bytes received, {mirrored} mirrored");
        assert!(mirrored >= received && received as usize >= bytes / 100 * 95, "{bytes} were to be sent");
        let blocks = &self.rest.blocks;
        assert_eq!(stream.blocks[1..=blocks.len()], *blocks, "other bytes than were received");
    }
}

#[test]
fn iperf3_is_mirrored_as_it_was_on_the_wire() {
    const BYTES: usize = 100_000_000;
    // Beside the agent, the tap, the sensor and both ends run on the same processors.
    const RATE: &str = "800M";
    let _turn = lock::alone();
    let (lab, scratch) = (lab(), Scratch::new());
    let transfers = [(UP, scratch.path("up")), (DOWN, scratch.path("down"))];
    let run = wire::mirror(&lab, &scratch, || {
        for (transfer, file) in &transfers {
            transfer.run(&lab, BYTES, RATE, file);
        }
    });
    run.assert_super_frames();
    run.assert_as_on_the_wire(2 * BYTES / SEGMENT);
    let streams = large(&run);
    for (transfer, file) in transfers {
        Received::read(transfer, File::open(file).unwrap()).assert_mirrored(&streams, BYTES);
    }
    Analysis::of(&run.mirrored, "").assert_clean(2 * BYTES / SEGMENT);
}

#[test]
fn parallel_downloads_are_mirrored_as_they_were_on_the_wire() {
    const DOWNLOADS: usize = 12;
    const FILE: usize = 8_000_000;
    let _turn = lock::alone();
    let (lab, scratch) = (lab(), Scratch::new());
    let file: Vec<u8> =
        (0..FILE as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    fs::write(scratch.path("file"), &file).unwrap();
    let _server = WebServer::start(&lab.router, ROUTER, scratch.folder());
    let run = wire::mirror(&lab, &scratch, || {
        let clients: Vec<Child> = (0..DOWNLOADS)
            .map(|_| {
                lab.client
                    .command("curl")
                    .args(["--silent", "--fail", "--max-time", "30", "--limit-rate", "4M"])
                    .args(["--output", "/dev/null", &format!("http://{ROUTER}:8000/file")])
                    .spawn()
                    .unwrap()
            })
            .collect();
        for mut client in clients {
            assert!(client.wait().unwrap().success(), "a download");
        }
    });
    run.assert_super_frames();
    run.assert_as_on_the_wire(DOWNLOADS * FILE / SEGMENT);
    let streams = large(&run);
    assert_eq!(streams.len(), DOWNLOADS);
    for stream in streams {
        let end_of_header = stream.head.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("HTTP") + 4;
        let expected = digest(&[&stream.head[..end_of_header], &file]);
        assert_eq!(stream.complete(), Some(expected), "other bytes than in the file");
    }
    Analysis::of(&run.mirrored, "").assert_clean(DOWNLOADS * FILE / SEGMENT);
}

/// Takes minutes, and 6 GB of disk. `MT_IPERF3_RATE` sets bits a second in iperf3's notation, `0` for as fast as it
/// goes. On two processors, which have both ends and the sensor beside the agent, that is more than the agent
/// gets mirrored.
#[test]
#[ignore = "minutes"]
fn five_gigabytes_of_iperf3_are_mirrored() {
    const BYTES: usize = 5 << 30;
    let rate = std::env::var("MT_IPERF3_RATE").unwrap_or_else(|_| "1G".to_owned());
    let _turn = lock::alone();
    let (lab, scratch) = (lab(), Scratch::new());
    let pipe = scratch.path("received");
    command::run(Command::new("mkfifo").arg(&pipe));
    let reader = {
        let pipe = pipe.clone();
        thread::spawn(move || Received::read(UP, File::open(pipe).unwrap()))
    };
    let run = wire::mirror_alone(&lab, &scratch, || UP.run(&lab, BYTES, &rate, &pipe));
    run.assert_super_frames();
    reader.join().unwrap().assert_mirrored(&large(&run), BYTES);
    Analysis::of(&run.mirrored, "").assert_clean(BYTES / SEGMENT);
}
