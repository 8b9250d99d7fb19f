//! The history: written in batches as [`crate::history`] hands it over, read page by page.
//!
//! Requests and connections are in the tables of the earlier program, which never wrote to them; what those cannot hold
//! is in tables of ours. All ids were written by us, in upper case. Timestamps sort as text.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params, params_from_iter};
use time::OffsetDateTime;

use shared::mapping::MappingId;

use super::{Store, StoreError};
use crate::history::{ConnectionRow, Counts, Ledger, Pending, UNKNOWN, from_ticks, to_ticks};
use crate::timestamp;

/// The steps in which traffic is added up, in seconds, and for how long each is kept: those of the charts, and days
/// for ten years.
const STEPS: [(i64, i64); 3] = [(60, 2 * 3600), (900, 2 * 86_400), (86_400, 3660 * 86_400)];
/// Rows deleted at a time, when they are not many.
const PRUNED: u64 = 500;
/// Connections kept at most.
const MOST_CONNECTIONS: u64 = 10_000;
/// How an Agent that was killed left.
const KILLED: &str = "the Agent ended without a word: it was killed, or the power failed";

/// A kept request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptRequest {
    pub(crate) id: String,
    pub(crate) at: String,
    pub(crate) mapping: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) status: i64,
    pub(crate) request_bytes: i64,
    pub(crate) response_bytes: i64,
    pub(crate) millis: i64,
    pub(crate) client: Option<String>,
    pub(crate) user_agent: Option<String>,
    pub(crate) error: Option<String>,
}

/// A kept connection of the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptConnection {
    pub(crate) id: String,
    pub(crate) connected_at: String,
    pub(crate) disconnected_at: Option<String>,
    pub(crate) gateway_url: Option<String>,
    pub(crate) sent: i64,
    pub(crate) received: i64,
    pub(crate) reason: Option<String>,
}

/// What a mapping is or was called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) domain: String,
}

/// A place in a list that is read from new to old: date and id, as the database has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) at: String,
    pub(crate) id: String,
}

/// One of the things that a status may be asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatusTest {
    /// Between these, inclusive.
    Range(u16, u16),
    /// It failed, whatever the status; a visitor who left is no failure.
    Failed,
}

/// Which requests are wanted. Nothing set: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestFilter {
    /// Of these mappings, if there are any here.
    pub(crate) mappings: Vec<MappingId>,
    /// With one of these.
    pub(crate) status: Vec<StatusTest>,
    /// With one of these methods.
    pub(crate) methods: Vec<String>,
    /// With this in path, query, client, user agent, error, or in the name of the mapping.
    pub(crate) text: Option<String>,
    /// Not before.
    pub(crate) from: Option<OffsetDateTime>,
    /// Before.
    pub(crate) to: Option<OffsetDateTime>,
}

impl Store {
    /// Writes what the ledger has, if it has something; with the bytes of open connections in any case if `open`.
    pub(crate) fn record(&self, ledger: &Arc<Ledger>, open: bool) -> Result<(), StoreError> {
        let ledger = Arc::clone(ledger);
        // Taken by the writer itself: whoever asks later finds everything written that was known when he asked.
        self.run(move |connection| {
            let Some(pending) = ledger.take(open) else { return Ok(()) };
            match write(connection, &ledger, &pending) {
                Ok(()) => Ok(()),
                Err(e) => {
                    ledger.give_back(pending);
                    // It was counted in vain.
                    ledger.rows.store(u64::MAX, Relaxed);
                    Err(e)
                }
            }
        })
    }

    /// Deletes what is too old even if nothing new comes, and folds the log into the file.
    pub(crate) fn tidy_history(&self, days: u64) -> Result<(), StoreError> {
        self.write(move |connection| {
            let now = timestamp::now();
            prune_requests(connection, now, days, PRUNED * 4)?;
            prune_connections(connection, now, days)?;
            prune_traffic(connection, now)?;
            // A name is kept as long as something refers to it, and for a day, in which something may be written yet.
            connection.execute(
                r#"DELETE FROM "OctoportyDeletedMappings" WHERE "DeletedAt" < ?1 AND NOT EXISTS
                       (SELECT 1 FROM "RequestLogs" r
                        WHERE r."PortMappingId" = "OctoportyDeletedMappings"."MappingId")
                   AND "MappingId" NOT IN (SELECT "MappingId" FROM "OctoportyTraffic")"#,
                [timestamp::database_form(now - Duration::from_secs(86_400))],
            )?;
            Ok(())
        })?;
        self.run(|connection| {
            // What readers still need stays for the next time.
            connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
        })
    }

