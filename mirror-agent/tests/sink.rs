//! `mirror-agent sink` over the loopback interface.
#![allow(clippy::unwrap_used)]

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read},
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Parser as _;
use mirror_agent::{
    cli::{self, Cli},
    sink::{Sink, SinkArgs},
};
use mirror_common::vxlan;
use pcap_file::pcapng::{Block, PcapNgReader, blocks::interface_description::InterfaceDescriptionOption};

/// Long enough for a slow machine, short enough to notice.
const PATIENCE: Duration = Duration::from_secs(10);

fn datagram(vni: u32, frame: &[u8]) -> Vec<u8> {
    [&vxlan::header(vni), frame].concat()
}

fn arguments(words: &[&str]) -> SinkArgs {
    let Some(cli::Command::Sink(arguments)) =
        Cli::parse_from([&["mirror-agent", "sink"], words].concat()).command
    else {
        panic!("not a sink: {words:?}");
    };
    arguments
}

/// The next frame of a capture: interface, nanoseconds since the epoch, bytes.
fn next_frame<R: Read>(capture: &mut PcapNgReader<R>) -> Option<(String, u128, Vec<u8>)> {
    while let Some(block) = capture.next_block() {
        let (block, state) = block.unwrap();
        let Block::EnhancedPacket(packet) = block else {
            continue;
        };
        let options = &state.interfaces()[packet.interface_id as usize].options;
        let name = options.iter().find_map(|option| match option {
            InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
            _ => None,
        });
        let time_ns = packet.timestamp.as_nanos();
        return Some((name.unwrap(), time_ns, packet.data.to_vec()));
    }
    None
}

#[test]
fn frames_are_counted_and_captured_in_order_and_a_stop_drains_the_socket() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sink-in-order.pcapng");
    let mut arguments = arguments(&["-w", path.to_str().unwrap()]);
    arguments.listen = SocketAddr::from(([127, 0, 0, 1], 0)).into();
    let sink = Sink::open(&arguments).unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(sink.local_addr().unwrap()).unwrap();

    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let mut expected = Vec::new();
    // Few and small enough for the receive buffer that a user without privilege gets by default.
    for number in 0..200_u32 {
        let vni = [7, vxlan::VNI_MAX][number as usize % 2];
        let frame = [&number.to_be_bytes()[..], &vec![0xab; 14 + number as usize]].concat();
        sender.send(&datagram(vni, &frame)).unwrap();
        if number % 20 == 0 {
            sender.send(b"not VXLAN").unwrap();
        }
        expected.push((format!("vxlan{vni}"), frame));
    }
    // Told to stop before it reads at all: everything is still in the socket.
    let (stop, request) = io::pipe().unwrap();
    drop(request);
    let tally = sink.run(stop.as_fd()).unwrap();

    assert_eq!((tally.datagrams, tally.frames, tally.malformed), (210, 200, 10));
    assert_eq!(tally.bytes, expected.iter().map(|(_, frame)| frame.len() as u64).sum::<u64>());
    assert_eq!(tally.vnis, [(7, 100), (vxlan::VNI_MAX, 100)].into());
    assert_eq!(tally.kernel_drops, 0);

    let mut capture = PcapNgReader::new(File::open(&path).unwrap()).unwrap();
    let mut last_ns = started;
    for (name, frame) in expected {
        let (seen_name, time_ns, seen) = next_frame(&mut capture).unwrap();
        assert_eq!((seen_name, seen), (name, frame));
        assert!(time_ns >= last_ns, "time stamps go back");
        last_ns = time_ns;
    }
    assert_eq!(next_frame(&mut capture), None);
}

#[test]
fn a_limit_ends_it_in_the_middle_of_a_batch() {
    let mut arguments = arguments(&["--limit", "3"]);
    arguments.listen = SocketAddr::from(([127, 0, 0, 1], 0)).into();
    let sink = Sink::open(&arguments).unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    for payload in [datagram(1, &[0; 60]), vec![0; 4]].iter().cycle().take(20) {
        sender.send_to(payload, sink.local_addr().unwrap()).unwrap();
    }
    let (stop, _request) = io::pipe().unwrap();
    let tally = sink.run(stop.as_fd()).unwrap();
    assert_eq!((tally.datagrams, tally.frames, tally.malformed), (5, 3, 2));
}

#[test]
fn a_duration_ends_it_with_an_empty_capture_that_readers_take() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sink-empty.pcapng");
    let mut arguments = arguments(&["--duration", "20ms", "-w", path.to_str().unwrap()]);
    arguments.listen = SocketAddr::from(([127, 0, 0, 1], 0)).into();
    let (stop, _request) = io::pipe().unwrap();
    let tally = Sink::open(&arguments).unwrap().run(stop.as_fd()).unwrap();
    assert_eq!(tally.datagrams, 0);
    let mut capture = PcapNgReader::new(File::open(&path).unwrap()).unwrap();
    assert!(matches!(capture.next_block().unwrap().unwrap().0, Block::InterfaceDescription(_)));
    assert!(capture.next_block().is_none());
}

