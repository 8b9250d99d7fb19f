//! The API as a whole: who is let in, what is said to everybody else, and the routes that have no file to themselves.

mod login;
mod mappings;

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
        let request = Request::new(method, path).field("Authorization", &format!("Bearer {}", good_token()));
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
    for path in ["/api", "/api/", "/api/mappings", "/api/v1/mappings/", "/api/v1/mappings/a/b/c", "/api/v2/x"]
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
    let open: Vec<_> = ROUTES.iter().filter(|r| matches!(r.access, Access::Anyone)).map(|r| r.path).collect();
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
    let app =
        App::new(without, world.app.store.clone(), Arc::clone(&world.app.history), tunnel, Live::default())
            .expect("an app");
    for token in ["Bearer ", "Bearer", "Bearer null"] {
        let request = Request::new("GET", "/metrics").field("Authorization", token);
        assert_eq!(handle(&app, &request).status, 401, "{token}");
    }
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
    for path in
        ["/", "/css/base.css", "/preview.html", "/nothing.here", "/api/v1/status", "/api/nothing", "/health"]
    {
        let answer = world.ask(&Request::new("GET", path));
        for name in ["X-Content-Type-Options", "X-Frame-Options", "Content-Security-Policy", "Cache-Control"]
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
