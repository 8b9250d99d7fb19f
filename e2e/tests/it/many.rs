//! Several Agents on one Gateway, several Gateways for one Agent.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use e2e::journal::{PATIENCE, until};
use e2e::peer::Peer;
use e2e::sample;
use e2e::upstream::Upstream;
use e2e::world::World;

/// An upstream that says its name.
fn named(name: String) -> Upstream {
    let upstream = Upstream::start();
    sample::install(&upstream);
    upstream.on("/name", move |x| x.reply(200, &[], name.as_bytes()));
    upstream
}

#[test]
fn agents_come_and_go_without_disturbing_one_another() {
    let mut world = World::plan().agents(4).start();
    let upstreams: Vec<_> = (0..4).map(|n| named(format!("agent {n}"))).collect();
    for (n, upstream) in upstreams.iter().enumerate() {
        world.agents[n].map(&format!("a{n}.test"), upstream.port());
    }
    for n in 0..4 {
        assert_eq!(world.get(&format!("a{n}.test"), "/name").text(), format!("agent {n}"));
    }
    let mut download = world.visitor("a0.test");
    download.ask("GET", "/endless", &[]);
    assert_eq!(download.head("GET").status(), 200);
    let (_, mut socket) = world.visitor("a0.test").websocket("/ws", &[]);
    for n in 1..4 {
        world.agents[n].daemon.kill();
        assert_eq!(download.exactly(500_000).len(), 500_000);
        assert_eq!(world.get("a0.test", "/name").text(), "agent 0");
        world.agents[n].start_again();
        assert_eq!(
            world.get(&format!("a{n}.test"), "/name").text(),
            format!("agent {n}"),
            "held until it is back"
        );
        socket.send(n.to_string().into()).expect("sent");
        assert_eq!(socket.read().expect("echoed"), n.to_string().into());
    }
    assert_eq!(download.exactly(500_000).len(), 500_000);
}

#[test]
fn agents_with_the_same_host_share_its_streams_and_take_over() {
    let mut world = World::plan().agents(2).gateway("Gateway__HoldSeconds", "0").start();
    let upstreams: Vec<_> = (0..2).map(|n| named(format!("agent {n}"))).collect();
    for (n, upstream) in upstreams.iter().enumerate() {
        world.agents[n].map("shared.test", upstream.port());
    }
    let ask = |world: &World| world.get("shared.test", "/name").text();
    let seen: HashSet<_> = (0..50).map(|_| ask(&world)).collect();
    assert_eq!(seen.len(), 2, "streams are spread: {seen:?}");
    // One dies; the other takes over within a second. What was under way there is lost, nothing else.
    world.agents[0].daemon.kill();
    let died = Instant::now();
    until("the other one answers everything", Duration::from_secs(1), || {
        (0..5).all(|_| world.get("shared.test", "/name").status() == 200).then_some(())
    });
    assert!(died.elapsed() < Duration::from_secs(2), "{:?}", died.elapsed());
    for _ in 0..30 {
        assert_eq!(ask(&world), "agent 1");
    }
    // It comes back and is used again.
    world.agents[0].start_again();
    world.agents[0].wait_connected();
    until("both are used", PATIENCE, || (ask(&world) == "agent 0").then_some(()));
}

#[test]
fn an_agent_that_drains_hands_its_hosts_over_without_a_failed_request() {
    let mut world = World::plan().agents(2).gateway("Gateway__HoldSeconds", "0").start();
    let upstreams: Vec<_> = (0..2).map(|n| named(format!("agent {n}"))).collect();
    for (n, upstream) in upstreams.iter().enumerate() {
        world.agents[n].map("rolling.test", upstream.port());
    }
    for n in 0..2 {
        world.agents[n].daemon.signal("TERM");
        while world.agents[n].daemon.is_running() {
            let answer = world.get("rolling.test", "/name");
            assert_eq!(answer.status(), 200, "while agent {n} drains: {}", answer.text());
        }
        world.agents[n].start_again();
        world.agents[n].wait_connected();
        assert_eq!(world.get("rolling.test", "/name").status(), 200);
    }
}

