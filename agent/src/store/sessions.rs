//! Logins to the admin page, kept so that they survive a restart.

use rusqlite::{Connection, OptionalExtension, Statement, ToSql, params};
use time::OffsetDateTime;

use shared::mapping::MappingId;

use super::{Store, StoreError};
use crate::{random, timestamp};

/// Sessions of the admin page at most; the one unused for longest makes room.
const MAX_SESSIONS: i64 = 100;

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

/// A session as it is kept, for the list of them.
#[derive(Clone, Debug)]
pub struct KeptSession {
    /// Names it, so that it can be ended; says nothing about its token.
    pub id: MappingId,
    /// Tells which one is asking.
    pub token_hash: String,
    /// When the Operator logged in.
    pub created_at: OffsetDateTime,
    /// When its token was last exchanged.
    pub used_at: OffsetDateTime,
    /// When it ends by itself.
    pub expires_at: OffsetDateTime,
    /// Where it was last used from.
    pub address: String,
    /// What it was last used with.
    pub user_agent: Option<String>,
}

impl Store {
    /// The sessions that live at `now`, the one used last first. Those of an earlier password are among them until the
    /// next login; they are of no use.
    pub fn sessions(&self, now: OffsetDateTime) -> Result<Vec<KeptSession>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                r#"SELECT "Id", "TokenHash", "CreatedAt", "UsedAt", "ExpiresAt", "Address", "UserAgent"
                   FROM "OctoportySessions" WHERE "ExpiresAt" > ?1 ORDER BY "UsedAt" DESC, "Id""#,
            )?;
            let mut rows = statement.query([timestamp::database_form(now)])?;
            let mut sessions = Vec::new();
            while let Some(row) = rows.next()? {
                // All written by us; a row that somebody else has spoilt is of no use to anybody.
                let date = |name| row.get::<_, String>(name).map(|text| timestamp::from_database(&text));
                let (Ok(id), Some(created_at), Some(used_at), Some(expires_at)) = (
                    row.get::<_, String>("Id")?.parse(),
                    date("CreatedAt")?,
                    date("UsedAt")?,
                    date("ExpiresAt")?,
                ) else {
                    continue;
                };
                sessions.push(KeptSession {
                    id,
                    token_hash: row.get("TokenHash")?,
                    created_at,
                    used_at,
                    expires_at,
                    address: row.get("Address")?,
                    user_agent: row.get("UserAgent")?,
                });
            }
            Ok(sessions)
        })
    }

    /// Ends every session; how many there were. On the disk when it returns: who logs out everywhere has a reason.
    pub fn end_all_sessions(&self) -> Result<usize, StoreError> {
        self.durable(|connection| connection.execute(r#"DELETE FROM "OctoportySessions""#, []))
    }

    /// Ends the session with this id; whether there was one.
    pub fn end_session_by_id(&self, id: MappingId) -> Result<bool, StoreError> {
        self.durable(move |connection| {
            let sql = r#"DELETE FROM "OctoportySessions" WHERE "Id" = ?1"#;
            Ok(connection.execute(sql, [id.database_form()])? > 0)
        })
    }

    /// Whether a session lives: it has not ended or expired, and the password is the one it was begun with.
    pub(crate) fn session_lives(
        &self,
        id: MappingId,
        password_tag: &str,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                r#"SELECT 1 FROM "OctoportySessions"
                   WHERE "Id" = ?1 AND "PasswordTag" = ?2 AND "ExpiresAt" > ?3"#,
            )?;
            statement.exists(params![id.database_form(), password_tag, timestamp::database_form(now)])
        })
    }

    /// Ends the sessions that have expired or were begun with another password.
    pub(crate) fn prune_sessions(&self, password_tag: String, now: OffsetDateTime) -> Result<(), StoreError> {
        self.write(move |connection| prune(connection, &password_tag, now))
    }

    /// Keeps a session and names it. Expired ones and those of another password go.
    pub(crate) fn add_session(&self, session: Session, now: OffsetDateTime) -> Result<MappingId, StoreError> {
        self.write(move |connection| {
            prune(connection, &session.password_tag, now)?;
            let now = timestamp::database_form(now);
            let id = MappingId::from_random(random::bytes());
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
                    id.database_form(),
                    session.token_hash,
                    session.password_tag,
                    now,
                    timestamp::database_form(session.expires_at),
                    session.address,
                    session.user_agent,
                ],
            )?;
            Ok(id)
        })
    }

    /// Swaps the token of a live session for the one in `next`: a token works once. Which session that is, if there is
    /// one.
    pub(crate) fn rotate_session(
        &self,
        token_hash: String,
        next: Session,
        now: OffsetDateTime,
    ) -> Result<Option<MappingId>, StoreError> {
        self.write(move |connection| {
            let mut statement = connection.prepare_cached(
                r#"UPDATE "OctoportySessions"
                   SET "TokenHash" = ?2, "UsedAt" = ?4, "ExpiresAt" = ?5, "Address" = ?6, "UserAgent" = ?7
                   WHERE "TokenHash" = ?1 AND "PasswordTag" = ?3 AND "ExpiresAt" > ?4 RETURNING "Id""#,
            )?;
            let values = params![
                token_hash,
                next.token_hash,
                next.password_tag,
                timestamp::database_form(now),
                timestamp::database_form(next.expires_at),
                next.address,
                next.user_agent,
            ];
            session_id(&mut statement, values)
        })
    }

    /// Ends the session with this token, and says which it was, if there was one. On the disk when it returns.
    pub(crate) fn end_session(&self, token_hash: String) -> Result<Option<MappingId>, StoreError> {
        self.durable(move |connection| {
            let mut statement = connection
                .prepare_cached(r#"DELETE FROM "OctoportySessions" WHERE "TokenHash" = ?1 RETURNING "Id""#)?;
            session_id(&mut statement, params![token_hash])
        })
    }
}

