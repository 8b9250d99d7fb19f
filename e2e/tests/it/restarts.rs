//! What visitors see while a daemon is started again: nothing but a wait, as far as that can be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use e2e::journal::{PATIENCE, until};
use e2e::message::Broken;
use e2e::peer::Peer;
use e2e::sample::beside;
use e2e::visitor::Visitor;
use e2e::world::{Folder, Gateway, Settings, World};
use serde_json::json;

/// A world whose Gateway remembers names, and the folder in which it does.
fn remembering(hold_seconds: u32) -> (Folder, World) {
    let folder = Folder::new();
    let world = World::plan()
        .gateway("Gateway__StateDirectory", folder.path().to_str().expect("UTF-8"))
        .gateway("Gateway__HoldSeconds", hold_seconds.to_string())
        .start();
    (folder, world)
}

fn wait_remembered(folder: &Folder, names: &[&str]) {
    let file = folder.path().join("known-hosts");
    until("names remembered", PATIENCE, || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        names.iter().all(|name| text.contains(name)).then_some(())
    });
}

#[test]
fn after_a_restart_of_the_gateway_a_name_whose_agent_is_away_is_unavailable_and_not_unknown() {
    let (folder, mut world) = remembering(1);
    let upstream = world.publish("kept.test");
    world.agent().map("*.wild.test", upstream.port());
    wait_remembered(&folder, &["kept.test", "*.wild.test"]);
    world.agents[0].daemon.kill();
    world.gateways[0].restart();
    // Held for HoldSeconds from the start, and told to come again from then on.
    for attempt in 0..2 {
        for (host, target) in [("kept.test", "/"), ("x.wild.test", "/"), ("kept.test", "/health")] {
            let answer = world.get(host, target);
            assert_eq!(answer.status(), 503, "{attempt}, {host}{target}: {answer:?}");
            assert!(answer.get("retry-after").is_some(), "{answer:?}");
        }
    }
    assert_eq!(world.get("stranger.test", "/").status(), 404, "nobody has published it");
    let own = world.gateway().address().to_string();
    assert_eq!(world.get(&own, "/health").status(), 200, "the Gateway's own pages are where they were");
    world.agents[0].start_again();
    world.agent().wait_connected();
    assert_eq!(world.get("kept.test", "/hello").status(), 200);
    assert_eq!(world.get("x.wild.test", "/hello").status(), 200);
}

#[test]
fn after_a_restart_of_the_gateway_visitors_wait_for_the_agent() {
    let (folder, mut world) = remembering(60);
    let upstream = world.publish("kept.test");
    world.agent().map("*.wild.test", upstream.port());
    wait_remembered(&folder, &["kept.test", "*.wild.test"]);
    for round in 0..3 {
        world.gateways[0].restart();
        // Before the Agent has noticed, as a rule.
        for host in ["kept.test", "x.wild.test"] {
            let answer = world.get(host, "/hello");
            assert_eq!(answer.status(), 200, "round {round}: {answer:?}");
        }
    }
    // A name that has been taken out meanwhile is unknown as soon as its Agent says so, not later.
    let gone = world.agent().map("gone.test", upstream.port());
    wait_remembered(&folder, &["gone.test"]);
    world.gateways[0].daemon.kill();
    world.agent().unmap(&gone);
    world.gateways[0].start_again();
    let began = Instant::now();
    assert_eq!(world.get("gone.test", "/hello").status(), 404);
    assert!(began.elapsed() < Duration::from_secs(30), "not when the time of waiting is over");
    assert_eq!(world.get("kept.test", "/hello").status(), 200);
}

#[test]
fn a_remembered_wildcard_does_not_take_the_gateways_own_name() {
    let (folder, mut world) = remembering(60);
    let address = world.gateway().address();
    // The Agent knows the Gateway by a name that is under the wildcard.
    world.agents[0].daemon.kill();
    let mut settings = world.agent().settings();
    settings.set("Agent__GatewayUrl", format!("ws://localhost:{}/tunnel", address.port()));
    settings.set("Agent__GatewayFqdn", "gateway.wild.test");
    world.agents[0] = e2e::world::Agent::start(settings);
    world.agent().wait_connected();
    let _upstream = world.publish("*.wild.test");
    wait_remembered(&folder, &["*.wild.test", "=gateway.wild.test"]);
    world.agents[0].daemon.kill();
    world.gateways[0].restart();
    let mut visitor = Visitor::connect(address, "gateway.wild.test");
    assert_eq!(visitor.get("/health").status(), 200);
    assert_eq!(visitor.get("/").status(), 404, "no page of an Agent that has not come yet");
    let waiting = beside(move || Visitor::connect(address, "other.wild.test").get("/hello").status());
    world.agents[0].start_again();
    assert_eq!(waiting.join().expect("a visitor"), 200);
}

