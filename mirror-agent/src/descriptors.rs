//! How many descriptors the process may have.

/// Lets the process have as many as it may ask for, and returns how many these are. Each interface takes up to three, its
/// claim and a link for each direction, and each UDP port one; by default a process gets 1024, and may have more.
pub fn raise() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the calls write and read the struct that they are given. Where they fail, the limit stays.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            let before = limit.rlim_cur;
            limit.rlim_cur = limit.rlim_max;
            if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) != 0 {
                limit.rlim_cur = before;
            }
        }
    }
    limit.rlim_cur
}
