//! What the agent was told to do, validated: nothing past start-up reads the command line.

use std::{
    fmt::{self, Display, Formatter},
    io::{self, IsTerminal as _},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use mirror_common::{pool::DESTINATIONS_MAX, record::Direction};

use crate::{
    cli::{self, Attach, Hook, MirrorArgs, Mode, Oversize, PacingArgs, ReportForm, Transmit, XdpAttach},
    encap::tunnel::{Encap, Tunnel},
    filter::Filter,
    output::pcapng,
    select::Select,
    source::{capture::STDIN, replay::pace::Pacing},
    wanted::Wanted,
};

/// The main job.
#[derive(Debug)]
pub struct Config {
    /// Where frames come from.
    pub source: Source,
    /// Where frames go.
    pub output: Output,
    /// Which frames are wanted; all, where there is none.
    pub filter: Option<Filter>,
    /// Bytes kept of each frame on the wire, at least 14; `u32::MAX` for all.
    pub snaplen: u32,
    /// Which flows are mirrored.
    pub select: Select,
    /// Frames after which to stop.
    pub limit: Option<u64>,
    /// Time after which to stop.
    pub duration: Option<Duration>,
    /// Time between lines of counts.
    pub stats_interval: Option<Duration>,
    /// Form of the final report.
    pub report: ReportForm,
    /// Whether standard output is taken by a capture, so that nothing else may go there.
    pub stdout_is_capture: bool,
    /// Processors of the sending threads, one each; never empty.
    pub cpus: Vec<usize>,
    /// Where HTTP is answered.
    pub metrics: Option<SocketAddr>,
    /// Where it is answered on this host.
    pub control: Control,
}

/// `--control`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Control {
    /// At the usual place, if that can be had.
    #[default]
    Usual,
    /// Nowhere.
    None,
    /// At this path.
    At(PathBuf),
}

/// Where frames come from.
#[derive(Debug)]
pub enum Source {
    /// Interfaces, as it happens.
    Live(Live),
    /// Captures.
    Replay(Replay),
}

/// Interfaces, and how their traffic is taken.
#[derive(Debug)]
pub struct Live {
    /// Which.
    pub wanted: Wanted,
    /// One or both.
    pub directions: Vec<Direction>,
    /// Where the kernel program sits.
    pub hook: Hook,
    /// Where frames are encapsulated.
    pub mode: Mode,
    /// Bytes of each ring: a power of two. There are as many rings as processors.
    pub ring_size: u32,
    /// How to attach.
    pub attach: Attach,
    /// How to attach an XDP program.
    pub xdp_attach: XdpAttach,
}

/// Captures, and how they are played.
#[derive(Debug)]
pub struct Replay {
    /// In the order in which they are played; [`STDIN`] is standard input. Never empty.
    pub files: Vec<PathBuf>,
    /// When frames are due.
    pub pacing: Pacing,
    /// How often all files are played; 0 is for ever.
    pub passes: u64,
}

/// Where frames go.
#[derive(Clone, Debug)]
pub enum Output {
    /// To sensors.
    Sensors(Sensors, Delivery),
    /// Into a capture.
    File {
        /// `-` is standard output.
        path: PathBuf,
        /// Whose datagrams are written; frames are where there is none.
        outer: Option<Sensors>,
    },
}

/// How datagrams leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Through the host's stack or past it.
    pub transmit: Transmit,
    /// What becomes of those that are longer than the path takes.
    pub oversize: Oversize,
}

/// Sensors, and how frames are shared out among them.
#[derive(Clone, Debug)]
pub struct Sensors {
    /// Each once; 1 to [`DESTINATIONS_MAX`].
    pub all: Vec<Sensor>,
    /// How frames are wrapped.
    pub tunnel: Tunnel,
    /// Whether each gets every frame; else each connection goes to one of them.
    pub is_fanout: bool,
    /// How often names are looked up again.
    pub resolve_interval: Duration,
}

impl Sensors {
    /// Whether there is more than one.
    #[must_use]
    pub fn is_pool(&self) -> bool {
        self.all.len() > 1
    }
}

