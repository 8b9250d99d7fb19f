//! Who is the Operator: password, tokens, cookies, and what is refused to pages of other origins.
//!
//! The password is known here and nowhere else. Each connection has its own thread and at most two check a
//! password at a time, so a flood of guesses costs neither the tunnel nor the page more than that.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use shared::mapping::MappingId;
use shared::threads;

use super::App;
use super::api::{Params, json_object};
use super::http::{Request, Response};
use super::problem::{self, problem};
use super::token::{self, Claims};
use crate::password::MAX_PASSWORD;
use crate::store::{KeptSession, Session};
use crate::timestamp;

const ACCESS_COOKIE: &str = "octoporty_access";
const REFRESH_COOKIE: &str = "octoporty_refresh";
const ACCESS_PATH: &str = "/";
/// The token that can renew itself is sent where it is needed only.
const REFRESH_PATH: &str = "/api/v1/auth";
const ACCESS_LIFE: Duration = Duration::from_secs(15 * 60);
const REFRESH_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Passwords checked at the same time: half of the smallest machine we run on.
const MOST_CHECKS: usize = 2;
/// What is kept of a browser's name, for the list of sessions.
const MAX_USER_AGENT: usize = 300;

/// How the Operator showed who he is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// A header, which no other page can make the browser send.
    Bearer,
    /// A cookie, which the browser sends by itself.
    Cookie,
}

/// The Operator, as a request shows him.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operator {
    pub(crate) shown: Shown,
    /// `None` for a command on this machine.
    pub(crate) session: Option<MappingId>,
    /// When what he showed is good no more, in seconds since 1970.
    pub(crate) expires: i64,
}

/// Lets the Operator pass, or says how to become him. A good header wins over a bad cookie and the other way
/// round. A token is as good as its session: the database is asked each time, so that one that was ended is over
/// with the next request, whoever ended it.
pub(crate) fn authenticate(app: &App, request: &Request) -> Result<Operator, Response> {
    let bearer = request
        .header("authorization")
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| (token.trim(), Shown::Bearer));
    let cookie = request.cookie(ACCESS_COOKIE).map(|token| (token, Shown::Cookie));
    let secret = app.config.jwt_secret.expose().as_bytes();
    let now = timestamp::now();
    let mut fault = None;
    for (token, shown) in bearer.into_iter().chain(cookie) {
        match token::verify(secret, token, now.unix_timestamp()) {
            Ok(Claims { session, expires }) => {
                let lives =
                    session.map_or(Ok(true), |id| app.store.session_lives(id, &app.password_tag, now));
                match lives {
                    Ok(true) => return Ok(Operator { shown, session, expires }),
                    Ok(false) => fault = Some("belongs to a session that has ended".to_owned()),
                    Err(e) => return Err(problem::internal(&e)),
                }
            }
            Err(why) => fault = Some(why.to_string()),
        }
    }
    // RFC 6750 3: no error code for a request that showed nothing.
    Err(match fault {
        None => problem(401, "log in first").with("WWW-Authenticate", "Bearer"),
        Some(why) => problem(401, format!("the token {why}; log in again"))
            .with("WWW-Authenticate", "Bearer error=\"invalid_token\""),
    })
}

/// Refuses what another site makes the Operator's browser ask. `SameSite=Strict` should have kept the cookie
/// from it; this holds where a browser does not know that, and against other ports of the same host, which
/// are the same site.
pub(crate) fn own_page_only(request: &Request) -> Result<(), Response> {
    if same_origin(request) == Some(true) {
        return Ok(());
    }
    Err(problem(
        403,
        "with a cookie, changes are accepted from the Agent's own page only; programs send \
         \"Authorization: Bearer\" instead",
    ))
}

