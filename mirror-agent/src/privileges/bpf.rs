//! What the bpf system call takes from those who hold the descriptors of its objects.

use std::{io, sync::OnceLock, thread};

use aya_obj::generated::bpf_cmd;
use caps::Capability;

use super::sets::keep;

/// What a thread needs to change the kernel programs' tables and to have a program run: nothing since Linux 5.19. Before,
/// where `kernel.unprivileged_bpf_disabled` is set, the call itself takes CAP_BPF. The kernel is asked once.
pub(super) fn capabilities() -> &'static [Capability] {
    static NEEDED: OnceLock<bool> = OnceLock::new();
    let is_needed = *NEEDED.get_or_init(|| {
        let asks = thread::Builder::new().spawn(|| {
            keep(&[]);
            [bpf_cmd::BPF_MAP_UPDATE_ELEM, bpf_cmd::BPF_PROG_TEST_RUN].into_iter().any(is_refused)
        });
        // Where there is no answer, it may be.
        asks.is_ok_and(|asking| asking.join().unwrap_or(true))
    });
    if is_needed { &[Capability::CAP_BPF] } else { &[] }
}

/// Whether the calling thread may not do this with an object: that is looked at before the object is.
fn is_refused(command: bpf_cmd) -> bool {
    // The largest that these two have, all zero but for the descriptor, which is its first word.
    let mut attributes = [0_u32; 32];
    attributes[0] = u32::MAX;
    // SAFETY: `attributes` is readable for the size that is said. There is no such descriptor: nothing is done.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, attributes.as_ptr(), size_of_val(&attributes))
    };
    result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}