#[test]
fn removing_a_host_from_one_agent_leaves_it_with_the_other() {
    let world = World::plan().agents(2).start();
    let upstreams: Vec<_> = (0..2).map(|n| named(format!("agent {n}"))).collect();
    let ids: Vec<_> = (0..2).map(|n| world.agents[n].map("both.test", upstreams[n].port())).collect();
    world.agents[0].unmap(&ids[0]);
    for _ in 0..20 {
        assert_eq!(world.get("both.test", "/name").text(), "agent 1");
    }
    world.agents[1].unmap(&ids[1]);
    assert_eq!(world.get("both.test", "/name").status(), 404);
}

#[test]
fn one_agent_serves_two_gateways_and_either_may_die() {
    let mut world = World::plan().gateways(2).start();
    let upstream = named("the agent".into());
    world.agent().map("twice.test", upstream.port());
    let ask = |world: &World, n: usize| world.gateways[n].visitor("twice.test").get("/name").text();
    // The status speaks of the first Gateway that is connected; each has to have the route.
    for n in 0..2 {
        until("the route at each gateway", PATIENCE, || (ask(&world, n) == "the agent").then_some(()));
    }
    for n in 0..2 {
        let other = 1 - n;
        let mut download = world.gateways[other].visitor("twice.test");
        download.ask("GET", "/endless", &[]);
        assert_eq!(download.head("GET").status(), 200);
        world.gateways[n].daemon.kill();
        assert_eq!(world.agent().status()["connectionStatus"], "Connected", "to the other one");
        assert_eq!(ask(&world, other), "the agent");
        assert_eq!(download.exactly(500_000).len(), 500_000);
        world.gateways[n].start_again();
        until("service after the restart", PATIENCE, || {
            (world.gateways[n].visitor("twice.test").get("/name").status() == 200).then_some(())
        });
    }
}

#[test]
fn a_change_reaches_every_gateway() {
    let world = World::plan().gateways(2).start();
    let upstream = named("here".into());
    let id = world.agent().map("everywhere.test", upstream.port());
    for gateway in &world.gateways {
        until("the route", PATIENCE, || {
            (gateway.visitor("everywhere.test").get("/name").status() == 200).then_some(())
        });
    }
    world.agent().unmap(&id);
    for gateway in &world.gateways {
        until("no route", PATIENCE, || {
            (gateway.visitor("everywhere.test").get("/name").status() == 404).then_some(())
        });
    }
}

#[test]
fn an_agent_can_begin_with_a_gateway_that_is_down() {
    let mut world = World::plan().gateways(2).start();
    let upstream = named("early".into());
    world.agent().map("early.test", upstream.port());
    world.gateways[0].daemon.kill();
    world.agents[0].restart();
    world.agent().wait_connected();
    let second = world.gateways[1].visitor("early.test").get("/name");
    assert_eq!(second.text(), "early");
    world.gateways[0].start_again();
    until("service at the first one", PATIENCE, || {
        (world.gateways[0].visitor("early.test").get("/name").status() == 200).then_some(())
    });
}

#[test]
fn fifty_agents_share_a_gateway() {
    let world = World::plan().agents(0).start();
    let address = world.gateway().address();
    let mut agents: Vec<_> = (0..50)
        .map(|n| {
            let id = format!("00000000-0000-4000-8000-{n:012}");
            Peer::publishing(address, &id, &[&format!("p{n}.test")])
        })
        .collect();
    for (n, agent) in agents.iter_mut().enumerate() {
        let mut visitor = world.visitor(&format!("p{n}.test"));
        visitor.ask("GET", "/", &[]);
        let open = agent.expect_open();
        agent.answer(open.stream, n.to_string().as_bytes());
        assert_eq!(visitor.response("GET").text(), n.to_string());
    }
}
