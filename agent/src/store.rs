//! The Agent's memory: mappings, sessions of the admin page and the Agent's identity, in SQLite.
//!
//! The only files with SQL are those below this one and [`crate::migrations`], which makes the tables. Here the file is
//! opened and shared out: one thread, `store`, owns the one connection that writes. SQLite lets nobody else write
//! meanwhile anyway, and so a writer waits in a channel instead of in SQLite's busy loop, and no mutex is held across a
//! disk. Readers have connections of their own and see the last committed state without waiting (WAL).

mod backup;
mod error;
mod history;
mod import;
mod mappings;
mod sessions;
mod settings;

/// For tests of this crate.
#[cfg(test)]
pub(crate) mod scratch;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use shared::threads;

use crate::migrations::{self, MigrationError, Work};
use crate::timestamp;

pub(crate) use backup::is_older;
pub use backup::{Restored, backup, restore};
pub use error::StoreError;
pub(crate) use error::user_id;
pub(crate) use history::{KeptConnection, KeptRequest, Named, Place, RequestFilter, StatusTest};
pub(crate) use import::Changes;
#[cfg(test)]
pub(crate) use mappings::testing::{mapping as mapping_for_tests, unusable_row};
pub use mappings::{MAX_MAPPINGS, SaveError, Stored, Unreadable};
pub use sessions::KeptSession;
pub(crate) use sessions::Session;

/// How long SQLite waits for another process (a backup, the earlier program) to let go of the file.
const BUSY: Duration = Duration::from_secs(5);
/// Jobs that may wait for the writer: those who give one wait for its answer, so there are never more than
/// threads.
const JOBS: usize = 64;
/// Idle connections kept for readers.
const IDLE_READERS: usize = 4;
/// Files up to this size are checked through and through at each start; it takes some milliseconds.
const CHECKED: u64 = 4 * 1024 * 1024;
/// Pages in the log before it is folded into the file: 32 MiB.
const CHECKPOINT: u32 = 8192;
/// Statements that the writer keeps prepared.
const STATEMENTS: usize = 32;

/// The database, open. Clones share it; the last one dropped ends the writer thread.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    path: PathBuf,
    readers: Mutex<Vec<Connection>>,
    /// `None` only while being dropped.
    jobs: Option<Sender<Job>>,
    writer: Option<JoinHandle<()>>,
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