    /// Connections that are still open in the table were of an Agent that was killed: they ended when they were last
    /// heard of.
    pub(crate) fn close_connections(&self) -> Result<(), StoreError> {
        self.write(|connection| {
            connection.execute(
                r#"UPDATE "ConnectionLogs" SET "DisconnectReason" = ?1, "DisconnectedAt" = coalesce(
                       (SELECT "SeenAt" FROM "OctoportyConnections" WHERE "ConnectionId" = "ConnectionLogs"."Id"),
                       "ConnectedAt")
                   WHERE "DisconnectedAt" IS NULL"#,
                [KILLED],
            )?;
            Ok(())
        })
    }

    /// When each mapping was last asked for, in ticks.
    pub(crate) fn last_requests(&self) -> Result<HashMap<MappingId, i64>, StoreError> {
        self.read(|connection| {
            let mut statement =
                connection.prepare(r#"SELECT "MappingId", "At" FROM "OctoportyLastRequests""#)?;
            let mut rows = statement.query([])?;
            let mut last = HashMap::new();
            while let Some(row) = rows.next()? {
                let id = row.get::<_, String>(0)?.parse().ok();
                let at = timestamp::from_database(&row.get::<_, String>(1)?);
                last.extend(id.zip(at.map(to_ticks)));
            }
            Ok(last)
        })
    }

    /// What mappings are called, and those that are no more were.
    pub(crate) fn names(&self) -> Result<HashMap<String, Named>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                r#"SELECT "MappingId", "Name", "ExternalDomain" FROM "OctoportyDeletedMappings"
                   UNION ALL
                   SELECT upper("Id"), coalesce("Description", "ExternalDomain"), "ExternalDomain"
                   FROM "PortMappings""#,
            )?;
            let named = |row: &Row<'_>| Ok((row.get(0)?, Named { name: row.get(1)?, domain: row.get(2)? }));
            statement.query_map([], named)?.collect()
        })
    }

    /// At most `limit` requests before a place, the newest first. `names` as from [`Store::names`].
    pub(crate) fn requests(
        &self,
        filter: &RequestFilter,
        names: &HashMap<String, Named>,
        before: Option<&Place>,
        limit: usize,
    ) -> Result<Vec<KeptRequest>, StoreError> {
        let (sql, values) = select_requests(filter, names, before, limit);
        self.read(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            statement.query_map(params_from_iter(values), kept_request)?.collect()
        })
    }

    /// At most `limit` connections before a place, the newest first.
    pub(crate) fn connections(
        &self,
        before: Option<&Place>,
        limit: usize,
    ) -> Result<Vec<KeptConnection>, StoreError> {
        let end = Place { at: "~".into(), id: String::new() };
        let before = before.unwrap_or(&end);
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                r#"SELECT c."Id", "ConnectedAt", "DisconnectedAt", "GatewayUrl", "BytesSent", "BytesReceived",
                          "DisconnectReason"
                   FROM "ConnectionLogs" c LEFT JOIN "OctoportyConnections" o ON o."ConnectionId" = c."Id"
                   WHERE ("ConnectedAt", c."Id") < (?1, ?2)
                   ORDER BY "ConnectedAt" DESC, c."Id" DESC LIMIT ?3"#,
            )?;
            let kept = |row: &Row<'_>| {
                Ok(KeptConnection {
                    id: row.get("Id")?,
                    connected_at: row.get("ConnectedAt")?,
                    disconnected_at: row.get("DisconnectedAt")?,
                    gateway_url: row.get("GatewayUrl")?,
                    sent: row.get("BytesSent")?,
                    received: row.get("BytesReceived")?,
                    reason: row.get("DisconnectReason")?,
                })
            };
            statement.query_map(params![before.at, before.id, limit as i64], kept)?.collect()
        })
    }

    /// Hands over the totals of each step of `seconds` that begins in `from..to`, by mapping, the oldest first. Times in
    /// seconds since 1970.
    pub(crate) fn traffic(
        &self,
        seconds: i64,
        from: i64,
        to: i64,
        mapping: Option<MappingId>,
        mut each: impl FnMut(i64, String, Counts),
    ) -> Result<(), StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                r#"SELECT * FROM "OctoportyTraffic" WHERE "Seconds" = ?1 AND "Start" >= ?2 AND "Start" < ?3
                       AND (?4 IS NULL OR "MappingId" = ?4)
                   ORDER BY "Start""#,
            )?;
            let mapping = mapping.map(|id| id.database_form());
            let mut rows = statement.query(params![seconds, from, to, mapping])?;
            while let Some(row) = rows.next()? {
                each(row.get("Start")?, row.get("MappingId")?, kept_counts(row)?);
            }
            Ok(())
        })
    }
}

