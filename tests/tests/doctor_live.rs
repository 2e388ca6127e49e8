//! `mirror-agent doctor`: each check of what happens now finds what was broken, and the printed command mends it. Others say
//! so too: `ss`, `ip`, `tc`, `nstat`, `nft`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    env,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, UdpSocket},
    os::unix::fs::symlink,
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mirror_tests::{
    agent::{self, Agent},
    bpf::{self, Direction, ForeignProgram, Verdict},
    command,
    doctor::{Diagnosis, examine, paste},
    etc::Hosts,
    host::Host,
    lab::{Lab, MIRRORED, SENSOR, UPLINK, VXLAN_PORT},
    link::veth,
    lock,
    scratch::Scratch,
    sensor::Sensor,
};

/// What the router is asked about.
const LAB: &str = "--iface eth0 --dest 10.20.0.2";

/// Everything is quick, but not on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

fn sh(host: &Host, line: &str) -> String {
    command::run(host.command("sh").args(["-c", line]))
}

/// A printed command that goes on: the agent is the one under test, wherever the line finds it.
fn start(host: &Host, line: &str) -> Agent {
    let folder = agent::binary().parent().unwrap().display().to_string();
    let path = format!("{folder}:{}", env::var("PATH").unwrap());
    let line = format!("exec {line}");
    Agent::spawn(host.command("env").args([&format!("PATH={path}"), "sh", "-c", &line]))
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A program that reads datagrams at VXLAN's port, with a receive buffer of 1 MiB (2 MiB as the kernel counts), killed on
/// drop.
struct Reader {
    child: Child,
    _folder: Scratch,
}

impl Reader {
    /// `name` is what the program is called, `arguments` what it is said to be started with.
    fn start(host: &Host, name: &str, arguments: &str) -> Self {
        const PROGRAM: &str = "import socket\n\
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
            s.setsockopt(socket.SOL_SOCKET, 33, 1 << 20)\n\
            s.bind(('0.0.0.0', 4789))\n\
            while True: s.recv(65536)\n";
        let folder = Scratch::new();
        let program = folder.path(name);
        symlink("/usr/bin/python3", &program).unwrap();
        let child =
            host.command(&program).args(["-c", PROGRAM]).args(arguments.split_whitespace()).spawn().unwrap();
        let reader = Self { child, _folder: folder };
        wait_until("somebody listens", || host.run("ss -Huln sport = :4789").contains("4789"));
        reader
    }

    fn stop(&self) {
        // SAFETY: kill touches no memory, and the child has not been waited for.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGSTOP) };
        let stat = format!("/proc/{}/stat", self.child.id());
        wait_until("it is stopped", || std::fs::read_to_string(&stat).unwrap().contains(") T "));
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes that wait at VXLAN's port, those that may, and datagrams that were lost, as `ss` has them.
fn queue(host: &Host) -> [u64; 3] {
    let text = host.run("ss -Huanm sport = :4789");
    let memory = text.split("skmem:(").nth(1).expect("skmem").split(')').next().unwrap();
    let number = |key: &str| {
        let found = memory.split(',').find_map(|part| part.strip_prefix(key)?.parse().ok());
        found.unwrap_or_else(|| panic!("no {key} in {memory}"))
    };
    [number("r"), number("rb"), number("d")]
}

/// Sends datagrams to VXLAN's port of `host` itself.
fn send_here(host: &Host, count: usize) {
    host.within(move || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for _ in 0..count {
            socket.send_to(&[0; 100], (Ipv4Addr::LOCALHOST, VXLAN_PORT)).unwrap();
        }
    });
}

/// Frames from the client to the router, and answers, about a thousand a second, until it is dropped.
struct Chatter {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Chatter {
    fn start(lab: &Lab, length: usize) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        // Somebody to take it, so that nobody answers.
        let taker = lab.router.within(|| UdpSocket::bind("10.10.0.1:9").unwrap());
        let thread = lab.client.thread("chatter", move || {
            let _taker = taker;
            let socket = UdpSocket::bind("10.10.0.2:0").unwrap();
            while !stopped.load(Ordering::Relaxed) {
                let _ = socket.send_to(&vec![0; length], "10.10.0.1:9");
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Chatter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Somebody's program that drops all that leaves through the uplink.
struct Dropper {
    index: u32,
    _program: ForeignProgram,
}

impl Dropper {
    fn on_uplink(lab: &Lab) -> Self {
        let index = sh(&lab.router, "cat /sys/class/net/eth1/ifindex").trim().parse().unwrap();
        let program = ForeignProgram::attach(&lab.router, index, Direction::Egress, Verdict::Drop).unwrap();
        Self { index, _program: program }
    }

    fn is_gone(&self, lab: &Lab) -> bool {
        bpf::attached(&lab.router, self.index, Direction::Egress).is_empty()
    }
}

/// Nothing of a doctor's is left in a host: no program, no qdisc, no device, no route.
fn assert_nothing_left(lab: &Lab, before: &[String; 3]) {
    for direction in [Direction::Ingress, Direction::Egress] {
        assert_eq!(bpf::attached(&lab.router, lab.mirrored_index, direction), []);
    }
    assert_eq!(&state(lab), before);
}

fn state(lab: &Lab) -> [String; 3] {
    let filters = [MIRRORED, UPLINK].map(|iface| {
        ["ingress", "egress"]
            .map(|side| lab.router.run(&format!("tc filter show dev {iface} {side}")))
            .concat()
    });
    let links = lab.router.run("ip -o link").lines().count().to_string();
    [links, lab.router.run("tc qdisc show"), filters.concat()]
}

/// One diagnosis for every station of the probe.
fn assert_probe_is_ok(found: &Diagnosis) {
    for (about, last) in [
        ("eth0 ingress, ring", "came out of the ring"),
        ("eth0 egress, ring", "came out of the ring"),
        ("ring to 10.20.0.2:4789", "left through eth1"),
        ("eth0 ingress, redirect", "left through eth1"),
        ("eth0 egress, redirect", "left through eth1"),
    ] {
        found.expect("probe", &[about, last], "ok");
    }
}

#[test]
fn a_sound_host_is_sound_and_is_left_as_it_was() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let sensor = Sensor::keeping(&lab.sensor);
    lab.router.run("ping -c 1 -W 2 10.20.0.2");
    let before = state(&lab);
    let sent_before = lab.router.link_counter(MIRRORED, "tx", "packets");
    let found = examine(
        &lab.router,
        &format!("{LAB} --only iface-up,sensor-answers,udp-errors,probe,sensor-queue,agent"),
    );
    assert_eq!(found.code, 0, "{:#}", found.json);
    found.expect("iface-up", &["eth0"], "ok");
    found.expect("sensor-answers", &[SENSOR, "nobody refuses"], "ok");
    found.expect("udp-errors", &["no UDP datagram was lost"], "ok");
    assert_probe_is_ok(&found);
    assert!(found.of("sensor-queue").is_empty(), "{:#}", found.json);
    assert_nothing_left(&lab, &before);
    // One frame for each path, that one of the kernel's ARP apart.
    let sent = lab.router.link_counter(MIRRORED, "tx", "packets") - sent_before;
    assert!(sent <= 4, "{sent} frames left through eth0");
    let (frames, _) = sensor.finish();
    println!("{} datagrams at the sensor", frames.len());
    // One of sensor-answers, one of the ring, two of redirect mode, the last two from the hooks themselves.
    assert_eq!(frames.len(), 4, "{frames:x?}");
    for frame in &frames {
        assert_eq!(frame[12..14], [0x88, 0xb5], "an experimental type");
        assert!(frame[14..].starts_with(b"mirror-agent doctor: a probe"), "{frame:x?}");
    }
}

#[test]
fn an_interface_that_is_down() {
    let _turn = lock::shared();
    let lab = Lab::new();
    lab.router.ip("link set eth0 down");
    let found = examine(&lab.router, &format!("{LAB} --only iface-up,probe,traffic"));
    assert_eq!(found.code, 1);
    let (fix, undo) = found.expect("iface-up", &["eth0", "down"], "fail");
    let (same, _) = found.expect("probe", &["eth0 egress, ring", "stops: not sent", "eth0 is down"], "fail");
    assert_eq!(fix, same);
    found.expect("probe", &["eth0 ingress, ring", "stops: not received"], "fail");
    assert!(found.of("traffic").is_empty());
    paste(&lab.router, &fix);
    assert!(lab.router.run("ip -o link show eth0").contains("LOWER_UP"));
    let mended = examine(&lab.router, &format!("{LAB} --only iface-up,probe"));
    mended.expect("iface-up", &["eth0"], "ok");
    mended.expect("probe", &["eth0 egress, ring"], "ok");
    paste(&lab.router, &undo);
    assert!(!lab.router.run("ip -o link show eth0").contains("LOWER_UP"));
    let down = examine(&lab.router, &format!("{LAB} --only iface-up"));
    down.expect("iface-up", &["eth0"], "fail");
}

#[test]
fn traffic_and_none() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let look = || examine(&lab.router, &format!("{LAB} --only traffic"));
    look().expect("traffic", &["eth0", "nothing crosses it"], "note");
    let chatter = Chatter::start(&lab, 100);
    look().expect("traffic", &["eth0", "packets received", "0 sent"], "note");
    drop(chatter);
    let mut pings = lab.client.command("ping").args(["-q", "-i", "0.01", "10.10.0.1"]).spawn().unwrap();
    thread::sleep(Duration::from_millis(50));
    look().expect("traffic", &["eth0", "packets received"], "ok");
    let _ = pings.kill();
    let _ = pings.wait();
}

#[test]
fn nobody_listens_at_the_sensors_port() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let look = || examine(&lab.router, &format!("{LAB} --only sensor-answers"));
    let (fix, _) = look().expect("sensor-answers", &[SENSOR, "ICMP type 3 code 3", "nobody listens"], "fail");
    let [sink] = &fix[..] else { panic!("{fix:?}") };
    let sink = start(&lab.sensor, sink);
    sink.wait_for_line("listening ");
    look().expect("sensor-answers", &[SENSOR, "nobody refuses"], "ok");
    assert!(lab.sensor.run("ss -Huln sport = :4789").contains("4789"));
}

#[test]
fn no_way_to_the_sensor() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let _sensor = Sensor::keeping(&lab.sensor);
    let look = || examine(&lab.router, &format!("{LAB} --only sensor-answers"));
    let is_ok = || look().expect("sensor-answers", &[SENSOR, "nobody refuses"], "ok");
    let is_there = || lab.router.run("ip route").contains("blackhole");

    lab.router.ip("route add blackhole 10.20.0.2");
    let (fix, undo) =
        look().expect("sensor-answers", &["the route `blackhole 10.20.0.2/32` refuses it"], "fail");
    paste(&lab.router, &fix);
    assert!(!is_there());
    is_ok();
    paste(&lab.router, &undo);
    assert!(is_there());
    lab.router.ip("route del blackhole 10.20.0.2");

    lab.router.ip("link set eth1 down");
    let (fix, _) = look().expect("sensor-answers", &["no way to 10.20.0.2", "eth1"], "fail");
    paste(&lab.router, &fix);
    is_ok();

    // A MAC address that is nobody's any more: the neighbour's entry is wrong.
    lab.sensor.ip("link set eth0 arp off");
    lab.router.ip("neigh flush dev eth1");
    let (fix, _) =
        look().expect("sensor-answers", &["10.20.0.2, the next hop", "does not answer on eth1"], "fail");
    assert!(lab.router.run("ip neigh show dev eth1").contains("10.20.0.2"));
    lab.sensor.ip("link set eth0 arp on");
    paste(&lab.router, &fix);
    is_ok();

    let elsewhere = examine(&lab.router, "--iface eth0 --dest 192.0.2.9 --only sensor-answers");
    let (fix, _) = elsewhere.expect("sensor-answers", &["no route to 192.0.2.9"], "fail");
    let fix: Vec<_> = fix.iter().map(|line| line.replace("ROUTER", SENSOR)).collect();
    paste(&lab.router, &fix);
    assert!(lab.router.run("ip route get 192.0.2.9").contains("via 10.20.0.2 dev eth1"));
}

#[test]
fn a_name_that_does_not_resolve() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let _sensor = Sensor::keeping(&lab.sensor);
    let _hosts = Hosts::new(&lab.router, "127.0.0.1 localhost\n");
    let look = || examine(&lab.router, "--iface eth0 --dest sensor.invalid --only sensor-answers");
    let (fix, _) = look().expect("sensor-answers", &["sensor.invalid does not resolve"], "fail");
    let fix: Vec<_> = fix.iter().map(|line| line.replace("ADDRESS", SENSOR)).collect();
    paste(&lab.router, &fix);
    look().expect("sensor-answers", &["sensor.invalid", SENSOR, "nobody refuses"], "ok");
}

#[test]
fn a_packet_filter_drops_what_is_sent() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let _sensor = Sensor::keeping(&lab.sensor);
    for line in [
        "nft add table inet wall",
        "nft add chain inet wall out '{ type filter hook output priority 0; }'",
        "nft add rule inet wall out udp dport 4789 drop",
    ] {
        sh(&lab.router, line);
    }
    let look = || examine(&lab.router, &format!("{LAB} --only sensor-answers,probe"));
    let drops = |found: &Diagnosis| {
        found.expect(
            "probe",
            &["ring to", "stops: not taken by the network", "packet filter", "inet wall out"],
            "fail",
        );
        found.expect("sensor-answers", &["a packet filter drops it", "inet wall out"], "fail")
    };
    let (fix, undo) = drops(&look());
    paste(&lab.router, &fix);
    let mended = look();
    mended.expect("sensor-answers", &["nobody refuses"], "ok");
    assert_probe_is_ok(&mended);
    assert!(lab.router.run("nft list ruleset").contains("udp dport 4789 accept"));
    paste(&lab.router, &undo);
    assert!(!lab.router.run("nft list ruleset").contains("accept comment"));
    let again = examine(&lab.router, &format!("{LAB} --only sensor-answers"));
    again.expect("sensor-answers", &["a packet filter drops it", "inet wall out"], "fail");
}

#[test]
fn a_packet_filter_at_the_sensor_rejects() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let _sensor = Sensor::keeping(&lab.sensor);
    for line in [
        "nft add table inet wall",
        "nft add chain inet wall in '{ type filter hook input priority 0; }'",
        "nft add rule inet wall in udp dport 4789 reject with icmpx type admin-prohibited",
    ] {
        sh(&lab.sensor, line);
    }
    let found = examine(&lab.router, &format!("{LAB} --only sensor-answers"));
    found.expect(
        "sensor-answers",
        &["10.20.0.2 answers with ICMP type 3 code 13", "a packet filter there"],
        "fail",
    );
    // The command is for that host.
    let there = examine(&lab.sensor, "--iface eth0 --dest 10.20.0.2 --only sensor-answers");
    let (fix, _) = there.expect("sensor-answers", &["a packet filter", "inet wall in"], "fail");
    paste(&lab.sensor, &fix);
    let mended = examine(&lab.router, &format!("{LAB} --only sensor-answers"));
    mended.expect("sensor-answers", &["nobody refuses"], "ok");
}

