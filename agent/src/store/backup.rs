//! Copies of the whole database, and a copy put in its place.
//!
//! Copies are made with SQLite's backup interface in one step: one read transaction, so what is written meanwhile is in
//! the copy entirely or not at all, and nobody waits. A copy is one file, without a log beside it, and readable by its
//! owner only: the landing page and the hashes of sessions are in it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};

use shared::mapping::MappingId;

use super::{BUSY, Store, StoreError};
use crate::migrations::{self, MigrationError, Work};
use crate::{random, timestamp};

/// Between tries when the database is locked.
const PAUSE: Duration = Duration::from_millis(50);
/// A copy for the admin API that is older than this was left by an Agent that was killed.
const STALE: Duration = Duration::from_secs(3600);
/// In the names of those copies.
const SNAPSHOT: &str = ".snapshot-";

/// What [`restore`] did.
#[derive(Debug)]
pub struct Restored {
    /// Where the database is now that was there before, if one was.
    pub kept: Option<PathBuf>,
    /// Mappings in the restored one.
    pub mappings: usize,
}

impl Store {
    /// Copies the database into a new file. Nobody who uses the Agent meanwhile notices. Gives its length in bytes.
    pub fn backup_to(&self, to: &Path) -> Result<u64, StoreError> {
        backup(self.path(), to)
    }

    /// A copy that is in no directory any more, to be read once; and its length in bytes.
    pub(crate) fn snapshot(&self) -> Result<(File, u64), StoreError> {
        let id = MappingId::from_random(random::bytes());
        let path = beside(self.path(), &format!("{SNAPSHOT}{id}"));
        let length = backup(self.path(), &path)?;
        let file = File::open(&path);
        // Gone when it is closed, however that comes about.
        let removed = fs::remove_file(&path);
        let file = file.and_then(|file| removed.map(|()| file)).map_err(|e| StoreError::io(&path, e))?;
        Ok((file, length))
    }
}

