//! The admin API over real sockets: what the listener owes to honest peers and to others.

use std::fs;
use std::io::{self, Read, Write};
use std::sync::Arc;

use serde_json::json;

use agent::admin::{self, AdminConfig, App};
use agent::events::Live;
use agent::store::Store;
use shared::secret::Secret;

use crate::world::{FakeTunnel, HASH, METRICS_TOKEN, World, history, one_answer, status};

#[test]
fn the_operator_logs_in_and_keeps_mappings() {
    let world = World::new();
    let token = world.log_in();
    let token = Some(token.as_str());
    let body = json!({ "externalDomain": "app.example", "internalHost": "192.168.1.20", "internalPort": 80 });
    let (status, made) = world.ask("POST", "/api/v1/mappings", token, Some(&body));
    assert_eq!((status, &made["routeState"]), (201, &json!("served")));
    let path = format!("/api/v1/mappings/{}", made["id"].as_str().expect("an id"));
    let (status, changed) = world.ask("PATCH", &path, token, Some(&json!({ "internalPort": 81 })));
    assert_eq!((status, &changed["internalPort"]), (200, &json!(81)));
    assert_eq!(world.ask("GET", "/api/v1/mappings", token, None).1.as_array().map(Vec::len), Some(1));
    assert_eq!(world.ask("GET", "/api/v1/status", token, None).1["connectionStatus"], "Connected");
    assert_eq!(world.ask("DELETE", &path, token, None).0, 204);
    assert_eq!(world.ask("GET", &path, token, None).0, 404);
    assert_eq!(world.ask("GET", "/health", None, None), (200, json!({ "status": "healthy" })));
    world.stop();
}

#[test]
fn no_mapping_leads_to_the_port_that_was_given_at_start() {
    let world = World::new();
    let token = world.log_in();
    let body = json!({
        "externalDomain": "app.example", "internalHost": "localhost", "internalPort": world.address.port(),
    });
    let (status, refused) = world.ask("POST", "/api/v1/mappings", Some(&token), Some(&body));
    assert_eq!(status, 400);
    assert!(refused["errors"]["internalHost"][0].as_str().expect("a text").contains("own admin page"));
    world.stop();
}

