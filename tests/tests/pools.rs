//! Several sensors: each connection whole at one of them, and what becomes of it when one goes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::time::{Duration, Instant};

use mirror_tests::{
    agent::Agent,
    etc::Hosts,
    lock,
    pool::{Arrivals, PoolLab, address, finish, frame, keep_going, send_round, spread},
    report::Report,
    scratch::Scratch,
    sensor::Sensor,
    tap::Tap,
    tshark,
};

const FLOWS: u32 = 10_000;
const SENSORS: usize = 4;
/// Which one goes, from 1 on.
const LOST: usize = 2;

/// A sensor that goes, and comes back.
trait Loss {
    /// It goes.
    fn go(&mut self);
    /// It is there again.
    fn come_back(&mut self);
}

/// Nobody listens any more, and the host says so.
struct PortClosed<'a> {
    lab: &'a PoolLab,
    arrivals: &'a Arrivals,
    listens: Option<Sensor<u64>>,
}

impl Loss for PortClosed<'_> {
    fn go(&mut self) {
        self.listens.take().expect("it is there").fall_over();
    }

    fn come_back(&mut self) {
        self.listens = Some(self.arrivals.listen(self.lab, LOST));
    }
}

/// The sensor does not take, nor say, anything any more: what is sent to its MAC address is not for anybody, and
/// questions for it are not answered.
struct Silent<'a>(&'a PoolLab);

/// The sensor's MAC address.
const MAC: &str = "02:00:00:00:30:02";

impl Loss for Silent<'_> {
    fn go(&mut self) {
        let sensor = &self.0.sensors[LOST - 1];
        sensor.ip("link set eth0 arp off");
        sensor.mac("eth0", "02:00:00:00:30:99");
    }

    fn come_back(&mut self) {
        let sensor = &self.0.sensors[LOST - 1];
        sensor.mac("eth0", MAC);
        sensor.ip("link set eth0 arp on");
    }
}

/// The cable is out at the sensor's end.
struct NoLink<'a>(&'a PoolLab);

impl Loss for NoLink<'_> {
    fn go(&mut self) {
        self.0.sensors[LOST - 1].ip("link set eth0 down");
    }

    fn come_back(&mut self) {
        self.0.sensors[LOST - 1].ip("link set eth0 up");
    }
}

/// A run before, during and after the loss of a sensor: whose flows move, and that every frame is in the books. `noticed`
/// is how long it may take. What the sensor's interface counts, whether or not anybody listens, is what was sent to it.
fn only_its_flows_move(
    arguments: &str,
    lab: &PoolLab,
    arrivals: &Arrivals,
    loss: &mut dyn Loss,
    noticed: Duration,
) -> Report {
    let others: Vec<_> =
        (1..=SENSORS).filter(|number| *number != LOST).map(|number| arrivals.listen(lab, number)).collect();
    let taps = lab.taps();
    let line = format!("--iface eth0 {} {arguments} --report json -vv", lab.dests());
    let agent = Agent::start(&lab.router, &line);
    send_round(lab, FLOWS, 0);
    let before = arrivals.owners(FLOWS, 0);
    let counts = spread(&before, SENSORS);
    println!("{arguments:?}: {FLOWS} flows over {SENSORS} sensors: {counts:?}");
    let ideal = FLOWS as usize / SENSORS;
    for count in &counts {
        assert!(count.abs_diff(ideal) * 10 <= ideal, "{counts:?}: more than 10 % off");
    }

    // Traffic all the while: without any, nobody notices.
    let filler = keep_going(lab, FLOWS, 10_000);
    let start = Instant::now();
    loss.go();
    agent.wait_for_text(0, &format!("{}:4789 is down", address(LOST)), noticed);
    let noticed = start.elapsed();
    let round = send_between_trials(lab, arrivals, &agent);
    let during = arrivals.owners(FLOWS, round);
    let moved: Vec<_> = before.iter().zip(&during).filter(|(before, during)| before != during).collect();
    assert!(moved.iter().all(|(before, _)| **before == LOST), "others' flows moved");
    assert_eq!(moved.len(), counts[LOST - 1], "all of its flows are elsewhere");
    println!("  noticed after {noticed:?}; moved {} flows, now {:?}", moved.len(), spread(&during, SENSORS));

    let start = Instant::now();
    loss.come_back();
    agent.wait_for_text(0, &format!("{}:4789 is back", address(LOST)), Duration::from_secs(12));
    let back = start.elapsed();
    let _ = filler.stop();
    std::thread::sleep(Duration::from_millis(200));
    send_round(lab, FLOWS, LAST);
    assert_eq!(arrivals.owners(FLOWS, LAST), before, "the flows are where they were");
    let report = agent.stop_and_report();
    println!("  back after {back:?}; {:?}, {:?}", report.frames, report.send_errors);
    for destination in &report.destinations {
        println!("  {destination:?}");
    }

    let totals = finish(others);
    let arrived: Vec<_> = taps.iter().map(Tap::count).collect();
    let sent: Vec<_> = report.destinations.iter().map(|destination| destination.datagrams).collect();
    assert_eq!(sent.iter().sum::<u64>(), report.datagrams_sent);
    for number in (1..=SENSORS).filter(|number| *number != LOST) {
        assert_eq!(sent[number - 1], arrived[number - 1], "at sensor {number}");
        assert_eq!(report.destinations[number - 1].times_down, 0);
    }
    let at_others: u64 = totals.iter().map(|totals| totals.datagrams).sum();
    assert_eq!(at_others, report.datagrams_sent - sent[LOST - 1], "what was sent is there");
    assert_eq!(report.frames.seen, report.frames.sent + report.frames.send_failed, "{:?}", report.frames);
    let lost = &report.destinations[LOST - 1];
    assert!(lost.times_down == 1 && !lost.is_down && lost.down_s > 1.0, "{lost:?}");
    report
}

