//! Suricata, and nothing else, is the sensor: it sees every connection whole, under load, while the agent's configuration
//! and Suricata's own rules are read anew.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    fs,
    net::UdpSocket,
    path::Path,
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use mirror_tests::{
    agent::Agent,
    generator::Generator,
    host::Host,
    lab::{CLIENT, Lab, ROUTER, VXLAN_PORT},
    link::veth,
    lock, pcap,
    report::Report,
    scratch::Scratch,
    suricata::{self, Flow, Flows, Suricata},
    web::WebServer,
    wire::{self, Wire},
};

/// Bytes of each file.
const FILE: u64 = 8_000_000;
/// Downloads at a time, each way.
const DOWNLOADS: usize = 2;
/// Between two readings of the configuration.
const PAUSE: Duration = Duration::from_millis(30);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the configuration says in turn: interfaces, and a filter that takes all that the hosts say to each other but for
/// one port.
const CONFIGURED: [(&str, &str); 4] = [
    ("'eth0'", "ip or arp"),
    ("'eth0', 'noise0'", "not udp port 9"),
    ("'eth*'", "not udp port 9"),
    ("'eth0', 'noise*'", "tcp or udp or icmp or arp"),
];

fn configure(path: &Path, turn: usize) {
    let (ifaces, filter) = CONFIGURED[turn % CONFIGURED.len()];
    let text = format!(
        "iface = [{ifaces}]\nexclude-iface = 'eth1'\nfilter = '{filter}'\ndest = '10.20.0.2'\nreport = 'json'\n"
    );
    fs::write(path, text).unwrap();
}

fn download(lab: &Lab, name: &str) -> Vec<Child> {
    [(&lab.client, ROUTER), (&lab.router, CLIENT)]
        .iter()
        .flat_map(|way| [way; DOWNLOADS])
        .map(|(host, server)| {
            host.command("curl")
                .args(["--silent", "--fail", "--max-time", "30", "--limit-rate", "8M"])
                .args(["--output", "/dev/null", "--write-out", "%{size_download}"])
                .arg(format!("http://{server}:8000/{name}"))
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect()
}

/// Says something to port 9 of the router a thousand times a second.
fn chatter(lab: &Lab, is_over: &Arc<AtomicBool>) -> thread::JoinHandle<u64> {
    let is_over = Arc::clone(is_over);
    lab.client.thread("chatter", move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let mut sent = 0;
        while !is_over.load(Ordering::Relaxed) {
            socket.send_to(&[0; 100], (ROUTER, 9)).unwrap();
            sent += 1;
            thread::sleep(Duration::from_millis(1));
        }
        sent
    })
}

/// The flows that every configuration mirrors; frames of port 9, and of the other interface.
fn sorted(flows: &Flows) -> (Flows, u64, u64) {
    let ours = |end: &str| end.starts_with("10.10.0.");
    let is_port_9 = |flow: &Flow| flow.destination == format!("{ROUTER} 9");
    let frames = |chosen: &dyn Fn(&Flow) -> bool| {
        flows.iter().filter(|(flow, _)| chosen(flow)).map(|(_, counts)| counts.to_server.0).sum::<u64>()
    };
    let kept = flows.iter().filter(|(flow, _)| ours(&flow.source) && !is_port_9(flow));
    let kept = kept.map(|(flow, counts)| (flow.clone(), counts.clone())).collect();
    (kept, frames(&is_port_9), frames(&|flow| !ours(&flow.source)))
}

/// What came of the downloads in the meantime.
struct Load {
    transferred: u64,
    reloads: usize,
    report: Report,
    chatter: u64,
    noise: u64,
}

fn run(lab: &Lab, noise: &Host, scratch: &Scratch, watching: &suricata::Watching) -> Load {
    let config = scratch.path("config.toml");
    configure(&config, 0);
    let agent = Agent::start(&lab.router, &format!("--config {}", config.display()));
    let is_over = Arc::new(AtomicBool::new(false));
    let chatter = chatter(lab, &is_over);
    let noise = Generator::new("eth0").rate(2_000).start(noise, 0..200_000);
    let mut children = download(lab, "first");
    let (started, mut reloads) = (Instant::now(), 0);
    let mut reload = |agent: &Agent| {
        let said = agent.stderr().len();
        reloads += 1;
        configure(&config, reloads);
        agent.signal(libc::SIGHUP);
        agent.wait_for_text(said, "configuration read anew", PATIENCE);
        thread::sleep(PAUSE);
    };
    while children.iter_mut().all(|child| child.try_wait().unwrap().is_none()) {
        assert!(started.elapsed() < PATIENCE);
        reload(&agent);
    }
    children.extend(download(lab, "second"));
    watching.replace_rules(&rules());
    children.extend(download(lab, "third"));
    while children.iter_mut().any(|child| child.try_wait().unwrap().is_none()) {
        assert!(started.elapsed() < 2 * PATIENCE);
        reload(&agent);
    }
    println!("downloads took {:.1} s", started.elapsed().as_secs_f64());
    let sizes = children.into_iter().map(|child| {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "a download: {}", output.status);
        String::from_utf8(output.stdout).unwrap().parse::<u64>().unwrap()
    });
    let transferred = sizes.sum();
    is_over.store(true, Ordering::Relaxed);
    let (chatter, noise) = (chatter.join().unwrap(), noise.stop().frames);
    // The last acknowledgements.
    thread::sleep(Duration::from_millis(300));
    Load { transferred, reloads, report: agent.stop_and_report(), chatter, noise }
}

