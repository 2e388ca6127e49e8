//! `mirror-agent doctor`: each check of the host finds what was broken, and the printed command mends it.
//!
//! What has no command is tested beside its check: a kernel that lacks something, a limit on locked memory (which counts
//! on kernels before 5.11), and the rings of a card, which no interface of these tests has.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mirror_tests::{
    agent::{self, Agent},
    bpf::{self, ForeignProgram, Verdict},
    command,
    doctor::{Diagnosis, examine, examine_by, paste},
    generator::Generator,
    host::Host,
    lab::{Lab, MIRRORED, SENSOR, UPLINK},
    link::veth,
    lock,
    scratch::Scratch,
};
use serde_json::Value;

/// What the tests' hosts are asked about.
const LAB: &str = "--iface eth0 --dest 10.20.0.2";

/// A setting that only the machine's own network namespace shows.
const BACKLOG: &str = "/proc/sys/net/core/netdev_max_backlog";

fn sh(host: &Host, line: &str) -> String {
    command::run(host.command("sh").args(["-c", line]))
}

/// A mount namespace in which files stand in for settings of the whole machine, which other tests share.
struct Settings {
    scratch: Scratch,
    holder: Child,
}

impl Settings {
    fn new() -> Self {
        let holder = Command::new("unshare").args(["--mount", "sleep", "60"]).spawn().unwrap();
        let own = fs::read_link("/proc/self/ns/mnt").unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        let path = format!("/proc/{}/ns/mnt", holder.id());
        while fs::read_link(&path).is_ok_and(|link| link == own) {
            assert!(Instant::now() < deadline, "no mount namespace");
            std::thread::sleep(Duration::from_millis(2));
        }
        Self { scratch: Scratch::new(), holder }
    }

    /// Has `path` hold `value`, for who looks from here.
    fn replace(&self, path: &str, value: &str) {
        let file = self.scratch.path(&path.replace('/', "_"));
        fs::write(&file, format!("{value}\n")).unwrap();
        command::run(self.command("mount").arg("--bind").arg(&file).arg(path));
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", &format!("--target={}", self.holder.id()), "--", program]);
        command
    }

    fn paste(&self, commands: &[String]) {
        assert!(!commands.is_empty(), "nothing to paste");
        for line in commands {
            command::run(self.command("sh").args(["-c", line]));
        }
    }

    fn sysctl(&self, key: &str) -> String {
        command::run(self.command("sysctl").args(["-n", key])).trim().to_owned()
    }

