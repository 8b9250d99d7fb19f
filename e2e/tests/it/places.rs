//! Strangers who take every place: does the Agent come back, do others get in?

use std::time::Instant;

use e2e::journal::{PATIENCE, until};
use e2e::message::Broken;
use e2e::upstream::Upstream;
use e2e::visitor::{Response, Visitor};
use e2e::world::World;
use serde_json::json;

/// As few as make a crowd.
const PLACES: usize = 32;
/// Those of one address.
const OF_ONE: usize = 16;

fn world() -> World {
    World::plan().gateway("Gateway__MaxConnections", PLACES.to_string()).start()
}

/// Requests of which a body is still to come, by somebody at this address.
fn slow_posts(world: &World, host: &str, address: &str, count: usize) -> Vec<Visitor> {
    let fields = [("X-Forwarded-For", address), ("Content-Length", "1000")];
    let ask = |_| {
        let mut visitor = world.visitor(host);
        visitor.ask("POST", "/echo", &fields);
        visitor
    };
    (0..count).map(ask).collect()
}

/// Waits until so many of them are at the upstream.
fn wait_posts(upstream: &Upstream, count: usize) {
    let posts = || upstream.requests().iter().filter(|head| head.path() == "/echo").count();
    until(&format!("{count} requests at the upstream"), PATIENCE, || (posts() == count).then_some(()));
}

fn get_from(world: &World, host: &str, address: &str) -> Response {
    world.visitor(host).request("GET", "/hello", &[("X-Forwarded-For", address)], None)
}

/// The Gateway tells how it is, and at once: nobody is asked to leave first.
fn is_well(world: &World) {
    let began = Instant::now();
    let health = world.visitor("elsewhere.test").get("/health");
    assert_eq!((health.status(), &health.json()["status"]), (200, &json!("healthy")), "{health:?}");
    // Far below the seconds that a request is given before it counts as slow.
    assert!(began.elapsed().as_secs() < 3, "{:?}", began.elapsed());
}

#[test]
fn an_agent_gets_in_while_strangers_hold_everything() {
    let mut world = world();
    let _upstream = world.publish("full.test");
    let silent: Vec<_> = (0..3 * PLACES).map(|_| world.visitor("full.test")).collect();
    let half: Vec<_> = (0..3 * PLACES)
        .map(|_| {
            let mut visitor = world.visitor("full.test");
            visitor.send("GET / HTTP/1.1\r\nHost: full.test\r\n");
            visitor
        })
        .collect();
    is_well(&world);
    world.agents[0].restart();
    world.agents[0].wait_connected();
    world.wait_served("full.test");
    is_well(&world);
    drop((silent, half));
}

#[test]
fn idle_connections_give_way_and_requests_do_not() {
    let world = world();
    let upstream = world.publish("full.test");
    let mut running = world.visitor("full.test");
    running.ask("POST", "/echo", &[("Content-Length", "4")]);
    upstream.wait_request("/echo");
    for _ in 0..3 * PLACES {
        assert_eq!(world.visitor("full.test").get("/hello").status(), 200);
    }
    let mut idle: Vec<_> = (0..3 * PLACES)
        .map(|_| {
            let mut visitor = world.visitor("full.test");
            assert_eq!(visitor.get("/hello").status(), 200);
            visitor
        })
        .collect();
    assert_eq!(idle[0].ending(), Broken::Closed);
    running.send("done");
    assert_eq!(running.response("POST").text(), "done");
}

#[test]
fn one_address_cannot_take_all_places() {
    let world = world();
    let upstream = world.publish("full.test");
    let mut posts = slow_posts(&world, "full.test", "203.0.113.66", OF_ONE);
    wait_posts(&upstream, OF_ONE);
    let more = get_from(&world, "full.test", "203.0.113.66");
    assert_eq!((more.status(), &more.json()["hop"]), (503, &json!("gateway")), "{more:?}");
    assert!(more.get("retry-after").is_some(), "{more:?}");
    // Of IPv6 a household has a /64.
    let _posts6 = slow_posts(&world, "full.test", "2001:db8::1", OF_ONE - 1);
    wait_posts(&upstream, 2 * OF_ONE - 1);
    assert_eq!(get_from(&world, "full.test", "203.0.113.67").status(), 200);
    assert_eq!(get_from(&world, "full.test", "2001:db8::2").status(), 200);
    let _last6 = slow_posts(&world, "full.test", "2001:db8::3", 1);
    wait_posts(&upstream, 2 * OF_ONE);
    assert_eq!(get_from(&world, "full.test", "2001:db8::2").status(), 503);
    // A place that is given back can be had again.
    posts[0].send(vec![b'x'; 1000]);
    assert_eq!(posts[0].response("POST").body.len(), 1000);
    until("the place to be free", PATIENCE, || {
        (get_from(&world, "full.test", "203.0.113.66").status() == 200).then_some(())
    });
}

#[test]
fn when_all_places_are_taken_the_slowest_of_the_address_with_most_gives_way() {
    let mut world = world();
    let upstream = world.publish("full.test");
    // Those who begin first have had their time first.
    let mut most = slow_posts(&world, "full.test", "203.0.113.66", OF_ONE);
    let mut many = slow_posts(&world, "full.test", "203.0.113.67", OF_ONE - 1);
    let mut few = slow_posts(&world, "full.test", "198.51.100.1", 1);
    wait_posts(&upstream, PLACES);
    is_well(&world);
    // As long as none has had its time there is nobody to go, and the newcomer is told to come again.
    until("a place", PATIENCE, || (get_from(&world, "full.test", "192.0.2.1").status() == 200).then_some(()));
    world.gateways[0].daemon.wait_line("203.0.113.66 is cut off");
    // He is told, and the others go on.
    for visitor in [&mut few[0], &mut many[0]] {
        visitor.send(vec![b'x'; 1000]);
        assert_eq!(visitor.response("POST").status(), 200);
    }
    let told: Vec<_> = most
        .iter_mut()
        .filter_map(|visitor| {
            drop(visitor.try_send(vec![b'x'; 1000]));
            visitor.try_response("POST").ok().map(|answer| answer.status())
        })
        .collect();
    assert!(told.contains(&503) && told.contains(&200), "{told:?}");
    is_well(&world);
}

#[test]
fn one_of_several_agents_cannot_take_all_places() {
    let world = World::plan().agents(2).gateway("Gateway__MaxConnections", PLACES.to_string()).start();
    let slow = world.publish("slow.test");
    let quick = Upstream::start();
    e2e::sample::install(&quick);
    world.agents[1].map("quick.test", quick.port());
    let share = PLACES / 4 * 3;
    let ask = |_| {
        let mut visitor = world.visitor("slow.test");
        visitor.ask("POST", "/echo", &[("Content-Length", "4")]);
        visitor
    };
    let _posts: Vec<_> = (0..share).map(ask).collect();
    wait_posts(&slow, share);
    assert_eq!(world.get("slow.test", "/hello").status(), 503);
    assert_eq!(world.get("quick.test", "/hello").status(), 200);
}
