//! Bounds, overload, signals and `kill -9`: one visitor cannot hurt another, and nobody has to restart anything.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use e2e::bytes::pattern;
use e2e::journal::{Journal, PATIENCE, try_until, until};
use e2e::message::Broken;
use e2e::sample::beside;
use e2e::upstream::Then;
use e2e::visitor::Visitor;
use e2e::world::World;
use serde_json::json;

/// How long a small request may take beside whatever else goes on, in a debug build on a busy machine.
const QUICK: Duration = Duration::from_secs(2);

/// A small request must be answered quickly.
fn is_quick(world: &World, host: &str) {
    let began = Instant::now();
    let answer = world.get(host, "/hello");
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert!(began.elapsed() < QUICK, "{:?}", began.elapsed());
}

#[test]
fn connections_are_bounded_and_whoever_asks_is_served() {
    let world = World::plan().gateway("Gateway__MaxConnections", "32").start();
    let _upstream = world.publish("full.test");
    // Those who have their answers make room for the next, and stay as long as there is any.
    let mut crowd: Vec<_> = (0..100)
        .map(|n| {
            let mut visitor = world.visitor("full.test");
            assert_eq!(visitor.get("/hello").status(), 200, "after {n} others");
            visitor
        })
        .collect();
    assert_eq!(crowd[99].get("/hello").status(), 200);
    assert_eq!(crowd[0].ending(), Broken::Closed);
    is_quick(&world, "full.test");
}

#[test]
fn running_out_of_descriptors_ends_nothing() {
    let mut world = World::plan().gateway_descriptors(64).start();
    let _upstream = world.publish("scarce.test");
    let mut early = world.visitor("scarce.test");
    assert_eq!(early.get("/hello").status(), 200);
    // More than there are descriptors, fewer than the kernel lets wait.
    let crowd: Vec<_> = (0..120)
        .map(|_| {
            let mut visitor = world.visitor("scarce.test");
            visitor.send("GET / HTTP/1.1\r\n");
            visitor
        })
        .collect();
    for _ in 0..20 {
        assert_eq!(early.get("/hello").status(), 200);
    }
    assert!(world.gateways[0].daemon.is_running());
    drop(crowd);
    is_quick(&world, "scarce.test");
    assert!(world.agent().status()["connectionStatus"] == "Connected");
}

#[test]
fn streams_are_bounded_and_the_rest_told_to_try_again() {
    let world = World::plan().gateway("Gateway__MaxStreams", "10").start();
    let upstream = world.publish("busy.test");
    let hanging: Vec<_> = (0..10)
        .map(|_| {
            let mut visitor = world.visitor("busy.test");
            visitor.ask("GET", "/hang", &[]);
            visitor
        })
        .collect();
    let count = || upstream.requests().iter().filter(|head| head.path() == "/hang").count();
    until("all of them at the upstream", PATIENCE, || (count() == 10).then_some(()));
    let answer = world.get("busy.test", "/hello");
    assert_eq!((answer.status(), &answer.json()["hop"]), (503, &json!("gateway")), "{answer:?}");
    assert!(answer.get("retry-after").is_some(), "{answer:?}");
    drop(hanging);
    world.wait_served("busy.test");
}

#[test]
fn hundreds_of_waiting_requests_do_not_stop_others() {
    let world = World::start();
    let upstream = world.publish("patient.test");
    let _quick = world.publish("quick.test");
    let waiting: Vec<_> = (0..400)
        .map(|_| {
            let mut visitor = world.visitor("patient.test");
            visitor.ask("GET", "/hang", &[]);
            visitor
        })
        .collect();
    for _ in 0..10 {
        is_quick(&world, "quick.test");
    }
    until("all of them at the upstream", PATIENCE, || (upstream.requests().len() == 400).then_some(()));
    is_quick(&world, "quick.test");
    assert!(world.gateway().daemon.threads() < 100, "{} threads", world.gateway().daemon.threads());
    assert!(world.agent().daemon.threads() < 400, "{} threads", world.agent().daemon.threads());
    drop(waiting);
    until("the upstream to be free", PATIENCE, || (upstream.closed() >= 400).then_some(()));
}

