//! The earlier program's database, in each of the states in which it may be found: it opens in place, and what the
//! earlier program expects of it is still true afterwards.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use agent::store::{Store, StoreError, Stored};
use e2e::machine::original_database;
use rusqlite::Connection;
use serde_json::Value;

use crate::world::Folder;

/// What all states have: the framework's own tables, and those of the first migration.
const FIRST: &str = r#"
CREATE TABLE "__EFMigrationsLock" ("Id" INTEGER NOT NULL CONSTRAINT "PK___EFMigrationsLock" PRIMARY KEY,
    "Timestamp" TEXT NOT NULL);
CREATE TABLE "__EFMigrationsHistory" ("MigrationId" TEXT NOT NULL
    CONSTRAINT "PK___EFMigrationsHistory" PRIMARY KEY, "ProductVersion" TEXT NOT NULL);
CREATE TABLE "PortMappings" ("Id" TEXT NOT NULL CONSTRAINT "PK_PortMappings" PRIMARY KEY,
    "ExternalDomain" TEXT NOT NULL, "ExternalPort" INTEGER NOT NULL, "InternalHost" TEXT NOT NULL,
    "InternalPort" INTEGER NOT NULL, "InternalUseTls" INTEGER NOT NULL, "AllowSelfSignedCerts" INTEGER NOT NULL,
    "IsEnabled" INTEGER NOT NULL, "Description" TEXT NULL, "CreatedAt" TEXT NOT NULL, "UpdatedAt" TEXT NOT NULL);
CREATE TABLE "ConnectionLogs" ("Id" TEXT NOT NULL CONSTRAINT "PK_ConnectionLogs" PRIMARY KEY,
    "PortMappingId" TEXT NOT NULL, "ConnectedAt" TEXT NOT NULL, "DisconnectedAt" TEXT NULL, "ClientIp" TEXT NULL,
    "BytesSent" INTEGER NOT NULL, "BytesReceived" INTEGER NOT NULL, "DisconnectReason" TEXT NULL,
    CONSTRAINT "FK_ConnectionLogs_PortMappings_PortMappingId" FOREIGN KEY ("PortMappingId")
    REFERENCES "PortMappings" ("Id") ON DELETE CASCADE);
CREATE TABLE "RequestLogs" ("Id" TEXT NOT NULL CONSTRAINT "PK_RequestLogs" PRIMARY KEY,
    "PortMappingId" TEXT NOT NULL, "ConnectionLogId" TEXT NULL, "Timestamp" TEXT NOT NULL, "Method" TEXT NOT NULL,
    "Path" TEXT NOT NULL, "QueryString" TEXT NULL, "StatusCode" INTEGER NOT NULL, "RequestSize" INTEGER NOT NULL,
    "ResponseSize" INTEGER NOT NULL, "DurationMs" INTEGER NOT NULL, "ClientIp" TEXT NULL, "UserAgent" TEXT NULL,
    "ErrorMessage" TEXT NULL, CONSTRAINT "FK_RequestLogs_ConnectionLogs_ConnectionLogId" FOREIGN KEY
    ("ConnectionLogId") REFERENCES "ConnectionLogs" ("Id") ON DELETE SET NULL,
    CONSTRAINT "FK_RequestLogs_PortMappings_PortMappingId" FOREIGN KEY ("PortMappingId")
    REFERENCES "PortMappings" ("Id") ON DELETE CASCADE);
CREATE INDEX "IX_ConnectionLogs_ConnectedAt" ON "ConnectionLogs" ("ConnectedAt");
CREATE INDEX "IX_ConnectionLogs_PortMappingId" ON "ConnectionLogs" ("PortMappingId");
CREATE UNIQUE INDEX "IX_PortMappings_ExternalDomain" ON "PortMappings" ("ExternalDomain");
CREATE INDEX "IX_RequestLogs_ConnectionLogId" ON "RequestLogs" ("ConnectionLogId");
CREATE INDEX "IX_RequestLogs_PortMappingId" ON "RequestLogs" ("PortMappingId");
CREATE INDEX "IX_RequestLogs_Timestamp" ON "RequestLogs" ("Timestamp");
INSERT INTO "__EFMigrationsHistory" VALUES ('20260120193317_InitialCreate', '10.0.2');
"#;

