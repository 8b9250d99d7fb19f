//! Questions and news between Agent and Gateway: log, updates, and what an older one does not know.

use std::fs;

use e2e::journal::{PATIENCE, until};
use e2e::peer::{FakeGateway, Peer, kind};
use e2e::visitor::Visitor;
use e2e::world::{Agent, Gateway, Settings, World};
use serde_json::{Value, json};

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
fn who_listens_is_told_how_a_new_mapping_stands_as_who_asks_is() {
    let world = World::start();
    world.agent().wait_connected();
    let mut events = Visitor::connect(world.agent().api(), &world.agent().api().to_string());
    events.ask("GET", "/api/v1/events", &[("Authorization", &format!("Bearer {}", world.agent().token()))]);
    assert_eq!(events.head("GET").status(), 200);
    let _upstream = world.publish("app.test");
    let mut seen = String::new();
    let told = until("news of the mapping", PATIENCE, || {
        seen.push_str(&String::from_utf8_lossy(&events.piece().expect("a piece").expect("no end")));
        let event = seen.split_once("event: MappingStatusUpdate\ndata: ")?.1.split_once('\n')?.0;
        Some(serde_json::from_str::<Value>(event).expect("JSON"))
    });
    let mapping = &ask(world.agent(), "/api/v1/mappings")[0];
    assert_eq!(told["mappingId"], mapping["id"]);
    // This Gateway leaves Caddy alone, which says nothing against the mapping.
    assert_eq!((&told["routeState"], &mapping["routeState"]), (&json!("served"), &json!("served")));
    events.leave();
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
    let lines_of = |news: &Value, ids: &mut Vec<u64>| {
        assert_eq!(news["dropped"], 0, "{news}");
        let lines = news["lines"].as_array().expect("lines").clone();
        ids.extend(lines.iter().map(|line| line["id"].as_u64().expect("an id")));
        lines
    };
    let note = |peer: &mut Peer, ids: &mut Vec<u64>, wanted: &str| loop {
        let lines = lines_of(&peer.expect_control("log"), ids);
        if lines.iter().any(|line| line["message"].as_str().is_some_and(|m| m.contains(wanted))) {
            return;
        }
    };
    // Lines that nobody waits for may come first: what the Gateway says of itself.
    let next_open = |peer: &mut Peer, ids: &mut Vec<u64>| loop {
        let frame = peer.receive();
        if frame.kind == kind::OPEN {
            return frame.open();
        }
        if frame.kind == kind::CONTROL {
            let message = frame.json();
            if message["type"] == "log" {
                lines_of(&message, ids);
            }
        }
    };
    note(&mut peer, &mut ids, "1 mappings, serving");
    assert_eq!(ids[0], 1, "from the first line on");
    let mut visitor = gateway.visitor("app.test");
    for number in 0..3 {
        visitor.ask("GET", &format!("/live-{number}"), &[]);
        let open = next_open(&mut peer, &mut ids);
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
        let message = peer.expect(kind::CONTROL).json();
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
    // The answer is here before the tunnel's own thread knows of the loss.
    agent.wait_status("Reconnecting");
    let unconnected = ask(&agent, "/api/v1/gateway/caddy-config");
    assert!(unconnected["error"].as_str().expect("a text").contains("Not connected"), "{unconnected}");
}