/// One transaction. The disk is not waited for: a power cut may cost the last minutes of history.
fn write(connection: &mut Connection, ledger: &Ledger, pending: &Pending) -> Result<(), rusqlite::Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut rows = match ledger.rows.load(Relaxed) {
        u64::MAX => transaction
            .query_row(r#"SELECT count(*) FROM "RequestLogs""#, [], |row| row.get::<_, i64>(0))?
            as u64,
        rows => rows,
    };
    rows += insert_requests(&transaction, pending)?;
    for ((minute, mapping), counts) in &pending.counts {
        for (seconds, _) in STEPS {
            add_traffic(&transaction, seconds, minute.div_euclid(seconds) * seconds, *mapping, counts)?;
        }
    }
    for (mapping, at) in &pending.last {
        let sql = r#"INSERT OR REPLACE INTO "OctoportyLastRequests" ("MappingId", "At") VALUES (?1, ?2)"#;
        transaction
            .prepare_cached(sql)?
            .execute([mapping.database_form(), timestamp::database_form(from_ticks(*at))])?;
    }
    let now = timestamp::now();
    for connection in &pending.connections {
        save_connection(&transaction, connection, now)?;
    }
    // Twice as many as came, so that it catches up.
    let step = PRUNED.max(2 * pending.rows.len() as u64);
    let excess = rows.saturating_sub(ledger.limits.rows);
    if excess > 0 {
        rows -= prune_excess(&transaction, excess.min(step))?;
    }
    rows = rows.saturating_sub(prune_requests(&transaction, now, ledger.limits.days, step)?);
    if !pending.counts.is_empty() {
        prune_traffic(&transaction, now)?;
    }
    if !pending.connections.is_empty() {
        prune_connections(&transaction, now, ledger.limits.days)?;
    }
    transaction.commit()?;
    ledger.rows.store(rows, Relaxed);
    Ok(())
}

fn insert_requests(connection: &Connection, pending: &Pending) -> Result<u64, rusqlite::Error> {
    let mut insert = connection.prepare_cached(
        r#"INSERT OR IGNORE INTO "RequestLogs" ("Id", "PortMappingId", "Timestamp", "Method", "Path",
               "QueryString", "StatusCode", "RequestSize", "ResponseSize", "DurationMs", "ClientIp", "UserAgent",
               "ErrorMessage")
           VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)"#,
    )?;
    let mut rows = 0;
    for row in pending.rows.iter() {
        rows += insert.execute(params![
            row.id.database_form(),
            row.mapping.database_form(),
            timestamp::database_form(from_ticks(row.at)),
            row.method,
            row.path,
            row.query,
            row.status,
            row.request_bytes as i64,
            row.response_bytes as i64,
            row.millis as i64,
            row.client,
            row.user_agent,
            row.error,
        ])? as u64;
    }
    Ok(rows)
}

fn add_traffic(
    connection: &Connection,
    seconds: i64,
    start: i64,
    mapping: MappingId,
    more: &Counts,
) -> Result<(), rusqlite::Error> {
    let id = mapping.database_form();
    let mut counts = connection
        .prepare_cached(
            r#"SELECT * FROM "OctoportyTraffic" WHERE "Seconds" = ?1 AND "Start" = ?2 AND "MappingId" = ?3"#,
        )?
        .query_row(params![seconds, start, id], kept_counts)
        .optional()?
        .unwrap_or_default();
    counts.merge(more);
    let mut replace = connection.prepare_cached(
        r#"INSERT OR REPLACE INTO "OctoportyTraffic" ("Seconds", "Start", "MappingId", "Requests", "BytesIn",
               "BytesOut", "Status1xx", "Status2xx", "Status3xx", "Status4xx", "Status5xx", "Failed", "Durations")
           VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)"#,
    )?;
    let [s1, s2, s3, s4, s5] = counts.status.map(|count| count as i64);
    replace.execute(params![
        seconds,
        start,
        id,
        counts.requests as i64,
        counts.bytes_in as i64,
        counts.bytes_out as i64,
        s1,
        s2,
        s3,
        s4,
        s5,
        counts.failed as i64,
        counts.durations.to_bytes(),
    ])?;
    Ok(())
}

