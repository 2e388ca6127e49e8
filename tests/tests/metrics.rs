//! What the agent says of itself while it runs, read by Prometheus, promtool and curl: true, to the frame, and whoever asks
//! keeps nobody from anything.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use mirror_agent::control::client;
use mirror_tests::{
    agent::{self, Agent},
    generator::Generator,
    host::Host,
    lab::{Lab, RUN},
    link::veth,
    lock,
    prometheus::{
        METRICS, Prometheus, assert_clean, assert_well, get, promtool, samples, scrape, sum, wait_for_status,
    },
    report::Report,
    scratch::Scratch,
    sensor::Sensor,
};

const SOON: Duration = Duration::from_secs(10);

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name).canonicalize().unwrap()
}

/// What the report says, by the metric that has to say the same.
fn expected(report: &Report) -> Vec<(String, u64)> {
    let frames = &report.frames;
    let dropped = [
        ("filtered", frames.filtered),
        ("sampled_out", frames.sampled_out),
        ("rate_limited", frames.rate_limited),
        ("own", frames.own),
        ("ring_full", frames.ring_full),
        ("copy_failed", frames.copy_failed),
        ("too_big", frames.too_big),
        ("send_failed", frames.send_failed),
    ];
    let mut all = vec![
        ("mirror_frames_sent_total".to_owned(), frames.sent),
        ("mirror_frames_truncated_total".to_owned(), report.truncated),
        ("mirror_segments_sent_total".to_owned(), report.segments),
    ];
    all.extend(
        dropped.map(|(reason, count)| (format!("mirror_frames_dropped_total{{reason=\"{reason}\"}}"), count)),
    );
    for destination in &report.destinations {
        let dest = format!("{{dest=\"{}\"}}", destination.address);
        all.push((format!("mirror_datagrams_sent_total{dest}"), destination.datagrams));
        all.push((format!("mirror_bytes_sent_total{dest}"), destination.bytes));
    }
    all
}

/// That the samples agree with the report that came after them, to the frame.
fn assert_agree(samples: &BTreeMap<String, f64>, report: &Report) {
    for (metric, count) in expected(report) {
        assert_eq!(samples.get(&metric), Some(&(count as f64)), "{metric} {samples:#?}");
    }
    assert_eq!(sum(samples, "mirror_frames_seen_total"), report.frames.seen as f64);
    let bytes: u64 = report.interfaces.iter().map(|interface| interface.bytes).sum();
    assert_eq!(sum(samples, "mirror_bytes_seen_total"), bytes as f64);
    let balance = sum(samples, "mirror_frames_sent_total") + sum(samples, "mirror_frames_dropped_total");
    assert_eq!(sum(samples, "mirror_frames_seen_total"), balance, "the ledger balances");
}

/// The names in an expression that are the agent's.
fn names(expression: &str) -> BTreeSet<String> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let words = expression.split(|character| !is_part(character));
    words.filter(|word| word.starts_with("mirror_")).map(str::to_owned).collect()
}