/// The second migration as its framework does it: a new table under the old name, its columns in another order.
const SECOND: &str = r#"
PRAGMA foreign_keys = 0;
CREATE TABLE "ef_temp_PortMappings" ("Id" TEXT NOT NULL CONSTRAINT "PK_PortMappings" PRIMARY KEY,
    "AllowSelfSignedCerts" INTEGER NOT NULL, "CreatedAt" TEXT NOT NULL, "Description" TEXT NULL,
    "ExternalDomain" TEXT NOT NULL, "InternalHost" TEXT NOT NULL, "InternalPort" INTEGER NOT NULL,
    "InternalUseTls" INTEGER NOT NULL, "IsEnabled" INTEGER NOT NULL, "UpdatedAt" TEXT NOT NULL);
INSERT INTO "ef_temp_PortMappings" SELECT "Id", "AllowSelfSignedCerts", "CreatedAt", "Description", "ExternalDomain",
    "InternalHost", "InternalPort", "InternalUseTls", "IsEnabled", "UpdatedAt" FROM "PortMappings";
DROP TABLE "PortMappings";
ALTER TABLE "ef_temp_PortMappings" RENAME TO "PortMappings";
CREATE UNIQUE INDEX "IX_PortMappings_ExternalDomain" ON "PortMappings" ("ExternalDomain");
INSERT INTO "__EFMigrationsHistory" VALUES ('20260129112649_RemoveExternalPort', '10.0.2');
PRAGMA foreign_keys = 1;
"#;

const THIRD: &str = r#"
CREATE TABLE "Settings" ("Key" TEXT NOT NULL CONSTRAINT "PK_Settings" PRIMARY KEY, "Value" TEXT NOT NULL,
    "UpdatedAt" TEXT NOT NULL);
INSERT INTO "__EFMigrationsHistory" VALUES ('20260130133642_AddSettings', '10.0.2');
INSERT INTO "Settings" VALUES ('LandingPageHtml', '<p>mine</p>', '2026-01-30 13:40:00.1');
"#;

/// Ids in both cases, dates with 0, 1, 6 and 7 digits.
const ROWS: &str = r#"
INSERT INTO "PortMappings" ("Id", "ExternalDomain", "ExternalPort", "InternalHost", "InternalPort", "InternalUseTls",
    "AllowSelfSignedCerts", "IsEnabled", "Description", "CreatedAt", "UpdatedAt") VALUES
('75295907-2F5A-45EB-A467-FCC46AF4F9C6', 'a.example', 443, 'nas', 80, 0, 0, 1, 'one', '2026-01-20 19:37:06', '2026-01-20 19:37:06.5'),
('c041ad60-51a1-40b5-954c-e6273f8f64f4', 'B.example', 80, '192.168.1.100', 8443, 1, 1, 0, NULL, '2026-01-20 19:58:47.682442', '2026-01-20 19:58:47.6824428');
"#;

/// A database as the earlier program's first `state` migrations leave it.
fn original(path: &Path, state: usize) -> Connection {
    let connection = Connection::open(path).expect("a file");
    connection.execute_batch(FIRST).expect("the first migration");
    connection.execute_batch(ROWS).expect("rows");
    for migration in &[SECOND, THIRD][..state - 1] {
        connection.execute_batch(migration).expect("a migration");
    }
    connection
}

fn list(connection: &Connection, sql: &str) -> BTreeSet<String> {
    let mut statement = connection.prepare(sql).expect(sql);
    let rows = statement.query_map([], |row| row.get(0)).expect(sql);
    rows.collect::<Result<_, _>>().expect(sql)
}

