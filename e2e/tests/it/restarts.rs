//! What visitors see while a daemon is started again: nothing but a wait, as far as that can be.

use std::time::{Duration, Instant};

use e2e::journal::{PATIENCE, until};
use e2e::sample::beside;
use e2e::visitor::Visitor;
use e2e::world::{Folder, World};

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