/// `None` when the request does not say where it is from.
fn same_origin(request: &Request) -> Option<bool> {
    // Browsers set it and pages cannot; but only over https or to localhost.
    if let Some(site) = request.header("sec-fetch-site") {
        return Some(site == "same-origin");
    }
    let origin = request.header("origin")?;
    let (_, origin) = origin.split_once("://")?;
    // A proxy may rewrite Host and say so. Another site's page cannot send X-Forwarded-Host without being
    // asked first whether it may (CORS), and nobody here says yes.
    let hosts = [request.header("host"), request.header("x-forwarded-host")];
    Some(hosts.into_iter().flatten().any(|host| host.trim().eq_ignore_ascii_case(origin)))
}

/// `POST /api/v1/auth/login`.
pub(crate) fn login(app: &App, request: &Request, _: &Params<'_>) -> Response {
    let body = match json_object(request) {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let password = match text_member(&body, "password") {
        Ok(Some(text)) => text,
        // Counts as wrong, as it always did.
        Ok(None) if body.keys().any(|key| key.eq_ignore_ascii_case("password")) => "",
        Ok(None) => return problem::malformed("the member \"password\" is required"),
        Err(refusal) => return refusal,
    };
    let Some(_permit) = Permit::take(&app.checking) else {
        return problem(429, "too many logins at once, try again").with("Retry-After", "1");
    };
    if let Err(wait) = threads::lock(&app.lockouts).attempt(request.peer, Instant::now()) {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        return problem(429, format!("too many failed logins, try again in {seconds} seconds"))
            .with("Retry-After", seconds.to_string());
    }
    // Whatever was sent, one hash is computed: the time taken says nothing. A hash of the empty password
    // opens nothing.
    let right =
        app.password.verify(password.as_bytes()) & !password.is_empty() & (password.len() <= MAX_PASSWORD);
    if !right {
        log::warn!("admin: wrong password from {}", request.peer);
        return problem(401, "the password is wrong").with("WWW-Authenticate", "Bearer");
    }
    threads::lock(&app.lockouts).succeeded(request.peer);
    log::info!("admin: login from {}", request.peer);
    let now = timestamp::now();
    let refresh = token::opaque();
    match app.store.add_session(session(app, request, &refresh, now), now) {
        Ok(id) => granted(app, request, id, &refresh, now),
        Err(e) => problem::internal(&e),
    }
}

/// `POST /api/v1/auth/refresh`: the token is in the cookie or, failing that, in the body, and works once.
pub(crate) fn refresh(app: &App, request: &Request, _: &Params<'_>) -> Response {
    let old = match request.cookie(REFRESH_COOKIE) {
        Some(cookie) => {
            if let Err(refusal) = own_page_only(request) {
                return refusal;
            }
            unescape(cookie)
        }
        None => {
            let body = match json_object(request) {
                Ok(body) => body,
                Err(refusal) => return refusal,
            };
            match text_member(&body, "refreshToken") {
                Ok(Some(text)) => text.to_owned(),
                Ok(None) => return problem::malformed("the member \"refreshToken\" is required"),
                Err(refusal) => return refusal,
            }
        }
    };
    let now = timestamp::now();
    let new = token::opaque();
    match app.store.rotate_session(token::fingerprint(&old), session(app, request, &new, now), now) {
        Ok(Some(id)) => granted(app, request, id, &new, now),
        Ok(None) => problem(401, "the refresh token is unknown, used or expired; log in again")
            .with("WWW-Authenticate", "Bearer error=\"invalid_token\""),
        Err(e) => problem::internal(&e),
    }
}

/// `POST /api/v1/auth/logout`: ends the session of the cookies or of the token and clears both cookies. Needs no
/// token: one that has expired must not keep anybody logged in.
pub(crate) fn logout(app: &App, request: &Request, _: &Params<'_>) -> Response {
    if same_origin(request) == Some(false) {
        return problem(403, "only the Agent's own page may log out");
    }
    let by_cookie = match request.cookie(REFRESH_COOKIE) {
        Some(cookie) => app.store.end_session(token::fingerprint(&unescape(cookie))),
        None => Ok(None),
    };
    let ended = by_cookie.and_then(|by_cookie| {
        let by_token = authenticate(app, request).ok().and_then(|operator| operator.session);
        if let Some(id) = by_token {
            app.store.end_session_by_id(id)?;
        }
        Ok([by_cookie, by_token])
    });
    match ended {
        Ok(ended) => {
            app.live.hub.end_sessions(|id| ended.contains(&Some(id)));
            without_cookies(request)
        }
        Err(e) => problem::internal(&e),
    }
}

/// `POST /api/v1/auth/logout-all`: ends every session, this one too.
pub(crate) fn logout_all(app: &App, request: &Request, _: &Params<'_>) -> Response {
    match app.store.end_all_sessions() {
        Ok(count) => {
            log::info!("admin: {} ended all {count} sessions", request.peer);
            app.live.hub.end_sessions(|_| true);
            without_cookies(request)
        }
        Err(e) => problem::internal(&e),
    }
}

/// `GET /api/v1/auth/sessions`.
pub(crate) fn sessions(app: &App, _: &Request, params: &Params<'_>) -> Response {
    let own = params.operator.and_then(|operator| operator.session);
    let sessions = match app.store.sessions(timestamp::now()) {
        Ok(sessions) => sessions,
        Err(e) => return problem::internal(&e),
    };
    let shown = |session: &KeptSession| {
        json!({
            "id": session.id.to_string(),
            "createdAt": timestamp::api_form(session.created_at),
            "usedAt": timestamp::api_form(session.used_at),
            "expiresAt": timestamp::api_form(session.expires_at),
            "address": session.address,
            "userAgent": session.user_agent,
            "current": own == Some(session.id),
        })
    };
    Response::json(200, &sessions.iter().map(shown).collect())
}

/// `DELETE /api/v1/auth/sessions/{id}`.
pub(crate) fn end_session(app: &App, request: &Request, params: &Params<'_>) -> Response {
    let Ok(id) = params.id.parse::<MappingId>() else {
        return problem::invalid(&[("id".into(), "is not an id".into())]);
    };
    match app.store.end_session_by_id(id) {
        Ok(true) => {
            log::info!("admin: {} ended session {id}", request.peer);
            app.live.hub.end_sessions(|session| session == id);
            Response::empty(204)
        }
        Ok(false) => problem(404, "there is no such session"),
        Err(e) => problem::internal(&e),
    }
}

fn without_cookies(request: &Request) -> Response {
    let gone = |name, path| cookie(request, name, "", path, OffsetDateTime::UNIX_EPOCH, Duration::ZERO);
    Response::empty(204)
        .with("Set-Cookie", gone(ACCESS_COOKIE, ACCESS_PATH))
        .with("Set-Cookie", gone(REFRESH_COOKIE, REFRESH_PATH))
}

/// The answer to a login or a renewal: the tokens, in the body for programs and as cookies for the page.
fn granted(app: &App, request: &Request, session: MappingId, refresh: &str, now: OffsetDateTime) -> Response {
    let (expires, refresh_expires) = (now + ACCESS_LIFE, now + REFRESH_LIFE);
    let secret = app.config.jwt_secret.expose().as_bytes();
    let access = token::issue(secret, session, now.unix_timestamp(), expires.unix_timestamp());
    let body = json!({
        "token": access,
        "expiresAt": timestamp::api_form(expires),
        "refreshToken": refresh,
        "refreshExpiresAt": timestamp::api_form(refresh_expires),
    });
    let access = cookie(request, ACCESS_COOKIE, &access, ACCESS_PATH, expires, ACCESS_LIFE);
    let refresh =
        cookie(request, REFRESH_COOKIE, &escape(refresh), REFRESH_PATH, refresh_expires, REFRESH_LIFE);
    Response::json(200, &body).with("Set-Cookie", access).with("Set-Cookie", refresh)
}

/// `Secure` only where the browser would take it, so that `http://nas:17201` works.
fn cookie(
    request: &Request,
    name: &str,
    value: &str,
    path: &str,
    expires: OffsetDateTime,
    life: Duration,
) -> String {
    let secure = if request.is_https() { "; secure" } else { "" };
    let (expires, life) = (timestamp::http_form(expires), life.as_secs());
    format!(
        "{name}={value}; expires={expires}; max-age={life}; path={path}{secure}; samesite=strict; httponly"
    )
}

fn session(app: &App, request: &Request, refresh: &str, now: OffsetDateTime) -> Session {
    Session {
        token_hash: token::fingerprint(refresh),
        password_tag: app.password_tag.clone(),
        expires_at: now + REFRESH_LIFE,
        address: request.peer.to_canonical().to_string(),
        user_agent: request.header("user-agent").map(|name| name.chars().take(MAX_USER_AGENT).collect()),
    }
}

/// A text among the members, its name in any case; `null` is none.
fn text_member<'b>(body: &'b Map<String, Value>, name: &str) -> Result<Option<&'b str>, Response> {
    match body.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)) {
        None | Some((_, Value::Null)) => Ok(None),
        Some((_, Value::String(text))) => Ok(Some(text)),
        Some(_) => Err(problem::malformed(format!("the member \"{name}\" must be a string"))),
    }
}

