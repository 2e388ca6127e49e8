//! With exactly the capabilities that docs/privileges.md names the agent does its work, without one of them it says so
//! and touches nothing, and once it has begun it keeps no more than is said there.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    fs,
    io::Read as _,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use mirror_tests::{
    agent::{Agent, binary},
    bpf::{self, Direction},
    captures,
    check::Check,
    command,
    confined::{self, As, NOBODY, THREE, Thread, names, set},
    frames,
    generator::Generator,
    lab::{Lab, MIRRORED, RUN, UPLINK},
    link::{veth, veth_with_index},
    lock, pcap,
    scratch::Scratch,
    sensor::Sensor,
    tshark,
};

const FRAMES: u64 = 500;
const SOON: Duration = Duration::from_secs(8);

/// Features, and what each needs: the table of docs/privileges.md.
const FEATURES: [(&str, &[&str]); 4] = [
    ("--attach auto", &THREE),
    ("--attach clsact", &THREE),
    ("--hook xdp", &THREE),
    ("--mode redirect", &THREE),
];

/// Whether a kernel has bpf(2) be used by who holds the descriptors (since 5.19).
fn is_bpf_open() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let numbers: Vec<u32> = release.split(['.', '-']).map_while(|number| number.parse().ok()).collect();
    (numbers[0], numbers[1]) >= (5, 19)
}

fn start(lab: &Lab, who: As, capabilities: &[&str], arguments: &str) -> Agent {
    let agent = Agent::spawn(&mut confined::agent(&lab.router, who, capabilities, arguments));
    agent.wait_for_line("mirroring ");
    agent
}

