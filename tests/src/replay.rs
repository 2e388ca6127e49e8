//! Replays captures on the router of the usual lab.

use std::{
    path::Path,
    thread,
    time::{Duration, SystemTime},
};

use crate::{
    agent::{Agent, Outcome, binary, command, run},
    lab::{Lab, SENSOR},
    pcap::{self, Packet},
    report::{Report, SinkReport},
    scratch::Scratch,
    tshark,
};

/// Longer than any replay in the tests that do not measure time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The arguments that play files to the sensor, with a report in JSON.
#[must_use]
pub fn arguments(files: &[&Path]) -> String {
    let files: Vec<String> = files.iter().map(|file| format!("-r {}", file.display())).collect();
    format!("{} --dest {SENSOR} --report json", files.join(" "))
}

/// Plays files to the sensor, to the end.
///
/// # Panics
/// Where it does not end.
#[must_use]
pub fn play(lab: &Lab, files: &[&Path], more: &str) -> Outcome {
    run(&lab.router, &format!("{} {more}", arguments(files)), PATIENCE)
}

/// Plays a file that comes in on standard input to the sensor, to the end.
///
/// # Panics
/// Where it does not end.
#[must_use]
pub fn play_standard_input(lab: &Lab, file: &Path, more: &str) -> Outcome {
    let agent = command(&lab.router, &format!("-r - --dest {SENSOR} --report json {more}"));
    let words: Vec<_> = agent.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    // Through a pipe, which can neither be sought in nor asked for its size.
    let line = format!("cat {} | ip {}", file.display(), words.join(" "));
    let mut shell = std::process::Command::new("sh");
    Agent::spawn(shell.args(["-c", &line]).env_remove("RUST_LOG")).wait(PATIENCE)
}

/// Does `work`, which plays something, while the sink listens on the sensor; gives its result and what the
/// sink wrote.
///
/// # Panics
/// Where the sink dropped or misread a datagram.
#[must_use]
pub fn into_sink<T>(lab: &Lab, scratch: &Scratch, work: impl FnOnce() -> T) -> (T, Vec<Packet>) {
    let (path, converted) = (scratch.path("sink.pcapng"), scratch.path("sink.pcap"));
    let sink = Agent::start_sink(&lab.sensor, &format!("--report json -w {}", path.display()));
    let result = work();
    // What is on its way arrives before the sink is told to stop.
    thread::sleep(Duration::from_millis(100));
    let report: SinkReport = sink.stop().json();
    assert_eq!((report.malformed, report.kernel_drops), (0, 0), "{report:?}");
    tshark::convert(&path, &converted);
    (result, pcap::read(&converted))
}

/// Converts a capture to a capture, and gives what tshark reads from that.
///
/// # Panics
/// Where the agent does not end with 0.
#[must_use]
pub fn convert(lab: &Lab, source: &Path, to: &Path, more: &str) -> (Report, Vec<Packet>) {
    let line = format!("-r {} -w {} --report json {more}", source.display(), to.display());
    let report = run(&lab.router, &line, PATIENCE).report();
    let converted = to.with_extension("converted");
    tshark::convert(to, &converted);
    (report, pcap::read(&converted))
}

/// The failure of a replay: exit code 1, and one line that starts with the program's name, the last one,
/// which has every one of `words`. Gives the line.
///
/// # Panics
/// Where it was not so.
pub fn assert_bad_input(outcome: &Outcome, words: &[&str]) -> String {
    outcome.assert_failed(1, words);
    let named = outcome.stderr.lines().filter(|line| line.starts_with("mirror-agent: ")).count();
    assert_eq!(named, 1, "lines with the error: {outcome}");
    let last = outcome.stderr.lines().last().expect("a line");
    assert!(last.starts_with("mirror-agent: "), "the error is not the last line: {outcome}");
    last.to_owned()
}

/// The N of `at byte N` in a line.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn byte_position(line: &str) -> u64 {
    let (_, rest) = line.split_once("at byte ").unwrap_or_else(|| panic!("no `at byte N` in `{line}`"));
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().unwrap_or_else(|_| panic!("no number behind `at byte` in `{line}`"))
}

/// The report of a run that failed, checked in itself.
///
/// # Panics
/// Where there is none, or it is not right in itself.
#[must_use]
pub fn report_of_failure(outcome: &Outcome) -> Report {
    let report: Report = outcome.json();
    report.check();
    report
}

/// The most memory that a process had, in bytes, asked until it has ended. (`ru_maxrss` would count what
/// the test itself had when it forked.)
#[must_use]
pub fn watch_memory(pid: u32) -> thread::JoinHandle<u64> {
    thread::spawn(move || {
        let mut peak = 0;
        // A process that has ended and was not waited for has a status without memory.
        while let Some(now) = peak_memory(pid) {
            peak = now;
            thread::sleep(Duration::from_millis(1));
        }
        peak
    })
}

/// VmHWM of proc(5), in bytes.
fn peak_memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Now, in nanoseconds since 1970.
///
/// # Panics
/// Where the clock is before 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("before 1970").as_nanos() as u64
}

/// A shell line that runs the agent, for what [`command`] cannot say.
#[must_use]
pub fn shell_line(arguments: &str) -> String {
    format!("exec {} {arguments}", binary().display())
}
