//! The Operator's API, and what follows from it at the Gateway.

use std::time::{Duration, Instant};

use e2e::journal::{PATIENCE, until};
use e2e::sample;
use e2e::upstream::Upstream;
use e2e::visitor::Visitor;
use e2e::world::{Agent, PASSWORD, World, mapping};
use serde_json::{Value, json};

/// How soon a change must be in force, the call included.
const AT_ONCE: Duration = Duration::from_secs(1);

/// An upstream that says its name.
fn named(name: &'static str) -> Upstream {
    let upstream = Upstream::start();
    sample::install(&upstream);
    upstream.on("/name", move |x| x.reply(200, &[], name.as_bytes()));
    upstream
}

fn list(agent: &Agent) -> Vec<Value> {
    let answer = agent.call("GET", "/api/v1/mappings", None);
    assert_eq!(answer.status(), 200, "{answer:?}");
    answer.json().as_array().expect("an array").clone()
}

#[test]
fn without_a_token_nothing_is_shown_or_changed() {
    let world = World::start();
    let agent = world.agent();
    let body = mapping("nobody.test", 80, json!({}));
    let id = "00000000-0000-0000-0000-000000000001";
    let calls = [
        ("GET", "/api/v1/status".to_owned(), None),
        ("POST", "/api/v1/reconnect".into(), None),
        ("GET", "/api/v1/mappings".into(), None),
        ("POST", "/api/v1/mappings".into(), Some(&body)),
        ("GET", format!("/api/v1/mappings/{id}"), None),
        ("PUT", format!("/api/v1/mappings/{id}"), Some(&body)),
        ("DELETE", format!("/api/v1/mappings/{id}"), None),
        ("PATCH", format!("/api/v1/mappings/{id}/toggle"), Some(&body)),
    ];
    for (method, path, body) in &calls {
        for fields in [&[][..], &[("Authorization", "Bearer wrong")], &[("Cookie", "octoporty_access=wrong")]]
        {
            let answer = agent.call_with(method, path, fields, *body);
            assert_eq!(answer.status(), 401, "{method} {path} {fields:?}: {answer:?}");
        }
    }
    assert!(list(agent).is_empty());
}

#[test]
fn a_wrong_password_is_refused_and_guessing_is_slowed() {
    let world = World::start();
    let agent = world.agent();
    let login = |password: &str| {
        agent.call_with("POST", "/api/v1/auth/login", &[], Some(&json!({ "password": password })))
    };
    for guess in ["", "wrong", "correct horse batterY", " correct horse battery", "correct horse"] {
        assert_eq!(login(guess).status(), 401, "{guess:?}");
    }
    let locked = login(PASSWORD);
    assert_eq!(locked.status(), 429, "five failures: even the right one has to wait");
    let wait: u64 = locked.get("retry-after").and_then(|s| s.parse().ok()).expect("a number of seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(agent.status()["connectionStatus"], "Connected", "whoever is logged in stays so");
}

#[test]
fn a_login_sets_cookies_that_scripts_cannot_read() {
    let world = World::start();
    let agent = world.agent();
    let body = json!({ "password": PASSWORD });
    let answer = agent.call_with("POST", "/api/v1/auth/login", &[], Some(&body));
    assert_eq!(answer.status(), 200, "{answer:?}");
    let cookies = answer.head.all("set-cookie");
    let access = cookies.iter().find(|c| c.starts_with("octoporty_access=")).expect("the access cookie");
    let attributes = access.to_ascii_lowercase();
    assert!(attributes.contains("httponly") && attributes.contains("samesite=strict"), "{access}");
    let cookie = access.split(';').next().unwrap_or_default();
    let status = agent.call_with("GET", "/api/v1/status", &[("Cookie", cookie)], None);
    assert_eq!(status.status(), 200, "{status:?}");
    // A page elsewhere can make a browser send the cookie's owner anywhere, but not change anything.
    let evil = [("Cookie", cookie), ("Origin", "http://evil.example"), ("Sec-Fetch-Site", "cross-site")];
    let body = mapping("evil.test", 80, json!({}));
    let forged = agent.call_with("POST", "/api/v1/mappings", &evil, Some(&body));
    assert!(matches!(forged.status(), 401 | 403), "{forged:?}");
    assert!(list(agent).is_empty());
}

#[test]
fn a_mapping_lives_and_every_change_is_in_force_at_once() {
    let world = World::start();
    let agent = world.agent();
    let (first, second) = (named("first"), named("second"));
    assert_eq!(world.get("life.test", "/name").status(), 404);

    let began = Instant::now();
    let id = agent.map("life.test", first.port());
    assert_eq!(world.get("life.test", "/name").text(), "first");
    assert!(began.elapsed() < AT_ONCE, "creating took {:?}", began.elapsed());

    let began = Instant::now();
    agent.change(&id, &mapping("life.test", second.port(), json!({})));
    assert_eq!(world.get("life.test", "/name").text(), "second");
    assert!(began.elapsed() < AT_ONCE, "changing took {:?}", began.elapsed());

    agent.change(&id, &mapping("other-name.test", second.port(), json!({})));
    assert_eq!(world.get("life.test", "/name").status(), 404);
    assert_eq!(world.get("other-name.test", "/name").text(), "second");

    let toggle = |enabled: bool| {
        let path = format!("/api/v1/mappings/{id}/toggle");
        let answer = agent.call("PATCH", &path, Some(&json!({ "enabled": enabled })));
        assert_eq!((answer.status(), &answer.json()["enabled"]), (200, &json!(enabled)), "{answer:?}");
    };
    let began = Instant::now();
    toggle(false);
    assert_eq!(world.get("other-name.test", "/name").status(), 404);
    toggle(true);
    assert_eq!(world.get("other-name.test", "/name").text(), "second");
    assert!(began.elapsed() < 2 * AT_ONCE, "toggling took {:?}", began.elapsed());

    agent.unmap(&id);
    assert_eq!(world.get("other-name.test", "/name").status(), 404);
    assert!(list(agent).is_empty());
    let gone = agent.call("GET", &format!("/api/v1/mappings/{id}"), None);
    assert_eq!(gone.status(), 404, "{gone:?}");
}

#[test]
fn a_change_does_not_disturb_other_mappings() {
    let world = World::start();
    let agent = world.agent();
    let upstream = world.publish("busy.test");
    let mut downloads: Vec<_> = (0..4).map(|_| world.visitor("busy.test")).collect();
    for visitor in &mut downloads {
        visitor.ask("GET", "/endless", &[]);
        assert_eq!(visitor.head("GET").status(), 200);
    }
    let (_, mut socket) = world.visitor("busy.test").websocket("/ws", &[]);
    for n in 0..20 {
        let other = agent.map(&format!("other-{n}.test"), upstream.port());
        assert_eq!(world.get(&format!("other-{n}.test"), "/hello").status(), 200);
        agent.unmap(&other);
        for visitor in &mut downloads {
            assert_eq!(visitor.exactly(100_000).len(), 100_000);
        }
        socket.send(n.to_string().into()).expect("sent");
        assert_eq!(socket.read().expect("echoed"), n.to_string().into());
    }
}

#[test]
fn saves_at_the_same_time_are_all_in_force() {
    let world = World::start();
    let upstream = named("all");
    // Each save supersedes the table of the one before, and must still be told that its own row is in force.
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (world, upstream) = (&world, &upstream);
            scope.spawn(move || {
                for m in 0..5 {
                    let domain = format!("n{n}m{m}.test");
                    world.agent().map(&domain, upstream.port());
                    assert_eq!(world.get(&domain, "/name").text(), "all");
                }
            });
        }
    });
    assert_eq!(list(world.agent()).len(), 40);
}

