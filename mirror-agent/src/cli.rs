//! The command line, as the user typed it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use mirror_common::{ethernet, vxlan};

use crate::select::rate::Rate;

/// Copies the traffic of network interfaces, or of captures, to a sensor (Zeek, Suricata, a recorder) in VXLAN
/// or GENEVE over UDP.
///
/// Every frame is accounted for: the report at the end says how many were seen, and what became of each.
#[derive(Debug, Parser)]
#[command(
    name = "mirror-agent",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Cli {
    /// What to do instead of mirroring.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The main job.
    #[command(flatten)]
    pub mirror: MirrorArgs,
    /// Say more on standard error; twice for every detail
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Say only what went wrong
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Form of what is said on standard error: auto is json in a pod of Kubernetes, else text
    #[arg(long, global = true, value_enum, value_name = "FORM", default_value_t = LogFormat::Auto)]
    pub log_format: LogFormat,
}

/// What to do instead of mirroring.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Receive mirrored frames: take them out of VXLAN or GENEVE, count them, write them to a capture
    Sink(crate::sink::SinkArgs),
    /// Look at a running agent: rates, rings, losses, the busiest flows
    Top(crate::top::TopArgs),
    /// Check a configuration file, and attach nothing
    Validate(ValidateArgs),
    /// Look at what of this host stands in a mirror's way, and say what mends it
    Doctor(crate::doctor::DoctorArgs),
    /// Print what a shell needs to complete the command line
    Completions(crate::completions::CompletionsArgs),
    /// Print a page of the manual, or write all of them
    Man(crate::man::ManArgs),
}

