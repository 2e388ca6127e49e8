//! Frames that an interface receives, as from a card's driver: the fastest generator.
//!
//! A packet socket at the other end of a veth spends most of its time on its own calls: where the kernel
//! guards indirect calls and returns (retpolines, safe RET) it reaches a fourth of what this does, and
//! hides what a mirror costs behind that. Here an XDP program, run by `BPF_PROG_TEST_RUN` with live frames
//! (the kernel's Documentation/bpf/bpf_prog_run.rst, Linux 5.18), passes frames to the interface's receiving
//! path in batches, which is what a driver does (NAPI): the hooks see them on ingress, and then the stack.

mod program;
mod state;

use std::{
    io,
    os::fd::AsRawFd as _,
    ptr,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use self::state::State;
use crate::{bpf, generator::Sent, host::Host, packet_socket::pin};

/// Frames handed over at once, as a driver's poll does (`NAPI_POLL_WEIGHT`).
const BATCH: u32 = 64;

/// An interface that frames are injected into, for as long as this runs.
#[derive(Debug)]
pub struct Injector {
    state: Arc<State>,
    lens: Vec<u64>,
    thread: JoinHandle<()>,
}

impl Injector {
    /// Has `iface` of `host` receive these frames over and over, on one processor: as fast as it goes, or so
    /// many a second. Where it was not given the processor, it makes up for a millisecond at most. Returns when
    /// the first frame has been received.
    ///
    /// The frames are as long as they like, up to 3,500 bytes, and differ in the first 48 only.
    ///
    /// # Panics
    /// Where the frames are not so, or the kernel refuses.
    #[must_use]
    pub fn start(
        host: &Host,
        iface: &'static str,
        frames: &[Vec<u8>],
        rate: Option<u64>,
        processor: usize,
    ) -> Self {
        take_signal();
        let longest = frames.iter().max_by_key(|frame| frame.len()).expect("no frames").clone();
        let state = Arc::new(State::new(frames, &longest, rate).expect("cannot make a BPF map"));
        let program =
            program::load(state.map(), frames.len() as u32).expect("cannot load the generator's program");
        let shared = state.clone();
        let thread = host.thread("injector", move || {
            pin(processor);
            let result = run(program.as_raw_fd(), index(iface), &longest, &shared);
            result.unwrap_or_else(|error| {
                panic!("cannot inject frames into {iface}: {error} (it takes Linux 5.18)")
            });
        });
        let lens = frames.iter().map(|frame| frame.len() as u64).collect();
        while state.sent() == 0 && !thread.is_finished() {
            thread::sleep(Duration::from_micros(100));
        }
        state.note_first();
        Self { state, lens, thread }
    }

    /// How many frames have been received.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.state.sent()
    }

    /// Lets no more frames through, at once: [`Injector::stop`] then takes the kernel some 25 ms.
    pub fn halt(&self) {
        self.state.stop();
    }

    /// Stops now.
    ///
    /// # Panics
    /// Where injecting failed.
    pub fn stop(self) -> Sent {
        use std::os::unix::thread::JoinHandleExt as _;
        self.halt();
        // Only a signal ends the call that runs the program.
        while !self.thread.is_finished() {
            // SAFETY: pthread_kill touches no memory of ours; the thread has not been joined, so its handle
            // is good, and the signal's handler does nothing.
            unsafe { libc::pthread_kill(self.thread.as_pthread_t(), SIGNAL) };
            thread::sleep(Duration::from_millis(1));
        }
        let frames = self.state.sent();
        let cycle: u64 = self.lens.iter().sum();
        let (cycles, rest) = (frames / self.lens.len() as u64, frames % self.lens.len() as u64);
        let bytes = cycles * cycle + self.lens[..rest as usize].iter().sum::<u64>();
        self.thread.join().expect("the generator failed");
        Sent { frames, bytes, time: self.state.time() }
    }
}

/// Ends a call that the injecting thread is in.
const SIGNAL: libc::c_int = libc::SIGUSR2;

/// A signal that is ignored ends no call: it needs a handler, if an empty one.
fn take_signal() {
    extern "C" fn nothing(_signal: libc::c_int) {}
    // SAFETY: zero is a value for every field: no flags and no mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: `action` is whole, and its handler does nothing.
    let result = unsafe { libc::sigaction(SIGNAL, &raw const action, ptr::null_mut()) };
    assert_eq!(result, 0, "cannot take signal {SIGNAL}");
}