    fn examine(&self, arguments: &str) -> Diagnosis {
        let mut doctor = self.command(agent::binary().to_str().unwrap());
        doctor.args(["doctor", "--json", "--iface", "lo"]).args(arguments.split(' '));
        examine_by(&mut doctor)
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[test]
fn settings_of_the_whole_machine() {
    let _turn = lock::shared();
    if !Path::new(BACKLOG).exists() {
        return eprintln!("skipped: this is a container, which does not show the machine's settings");
    }
    let settings = Settings::new();
    let broken = [
        ("netdev-backlog", "net.core.netdev_max_backlog", "1000", "8192"),
        ("bpf-jit", "net.core.bpf_jit_enable", "0", "1"),
        ("socket-buffers", "net.core.rmem_max", "65536", "16777216"),
        ("socket-buffers", "net.core.rmem_default", "65536", "4194304"),
        ("socket-buffers", "net.core.wmem_max", "65536", "8388608"),
    ];
    for (_, key, value, _) in broken {
        settings.replace(&format!("/proc/sys/{}", key.replace('.', "/")), value);
    }
    // Each by the command that is printed, then back by the other one.
    let found = settings.examine("--only netdev-backlog,bpf-jit,socket-buffers");
    assert_eq!(found.code, 0, "warnings are no failures");
    for (check, key, value, wanted) in broken.into_iter().filter(|(_, key, ..)| !key.contains("wmem")) {
        let (fix, undo) = found.expect(check, &[key, value], "warn");
        settings.paste(&fix);
        assert_eq!(settings.sysctl(key), wanted);
        settings.examine(&format!("--only {check}")).expect(check, &[key, wanted], "ok");
        settings.paste(&undo);
        assert_eq!(settings.sysctl(key), value);
    }
    // All at once, and only what was asked for.
    let fixed = settings.examine("--only netdev-backlog,socket-buffers --fix");
    assert_eq!(settings.sysctl("net.core.bpf_jit_enable"), "0", "not asked for");
    assert_eq!(settings.sysctl("net.core.wmem_max"), "65536", "root goes beyond it");
    for (check, key, _, wanted) in
        broken.into_iter().filter(|(check, key, ..)| *check != "bpf-jit" && !key.contains("wmem"))
    {
        fixed.expect(check, &[key, wanted], "ok");
        assert_eq!(settings.sysctl(key), wanted);
    }
    for check in ["netdev-backlog", "socket-buffers"] {
        let (ran, undo) = fixed.fixed(check);
        assert!(
            !ran.is_empty() && ran.iter().all(|command| command.starts_with("sysctl -q -w net.core.")),
            "{ran:?}"
        );
        settings.paste(&undo);
    }
    for (_, key, value, _) in broken {
        assert_eq!(settings.sysctl(key), value, "{key} is not as it was");
    }
    // Who may not go beyond wmem_max is told of it.
    let mut doctor = settings.command("setpriv");
    let without = ["--bounding-set=-net_admin", "--inh-caps=-net_admin"];
    doctor
        .args(without)
        .arg(agent::binary())
        .args("doctor --json --iface lo --only socket-buffers".split(' '));
    let (fix, undo) = examine_by(&mut doctor).expect("socket-buffers", &["wmem_max", "65536"], "warn");
    settings.paste(&fix);
    examine_by(&mut doctor).expect("socket-buffers", &["wmem_max", "8388608"], "ok");
    settings.paste(&undo);
    assert_eq!(settings.sysctl("net.core.wmem_max"), "65536");

    // A clock that is slow to read.
    let folder = "/sys/devices/system/clocksource/clocksource0";
    settings.replace(&format!("{folder}/current_clocksource"), "hpet");
    settings.replace(&format!("{folder}/available_clocksource"), "tsc hpet acpi_pm");
    let (fix, undo) = settings.examine("--only clock").expect("clock", &["hpet"], "warn");
    settings.paste(&fix);
    settings.examine("--only clock").expect("clock", &["clock source is tsc"], "ok");
    settings.paste(&undo);
    settings.examine("--only clock").expect("clock", &["hpet"], "warn");
}

#[test]
fn interfaces_and_the_way_to_the_sensor() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let router = &lab.router;
    mtu(&lab);
    route_mtu(&lab);
    offloads(&lab);
    rps(&lab);
    drops(&lab);
    // lo matters where the sensor is here.
    if std::thread::available_parallelism().unwrap().get() > 1 {
        let (fix, _) =
            examine(router, "--iface eth0 --only rps").expect("rps", &["lo", "rps_cpus is 0"], "warn");
        paste(router, &fix);
        examine(router, "--iface eth0 --only rps").expect("rps", &["lo", "rps_cpus is"], "ok");
    }
    // The host's own settings, seen from a namespace where they are not shown: by way of this test, which is not in it.
    let seen = examine(router, &format!("{LAB} --only netdev-backlog"));
    let expected = fs::read_to_string(BACKLOG).unwrap_or_else(|_| "cannot be seen".into());
    let _ = seen.finding("netdev-backlog", &[expected.trim()]);
}

fn link_mtu(host: &Host, name: &str) -> u64 {
    let links: Value = serde_json::from_str(&host.ip(&format!("-j link show {name}"))).unwrap();
    links[0]["mtu"].as_u64().unwrap()
}

/// 1500 bytes in VXLAN over IPv4 are 1550, in GENEVE with its option 1570; a tag is four more.
fn mtu(lab: &Lab) {
    let router = &lab.router;
    let look = |options: &str| examine(router, &format!("{LAB} --only mtu {options}"));
    look("").expect("mtu", &["1500 + 50", "1550", "eth1 takes 2000"], "ok");
    router.mtu(UPLINK, 1500);
    let found = look("");
    assert_eq!(found.code, 0);
    let (fix, undo) = found.expect("mtu", &["1500 + 50", "1550", "eth1 takes 1500"], "warn");
    assert!(
        found.finding("mtu", &[])["why"].as_str().unwrap().contains("more than 1464 bytes"),
        "{:#}",
        found.json
    );
    // What becomes of a full frame is as it was asked for.
    let dropped = look("--oversize drop");
    dropped.expect("mtu", &["1550"], "fail");
    assert_eq!(dropped.code, 1);
    look("--oversize truncate").expect("mtu", &["1550"], "warn");
    look("--encap geneve").expect("mtu", &["1500 + 70", "1570"], "warn");
    look("--encap geneve --no-metadata").expect("mtu", &["1500 + 50", "1550"], "warn");
    assert!(look("--fix").fixed("mtu").0.is_empty(), "an MTU is nothing to change by itself");
    assert_eq!(link_mtu(router, UPLINK), 1500);
    paste(router, &fix);
    assert_eq!(link_mtu(router, UPLINK), 1554);
    look("").expect("mtu", &["eth1 takes 1554"], "ok");
    look("--encap geneve").expect("mtu", &["1570"], "warn");
    paste(router, &undo);
    assert_eq!(link_mtu(router, UPLINK), 1500);
    // Only what has a tag is too long.
    router.mtu(UPLINK, 1552);
    look("").expect("mtu", &["only frames with a VLAN tag"], "note");
    router.mtu(UPLINK, 2000);
    // To this host itself all fits.
    examine(router, "--iface eth0 --only mtu").expect("mtu", &["by lo takes 65536"], "ok");
    let nowhere = examine(router, "--iface eth0 --dest 192.0.2.1 --only mtu");
    nowhere.expect("mtu", &["no route to 192.0.2.1"], "fail");
    assert_eq!(nowhere.code, 1);
}

/// A route that says less than its interface.
fn route_mtu(lab: &Lab) {
    let router = &lab.router;
    router.ip("route add 10.30.0.0/24 via 10.20.0.2 mtu 1400 metric 7");
    let before = router.ip("route show 10.30.0.0/24");
    let look = || examine(router, "--iface eth0 --dest 10.30.0.9 --only mtu");
    let (fix, undo) = look().expect("mtu", &["eth1 takes 1400"], "warn");
    paste(router, &fix);
    look().expect("mtu", &["eth1 takes 1554"], "ok");
    paste(router, &undo);
    let after = router.ip("route show 10.30.0.0/24");
    assert_eq!(before.replace(" proto boot", "").trim(), after.replace(" proto boot", "").trim());
    router.ip("route del 10.30.0.0/24");
}

fn offloads(lab: &Lab) {
    let router = &lab.router;
    let features = || router.run("ethtool -k eth0");
    let state = features();
    assert!(state.contains("rx-vlan-offload: on"), "{state}");
    // What others have to switch off, this mirror needs not.
    let found = examine(router, &format!("{LAB} --only offloads"));
    found.expect("offloads", &["eth0", "tso", "none has to be off"], "ok");
    router.run("ethtool -K eth0 tso off");
    let text = examine(router, &format!("{LAB} --only offloads"));
    assert!(
        !text.finding("offloads", &["eth0"])["found"].as_str().unwrap().contains("tso"),
        "{:#}",
        text.json
    );
    router.run("ethtool -K eth0 tso on");
    // In front of the stack a tag that is taken off is missing.
    let look = || examine(router, &format!("{LAB} --hook xdp --only offloads"));
    let (fix, undo) = look().expect("offloads", &["eth0", "rxvlan is on"], "warn");
    paste(router, &fix);
    assert!(features().contains("rx-vlan-offload: off"));
    look().expect("offloads", &["eth0", "none has to be off"], "ok");
    paste(router, &undo);
    assert_eq!(features(), state);
    // Super-frames that fit into no datagram.
    let sizes = || {
        let links: Value = serde_json::from_str(&router.ip("-d -j link show eth0")).unwrap();
        (links[0]["gso_max_size"].clone(), links[0]["gro_max_size"].clone())
    };
    let usual = sizes();
    router.ip("link set eth0 gso_max_size 131072 gro_max_size 185000");
    let set = sizes();
    assert_ne!(set, usual);
    let found = examine(router, &format!("{LAB} --only offloads"));
    let (fix, undo) = found.expect("offloads", &["eth0", "BIG TCP", "131072", "185000"], "warn");
    paste(router, &fix);
    assert_eq!(sizes(), usual);
    paste(router, &undo);
    assert_eq!(sizes(), set);
    // By itself, and back.
    let fixed = examine(router, &format!("{LAB} --only offloads --fix"));
    assert_eq!(sizes(), usual);
    let (ran, undo) = fixed.fixed("offloads");
    assert_eq!(ran, fix);
    paste(router, &undo);
    assert_eq!(sizes(), set);
    paste(router, &ran);
}

fn rps(lab: &Lab) {
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return eprintln!("skipped: receive packet steering takes two processors");
    }
    let router = &lab.router;
    let file = "/sys/class/net/eth0/queues/rx-0/rps_cpus";
    let mask = || sh(router, &format!("cat {file}")).trim().to_owned();
    let look = || examine(router, &format!("{LAB} --only rps"));
    // As wide as the machine has processors.
    let none = mask();
    assert_eq!(none.trim_matches(['0', ',']), "");
    let (fix, undo) = look().expect("rps", &["eth0", &format!("rps_cpus is {none}")], "warn");
    paste(router, &fix);
    let wanted = mask();
    assert!(u64::from_str_radix(&wanted.replace(',', ""), 16).unwrap().count_ones() > 1, "{wanted}");
    look().expect("rps", &["eth0"], "ok");
    paste(router, &undo);
    assert_eq!(mask(), none);
    // One processor for all is no better than none.
    router.steer_to(MIRRORED, 1);
    let one = mask();
    look().expect("rps", &["eth0", &format!("rps_cpus is {one}")], "warn");
    let fixed = examine(router, &format!("{LAB} --only rps --fix"));
    assert_eq!(mask(), wanted);
    fixed.expect("rps", &["eth0"], "ok");
    let (_, undo) = fixed.fixed("rps");
    assert_eq!(undo.len(), 1, "{undo:?}");
    paste(router, &undo);
    assert_eq!(mask(), one);
    // Without root's /sys of this namespace, the doctor says so, and guesses nothing.
    let mut elsewhere = Command::new("nsenter");
    elsewhere.arg(format!("--net=/run/netns/{}", router.name())).arg(agent::binary());
    elsewhere.args(format!("doctor --json {LAB} --only rps").split(' '));
    examine_by(&mut elsewhere)
        .expect_without_reason("rps", &["eth0", "/sys is not of this network namespace"]);
}

