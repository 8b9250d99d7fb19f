//! Single values: the Agent's identity and the Gateway's landing page.

use rusqlite::{Connection, OptionalExtension};

use shared::clock;
use shared::mapping::MappingId;
use time::OffsetDateTime;

use super::{Store, StoreError};
use crate::{random, timestamp};

/// Where the Agent's identity is kept.
const AGENT_ID: &str = "AgentId";
/// Where the earlier program keeps its landing page, and so do we.
const LANDING_PAGE: &str = "LandingPageHtml";

impl Store {
    /// The Agent's identity: a UUID made when the database was.
    pub fn agent_id(&self) -> Result<String, StoreError> {
        self.read(agent_id)
    }

    /// The landing page that the Operator wrote; `None` for the default one.
    pub fn landing_page(&self) -> Result<Option<String>, StoreError> {
        self.read(|connection| {
            let sql = r#"SELECT "Value" FROM "Settings" WHERE "Key" = ?1"#;
            connection.query_row(sql, [LANDING_PAGE], |row| row.get(0)).optional()
        })
    }

    /// The landing page that the Operator wrote, and when he saved it.
    pub fn landing_page_saved(&self) -> Result<Option<(String, OffsetDateTime)>, StoreError> {
        let row = self.read(|connection| {
            let sql = r#"SELECT "Value", "UpdatedAt" FROM "Settings" WHERE "Key" = ?1"#;
            connection
                .query_row(sql, [LANDING_PAGE], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))
                .optional()
        })?;
        // A date that nobody can read is older than all others.
        let parse = |text: &str| clock::parse_database(text).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        Ok(row.map(|(html, saved)| (html, parse(&saved))))
    }

    /// Keeps a landing page of the Operator's.
    pub fn set_landing_page(&self, html: String) -> Result<(), StoreError> {
        let now = timestamp::database_form(timestamp::now());
        self.durable(move |connection| {
            connection.execute(
                r#"INSERT INTO "Settings" ("Key", "Value", "UpdatedAt") VALUES (?1, ?2, ?3)
                   ON CONFLICT ("Key") DO UPDATE
                   SET "Value" = excluded."Value", "UpdatedAt" = excluded."UpdatedAt""#,
                [LANDING_PAGE, &html, &now],
            )?;
            Ok(())
        })
    }

    /// Back to the default landing page; whether there was another.
    pub fn reset_landing_page(&self) -> Result<bool, StoreError> {
        self.durable(|connection| {
            Ok(connection.execute(r#"DELETE FROM "Settings" WHERE "Key" = ?1"#, [LANDING_PAGE])? > 0)
        })
    }
}

/// Makes the identity if there is none. Two processes that both find none agree on the one written first.
pub(super) fn make_agent_id(connection: &Connection) -> Result<(), rusqlite::Error> {
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

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;

    #[test]
    fn a_landing_page_survives_a_restart_and_can_be_taken_back() {
        let scratch = Scratch::new();
        let store = scratch.store();
        assert_eq!(store.landing_page().expect("asked"), None);
        assert!(!store.reset_landing_page().expect("asked"));
        store.set_landing_page("<p>one</p>".into()).expect("saved");
        store.set_landing_page("<p>grüße</p>".into()).expect("saved");
        drop(store);
        let store = scratch.store();
        assert_eq!(store.landing_page().expect("asked").as_deref(), Some("<p>grüße</p>"));
        let (html, saved) = store.landing_page_saved().expect("asked").expect("a page");
        assert_eq!(html, "<p>grüße</p>");
        assert!(saved > time::OffsetDateTime::UNIX_EPOCH);
        assert!(store.reset_landing_page().expect("asked"));
        assert_eq!(store.landing_page().expect("asked"), None);
        assert!(!store.agent_id().expect("an id").is_empty(), "other settings stay");
    }
}
