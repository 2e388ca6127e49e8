//! The maps, and the settings that user space writes before loading.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_spin_lock},
    btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
    macros::btf_map,
};
use mirror_common::{
    budget::{Bucket, Demand, GRADES, RANKS, Share},
    counters::{HookCounters, NEAR, NearCounters},
    headers::Headers,
    own::{Path, Ports},
    pool::{DESTINATIONS_MAX, Table, Tally},
    record::{Doorbell, RINGS_MAX},
    redirect::{Handoff, Sighting, TEMPLATES_ALL, Template},
    settings::{Redirect, Select, Settings, SkbLayout, XdpLayout},
    watch::Watch,
};

use crate::pool::Fan;

/// The counters of an interface and direction, set up before its hook is attached. Those of nearly all are here: it takes
/// no call to find them.
#[btf_map]
pub static NEAR_COUNTERS: PerCpuArray<NearCounters, { NEAR as usize }> = PerCpuArray::new();

/// Those whose place is taken by others, under [`mirror_common::counters::key`]. Memory is taken per entry, since most
/// hosts mirror a handful of interfaces.
#[btf_map]
pub static COUNTERS: PerCpuHashMap<u32, HookCounters, 8192, { BPF_F_NO_PREALLOC as usize }> =
    PerCpuHashMap::new();

/// Room for the headers that a hook is reading: they would take much of the 512 bytes of stack.
#[btf_map]
pub static HEADERS: PerCpuArray<Headers, 1> = PerCpuArray::new();

/// Where the agent sends, under [`Path::number`].
#[btf_map]
pub static OWN_PATHS: HashMap<u64, Path, 1024> = HashMap::new();

/// The flow hash of datagrams whose fragments are passing by, under [`mirror_common::flow::datagram`].
#[btf_map]
pub static DATAGRAMS: LruHashMap<u64, Datagram, 4096> = LruHashMap::new();

/// Value of [`DATAGRAMS`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Datagram {
    /// `CLOCK_MONOTONIC` in nanoseconds when the first fragment passed.
    pub since_ns: u64,
    /// The flow hash that all fragments take.
    pub flow_hash: u32,
    /// 0.
    pub reserved: u32,
}

/// The rings. User space makes them, as many as it has threads; the template's size means nothing.
#[btf_map]
pub static RINGS: ArrayOfMaps<RingBuf<u8, 4096>, RINGS_MAX> = ArrayOfMaps::new();

/// One for each ring, mapped into the agent.
#[btf_map]
pub static DOORBELLS: Array<Doorbell, RINGS_MAX, { BPF_F_MMAPABLE as usize }> = Array::new();

/// In redirect mode: what hook and the programs on a clone's way tell each other.
#[btf_map]
pub static HANDOFF: PerCpuArray<Handoff, 1> = PerCpuArray::new();

/// How datagrams leave, by [`mirror_common::redirect::place`].
#[btf_map]
pub static TEMPLATE: Array<Template, TEMPLATES_ALL> = Array::new();

/// Whose turn it is among each sensor's templates.
#[btf_map]
pub static CURRENT: Array<u32, DESTINATIONS_MAX> = Array::new();

/// Which of several sensors a flow goes to. User space replaces it in place, byte by byte: each bucket has one sensor
/// or another at any time.
#[btf_map]
pub static POOL: Array<Table, 1> = Array::new();

/// What was sent to each of several sensors.
#[btf_map]
pub static TALLIES: PerCpuArray<Tally, DESTINATIONS_MAX> = PerCpuArray::new();

/// Of the frame that is being sent to all sensors.
#[btf_map]
pub static FAN: PerCpuArray<Fan, 1> = PerCpuArray::new();

/// How often what kept a frame from leaving: an errno, or a number of [`mirror_common::redirect`].
#[btf_map]
pub static ERRORS: PerCpuHashMap<u32, u64, 64> = PerCpuHashMap::new();

/// The last probe that was seen.
#[btf_map]
pub static SIGHTINGS: Array<Sighting, 1> = Array::new();

/// Frames that are left of a limited run.
#[btf_map]
pub static LEFT: Array<i64, 1> = Array::new();

/// What has to be added to `CLOCK_MONOTONIC` to get nanoseconds since 1970. Where headers tell.
#[btf_map]
pub static CLOCK: Array<i64, 1> = Array::new();

/// In redirect mode: which frames user space wants to look at. They go into the first of [`RINGS`]. Mapped into the agent.
#[btf_map]
pub static WATCH: Array<Watch, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Network identifiers by interface. Where they have some of their own.
#[btf_map]
pub static VNIS: HashMap<u32, u32, 4096, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Of the last IPv4 datagram, before the processor's number.
#[btf_map]
pub static IDS: PerCpuArray<u32, 1> = PerCpuArray::new();

/// Room for a piece of a frame that is being summed up.
#[btf_map]
pub static SUMMED: PerCpuArray<[u32; 256], 1> = PerCpuArray::new();

/// What flows of each rank ask for, one value for each processor (user space says how many there are), mapped into the
/// agent.
#[btf_map]
pub static DEMAND: Array<Demand, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// How flows of each rank are treated: a [`mirror_common::budget::Grade`]. Mapped into the agent.
#[btf_map]
pub static RANK_GRADES: Array<[u8; RANKS], 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// What may still be sent.
#[btf_map]
pub static BUDGET: Array<Budget, 1> = Array::new();

/// Value of [`BUDGET`].
#[repr(C)]
pub struct Budget {
    /// Held by who uses the bucket.
    pub lock: bpf_spin_lock,
    /// 0.
    pub reserved: u32,
    /// What may still be sent.
    pub bucket: Bucket,
}

/// What this processor has taken from the bucket in advance, for each grade.
#[btf_map]
pub static SHARES: PerCpuArray<[Share; GRADES], 1> = PerCpuArray::new();

#[unsafe(no_mangle)]
pub static SETTINGS: Settings = Settings {
    rings: 1,
    frame_max: 0,
    snaplen: u32::MAX,
    sensor_ports: Ports::NONE,
    time_stamps: 0,
    has_filter: 0,
    select: Select::ALL,
    skb: SkbLayout::UNKNOWN,
    redirect: Redirect::OFF,
    xdp: XdpLayout::UNKNOWN,
};

/// What user space decided: one field of [`Settings`].
macro_rules! setting {
    ($($field:ident).+) => {
        // SAFETY: a read of a static. Volatile, because the value is replaced before loading and the
        // compiler must not use the one written here.
        unsafe { core::ptr::read_volatile(&raw const $crate::maps::SETTINGS.$($field).+) }
    };
}
pub(crate) use setting;
