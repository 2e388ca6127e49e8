//! How fast each way to a sensor is, over a link between two network namespaces. Needs root.
#![allow(clippy::unwrap_used, reason = "tests")]

mod net;

use std::{
    thread,
    time::{Duration, Instant},
};

use mirror_agent::{cli::Transmit, ledger::OutputCounters, output::sensor::Way};
use net::{Net, SENSOR_V4, SENSOR_V6, Sample, open, run, send, until};

/// Frames per second of each way; the receiver drops. `cargo test --release -p mirror-agent --test
/// transmit_speed -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn speed() {
    let Some(net) = Net::new() else { return };
    for host in [&net.near, &net.far] {
        run(&format!("ip netns exec {host} ethtool -K eth0 tx-udp-segmentation off"));
    }
    for address in [SENSOR_V4, SENSOR_V6] {
        // Open, so that nobody answers, and full at once, so that little work is done for it.
        let sensor = net.sensor(address);
        // The kernel makes the least it allows of this.
        socket2::SockRef::from(&sensor.0).set_recv_buffer_size(0).unwrap();
        for length in [64, 512, 1400] {
            for (name, transmit, busy) in [
                ("raw socket", Transmit::Udp, false),
                ("packet socket", Transmit::Auto, true),
                ("AF_XDP", Transmit::Auto, false),
            ] {
                let rate = net.send(move || {
                    // SAFETY: a processor set is a bit mask, for which zero is a value.
                    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
                    // SAFETY: `set` is a whole processor set, readable for its size.
                    unsafe {
                        libc::CPU_SET(1, &mut set);
                        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
                    }
                    let counters = OutputCounters::default();
                    // Has the only queue.
                    let mut first = open(address, Transmit::Auto, 0, 1);
                    if busy {
                        until(&mut first, Way::Xdp, 0, &counters);
                    }
                    let mut output = open(address, transmit, 0, 1);
                    if transmit == Transmit::Auto {
                        until(&mut output, if busy { Way::PacketSocket } else { Way::Xdp }, 0, &counters);
                    }
                    // As a ring of 16 MiB has them: not in the first cache.
                    let all: Vec<Sample> =
                        (0..(16 << 20) / (length + 40)).map(|n| Sample::new(n as u32, length)).collect();
                    let before = counters.sent.get();
                    let started = Instant::now();
                    while started.elapsed() < Duration::from_secs(2) {
                        send(&mut output, &all, &counters);
                    }
                    (counters.sent.get() - before) as f64 / started.elapsed().as_secs_f64() / 1e6
                });
                // The kernel frees a queue some time after its socket is closed.
                thread::sleep(Duration::from_millis(300));
                println!("{address} {length:4} bytes, {name:13}: {rate:.3} M/s");
            }
        }
    }
}
