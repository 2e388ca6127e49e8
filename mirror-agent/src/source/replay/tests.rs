#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    path::PathBuf,
    sync::mpsc::{Sender, channel, sync_channel},
    time::Instant,
};

use mirror_common::record::RecordHeader;
use nix::sys::eventfd::EfdFlags;

use super::{pace::Pacing, playback::Trouble, *};

/// A source that plays what the test puts in.
struct Bench {
    chunks: Option<Sender<Chunk>>,
    used: Receiver<Chunk>,
    filled: Arc<EventFd>,
    source: ReplaySource,
    playback: Arc<Playback>,
    stop: Stop,
}

impl Bench {
    fn new(pacing: Pacing, limit: Option<u64>) -> Self {
        let (chunks, filled_chunks) = channel();
        let (used_chunks, used) = sync_channel(8);
        let filled = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap());
        let link = read_ahead::Link { chunks: filled_chunks, used: used_chunks, filled: Arc::clone(&filled) };
        let playback = Arc::new(Playback::new(&[PathBuf::from("a.pcap"), PathBuf::from("b.pcap")]));
        let source = ReplaySource::new(link, Pace::new(pacing), limit, Arc::clone(&playback));
        Self { chunks: Some(chunks), used, filled, source, playback, stop: Stop::new().unwrap() }
    }

    fn put(&self, chunk: Chunk) {
        self.chunks.as_ref().unwrap().send(chunk).unwrap();
        self.filled.write(1).unwrap();
    }

    fn end(&mut self) {
        self.put(Chunk { is_last: true, read_to: 77, ..Chunk::default() });
    }

    /// As a reading thread that panics.
    fn break_off(&mut self) {
        self.chunks = None;
        self.filled.write(1).unwrap();
    }

    /// The first byte of every frame, as batches, and when each came.
    fn play(&mut self) -> Vec<(Vec<u8>, Instant)> {
        let mut batches = Vec::new();
        while !self.source.is_over(&self.stop) {
            let Some(batch) = self.source.batch() else {
                if !self.source.is_over(&self.stop) {
                    self.source.wait(&self.stop);
                }
                continue;
            };
            assert!(batch.frames.iter().all(|frame| frame.bytes.len() == frame.header.captured_len as usize));
            batches.push((batch.frames.iter().map(|frame| frame.bytes[0]).collect(), Instant::now()));
            let end = batch.end;
            drop(batch);
            self.source.release(end);
        }
        batches
    }

    fn seen(&self) -> Vec<u64> {
        self.playback.played().map(|played| played.seen).collect()
    }
}

/// Frames of which each byte is its number, a millisecond apart.
fn chunk(file: usize, numbers: std::ops::Range<u8>) -> Chunk {
    let mut chunk = Chunk { file, ..Chunk::default() };
    for number in numbers {
        let len = 20 + u32::from(number);
        chunk.bytes.extend(vec![number; len as usize]);
        chunk.headers.push(RecordHeader {
            time_ns: 1_000_000_000 + u64::from(number) * 1_000_000,
            captured_len: len,
            original_len: len + 1,
            ..RecordHeader::default()
        });
    }
    chunk
}

fn frames(batches: &[(Vec<u8>, Instant)]) -> Vec<u8> {
    batches.iter().flat_map(|(batch, _)| batch).copied().collect()
}

fn too_big(position: u64) -> Trouble {
    Trouble::TooBig { position, len: 70_000, max: 65_499 }
}

#[test]
fn frames_come_in_order_and_are_counted_for_their_file() {
    let mut bench = Bench::new(Pacing::TopSpeed, None);
    bench.put(chunk(0, 0..100));
    bench.put(Chunk::default());
    bench.put(Chunk { ends_pass: true, ..chunk(1, 100..130) });
    bench.end();
    let batches = bench.play();
    assert_eq!(frames(&batches), (0..130).collect::<Vec<_>>());
    assert!(batches.iter().all(|(batch, _)| batch.len() <= BATCH));
    assert_eq!(batches.len(), 3, "64 and 36 of one chunk, 30 of the next");
    assert_eq!(bench.seen(), [100, 30]);
    let bytes: Vec<_> = bench.playback.played().map(|played| played.bytes).collect();
    assert_eq!(bytes, [(0..100).map(|n| n + 21).sum::<u64>(), (100..130).map(|n| n + 21).sum()]);
    assert_eq!((bench.playback.passes(), bench.playback.position()), (1, 77));
    assert_eq!(bench.playback.failure(), None);
}

