//! What a filter costs, and what it saves: measured, not tested. `cargo test --release -p mirror-tests --test
//! filter_cost -- --ignored --nocapture`, on a machine with nothing else to do.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use mirror_tests::{
    agent::Agent,
    bench::{place::Place, traffic::Traffic},
    lab::RUN,
    lock,
    scratch::Scratch,
};

const ROUNDS: usize = 5;
const WARM_UP: Duration = Duration::from_millis(150);
const PHASE: Duration = Duration::from_millis(400);

/// Frames a second of 64 bytes, UDP, that an interface receives flat out, and nanoseconds for each on the receiving
/// processor.
#[test]
#[ignore = "a measurement"]
fn frames_a_second_with_filters() {
    let _turn = lock::alone();
    let scratch = Scratch::new();
    let terms = |relation: &str| {
        let all: Vec<_> = (1..=50).map(|host| format!("host 10.99.0.{host}")).collect();
        format!("{relation} ({})", all.join(" or "))
    };
    let none = terms("ip and");
    let all = terms("ip and not");
    let cases = [
        ("no agent", None),
        ("no filter", Some("")),
        ("tcp port 443, refuses all", Some("tcp port 443")),
        ("50 terms, refuses all", Some(none.as_str())),
        ("50 terms, takes all", Some(all.as_str())),
        ("udp, takes all", Some("udp")),
    ];
    for way in ["--cpu 1 --hook tc", "--cpu 1 --hook xdp --xdp-attach generic", "--mode redirect"] {
        let mut rates = vec![Vec::new(); cases.len()];
        for _ in 0..ROUNDS {
            for ((_, filter), rates) in cases.iter().zip(&mut rates) {
                let place = Place::new();
                let file = scratch.path("filter");
                let agent = filter.map(|filter| {
                    fs::write(&file, filter).unwrap();
                    let more =
                        if filter.is_empty() { String::new() } else { format!("-F {}", file.display()) };
                    Agent::start(&place.lab.router, &format!("{RUN} {way} {more}"))
                });
                let generator = place.inject(&Traffic::Small.frames(), None);
                thread::sleep(WARM_UP);
                let (start, before) = (Instant::now(), generator.sent());
                thread::sleep(PHASE);
                let rate = (generator.sent() - before) as f64 / start.elapsed().as_secs_f64();
                generator.stop();
                drop(agent.map(Agent::stop_and_report));
                rates.push(rate);
            }
        }
        println!("{way}:");
        for ((name, _), rates) in cases.iter().zip(&mut rates) {
            rates.sort_by(f64::total_cmp);
            let median = rates[ROUNDS / 2];
            println!("  {name:<28} {:.2} M frames/s, {:.0} ns a frame", median / 1e6, 1e9 / median);
        }
    }
}