/// Rules that are met by what is downloaded after they came, and not before.
fn rules() -> String {
    ["second", "third"]
        .iter()
        .zip(1..)
        .map(|(name, sid)| {
            format!(
                "alert http any any -> any any (msg:\"{name}\"; flow:established,to_server; http.uri; \
                 content:\"/{name}\"; sid:{sid};)\n"
            )
        })
        .collect()
}

#[test]
fn suricata_misses_nothing_under_load_and_while_configurations_are_read_anew() {
    let Some(suricata) = Suricata::find() else { return };
    let _turn = lock::alone();
    let (lab, noise, scratch) = (Lab::new(), Host::new("noise"), Scratch::new());
    wire::settle(&lab);
    veth(&lab.router, "noise0", &noise, "eth0");
    lab.router.run("ethtool -K eth1 tx-udp-segmentation off");
    let served = scratch.path("served");
    fs::create_dir(&served).unwrap();
    for name in ["first", "second", "third"] {
        fs::write(served.join(name), vec![0x42; FILE as usize]).unwrap();
    }
    let _servers = [(&lab.client, CLIENT), (&lab.router, ROUTER)]
        .map(|(host, address)| WebServer::start(host, address, &served));
    // Nobody answers what is sent there: neither the chatter nor the mirror.
    let _nine = lab.router.within(|| UdpSocket::bind("0.0.0.0:9").unwrap());
    let _port = lab.sensor.within(|| UdpSocket::bind(("0.0.0.0", VXLAN_PORT)).unwrap());

    let watching = suricata.watch_with_rules(&lab.sensor, "");
    let wire = Wire::start(&lab.client, "eth0", &scratch.path("wire.pcap"));
    let load = run(&lab, &noise, &scratch, &watching);
    let captured = wire.stop();
    let mirrored = watching.stop();
    let encapsulated = scratch.path("encapsulated.pcap");
    let wire_frames = suricata::encapsulate(&captured, &encapsulated);
    let on_the_wire = suricata.read(&encapsulated);

    let downloads = 3 * 2 * DOWNLOADS;
    let report = &load.report;
    let (flows, port_9, others) = sorted(&mirrored.flows);
    let (wire_flows, wire_port_9, _) = sorted(&on_the_wire.flows);
    let bytes =
        |flows: &Flows| -> u64 { flows.values().map(|counts| counts.to_server.1 + counts.to_client.1).sum() };
    let frames =
        |flows: &Flows| -> u64 { flows.values().map(|counts| counts.to_server.0 + counts.to_client.0).sum() };
    println!("{downloads} downloads of {FILE} bytes, {} readings of the configuration", load.reloads);
    println!("curl received {} bytes", load.transferred);
    println!(
        "on the wire {wire_frames} frames, of which {} are in {} flows that every configuration mirrors, with {} bytes",
        frames(&wire_flows),
        wire_flows.len(),
        bytes(&wire_flows)
    );
    println!(
        "suricata: {} datagrams, {} frames in {} flows, {} bytes, {} gaps, {} kernel drops",
        mirrored.stat("decoder.vxlan"),
        frames(&flows),
        flows.len(),
        bytes(&flows),
        mirrored.stat("tcp.reassembly_gap"),
        mirrored.stat("capture.kernel_drops")
    );
    println!(
        "agent: {:?}, {} datagrams; mirrored of port 9: {port_9} of {}, of the other interface: {others} of {}",
        report.frames, report.datagrams_sent, load.chatter, load.noise
    );
    println!("suricata: {} files, alerts {:?}", mirrored.files.len(), mirrored.alerts);

    assert!(load.reloads >= CONFIGURED.len(), "{} readings of the configuration", load.reloads);
    // Nothing was lost on the way.
    let counted = &report.frames;
    assert_eq!(counted.seen, counted.sent + counted.filtered, "{counted:?}");
    assert_eq!(mirrored.stat("capture.kernel_drops"), 0, "suricata was too slow");
    assert_eq!(mirrored.stat("decoder.vxlan"), report.datagrams_sent);
    // What was downloaded, by those who did, is what Suricata found in the mirror.
    assert_eq!(load.transferred, downloads as u64 * FILE);
    assert_eq!(mirrored.files.len(), downloads);
    for file in &mirrored.files {
        assert!(file.size == FILE && file.is_whole && !file.has_gaps, "{file:?}");
    }
    suricata::assert_same(&flows, &wire_flows);
    for (stat, expected) in [
        ("tcp.reassembly_gap", 0),
        ("tcp.invalid_checksum", 0),
        ("tcp.pkt_on_wrong_thread", 0),
        ("tcp.syn", downloads as u64),
        ("tcp.synack", downloads as u64),
        ("app_layer.tx.http", downloads as u64),
    ] {
        assert_eq!((mirrored.stat(stat), on_the_wire.stat(stat)), (expected, expected), "{stat}");
    }
    // What the configurations differ in was mirrored in a part of the time.
    assert!(counted.filtered > 0 && port_9 > 0 && port_9 < load.chatter, "{port_9} of {}", load.chatter);
    assert_eq!(wire_port_9, load.chatter, "what the wire's capture saw");
    assert!(others > 0 && others < load.noise, "{others} of {}", load.noise);
    // Suricata took the rules while it watched.
    assert_eq!(mirrored.alerts.get(&2), Some(&(2 * DOWNLOADS)));
    assert!(pcap::read(&captured).len() == wire_frames);
}