impl Store {
    /// Opens the file, makes it if there is none, and brings its tables up to date.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        Store::open_waiting(path, BUSY)
    }

    fn open_waiting(path: &Path, busy: Duration) -> Result<Store, StoreError> {
        // SQLite says the same of a missing directory and of one it may not enter; the Operator needs to know
        // which.
        let directory = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if fs::metadata(directory).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            return Err(StoreError::NoDirectory(path.to_owned()));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let fault = |error| StoreError::of(path, error);
        let mut writer = connect(path, flags, busy).map_err(fault)?;
        check(&writer, path)?;
        match migrations::survey(&writer).map_err(|e| migration_error(path, e))? {
            Work::UpToDate => {}
            Work::Create => log::info!("database {}: is new", path.display()),
            Work::Upgrade => copy_before_upgrade(&writer, path)?,
        }
        let mode: String =
            writer.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)).map_err(fault)?;
        if mode != "wal" {
            // Some network file systems have no shared memory. Slower, but right.
            log::warn!("database {}: has no write-ahead log here, journal mode is {mode}", path.display());
        }
        // With the log a power cut can lose the last commits but never damage the file; what must not be lost
        // is written under FULL (see `durable`).
        writer.pragma_update(None, "synchronous", "normal").map_err(fault)?;
        migrations::run(&mut writer, &timestamp::database_form(timestamp::now()))
            .map_err(|e| migration_error(path, e))?;
        // History outlives the mapping that it is of, although the tables of the earlier program would have it deleted
        // with it. So we keep the references in order ourselves.
        writer.pragma_update(None, "foreign_keys", false).map_err(fault)?;
        // A checkpoint costs three waits for the disk and wears SD cards; this one comes about once a minute when as
        // many requests as possible are logged.
        writer.pragma_update(None, "wal_autocheckpoint", CHECKPOINT).map_err(fault)?;
        writer.set_prepared_statement_cache_capacity(STATEMENTS);
        backup::remove_stale_snapshots(path);
        settings::make_agent_id(&writer).map_err(fault)?;
        mappings::warn_of_unreadable(&writer).map_err(fault)?;

        let (jobs, received) = crossbeam_channel::bounded(JOBS);
        let writer = threads::spawn("store", move || write(writer, &received)).map_err(StoreError::Thread)?;
        Ok(Store(Arc::new(Inner {
            path: path.to_owned(),
            readers: Mutex::new(Vec::new()),
            jobs: Some(jobs),
            writer: Some(writer),
        })))
    }

    /// Bytes of the file and of what has been written and is not in it yet.
    pub fn bytes(&self) -> u64 {
        let log = {
            let mut name = self.0.path.clone().into_os_string();
            name.push("-wal");
            PathBuf::from(name)
        };
        // What is not there has no bytes.
        [&self.0.path, &log]
            .into_iter()
            .filter_map(|path| fs::metadata(path).ok())
            .map(|file| file.len())
            .sum()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Reads with a connection of its own.
    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>) -> Result<T, StoreError> {
        let fault = |error| StoreError::of(&self.0.path, error);
        let idle = threads::lock(&self.0.readers).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => {
                // Not read-only for SQLite: the first reader after a crash must be able to recover the log.
                let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                let connection = connect(&self.0.path, flags, BUSY).map_err(fault)?;
                connection.pragma_update(None, "query_only", true).map_err(fault)?;
                connection
            }
        };
        // A connection that failed is closed rather than used again.
        let value = work(&connection).map_err(fault)?;
        let mut readers = threads::lock(&self.0.readers);
        if readers.len() < IDLE_READERS {
            readers.push(connection);
        }
        Ok(value)
    }

    /// Writes in one transaction on the writer thread and waits for it to be done. It is undone when `work`
    /// fails.
    fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        })
    }

    /// As `write`, and on the disk when it returns: what the Operator was told is saved must outlive a power
    /// cut. That costs a wait for the disk, which is fine for what happens a few times a day.
    fn durable<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(move |connection| {
            connection.pragma_update(None, "synchronous", "full")?;
            let done = connection.transaction_with_behavior(TransactionBehavior::Immediate).and_then(|t| {
                let value = work(&t)?;
                t.commit()?;
                Ok(value)
            });
            connection.pragma_update(None, "synchronous", "normal")?;
            done
        })
    }

    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        // One answer, so one place.
        let (answer, answered) = crossbeam_channel::bounded(1);
        let job: Job = Box::new(move |connection| {
            // Nobody waits any more only if the asking thread panicked.
            let _ = answer.send(work(connection));
        });
        let jobs = self.0.jobs.as_ref().ok_or(StoreError::Ended)?;
        jobs.send(job).map_err(|_| StoreError::Ended)?;
        let result = answered.recv().map_err(|_| StoreError::Ended)?;
        result.map_err(|error| StoreError::of(&self.0.path, error))
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.0.path.display())
    }
}

impl Drop for Inner {
    /// Readers first: the connection closed last folds the log into the file and removes its companions.
    fn drop(&mut self) {
        threads::lock(&self.readers).clear();
        self.jobs = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            log::error!("database {}: the writer had panicked", self.path.display());
        }
    }
}

/// The writer thread: jobs in the order they came, until nobody can send one.
fn write(mut connection: Connection, jobs: &Receiver<Job>) {
    for job in jobs {
        job(&mut connection);
    }
    if let Err((_, error)) = connection.close() {
        log::error!("cannot close the database: {error}");
    }
}

fn connect(path: &Path, flags: OpenFlags, busy: Duration) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(busy)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(connection)
}

/// Finds out now rather than in the middle of the night that the file is damaged; a big one at least by its
/// head.
fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let fault = |error| StoreError::of(path, error);
    let _: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)).map_err(fault)?;
    if fs::metadata(path).map_or(true, |file| file.len() > CHECKED) {
        return Ok(());
    }
    let said: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(fault)?;
    if said == "ok" { Ok(()) } else { Err(StoreError::Damaged(path.to_owned(), said)) }
}

