//! Mappings in JSON: what is accepted, what is answered.
//!
//! The earlier program answered with other field names than it asked for, and its page used a third set. Both
//! spellings are accepted and both are answered, so what was read can be changed and sent back. Where the two
//! spellings of a thing disagree in such a request, the one that differs from what is stored is the one that
//! was changed. Keeping the mappings is left to the store, telling the Gateway to the tunnel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use shared::hostname::Hostname;
use shared::mapping::{HostHeader, Mapping, MappingId, UpstreamHost};
use shared::target;

use super::App;
use super::api::{Params, json_object};
use super::http::{Request, Response};
use super::problem::{self, Fault, problem};
use super::routes::Standings;
use crate::control::RouteState;
use crate::events::Event;
use crate::store::{SaveError, Stored, Unreadable};
use crate::{random, timestamp};

/// How long a save waits for the Gateway to say that it has the change. It has it in milliseconds or not
/// soon.
pub(super) const ACKNOWLEDGE: Duration = Duration::from_secs(2);
/// Longest description, in characters; the column says so too.
const MAX_DESCRIPTION: usize = 500;

/// `GET /api/v1/mappings`: all of them, by domain.
pub(crate) fn list(app: &App, _: &Request, _: &Params<'_>) -> Response {
    match app.store.stored() {
        Ok(rows) => {
            let standings = Standings::now(app.control.as_ref());
            Response::json(200, &rows.iter().map(|row| standing(app, row, &standings)).collect())
        }
        Err(e) => problem::internal(&e),
    }
}

/// `GET /api/v1/mappings/{id}`.
pub(crate) fn get(app: &App, _: &Request, params: &Params<'_>) -> Response {
    with_id(params, |id| match app.store.find(id) {
        Ok(Some(row)) => Response::json(200, &standing(app, &row, &Standings::now(app.control.as_ref()))),
        Ok(None) => unknown(id),
        Err(e) => problem::internal(&e),
    })
}

