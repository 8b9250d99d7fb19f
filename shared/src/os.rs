//! The one place where the operating system is asked in a way that Rust's library does not offer.

use std::ffi::CString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rand::TryRng;
use rand::rngs::SysRng;

/// Fills `bytes` with what nobody can guess. From the kernel itself: a bare root has no `/dev/urandom`.
pub fn random(bytes: &mut [u8]) -> io::Result<()> {
    SysRng.try_fill_bytes(bytes).map_err(io::Error::other)
}

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

/// Takes a descriptor that this process was started with, and keeps it from programs that we might start. The caller
/// makes sure that nobody else in the process owns it. An error: there is no such descriptor.
#[allow(unsafe_code)]
pub fn adopt_descriptor(descriptor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: `fcntl` only looks at the number. It is open when that succeeds, and the caller hands us the ownership.
    unsafe {
        if libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(descriptor))
    }
}

/// A terminal that shows nothing of what is typed, until this is dropped.
#[derive(Debug)]
pub struct HiddenInput {
    before: libc::termios,
}

/// Switches off what the terminal at standard input does by itself: showing what is typed, editing the line, and
/// turning Ctrl-C into a signal (which would end the process with the terminal left silent).
#[allow(unsafe_code)]
pub fn hide_input() -> io::Result<HiddenInput> {
    // SAFETY: `before` is filled by tcgetattr before it is read; both calls use it during the call only.
    unsafe {
        let mut before = std::mem::MaybeUninit::<libc::termios>::uninit();
        if libc::tcgetattr(libc::STDIN_FILENO, before.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let before = before.assume_init();
        let mut silent = before;
        silent.c_lflag &= !(libc::ECHO | libc::ECHONL | libc::ICANON | libc::ISIG);
        silent.c_cc[libc::VMIN] = 1;
        silent.c_cc[libc::VTIME] = 0;
        if libc::tcsetattr(libc::STDIN_FILENO, libc::TCSAFLUSH, &raw const silent) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(HiddenInput { before })
    }
}

impl Drop for HiddenInput {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: `before` is what tcgetattr gave. Should it fail, the terminal has gone.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSAFLUSH, &raw const self.before) };
    }
}

/// Whether this process may make files in a directory.
#[allow(unsafe_code)]
pub fn can_write(directory: &Path) -> bool {
    let Ok(path) = CString::new(directory.as_os_str().as_bytes()) else { return false };
    // SAFETY: `path` is a string that ends with NUL and lives during the call, which only reads it.
    directory.is_dir() && unsafe { libc::access(path.as_ptr(), libc::W_OK | libc::X_OK) } == 0
}
/// Whether a call failed because the process or the machine has no more descriptors or memory.
pub fn is_shortage(error: &io::Error) -> bool {
    let short = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|code| short.contains(&code))
}