/// What the earlier program relies on: `table column type "not null" "primary key"`, one of each.
const COLUMNS: &[&str] = &[
    "PortMappings Id TEXT 1 1",
    "PortMappings AllowSelfSignedCerts INTEGER 1 0",
    "PortMappings CreatedAt TEXT 1 0",
    "PortMappings Description TEXT 0 0",
    "PortMappings ExternalDomain TEXT 1 0",
    "PortMappings InternalHost TEXT 1 0",
    "PortMappings InternalPort INTEGER 1 0",
    "PortMappings InternalUseTls INTEGER 1 0",
    "PortMappings IsEnabled INTEGER 1 0",
    "PortMappings UpdatedAt TEXT 1 0",
    "ConnectionLogs Id TEXT 1 1",
    "ConnectionLogs PortMappingId TEXT 1 0",
    "ConnectionLogs ConnectedAt TEXT 1 0",
    "ConnectionLogs DisconnectedAt TEXT 0 0",
    "ConnectionLogs ClientIp TEXT 0 0",
    "ConnectionLogs BytesSent INTEGER 1 0",
    "ConnectionLogs BytesReceived INTEGER 1 0",
    "ConnectionLogs DisconnectReason TEXT 0 0",
    "RequestLogs Id TEXT 1 1",
    "RequestLogs PortMappingId TEXT 1 0",
    "RequestLogs ConnectionLogId TEXT 0 0",
    "RequestLogs Timestamp TEXT 1 0",
    "RequestLogs Method TEXT 1 0",
    "RequestLogs Path TEXT 1 0",
    "RequestLogs QueryString TEXT 0 0",
    "RequestLogs StatusCode INTEGER 1 0",
    "RequestLogs RequestSize INTEGER 1 0",
    "RequestLogs ResponseSize INTEGER 1 0",
    "RequestLogs DurationMs INTEGER 1 0",
    "RequestLogs ClientIp TEXT 0 0",
    "RequestLogs UserAgent TEXT 0 0",
    "RequestLogs ErrorMessage TEXT 0 0",
    "Settings Key TEXT 1 1",
    "Settings Value TEXT 1 0",
    "Settings UpdatedAt TEXT 1 0",
    "__EFMigrationsHistory MigrationId TEXT 1 1",
    "__EFMigrationsHistory ProductVersion TEXT 1 0",
    "__EFMigrationsLock Id INTEGER 1 1",
    "__EFMigrationsLock Timestamp TEXT 1 0",
];