/// Copies the whole database, its log included, to `<file>.before-<version>`: once per version, so that the
/// copy is of what the version found and not of what it made of it.
fn copy_before_upgrade(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".before-{}", crate::VERSION));
    let copy = PathBuf::from(name);
    if copy.exists() {
        log::info!("database {}: the copy {} is already there", path.display(), copy.display());
        return Ok(());
    }
    let failed = |e| StoreError::Copy(copy.clone(), Box::new(e));
    backup::put(connection, path, &copy).map_err(failed)?;
    log::info!("database {}: is of an earlier version, copied to {}", path.display(), copy.display());
    Ok(())
}

fn migration_error(path: &Path, error: MigrationError) -> StoreError {
    match error {
        MigrationError::Newer(step) => StoreError::Newer(path.to_owned(), step),
        MigrationError::Sqlite(error) => StoreError::of(path, error),
    }
}

#[cfg(test)]
mod tests {
    use super::error::user_id;
    use super::mappings::testing::mapping;
    use super::scratch::Scratch;
    use super::*;
    use crate::history::{Limits, Recorder};

    #[test]
    fn sqlite_is_built_with_what_is_used_and_without_the_rest() {
        let connection = rusqlite::Connection::open_in_memory().expect("a database");
        let mut listing = connection.prepare("PRAGMA compile_options").expect("a statement");
        let options: Vec<String> =
            listing.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let has = |name: &str| options.iter().any(|option| option == name);
        assert!(has("THREADSAFE=1"), "{options:?}");
        // What .cargo/config.toml says; a build from elsewhere than this folder would not read it.
        assert!(has("OMIT_LOAD_EXTENSION"), "{options:?}");
        for out in
            ["ENABLE_FTS3", "ENABLE_FTS5", "ENABLE_RTREE", "ENABLE_STAT4", "ENABLE_DBSTAT_VTAB", "SOUNDEX"]
        {
            assert!(!has(out), "{out}");
        }
    }