#[test]
fn the_page_and_its_files_are_served() {
    let world = World::new();
    let page = world.exchange("GET / HTTP/1.1\r\nHost: nas\r\nConnection: close\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(page.contains("\r\nContent-Security-Policy: default-src 'none';"), "{page}");
    assert!(page.contains("<title>Octoporty Agent</title>"), "{page}");
    let head = world.exchange("HEAD /js/main.js HTTP/1.1\r\nHost: nas\r\nConnection: close\r\n\r\n");
    assert!(head.contains("Content-Type: text/javascript"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    world.stop();
}

#[test]
fn a_connection_serves_request_after_request_also_pipelined() {
    let world = World::new();
    let mut socket = world.connect();
    for _ in 0..3 {
        socket.write_all(b"GET /health HTTP/1.1\r\nHost: nas\r\n\r\n").expect("sent");
        let (head, body) = one_answer(&mut socket);
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(body, "{\"status\":\"healthy\"}");
    }
    let many = "GET /health HTTP/1.1\r\nHost: nas\r\n\r\n".repeat(20);
    socket.write_all(many.as_bytes()).expect("sent");
    for _ in 0..20 {
        assert!(one_answer(&mut socket).0.starts_with("HTTP/1.1 200"));
    }
    let old = world.exchange("GET /health HTTP/1.0\r\n\r\n");
    assert!(old.contains("Connection: close\r\n"), "{old}");
    world.stop();
}

#[test]
fn a_body_may_come_in_chunks_in_pieces_or_after_a_100() {
    let world = World::new();
    let body = "{\"password\":\"wrong\"}";
    let fields = "Host: nas\r\nContent-Type: application/json\r\nConnection: close\r\n";
    let chunked = format!(
        "POST /api/v1/auth/login HTTP/1.1\r\n{fields}Transfer-Encoding: chunked\r\n\r\n\
         5\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n",
        &body[..5],
        body.len() - 5,
        &body[5..]
    );
    assert_eq!(status(&world.exchange(&chunked)), 401);

    let mut socket = world.connect();
    socket.set_nodelay(true).expect("no delay");
    let whole =
        format!("POST /api/v1/auth/login HTTP/1.1\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len());
    for byte in whole.as_bytes() {
        socket.write_all(&[*byte]).expect("sent");
    }
    assert!(one_answer(&mut socket).0.starts_with("HTTP/1.1 401"));

    let mut socket = world.connect();
    let head = format!(
        "POST /api/v1/auth/login HTTP/1.1\r\n{fields}Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).expect("sent");
    let mut interim = [0; 25];
    socket.read_exact(&mut interim).expect("an interim answer");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    socket.write_all(body.as_bytes()).expect("sent");
    assert!(one_answer(&mut socket).0.starts_with("HTTP/1.1 401"));
    world.stop();
}

#[test]
fn what_is_ambiguous_is_refused_and_nothing_after_it_is_read() {
    let world = World::new();
    let smuggled = "GET /health HTTP/1.1\r\nHost: nas\r\n\r\n";
    let rows = [
        ("Host: nas\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
        ("Host: nas\r\nContent-Length: 5\r\nContent-Length: 6\r\n", 400),
        ("Host: nas\r\nContent-Length: +5\r\n", 400),
        ("Host: nas\r\nContent-Length: abc\r\n", 400),
        ("Host: nas\r\nTransfer-Encoding: xchunked\r\n", 400),
        ("Host: nas\r\nTransfer-Encoding: identity\r\n", 400),
        ("Host: nas\r\nTransfer-Encoding : chunked\r\n", 400),
        ("Host: nas\r\nHost: other\r\n", 400),
        ("", 400),
    ];
    for (fields, expected) in rows {
        let answer = world.exchange(format!("POST /health HTTP/1.1\r\n{fields}\r\n{smuggled}{smuggled}"));
        assert_eq!(status(&answer), expected, "{fields:?}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{fields:?}: {answer}");
        assert!(answer.contains("\r\nX-Content-Type-Options: nosniff\r\n"), "{answer}");
    }
    let answer = world.exchange("GET /health HTTP/1.1\nHost: nas\n\n");
    assert_eq!(status(&answer), 400);
    world.stop();
}

#[test]
fn what_is_too_large_is_refused_before_it_is_kept() {
    let world = World::new();
    // Declared: refused at once, whatever the number.
    for length in [262_145, u64::MAX] {
        let answer = world.exchange(format!(
            "POST /api/v1/auth/login HTTP/1.1\r\nHost: nas\r\nContent-Length: {length}\r\n\r\n"
        ));
        assert_eq!(status(&answer), 413);
    }
    // Not declared: refused as soon as it shows.
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let head = "POST /api/v1/auth/login HTTP/1.1\r\nHost: nas\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(status(&world.exchange(format!("{head}{}", chunk.repeat(5)))), 413);
    // A head without an end.
    let answer = world.exchange(format!("GET / HTTP/1.1\r\nHost: nas\r\nX: {}", "x".repeat(100_000)));
    assert_eq!(status(&answer), 431);
    let answer = world.exchange("y".repeat(100_000));
    assert!((400..500).contains(&status(&answer)), "{answer}");
    world.stop();
}

#[test]
fn five_hundred_idle_and_slow_connections_keep_nobody_out() {
    let world = World::new();
    let mut others = Vec::new();
    for number in 0..500 {
        let mut socket = world.connect();
        if number % 2 == 0 {
            // Those that were closed already to make room may say so.
            let _ = socket.write_all(b"GET /health HTTP/1.1\r\nHost: nas\r\nX: ");
        }
        others.push(socket);
    }
    let token = world.log_in();
    assert_eq!(world.ask("GET", "/api/v1/status", Some(&token), None).0, 200);
    let threads = fs::read_dir("/proc/self/task").expect("threads").flatten();
    let ours = threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok())
        .filter(|name| name.trim_end().ends_with("-admin"))
        .count();
    // Other tests of this process have a few of their own.
    assert!(ours <= 64 + 32, "{ours} threads");
    drop(others);
    world.stop();
}

#[test]
fn stopping_ends_idle_connections_at_once() {
    let world = World::new();
    let mut idle = world.connect();
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: nas\r\n\r\n").expect("sent");
    one_answer(&mut idle);
    let mut half = world.connect();
    half.write_all(b"GET /hea").expect("sent");
    world.stop();
    for mut socket in [idle, half] {
        let mut rest = Vec::new();
        match socket.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::ConnectionReset),
        }
    }
}

#[test]
fn an_address_in_use_is_said() {
    let world = World::new();
    let store = Store::open(&world.directory.join("second.db")).expect("a store");
    let config = AdminConfig {
        bind: world.address,
        jwt_secret: Secret::new("x"),
        password_hash: Secret::new(HASH),
        version: "1.0.0".into(),
        name: "home".into(),
        heartbeat_seconds: 30,
        metrics_token: Some(Secret::new(METRICS_TOKEN)),
    };
    let app =
        App::new(config, store.clone(), history(&store), Arc::new(FakeTunnel::new(store)), Live::default())
            .expect("an app");
    let Err(fault) = admin::start(app) else { panic!("two listeners on one port") };
    assert!(fault.to_string().contains(&format!("cannot listen on {}", world.address)), "{fault}");
    world.stop();
}