#[test]
fn a_program_on_the_outgoing_interface() {
    let _turn = lock::shared();
    let lab = Lab::new();
    if !bpf::has_tcx(&lab.router, lab.mirrored_index) {
        return println!("skipped: no TCX in this kernel");
    }
    let _sensor = Sensor::keeping(&lab.sensor);
    lab.router.run("ping -c 1 -W 2 10.20.0.2");
    let dropper = Dropper::on_uplink(&lab);
    let look = || examine(&lab.router, &format!("{LAB} --only probe"));
    let found = look();
    let (fix, _) = found.expect("probe", &["ring to", "dropped on eth1's egress hook", "foreign"], "fail");
    for side in ["ingress", "egress"] {
        found.expect("probe", &[&format!("eth0 {side}, ring")], "ok");
    }
    found.expect("probe", &["redirect mode was not tried"], "note");
    paste(&lab.router, &fix);
    assert!(dropper.is_gone(&lab));
    assert_probe_is_ok(&look());
}

#[test]
fn a_sensor_on_this_host_that_does_not_read() {
    let _turn = lock::shared();
    let host = Host::new("sensor");
    let reader = Reader::start(&host, "slow-sensor", "");
    let look = || examine(&host, "--iface lo --dest 127.0.0.1 --only sensor-queue");
    let probe = || examine(&host, "--iface lo --dest 127.0.0.1 --only sensor-queue,probe");
    let sound = probe();
    sound.expect("sensor-queue", &["slow-sensor (pid", "0 datagrams were lost"], "ok");
    sound.expect("probe", &["ring to", "arrived at slow-sensor"], "ok");
    reader.stop();
    wait_until("the queue is full", || {
        send_here(&host, 50);
        let [waiting, buffer, _] = queue(&host);
        waiting * 100 > buffer * 95
    });
    let found = look();
    let (fix, undo) = found.expect("sensor-queue", &["slow-sensor", "is stopped"], "fail");
    assert_eq!(fix, [format!("kill -CONT {}", reader.child.id())]);
    paste(&host, &fix);
    wait_until("it is read", || queue(&host)[0] == 0);
    look().expect("sensor-queue", &["slow-sensor"], "ok");

    // Full to the last byte: what comes now is lost.
    paste(&host, &undo);
    send_here(&host, 4000);
    let [.., lost] = queue(&host);
    assert!(lost > 0);
    let found = probe();
    found.expect("sensor-queue", &["slow-sensor", &format!("{lost} datagrams were lost")], "fail");
    let (fix, _) =
        found.expect("probe", &["ring to", "stops: not in the sensor's socket", "is full"], "fail");
    paste(&host, &fix);
    wait_until("it is read", || queue(&host)[0] == 0);
    probe().expect("probe", &["ring to", "arrived at slow-sensor"], "ok");
}