/// Options of `validate`.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// The file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Options of the main job.
#[derive(Debug, Args)]
pub struct MirrorArgs {
    /// Interface to mirror; repeatable; 'veth*', 'eth[0-3]', '*' (all but lo): those that match, also when they come later;
    /// with =vni:N its frames are in a network of their own: eth0=vni:100
    #[arg(short, long = "iface", value_name = "NAME[=vni:N]", required_unless_present_any = ["read", "dump_filter"])]
    pub ifaces: Vec<String>,
    /// Interfaces that no pattern of --iface means: 'veth9*'; repeatable
    #[arg(long, value_name = "PATTERN", conflicts_with = "read")]
    pub exclude_iface: Vec<String>,
    /// Capture to replay instead: pcap or pcapng, also gzip or zstd; - is standard input; repeatable, played
    /// in order
    #[arg(short, long, value_name = "FILE", conflicts_with = "ifaces")]
    pub read: Vec<PathBuf>,
    /// Frames to mirror, in tcpdump's language, such as: tcp port 80 [default: all]
    #[arg(value_name = "FILTER", conflicts_with = "filter_file")]
    pub filter: Vec<String>,
    /// Read FILTER from a file, in which # begins a comment; SIGHUP has it read again
    #[arg(short = 'F', long, value_name = "FILE")]
    pub filter_file: Option<PathBuf>,
    /// Print what FILTER means, as tcpdump -d does and as the kernel gets it, and exit
    #[arg(long)]
    pub dump_filter: bool,
    /// Which way frames cross the interface
    #[arg(long, value_enum, value_name = "WAY", default_value_t = Direction::Both, conflicts_with = "read")]
    pub direction: Direction,
    /// Where the kernel program sits
    #[arg(long, value_enum, value_name = "PLACE", default_value_t = Hook::Tc, conflicts_with = "read")]
    pub hook: Hook,
    /// Where frames are encapsulated
    #[arg(long, value_enum, value_name = "PLACE", default_value_t = Mode::Ring, conflicts_with = "read")]
    pub mode: Mode,
    /// Sensor to send to: an address or a name, and a UDP port, unless given 4789, or 6081 with --encap geneve; an IPv6
    /// address with a port goes in brackets: [fd00::2]:4789; repeatable: each connection goes to one of them, to one
    /// with =2 behind it twice as many [default: 127.0.0.1]
    #[arg(short, long, value_name = "HOST[:PORT][=WEIGHT]")]
    pub dest: Vec<String>,
    /// Send every frame to every --dest
    #[arg(long)]
    pub fanout: bool,
    /// How often the names of sensors are looked up again
    #[arg(long, value_name = "DURATION", value_parser = positive_duration, default_value = "30s", conflicts_with = "write")]
    pub resolve_interval: Duration,
    /// What frames are sent in [default: vxlan]
    #[arg(long, value_enum, value_name = "PROTOCOL")]
    pub encap: Option<Encap>,
    /// With --encap geneve: leave out the option that tells each frame's time, length, direction and interface, 20 bytes
    #[arg(long)]
    pub no_metadata: bool,
    /// Network identifier, 0 to 16777215 [default: 4242]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(vxlan::VNI_MAX)))]
    pub vni: Option<u32>,
    /// How datagrams leave
    #[arg(long, value_enum, value_name = "WAY", default_value_t = Transmit::Auto, conflicts_with = "write")]
    pub transmit: Transmit,
    /// What to do with a frame whose datagram is longer than the path's MTU
    #[arg(long, value_enum, value_name = "WAY", default_value_t = Oversize::Fragment, conflicts_with = "write")]
    pub oversize: Oversize,
    /// Bytes kept of each frame, at least 14; 0 is all of them [default: all]
    #[arg(short, long, value_name = "BYTES", value_parser = snaplen)]
    pub snaplen: Option<u32>,
    /// Mirror one flow in N: all frames of a connection, both directions, or none of them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub sample: Option<u32>,
    /// Which flows --sample chooses, and which come first under --max-rate: any number of 64 bits. Agents with the same
    /// seed choose the same flows [default: 0]
    #[arg(long, value_name = "SEED", value_parser = seed)]
    pub sample_seed: Option<u64>,
    /// Most to mirror, over all interfaces: 500mbit or 2gbit (bits a second of the frames on the mirrored wire, whatever
    /// is kept or put in front of them), 80kpps or 1mpps (frames a second). Flows are left out whole before all of them
    /// are thinned; SYN, FIN and RST of those that are left out still pass, for up to a sixteenth of the rate
    #[arg(long, value_name = "RATE", value_parser = str::parse::<Rate>)]
    pub max_rate: Option<Rate>,
    /// With --max-rate: not even SYN, FIN and RST of flows that are left out pass
    #[arg(long)]
    pub max_rate_strict: bool,
    /// Write a capture (pcapng, nanoseconds) instead of sending, replacing FILE; - is standard output
    #[arg(short, long, value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// With -w: write the datagrams that would go to --dest, headers and all, not the frames inside
    #[arg(long, requires = "write")]
    pub write_outer: bool,
    /// How a replay is paced.
    #[command(flatten)]
    pub pacing: PacingArgs,
    /// Replay the captures N times; 0 is for ever [default: 1]
    #[arg(long = "loop", value_name = "N", allow_negative_numbers = true)]
    pub passes: Option<u64>,
    /// When to stop, and what to say meanwhile.
    #[command(flatten)]
    pub run: RunArgs,
    /// Report at the end: text on standard error, json on standard output (on standard error with -w -)
    #[arg(long, value_enum, value_name = "FORM", default_value_t = ReportForm::Text)]
    pub report: ReportForm,
    /// Answer HTTP at this address: /metrics for Prometheus, /livez, /readyz and /status: 127.0.0.1:9464, [::]:9464
    #[arg(long, value_name = "ADDR:PORT", value_parser = listen_address)]
    pub metrics: Option<SocketAddr>,
    /// Answer the same at a Unix socket, for 'top' and 'doctor'; none for nowhere [default:
    /// /run/mirror-agent/PID.sock]
    #[arg(long, value_name = "PATH|none")]
    pub control: Option<PathBuf>,
    /// Bytes of each ring between kernel and agent: a power of two from 128KiB to 1GiB [default: 16MiB]
    #[arg(long, value_name = "BYTES", value_parser = ring_size, conflicts_with = "read")]
    pub ring_size: Option<u32>,
    /// Processors for the sending threads, one thread and ring each: 0,2-3 [default: half of them, at most
    /// 4, from the last]; a replay and -w have one thread, on the first of them
    #[arg(long, value_name = "LIST", value_parser = cpu_list)]
    pub cpu: Option<CpuList>,
    /// Read options from FILE: TOML, with the long options' names; a flag goes before a MIRROR_... variable, and that
    /// before the file. SIGHUP reads it anew
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// For tests: which of the kernel's two ways of attaching to use
    #[arg(long, value_enum, default_value_t = Attach::Auto, hide = true)]
    pub attach: Attach,
    /// For tests: where an XDP program is to run
    #[arg(long, value_enum, default_value_t = XdpAttach::Auto, hide = true)]
    pub xdp_attach: XdpAttach,
}

