//! Options from a file, from the environment and from the command line, and the file read anew.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{fs, path::PathBuf, thread, time::Duration};

use mirror_tests::{
    agent::{self, Agent},
    check::Check,
    generator::Generator,
    host::Host,
    lab::Lab,
    link::veth,
    lock,
    scratch::Scratch,
    sensor::Sensor,
};

const SOON: Duration = Duration::from_secs(5);

struct File {
    scratch: Scratch,
}

impl File {
    fn new(text: &str) -> Self {
        let file = Self { scratch: Scratch::new() };
        file.write(text);
        file
    }

    fn path(&self) -> PathBuf {
        self.scratch.path("mirror.toml")
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
    }
}

/// What the agent says when it mirrors, with these variables and arguments.
fn ready(host: &Host, variables: &[(&str, &str)], arguments: &str) -> String {
    let mut command = agent::command(host, arguments);
    command.envs(variables.iter().copied());
    let agent = Agent::spawn(&mut command);
    let line = agent.wait_for_line("mirroring ");
    assert_eq!(agent.stop().code(), 0);
    line
}

#[test]
fn flag_goes_before_variable_and_that_before_the_file() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let host = &lab.router;
    let file = File::new(
        "# A comment.\niface = [\"eth0\"]\nvni = 0x10\ndirection = 'ingress'\ndest = \"10.20.0.2\"\nquiet = false\n",
    );
    let config = format!("--config {}", file.path().display());
    let path = file.path().display().to_string();
    let to = "to 10.20.0.2:4789, vxlan vni";
    for (variables, arguments, line) in [
        (&[][..], "", format!("mirroring eth0 (ingress) {to} 16")),
        (&[("MIRROR_VNI", "17")], "", format!("mirroring eth0 (ingress) {to} 17")),
        (&[("MIRROR_VNI", "17")], "--vni 18", format!("mirroring eth0 (ingress) {to} 18")),
        (&[("MIRROR_VNI", "")], "", format!("mirroring eth0 (ingress) {to} 16")),
        // A list as a whole, not bit by bit.
        (&[("MIRROR_IFACE", "eth1, veth*")], "", format!("mirroring eth1, veth* (ingress) {to} 16")),
        (&[("MIRROR_IFACE", "eth1")], "-i eth0", format!("mirroring eth0 (ingress) {to} 16")),
        // What excludes a flag is left out.
        (
            &[],
            "-w /dev/null --write-outer --direction both",
            "mirroring eth0 (ingress+egress) to /dev/null".into(),
        ),
    ] {
        assert_eq!(
            ready(host, variables, &format!("{config} {arguments}")),
            line,
            "{variables:?} {arguments}"
        );
    }
    let named = [("MIRROR_CONFIG", &*path), ("MIRROR_DIRECTION", "egress")];
    assert_eq!(ready(host, &named, "--vni 1"), format!("mirroring eth0 (egress) {to} 1"));
    // Options of one choice exclude each other; a replay has no interface.
    file.write("iface = \"eth0\"\npps = 5\nquiet = true\n");
    let outcome = agent::run(host, &format!("{config} -r /no/such.pcap --topspeed -w /dev/null"), SOON);
    outcome.assert_failed(1, &["cannot read /no/such.pcap"]);
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let _turn = lock::shared();
    let host = Host::new("router");
    let file = File::new("");
    let path = file.path().display().to_string();
    for (text, words) in [
        (
            "iface = \"eth0\"\n\nring-siez = \"1MiB\"",
            &[":3: there is no option ring-siez", "did you mean ring-size?"][..],
        ),
        ("ifaces = [\"eth0\"]", &[":1: there is no option ifaces", "did you mean iface?"]),
        ("nonsense = 1", &[":1: there is no option nonsense"]),
        ("config = \"x\"", &[":1: there is no option config"]),
        ("iface = [\"eth0\", 5]", &[":1: iface = [\"eth0\", 5]: expected text, or a list"]),
        ("iface = \"eth0\"\nvni = true", &[":2: vni = true: expected a number"]),
        ("iface = \"eth0\"\nvni = [1]", &[":2: vni = [1]: expected a number"]),
        ("iface = \"eth0\"\nquiet = 1", &[":2: quiet = 1: expected true or false"]),
        ("iface = \"eth0\"\ndest = 7", &[":2: dest = 7: expected text"]),
        (
            "iface = \"eth0\"\nring-size = \"3MiB\"",
            &[":2: invalid value '3MiB' for '--ring-size <BYTES>'", "power of two"],
        ),
        ("iface = \"eth0\"\nmode = \"rnig\"", &[":2: invalid value 'rnig' for '--mode"]),
        ("iface = \"eth0\"\nvni = 16777216", &[":2: invalid value '16777216' for '--vni"]),
        ("iface = \"eth[\"", &["--iface \"eth[\""]),
        ("iface = \"eth0\nvni = 1", &[":1: "]),
        ("[live]\niface = \"eth0\"", &[":1: there is no option live"]),
        ("vni = 1", &["nothing to mirror"]),
    ] {
        file.write(text);
        for line in [format!("--config {path}"), format!("validate --config {path}")] {
            let outcome = agent::run(&host, &line, SOON);
            outcome.assert_failed(2, words);
            assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
        }
    }
    // All at once.
    file.write("a = 1\nb = 2\n");
    let outcome = agent::run(&host, &format!("validate --config {path}"), SOON);
    assert_eq!((outcome.code(), outcome.stderr.lines().count()), (2, 2), "{outcome}");
    agent::run(&host, "--config /no/such.toml", SOON)
        .assert_failed(2, &["cannot read --config /no/such.toml"]);
    for (name, value, words) in [
        ("MIRROR_LIMIT", "x", &["MIRROR_LIMIT: invalid value 'x' for '--limit <N>'"][..]),
        ("MIRROR_QUIET", "maybe", &["MIRROR_QUIET=maybe: expected true or false"]),
    ] {
        let mut command = agent::command(&host, "-i eth0 -w /dev/null");
        Agent::spawn(command.env(name, value)).wait(SOON).assert_failed(2, words);
    }
    file.write("iface = \"veth*\"\n");
    let outcome = agent::run(&host, &format!("validate --config {path}"), SOON);
    assert_eq!((outcome.code(), String::from_utf8(outcome.stdout).unwrap()), (0, format!("{path}: ok\n")));
}