#[test]
fn fields_are_understood_and_shown_in_both_spellings() {
    let world = World::start();
    let agent = world.agent();
    let upstream = named("both");
    let ours = json!({
        "name": "My service",
        "externalDomain": "New-Spelling.test",
        "internalHost": "127.0.0.1",
        "internalPort": upstream.port(),
        "internalProtocol": "Http",
        "allowInvalidCertificates": true,
        "enabled": true,
    });
    let answer = agent.call("POST", "/api/v1/mappings", Some(&ours));
    assert_eq!(answer.status(), 201, "{answer:?}");
    let created = answer.json();
    let id = created["id"].as_str().expect("an id");
    let location = answer.get("location").expect("RFC 9110 10.2.2");
    assert!(location.ends_with(&format!("/api/v1/mappings/{id}")), "{location}");
    let wanted = [
        ("name", json!("My service")),
        ("description", json!("My service")),
        ("externalDomain", json!("new-spelling.test")),
        ("internalHost", json!("127.0.0.1")),
        ("internalPort", json!(upstream.port())),
        ("internalProtocol", json!("Http")),
        ("internalUseTls", json!(false)),
        ("allowInvalidCertificates", json!(true)),
        ("allowSelfSignedCerts", json!(true)),
        ("enabled", json!(true)),
        ("isEnabled", json!(true)),
        ("hostHeader", json!("preserve")),
    ];
    for (field, value) in &wanted {
        assert_eq!(&created[*field], value, "{field} in {created}");
    }
    for field in ["createdAt", "updatedAt"] {
        assert!(created[field].as_str().is_some_and(|date| date.ends_with('Z')), "{field} in {created}");
    }
    let read = agent.call("GET", &format!("/api/v1/mappings/{id}"), None).json();
    for (field, value) in &wanted {
        assert_eq!(&read[*field], value, "{field} in {read}");
    }
    assert_eq!(world.get("new-spelling.test", "/name").text(), "both");
}