/// An address that nobody else uses, for the program itself, which takes no port 0.
fn free_address(host: u8) -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    let socket = UdpSocket::bind(SocketAddr::from(([127, host, high, low.clamp(1, 254)], 0))).unwrap();
    socket.local_addr().unwrap()
}

/// The program itself, listening.
struct Program {
    child: Child,
    address: SocketAddr,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Program {
    fn start(host: u8, words: &[&str]) -> Self {
        let address = free_address(host);
        let mut child = Command::new(env!("CARGO_BIN_EXE_mirror-agent"))
            .args(["sink", "--listen", &address.to_string()])
            .args(words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("listening on ") {
            line.clear();
            assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "it ended before it listened");
        }
        assert_eq!(line, format!("listening on {address}\n"));
        Self { child, address, stderr }
    }

    fn send(&self, payload: &[u8]) {
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(payload, self.address).unwrap();
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a child that was not waited for keeps its process id.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    /// Waits for the end, and returns the exit code and the rest of standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let mut waited = Duration::ZERO;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(waited < PATIENCE, "it does not end");
            thread::sleep(Duration::from_millis(5));
            waited += Duration::from_millis(5);
        };
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).unwrap();
        (status.code(), rest)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn fails(words: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } =
        Command::new(env!("CARGO_BIN_EXE_mirror-agent")).arg("sink").args(words).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_frame_reaches_a_pipe_at_once_and_the_report_stays_out_of_it() {
    let mut program = Program::start(2, &["-w", "-", "--report", "json"]);
    program.send(&datagram(4242, b"frame one, long enough"));
    let mut capture = PcapNgReader::new(program.child.stdout.take().unwrap()).unwrap();
    let (name, _, frame) = next_frame(&mut capture).unwrap();
    assert_eq!((name.as_str(), &frame[..]), ("vxlan4242", &b"frame one, long enough"[..]));

    // Twice, as timeout(1) does.
    program.signal(libc::SIGTERM);
    program.signal(libc::SIGTERM);
    let (code, rest) = program.end();
    assert_eq!(code, Some(0), "{rest}");
    assert_eq!(
        rest,
        "{\"schema\":1,\"datagrams\":1,\"frames\":1,\"bytes\":22,\"malformed\":0,\"control\":0,\"vnis\":{\"4242\":1},\"kernel_drops\":0}\n"
    );
    assert_eq!(next_frame(&mut capture), None, "nothing but the capture on standard output");
}

#[test]
fn a_reader_that_goes_ends_it_without_an_error_even_while_nothing_arrives() {
    let mut program = Program::start(3, &["-w", "-"]);
    drop(program.child.stdout.take());
    let (code, rest) = program.end();
    assert_eq!(code, Some(0), "{rest}");
    assert!(!rest.contains("mirror-agent:"), "{rest}");
}

#[test]
fn a_second_signal_ends_it_in_a_write_to_a_stuck_pipe() {
    let program = Program::start(6, &["-w", "-"]);
    // More than a pipe holds, and nobody reads.
    for _ in 0..100 {
        program.send(&datagram(1, &[0; 1000]));
    }
    thread::sleep(Duration::from_millis(200));
    program.signal(libc::SIGINT);
    thread::sleep(Duration::from_millis(1100));
    program.signal(libc::SIGINT);
    let (code, _) = program.end();
    assert_eq!(code, None, "ended by the signal");
}

#[test]
fn a_full_disk_is_one_line_and_exit_code_1() {
    let (code, stderr) = fails(&["--listen", &free_address(4).to_string(), "-w", "/dev/full"]);
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("mirror-agent: cannot write /dev/full: no space left on device: "));
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn a_port_in_use_is_one_line_and_exit_code_1_and_an_older_capture_stays() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sink-older.pcapng");
    std::fs::write(&path, "older").unwrap();
    let program = Program::start(5, &[]);
    let address = program.address.to_string();
    let (code, stderr) = fails(&["--listen", &address, "-w", path.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    let start = format!("mirror-agent: cannot listen on {address}: address already in use: ");
    assert!(stderr.starts_with(&start), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert_eq!(std::fs::read(&path).unwrap(), b"older");
}

#[test]
fn wrong_values_exit_with_2() {
    for words in [
        ["--listen", "0.0.0.0:0"],
        ["--listen", "eth0"],
        ["--limit", "0"],
        ["--duration", "5"],
        ["--stats-interval", "0s"],
        ["--report", "xml"],
        ["--rcvbuf", "0"],
    ] {
        let (code, stderr) = fails(&words);
        assert_eq!(code, Some(2), "{words:?}: {stderr}");
        assert!(stderr.contains(words[1]), "the value is named: {stderr}");
    }
}
