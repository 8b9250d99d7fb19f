//! Asking a service before it is mapped, and finding the services of the Agent's own machine.

use e2e::certificates::Identity;
use e2e::sample;
use e2e::upstream::Upstream;
use e2e::world::World;
use serde_json::{Value, json};

fn ask(world: &World, body: &Value) -> Value {
    let answer = world.agent().call("POST", "/api/v1/mappings/test", Some(body));
    assert_eq!(answer.status(), 200, "{answer:?}");
    answer.json()
}

#[test]
fn a_target_is_asked_before_it_is_saved() {
    let world = World::start();
    let upstream = Upstream::start();
    sample::install(&upstream);
    upstream.on("/titled", |x| x.reply(200, &[("Server", "test")], b"<title>Photos</title>"));
    let body = json!({
        "internalHost": "localhost", "internalPort": upstream.port(), "path": "/titled",
        "externalDomain": "photos.example.com",
    });
    let report = ask(&world, &body);
    let expected = json!({
        "ok": true, "statusCode": 200, "statusText": "Status", "durationMs": report["durationMs"],
        "address": format!("127.0.0.1:{}", upstream.port()), "server": "test", "title": "Photos", "hop": null,
        "error": null, "hint": null,
    });
    assert_eq!(report, expected);
    assert!(report["durationMs"].as_f64().is_some_and(|ms| ms > 0.0));
    assert_eq!(upstream.requests()[0].get("host").as_deref(), Some("photos.example.com"));
    // Nothing was saved.
    assert_eq!(world.agent().call("GET", "/api/v1/mappings", None).json(), json!([]));
    // Which Host the service sees is what the mapping would send.
    for (host_header, seen) in
        [("target", format!("localhost:{}", upstream.port())), ("x.lan", "x.lan".into())]
    {
        let mut body = body.clone();
        body["hostHeader"] = json!(host_header);
        ask(&world, &body);
        let last = upstream.requests().last().expect("a request").get("host");
        assert_eq!(last.as_deref(), Some(seen.as_str()));
    }
}

#[test]
fn a_target_that_does_not_answer_names_the_hop_and_what_to_do() {
    let world = World::start();
    let secure = Upstream::start_tls(Identity::self_signed(&["elsewhere.example"]).server());
    sample::install(&secure);
    let plain = Upstream::start();
    sample::install(&plain);
    let free =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let (secure, plain) = (secure.port(), plain.port());
    let rows = [
        (json!({ "internalHost": "127.0.0.1", "internalPort": free }), "connect", "nothing listens"),
        (json!({ "internalHost": "no-such-name.invalid", "internalPort": 80 }), "dns", "spelling"),
        (
            json!({ "internalHost": "127.0.0.1", "internalPort": secure, "internalUseTls": true }),
            "tls",
            "allow invalid certificates",
        ),
        (
            json!({ "internalHost": "127.0.0.1", "internalPort": plain, "internalUseTls": true }),
            "tls",
            // The test's service waits for the end of a line that never comes.
            "does the service speak HTTPS",
        ),
        (json!({ "internalHost": "127.0.0.1", "internalPort": secure }), "http", "HTTPS"),
    ];
    for (body, hop, hint) in rows {
        let report = ask(&world, &body);
        assert_eq!((&report["ok"], &report["hop"]), (&json!(false), &json!(hop)), "{body}: {report}");
        assert!(report["hint"].as_str().is_some_and(|text| text.contains(hint)), "{body}: {report}");
        assert!(report["error"].is_string(), "{body}: {report}");
    }
    let body = json!({
        "internalHost": "127.0.0.1", "internalPort": secure, "internalUseTls": true, "allowSelfSignedCerts": true,
        "path": "/hello",
    });
    assert_eq!(ask(&world, &body)["ok"], true);
}

#[test]
fn what_no_mapping_may_reach_cannot_be_asked_either() {
    let world = World::start();
    let own = world.agent().api().port();
    for (body, field) in [
        (json!({ "internalHost": "127.0.0.1", "internalPort": own }), "internalHost"),
        (json!({ "internalHost": "169.254.169.254", "internalPort": 80 }), "internalHost"),
        (json!({ "internalHost": "http://nas", "internalPort": 80 }), "internalHost"),
        (json!({ "internalHost": "nas", "internalPort": 0 }), "internalPort"),
        (json!({ "internalHost": "nas", "internalPort": 80, "path": "x" }), "path"),
        (json!({ "internalHost": "nas", "internalPort": 80, "path": "/\r\nX: y" }), "path"),
        (json!({}), "internalHost"),
    ] {
        let answer = world.agent().call("POST", "/api/v1/mappings/test", Some(&body));
        assert_eq!(answer.status(), 400, "{body}: {answer:?}");
        assert!(answer.json()["errors"][field].is_array(), "{body}: {answer:?}");
    }
    let answer = world.agent().call_with("POST", "/api/v1/mappings/test", &[], Some(&json!({})));
    assert_eq!(answer.status(), 401);
}

#[test]
fn services_of_the_agents_machine_are_found_without_its_own_page() {
    let world = World::start();
    let upstream = Upstream::start();
    sample::install(&upstream);
    upstream.on("/", |x| x.reply(200, &[], b"<title>Test Kitchen</title>"));
    let answer = world.agent().call("GET", "/api/v1/discover", None);
    assert_eq!(answer.status(), 200, "{answer:?}");
    let services = answer.json()["services"].as_array().expect("a list").clone();
    let at = |port: u16| services.iter().find(|service| service["port"] == port);
    let found = at(upstream.port()).unwrap_or_else(|| panic!("{services:?}"));
    assert_eq!(found["host"], "127.0.0.1", "{found}");
    assert_eq!((&found["protocol"], &found["title"]), (&json!("http"), &json!("Test Kitchen")), "{found}");
    assert_eq!(found["suggestedName"], "test-kitchen");
    assert!(found["process"].is_string(), "{found}");
    assert!(at(world.agent().api().port()).is_none(), "{services:?}");
    assert_eq!(world.agent().call_with("GET", "/api/v1/discover", &[], None).status(), 401);
}
