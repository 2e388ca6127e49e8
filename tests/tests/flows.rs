//! The busiest flows: three of known sizes, through every way that frames take.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::Duration,
};

use mirror_tests::{
    agent::Agent,
    captures::{self, Pcap, START},
    command,
    generator::Generator,
    lab::{Lab, RUN, SENSOR},
    lock,
    scratch::Scratch,
    sensor::Sensor,
};
use serde_json::Value;

/// Frames a second of all flows together.
const RATE: u64 = 20_000;

/// Flow, length of its frames, and how many of ten are its: the busiest by bytes first, which is not the one with the
/// most frames.
const FLOWS: [(u16, usize, u64); 3] = [(1, 1000, 3), (2, 300, 6), (3, 80, 1)];

/// Longer than a question keeps the watching going.
const FORGOTTEN: Duration = Duration::from_millis(5300);

/// Ten frames of the three flows.
fn frames() -> Vec<Vec<u8>> {
    let of_flow = |&(flow, len, count): &(u16, usize, u64)| {
        std::iter::repeat_n(captures::udp_frame(flow, len), count as usize)
    };
    FLOWS.iter().flat_map(of_flow).collect()
}

/// What an agent answers at its socket, asked by curl.
fn ask(socket: &Path) -> Value {
    let answer = command::run(
        Command::new("curl").args(["-sSf", "--unix-socket"]).arg(socket).arg("http://agent/flows"),
    );
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

fn flows(answer: &Value) -> Vec<Value> {
    answer["flows"].as_array().expect("flows").clone()
}

/// Checks that a first question finds nothing, and that a second one has the three flows, in order, with what was sent
/// in between. `sent`: how many frames so far.
fn assert_told(socket: &Path, sent: impl Fn() -> u64) {
    // An answer is as of a moment in between.
    let first_sent = sent();
    let first = ask(socket);
    let first_sent = [first_sent, sent()];
    assert_eq!(flows(&first), [Value::Null; 0], "nobody has asked before: {first}");
    sleep(Duration::from_secs(2));
    let second_sent = sent();
    let second = ask(socket);
    let second_sent = [second_sent, sent()];
    let (least, most) = (second_sent[0] - first_sent[1], second_sent[1] - first_sent[0]);
    let seconds = second["seconds"].as_f64().unwrap();
    assert!((1.9..4.0).contains(&seconds), "{second}");
    let one_in = second["sampled_one_in"].as_f64().unwrap();
    assert!((2.0..40.0).contains(&one_in), "looks at some thousands a second: {second}");
    assert_eq!(second["missed"], 0, "{second}");
    // A host may have said something of its own.
    let told = flows(&second);
    assert!((3..6).contains(&told.len()), "{second}");
    for ((flow, len, count), told) in FLOWS.into_iter().zip(&told) {
        assert_eq!(told["protocol"], "udp");
        assert_eq!(told["a"], format!("10.77.0.{flow}:{}", 20_000 + flow));
        assert_eq!(told["b"], format!("10.78.{flow}.0:9000"));
        let [least, most] = [least, most].map(|sent| sent as f64 * count as f64 / 10.0);
        let frames = told["frames"].as_f64().unwrap();
        // Five standard deviations, and a bit for what was on its way.
        let error = 5.0 / (least / one_in).sqrt() + 0.03;
        let band = least * (1.0 - error)..most * (1.0 + error);
        assert!(band.contains(&frames), "{frames} frames, sent were {least} to {most}: {second}");
        assert_eq!(told["bytes"].as_f64().unwrap(), frames * len as f64, "{second}");
    }
}

/// Checks that nobody is watched once nobody has asked for a while.
fn assert_forgotten(socket: &Path) {
    sleep(FORGOTTEN);
    let answer = ask(socket);
    assert_eq!(flows(&answer), [Value::Null; 0], "nobody has asked for a while: {answer}");
}

struct Live {
    lab: Lab,
    scratch: Scratch,
}

impl Live {
    fn new() -> Self {
        Self { lab: Lab::new(), scratch: Scratch::new() }
    }

    fn socket(&self) -> PathBuf {
        self.scratch.path("agent.sock")
    }

    fn agent(&self, more: &str) -> Agent {
        Agent::start(&self.lab.router, &format!("{RUN} --control {} {more}", self.socket().display()))
    }
}

#[test]
fn ring_mode_names_the_busiest_flows() {
    let _turn = lock::shared();
    let live = Live::new();
    let agent = live.agent("--mode ring");
    let running = Generator::new("eth0").rate(RATE).cycle(&live.lab.client, frames());
    sleep(Duration::from_millis(300));
    assert_told(&live.socket(), || running.sent());
    assert_forgotten(&live.socket());
    let sent = running.stop();
    let report = agent.stop_and_report();
    assert!(report.frames.sent >= sent.frames, "looking at frames takes none away: {report:?}");
}

fn bpftool(words: &[&str]) -> Value {
    let text = command::run(Command::new("bpftool").arg("-j").args(words));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What the programs of redirect mode are asked to look at: one frame in so many, 0 for none.
fn one_in(agent: &Agent) -> u64 {
    // The agent has the map in its memory, and no descriptor of it any more: its programs have.
    let programs: Vec<u64> = fs::read_dir(format!("/proc/{}/fdinfo", agent.pid()))
        .unwrap()
        .filter_map(|entry| {
            let text = fs::read_to_string(entry.ok()?.path()).ok()?;
            text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())
        })
        .collect();
    let all = bpftool(&["prog"]);
    let maps: Vec<u64> = all
        .as_array()
        .unwrap()
        .iter()
        .filter(|program| program["id"].as_u64().is_some_and(|id| programs.contains(&id)))
        .flat_map(|program| program["map_ids"].as_array().into_iter().flatten().filter_map(Value::as_u64))
        .collect();
    let all = bpftool(&["map"]);
    let is_its =
        |map: &&Value| map["name"] == "WATCH" && map["id"].as_u64().is_some_and(|id| maps.contains(&id));
    let watch = all.as_array().unwrap().iter().find(is_its).expect("no map of this agent");
    let dump = bpftool(&["map", "dump", "id", &watch["id"].to_string()]);
    let bytes = dump[0]["value"].as_array().unwrap();
    (0..).zip(&bytes[..4]).fold(0, |sum, (place, byte)| {
        sum | u64::from_str_radix(byte.as_str().unwrap().trim_start_matches("0x"), 16).unwrap() << (8 * place)
    })
}

#[test]
fn redirect_mode_names_the_busiest_flows() {
    let _turn = lock::shared();
    let live = Live::new();
    let sensor = Sensor::start(&live.lab.sensor, (), |(), _| {});
    let agent = live.agent("--mode redirect");
    let running = Generator::new("eth0").rate(RATE).cycle(&live.lab.client, frames());
    sleep(Duration::from_millis(300));
    assert_eq!(one_in(&agent), 0, "nobody has asked");
    assert_told(&live.socket(), || running.sent());
    assert_ne!(one_in(&agent), 0);
    sleep(FORGOTTEN);
    assert_eq!(one_in(&agent), 0, "nobody asks any more");
    let sent = running.stop();
    let report = agent.stop_and_report();
    assert!(report.frames.sent >= sent.frames, "looking at frames takes none away: {report:?}");
    let _ = sensor.finish();
}

#[test]
fn a_replay_names_the_busiest_flows() {
    let _turn = lock::shared();
    let live = Live::new();
    let mut capture = Pcap::ethernet();
    for (frame, time) in frames().iter().zip((START..).step_by(1000)) {
        capture.packet(time, frame);
    }
    let file = live.scratch.path("flows.pcap");
    capture.save(&file);
    let socket = live.socket();
    let arguments = format!(
        "-r {} --loop 0 --pps {RATE} --dest {SENSOR} --control {} --report json",
        file.display(),
        socket.display()
    );
    let agent = Agent::start(&live.lab.router, &arguments);
    sleep(Duration::from_millis(300));
    let status = || {
        let answer = command::run(
            Command::new("curl").args(["-sSf", "--unix-socket"]).arg(&socket).arg("http://agent/status"),
        );
        let status: Value = serde_json::from_str(&answer).unwrap();
        status["report"]["frames"]["seen"].as_u64().unwrap()
    };
    assert_told(&socket, status);
    drop(agent.stop());
}