/// `POST /api/v1/mappings`.
pub(crate) fn create(app: &App, request: &Request, _: &Params<'_>) -> Response {
    let body = match json_object(request) {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let id = MappingId::from_random(random::bytes());
    match Change::asked(app, id, Kind::Create, body).apply(None) {
        Ok(mapping) => match app.store.insert(mapping.clone()) {
            Ok(()) => {
                let response = saved(app, 201, mapping);
                response.with("Location", format!("/api/v1/mappings/{id}"))
            }
            Err(e) => not_saved(&e),
        },
        Err(faults) => problem::invalid(&faults),
    }
}

/// The mapping that these fields would make, or what is wrong with them. Nothing is stored.
pub(crate) fn draft(app: &App, body: Map<String, Value>) -> Result<Mapping, Vec<Fault>> {
    let id = MappingId::from_random(random::bytes());
    Change::asked(app, id, Kind::Create, body).apply(None)
}

/// `PUT /api/v1/mappings/{id}`: what is not sent gets its default, except `hostHeader`, which programs
/// written for the earlier program cannot know and would change without meaning to.
pub(crate) fn replace(app: &App, request: &Request, params: &Params<'_>) -> Response {
    change(app, request, params, Kind::Replace)
}

/// `PATCH /api/v1/mappings/{id}`: what is not sent stays.
pub(crate) fn merge(app: &App, request: &Request, params: &Params<'_>) -> Response {
    change(app, request, params, Kind::Merge)
}

/// `PATCH /api/v1/mappings/{id}/toggle`: `enabled` only, off when it is missing.
pub(crate) fn toggle(app: &App, request: &Request, params: &Params<'_>) -> Response {
    change(app, request, params, Kind::Toggle)
}

/// `DELETE /api/v1/mappings/{id}`.
pub(crate) fn delete(app: &App, _: &Request, params: &Params<'_>) -> Response {
    with_id(params, |id| match app.store.delete(id) {
        Ok(true) => {
            log::info!("mapping {id} was deleted");
            app.control.mappings_changed(ACKNOWLEDGE);
            app.live.hub.publish(Event::MappingsChanged { reason: "deleted", ids: vec![id] });
            Response::empty(204)
        }
        Ok(false) => unknown(id),
        Err(e) => problem::internal(&e),
    })
}

fn change(app: &App, request: &Request, params: &Params<'_>, kind: Kind) -> Response {
    with_id(params, |id| {
        let body = match json_object(request) {
            Ok(body) => body,
            Err(refusal) => return refusal,
        };
        let change = Change::asked(app, id, kind, body);
        match app.store.change(id, move |row| change.apply(Some(&row))) {
            Ok(Some(Ok(mapping))) => saved(app, 200, mapping),
            Ok(Some(Err(faults))) => problem::invalid(&faults),
            Ok(None) => unknown(id),
            Err(e) => not_saved(&e),
        }
    })
}

fn with_id(params: &Params<'_>, answer: impl FnOnce(MappingId) -> Response) -> Response {
    match params.id.parse() {
        Ok(id) => answer(id),
        Err(fault) => problem::invalid(&[("id".into(), format!("is {fault}"))]),
    }
}

fn unknown(id: MappingId) -> Response {
    problem(404, format!("there is no mapping {id}"))
}

fn not_saved(error: &SaveError) -> Response {
    match error {
        SaveError::DomainTaken(_) => {
            let fault = ("externalDomain".into(), "already has a mapping".into());
            problem::with_fields(409, error.to_string(), &[fault])
        }
        SaveError::TooMany => problem(409, error.to_string()),
        SaveError::Store(e) => problem::internal(e),
    }
}

/// Tells the tunnel and every open page, and the Operator what became of it.
fn saved(app: &App, status: u16, mapping: Mapping) -> Response {
    let state = app
        .control
        .mappings_changed(ACKNOWLEDGE)
        .into_iter()
        .find(|(id, _)| *id == mapping.id)
        .map_or(RouteState::Pending, |(_, state)| state);
    log::info!("mapping {}: {} to {} was saved, {state}", mapping.id, mapping.domain, mapping.authority());
    let reason = if status == 201 { "created" } else { "updated" };
    app.live.hub.publish(Event::MappingsChanged { reason, ids: vec![mapping.id] });
    let standings = Standings::now(app.control.as_ref());
    let row = Stored::Mapping(mapping);
    let mut value = shown(&row);
    add_last_request(app, &row, &mut value);
    if let Stored::Mapping(mapping) = &row {
        standings.add_saved(&mut value, app.control.as_ref(), mapping, &state);
    }
    Response::json(status, &value)
}

/// When somebody last asked for it, also before the Agent was last started.
fn add_last_request(app: &App, row: &Stored, value: &mut Value) {
    value["lastRequestAt"] = app.history.last_request(row.id()).map(timestamp::api_form).into();
}

/// A row with how it stands at the Gateway.
fn standing(app: &App, row: &Stored, standings: &Standings) -> Value {
    let mut value = shown(row);
    add_last_request(app, row, &mut value);
    if let Stored::Mapping(mapping) = row {
        standings.add(&mut value, app.control.as_ref(), mapping);
    }
    value
}

/// A row as the API shows it. One that cannot be used says why where a good one has nothing to say.
pub(super) fn shown(row: &Stored) -> Value {
    match row {
        Stored::Mapping(mapping) => fields(&Shown {
            id: mapping.id,
            domain: mapping.domain.as_str(),
            host: &mapping.host.to_string(),
            port: mapping.port.into(),
            tls: mapping.tls,
            allow_invalid_certificates: mapping.allow_invalid_certificates,
            enabled: mapping.enabled,
            description: mapping.description.as_deref(),
            host_header: Some(mapping.host_header.to_string()),
            created_at: Some(mapping.created_at),
            updated_at: Some(mapping.updated_at),
        }),
        Stored::Unreadable(row) => {
            let mut value = fields(&Shown {
                id: row.id,
                domain: &row.domain,
                host: &row.host,
                port: row.port,
                tls: row.tls,
                allow_invalid_certificates: row.allow_invalid_certificates,
                enabled: row.enabled,
                description: row.description.as_deref(),
                host_header: None,
                created_at: row.created_at,
                updated_at: row.updated_at,
            });
            value["routeState"] = "invalid".into();
            value["routeError"] = format!("not used: {}", row.fault).into();
            value["certificate"] = Value::Null;
            value
        }
    }
}

struct Shown<'a> {
    id: MappingId,
    domain: &'a str,
    host: &'a str,
    port: i64,
    tls: bool,
    allow_invalid_certificates: bool,
    enabled: bool,
    description: Option<&'a str>,
    host_header: Option<String>,
    created_at: Option<OffsetDateTime>,
    updated_at: Option<OffsetDateTime>,
}