/// Runs the program until `state` says stop.
fn run(program: i32, index: u32, frame: &[u8], state: &State) -> io::Result<()> {
    /// `struct xdp_md`.
    #[repr(C)]
    struct Context {
        data: u32,
        data_end: u32,
        data_meta: u32,
        ingress_ifindex: u32,
        rx_queue_index: u32,
        egress_ifindex: u32,
    }
    /// `union bpf_attr` for BPF_PROG_TEST_RUN.
    #[repr(C)]
    struct TestRun {
        prog_fd: u32,
        retval: u32,
        data_size_in: u32,
        data_size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        ctx_size_in: u32,
        ctx_size_out: u32,
        ctx_in: u64,
        ctx_out: u64,
        flags: u32,
        cpu: u32,
        batch_size: u32,
        padding: u32,
    }
    const BPF_PROG_TEST_RUN: i64 = 10;
    const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 2;
    let context = Context {
        data: 0,
        data_end: frame.len() as u32,
        data_meta: 0,
        ingress_ifindex: index,
        rx_queue_index: 0,
        egress_ifindex: 0,
    };
    let mut attributes = TestRun {
        prog_fd: program as u32,
        retval: 0,
        data_size_in: frame.len() as u32,
        data_size_out: 0,
        data_in: frame.as_ptr() as u64,
        data_out: 0,
        repeat: u32::MAX,
        duration: 0,
        ctx_size_in: size_of::<Context>() as u32,
        ctx_size_out: 0,
        ctx_in: &raw const context as u64,
        ctx_out: 0,
        flags: BPF_F_TEST_XDP_LIVE_FRAMES,
        cpu: 0,
        batch_size: BATCH,
        padding: 0,
    };
    state.begin();
    while !state.is_stopped() {
        // SAFETY: `attributes` is readable and writable for its size, and what its addresses point to, the
        // frame and the context, outlives the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_PROG_TEST_RUN,
                &raw mut attributes,
                std::mem::offset_of!(TestRun, padding),
            )
        };
        let error = io::Error::last_os_error();
        if result < 0 && error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(())
}

fn index(iface: &str) -> u32 {
    let name = std::ffi::CString::new(iface).expect("a name");
    // SAFETY: `name` ends with a zero byte.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "no interface {iface} here");
    index
}

/// The time of `bpf_ktime_get_ns`.
fn nanoseconds() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{
        capture::Capture, captures::udp_frame, host::Host, link::veth, lock, pcap, scratch::Scratch, tap::Tap,
    };

    /// Hosts with a link, the second with a tap that sees what is received.
    fn hosts() -> (Host, Host) {
        let (left, right) = (Host::new("left"), Host::new("right"));
        veth(&left, "eth0", &right, "eth0");
        (left, right)
    }

    #[test]
    fn frames_are_received_as_they_are_in_turn_and_at_the_rate() {
        let _turn = lock::shared();
        let (_left, right) = hosts();
        let frames: Vec<_> =
            [64, 1_514, 590].iter().zip(7..).map(|(&len, flow)| udp_frame(flow, len)).collect();
        let scratch = Scratch::new();
        let capture = Capture::start(&right, "eth0", &scratch.path("received.pcap"), "");
        let started = Instant::now();
        let injector = Injector::start(&right, "eth0", &frames, Some(5_000), 0);
        thread::sleep(Duration::from_secs(1));
        let sent = injector.stop();
        let limit = started.elapsed().as_secs_f64() * 5_000.0;
        let received: Vec<_> = pcap::read(&capture.stop()).into_iter().map(|packet| packet.bytes).collect();

        assert!((2_500.0..limit + 10.0).contains(&(sent.frames as f64)), "{sent:?} of {limit}");
        assert_eq!(received.len() as u64, sent.frames);
        for (packet, expected) in received.iter().zip(frames.iter().cycle()) {
            assert_eq!(packet, expected);
        }
        assert_eq!(sent.bytes, received.iter().map(|frame| frame.len() as u64).sum::<u64>());
    }

    #[test]
    fn flat_out_is_faster_and_stops() {
        let _turn = lock::alone();
        let (_left, right) = hosts();
        let tap = Tap::everything(&right, "eth0");
        let injector = Injector::start(&right, "eth0", &[udp_frame(0, 64)], None, 0);
        thread::sleep(Duration::from_millis(300));
        let sent = injector.stop();
        assert!(sent.frames > 50_000, "{sent:?}");
        assert_eq!(tap.count(), sent.frames);
    }
}
