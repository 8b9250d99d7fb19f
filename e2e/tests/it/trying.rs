//! Trying the tunnel: the endpoints of both daemons for whoever looks for a fault.

use e2e::upstream::Upstream;
use e2e::visitor::Response;
use e2e::world::{Gateway, KEY, Settings, World};
use serde_json::{Value, json};

fn keyed(world: &World, method: &str, target: &str, body: &[u8]) -> Response {
    let mut fields = vec![("X-Api-Key", KEY)];
    if !body.is_empty() {
        fields.push(("Content-Type", "application/json"));
    }
    world.visitor(&world.own_name()).request(method, target, &fields, Some(body))
}

#[test]
fn the_tunnel_is_tried_by_whoever_has_the_key() {
    let world = World::start();
    let agent = world.agent();
    agent.wait_connected();
    assert_eq!(keyed(&world, "POST", "/test/tunnel/echo", b"").status(), 400, "no mapping yet");

    let upstream = Upstream::start();
    upstream.on("/api/v1/test/echo", |exchange| {
        let body = exchange.body()?;
        exchange.reply(200, &[("X-Kind", "echo"), ("X-Kind", "second")], &body)
    });
    upstream.on("/big", |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        for _ in 0..100 {
            exchange.chunk(&[b'x'; 4000])?;
        }
        exchange.send("0\r\n\r\n")?;
        Ok(e2e::upstream::Then::Keep)
    });
    let id = agent.map("app.test", upstream.port());

    let own = world.own_name();
    for target in ["/test/tunnel", "/test/tunnel/echo", &format!("/test/tunnel/forward/{id}")] {
        let method = if target == "/test/tunnel" { "GET" } else { "POST" };
        assert_eq!(world.visitor(&own).request(method, target, &[], None).status(), 401, "{target}");
        let wrong = world.visitor(&own).request(method, target, &[("X-Api-Key", "wrong")], None);
        assert_eq!(wrong.status(), 401, "{target}");
        assert_eq!(world.visitor(&own).request("DELETE", target, &[("X-Api-Key", KEY)], None).status(), 405);
        // On a host that is published, the path belongs to the app.
        let theirs = world.visitor("app.test").request(method, target, &[("X-Api-Key", KEY)], None);
        assert_eq!(theirs.status(), 404, "{target}");
        assert!(theirs.get("X-Content-Type-Options").is_none(), "the upstream's own 404: {theirs:?}");
    }

    let tunnel = keyed(&world, "GET", "/test/tunnel", b"").json();
    assert_eq!((&tunnel["connected"], &tunnel["mappingCount"]), (&json!(true), &json!(1)), "{tunnel}");
    assert_eq!(tunnel["mappings"][0]["externalDomain"], "app.test");
    assert_eq!(tunnel["connectionId"].as_str().map(str::len), Some(8));

    let echo = keyed(&world, "POST", "/test/tunnel/echo", br#"{"data":7}"#);
    assert_eq!(echo.status(), 200, "{echo:?}");
    let echo = echo.json();
    assert_eq!((&echo["success"], &echo["statusCode"]), (&json!(true), &json!(200)), "{echo}");
    assert_eq!(echo["body"], r#"{"data":7}"#);
    assert_eq!(echo["headers"]["X-Kind"], json!(["echo", "second"]));
    let time = echo["roundTripMs"].as_f64().expect("a number");
    assert!(time > 0.0 && time < 60_000.0, "a duration, not a date: {time}");
    assert_eq!(keyed(&world, "POST", "/test/tunnel/echo", b"no json").status(), 400);

    let target = format!("/test/tunnel/forward/{id}?path=/big");
    let answer = keyed(&world, "POST", &target, b"").json();
    assert_eq!((&answer["statusCode"], &answer["bodyLength"]), (&json!(200), &json!(400_000)), "{answer}");
    assert_eq!(answer["body"].as_str().map(str::len), Some(400_000), "also streamed answers");
    let other = "/test/tunnel/forward/0f8fad5b-d9cb-469f-a165-70867728950e";
    assert_eq!(keyed(&world, "POST", other, b"").status(), 404);
    assert_eq!(keyed(&world, "POST", "/test/tunnel/forward/x", b"").status(), 400);

    // One connection takes several of them, and what is pipelined behind.
    let mut visitor = world.visitor(&own);
    for _ in 0..3 {
        let fields = [("X-Api-Key", KEY), ("Content-Length", "2")];
        visitor.ask("POST", "/test/tunnel/echo", &fields);
        visitor.send("{}");
        visitor.ask("GET", "/health", &[]);
        assert_eq!(visitor.response("POST").json()["body"], "{}");
        assert_eq!(visitor.response("GET").json()["status"], "healthy");
    }
    visitor.ask("POST", "/test/tunnel/echo", &[("X-Api-Key", KEY), ("Content-Length", "300000")]);
    visitor.send(vec![b'x'; 300_000]);
    assert_eq!(visitor.response("POST").status(), 413);
}

#[test]
fn without_an_agent_there_is_no_tunnel_to_try() {
    let gateway = Gateway::start(Settings::gateway());
    let ask = |method: &str, target: &str| {
        gateway.visitor("127.0.0.1").request(method, target, &[("X-Api-Key", KEY)], None)
    };
    let answer = ask("GET", "/test/tunnel");
    assert_eq!((answer.status(), &answer.json()["connected"]), (503, &json!(false)));
    assert_eq!(ask("POST", "/test/tunnel/echo").status(), 503);
}

#[test]
fn other_pages_may_use_the_gateways_endpoints_as_far_as_their_origin_is_allowed() {
    let world = World::plan().gateway("Gateway__AllowedOrigins", "https://status.example").start();
    world.agent().wait_connected();
    let _upstream = world.publish("app.test");
    let own = world.own_name();
    let from = |host: &str, method: &str, target: &str, origin: &str| {
        let fields = [("Origin", origin), ("Access-Control-Request-Method", "POST")];
        world.visitor(host).request(method, target, &fields, None)
    };
    let allowed = "Access-Control-Allow-Origin";
    for target in ["/health", "/test/tunnel", "/test/tunnel/echo"] {
        let answer = from(&own, "OPTIONS", target, "https://status.example");
        assert_eq!((answer.status(), answer.get(allowed).as_deref()), (204, Some("https://status.example")));
        assert!(answer.get("Access-Control-Allow-Headers").expect("headers").contains("X-Api-Key"));
        assert_eq!(from(&own, "OPTIONS", target, "https://evil.example").get(allowed), None);
    }
    assert_eq!(from(&own, "GET", "/health", "https://status.example").get("Vary").as_deref(), Some("Origin"));
    assert_eq!(
        from("app.test", "GET", "/hello", "https://status.example").get(allowed),
        None,
        "apps have their own"
    );
}

#[test]
fn the_agent_echoes_for_the_operator_and_for_the_key() {
    let world = World::start();
    let agent = world.agent();
    agent.wait_connected();
    let path = "/api/v1/test/echo?a=b";
    assert_eq!(agent.call_with("GET", path, &[("Connection", "close")], None).status(), 401);
    let wrong = agent.call_with("GET", path, &[("Connection", "close"), ("X-Api-Key", "wrong")], None);
    assert_eq!(wrong.status(), 401);
    let body = json!({ "data": { "n": 1 } });
    let fields = [("Connection", "close"), ("X-Api-Key", KEY), ("X-Mine", "yes")];
    let keyed = agent.call_with("POST", path, &fields, Some(&body));
    assert_eq!(keyed.status(), 200, "{keyed:?}");
    let echo = keyed.json();
    assert!(echo["message"].as_str().expect("a text").contains("Octoporty Agent"), "{echo}");
    assert_eq!((&echo["request"]["method"], &echo["request"]["path"]), (&json!("POST"), &json!(path)));
    assert_eq!(echo["request"]["body"], r#"{"n":1}"#);
    assert_eq!(echo["request"]["headers"]["X-Mine"], json!(["yes"]));
    assert!(!keyed.text().contains(KEY), "no secret comes back: {echo}");
    assert_eq!(echo["agent"]["connectionStatus"], "Connected");
    assert_eq!(agent.call("GET", path, None).json()["request"]["body"], Value::Null);
}

#[test]
fn a_request_is_followed_from_its_public_address_to_the_service() {
    let world = World::start();
    let agent = world.agent();
    agent.wait_connected();
    let upstream = Upstream::start();
    upstream.on("/page", |exchange| {
        exchange.reply(200, &[("Content-Type", "text/plain"), ("X-Of", "the service")], b"hello, inspector")
    });
    upstream.on("/away", |exchange| exchange.reply(302, &[("Location", "/page")], b""));
    upstream.on("/image", |exchange| exchange.reply(200, &[("Content-Type", "image/png")], &[0xff; 5000]));
    // The one name that leads to this machine without a name server, and that is not the Gateway's own.
    let id = agent.map("localhost", upstream.port());
    let port = world.gateway().address().port();
    let diagnose = |url: &str, most: u64| {
        let body = json!({ "url": url, "maxBodyBytes": most });
        let answer = agent.call("POST", "/api/v1/test/diagnose", Some(&body));
        assert_eq!(answer.status(), 200, "{answer:?}");
        answer.json()
    };
    let seen = diagnose(&format!("http://localhost:{port}/page?q=1"), 131_072);
    assert_eq!((&seen["success"], &seen["error"]), (&json!(true), &Value::Null), "{seen:#}");
    assert_eq!(seen["mapping"]["id"], json!(id));
    for side in ["gateway", "agent"] {
        let probe = &seen[side];
        assert_eq!(
            (&probe["success"], &probe["statusCode"]),
            (&json!(true), &json!(200)),
            "{side}: {seen:#}"
        );
        assert_eq!(probe["bodyText"], "hello, inspector");
        assert_eq!((&probe["bodySize"], &probe["bodyTruncated"]), (&json!(16), &json!(false)));
        assert_eq!(probe["headers"]["X-Of"], json!(["the service"]));
    }
    let names: Vec<_> = seen["hops"].as_array().expect("hops").iter().map(|hop| &hop["name"]).collect();
    let way = ["name", "connection", "gateway", "tunnel", "mapping", "service, asked directly"];
    assert_eq!(names, way, "{seen:#}");
    assert!(seen["hops"].as_array().expect("hops").iter().all(|hop| hop["ok"] == true), "{seen:#}");
    let request = seen["requestId"].as_str().expect("an id");
    assert!(request.starts_with("diag-") && request.len() == 37, "{request}");
    let lines = seen["gatewayLogs"].as_array().expect("lines");
    assert!(
        lines.iter().any(|line| line["message"].as_str().is_some_and(|m| m.contains(request))),
        "{seen:#}"
    );
    let lines = seen["agentLogs"].as_array().expect("lines");
    assert!(
        lines.iter().any(|line| line["message"].as_str().is_some_and(|m| m.contains("/page?q=1"))),
        "{seen:#}"
    );

    let away = diagnose(&format!("http://localhost:{port}/away"), 131_072);
    assert_eq!(away["gateway"]["statusCode"], 302, "shown, not followed: {away:#}");
    let image = diagnose(&format!("http://localhost:{port}/image"), 1024);
    assert_eq!(
        (&image["gateway"]["bodySize"], &image["gateway"]["bodyTruncated"]),
        (&json!(1024), &json!(true))
    );
    assert_eq!(image["gateway"]["bodyText"], Value::Null);
    assert!(image["gateway"]["bodyBase64"].as_str().expect("base64").starts_with("////"), "{image:#}");

    // What is broken is named.
    drop(upstream);
    let broken = diagnose(&format!("http://localhost:{port}/page"), 131_072);
    assert_eq!(
        (&broken["success"], &broken["gateway"]["statusCode"]),
        (&json!(false), &json!(502)),
        "{broken:#}"
    );
    assert!(
        broken["error"].as_str().expect("a text").starts_with("service, through the tunnel"),
        "{broken:#}"
    );
    assert_eq!(broken["agent"]["success"], false);

    // No way into the world.
    for url in [
        "http://localhost:1/page",
        "http://example.com/",
        "http://127.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "nonsense",
        "",
    ] {
        let refused = diagnose(url, 131_072);
        assert_eq!((&refused["success"], &refused["requestId"]), (&json!(false), &json!("invalid")), "{url}");
        assert_eq!((&refused["gateway"], &refused["gatewayLogs"]), (&Value::Null, &json!([])), "{url}");
        assert!(refused["error"].is_string(), "{url}: {refused}");
    }
}
