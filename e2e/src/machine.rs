//! What some tests need and not every machine has. Without it they say so and pass, but not with `CI=true`: there
//! nothing may be left out without being noticed.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
