//! The Agent's memory: mappings, sessions of the admin page and the Agent's identity, in SQLite.
//!
//! The only file with SQL besides [`crate::migrations`], which makes the tables. One thread, `store`, owns
//! the one connection that writes: SQLite lets nobody else write meanwhile anyway, and so a writer waits in a
//! channel instead of in SQLite's busy loop, and no mutex is held across a disk. Readers have connections of
//! their own and see the last committed state without waiting (WAL). Whether what is stored makes sense to
//! save is asked by the API.
//!
//! Columns are addressed by name and ids compared without regard to case, because the file may have been
//! written by the earlier program, in any of its versions.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, TransactionBehavior, params};
use time::OffsetDateTime;

use shared::hostname::Hostname;
use shared::mapping::{HostHeader, Mapping, MappingId, UpstreamHost};
use shared::threads;

use crate::migrations::{self, MigrationError, Work};
use crate::random;
use crate::timestamp;

/// How long SQLite waits for another process (a backup, the earlier program) to let go of the file.
const BUSY: Duration = Duration::from_secs(5);
/// Jobs that may wait for the writer: those who give one wait for its answer, so there are never more than
/// threads.
const JOBS: usize = 64;
/// Idle connections kept for readers.
const IDLE_READERS: usize = 4;
/// Mappings at most: their table travels to the Gateway in one message, and nobody runs that many services at
/// home.
pub const MAX_MAPPINGS: i64 = 5_000;
/// Sessions of the admin page at most; the one unused for longest makes room.
const MAX_SESSIONS: i64 = 100;
/// Files up to this size are checked through and through at each start; it takes some milliseconds.
const CHECKED: u64 = 4 * 1024 * 1024;
/// Where the Agent's identity is kept.
const AGENT_ID: &str = "AgentId";

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

/// A row of the mapping table.
#[derive(Clone, Debug)]
pub enum Stored {
    /// A mapping that can be used.
    Mapping(Mapping),
    /// One that cannot, so that the Operator can see, mend or delete it.
    Unreadable(Unreadable),
}

/// A mapping that the earlier program accepted and we cannot use, as it stands in the database.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// Its id, the only part that is surely right.
    pub id: MappingId,
    /// The public name.
    pub domain: String,
    /// The private host.
    pub host: String,
    /// The private port.
    pub port: i64,
    /// Whether it asks for TLS.
    pub tls: bool,
    /// Whether any certificate will do.
    pub allow_invalid_certificates: bool,
    /// Whether it is switched on; it is not offered to the Gateway all the same.
    pub enabled: bool,
    /// The Operator's words.
    pub description: Option<String>,
    /// When it was made, if that can be read.
    pub created_at: Option<OffsetDateTime>,
    /// When it was changed, if that can be read.
    pub updated_at: Option<OffsetDateTime>,
    /// What is wrong with it.
    pub fault: String,
}

impl Stored {
    /// Its id.
    pub fn id(&self) -> MappingId {
        match self {
            Stored::Mapping(mapping) => mapping.id,
            Stored::Unreadable(row) => row.id,
        }
    }
}

/// A login to the admin page, kept so that it survives a restart. The token itself is never stored.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) token_hash: String,
    /// Says which password it was made with: a new password ends all sessions.
    pub(crate) password_tag: String,
    pub(crate) expires_at: OffsetDateTime,
    pub(crate) address: String,
    pub(crate) user_agent: Option<String>,
}

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
            StoreError::Thread(e) => write!(f, "cannot start the thread that writes the database: {e}"),
            StoreError::Ended => f.write_str("the thread that writes the database has ended"),
            StoreError::Sqlite(path, e) => write!(f, "database {}: {e}", path.display()),
        }
    }
}

impl std::error::Error for StoreError {}