#[test]
fn stalled_visitors_cost_no_more_than_the_budget() {
    let world =
        World::plan().gateway("Gateway__MemoryBudgetMiB", "8").agent("Agent__MemoryBudgetMiB", "8").start();
    let upstream = world.publish("stalled.test");
    for _ in 0..50 {
        is_quick(&world, "stalled.test");
    }
    let resident =
        || (world.gateway().daemon.resident_kib() / 1024, world.agent().daemon.resident_kib() / 1024);
    let before = resident();
    let stalled: Vec<_> = (0..200)
        .map(|n| {
            let mut visitor = world.visitor("stalled.test");
            if n % 2 == 0 {
                visitor.ask("GET", "/bytes?n=20000000", &[]);
            } else {
                // Uploads that the upstream does not read.
                visitor.ask("POST", "/deaf", &[("Content-Length", "20000000")]);
                visitor.socket().set_write_timeout(Duration::from_millis(20));
                drop(visitor.try_send(vec![0; 4 << 20]));
            }
            visitor
        })
        .collect();
    let mut worst = (0, 0);
    for _ in 0..200 {
        let now = resident();
        worst = (worst.0.max(now.0), worst.1.max(now.1));
        std::thread::park_timeout(Duration::from_millis(10));
    }
    // The budget, and what 200 connections need for themselves.
    let most = 8 + 40;
    assert!(worst.0 < before.0 + most && worst.1 < before.1 + most, "{before:?} MiB became {worst:?}");
    drop(stalled);
    world.wait_served("stalled.test");
    is_quick(&world, "stalled.test");
    drop(upstream);
}

#[test]
fn heads_of_answers_wait_at_the_upstream_while_the_line_is_down() {
    let world = World::plan().line().agent("Agent__MemoryBudgetMiB", "8").start();
    let upstream = world.publish("heads.test");
    let gate = Arc::new(Journal::default());
    let opened = Arc::clone(&gate);
    upstream.on("/heads", move |x| {
        opened.wait(PATIENCE, |events: &[()]| (!events.is_empty()).then_some(()));
        let field = format!("X-Large: {}\r\n", "x".repeat(7000));
        for _ in 0..8 {
            x.send(format!("HTTP/1.1 103 Early Hints\r\n{field}\r\n"))?;
        }
        x.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{}\r\n", field.repeat(8)))?;
        Ok(Then::Close)
    });
    let mut visitors: Vec<_> = (0..500)
        .map(|_| {
            let mut visitor = world.visitor("heads.test");
            visitor.ask("GET", "/heads", &[]);
            visitor
        })
        .collect();
    let count = || upstream.requests().len();
    until("all of them at the upstream", PATIENCE, || (count() == 500).then_some(()));
    let before = world.agent().daemon.resident_kib() / 1024;
    world.line().freeze();
    gate.add(());
    // 56 MiB of heads come, and none gets away.
    let mut worst = 0;
    for _ in 0..200 {
        worst = worst.max(world.agent().daemon.resident_kib() / 1024);
        std::thread::park_timeout(Duration::from_millis(10));
    }
    assert!(worst < before + 8 + 16, "{before} MiB became {worst}");
    world.line().thaw();
    let served = visitors.iter_mut().filter_map(|visitor| visitor.try_response("GET").ok());
    let served = served.filter(|answer| answer.status() == 200 && answer.interim.len() == 8).count();
    assert!(served > 0, "nobody got his answer");
    world.wait_served("heads.test");
}

#[test]
fn unfinished_heads_cost_no_more_than_the_budget() {
    let world = World::plan().gateway("Gateway__MemoryBudgetMiB", "8").start();
    let _upstream = world.publish("unfinished.test");
    is_quick(&world, "unfinished.test");
    let before = world.gateway().daemon.resident_kib() / 1024;
    let line = format!("X: {}\r\n", "x".repeat(1000));
    let head = format!("GET / HTTP/1.1\r\nHost: unfinished.test\r\n{}", line.repeat(60));
    let crowd: Vec<_> = (0..800)
        .map(|_| {
            let mut visitor = world.visitor("unfinished.test");
            // Whoever holds most is cut off, perhaps while he sends.
            drop(visitor.try_send(&head));
            visitor
        })
        .collect();
    let mut worst = 0;
    for _ in 0..200 {
        worst = worst.max(world.gateway().daemon.resident_kib() / 1024);
        std::thread::park_timeout(Duration::from_millis(10));
    }
    // 48 MiB of heads.
    assert!(worst < before + 8 + 16, "{before} MiB became {worst}");
    // Nobody else is refused for what they hold.
    assert_eq!(world.get("unfinished.test", "/hello").status(), 200);
    drop(crowd);
}

