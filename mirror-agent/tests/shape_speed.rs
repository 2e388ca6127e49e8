//! How fast super-frames are cut.

mod super_frames;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use mirror_agent::shape::{Cut, HEAD_MAX};
use mirror_common::record::{RecordHeader, Segmentation};
use super_frames::{ACK, payload, tcp};

/// `cargo test --release -p mirror-agent --test shape_speed -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn speed() {
    let timestamps = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
    let payload = payload(45 * 1448);
    let tcp = tcp(1, ACK, &timestamps, &payload);
    for (name, stack) in [
        ("TCP over IPv4", tcp.v4(6, 1, 0x4000, &[]).ethernet(0x0800)),
        ("TCP over IPv6", tcp.v6(6, &[]).ethernet(0x86dd)),
    ] {
        let header = stack.header(Segmentation::Tcp, 1448);
        // One stays in the cache, as where the hook has just written it; 16 MiB are a ring.
        for copies in [1, 256] {
            let frames = vec![stack.bytes.clone(); copies];
            measure(&format!("{name}, {copies:3} super-frames"), stack.bytes.len(), |turn| {
                walk(&header, &frames[turn % copies])
            });
        }
    }
    let ack = super_frames::tcp(1, ACK, &timestamps, &[]).v4(6, 1, 0x4000, &[]).ethernet(0x0800);
    let header = ack.header(Segmentation::None, 0);
    measure("a checksum of 66 bytes", ack.bytes.len(), |_| walk(&header, &ack.bytes));
    let header = RecordHeader { checksum: 0, ..header };
    measure("nothing to do", ack.bytes.len(), |_| walk(&header, &ack.bytes));
}

fn walk(header: &RecordHeader, bytes: &[u8]) -> usize {
    let mut head = [0; HEAD_MAX];
    let Some(mut cut) = Cut::of(black_box(header), black_box(bytes)) else { return 0 };
    let mut count = 0;
    while let Some(piece) = cut.next(&mut head) {
        black_box((&head, piece));
        count += 1;
    }
    count
}

fn measure(name: &str, length: usize, mut work: impl FnMut(usize) -> usize) {
    let mut rounds: Vec<f64> = (0..5)
        .map(|_| {
            let started = Instant::now();
            let mut turns = 0;
            while started.elapsed() < Duration::from_millis(300) {
                for _ in 0..64 {
                    black_box(work(turns));
                    turns += 1;
                }
            }
            started.elapsed().as_secs_f64() / turns as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    let each = rounds[2];
    println!("{name}: {:.1} ns each, {:.2} GB/s", each * 1e9, length as f64 / each / 1e9);
}