fn fields(row: &Shown<'_>) -> Value {
    json!({
        "id": row.id.to_string(),
        "name": row.description.unwrap_or(row.domain),
        "description": row.description,
        "externalDomain": row.domain,
        "internalHost": row.host,
        "internalPort": row.port,
        "internalProtocol": if row.tls { "Https" } else { "Http" },
        "internalUseTls": row.tls,
        "allowInvalidCertificates": row.allow_invalid_certificates,
        "allowSelfSignedCerts": row.allow_invalid_certificates,
        "enabled": row.enabled,
        "isEnabled": row.enabled,
        "hostHeader": row.host_header,
        "createdAt": row.created_at.map(timestamp::api_form),
        "updatedAt": row.updated_at.map(timestamp::api_form),
    })
}

/// What a request does with the fields it does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Create,
    Replace,
    Merge,
    Toggle,
}

/// A request to be applied to what is stored, which is known only once the writer has it in its hands.
pub(super) struct Change {
    id: MappingId,
    kind: Kind,
    body: Map<String, Value>,
    now: OffsetDateTime,
    surroundings: Surroundings,
}

/// Where no mapping may lead.
#[derive(Clone)]
pub(super) struct Surroundings {
    /// Where we listen ourselves.
    own: SocketAddr,
    /// The Gateway's own host.
    gateway: String,
}

impl Surroundings {
    pub(super) fn of(app: &App) -> Surroundings {
        let gateway = host_of(&app.control.status().gateway_url).to_ascii_lowercase();
        Surroundings { own: app.address(), gateway }
    }

    #[cfg(test)]
    pub(super) fn for_tests() -> Surroundings {
        Surroundings { own: "[::]:17201".parse().expect("an address"), gateway: "gateway.example".into() }
    }
}

/// What is stored, as far as it can be read.
#[derive(Default)]
struct Current {
    domain: Option<Hostname>,
    host: Option<UpstreamHost>,
    port: Option<u16>,
    tls: Option<bool>,
    allow_invalid_certificates: Option<bool>,
    enabled: Option<bool>,
    description: Option<Option<String>>,
    host_header: Option<HostHeader>,
    created_at: Option<OffsetDateTime>,
}

impl Current {
    fn of(row: &Stored) -> Current {
        match row {
            Stored::Mapping(mapping) => Current {
                domain: Some(mapping.domain.clone()),
                host: Some(mapping.host.clone()),
                port: Some(mapping.port),
                tls: Some(mapping.tls),
                allow_invalid_certificates: Some(mapping.allow_invalid_certificates),
                enabled: Some(mapping.enabled),
                description: Some(mapping.description.clone()),
                host_header: Some(mapping.host_header.clone()),
                created_at: Some(mapping.created_at),
            },
            Stored::Unreadable(row) => Current::of_unreadable(row),
        }
    }