#[test]
fn slow_visitors_do_not_slow_others() {
    let world = World::start();
    let upstream = world.publish("slow.test");
    let slow: Vec<_> = (0..40)
        .map(|n| {
            let mut visitor = world.visitor("slow.test");
            match n % 4 {
                0 => visitor.ask("GET", "/endless", &[]),
                1 => visitor.ask("POST", "/upload", &[("Content-Length", "1000000")]),
                2 => visitor.send("GET /never-finished HTTP/1.1\r\nHo"),
                _ => {
                    visitor.send("POST /upload HTTP/1.1\r\nHost: slow.test\r\nTransfer-Encoding: chunked\r\n\r\nFFFF\r\nx");
                }
            }
            visitor
        })
        .collect();
    let count = || upstream.requests().len();
    until("the slow ones at the upstream", PATIENCE, || (count() >= 30).then_some(()));
    for _ in 0..50 {
        is_quick(&world, "slow.test");
    }
    let body = world.get("slow.test", "/bytes?n=5000000").body;
    assert_eq!(body.len(), 5_000_000);
    drop(slow);
}

#[test]
fn requests_that_are_sent_without_reading_answers_wait() {
    let world = World::start();
    let _upstream = world.publish("pipeline.test");
    let mut visitor = world.visitor("pipeline.test");
    let before = world.gateway().daemon.resident_kib();
    let socket = visitor.socket().clone();
    let count = 3000;
    let sender = beside(move || {
        for _ in 0..count {
            let request = b"GET /bytes?n=10000 HTTP/1.1\r\nHost: pipeline.test\r\n\r\n";
            (&socket).write_all(request).expect("sent");
        }
    });
    for _ in 0..20 {
        is_quick(&world, "pipeline.test");
    }
    let after = world.gateway().daemon.resident_kib();
    assert!(after < before + 32 * 1024, "{before} KiB became {after}");
    for n in 0..count {
        assert_eq!(visitor.response("GET").body.len(), 10_000, "answer {n}");
    }
    sender.join().expect("the sender");
}

#[test]
fn nothing_leaks() {
    let world = World::start();
    let upstream = world.publish("leaks.test");
    type Visit = fn(Visitor);
    let kinds: [(&str, Visit); 10] = [
        ("answered", |mut v| drop(v.get("/hello"))),
        ("not answered", |mut v| drop(v.get("/no-answer"))),
        ("half an answer", |mut v| drop(v.try_request("GET", "/short", &[], None))),
        ("gone right behind the request", |mut v| {
            v.ask("GET", "/hang", &[]);
            v.leave();
        }),
        ("reset right behind the request", |mut v| {
            v.ask("GET", "/hang", &[]);
            v.abort();
        }),
        ("gone during the answer", |mut v| {
            v.ask("GET", "/endless", &[]);
            v.head("GET");
            v.abort();
        }),
        ("gone from a WebSocket", |v| drop(v.websocket("/ws", &[]))),
        ("gone with a half-open stream", |mut v| {
            v.ask("GET", "/upgrade", &[("Connection", "upgrade"), ("Upgrade", "test/1")]);
            assert_eq!(v.head("GET").status(), 101);
            v.finish_writing();
        }),
        ("half a request", |mut v| v.send("GET / HTTP/1.1\r\n")),
        ("early answer", |mut v| drop(v.request("POST", "/early-413", &[], Some(&pattern(0, 100_000))))),
    ];
    let open = || (world.gateway().daemon.descriptors(), world.agent().daemon.descriptors());
    // Whatever is made at first use, such as kept connections, is there from here on.
    for (_, visit) in &kinds {
        visit(world.visitor("leaks.test"));
    }
    let before = open();
    for (what, visit) in &kinds {
        for _ in 0..50 {
            visit(world.visitor("leaks.test"));
        }
        let mut now = before;
        let freed = try_until(PATIENCE, || {
            now = open();
            (now.0 <= before.0 + 10 && now.1 <= before.1 + 10).then_some(())
        });
        assert!(freed.is_some(), "{what}, 50 times: {before:?} descriptors became {now:?}");
    }
    is_quick(&world, "leaks.test");
    drop(upstream);
}

