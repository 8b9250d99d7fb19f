//! Questions and news between Agent and Gateway: log, landing page, updates, the tunnel's own test endpoints.

use std::fs;

use e2e::journal::{PATIENCE, until};
use e2e::peer::{FakeGateway, Peer};
use e2e::upstream::Upstream;
use e2e::visitor::{Response, Visitor};
use e2e::world::{Agent, Gateway, KEY, Settings, World};
use serde_json::{Value, json};

/// The Gateway's own name, as the world's Agents dial it.
fn own_name(world: &World) -> String {
    world.gateway().address().ip().to_string()
}

fn keyed(world: &World, method: &str, target: &str, body: &[u8]) -> Response {
    let mut fields = vec![("X-Api-Key", KEY)];
    if !body.is_empty() {
        fields.push(("Content-Type", "application/json"));
    }
    world.visitor(&own_name(world)).request(method, target, &fields, Some(body))
}

fn ask(agent: &Agent, path: &str) -> Value {
    let answer = agent.call("GET", path, None);
    assert_eq!(answer.status(), 200, "{answer:?}");
    answer.json()
}

#[test]
fn the_gateways_log_is_read_through_the_tunnel() {
    let world = World::start();
    world.agent().wait_connected();
    let _upstream = world.publish("app.test");
    assert_eq!(world.get("app.test", "/hello?log-me").status(), 200);
    let page = until("the request in the log", PATIENCE, || {
        let page = ask(world.agent(), "/api/v1/gateway/logs?count=200");
        let lines = page["logs"].as_array().expect("lines").clone();
        lines
            .iter()
            .any(|line| line["message"].as_str().is_some_and(|m| m.contains("/hello?log-me")))
            .then_some(page)
    });
    assert_eq!((&page["success"], &page["error"]), (&json!(true), &Value::Null));
    let lines = page["logs"].as_array().expect("lines");
    let ids: Vec<_> = lines.iter().map(|line| line["id"].as_u64().expect("an id")).collect();
    assert!(ids.len() > 3 && ids.windows(2).all(|pair| pair[0] > pair[1]), "{ids:?}");
    assert!(lines[0]["timestamp"].as_str().expect("a time").ends_with('Z'));

    // Page by page, nothing twice and nothing left out.
    let mut before = 0;
    let mut walked: Vec<u64> = Vec::new();
    loop {
        let page = ask(world.agent(), &format!("/api/v1/gateway/logs?count=3&beforeId={before}"));
        let ids =
            page["logs"].as_array().expect("lines").iter().map(|line| line["id"].as_u64().expect("an id"));
        walked.extend(ids);
        before = *walked.last().expect("a line");
        if page["hasMore"] == false {
            break;
        }
    }
    assert_eq!(*walked.last().expect("a line"), 1);
    assert!(walked.windows(2).all(|pair| pair[0] == pair[1] + 1), "{walked:?}");
}

#[test]
fn lines_of_the_gateways_log_come_live_while_somebody_listens() {
    let mut world = World::start();
    world.agent().wait_connected();
    let _upstream = world.publish("app.test");
    let mut events = Visitor::connect(world.agent().api(), &world.agent().api().to_string());
    events.ask("GET", "/api/v1/events", &[("Authorization", &format!("Bearer {}", world.agent().token()))]);
    assert_eq!(events.head("GET").status(), 200);
    let mut seen = String::new();
    let mut asked = 0;
    until("a line of the Gateway's log", PATIENCE, || {
        // Until the Gateway knows that somebody listens, lines pass unheard.
        assert_eq!(world.get("app.test", &format!("/hello?live-{asked}")).status(), 200);
        asked += 1;
        let piece = events.piece().expect("a piece").expect("no end");
        seen.push_str(&String::from_utf8_lossy(&piece));
        let events = seen.split("\n\n").filter(|event| event.contains("event: GatewayLog"));
        events.into_iter().any(|event| event.contains("/hello?live-")).then_some(())
    });
    events.leave();
    // What is logged about all this does not lead to more of it.
    world.gateways[0].daemon.wait_line("/hello?live-");
    let count = |world: &World| ask(world.agent(), "/api/v1/gateway/logs?count=1")["logs"][0]["id"].as_u64();
    let first = count(&world);
    for _ in 0..20 {
        assert_eq!(count(&world), first, "reading the log writes nothing into it");
    }
}

