//! Suricata, an analyser that opens VXLAN itself: what it makes of an interface or of a capture.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    geneve,
    host::Host,
    lab::{DEFAULT_VNI, VXLAN_PORT},
    pcap,
    scratch::Scratch,
    vxlan,
};

/// How long it may take to start or to end, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The file with the rules, beside the settings.
const RULES: &str = "test.rules";

/// One file of events, VXLAN opened, every checksum looked at, and room for what comes at once.
const SETTINGS: &str = "%YAML 1.1
---
vars:
  address-groups: { HOME_NET: any, EXTERNAL_NET: any }
outputs:
  - eve-log:
      enabled: yes
      filetype: regular
      filename: eve.json
      types:
        - flow
        - files
        - alert
        - stats: { totals: yes, threads: no }
stats: { enabled: yes, interval: 600 }
logging:
  default-log-level: notice
  outputs:
    - console: { enabled: no }
    - file: { enabled: yes, level: notice, filename: suricata.log }
app-layer:
  protocols:
    http:
      enabled: yes
      libhtp:
        default-config: { personality: IDS, request-body-limit: 0, response-body-limit: 0 }
decoder:
  vxlan: { enabled: true, ports: '4789' }
  geneve: { enabled: true, ports: '6081' }
  teredo: { enabled: false }
af-packet:
  - interface: eth0
    threads: 1
    cluster-id: 99
    cluster-type: cluster_flow
    defrag: no
    use-mmap: yes
    tpacket-v3: yes
    ring-size: 100000
    block-size: 1048576
    checksum-checks: yes
    bpf-filter: udp port 4789
pcap-file:
  checksum-checks: yes
flow: { memcap: 256mb, hash-size: 65536, prealloc: 10000 }
stream:
  memcap: 512mb
  checksum-validation: yes
  inline: no
  reassembly: { memcap: 1gb, depth: 0 }
host: { hash-size: 4096, prealloc: 1000, memcap: 32mb }
";

/// A flow's two ends, as they opened it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    pub protocol: String,
    pub source: String,
    pub destination: String,
}

/// Frames and bytes each way, the TCP flags that were seen, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    pub to_server: (u64, u64),
    pub to_client: (u64, u64),
    pub tcp: String,
    pub application: String,
}

/// A file that it saw in a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// Bytes.
    pub size: u64,
    /// Whether it saw the end.
    pub is_whole: bool,
    /// Whether bytes are missing in between.
    pub has_gaps: bool,
}

/// What Suricata saw in VXLAN.
#[derive(Debug)]
pub struct Seen {
    /// Without ICMPv6.
    pub flows: BTreeMap<Flow, Counts>,
    /// What was downloaded.
    pub files: Vec<Download>,
    /// How often each rule was met, by its `sid`.
    pub alerts: BTreeMap<u64, usize>,
    stats: Value,
}

impl Seen {
    /// A number of its statistics, `decoder.pkts`. It leaves out those of what it never met.
    #[must_use]
    pub fn stat(&self, name: &str) -> u64 {
        name.split('.').fold(&self.stats, |value, key| &value[key]).as_u64().unwrap_or(0)
    }
}

/// Puts the frames of a capture into VXLAN, because Suricata counts a frame that it found in there without
/// its Ethernet header, and else with it. Nothing else is changed. Gives their number.
///
/// # Panics
/// Where the capture cannot be read.
#[must_use]
pub fn encapsulate(capture: &Path, to: &Path) -> usize {
    let mut writer = pcap::Writer::create(to, 65_535);
    let packets = pcap::read(capture);
    for packet in &packets {
        let payload = vxlan::wrap(DEFAULT_VNI, &packet.bytes);
        let length = |more: usize| ((payload.len() + more) as u16).to_be_bytes();
        let udp = [&[0xc0, 0, 0x12, 0xb5][..], &length(8), &[0, 0]].concat();
        let mut ip = [&[0x45, 0][..], &length(28), &[0, 0, 0, 0, 64, 17, 0, 0]].concat();
        ip.extend([10, 20, 0, 1, 10, 20, 0, 2]);
        let sum: u32 = ip.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let ethernet = [2, 0, 0, 0, 0x20, 2, 2, 0, 0, 0, 0x20, 1, 8, 0];
        writer.write(packet.time, &[&ethernet[..], &ip, &udp, &payload].concat());
    }
    writer.finish();
    packets.len()
}

