//! Mappings in JSON: what is accepted, what is answered.
//!
//! The earlier program answered with other field names than it asked for, and its page used a third set. Both
//! spellings are accepted and both are answered, so what was read can be changed and sent back. Where the two
//! spellings of a thing disagree in such a request, the one that differs from what is stored is the one that
//! was changed. Keeping the mappings is left to the store, telling the Gateway to the tunnel.

mod change;

use std::time::Duration;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use shared::mapping::{Mapping, MappingId};

use super::App;
use super::api::{Params, json_object};
use super::http::{Request, Response};
use super::problem::{self, Fault, problem};
use super::routes::Standings;
use crate::control::RouteState;
use crate::events::Event;
use crate::store::{SaveError, Stored};
use crate::{random, timestamp};

pub(super) use change::{Change, Kind, Surroundings};

/// How long a save waits for the Gateway to say that it has the change. It has it in milliseconds or not
/// soon.
pub(super) const ACKNOWLEDGE: Duration = Duration::from_secs(2);

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