#[test]
fn the_landing_page_is_the_operators() {
    let mut world = World::start();
    world.agent().wait_connected();
    let own = own_name(&world);
    let default = world.get(&own, "/");
    assert_eq!(default.status(), 200);
    assert!(default.text().contains("Octoporty Gateway"));
    let policy = default.get("Content-Security-Policy").expect("a policy");
    assert!(policy.starts_with("sandbox ") && !policy.contains("allow-scripts"), "{policy}");

    let settings = ask(world.agent(), "/api/v1/settings/landing-page");
    assert_eq!((&settings["isDefault"], &settings["synced"]), (&json!(true), &json!(true)));
    assert_eq!(settings["html"].as_str(), Some(default.text().as_str()));

    let html = "<h1>Grüße</h1><script>alert(1)</script>";
    let put = |world: &World, html: &str| {
        world.agent().call("PUT", "/api/v1/settings/landing-page", Some(&json!({ "html": html })))
    };
    let saved = put(&world, html);
    assert_eq!(saved.status(), 200, "{saved:?}");
    let saved = saved.json();
    assert_eq!((&saved["isDefault"], &saved["synced"]), (&json!(false), &json!(true)), "{saved}");
    assert_eq!(saved["hash"], saved["gatewayHash"]);
    assert_eq!(saved["hash"].as_str().map(str::len), Some(32));
    let shown = world.get(&own, "/");
    assert_eq!((shown.status(), shown.text().as_str()), (200, html));
    assert!(shown.get("Content-Security-Policy").is_some_and(|policy| policy.starts_with("sandbox ")));
    assert_eq!(shown.get("Content-Type").as_deref(), Some("text/html; charset=utf-8"));

    // A Gateway that knows nothing gets it again; so does one that an Agent comes back to.
    world.gateways[0].restart();
    until("the page after a restart of the Gateway", PATIENCE, || {
        (world.get(&own, "/").text() == html).then_some(())
    });
    world.agents[0].restart();
    world.agent().wait_connected();
    assert_eq!(world.get(&own, "/").text(), html);

    // What is too long is refused; what is just not too long comes through.
    let answer = put(&world, &"x".repeat(1_000_001));
    assert_eq!(answer.status(), 400);
    assert!(answer.json()["errors"]["html"][0].as_str().expect("a text").contains("1000001"), "{answer:?}");
    assert_eq!(put(&world, "").status(), 400);
    let long = "\u{1}ü".repeat(500_000);
    let answer = put(&world, &long);
    assert_eq!((answer.status(), &answer.json()["synced"]), (200, &json!(true)));
    assert_eq!(world.get(&own, "/").text(), long);

    let reset = world.agent().call("DELETE", "/api/v1/settings/landing-page", None).json();
    assert_eq!((&reset["isDefault"], &reset["synced"]), (&json!(true), &json!(true)), "{reset}");
    assert_eq!(world.get(&own, "/").text(), default.text());

    // Elsewhere on this host people find the way, and programs learn that there is nothing.
    let astray = world.visitor(&own).request("GET", "/somewhere", &[("Accept", "text/html")], None);
    assert_eq!((astray.status(), astray.get("Location").as_deref()), (302, Some("/")));
    assert_eq!(world.get(&own, "/api/v1/status").status(), 404);
    assert_eq!(world.visitor(&own).request("POST", "/", &[], None).status(), 405);
    assert_eq!(world.get(&own, "/health").json()["status"], "healthy");
    assert_eq!(world.get("unknown.test", "/").status(), 404);
}

#[test]
fn of_two_agents_pages_the_one_saved_last_is_shown() {
    let world = World::plan().agents(2).start();
    let own = own_name(&world);
    for agent in &world.agents {
        agent.wait_connected();
    }
    for (agent, html) in [(0, "zero"), (1, "one"), (0, "zero again")] {
        let body = json!({ "html": html });
        let saved = world.agents[agent].call("PUT", "/api/v1/settings/landing-page", Some(&body));
        assert_eq!(saved.json()["synced"], true, "{saved:?}");
        assert_eq!(world.get(&own, "/").text(), html);
    }
    world.agents[0].call("DELETE", "/api/v1/settings/landing-page", None);
    assert_eq!(world.get(&own, "/").text(), "one");
}