/// What visitors saw who asked for `/hello` again and again: anything but 200, and the longest wait.
struct Asking {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<(Vec<String>, Duration, usize)>>,
}

impl Asking {
    fn start(address: SocketAddr, host: &'static str, visitors: usize) -> Asking {
        let stop = Arc::new(AtomicBool::new(false));
        let ask = move |stop: Arc<AtomicBool>| {
            let mut visitor = Visitor::connect(address, host);
            let (mut wrong, mut longest, mut count) = (Vec::new(), Duration::ZERO, 0);
            while !stop.load(Relaxed) {
                let began = Instant::now();
                match visitor.try_request("GET", "/hello", &[], None) {
                    Ok(answer) if answer.status() == 200 => {}
                    Ok(answer) => wrong.push(format!("{answer:?}")),
                    Err(failed) => {
                        wrong.push(format!("{failed:?}"));
                        visitor = Visitor::connect(address, host);
                    }
                }
                longest = longest.max(began.elapsed());
                count += 1;
                // Steady, not a flood; nobody waits for this.
                thread::park_timeout(Duration::from_millis(2));
            }
            (wrong, longest, count)
        };
        let spawn = |_| {
            let stop = Arc::clone(&stop);
            beside(move || ask(stop))
        };
        let threads = (0..visitors).map(spawn).collect();
        Asking { stop, threads }
    }

    /// Ends it, and gives the longest wait. Nobody may have seen anything but 200.
    fn longest(self) -> Duration {
        self.stop.store(true, Relaxed);
        let (mut longest, mut count) = (Duration::ZERO, 0);
        for thread in self.threads {
            let (wrong, waited, asked) = thread.join().expect("a visitor");
            assert!(wrong.is_empty(), "{} of {asked} answers are wrong: {}", wrong.len(), wrong[0]);
            (longest, count) = (longest.max(waited), count + asked);
        }
        assert!(count > 10, "nobody has asked");
        longest
    }
}

/// Opens a connection to `/upgrade` of which bytes come back.
fn upgraded(address: SocketAddr, host: &str) -> Visitor {
    let mut visitor = Visitor::connect(address, host);
    visitor.ask("GET", "/upgrade", &[("Connection", "upgrade"), ("Upgrade", "test/1")]);
    let head = visitor.head("GET");
    assert_eq!(head.status(), 101, "{head:?}");
    assert_eq!(visitor.raw(24), b"hello from the upstream\n");
    visitor
}

#[test]
fn a_planned_restart_of_the_agent_costs_visitors_a_moment() {
    restart_under_load(World::start());
}

#[test]
fn a_planned_restart_of_a_distant_agent_costs_visitors_a_moment() {
    let world = World::plan().line().start();
    world.line().set_delay(Duration::from_millis(75));
    restart_under_load(world);
}

fn restart_under_load(mut world: World) {
    let upstream = world.publish("busy.test");
    upstream.on("/events", |x| {
        x.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        x.chunk(b"data: hello\n\n")?;
        x.wait_gone()
    });
    let address = world.gateway().address();
    // Each comes back when its connection ends, as browsers do.
    let lasting: Vec<_> = (0..50)
        .map(|_| {
            let mut visitor = upgraded(address, "busy.test");
            beside(move || {
                let ended = visitor.ending();
                drop(visitor);
                let mut again = upgraded(address, "busy.test");
                let back = Instant::now();
                again.send(b"still here");
                assert_eq!(again.raw(10), b"still here");
                (ended, back)
            })
        })
        .collect();
    let mut events = world.visitor("busy.test");
    events.ask("GET", "/events", &[("Accept", "text/event-stream")]);
    assert_eq!(events.head("GET").status(), 200);
    assert_eq!(events.piece(), Ok(Some(b"data: hello\n\n".to_vec())));
    let asking = Asking::start(address, "busy.test", 4);
    let began = Instant::now();
    world.agent().daemon.signal("TERM");
    assert_eq!(events.piece(), Ok(None), "an event stream ends as it should, and its reader comes back");
    assert_eq!(world.agents[0].daemon.wait_exit(PATIENCE).code(), Some(0));
    let stopped = began.elapsed();
    world.agents[0].start_again();
    let mut outage = Duration::ZERO;
    for visitor in lasting {
        let (ended, back) = visitor.join().expect("a visitor");
        assert_eq!(ended, Broken::Closed, "in an orderly way");
        outage = outage.max(back - began);
    }
    let longest = asking.longest();
    eprintln!(
        "the Agent stopped in {stopped:?}, all were back after {outage:?}, the longest wait was {longest:?}"
    );
    assert!(stopped < Duration::from_secs(5), "nothing was to be waited for, but: {stopped:?}");
}