    fn of_unreadable(row: &Unreadable) -> Current {
        Current {
            domain: Hostname::parse(&row.domain).ok(),
            host: UpstreamHost::parse(row.host.trim()).ok(),
            port: u16::try_from(row.port).ok().filter(|port| *port != 0),
            tls: Some(row.tls),
            allow_invalid_certificates: Some(row.allow_invalid_certificates),
            enabled: Some(row.enabled),
            description: Some(row.description.clone()),
            // It was written by the earlier program, which always did this.
            host_header: Some(HostHeader::Target),
            created_at: row.created_at,
        }
    }
}

impl Change {
    pub(super) fn new(
        id: MappingId,
        kind: Kind,
        body: Map<String, Value>,
        now: OffsetDateTime,
        surroundings: Surroundings,
    ) -> Change {
        Change { id, kind, body, now, surroundings }
    }

    fn asked(app: &App, id: MappingId, kind: Kind, body: Map<String, Value>) -> Change {
        Change::new(id, kind, body, timestamp::now(), Surroundings::of(app))
    }

    /// The mapping this makes, or everything that is wrong with it at once.
    pub(super) fn apply(&self, row: Option<&Stored>) -> Result<Mapping, Vec<Fault>> {
        let current = row.map(Current::of).unwrap_or_default();
        let mut faults = Vec::new();
        let mut fields = Fields { body: &self.body, toggle: self.kind == Kind::Toggle, faults: &mut faults };

        let given_domain = fields.pick(&["externalDomain"], current.domain.as_ref(), |_, value| {
            let domain = Hostname::parse(text(value)?).map_err(|fault| fault.to_string())?;
            Ok(Some(domain))
        });
        let host = fields.pick(&["internalHost"], current.host.as_ref(), |_, value| {
            UpstreamHost::parse(text(value)?.trim()).map(Some).map_err(|fault| fault.to_string())
        });
        let port = fields.pick(&["internalPort"], current.port.as_ref(), |_, value| port(value).map(Some));
        let tls =
            fields.pick(&["internalProtocol", "internalUseTls"], current.tls.as_ref(), |name, value| {
                if name == "internalProtocol" { protocol(value).map(Some) } else { boolean(value).map(Some) }
            });
        let allow = fields.pick(
            &["allowInvalidCertificates", "allowSelfSignedCerts"],
            current.allow_invalid_certificates.as_ref(),
            |_, value| boolean(value).map(Some),
        );
        // The one thing a toggle is about.
        fields.toggle = false;
        let enabled = fields
            .pick(&["enabled", "isEnabled"], current.enabled.as_ref(), |_, value| boolean(value).map(Some));
        fields.toggle = self.kind == Kind::Toggle;
        let domain = given_domain.clone().or_else(|| current.domain.clone());
        let description =
            fields.pick(&["description", "name"], current.description.as_ref(), |name, value| {
                if name == "name" && (value.is_null() || is_domain(value, &domain, &current.domain)) {
                    // What a mapping without a description shows as its name says nothing.
                    return Ok(None);
                }
                description(value, current.description.as_ref()).map(Some)
            });
        let host_header =
            fields.pick(&["hostHeader"], current.host_header.as_ref(), |_, value| match value {
                Value::Null => Ok(None),
                _ => HostHeader::parse(text(value)?.trim()).map(Some).map_err(|fault| fault.to_string()),
            });

        let keeps = matches!(self.kind, Kind::Merge | Kind::Toggle);
        let domain = self.settle(&mut faults, "externalDomain", given_domain, current.domain.clone());
        let host = self.settle(&mut faults, "internalHost", host, current.host.clone());
        let port = self.settle(&mut faults, "internalPort", port, current.port);
        let or_default = |given: Option<bool>, stored: Option<bool>, default: bool| {
            given.or(stored.filter(|_| keeps)).unwrap_or(default)
        };
        let enabled = match self.kind {
            Kind::Toggle => enabled.unwrap_or(false),
            _ => or_default(enabled, current.enabled, true),
        };
        if let Some(domain) = &domain
            && current.domain.as_ref() != Some(domain)
            && domain.as_str() == self.surroundings.gateway
        {
            // It would take the Gateway's own paths, the tunnel's among them, and could not be taken back.
            faults.push(("externalDomain".into(), format!("{domain} is the Gateway's own name")));
        }
        if let (Some(host), Some(port)) = (&host, port)
            && (current.host.as_ref(), current.port) != (Some(host), Some(port))
            && leads_to(host, port, self.surroundings.own)
        {
            faults.push(("internalHost".into(), "leads to this Agent's own admin page".into()));
        }
        match (domain, host, port) {
            (Some(domain), Some(host), Some(port)) if faults.is_empty() => Ok(Mapping {
                id: self.id,
                domain,
                host,
                port,
                tls: or_default(tls, current.tls, false),
                allow_invalid_certificates: or_default(allow, current.allow_invalid_certificates, false),
                enabled,
                description: description.or(current.description.filter(|_| keeps)).flatten(),
                host_header: host_header.or(current.host_header).unwrap_or(HostHeader::Preserve),
                created_at: current.created_at.unwrap_or(self.now),
                updated_at: self.now,
            }),
            _ => Err(faults),
        }
    }