#[test]
fn a_sink_with_a_small_buffer() {
    let _turn = lock::shared();
    let host = Host::new("sensor");
    let sink = Agent::start_sink(&host, "--rcvbuf 64KiB");
    let look = || examine(&host, "--iface lo --dest 127.0.0.1 --only sensor-queue");
    let (fix, _) = look().expect("sensor-queue", &["mirror-agent (pid", "a small buffer", "128 KiB"], "warn");
    assert_eq!(queue(&host)[1], 128 << 10);
    let [kill, again] = &fix[..] else { panic!("{fix:?}") };
    paste(&host, std::slice::from_ref(kill));
    assert!(sink.wait(PATIENCE).status.success());
    let sink = start(&host, again);
    sink.wait_for_line("listening ");
    look().expect("sensor-queue", &["mirror-agent (pid"], "ok");
    assert_eq!(queue(&host)[1], 512 << 20);
}

#[test]
fn a_userland_proxy_in_front_of_the_sensor() {
    let _turn = lock::shared();
    let (host, container) = (Host::new("docker"), Host::new("container"));
    veth(&host, "docker0", &container, "eth0");
    host.address("docker0", "172.17.0.1/16");
    container.address("eth0", "172.17.0.2/16");
    let sensor = Sensor::keeping(&container);
    let proxy = Reader::start(
        &host,
        "docker-proxy",
        "-proto udp -host-ip 0.0.0.0 -host-port 4789 -container-ip 172.17.0.2 -container-port 4789",
    );
    let found = examine(&host, "--iface docker0 --dest 127.0.0.1 --only sensor-queue");
    let name = format!("docker-proxy (pid {}), a userland proxy", proxy.child.id());
    let (fix, _) = found.expect("sensor-queue", &[&name], "warn");
    assert!(host.run("ss -Hulnp sport = :4789").contains("docker-proxy"));
    let [run] = &fix[..] else { panic!("{fix:?}") };
    assert!(run.starts_with("mirror-agent --iface docker0 --dest 172.17.0.2:4789"), "{run}");
    let agent = start(&host, run);
    agent.wait_for_line("mirroring ");
    host.run("ping -c 3 -i 0.01 -W 2 172.17.0.2");
    sensor.wait_for(6, PATIENCE);
    let mended = examine(&host, "--only sensor-queue,sensor-answers");
    assert!(mended.of("sensor-queue").is_empty(), "{:#}", mended.json);
    mended.expect("sensor-answers", &["172.17.0.2:4789", "nobody refuses"], "ok");
}