/// Copies the database at `database`, whether or not an Agent runs on it, into the new file `to`; one that exists is not
/// overwritten. Gives the length in bytes.
pub fn backup(database: &Path, to: &Path) -> Result<u64, StoreError> {
    if !database.exists() {
        return Err(StoreError::Missing(database.to_owned()));
    }
    if to.exists() {
        return Err(StoreError::Exists(to.to_owned()));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = super::connect(database, flags, BUSY).map_err(|e| StoreError::of(database, e))?;
    put(&source, database, to)?;
    fs::metadata(to).map(|file| file.len()).map_err(|e| StoreError::io(to, e))
}

/// Puts a copy of `from` in the place of the database, which stays beside it under another name. Refuses a file that is
/// damaged, is no database of an Agent, or is of a newer version, and a database on which an Agent runs; then nothing
/// has changed.
pub fn restore(database: &Path, from: &Path) -> Result<Restored, StoreError> {
    let mappings = examine(from, database)?;
    // All that takes time and may fail, before anything is touched.
    let part = beside(database, ".restore.part");
    let _ = fs::remove_file(&part);
    let source = read_only(from).map_err(|e| StoreError::of(from, e))?;
    copy(&source, from, &part)?;
    let swapped =
        own_as(database, &part).map_err(|e| StoreError::io(&part, e)).and_then(|()| swap(database, &part));
    if swapped.is_err() {
        let _ = fs::remove_file(&part);
    }
    Ok(Restored { kept: swapped?, mappings })
}

/// Whether the next start would change the tables of the database at `path`. Looks without touching.
pub(crate) fn is_older(path: &Path) -> Result<bool, StoreError> {
    let fault = |e| StoreError::of(path, e);
    let connection = read_only(path).map_err(fault)?;
    match migrations::survey(&connection) {
        Ok(work) => Ok(work == Work::Upgrade),
        Err(MigrationError::Newer(step)) => Err(StoreError::Newer(path.to_owned(), step)),
        Err(MigrationError::Sqlite(e)) => Err(fault(e)),
    }
}

/// How many mappings are in a file that may be restored.
fn examine(from: &Path, database: &Path) -> Result<usize, StoreError> {
    if !from.exists() {
        return Err(StoreError::Missing(from.to_owned()));
    }
    if fs::canonicalize(from).ok() == fs::canonicalize(database).ok() {
        return Err(StoreError::Itself(from.to_owned()));
    }
    let fault = |e| StoreError::of(from, e);
    let connection = read_only(from).map_err(fault)?;
    // Of an empty file SQLite says that all is well.
    let exists = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'PortMappings'";
    let ours = connection.query_row(exists, [], |_| Ok(())).optional().map_err(fault)?;
    if ours.is_none() {
        return Err(StoreError::NotOurs(from.to_owned()));
    }
    let said: Vec<String> = connection
        .prepare("PRAGMA integrity_check(3)")
        .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
        .map_err(fault)?;
    if said != ["ok"] {
        return Err(StoreError::Damaged(from.to_owned(), said.join("; ")));
    }
    match migrations::survey(&connection) {
        Ok(_) => {}
        Err(MigrationError::Newer(step)) => return Err(StoreError::Newer(from.to_owned(), step)),
        Err(MigrationError::Sqlite(e)) => return Err(fault(e)),
    }
    let count = r#"SELECT count(*) FROM "PortMappings""#;
    let count: i64 = connection.query_row(count, [], |row| row.get(0)).map_err(fault)?;
    Ok(count as usize)
}

/// Renames: the old one away, the new one into its place.
fn swap(database: &Path, part: &Path) -> Result<Option<PathBuf>, StoreError> {
    let mut kept = None;
    if database.exists() {
        let damaged = settle_alone(database)?;
        let date = timestamp::file_form(timestamp::now());
        let mut name = beside(database, &format!(".before-restore-{date}"));
        for number in 2.. {
            if !name.exists() {
                break;
            }
            name = beside(database, &format!(".before-restore-{date}-{number}"));
        }
        if damaged {
            // Its log may be what can still be read of it. The shared memory is of no use without a process.
            for companion in ["-wal", "-journal"] {
                rename_if_there(&beside(database, companion), &beside(&name, companion))?;
            }
            remove_if_there(&beside(database, "-shm"))?;
        }
        fs::rename(database, &name).map_err(|e| StoreError::io(&name, e))?;
        kept = Some(name);
    }
    // A log without its database would be taken for that of the new one.
    for companion in ["-wal", "-shm", "-journal"] {
        remove_if_there(&beside(database, companion))?;
    }
    if let Err(e) = fs::rename(part, database) {
        if let Some(kept) = &kept {
            fs::rename(kept, database).map_err(|e| StoreError::io(kept, e))?;
        }
        return Err(StoreError::io(database, e));
    }
    let directory = database.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|e| StoreError::io(directory, e))?;
    Ok(kept)
}

/// Makes sure that nobody else has the database open, and folds its log into it, so that it is one file. Whether it is
/// too damaged for that.
fn settle_alone(database: &Path) -> Result<bool, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let done = super::connect(database, flags, Duration::ZERO).and_then(|connection| {
        // Leaving the log needs the database for oneself alone: with a reader anywhere it fails.
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", "delete", |row| row.get(0))?;
        connection.execute_batch("BEGIN EXCLUSIVE; COMMIT")?;
        Ok(mode)
    });
    match done {
        Ok(mode) if mode == "delete" => Ok(false),
        Ok(_) => Err(StoreError::InUse(database.to_owned())),
        Err(e) => match e.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Err(StoreError::InUse(database.to_owned()))
            }
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Ok(true),
            _ => Err(StoreError::of(database, e)),
        },
    }
}

/// Copies to `to`, by another name first, so that a copy cut short is never taken for one.
pub(super) fn put(source: &Connection, path: &Path, to: &Path) -> Result<(), StoreError> {
    let part = beside(to, ".part");
    copy(source, path, &part)?;
    fs::rename(&part, to).map_err(|e| StoreError::io(to, e))
}

/// Copies into a new file. If that fails nothing is left of it.
fn copy(source: &Connection, path: &Path, to: &Path) -> Result<(), StoreError> {
    let _ = fs::remove_file(to);
    let copied = fill(source, path, to);
    if copied.is_err() {
        for companion in ["", "-wal", "-shm", "-journal"] {
            let _ = fs::remove_file(beside(to, companion));
        }
    }
    copied
}