    /// A field without a default: given, or kept where this kind of change keeps, or missing.
    fn settle<T>(
        &self,
        faults: &mut Vec<Fault>,
        name: &str,
        given: Option<T>,
        stored: Option<T>,
    ) -> Option<T> {
        let value = given.or(match self.kind {
            Kind::Merge | Kind::Toggle => stored,
            Kind::Create | Kind::Replace => None,
        });
        // One that was given and is wrong has been named already.
        if value.is_none() && !faults.iter().any(|(field, _)| field == name) {
            let text = match self.kind {
                Kind::Create | Kind::Replace => "must not be empty",
                Kind::Merge | Kind::Toggle => "must be sent too: what is stored cannot be used",
            };
            faults.push((name.to_owned(), text.to_owned()));
        }
        value
    }
}

/// The members of a request's body, by either of their names.
struct Fields<'a> {
    body: &'a Map<String, Value>,
    /// A toggle changes one field, whatever else comes with it.
    toggle: bool,
    faults: &'a mut Vec<Fault>,
}

impl Fields<'_> {
    /// What the request says about one thing under any of `names`; `None` when nothing, or nothing that will
    /// do. `read` gets the name as listed and returns `None` for a value that says nothing.
    fn pick<T: PartialEq>(
        &mut self,
        names: &[&str],
        stored: Option<&T>,
        read: impl Fn(&str, &Value) -> Result<Option<T>, String>,
    ) -> Option<T> {
        if self.toggle {
            return None;
        }
        let mut given: Vec<(&str, T)> = Vec::new();
        for name in names {
            let Some((_, value)) = self.body.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)) else {
                continue;
            };
            match read(name, value) {
                Ok(Some(value)) => given.push((name, value)),
                Ok(None) => {}
                Err(fault) => self.faults.push(((*name).to_owned(), fault)),
            }
        }
        let disagree = given.windows(2).any(|pair| pair[0].1 != pair[1].1);
        if disagree {
            given.retain(|(_, value)| Some(value) != stored);
            if let [(first, _), (second, _)] = given.as_slice() {
                let fault = format!("says otherwise than \"{second}\", which means the same");
                self.faults.push(((*first).to_owned(), fault));
                return None;
            }
        }
        given.pop().map(|(_, value)| value)
    }
}

fn text(value: &Value) -> Result<&str, String> {
    match value {
        Value::Null => Err("must not be empty".into()),
        Value::String(text) => Ok(text),
        _ => Err("must be a string".into()),
    }
}

fn boolean(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "must be true or false".into())
}

/// A number, also as a string: the earlier program took both.
fn port(value: &Value) -> Result<u16, String> {
    let number = match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let Some(number) = number else { return Err("must be a whole number between 1 and 65535".into()) };
    u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| format!("must be between 1 and 65535, is {number}"))
}

