//! What some tests need and not every machine has. Without it they say so and pass, but not with `CI=true`: there
//! nothing may be left out without being noticed.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

/// The running test cannot do its work here. Says so where the test runner does not hide it.
///
/// # Panics
///
/// With `CI=true`.
pub fn lacks(what: &str) {
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{what}");
    // Not by a macro: their output is shown for failed tests only.
    writeln!(std::io::stderr(), "SKIPPED: {what}: {:?}", std::thread::current().name())
        .expect("standard error");
}

/// A program of somebody else's that a test needs; `package` is Debian's. Its path, or nothing, said as by [`lacks`].
pub fn program(name: &str, package: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        lacks(&format!("{name} is not installed (apt-get install {package})"));
    }
    found
}

/// A port that nobody listens at on any address, below those that the kernel gives to outgoing connections: for programs
/// that cannot say which port they got.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 12_000 + (std::process::id() % 1000) as u16 * 8;
    loop {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed) % 12_000;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}

/// A real database of the earlier program, which is not part of this repository. `OCTOPORTY_ORIGINAL_DB` says where it
/// is; whoever names a file means it.
pub fn original_database() -> Option<PathBuf> {
    let named = std::env::var_os("OCTOPORTY_ORIGINAL_DB").map(PathBuf::from);
    let path = named.clone().unwrap_or_else(|| {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures/original-0.9.db")
    });
    if path.exists() {
        return Some(path);
    }
    assert!(named.is_none(), "{}: is not there", path.display());
    lacks(&format!("{} is not there; OCTOPORTY_ORIGINAL_DB names another place", path.display()));
    None
}

/// A disk that is soon full, until it is dropped.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of `kib` KiB on a directory.
    pub fn mount(directory: &Path, kib: usize) -> Option<SmallDisk> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"])
            .arg(directory)
            .stderr(Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(SmallDisk(directory.to_owned()));
        }
        lacks("a small disk cannot be mounted (tmpfs; needs root)");
        None
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.0.display());
        }
    }
}
