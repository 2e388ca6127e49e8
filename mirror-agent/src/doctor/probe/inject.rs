//! Puts a probe frame on an interface: out of it, and into it as if the network had sent it.

use std::{
    io, mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use super::frame::{ETHER_TYPE, LEN, ProbeFrame};
use crate::output::sockopt;

/// Hands a frame to the interface's way out: its egress hooks, its queue, its driver.
///
/// # Errors
///
/// The interface is down (ENETDOWN) or gone, or a hook or the queue drops the frame (ENOBUFS).
pub fn send(ifindex: u32, frame: &ProbeFrame) -> io::Result<()> {
    // Protocol 0: nothing is received.
    let socket = sockopt::open(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    // SAFETY: all fields of sockaddr_ll are integers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ETHER_TYPE.to_be();
    address.sll_ifindex = ifindex.cast_signed();
    // SAFETY: the frame is readable for its length, `address` for the size that is said.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.bytes().as_ptr().cast(),
            LEN,
            libc::MSG_DONTWAIT,
            (&raw const address).cast(),
            mem::size_of_val(&address) as libc::socklen_t,
        )
    };
    if sent == LEN as isize { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the kernel receive a frame at an interface: it takes its turn in a processor's backlog, and meets the interface's
/// ingress hooks as a driver's frames do. (What a driver runs by itself, an XDP program, it does not meet.)
///
/// A program of four instructions hands it there, run once by `BPF_PROG_TEST_RUN` and attached nowhere.
///
/// # Errors
///
/// No right to: it takes `CAP_BPF` and `CAP_NET_ADMIN`; or no such interface.
pub fn receive(ifindex: u32, frame: &ProbeFrame) -> io::Result<()> {
    let program = load(ifindex)?;
    let mut run = TestRun {
        program: program.as_raw_fd().cast_unsigned(),
        result: 0,
        size_in: LEN as u32,
        size_out: 0,
        data_in: frame.bytes().as_ptr().expose_provenance() as u64,
        data_out: 0,
        repeat: 1,
        duration: 0,
    };
    const BPF_PROG_TEST_RUN: libc::c_long = 10;
    // SAFETY: `run` is readable and writable for the size that is said, and the frame that it points to for its length.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut run, size_of::<TestRun>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // What the helper said: 0, an error of the kernel's, or that the backlog was full (NET_RX_DROP).
    match run.result.cast_signed() {
        0 => Ok(()),
        error if error < 0 => Err(io::Error::from_raw_os_error(-error)),
        _ => Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
    }
}

/// The start of `union bpf_attr` of linux/bpf.h, as `BPF_PROG_LOAD` reads it. Host byte order.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
}

/// The same for `BPF_PROG_TEST_RUN`.
#[repr(C)]
struct TestRun {
    program: u32,
    result: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// `return bpf_clone_redirect(skb, ifindex, BPF_F_INGRESS)`
fn load(ifindex: u32) -> io::Result<OwnedFd> {
    /// `enum bpf_cmd` of linux/bpf.h.
    const BPF_PROG_LOAD: libc::c_long = 5;
    /// `enum bpf_prog_type` of linux/bpf.h.
    const SCHED_CLS: u32 = 3;
    /// Of `bpf_clone_redirect`, in the list of linux/bpf.h.
    const CLONE_REDIRECT: u32 = 13;
    const INGRESS: u32 = 1;
    // `struct bpf_insn`: the code in the lowest byte, the register that is written in the next, the immediate above.
    let set = |register: u64, value: u32| u64::from(value) << 32 | register << 8 | 0xb7;
    let call = |helper: u32| u64::from(helper) << 32 | 0x85;
    const EXIT: u64 = 0x95;
    let instructions = [set(2, ifindex), set(3, INGRESS), call(CLONE_REDIRECT), EXIT];
    let load = Load {
        kind: SCHED_CLS,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr().expose_provenance() as u64,
        license: c"GPL".as_ptr().expose_provenance() as u64,
    };
    // SAFETY: `load` is readable for the size that is said, and points to instructions and a string that outlive the
    // call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just opened this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