/// A sensor as the user names it.
#[derive(Clone, Debug)]
pub struct Sensor {
    /// Address or name, in one way of several to write it.
    pub host: String,
    /// UDP port, not 0.
    pub port: u16,
    /// How much of all connections it gets, against the others.
    pub weight: u32,
}

impl Sensor {
    /// Its address, where the user did not give a name.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.host.parse().ok().map(|address: IpAddr| SocketAddr::new(address, self.port))
    }
}

impl Display for Sensor {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.address() {
            Some(address) => address.fmt(f),
            None => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// The sensor when none is named: this host.
const DEFAULT_DEST: &str = "127.0.0.1";
/// The network identifier when none is given.
pub const DEFAULT_VNI: u32 = 4242;

/// Bytes of a ring unless told otherwise: what stays in a processor's last-level cache.
const RING_SIZE: u32 = 16 << 20;

impl Config {
    /// Checks what the user typed against itself and against this machine's processors.
    ///
    /// # Errors
    ///
    /// One line: the option, its value, and what it should be.
    pub fn new(args: MirrorArgs) -> Result<Self, String> {
        let wanted = Wanted::new(&args.ifaces, &args.exclude_iface)?;
        let output = output(&args, &wanted)?;
        let filter = filter(&args.filter, args.filter_file.as_deref())
            .map_err(|error| if args.read.is_empty() { error } else { or_a_capture(&error, &args.filter) })?;
        let to_file = matches!(output, Output::File { .. });
        let stdout_is_capture =
            matches!(&output, Output::File { path, .. } if path.as_os_str() == pcapng::STDOUT);
        if stdout_is_capture && io::stdout().is_terminal() {
            return Err("--write - would write to the terminal: pipe it on, or name a file".into());
        }
        let select = select(&args)?;
        let mut cpus = cpus(args.cpu.as_deref())?;
        if to_file || !args.read.is_empty() {
            // One thread writes one file, or plays one: its order is that over all flows.
            cpus.truncate(1);
        }
        let source = if args.read.is_empty() {
            if let Some(option) = of_replay(&args) {
                return Err(format!("{option} is for replaying captures (--read), and --iface is not one"));
            }
            check_mode(&args)?;
            Source::Live(Live {
                directions: directions(&args)?,
                wanted,
                hook: args.hook,
                mode: args.mode,
                ring_size: args.ring_size.unwrap_or(RING_SIZE),
                attach: args.attach,
                xdp_attach: args.xdp_attach,
            })
        } else {
            let passes = args.passes.unwrap_or(1);
            check_standard_input(&args.read, passes)?;
            Source::Replay(Replay { files: args.read, pacing: pacing(args.pacing, to_file), passes })
        };
        Ok(Self {
            source,
            output,
            filter,
            snaplen: args.snaplen.unwrap_or(u32::MAX),
            select,
            limit: args.run.limit,
            duration: args.run.duration,
            stats_interval: args.run.stats_interval,
            report: args.report,
            stdout_is_capture,
            cpus,
            metrics: args.metrics,
            control: match args.control {
                None => Control::Usual,
                Some(path) if path.as_os_str() == "none" => Control::None,
                Some(path) => Control::At(path),
            },
        })
    }
}

/// What was said of a filter; at most one of both is there.
///
/// # Errors
///
/// The expression is wrong, or its file cannot be read.
pub fn filter(words: &[String], file: Option<&Path>) -> Result<Option<Filter>, String> {
    match file {
        Some(file) => Filter::of_file(file).map(Some),
        None if words.is_empty() => Ok(None),
        None => Filter::of_words(words).map(Some),
    }
}

/// A filter may be wrong because it is no filter: the shell has made several names of captures out of one.
fn or_a_capture(error: &str, words: &[String]) -> String {
    let Some(word) = words.iter().find(|word| word.contains(['.', '/'])) else { return error.into() };
    // Below the first line is the place of the mistake.
    let (message, place) = error.split_once('\n').unwrap_or((error, ""));
    format!("{message}; if {word} is another capture, put --read in front of it\n{place}").trim_end().into()
}

impl Config {
    /// Which interfaces are meant, where there are any.
    #[must_use]
    pub fn wanted(&self) -> Option<&Wanted> {
        match &self.source {
            Source::Live(live) => Some(&live.wanted),
            Source::Replay(_) => None,
        }
    }