/// How a replay is paced: at most one of these. The default is the capture's own timing, with `-w` top
/// speed.
#[derive(Args, Clone, Copy, Debug, Default)]
#[group(multiple = false)]
pub struct PacingArgs {
    /// Replay X times as fast as it was captured [default: 1, with -w --topspeed]
    #[arg(long, value_name = "X", value_parser = positive_number, allow_negative_numbers = true)]
    pub speed: Option<f64>,
    /// Replay N frames a second
    #[arg(long, value_name = "N", value_parser = positive_number, allow_negative_numbers = true)]
    pub pps: Option<f64>,
    /// Replay N million bits of frames a second
    #[arg(long, value_name = "N", value_parser = positive_number, allow_negative_numbers = true)]
    pub mbps: Option<f64>,
    /// Replay with a fixed gap between frames: 10us, 1ms
    #[arg(long, value_name = "DURATION", value_parser = positive_duration)]
    pub delay: Option<Duration>,
    /// Replay as fast as possible
    #[arg(long)]
    pub topspeed: bool,
}

/// What the main job and `sink` have in common.
#[derive(Args, Clone, Debug, Default)]
pub struct RunArgs {
    /// Stop after N frames
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Stop after this long: 90s, 5m, 1h 30m
    #[arg(long, value_name = "DURATION", value_parser = positive_duration)]
    pub duration: Option<Duration>,
    /// Print the counts so far on standard error, each time this has passed
    #[arg(long, value_name = "DURATION", value_parser = positive_duration)]
    pub stats_interval: Option<Duration>,
}

/// `--direction`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Direction {
    /// What the host receives and what it sends
    Both,
    /// What the host receives
    Ingress,
    /// What the host sends
    Egress,
}

/// `--hook`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hook {
    /// On the interface's traffic control hooks: what the host receives and what it sends
    Tc,
    /// In front of the host's stack: what the host receives, also where a firewall drops it
    Xdp,
}

/// `--mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// In the agent: what is sent is in order in both directions together
    Ring,
    /// In the kernel, on the processor that a frame comes by: no thread has to keep up
    Redirect,
}

/// `--encap`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Encap {
    /// RFC 7348
    Vxlan,
    /// RFC 8926, with an option that tells each frame's time, length, direction and interface
    Geneve,
}

/// `--log-format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// JSON in a pod of Kubernetes, where programs read it, unless it goes to a terminal; else text
    Auto,
    /// Lines for people
    Text,
    /// A JSON object in each line: time, level, target, message
    Json,
}

/// `--report`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportForm {
    /// For people, on standard error
    Text,
    /// One JSON object, on standard output
    Json,
}

/// `--attach`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Attach {
    /// TCX where the kernel has it, else a clsact filter.
    Auto,
    /// A bpf_link on the TCX hook, which the kernel removes when the agent is gone.
    Tcx,
    /// A filter under the clsact qdisc.
    Clsact,
}

/// `--xdp-attach`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum XdpAttach {
    /// In the driver where that can, else in front of the stack.
    Auto,
    /// In the driver.
    Native,
    /// In the driver, which may hand on frames in several pieces.
    Frags,
    /// In front of the stack, on socket buffers.
    Generic,
}

/// `--transmit`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transmit {
    /// Past the host's IP stack where that reaches the sensor, else through it
    Auto,
    /// Past the host's IP stack and packet filters, which is faster; an error where the sensor is not behind an
    /// Ethernet device
    Packet,
    /// Through the host's stack
    Udp,
}

/// `--oversize`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Oversize {
    /// Send it in IP fragments
    Fragment,
    /// Send as much of it as fits, with the 'do not fragment' bit; counted as truncated
    Truncate,
    /// Leave it out; counted as too_big
    Drop,
}

/// `--cpu`: processors in the order in which they were given.
pub type CpuList = std::sync::Arc<[usize]>;

/// Smallest ring: one record of the largest frame, and another one while that is sent.
const RING_SIZE_MIN: u64 = 128 << 10;

