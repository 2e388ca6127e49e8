//! Redirect mode with several sensors: which of them a frame goes to.

use mirror_common::{
    counters::HookCounters,
    pool::{BUCKETS, DESTINATIONS_MAX, Tally, bucket},
};

use crate::{
    maps::{FAN, POOL, TALLIES, setting},
    redirect::{Outcome, Traits, book, send_to},
    skb::Skb,
};

/// What became of a frame that every sensor gets, so far. It is in memory, so that the verifier does not follow what
/// each of them adds to it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Fan {
    error: u32,
    is_too_big: u32,
    is_cut: u32,
    /// The most that were sent to one sensor.
    datagrams: u32,
}

/// Sends a clone to the sensor that has the frame's flow.
#[inline(always)]
pub fn send_to_one(skb: Skb, traits: &Traits, counters: *mut HookCounters) {
    let Some(table) = POOL.get_ptr(0) else { return };
    let at = bucket(traits.flow_hash) & (BUCKETS - 1);
    // SAFETY: the array's value stays in place, and has as many buckets. User space replaces them one by one.
    let destination = unsafe { (&raw const (*table).buckets).cast::<u8>().add(at).read_volatile() };
    let destination = u32::from(destination) % DESTINATIONS_MAX as u32;
    let outcome = send_to(skb, traits, counters, destination);
    count(destination, &outcome);
    book(counters, &outcome);
}

/// Sends a clone to each sensor that is there. The frame is sent where all of them got it.
#[inline(always)]
pub fn send_to_all(skb: Skb, traits: &Traits, counters: *mut HookCounters) {
    let (Some(table), Some(fan)) = (POOL.get_ptr(0), FAN.get_ptr_mut(0)) else { return };
    // SAFETY: this processor's own value; `redirect::send_within` keeps it where another frame comes in between.
    unsafe { fan.write(Fan::default()) };
    let destinations = setting!(redirect.destinations);
    for destination in 0..DESTINATIONS_MAX as u32 {
        if destination >= destinations {
            break;
        }
        // SAFETY: the array's value stays in place.
        let members = unsafe { (&raw const (*table).members).read_volatile() };
        if (members >> destination) & 1 != 0 {
            send_to_one_of_all(skb, traits, counters, destination);
        }
    }
    // SAFETY: as above.
    let Fan { error, is_too_big, is_cut, datagrams } = unsafe { fan.read_volatile() };
    // SAFETY: as in `count`.
    unsafe { (*counters).segments += u64::from(datagrams) };
    book(counters, &Outcome { error, is_too_big, is_cut, datagrams: 0, payload: 0 });
}

/// A function of its own, so that the verifier forgets between two sensors how it went with the first. Returns 0.
#[inline(never)]
fn send_to_one_of_all(skb: Skb, traits: &Traits, counters: *mut HookCounters, destination: u32) -> u64 {
    let outcome = send_to(skb, traits, counters, destination);
    count(destination, &outcome);
    let Some(fan) = FAN.get_ptr_mut(0) else { return 0 };
    // SAFETY: as in `send_to_all`.
    let fan = unsafe { &mut *fan };
    if outcome.error != 0 {
        fan.error = outcome.error;
    }
    fan.is_too_big |= outcome.is_too_big;
    fan.is_cut |= outcome.is_cut;
    if outcome.datagrams > fan.datagrams {
        fan.datagrams = outcome.datagrams;
    }
    0
}

#[inline(always)]
fn count(destination: u32, outcome: &Outcome) {
    if let Some(tally) = TALLIES.get_ptr_mut(destination) {
        // SAFETY: this processor's own value, and hooks do not run at the same time on a processor.
        unsafe {
            let tally: &mut Tally = &mut *tally;
            tally.datagrams += u64::from(outcome.datagrams);
            tally.payload += outcome.payload;
            tally.failed += u64::from(outcome.error != 0);
        }
    }
}
