//! The one place where the operating system must be asked in a way that Rust's library does not offer.

/// Raises the soft limit of open descriptors to the hard limit, as servers do: 1,024 by default is a limit from the
/// time of `select`. Returns the limit in force.
#[allow(unsafe_code)]
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit that the calls read and write during the call only.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return 1024;
        }
        let before = limit.rlim_cur;
        limit.rlim_cur = limit.rlim_max;
        if before != limit.rlim_max && libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) != 0 {
            limit.rlim_cur = before;
        }
    }
    limit.rlim_cur
}