fn fill(source: &Connection, path: &Path, to: &Path) -> Result<(), StoreError> {
    let io_fault = |e| StoreError::io(to, e);
    // Made by us and not by SQLite: nobody else may read it, not even for a moment.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(io_fault)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let fault = |e| StoreError::of(to, e);
    let mut target = Connection::open_with_flags(to, flags).map_err(fault)?;
    // It is thrown away unless it is complete, and waited for at the end.
    target.pragma_update(None, "synchronous", "off").map_err(fault)?;
    {
        let backup = Backup::new(source, &mut target).map_err(fault)?;
        let until = Instant::now() + BUSY;
        loop {
            match backup.step(-1).map_err(|e| step_fault(path, to, e))? {
                StepResult::Done => break,
                _ if Instant::now() >= until => return Err(StoreError::Locked(path.to_owned())),
                _ => thread::sleep(PAUSE),
            }
        }
    }
    // Also where nothing may be written beside it, it can be read then.
    let mode: Result<String, _> =
        target.pragma_update_and_check(None, "journal_mode", "delete", |row| row.get(0));
    mode.map_err(fault)?;
    target.close().map_err(|(_, e)| fault(e))?;
    File::open(to).and_then(|file| file.sync_all()).map_err(io_fault)
}

/// SQLite does not say which of the two files it means; a full disk is that of the copy.
fn step_fault(from: &Path, to: &Path, e: rusqlite::Error) -> StoreError {
    match e.sqlite_error_code() {
        Some(ErrorCode::DiskFull | ErrorCode::ReadOnly | ErrorCode::SystemIoFailure) => StoreError::of(to, e),
        _ => StoreError::of(from, e),
    }
}

fn read_only(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

/// Root restores, the Agent's own user must be able to write.
fn own_as(database: &Path, part: &Path) -> io::Result<()> {
    let directory = database.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let model = fs::metadata(database).or_else(|_| fs::metadata(directory))?;
    let own = fs::metadata(part)?;
    if (model.uid(), model.gid()) != (own.uid(), own.gid()) {
        chown(part, Some(model.uid()), Some(model.gid()))?;
    }
    Ok(())
}

/// `path` with something added to its name.
fn beside(path: &Path, more: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(more);
    PathBuf::from(name)
}

fn rename_if_there(from: &Path, to: &Path) -> Result<(), StoreError> {
    if_there(from, fs::rename(from, to))
}

fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    if_there(path, fs::remove_file(path))
}

fn if_there(path: &Path, result: io::Result<()>) -> Result<(), StoreError> {
    match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io(path, e)),
        _ => Ok(()),
    }
}