impl StoreError {
    fn of(path: &Path, error: rusqlite::Error) -> StoreError {
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

/// Why a mapping was not saved.
#[derive(Debug)]
pub enum SaveError {
    /// Another mapping has the domain.
    DomainTaken(Hostname),
    /// There are [`MAX_MAPPINGS`].
    TooMany,
    /// The database.
    Store(StoreError),
}

impl fmt::Display for SaveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SaveError::DomainTaken(domain) => write!(f, "the domain {domain} already has a mapping"),
            SaveError::TooMany => write!(f, "there are {MAX_MAPPINGS} mappings already, which is the most"),
            SaveError::Store(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for SaveError {}

impl From<StoreError> for SaveError {
    fn from(error: StoreError) -> SaveError {
        SaveError::Store(error)
    }
}

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
        make_agent_id(&writer).map_err(fault)?;
        warn_of_unreadable(&writer).map_err(fault)?;

        let (jobs, received) = crossbeam_channel::bounded(JOBS);
        let writer = threads::spawn("store", move || write(writer, &received)).map_err(StoreError::Thread)?;
        Ok(Store(Arc::new(Inner {
            path: path.to_owned(),
            readers: Mutex::new(Vec::new()),
            jobs: Some(jobs),
            writer: Some(writer),
        })))
    }

    /// The Agent's identity: a UUID made when the database was.
    pub fn agent_id(&self) -> Result<String, StoreError> {
        self.read(agent_id)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Every mapping that can be used, by domain. Others are left out; they were named in the log at the
    /// start and are among [`Store::stored`].
    pub fn mappings(&self) -> Result<Vec<Mapping>, StoreError> {
        let usable = |row| match row {
            Stored::Mapping(mapping) => Some(mapping),
            Stored::Unreadable(_) => None,
        };
        Ok(self.stored()?.into_iter().filter_map(usable).collect())
    }

    /// Every row of the mapping table, by domain.
    pub fn stored(&self) -> Result<Vec<Stored>, StoreError> {
        self.read(all)
    }

    /// The row with this id.
    pub fn find(&self, id: MappingId) -> Result<Option<Stored>, StoreError> {
        self.read(move |connection| one(connection, id))
    }

    /// Adds a mapping under a new id.
    pub(crate) fn insert(&self, mapping: Mapping) -> Result<(), SaveError> {
        self.durable(move |connection| {
            let rows: i64 =
                connection.query_row(r#"SELECT count(*) FROM "PortMappings""#, [], |row| row.get(0))?;
            if rows >= MAX_MAPPINGS {
                return Ok(Err(SaveError::TooMany));
            }
            if domain_taken(connection, &mapping)? {
                return Ok(Err(SaveError::DomainTaken(mapping.domain)));
            }
            connection.execute(
                r#"INSERT INTO "PortMappings" ("Id", "ExternalDomain", "InternalHost", "InternalPort",
                       "InternalUseTls", "AllowSelfSignedCerts", "IsEnabled", "Description", "CreatedAt",
                       "UpdatedAt")
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"#,
                params![
                    mapping.id.database_form(),
                    mapping.domain.as_str(),
                    mapping.host.to_string(),
                    mapping.port,
                    mapping.tls,
                    mapping.allow_invalid_certificates,
                    mapping.enabled,
                    mapping.description,
                    timestamp::database_form(mapping.created_at),
                    timestamp::database_form(mapping.updated_at),
                ],
            )?;
            save_options(connection, &mapping)?;
            Ok(Ok(()))
        })?
    }

    /// Replaces the row with this id by what `change` makes of it, with nobody writing in between. `None`
    /// when there is no such row; the inner error is that of `change`.
    pub(crate) fn change<E: Send + 'static>(
        &self,
        id: MappingId,
        change: impl FnOnce(Stored) -> Result<Mapping, E> + Send + 'static,
    ) -> Result<Option<Result<Mapping, E>>, SaveError> {
        self.durable(move |connection| {
            let Some(row) = one(connection, id)? else { return Ok(Ok(None)) };
            let mapping = match change(row) {
                Ok(mapping) => mapping,
                Err(fault) => return Ok(Ok(Some(Err(fault)))),
            };
            if domain_taken(connection, &mapping)? {
                return Ok(Err(SaveError::DomainTaken(mapping.domain)));
            }
            connection.execute(
                r#"UPDATE "PortMappings" SET "ExternalDomain" = ?2, "InternalHost" = ?3, "InternalPort" = ?4,
                       "InternalUseTls" = ?5, "AllowSelfSignedCerts" = ?6, "IsEnabled" = ?7,
                       "Description" = ?8, "CreatedAt" = ?9, "UpdatedAt" = ?10
                   WHERE upper("Id") = ?1"#,
                params![
                    id.database_form(),
                    mapping.domain.as_str(),
                    mapping.host.to_string(),
                    mapping.port,
                    mapping.tls,
                    mapping.allow_invalid_certificates,
                    mapping.enabled,
                    mapping.description,
                    timestamp::database_form(mapping.created_at),
                    timestamp::database_form(mapping.updated_at),
                ],
            )?;
            save_options(connection, &mapping)?;
            Ok(Ok(Some(Ok(mapping))))
        })?
    }

    /// Removes the row with this id; whether there was one.
    pub(crate) fn delete(&self, id: MappingId) -> Result<bool, StoreError> {
        self.durable(move |connection| {
            let id = id.database_form();
            Ok(connection.execute(r#"DELETE FROM "PortMappings" WHERE upper("Id") = ?1"#, [id])? > 0)
        })
    }

    /// Keeps a session. Expired ones and those of another password go.
    pub(crate) fn add_session(&self, session: Session, now: OffsetDateTime) -> Result<(), StoreError> {
        self.write(move |connection| {
            let now = timestamp::database_form(now);
            connection.execute(
                r#"DELETE FROM "OctoportySessions" WHERE "ExpiresAt" <= ?1 OR "PasswordTag" <> ?2"#,
                [&now, &session.password_tag],
            )?;
            connection.execute(
                r#"DELETE FROM "OctoportySessions" WHERE "Id" IN
                       (SELECT "Id" FROM "OctoportySessions"
                        ORDER BY "UsedAt" DESC, "Id" LIMIT -1 OFFSET ?1)"#,
                [MAX_SESSIONS - 1],
            )?;
            connection.execute(
                r#"INSERT INTO "OctoportySessions"
                       ("Id", "TokenHash", "PasswordTag", "CreatedAt", "UsedAt", "ExpiresAt", "Address",
                        "UserAgent")
                   VALUES (?1, ?2, ?3, ?4, ?4, ?5, ?6, ?7)"#,
                params![
                    MappingId::from_random(random::bytes()).database_form(),
                    session.token_hash,
                    session.password_tag,
                    now,
                    timestamp::database_form(session.expires_at),
                    session.address,
                    session.user_agent,
                ],
            )?;
            Ok(())
        })
    }

    /// Swaps the token of a live session for the one in `next`: a token works once. Whether there was such a
    /// session.
    pub(crate) fn rotate_session(
        &self,
        token_hash: String,
        next: Session,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        self.write(move |connection| {
            let changed = connection.execute(
                r#"UPDATE "OctoportySessions"
                   SET "TokenHash" = ?2, "UsedAt" = ?4, "ExpiresAt" = ?5, "Address" = ?6, "UserAgent" = ?7
                   WHERE "TokenHash" = ?1 AND "PasswordTag" = ?3 AND "ExpiresAt" > ?4"#,
                params![
                    token_hash,
                    next.token_hash,
                    next.password_tag,
                    timestamp::database_form(now),
                    timestamp::database_form(next.expires_at),
                    next.address,
                    next.user_agent,
                ],
            )?;
            Ok(changed > 0)
        })
    }

    /// Ends the session with this token, if there is one.
    pub(crate) fn end_session(&self, token_hash: String) -> Result<(), StoreError> {
        self.write(move |connection| {
            connection.execute(r#"DELETE FROM "OctoportySessions" WHERE "TokenHash" = ?1"#, [token_hash])?;
            Ok(())
        })
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
    // By another name first, so that a copy cut short is never taken for one.
    let mut name = copy.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let _ = fs::remove_file(&part);
    let text = part.to_string_lossy();
    connection.execute("VACUUM INTO ?1", [&*text]).map_err(|e| failed(StoreError::of(path, e)))?;
    fs::File::open(&part).and_then(|file| file.sync_all()).and_then(|()| fs::rename(&part, &copy)).map_err(
        |e| failed(StoreError::Sqlite(path.to_owned(), rusqlite::Error::ToSqlConversionFailure(e.into()))),
    )?;
    log::info!("database {}: is of an earlier version, copied to {}", path.display(), copy.display());
    Ok(())
}

fn migration_error(path: &Path, error: MigrationError) -> StoreError {
    match error {
        MigrationError::Newer(step) => StoreError::Newer(path.to_owned(), step),
        MigrationError::Sqlite(error) => StoreError::of(path, error),
    }
}

/// Makes the identity if there is none. Two processes that both find none agree on the one written first.
fn make_agent_id(connection: &Connection) -> Result<(), rusqlite::Error> {
    let fresh = MappingId::from_random(random::bytes()).to_string();
    let now = timestamp::database_form(timestamp::now());
    connection.execute(
        r#"INSERT INTO "Settings" ("Key", "Value", "UpdatedAt") VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING"#,
        [AGENT_ID, &fresh, &now],
    )?;
    Ok(())
}

fn agent_id(connection: &Connection) -> Result<String, rusqlite::Error> {
    connection.query_row(r#"SELECT "Value" FROM "Settings" WHERE "Key" = ?1"#, [AGENT_ID], |row| row.get(0))
}

fn warn_of_unreadable(connection: &Connection) -> Result<(), rusqlite::Error> {
    for row in all(connection)? {
        if let Stored::Unreadable(row) = row {
            log::warn!("mapping {} ({:?} to {:?}) is not used: {}", row.id, row.domain, row.host, row.fault);
        }
    }
    let rows: i64 = connection.query_row(r#"SELECT count(*) FROM "PortMappings""#, [], |row| row.get(0))?;
    let known = all(connection)?.len() as i64;
    if rows != known {
        log::warn!("{} mappings have an id that is no UUID and are not used", rows - known);
    }
    Ok(())
}

const COLUMNS: &str = r#"
    SELECT m."Id", "ExternalDomain", "InternalHost", "InternalPort", "InternalUseTls", "AllowSelfSignedCerts",
           "IsEnabled", "Description", "CreatedAt", "UpdatedAt", o."HostHeader"
    FROM "PortMappings" m LEFT JOIN "OctoportyMappingOptions" o ON o."MappingId" = m."Id""#;

fn all(connection: &Connection) -> Result<Vec<Stored>, rusqlite::Error> {
    let mut statement =
        connection.prepare_cached(&format!(r#"{COLUMNS} ORDER BY "ExternalDomain", m."Id""#))?;
    let mut rows = statement.query([])?;
    let mut stored = Vec::new();
    while let Some(row) = rows.next()? {
        stored.extend(parse(row)?);
    }
    // The database compares domains by case, so the earlier program could keep `A.example` beside
    // `a.example`.
    let mut seen = std::collections::HashSet::new();
    for row in &mut stored {
        if let Stored::Mapping(mapping) = row
            && !seen.insert(mapping.domain.clone())
        {
            let fault = format!("another mapping has the domain {}", mapping.domain);
            *row = Stored::Unreadable(unreadable(mapping, fault));
        }
    }
    Ok(stored)
}

fn one(connection: &Connection, id: MappingId) -> Result<Option<Stored>, rusqlite::Error> {
    let mut statement = connection.prepare_cached(&format!(r#"{COLUMNS} WHERE upper(m."Id") = ?1"#))?;
    Ok(statement.query_row([id.database_form()], parse).optional()?.flatten())
}

/// `None` for a row whose id is no UUID: it cannot be named, neither in the API nor in the tunnel.
fn parse(row: &Row<'_>) -> Result<Option<Stored>, rusqlite::Error> {
    let Ok(id) = row.get::<_, String>("Id")?.parse::<MappingId>() else { return Ok(None) };
    let host_header: Option<String> = row.get("HostHeader")?;
    let mut raw = Unreadable {
        id,
        domain: row.get("ExternalDomain")?,
        host: row.get("InternalHost")?,
        port: row.get("InternalPort")?,
        tls: row.get("InternalUseTls")?,
        allow_invalid_certificates: row.get("AllowSelfSignedCerts")?,
        enabled: row.get("IsEnabled")?,
        description: row.get("Description")?,
        created_at: timestamp::from_database(&row.get::<_, String>("CreatedAt")?),
        updated_at: timestamp::from_database(&row.get::<_, String>("UpdatedAt")?),
        fault: String::new(),
    };
    Ok(Some(match usable(&raw, host_header.as_deref()) {
        Ok(mapping) => Stored::Mapping(mapping),
        Err(fault) => {
            raw.fault = fault;
            Stored::Unreadable(raw)
        }
    }))
}

fn usable(raw: &Unreadable, host_header: Option<&str>) -> Result<Mapping, String> {
    Ok(Mapping {
        id: raw.id,
        domain: Hostname::parse(&raw.domain).map_err(|fault| fault.to_string())?,
        host: UpstreamHost::parse(raw.host.trim())
            .map_err(|fault| format!("host {:?}: {fault}", raw.host))?,
        port: u16::try_from(raw.port)
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| format!("port {}: must be 1 to 65535", raw.port))?,
        tls: raw.tls,
        allow_invalid_certificates: raw.allow_invalid_certificates,
        enabled: raw.enabled,
        description: raw.description.clone(),
        // The earlier program knows no such option and always sent the upstream's own name.
        host_header: match host_header {
            None => HostHeader::Target,
            Some(text) => {
                HostHeader::parse(text).map_err(|fault| format!("host header {text:?}: {fault}"))?
            }
        },
        created_at: raw.created_at.unwrap_or(OffsetDateTime::UNIX_EPOCH),
        updated_at: raw.updated_at.unwrap_or(OffsetDateTime::UNIX_EPOCH),
    })
}

fn unreadable(mapping: &Mapping, fault: String) -> Unreadable {
    Unreadable {
        id: mapping.id,
        domain: mapping.domain.as_str().to_owned(),
        host: mapping.host.to_string(),
        port: mapping.port.into(),
        tls: mapping.tls,
        allow_invalid_certificates: mapping.allow_invalid_certificates,
        enabled: mapping.enabled,
        description: mapping.description.clone(),
        created_at: Some(mapping.created_at),
        updated_at: Some(mapping.updated_at),
        fault,
    }
}

/// Whether another row has the domain, in whatever case.
fn domain_taken(connection: &Connection, mapping: &Mapping) -> Result<bool, rusqlite::Error> {
    connection.query_row(
        r#"SELECT EXISTS (SELECT 1 FROM "PortMappings"
                          WHERE lower("ExternalDomain") = ?1 AND upper("Id") <> ?2)"#,
        [mapping.domain.as_str(), &mapping.id.database_form()],
        |row| row.get(0),
    )
}

/// Under the id as the mapping's own row spells it, or the foreign key would not find it.
fn save_options(connection: &Connection, mapping: &Mapping) -> Result<(), rusqlite::Error> {
    connection.execute(
        r#"INSERT INTO "OctoportyMappingOptions" ("MappingId", "HostHeader")
           SELECT "Id", ?2 FROM "PortMappings" WHERE upper("Id") = ?1
           ON CONFLICT ("MappingId") DO UPDATE SET "HostHeader" = excluded."HostHeader""#,
        [mapping.id.database_form(), mapping.host_header.database_form()],
    )?;
    Ok(())
}

/// By way of the owner of our own process's directory, which needs no unsafe call.
fn user_id() -> u32 {
    fs::metadata("/proc/self").map_or(0, |process| process.uid())
}

/// For tests of this crate: a directory that goes when dropped.
#[cfg(test)]
pub(crate) mod scratch {
    use std::path::{Path, PathBuf};

    use super::*;

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

        pub(crate) fn store(&self) -> Store {
            Store::open(&self.0.join("octoporty.db")).expect("a store")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::scratch::Scratch;
    use super::*;

    fn mapping(domain: &str) -> Mapping {
        let now = timestamp::now();
        Mapping {
            id: MappingId::from_random(random::bytes()),
            domain: Hostname::parse(domain).expect("a domain"),
            host: UpstreamHost::parse("192.168.1.20").expect("a host"),
            port: 8080,
            tls: true,
            allow_invalid_certificates: true,
            enabled: true,
            description: Some("the \"NAS\"".into()),
            host_header: HostHeader::parse("nas.lan:8080").expect("a host header"),
            created_at: now,
            updated_at: now,
        }
    }

    /// As the earlier program would: without options, with its own ideas of what a host is.
    fn raw_row(path: &Path, id: &str, domain: &str, host: &str, port: i64) {
        let connection = Connection::open(path).expect("the file");
        connection
            .execute(
                r#"INSERT INTO "PortMappings" ("Id", "ExternalDomain", "InternalHost", "InternalPort",
                       "InternalUseTls", "AllowSelfSignedCerts", "IsEnabled", "CreatedAt", "UpdatedAt")
                   VALUES (?1, ?2, ?3, ?4, 0, 0, 1, '2026-01-20 19:37:06', '2026-01-20 19:37:06.5')"#,
                params![id, domain, host, port],
            )
            .expect("a row");
    }

    #[test]
    fn a_mapping_survives_a_restart_with_every_field() {
        let scratch = Scratch::new();
        let (a, b) = (mapping("b.example"), mapping("*.a.example"));
        let id = {
            let store = scratch.store();
            store.insert(a.clone()).expect("saved");
            store.insert(b.clone()).expect("saved");
            store.agent_id().expect("an id")
        };
        let store = scratch.store();
        assert_eq!(store.mappings().expect("mappings"), [b, a]);
        assert_eq!(store.agent_id().expect("an id"), id);
        assert!(id.parse::<MappingId>().is_ok(), "{id}");
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
    fn a_second_mapping_for_a_domain_is_refused_in_any_case() {
        let scratch = Scratch::new();
        let store = scratch.store();
        let first = mapping("a.example");
        store.insert(first.clone()).expect("saved");
        let second = mapping("A.example");
        assert!(matches!(store.insert(second.clone()), Err(SaveError::DomainTaken(_))));
        let second = Mapping { domain: Hostname::parse("b.example").expect("a domain"), ..second };
        store.insert(second.clone()).expect("saved");
        let moved = store.change(second.id, move |_| Ok::<_, ()>(Mapping { domain: first.domain, ..second }));
        assert!(matches!(moved, Err(SaveError::DomainTaken(_))));
        let kept: Vec<_> =
            store.mappings().expect("mappings").iter().map(|m| m.domain.as_str().to_owned()).collect();
        assert_eq!(kept, ["a.example", "b.example"]);
    }

    #[test]
    fn a_change_sees_the_row_and_may_refuse() {
        let scratch = Scratch::new();
        let store = scratch.store();
        let saved = mapping("a.example");
        store.insert(saved.clone()).expect("saved");
        let expected = saved.clone();
        let refused = store.change(saved.id, move |row| {
            assert!(matches!(row, Stored::Mapping(m) if m == expected));
            Err("no")
        });
        assert!(matches!(refused, Ok(Some(Err("no")))));
        let off =
            Mapping { enabled: false, description: None, host_header: HostHeader::Target, ..saved.clone() };
        let expected = off.clone();
        let changed = store.change(saved.id, |_| Ok::<_, ()>(off)).expect("saved");
        assert_eq!(changed, Some(Ok(expected.clone())));
        assert_eq!(store.mappings().expect("mappings"), [expected]);
        assert_eq!(store.change(MappingId::from_bytes([9; 16]), |_| Err(())).expect("asked"), None);
    }

    #[test]
    fn a_deleted_mapping_is_gone_with_its_options() {
        let scratch = Scratch::new();
        let store = scratch.store();
        let saved = mapping("a.example");
        store.insert(saved.clone()).expect("saved");
        assert!(store.delete(saved.id).expect("asked"));
        assert!(!store.delete(saved.id).expect("asked"));
        assert!(store.stored().expect("rows").is_empty());
        let options = |c: &Connection| {
            c.query_row("SELECT count(*) FROM OctoportyMappingOptions", [], |r| r.get::<_, i64>(0))
        };
        assert_eq!(store.read(options).expect("a count"), 0);
    }

    #[test]
    fn rows_of_the_earlier_program_are_used_listed_and_mended() {
        let scratch = Scratch::new();
        let store = scratch.store();
        let path = store.path().to_owned();
        raw_row(&path, "75295907-2F5A-45EB-A467-FCC46AF4F9C6", "Old.Example", "nas", 80);
        raw_row(&path, "75295907-2f5a-45eb-a467-fcc46af4f9c7", "url.example", "nas/path", 80);
        raw_row(&path, "75295907-2F5A-45EB-A467-FCC46AF4F9C8", "port.example", "nas", 70000);
        raw_row(&path, "75295907-2F5A-45EB-A467-FCC46AF4F9C9", "old.example", "nas", 81);
        raw_row(&path, "not an id", "lost.example", "nas", 80);

        let mappings = store.mappings().expect("mappings");
        assert_eq!(mappings.len(), 1);
        assert_eq!(mappings[0].domain.as_str(), "old.example");
        assert_eq!(mappings[0].host_header, HostHeader::Target);
        assert_eq!(timestamp::database_form(mappings[0].updated_at), "2026-01-20 19:37:06.5");

        let faults: Vec<_> = store
            .stored()
            .expect("rows")
            .into_iter()
            .filter_map(|row| if let Stored::Unreadable(row) = row { Some(row.fault) } else { None })
            .collect();
        assert_eq!(faults.len(), 3, "{faults:?}");
        for word in ["another mapping", "70000", "nas/path"] {
            assert!(faults.iter().any(|fault| fault.contains(word)), "{word}: {faults:?}");
        }

        // The lower-case id is found, changed in place, and its options follow its spelling.
        let id = "75295907-2F5A-45EB-A467-FCC46AF4F9C7".parse().expect("an id");
        let better = Mapping { id, ..mapping("url.example") };
        let expected = better.clone();
        let changed = store.change(id, |_| Ok::<_, ()>(better)).expect("saved");
        assert_eq!(changed, Some(Ok(expected.clone())));
        assert!(store.mappings().expect("mappings").contains(&expected));
        assert!(store.delete(id).expect("asked"));
    }

    #[test]
    fn a_token_works_once_and_only_while_it_lives() {
        let scratch = Scratch::new();
        let store = scratch.store();
        let now = timestamp::now();
        let session = |token: &str, tag: &str, seconds| Session {
            token_hash: token.into(),
            password_tag: tag.into(),
            expires_at: now + Duration::from_secs(seconds),
            address: "::1".into(),
            user_agent: None,
        };
        let rotate = |from: &str, to: &str, tag: &str, at| {
            store.rotate_session(from.into(), session(to, tag, 100), at).expect("asked")
        };
        store.add_session(session("a", "p", 10), now).expect("saved");
        assert!(rotate("a", "b", "p", now));
        assert!(!rotate("a", "c", "p", now), "used twice");
        assert!(!rotate("b", "c", "another password", now));
        assert!(!rotate("b", "c", "p", now + Duration::from_secs(100)), "expired");
        store.end_session("b".into()).expect("ended");
        assert!(!rotate("b", "c", "p", now));
    }

    #[test]
    fn sessions_are_bounded_and_the_stalest_goes() {
        let scratch = Scratch::new();
        let store = scratch.store();
        let start = timestamp::now();
        let session = |n: i64| Session {
            token_hash: format!("t{n}"),
            password_tag: "p".into(),
            expires_at: start + Duration::from_secs(10_000),
            address: "::1".into(),
            user_agent: None,
        };
        for n in 0..=MAX_SESSIONS {
            store.add_session(session(n), start + Duration::from_secs(n as u64)).expect("saved");
        }
        let at = start + Duration::from_secs(1_000);
        assert!(!store.rotate_session("t0".into(), session(1_000), at).expect("asked"));
        assert!(store.rotate_session("t1".into(), session(1_001), at).expect("asked"));
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
