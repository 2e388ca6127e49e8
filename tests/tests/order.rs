//! Order across directions: a connection's data and its acknowledgements leave in the order in which the
//! interface saw them, so that an analyser never sees an acknowledgement of data that it has not seen.
//!
//! `MT_ORDER_RUNS` sets how often the downloads are repeated (5).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use mirror_tests::{
    agent::Agent,
    host::Host,
    lab::{Lab, RUN},
    lock, pcap,
    scratch::Scratch,
    sensor::{Sensor, Totals},
    tshark,
};

const DOWNLOADS: usize = 12;
const FILE: usize = 20_000_000;
/// Enough of a frame for every TCP header.
const SNAPLEN: usize = 128;

/// Python's web server, ended with its guard.
struct WebServer(Child);

impl WebServer {
    fn start(host: &Host, address: &str, folder: &Path) -> Self {
        let child = host
            .command("python3")
            .args(["-m", "http.server", "8000", "--bind", address, "--directory"])
            .arg(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self(child);
        let (address, deadline) = (format!("{address}:8000"), Instant::now() + Duration::from_secs(10));
        host.within(move || {
            while let Err(error) = std::net::TcpStream::connect(&address) {
                assert!(Instant::now() < deadline, "no web server: {error}");
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        server
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What tshark says of a capture.
#[derive(Debug, Default, PartialEq, Eq)]
struct Analysis {
    frames: usize,
    payload: usize,
    lost_segments: usize,
    unseen_acknowledged: usize,
}

fn analyse(capture: &Path) -> Analysis {
    let fields = ["tcp.len", "tcp.analysis.lost_segment", "tcp.analysis.ack_lost_segment"];
    let mut analysis = Analysis::default();
    for row in tshark::fields(capture, "tcp", &fields, &[]) {
        analysis.frames += 1;
        analysis.payload += row[0].parse::<usize>().unwrap_or(0);
        analysis.lost_segments += usize::from(!row[1].is_empty());
        analysis.unseen_acknowledged += usize::from(!row[2].is_empty());
    }
    analysis
}

/// Downloads through the mirrored interface; gives what the sensor got, in `path`.
fn downloads(lab: &Lab, limit: &str, path: &Path) -> (Totals, Duration) {
    let writer = pcap::Writer::create(path, SNAPLEN);
    let sensor =
        Sensor::start(&lab.sensor, writer, |writer, datagram| writer.write(datagram.time, datagram.frame));
    let agent = Agent::start(&lab.router, RUN);
    let start = Instant::now();
    let clients: Vec<Child> = (0..DOWNLOADS)
        .map(|_| {
            lab.client
                .command("curl")
                .args(["--silent", "--fail", "--limit-rate", limit, "--write-out", "%{size_download}"])
                .args(["--output", "/dev/null", "http://10.10.0.1:8000/file"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for client in clients {
        let output = client.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), FILE.to_string(), "bytes of a download");
    }
    let took = start.elapsed();
    let report = agent.stop_and_report();
    let (writer, totals) = sensor.finish();
    writer.finish();
    println!("{took:?}: {:?}, {totals:?}", report.frames);
    assert_eq!(report.frames.sent, report.frames.seen, "a frame was lost, and that is not about order");
    assert_eq!(totals.datagrams, report.datagrams_sent, "a datagram was lost, and that is not about order");
    (totals, took)
}

#[test]
fn parallel_downloads_are_mirrored_in_order_across_directions() {
    let runs: u32 = std::env::var("MT_ORDER_RUNS").map_or(5, |runs| runs.parse().expect("MT_ORDER_RUNS"));
    let _turn = lock::alone();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    lab.client.offloads_off("eth0");
    lab.router.offloads_off("eth0");
    fs::write(scratch.path("file"), vec![0x42; FILE]).unwrap();
    let _server = WebServer::start(&lab.router, "10.10.0.1", scratch.folder());
    for run in 1..=runs {
        let path = scratch.path("inner.pcap");
        // As fast as they go is the hardest for the agent; a limit is what real connections have.
        let limit = if run % 2 == 1 { "4M" } else { "100G" };
        let (totals, _) = downloads(&lab, limit, &path);
        let analysis = analyse(&path);
        println!("run {run} of {runs}, --limit-rate {limit}: {analysis:?}");
        // ARP is the only other thing on this link.
        assert!(analysis.frames as u64 + 10 > totals.datagrams, "{analysis:?} of {totals:?}");
        assert!(analysis.payload >= DOWNLOADS * FILE, "{analysis:?}");
        assert_eq!(analysis.lost_segments, 0, "run {run}: {analysis:?}");
        assert_eq!(analysis.unseen_acknowledged, 0, "run {run}: {analysis:?}");
    }
}

/// The analysis above can fail: tshark does see one segment that is out of its place.
#[test]
fn tshark_sees_a_segment_that_comes_after_its_acknowledgement() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    lab.client.offloads_off("eth0");
    lab.router.offloads_off("eth0");
    fs::write(scratch.path("file"), vec![0x42; 200_000]).unwrap();
    let _server = WebServer::start(&lab.router, "10.10.0.1", scratch.folder());
    let sensor = Sensor::start(&lab.sensor, Vec::new(), |frames: &mut Vec<_>, datagram| {
        frames.push(datagram.frame.to_vec());
    });
    let agent = Agent::start(&lab.router, RUN);
    lab.client.run("curl --silent --fail --output /dev/null http://10.10.0.1:8000/file");
    let _ = agent.stop_and_report();
    let mut frames = sensor.finish().0;

    let write = |name: &str, frames: &[Vec<u8>]| {
        let mut writer = pcap::Writer::create(&scratch.path(name), SNAPLEN);
        for (time, frame) in (0..).zip(frames) {
            writer.write(time * 1_000, frame);
        }
        writer.finish();
        analyse(&scratch.path(name))
    };
    let right = write("right.pcap", &frames);
    assert_eq!((right.lost_segments, right.unseen_acknowledged), (0, 0), "{right:?}");
    // The last segment before some acknowledgement in the middle comes behind it.
    let is_data = |frame: &Vec<u8>| frame.len() > 1_000;
    let middle = frames.len() / 2;
    let acknowledgement = (middle..frames.len())
        .find(|at| !is_data(&frames[*at]) && is_data(&frames[at - 1]))
        .expect("an acknowledgement after data");
    frames.swap(acknowledgement - 1, acknowledgement);
    let wrong = write("wrong.pcap", &frames);
    assert!(wrong.unseen_acknowledged > 0 || wrong.lost_segments > 0, "{wrong:?}");
    assert_ne!(wrong, right);
}
