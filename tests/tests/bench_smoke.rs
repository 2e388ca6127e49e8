//! The benchmark runs, and its results have the shape that is promised. Whether they are good is not asked.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use mirror_tests::{command, scratch::Scratch};
use serde_json::Value;

/// Takes no turn of its own: the benchmark does.
#[test]
fn results_have_their_shape() {
    let scratch = Scratch::new();
    let (json, svg) = (scratch.path("bench.json"), scratch.path("bench.svg"));
    let mut bench = Command::new(env!("CARGO_BIN_EXE_mirror-bench"));
    bench.args(["--quick", "--phase", "0.2", "--only", "agent-packet", "mirred", "64", "latency"]);
    let table = command::run(bench.arg("--json").arg(&json).arg("--chart").arg(&svg));
    assert!(table.contains("agent-packet") && table.contains("mirred"), "{table}");
    assert!(fs::read_to_string(svg).unwrap().contains(">agent-packet<"));

    let results: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    assert_eq!(results["schema"], 1);
    assert_eq!(results["settings"]["rounds"], 1);
    assert!(results["machine"]["processors"].as_u64().unwrap() >= 2);
    assert_eq!(results["tcp"], Value::Array(Vec::new()));
    let frames = results["frames"].as_array().unwrap();
    let names: Vec<_> = frames.iter().map(|frames| frames["system"].as_str().unwrap()).collect();
    assert_eq!(names, ["nothing", "agent-packet", "mirred"]);
    for result in frames {
        assert_eq!(result["traffic"], "64");
        assert!(result["offered"].as_f64().unwrap() > 10_000.0, "{result:#}");
        assert_eq!(result["rounds"].as_array().unwrap().len(), 1);
    }
    assert!(frames[0]["delivered"].is_null(), "{:#}", frames[0]);
    let alone = frames[0]["offered"].as_f64().unwrap();
    let of_mirred = |name: &str| frames[2][name].as_f64().unwrap();
    for result in &frames[1..] {
        let figure = |name: &str| result[name].as_f64().unwrap_or_else(|| panic!("no {name}: {result:#}"));
        assert!(figure("delivered") > 10_000.0, "{result:#}");
        // Every lost frame has a name, if only that nobody knows.
        let named: f64 = result["lost_by"].as_object().unwrap().values().filter_map(Value::as_f64).sum();
        assert!((0.0..1.0).contains(&figure("lost")), "{result:#}");
        assert_near(named, figure("lost"));
        // What the mirror costs a frame is what it takes longer than alone.
        assert_near(figure("cost_us"), 1e6 / figure("offered") - 1e6 / alone);
        assert_near(
            result["to_mirred"]["delivered"].as_f64().unwrap(),
            figure("delivered") / of_mirred("delivered"),
        );
        // 64 bytes each, and nothing of the mirror's own headers.
        let bytes = figure("bits") / 8.0 / figure("delivered");
        assert!((63.9..64.1).contains(&bytes), "{bytes} bytes a frame");
    }

    let latency = results["latency"].as_array().unwrap();
    let rows: Vec<_> = latency.iter().map(|row| (&row["ends"], &row["system"])).collect();
    assert_eq!(rows.len(), 2 * names.len(), "{rows:?}");
    for of_ends in latency.chunks(names.len()) {
        let alone = of_ends[0]["p50_us"].as_f64().unwrap();
        for (result, name) in of_ends.iter().zip(&names) {
            assert_eq!((&result["ends"], &result["system"]), (&of_ends[0]["ends"], &Value::from(*name)));
            let figure =
                |name: &str| result[name].as_f64().unwrap_or_else(|| panic!("no {name}: {result:#}"));
            assert!(figure("p50_us") > 0.5 && figure("p99_us") >= figure("p50_us"), "{result:#}");
            if *name != "nothing" {
                assert_near(figure("added_p50_us"), figure("p50_us") - alone);
                // What was measured was mirrored.
                assert!((0.99..1.01).contains(&figure("arrived")), "{result:#}");
            }
        }
    }
}

fn assert_near(left: f64, right: f64) {
    assert!((left - right).abs() < 1e-9 * (1.0 + right.abs()), "{left} is not {right}");
}

#[test]
fn wrong_name_is_refused_with_the_right_ones() {
    let started = Instant::now();
    let mut bench = Command::new(env!("CARGO_BIN_EXE_mirror-bench"));
    let output = command::finish(bench.args(["--only", "tcpdump"]));
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("agent-packet") && message.contains("1400"), "{message}");
    assert!(started.elapsed() < Duration::from_secs(5));
}
