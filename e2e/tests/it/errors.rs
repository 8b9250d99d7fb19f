//! What a visitor sees when something is down: which hop, what to do, and nothing that is nobody's business.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use e2e::journal::{PATIENCE, until};
use e2e::message::Broken;
use e2e::sample::beside;
use e2e::site::Site;
use e2e::upstream::Upstream;
use e2e::visitor::{Response, Visitor};
use e2e::world::World;
use serde_json::json;

/// Checks that an answer is an error of ours: its status, its hop, its form, and that nothing internal is in it.
fn is_ours(answer: &Response, status: u16, hop: &str, secrets: &[&str]) {
    assert_eq!(answer.status(), status, "{answer:?}");
    assert!(answer.get("content-type").is_some_and(|t| t.starts_with("application/json")), "{answer:?}");
    let json = answer.json();
    assert_eq!(json["hop"], hop, "{json}");
    for field in ["status", "message", "timestamp", "requestId"] {
        assert!(json[field].as_str().is_some_and(|text| !text.is_empty()), "{field} in {json}");
    }
    assert!(json["timestamp"].as_str().is_some_and(|t| t.ends_with('Z')), "{json}");
    leaks_nothing(answer, secrets);
}

fn leaks_nothing(answer: &Response, secrets: &[&str]) {
    let all = format!("{}{}", String::from_utf8_lossy(&answer.head.raw), answer.text());
    for secret in ["127.0.0.1", "os error", "panicked", "src/"].iter().chain(secrets) {
        assert!(!all.contains(secret), "{secret:?} is nobody's business: {all}");
    }
}

/// A port on which nobody listens.
fn closed_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port").local_addr().expect("bound").port()
}

#[test]
fn an_upstream_that_does_not_run_is_502_and_named_so() {
    let world = World::start();
    let port = closed_port();
    world.agent().map("down.test", port);
    let answer = world.get("down.test", "/");
    is_ours(&answer, 502, "upstream", &[&port.to_string()]);
    assert!(answer.json()["message"].as_str().is_some_and(|m| m.contains("not running")), "{answer:?}");
    // It comes up: nobody has to restart anything.
    let upstream = Upstream::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), None);
    e2e::sample::install(&upstream);
    assert_eq!(world.get("down.test", "/hello").text(), "hello\n");
}

#[test]
fn an_upstream_whose_name_is_unknown_is_502() {
    let site = Site::with(json!({ "internalHost": "no-such-host.invalid" }));
    is_ours(&site.get("/"), 502, "upstream", &["no-such-host"]);
}

#[test]
fn an_upstream_that_closes_without_an_answer_is_502() {
    let site = Site::new();
    for path in ["/no-answer", "/no-answer-abort"] {
        is_ours(&site.get(path), 502, "upstream", &[&site.upstream.port().to_string()]);
    }
}

#[test]
fn an_answer_with_too_large_a_head_is_502() {
    let site = Site::new();
    site.upstream.on("/large-head", |x| {
        let large = "x".repeat(x.number("n", 0) as usize);
        x.reply(200, &[("X-Large", &large)], b"ok")
    });
    let answer = site.get("/large-head?n=60000");
    assert_eq!((answer.status(), answer.get("x-large").map(|v| v.len())), (200, Some(60_000)));
    is_ours(&site.get("/large-head?n=70000"), 502, "upstream", &[]);
}

