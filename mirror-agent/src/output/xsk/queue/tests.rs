#![allow(clippy::unwrap_used, reason = "tests")]
//! The queue against a model of the kernel's side, `__xsk_generic_xmit` in net/xdp/xsk.c.

use std::os::fd::AsFd as _;

use mirror_common::record::RecordHeader;
use nix::sys::memfd::{MFdFlags, memfd_create};
use proptest::prelude::*;

use super::*;
use crate::{ledger::OutputCounters, source::Frame};

/// What happens to a packet that the kernel looks at, this often in a row.
#[derive(Clone, Copy, Debug)]
enum Event {
    Send(usize),
    /// The driver drops it: EBUSY.
    Drop(usize),
    /// The driver's queue is full: EAGAIN.
    Busy(usize),
    /// No memory: ENOBUFS.
    NoMemory(usize),
    /// The interface is down: ENETDOWN.
    Down,
}

/// The kernel's side of the rings: it maps the same memory.
struct Kernel {
    tx: Ring<libc::xdp_desc>,
    completions: Ring<u64>,
    umem: Mapping,
    produced: u32,
    consumed: u32,
    completed: u32,
    /// Completions that the driver still holds back.
    held: Vec<u64>,
    holds: bool,
    /// Since Linux 6.6 a descriptor that is skipped ends the call.
    is_modern: bool,
    events: Vec<Event>,
    /// Frame and part of what was sent, from the packets' bytes.
    delivered: Vec<(u8, u8)>,
}

fn both(is_modern: bool, holds: bool, events: Vec<Event>) -> (Queue, Kernel) {
    let shared = |length: usize| {
        let file = memfd_create(c"ring", MFdFlags::empty()).unwrap();
        nix::unistd::ftruncate(&file, length as i64).unwrap();
        let map = || Mapping::new(file.as_fd(), 0, length, libc::PROT_READ | libc::PROT_WRITE).unwrap();
        (map(), map())
    };
    let places = [0, 64, 128];
    let tx = shared(128 + TX_SLOTS * size_of::<libc::xdp_desc>());
    let completions = shared(128 + CHUNKS * 8);
    let umem = shared(CHUNKS * CHUNK);
    let queue = Queue::new(
        Ring::new(tx.0, places, TX_SLOTS).unwrap(),
        Ring::new(completions.0, places, CHUNKS).unwrap(),
        umem.0,
    );
    let kernel = Kernel {
        tx: Ring::new(tx.1, places, TX_SLOTS).unwrap(),
        completions: Ring::new(completions.1, places, CHUNKS).unwrap(),
        umem: umem.1,
        produced: 0,
        consumed: 0,
        completed: 0,
        held: Vec::new(),
        holds,
        is_modern,
        events,
        delivered: Vec::new(),
    };
    (queue, kernel)
}

impl Kernel {
    fn kick(&mut self) -> Result<(), i32> {
        for address in std::mem::take(&mut self.held) {
            self.complete(address);
        }
        let mut has_sent = false;
        let mut budget = 32;
        let result = loop {
            let Some(descriptor) = self.peek() else { break Ok(()) };
            if budget == 0 {
                break Err(libc::EAGAIN);
            }
            budget -= 1;
            match self.event() {
                Event::Send(_) => {
                    self.consumed = self.consumed.wrapping_add(1);
                    has_sent = true;
                    // SAFETY: a valid descriptor: within the mapping.
                    let bytes = unsafe {
                        let place = self.umem.address().as_ptr().add(descriptor.addr as usize);
                        std::slice::from_raw_parts(place, descriptor.len as usize)
                    };
                    self.delivered.push((bytes[0], bytes[1]));
                    assert!(bytes[2..].iter().all(|&byte| byte == bytes[0] ^ bytes[1]), "overwritten");
                    self.finish(descriptor.addr);
                }
                Event::Drop(_) => {
                    self.consumed = self.consumed.wrapping_add(1);
                    self.finish(descriptor.addr);
                    break Err(libc::EBUSY);
                }
                Event::Busy(_) => break Err(libc::EAGAIN),
                Event::NoMemory(_) => break Err(libc::ENOBUFS),
                Event::Down => break Err(libc::ENETDOWN),
            }
        };
        if has_sent {
            self.tx.consume(self.consumed);
        }
        result
    }

    fn peek(&mut self) -> Option<libc::xdp_desc> {
        if self.produced == self.consumed {
            self.tx.consume(self.consumed);
            self.produced = self.tx.produced();
        }
        while self.produced != self.consumed {
            let descriptor = self.tx.read(self.consumed);
            if descriptor.addr < (CHUNKS * CHUNK) as u64 {
                return Some(descriptor);
            }
            self.consumed = self.consumed.wrapping_add(1);
            if self.is_modern {
                return None;
            }
        }
        None
    }

    fn event(&mut self) -> Event {
        let (event, count) = match self.events.last_mut() {
            None => return Event::Send(1),
            Some(Event::Down) => (Event::Down, &mut 1),
            Some(event) => {
                let copy = *event;
                let (Event::Send(count) | Event::Drop(count) | Event::Busy(count) | Event::NoMemory(count)) =
                    event
                else {
                    return copy;
                };
                (copy, count)
            }
        };
        *count -= 1;
        if *count == 0 {
            self.events.pop();
        }
        event
    }

    fn finish(&mut self, address: u64) {
        if self.holds {
            self.held.push(address);
        } else {
            self.complete(address);
        }
    }