#[test]
fn nonsense_is_refused_with_field_and_reason() {
    let world = World::start();
    let agent = world.agent();
    let table = [
        ("externalDomain", json!("")),
        ("externalDomain", json!("-bad-.test")),
        ("externalDomain", json!("with space.test")),
        ("externalDomain", json!("http://a.test")),
        ("externalDomain", json!("a.*.test")),
        ("externalDomain", json!("x".repeat(300))),
        ("internalHost", json!("")),
        ("internalHost", json!("http://127.0.0.1")),
        ("internalHost", json!("127.0.0.1:80")),
        ("internalHost", json!("a/b")),
        ("internalPort", json!(0)),
        ("internalPort", json!(65_536)),
        ("internalPort", json!(-1)),
    ];
    for (field, value) in &table {
        let body = mapping("fine.test", 80, json!({ *field: value }));
        let answer = agent.call("POST", "/api/v1/mappings", Some(&body));
        assert_eq!(answer.status(), 400, "{field} = {value}: {answer:?}");
        let reason = &answer.json()["errors"][*field];
        assert!(reason.is_array() || reason.is_string(), "{field} = {value}: {}", answer.text());
    }
    let json = [("Content-Type", "application/json")];
    let mut visitor = Visitor::connect(agent.api(), "agent");
    let half = visitor.request("POST", "/api/v1/auth/login", &json, Some(b"{\"password\": "));
    assert_eq!(half.status(), 400, "{half:?}");
    assert!(list(agent).is_empty());
}

#[test]
fn a_domain_is_mapped_once() {
    let world = World::start();
    let agent = world.agent();
    agent.map("twice.test", 8080);
    for domain in ["twice.test", "TWICE.test"] {
        let answer = agent.call("POST", "/api/v1/mappings", Some(&mapping(domain, 8081, json!({}))));
        assert_eq!(answer.status(), 409, "{answer:?}");
        assert!(answer.text().contains("twice.test"), "a sentence that names it: {}", answer.text());
    }
    assert_eq!(list(agent).len(), 1);
}

#[test]
fn unknown_paths_and_methods_are_refused_in_json() {
    let world = World::start();
    let agent = world.agent();
    let unknown = agent.call("GET", "/api/v1/nothing", None);
    assert_eq!(unknown.status(), 404, "{unknown:?}");
    assert!(unknown.json().is_object());
    let method = agent.call("PUT", "/api/v1/mappings", Some(&json!({})));
    assert_eq!(method.status(), 405, "{method:?}");
    assert!(method.get("allow").is_some_and(|allow| allow.contains("POST")), "{method:?}");
    let id = "00000000-0000-0000-0000-000000000001";
    assert_eq!(agent.call("DELETE", &format!("/api/v1/mappings/{id}"), None).status(), 404);
}

#[test]
fn status_tells_the_truth() {
    let mut world = World::start();
    world.publish("status.test");
    let status = world.agent().status();
    assert_eq!(status["connectionStatus"], "Connected");
    assert_eq!(status["activeMappings"], 1);
    let address = world.gateway().address().to_string();
    assert!(status["gatewayUrl"].as_str().is_some_and(|url| url.contains(&address)), "{status}");
    assert!(status["lastConnected"].as_str().is_some_and(|date| date.ends_with('Z')), "{status}");
    assert!(status["uptimeSeconds"].is_number(), "{status}");
    for field in ["version", "gatewayVersion"] {
        let parts = status[field].as_str().map(|version| version.split('.').count());
        assert_eq!(parts, Some(3), "{field} in {status}");
    }
    world.gateways[0].daemon.kill();
    let status = until("a status other than connected", PATIENCE, || {
        let status = world.agent().status();
        (status["connectionStatus"] != "Connected" && status["lastError"].is_string()).then_some(status)
    });
    assert!(status["lastDisconnected"].is_string(), "{status}");
    assert!(status["uptimeSeconds"].is_null(), "{status}");
    // A save that could not be passed on says so.
    let body = mapping("later.test", 8080, json!({}));
    let answer = world.agent().call("POST", "/api/v1/mappings", Some(&body));
    assert_eq!((answer.status(), &answer.json()["routeState"]), (201, &json!("unknown")), "{answer:?}");
    world.gateways[0].start_again();
    world.agent().wait_connected();
    assert_eq!(world.get("later.test", "/").status(), 502, "mapped, though nobody listens on the port");
}

#[test]
fn health_is_answered_on_both_daemons() {
    let world = World::start();
    let agent = world.agent().call_with("GET", "/health", &[], None);
    assert_eq!((agent.status(), &agent.json()["status"]), (200, &json!("healthy")));
    let gateway = world.get("localhost", "/health");
    assert_eq!((gateway.status(), &gateway.json()["status"]), (200, &json!("healthy")));
}

#[test]
fn mappings_survive_kill_9() {
    let mut world = World::start();
    let upstream = world.publish("kept.test");
    let before = list(world.agent());
    world.agents[0].restart();
    world.agent().wait_connected();
    assert_eq!(list(world.agent()), before);
    assert_eq!(world.get("kept.test", "/hello").text(), "hello\n");
    drop(upstream);
}

#[test]
fn reconnect_is_an_order() {
    let mut world = World::start();
    let _upstream = world.publish("again.test");
    world.gateways[0].daemon.kill();
    world.gateways[0].start_again();
    let answer = world.agent().call("POST", "/api/v1/reconnect", None);
    assert_eq!(answer.status(), 200, "{answer:?}");
    world.wait_served("again.test");
}