/// The round after the sensor is back.
const LAST: u32 = 99;

/// Sends rounds until all frames of one have arrived: where the lost sensor is tried meanwhile, that costs frames of its
/// flows. Gives that round's number.
fn send_between_trials(lab: &PoolLab, arrivals: &Arrivals, agent: &Agent) -> u32 {
    let trials = || agent.stderr().matches(&format!("trying {}", address(LOST))).count();
    let over = || agent.stderr().matches(&format!("{}:4789 is still down", address(LOST))).count();
    for round in 1..6 {
        let deadline = Instant::now() + Duration::from_secs(3);
        while trials() > over() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let before = trials();
        send_round(lab, FLOWS, round);
        if arrivals.wait_for(FLOWS, round, 2) {
            return round;
        }
        assert_ne!(trials(), before, "frames are missing, and the sensor was not tried");
    }
    panic!("frames are missing again and again");
}

fn refusing(arguments: &str) {
    let _turn = lock::shared();
    let (lab, arrivals) = (PoolLab::new(SENSORS as u32), Arrivals::default());
    let tap = Tap::incoming_vxlan(&lab.sensors[LOST - 1], "eth0");
    let listens = Some(arrivals.listen(&lab, LOST));
    let mut loss = PortClosed { lab: &lab, arrivals: &arrivals, listens };
    let report = only_its_flows_move(arguments, &lab, &arrivals, &mut loss, Duration::from_secs(3));
    assert_eq!(report.destinations[LOST - 1].datagrams, tap.count(), "what was sent came to its interface");
    assert_eq!(report.frames.send_failed, 0, "{:?}", report.frames);
    assert!(report.send_errors.contains_key("ECONNREFUSED"), "{:?}", report.send_errors);
}

#[test]
fn flows_of_a_sensor_that_refuses_move() {
    refusing("");
}

#[test]
fn flows_of_a_sensor_that_refuses_move_by_sockets() {
    refusing("--transmit udp");
}

#[test]
fn flows_of_a_sensor_that_refuses_move_in_redirect_mode() {
    refusing("--mode redirect");
}

fn silent(arguments: &str) {
    let _turn = lock::shared();
    let (lab, arrivals) = (PoolLab::new(SENSORS as u32), Arrivals::default());
    let sensor = &lab.sensors[LOST - 1];
    sensor.mac("eth0", MAC);
    let taps = [Tap::incoming_vxlan(sensor, "eth0"), Tap::misdirected_vxlan(sensor, "eth0")];
    let _listens = arrivals.listen(&lab, LOST);
    let report = only_its_flows_move(arguments, &lab, &arrivals, &mut Silent(&lab), Duration::from_secs(8));
    let [taken, not_taken] = taps.map(|tap| tap.count());
    println!("  sent to the lost sensor: {taken} that it took, {not_taken} that it did not");
    assert_eq!(
        report.destinations[LOST - 1].datagrams,
        taken + not_taken,
        "what was sent came to its interface"
    );
}