fn kept_counts(row: &Row<'_>) -> Result<Counts, rusqlite::Error> {
    let number = |name| row.get::<_, i64>(name).map(|number| number.max(0) as u64);
    let mut counts = Counts {
        requests: number("Requests")?,
        bytes_in: number("BytesIn")?,
        bytes_out: number("BytesOut")?,
        status: [
            number("Status1xx")?,
            number("Status2xx")?,
            number("Status3xx")?,
            number("Status4xx")?,
            number("Status5xx")?,
        ],
        failed: number("Failed")?,
        ..Counts::default()
    };
    counts.durations.merge_bytes(&row.get::<_, Vec<u8>>("Durations")?);
    Ok(counts)
}

fn save_connection(
    connection: &Connection,
    row: &ConnectionRow,
    now: OffsetDateTime,
) -> Result<(), rusqlite::Error> {
    let id = row.id.database_form();
    let date = |ticks| timestamp::database_form(from_ticks(ticks));
    connection
        .prepare_cached(
            r#"INSERT INTO "ConnectionLogs" ("Id", "PortMappingId", "ConnectedAt", "DisconnectedAt", "BytesSent",
                   "BytesReceived", "DisconnectReason")
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
               ON CONFLICT ("Id") DO UPDATE SET "DisconnectedAt" = excluded."DisconnectedAt",
                   "BytesSent" = excluded."BytesSent", "BytesReceived" = excluded."BytesReceived",
                   "DisconnectReason" = excluded."DisconnectReason""#,
        )?
        .execute(params![
            id,
            UNKNOWN.database_form(),
            date(row.connected_at),
            row.disconnected_at.map(date),
            row.sent as i64,
            row.received as i64,
            row.reason,
        ])?;
    connection
        .prepare_cached(
            r#"INSERT OR REPLACE INTO "OctoportyConnections" ("ConnectionId", "GatewayUrl", "SeenAt")
               VALUES (?1, ?2, ?3)"#,
        )?
        .execute(params![id, row.gateway_url, timestamp::database_form(now)])?;
    Ok(())
}

fn days_ago(now: OffsetDateTime, days: u64) -> String {
    timestamp::database_form(now - Duration::from_secs(days * 86_400))
}

fn prune_requests(
    connection: &Connection,
    now: OffsetDateTime,
    days: u64,
    step: u64,
) -> Result<u64, rusqlite::Error> {
    let mut delete = connection.prepare_cached(
        r#"DELETE FROM "RequestLogs" WHERE rowid IN
               (SELECT rowid FROM "RequestLogs" WHERE "Timestamp" < ?1 ORDER BY "Timestamp" LIMIT ?2)"#,
    )?;
    Ok(delete.execute(params![days_ago(now, days), step as i64])? as u64)
}

fn prune_excess(connection: &Connection, step: u64) -> Result<u64, rusqlite::Error> {
    let mut delete = connection.prepare_cached(
        r#"DELETE FROM "RequestLogs" WHERE rowid IN
               (SELECT rowid FROM "RequestLogs" ORDER BY "Timestamp" LIMIT ?1)"#,
    )?;
    Ok(delete.execute([step as i64])? as u64)
}

fn prune_connections(connection: &Connection, now: OffsetDateTime, days: u64) -> Result<(), rusqlite::Error> {
    connection.execute(
        r#"DELETE FROM "ConnectionLogs" WHERE "DisconnectedAt" IS NOT NULL AND
               ("ConnectedAt" < ?1 OR rowid IN
                   (SELECT rowid FROM "ConnectionLogs" ORDER BY "ConnectedAt" DESC LIMIT -1 OFFSET ?2))"#,
        params![days_ago(now, days), MOST_CONNECTIONS as i64],
    )?;
    connection.execute(
        r#"DELETE FROM "OctoportyConnections"
           WHERE "ConnectionId" NOT IN (SELECT "Id" FROM "ConnectionLogs")"#,
        [],
    )?;
    Ok(())
}

