//! Copies a frame once, into a record of its size class.

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    btf_maps::RingBuf,
    helpers::{
        bpf_ktime_get_ns,
        generated::{bpf_ringbuf_discard, bpf_ringbuf_reserve, bpf_ringbuf_submit},
    },
};
use mirror_common::{
    counters::HookCounters,
    ethernet::{ADDRESSES_LEN, TAG_LEN},
    flow,
    record::{HEADER_LEN, RecordHeader, SIZE_CLASSES, Segmentation},
    watch::PREFIX,
};

use crate::{
    maps::{DOORBELLS, RINGS, setting},
    packet::Packet,
    skb::checked_length,
};

/// What became of a frame.
enum Copied {
    Whole,
    NoRoom,
    Unreadable,
    TooLong,
}

type Ring = RingBuf<u8, 4096>;

/// Puts a frame into its ring, or counts why it is not there. `found` says all of it but when, and how much is kept.
#[inline(always)]
pub fn keep<P: Packet>(packet: P, tag: u32, found: RecordHeader, counters: &mut HookCounters) {
    let is_cut = found.segmentation != Segmentation::None as u16;
    let kept_len = found.original_len.min(setting!(snaplen));
    // One that is to be cut goes to user space whole: its segments are what has to fit.
    if !is_cut && kept_len > setting!(frame_max) {
        counters.too_big += 1;
        return;
    }
    let header = RecordHeader {
        time_ns: if has_time(counters) {
            // SAFETY: the helper has no preconditions.
            unsafe { bpf_ktime_get_ns() }
        } else {
            0
        },
        captured_len: if is_cut || found.checksum != 0 { found.original_len } else { kept_len },
        ..found
    };
    match copy_into_ring(packet, tag, &header) {
        Copied::Whole => {}
        Copied::NoRoom => counters.ring_full += 1,
        Copied::Unreadable => counters.copy_failed += 1,
        Copied::TooLong => counters.too_big += 1,
    }
}

/// Puts a frame's beginning, as `header` says it, into the first ring. `false` where it is not there.
#[inline(always)]
pub fn show<P: Packet>(packet: P, tag: u32, header: &RecordHeader) -> bool {
    let Some(ring) = RINGS.get(0) else { return false };
    matches!(copy::<P, { PREFIX as usize }>(packet, tag, header, ring, 0), Copied::Whole)
}

/// Whether the record of the frame that was counted last carries its time: the first one's does, and then one in so many of
/// those that nothing left out. Of all that were seen it would be always the same ones, where traffic has a rhythm.
#[inline(always)]
fn has_time(counters: &HookCounters) -> bool {
    match setting!(time_stamps) {
        0 => false,
        1 => true,
        interval => {
            let left_out = counters.filtered + counters.own + counters.sampled_out + counters.rate_limited;
            counters.seen.wrapping_sub(left_out + 1) & (u64::from(interval) - 1) == 0
        }
    }
}

/// Tries the size classes in ascending order. The classes are constants, so each comparison guards code
/// for its own size, which is what the verifier asks of a reservation.
#[inline(always)]
fn copy_into_ring<P: Packet>(packet: P, tag: u32, header: &RecordHeader) -> Copied {
    let index = flow::ring(header.flow_hash, setting!(rings));
    let Some(ring) = RINGS.get(index) else {
        return Copied::NoRoom;
    };
    macro_rules! try_class {
        ($($class:literal)*) => {$(
            if header.captured_len <= SIZE_CLASSES[$class] as u32 {
                return copy::<P, { SIZE_CLASSES[$class] }>(packet, tag, header, ring, index);
            }
        )*};
    }
    const { assert!(SIZE_CLASSES.len() == 12, "every class has its line below") }
    try_class!(0 1 2 3 4 5 6 7 8 9 10 11);
    Copied::TooLong
}

#[inline(always)]
fn copy<P: Packet, const ROOM: usize>(
    packet: P,
    tag: u32,
    header: &RecordHeader,
    ring: &Ring,
    index: u32,
) -> Copied {
    // SAFETY: the ring comes out of the map of rings; the size is a constant.
    let record =
        unsafe { bpf_ringbuf_reserve((&raw const *ring).cast_mut().cast(), (HEADER_LEN + ROOM) as u64, 0) };
    if record.is_null() {
        return Copied::NoRoom;
    }
    // SAFETY: the record has room for the header and ROOM bytes, and the kernel aligns it to 8.
    let frame = unsafe {
        record.cast::<RecordHeader>().write(*header);
        record.cast::<u8>().add(HEADER_LEN)
    };
    // SAFETY: `frame` points to ROOM bytes.
    if !unsafe { copy_frame::<P, ROOM>(packet, tag, frame, header.captured_len) } {
        // SAFETY: the record was reserved above and is given back once.
        unsafe { bpf_ringbuf_discard(record, u64::from(BPF_RB_NO_WAKEUP)) };
        return Copied::Unreadable;
    }
    // After the reservation on purpose: see `Doorbell` and the reader's way of going to sleep.
    let wake_up = answer_doorbell(index);
    // SAFETY: the record was reserved above and is handed over once.
    unsafe { bpf_ringbuf_submit(record, wake_up) };
    Copied::Whole
}

/// Copies the frame of `len` bytes, with its tag, if it has one, put back where it was on the wire.
///
/// # Safety
///
/// `to` has room for ROOM bytes.
#[inline(always)]
unsafe fn copy_frame<P: Packet, const ROOM: usize>(packet: P, tag: u32, to: *mut u8, len: u32) -> bool {
    if tag == 0 {
        let Some(len) = checked_length(len, ROOM as u32) else {
            return false;
        };
        // SAFETY: `len` is at most ROOM.
        return unsafe { packet.copy(0, to, len) };
    }
    const TAG_END: u32 = ADDRESSES_LEN + TAG_LEN;
    let Some(rest) = checked_length(len.wrapping_sub(TAG_END), ROOM as u32 - TAG_END) else {
        return false;
    };
    // SAFETY: addresses, tag and rest end within ROOM; the tag is 12 bytes after a record's header, which
    // is aligned to 8.
    unsafe {
        to.add(ADDRESSES_LEN as usize).cast::<u32>().write(tag.to_be());
        packet.copy(0, to, ADDRESSES_LEN) && packet.copy(ADDRESSES_LEN, to.add(TAG_END as usize), rest)
    }
}

/// Whether the reader sleeps and has to be woken. While it works nobody wakes it: a wake-up costs more
/// than everything else that is done for a frame.
#[inline(always)]
fn answer_doorbell(index: u32) -> u64 {
    let Some(doorbell) = DOORBELLS.get_ptr_mut(index) else {
        return u64::from(BPF_RB_NO_WAKEUP);
    };
    // SAFETY: the array's values stay in place. Volatile, because the agent writes the flag too. Two
    // hooks that see it at once wake the reader twice, which does no harm.
    unsafe {
        let armed = &raw mut (*doorbell).armed;
        if armed.read_volatile() == 0 {
            return u64::from(BPF_RB_NO_WAKEUP);
        }
        armed.write_volatile(0);
    }
    u64::from(BPF_RB_FORCE_WAKEUP)
}
