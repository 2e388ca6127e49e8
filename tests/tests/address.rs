//! The host gets another address while it mirrors, as with a new DHCP lease.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::time::Duration;

use mirror_tests::{
    agent::Agent,
    frames,
    generator::Generator,
    lab::{Lab, ROUTER_UPLINK, RUN, UPLINK},
    lock,
    sensor::Sensor,
};

const OTHER: &str = "10.20.0.9";

#[test]
fn another_source_address_is_taken_up_and_still_known_as_own() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let sensor = Sensor::start(&lab.sensor, Vec::new(), |received, datagram| {
        received.push((datagram.source.ip().to_string(), datagram.frame.to_vec()));
    });
    // The uplink too, so that what the agent sends passes a hook.
    let agent = Agent::start(&lab.router, &format!("{RUN} --iface {UPLINK}"));
    Generator::new("eth0").rate(10_000).send(&lab.client, 0..1_000);
    sensor.wait_for(1_000, Duration::from_secs(5));

    // The agent looks for another address at most once a second.
    std::thread::sleep(Duration::from_millis(1_100));
    lab.router.ip(&format!("addr del {ROUTER_UPLINK}/24 dev {UPLINK}"));
    lab.router.ip(&format!("addr add {OTHER}/24 dev {UPLINK}"));
    Generator::new("eth0").rate(10_000).send(&lab.client, 1_000..2_000);
    sensor.wait_for(2_000, Duration::from_secs(5));

    let report = agent.stop_and_report();
    let mut received = sensor.finish().0;
    println!("{:?}", report.frames);
    // The router resolves the sensor's address, which crosses the uplink as well.
    received.retain(|(_, frame)| frame[12..14] != [8, 6] || frame.len() > 42);
    assert_eq!(received.len(), 2_000);
    for index in 0..2_000 {
        let source = if index < 1_000 { ROUTER_UPLINK } else { OTHER };
        let sent = (source.to_string(), frames::frame(index));
        let times = received.iter().filter(|one| **one == sent).count();
        assert_eq!(times, 1, "frame {index} from {source}");
    }
    assert_eq!(report.frames.send_failed, 0);
    assert_eq!(report.frames.own, report.datagrams_sent, "each passes the uplink's hook once");
}