#[test]
fn a_storm_of_connections_passes() {
    let world = World::start();
    let _upstream = world.publish("storm.test");
    let address = world.gateway().address();
    let storm: Vec<_> = (0..8)
        .map(|_| {
            beside(move || {
                for n in 0..150 {
                    let mut visitor = Visitor::connect(address, "storm.test");
                    if n % 3 == 0 {
                        visitor.abort();
                    } else {
                        assert_eq!(visitor.get("/hello").text(), "hello\n");
                    }
                }
            })
        })
        .collect();
    for thread in storm {
        thread.join().expect("a visitor");
    }
    is_quick(&world, "storm.test");
}

#[test]
fn a_gateway_that_is_told_to_stop_lets_running_requests_finish() {
    let mut world = World::start();
    let upstream = world.publish("drain.test");
    let mut running = world.visitor("drain.test");
    running.ask("POST", "/echo", &[("Content-Length", "4")]);
    upstream.wait_request("/echo");
    let mut idle = world.visitor("drain.test");
    assert_eq!(idle.get("/hello").status(), 200);
    world.gateway().daemon.signal("TERM");
    assert_eq!(idle.ending(), Broken::Closed, "idle connections are closed");
    running.send("done");
    assert_eq!(running.response("POST").text(), "done");
    assert_eq!(world.gateways[0].daemon.wait_exit(Duration::from_secs(10)).code(), Some(0));
    // And back again, without anybody touching the Agent.
    world.gateways[0].start_again();
    world.wait_served("drain.test");
    is_quick(&world, "drain.test");
}

#[test]
fn an_agent_that_is_told_to_stop_lets_running_requests_finish() {
    let mut world = World::plan().gateway("Gateway__HoldSeconds", "0").start();
    let upstream = world.publish("drain.test");
    let mut running = world.visitor("drain.test");
    running.ask("POST", "/echo", &[("Content-Length", "4")]);
    upstream.wait_request("/echo");
    world.agent().daemon.signal("TERM");
    world.agents[0].daemon.wait_line("have their time");
    // Nobody else is there to serve new ones, and what the Operator changes is in force.
    for _ in 0..20 {
        is_quick(&world, "drain.test");
    }
    world.agent().map("new.test", upstream.port());
    is_quick(&world, "new.test");
    running.send("done");
    assert_eq!(running.response("POST").text(), "done");
    assert_eq!(world.agents[0].daemon.wait_exit(Duration::from_secs(10)).code(), Some(0));
    world.agents[0].start_again();
    world.agent().wait_connected();
    is_quick(&world, "drain.test");
}

#[test]
fn stopping_waits_thirty_seconds_at_most() {
    // What has a length may finish; what has none is given less, because nobody knows whether it ends.
    let kinds = [("Content-Length: 10", 20, 40), ("Transfer-Encoding: chunked", 5, 25)];
    for (gateway, (framing, least, most)) in
        [true, false].into_iter().flat_map(|gateway| kinds.map(|kind| (gateway, kind)))
    {
        let mut world = World::start();
        let upstream = world.publish("endless.test");
        upstream.on("/hang", move |x| {
            x.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"))?;
            if framing.contains("chunked") {
                x.chunk(b"first")?
            } else {
                x.send(b"first")?
            }
            x.wait_gone()
        });
        let mut endless = world.visitor("endless.test");
        endless.ask("GET", "/hang", &[]);
        assert_eq!(endless.head("GET").status(), 200);
        assert_eq!(endless.exactly(5), b"first");
        let daemon = if gateway { &mut world.gateways[0].daemon } else { &mut world.agents[0].daemon };
        let began = Instant::now();
        daemon.signal("TERM");
        let status = daemon.wait_exit(Duration::from_secs(most));
        assert_eq!(status.code(), Some(0), "gateway {gateway}");
        let took = began.elapsed();
        assert!(took > Duration::from_secs(least), "gateway {gateway}, {framing}: after {took:?}");
        assert!(
            matches!(endless.piece(), Err(Broken::Closed | Broken::Reset)),
            "gateway {gateway}, {framing}"
        );
    }
}