    fn complete(&mut self, address: u64) {
        self.completions.write(self.completed, address);
        self.completed = self.completed.wrapping_add(1);
        self.completions.produce(self.completed);
    }
}

const HEADER: RecordHeader = RecordHeader {
    time_ns: 0,
    ifindex: 0,
    flow_hash: 0,
    captured_len: 0,
    original_len: 0,
    direction: 0,
    segmentation: 0,
    gso_size: 0,
    checksum: 0,
};

fn stage(queue: &mut Queue, frame: usize, parts: u8) {
    for part in 0..parts {
        let filler = frame as u8 ^ part;
        queue.stage(
            &[frame as u8, part],
            [&[filler; 40], &[filler; 60]],
            Part { frame, is_last: part + 1 == parts },
        );
    }
}

fn event() -> impl Strategy<Value = Event> {
    let count = || prop_oneof![1_usize..4, 1_usize..260];
    prop_oneof![
        3 => (1_usize..60).prop_map(Event::Send),
        1 => count().prop_map(Event::Drop),
        1 => count().prop_map(Event::Busy),
        1 => count().prop_map(Event::NoMemory),
    ]
}

proptest! {
    #[test]
    fn every_packet_is_sent_once_in_order_or_counted(
        is_modern: bool,
        holds: bool,
        mut events in prop::collection::vec(event(), 0..12),
        rounds in prop::collection::vec(prop::collection::vec(1_u8..4, 0..40), 1..6),
        down_in in prop::option::of(0_usize..6),
    ) {
        let (mut queue, mut kernel) = both(is_modern, holds, Vec::new());
        for (index, round) in rounds.iter().enumerate() {
            let counters = OutputCounters::default();
            let frames = vec![Frame::whole(&HEADER, b""); round.len()];
            let mut books = Books::new(&frames, &counters, 8);
            let mut events_now = events.split_off(events.len() / 2);
            let goes_down = down_in == Some(index) && !round.is_empty();
            if goes_down {
                events_now.insert(0, Event::Down);
            }
            kernel.events = events_now;
            kernel.delivered.clear();
            let mut result = Ok(());
            for (frame, &parts) in round.iter().enumerate() {
                if queue.pending.len() + usize::from(parts) > TX_SLOTS {
                    result = queue.push_out(&mut books, || kernel.kick(), || {});
                    if result.is_err() {
                        break;
                    }
                }
                stage(&mut queue, frame, parts);
            }
            let result = result.and_then(|()| queue.push_out(&mut books, || kernel.kick(), || {}));
            let delivered = &kernel.delivered;
            prop_assert!(delivered.is_sorted() && delivered.windows(2).all(|pair| pair[0] != pair[1]));
            let whole = round.iter().enumerate().filter(|&(frame, &parts)| {
                (0..parts).all(|part| delivered.contains(&(frame as u8, part)))
            });
            prop_assert_eq!(whole.count() as u64, counters.sent.get());
            let counted = counters.sent.get() + counters.send_failed.get();
            prop_assert_eq!(counted, books.counted() as u64);
            if result.is_ok() {
                prop_assert_eq!(counted, round.len() as u64);
            } else {
                prop_assert!(goes_down, "{:?}", result);
            }
            prop_assert_eq!(counters.refusals.get(), counters.send_failed.get());
        }
        // Whatever happened, all memory comes back, and it works as before.
        kernel.events.clear();
        kernel.delivered.clear();
        let counters = OutputCounters::default();
        let frames = [Frame::whole(&HEADER, b"")];
        let mut books = Books::new(&frames, &counters, 8);
        queue.push_out(&mut books, || kernel.kick(), || {}).unwrap();
        stage(&mut queue, 0, 1);
        queue.push_out(&mut books, || kernel.kick(), || {}).unwrap();
        prop_assert_eq!(kernel.delivered.as_slice(), &[(0, 0)][..]);
        kernel.kick().unwrap();
        queue.reclaim();
        prop_assert!(queue.is_drained());
        let mut free = queue.free.clone();
        free.sort_unstable();
        prop_assert_eq!(free, (0..CHUNKS as u32).collect::<Vec<_>>());
    }
}

#[test]
fn a_packet_that_is_always_dropped_is_given_up_in_time() {
    let (mut queue, mut kernel) = both(true, false, vec![Event::Drop(TRIES as usize)]);
    let counters = OutputCounters::default();
    let frames = [Frame::whole(&HEADER, b""); 3];
    let mut books = Books::new(&frames, &counters, 8);
    (0..3).for_each(|frame| stage(&mut queue, frame, 1));
    let mut pauses = 0;
    queue.push_out(&mut books, || kernel.kick(), || pauses += 1).unwrap();
    assert_eq!(pauses, TRIES - 1);
    assert_eq!((counters.sent.get(), counters.send_failed.get()), (2, 1));
    assert_eq!(kernel.delivered, [(1, 0), (2, 0)]);
}

#[test]
fn a_queue_that_does_nothing_is_found_out_and_no_frame_is_counted() {
    let (mut queue, _) = both(true, false, Vec::new());
    let counters = OutputCounters::default();
    let frames = [Frame::whole(&HEADER, b"")];
    let mut books = Books::new(&frames, &counters, 8);
    stage(&mut queue, 0, 1);
    assert_eq!(queue.push_out(&mut books, || Ok(()), || {}), Err(libc::EIO));
    assert_eq!(books.counted(), 0);
    assert!(queue.is_drained());
}
