//! What networks do to a tunnel: Links that are cut, freeze without a word, and are long.

use std::time::{Duration, Instant};

use e2e::bytes::{first_difference, pattern};
use e2e::journal::{PATIENCE, until};
use e2e::message::Broken;
use e2e::peer::{LinkEnd, Peer};
use e2e::sample::beside;
use e2e::visitor::Visitor;
use e2e::world::{Gateway, Settings, World};
use serde_json::json;
use tungstenite::Message;

/// A visitor who has read the first bytes of an answer that goes on.
fn listening(world: &World, host: &str) -> Visitor {
    let mut visitor = world.visitor(host);
    visitor.ask("GET", "/hang-after-head", &[]);
    assert_eq!(visitor.head("GET").status(), 200);
    assert_eq!(visitor.exactly(5), b"first");
    visitor
}

#[test]
fn a_session_has_four_links() {
    let world = World::plan().line().start();
    world.line().wait_open(4);
    let _upstream = world.publish("links.test");
    for _ in 0..20 {
        assert_eq!(world.get("links.test", "/hello").status(), 200);
    }
    assert_eq!(world.line().accepted(), 4, "no more than that");
}

#[test]
fn the_number_of_links_can_be_chosen_on_both_sides() {
    let world = World::plan().line().gateway("Gateway__Links", "2").start();
    world.line().wait_open(2);
    let world = World::plan().line().agent("Agent__Links", "1").start();
    let _upstream = world.publish("one.test");
    assert_eq!(world.get("one.test", "/hello").status(), 200);
    assert_eq!(world.line().accepted(), 1);
}

#[test]
fn losing_one_link_costs_its_own_streams_only() {
    let world = World::plan().line().start();
    world.line().wait_open(4);
    let upstream = world.publish("lossy.test");
    let mut listeners: Vec<_> = (0..32).map(|_| listening(&world, "lossy.test")).collect();
    let connected = world.agent().status()["lastConnected"].clone();
    let before = world.line().open();
    world.line().cut_one(before[2]);
    until("another link instead", PATIENCE, || {
        let open = world.line().open();
        (open.len() == 4 && open != before).then_some(())
    });
    assert_eq!(world.line().accepted(), 5, "only the lost one is dialled again");
    assert_eq!(world.agent().status()["lastConnected"], connected, "the session is the same");
    let lost = listeners
        .iter_mut()
        .filter_map(|visitor| {
            visitor.set_patience(Duration::from_millis(100));
            match visitor.piece() {
                Err(Broken::Silent) => None,
                Err(_) => Some(()),
                Ok(piece) => panic!("the answer ended cleanly or went on: {piece:?}"),
            }
        })
        .count();
    assert!(lost < 32, "all streams were lost with one of four links");
    for _ in 0..20 {
        assert_eq!(world.get("lossy.test", "/hello").status(), 200);
    }
    drop(upstream);
}

#[test]
fn streams_are_spread_over_the_links() {
    let world = World::plan().line().start();
    world.line().wait_open(4);
    let _upstream = world.publish("spread.test");
    let mut listeners: Vec<_> = (0..32).map(|_| listening(&world, "spread.test")).collect();
    // Whichever link is lost, some streams are on it.
    for connection in world.line().open() {
        world.line().cut_one(connection);
    }
    for visitor in &mut listeners {
        assert!(matches!(visitor.piece(), Err(Broken::Closed | Broken::Reset)));
    }
    world.wait_served("spread.test");
}