fn protocol(value: &Value) -> Result<bool, String> {
    match value.as_str() {
        Some(text) if text.eq_ignore_ascii_case("http") => Ok(false),
        Some(text) if text.eq_ignore_ascii_case("https") => Ok(true),
        _ => Err("must be \"Http\" or \"Https\"".into()),
    }
}

/// An empty one is none. One that is stored may stay as it is, even if it is longer than we would take.
fn description(value: &Value, stored: Option<&Option<String>>) -> Result<Option<String>, String> {
    if value.is_null() {
        return Ok(None);
    }
    let text = text(value)?;
    let unchanged = matches!(stored, Some(Some(stored)) if stored == text);
    if unchanged {
        return Ok(Some(text.to_owned()));
    }
    let text = text.trim();
    let length = text.chars().count();
    if length > MAX_DESCRIPTION {
        return Err(format!("must be {MAX_DESCRIPTION} characters or fewer, has {length}"));
    }
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        return Err("must not contain control characters".into());
    }
    Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
}

fn is_domain(value: &Value, new: &Option<Hostname>, old: &Option<Hostname>) -> bool {
    let Some(text) = value.as_str() else { return false };
    [new, old].into_iter().flatten().any(|domain| domain.as_str().eq_ignore_ascii_case(text.trim()))
}

/// As far as the text tells; what a name leads to is asked again at every connect.
fn leads_to(host: &UpstreamHost, port: u16, own: SocketAddr) -> bool {
    let addresses = match host {
        UpstreamHost::Address(ip) => vec![*ip],
        UpstreamHost::Name(name) => {
            let name = name.as_str().trim_end_matches('.');
            if name == "localhost" || name.ends_with(".localhost") {
                vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
            } else {
                Vec::new()
            }
        }
    };
    addresses.into_iter().any(|ip| target::reaches_listener(SocketAddr::new(ip, port), own))
}