/// What each flow was.
pub type Flows = BTreeMap<Flow, Counts>;

/// Checks that the mirror shows what was on the wire.
///
/// # Panics
/// Where it does not.
pub fn assert_same(mirrored: &Flows, on_the_wire: &Flows) {
    let one_sided = |of: &Flows, other: &Flows| -> Vec<String> {
        of.iter()
            .filter(|(flow, counts)| other.get(flow) != Some(counts))
            .map(|(flow, counts)| format!("{flow:?}: {counts:?}"))
            .collect()
    };
    let (mirror, wire) = (one_sided(mirrored, on_the_wire), one_sided(on_the_wire, mirrored));
    assert!(
        mirror.is_empty() && wire.is_empty(),
        "in the mirror only:\n{}\non the wire only:\n{}",
        mirror.join("\n"),
        wire.join("\n")
    );
}

/// The program and its libraries.
#[derive(Debug, Clone)]
pub struct Suricata {
    program: PathBuf,
    libraries: Option<PathBuf>,
}

impl Suricata {
    /// The system's, or the one that `cargo xtask test` got. `None` where there is none, which is said.
    #[must_use]
    pub fn find() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let installed = std::env::split_paths(&path).map(|folder| folder.join("suricata"));
        if let Some(program) = installed.into_iter().find(|program| program.is_file()) {
            return Some(Self { program, libraries: None });
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/suricata/usr");
        let program = root.join("bin/suricata");
        if !program.is_file() {
            println!("skipped: no suricata here, and `cargo xtask test` could not get Debian's");
            return None;
        }
        let mut folders = fs::read_dir(root.join("lib")).ok()?.flatten().map(|entry| entry.path());
        let libraries = folders.find(|folder| folder.to_string_lossy().ends_with("-linux-gnu"));
        Some(Self { program, libraries })
    }