#[test]
fn a_tunnel_that_was_cut_is_back_at_once_and_nobody_notices() {
    let world = World::plan().line().start();
    let _upstream = world.publish("cut.test");
    for _ in 0..5 {
        world.line().cut();
        let began = Instant::now();
        loop {
            let answer = world.get("cut.test", "/hello");
            if answer.status() == 200 {
                break;
            }
            // Sent before the Gateway had noticed, and lost with the Link. Afterwards requests are held until the
            // Agent is back: no visitor hears that it is away.
            assert_eq!((answer.status(), &answer.json()["hop"]), (502, &json!("tunnel")), "{answer:?}");
        }
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
}

#[test]
fn what_was_under_way_when_the_tunnel_was_cut_ends_visibly() {
    let world = World::plan().line().start();
    let upstream = world.publish("cut.test");
    let mut listener = listening(&world, "cut.test");
    let mut waiting = world.visitor("cut.test");
    waiting.ask("GET", "/hang", &[]);
    let (connection, _) = upstream.wait_request("/hang");
    let (_, mut socket) = world.visitor("cut.test").websocket("/ws", &[]);
    world.line().cut();
    assert!(matches!(listener.piece(), Err(Broken::Closed | Broken::Reset)));
    let answer = waiting.response("GET");
    assert_eq!((answer.status(), &answer.json()["hop"]), (502, &json!("tunnel")), "{answer:?}");
    assert!(socket.read().is_err());
    upstream.wait_closed(connection, Duration::from_secs(2));
}

#[test]
fn a_silent_link_is_noticed_in_fifteen_seconds_when_somebody_waits() {
    let world = World::plan().line().start();
    let upstream = world.publish("frozen.test");
    let mut waiting = world.visitor("frozen.test");
    waiting.ask("GET", "/hang", &[]);
    upstream.wait_request("/hang");
    world.line().freeze();
    let began = Instant::now();
    let answer = waiting.response("GET");
    assert_eq!((answer.status(), &answer.json()["hop"]), (502, &json!("tunnel")), "{answer:?}");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(18), "{took:?}");
    world.line().thaw();
    world.wait_served("frozen.test");
}

#[test]
fn a_silent_link_is_noticed_in_two_intervals_when_nobody_waits() {
    let world = World::plan()
        .line()
        .gateway("Gateway__HeartbeatIntervalSeconds", "5")
        .agent("Agent__HeartbeatIntervalSeconds", "5")
        .start();
    let _upstream = world.publish("frozen.test");
    world.line().wait_open(4);
    let before = world.line().accepted();
    world.line().freeze();
    let began = Instant::now();
    until("the Agent notices", PATIENCE, || {
        (world.agent().status()["connectionStatus"] != "Connected").then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(16), "{:?}", began.elapsed());
    world.line().thaw();
    world.agent().wait_connected();
    world.wait_served("frozen.test");
    assert!(world.line().accepted() > before);
}

#[test]
fn a_session_serves_while_its_other_links_hang() {
    let world = World::plan()
        .line_of(1)
        .gateway("Gateway__HeartbeatIntervalSeconds", "5")
        .agent("Agent__HeartbeatIntervalSeconds", "5")
        .start();
    let _upstream = world.publish("hanging.test");
    assert_eq!(world.get("hanging.test", "/hello").status(), 200);
    // The only Link that works freezes too: that is noticed although others are still being opened.
    world.line().freeze();
    let began = Instant::now();
    until("the Agent notices", PATIENCE, || {
        (world.agent().status()["connectionStatus"] != "Connected").then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(16), "{:?}", began.elapsed());
    world.line().carry_at_most(u64::MAX);
    world.line().thaw();
    world.wait_served("hanging.test");
}

#[test]
fn a_silent_agent_is_cut_off_by_the_gateway() {
    let mut settings = Settings::gateway();
    settings.set("Gateway__HeartbeatIntervalSeconds", "5");
    let gateway = Gateway::start(settings);
    let id = "11111111-2222-4333-8444-555555555555";
    let mut alive =
        Peer::publishing(gateway.address(), "99999999-2222-4333-8444-555555555555", &["alive.test"]);
    let alive = beside(move || {
        alive.set_patience(Duration::from_secs(20));
        alive.ending()
    });
    let mut silent = Peer::publishing(gateway.address(), id, &["silent.test"]);
    silent.ignore_beats();
    let began = Instant::now();
    assert!(silent.ending().is_over());
    let took = began.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(16)).contains(&took), "{took:?}");
    let end = alive.join().expect("the other agent");
    assert_eq!(end, LinkEnd::Cut(Broken::Silent), "whoever answers is kept");
}

#[test]
fn an_idle_tunnel_is_kept_by_beats() {
    let world = World::plan()
        .line()
        .gateway("Gateway__HeartbeatIntervalSeconds", "5")
        .agent("Agent__HeartbeatIntervalSeconds", "5")
        .start();
    let _upstream = world.publish("idle.test");
    world.line().wait_open(4);
    let carried = world.line().carried();
    until("a few beats on every link", PATIENCE, || {
        (world.line().carried() > carried + 16 * 24).then_some(())
    });
    assert_eq!((world.line().accepted(), world.line().open().len()), (4, 4), "nothing was dialled again");
    assert_eq!(world.get("idle.test", "/hello").status(), 200);
}

