//! How the database came to be, step by step. A step that has been released is never edited; what it lacks
//! the next one adds.
//!
//! The first three steps are those of the earlier program, under its names and in its history table, so that
//! either program opens the other's file. Ours follow in a history table of our own, because the earlier
//! program's tools take a row they do not know in theirs for a fault, and they only add: unknown tables do
//! not disturb it. What the tables hold and what is asked of them is left to [`crate::store`].

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

/// What the earlier program's framework writes beside each step; it wants some version there.
const PRODUCT_VERSION: &str = "10.0.2";

/// Who keeps the list of the steps done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum History {
    /// `__EFMigrationsHistory`, shared with the earlier program.
    Original,
    /// `OctoportyMigrations`.
    Own,
}

struct Step {
    id: &'static str,
    history: History,
    sql: &'static str,
}

const STEPS: &[Step] = &[
    Step { id: "20260120193317_InitialCreate", history: History::Original, sql: INITIAL_CREATE },
    Step { id: "20260129112649_RemoveExternalPort", history: History::Original, sql: REMOVE_EXTERNAL_PORT },
    Step { id: "20260130133642_AddSettings", history: History::Original, sql: ADD_SETTINGS },
    Step { id: "0001_MappingOptions", history: History::Own, sql: MAPPING_OPTIONS },
    Step { id: "0002_Sessions", history: History::Own, sql: SESSIONS },
    Step { id: "0003_History", history: History::Own, sql: HISTORY },
];