/// Largest ring: the kernel takes a size of 32 bits, and this is its last power of two but one.
const RING_SIZE_MAX: u64 = 1 << 30;

/// A length of time with units, such as `500ms`, `90s` or `1h 30m`, longer than zero.
///
/// # Errors
///
/// What is wrong with the text.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; expected a number with a unit, as in 500ms, 90s or 5m"))?;
    if duration.is_zero() {
        return Err("must be longer than zero".into());
    }
    Ok(duration)
}

/// An address of this host and a port.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(address),
        _ => {
            Err("must be an address and a port from 1 to 65535: 127.0.0.1:9464, 0.0.0.0:9464, [::]:9464"
                .into())
        }
    }
}

/// A number above zero, with or without a fraction.
fn positive_number(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("must be a number above 0".into()),
    }
}

/// A number of bytes, with or without a unit: `65536`, `64KiB`, `16MiB`.
///
/// # Errors
///
/// What is wrong with the text.
pub fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "not a number of bytes".to_string())?;
    let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        other => return Err(format!("{other} is not a unit: use KiB, MiB or GiB")),
    };
    Ok(number.saturating_mul(unit))
}

/// Bytes of a frame, 0 for all of it; less than an Ethernet header no sensor can read.
fn snaplen(text: &str) -> Result<u32, String> {
    match bytes(text)? {
        0 => Ok(u32::MAX),
        bytes if bytes < u64::from(ethernet::HEADER_LEN) => {
            Err(format!("must be 0, for all bytes, or at least {}: an Ethernet header", ethernet::HEADER_LEN))
        }
        bytes => Ok(u32::try_from(bytes).unwrap_or(u32::MAX)),
    }
}

/// A number of 64 bits, decimal or, with `0x` in front, hexadecimal.
fn seed(text: &str) -> Result<u64, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| "must be a number from 0 to 18446744073709551615, or with 0x in front".into())
}

fn ring_size(text: &str) -> Result<u32, String> {
    let bytes = bytes(text)?;
    if !bytes.is_power_of_two() || !(RING_SIZE_MIN..=RING_SIZE_MAX).contains(&bytes) {
        return Err("must be a power of two from 128KiB to 1GiB".into());
    }
    u32::try_from(bytes).map_err(|error| error.to_string())
}

fn cpu_list(text: &str) -> Result<CpuList, String> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let number = |text: &str| {
            text.trim().parse::<usize>().map_err(|_| format!("{text:?} is not a processor's number"))
        };
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last || last > 4095 {
            return Err(format!("{part:?} is not a range of processors"));
        }
        cpus.extend(first..=last);
    }
    let rings_max = mirror_common::record::RINGS_MAX;
    if cpus.len() > rings_max {
        return Err(format!("names {} processors, {rings_max} at most can be used", cpus.len()));
    }
    let mut sorted = cpus.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() != cpus.len() {
        return Err("names a processor twice".into());
    }
    Ok(cpus.into())
}

/// Takes `HOST`, `HOST:PORT`, `[V6]:PORT`, `V6` apart. No port is `default_port`.
///
/// # Errors
///
/// Port 0, a port that is no number, an empty host; the text says which.
pub fn host_and_port(text: &str, default_port: u16) -> Result<(String, u16), String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return nonzero(address.port()).map(|port| (address.ip().to_string(), port));
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if bare.parse::<std::net::IpAddr>().is_ok() {
        return Ok((bare.to_string(), default_port));
    }
    let (host, port) = match text.rsplit_once(':') {
        None => (text, default_port),
        Some((host, port)) => {
            let port = port.parse().map_err(|_| format!("{port:?} is not a UDP port: 1 to 65535"))?;
            (host, nonzero(port)?)
        }
    };
    if host.is_empty() || host.contains([':', '[', ']', '/', ' ', '=']) {
        return Err("neither an address nor a name, with or without a port".into());
    }
    Ok((host.to_string(), port))
}

/// The largest weight of a sensor.
const WEIGHT_MAX: u32 = 1000;

