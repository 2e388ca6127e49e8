//! Loads the kernel programs and makes their rings.

use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{ArrayOfMaps, Map, MapData},
    programs::{Program as AyaProgram, ProgramError},
};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_RINGBUF;
use mirror_common::{settings::Settings, watch};

use super::{
    counters::Counters, doorbell::Doorbells, filtered::Filtered, hooks::Place, own_paths::OwnPaths,
    redirect::RedirectMaps,
};
use crate::{
    affinity, descriptors, filter::classic::Program, flows::kernel::KernelSamples, select::steward::Shared,
    source::ring::RingReader,
};

/// The object that build.rs had built.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mirror-ebpf"));

/// Loaded programs, attached nowhere yet.
pub struct Loaded {
    /// The programs.
    pub ebpf: Ebpf,
    /// One reader for each ring, in the order of the rings.
    pub rings: Vec<RingReader>,
    /// How the readers are woken.
    pub doorbells: Doorbells,
    /// What the hooks count.
    pub counters: Counters,
    /// How the hooks know the agent's own datagrams.
    pub own_paths: OwnPaths,
    /// What the hooks are asked for, and which flows they take, under `--max-rate`.
    pub budget: Option<Shared>,
    /// In redirect mode.
    pub redirect: Option<RedirectMaps>,
    /// In redirect mode: what shows some of the frames.
    pub watched: Option<KernelSamples>,
    /// Where frames meet a filter: what takes another one.
    pub filtered: Option<Filtered>,
}

/// The programs of redirect mode: at the outgoing interface's egress, the segmenter's egress and ingress.
pub const REDIRECT_PROGRAMS: [&str; 3] = ["mirror_encap", "mirror_segment", "mirror_refuse"];

/// Loads the programs for `settings` that `place` needs, with rings of `ring_size` bytes, and with `filter`, if the
/// settings say that there is one.
///
/// # Errors
///
/// The kernel refuses: too little memory, or a program that its verifier does not take.
pub fn load(settings: &Settings, ring_size: u32, place: Place, filter: Option<&Program>) -> Result<Loaded> {
    lift_memory_lock_limit();
    let has_budget = settings.select.unit != 0;
    let cpus = affinity::possible()?;
    descriptors::raise();
    let mut ebpf = EbpfLoader::new()
        .override_global("SETTINGS", settings, true)
        .map_max_entries("DEMAND", if has_budget { cpus as u32 } else { 1 })
        .load(OBJECT)
        .context("cannot load the kernel programs")?;
    // Before any map is taken: the programs are loaded with the maps' descriptors, and keep the maps.
    let is_redirecting = settings.redirect.is_on != 0;
    let of_redirect = REDIRECT_PROGRAMS.into_iter().filter(|_| is_redirecting);
    for name in place.programs().iter().copied().chain(of_redirect) {
        let program = ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
        match program {
            AyaProgram::SchedClassifier(program) => program.load(),
            AyaProgram::Xdp(program) => program.load(),
            _ => bail!("the program {name} is of no kind that is used"),
        }
        .map_err(|error| explain_refusal(name, error))?;
        // Kernels before 5.16 do not tell.
        if let Some(steps) = program.info().ok().and_then(|info| info.verified_instruction_count()) {
            log::debug!("the verifier took {steps} steps through {name}, of a million that it may");
        }
    }
    let has_load_bytes = settings.xdp.has_load_bytes != 0;
    let filtered = filter
        .map(|filter| {
            let filtered = Filtered::new(&ebpf, place.programs(), has_load_bytes)?;
            filtered.put(&mut ebpf, filter).map(|()| filtered)
        })
        .transpose()?;
    let rings = if is_redirecting { Vec::new() } else { make_rings(&mut ebpf, settings.rings, ring_size)? };
    let watched = if is_redirecting { Some(share_watch(&mut ebpf)?) } else { None };
    let redirect = is_redirecting.then(|| RedirectMaps::new(&mut ebpf)).transpose()?;
    let own_paths = OwnPaths::new(take_map(&mut ebpf, "OWN_PATHS")?.try_into()?);
    let Map::Array(doorbells) = take_map(&mut ebpf, "DOORBELLS")? else {
        bail!("the doorbells are not in an array");
    };
    let doorbells = Doorbells::new(doorbells.fd().as_fd()).context("cannot map the doorbells")?;
    let budget = if has_budget { Some(share_budget(&mut ebpf, cpus)?) } else { None };
    let near = take_map(&mut ebpf, "NEAR_COUNTERS")?.try_into()?;
    let counters = Counters::new(near, take_map(&mut ebpf, "COUNTERS")?.try_into()?);
    Ok(Loaded { ebpf, rings, doorbells, counters, own_paths, budget, redirect, watched, filtered })
}

pub(super) fn take_map(ebpf: &mut Ebpf, name: &str) -> Result<Map> {
    ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))
}

fn share_budget(ebpf: &mut Ebpf, cpus: usize) -> Result<Shared> {
    let (Map::Array(demand), Map::Array(grades)) =
        (take_map(ebpf, "DEMAND")?, take_map(ebpf, "RANK_GRADES")?)
    else {
        bail!("the budget is not in arrays");
    };
    Shared::new(demand.fd().as_fd(), cpus, grades.fd().as_fd()).context("cannot map the budget")
}

fn share_watch(ebpf: &mut Ebpf) -> Result<KernelSamples> {
    let Map::Array(watch) = take_map(ebpf, "WATCH")? else {
        bail!("what is watched is not in an array");
    };
    let ring = make_rings(ebpf, 1, watch::RING_SIZE)?.pop().context("no ring")?;
    KernelSamples::new(watch.fd().as_fd(), ring).context("cannot map what is watched")
}

fn make_rings(ebpf: &mut Ebpf, count: u32, size: u32) -> Result<Vec<RingReader>> {
    let mut all: ArrayOfMaps<_, MapData> = take_map(ebpf, "RINGS")?.try_into()?;
    (0..count)
        .map(|index| {
            let definition = aya_obj::Map::new_from_params(BPF_MAP_TYPE_RINGBUF as u32, 0, 0, size, 0);
            let ring = MapData::create(definition, "mirror_ring", None).with_context(|| {
                format!("cannot make ring {index} of {count} with {size} bytes: use a smaller --ring-size")
            })?;
            all.set(index, &ring, 0).context("cannot give the hooks their ring")?;
            let fd = ring.fd().as_fd().try_clone_to_owned().context("out of file descriptors")?;
            RingReader::new(fd, size as usize).with_context(|| format!("cannot map ring {index}"))
        })
        .collect()
}

/// Kernels before 5.11 count maps against the limit on locked memory, which is a few MB by default.
fn lift_memory_lock_limit() {
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the call reads the struct that it is given. Where it fails, newer kernels do not care and
    // older ones say so when a map is made.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) };
}

/// The verifier's log is thousands of lines: the one with the reason goes to the user.
fn explain_refusal(name: &str, error: ProgramError) -> anyhow::Error {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return anyhow!(error).context(format!("cannot load the program {name}"));
    };
    let log = verifier_log.to_string();
    log::debug!("verifier log of {name}:\n{log}");
    // It ends with statistics; the reason is the line before them.
    let statistics = ["processed ", "verification time ", "stack depth "];
    let is_reason = |line: &&str| !line.is_empty() && !statistics.iter().any(|start| line.starts_with(start));
    let reason = log.lines().rev().find(is_reason).unwrap_or("it does not say why");
    anyhow!("the kernel refuses the program {name}: {io_error}: {reason} (-vv shows the verifier's log)")
}