/// Removes copies for the admin API that an Agent left when it was killed.
pub(super) fn remove_stale_snapshots(database: &Path) {
    let (Some(directory), Some(name)) = (database.parent(), database.file_name()) else { return };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let start = format!("{}{SNAPSHOT}", name.to_string_lossy());
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let old = entry
            .metadata()
            .and_then(|file| file.modified())
            .is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > STALE));
        if old && entry.file_name().to_string_lossy().starts_with(&start) {
            match fs::remove_file(entry.path()) {
                Ok(()) => log::info!("removed {}, the rest of an interrupted backup", entry.path().display()),
                Err(e) => log::warn!("cannot remove {}: {e}", entry.path().display()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use super::super::mapping_for_tests;
    use super::super::scratch::Scratch;
    use super::*;
    use crate::history::{Limits, Recorder, RequestEntry};

    fn integrity(path: &Path) -> String {
        let connection = Connection::open(path).expect("the copy");
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("an answer")
    }

    fn count(path: &Path, table: &str) -> i64 {
        let connection = Connection::open(path).expect("the copy");
        connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).expect("a count")
    }

    fn files(scratch: &Scratch) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(scratch.path())
            .expect("the directory")
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn copies_made_while_requests_are_logged_are_whole() {
        let scratch = Scratch::new();
        let store = scratch.store();
        let nas = mapping_for_tests("nas.example");
        store.insert(nas.clone()).expect("saved");
        let history = Recorder::start(store.clone(), Limits::default(), Arc::default()).expect("a recorder");
        let stop = Arc::new(AtomicBool::new(false));
        let writer = {
            let (history, stop, nas) = (Arc::clone(&history), Arc::clone(&stop), nas.clone());
            thread::spawn(move || {
                let mut written = 0;
                while !stop.load(Relaxed) || written == 0 {
                    for _ in 0..200 {
                        history.request(&RequestEntry {
                            mapping: nas.id,
                            called: Some(nas.called()),
                            method: "GET",
                            target: "/under/load?with=query",
                            status: 200,
                            request_bytes: 1,
                            response_bytes: 2,
                            counted: (0, 0),
                            micros: 3,
                            visitor: "203.0.113.9",
                            user_agent: "load",
                            failure: None,
                        });
                    }
                    history.settle();
                    written += 200;
                }
                written
            })
        };
        let mut before = 0;
        for n in 0..10 {
            let to = scratch.path().join(format!("copy-{n}.db"));
            let length = store.backup_to(&to).expect("a copy");
            assert_eq!(length, fs::metadata(&to).expect("the copy").len());
            assert_eq!(fs::metadata(&to).expect("the copy").permissions().mode() & 0o777, 0o600);
            assert_eq!(integrity(&to), "ok");
            let rows = count(&to, "RequestLogs");
            assert!(rows >= before && rows % 200 == 0, "{rows} rows: half a transaction");
            assert_eq!(count(&to, "PortMappings"), 1);
            before = rows;
            let (mut file, length) = store.snapshot().expect("a copy");
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut file, &mut bytes).expect("the copy");
            assert_eq!(bytes.len() as u64, length);
            let to = scratch.path().join("streamed.db");
            fs::write(&to, bytes).expect("a file");
            assert_eq!(integrity(&to), "ok");
        }
        stop.store(true, Relaxed);
        assert!(writer.join().expect("the writer") >= 200);
        assert!(!history.stop());
        let left = files(&scratch);
        assert!(left.iter().all(|name| !name.contains(".part") && !name.contains(SNAPSHOT)), "{left:?}");
    }

    #[test]
    fn a_backup_neither_overwrites_nor_leaves_half_a_file() {
        let scratch = Scratch::new();
        let store = scratch.store();
        let to = scratch.path().join("copy.db");
        fs::write(&to, "precious").expect("a file");
        assert!(matches!(store.backup_to(&to), Err(StoreError::Exists(_))));
        assert_eq!(fs::read(&to).expect("the file"), b"precious");
        let nowhere = scratch.path().join("no/copy.db");
        let said = store.backup_to(&nowhere).expect_err("no directory").to_string();
        assert!(said.contains("no/copy.db"), "{said}");
        let missing = scratch.path().join("missing.db");
        assert!(matches!(backup(&missing, &scratch.path().join("x")), Err(StoreError::Missing(_))));
        assert!(!missing.exists() && !scratch.path().join("x").exists());
        drop(store);
        assert_eq!(files(&scratch), ["copy.db", "octoporty.db"]);
    }

    #[test]
    fn what_was_restored_works_and_what_was_there_is_kept() {
        let scratch = Scratch::new();
        let path = scratch.path().join("octoporty.db");
        let copy = scratch.path().join("copy.db");
        let store = scratch.store();
        let (a, b) = (mapping_for_tests("a.example"), mapping_for_tests("b.example"));
        store.insert(a.clone()).expect("saved");
        store.backup_to(&copy).expect("a copy");
        store.insert(b.clone()).expect("saved");
        let said = restore(&path, &copy).expect_err("it is in use").to_string();
        assert!(said.contains("stop the Agent"), "{said}");
        assert_eq!(store.mappings().expect("mappings").len(), 2, "nothing has changed");
        drop(store);

        let restored = restore(&path, &copy).expect("restored");
        assert_eq!(restored.mappings, 1);
        assert_eq!(
            Store::open(&path).expect("a store").mappings().expect("mappings"),
            std::slice::from_ref(&a)
        );
        let kept = restored.kept.expect("the old one");
        assert!(kept.to_string_lossy().contains("octoporty.db.before-restore-2"), "{}", kept.display());
        assert_eq!(Store::open(&kept).expect("a store").mappings().expect("mappings"), [a, b]);
        let again = restore(&path, &copy).expect("restored twice within a second");
        assert!(again.kept.is_some_and(|other| other != kept && other.exists()));
        assert!(copy.exists());
        // On a new machine there is nothing to keep.
        let fresh = scratch.path().join("fresh.db");
        assert!(restore(&fresh, &copy).expect("restored").kept.is_none());
        assert_eq!(count(&fresh, "PortMappings"), 1);
        let left = files(&scratch);
        assert!(left.iter().all(|name| !name.ends_with(".part") && !name.ends_with("-wal")), "{left:?}");
    }

    #[test]
    fn what_will_not_do_is_refused_and_nothing_changes() {
        let scratch = Scratch::new();
        let path = scratch.path().join("octoporty.db");
        let store = scratch.store();
        for n in 0..50 {
            store.insert(mapping_for_tests(&format!("m{n}.example"))).expect("saved");
        }
        let good = scratch.path().join("good.db");
        store.backup_to(&good).expect("a copy");
        drop(store);
        let before = fs::read(&path).expect("the database");

        let text = scratch.path().join("text");
        fs::write(&text, "no database at all ".repeat(100)).expect("a file");
        let empty = scratch.path().join("empty");
        fs::write(&empty, "").expect("a file");
        let other = scratch.path().join("other.db");
        Connection::open(&other).and_then(|c| c.execute_batch("CREATE TABLE x (y)")).expect("a database");
        let damaged = scratch.path().join("damaged.db");
        let mut bytes = fs::read(&good).expect("the copy");
        let middle = bytes.len() / 2;
        bytes[middle..middle + 6_000].fill(0x5a);
        fs::write(&damaged, bytes).expect("a file");
        let newer = scratch.path().join("newer.db");
        fs::copy(&good, &newer).expect("a copy");
        Connection::open(&newer)
            .and_then(|c| c.execute_batch("INSERT INTO OctoportyMigrations VALUES ('9999_Future', '')"))
            .expect("a step");
        let missing = scratch.path().join("missing");
        for (from, word) in [
            (&text, "not an SQLite database"),
            (&empty, "no database of an Agent"),
            (&other, "no database of an Agent"),
            (&damaged, "damaged"),
            (&newer, "newer version"),
            (&missing, "does not exist"),
            (&path, "itself"),
        ] {
            let said = restore(&path, from).expect_err(word).to_string();
            assert!(said.contains(word), "{word}: {said}");
            assert_eq!(fs::read(&path).expect("the database"), before, "{word}");
        }
        // The damaged one is why people restore.
        fs::copy(&damaged, &path).expect("an accident");
        let restored = restore(&path, &good).expect("restored");
        assert_eq!(restored.mappings, 50);
        let text_in_its_place = "no database at all ".repeat(10);
        fs::write(&path, &text_in_its_place).expect("an accident");
        let kept = restore(&path, &good).expect("restored").kept.expect("kept");
        assert_eq!(fs::read_to_string(kept).expect("kept"), text_in_its_place);
        assert_eq!(Store::open(&path).expect("a store").mappings().expect("mappings").len(), 50);
    }

    #[test]
    fn a_database_that_was_copied_with_its_log_is_restored_with_what_is_in_the_log() {
        let scratch = Scratch::new();
        let store = scratch.store();
        store.insert(mapping_for_tests("in-the-log.example")).expect("saved");
        // While it runs, as a volume is copied: the mapping is not in the file itself yet.
        let from = scratch.path().join("copied");
        fs::create_dir(&from).expect("a directory");
        for name in ["octoporty.db", "octoporty.db-wal"] {
            fs::copy(scratch.path().join(name), from.join(name)).expect("a copy");
        }
        let before = fs::read(from.join("octoporty.db")).expect("the file");
        let fresh = scratch.path().join("fresh.db");
        assert_eq!(restore(&fresh, &from.join("octoporty.db")).expect("restored").mappings, 1);
        assert_eq!(count(&fresh, "PortMappings"), 1);
        assert_eq!(fs::read(from.join("octoporty.db")).expect("the file"), before, "left alone");
    }

    #[test]
    fn rests_of_interrupted_copies_go_at_the_next_start() {
        let scratch = Scratch::new();
        let (old, new) =
            (scratch.path().join("octoporty.db.snapshot-a"), scratch.path().join("octoporty.db.snapshot-b"));
        for path in [&old, &new] {
            fs::write(path, "rest").expect("a file");
        }
        let file = File::options().write(true).open(&old).expect("the file");
        file.set_modified(SystemTime::now() - 2 * STALE).expect("a date");
        drop(scratch.store());
        assert!(!old.exists() && new.exists());
    }
}
