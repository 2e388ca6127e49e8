//! An agent with nothing to do costs nothing, and is there at once when something comes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    thread,
    time::{Duration, SystemTime},
};

use mirror_tests::{
    agent::Agent,
    frames,
    lab::{Lab, RUN},
    lock,
    packet_socket::PacketSocket,
    sensor::Sensor,
};

#[test]
fn idle_agent_uses_no_processor_time() {
    let _turn = lock::alone();
    let lab = Lab::new();
    let _sensor = Sensor::keeping(&lab.sensor);
    let agent = Agent::start(&lab.router, &format!("{RUN} --cpu 0,1"));
    // What starting costs is over.
    thread::sleep(Duration::from_millis(500));
    let (ticks, nanoseconds) = (agent.cpu_ticks(), agent.cpu_nanoseconds());
    thread::sleep(Duration::from_secs(10));
    let ticks = agent.cpu_ticks() - ticks;
    let used = Duration::from_nanos(agent.cpu_nanoseconds() - nanoseconds);
    println!("10 s idle: {ticks} ticks of 10 ms, {used:?} by the scheduler");
    assert!(ticks <= 1, "{ticks} ticks in 10 s");
    assert!(used < Duration::from_millis(10), "{used:?} in 10 s: more than 0.1 %");
    assert_eq!(agent.stop_and_report().frames.seen, 0);
}

#[test]
fn single_frame_reaches_the_sensor_within_5_ms() {
    const FRAMES: u64 = 20;
    let _turn = lock::alone();
    let lab = Lab::new();
    let sensor = Sensor::start(&lab.sensor, Vec::new(), |arrivals: &mut Vec<_>, datagram| {
        arrivals.push((frames::index_of(datagram.frame).unwrap(), datagram.time));
    });
    let agent = Agent::start(&lab.router, RUN);
    let departures = lab.client.within(|| {
        let socket = PacketSocket::sender("eth0").bypassing_hooks();
        (0..FRAMES)
            .map(|index| {
                // Long enough for any reader to have gone to sleep, and at no fixed rhythm.
                thread::sleep(Duration::from_millis(100 + 7 * index));
                let frame = frames::frame(index);
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
                assert_eq!(socket.send(&[frame]).unwrap(), 1);
                now.as_nanos() as u64
            })
            .collect::<Vec<_>>()
    });
    sensor.wait_for(FRAMES, Duration::from_secs(2));
    let _ = agent.stop_and_report();
    let (arrivals, _) = sensor.finish();
    assert_eq!(arrivals.len() as u64, FRAMES);
    let mut delays: Vec<Duration> = (0..)
        .zip(arrivals)
        .map(|(expected, (index, time))| {
            assert_eq!(index, expected);
            Duration::from_nanos(time - departures[index as usize])
        })
        .collect();
    println!("first after the start: {:?}", delays[0]);
    delays.sort();
    let (median, longest) = (delays[delays.len() / 2], delays[delays.len() - 1]);
    println!("from the client's send call to the sensor's kernel: median {median:?}, longest {longest:?}");
    assert!(longest < Duration::from_millis(5), "{delays:?}");
}