/// The kernel's own count, by another's eyes.
fn receive_buffer_errors(host: &Host) -> u64 {
    let text = host.run("nstat -asz UdpRcvbufErrors");
    let line = text.lines().find(|line| line.starts_with("UdpRcvbufErrors")).expect("nstat");
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn udp_errors_that_grow() {
    let _turn = lock::shared();
    let host = Arc::new(Host::new("sensor"));
    let reader = Reader::start(&host, "slow-sensor", "");
    reader.stop();
    send_here(&host, 4000);
    let look = || examine(&host, "--iface lo --dest 127.0.0.1 --only udp-errors");
    let lost = receive_buffer_errors(&host);
    assert!(lost > 0);
    look().expect("udp-errors", &["RcvbufErrors", &format!("{lost} RcvbufErrors"), "none now"], "note");

    let (stop, sender) = (Arc::<AtomicBool>::default(), Arc::clone(&host));
    let stopped = Arc::clone(&stop);
    let flood = thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            send_here(&sender, 10);
            thread::sleep(Duration::from_millis(5));
        }
    });
    let (fix, _) = look().expect("udp-errors", &["RcvbufErrors grows by", "slow-sensor (pid"], "warn");
    // While it goes on, --watch shows it.
    let mut watch = agent::command(&host, "doctor --json --watch 100ms --iface lo --only udp-errors")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(watch.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let _ = watch.kill();
    let _ = watch.wait();
    let growth: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert!(growth["growth"].as_u64().unwrap() > 0 && growth["check"] == "udp-errors", "{growth}");

    // What is the whole machine's is left alone here: the settings of buffers.
    let fix: Vec<_> = fix.into_iter().filter(|line| line.starts_with("kill")).collect();
    paste(&host, &fix);
    wait_until("it is read", || queue(&host)[0] < 1 << 20);
    look().expect("udp-errors", &["none now"], "note");
    stop.store(true, Ordering::Relaxed);
    flood.join().unwrap();
}

