//! Puts a filter into the hook programs.
//!
//! They call a function that stands for it (`filter_skb`, `filter_xdp`), whose instructions are replaced here before the
//! kernel gets to see the program: what runs has the filter in it. aya loads objects as they are, so the second of its
//! layers, which reads and links them, is used for this, with the maps of the programs that aya has loaded.

use std::{
    collections::{BTreeMap, HashSet},
    ffi::c_char,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, anyhow};
use aya::{Ebpf, features, maps::Map};
use aya_obj::{
    Function, Object, ProgramSection,
    generated::{
        BPF_F_XDP_HAS_FRAGS,
        bpf_attach_type::BPF_XDP,
        bpf_attr,
        bpf_cmd::BPF_PROG_LOAD,
        bpf_insn,
        bpf_prog_type::{BPF_PROG_TYPE_SCHED_CLS, BPF_PROG_TYPE_XDP},
    },
};

use super::load::OBJECT;
use crate::filter::{
    assembler::Insn,
    classic::Program,
    translate::{Context, translate},
};

/// `BPF_LOG_STATS` of linux/bpf_verifier.h: the verifier says why it refuses, and no more.
const REASON_ONLY: u32 = 4;
/// Bytes for that.
const REASON_MAX: usize = 4096;

/// The maps that hook programs work with, by name, as long as there may be another filter.
pub struct Filtered {
    maps: BTreeMap<String, OwnedFd>,
    programs: Vec<&'static str>,
    /// Whether XDP programs can read frames in several pieces.
    has_load_bytes: bool,
}

impl Filtered {
    /// For the hook programs called `programs`, which `ebpf` has loaded, and whose maps are all still there.
    ///
    /// # Errors
    ///
    /// The process has no descriptors left.
    pub fn new(ebpf: &Ebpf, programs: &[&'static str], has_load_bytes: bool) -> Result<Self> {
        let copy = |(name, map): (&str, &Map)| {
            let fd = descriptor(map).with_context(|| format!("the map {name} is of no kind that is used"))?;
            let fd = fd.try_clone_to_owned().context("out of file descriptors")?;
            Ok((name.to_owned(), fd))
        };
        let maps = ebpf.maps().map(copy).collect::<Result<_>>()?;
        Ok(Self { maps, programs: programs.to_vec(), has_load_bytes })
    }

    /// Has everything that is attached from now on, as one of these programs, be that program with this filter. What is
    /// attached already stays as it is.
    ///
    /// # Errors
    ///
    /// The filter is too large for the kernel; then nothing has changed.
    pub fn put(&self, ebpf: &mut Ebpf, filter: &Program) -> Result<()> {
        let loaded = self.programs.iter().map(|name| Ok((*name, self.load(name, filter)?)));
        for (name, fd) in loaded.collect::<Result<Vec<_>>>()? {
            let program = ebpf.program(name).with_context(|| format!("the object has no program {name}"))?;
            let old = program.fd()?.as_fd();
            // aya attaches what its descriptor stands for, and there is no other way to give it a program without the
            // right to look up any program on the host (CAP_SYS_ADMIN).
            // SAFETY: both descriptors are open; aya's stays open, and stands for another program of the same kind.
            if unsafe { libc::dup3(fd.as_raw_fd(), old.as_raw_fd(), libc::O_CLOEXEC) } < 0 {
                return Err(io::Error::last_os_error()).context("cannot put a filter in place");
            }
            if let Some(steps) = program.info().ok().and_then(|info| info.verified_instruction_count()) {
                log::debug!(
                    "the verifier took {steps} steps through {name} with its filter, of a million that it may"
                );
            }
        }
        Ok(())
    }

    /// Loads the program called `name` with a filter.
    fn load(&self, name: &str, filter: &Program) -> Result<OwnedFd> {
        let mut object = Object::parse(OBJECT).context("cannot read the kernel programs")?;
        let program = object.programs.get(name).cloned();
        let program = program.with_context(|| format!("the object has no program {name}"))?;
        let (kind, attach_type, flags) = match &program.section {
            ProgramSection::Xdp { frags, .. } => {
                (BPF_PROG_TYPE_XDP, BPF_XDP as u32, if *frags { BPF_F_XDP_HAS_FRAGS } else { 0 })
            }
            _ => (BPF_PROG_TYPE_SCHED_CLS, 0, 0),
        };
        let (place, context) = match kind {
            BPF_PROG_TYPE_XDP => ("filter_xdp", Context::Xdp { has_load_bytes: self.has_load_bytes }),
            _ => ("filter_skb", Context::Tc),
        };
        let insns = translate(filter, context).map_err(|refusal| anyhow!("{refusal}"))?;

        let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        let maps = std::mem::take(&mut object.maps);
        let with_fd = maps.iter().filter_map(|(name, map)| Some((name.as_str(), self.maps.get(name)?, map)));
        object.relocate_maps(with_fd.map(|(name, fd, map)| (name, fd.as_raw_fd(), map)), &text)?;
        // Only now: the linker knows by their places in the object which instructions refer to maps.
        replace(&mut object, place, &insns)?;
        object.relocate_calls(&text)?;
        object.sanitize_functions(features());
        let function =
            object.functions.get(&program.function_key()).context("the program has no instructions")?;
        let order = Order {
            name,
            kind: kind as u32,
            attach_type,
            flags,
            insns: &function.instructions,
            license: program.license.as_ptr(),
        };
        order.load().map_err(|(error, reason)| explain(name, &error, &reason, filter, insns.len()))
    }
}

/// The function called `place` gets these instructions.
fn replace(object: &mut Object, place: &str, insns: &[Insn]) -> Result<()> {
    let is_it = |function: &&mut Function| function.name.contains(place);
    let function =
        object.functions.values_mut().find(is_it).context("the object has no place for a filter")?;
    let bytes: Vec<u8> = insns.iter().flat_map(Insn::bytes).collect();
    function.instructions = aya_obj::copy_instructions(&bytes).context("cannot read the filter")?;
    // Behind everything, so that nothing of what belongs to the functions after it is taken to be its own.
    function.section_offset = usize::MAX / 2;
    Ok(())
}

/// What the kernel is to load.
struct Order<'a> {
    name: &'a str,
    kind: u32,
    attach_type: u32,
    flags: u32,
    insns: &'a [bpf_insn],
    /// A string that lives as long as this.
    license: *const c_char,
}

