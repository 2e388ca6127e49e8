//! What the kernel, a replay and tcpdump make of each of many expressions, for each of many frames.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    collections::BTreeSet,
    os::fd::AsFd as _,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use mirror_agent::filter::{Filter, classic::Program, translate::Context};
use mirror_tests::{
    filters::{
        self, FRAMES,
        programs::{self, Before, TOGETHER},
    },
    lock,
    pcap::Packet,
    scratch::Scratch,
};

/// An expression, what it means, and the frames that tcpdump takes.
struct Case {
    expression: &'static str,
    program: Program,
    taken: BTreeSet<usize>,
}

/// Where a program sees a frame.
const WAYS: [(&str, Context, Before); 4] = [
    ("TC", Context::Tc, Before::Nothing),
    ("TC, with the tag in the metadata", Context::Tc, Before::TakeTagOut),
    ("XDP", Context::Xdp { has_load_bytes: true }, Before::Nothing),
    ("XDP, without a helper", Context::Xdp { has_load_bytes: false }, Before::Nothing),
];

#[test]
fn the_kernel_and_a_replay_agree_with_tcpdump() {
    let _turn = lock::shared();
    let scratch = Scratch::new();
    let (capture, frames) = filters::capture(&scratch, FRAMES);
    let cases = in_parallel(&filters::expressions(), |expression| {
        let scratch = Scratch::new();
        let filter = Filter::compile(expression).unwrap_or_else(|mistake| panic!("{expression}: {mistake}"));
        let taken = filters::tcpdump(&scratch, &capture, expression);
        Case { expression, program: filter.program, taken }
    });
    assert!(cases.len() >= 300, "{} expressions", cases.len());
    // An expression that takes nothing, or all, says little.
    let telling = cases.iter().filter(|case| !case.taken.is_empty() && case.taken.len() < FRAMES).count();
    assert!(telling > 400, "{telling} of {} expressions tell frames apart", cases.len());

    in_parallel(&cases, |case| {
        let taken = frames
            .iter()
            .enumerate()
            .filter(|(_, frame)| case.program.takes(&frame.bytes, frame.bytes.len() as u32))
            .map(|(number, _)| number);
        assert_same(case, "a replay", &taken.collect(), &frames, |_| true);
    });
    // Chains of headers are loops, of which the kernel's verifier follows a few at most: each for itself.
    let is_loop = |case: &&Case| case.expression.contains("protochain");
    let (loops, others): (Vec<&Case>, Vec<&Case>) = cases.iter().partition(is_loop);
    let together: Vec<&[&Case]> = others.chunks(TOGETHER).chain(loops.chunks(1)).collect();
    let work: Vec<_> = WAYS.iter().flat_map(|way| together.iter().map(move |cases| (*way, *cases))).collect();
    let verdicts = AtomicUsize::new(0);
    in_parallel(&work, |((name, context, before), cases)| {
        let is_asked = |frame: &Packet| *before == Before::Nothing || is_tagged(&frame.bytes);
        let all: Vec<&Program> = cases.iter().map(|case| &case.program).collect();
        let program = programs::load(&all, *context, *before);
        let mut taken = vec![BTreeSet::new(); cases.len()];
        for (number, frame) in frames.iter().enumerate().filter(|(_, frame)| is_asked(frame)) {
            let result = programs::result(program.as_fd(), *context, &frame.bytes);
            for (bit, taken) in taken.iter_mut().enumerate() {
                if result >> bit & 1 == 1 {
                    taken.insert(number);
                }
            }
            verdicts.fetch_add(cases.len(), Ordering::Relaxed);
        }
        for (case, taken) in cases.iter().zip(&taken) {
            assert_same(case, name, taken, &frames, is_asked);
        }
    });
    println!(
        "{} expressions ({telling} of them take some frames and refuse others), {FRAMES} frames, {} verdicts of the kernel",
        cases.len(),
        verdicts.into_inner()
    );
}

/// The kernel takes a tag out that its own protocols have, where a whole one is there.
fn is_tagged(frame: &[u8]) -> bool {
    matches!(frame.get(12..14), Some([0x81, 0x00] | [0x88, 0xa8])) && frame.len() >= 18
}

fn assert_same(
    case: &Case,
    who: &str,
    taken: &BTreeSet<usize>,
    frames: &[Packet],
    is_asked: impl Fn(&Packet) -> bool,
) {
    let expected: BTreeSet<usize> =
        case.taken.iter().copied().filter(|&number| is_asked(&frames[number])).collect();
    if let Some(&number) = taken.symmetric_difference(&expected).next() {
        let verdict = if taken.contains(&number) { "takes" } else { "refuses" };
        panic!(
            "{}: {who} {verdict} frame {number}, and tcpdump does not: {:02x?}",
            case.expression, frames[number].bytes
        );
    }
}

/// Does all the work, on two processors.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return done };
            done.push((index, work(item)));
        }
    };
    let mut done: Vec<(usize, R)> = thread::scope(|scope| {
        let threads = [scope.spawn(worker), scope.spawn(worker)];
        threads.into_iter().flat_map(|thread| thread.join().expect("a worker")).collect()
    });
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}
