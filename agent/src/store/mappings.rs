//! The mapping table.
//!
//! Columns are addressed by name and ids compared without regard to case, because the file may have been
//! written by the earlier program, in any of its versions. Whether what is stored makes sense to save is asked
//! by the API.

use std::fmt;

use rusqlite::{Connection, OptionalExtension, Row, Statement, params};
use time::OffsetDateTime;

use shared::hostname::Hostname;
use shared::mapping::{HostHeader, Mapping, MappingId, UpstreamHost};

use super::{Store, StoreError};
use crate::timestamp;

/// Mappings at most: their table travels to the Gateway in one message, and nobody runs that many services at
/// home.
pub const MAX_MAPPINGS: i64 = 5_000;

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
            add(connection, &mapping)?;
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
            update(connection, &mapping)?;
            Ok(Ok(Some(Ok(mapping))))
        })?
    }

    /// Removes the row with this id; whether there was one. Its history stays, and so its name is remembered.
    pub(crate) fn delete(&self, id: MappingId) -> Result<bool, StoreError> {
        self.durable(move |connection| remove(connection, id))
    }
}

pub(super) fn warn_of_unreadable(connection: &Connection) -> Result<(), rusqlite::Error> {
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

pub(super) fn all(connection: &Connection) -> Result<Vec<Stored>, rusqlite::Error> {
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

/// A new row. Nobody has the id or the domain.
pub(super) fn add(connection: &Connection, mapping: &Mapping) -> Result<(), rusqlite::Error> {
    let id = mapping.id.database_form();
    let mut insert = connection.prepare_cached(
        r#"INSERT INTO "PortMappings" ("Id", "ExternalDomain", "InternalHost", "InternalPort", "InternalUseTls",
               "AllowSelfSignedCerts", "IsEnabled", "Description", "CreatedAt", "UpdatedAt")
           VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"#,
    )?;
    write_fields(&mut insert, &id, mapping)?;
    save_options(connection, &id, &mapping.host_header)
}

/// The row with this id, if there is one, becomes this mapping. Nobody else has the domain.
pub(super) fn update(connection: &Connection, mapping: &Mapping) -> Result<(), rusqlite::Error> {
    let Some(id) = spelled(connection, mapping.id)? else { return Ok(()) };
    let mut update = connection.prepare_cached(
        r#"UPDATE "PortMappings" SET "ExternalDomain" = ?2, "InternalHost" = ?3, "InternalPort" = ?4,
               "InternalUseTls" = ?5, "AllowSelfSignedCerts" = ?6, "IsEnabled" = ?7, "Description" = ?8,
               "CreatedAt" = ?9, "UpdatedAt" = ?10
           WHERE "Id" = ?1"#,
    )?;
    write_fields(&mut update, &id, mapping)?;
    save_options(connection, &id, &mapping.host_header)
}

fn write_fields(statement: &mut Statement<'_>, id: &str, mapping: &Mapping) -> Result<(), rusqlite::Error> {
    statement.execute(params![
        id,
        mapping.domain.as_str(),
        mapping.host.to_string(),
        mapping.port,
        mapping.tls,
        mapping.allow_invalid_certificates,
        mapping.enabled,
        mapping.description,
        timestamp::database_form(mapping.created_at),
        timestamp::database_form(mapping.updated_at),
    ])?;
    Ok(())
}

/// Deletes what only the mapping itself needs.
pub(super) fn remove(connection: &Connection, id: MappingId) -> Result<bool, rusqlite::Error> {
    let Some(spelled) = spelled(connection, id)? else { return Ok(false) };
    let now = timestamp::database_form(timestamp::now());
    connection
        .prepare_cached(
            r#"INSERT OR REPLACE INTO "OctoportyDeletedMappings"
                   ("MappingId", "Name", "ExternalDomain", "DeletedAt")
               SELECT upper("Id"), coalesce("Description", "ExternalDomain"), "ExternalDomain", ?2
               FROM "PortMappings" WHERE "Id" = ?1"#,
        )?
        .execute([&spelled, &now])?;
    let delete = |sql, id: &str| connection.prepare_cached(sql)?.execute([id]);
    delete(r#"DELETE FROM "OctoportyMappingOptions" WHERE "MappingId" = ?1"#, &spelled)?;
    delete(r#"DELETE FROM "OctoportyLastRequests" WHERE "MappingId" = ?1"#, &id.database_form())?;
    Ok(delete(r#"DELETE FROM "PortMappings" WHERE "Id" = ?1"#, &spelled)? > 0)
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

/// Under the id as the mapping's own row spells it, so that the earlier program deletes it with the mapping.
fn save_options(
    connection: &Connection,
    spelled: &str,
    host_header: &HostHeader,
) -> Result<(), rusqlite::Error> {
    connection
        .prepare_cached(
            r#"INSERT INTO "OctoportyMappingOptions" ("MappingId", "HostHeader") VALUES (?1, ?2)
               ON CONFLICT ("MappingId") DO UPDATE SET "HostHeader" = excluded."HostHeader""#,
        )?
        .execute([spelled, &host_header.database_form()])?;
    Ok(())
}

/// The id as the row spells it. Asked first in the two spellings that an index finds.
fn spelled(connection: &Connection, id: MappingId) -> Result<Option<String>, rusqlite::Error> {
    let id = id.database_form();
    let ask = |sql| connection.prepare_cached(sql)?.query_row([&id], |row| row.get(0)).optional();
    match ask(r#"SELECT "Id" FROM "PortMappings" WHERE "Id" IN (?1, lower(?1))"#)? {
        Some(spelled) => Ok(Some(spelled)),
        None => ask(r#"SELECT "Id" FROM "PortMappings" WHERE upper("Id") = ?1"#),
    }
}

/// For tests of this crate.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::random;

    pub(crate) fn mapping(domain: &str) -> Mapping {
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

    /// A row of the earlier program whose host has a path.
    pub(crate) fn unusable_row(domain: &str, id: u8) -> Stored {
        Stored::Unreadable(Unreadable {
            id: MappingId::from_bytes([id; 16]),
            domain: domain.into(),
            host: "nas/path".into(),
            port: 80,
            tls: false,
            allow_invalid_certificates: false,
            enabled: true,
            description: None,
            created_at: None,
            updated_at: None,
            fault: "host \"nas/path\": no".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::scratch::Scratch;
    use super::testing::mapping;
    use super::*;

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
}