#[test]
fn an_update_is_asked_for_and_its_outcome_comes_back() {
    let folder = e2e::world::Folder::new();
    let signal = folder.path().join("update-signal");
    let world = World::plan().gateway("Gateway__UpdateSignalPath", signal.display().to_string()).start();
    let agent = world.agent();
    agent.wait_connected();
    let state = |agent: &Agent| ask(agent, "/api/v1/gateway/update");
    until("the first state", PATIENCE, || (state(agent)["state"] == "none").then_some(()));

    let answer = agent.call("POST", "/api/v1/gateway/update", None).json();
    assert_eq!((&answer["success"], &answer["status"]), (&json!(false), &Value::Null), "{answer}");
    assert!(answer["message"].as_str().expect("a text").contains("No update"), "{answer}");
    assert!(!signal.exists());

    let forced = || agent.call("POST", "/api/v1/gateway/update", Some(&json!({ "force": true }))).json();
    let answer = forced();
    assert_eq!((&answer["success"], &answer["status"]), (&json!(true), &json!(0)), "{answer}");
    assert_eq!(answer["statusText"], "Queued");
    let written: Value = serde_json::from_slice(&fs::read(&signal).expect("a signal")).expect("JSON");
    assert_eq!(written["targetVersion"], answer["agentVersion"]);
    assert_eq!(written["requestedBy"], "agent-0");
    let answer = forced();
    assert_eq!((&answer["success"], &answer["status"]), (&json!(true), &json!(2)), "{answer}");
    until("queued", PATIENCE, || (state(agent)["state"] == "queued").then_some(()));
    assert_eq!(agent.status()["connectionStatus"], "Connected", "nothing is cut before its time");

    // What an updater does.
    fs::remove_file(&signal).expect("the signal");
    let outcome = |state: &str, message: &str| {
        let text = json!({
            "state": state, "targetVersion": "9.9.9", "fromVersion": "1.0.0", "message": message,
            "at": "2026-01-01T00:00:00Z",
        });
        let new = folder.write("update-signal.outcome.new", &text.to_string());
        fs::rename(new, folder.path().join("update-signal.outcome")).expect("renamed");
    };
    outcome("running", "fetching");
    until("running", PATIENCE, || (state(agent)["state"] == "running").then_some(()));
    outcome("rolled-back", "no health after 60 s");
    let seen = until("rolled back", PATIENCE, || {
        let state = state(agent);
        (state["state"] == "rolled-back").then_some(state)
    });
    assert_eq!((&seen["message"], &seen["targetVersion"]), (&json!("no health after 60 s"), &json!("9.9.9")));
    assert_eq!(seen["at"], "2026-01-01T00:00:00Z");
}

