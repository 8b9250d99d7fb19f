//! For tests of this crate: a directory that goes when dropped.

use std::fs;
use std::path::{Path, PathBuf};

use shared::mapping::MappingId;

use super::Store;
use crate::random;

pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        let id = MappingId::from_random(random::bytes());
        let path = std::env::temp_dir().join(format!("octoporty-test-{id}"));
        fs::create_dir(&path).expect("a directory for the test");
        Scratch(path)
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
        let _ = fs::remove_dir_all(&self.0);
    }
}