#[test]
fn a_gateway_that_is_told_to_stop_does_not_wait_for_what_never_ends() {
    let mut world = World::start();
    let upstream = world.publish("lasting.test");
    upstream.on("/events", |x| {
        x.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        x.chunk(b"data: hello\n\n")?;
        x.wait_gone()
    });
    let mut raw = upgraded(world.gateway().address(), "lasting.test");
    let mut events = world.visitor("lasting.test");
    events.ask("GET", "/events", &[]);
    assert_eq!(events.head("GET").status(), 200);
    assert_eq!(events.piece(), Ok(Some(b"data: hello\n\n".to_vec())));
    let mut running = world.visitor("lasting.test");
    running.ask("POST", "/echo", &[("Content-Length", "4")]);
    upstream.wait_request("/echo");
    world.gateway().daemon.signal("TERM");
    assert_eq!(events.piece(), Ok(None), "the event stream ends as it should");
    assert_eq!(raw.ending(), Broken::Closed, "in an orderly way");
    running.send("done");
    assert_eq!(running.response("POST").text(), "done", "what can finish has its time");
    assert_eq!(world.gateways[0].daemon.wait_exit(Duration::from_secs(10)).code(), Some(0));
    until("the service to be left", PATIENCE, || (upstream.closed() >= 2).then_some(()));
}

#[test]
fn an_agent_that_stops_leaves_all_gateways_at_the_same_time() {
    let mut world = World::plan().gateways(2).gateway("Gateway__HoldSeconds", "0").start();
    let upstream = world.publish("both.test");
    let served = |gateway: &Gateway| gateway.visitor("both.test").get("/hello").status() == 200;
    until("both in service", PATIENCE, || world.gateways.iter().all(served).then_some(()));
    let mut running = world.gateways[0].visitor("both.test");
    running.ask("POST", "/echo", &[("Content-Length", "4")]);
    upstream.wait_request("/echo");
    world.agent().daemon.signal("TERM");
    world.agents[0].daemon.wait_line("have their time");
    for _ in 0..20 {
        assert!(
            world.gateways.iter().all(served),
            "the other Gateway's visitors need not wait for this one's"
        );
    }
    running.send("done");
    assert_eq!(running.response("POST").text(), "done");
    assert_eq!(world.agents[0].daemon.wait_exit(Duration::from_secs(10)).code(), Some(0));
}

#[test]
fn visitors_are_held_for_as_long_as_the_agent_announced() {
    const ID: &str = "11111111-2222-4333-8444-555555555555";
    let mut settings = Settings::gateway();
    settings.set("Gateway__HoldSeconds", "1");
    let gateway = Gateway::start(settings);
    let mut old = Peer::publishing(gateway.address(), ID, &["leaving.test"]);
    let mut running = gateway.visitor("leaving.test");
    running.ask("GET", "/running", &[]);
    let open = old.expect_open();
    old.control(&json!({ "type": "draining", "seconds": 20 }));
    assert_eq!(old.expect_control("draining")["opened"], 1);
    let mut held = gateway.visitor("leaving.test");
    held.ask("GET", "/", &[]);
    held.expect_silence(Duration::from_millis(1500));
    old.answer(open.stream, b"done");
    assert_eq!(running.response("GET").text(), "done");
    old.control(&json!({ "type": "bye" }));
    assert!(old.ending().is_over());
    let mut new = Peer::publishing(gateway.address(), ID, &["leaving.test"]);
    let open = new.expect_open();
    new.answer(open.stream, b"by the next one");
    assert_eq!(held.response("GET").text(), "by the next one");
}
