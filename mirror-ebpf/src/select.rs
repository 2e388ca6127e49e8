//! Which frames are mirrored: sampling, then the budget.

use core::hint::black_box;

use aya_ebpf::helpers::{
    bpf_get_smp_processor_id, bpf_ktime_get_ns,
    generated::{bpf_spin_lock, bpf_spin_unlock},
};
use mirror_common::{
    budget::{COST, Grade, PAUSE_NS, Plan, RANKS, Unit, rank},
    bytes::Bytes,
    counters::HookCounters,
    headers::Headers,
    sample::draw,
    settings::whole,
};

use crate::maps::{BUDGET, DEMAND, RANK_GRADES, SHARES, setting};

/// Whether a frame of `len` bytes is mirrored; counts it where it is not. `segments` is what a card would cut it into;
/// 0 and 1 are one.
#[inline(always)]
pub fn takes<B: Bytes>(
    frame: B,
    headers: &Headers,
    flow_hash: u32,
    len: u32,
    segments: impl FnOnce() -> u32,
    counters: &mut HookCounters,
) -> bool {
    let greatest = setting!(select.greatest_draw);
    if greatest != u32::MAX && draw(flow_hash, whole(setting!(select.sample_key))) > greatest {
        counters.sampled_out += 1;
        return false;
    }
    let unit = setting!(select.unit);
    if unit == 0 {
        return true;
    }
    let segments = segments().max(1);
    let units = if unit == Unit::Frames as u32 {
        segments
    } else {
        // Each segment has headers of its own.
        len.wrapping_add((segments - 1).wrapping_mul(if segments > 1 { headers.len(frame) } else { 0 }))
    };
    if has_room(frame, headers, flow_hash, units) == 0 {
        counters.rate_limited += 1;
        return false;
    }
    true
}

/// Whether the budget has room for `units` bytes or frames of a flow. Not 0 is yes.
#[inline(never)]
fn has_room<B: Bytes>(frame: B, headers: &Headers, flow_hash: u32, units: u32) -> u64 {
    let rank = rank(flow_hash, whole(setting!(select.rank_key)));
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let demand = DEMAND.get_ptr_mut(cpu as u32);
    let Some(grades) = RANK_GRADES.get_ptr(0) else { return 0 };
    // The compiler knows that every rank is below, and would leave the comparison out that the verifier wants.
    let place = black_box(u64::from(rank));
    if place >= RANKS as u64 {
        return 0;
    }
    if let Some(demand) = demand {
        // SAFETY: this processor's own value, and the place is in it. As for counters, nothing comes in between.
        unsafe { (&raw mut (*demand).ranks).cast::<u64>().add(place as usize).update(units) };
    }
    // SAFETY: the array's value stays in place, which has a byte for each rank. Volatile, because the agent writes it.
    let grade = Grade::of_rank(unsafe { grades.cast::<u8>().add(place as usize).read_volatile() });
    if grade != Grade::Refused && pay(grade as u32, units) != 0 {
        if let Some(demand) = demand {
            // SAFETY: as above.
            unsafe { (&raw mut (*demand).passed).update(units) };
        }
        return 1;
    }
    if setting!(select.passes_ends) == 0 || !headers.begins_or_ends(frame) {
        return 0;
    }
    if pay(Grade::End as u32, units) == 0 {
        return 0;
    }
    if let Some(demand) = demand {
        // SAFETY: as above.
        unsafe {
            (&raw mut (*demand).passed).update(units);
            (&raw mut (*demand).ends).update(units);
        }
    }
    1
}

trait Update {
    /// # Safety
    ///
    /// It points to a number that nobody else writes.
    unsafe fn update(self, units: u32);
}

impl Update for *mut u64 {
    #[inline(always)]
    unsafe fn update(self, units: u32) {
        // SAFETY: the caller vouches for it. Volatile, because the agent reads it.
        unsafe { self.write_volatile(self.read_volatile().wrapping_add(u64::from(units))) }
    }
}

/// Takes what `units` cost from this processor's share, which is filled from the bucket of all. Not 0 where that
/// worked.
#[inline(never)]
fn pay(grade: u32, units: u32) -> u64 {
    let Some(shares) = SHARES.get_ptr_mut(0) else { return 0 };
    let grade = match grade {
        0 => Grade::Whole,
        1 => Grade::Marginal,
        _ => Grade::End,
    };
    // SAFETY: this processor's own value, with an entry for each grade. Nothing comes in between.
    let share = unsafe { &mut *shares.cast::<mirror_common::budget::Share>().add(grade as usize) };
    let cost = u64::from(units) * COST;
    if share.held >= cost {
        share.held -= cost;
        return 1;
    }
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    if now < share.not_before_ns {
        return 0;
    }
    let plan = Plan {
        rate: whole(setting!(select.rate)),
        depth: whole(setting!(select.depth)),
        batch: whole(setting!(select.batch)),
    };
    let wanted = plan.wanted(grade, cost, share.held);
    let Some(budget) = BUDGET.get_ptr_mut(0) else { return 0 };
    // SAFETY: the array's value stays in place; the bucket is used under its lock, which is given back on every way.
    let is_there = unsafe {
        bpf_spin_lock(&raw mut (*budget).lock);
        let is_there = (*budget).bucket.claim(&plan, grade, now, wanted);
        bpf_spin_unlock(&raw mut (*budget).lock);
        is_there
    };
    if is_there {
        share.held = share.held + wanted - cost;
        return 1;
    }
    share.not_before_ns = now + PAUSE_NS;
    0
}
