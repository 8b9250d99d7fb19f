//! Which request is for whom, and what is asked before it gets there.
//!
//! One table of routes; from it come the answers 404 and 405 as well. Each handler is a function from request
//! to response.

use serde_json::{Map, Value, json};

use super::App;
use super::http::{Request, Response};
use super::login::{Operator, Shown};
use super::problem::{self, problem};
use super::status::status;
use super::{
    backup, diagnose, echo, events, gateway, history, landing, login, logs, mappings, metrics, openapi,
    pages, probe, routes, transfer,
};
use crate::control::TunnelState;

/// What the path says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Params<'r> {
    /// In the place of `{id}`; not parsed.
    pub(crate) id: &'r str,
    /// Who asks, on routes that are his alone.
    pub(crate) operator: Option<Operator>,
}

/// Who may ask.
#[derive(Clone, Copy, Debug)]
enum Access {
    Anyone,
    Operator,
    /// The Operator, or whoever has a key that opens this route only.
    Key(fn(&App, &Request) -> bool),
}

struct Route {
    method: &'static str,
    /// With `{id}` for one part.
    path: &'static str,
    access: Access,
    /// Largest body in bytes.
    limit: usize,
    run: Handler,
}

type Handler = fn(&App, &Request, &Params<'_>) -> Response;

/// Largest body of the Operator; the largest sensible one is a mapping with a long description.
const BODY: usize = 256 * 1024;
/// Largest body of a stranger. He has a password to send.
const STRANGERS_BODY: usize = 16 * 1024;

const ROUTES: &[Route] = &[
    route("POST", "/api/v1/auth/login", Access::Anyone, login::login),
    route("POST", "/api/v1/auth/refresh", Access::Anyone, login::refresh),
    route("POST", "/api/v1/auth/logout", Access::Anyone, login::logout),
    route("POST", "/api/v1/auth/logout-all", Access::Operator, login::logout_all),
    route("GET", "/api/v1/auth/sessions", Access::Operator, login::sessions),
    route("DELETE", "/api/v1/auth/sessions/{id}", Access::Operator, login::end_session),
    route("GET", "/api/v1/status", Access::Operator, status),
    route("POST", "/api/v1/reconnect", Access::Operator, reconnect),
    route("GET", "/api/v1/mappings", Access::Operator, mappings::list),
    route("POST", "/api/v1/mappings", Access::Operator, mappings::create),
    route("POST", "/api/v1/mappings/test", Access::Operator, probe::test),
    route("GET", "/api/v1/discover", Access::Operator, probe::discover),
    // Before `{id}`, which would take them.
    route("GET", "/api/v1/mappings/export", Access::Operator, transfer::export),
    route("POST", "/api/v1/mappings/import", Access::Operator, transfer::import).limit(transfer::BODY),
    route("GET", "/api/v1/mappings/{id}", Access::Operator, mappings::get),
    route("PUT", "/api/v1/mappings/{id}", Access::Operator, mappings::replace),
    route("PATCH", "/api/v1/mappings/{id}", Access::Operator, mappings::merge),
    route("DELETE", "/api/v1/mappings/{id}", Access::Operator, mappings::delete),
    route("PATCH", "/api/v1/mappings/{id}/toggle", Access::Operator, mappings::toggle),
    route("GET", "/api/v1/mappings/{id}/certificate", Access::Operator, routes::certificate),
    route("GET", "/api/v1/gateway/logs", Access::Operator, gateway::gateway_logs),
    route("GET", "/api/v1/gateway/caddy", Access::Operator, gateway::caddy),
    route("GET", "/api/v1/gateway/caddy-config", Access::Operator, gateway::caddy_config),
    route("GET", "/api/v1/gateway/update", Access::Operator, gateway::update),
    route("POST", "/api/v1/gateway/update", Access::Operator, gateway::request_update),
    route("POST", "/api/v1/test/diagnose", Access::Operator, diagnose::diagnose),
    route("GET", "/api/v1/test/echo", Access::Key(echo::has_key), echo::echo),
    route("POST", "/api/v1/test/echo", Access::Key(echo::has_key), echo::echo),
    route("GET", "/api/v1/settings/landing-page", Access::Operator, landing::get),
    route("PUT", "/api/v1/settings/landing-page", Access::Operator, landing::put).limit(landing::BODY),
    route("DELETE", "/api/v1/settings/landing-page", Access::Operator, landing::reset),
    route("GET", "/api/v1/settings/backup", Access::Operator, backup::backup),
    route("GET", "/api/v1/requests", Access::Operator, history::requests),
    route("GET", "/api/v1/connections", Access::Operator, history::connections),
    route("GET", "/api/v1/traffic", Access::Operator, history::traffic),
    route("GET", "/api/v1/agent/logs", Access::Operator, logs::agent_logs),
    route("GET", "/api/v1/events", Access::Operator, events::events),
    route("GET", "/api/v1/openapi.json", Access::Anyone, openapi::openapi),
    route("GET", "/metrics", Access::Key(metrics::has_token), metrics::metrics),
    route("GET", "/health", Access::Anyone, health),
];

const fn route(method: &'static str, path: &'static str, access: Access, run: Handler) -> Route {
    let limit = if matches!(access, Access::Anyone) { STRANGERS_BODY } else { BODY };
    Route { method, path, access, limit, run }
}

impl Route {
    /// For a route that takes more.
    const fn limit(mut self, bytes: usize) -> Route {
        self.limit = bytes;
        self
    }
}

/// The answer to a request.
#[cfg(test)]
pub(crate) fn handle(app: &App, request: &Request) -> Response {
    handle_for(app, request).0
}

/// For whom an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    Stranger,
    /// Has shown that he may ask.
    Operator,
}