/// Waits until `problem` finds none any more with what the threads have, and gives that.
fn settled(agent: &Agent, problem: impl Fn(&[Thread]) -> Option<String>) -> Vec<Thread> {
    let deadline = Instant::now() + SOON;
    loop {
        let threads = confined::threads(agent.pid());
        let Some(problem) = problem(&threads) else { return threads };
        assert!(Instant::now() < deadline, "{problem}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Checks that the first thread keeps what `control` says, and of the others those with a name that is among `others` what
/// is said there; all others keep nothing, or, on an old kernel, the sending ones what they need there.
fn assert_kept(agent: &Agent, control: &[&str], others: &[(&str, u64)]) {
    let open = if is_bpf_open() { &[][..] } else { &["bpf"] };
    let problem = |Thread { name, is_first, sets }: &Thread| {
        let sends = name.strip_prefix("mirror-").is_some_and(|rest| rest.parse::<u32>().is_ok());
        let expected = match others.iter().find(|(other, _)| other == name) {
            _ if *is_first => set(control) | if control.is_empty() { 0 } else { set(open) },
            Some((_, kept)) => *kept,
            None if sends => set(open),
            None => 0,
        };
        let is_so = sets.permitted == expected
            && sets.effective == expected
            && (sets.inheritable, sets.ambient) == (0, 0)
            && sets.no_new_privs;
        (!is_so).then(|| format!("{name}: {} instead of {}", names(sets.permitted), names(expected)))
    };
    let threads = settled(agent, |threads| {
        let missing = others.iter().find(|(other, _)| threads.iter().all(|thread| thread.name != *other));
        let missing = missing.map(|(name, _)| format!("there is no thread {name}"));
        threads.iter().find_map(problem).or(missing)
    });
    for Thread { name, sets, .. } in &threads {
        println!("{name}: {}, bounding {:x}", names(sets.permitted), sets.bounding);
    }
}

/// Sends both ways, and sees all of it at the sensor.
fn mirrors_both_ways(lab: &Lab, who: As, capabilities: &[&str], arguments: &str) {
    let sees_egress = !arguments.contains("xdp");
    let total = if sees_egress { 2 * FRAMES } else { FRAMES };
    let sensor = Sensor::start(&lab.sensor, Check::new(0..total), |check, datagram| check.look(datagram));
    let agent = start(lab, who, capabilities, &format!("{RUN} {arguments}"));
    assert_kept(&agent, &["net_admin"], &[]);
    Generator::new("eth0").rate(10_000).send(&lab.client, 0..FRAMES);
    if sees_egress {
        Generator::new(MIRRORED).rate(10_000).through_hooks().send(&lab.router, FRAMES..total);
    }
    sensor.wait_for(total, SOON);
    let report = agent.stop_and_report();
    sensor.finish().0.assert_complete();
    assert_eq!(report.frames.sent, total, "{arguments}");
    assert_nothing_attached(lab);
}

fn assert_nothing_attached(lab: &Lab) {
    for direction in [Direction::Ingress, Direction::Egress] {
        assert_eq!(bpf::attached(&lab.router, lab.mirrored_index, direction), []);
    }
    for iface in [MIRRORED, UPLINK] {
        assert!(!lab.router.run(&format!("tc qdisc show dev {iface}")).contains("clsact"));
    }
    let shown = lab.router.run("bpftool net show");
    assert!(!shown.contains("mirror"), "{shown}");
    assert!(!lab.router.ip("link show").contains("mirror0"));
}

/// A capture has the first frames, as tshark reads it.
fn assert_first_frames(path: &Path) {
    let converted = path.with_extension("pcap");
    tshark::convert(path, &converted);
    let packets = pcap::read(&converted);
    assert_eq!(packets.len() as u64, FRAMES);
    assert!(packets.iter().zip(0..).all(|(packet, number)| packet.bytes == frames::frame(number)));
}

#[test]
fn three_capabilities_are_enough_and_most_of_them_are_given_up() {
    let _turn = lock::shared();
    let lab = Lab::new();
    for (arguments, capabilities) in FEATURES {
        mirrors_both_ways(&lab, As::Root, capabilities, arguments);
    }
}

#[test]
fn each_missing_capability_is_named_before_anything_is_touched() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let scratch = Scratch::new();
    let file = scratch.path("mirror.pcapng");
    let sends = FEATURES.map(|(arguments, _)| format!("{RUN} {arguments}"));
    for arguments in sends.into_iter().chain([format!("--iface eth0 -w {}", file.display())]) {
        for missing in THREE {
            let held: Vec<_> = THREE.into_iter().filter(|name| *name != missing).collect();
            let mut command = confined::agent(&lab.router, As::Root, &held, &arguments);
            let outcome = Agent::spawn(&mut command).wait(SOON);
            let name = format!("CAP_{}", missing.to_uppercase());
            outcome.assert_failed(1, &["missing", &name, "grant"]);
            assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
            assert_eq!(outcome.stderr.matches("CAP_").count(), 1, "{outcome}");
            assert_nothing_attached(&lab);
        }
    }
    assert!(!file.exists(), "a file is touched");
    let packet = format!("{RUN} --transmit packet");
    let outcome = Agent::spawn(&mut confined::agent(&lab.router, As::Root, &THREE, &packet)).wait(SOON);
    outcome.assert_failed(1, &["CAP_NET_RAW", "--transmit packet"]);
    assert_nothing_attached(&lab);
}

#[test]
fn net_raw_gives_the_ways_past_the_stack_and_a_thread_of_its_own_keeps_it() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let sensor = Sensor::start(&lab.sensor, Check::new(0..FRAMES), |check, datagram| check.look(datagram));
    let four = [&THREE[..], &["net_raw"]].concat();
    let agent = start(&lab, As::Root, &four, &format!("{RUN} -v"));
    assert_kept(&agent, &["net_admin"], &[("mirror-open", set(&["net_admin", "net_raw"]))]);
    // Long enough for the headers to be learnt more than once, each time by that thread.
    Generator::new("eth0").rate(250).send(&lab.client, 0..FRAMES);
    sensor.wait_for(FRAMES, SOON);
    let outcome = agent.stop();
    assert!(outcome.stderr.contains("leave through eth1"), "{outcome}");
    let _ = outcome.report();
    sensor.finish().0.assert_complete();
}

#[test]
fn nobody_mirrors_with_ambient_or_file_capabilities() {
    let _turn = lock::shared();
    let lab = Lab::new();
    mirrors_both_ways(&lab, As::Nobody, &THREE, "");

    let scratch = Scratch::new();
    fs::set_permissions(scratch.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = scratch.path("mirror-agent");
    fs::copy(binary(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    command::run(Command::new("setcap").arg("cap_bpf,cap_net_admin,cap_perfmon=ep").arg(&program));
    let sensor = Sensor::start(&lab.sensor, Check::new(0..FRAMES), |check, datagram| check.look(datagram));
    let agent = Agent::spawn(&mut confined::run(&lab.router, As::Bare, &[], &program, RUN));
    agent.wait_for_line("mirroring ");
    assert_kept(&agent, &["net_admin"], &[]);
    Generator::new("eth0").rate(10_000).send(&lab.client, 0..FRAMES);
    sensor.wait_for(FRAMES, SOON);
    let _ = agent.stop_and_report();
    sensor.finish().0.assert_complete();
    assert_nothing_attached(&lab);
}

#[test]
fn replay_and_its_conversion_need_and_keep_nothing() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let scratch = Scratch::new();
    fs::set_permissions(scratch.folder(), fs::Permissions::from_mode(0o777)).unwrap();
    let (capture, written) = (scratch.path("in.pcap"), scratch.path("out.pcapng"));
    let mut pcap = captures::Pcap::ethernet();
    for number in 0..FRAMES {
        pcap.packet(1_000_000_000 + number * 2_000_000, &frames::frame(number));
    }
    pcap.save(&capture);
    let sensor = Sensor::start(&lab.sensor, Check::new(0..FRAMES), |check, datagram| check.look(datagram));
    let arguments = format!("-r {} -d 10.20.0.2 --report json", capture.display());
    let agent = start(&lab, As::Nobody, &[], &arguments);
    assert_kept(&agent, &[], &[("mirror-0", 0)]);
    assert_eq!(agent.wait(SOON).report().frames.sent, FRAMES);
    sensor.finish().0.assert_complete();

    // Root's own run of it keeps nothing either.
    let sensor = Sensor::start(&lab.sensor, Check::new(0..FRAMES), |check, datagram| check.look(datagram));
    let agent = Agent::start(&lab.router, &arguments);
    // CAP_IPC_LOCK, bit 14, is for AF_XDP.
    assert_kept(&agent, &[], &[("mirror-open", set(&["net_admin", "net_raw"]) | 1 << 14)]);
    assert!(confined::threads(agent.pid()).iter().all(|thread| thread.sets.bounding == 0));
    assert_eq!(agent.wait(SOON).report().frames.sent, FRAMES);
    sensor.finish().0.assert_complete();

    let arguments = format!("-r {} -w {}", capture.display(), written.display());
    let outcome = Agent::spawn(&mut confined::agent(&lab.router, As::Nobody, &[], &arguments)).wait(SOON);
    assert_eq!(outcome.code(), 0, "{outcome}");
    assert_first_frames(&written);
}

/// Root's files of others are read only as long as that is of use.
#[test]
fn captures_of_others_are_played_by_root_again_and_again() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let scratch = Scratch::new();
    let capture = scratch.path("in.pcap");
    let mut pcap = captures::Pcap::ethernet();
    for number in 0..10 {
        pcap.packet(1_000_000_000, &frames::frame(number));
    }
    pcap.save(&capture);
    fs::set_permissions(&capture, fs::Permissions::from_mode(0o600)).unwrap();
    chown(&capture, Some(NOBODY), Some(NOBODY)).unwrap();
    let sensor = Sensor::keeping(&lab.sensor);
    let arguments = format!("-r {} -d 10.20.0.2 --report json --loop 20 --pps 200", capture.display());
    let agent = start(&lab, As::Root, &["dac_override"], &arguments);
    assert_kept(&agent, &[], &[("mirror-read", set(&["dac_override"]))]);
    assert_eq!(agent.wait(SOON).report().frames.sent, 200);
    assert_eq!(sensor.finish().0.len(), 200);
}

/// The same run, in which everything happens that takes a capability after the start.
fn goes_on(lab: &Lab, scratch: &Scratch, way: &str) {
    let (router, sensor_host) = (&lab.router, &lab.sensor);
    let file = scratch.path("mirror.toml");
    let write = |filter: &str| {
        let text =
            format!("iface = ['eth0', 'b*']\ndest = '10.20.0.2'\nreport = 'json'\nfilter = '{filter}'\n");
        fs::write(&file, text).unwrap();
    };
    write("not port 9");
    let sensor =
        Sensor::start(sensor_host, Check::new(0..4 * FRAMES), |check, datagram| check.look(datagram));
    let agent = start(lab, As::Root, &THREE, &format!("-v --config {} {way}", file.display()));
    assert_kept(&agent, &THREE, &[]);
    let send = |range: std::ops::Range<u64>| {
        let end = range.end;
        Generator::new("eth0").rate(10_000).send(&lab.client, range);
        sensor.wait_for(end, SOON);
    };
    send(0..FRAMES);

    // The interface goes, and comes back.
    let said = agent.stderr().len();
    router.ip("link del eth0");
    agent.wait_for_text(said, MIRRORED, SOON);
    let said = agent.stderr().len();
    veth_with_index(router, MIRRORED, lab.mirrored_index ^ 0x80, &lab.client, "eth0");
    agent.wait_for_text(said, "eth0 is back", SOON);
    send(FRAMES..2 * FRAMES);

    // The configuration is read anew: other programs, with another filter.
    let said = agent.stderr().len();
    write("not port 10");
    agent.signal(libc::SIGHUP);
    agent.wait_for_text(said, "frames meet the filter that is there now", SOON);
    send(2 * FRAMES..3 * FRAMES);

    // Another way to the sensor.
    veth(router, "eth2", sensor_host, "eth2");
    router.address("eth2", "10.30.0.1/24");
    sensor_host.address("eth2", "10.30.0.2/24");
    router.mtu("eth2", 2000);
    sensor_host.mtu("eth2", 2000);
    sensor_host.set_sysctl("net/ipv4/conf/all/rp_filter", "0");
    sensor_host.set_sysctl("net/ipv4/conf/eth0/rp_filter", "0");
    sensor_host.set_sysctl("net/ipv4/conf/eth2/rp_filter", "0");
    router.ip("route add 10.20.0.2/32 via 10.30.0.2 dev eth2 src 10.20.0.1");
    thread::sleep(Duration::from_millis(1500));
    let before = router.link_counter("eth2", "tx", "packets");
    send(3 * FRAMES..4 * FRAMES);
    assert!(router.link_counter("eth2", "tx", "packets") >= before + FRAMES, "they went the old way");
    router.ip("link del eth2");

    let outcome = agent.stop();
    let report = outcome.report();
    assert_eq!(report.frames.sent, 4 * FRAMES, "{outcome}");
    sensor.finish().0.assert_complete();
    let shown = router.run("bpftool net show");
    assert!(!shown.contains("mirror"), "{shown}");
    assert!(!router.run("tc qdisc show").contains("clsact"));
}

#[test]
fn what_happens_later_is_followed_with_what_was_kept() {
    let _turn = lock::shared();
    goes_on(&Lab::new(), &Scratch::new(), "--attach auto");
}

#[test]
fn what_happens_later_is_followed_by_filters_with_what_was_kept() {
    let _turn = lock::shared();
    goes_on(&Lab::new(), &Scratch::new(), "--attach clsact");
}

#[test]
fn what_happens_later_is_followed_in_redirect_mode_with_what_was_kept() {
    let _turn = lock::shared();
    goes_on(&Lab::new(), &Scratch::new(), "--mode redirect");
}

#[test]
fn udp_sockets_keep_connections_over_ipv6_and_hear_who_refuses() {
    let _turn = lock::shared();
    let lab = Lab::with_ipv6();
    let run = "--iface eth0 --dest [fd20::2] --cpu 0,1 --report json";
    let agent = start(&lab, As::Root, &THREE, run);
    // Nobody listens: that costs no frame.
    Generator::new("eth0").rate(5_000).send(&lab.client, 0..FRAMES);
    let report = agent.stop_and_report();
    assert!(
        report.send_errors.get("ECONNREFUSED").is_some_and(|count| *count > 0),
        "{:?}",
        report.send_errors
    );
    assert_eq!(report.frames.send_failed, 0, "{:?}", report.frames);

    // The check is also that each connection has one port, and its order.
    let check = Check::new(0..8 * FRAMES).from("fd20::1");
    let sensor = Sensor::start(&lab.sensor, check, |check, datagram| {
        // Discovery on the client's link is mirrored too.
        if datagram.frame[6..10] != [2, 0, 0, 0] {
            check.look(datagram);
        }
    });
    let agent = start(&lab, As::Root, &THREE, run);
    Generator::new("eth0").rate(20_000).send(&lab.client, 0..8 * FRAMES);
    let report = agent.stop_and_report();
    let (check, totals) = sensor.finish();
    check.assert_complete();
    assert_eq!(totals.datagrams, report.datagrams_sent);
    println!("{} ports for {} flows", check.ports(), check.flows());
    assert!((32..=128).contains(&check.ports()), "{} ports", check.ports());
}

#[test]
fn udp_sockets_do_with_what_does_not_fit_as_a_raw_socket_does() {
    let _turn = lock::shared();
    let lab = Lab::new();
    lab.router.mtu(UPLINK, 1000);
    for oversize in ["fragment", "truncate", "drop"] {
        let play = |capabilities: &[&str]| {
            let sensor =
                Sensor::start(&lab.sensor, 0_u64, |bytes, datagram| *bytes += datagram.frame.len() as u64);
            let arguments = format!("{RUN} --transmit udp --oversize {oversize}");
            let agent = start(&lab, As::Root, capabilities, &arguments);
            Generator::new("eth0").rate(10_000).send(&lab.client, 0..FRAMES);
            let report = agent.stop_and_report();
            let (bytes, totals) = sensor.finish();
            assert_eq!(report.frames.seen, FRAMES);
            let frames =
                (report.frames.sent, report.frames.too_big, report.frames.send_failed, report.truncated);
            (frames, report.datagrams_sent, report.bytes_sent, totals.datagrams, bytes)
        };
        let (raw, udp) = (play(&[&THREE[..], &["net_raw"]].concat()), play(&THREE));
        println!("{oversize}: {udp:?}");
        assert_eq!(udp, raw, "{oversize}");
    }
}

#[test]
fn capture_is_written_and_the_sets_before_and_after_are_as_documented() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let scratch = Scratch::new();
    let pipe = scratch.path("pipe");
    command::run(Command::new("mkfifo").arg(&pipe));
    // Of somebody else, whose pipe root opens by a capability that it gives up then.
    chown(&pipe, Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(&pipe, fs::Permissions::from_mode(0o600)).unwrap();
    let held = [&THREE[..], &["dac_override"]].concat();
    let arguments = format!("-v --iface eth0 -w {} --report json", pipe.display());
    let agent = Agent::spawn(&mut confined::agent(&lab.router, As::Root, &held, &arguments));
    // Nobody reads yet: the agent waits, with nothing attached.
    let before = settled(&agent, |threads| {
        let may_get_more = |thread: &Thread| thread.is_first && !thread.sets.no_new_privs;
        threads.iter().any(may_get_more).then(|| "it may get more".into())
    });
    let before = before.iter().find(|thread| thread.is_first).unwrap();
    println!("before: {}", names(before.sets.permitted));
    assert_eq!(before.sets.permitted, set(&held));
    assert_nothing_attached(&lab);
    let reader = thread::spawn({
        let (from, to) = (pipe.clone(), scratch.path("copy.pcapng"));
        move || {
            let mut whole = Vec::new();
            fs::File::open(from).unwrap().read_to_end(&mut whole).unwrap();
            fs::write(&to, whole).unwrap();
            assert_first_frames(&to);
        }
    });
    agent.wait_for_line("mirroring ");
    assert_kept(&agent, &["net_admin"], &[]);
    Generator::new("eth0").rate(10_000).send(&lab.client, 0..FRAMES);
    thread::sleep(Duration::from_millis(200));
    let outcome = agent.stop();
    assert_eq!(outcome.code(), 0, "{outcome}");
    reader.join().unwrap();
}