#[test]
fn a_running_agent_behind_a_program_that_ends_the_chain() {
    let _turn = lock::shared();
    let lab = Lab::new();
    if !bpf::has_tcx(&lab.router, lab.mirrored_index) {
        return println!("skipped: no TCX in this kernel");
    }
    let sensor = Sensor::keeping(&lab.sensor);
    lab.router.run("ping -c 1 -W 2 10.20.0.2");
    let first = Agent::start(&lab.router, LAB);
    let look = || examine(&lab.router, "--only probe,agent");
    let sound = look();
    for side in ["ingress", "egress"] {
        let about = format!("eth0 {side}, agent {}", first.pid());
        sound.expect("probe", &[&about, "seen by the agent's hook", "sent +1"], "ok");
    }
    sound.expect("agent", &[&format!("agent {}", first.pid()), "lost none"], "ok");
    sensor.wait_for(3, PATIENCE);

    let index = lab.mirrored_index;
    let _foreign =
        ForeignProgram::attach_first(&lab.router, index, Direction::Egress, Verdict::Pass).unwrap();
    let found = look();
    found.expect("probe", &["eth0 ingress, agent"], "ok");
    let (fix, _) = found.expect(
        "probe",
        &["eth0 egress, agent", "stops: not seen by the agent's hook", "program foreign", "ends the chain"],
        "fail",
    );
    let [kill, again] = &fix[..] else { panic!("{fix:?}") };
    paste(&lab.router, std::slice::from_ref(kill));
    assert!(first.wait(PATIENCE).status.success());
    let second = start(&lab.router, again);
    second.wait_for_line("mirroring ");
    look().expect("probe", &["eth0 egress, agent", "sent +1"], "ok");
}