/// Base 64 has three characters that a cookie's value is better off without.
fn escape(token: &str) -> String {
    token.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D")
}

fn unescape(cookie: &str) -> String {
    let mut text = cookie.to_owned();
    for (escaped, plain) in
        [("%2B", "+"), ("%2b", "+"), ("%2F", "/"), ("%2f", "/"), ("%3D", "="), ("%3d", "=")]
    {
        text = text.replace(escaped, plain);
    }
    text
}

/// One of the places among [`MOST_CHECKS`], given back when dropped.
struct Permit<'a>(&'a AtomicUsize);

impl<'a> Permit<'a> {
    fn take(checking: &'a AtomicUsize) -> Option<Permit<'a>> {
        let taken = checking
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| (now < MOST_CHECKS).then_some(now + 1));
        taken.is_ok().then_some(Permit(checking))
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_check_at_once_gets_no_place() {
        let checking = AtomicUsize::new(0);
        let first = Permit::take(&checking);
        let second = Permit::take(&checking);
        assert!(first.is_some() && second.is_some());
        assert!(Permit::take(&checking).is_none());
        drop(first);
        assert!(Permit::take(&checking).is_some());
    }

    #[test]
    fn a_refresh_token_survives_its_cookie() {
        let token = "a+b/c==";
        assert_eq!(unescape(&escape(token)), token);
        assert!(!escape(token).contains(['+', '/', '=']));
    }

    #[test]
    fn the_own_page_is_told_from_others() {
        let request = |fields: &[(&str, &str)]| {
            let request = Request::new("POST", "/").field("Host", "nas:17201");
            fields.iter().fold(request, |request, (name, value)| request.field(name, value))
        };
        for (fields, expected) in [
            (vec![], None),
            (vec![("Origin", "http://nas:17201")], Some(true)),
            (vec![("Origin", "http://NAS:17201")], Some(true)),
            (vec![("Origin", "http://nas:8080")], Some(false)),
            (vec![("Origin", "http://evil.example")], Some(false)),
            (vec![("Origin", "null")], None),
            (vec![("Sec-Fetch-Site", "same-origin")], Some(true)),
            (vec![("Sec-Fetch-Site", "same-site")], Some(false)),
            (vec![("Sec-Fetch-Site", "cross-site")], Some(false)),
            (vec![("Sec-Fetch-Site", "none")], Some(false)),
            (vec![("Sec-Fetch-Site", "same-origin"), ("Origin", "https://rewritten.example")], Some(true)),
            (vec![("Origin", "https://a.example"), ("X-Forwarded-Host", "a.example")], Some(true)),
        ] {
            assert_eq!(same_origin(&request(&fields)), expected, "{fields:?}");
        }
    }
}