    #[test]
    fn closing_leaves_one_file() {
        let scratch = Scratch::new();
        let store = scratch.store();
        store.insert(mapping("a.example")).expect("saved");
        assert_eq!(store.mappings().expect("mappings").len(), 1);
        drop(store);
        let left: Vec<_> = fs::read_dir(scratch.path()).expect("the directory").flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn writers_and_readers_do_not_disturb_each_other() {
        let scratch = Scratch::new();
        let store = scratch.store();
        let writers: Vec<_> = (0..4)
            .map(|n| {
                let store = store.clone();
                std::thread::spawn(move || {
                    for m in 0..5 {
                        store.insert(mapping(&format!("{n}-{m}.example"))).expect("saved");
                        assert!(store.mappings().expect("mappings").len() > m);
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().expect("a writer");
        }
        assert_eq!(store.mappings().expect("mappings").len(), 20);
    }

    #[test]
    fn an_older_file_is_copied_before_it_is_changed() {
        let scratch = Scratch::new();
        let path = scratch.path().join("octoporty.db");
        drop(Store::open(&path).expect("a store"));
        let connection = Connection::open(&path).expect("the file");
        connection
            .execute_batch(
                "DROP TABLE OctoportySessions; DELETE FROM OctoportyMigrations WHERE Step = '0002_Sessions';",
            )
            .expect("an older file");
        drop(connection);
        drop(Store::open(&path).expect("a store"));
        let copy = scratch.path().join(format!("octoporty.db.before-{}", crate::VERSION));
        let copied = Connection::open(&copy).expect("the copy");
        let exists = "SELECT count(*) FROM sqlite_master WHERE name = 'OctoportySessions'";
        let tables = |c: &Connection| c.query_row(exists, [], |row| row.get::<_, i64>(0)).expect("a count");
        assert_eq!(tables(&copied), 0);
        assert_eq!(tables(&Connection::open(&path).expect("the file")), 1);
    }

    #[test]
    fn a_disk_that_fills_up_costs_nothing_that_was_saved() {
        let Some(scratch) = Scratch::small_disk(2048) else { return };
        let store = scratch.store();
        store.insert(mapping("before.example")).expect("saved");
        let history = Recorder::start(store.clone(), Limits::default(), Arc::default()).expect("a recorder");
        let filler = scratch.path().join("filler");
        let mut rest = fs::File::create(&filler).expect("a file");
        while io::Write::write_all(&mut rest, &[0; 4096]).is_ok() {}

        // Something fits into the log and the file yet.
        let mut saved = 1;
        let refused = loop {
            match store.insert(mapping(&format!("m{saved}.example"))) {
                Ok(()) => saved += 1,
                Err(e) => break e,
            }
        };
        let said = refused.to_string();
        assert!(said.contains("the disk is full, make room"), "{said}");
        assert_eq!(store.mappings().expect("mappings").len(), saved);
        let copy = scratch.path().join("copy.db");
        let said = store.backup_to(&copy).expect_err("no room").to_string();
        assert!(said.contains("the disk is full") && said.contains("copy.db"), "{said}");
        assert!(!copy.exists() && !scratch.path().join("copy.db.part").exists());
        let called = Some(("x", "x.example"));
        for _ in 0..1_000 {
            history
                .request(&crate::history::RequestEntry { called, ..crate::history::some_request("/full") });
        }
        history.settle();
        assert!(history.dropped() > 0, "rows that found no place are counted");

        drop(rest);
        fs::remove_file(&filler).expect("room");
        store.insert(mapping("after.example")).expect("saved");
        history.settle();
        let mut counted = 0;
        store.traffic(86_400, 0, i64::MAX, None, |_, _, counts| counted += counts.requests).expect("read");
        assert_eq!(counted, 1_000, "every request is in the totals");
        assert!(!history.stop());
        drop(history);
        drop(store);
        assert_eq!(scratch.store().mappings().expect("mappings").len(), saved + 1);
    }

    #[test]
    fn what_is_wrong_with_the_file_is_said() {
        let scratch = Scratch::new();
        let fault = |path: &Path| {
            Store::open_waiting(path, Duration::from_millis(1)).expect_err("a fault").to_string()
        };
        let missing = fault(&scratch.path().join("no/octoporty.db"));
        assert!(missing.contains("directory does not exist"), "{missing}");

        let directory = fault(scratch.path());
        assert!(directory.contains(&format!("user id {}", user_id())), "{directory}");

        let text = scratch.path().join("text.db");
        fs::write(&text, "this is no database, however long it may be".repeat(100)).expect("a file");
        let not = fault(&text);
        assert!(not.contains("not an SQLite database"), "{not}");
        assert!(fs::read_to_string(&text).expect("the file").starts_with("this is no"));

        let damaged = scratch.path().join("damaged.db");
        let store = Store::open(&damaged).expect("a store");
        for n in 0..50 {
            store.insert(mapping(&format!("m{n}.example"))).expect("saved");
        }
        drop(store);
        let mut bytes = fs::read(&damaged).expect("the file");
        let half = bytes.len() / 2;
        bytes[half..].fill(0x5a);
        fs::write(&damaged, &bytes).expect("the file");
        let said = fault(&damaged);
        assert!(said.contains("is damaged"), "{said}");
        assert_eq!(fs::read(&damaged).expect("the file"), bytes, "nothing was changed");

        let newer = scratch.path().join("newer.db");
        drop(Store::open(&newer).expect("a store"));
        let connection = Connection::open(&newer).expect("the file");
        connection.execute("INSERT INTO OctoportyMigrations VALUES ('9999_X', '')", []).expect("a step");
        let said = fault(&newer);
        assert!(said.contains("newer version (step 9999_X)"), "{said}");

        let locked = scratch.path().join("locked.db");
        drop(Store::open(&locked).expect("a store"));
        let connection = Connection::open(&locked).expect("the file");
        connection.pragma_update(None, "locking_mode", "exclusive").expect("exclusive");
        connection.execute_batch("BEGIN EXCLUSIVE").expect("the lock");
        let said = fault(&locked);
        assert!(said.contains("locked by another process"), "{said}");
    }
}