#[test]
fn an_upstream_that_does_not_accept_is_given_up_after_ten_seconds() {
    // A listener whose queue is full: the kernel drops further greetings, as a firewall does.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a port");
    socket.listen(0).expect("listening");
    let address = socket.local_addr().expect("bound").as_socket().expect("an address");
    let queued: Vec<_> = std::iter::from_fn(|| {
        let tcp = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        tcp.connect_timeout(&address.into(), Duration::from_millis(500)).ok().map(|()| tcp)
    })
    .take(100)
    .collect();
    assert!((1..100).contains(&queued.len()), "the queue takes {} connections", queued.len());
    let world = World::start();
    world.agent().map("deaf.test", address.port());
    let began = Instant::now();
    let answer = world.get("deaf.test", "/");
    assert!(matches!(answer.status(), 502 | 504), "{answer:?}");
    assert_eq!(answer.json()["hop"], "upstream");
    assert!((5..20).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[test]
fn nothing_is_published_is_404() {
    let site = Site::new();
    for host in ["unknown.test", "test", "www.unknown.test", "unknown.test:8080"] {
        let answer = e2e::visitor::Visitor::connect(site.address(), host).get("/");
        is_ours(&answer, 404, "gateway", &[]);
    }
}

#[test]
fn a_browser_gets_a_page_and_a_program_json() {
    let site = Site::new();
    let mut visitor = site.visitor();
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let page = visitor.request("GET", "/no-answer", &[("Accept", browser)], None);
    assert_eq!(page.status(), 502);
    assert!(page.get("content-type").is_some_and(|t| t.starts_with("text/html")), "{:?}", page.head);
    assert!(page.text().starts_with("<!doctype html>"), "{}", page.text());
    for foreign in ["http://", "https://", "<script", "<link", "@import"] {
        assert!(!page.text().contains(foreign), "the page loads nothing: {foreign}");
    }
    leaks_nothing(&page, &[&site.upstream.port().to_string()]);
    for accept in ["*/*", "application/json", "application/json, text/html;q=0.5"] {
        is_ours(&visitor.request("GET", "/no-answer", &[("Accept", accept)], None), 502, "upstream", &[]);
    }
}

#[test]
fn an_error_leaves_the_connection_usable_and_has_no_body_for_head() {
    let site = Site::new();
    let mut visitor = site.visitor();
    let head = visitor.request("HEAD", "/no-answer", &[], None);
    assert_eq!((head.status(), head.body.len()), (502, 0));
    assert_ne!(head.get("content-length").as_deref(), Some("0"), "the length a GET would have");
    is_ours(&visitor.get("/no-answer"), 502, "upstream", &[]);
    assert_eq!(visitor.get("/hello").text(), "hello\n");
}

#[test]
fn a_failure_after_the_head_ends_the_connection_and_says_nothing_more() {
    let site = Site::new();
    let mut visitor = site.visitor();
    let failed = visitor.try_request("GET", "/short", &[], None).expect_err("a byte is missing");
    assert!(!e2e::bytes::excerpt(&failed.body).contains("status"), "no error page inside a body");
    assert_ne!(failed.broken, Broken::Silent);
}

#[test]
fn an_agent_that_is_away_is_503_with_a_time_to_try_again() {
    let mut world = World::plan().gateway("Gateway__HoldSeconds", "0").start();
    let _upstream = world.publish("away.test");
    assert_eq!(world.get("away.test", "/hello").status(), 200);
    world.agents[0].daemon.kill();
    until("503 for the Agent that is away", Duration::from_secs(2), || {
        let answer = world.get("away.test", "/hello");
        (answer.status() == 503).then_some(()).inspect(|()| {
            is_ours(&answer, 503, "tunnel", &[]);
            assert!(answer.get("retry-after").is_some_and(|s| s.parse::<u32>().is_ok()), "{answer:?}");
        })
    });
    assert_eq!(world.get("unknown.test", "/").status(), 404, "still another case");
    let health = world.get("localhost", "/health");
    assert_eq!(health.status(), 200, "{health:?}");
}

/// Kills the Agent and waits until the Gateway knows.
fn kill_agent(world: &mut World) {
    world.agents[0].daemon.kill();
    until("the Gateway notices", PATIENCE, || {
        (world.get("localhost", "/health").json()["status"] != "healthy").then_some(())
    });
}

#[test]
fn no_more_than_256_requests_are_held() {
    let mut world = World::plan().gateway("Gateway__HoldSeconds", "30").start();
    let _upstream = world.publish("held.test");
    kill_agent(&mut world);
    let mut visitors: Vec<_> = (0..300).map(|_| world.visitor("held.test")).collect();
    for visitor in &mut visitors {
        visitor.ask("GET", "/hello", &[]);
    }
    // The last 44 are told at once; the others are there when the Agent is.
    let refused = visitors.split_off(256);
    for mut visitor in refused {
        is_ours(&visitor.response("GET"), 503, "tunnel", &[]);
    }
    world.agents[0].start_again();
    for mut visitor in visitors {
        assert_eq!(visitor.response("GET").status(), 200);
    }
}

#[test]
fn a_short_outage_is_held_and_stays_invisible() {
    let mut world = World::plan().gateway("Gateway__HoldSeconds", "20").start();
    let _upstream = world.publish("held.test");
    kill_agent(&mut world);
    let ask = |n| {
        let mut visitor = world.visitor("held.test");
        let body = format!("held {n}");
        visitor.ask("POST", "/echo", &[("Content-Length", &body.len().to_string())]);
        visitor.send(&body);
        (body, visitor)
    };
    // All of them have asked before anybody is there to answer.
    let visitors: Vec<_> = (0..20).map(ask).collect();
    world.agents[0].start_again();
    for (body, mut visitor) in visitors {
        let answer = visitor.response("POST");
        assert_eq!((answer.status(), answer.text()), (200, body));
    }
}

#[test]
fn an_outage_that_lasts_is_not_held_for_ever() {
    let mut world = World::plan().gateway("Gateway__HoldSeconds", "2").start();
    let _upstream = world.publish("gone.test");
    kill_agent(&mut world);
    let began = Instant::now();
    is_ours(&world.get("gone.test", "/hello"), 503, "tunnel", &[]);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    // The time is over: later visitors are told at once.
    let began = Instant::now();
    assert_eq!(world.get("gone.test", "/hello").status(), 503);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[test]
fn a_request_that_was_under_way_when_the_agent_died_is_answered_and_not_repeated() {
    let mut world = World::start();
    let upstream = world.publish("dies.test");
    let mut visitor = world.visitor("dies.test");
    visitor.ask("POST", "/hang", &[("Content-Length", "3")]);
    visitor.send("pay");
    upstream.wait_request("/hang");
    world.agents[0].restart();
    let answer = visitor.response("POST");
    is_ours(&answer, 502, "tunnel", &[]);
    let sent = upstream.requests().iter().filter(|head| head.path() == "/hang").count();
    assert_eq!(sent, 1, "never replayed");
}

#[test]
fn the_agents_own_page_and_forbidden_addresses_are_not_reached() {
    let world = World::start();
    let agent = world.agent();
    for host in
        ["169.254.169.254", "0.0.0.0", "224.0.0.1", "255.255.255.255", "fe80::1", "::", "fd00:ec2::254"]
    {
        let mapping = e2e::world::mapping("forbidden.test", 80, json!({ "internalHost": host }));
        let answer = agent.call("POST", "/api/v1/mappings", Some(&mapping));
        assert_eq!(answer.status(), 400, "{host}: {answer:?}");
    }
    // The admin page may be refused when it is saved or when it is asked for; reached it must not be.
    let own = e2e::world::mapping("own.test", agent.api().port(), json!({}));
    let saved = agent.call("POST", "/api/v1/mappings", Some(&own));
    if saved.status() == 201 {
        let answer = world.get("own.test", "/health");
        assert_eq!(answer.status(), 502, "{answer:?}");
    } else {
        assert_eq!(saved.status(), 400, "{saved:?}");
    }
}

#[test]
fn a_visitor_who_sends_nothing_is_not_kept_for_ever() {
    let site = Site::new();
    // A head that is never finished; 30 s are allowed.
    let mut visitor = site.visitor();
    visitor.set_patience(Duration::from_secs(60));
    visitor.send("GET / HTTP/1.1\r\nHost: ");
    let began = Instant::now();
    let end = match visitor.try_head("GET") {
        Ok(head) => {
            assert_eq!(head.status(), 408);
            drop(visitor.rest());
            visitor.ending()
        }
        Err(broken) => broken,
    };
    assert_ne!(end, Broken::Silent);
    assert!((20..50).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[test]
fn a_broken_connection_to_the_gateway_is_nothing_special() {
    let site = Site::new();
    for _ in 0..50 {
        drop(TcpStream::connect(site.address()).expect("a connection"));
        let mut visitor = site.visitor();
        visitor.send("GET /hello HT");
        visitor.abort();
    }
    assert_eq!(site.get("/hello").text(), "hello\n");
}

#[test]
fn a_service_that_sends_interim_answers_without_end_is_invalid() {
    let site = Site::new();
    for (count, status) in [(8, 200), (9, 502)] {
        site.upstream.on("/interim", move |x| {
            x.send("HTTP/1.1 103 Early Hints\r\nX-N: 1\r\n\r\n".repeat(count))?;
            x.reply(200, &[], b"")
        });
        let mut visitor = site.visitor();
        visitor.ask("GET", "/interim", &[]);
        let last = (0..=count).map(|_| visitor.head("GET").status()).find(|status| *status >= 200);
        assert_eq!(last, Some(status), "{count} interim answers");
    }
}

#[test]
fn pipelined_requests_are_answered_as_fast_as_the_answers_are_read() {
    let site = Site::new();
    let mut visitor = Visitor::connect(site.address(), "nobody.test");
    let requests = 2000;
    let socket = visitor.socket().clone();
    let sender = beside(move || {
        let all = "GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n".repeat(requests);
        std::io::Write::write_all(&mut &socket, all.as_bytes()).expect("sent");
    });
    for number in 0..requests {
        assert_eq!(visitor.response("GET").status(), 404, "answer {number}");
    }
    sender.join().expect("the sender");
}