/// The answer to a request, and for whom it is.
pub(crate) fn handle_for(app: &App, request: &Request) -> (Response, Asker) {
    let (response, asker) = answer(app, request);
    (guarded(response), asker)
}

/// How large a body is read for this request, of which only the head is here: a stranger must not make us keep
/// what only the Operator may send.
pub(crate) fn body_limit(app: &App, request: &Request) -> usize {
    match find(request) {
        Ok((route, _)) if admit(app, request, route).is_ok() => route.limit,
        _ => STRANGERS_BODY,
    }
}

/// Adds what every answer carries, also those given before there was a whole request. What an answer has of it
/// already, it has with a reason.
pub(crate) fn guarded(mut response: Response) -> Response {
    for (name, value) in [
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
        (
            "Content-Security-Policy",
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
             frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
        ("Cache-Control", "no-store"),
    ] {
        if response.header(name).is_none() {
            response = response.with(name, value);
        }
    }
    response
}

fn answer(app: &App, request: &Request) -> (Response, Asker) {
    let own = ["/api", "/health", "/metrics"].contains(&request.path.as_str());
    let in_api = own || request.path.starts_with("/api/");
    if !in_api {
        return (pages::page(request), Asker::Stranger);
    }
    let admitted = find(request).and_then(|(route, mut params)| {
        params.operator = admit(app, request, route)?;
        Ok((route, params))
    });
    let (route, params) = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => return (refusal, Asker::Stranger),
    };
    let asker = if params.operator.is_some() { Asker::Operator } else { Asker::Stranger };
    if request.body.len() > route.limit {
        return (too_large(route.limit), asker);
    }
    ((route.run)(app, request, &params), asker)
}

/// The route for this path and method.
fn find(request: &Request) -> Result<(&'static Route, Params<'_>), Response> {
    let matching: Vec<_> = ROUTES.iter().filter_map(|r| Some((r, matches(r.path, &request.path)?))).collect();
    if matching.is_empty() {
        return Err(problem(404, "the API has no such path"));
    }
    // RFC 9110 9.3.2: HEAD is GET without the body, which the listener leaves out.
    let method = if request.method == "HEAD" { "GET" } else { &request.method };
    if let Some(found) = matching.iter().find(|(route, _)| route.method == method) {
        return Ok(*found);
    }
    let mut allowed: Vec<_> = matching.iter().map(|(route, _)| route.method).collect();
    if allowed.contains(&"GET") {
        allowed.push("HEAD");
    }
    let allowed = allowed.join(", ");
    Err(problem(405, format!("this path takes {allowed}")).with("Allow", allowed))
}

/// Whether this request may go there, and whether it is the Operator's.
fn admit(app: &App, request: &Request, route: &Route) -> Result<Option<Operator>, Response> {
    match route.access {
        Access::Anyone => return Ok(None),
        Access::Key(shown) if shown(app, request) => return Ok(None),
        Access::Key(_) | Access::Operator => {}
    }
    let operator = login::authenticate(app, request)?;
    if operator.shown == Shown::Cookie && !request.is_safe() {
        login::own_page_only(request)?;
    }
    Ok(Some(operator))
}

/// What is answered to a body larger than `limit`, which is not read: whoever may not ask at all is told that.
pub(crate) fn refusal_of_body(app: &App, request: &Request, limit: usize) -> Response {
    let admitted = find(request).and_then(|(route, _)| admit(app, request, route));
    admitted.err().unwrap_or_else(|| too_large(limit))
}

fn too_large(limit: usize) -> Response {
    problem(413, format!("the body has at most {} KiB here", limit / 1024))
}

fn matches<'r>(pattern: &str, path: &'r str) -> Option<Params<'r>> {
    let mut params = Params::default();
    let (mut patterns, mut parts) = (pattern.split('/'), path.split('/'));
    loop {
        match (patterns.next(), parts.next()) {
            (None, None) => return Some(params),
            (Some("{id}"), Some(part)) if !part.is_empty() => params.id = part,
            (Some(pattern), Some(part)) if pattern == part => {}
            _ => return None,
        }
    }
}

/// The body as a JSON object, or the answer that says why it is none.
pub(crate) fn json_object(request: &Request) -> Result<Map<String, Value>, Response> {
    match json_value(request)? {
        Value::Object(object) => Ok(object),
        _ => Err(problem::malformed("the body must be a JSON object")),
    }
}

/// The body as JSON, or the answer that says why it is none.
pub(crate) fn json_value(request: &Request) -> Result<Value, Response> {
    let kind = request.header("content-type").unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind != "application/json" && !(kind.starts_with("application/") && kind.ends_with("+json")) {
        return Err(problem(415, "the body must be JSON: send Content-Type: application/json"));
    }
    // The text of the error ends with the line and the column.
    serde_json::from_slice(&request.body).map_err(|e| problem::malformed(format!("the body is no JSON: {e}")))
}

/// `POST /api/v1/reconnect`.
fn reconnect(app: &App, _: &Request, _: &Params<'_>) -> Response {
    app.control.reconnect();
    Response::json(200, &json!({ "message": "Reconnection triggered" }))
}

/// `GET /health`: 200 whenever the Agent lives. A Gateway away is no reason to restart an Agent.
fn health(app: &App, _: &Request, _: &Params<'_>) -> Response {
    let healthy = app.control.status().state == TunnelState::Connected;
    Response::json(200, &json!({ "status": if healthy { "healthy" } else { "degraded" } }))
}

#[cfg(test)]
mod tests;