#[test]
fn flows_of_a_silent_sensor_move() {
    silent("");
}

#[test]
fn flows_of_a_silent_sensor_move_in_redirect_mode() {
    silent("--mode redirect");
}

fn without_link(arguments: &str) {
    let _turn = lock::shared();
    let (lab, arrivals) = (PoolLab::new(SENSORS as u32), Arrivals::default());
    let _listens = arrivals.listen(&lab, LOST);
    let _ = only_its_flows_move(arguments, &lab, &arrivals, &mut NoLink(&lab), Duration::from_secs(5));
}

#[test]
fn flows_of_a_sensor_without_a_link_move() {
    without_link("");
}

#[test]
fn flows_of_a_sensor_without_a_link_move_in_redirect_mode() {
    without_link("--mode redirect");
}

/// Each sensor gets every frame; and where one is gone, the others do.
fn fanout(arguments: &str) {
    const FLOWS: u32 = 2_000;
    let _turn = lock::shared();
    let (lab, arrivals) = (PoolLab::new(3), Arrivals::default());
    let taps = lab.taps();
    let mut sensors: Vec<_> = (1..=3).map(|number| arrivals.listen(&lab, number)).collect();
    let line = format!("--iface eth0 {} --fanout {arguments} --report json", lab.dests());
    let agent = Agent::start(&lab.router, &line);
    send_round(&lab, FLOWS, 0);
    assert_eq!(arrivals.everywhere(FLOWS, 0, 6), [1, 2, 3]);
    sensors.remove(LOST - 1).fall_over();
    let filler = keep_going(&lab, FLOWS, 5_000);
    agent.wait_for_text(0, &format!("{}:4789 is down", address(LOST)), Duration::from_secs(3));
    send_round(&lab, FLOWS, 1);
    assert_eq!(arrivals.everywhere(FLOWS, 1, 4), [1, 3]);
    sensors.push(arrivals.listen(&lab, LOST));
    agent.wait_for_text(0, &format!("{}:4789 is back", address(LOST)), Duration::from_secs(12));
    let _ = filler.stop();
    send_round(&lab, FLOWS, 2);
    assert_eq!(arrivals.everywhere(FLOWS, 2, 6), [1, 2, 3]);
    let report = agent.stop_and_report();
    let _ = finish(sensors);
    println!("{arguments:?}: {:?}; {:?}", report.frames, report.destinations);
    assert_eq!(
        (report.frames.seen, report.segments),
        (report.frames.sent, report.frames.sent),
        "{:?}",
        report.frames
    );
    for (destination, tap) in report.destinations.iter().zip(taps) {
        assert_eq!(destination.datagrams, tap.count(), "{}", destination.address);
    }
    assert_eq!(report.destinations[0].datagrams, report.frames.sent);
    let all: u64 = report.destinations.iter().map(|destination| destination.datagrams).sum();
    assert_eq!(all, report.datagrams_sent);
}

#[test]
fn fanout_reaches_all() {
    fanout("");
}

#[test]
fn fanout_reaches_all_in_redirect_mode() {
    fanout("--mode redirect");
}

/// A frame that one of the sensors could not be sent is not counted as sent.
#[test]
fn fanout_counts_a_frame_once() {
    let _turn = lock::shared();
    let (lab, arrivals) = (PoolLab::new(2), Arrivals::default());
    lab.router.mtu("up2", 120);
    let sensors: Vec<_> = (1..=2).map(|number| arrivals.listen(&lab, number)).collect();
    let short = frame(1, 0, false);
    let mut long = frame(2, 0, false);
    long.splice(42..42, [0x55; 40]);
    (long[17], long[39]) = (long[17] + 40, long[39] + 40);
    for arguments in ["", "--transmit udp", "--mode redirect"] {
        for (oversize, expected) in [("drop", [1, 1, 0]), ("truncate", [2, 0, 1]), ("fragment", [2, 0, 0])] {
            let line = format!(
                "--iface eth0 {} --fanout {arguments} --oversize {oversize} --report json",
                lab.dests()
            );
            let agent = Agent::start(&lab.router, &line);
            mirror_tests::generator::Generator::new("eth0")
                .send_frames(&lab.client, vec![short.clone(), long.clone()]);
            std::thread::sleep(Duration::from_millis(50));
            let report = agent.stop_and_report();
            let counts = [report.frames.sent, report.frames.too_big, report.truncated];
            assert_eq!(counts, expected, "{line}: {:?}", report.frames);
            let each: Vec<_> = report.destinations.iter().map(|destination| destination.datagrams).collect();
            assert_eq!(each, [2, if oversize == "drop" { 1 } else { 2 }], "{line}");
        }
    }
    let _ = finish(sensors);
}