fn is_what_the_earlier_program_expects(path: &Path) {
    let connection = Connection::open(path).expect("the database");
    let set = |items: &[&str]| items.iter().map(|&item| item.to_owned()).collect::<BTreeSet<_>>();
    let columns = list(
        &connection,
        r#"SELECT t.name || ' ' || c.name || ' ' || c.type || ' ' || c."notnull" || ' ' || c.pk
           FROM sqlite_master t, pragma_table_info(t.name) c
           WHERE t.type = 'table' AND t.name NOT LIKE 'Octoporty%' AND t.name NOT LIKE 'sqlite%'"#,
    );
    assert_eq!(columns, set(COLUMNS));
    let indexes = list(
        &connection,
        r#"SELECT i.tbl_name || ' ' || i.name || ' ' || c.name || ' ' || l."unique"
           FROM sqlite_master i, pragma_index_info(i.name) c, pragma_index_list(i.tbl_name) l
           WHERE i.type = 'index' AND i.sql IS NOT NULL AND l.name = i.name AND i.tbl_name NOT LIKE 'Octoporty%'"#,
    );
    assert_eq!(
        indexes,
        set(&[
            "PortMappings IX_PortMappings_ExternalDomain ExternalDomain 1",
            "ConnectionLogs IX_ConnectionLogs_ConnectedAt ConnectedAt 0",
            "ConnectionLogs IX_ConnectionLogs_PortMappingId PortMappingId 0",
            "RequestLogs IX_RequestLogs_ConnectionLogId ConnectionLogId 0",
            "RequestLogs IX_RequestLogs_PortMappingId PortMappingId 0",
            "RequestLogs IX_RequestLogs_Timestamp Timestamp 0",
        ])
    );
    let references = list(
        &connection,
        r#"SELECT t.name || '.' || f."from" || ' ' || f."table" || '.' || f."to" || ' ' || f.on_delete
           FROM sqlite_master t, pragma_foreign_key_list(t.name) f
           WHERE t.type = 'table' AND t.name NOT LIKE 'Octoporty%'"#,
    );
    assert_eq!(
        references,
        set(&[
            "ConnectionLogs.PortMappingId PortMappings.Id CASCADE",
            "RequestLogs.PortMappingId PortMappings.Id CASCADE",
            "RequestLogs.ConnectionLogId ConnectionLogs.Id SET NULL",
        ])
    );
    let sql = list(&connection, "SELECT sql FROM sqlite_master WHERE type = 'table'");
    for constraint in [
        "PK_PortMappings",
        "PK_ConnectionLogs",
        "PK_RequestLogs",
        "PK_Settings",
        "PK___EFMigrationsHistory",
        "PK___EFMigrationsLock",
        "FK_ConnectionLogs_PortMappings_PortMappingId",
        "FK_RequestLogs_ConnectionLogs_ConnectionLogId",
        "FK_RequestLogs_PortMappings_PortMappingId",
    ] {
        let named = format!("CONSTRAINT \"{constraint}\"");
        assert!(sql.iter().any(|sql| sql.contains(&named)), "{constraint}");
    }
    let history =
        list(&connection, r#"SELECT "MigrationId" || ' ' || "ProductVersion" FROM "__EFMigrationsHistory""#);
    assert_eq!(
        history,
        set(&[
            "20260120193317_InitialCreate 10.0.2",
            "20260129112649_RemoveExternalPort 10.0.2",
            "20260130133642_AddSettings 10.0.2",
        ])
    );
    let locks: i64 = connection
        .query_row(r#"SELECT count(*) FROM "__EFMigrationsLock""#, [], |row| row.get(0))
        .expect("a count");
    assert_eq!(locks, 0, "it would wait for ever");
    for (what, sql) in [("integrity", "PRAGMA integrity_check"), ("encoding", "PRAGMA encoding")] {
        let said: String = connection.query_row(sql, [], |row| row.get(0)).expect(sql);
        assert!(said == "ok" || said == "UTF-8", "{what}: {said}");
    }
    goes_on_working(&connection);
}

/// What the earlier program does with it, in its own spelling.
fn goes_on_working(connection: &Connection) {
    connection
        .execute_batch(
            r#"PRAGMA foreign_keys = 1;
            INSERT INTO "PortMappings" ("Id", "AllowSelfSignedCerts", "CreatedAt", "Description", "ExternalDomain",
                "InternalHost", "InternalPort", "InternalUseTls", "IsEnabled", "UpdatedAt")
            VALUES ('0F8FAD5B-D9CB-469F-A165-70867728950E', 0, '2026-02-01 12:00:00', NULL, 'later.example',
                '10.0.0.1', 80, 0, 1, '2026-02-01 12:00:00');
            UPDATE "PortMappings" SET "InternalPort" = 81 WHERE "Id" = '0F8FAD5B-D9CB-469F-A165-70867728950E';
            DELETE FROM "PortMappings" WHERE "Id" = '0F8FAD5B-D9CB-469F-A165-70867728950E';"#,
        )
        .expect("the earlier program's statements");
}

fn domains(store: &Store) -> Vec<String> {
    store.mappings().expect("mappings").iter().map(|m| m.domain.as_str().to_owned()).collect()
}

#[test]
fn every_state_opens_in_place_in_either_mode() {
    for state in 1..=3 {
        for mode in ["delete", "wal"] {
            let folder = Folder::new();
            let made = folder.path().join("made.db");
            let path = folder.path().join("octoporty.db");
            let connection = original(&made, state);
            connection.pragma_update(None, "journal_mode", mode).expect("a mode");
            if mode == "wal" {
                // In the log only, as a program that was killed leaves it.
                connection
                    .execute_batch(
                        r#"PRAGMA wal_autocheckpoint = 0;
                        UPDATE "PortMappings" SET "Description" = 'from the log' WHERE "InternalHost" = 'nas';
                        INSERT INTO "__EFMigrationsLock" VALUES (1, '2026-01-31 00:00:00');"#,
                    )
                    .expect("a change");
                fs::copy(folder.path().join("made.db-wal"), folder.path().join("octoporty.db-wal"))
                    .expect("the log");
            }
            fs::copy(&made, &path).expect("a copy");
            drop(connection);

            let store = Store::open(&path).unwrap_or_else(|e| panic!("state {state}, {mode}: {e}"));
            assert_eq!(domains(&store), ["b.example", "a.example"], "state {state}, {mode}");
            let mappings = store.mappings().expect("mappings");
            let (b, a) = (&mappings[0], &mappings[1]);
            assert_eq!(b.id.to_string(), "c041ad60-51a1-40b5-954c-e6273f8f64f4");
            assert_eq!((b.port, b.tls, b.allow_invalid_certificates, b.enabled), (8443, true, true, false));
            assert_eq!((b.created_at.nanosecond(), b.updated_at.nanosecond()), (682_442_000, 682_442_800));
            assert_eq!((a.created_at.nanosecond(), a.updated_at.nanosecond()), (0, 500_000_000));
            let said = if mode == "wal" { "from the log" } else { "one" };
            assert_eq!(a.description.as_deref(), Some(said), "state {state}");
            let page = store.landing_page().expect("asked");
            assert_eq!(page.as_deref(), (state == 3).then_some("<p>mine</p>"));
            drop(store);
            is_what_the_earlier_program_expects(&path);

            let copy = folder.path().join(format!("octoporty.db.before-{}", agent::VERSION));
            let copied = Connection::open(&copy).expect("the copy made before");
            let steps = list(&copied, r#"SELECT "MigrationId" FROM "__EFMigrationsHistory""#);
            assert_eq!(steps.len(), state, "the copy is of what was found");
            let rows = list(&copied, r#"SELECT coalesce("Description", '') FROM "PortMappings""#);
            assert!(rows.len() == 2 && rows.contains(said), "{rows:?}");
        }
    }
}

#[test]
fn a_state_that_is_not_known_is_refused_and_left_alone() {
    let folder = Folder::new();
    let path = folder.path().join("octoporty.db");
    let connection = original(&path, 3);
    connection
        .execute_batch(r#"INSERT INTO "__EFMigrationsHistory" VALUES ('20270101000000_Later', '11.0.0')"#)
        .expect("a later migration");
    drop(connection);
    let before = fs::read(&path).expect("the file");
    let refused = Store::open(&path).expect_err("a refusal");
    assert!(matches!(&refused, StoreError::Newer(_, step) if step == "20270101000000_Later"), "{refused}");
    assert!(refused.to_string().contains("run that version"), "{refused}");
    assert_eq!(fs::read(&path).expect("the file"), before);
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1, "nothing beside it");
}

#[test]
fn a_real_file_becomes_a_working_database_with_its_twenty_mappings() {
    let Some(sample) = original_database() else { return };
    let folder = Folder::new();
    let path = folder.path().join("octoporty.db");
    fs::copy(&sample, &path).expect("a copy");
    let before = fs::read(&sample).expect("the sample");
    let store = Store::open(&path).expect("a store");
    let rows = store.stored().expect("rows");
    assert_eq!(rows.len(), 20);
    assert!(rows.iter().all(|row| matches!(row, Stored::Mapping(_))), "{rows:?}");
    let first = store.find("75295907-2f5a-45eb-a467-fcc46af4f9c6".parse().expect("an id")).expect("asked");
    let Some(Stored::Mapping(first)) = first else { panic!("{first:?}") };
    assert_eq!((first.domain.as_str(), first.authority().as_str()), ("test.local", "localhost:17201"));
    assert!(!store.agent_id().expect("an id").is_empty());
    drop(store);
    is_what_the_earlier_program_expects(&path);
    assert_eq!(Store::open(&path).expect("again").mappings().expect("mappings").len(), 20);
    assert_eq!(fs::read(&sample).expect("the sample"), before, "it is never changed");
}

#[test]
fn doctor_looks_at_an_older_file_and_leaves_it_as_it_is() {
    let folder = Folder::new();
    let path = folder.path().join("octoporty.db");
    drop(original(&path, 1));
    let before = fs::read(&path).expect("the file");
    let output = Command::new(env!("CARGO_BIN_EXE_octoporty-agent"))
        .args(["doctor", "--json"])
        .env_clear()
        .env("TMPDIR", folder.path())
        // Nobody listens there: the hops up to it are what is looked at.
        .env("Agent__GatewayUrl", "ws://127.0.0.1:1/tunnel")
        .env("Agent__ApiKey", "0123456789abcdef0123456789abcdef")
        .env("Agent__JwtSecret", "ABCDEFGHIJKLMNOPQRSTUVWXYZ-0123456789")
        .env("Agent__Auth__PasswordHash", crate::world::HASH)
        .env("Agent__Port", "0")
        .env("ConnectionStrings__DefaultConnection", format!("Data Source={}", path.display()))
        .output()
        .expect("the program can be run");
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let checks = said["checks"].as_array().expect("a list");
    let of = |hop: &str| checks.iter().filter(|check| check["hop"] == hop).collect::<Vec<_>>();
    let text = of("database")[0]["text"].as_str().expect("a text");
    assert!(text.contains("has 2 mappings; the next start copies it and brings it up to date"), "{said:#}");
    assert!(of("target").iter().any(|check| check["state"] != "skip"), "its mappings are tried: {said:#}");
    assert_eq!(fs::read(&path).expect("the file"), before);
    let left: Vec<_> = fs::read_dir(folder.path()).expect("the folder").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}