/// All expressions of the dashboard, with its variables as Grafana would fill them in.
fn dashboard() -> Vec<String> {
    fn collect(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(object) => {
                object.iter().for_each(|(key, value)| match value.as_str() {
                    Some(text) if key == "expr" => found.push(text.to_owned()),
                    _ => collect(value, found),
                })
            }
            serde_json::Value::Array(array) => array.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let text = fs::read_to_string(deploy("grafana/mirror-agent.json")).unwrap();
    let mut found = Vec::new();
    collect(&serde_json::from_str(&text).unwrap(), &mut found);
    found
        .into_iter()
        .map(|expression| expression.replace("$instance", ".*").replace("$__rate_interval", "10s"))
        .collect()
}

#[test]
fn prometheus_agrees_with_the_report_to_the_frame() {
    const FRAMES: u64 = 10_000;
    let _turn = lock::shared();
    let lab = Lab::new();
    let sensor = Sensor::start(&lab.sensor, (), |(), _| {});
    let host = &lab.router;
    let agent = Agent::start(host, &format!("{RUN} --metrics {METRICS} --snaplen 300 -- not tcp"));
    let prometheus = Prometheus::start(host, &deploy("prometheus/alerts.yaml"));
    if let Some(prometheus) = &prometheus {
        prometheus.wait_for("up", 1.0);
    }
    let sent = Generator::new("eth0").rate(10_000).send(&lab.client, 0..FRAMES);
    assert_eq!(sent.frames, FRAMES);
    sensor.wait_for(1, SOON);
    // Whatever is on its way.
    thread::sleep(Duration::from_millis(300));

    let (status, exposition) = get(host, "/metrics");
    assert_eq!(status, 200);
    let last = samples(&exposition);
    assert_clean(&exposition);
    let seen = sum(&last, "mirror_frames_seen_total");
    if let Some(prometheus) = &prometheus {
        prometheus.wait_for("sum(mirror_frames_seen_total)", seen);
        prometheus.wait_for("sum(mirror_frames_sent_total) + sum(mirror_frames_dropped_total)", seen);
    }
    let scraped: Vec<_> = prometheus
        .iter()
        .map(|prometheus| {
            let all = prometheus.query("{__name__=~\"mirror_.*_total\"}").unwrap();
            let name = |labels: BTreeMap<String, String>| {
                let own =
                    labels.iter().filter(|(name, _)| !["__name__", "job", "instance"].contains(&&***name));
                let own: Vec<_> = own.map(|(name, value)| format!("{name}=\"{value}\"")).collect();
                let own = if own.is_empty() { String::new() } else { format!("{{{}}}", own.join(",")) };
                format!("{}{own}", labels["__name__"])
            };
            all.into_iter().map(|(labels, value)| (name(labels), value)).collect::<BTreeMap<_, _>>()
        })
        .collect();
    if let Some(prometheus) = &prometheus {
        every_expression_of_the_dashboard_is_answered(prometheus, &last);
        assert_eq!(
            prometheus.value("count(ALERTS{alertstate=\"firing\"})"),
            0.0,
            "an alert where all is well"
        );
    }
    let report = agent.stop_and_report();
    assert!(report.frames.seen >= FRAMES && report.frames.filtered > 0 && report.truncated > 0, "{report:?}");
    println!("the report: {:?}", report.frames);
    assert_agree(&last, &report);
    for scraped in &scraped {
        println!("Prometheus: {scraped:?}");
        assert_agree(scraped, &report);
    }
    // Sampled: one frame of 64 on each processor, and each batch.
    let ratio = sum(&last, "mirror_ring_occupancy_ratio_count");
    let delay = sum(&last, "mirror_capture_to_send_seconds_count");
    println!("{ratio} batches, {delay} times, {} s in all", sum(&last, "mirror_capture_to_send_seconds_sum"));
    assert!(ratio > 100.0 && delay > 10.0 && delay <= ratio);
    let mean = sum(&last, "mirror_capture_to_send_seconds_sum") / delay;
    assert!(mean > 0.0 && mean < 1.0, "{mean} s");
    let _ = sensor.finish();
}

fn every_expression_of_the_dashboard_is_answered(
    prometheus: &Prometheus<'_>,
    samples: &BTreeMap<String, f64>,
) {
    let known: BTreeSet<&str> =
        samples.keys().map(|name| name.split_once('{').map_or(&**name, |(name, _)| name)).collect();
    let expressions = dashboard();
    assert!(expressions.len() > 20, "{expressions:?}");
    for expression in expressions {
        for name in names(&expression) {
            // Of errors there are series only where there were any.
            let is_known = known.contains(&*name) || name == "mirror_send_errors_total";
            assert!(is_known, "{name} of {expression} is no metric of the agent");
        }
        let values = prometheus.query(&expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
        let may_be_empty = expression.contains("errno") || expression.ends_with("> 0");
        assert!(!values.is_empty() || may_be_empty, "{expression} has no value");
    }
}

#[test]
fn alerts_are_right() {
    let rules = deploy("prometheus/alerts.yaml");
    if let Some(output) =
        promtool(&["check", "rules", "--lint=all", "--lint-fatal", rules.to_str().unwrap()], "")
    {
        assert_well(&output);
    }
    let tests = deploy("prometheus/alerts_test.yaml");
    if let Some(output) = promtool(&["test", "rules", tests.to_str().unwrap()], "") {
        assert_well(&output);
    }
}

/// From a start without a way to the sensor to a sensor that goes, and an interface that goes.
fn readiness(arguments: &str, begins_without: bool) {
    let _turn = lock::shared();
    let started = Instant::now();
    let told = |what: &str| println!("{what} after {:?}", started.elapsed());
    let lab = Lab::new();
    let host = &lab.router;
    if begins_without {
        // The route stays, as it does on hosts where a cable is out.
        lab.sensor.ip("link set eth0 down");
    }
    let agent = Agent::start(host, &format!("{RUN} --metrics {METRICS} {arguments}"));
    assert_eq!(get(host, "/livez"), (200, "ok\n".into()));
    if begins_without {
        let why = wait_for_status(host, "/readyz", 503);
        assert!(why.contains("10.20.0.2:4789 is not reachable"), "{why}");
        assert_eq!(scrape(host)["mirror_ready"], 0.0);
        told("not reachable");
        lab.sensor.ip("link set eth0 up");
    }
    assert_eq!(wait_for_status(host, "/readyz", 200), "ok\n");
    assert_eq!(scrape(host)["mirror_ready"], 1.0);
    told("reachable");

    // Nobody listens at its port, and its host says so.
    let traffic = Generator::new("eth0").rate(1_000).flood(&lab.client, 0..100);
    let why = wait_for_status(host, "/readyz", 503);
    assert!(why.contains("refuses what is sent to it"), "{why}");
    told("refused");
    assert_eq!(scrape(host)["mirror_destination_up{dest=\"10.20.0.2:4789\"}"], 0.0);
    let sensor = Sensor::start(&lab.sensor, (), |(), _| {});
    wait_for_status(host, "/readyz", 200);
    let _ = traffic.stop();
    told("sensor back");
    let before = scrape(host);

    host.ip("link del eth0");
    let why = wait_for_status(host, "/readyz", 503);
    assert!(why.contains("there is no interface eth0"), "{why}");
    told("interface gone");
    assert_eq!(get(host, "/livez").0, 200, "it lives all the same");
    // Back under its name, and its counts go on.
    veth(host, "eth0", &lab.client, "eth0");
    wait_for_status(host, "/readyz", 200);
    told("interface back");
    let after = scrape(host);
    for (name, value) in before.iter().filter(|(name, _)| name.contains("_total")) {
        assert!(after[name] >= *value, "{name} went from {value} to {}", after[name]);
    }
    let report = agent.stop_and_report();
    assert!(report.frames.seen as f64 >= sum(&after, "mirror_frames_seen_total"));
    let _ = sensor.finish();
}

#[test]
fn readiness_follows_what_is_there() {
    readiness("", true);
}

#[test]
fn readiness_follows_what_is_there_in_redirect_mode() {
    // That waits for seconds for a neighbour that does not answer.
    readiness("--mode redirect", false);
}

fn descriptors(agent: &Agent) -> usize {
    fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().count()
}

#[test]
fn hostile_clients_change_nothing() {
    const FRAMES: u64 = 5_000;
    let _turn = lock::shared();
    let lab = Lab::new();
    let sensor = Sensor::start(&lab.sensor, (), |(), _| {});
    let host = &lab.router;
    let agent = Agent::start(host, &format!("{RUN} --metrics {METRICS}"));
    let before = descriptors(&agent);
    let traffic = Generator::new("eth0").rate(2_000).start(&lab.client, 0..FRAMES);
    let connect = || TcpStream::connect(METRICS).unwrap();

    // Some that say nothing at all, or a little at a time.
    let silent = host.within(move || {
        let silent: Vec<_> = (0..200).map(|_| connect()).collect();
        for mut stream in silent.iter().rev().take(20) {
            stream.write_all(b"GET /metrics HTTP/1.1\r\nX-").unwrap();
        }
        silent
    });
    let started = Instant::now();
    let (status, _) = get(host, "/metrics");
    println!(
        "beside 200 connections: {status} after {:?}, {} descriptors",
        started.elapsed(),
        descriptors(&agent)
    );
    assert_eq!(status, 200);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert!(descriptors(&agent) <= before + 64, "{} descriptors, {before} before", descriptors(&agent));

    // Those that say too much, or what is none of HTTP.
    let refused = host.within(move || {
        let large =
            [b"GET /metrics HTTP/1.1\r\nX: ".to_vec(), vec![b'a'; 1 << 20], b"\r\n\r\n".to_vec()].concat();
        let many = [b"GET / HTTP/1.1\r\n".to_vec(), b"A: b\r\n".repeat(1000), b"\r\n".to_vec()].concat();
        let post = b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\nx".to_vec();
        let binary: Vec<u8> = (0..100_000_u32).map(|number| ((number * 7919) >> 3) as u8).collect();
        [large, many, post, binary, b"GET ".to_vec(), b"\r\n\r\n\r\n".to_vec()].map(|request| {
            let mut stream = connect();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            // It may hang up in between.
            let _ = stream.write_all(&request);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            String::from_utf8_lossy(&answer).lines().next().unwrap_or("").to_owned()
        })
    });
    println!("answers: {refused:?}");
    assert!(refused.iter().all(|line| !line.contains(" 200 ")), "{refused:?}");
    assert!(refused[2].contains("405"), "{refused:?}");

    // One that asks without end, and takes no answer.
    host.within(move || {
        for _ in 0..500 {
            connect().write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        }
    });
    assert_eq!(get(host, "/readyz").0, 200);
    drop(silent);
    let _ = traffic.finish();
    let deadline = Instant::now() + SOON;
    while descriptors(&agent) > before + 2 {
        assert!(Instant::now() < deadline, "{} descriptors, {before} before", descriptors(&agent));
        thread::sleep(Duration::from_millis(50));
    }
    thread::sleep(Duration::from_millis(200));
    let last = scrape(host);
    let report = agent.stop_and_report();
    assert_agree(&last, &report);
    assert_eq!(report.frames.sent, report.frames.seen - report.frames.own, "{:?}", report.frames);
    let _ = sensor.finish();
}

#[test]
fn every_way_to_run_has_metrics() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let sensor = Sensor::start(&lab.sensor, (), |(), _| {});
    let host = &lab.router;
    let scratch = Scratch::new();
    let capture = scratch.path("c.pcapng");
    let kinds = [
        (format!("-i eth0 -w {} --report json", capture.display()), "file"),
        (format!("{RUN} --mode redirect"), "kernel"),
        (format!("{RUN} --hook xdp --transmit udp"), "udp"),
        (format!("-r {} --pps 100 --loop 0 -d 10.20.0.2 --report json", capture.display()), ""),
    ];
    for (arguments, transmit) in kinds {
        let is_live = !arguments.contains("-r ");
        let agent = Agent::start(host, &format!("{arguments} --metrics {METRICS}"));
        if is_live {
            let _ = Generator::new("eth0").rate(2_000).send(&lab.client, 0..500);
        }
        thread::sleep(Duration::from_millis(300));
        let (_, exposition) = get(host, "/metrics");
        assert_clean(&exposition);
        let last = samples(&exposition);
        // By the Unix socket, and with the types of who reads it.
        let status =
            client::Agent::Socket(mirror_agent::control::folder::socket_of(agent.pid())).status().unwrap();
        assert_eq!((status.pid, status.ready), (agent.pid(), true), "{:?}", status.not_ready);
        assert!(status.arguments.contains(&"--metrics".to_owned()));
        let has_ring = is_live && !arguments.contains("redirect");
        for histogram in ["mirror_ring_occupancy_ratio_count", "mirror_capture_to_send_seconds_count"] {
            assert_eq!(sum(&last, histogram) > 0.0, has_ring, "{arguments}: {histogram}");
        }
        let seen = sum(&last, "mirror_frames_seen_total");
        assert!(seen >= if is_live { 500.0 } else { 10.0 }, "{arguments}: {seen}");
        if !is_live {
            let name =
                format!("mirror_frames_seen_total{{iface=\"{}\",direction=\"none\"}}", capture.display());
            assert!(last.contains_key(&name), "{last:?}");
        }
        if is_live && transmit != "file" {
            assert_eq!(status.destinations[0].transmit, transmit, "{arguments}");
        }
        let socket = mirror_agent::control::folder::socket_of(agent.pid());
        let outcome = agent.stop();
        assert!(!socket.exists(), "{} is left", socket.display());
        let report = outcome.report();
        if is_live {
            assert_agree(&last, &report);
        }
    }
    let _ = sensor.finish();
}

#[test]
fn addresses_that_cannot_be_had_are_refused() {
    let host = Host::new("refused");
    host.ip("link add eth0 type veth peer name eth1");
    host.ip("link set eth0 up");
    let run = |arguments: &str| agent::run(&host, &format!("--iface eth0 {arguments}"), SOON);
    let taken = host.within(|| std::net::TcpListener::bind(METRICS).unwrap());
    let outcome = run(&format!("--metrics {METRICS}"));
    outcome.assert_failed(1, &["--metrics", METRICS, "in use"]);
    assert!(!outcome.stderr.contains("mirroring "), "{outcome}");
    drop(taken);
    run("--metrics 10.99.99.99:9464")
        .assert_failed(1, &["--metrics 10.99.99.99:9464", "cannot listen there"]);
    for wrong in ["9464", "localhost:9464", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999", ""] {
        let mut command = agent::command(&host, "--iface eth0 --metrics");
        Agent::spawn(command.arg(wrong)).wait(SOON).assert_failed(2, &["--metrics"]);
    }
    run("--control /proc/no/such.sock").assert_failed(1, &["--control /proc/no/such.sock"]);
}

#[test]
fn control_sockets_of_the_dead_are_removed() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let scratch = Scratch::new();
    let named = scratch.path("named.sock");
    let mut agent = Agent::start(&lab.router, RUN);
    let left = mirror_agent::control::folder::socket_of(agent.pid());
    assert!(client::running().contains(&client::Agent::Socket(left.clone())));
    agent.signal(libc::SIGKILL);
    while !agent.has_ended() {
        thread::sleep(Duration::from_millis(5));
    }
    assert!(left.exists() && UnixStream::connect(&left).is_err());
    drop(agent);
    let next = Agent::start(&lab.router, RUN);
    assert!(!left.exists(), "{} is left", left.display());
    let own = mirror_agent::control::folder::socket_of(next.pid());
    assert_eq!(
        client::running().iter().filter(|agent| **agent == client::Agent::Socket(own.clone())).count(),
        1
    );
    let _ = next.stop();
    let named_agent = Agent::start(&lab.router, &format!("{RUN} --control {}", named.display()));
    assert_eq!(client::Agent::Socket(named.clone()).status().unwrap().pid, named_agent.pid());
    let none = mirror_agent::control::folder::socket_of(named_agent.pid());
    assert!(!none.exists());
    let _ = named_agent.stop();
    assert!(!named.exists());
    let silent = Agent::start(&lab.router, &format!("{RUN} --control none"));
    assert!(!mirror_agent::control::folder::socket_of(silent.pid()).exists());
    let _ = silent.stop();
}