#[test]
fn weights_and_the_same_share_in_all_modes() {
    let _turn = lock::shared();
    let (lab, arrivals) = (PoolLab::new(2), Arrivals::default());
    let sensors: Vec<_> = (1..=2).map(|number| arrivals.listen(&lab, number)).collect();
    let mut owners = Vec::new();
    // Agents agree, whatever the order and the mode.
    let runs =
        [("-d 10.30.1.2 -d 10.30.2.2=3", ""), ("-d 10.30.2.2:4789=3 -d 10.30.1.2:4789", "--mode redirect")];
    for (round, (dests, arguments)) in (0..).zip(runs) {
        let line = format!("--iface eth0 {dests} {arguments} --report json");
        let agent = Agent::start(&lab.router, &line);
        send_round(&lab, FLOWS, round);
        owners.push(arrivals.owners(FLOWS, round));
        let report = agent.stop_and_report();
        assert_eq!(report.frames.sent, u64::from(2 * FLOWS));
    }
    let _ = finish(sensors);
    let counts = spread(&owners[0], 2);
    println!("1:3 over {FLOWS} flows: {counts:?}");
    assert!((2_250..=2_750).contains(&counts[0]), "{counts:?}");
    assert!(owners[0] == owners[1], "another mode, another order, another choice");
}

/// Datagrams that `-w --write-outer` writes are for the sensors that get them otherwise.
#[test]
fn written_datagrams_are_shared_out_alike() {
    let _turn = lock::shared();
    let (lab, arrivals, scratch) = (PoolLab::new(3), Arrivals::default(), Scratch::new());
    let sensors: Vec<_> = (1..=3).map(|number| arrivals.listen(&lab, number)).collect();
    let agent = Agent::start(&lab.router, &format!("--iface eth0 {} --report json", lab.dests()));
    send_round(&lab, 500, 0);
    let owners = arrivals.owners(500, 0);
    let _ = agent.stop_and_report();
    let _ = finish(sensors);
    for (fanout, times) in [("", 1), ("--fanout", 3)] {
        let path = scratch.path("written.pcapng");
        let line = format!(
            "--iface eth0 {} {fanout} -w {} --write-outer --report json",
            lab.dests(),
            path.display()
        );
        let agent = Agent::start(&lab.router, &line);
        send_round(&lab, 500, 1);
        std::thread::sleep(Duration::from_millis(100));
        let report = agent.stop_and_report();
        assert_eq!((report.frames.sent, report.datagrams_sent), (1000, 1000 * times), "{:?}", report.frames);
        let fields = ["ip.dst", "udp.dstport", "vxlan.vni", "udp.payload"];
        let rows = tshark::fields(&path, "vxlan", &fields, &[]);
        assert_eq!(rows.len() as u64, 1000 * times);
        let mut each = [0; 3];
        for row in rows {
            // The outer address comes first.
            let number: usize = row[0].split(',').next().unwrap().split('.').nth(2).unwrap().parse().unwrap();
            each[number - 1] += 1;
            assert!(row[2] == "4242" && row[1].starts_with("4789"), "{row:?}");
            let data = row[3].rsplit(',').next().unwrap();
            let flow = u32::from_str_radix(&data[18..26], 16).unwrap();
            assert!(times == 3 || owners[flow as usize] == number, "flow {flow}: {row:?}");
        }
        let told: Vec<u64> = report.destinations.iter().map(|destination| destination.datagrams).collect();
        assert_eq!(told, each);
    }
}