#[test]
fn chunks_go_back_together() {
    let mut bench = Bench::new(Pacing::TopSpeed, None);
    for count in 1..=2 * RETURNED_TOGETHER {
        bench.put(chunk(0, 0..1));
        while bench.source.batch().is_some() {}
        let together = if count % RETURNED_TOGETHER == 0 { RETURNED_TOGETHER } else { 0 };
        assert_eq!(bench.used.try_iter().count(), together, "after {count}");
    }
}

#[test]
fn trouble_is_noted_when_the_frames_before_it_are_sent() {
    let mut bench = Bench::new(Pacing::TopSpeed, Some(10));
    let mut first = chunk(0, 0..20);
    first.troubles = vec![(5, too_big(500)), (5, too_big(600)), (15, too_big(1500))];
    bench.put(first);
    let batches = bench.play();
    assert_eq!(frames(&batches), (0..10).collect::<Vec<_>>());
    // The limit came before the third.
    assert_eq!(bench.seen(), [12, 0]);
    let failure = bench.playback.failure().unwrap();
    assert_eq!(
        failure,
        "a.pcap: 2 packets could not be played, the first: at byte 500: 70000 bytes, and 65499 is the \
         longest that can be sent"
    );
}

#[test]
fn damage_is_told_with_what_was_played() {
    let mut bench = Bench::new(Pacing::TopSpeed, None);
    let mut first = chunk(0, 0..3);
    first.troubles = vec![(3, Trouble::Damage("at byte 9: broken".into()))];
    bench.put(first);
    let mut second = chunk(1, 0..0);
    second.troubles = vec![(0, Trouble::Damage("it is empty".into()))];
    bench.put(second);
    bench.end();
    bench.play();
    assert_eq!(
        bench.playback.failure().unwrap(),
        "a.pcap: at byte 9: broken (frames played before that: 3); b.pcap: it is empty"
    );
}

#[test]
fn a_reading_thread_that_breaks_off_is_no_end_like_any_other() {
    let mut bench = Bench::new(Pacing::TopSpeed, None);
    bench.put(chunk(0, 0..3));
    bench.break_off();
    assert_eq!(frames(&bench.play()), [0, 1, 2]);
    assert!(bench.playback.failure().unwrap().contains("panic"));
}

#[test]
fn a_frame_that_was_overslept_is_late() {
    let mut bench = Bench::new(Pacing::Gap(Duration::from_millis(1)), None);
    bench.put(chunk(0, 0..2));
    assert!(bench.source.batch().is_some(), "the first is due at once");
    assert!(bench.source.batch().is_none());
    std::thread::sleep(Duration::from_millis(20));
    assert!(bench.source.batch().is_some());
    bench.source.batch();
    assert!(bench.playback.late_ns() >= 15_000_000, "{} ns", bench.playback.late_ns());
}

#[test]
fn frames_wait_until_they_are_due() {
    let mut bench = Bench::new(Pacing::Speed(1.0), None);
    let started = Instant::now();
    bench.put(Chunk { begins_file: true, ..chunk(0, 0..20) });
    // 50 ms with no frame: the source sleeps, and does not miss the next one.
    bench.put(chunk(0, 70..75));
    bench.end();
    let batches = bench.play();
    assert_eq!(frames(&batches), (0..20).chain(70..75).collect::<Vec<_>>());
    let mut numbers_by_time = batches.iter().flat_map(|(batch, at)| batch.iter().map(move |n| (*n, at)));
    assert!(
        numbers_by_time.all(|(number, at)| (*at - started).as_micros() >= u128::from(number) * 1000),
        "no frame is early"
    );
    assert!(started.elapsed().as_millis() < 1_000, "{:?}", started.elapsed());
}

#[test]
fn a_stop_ends_every_wait() {
    for chunks in [vec![], vec![chunk(0, 0..1), chunk(0, 200..201)]] {
        let mut bench = Bench::new(Pacing::Gap(Duration::from_secs(3600)), None);
        for chunk in chunks {
            bench.put(chunk);
        }
        let started = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                bench.stop.drain();
            });
            // As `play`, which would borrow the stop as well.
            while !bench.source.is_over(&bench.stop) {
                if bench.source.batch().is_none() {
                    bench.source.wait(&bench.stop);
                }
            }
        });
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    }
}