/// A veth throws away what is longer than its peer takes; tbf what finds its queue full.
fn drops(lab: &Lab) {
    let router = &lab.router;
    let look = || examine(router, &format!("{LAB} --only interface-drops"));
    look().expect("interface-drops", &["eth1", "nothing dropped"], "ok");
    lab.sensor.mtu("eth0", 1000);
    let before = router.link_counter(UPLINK, "tx", "dropped");
    sh(router, "ping -c 3 -i 0.01 -W 0.1 -s 1400 -M do 10.20.0.2 >/dev/null; true");
    let dropped = router.link_counter(UPLINK, "tx", "dropped") - before;
    assert!(dropped >= 3, "{dropped}");
    look().expect("interface-drops", &["eth1", &format!("tx_dropped is {dropped}"), "does not grow"], "note");

    // While it goes on it is a warning, and --watch shows each growth.
    let mut pings = router
        .command("ping")
        .args(["-q", "-i", "0.01", "-s", "1400", "-M", "do", SENSOR])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    look().expect("interface-drops", &["eth1", "tx_dropped", "and grows"], "warn");
    let lines = watch(router, "--only interface-drops", 2);
    for line in &lines {
        let growth: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&growth["check"], &growth["counter"]),
            (&"interface-drops".into(), &"eth1 tx_dropped".into())
        );
        assert!(
            growth["growth"].as_u64().unwrap() > 0 && growth["per_second"].as_f64().unwrap() > 10.0,
            "{line}"
        );
    }
    let text = sh(
        router,
        &format!(
            "timeout --preserve-status -s INT 0.5 {} doctor {LAB} --watch 100ms --only interface-drops",
            agent::binary().display()
        ),
    );
    assert!(text.contains("interface-drops: eth1 tx_dropped +") && text.contains("/s): "), "{text:?}");
    lab.sensor.mtu("eth0", 2000);
    // Pings that the peer takes.
    look().expect("interface-drops", &["eth1", "tx_dropped", "does not grow"], "note");
    pings.kill().unwrap();
    pings.wait().unwrap();

    router.run("tc qdisc add dev eth1 root tbf rate 8kbit burst 1600 limit 3000");
    sh(router, "ping -q -f -c 50 -W 0.1 -s 1000 10.20.0.2 >/dev/null; true");
    let queue: Value = serde_json::from_str(&router.run("tc -s -j qdisc show dev eth1")).unwrap();
    let dropped = queue[0]["drops"].as_u64().unwrap();
    assert!(dropped > 0, "{queue}");
    look().expect("interface-drops", &["eth1", &format!("queue is {dropped}")], "note");
    router.run("tc qdisc del dev eth1 root");
}