/// Takes a weight off what [`host_and_port`] takes apart. No weight is 1.
///
/// # Errors
///
/// As for [`host_and_port`], and what is wrong with the weight.
pub fn host_port_and_weight(text: &str, default_port: u16) -> Result<(String, u16, u32), String> {
    let (dest, weight) = match text.rsplit_once('=') {
        None => (text, 1),
        Some((dest, weight)) => match weight.parse() {
            Ok(number @ 1..=WEIGHT_MAX) => (dest, number),
            _ => return Err(format!("{weight:?} is not a weight: a whole number from 1 to {WEIGHT_MAX}")),
        },
    };
    host_and_port(dest, default_port).map(|(host, port)| (host, port, weight))
}

fn nonzero(port: u16) -> Result<u16, String> {
    if port == 0 { Err("port 0 cannot be sent to: use 1 to 65535".into()) } else { Ok(port) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn destinations() {
        for (text, host, port) in [
            ("10.0.0.2", "10.0.0.2", 4789),
            ("10.0.0.2:99", "10.0.0.2", 99),
            ("fd00::2", "fd00::2", 4789),
            ("[fd00::2]", "fd00::2", 4789),
            ("[fd00::2]:99", "fd00::2", 99),
            ("sensor", "sensor", 4789),
            ("sensor.lan:99", "sensor.lan", 99),
        ] {
            assert_eq!(host_and_port(text, 4789), Ok((host.to_string(), port)), "{text}");
        }
        for text in
            ["", ":99", "10.0.0.2:0", "[::1]:0", "sensor:0", "sensor:65536", "sensor:x", "a b", "[::1"]
        {
            assert!(host_and_port(text, 4789).is_err(), "{text}");
        }
    }

    #[test]
    fn weights() {
        for (text, port, weight) in [
            ("sensor", 4789, 1),
            ("sensor=3", 4789, 3),
            ("sensor:99=1000", 99, 1000),
            ("[fd00::2]:99=2", 99, 2),
        ] {
            let (_, found, found_weight) = host_port_and_weight(text, 4789).unwrap();
            assert_eq!((found, found_weight), (port, weight), "{text}");
        }
        for text in
            ["sensor=", "sensor=0", "sensor=1001", "sensor=-1", "sensor=1.5", "sensor=x", "=2", "a=1=2"]
        {
            assert!(host_port_and_weight(text, 4789).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_need_a_unit_and_some_length() {
        assert_eq!(positive_duration("1m 30s").unwrap(), Duration::from_secs(90));
        for text in ["", "5", "0s", "-1s", "soon"] {
            assert!(positive_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paces_are_above_zero() {
        assert_eq!(positive_number("0.5"), Ok(0.5));
        assert_eq!(positive_number("1e6"), Ok(1e6));
        for text in ["", "0", "-1", "inf", "NaN", "x", "1s"] {
            assert!(positive_number(text).is_err(), "{text}");
        }
    }

    #[test]
    fn one_source_and_one_pace() {
        let parse = |line: &str| Cli::try_parse_from(format!("mirror-agent {line}").split(' '));
        for line in [
            "-r a.pcap",
            "-r a.pcap -r b.pcap --speed 2",
            "-r - --topspeed --loop 0",
            "-r a -w b --write-outer --dest 10.0.0.2",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
        for line in [
            "-r a.pcap -i eth0",
            "-r a.pcap --direction ingress",
            "-r a.pcap --ring-size 1MiB",
            "-r a.pcap --speed 2 --pps 3",
            "-r a.pcap --topspeed --delay 1ms",
            "-r a.pcap --write-outer",
            "-r a.pcap -w b --transmit udp",
            "--topspeed",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn ring_sizes() {
        assert_eq!(ring_size("131072"), Ok(1 << 17));
        assert_eq!(ring_size("64MiB"), Ok(1 << 26));
        assert_eq!(ring_size("1g"), Ok(1 << 30));
        for text in ["", "4096", "3MiB", "2GiB", "16MB", "16XB", "-1", "99999999999999999999", "MiB"] {
            assert!(ring_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cpu_lists() {
        assert_eq!(&*cpu_list("0").unwrap(), [0]);
        assert_eq!(&*cpu_list("3,0-1").unwrap(), [3, 0, 1]);
        for text in ["", ",", "1-", "2-1", "0,0", "0-1,1", "x", "0-99", "9999"] {
            assert!(cpu_list(text).is_err(), "{text}");
        }
    }
}
