//! What the Agent remembers of requests and connections, and backups of it, made while visitors come.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;

use e2e::journal::{PATIENCE, until};
use e2e::world::{Agent, World};
use serde_json::{Value, json};

fn items(agent: &Agent, path: &str) -> Vec<Value> {
    let answer = agent.call("GET", path, None);
    assert_eq!(answer.status(), 200, "{path}: {answer:?}");
    answer.json()["items"].as_array().expect("items").clone()
}

#[test]
fn what_visitors_ask_is_found_again_also_after_a_restart() {
    let mut world = World::plan().agent("Agent__LogQueryStrings", "false").start();
    let upstream = world.publish("shop.test");
    upstream.on("/buy", |x| {
        let body = x.body()?;
        x.reply(201, &[], &body)
    });
    let fields =
        [("User-Agent", "a browser"), ("Authorization", "Bearer very-secret"), ("Cookie", "c=very-secret")];
    let answer =
        world.visitor("shop.test").request("POST", "/buy?card=very-secret", &fields, Some(b"seven b"));
    assert_eq!((answer.status(), answer.body.as_slice()), (201, b"seven b".as_slice()));
    let id = world.agent().map("gone.test", 1);
    assert_eq!(world.get("gone.test", "/nobody").status(), 502);
    let (_, mut socket) = world.visitor("shop.test").websocket("/ws", &[]);
    socket.send("hello".into()).expect("sent");
    assert_eq!(socket.read().expect("echoed"), "hello".into());
    drop(socket);

    // An upgraded connection is noted when it ends.
    until("the upgraded connection in the history", PATIENCE, || {
        items(world.agent(), "/api/v1/requests?status=101").first().cloned()
    });
    let all = items(world.agent(), "/api/v1/requests");
    assert_eq!(all.len(), 3, "{all:?}");
    assert!(!format!("{all:?}").contains("very-secret"), "{all:?}");
    let bought = &items(world.agent(), "/api/v1/requests?method=POST&q=BROWSER")[0];
    for (field, expected) in [
        ("path", json!("/buy")),
        ("queryString", json!(null)),
        ("statusCode", json!(201)),
        ("requestSize", json!(7)),
        ("responseSize", json!(7)),
        ("externalDomain", json!("shop.test")),
        ("clientIp", json!("127.0.0.1")),
        ("userAgent", json!("a browser")),
        ("errorMessage", json!(null)),
    ] {
        assert_eq!(bought[field], expected, "{field}: {bought}");
    }
    let failed = &items(world.agent(), "/api/v1/requests?status=error")[0];
    let said = failed["errorMessage"].as_str().expect("a reason");
    assert!(said.starts_with("UpstreamRefused at the upstream: 127.0.0.1:1"), "{said}");

    // Deleting the mapping does not delete what happened.
    world.agent().unmap(&id);
    world.agents[0].daemon.kill();
    world.agents[0].start_again();
    let kept = items(world.agent(), &format!("/api/v1/requests?mapping={id}"));
    assert_eq!(kept.len(), 1);
    assert_eq!((&kept[0]["externalDomain"], &kept[0]["path"]), (&json!("gone.test"), &json!("/nobody")));
    let traffic = world.agent().call("GET", "/api/v1/traffic?range=day", None).json();
    assert_eq!((&traffic["totals"]["requests"], &traffic["totals"]["failed"]), (&json!(3), &json!(1)));
    let mapping = world.agent().call("GET", "/api/v1/mappings", None).json();
    assert!(mapping[0]["lastRequestAt"].is_string(), "{mapping}");

    world.agent().wait_connected();
    let connections = items(world.agent(), "/api/v1/connections");
    assert_eq!(connections.len(), 2, "{connections:?}");
    assert_eq!(connections[0]["disconnectedAt"], Value::Null);
    assert!(connections[1]["disconnectReason"].as_str().is_some_and(|why| why.contains("killed")));
    assert!(connections[0]["gatewayUrl"].as_str().is_some_and(|url| url.starts_with("ws://127.0.0.1:")));
    assert!(connections.iter().all(|connection| connection["bytesReceived"].as_u64() > Some(0)));
}

#[test]
fn what_was_not_written_yet_is_written_when_the_agent_stops() {
    let mut world = World::start();
    let upstream = world.publish("shop.test");
    upstream.on("/x", |x| x.reply(200, &[], b"x"));
    for _ in 0..20 {
        assert_eq!(world.get("shop.test", "/x").status(), 200);
    }
    world.agents[0].daemon.signal("TERM");
    assert!(world.agents[0].daemon.wait_exit(PATIENCE).success());
    world.agents[0].start_again();
    assert_eq!(items(world.agent(), "/api/v1/requests").len(), 20);
    let ended = &items(world.agent(), "/api/v1/connections?limit=1000").pop().expect("the first connection");
    assert_eq!(ended["disconnectReason"], "the Agent was stopped");
}

#[test]
fn a_backup_over_the_api_is_whole_while_visitors_come() {
    let world = World::start();
    let upstream = world.publish("shop.test");
    upstream.on("/x", |x| x.reply(200, &[], b"x"));
    let stop = AtomicBool::new(false);
    let served = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut visitor = world.visitor("shop.test");
                while !stop.load(Relaxed) {
                    assert_eq!(visitor.get("/x").status(), 200);
                    served.fetch_add(1, Relaxed);
                }
            });
        }
        for n in 0..5 {
            let wanted = served.load(Relaxed) + 50;
            until("visitors", PATIENCE, || (served.load(Relaxed) >= wanted).then_some(()));
            // Has what there is written first.
            let listed = items(world.agent(), "/api/v1/requests?limit=1").len();
            assert_eq!(listed, 1);
            let answer = world.agent().call("GET", "/api/v1/settings/backup", None);
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.get("Content-Type").as_deref(), Some("application/vnd.sqlite3"));
            assert_eq!(answer.get("Content-Length"), Some(answer.body.len().to_string()));
            let name = answer.get("Content-Disposition").expect("a name");
            assert!(
                name.starts_with("attachment; filename=\"octoporty-2") && name.ends_with(".db\""),
                "{name}"
            );
            assert!(answer.body.starts_with(b"SQLite format 3\0"));
            // Whether it is sound is asked of an Agent that opens it.
            let path = world.folder().path().join(format!("backup-{n}.db"));
            std::fs::write(&path, &answer.body).expect("a file");
            let restored = world.agent().beside(&path);
            let rows = items(&restored, "/api/v1/requests?limit=1000").len();
            assert!(rows >= 1);
            assert_eq!(
                restored.call("GET", "/api/v1/mappings", None).json().as_array().map(Vec::len),
                Some(1)
            );
        }
        stop.store(true, Relaxed);
    });
    let left: Vec<_> = std::fs::read_dir(world.folder().path())
        .expect("the folder")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("snapshot"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