/// A name gets another address: frames go there, none is lost, and none is sent twice.
fn another_address(arguments: &str) {
    let _turn = lock::shared();
    let (lab, arrivals) = (PoolLab::new(3), Arrivals::default());
    let sensors: Vec<_> = (1..=3).map(|number| arrivals.listen(&lab, number)).collect();
    let hosts = Hosts::new(&lab.router, "10.30.1.2 one\n10.30.2.2 two\n");
    for (round, dests) in [(0, "-d one"), (2, "-d one -d two")] {
        let start = Instant::now();
        hosts.write("10.30.1.2 one\n10.30.2.2 two\n");
        let line = format!("--iface eth0 {dests} {arguments} --resolve-interval 300ms --report json -v");
        let agent = Agent::start(&lab.router, &line);
        send_round(&lab, 500, round);
        let before = arrivals.owners(500, round);
        let filler = keep_going(&lab, 500, 5_000);
        hosts.write("10.30.3.2 one\n10.30.2.2 two\n");
        agent.wait_for_text(0, "one:4789 stands for 10.30.3.2:4789 now", Duration::from_secs(3));
        if arguments.contains("redirect") {
            // It takes a look how datagrams leave to there.
            agent.wait_for_text(
                0,
                "sending to 10.30.3.2:4789 from within the kernel",
                Duration::from_secs(5),
            );
        }
        let _ = filler.stop();
        send_round(&lab, 500, round + 1);
        let after = arrivals.owners(500, round + 1);
        let report = agent.stop_and_report();
        println!("{arguments:?} {dests}: {:?} in {:?}", report.destinations, start.elapsed());
        assert_eq!(report.frames.sent, report.frames.seen, "{:?}", report.frames);
        assert_eq!(report.destinations[0].name.as_deref(), Some("one:4789"));
        assert_eq!(report.destinations[0].address, "10.30.3.2:4789");
        let expected: Vec<usize> = before.iter().map(|owner| if *owner == 1 { 3 } else { *owner }).collect();
        assert!(before.contains(&1) && after == expected, "the name's flows go along, and no others");
    }
    let _ = finish(sensors);
}

#[test]
fn a_name_that_gets_another_address_is_followed() {
    another_address("");
}

#[test]
fn a_name_that_gets_another_address_is_followed_in_redirect_mode() {
    another_address("--mode redirect");
}

/// IPv4 and IPv6, and two ports of one host; the interfaces that lead there are mirrored too, and nothing of the
/// agent's own is mirrored again.
fn mixed(arguments: &str) {
    let _turn = lock::shared();
    let (lab, arrivals) = (PoolLab::with_ipv6(2), Arrivals::default());
    let sensors = [
        arrivals.listen(&lab, 1),
        arrivals.listen(&lab, 2),
        arrivals.listen_on(&lab, 1, 6000),
        arrivals.listen_on(&lab, 2, 6001),
    ];
    let dests = "-d 10.30.1.2 -d fd30:2::2 -d 10.30.1.2:6000 -d [fd30:2::2]:6001";
    let line = format!("--iface eth0 --iface up1 --iface up2 {dests} {arguments} --report json");
    let agent = Agent::start(&lab.router, &line);
    send_round(&lab, 2_000, 0);
    let owners = arrivals.owners(2_000, 0);
    let report = agent.stop_and_report();
    let _ = finish(sensors.into());
    println!("{arguments:?}: {:?}; {:?}", report.frames, report.destinations);
    // As many at the two ports of each.
    assert!(spread(&owners, 2).iter().all(|count| count.abs_diff(1_000) < 150));
    for destination in &report.destinations {
        assert!(destination.datagrams.abs_diff(1_000) < 250, "{destination:?}");
    }
    // Beside them neighbours are looked for.
    assert!(report.frames.sent.abs_diff(4_000) < 100, "{:?}", report.frames);
    // In redirect mode a question for a neighbour is sent before the last of the hooks is there.
    let unseen = if arguments.is_empty() { 0 } else { 20 };
    let missing = report.datagrams_sent - report.frames.own;
    assert!(missing <= unseen, "each passes a hook: {:?}", report.frames);
}

#[test]
fn addresses_of_both_kinds_and_several_ports() {
    mixed("");
}

#[test]
fn addresses_of_both_kinds_and_several_ports_in_redirect_mode() {
    mixed("--mode redirect");
}