impl Order<'_> {
    /// Returns the error with the verifier's words.
    fn load(&self) -> Result<OwnedFd, (io::Error, String)> {
        match self.try_load(&mut []) {
            Ok(fd) => Ok(fd),
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => Err((error, String::new())),
            // Again, to be told why.
            Err(_) => {
                let mut reason = vec![0; REASON_MAX];
                self.try_load(&mut reason).map_err(|error| {
                    let len = reason.iter().position(|&byte| byte == 0).unwrap_or(reason.len());
                    (error, String::from_utf8_lossy(&reason[..len]).into_owned())
                })
            }
        }
    }

    fn try_load(&self, reason: &mut [u8]) -> io::Result<OwnedFd> {
        // SAFETY: all-zero bytes are a valid attribute: numbers and addresses only.
        let mut attr = unsafe { std::mem::zeroed::<bpf_attr>() };
        // SAFETY: the union is all zeros, which every one of its members may be.
        let load = unsafe { &mut attr.__bindgen_anon_3 };
        let room = load.prog_name.len() - 1;
        for (to, &from) in load.prog_name[..room].iter_mut().zip(self.name.as_bytes()) {
            *to = from as c_char;
        }
        load.prog_type = self.kind;
        load.expected_attach_type = self.attach_type;
        load.prog_flags = self.flags;
        load.insns = self.insns.as_ptr() as u64;
        load.insn_cnt = self.insns.len() as u32;
        load.license = self.license as u64;
        if !reason.is_empty() {
            load.log_level = REASON_ONLY;
            load.log_buf = reason.as_mut_ptr() as u64;
            load.log_size = reason.len() as u32;
        }
        // SAFETY: the attribute is of this size, and what it points to is live.
        let fd = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD as libc::c_long, &raw mut attr, size_of::<bpf_attr>())
        };
        let fd = i32::try_from(fd).unwrap_or(-1);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just opened, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// Refusals for size are the user's to understand; others are not to be expected.
fn explain(name: &str, error: &io::Error, reason: &str, filter: &Program, insns: usize) -> anyhow::Error {
    let classic = filter.insns().len();
    let is_too_large = reason.contains("too large") || reason.contains("too complex");
    if is_too_large || error.raw_os_error() == Some(libc::E2BIG) {
        return anyhow!(
            "the filter is too large for this kernel: it has {classic} instructions ({insns} of the kernel's), which the \
             kernel's verifier cannot follow within its million steps: say it with networks and ranges"
        );
    }
    let lines = reason.lines().filter(|line| !line.is_empty());
    let reason =
        lines.take_while(|line| !line.starts_with("processed ")).last().unwrap_or("it does not say why");
    anyhow!(
        "the kernel refuses the program {name} with this filter of {classic} instructions ({insns} of the kernel's): \
         {error}: {reason}"
    )
}

fn descriptor(map: &Map) -> Option<BorrowedFd<'_>> {
    match map {
        Map::Array(map)
        | Map::ArrayOfMaps(map)
        | Map::HashMap(map)
        | Map::HashOfMaps(map)
        | Map::LpmTrie(map)
        | Map::LruHashMap(map)
        | Map::PerCpuArray(map)
        | Map::PerCpuHashMap(map)
        | Map::PerCpuLruHashMap(map)
        | Map::Queue(map)
        | Map::RingBuf(map)
        | Map::Stack(map)
        | Map::Unsupported(map) => Some(map.fd().as_fd()),
        _ => None,
    }
}
