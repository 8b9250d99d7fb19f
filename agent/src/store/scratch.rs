//! For tests of this crate: a directory that goes when dropped.

use std::fs;
use std::path::{Path, PathBuf};

use e2e::machine::SmallDisk;
use shared::mapping::MappingId;

use super::Store;
use crate::random;

/// Where it is, and the disk that is mounted there.
pub(crate) struct Scratch(PathBuf, Option<SmallDisk>);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        let id = MappingId::from_random(random::bytes());
        let path = std::env::temp_dir().join(format!("octoporty-test-{id}"));
        fs::create_dir(&path).expect("a directory for the test");
        Scratch(path, None)
    }

    /// On a disk of its own that is soon full; `None` where none can be mounted.
    pub(crate) fn small_disk(kib: usize) -> Option<Scratch> {
        let mut scratch = Scratch::new();
        scratch.1 = Some(SmallDisk::mount(&scratch.0, kib)?);
        Some(scratch)
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
        drop(self.1.take());
        let _ = fs::remove_dir_all(&self.0);
    }
}