#[test]
fn stopped_processes_are_noticed_and_come_back() {
    let world = World::plan()
        .gateway("Gateway__HeartbeatIntervalSeconds", "5")
        .agent("Agent__HeartbeatIntervalSeconds", "5")
        .start();
    let upstream = world.publish("stopped.test");
    for agent in [true, false] {
        let daemon = if agent { &world.agent().daemon } else { &world.gateway().daemon };
        let mut waiting = world.visitor("stopped.test");
        waiting.ask("GET", "/hang", &[]);
        upstream.wait_request("/hang");
        daemon.signal("STOP");
        if agent {
            let answer = waiting.response("GET");
            assert!(matches!(answer.status(), 502 | 503), "{answer:?}");
        } else {
            until("the Agent notices", PATIENCE, || {
                (world.agent().status()["connectionStatus"] != "Connected").then_some(())
            });
        }
        daemon.signal("CONT");
        world.agent().wait_connected();
        world.wait_served("stopped.test");
    }
}

#[test]
fn an_agent_that_waits_long_looks_whether_the_gateway_is_back() {
    let mut world = World::plan()
        .agent("Agent__ReconnectDelaySeconds", "100")
        .agent("Agent__MaxReconnectDelaySeconds", "200")
        .start();
    let _upstream = world.publish("back.test");
    world.gateways[0].daemon.kill();
    until("a try that failed", PATIENCE, || {
        world.agent().status()["reconnectAttempts"].as_u64().filter(|n| *n >= 1)
    });
    world.gateways[0].start_again();
    let began = Instant::now();
    world.agent().wait_connected();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(world.get("back.test", "/hello").status(), 200);
}

#[test]
fn a_long_line_is_filled_in_both_directions() {
    let world = World::plan().line().agent("Agent__Links", "1").start();
    let _upstream = world.publish("far.test");
    world.line().set_delay(Duration::from_millis(50));
    // Links are made over the long line: windows grow by the shortest round trip that a Link has seen.
    world.line().cut();
    world.wait_served("far.test");
    // With the initial Credit of 256 KiB, 100 ms there and back, 48 MiB would take 19 s.
    let len = 48 << 20;
    let slow = Duration::from_secs(13);

    let began = Instant::now();
    let body = world.get("far.test", &format!("/bytes?n={len}")).body;
    let took = began.elapsed();
    assert_eq!(first_difference(&body, &pattern(0, len)), None);
    assert!(took < slow, "down: {took:?}");

    let began = Instant::now();
    let answer = world.visitor("far.test").request("POST", "/upload", &[], Some(&body));
    let took = began.elapsed();
    assert!(answer.text().starts_with(&len.to_string()), "{}", answer.text());
    assert!(took < slow, "up: {took:?}");
}

