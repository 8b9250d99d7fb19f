//! Databases that an Agent cannot use: it says what is wrong and what to do, exits with 1, and has changed nothing.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use agent::store::Store;
use e2e::machine::{self, SmallDisk};
use rusqlite::Connection;

use crate::world::{Folder, HASH};

/// How long an Agent may take to give up; a locked database is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
const AGENT: &str = env!("CARGO_BIN_EXE_octoporty-agent");

/// Starts an Agent on a database, waits for it to give up, and gives what it said.
fn gives_up(mut command: Command, database: &Path) -> String {
    let connection = format!("Data Source={}", database.display());
    command.env_clear().envs([
        ("Agent__GatewayUrl", "ws://127.0.0.1:9"),
        ("Agent__ApiKey", "0123456789abcdef0123456789abcdef"),
        ("Agent__JwtSecret", "ABCDEFGHIJKLMNOPQRSTUVWXYZ-0123456789"),
        ("Agent__Auth__PasswordHash", HASH),
        ("Agent__Port", "0"),
        ("Agent__BindAddress", "127.0.0.1"),
        ("Logging__FilePath", ""),
        ("ConnectionStrings__DefaultConnection", &connection),
    ]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program can be run");
    let mut stderr = child.stderr.take().expect("piped");
    // All it says, once it has ended or closed it.
    let (sender, said) = mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).expect("text");
        sender.send(text)
    });
    let Ok(said) = said.recv_timeout(PATIENCE) else {
        child.kill().expect("killed");
        panic!("it runs on {}", database.display());
    };
    let status = child.wait().expect("its status");
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

fn agent() -> Command {
    Command::new(AGENT)
}

fn says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{word:?} is missing: {said}");
    }
}

/// A database with some rows, of several pages.
fn database(folder: &Folder) -> PathBuf {
    let path = folder.path().join("octoporty.db");
    drop(Store::open(&path).expect("a store"));
    let connection = Connection::open(&path).expect("the file");
    for n in 0..200 {
        connection
            .execute(
                r#"INSERT INTO "PortMappings" ("Id", "ExternalDomain", "InternalHost", "InternalPort",
                       "InternalUseTls", "AllowSelfSignedCerts", "IsEnabled", "CreatedAt", "UpdatedAt")
                   VALUES (?1, ?2, 'nas', 80, 0, 0, 1, '2026-01-20 19:37:06', '2026-01-20 19:37:06')"#,
                [format!("75295907-2F5A-45EB-A467-FCC46AF4{n:04}"), format!("m{n}.example")],
            )
            .expect("a row");
    }
    path
}

/// As it was before this version: something is to be changed, so a copy is to be made.
fn make_older(path: &Path) {
    let connection = Connection::open(path).expect("the file");
    connection
        .execute_batch(
            r#"DROP TABLE "Settings";
            DELETE FROM "__EFMigrationsHistory" WHERE "MigrationId" LIKE '%AddSettings';
            PRAGMA journal_mode = delete;"#,
        )
        .expect("an older file");
}

#[test]
fn a_damaged_file_and_one_that_is_something_else() {
    let folder = Folder::new();
    let path = database(&folder);
    let mut bytes = fs::read(&path).expect("the file");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8192].fill(0x5a);
    fs::write(&path, &bytes).expect("damage");
    let said = gives_up(agent(), &path);
    says(&said, &["octoporty.db", "is damaged", "put a backup in its place"]);
    assert_eq!(fs::read(&path).expect("the file"), bytes, "nothing was changed");

    let text = "a shopping list, not a database\n".repeat(100);
    fs::write(&path, &text).expect("a file");
    let said = gives_up(agent(), &path);
    says(&said, &["is not an SQLite database", "move it away"]);
    assert_eq!(fs::read_to_string(&path).expect("the file"), text);
}

#[test]
fn a_file_of_a_newer_version() {
    let folder = Folder::new();
    let path = database(&folder);
    Connection::open(&path)
        .and_then(|c| c.execute_batch("INSERT INTO OctoportyMigrations VALUES ('0999_Later', 'x')"))
        .expect("a later step");
    let said = gives_up(agent(), &path);
    says(&said, &["newer version", "0999_Later", "run that version"]);
}

#[test]
fn a_file_that_somebody_else_keeps_locked() {
    let folder = Folder::new();
    let path = database(&folder);
    let connection = Connection::open(&path).expect("the file");
    connection.pragma_update(None, "locking_mode", "exclusive").expect("exclusive");
    connection.execute_batch("BEGIN EXCLUSIVE").expect("the lock");
    let said = gives_up(agent(), &path);
    says(&said, &["is locked by another process", "another Agent"]);
    drop(connection);
    assert_eq!(Store::open(&path).expect("a store").mappings().expect("mappings").len(), 200);
}

/// The program as somebody whom modes concern: root needs another user.
fn as_nobody(folder: &Folder) -> Option<(Command, u32)> {
    let root = fs::metadata("/proc/self").expect("ourselves").uid() == 0;
    if !root {
        return Some((agent(), fs::metadata("/proc/self").expect("ourselves").uid()));
    }
    // Where that user may not go the program cannot be run from.
    let program = folder.path().join("octoporty-agent");
    fs::copy(AGENT, &program).expect("a copy of the program");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
    let works = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .arg("--version")
        .output();
    if works.is_ok_and(|output| output.status.success()) {
        return Some((command, 65_534));
    }
    machine::lacks("root cannot become another user (setpriv of util-linux)");
    None
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

#[test]
fn a_directory_or_a_file_that_may_not_be_written() {
    let folder = Folder::new();
    set_mode(folder.path(), 0o755);
    let Some((command, uid)) = as_nobody(&folder) else { return };
    let path = database(&folder);
    make_older(&path);
    let before = fs::read(&path).expect("the file");
    set_mode(&path, 0o444);
    set_mode(folder.path(), 0o555);
    let said = gives_up(command, &path);
    set_mode(folder.path(), 0o755);
    says(&said, &["cannot be opened for writing", &format!("user id {uid}"), "must belong to that user"]);
    assert_eq!(fs::read(&path).expect("the file"), before);

    // The file may be written, but not the directory: SQLite's companions have no place.
    let Some((command, uid)) = as_nobody(&folder) else { return };
    set_mode(&path, 0o666);
    set_mode(folder.path(), 0o555);
    let said = gives_up(command, &path);
    set_mode(folder.path(), 0o755);
    says(&said, &["octoporty.db", &format!("user id {uid}"), "directory"]);
    assert_eq!(fs::read(&path).expect("the file"), before);
}

#[test]
fn a_full_disk_when_the_tables_are_to_be_changed() {
    let folder = Folder::new();
    let made = database(&folder);
    make_older(&made);
    let before = fs::read(&made).expect("the file");
    let place = folder.path().join("disk");
    fs::create_dir(&place).expect("a directory");
    let Some(disk) = SmallDisk::mount(&place, before.len() / 1024 + 64) else { return };
    let path = disk.path().join("octoporty.db");
    fs::copy(&made, &path).expect("a copy");
    let said = gives_up(agent(), &path);
    says(&said, &["cannot make the copy", "before changing the tables", "the disk is full", "make room"]);
    assert_eq!(fs::read(&path).expect("the file"), before, "nothing was changed");
    let left: Vec<_> =
        fs::read_dir(disk.path()).expect("the disk").flatten().map(|e| e.file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("before-")), "half a copy: {left:?}");
}