#[test]
fn log_is_json_where_it_is_asked_for() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let messages = |stderr: &str| -> Vec<(String, String)> {
        let parse = |line: &str| {
            let value: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON: {line}: {error}"));
            let text =
                |name: &str| value[name].as_str().unwrap_or_else(|| panic!("no {name}: {line}")).to_owned();
            assert!(text("time").ends_with('Z') && text("target").starts_with("mirror_agent"), "{line}");
            assert_eq!(value.as_object().unwrap().len(), 4, "{line}");
            (text("level"), text("message"))
        };
        stderr.lines().map(parse).collect()
    };
    let agent = Agent::spawn(&mut agent::command(
        &lab.router,
        &format!("{RUN} --log-format json -vv --stats-interval 100ms"),
    ));
    agent.wait_for_text(0, "\"message\":\"mirroring ", Duration::from_secs(20));
    thread::sleep(Duration::from_millis(300));
    let outcome = agent.stop();
    let said = messages(&outcome.stderr);
    let has = |level: &str, start: &str| {
        said.iter().any(|(its, message)| its == level && message.starts_with(start))
    };
    assert!(has("info", "mirroring eth0") && has("info", "seen ") && has("debug", ""), "{said:?}");
    let _ = outcome.report();

    for (arguments, code, word) in [
        ("--iface nowhere0", 1, "nowhere0"),
        ("--iface eth0 --sample 0", 2, "--sample"),
        ("--wrong", 2, "--wrong"),
    ] {
        let outcome = agent::run(&lab.router, &format!("{arguments} --log-format json"), SOON);
        assert_eq!(outcome.code(), code, "{outcome}");
        let said = messages(&outcome.stderr);
        assert!(said.iter().any(|(level, message)| level == "error" && message.contains(word)), "{said:?}");
    }
    // In a pod it is so without being asked for; text is text even there.
    for (format, is_json) in [("auto", true), ("text", false)] {
        let mut command = agent::command(&lab.router, &format!("--iface nowhere0 --log-format {format}"));
        let outcome = Agent::spawn(command.env("KUBERNETES_SERVICE_HOST", "10.0.0.1")).wait(SOON);
        assert_eq!(outcome.stderr.starts_with('{'), is_json, "{outcome}");
    }
}