#[test]
fn pages_stay_quick_beside_bulk() {
    let world = World::plan().line().agent("Agent__Links", "1").start();
    let _upstream = world.publish("fair.test");
    let address = world.gateway().address();
    world.line().set_delay(Duration::from_millis(10));
    let bulk: Vec<_> = (0..4)
        .map(|n| {
            beside(move || {
                let mut visitor = Visitor::connect(address, "fair.test");
                if n % 2 == 0 {
                    visitor.get(&format!("/bytes?n={}", 48 << 20)).body.len()
                } else {
                    visitor.request("POST", "/echo", &[], Some(&pattern(0, 24 << 20))).body.len()
                }
            })
        })
        .collect();
    let mut visitor = world.visitor("fair.test");
    let mut slowest = Duration::ZERO;
    while bulk.iter().any(|thread| !thread.is_finished()) {
        let began = Instant::now();
        assert_eq!(visitor.get("/hello").text(), "hello\n");
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    for (n, thread) in bulk.into_iter().enumerate() {
        assert_eq!(thread.join().expect("a bulk transfer"), if n % 2 == 0 { 48 << 20 } else { 24 << 20 });
    }
}

/// Waits until the Gateway has welcomed so many Links.
fn wait_welcome(world: &World, links: usize) {
    until(&format!("{links} links"), PATIENCE, || (world.agent().status()["links"] == links).then_some(()));
}

/// What is asked for from now on is served, small and large, whichever Link it goes over.
fn assert_well(world: &World, host: &str) {
    let len = 8 << 20;
    let address = world.gateway().address();
    let large: Vec<_> = (0..2)
        .map(|_| {
            let host = host.to_owned();
            beside(move || Visitor::connect(address, &host).get(&format!("/bytes?n={len}")).body)
        })
        .collect();
    for _ in 0..40 {
        assert_eq!(world.get(host, "/hello").status(), 200);
    }
    for thread in large {
        let body = thread.join().expect("a large answer");
        assert_eq!(first_difference(&body, &pattern(0, len)), None);
    }
}

#[test]
fn a_short_rest_of_the_line_costs_no_link() {
    let world = World::plan().line().start();
    let _upstream = world.publish("rest.test");
    wait_welcome(&world, 4);
    let (_, mut socket) = world.visitor("rest.test").websocket("/ws", &[]);
    let before = world.line().open();
    let tried = world.line().tried();
    world.line().freeze();
    // All of them are in doubt: the Agent dials another one, which gets nowhere either.
    until("another try", PATIENCE, || (world.line().tried() > tried).then_some(()));
    // It goes on for a while, but not as long as it takes to give up.
    let end = Instant::now() + Duration::from_secs(2);
    until("a rest", PATIENCE, || (Instant::now() > end).then_some(()));
    world.line().thaw();
    world.wait_served("rest.test");
    socket.send(Message::text("still here")).expect("sent");
    assert_eq!(socket.read().expect("echoed"), Message::text("still here"));
    let after = world.line().open();
    assert!(before.iter().all(|link| after.contains(link)), "{before:?} {after:?}");
    let lines = world.agent().daemon.lines();
    let closed: Vec<_> =
        lines.iter().filter(|line| line.contains(" left") && line.contains(" closed (")).collect();
    assert!(closed.iter().all(|line| line.contains("answered meanwhile")), "{closed:?}");
    assert_well(&world, "rest.test");
}

#[test]
fn links_that_all_fall_silent_while_visitors_ask_cost_a_dozen_seconds() {
    // Of eight, one must go before there may be another one.
    for links in [4, 8, 1] {
        let world = World::plan().line().gateway("Gateway__Links", links.to_string()).start();
        let _upstream = world.publish("silent.test");
        wait_welcome(&world, links);
        world.line().silence();
        let took = world.wait_served("silent.test");
        assert!(took < Duration::from_secs(15), "{links} links: {took:?}");
        assert_well(&world, "silent.test");
    }
}

#[test]
fn links_that_all_fall_silent_are_replaced_before_anybody_asks() {
    let world = World::plan().line().start();
    let _upstream = world.publish("silent.test");
    wait_welcome(&world, 4);
    world.line().silence();
    let began = Instant::now();
    until("a new link beside the old ones, or instead of them", PATIENCE, || {
        let more = world.agent().status()["links"].as_u64().is_some_and(|links| links > 4);
        let instead = || {
            let lines = world.agent().daemon.lines();
            let given_up = lines.iter().any(|line| line.contains("nothing has arrived for too long"));
            given_up && world.agent().status()["links"].as_u64().is_some_and(|links| links > 0)
        };
        (more || instead()).then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    // The Gateway heard nothing of the silence. Yet nobody is sent over the old links, now or later.
    assert_well(&world, "silent.test");
}

#[test]
fn links_that_end_for_the_agent_only_are_not_found_by_visitors() {
    let world = World::plan().line().start();
    let _upstream = world.publish("halves.test");
    wait_welcome(&world, 4);
    let links = world.line().open();
    world.line().silence();
    // One before the others, so that the Session goes on; the Gateway still has all of them.
    let accepted = world.line().accepted();
    world.line().lose_near(links[0]);
    until("a link instead", PATIENCE, || (world.line().accepted() > accepted).then_some(()));
    for link in &links[1..] {
        world.line().lose_near(*link);
    }
    let took = world.wait_served("halves.test");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_well(&world, "halves.test");

    // All at once: a new Session.
    wait_welcome(&world, 4);
    let links = world.line().open();
    world.line().silence();
    for link in links {
        world.line().lose_near(link);
    }
    let took = world.wait_served("halves.test");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_well(&world, "halves.test");
}