#[test]
fn told_twice_they_stop_at_once() {
    for gateway in [true, false] {
        let mut world = World::start();
        let _upstream = world.publish("endless.test");
        let mut endless = world.visitor("endless.test");
        endless.ask("GET", "/hang-after-head", &[]);
        assert_eq!(endless.head("GET").status(), 200);
        let daemon = if gateway { &mut world.gateways[0].daemon } else { &mut world.agents[0].daemon };
        daemon.signal("TERM");
        // The first one must have been taken notice of, or the second is no second one: signals do not queue.
        until("both signals taken notice of", Duration::from_secs(10), || {
            if daemon.is_running() {
                daemon.signal("INT");
            }
            (!daemon.is_running()).then_some(())
        });
        assert_eq!(daemon.wait_exit(PATIENCE).code(), Some(1), "gateway {gateway}");
    }
}

#[test]
fn idle_daemons_stop_at_once() {
    let mut world = World::start();
    for gateway in [false, true] {
        let daemon = if gateway { &mut world.gateways[0].daemon } else { &mut world.agents[0].daemon };
        let began = Instant::now();
        daemon.signal("INT");
        assert_eq!(daemon.wait_exit(PATIENCE).code(), Some(0), "gateway {gateway}");
        assert!(began.elapsed() < Duration::from_secs(5), "gateway {gateway}: {:?}", began.elapsed());
    }
}

#[test]
fn kill_9_of_either_side_heals_by_itself() {
    let mut world = World::start();
    let _upstream = world.publish("killed.test");
    for _ in 0..3 {
        world.gateways[0].restart();
        world.wait_served("killed.test");
        is_quick(&world, "killed.test");
        world.agents[0].restart();
        // No waiting here: the Gateway holds requests until the Agent is back.
        let answer = world.get("killed.test", "/hello");
        assert_eq!(answer.status(), 200, "{answer:?}");
    }
}

#[test]
fn a_gateway_that_comes_back_is_in_service_within_seconds() {
    let mut world = World::start();
    let _upstream = world.publish("quick.test");
    world.gateways[0].restart();
    // The Agent may just have begun to wait for its second try: a second, and some jitter.
    let took = world.wait_served("quick.test");
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[test]
fn every_request_is_one_line_in_the_log() {
    let mut world = World::start();
    let _upstream = world.publish("logged.test");
    assert_eq!(world.get("logged.test", "/status?code=418&unique=4711").status(), 418);
    let line = world.gateways[0].daemon.wait_line("unique=4711");
    for part in ["logged.test", "418", "GET"] {
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    }
    // What a visitor sends cannot forge or colour a line.
    let fields = [("User-Agent", "caf\u{e9} \u{1b}")];
    drop(world.visitor("logged.test").try_request("GET", "/%0a%1b%5b31m?unique=4712", &fields[..0], None));
    let line = world.gateways[0].daemon.wait_line("unique=4712");
    assert!(!line.chars().any(char::is_control), "{line:?}");
}

#[test]
fn a_panic_in_one_stream_ends_that_stream_only() {
    // A debug build panics when asked to, so that this can be seen from outside.
    let world = World::plan().agent("OCTOPORTY_TEST_PANIC", "1").start();
    let upstream = world.publish("panic.test");
    let mut bystander = world.visitor("panic.test");
    bystander.ask("GET", "/hang", &[]);
    upstream.wait_request("/hang");
    for _ in 0..3 {
        let mut unlucky = world.visitor("panic.test");
        unlucky.ask("GET", "/hello", &[("X-Octoporty-Test-Panic", "now")]);
        assert_eq!(unlucky.response("GET").status(), 502);
    }
    assert_eq!(world.get("panic.test", "/hello").status(), 200);
    assert_eq!(upstream.closed(), 0, "the stream beside it goes on");
    assert_eq!(world.agent().status()["connectionStatus"], "Connected");
}