#[test]
fn what_a_running_agent_loses() {
    let _turn = lock::shared();
    let lab = Lab::new();
    if !bpf::has_tcx(&lab.router, lab.mirrored_index) {
        return println!("skipped: no TCX in this kernel");
    }
    let _sensor = Sensor::keeping(&lab.sensor);
    lab.router.mtu(UPLINK, 1500);
    lab.router.run("ping -c 1 -W 2 10.20.0.2");
    let agent = Agent::start(&lab.router, &format!("{LAB} --transmit udp --oversize drop"));
    let look = || examine(&lab.router, "--only agent");
    {
        let _chatter = Chatter::start(&lab, 1472);
        let (fix, _) = look().expect("agent", &["too_big grows by"], "fail");
        let [kill, again] = &fix[..] else { panic!("{fix:?}") };
        paste(&lab.router, std::slice::from_ref(kill));
        assert!(agent.wait(PATIENCE).status.success());
        let agent = start(&lab.router, again);
        agent.wait_for_line("mirroring ");
        look().expect("agent", &["lost none"], "ok");

        let dropper = Dropper::on_uplink(&lab);
        let (fix, _) = look().expect("agent", &["send_failed grows by", "ENOBUFS"], "fail");
        paste(&lab.router, &fix);
        assert!(dropper.is_gone(&lab));
        thread::sleep(Duration::from_millis(100));
        look().expect("agent", &["send_failed", "none now"], "note");
    }
}