fn prune_traffic(connection: &Connection, now: OffsetDateTime) -> Result<(), rusqlite::Error> {
    for (seconds, kept) in STEPS {
        connection
            .prepare_cached(r#"DELETE FROM "OctoportyTraffic" WHERE "Seconds" = ?1 AND "Start" < ?2"#)?
            .execute([seconds, now.unix_timestamp() - kept])?;
    }
    Ok(())
}

/// In the order of the index of timestamps, so that a page ends as soon as it is full; the `+` keeps the planner from
/// fetching everything of a mapping and sorting it.
fn select_requests(
    filter: &RequestFilter,
    names: &HashMap<String, Named>,
    before: Option<&Place>,
    limit: usize,
) -> (String, Vec<Value>) {
    let mut sql = String::from(
        r#"SELECT "Id", "PortMappingId", "Timestamp", "Method", "Path", "QueryString", "StatusCode",
               "RequestSize", "ResponseSize", "DurationMs", "ClientIp", "UserAgent", "ErrorMessage"
           FROM "RequestLogs" WHERE 1"#,
    );
    let mut values: Vec<Value> = Vec::new();
    let mut list = |sql: &mut String, column: &str, items: Vec<String>| {
        let marks = vec!["?"; items.len()].join(", ");
        sql.push_str(&format!("{column} IN ({marks})"));
        values.extend(items.into_iter().map(Value::Text));
    };
    if !filter.mappings.is_empty() {
        sql.push_str(" AND ");
        let ids = filter.mappings.iter().map(MappingId::database_form).collect();
        list(&mut sql, r#"+"PortMappingId""#, ids);
    }
    if !filter.methods.is_empty() {
        sql.push_str(" AND ");
        list(&mut sql, r#""Method""#, filter.methods.clone());
    }
    if let Some(text) = &filter.text {
        let pattern = format!("%{}%", text.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_"));
        sql.push_str(" AND (");
        for column in ["Path", "QueryString", "ClientIp", "UserAgent", "ErrorMessage"] {
            sql.push_str(&format!(r#""{column}" LIKE ? ESCAPE '\' OR "#));
        }
        let text = text.to_lowercase();
        let called = |named: &Named| {
            named.name.to_lowercase().contains(&text) || named.domain.to_lowercase().contains(&text)
        };
        let ids: Vec<_> = names.iter().filter(|(_, named)| called(named)).map(|(id, _)| id.clone()).collect();
        let patterns = vec![Value::Text(pattern); 5];
        values.extend(patterns);
        let marks = vec!["?"; ids.len()].join(", ");
        sql.push_str(&format!(r#"+"PortMappingId" IN ({marks}))"#));
        values.extend(ids.into_iter().map(Value::Text));
    }
    if !filter.status.is_empty() {
        let tests: Vec<_> = filter
            .status
            .iter()
            .map(|test| match test {
                StatusTest::Range(from, to) => format!(r#""StatusCode" BETWEEN {from} AND {to}"#),
                StatusTest::Failed => {
                    r#"("ErrorMessage" IS NOT NULL AND "ErrorMessage" NOT LIKE 'VisitorGone%')"#.to_owned()
                }
            })
            .collect();
        sql.push_str(&format!(" AND ({})", tests.join(" OR ")));
    }
    if let Some(from) = filter.from {
        sql.push_str(r#" AND "Timestamp" >= ?"#);
        values.push(Value::Text(timestamp::database_form(from)));
    }
    if let Some(to) = filter.to {
        sql.push_str(r#" AND "Timestamp" < ?"#);
        values.push(Value::Text(timestamp::database_form(to)));
    }
    if let Some(place) = before {
        sql.push_str(r#" AND ("Timestamp", "Id") < (?, ?)"#);
        values.extend([Value::Text(place.at.clone()), Value::Text(place.id.clone())]);
    }
    sql.push_str(&format!(r#" ORDER BY "Timestamp" DESC, "Id" DESC LIMIT {limit}"#));
    (sql, values)
}

fn kept_request(row: &Row<'_>) -> Result<KeptRequest, rusqlite::Error> {
    Ok(KeptRequest {
        id: row.get("Id")?,
        at: row.get("Timestamp")?,
        mapping: row.get("PortMappingId")?,
        method: row.get("Method")?,
        path: row.get("Path")?,
        query: row.get("QueryString")?,
        status: row.get("StatusCode")?,
        request_bytes: row.get("RequestSize")?,
        response_bytes: row.get("ResponseSize")?,
        millis: row.get("DurationMs")?,
        client: row.get("ClientIp")?,
        user_agent: row.get("UserAgent")?,
        error: row.get("ErrorMessage")?,
    })
}