#[test]
fn a_gateway_that_takes_no_updates_says_so() {
    let world = World::plan().gateway("Gateway__AllowRemoteUpdate", "false").start();
    world.agent().wait_connected();
    let answer = world.agent().call("POST", "/api/v1/gateway/update", Some(&json!({ "force": true }))).json();
    assert_eq!((&answer["success"], &answer["status"]), (&json!(false), &json!(1)), "{answer}");
    assert!(answer["error"].as_str().expect("a text").contains("Gateway__AllowRemoteUpdate"), "{answer}");
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

    let own = own_name(&world);
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
    let own = own_name(&world);
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
fn an_older_gateway_does_not_disturb_an_agent() {
    let gateway = FakeGateway::new();
    let mut settings = Settings::agent();
    let folder = e2e::world::Folder::new();
    settings.set("Agent__GatewayUrl", gateway.url());
    let database = folder.path().join("agent.db");
    settings.set("ConnectionStrings__DefaultConnection", format!("Data Source={}", database.display()));
    let agent = Agent::start(settings);
    let (_, mut peer) = gateway.greet();
    agent.wait_connected();
    // One that knows nothing of what came later.
    let older = std::thread::spawn(move || {
        let mut seen = Vec::new();
        while let Ok(frame) = peer.try_receive() {
            if frame.kind != e2e::peer::kind::CONTROL {
                continue;
            }
            let what = frame.json()["type"].as_str().unwrap_or_default().to_owned();
            if !["draining", "bye", "config"].contains(&what.as_str()) {
                peer.control(&json!({ "type": "unsupported", "what": what }));
                seen.push(what);
            }
        }
        seen
    });
    let logs = ask(&agent, "/api/v1/gateway/logs");
    assert_eq!(logs["success"], false, "{logs}");
    assert!(logs["error"].as_str().expect("a text").contains("older"), "{logs}");
    let caddy = ask(&agent, "/api/v1/gateway/caddy");
    assert!(caddy["error"].as_str().expect("a text").contains("older"), "{caddy}");
    let update = agent.call("POST", "/api/v1/gateway/update", None).json();
    assert!(update["error"].as_str().expect("a text").contains("older"), "{update}");
    let body = json!({ "html": "<p>hi</p>" });
    let page = agent.call("PUT", "/api/v1/settings/landing-page", Some(&body)).json();
    assert_eq!(page["synced"], false, "{page}");
    assert!(page["message"].as_str().expect("a text").contains("older"), "{page}");
    assert_eq!(ask(&agent, "/api/v1/gateway/update")["state"], "none");
    assert_eq!(agent.status()["connectionStatus"], "Connected");
    drop(agent);
    let seen = older.join().expect("no panic");
    for what in ["get-logs", "get-caddy", "update", "landing-page"] {
        assert!(seen.iter().any(|seen| seen == what), "{what} in {seen:?}");
    }
}

#[test]
fn an_older_agent_is_not_disturbed_by_what_the_gateway_tells() {
    let gateway = Gateway::start(Settings::gateway());
    let mut peer = Peer::publishing(gateway.address(), "0f8fad5b-d9cb-469f-a165-70867728950e", &["app.test"]);
    for what in ["routes", "update-outcome"] {
        peer.expect_control(what);
        peer.control(&json!({ "type": "unsupported", "what": what }));
    }
    let mut visitor = gateway.visitor("app.test");
    visitor.ask("GET", "/", &[]);
    let open = peer.expect_open();
    peer.answer(open.stream, b"served");
    assert_eq!(visitor.response("GET").text(), "served");
}

#[test]
fn whoever_watches_the_log_gets_what_he_missed_and_what_comes() {
    let gateway = Gateway::start(Settings::gateway());
    let mut peer = Peer::publishing(gateway.address(), "0f8fad5b-d9cb-469f-a165-70867728950e", &["app.test"]);
    peer.control(&json!({ "type": "watch-logs", "on": true, "after": 0 }));
    let mut ids: Vec<u64> = Vec::new();
    let note = |peer: &mut Peer, ids: &mut Vec<u64>, wanted: &str| loop {
        let news = peer.expect_control("log");
        assert_eq!(news["dropped"], 0, "{news}");
        let lines = news["lines"].as_array().expect("lines").clone();
        ids.extend(lines.iter().map(|line| line["id"].as_u64().expect("an id")));
        if lines.iter().any(|line| line["message"].as_str().is_some_and(|m| m.contains(wanted))) {
            return;
        }
    };
    note(&mut peer, &mut ids, "1 mappings, serving");
    assert_eq!(ids[0], 1, "from the first line on");
    let mut visitor = gateway.visitor("app.test");
    for number in 0..3 {
        visitor.ask("GET", &format!("/live-{number}"), &[]);
        let open = peer.expect_open();
        peer.answer(open.stream, b"ok");
        assert_eq!(visitor.response("GET").status(), 200);
        note(&mut peer, &mut ids, &format!("/live-{number}"));
    }
    assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1), "none twice, none left out: {ids:?}");

    // No more of it: the next answer comes alone.
    peer.control(&json!({ "type": "watch-logs", "on": false }));
    peer.control(&json!({ "type": "get-logs", "request": 5, "count": 1 }));
    assert_eq!(peer.expect_control("logs")["request"], 5);
    visitor.ask("GET", "/unheard", &[]);
    let open = peer.expect_open();
    peer.answer(open.stream, b"ok");
    assert_eq!(visitor.response("GET").status(), 200);
    peer.control(&json!({ "type": "get-certificate", "request": 6, "host": "not-mine.test" }));
    loop {
        let message = peer.expect(e2e::peer::kind::CONTROL).json();
        assert_ne!(message["type"], "log", "{message}");
        if message["type"] == "failed" {
            assert_eq!(message["request"], 6);
            assert!(message["error"].as_str().expect("a text").contains("not-mine.test"), "{message}");
            break;
        }
    }
}

#[test]
fn a_lost_tunnel_fails_what_was_asked_at_once() {
    let gateway = FakeGateway::new();
    let mut settings = Settings::agent();
    let folder = e2e::world::Folder::new();
    settings.set("Agent__GatewayUrl", gateway.url());
    let database = folder.path().join("agent.db");
    settings.set("ConnectionStrings__DefaultConnection", format!("Data Source={}", database.display()));
    let agent = Agent::start(settings);
    let (_, mut peer) = gateway.greet();
    agent.wait_connected();
    let asked = std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask(&agent, "/api/v1/gateway/logs"));
        peer.expect_control("get-logs");
        peer.cut();
        asking.join().expect("no panic")
    });
    assert_eq!(asked["success"], false);
    assert!(asked["error"].as_str().expect("a text").contains("lost"), "{asked}");
    let unconnected = ask(&agent, "/api/v1/gateway/caddy-config");
    assert!(unconnected["error"].as_str().expect("a text").contains("Not connected"), "{unconnected}");
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