/// Lines of `doctor --watch`, until there are as many.
fn watch(host: &Host, arguments: &str, lines: usize) -> Vec<String> {
    let mut watch = agent::command(host, &format!("doctor {LAB} --json --watch 100ms {arguments}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = BufReader::new(watch.stdout.take().unwrap());
    let lines = out.lines().take(lines).map(Result::unwrap).collect();
    // SAFETY: kill touches no memory, and the process is this test's own, not yet waited for.
    unsafe { libc::kill(watch.id() as i32, libc::SIGINT) };
    assert!(watch.wait().unwrap().success());
    lines
}

#[test]
fn programs_of_others() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let (router, index) = (&lab.router, lab.mirrored_index);
    let look = |options: &str| examine(router, &format!("{LAB} --only other-programs {options}"));
    look("").expect("other-programs", &["eth0", "nobody else's"], "ok");
    // XDP: no room for another one.
    let xdp = ForeignProgram::attach_xdp(router, index).unwrap();
    look("").expect("other-programs", &["foreign", "XDP hook"], "note");
    let (fix, _) = look("--hook xdp").expect("other-programs", &["foreign", "XDP hook"], "fail");
    assert!(Agent::try_start(router, &format!("{LAB} --hook xdp")).is_err());
    paste(router, &fix);
    assert!(!router.ip("link show eth0").contains("xdp"));
    look("--hook xdp").expect("other-programs", &["nobody else's"], "ok");
    drop(xdp);

    if bpf::has_tcx(router, index) {
        on_tcx(&lab);
    } else {
        eprintln!("skipped: programs on TCX, which this kernel has not");
    }
    // A filter of another kind, whose priority the agent's cannot have.
    router.run("tc qdisc add dev eth0 clsact");
    router.run("tc filter add dev eth0 ingress pref 1 protocol all u32 match u32 0 0 flowid 1:1");
    let agent = Agent::start(router, &format!("{LAB} --attach clsact"));
    let words = ["a u32 filter", "priority 1 (ingress), in front of the agent's"];
    let (fix, _) = look("").expect("other-programs", &words, "warn");
    paste(router, &fix);
    assert!(!router.run("tc filter show dev eth0 ingress").contains("u32"));
    look("").expect("other-programs", &["nobody else's"], "ok");
    drop(agent);
}

fn on_tcx(lab: &Lab) {
    let (router, index) = (&lab.router, lab.mirrored_index);
    let look = |options: &str| examine(router, &format!("{LAB} --only other-programs {options}"));
    // A command that another test starts holds a program's descriptor for a moment.
    let wait_until = |count| {
        let deadline = Instant::now() + Duration::from_secs(5);
        while bpf::attached(router, index, bpf::Direction::Ingress).len() != count {
            assert!(Instant::now() < deadline, "a program is still there");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait_until(0);
    // Behind the agent's, whether that is there or not.
    let behind = ForeignProgram::attach(router, index, bpf::Direction::Ingress, Verdict::Pass).unwrap();
    look("").expect("other-programs", &["foreign", "TCX (ingress)", "behind"], "note");
    let agent = Agent::start(router, &format!("{LAB} --report json"));
    look("").expect("other-programs", &["foreign", "TCX (ingress)", "behind"], "note");
    drop(behind);
    wait_until(1);
    look("").expect("other-programs", &["nobody else's"], "ok");
    // In front of it: the one that lets all pass to the next is none of our business, the one that ends the chain is.
    let next = ForeignProgram::attach_first(router, index, bpf::Direction::Ingress, Verdict::Next).unwrap();
    look("").expect("other-programs", &["foreign", "in front of the agent's"], "note");
    drop(next);
    wait_until(1);
    let hides = ForeignProgram::attach_first(router, index, bpf::Direction::Ingress, Verdict::Pass).unwrap();
    let found = look("");
    assert_eq!(found.code, 1);
    assert_eq!(found.json["agents"], serde_json::json!([agent.pid()]));
    let (fix, _) = found.expect("other-programs", &["foreign", "(ingress), in front of the agent's"], "fail");
    assert!(look("--fix").fixed("other-programs").0.is_empty(), "others' programs are theirs");
    Generator::new("eth0").send(&lab.client, 0..100);
    paste(router, &fix);
    look("").expect("other-programs", &["nobody else's"], "ok");
    Generator::new("eth0").send(&lab.client, 0..50);
    let report = agent.stop_and_report();
    assert_eq!(report.frames.seen, 50, "what it hid, and what came after the command");
    drop(hides);
}

/// What a kernel has not, only another kernel has: of the findings it is checked that they say what is so.
#[test]
fn kernel_and_its_limits() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let has_tcx = bpf::has_tcx(&lab.router, lab.mirrored_index);
    let found = examine(&lab.router, &format!("{LAB} --only kernel"));
    assert_eq!(found.code, 0, "{:#}", found.json);
    let words = if has_tcx { "TCX hooks: yes" } else { "TCX hooks: no, they came with Linux 6.6" };
    found.expect("kernel", &[words], if has_tcx { "ok" } else { "note" });
    found.expect("kernel", &["ring buffer: yes"], "ok");
    // Locked memory: who may not have more of it, before Linux 5.11. (busybox has a setpriv of its own, of fewer options.)
    let doctor = format!(
        "$(which setpriv) --bounding-set=-sys_resource --inh-caps=-sys_resource {} doctor --json {LAB} --only memlock",
        agent::binary().display()
    );
    let look = |before: &str| {
        examine_by(lab.router.command("sh").args(["-c", &format!("ulimit -S -l 64; {before} {doctor}")]))
    };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    if !release.starts_with("5.10.") {
        look("").expect("memlock", &["does not count"], "ok");
        return eprintln!("skipped: no limit on locked memory matters on Linux {}", release.trim());
    }
    let found = look("");
    assert_eq!(found.code, 1);
    let (fix, undo) = found.expect("memlock", &["ulimit -l is 64 KiB"], "fail");
    look(&format!("{};", fix[0])).expect("memlock", &["high enough"], "ok");
    look(&format!("{}; {};", fix[0], undo[0])).expect("memlock", &["ulimit -l is 64 KiB"], "fail");
}

/// Packets that find the backlog full are lost; the command that the doctor prints makes room for them.
#[test]
fn a_burst_finds_room() {
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return eprintln!("skipped: takes two processors");
    }
    let Ok(now) = fs::read_to_string(BACKLOG) else {
        return eprintln!("skipped: this is a container, which does not show the machine's settings");
    };
    // It takes the processors, and a setting of the machine.
    let _turn = lock::alone();
    const BURST: u64 = 4_000;
    const SENDERS: u64 = 8;
    let lab = Lab::new();
    let router = &lab.router;
    let sysctl = |value: &str| {
        command::run(Command::new("sysctl").args([
            "-q",
            "-w",
            &format!("net.core.netdev_max_backlog={value}"),
        ]));
    };
    struct Restore(String);
    impl Drop for Restore {
        fn drop(&mut self) {
            let _ = Command::new("sysctl")
                .args(["-q", "-w", &format!("net.core.netdev_max_backlog={}", self.0)])
                .output();
        }
    }
    let _restore = Restore(now.trim().to_owned());
    sysctl("300");
    // What comes is handled by the other processor, which is held up by filters.
    router.steer_to(MIRRORED, 1);
    router.run("tc qdisc add dev eth0 clsact");
    let scratch = Scratch::new();
    let filters: String = (1..=2000)
        .map(|number| {
            format!(
                "filter add dev eth0 ingress pref {number} protocol all u32 match u32 {number} 0xffffffff at 0 \
                 flowid 1:1\n"
            )
        })
        .collect();
    fs::write(scratch.path("filters"), filters).unwrap();
    router.run(&format!("tc -batch {}", scratch.path("filters").display()));
    let dropped = || router.link_counter(MIRRORED, "rx", "dropped");
    let send = |rate: u64| {
        let before = dropped();
        // Several, because a socket waits when some hundred frames of its own are on their way.
        let senders: Vec<_> = (0..SENDERS)
            .map(|number| {
                let share = BURST / SENDERS;
                Generator::new("eth0").rate(rate).start(&lab.client, number * share..(number + 1) * share)
            })
            .collect();
        for sender in senders {
            sender.finish();
        }
        std::thread::sleep(Duration::from_millis(200));
        dropped() - before
    };
    // Of protocols that nobody here wants.
    let unwanted = send(1_000);
    let burst = || send(u64::MAX) - unwanted;
    let softnet = || examine(router, &format!("{LAB} --only softnet,netdev-backlog"));
    let lost = burst();
    // The generator sends again what found no room.
    eprintln!("with a backlog of 300 packets {BURST} frames find no room {lost} times");
    assert!(lost > 0, "all found room");
    let found = softnet();
    let _ = found.finding("softnet", &["packets dropped"]);
    let (fix, undo) = found.expect("netdev-backlog", &["netdev_max_backlog is 300"], "warn");
    let same = found.finding("softnet", &["packets dropped"]);
    assert_eq!(same["fix"], serde_json::json!(fix), "{same:#}");
    paste(router, &fix);
    let lost = burst();
    assert_eq!(lost, 0, "with the backlog of the doctor");
    softnet().expect("netdev-backlog", &["netdev_max_backlog is 8192"], "ok");
    // Growth while it looks.
    paste(router, &undo);
    let floods: Vec<_> = (0..SENDERS).map(|_| Generator::new("eth0").flood(&lab.client, 0..1_000)).collect();
    let found = softnet();
    let lines = watch(router, "--only softnet", 1);
    for flood in floods {
        let _ = flood.stop();
    }
    assert!(lines[0].contains(r#""check":"softnet","counter":"dropped""#), "{lines:?}");
    found.expect("softnet", &["packets dropped,", "in 200 ms"], "warn");
}

#[test]
fn processors_and_rights() {
    let _turn = lock::shared();
    rights();
    processors();
}

/// A file's capabilities, for somebody who is not root.
fn rights() {
    let scratch = Scratch::new();
    let program = scratch.path("mirror-agent");
    fs::copy(agent::binary(), &program).unwrap();
    command::run(Command::new("chmod").args(["-R", "a+rX"]).arg(scratch.folder()));
    let host = Host::new("rights");
    let look = |extra: &[&str]| {
        let mut doctor = host.command("setpriv");
        doctor.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).args(extra).arg(&program);
        doctor.args("doctor --json --iface lo --only capabilities,kernel,mtu".split(' '));
        examine_by(&mut doctor)
    };
    let found = look(&[]);
    assert_eq!(found.code, 1);
    let (fix, undo) = found.expect("capabilities", &["CAP_BPF is missing"], "fail");
    found.expect("capabilities", &["CAP_NET_RAW is missing"], "warn");
    found.expect("capabilities", &["CAP_SYS_NICE is missing"], "note");
    found.expect_without_reason("kernel", &["could not be looked at", "CAP_BPF"]);
    found.expect("mtu", &["lo to 127.0.0.1", "65586"], "warn");
    paste(&host, &fix);
    let caps = command::run(Command::new("getcap").arg(&program));
    assert!(caps.contains("cap_bpf") && caps.contains("cap_sys_nice"), "{caps}");
    let mended = look(&[]);
    mended.expect("capabilities", &["all that a mirror needs"], "ok");
    mended.expect("kernel", &["ring buffer: yes"], "ok");
    paste(&host, &undo);
    look(&[]).expect("capabilities", &["CAP_BPF is missing"], "fail");
    // What was taken from the whole tree of processes, no file brings back.
    let mut doctor = host.command("setpriv");
    doctor.args(["--bounding-set=-net_raw", "--inh-caps=-net_raw"]).arg(&program);
    doctor.args("doctor --json --iface lo --only capabilities".split(' '));
    let (fix, _) = examine_by(&mut doctor).expect(
        "capabilities",
        &["CAP_NET_RAW is missing", "--cap-add NET_RAW"],
        "warn",
    );
    assert!(fix.is_empty(), "{fix:?}");
}

fn processors() {
    let all = std::thread::available_parallelism().unwrap().get();
    if all < 2 {
        return eprintln!("skipped: takes two processors");
    }
    let host = Host::new("processors");
    let peer = Host::new("peer");
    veth(&host, "eth0", &peer, "eth0");
    veth(&host, "eth1", &peer, "eth1");
    let binary = agent::binary();
    let look = |line: &str| {
        let doctor = format!("{} doctor --json --iface lo --only processors", binary.display());
        examine_by(host.command("sh").args(["-c", &format!("{line}; {doctor}")]))
    };
    // A shell that may use one of them, and what it starts; the command is of that shell.
    let confine = "taskset -cp 0 $$ >/dev/null";
    let (fix, _) = look(confine).expect("processors", &["may use 1 of"], "warn");
    look(&format!("{confine}; {} >/dev/null", fix[0])).expect(
        "processors",
        &[&format!("may use {all} of")],
        "ok",
    );

    // Two agents on the same processor.
    let last = all - 1;
    let first = Agent::start(&host, &format!("--iface eth0 --dest 127.0.0.1 --cpu {last}"));
    let look = || examine(&host, "--only processors");
    look().expect("processors", &[&format!("has processor {last} for itself")], "ok");
    let second = Agent::start(&host, &format!("--iface eth1 --dest 127.0.0.1 --cpu {last}"));
    let found = look();
    assert_eq!(found.json["interfaces"], serde_json::json!(["eth0", "eth1"]), "those of the agents");
    let words = format!("2 sending threads share processor {last}");
    let (fix, undo) = found.expect("processors", &[&words], "warn");
    paste(&host, &fix);
    assert_eq!(
        look()
            .of("processors")
            .iter()
            .filter(|one| one["found"].as_str().unwrap().contains("for itself"))
            .count(),
        2
    );
    paste(&host, &undo);
    look().expect("processors", &[&words], "warn");
    drop((first, second));
    quota();
}

/// A cgroup with half a processor.
fn quota() {
    struct Group(PathBuf);
    impl Drop for Group {
        fn drop(&mut self) {
            // What was in it has ended.
            let _ = fs::remove_dir(&self.0);
        }
    }
    let name = format!("mt-{}", std::process::id());
    let (folder, file, bound, unlimited) = if Path::new("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").exists()
        || Path::new("/sys/fs/cgroup/cpu/cgroup.procs").exists()
    {
        (Path::new("/sys/fs/cgroup/cpu").join(name), "cpu.cfs_quota_us", "50000", "-1")
    } else {
        (Path::new("/sys/fs/cgroup").join(name), "cpu.max", "50000 100000", "max 100000")
    };
    if fs::create_dir(&folder).is_err() {
        return eprintln!("skipped: no cgroup can be made in {}", folder.display());
    }
    let group = Group(folder.clone());
    let file = folder.join(file);
    if fs::write(&file, bound).is_err() {
        return eprintln!("skipped: {} cannot be written", file.display());
    }
    let look = || {
        let join = format!("echo $$ > {}/cgroup.procs", folder.display());
        let doctor = format!("exec {} doctor --json --iface lo --only processors", agent::binary().display());
        // In the machine's own namespace: `ip netns exec` shows no cgroups.
        examine_by(Command::new("sh").args(["-c", &format!("{join} && {doctor}")]))
    };
    let (fix, undo) = look().expect("processors", &["may use 0.50 processors"], "warn");
    let paste = |commands: &[String]| {
        assert_eq!(commands.len(), 1, "{commands:?}");
        command::run(Command::new("sh").args(["-c", &commands[0]]));
    };
    paste(&fix);
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), unlimited);
    assert!(!look().json.to_string().contains("may use 0.50"));
    paste(&undo);
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), bound);
    drop(group);
}

