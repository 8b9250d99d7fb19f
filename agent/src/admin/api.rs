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
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use shared::mapping::MappingId;
    use shared::secret::Secret;

    use super::*;
    use crate::admin::{AdminConfig, token};
    use crate::control::{Control, RouteState, TunnelStatus};
    use crate::events::Live;
    use crate::history::{Limits, Recorder};
    use crate::store::scratch::Scratch;
    use crate::timestamp;

    const METRICS_TOKEN: &str = "metrics-token-of-the-test";
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    /// Of "password", by `openssl passwd -6`.
    const HASH: &str =
        "$6$abcdefgh$yVfUwsw5T.JApa8POvClA1pQ5peiq97DUNyXCZN5IrF.BMSkiaLQ5kvpuEm/VQ1Tvh/KV2TcaWh8qinoW5dhA1";

    #[derive(Default)]
    struct FakeTunnel {
        status: Mutex<TunnelStatus>,
        routes: Mutex<Vec<(MappingId, RouteState)>>,
        /// What every mapping is told that has no entry in `routes`.
        store: Mutex<Option<crate::store::Store>>,
        changes: AtomicUsize,
        reconnects: AtomicUsize,
    }

    impl Control for FakeTunnel {
        fn status(&self) -> TunnelStatus {
            self.status.lock().expect("status").clone()
        }

        fn mappings_changed(&self, wait: Duration) -> Vec<(MappingId, RouteState)> {
            assert_eq!(wait, Duration::from_secs(2));
            self.changes.fetch_add(1, Ordering::Relaxed);
            if let Some(store) = &*self.store.lock().expect("store") {
                let all = store.mappings().expect("mappings");
                return all.into_iter().map(|mapping| (mapping.id, RouteState::Synced)).collect();
            }
            self.routes.lock().expect("routes").clone()
        }

        fn reconnect(&self) {
            self.reconnects.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct World {
        app: App,
        tunnel: Arc<FakeTunnel>,
        _scratch: Scratch,
    }

    impl World {
        fn new() -> World {
            let scratch = Scratch::new();
            let tunnel = Arc::new(FakeTunnel::default());
            tunnel.status.lock().expect("status").gateway_url = "wss://gateway.example:443".into();
            let config = AdminConfig {
                bind: SocketAddr::from(([127, 0, 0, 1], 17201)),
                jwt_secret: Secret::new(SECRET),
                password_hash: Secret::new(HASH),
                version: "1.2.3".into(),
                name: "home".into(),
                heartbeat_seconds: 30,
                metrics_token: Some(Secret::new(METRICS_TOKEN)),
            };
            let store = scratch.store();
            *tunnel.store.lock().expect("store") = Some(store.clone());
            let app = App::new(
                config,
                store.clone(),
                history(&store),
                Arc::clone(&tunnel) as Arc<dyn Control>,
                Live::default(),
            )
            .expect("an app");
            World { app, tunnel, _scratch: scratch }
        }

        fn ask(&self, request: &Request) -> Response {
            handle(&self.app, request)
        }

        /// As the Operator, with a token in a header.
        fn operator(&self, method: &str, path: &str, body: Option<Value>) -> Response {
            let request =
                Request::new(method, path).field("Authorization", &format!("Bearer {}", good_token()));
            self.ask(&match body {
                Some(body) => request.json(&body.to_string()),
                None => request,
            })
        }

        fn mapping(&self, domain: &str) -> Value {
            let body = json!({ "externalDomain": domain, "internalHost": "nas", "internalPort": 80 });
            let response = self.operator("POST", "/api/v1/mappings", Some(body));
            assert_eq!(response.status, 201);
            response.value()
        }
    }

    fn history(store: &crate::store::Store) -> Arc<Recorder> {
        Recorder::start(store.clone(), Limits::default(), Arc::default()).expect("a recorder")
    }

    fn good_token() -> String {
        token::issue_for_command(SECRET.as_bytes(), timestamp::now().unix_timestamp())
    }

    fn login(password: &str) -> Request {
        Request::new("POST", "/api/v1/auth/login").json(&json!({ "password": password }).to_string())
    }

    fn cookies(response: &Response) -> Vec<String> {
        response
            .headers
            .iter()
            .filter(|(name, _)| *name == "Set-Cookie")
            .map(|(_, value)| value.clone())
            .collect()
    }

    fn cookie_header(response: &Response) -> String {
        let pairs: Vec<_> =
            cookies(response).iter().filter_map(|c| c.split(';').next().map(str::to_owned)).collect();
        pairs.join("; ")
    }

    #[test]
    fn a_mapping_lives_through_its_whole_life() {
        let world = World::new();
        let body = json!({
            "externalDomain": "App.Example", "internalHost": "192.168.1.20", "internalPort": 8123,
            "internalUseTls": true, "allowSelfSignedCerts": true, "description": "home",
        });
        let created = world.operator("POST", "/api/v1/mappings", Some(body));
        assert_eq!(created.status, 201);
        let value = created.value();
        let id = value["id"].as_str().expect("an id").to_owned();
        let path = format!("/api/v1/mappings/{id}");
        assert_eq!(created.header("Location"), Some(path.as_str()));
        assert_eq!(id, id.to_lowercase());
        let created_at = value["createdAt"].clone();
        assert!(created_at.as_str().expect("a date").ends_with('Z'));
        assert_eq!(
            value,
            json!({
                "id": id, "name": "home", "description": "home", "externalDomain": "app.example",
                "internalHost": "192.168.1.20", "internalPort": 8123, "internalProtocol": "Https",
                "internalUseTls": true, "allowInvalidCertificates": true, "allowSelfSignedCerts": true,
                "enabled": true, "isEnabled": true, "hostHeader": "preserve", "createdAt": created_at,
                "updatedAt": created_at, "lastRequestAt": null, "routeState": "served", "routeError": null, "certificate": null,
            })
        );

        let got = world.operator("GET", &path, None);
        assert_eq!(got.status, 200);
        assert_eq!(got.value()["routeState"], "unknown");
        assert_eq!(got.value()["createdAt"], created_at);
        assert_eq!(
            world.operator("GET", &format!("/api/v1/mappings/{}", id.to_uppercase()), None).status,
            200
        );

        let off = world.operator("PATCH", &format!("{path}/toggle"), Some(json!({ "enabled": false })));
        assert_eq!((off.status, &off.value()["enabled"]), (200, &json!(false)));
        let patched =
            world.operator("PATCH", &path, Some(json!({ "hostHeader": "app.lan", "description": null })));
        assert_eq!(patched.value()["hostHeader"], "app.lan");
        assert_eq!(patched.value()["name"], "app.example");
        assert_eq!(patched.value()["enabled"], false);
        let put = json!({ "externalDomain": "b.example", "internalHost": "nas", "internalPort": 80 });
        let put = world.operator("PUT", &path, Some(put));
        assert_eq!(put.status, 200);
        assert_eq!(put.value()["enabled"], true);
        assert_eq!(put.value()["hostHeader"], "app.lan");

        let listed = world.operator("GET", "/api/v1/mappings", None).value();
        assert_eq!(listed.as_array().expect("a list").len(), 1);
        let deleted = world.operator("DELETE", &path, None);
        assert_eq!((deleted.status, deleted.written().expect("a body").len()), (204, 0));
        assert_eq!(world.operator("DELETE", &path, None).status, 404);
        assert_eq!(world.operator("GET", &path, None).status, 404);
        assert_eq!(world.operator("PUT", &path, Some(json!({}))).status, 404);
        assert_eq!(
            world.tunnel.changes.load(Ordering::Relaxed),
            5,
            "each change reaches the tunnel, no other"
        );
    }

    #[test]
    fn mappings_are_listed_by_domain() {
        let world = World::new();
        for domain in ["c.example", "a.example", "b.example"] {
            world.mapping(domain);
        }
        let listed = world.operator("GET", "/api/v1/mappings", None).value();
        let domains: Vec<_> =
            listed.as_array().expect("a list").iter().map(|m| &m["externalDomain"]).collect();
        assert_eq!(domains, ["a.example", "b.example", "c.example"]);
    }

    #[test]
    fn a_save_tells_how_the_route_stands() {
        let world = World::new();
        let id = world.mapping("a.example")["id"].as_str().expect("an id").to_owned();
        *world.tunnel.store.lock().expect("store") = None;
        world.tunnel.status.lock().expect("status").state = TunnelState::Connected;
        let path = format!("/api/v1/mappings/{id}");
        for (routes, expected) in [
            (vec![], ("pending", Value::Null)),
            (vec![RouteState::Pending], ("pending", Value::Null)),
            (vec![RouteState::Failed("caddy: no".into())], ("rejected", json!("caddy: no"))),
        ] {
            let id: MappingId = id.parse().expect("an id");
            *world.tunnel.routes.lock().expect("routes") = routes.into_iter().map(|s| (id, s)).collect();
            let saved = world.operator("PATCH", &path, Some(json!({})));
            let value = saved.value();
            assert_eq!((&value["routeState"], &value["routeError"]), (&json!(expected.0), &expected.1));
        }
    }

    #[test]
    fn a_domain_taken_is_a_conflict_with_a_sentence() {
        let world = World::new();
        world.mapping("a.example");
        let other = world.mapping("b.example");
        let body = json!({ "externalDomain": "A.EXAMPLE", "internalHost": "nas", "internalPort": 80 });
        let refused = world.operator("POST", "/api/v1/mappings", Some(body.clone()));
        assert_eq!(refused.status, 409);
        assert_eq!(
            refused.value(),
            json!({
                "statusCode": 409, "message": "the domain a.example already has a mapping",
                "errors": { "externalDomain": ["already has a mapping"] },
            })
        );
        let path = format!("/api/v1/mappings/{}", other["id"].as_str().expect("an id"));
        assert_eq!(world.operator("PUT", &path, Some(body)).status, 409);
        assert_eq!(
            world.operator("PATCH", &path, Some(json!({ "externalDomain": "b.example" }))).status,
            200
        );
    }

    #[test]
    fn a_validation_error_names_field_and_reason() {
        let world = World::new();
        let body =
            json!({ "externalDomain": "a.example", "internalHost": "169.254.169.254", "internalPort": 0 });
        let refused = world.operator("POST", "/api/v1/mappings", Some(body));
        assert_eq!(refused.status, 400);
        assert_eq!(refused.header("Content-Type"), Some("application/problem+json; charset=utf-8"));
        let value = refused.value();
        assert_eq!(value["statusCode"], 400);
        assert_eq!(value["message"], "One or more errors occurred!");
        assert_eq!(value["errors"]["internalPort"], json!(["must be between 1 and 65535, is 0"]));
        assert!(value["errors"]["internalHost"][0].as_str().expect("a text").contains("link-local"));
        let refused = world.operator("GET", "/api/v1/mappings/7", None).value();
        assert!(refused["errors"]["id"][0].as_str().expect("a text").contains("not an id"), "{refused}");
    }

    #[test]
    fn malformed_json_is_named_by_line_and_column() {
        let world = World::new();
        for (body, word) in [
            ("{\n  \"externalDomain\": oops", "line 2 column 21"),
            ("", "line 1 column 0"),
            ("[]", "object"),
            ("{\"a\":1,}", "line 1 column 8"),
            ("{} x", "line 1 column 4"),
        ] {
            let request = Request::new("POST", "/api/v1/mappings")
                .field("Authorization", &format!("Bearer {}", good_token()))
                .json(body);
            let refused = world.ask(&request);
            assert_eq!(refused.status, 400, "{body}");
            let text = refused.value()["errors"]["serializerErrors"][0].as_str().expect("a text").to_owned();
            assert!(text.contains(word), "{body}: {text}");
        }
        let deep = format!("{{\"a\":{}", "[".repeat(16_000));
        let request = login("x");
        assert_eq!(world.ask(&Request { body: deep.into(), ..request }).status, 400);
    }

    #[test]
    fn a_body_must_say_that_it_is_json() {
        let world = World::new();
        for (kind, status) in [
            (Some("application/json"), 400),
            (Some("Application/JSON; charset=utf-8"), 400),
            (Some("application/merge-patch+json"), 400),
            (Some("text/plain"), 415),
            (Some("application/x-www-form-urlencoded"), 415),
            (None, 415),
        ] {
            let mut request = Request::new("POST", "/api/v1/auth/login");
            request.body = b"{}".to_vec();
            if let Some(kind) = kind {
                request = request.field("Content-Type", kind);
            }
            assert_eq!(world.ask(&request).status, status, "{kind:?}");
        }
    }

    #[test]
    fn unknown_paths_and_methods_are_said_in_json() {
        let world = World::new();
        for path in
            ["/api", "/api/", "/api/mappings", "/api/v1/mappings/", "/api/v1/mappings/a/b/c", "/api/v2/x"]
        {
            let answer = world.ask(&Request::new("GET", path));
            assert_eq!((answer.status, &answer.value()["statusCode"]), (404, &json!(404)), "{path}");
        }
        let answer = world.ask(&Request::new("DELETE", "/api/v1/mappings"));
        assert_eq!((answer.status, answer.header("Allow")), (405, Some("GET, POST, HEAD")));
        let answer = world.ask(&Request::new("GET", "/api/v1/auth/login"));
        assert_eq!((answer.status, answer.header("Allow")), (405, Some("POST")));
        let answer = world.ask(&Request::new("POST", "/health"));
        assert_eq!(answer.status, 405);
        assert_eq!(world.ask(&Request::new("HEAD", "/health")).status, 200);
    }

    #[test]
    fn every_route_but_the_open_ones_asks_who_is_there() {
        let world = World::new();
        let mut asked = 0;
        for route in ROUTES.iter().filter(|route| !matches!(route.access, Access::Anyone)) {
            let path = route.path.replace("{id}", "0f8fad5b-d9cb-469f-a165-70867728950e");
            let answer = world.ask(&Request::new(route.method, &path).json("{}"));
            assert_eq!(answer.status, 401, "{} {path}", route.method);
            assert_eq!(answer.header("WWW-Authenticate"), Some("Bearer"));
            asked += 1;
        }
        assert!(asked > 10, "{asked} routes");
        let open: Vec<_> =
            ROUTES.iter().filter(|r| matches!(r.access, Access::Anyone)).map(|r| r.path).collect();
        let expected = ["/api/v1/auth/login", "/api/v1/auth/refresh", "/api/v1/auth/logout"];
        assert_eq!(open[..3], expected);
        assert_eq!(open[3..], ["/api/v1/openapi.json", "/health"]);
    }

    #[test]
    fn the_description_names_every_route_and_no_other() {
        let document = openapi::document("1.2.3").expect("JSON");
        let paths = document["paths"].as_object().expect("paths");
        let mut described: Vec<(String, String)> = paths
            .iter()
            .flat_map(|(path, item)| {
                let methods = item.as_object().expect("an object").keys();
                methods.map(|method| (path.clone(), method.to_uppercase())).collect::<Vec<_>>()
            })
            .collect();
        let mut routes: Vec<_> = ROUTES.iter().map(|r| (r.path.to_owned(), r.method.to_owned())).collect();
        described.sort();
        routes.sort();
        assert!(routes.len() > 30);
        assert_eq!(described, routes);
        for route in ROUTES {
            let operation = &paths[route.path][route.method.to_lowercase()];
            let what = format!("{} {}", route.method, route.path);
            let open = operation.get("security") == Some(&json!([]));
            assert_eq!(open, matches!(route.access, Access::Anyone), "{what}: who may ask");
            assert_eq!(
                operation["responses"].get("401").is_none(),
                open && route.path != "/api/v1/auth/login" && route.path != "/api/v1/auth/refresh",
                "{what}: 401"
            );
            let named = operation["parameters"].as_array().into_iter().flatten().any(|p| p["in"] == "path");
            assert_eq!(named, route.path.contains("{id}"), "{what}: the id");
        }
    }

    #[test]
    fn a_good_token_wins_over_a_bad_one_whichever_way_they_came() {
        let world = World::new();
        let (good, bad) =
            (good_token(), token::issue_for_command(b"another secret", timestamp::now().unix_timestamp()));
        let expired = token::issue_for_command(SECRET.as_bytes(), 1000);
        for (bearer, cookie, status) in [
            (Some(&good), None, 200),
            (None, Some(&good), 200),
            (Some(&good), Some(&bad), 200),
            (Some(&bad), Some(&good), 200),
            (Some(&bad), Some(&bad), 401),
            (Some(&expired), None, 401),
            (None, None, 401),
        ] {
            let mut request = Request::new("GET", "/api/v1/status");
            if let Some(token) = bearer {
                request = request.field("Authorization", &format!("bearer {token}"));
            }
            if let Some(token) = cookie {
                request = request.field("Cookie", &format!("x=y; octoporty_access={token}"));
            }
            assert_eq!(world.ask(&request).status, status, "{bearer:?} {cookie:?}");
        }
        let refused = world
            .ask(&Request::new("GET", "/api/v1/status").field("Authorization", &format!("Bearer {expired}")));
        assert_eq!(refused.header("WWW-Authenticate"), Some("Bearer error=\"invalid_token\""));
    }

    #[test]
    fn login_gives_a_token_that_works_and_cookies_that_fit_the_connection() {
        let world = World::new();
        let answer = world.ask(&login("password"));
        assert_eq!(answer.status, 200);
        let value = answer.value();
        assert_eq!(value["refreshToken"].as_str().map(str::len), Some(44));
        for date in ["expiresAt", "refreshExpiresAt"] {
            assert!(value[date].as_str().expect("a date").ends_with('Z'));
        }
        let token = value["token"].as_str().expect("a token");
        let status = Request::new("GET", "/api/v1/status").field("Authorization", &format!("Bearer {token}"));
        assert_eq!(world.ask(&status).status, 200);

        let plain = cookies(&answer);
        assert_eq!(plain.len(), 2);
        assert!(plain[0].starts_with(&format!("octoporty_access={token}; expires=")), "{}", plain[0]);
        assert!(plain[0].ends_with("; max-age=900; path=/; samesite=strict; httponly"), "{}", plain[0]);
        assert!(plain[1].ends_with("; max-age=604800; path=/api/v1/auth; samesite=strict; httponly"));
        let secure = world.ask(&login("password").field("X-Forwarded-Proto", "https"));
        assert!(cookies(&secure).iter().all(|cookie| cookie.contains("; secure;")));
        let status = Request::new("GET", "/api/v1/status").field("Cookie", &cookie_header(&answer));
        assert_eq!(world.ask(&status).status, 200);
    }

    #[test]
    fn wrong_passwords_are_refused_and_then_locked_out() {
        let world = World::new();
        let long = "x".repeat(15_000);
        for password in ["wrong", "", "Password", "password ", &long] {
            assert_eq!(world.ask(&login(password)).status, 401, "{:.20}", password);
        }
        let locked = world.ask(&login("password"));
        assert_eq!(locked.status, 429);
        let wait: u64 = locked.header("Retry-After").expect("a time").parse().expect("seconds");
        assert!((50..=60).contains(&wait), "{wait}");
        let elsewhere = Request { peer: [192, 168, 1, 51].into(), ..login("password") };
        assert_eq!(world.ask(&elsewhere).status, 200);
        let again = world.ask(&login("password"));
        assert_eq!(again.status, 429, "another address's success frees nobody");
    }

    #[test]
    fn a_login_without_a_password_is_malformed_and_null_is_wrong() {
        let world = World::new();
        let ask = |body: &str| world.ask(&Request::new("POST", "/api/v1/auth/login").json(body)).status;
        assert_eq!(ask("{}"), 400);
        assert_eq!(ask("{\"password\": 7}"), 400);
        assert_eq!(ask("{\"password\": null}"), 401);
        assert_eq!(ask("{\"PassWord\": \"password\"}"), 200);
    }

    #[test]
    fn a_refresh_token_works_once_from_body_or_cookie_and_not_after_logout() {
        let world = World::new();
        let refresh = |token: &str| {
            let body = json!({ "refreshToken": token }).to_string();
            world.ask(&Request::new("POST", "/api/v1/auth/refresh").json(&body))
        };
        let first = world.ask(&login("password"));
        let token = first.value()["refreshToken"].as_str().expect("a token").to_owned();
        let second = refresh(&token);
        assert_eq!(second.status, 200);
        assert_eq!(refresh(&token).status, 401, "used twice");
        assert_eq!(refresh("").status, 401);

        let by_cookie = |answer: &Response, origin: &str| {
            let request = Request::new("POST", "/api/v1/auth/refresh")
                .field("Host", "nas:17201")
                .field("Origin", origin)
                .field("Cookie", &cookie_header(answer));
            world.ask(&request)
        };
        assert_eq!(by_cookie(&second, "http://evil.example").status, 403);
        let third = by_cookie(&second, "http://nas:17201");
        assert_eq!(third.status, 200);
        assert_ne!(third.value()["refreshToken"], second.value()["refreshToken"]);

        let logout = |origin: &str| {
            world.ask(
                &Request::new("POST", "/api/v1/auth/logout")
                    .field("Host", "nas:17201")
                    .field("Origin", origin)
                    .field("Cookie", &cookie_header(&third)),
            )
        };
        assert_eq!(logout("http://evil.example").status, 403);
        let gone = logout("http://nas:17201");
        assert_eq!(gone.status, 204);
        assert!(
            cookies(&gone).iter().all(|c| c.contains("=; expires=Thu, 01 Jan 1970 00:00:00 GMT; max-age=0"))
        );
        assert_eq!(by_cookie(&third, "http://nas:17201").status, 401);
        assert_eq!(world.ask(&Request::new("POST", "/api/v1/auth/logout")).status, 204);
    }

    /// What a browser would send after this answer.
    fn with_cookies(request: Request, answer: &Response) -> Request {
        request
            .field("Host", "nas:17201")
            .field("Origin", "http://nas:17201")
            .field("Cookie", &cookie_header(answer))
    }

    fn with_bearer(request: Request, answer: &Response) -> Request {
        let token = answer.value()["token"].as_str().expect("a token").to_owned();
        request.field("Authorization", &format!("Bearer {token}"))
    }

    #[test]
    fn an_access_token_ends_with_its_session_however_that_ends() {
        type Ending = fn(&World, &Response, &Response);
        let endings: [(&str, Ending); 5] = [
            ("logout by cookie", |world, own, _| {
                let request = Request::new("POST", "/api/v1/auth/logout");
                assert_eq!(world.ask(&with_cookies(request, own)).status, 204);
            }),
            ("logout by token", |world, own, _| {
                let request = Request::new("POST", "/api/v1/auth/logout");
                assert_eq!(world.ask(&with_bearer(request, own)).status, 204);
            }),
            ("ended from the list, by another session", |world, _, other| {
                let list =
                    world.ask(&with_bearer(Request::new("GET", "/api/v1/auth/sessions"), other)).value();
                let others = list.as_array().expect("a list").iter().filter(|one| one["current"] == false);
                let ids: Vec<_> = others.map(|one| one["id"].as_str().expect("an id").to_owned()).collect();
                assert_eq!(ids.len(), 1);
                let end = || Request::new("DELETE", &format!("/api/v1/auth/sessions/{}", ids[0]));
                assert_eq!(world.ask(&with_bearer(end(), other)).status, 204);
                assert_eq!(world.ask(&with_bearer(end(), other)).status, 404);
            }),
            ("log out everywhere", |world, _, other| {
                let answer = world.ask(&with_cookies(Request::new("POST", "/api/v1/auth/logout-all"), other));
                assert_eq!(answer.status, 204);
                assert!(cookies(&answer).iter().all(|cookie| cookie.contains("max-age=0")));
                let again = with_bearer(Request::new("GET", "/api/v1/status"), other);
                assert_eq!(world.ask(&again).status, 401, "the one who asked for it too");
            }),
            ("gone from the database", |world, _, _| {
                assert_eq!(world.app.store.end_all_sessions().expect("asked"), 2);
            }),
        ];
        for (name, end) in endings {
            let world = World::new();
            let (own, other) = (world.ask(&login("password")), world.ask(&login("password")));
            let status = || with_bearer(Request::new("GET", "/api/v1/status"), &own);
            assert_eq!(world.ask(&status()).status, 200, "{name}");
            end(&world, &own, &other);
            let refused = world.ask(&status());
            assert_eq!(refused.status, 401, "{name}");
            assert!(refused.value()["message"].as_str().expect("a text").contains("has ended"), "{name}");
            let body = json!({ "refreshToken": own.value()["refreshToken"] }).to_string();
            let refresh = Request::new("POST", "/api/v1/auth/refresh").json(&body);
            assert_eq!(world.ask(&refresh).status, 401, "{name}");
        }
    }

    #[test]
    fn a_renewed_token_belongs_to_the_same_session() {
        let world = World::new();
        let first = world.ask(&login("password"));
        let renewed = world.ask(&with_cookies(Request::new("POST", "/api/v1/auth/refresh"), &first));
        assert_eq!(renewed.status, 200);
        let list = world.ask(&with_bearer(Request::new("GET", "/api/v1/auth/sessions"), &renewed)).value();
        let list = list.as_array().expect("a list");
        assert_eq!(list.len(), 1);
        assert_eq!((&list[0]["current"], &list[0]["address"]), (&json!(true), &json!("192.168.1.50")));
        assert_eq!(world.ask(&with_bearer(Request::new("GET", "/api/v1/status"), &first)).status, 200);
    }

    #[test]
    fn another_password_ends_the_sessions() {
        let world = World::new();
        let answer = world.ask(&login("password"));
        let token = answer.value()["refreshToken"].as_str().expect("a token").to_owned();
        let mut config = world.app.config.clone();
        config.password_hash = Secret::new(HASH.replace("$abcdefgh$", "$ABCDEFGH$"));
        let tunnel = Arc::clone(&world.tunnel) as Arc<dyn Control>;
        let app = App::new(
            config,
            world.app.store.clone(),
            Arc::clone(&world.app.history),
            tunnel,
            Live::default(),
        )
        .expect("an app");
        let body = json!({ "refreshToken": token }).to_string();
        let request = Request::new("POST", "/api/v1/auth/refresh").json(&body);
        assert_eq!(handle(&app, &request).status, 401);
        let request = with_bearer(Request::new("GET", "/api/v1/status"), &answer);
        assert_eq!(handle(&app, &request).status, 401, "an access token too");
    }

    #[test]
    fn a_cookie_changes_things_from_the_own_page_only() {
        let world = World::new();
        let cookie = format!("octoporty_access={}", good_token());
        let ask = |method: &str, path: &str, fields: &[(&str, &str)]| {
            let request = Request::new(method, path).field("Cookie", &cookie).field("Host", "nas:17201");
            world.ask(&fields.iter().fold(request, |r, (name, value)| r.field(name, value))).status
        };
        assert_eq!(ask("POST", "/api/v1/reconnect", &[]), 403);
        assert_eq!(ask("POST", "/api/v1/reconnect", &[("Origin", "http://evil.example")]), 403);
        assert_eq!(ask("POST", "/api/v1/reconnect", &[("Sec-Fetch-Site", "same-site")]), 403);
        assert_eq!(world.tunnel.reconnects.load(Ordering::Relaxed), 0);
        assert_eq!(ask("POST", "/api/v1/reconnect", &[("Origin", "http://nas:17201")]), 200);
        assert_eq!(ask("POST", "/api/v1/reconnect", &[("Sec-Fetch-Site", "same-origin")]), 200);
        assert_eq!(ask("GET", "/api/v1/status", &[]), 200, "reading is not changing");
        let bearer = format!("Bearer {}", good_token());
        assert_eq!(
            ask("POST", "/api/v1/reconnect", &[("Authorization", &bearer)]),
            200,
            "no page can send that"
        );
        assert_eq!(world.tunnel.reconnects.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn status_has_every_field_connected_or_not() {
        let world = World::new();
        world.mapping("a.example");
        let started = timestamp::api_form(world.app.started);
        let away = world.operator("GET", "/api/v1/status", None).value();
        assert_eq!(
            away,
            json!({
                "connectionStatus": "Disconnected", "gatewayUrl": "wss://gateway.example:443", "lastConnected": null,
                "lastDisconnected": null, "reconnectAttempts": 0, "uptimeSeconds": null, "uptime": null,
                "version": "1.2.3", "startedAt": started, "activeMappings": 1, "gatewayVersion": null, "lastError": null,
                "gatewayUpdateAvailable": false, "gatewayUptime": null, "rttMs": null, "links": 0,
                "agentId": world.app.store.agent_id().expect("an id"), "agentName": "home", "heartbeatSeconds": 30,
                "droppedRequests": 0,
                "database": { "path": world.app.store.path(), "bytes": away["database"]["bytes"] },
                "gatewayUrls": [{
                    "url": "wss://gateway.example:443", "state": "Disconnected", "lastError": null,
                    "lastConnected": null, "lastDisconnected": null, "reconnectAttempts": 0, "version": null,
                    "rttMs": null, "links": 0, "streams": 0,
                }],
            })
        );
        assert!(away["database"]["bytes"].as_u64().expect("a number") > 1000);
        let at = timestamp::from_database("2026-01-20 19:58:47.68").expect("a date");
        *world.tunnel.status.lock().expect("status") = TunnelStatus {
            state: TunnelState::Connected,
            gateway_url: "wss://gateway.example:443".into(),
            last_connected: Some(at),
            last_disconnected: Some(at),
            reconnect_attempts: 3,
            connected_since: Instant::now().checked_sub(Duration::from_secs(5)),
            gateway_version: Some("1.2.2".into()),
            last_error: Some("refused".into()),
            gateway_uptime: Some(77),
            rtt_ms: Some(1.5),
            links: 4,
            streams: 2,
        };
        let here = world.operator("GET", "/api/v1/status", None).value();
        assert_eq!(here["connectionStatus"], "Connected");
        assert_eq!(here["lastConnected"], "2026-01-20T19:58:47.68Z");
        assert_eq!(here["gatewayUpdateAvailable"], true);
        assert!(here["uptimeSeconds"].as_f64().expect("a number") >= 5.0);
        assert_eq!(
            (&here["rttMs"], &here["links"], &here["reconnectAttempts"]),
            (&json!(1.5), &json!(4), &json!(3))
        );
    }

    #[test]
    fn metrics_are_for_the_operator_and_whoever_has_their_token_which_opens_nothing_else() {
        let world = World::new();
        let ask = |path: &str, authorization: Option<&str>| {
            let request = Request::new("GET", path);
            world.ask(&match authorization {
                Some(value) => request.field("Authorization", value),
                None => request,
            })
        };
        let token = format!("Bearer {METRICS_TOKEN}");
        let told = ask("/metrics", Some(&token));
        assert_eq!(
            (told.status, told.header("Content-Type")),
            (200, Some("text/plain; version=0.0.4; charset=utf-8"))
        );
        let text = String::from_utf8(told.written().expect("a page")).expect("text");
        assert!(text.contains("octoporty_build_info{component=\"agent\",version=\"1.2.3\"} 1\n"), "{text}");
        assert_eq!(ask("/metrics", Some(&format!("Bearer {}", good_token()))).status, 200);
        for authorization in
            [None, Some("Bearer "), Some("Bearer metrics-token"), Some(METRICS_TOKEN), Some("Basic x")]
        {
            assert_eq!(ask("/metrics", authorization).status, 401, "{authorization:?}");
        }
        assert_eq!(ask("/api/v1/status", Some(&token)).status, 401);
        let without = AdminConfig { metrics_token: None, ..world.app.config.clone() };
        let tunnel = Arc::clone(&world.tunnel) as Arc<dyn Control>;
        let app = App::new(
            without,
            world.app.store.clone(),
            Arc::clone(&world.app.history),
            tunnel,
            Live::default(),
        )
        .expect("an app");
        for token in ["Bearer ", "Bearer", "Bearer null"] {
            let request = Request::new("GET", "/metrics").field("Authorization", token);
            assert_eq!(handle(&app, &request).status, 401, "{token}");
        }
    }

    #[test]
    fn open_pages_hear_of_every_change_of_a_mapping() {
        let world = World::new();
        let listener = world.app.live.hub.listen(None).expect("room for a listener");
        let id = world.mapping("app.example")["id"].as_str().expect("an id").to_owned();
        let path = format!("/api/v1/mappings/{id}");
        assert_eq!(world.operator("PATCH", &path, Some(json!({ "internalPort": 81 }))).status, 200);
        let toggle = format!("{path}/toggle");
        assert_eq!(world.operator("PATCH", &toggle, Some(json!({ "enabled": false }))).status, 200);
        assert_eq!(world.operator("PATCH", &path, Some(json!({ "internalPort": 0 }))).status, 400);
        assert_eq!(world.operator("DELETE", &path, None).status, 204);
        let heard: Vec<_> = listener.take().messages.iter().map(|m| (m.name, m.data.clone())).collect();
        let expected = ["created", "updated", "updated", "deleted"]
            .map(|reason| ("MappingsChanged", json!({ "reason": reason, "ids": [id] }).to_string()));
        assert_eq!(heard, expected);
    }

    #[test]
    fn health_is_always_200() {
        let world = World::new();
        let ask = || world.ask(&Request::new("GET", "/health"));
        assert_eq!((ask().status, ask().value()), (200, json!({ "status": "degraded" })));
        world.tunnel.status.lock().expect("status").state = TunnelState::Connected;
        assert_eq!((ask().status, ask().value()), (200, json!({ "status": "healthy" })));
    }

    #[test]
    fn every_answer_is_guarded() {
        let world = World::new();
        for path in [
            "/",
            "/css/base.css",
            "/preview.html",
            "/nothing.here",
            "/api/v1/status",
            "/api/nothing",
            "/health",
        ] {
            let answer = world.ask(&Request::new("GET", path));
            for name in
                ["X-Content-Type-Options", "X-Frame-Options", "Content-Security-Policy", "Cache-Control"]
            {
                assert!(answer.header(name).is_some(), "{path} has no {name}");
            }
        }
    }

    #[test]
    fn a_body_too_large_is_refused() {
        let world = World::new();
        let request = Request { body: vec![b' '; STRANGERS_BODY + 1], ..login("x") };
        assert_eq!(world.ask(&request).status, 413);
    }
}