/// The host of `scheme://host:port`.
fn host_of(url: &str) -> &str {
    let authority = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority = authority.split(['/', '?']).next().unwrap_or(authority);
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: Kind, body: Value) -> Change {
        let Value::Object(body) = body else { panic!("an object") };
        Change {
            id: MappingId::from_bytes([7; 16]),
            kind,
            body,
            now: timestamp::from_database("2026-02-01 12:00:00").expect("a date"),
            surroundings: Surroundings::for_tests(),
        }
    }

    fn create(body: Value) -> Result<Mapping, Vec<Fault>> {
        change(Kind::Create, body).apply(None)
    }

    fn stored() -> Mapping {
        create(json!({
            "externalDomain": "app.example", "internalHost": "nas", "internalPort": 8080, "description": "my app",
            "hostHeader": "target", "internalUseTls": true,
        }))
        .expect("a mapping")
    }

    fn update(kind: Kind, body: Value) -> Result<Mapping, Vec<Fault>> {
        change(kind, body).apply(Some(&Stored::Mapping(stored())))
    }

    #[test]
    fn either_spelling_makes_the_same_mapping() {
        let one = create(json!({
            "externalDomain": "App.Example", "internalHost": " nas ", "internalPort": "8443", "internalUseTls": true,
            "allowSelfSignedCerts": true, "isEnabled": false, "description": "x", "externalPort": 443,
        }));
        let other = create(json!({
            "EXTERNALDOMAIN": "app.example", "internalHost": "nas", "internalPort": 8443, "internalProtocol": "https",
            "allowInvalidCertificates": true, "enabled": false, "name": "x",
        }));
        let one = one.expect("a mapping");
        assert_eq!(Ok(one.clone()), other);
        assert!(one.tls && one.allow_invalid_certificates && !one.enabled);
        assert_eq!(one.host_header, HostHeader::Preserve);
    }

    #[test]
    fn every_fault_is_named_at_once_by_its_field() {
        let faults = create(json!({
            "externalDomain": "a b", "internalHost": "http://nas", "internalPort": 0, "internalProtocol": "ftp",
            "enabled": "yes", "description": "x".repeat(501), "hostHeader": "a/b", "allowSelfSignedCerts": null,
        }))
        .expect_err("faults");
        let fields: Vec<_> = faults.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "externalDomain",
                "internalHost",
                "internalPort",
                "internalProtocol",
                "allowSelfSignedCerts",
                "enabled",
                "description",
                "hostHeader"
            ]
        );
        let faults = create(json!({})).expect_err("faults");
        let empty = |field: &str| (field.to_owned(), "must not be empty".to_owned());
        assert_eq!(faults, ["externalDomain", "internalHost", "internalPort"].map(empty));
    }

    #[test]
    fn ports_are_whole_and_in_range() {
        for (value, good) in [
            (json!(1), true),
            (json!(65535), true),
            (json!("443"), true),
            (json!(0), false),
            (json!(65536), false),
            (json!(-1), false),
            (json!(80.5), false),
            (json!("x"), false),
            (json!(null), false),
            (json!(1e30), false),
        ] {
            let made = create(
                json!({ "externalDomain": "a.example", "internalHost": "nas", "internalPort": value }),
            );
            assert_eq!(made.is_ok(), good, "{value}");
        }
    }

    #[test]
    fn places_nobody_may_reach_are_refused() {
        for (host, port, word) in [
            ("169.254.169.254", 80, "link-local"),
            ("0.0.0.0", 80, "unspecified"),
            ("localhost", 17201, "own admin page"),
            ("app.localhost.", 17201, "own admin page"),
            ("127.0.0.1", 17201, "own admin page"),
            ("::1", 17201, "own admin page"),
        ] {
            let faults =
                create(json!({ "externalDomain": "a.example", "internalHost": host, "internalPort": port }))
                    .expect_err(host);
            assert!(faults[0].0 == "internalHost" && faults[0].1.contains(word), "{host}: {faults:?}");
        }
        for host in ["localhost", "127.0.0.1", "192.168.1.1"] {
            let made =
                create(json!({ "externalDomain": "a.example", "internalHost": host, "internalPort": 8080 }));
            assert!(made.is_ok(), "{host}");
        }
    }

    #[test]
    fn the_gateways_own_name_cannot_be_mapped_away() {
        let faults =
            create(json!({ "externalDomain": "Gateway.Example", "internalHost": "nas", "internalPort": 80 }))
                .expect_err("a fault");
        assert_eq!(faults[0].0, "externalDomain");
        assert_eq!(host_of("wss://gateway.example:443"), "gateway.example");
        assert_eq!(host_of("wss://gateway.example/tunnel"), "gateway.example");
        assert_eq!(host_of(""), "");
    }

    #[test]
    fn put_replaces_everything_but_what_old_programs_cannot_know() {
        let mapping = update(
            Kind::Replace,
            json!({ "externalDomain": "b.example", "internalHost": "10.0.0.1", "internalPort": 1 }),
        )
        .expect("a mapping");
        assert_eq!(mapping.description, None);
        assert!(!mapping.tls && mapping.enabled);
        assert_eq!(mapping.host_header, HostHeader::Target);
        assert!(update(Kind::Replace, json!({ "enabled": true })).is_err());
    }

    #[test]
    fn patch_changes_what_it_names() {
        let before = stored();
        for (body, expected) in [
            (json!({}), before.clone()),
            (json!({ "internalPort": 9 }), Mapping { port: 9, ..before.clone() }),
            (json!({ "description": null }), Mapping { description: None, ..before.clone() }),
            (json!({ "name": "  " }), Mapping { description: None, ..before.clone() }),
            (json!({ "isEnabled": false }), Mapping { enabled: false, ..before.clone() }),
            (
                json!({ "hostHeader": "preserve" }),
                Mapping { host_header: HostHeader::Preserve, ..before.clone() },
            ),
        ] {
            assert_eq!(update(Kind::Merge, body.clone()), Ok(expected), "{body}");
        }
    }

    #[test]
    fn toggle_touches_one_field_and_is_off_without_a_word() {
        let off = Mapping { enabled: false, ..stored() };
        assert_eq!(update(Kind::Toggle, json!({})), Ok(off.clone()));
        assert_eq!(update(Kind::Toggle, json!({ "enabled": false, "internalPort": 9 })), Ok(off));
        assert_eq!(update(Kind::Toggle, json!({ "isEnabled": true })), Ok(stored()));
    }

    #[test]
    fn what_was_read_can_be_changed_under_either_name_and_sent_back() {
        for (name, value, check) in [
            ("description", json!("new"), Mapping { description: Some("new".into()), ..stored() }),
            ("name", json!("new"), Mapping { description: Some("new".into()), ..stored() }),
            ("description", json!(null), Mapping { description: None, ..stored() }),
            ("internalProtocol", json!("Http"), Mapping { tls: false, ..stored() }),
            ("internalUseTls", json!(false), Mapping { tls: false, ..stored() }),
            ("enabled", json!(false), Mapping { enabled: false, ..stored() }),
            ("isEnabled", json!(false), Mapping { enabled: false, ..stored() }),
        ] {
            let mut body = shown(&Stored::Mapping(stored()));
            body[name] = value;
            assert_eq!(update(Kind::Replace, body.clone()), Ok(check.clone()), "{name}");
            assert_eq!(update(Kind::Merge, body), Ok(check), "{name}");
        }
        // Without a description the name is the domain; moving the mapping does not turn it into one.
        let bare = Mapping { description: None, ..stored() };
        let mut body = shown(&Stored::Mapping(bare.clone()));
        body["externalDomain"] = json!("new.example");
        let moved = change(Kind::Replace, body).apply(Some(&Stored::Mapping(bare))).expect("a mapping");
        assert_eq!((moved.domain.as_str(), moved.description), ("new.example", None));
    }

    #[test]
    fn two_spellings_that_disagree_are_refused() {
        let faults = create(json!({
            "externalDomain": "a.example", "internalHost": "nas", "internalPort": 80, "enabled": true,
            "isEnabled": false,
        }))
        .expect_err("a fault");
        assert_eq!(
            faults,
            [("enabled".into(), "says otherwise than \"isEnabled\", which means the same".into())]
        );
        let faults = update(Kind::Merge, json!({ "name": "x", "description": "y" })).expect_err("a fault");
        assert_eq!(faults.len(), 1);
    }

    #[test]
    fn a_long_description_of_the_earlier_program_may_stay() {
        let old = Mapping { description: Some("x".repeat(600)), ..stored() };
        let body = shown(&Stored::Mapping(old.clone()));
        let kept = change(Kind::Replace, body).apply(Some(&Stored::Mapping(old.clone())));
        assert_eq!(kept, Ok(Mapping { updated_at: old.updated_at, ..old }));
    }

    #[test]
    fn a_row_that_cannot_be_used_is_shown_and_mended() {
        let row = Unreadable {
            id: MappingId::from_bytes([7; 16]),
            domain: "app.example".into(),
            host: "nas/path".into(),
            port: 80,
            tls: false,
            allow_invalid_certificates: false,
            enabled: true,
            description: None,
            created_at: None,
            updated_at: None,
            fault: "host \"nas/path\": no".into(),
        };
        let row = Stored::Unreadable(row);
        let value = shown(&row);
        assert_eq!(value["internalHost"], "nas/path");
        assert_eq!(value["routeState"], "invalid");
        assert_eq!(value["routeError"], "not used: host \"nas/path\": no");
        let faults = change(Kind::Merge, json!({ "enabled": true })).apply(Some(&row)).expect_err("a fault");
        assert!(faults[0].1.contains("must be sent too"), "{faults:?}");
        let mended =
            change(Kind::Merge, json!({ "internalHost": "nas" })).apply(Some(&row)).expect("a mapping");
        assert_eq!(mended.host_header, HostHeader::Target);
    }
}
