//! The program that sends packets from within the kernel: loaded, given its packets, and run.

use std::{io, os::fd::AsFd as _};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunOptions,
    maps::Map,
    programs::{ProgramError, SchedClassifier},
};
use mirror_common::{
    ethernet,
    transmit::{END, FIRST, IFINDEX, PACKET_MAX, SLOTS, Slot, UNSENT},
};

use crate::mapping::Mapping;

/// The object that build.rs had built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mirror-transmit"));

const PROGRAM: &str = "transmit";

/// A loaded program with room for [`SLOTS`] packets.
pub struct Transmitter {
    /// Its program has the only other reference to the packets.
    ebpf: Ebpf,
    packets: Mapping,
}

/// The first fields of `struct __sk_buff` of linux/bpf.h, which a run begins with.
#[repr(C)]
struct Context {
    len: u32,
    pkt_type: u32,
    mark: u32,
    others: [u32; 9],
    cb: [u32; 5],
}

/// What became of the packets of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The slot behind the last packet that was sent.
    pub end: usize,
    /// Why that slot's packet was not: [`Slot::result`]. 0 where there is none, or where it was not tried.
    pub refusal: i32,
}

impl Transmitter {
    /// Loads the program.
    ///
    /// # Errors
    ///
    /// No right to (CAP_BPF and CAP_NET_ADMIN), or a kernel that does not take it.
    pub fn load() -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(OBJECT).context("cannot load the transmitting program")?;
        let program: &mut SchedClassifier =
            ebpf.program_mut(PROGRAM).context("the object has no transmitting program")?.try_into()?;
        program.load().context("the kernel refuses the transmitting program")?;
        let Some(Map::Array(packets)) = ebpf.take_map("PACKETS") else {
            bail!("the transmitting program has no packets");
        };
        let length = SLOTS * size_of::<Slot>();
        let packets = Mapping::new(packets.fd().as_fd(), 0, length, libc::PROT_READ | libc::PROT_WRITE)
            .context("cannot map the transmitting program's packets")?;
        Ok(Self { ebpf, packets })
    }

    /// Puts a packet that lies in `pieces`, Ethernet header first, into a slot. `false` where it is too long.
    ///
    /// # Panics
    ///
    /// There is no such slot.
    #[must_use]
    pub fn put(&mut self, slot: usize, pieces: [&[u8]; 3]) -> bool {
        assert!(slot < SLOTS, "slot {slot}");
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        if length > PACKET_MAX {
            return false;
        }
        // SAFETY: the mapping has SLOTS slots, `slot` is one of them, and the pieces fit into its packet. The
        // program does not run meanwhile: that takes `&mut self`, too.
        unsafe {
            let slot = self.packets.address().cast::<Slot>().add(slot).as_ptr();
            let mut place = (&raw mut (*slot).packet).cast::<u8>();
            for piece in pieces {
                place.copy_from_nonoverlapping(piece.as_ptr(), piece.len());
                place = place.add(piece.len());
            }
            (*slot).length = length as u32;
            (*slot).result = UNSENT;
        }
        true
    }

    /// Sends the packets of the slots from `first` to `end`, of which there is at least one, in order, through the
    /// interface with number `ifindex`. All are of one protocol (EtherType).
    ///
    /// # Errors
    ///
    /// The kernel does not run the program.
    pub fn run(&mut self, first: usize, end: usize, ifindex: u32, mark: u32) -> io::Result<Outcome> {
        let Some(slot) = self.slot(first) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // What the socket buffer holds at first. The kernel reads its protocol, and wants some bytes more.
        let mut frame = [0; 64];
        frame[..ethernet::HEADER_LEN as usize].copy_from_slice(&slot.packet[..ethernet::HEADER_LEN as usize]);
        let mut context = Context { len: 0, pkt_type: 0, mark, others: [0; 9], cb: [0; 5] };
        context.cb[IFINDEX] = ifindex;
        context.cb[FIRST] = first as u32;
        context.cb[END] = end as u32;
        // SAFETY: the struct is integers with no padding, readable for its size.
        let context =
            unsafe { std::slice::from_raw_parts((&raw const context).cast::<u8>(), size_of::<Context>()) };
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        options.ctx_in = Some(context);
        let program: &SchedClassifier = self
            .ebpf
            .program(PROGRAM)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| io::Error::other("the transmitting program is gone"))?;
        let run = program.test_run(options).map(|_| ()).map_err(into_io);
        // The slots tell, not the call: a kernel before 5.13 runs the program, and then says EINTR where the thread
        // was stopped meanwhile (`bpf_test_run` in net/bpf/test_run.c).
        let refusal = |slot: usize| self.slot(slot).map_or(0, |slot| slot.result);
        let done = (first..end).find(|&slot| refusal(slot) != 0).unwrap_or(end);
        let refusal = if done == end { 0 } else { refusal(done) };
        match run {
            Err(error) if done == first && !is_passing(&error) => Err(error),
            _ => Ok(Outcome { end: done, refusal: if refusal == UNSENT { 0 } else { refusal } }),
        }
    }

    fn slot(&self, index: usize) -> Option<&Slot> {
        // SAFETY: the mapping has SLOTS slots of integers, and nobody writes to it while `self` is borrowed.
        (index < SLOTS).then(|| unsafe { self.packets.address().cast::<Slot>().add(index).as_ref() })
    }
}

impl std::fmt::Debug for Transmitter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transmitter").field("packets", &self.packets).finish_non_exhaustive()
    }
}

/// Whether the next try may succeed.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ENOMEM | libc::EAGAIN))
}

fn into_io(error: ProgramError) -> io::Error {
    match error {
        ProgramError::SyscallError(error) => error.io_error,
        error => io::Error::other(error),
    }
}