#[test]
fn hangup_reads_the_file_anew() {
    const FRAMES: u64 = 200;
    let _turn = lock::shared();
    let lab = Lab::new();
    let (a, b) = (Host::new("a"), Host::new("b"));
    veth(&lab.router, "a0", &a, "eth0");
    veth(&lab.router, "b0", &b, "eth0");
    let sensor =
        Sensor::start(&lab.sensor, Check::new(0..4 * FRAMES), |check, datagram| check.look(datagram));
    let base = "dest = '10.20.0.2'\nreport = 'json'\n";
    let file = File::new(&format!("{base}iface = 'a*'\n"));
    let agent = Agent::start(&lab.router, &format!("-v --config {}", file.path().display()));
    let reload = |text: &str, answer: &str| {
        let said = agent.stderr().len();
        file.write(text);
        agent.signal(libc::SIGHUP);
        agent.wait_for_text(said, answer, SOON);
    };
    let mut next = 0..FRAMES;
    let mut send = |mirrored: &Host, other: &Host| {
        Generator::new("eth0").rate(10_000).send(other, 0..FRAMES);
        Generator::new("eth0").rate(10_000).send(mirrored, next.clone());
        sensor.wait_for(next.end, SOON);
        thread::sleep(Duration::from_millis(50));
        assert_eq!(sensor.datagrams(), next.end);
        next = next.end..next.end + FRAMES;
    };
    send(&a, &b);
    reload(&format!("{base}iface = 'b*'\n"), "mirroring b0 too");
    send(&b, &a);
    // A mistake changes nothing, and what a run cannot change is named.
    reload(&format!("{base}ifcae = 'a*'\n"), "the configuration stays as it was: ");
    send(&b, &a);
    reload(
        &format!("{base}iface = '*'\nexclude-iface = ['b*', 'eth*']\nvni = 7\nring-size = '1MiB'\n"),
        "ring-size, vni: needs a restart, and stays as it was until then",
    );
    agent.wait_for_text(agent.stderr().find("ring-size, vni").unwrap(), "mirroring a0 too", SOON);
    send(&a, &b);
    let report = agent.stop_and_report();
    sensor.finish().0.assert_complete();
    assert_eq!((report.interface("a0").seen, report.interface("b0").seen), (2 * FRAMES, 2 * FRAMES));
}
