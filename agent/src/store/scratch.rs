//! For tests of this crate: a directory that goes when dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use shared::mapping::MappingId;

use super::Store;
use crate::random;

/// Where it is, and whether a disk is mounted there.
pub(crate) struct Scratch(PathBuf, bool);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        let id = MappingId::from_random(random::bytes());
        let path = std::env::temp_dir().join(format!("octoporty-test-{id}"));
        fs::create_dir(&path).expect("a directory for the test");
        Scratch(path, false)
    }

    /// On a disk of its own that is soon full; `None`, loudly, where none can be mounted.
    pub(crate) fn small_disk(kib: usize) -> Option<Scratch> {
        let mut scratch = Scratch::new();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"])
            .arg(&scratch.0)
            .stderr(Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            scratch.1 = true;
            return Some(scratch);
        }
        eprintln!("SKIPPED: a small disk cannot be mounted here (tmpfs; needs root)");
        None
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Does to the database what others might.
    pub(crate) fn sql(&self, sql: &str) {
        let connection = rusqlite::Connection::open(self.0.join("octoporty.db")).expect("the file");
        connection.execute_batch(sql).expect(sql);
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.0.join("octoporty.db")).expect("a store")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.1 {
            // The directory stays if that fails, and says so in `mount`.
            let _ = Command::new("umount").arg(&self.0).status();
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}