fn prune(connection: &Connection, password_tag: &str, now: OffsetDateTime) -> Result<(), rusqlite::Error> {
    connection.execute(
        r#"DELETE FROM "OctoportySessions" WHERE "ExpiresAt" <= ?1 OR "PasswordTag" <> ?2"#,
        [&timestamp::database_form(now), password_tag],
    )?;
    Ok(())
}

/// The id in the one row that a statement returns.
fn session_id(
    statement: &mut Statement<'_>,
    values: &[&dyn ToSql],
) -> Result<Option<MappingId>, rusqlite::Error> {
    let id: Option<String> = statement.query_row(values, |row| row.get(0)).optional()?;
    // Written by us, so it is one.
    Ok(id.and_then(|id| id.parse().ok()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::scratch::Scratch;
    use super::*;

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
        let id = store.add_session(session("a", "p", 10), now).expect("saved");
        assert_eq!(rotate("a", "b", "p", now), Some(id));
        assert!(store.session_lives(id, "p", now).expect("asked"));
        assert!(!store.session_lives(id, "another password", now).expect("asked"));
        assert!(!store.session_lives(id, "p", now + Duration::from_secs(100)).expect("asked"), "expired");
        assert_eq!(rotate("a", "c", "p", now), None, "used twice");
        assert_eq!(rotate("b", "c", "another password", now), None);
        assert_eq!(rotate("b", "c", "p", now + Duration::from_secs(100)), None, "expired");
        assert_eq!(store.end_session("b".into()).expect("ended"), Some(id));
        assert_eq!(store.end_session("b".into()).expect("asked"), None);
        assert!(!store.session_lives(id, "p", now).expect("asked"));
        assert_eq!(rotate("b", "c", "p", now), None);
        let id = store.add_session(session("d", "p", 10), now).expect("saved");
        store.prune_sessions("p".into(), now).expect("pruned");
        assert!(store.session_lives(id, "p", now).expect("asked"));
        store.prune_sessions("another password".into(), now).expect("pruned");
        assert!(store.sessions(now).expect("a list").is_empty());
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
        assert_eq!(store.rotate_session("t0".into(), session(1_000), at).expect("asked"), None);
        assert!(store.rotate_session("t1".into(), session(1_001), at).expect("asked").is_some());
    }

    #[test]
    fn sessions_are_listed_and_ended_one_by_one_or_all_at_once() {
        let scratch = Scratch::new();
        let store = scratch.store();
        let now = timestamp::now();
        for n in 0..3_u64 {
            let session = Session {
                token_hash: format!("t{n}"),
                password_tag: "p".into(),
                expires_at: now + Duration::from_secs(10 * (n + 1)),
                address: "192.168.1.5".into(),
                user_agent: Some("Browser".into()),
            };
            store.add_session(session, now + Duration::from_secs(n)).expect("saved");
        }
        let hashes = |at| -> Vec<_> {
            store.sessions(at).expect("a list").into_iter().map(|session| session.token_hash).collect()
        };
        assert_eq!(hashes(now), ["t2", "t1", "t0"]);
        assert_eq!(hashes(now + Duration::from_secs(15)), ["t2", "t1"], "expired ones are not listed");

        let first = store.sessions(now).expect("a list").remove(0);
        assert_eq!((first.created_at, first.used_at), (now + Duration::from_secs(2), first.created_at));
        assert_eq!((first.address.as_str(), first.user_agent.as_deref()), ("192.168.1.5", Some("Browser")));
        assert!(store.end_session_by_id(first.id).expect("asked"));
        assert!(!store.end_session_by_id(first.id).expect("asked"));
        assert_eq!(hashes(now), ["t1", "t0"]);
        assert_eq!(store.end_all_sessions().expect("asked"), 2);
        assert!(hashes(now).is_empty());
    }
}
