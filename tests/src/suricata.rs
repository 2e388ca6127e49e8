//! Suricata, an analyser that opens VXLAN itself: what it makes of an interface or of a capture.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{geneve, host::Host, lab::VXLAN_PORT, scratch::Scratch};

/// How long it may take to start or to end, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

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
        - stats: { totals: yes, threads: no }
stats: { enabled: yes, interval: 600 }
logging:
  default-log-level: notice
  outputs:
    - console: { enabled: no }
    - file: { enabled: yes, level: notice, filename: suricata.log }
app-layer:
  protocols:
    http: { enabled: yes }
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

/// What Suricata saw in VXLAN.
#[derive(Debug)]
pub struct Seen {
    /// Without ICMPv6.
    pub flows: BTreeMap<Flow, Counts>,
    stats: Value,
}

impl Seen {
    /// A number of its statistics, `decoder.pkts`. It leaves out those of what it never met.
    #[must_use]
    pub fn stat(&self, name: &str) -> u64 {
        name.split('.').fold(&self.stats, |value, key| &value[key]).as_u64().unwrap_or(0)
    }
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
    fn command(&self, host: Option<&Host>, folder: &Path) -> Command {
        let settings = folder.join("suricata.yaml");
        fs::write(&settings, SETTINGS).expect("cannot write the settings");
        let mut command =
            host.map_or_else(|| Command::new(&self.program), |host| host.command(&self.program));
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command.arg("-c").arg(settings).arg("-l").arg(folder).args(["-S", "/dev/null", "-k", "all"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Watches what comes in VXLAN at `eth0` of `host`, from when this returns.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn watch(&self, host: &Host) -> Watching {
        let scratch = Scratch::new();
        let mut command = self.command(Some(host), scratch.folder());
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
        let mut command = self.command(None, scratch.folder());
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
    let mut seen = Seen { flows: BTreeMap::new(), stats: Value::Null };
    for line in events.lines() {
        let event: Value = serde_json::from_str(line).expect("an event of suricata");
        if event["event_type"] == "stats" {
            seen.stats = event["stats"].clone();
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
