//! What can be wrong with the database, in words that say what to do.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// Why the database cannot be used.
#[derive(Debug)]
pub enum StoreError {
    /// The directory of the file is not there.
    NoDirectory(PathBuf),
    /// The file or its directory cannot be read or written by us; our user id.
    Denied(PathBuf, u32),
    /// The file is something else.
    NotADatabase(PathBuf),
    /// The file is damaged; SQLite's words.
    Damaged(PathBuf, String),
    /// Another process keeps it locked.
    Locked(PathBuf),
    /// The disk is full.
    Full(PathBuf),
    /// A newer program has changed the tables; the step we do not know.
    Newer(PathBuf, String),
    /// The copy to be made before the tables are changed cannot be made.
    Copy(PathBuf, Box<StoreError>),
    /// There is no such file.
    Missing(PathBuf),
    /// There is such a file already.
    Exists(PathBuf),
    /// The file to be restored is the database itself.
    Itself(PathBuf),
    /// The file is a database, but not of an Agent.
    NotOurs(PathBuf),
    /// An Agent runs on the database.
    InUse(PathBuf),
    /// A file cannot be made, read or renamed.
    Io(PathBuf, io::Error),
    /// The writer thread could not be started.
    Thread(io::Error),
    /// The writer thread has ended, which it does only by a fault of ours.
    Ended,
    /// Anything else SQLite says.
    Sqlite(PathBuf, rusqlite::Error),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::NoDirectory(path) => write!(
                f,
                "database {}: its directory does not exist; create it, or name another file in \
                 ConnectionStrings__DefaultConnection",
                path.display()
            ),
            StoreError::Denied(path, uid) => write!(
                f,
                "database {}: cannot be opened for writing by user id {uid}; the file and its \
                 directory (where SQLite puts two companion files) must belong to that user",
                path.display()
            ),
            StoreError::NotADatabase(path) => write!(
                f,
                "database {}: is not an SQLite database; nothing was changed, move it away or name \
                 another file in ConnectionStrings__DefaultConnection",
                path.display()
            ),
            StoreError::Damaged(path, what) => write!(
                f,
                "database {}: is damaged ({what}); nothing was changed, put a backup in its place or \
                 move it away to start with an empty one",
                path.display()
            ),
            StoreError::Locked(path) => write!(
                f,
                "database {}: is locked by another process; is another Agent using the same file?",
                path.display()
            ),
            StoreError::Full(path) => {
                write!(f, "database {}: the disk is full, make room and try again", path.display())
            }
            StoreError::Newer(path, step) => write!(
                f,
                "database {}: was changed by a newer version (step {step}); run that version, or put \
                 back the copy made before the update",
                path.display()
            ),
            StoreError::Copy(path, why) => {
                write!(f, "cannot make the copy {} before changing the tables: {why}", path.display())
            }
            StoreError::Missing(path) => write!(f, "{}: does not exist", path.display()),
            StoreError::Exists(path) => {
                write!(f, "{}: exists already and is not overwritten; choose another name", path.display())
            }
            StoreError::Itself(path) => {
                write!(f, "{}: is the database itself, there is nothing to restore", path.display())
            }
            StoreError::NotOurs(path) => {
                write!(f, "{}: is no database of an Agent, it has no table of mappings", path.display())
            }
            StoreError::InUse(path) => write!(
                f,
                "database {}: is in use; stop the Agent first, and start it again afterwards",
                path.display()
            ),
            StoreError::Io(path, e) => write!(f, "{}: {e}", path.display()),
            StoreError::Thread(e) => write!(f, "cannot start the thread that writes the database: {e}"),
            StoreError::Ended => f.write_str("the thread that writes the database has ended"),
            StoreError::Sqlite(path, e) => write!(f, "database {}: {e}", path.display()),
        }
    }
}

impl std::error::Error for StoreError {}

impl StoreError {
    /// Of a file beside the database.
    pub(super) fn io(path: &Path, error: io::Error) -> StoreError {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                StoreError::Denied(path, user_id())
            }
            io::ErrorKind::StorageFull => StoreError::Full(path),
            _ => StoreError::Io(path, error),
        }
    }

    pub(super) fn of(path: &Path, error: rusqlite::Error) -> StoreError {
        let path = path.to_owned();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Locked(path),
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
                StoreError::Denied(path, user_id())
            }
            Some(ErrorCode::NotADatabase) => StoreError::NotADatabase(path),
            Some(ErrorCode::DatabaseCorrupt) => StoreError::Damaged(path, error.to_string()),
            Some(ErrorCode::DiskFull) => StoreError::Full(path),
            _ => StoreError::Sqlite(path, error),
        }
    }
}

/// By way of the owner of our own process's directory, which needs no unsafe call.
pub(crate) fn user_id() -> u32 {
    fs::metadata("/proc/self").map_or(0, |process| process.uid())
}