const HISTORIES: &str = r#"
CREATE TABLE IF NOT EXISTS "__EFMigrationsLock" (
    "Id" INTEGER NOT NULL CONSTRAINT "PK___EFMigrationsLock" PRIMARY KEY,
    "Timestamp" TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS "__EFMigrationsHistory" (
    "MigrationId" TEXT NOT NULL CONSTRAINT "PK___EFMigrationsHistory" PRIMARY KEY,
    "ProductVersion" TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS "OctoportyMigrations" (
    "Step" TEXT NOT NULL CONSTRAINT "PK_OctoportyMigrations" PRIMARY KEY,
    "AppliedAt" TEXT NOT NULL
);
"#;

/// The earlier program leaves a row here when it is killed while migrating, and then waits for ever for it to
/// go.
const CLEAR_LOCK: &str = r#"DELETE FROM "__EFMigrationsLock""#;

const INITIAL_CREATE: &str = r#"
CREATE TABLE "PortMappings" (
    "Id" TEXT NOT NULL CONSTRAINT "PK_PortMappings" PRIMARY KEY,
    "ExternalDomain" TEXT NOT NULL,
    "ExternalPort" INTEGER NOT NULL,
    "InternalHost" TEXT NOT NULL,
    "InternalPort" INTEGER NOT NULL,
    "InternalUseTls" INTEGER NOT NULL,
    "AllowSelfSignedCerts" INTEGER NOT NULL,
    "IsEnabled" INTEGER NOT NULL,
    "Description" TEXT NULL,
    "CreatedAt" TEXT NOT NULL,
    "UpdatedAt" TEXT NOT NULL
);
CREATE TABLE "ConnectionLogs" (
    "Id" TEXT NOT NULL CONSTRAINT "PK_ConnectionLogs" PRIMARY KEY,
    "PortMappingId" TEXT NOT NULL,
    "ConnectedAt" TEXT NOT NULL,
    "DisconnectedAt" TEXT NULL,
    "ClientIp" TEXT NULL,
    "BytesSent" INTEGER NOT NULL,
    "BytesReceived" INTEGER NOT NULL,
    "DisconnectReason" TEXT NULL,
    CONSTRAINT "FK_ConnectionLogs_PortMappings_PortMappingId" FOREIGN KEY ("PortMappingId")
        REFERENCES "PortMappings" ("Id") ON DELETE CASCADE
);
CREATE TABLE "RequestLogs" (
    "Id" TEXT NOT NULL CONSTRAINT "PK_RequestLogs" PRIMARY KEY,
    "PortMappingId" TEXT NOT NULL,
    "ConnectionLogId" TEXT NULL,
    "Timestamp" TEXT NOT NULL,
    "Method" TEXT NOT NULL,
    "Path" TEXT NOT NULL,
    "QueryString" TEXT NULL,
    "StatusCode" INTEGER NOT NULL,
    "RequestSize" INTEGER NOT NULL,
    "ResponseSize" INTEGER NOT NULL,
    "DurationMs" INTEGER NOT NULL,
    "ClientIp" TEXT NULL,
    "UserAgent" TEXT NULL,
    "ErrorMessage" TEXT NULL,
    CONSTRAINT "FK_RequestLogs_ConnectionLogs_ConnectionLogId" FOREIGN KEY ("ConnectionLogId")
        REFERENCES "ConnectionLogs" ("Id") ON DELETE SET NULL,
    CONSTRAINT "FK_RequestLogs_PortMappings_PortMappingId" FOREIGN KEY ("PortMappingId")
        REFERENCES "PortMappings" ("Id") ON DELETE CASCADE
);
CREATE INDEX "IX_ConnectionLogs_ConnectedAt" ON "ConnectionLogs" ("ConnectedAt");
CREATE INDEX "IX_ConnectionLogs_PortMappingId" ON "ConnectionLogs" ("PortMappingId");
CREATE UNIQUE INDEX "IX_PortMappings_ExternalDomain" ON "PortMappings" ("ExternalDomain");
CREATE INDEX "IX_RequestLogs_ConnectionLogId" ON "RequestLogs" ("ConnectionLogId");
CREATE INDEX "IX_RequestLogs_PortMappingId" ON "RequestLogs" ("PortMappingId");
CREATE INDEX "IX_RequestLogs_Timestamp" ON "RequestLogs" ("Timestamp");
"#;

/// The earlier program rebuilds the table, which leaves its columns in another order; nobody may rely on it.
const REMOVE_EXTERNAL_PORT: &str = r#"ALTER TABLE "PortMappings" DROP COLUMN "ExternalPort";"#;

const ADD_SETTINGS: &str = r#"
CREATE TABLE "Settings" (
    "Key" TEXT NOT NULL CONSTRAINT "PK_Settings" PRIMARY KEY,
    "Value" TEXT NOT NULL,
    "UpdatedAt" TEXT NOT NULL
);
"#;

/// A mapping without a row here was written by the earlier program. The cascade cleans up when it deletes
/// one.
const MAPPING_OPTIONS: &str = r#"
CREATE TABLE "OctoportyMappingOptions" (
    "MappingId" TEXT NOT NULL CONSTRAINT "PK_OctoportyMappingOptions" PRIMARY KEY,
    "HostHeader" TEXT NOT NULL,
    CONSTRAINT "FK_OctoportyMappingOptions_PortMappings_MappingId" FOREIGN KEY ("MappingId")
        REFERENCES "PortMappings" ("Id") ON DELETE CASCADE
);
"#;

const SESSIONS: &str = r#"
CREATE TABLE "OctoportySessions" (
    "Id" TEXT NOT NULL CONSTRAINT "PK_OctoportySessions" PRIMARY KEY,
    "TokenHash" TEXT NOT NULL,
    "PasswordTag" TEXT NOT NULL,
    "CreatedAt" TEXT NOT NULL,
    "UsedAt" TEXT NOT NULL,
    "ExpiresAt" TEXT NOT NULL,
    "Address" TEXT NOT NULL,
    "UserAgent" TEXT NULL
);
CREATE UNIQUE INDEX "IX_OctoportySessions_TokenHash" ON "OctoportySessions" ("TokenHash");
"#;

/// What `RequestLogs` and `ConnectionLogs` have no room for. Nothing here refers to a mapping by a foreign key, because
/// history outlives mappings. `Start` is in seconds since 1970, a multiple of `Seconds`; `Durations` is a histogram.
const HISTORY: &str = r#"
CREATE TABLE "OctoportyTraffic" (
    "Seconds" INTEGER NOT NULL,
    "Start" INTEGER NOT NULL,
    "MappingId" TEXT NOT NULL,
    "Requests" INTEGER NOT NULL,
    "BytesIn" INTEGER NOT NULL,
    "BytesOut" INTEGER NOT NULL,
    "Status1xx" INTEGER NOT NULL,
    "Status2xx" INTEGER NOT NULL,
    "Status3xx" INTEGER NOT NULL,
    "Status4xx" INTEGER NOT NULL,
    "Status5xx" INTEGER NOT NULL,
    "Failed" INTEGER NOT NULL,
    "Durations" BLOB NOT NULL,
    CONSTRAINT "PK_OctoportyTraffic" PRIMARY KEY ("Seconds", "Start", "MappingId")
) WITHOUT ROWID;
CREATE TABLE "OctoportyLastRequests" (
    "MappingId" TEXT NOT NULL CONSTRAINT "PK_OctoportyLastRequests" PRIMARY KEY,
    "At" TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE "OctoportyConnections" (
    "ConnectionId" TEXT NOT NULL CONSTRAINT "PK_OctoportyConnections" PRIMARY KEY,
    "GatewayUrl" TEXT NOT NULL,
    "SeenAt" TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE "OctoportyDeletedMappings" (
    "MappingId" TEXT NOT NULL CONSTRAINT "PK_OctoportyDeletedMappings" PRIMARY KEY,
    "Name" TEXT NOT NULL,
    "ExternalDomain" TEXT NOT NULL,
    "DeletedAt" TEXT NOT NULL
) WITHOUT ROWID;
"#;

/// Why a file was not brought up to date.
#[derive(Debug)]
pub(crate) enum MigrationError {
    /// A newer program has been at it; the step we do not know.
    Newer(String),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for MigrationError {
    fn from(error: rusqlite::Error) -> MigrationError {
        MigrationError::Sqlite(error)
    }
}

/// What is to be done to a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Nothing.
    UpToDate,
    /// It is empty: everything.
    Create,
    /// Steps are missing, and there is something to lose.
    Upgrade,
}

/// Looks without touching. Refuses a file from the future, whose meaning we cannot know.
pub(crate) fn survey(connection: &Connection) -> Result<Work, MigrationError> {
    let mut missing = false;
    let mut anything = false;
    for history in [History::Original, History::Own] {
        let done = done(connection, history)?;
        anything |= !done.is_empty();
        let ours = || STEPS.iter().filter(|step| step.history == history);
        if let Some(unknown) = done.iter().find(|id| ours().all(|step| step.id != id.as_str())) {
            return Err(MigrationError::Newer(unknown.clone()));
        }
        missing |= ours().any(|step| done.iter().all(|id| id != step.id));
    }
    Ok(match (missing, anything) {
        (false, _) => Work::UpToDate,
        (true, false) => Work::Create,
        (true, true) => Work::Upgrade,
    })
}

/// Does every step not yet done, each in its own transaction: a step cut off by the power leaves no half of
/// itself.
pub(crate) fn run(connection: &mut Connection, now: &str) -> Result<(), MigrationError> {
    connection.execute_batch(HISTORIES)?;
    connection.execute(CLEAR_LOCK, [])?;
    for step in STEPS {
        // Immediate, so that a second process that looks at the same time waits here and then finds it done.
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if !done(&transaction, step.history)?.iter().any(|id| id == step.id) {
            transaction.execute_batch(step.sql)?;
            match step.history {
                History::Original => transaction.execute(
                    r#"INSERT INTO "__EFMigrationsHistory" ("MigrationId", "ProductVersion")
                       VALUES (?1, ?2)"#,
                    [step.id, PRODUCT_VERSION],
                )?,
                History::Own => transaction.execute(
                    r#"INSERT INTO "OctoportyMigrations" ("Step", "AppliedAt") VALUES (?1, ?2)"#,
                    [step.id, now],
                )?,
            };
        }
        transaction.commit()?;
    }
    Ok(())
}

/// The steps a history lists; none when it does not exist.
fn done(connection: &Connection, history: History) -> rusqlite::Result<Vec<String>> {
    let (table, column) = match history {
        History::Original => ("__EFMigrationsHistory", "MigrationId"),
        History::Own => ("OctoportyMigrations", "Step"),
    };
    let exists = connection
        .query_row("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1", [table], |_| Ok(()))
        .optional()?;
    if exists.is_none() {
        return Ok(Vec::new());
    }
    connection
        .prepare(&format!(r#"SELECT "{column}" FROM "{table}" ORDER BY 1"#))?
        .query_map([], |row| row.get(0))?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-02-01 12:00:00";

    /// A database in the state in which the earlier program's first `steps` migrations leave it.
    fn original(steps: usize) -> Connection {
        let connection = Connection::open_in_memory().expect("memory");
        connection.pragma_update(None, "foreign_keys", true).expect("foreign keys");
        connection
            .execute_batch(&HISTORIES[..HISTORIES.find("CREATE TABLE IF NOT EXISTS \"Octo").expect("ours")])
            .expect("histories");
        for step in &STEPS[..steps] {
            assert!(step.history == History::Original);
            connection.execute_batch(step.sql).expect("a step");
            connection
                .execute(r#"INSERT INTO "__EFMigrationsHistory" VALUES (?1, '10.0.2')"#, [step.id])
                .expect("history");
        }
        connection
    }

    fn columns(connection: &Connection, table: &str) -> Vec<String> {
        connection
            .prepare("SELECT name || ' ' || type || ' ' || \"notnull\" FROM pragma_table_info(?1) ORDER BY 1")
            .and_then(|mut s| s.query_map([table], |row| row.get(0))?.collect())
            .expect("columns")
    }

    fn objects(connection: &Connection) -> Vec<String> {
        connection
            .prepare("SELECT type || ' ' || name FROM sqlite_master WHERE sql IS NOT NULL ORDER BY 1")
            .and_then(|mut s| s.query_map([], |row| row.get(0))?.collect())
            .expect("objects")
    }

    #[test]
    fn an_empty_file_gets_everything_under_the_names_of_the_earlier_program() {
        let mut connection = Connection::open_in_memory().expect("memory");
        assert_eq!(survey(&connection).expect("a survey"), Work::Create);
        run(&mut connection, NOW).expect("migrations");
        assert_eq!(survey(&connection).expect("a survey"), Work::UpToDate);

        assert_eq!(
            objects(&connection),
            [
                "index IX_ConnectionLogs_ConnectedAt",
                "index IX_ConnectionLogs_PortMappingId",
                "index IX_OctoportySessions_TokenHash",
                "index IX_PortMappings_ExternalDomain",
                "index IX_RequestLogs_ConnectionLogId",
                "index IX_RequestLogs_PortMappingId",
                "index IX_RequestLogs_Timestamp",
                "table ConnectionLogs",
                "table OctoportyConnections",
                "table OctoportyDeletedMappings",
                "table OctoportyLastRequests",
                "table OctoportyMappingOptions",
                "table OctoportyMigrations",
                "table OctoportySessions",
                "table OctoportyTraffic",
                "table PortMappings",
                "table RequestLogs",
                "table Settings",
                "table __EFMigrationsHistory",
                "table __EFMigrationsLock",
            ]
        );
        assert_eq!(
            columns(&connection, "PortMappings"),
            [
                "AllowSelfSignedCerts INTEGER 1",
                "CreatedAt TEXT 1",
                "Description TEXT 0",
                "ExternalDomain TEXT 1",
                "Id TEXT 1",
                "InternalHost TEXT 1",
                "InternalPort INTEGER 1",
                "InternalUseTls INTEGER 1",
                "IsEnabled INTEGER 1",
                "UpdatedAt TEXT 1",
            ]
        );
        assert_eq!(columns(&connection, "Settings"), ["Key TEXT 1", "UpdatedAt TEXT 1", "Value TEXT 1"]);
        let history: Vec<(String, String)> = connection
            .prepare("SELECT * FROM __EFMigrationsHistory ORDER BY 1")
            .and_then(|mut s| s.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
            .expect("history");
        let expected = [
            "20260120193317_InitialCreate",
            "20260129112649_RemoveExternalPort",
            "20260130133642_AddSettings",
        ];
        assert_eq!(history, expected.map(|id| (id.to_owned(), "10.0.2".to_owned())));
    }

    #[test]
    fn every_state_of_the_earlier_program_comes_up_to_date_and_keeps_its_rows() {
        let mut fresh = Connection::open_in_memory().expect("memory");
        run(&mut fresh, NOW).expect("migrations");
        for steps in 1..=3 {
            let mut connection = original(steps);
            let (column, value) = if steps == 1 { (", ExternalPort", ", 443") } else { ("", "") };
            connection
                .execute_batch(&format!(
                    "INSERT INTO PortMappings (Id, ExternalDomain, InternalHost, InternalPort, InternalUseTls,
                        AllowSelfSignedCerts, IsEnabled, CreatedAt, UpdatedAt{column})
                     VALUES ('X', 'a.example', 'nas', 80, 0, 0, 1, '{NOW}', '{NOW}'{value});
                     INSERT INTO __EFMigrationsLock VALUES (1, '{NOW}');"
                ))
                .expect("a row");
            assert_eq!(survey(&connection).expect("a survey"), Work::Upgrade);
            run(&mut connection, NOW).expect("migrations");
            assert_eq!(survey(&connection).expect("a survey"), Work::UpToDate);
            assert_eq!(objects(&connection), objects(&fresh), "from state {steps}");
            assert_eq!(columns(&connection, "PortMappings"), columns(&fresh, "PortMappings"));
            let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).expect(sql);
            assert_eq!(count("SELECT count(*) FROM PortMappings WHERE InternalHost = 'nas'"), 1);
            assert_eq!(count("SELECT count(*) FROM __EFMigrationsLock"), 0);
        }
    }

    #[test]
    fn running_twice_changes_nothing() {
        let mut connection = Connection::open_in_memory().expect("memory");
        run(&mut connection, NOW).expect("migrations");
        let before = objects(&connection);
        run(&mut connection, "2027-01-01 00:00:00").expect("migrations");
        assert_eq!(objects(&connection), before);
    }

    #[test]
    fn a_file_from_a_newer_program_is_refused_untouched() {
        for (table, id) in
            [("__EFMigrationsHistory", "20270101000000_Future"), ("OctoportyMigrations", "0099_Future")]
        {
            let mut connection = Connection::open_in_memory().expect("memory");
            run(&mut connection, NOW).expect("migrations");
            connection
                .execute(&format!("INSERT INTO {table} VALUES (?1, 'x')"), [id])
                .expect("a step from the future");
            match survey(&connection) {
                Err(MigrationError::Newer(step)) => assert_eq!(step, id),
                other => panic!("{other:?}"),
            }
        }
    }
}