    /// Suricata in `host`, or wherever the test is, with its events in `folder`.
    fn command(&self, host: Option<&Host>, folder: &Path, rules: &str) -> Command {
        let settings = folder.join("suricata.yaml");
        fs::write(folder.join(RULES), rules).expect("cannot write the rules");
        fs::write(&settings, SETTINGS).expect("cannot write the settings");
        let mut command =
            host.map_or_else(|| Command::new(&self.program), |host| host.command(&self.program));
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command.arg("-c").arg(settings).arg("-l").arg(folder).args(["-k", "all", "-S"]);
        command.arg(folder.join(RULES));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Watches what comes in VXLAN at `eth0` of `host`, from when this returns.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn watch(&self, host: &Host) -> Watching {
        self.watch_with_rules(host, "")
    }

    /// As [`Suricata::watch`], with rules.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn watch_with_rules(&self, host: &Host, rules: &str) -> Watching {
        let scratch = Scratch::new();
        let mut command = self.command(Some(host), scratch.folder(), rules);
        let child = command.args(["--af-packet=eth0", "--runmode", "workers"]).spawn().expect("suricata");
        let mut watching = Watching { child, scratch };
        let deadline = Instant::now() + PATIENCE;
        while !watching.log().contains("Engine started") {
            let ended = watching.child.try_wait().expect("suricata");
            assert!(ended.is_none() && Instant::now() < deadline, "suricata: {ended:?}\n{}", watching.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        watching
    }

    /// Reads a capture.
    ///
    /// # Panics
    /// Where it cannot.
    #[must_use]
    pub fn read(&self, capture: &Path) -> Seen {
        let scratch = Scratch::new();
        let mut command = self.command(None, scratch.folder(), "");
        let child = command.args(["--runmode", "single", "-r"]).arg(capture).spawn().expect("suricata");
        Watching { child, scratch }.end()
    }
}

/// A Suricata that runs.
#[derive(Debug)]
pub struct Watching {
    child: Child,
    scratch: Scratch,
}

impl Watching {
    /// Has it take other rules while it watches, and waits until they are in force.
    ///
    /// # Panics
    /// Where it does not take them.
    pub fn replace_rules(&self, rules: &str) {
        fs::write(self.scratch.path(RULES), rules).expect("cannot write the rules");
        let said = self.log().len();
        // SAFETY: kill touches no memory. The child has not been waited for, so the id is still its own.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGUSR2) };
        let deadline = Instant::now() + PATIENCE;
        while !self.log()[said..].contains("rule reload complete") {
            assert!(Instant::now() < deadline, "no other rules:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it; gives what it saw.
    ///
    /// # Panics
    /// Where it does not end well.
    #[must_use]
    pub fn stop(self) -> Seen {
        // What the kernel still has for it: a block of the ring that is not full is handed over after 10 ms.
        std::thread::sleep(Duration::from_millis(300));
        // SAFETY: kill touches no memory. The child has not been waited for, so the id is still its own.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGINT) };
        self.end()
    }

    fn end(mut self) -> Seen {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait().expect("suricata") {
                Some(status) => break status,
                None => assert!(Instant::now() < deadline, "suricata does not end:\n{}", self.log()),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(status.success(), "suricata: {status}\n{}", self.log());
        let events = fs::read_to_string(self.scratch.path("eve.json")).expect("no events of suricata");
        seen(&events)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.scratch.path("suricata.log")).unwrap_or_default()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn seen(events: &str) -> Seen {
    let (flows, alerts) = (BTreeMap::new(), BTreeMap::new());
    let mut seen = Seen { flows, alerts, files: Vec::new(), stats: Value::Null };
    for line in events.lines() {
        let event: Value = serde_json::from_str(line).expect("an event of suricata");
        if event["event_type"] == "stats" {
            seen.stats = event["stats"].clone();
        }
        if event["event_type"] == "fileinfo" {
            let file = &event["fileinfo"];
            seen.files.push(Download {
                size: file["size"].as_u64().expect("a size"),
                is_whole: file["state"] == "CLOSED",
                has_gaps: file["gaps"] == true,
            });
        }
        if event["event_type"] == "alert" {
            *seen.alerts.entry(event["alert"]["signature_id"].as_u64().expect("a sid")).or_default() += 1;
        }
        // The datagrams are flows, too; and hosts resolve addresses when they like.
        let is_datagram = event["dest_port"] == VXLAN_PORT || event["dest_port"] == geneve::PORT;
        if event["event_type"] != "flow" || is_datagram || event["proto"] == "IPv6-ICMP" {
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let end = |address: &str, port: &str| format!("{} {}", text(&event[address]), event[port]);
        let flow = Flow {
            protocol: format!("{} {} {}", text(&event["proto"]), event["icmp_type"], event["icmp_code"]),
            source: end("src_ip", "src_port"),
            destination: end("dest_ip", "dest_port"),
        };
        let number = |name: &str| event["flow"][name].as_u64().expect("a count");
        let counts = Counts {
            to_server: (number("pkts_toserver"), number("bytes_toserver")),
            to_client: (number("pkts_toclient"), number("bytes_toclient")),
            tcp: format!("{} {}", event["tcp"]["tcp_flags_ts"], event["tcp"]["tcp_flags_tc"]),
            application: text(&event["app_proto"]),
        };
        let before = seen.flows.insert(flow.clone(), counts);
        assert!(before.is_none(), "two records of {flow:?}: {before:?}");
    }
    assert!(!seen.stats.is_null(), "no statistics of suricata");
    seen
}