    /// How frames are wrapped; `None` where they are not.
    #[must_use]
    pub fn tunnel(&self) -> Option<&Tunnel> {
        match &self.output {
            Output::Sensors(sensors, _) | Output::File { outer: Some(sensors), .. } => Some(&sensors.tunnel),
            Output::File { outer: None, .. } => None,
        }
    }
}

fn output(args: &MirrorArgs, wanted: &Wanted) -> Result<Output, String> {
    let tunnel = tunnel(args, wanted)?;
    let has_own_vnis = tunnel.has_own_vnis();
    let Some(path) = &args.write else {
        let delivery = Delivery { transmit: args.transmit, oversize: args.oversize };
        return Ok(Output::Sensors(sensors(args, tunnel)?, delivery));
    };
    let in_vain = [
        ("--dest", !args.dest.is_empty()),
        ("--fanout", args.fanout),
        ("--vni", args.vni.is_some()),
        ("--encap", args.encap.is_some()),
        ("--iface NAME=vni:N", has_own_vnis),
    ];
    if let Some((option, _)) = in_vain.into_iter().find(|(_, is_given)| *is_given && !args.write_outer) {
        return Err(format!(
            "--write keeps the frames only, for which {option} means nothing: leave it out, or add --write-outer"
        ));
    }
    let outer = if args.write_outer { Some(sensors(args, tunnel)?) } else { None };
    Ok(Output::File { path: path.clone(), outer })
}

fn select(args: &MirrorArgs) -> Result<Select, String> {
    if let Some(seed) = args.sample_seed
        && args.sample.is_none()
        && args.max_rate.is_none()
    {
        return Err(format!("--sample-seed {seed}: nothing is chosen by it without --sample or --max-rate"));
    }
    if args.max_rate_strict && args.max_rate.is_none() {
        return Err("--max-rate-strict says what --max-rate leaves out: add that".into());
    }
    Ok(Select {
        sample: args.sample.unwrap_or(1),
        seed: args.sample_seed.unwrap_or(0),
        max_rate: args.max_rate,
        is_strict: args.max_rate_strict,
    })
}

fn sensors(args: &MirrorArgs, tunnel: Tunnel) -> Result<Sensors, String> {
    let here = [DEFAULT_DEST.to_string()];
    let given: &[String] = if args.dest.is_empty() { &here } else { &args.dest };
    if given.len() > DESTINATIONS_MAX {
        return Err(format!(
            "--dest is given {} times: {DESTINATIONS_MAX} sensors are the most",
            given.len()
        ));
    }
    let mut all: Vec<Sensor> = Vec::new();
    for dest in given {
        let (host, port, weight) = cli::host_port_and_weight(dest, tunnel.encap.port())
            .map_err(|error| format!("--dest {dest:?}: {error}"))?;
        if args.fanout && dest.contains('=') {
            return Err(format!(
                "--dest {dest}: with --fanout each sensor gets all, and weights mean nothing"
            ));
        }
        // The sensor's share hangs on how it is called.
        let host = match host.parse::<IpAddr>() {
            Ok(address) => address.to_string(),
            Err(_) => host.to_ascii_lowercase(),
        };
        if all.iter().any(|other| (&other.host, other.port) == (&host, port)) {
            return Err(format!(
                "--dest {dest} is given twice: name each sensor once, with =2 behind it for twice the share"
            ));
        }
        all.push(Sensor { host, port, weight });
    }
    Ok(Sensors { all, tunnel, is_fanout: args.fanout, resolve_interval: args.resolve_interval })
}

fn directions(args: &MirrorArgs) -> Result<Vec<Direction>, String> {
    match (args.direction, args.hook) {
        (cli::Direction::Egress, Hook::Xdp) => {
            Err("--hook xdp sees what the host receives only: --direction egress needs --hook tc".into())
        }
        (cli::Direction::Ingress, _) | (cli::Direction::Both, Hook::Xdp) => Ok(vec![Direction::Ingress]),
        (cli::Direction::Both, Hook::Tc) => Ok(Direction::ALL.to_vec()),
        (cli::Direction::Egress, Hook::Tc) => Ok(vec![Direction::Egress]),
    }
}

/// In redirect mode nothing comes to the agent.
fn check_mode(args: &MirrorArgs) -> Result<(), String> {
    if args.mode == Mode::Ring {
        return Ok(());
    }
    let in_vain = [
        ("--hook xdp", args.hook == Hook::Xdp),
        ("--write", args.write.is_some()),
        ("--transmit", args.transmit != Transmit::Auto),
        ("--ring-size", args.ring_size.is_some()),
        ("--cpu", args.cpu.is_some()),
    ];
    match in_vain.into_iter().find(|(_, is_given)| *is_given) {
        Some((option, _)) => Err(format!("{option} is for --mode ring: leave one of the two out")),
        None => Ok(()),
    }
}

fn tunnel(args: &MirrorArgs, wanted: &Wanted) -> Result<Tunnel, String> {
    let encap = match args.encap {
        Some(cli::Encap::Geneve) => Encap::Geneve { has_metadata: !args.no_metadata },
        _ if args.no_metadata => {
            return Err("--no-metadata is for --encap geneve: VXLAN tells nothing of frames".into());
        }
        _ => Encap::Vxlan,
    };
    Ok(Tunnel { encap, vni: args.vni.unwrap_or(DEFAULT_VNI), ifaces: wanted.ifaces().into() })
}

/// An option that was given and says something of a replay only.
fn of_replay(args: &MirrorArgs) -> Option<&'static str> {
    let PacingArgs { speed, pps, mbps, delay, topspeed } = args.pacing;
    [
        ("--speed", speed.is_some()),
        ("--pps", pps.is_some()),
        ("--mbps", mbps.is_some()),
        ("--delay", delay.is_some()),
        ("--topspeed", topspeed),
        ("--loop", args.passes.is_some()),
    ]
    .into_iter()
    .find_map(|(option, is_given)| is_given.then_some(option))
}

/// Standard input can be read only once.
fn check_standard_input(files: &[PathBuf], passes: u64) -> Result<(), String> {
    match files.iter().filter(|path| *path == Path::new(STDIN)).count() {
        0 => Ok(()),
        1 if passes == 1 => Ok(()),
        1 => Err(format!("--loop {passes}: standard input (--read -) can be played once only")),
        _ => Err("--read - is given twice: standard input can be played once only".into()),
    }
}

fn pacing(args: PacingArgs, to_file: bool) -> Pacing {
    match args {
        PacingArgs { speed: Some(factor), .. } => Pacing::Speed(factor),
        PacingArgs { pps: Some(rate), .. } => Pacing::FramesPerSecond(rate),
        PacingArgs { mbps: Some(rate), .. } => Pacing::MegabitsPerSecond(rate),
        PacingArgs { delay: Some(gap), .. } => Pacing::Gap(gap),
        PacingArgs { topspeed: true, .. } => Pacing::TopSpeed,
        // Who converts a capture does not want to wait as long as it took.
        _ if to_file => Pacing::TopSpeed,
        _ => Pacing::Speed(1.0),
    }
}

fn cpus(list: Option<&[usize]>) -> Result<Vec<usize>, String> {
    let allowed = crate::affinity::allowed()
        .map_err(|error| format!("cannot find out which processors this process may use: {error}"))?;
    let Some(list) = list else {
        return Ok(default_cpus(&allowed));
    };
    if let Some(cpu) = list.iter().find(|cpu| !allowed.contains(cpu)) {
        let allowed: Vec<_> = allowed.iter().map(usize::to_string).collect();
        return Err(format!("--cpu {cpu}: this process may use {}", allowed.join(",")));
    }
    Ok(list.to_vec())
}

/// Half of the processors, so that the other half serves the host, and at most 4; from the last, because
/// interrupts tend to be served by the first.
fn default_cpus(allowed: &[usize]) -> Vec<usize> {
    let threads = (allowed.len() / 2).clamp(1, 4);
    allowed.iter().rev().take(threads).copied().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use clap::Parser as _;
    use mirror_common::settings;

    use super::*;

    fn config(line: &str) -> Result<Config, String> {
        let line = format!("mirror-agent {line}");
        Config::new(cli::Cli::try_parse_from(line.split(' ')).unwrap().mirror)
    }

    #[test]
    fn threads_leave_processors_to_the_host() {
        assert_eq!(default_cpus(&[0]), [0]);
        assert_eq!(default_cpus(&[0, 1]), [1]);
        assert_eq!(default_cpus(&[2, 3, 6, 7]), [7, 6]);
        assert_eq!(default_cpus(&(0..64).collect::<Vec<_>>()), [63, 62, 61, 60]);
    }

    #[test]
    fn a_replay_keeps_the_captures_timing_and_a_conversion_does_not_wait() {
        for (line, expected) in [
            ("-r a", Pacing::Speed(1.0)),
            ("-r a -w b", Pacing::TopSpeed),
            ("-r a -w b --speed 2", Pacing::Speed(2.0)),
            ("-r a --pps 7", Pacing::FramesPerSecond(7.0)),
            ("-r a --mbps 7.5", Pacing::MegabitsPerSecond(7.5)),
            ("-r a --delay 7us", Pacing::Gap(Duration::from_micros(7))),
            ("-r a --topspeed", Pacing::TopSpeed),
        ] {
            match config(line).unwrap().source {
                Source::Replay(replay) => assert_eq!(replay.pacing, expected, "{line}"),
                Source::Live(live) => panic!("{line}: {live:?}"),
            }
        }
    }

    #[test]
    fn live_traffic_has_no_pace() {
        for line in ["-i eth0 --pps 3", "-i eth0 --topspeed", "-i eth0 --loop 2", "-i eth0 --speed 1"] {
            assert!(config(line).unwrap_err().contains("--read"), "{line}");
        }
    }

    #[test]
    fn xdp_sees_one_direction() {
        let Source::Live(live) = config("-i eth0 --hook xdp").unwrap().source else { panic!("live") };
        assert_eq!(live.directions, [Direction::Ingress]);
        assert!(config("-i eth0 --hook xdp --direction egress").unwrap_err().contains("--hook tc"));
    }

    #[test]
    fn nothing_comes_to_the_agent_in_redirect_mode() {
        assert!(config("-i eth0 --mode redirect").is_ok());
        for option in ["--hook xdp", "-w a.pcapng", "--transmit udp", "--ring-size 1MiB", "--cpu 0"] {
            let line = format!("-i eth0 --mode redirect {option}");
            assert!(config(&line).unwrap_err().contains("--mode ring"), "{line}");
        }
    }

    #[test]
    fn a_seed_is_for_something() {
        for line in ["-i eth0 --sample 8 --sample-seed 0xff", "-r a --max-rate 5mbit --sample-seed 255"] {
            assert_eq!(config(line).unwrap().select.seed, 255, "{line}");
        }
        assert!(config("-i eth0 --sample-seed 5").unwrap_err().contains("--sample-seed 5"));
        let select = config("-i eth0").unwrap().select;
        let settings::Select { greatest_draw, unit, .. } = select.settings(4);
        assert_eq!((greatest_draw, unit), (u32::MAX, 0), "all flows");
        assert!(select.selector().is_none());
    }

    #[test]
    fn standard_input_is_played_once() {
        assert!(config("-r -").is_ok());
        assert!(config("-r a -r -").is_ok());
        assert!(config("-r - --loop 2").unwrap_err().contains("--loop 2"));
        assert!(config("-r - --loop 0").is_err());
        assert!(config("-r - -r -").is_err());
    }

    fn tunnel(line: &str) -> Result<(Tunnel, u16), String> {
        match config(line)?.output {
            Output::Sensors(sensors, _) | Output::File { outer: Some(sensors), .. } => {
                Ok((sensors.tunnel, sensors.all[0].port))
            }
            Output::File { .. } => Err("no sensor".into()),
        }
    }

    #[test]
    fn each_protocol_has_its_port() {
        for (line, encap, port) in [
            ("-i eth0", Encap::Vxlan, 4789),
            ("-i eth0 --encap vxlan", Encap::Vxlan, 4789),
            ("-i eth0 --encap geneve", Encap::Geneve { has_metadata: true }, 6081),
            ("-r a -w b --write-outer --encap geneve", Encap::Geneve { has_metadata: true }, 6081),
            ("-i eth0 --encap geneve --no-metadata -d h:7", Encap::Geneve { has_metadata: false }, 7),
        ] {
            let (tunnel, found) = tunnel(line).unwrap();
            assert_eq!((tunnel.encap, found), (encap, port), "{line}");
        }
        assert!(tunnel("-i eth0 --no-metadata").unwrap_err().contains("--encap geneve"));
        assert!(tunnel("-i eth0 -w b --encap geneve").unwrap_err().contains("--write-outer"));
    }

    #[test]
    fn interfaces_have_networks_of_their_own() {
        let (tunnel_of_both, _) = tunnel("-i eth0=vni:7 -i eth1 -i eth0 --vni 9").unwrap();
        assert_eq!(["eth0", "eth1"].map(|name| tunnel_of_both.vni_of(name)), [7, 9]);
        let (patterns, _) = tunnel("-i veth*=vni:7 -i veth1=vni:8 -i *").unwrap();
        assert_eq!(["veth0", "veth1", "eth0"].map(|name| patterns.own_vni(name)), [Some(7), Some(8), None]);
        let Source::Live(live) = config("-i eth0=vni:7 -i eth1 -i eth0").unwrap().source else {
            panic!("live")
        };
        assert_eq!(live.wanted.names().collect::<Vec<_>>(), ["eth0", "eth1"]);
        assert!(config("-i eth0=vni:7 -i eth0=vni:8").unwrap_err().contains("eth0=vni:8"));
        assert!(config("-i eth0=vni:7 -w b").unwrap_err().contains("--write-outer"));
        assert!(config("-i eth0=vni:7 -w b --write-outer").is_ok());
    }

    #[test]
    fn each_sensor_is_named_once() {
        let sensors = |line: &str| match config(&format!("-i eth0 {line}"))?.output {
            Output::Sensors(sensors, _) => Ok(sensors),
            Output::File { .. } => Err("a file".to_string()),
        };
        let pool = sensors("-d 10.0.0.2 -d 10.0.0.2:99=7 -d Sensor.lan -d fd00:0::2").unwrap();
        let named: Vec<_> = pool.all.iter().map(|sensor| (sensor.to_string(), sensor.weight)).collect();
        let expected =
            [("10.0.0.2:4789", 1), ("10.0.0.2:99", 7), ("sensor.lan:4789", 1), ("[fd00::2]:4789", 1)];
        assert_eq!(named, expected.map(|(name, weight)| (name.to_string(), weight)));
        for (line, word) in [
            ("-d 10.0.0.2 -d 10.0.0.2:4789", "10.0.0.2:4789"),
            ("-d fd00::2 -d fd00:0::2", "fd00:0::2"),
            ("-d a -d A=2", "A=2"),
            ("-d a=0", "a=0"),
            ("-d a -d b=2 --fanout", "b=2"),
        ] {
            let error = sensors(line).unwrap_err();
            assert!(error.contains(word), "{line}: {error}");
        }
        let many: Vec<_> = (0..65).map(|number| format!("-d 10.0.0.{number}")).collect();
        assert!(sensors(&many[..64].join(" ")).is_ok());
        assert!(sensors(&many.join(" ")).unwrap_err().contains("64"));
    }

    #[test]
    fn frames_in_a_capture_have_no_sensor() {
        assert!(config("-r a -w b --dest 10.0.0.2").unwrap_err().contains("--write-outer"));
        assert!(config("-i eth0 -w b --vni 1").is_err());
        let Output::File { outer: Some(sensors), .. } = config("-r a -w b --write-outer").unwrap().output
        else {
            panic!("the datagrams have a sensor");
        };
        let [sensor] = &sensors.all[..] else { panic!("one") };
        assert_eq!((sensor.host.as_str(), sensor.port), ("127.0.0.1", 4789));
        assert_eq!(sensors.tunnel.vni, 4242);
    }
}