#[test]
fn command_line_and_text() {
    let _turn = lock::shared();
    let host = Host::with_ipv6("text");
    let run = |arguments: &str| agent::run(&host, &format!("doctor {arguments}"), Duration::from_secs(10));
    run("--only mut").assert_failed(2, &["mut", "do you mean mtu?"]);
    run("--iface eth9").assert_failed(1, &["eth9", "lo"]);
    assert_eq!(run("--watch --fix").code(), 2);
    let list = run("--list");
    let list = String::from_utf8(list.stdout).unwrap();
    let ids: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(ids.contains(&"mtu") && ids.contains(&"other-programs"), "{list}");
    // Every check is in the documentation.
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/doctor.md")).unwrap();
    for id in &ids {
        assert!(page.contains(&format!("| `{id}` |")), "docs/doctor.md says nothing of {id}");
    }
    host.ip("link add eth0 mtu 9000 type veth peer name eth1");
    host.ip("link set eth0 up");
    host.ip("link set eth1 up");
    host.address("eth1", "10.9.0.1/24");
    let outcome = run("--iface eth0 --dest 10.9.0.2 --oversize drop --only mtu,offloads");
    assert_eq!(outcome.code(), 1);
    let text = String::from_utf8(outcome.stdout).unwrap();
    assert!(!text.contains('\x1b'), "colours without a terminal: {text:?}");
    let lines: Vec<&str> = text.lines().collect();
    let at = |start: &str| {
        lines.iter().position(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start}: {text}"))
    };
    assert!(at("ok    offloads") < at("FAIL  mtu"), "the worst comes last: {text}");
    assert_eq!(lines[at("FAIL  mtu") + 2], "      mend  ip link set dev eth1 mtu 9054");
    assert_eq!(lines[at("FAIL  mtu") + 3], "      undo  ip link set dev eth1 mtu 1500");
    assert_eq!(*lines.last().unwrap(), "1 failed, 0 warnings, 0 notes, 1 ok");
    // IPv6 takes 20 bytes more, and its routers do not fragment.
    host.address("eth1", "fd09::1/64");
    let look = |options: &str| examine(&host, &format!("--iface eth0 --dest fd09::2 --only mtu {options}"));
    let (fix, _) = look("").expect("mtu", &["9000 + 70 bytes of encapsulation = 9070"], "warn");
    look("--mode redirect").expect("mtu", &["9070"], "fail");
    paste(&host, &fix);
    look("--mode redirect").expect("mtu", &["eth1 takes 9074"], "ok");
}
