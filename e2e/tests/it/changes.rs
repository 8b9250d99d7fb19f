//! What the Operator changes is in force soon, whatever the tunnel is doing at that moment.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use e2e::journal::{PATIENCE, try_until, until};
use e2e::line::Line;
use e2e::peer::{Peer, hello};
use e2e::socket::Socket;
use e2e::upstream::Upstream;
use e2e::visitor::{Response, Visitor};
use e2e::world::{Agent, Folder, Gateway, Settings, World, mapping};
use serde_json::{Value, json};

/// How long a change may take on a busy machine, with the pauses of an Agent that has lost its Gateway.
const SOON: Duration = Duration::from_secs(15);
/// Changes of a run; `OCTOPORTY_E2E_CHANGES` sets another number.
const CHANGES: u64 = 100;

/// A small generator of random numbers (Knuth's linear congruential one), so that a run can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
fn no_change_is_lost_whenever_it_comes() {
    let changes = number("OCTOPORTY_E2E_CHANGES", CHANGES);
    let seed = number("OCTOPORTY_E2E_SEED", 4711);
    let mut random = Random(seed);
    let mut gateways: Vec<_> = (0..2).map(|_| Gateway::start(Settings::gateway())).collect();
    let lines: Vec<_> = gateways.iter().map(|gateway| Line::to(gateway.address())).collect();
    let folder = Folder::new();
    let mut settings = Settings::agent();
    let urls: Vec<_> = lines.iter().map(|line| format!("ws://{}/tunnel", line.address())).collect();
    settings.set("Agent__GatewayUrl", urls.join(","));
    settings.set("Agent__MaxReconnectDelaySeconds", "1");
    settings
        .set("ConnectionStrings__DefaultConnection", format!("Data Source={}/a.db", folder.path().display()));
    let agent = Agent::start(settings);
    agent.wait_connected();
    let upstream = Upstream::start();
    e2e::sample::install(&upstream);
    let id = agent.map("c0.test", upstream.port());
    let (mut lost, mut last) = (Vec::new(), "c0.test".to_owned());
    for n in 1..=changes {
        let what = random.below(16);
        match what {
            0..8 => drop(agent.call("POST", "/api/v1/reconnect", None)),
            8..10 => lines[(what % 2) as usize].cut(),
            10 => lines.iter().for_each(Line::cut),
            11 => gateways[random.below(2) as usize].restart(),
            12 => {
                let delay = Duration::from_millis(random.below(30));
                lines.iter().for_each(|line| line.set_delay(delay));
            }
            _ => {}
        }
        // Not a pace: this is the random moment.
        std::thread::park_timeout(Duration::from_micros(random.below(60_000)));
        if n % 4 == 0 {
            // The landing page instead: most of all whether it gets there is of interest, not what the answer says.
            let html = format!("<p>{n}</p>");
            let answer = agent.call("PUT", "/api/v1/settings/landing-page", Some(&json!({ "html": &html })));
            assert_eq!(answer.status(), 200, "{answer:?}");
            let shown = |gateway: &Gateway| gateway.visitor("127.0.0.1").get("/").text() == html;
            if try_until(SOON, || gateways.iter().all(shown).then_some(())).is_none() {
                lost.push((n, what));
            }
            continue;
        }
        let name = format!("c{n}.test");
        let body = mapping(&name, upstream.port(), json!({}));
        let answer = agent.call("PUT", &format!("/api/v1/mappings/{id}"), Some(&body));
        assert_eq!(answer.status(), 200, "{answer:?}");
        let began = Instant::now();
        let served = |gateway: &Gateway| gateway.visitor(&name).get("/hello").status() == 200;
        let all = || gateways.iter().all(served).then_some(());
        if try_until(SOON, all).is_none() {
            lost.push((n, what));
        }
        for gateway in gateways.iter().filter(|_| lost.is_empty()) {
            assert_eq!(gateway.visitor(&last).get("/hello").status(), 404, "after {:?}", began.elapsed());
        }
        last = name;
    }
    assert!(lost.is_empty(), "{} of {changes} were lost (seed {seed}): {lost:?}", lost.len());
}

#[test]
fn what_is_saved_while_the_agent_stops_is_in_force_afterwards() {
    let mut random = Random(number("OCTOPORTY_E2E_SEED", 4711));
    let mut world = World::start();
    let upstream = world.publish("d0.test");
    let listed = world.agent().call("GET", "/api/v1/mappings", None).json();
    let id = listed[0]["id"].as_str().expect("an id").to_owned();
    let mut last = "d0.test".to_owned();
    let mut saved = 0;
    for n in 1..=number("OCTOPORTY_E2E_CHANGES", CHANGES) / 10 {
        let mut running = world.visitor(&last);
        let holds = random.below(2) == 0;
        if holds {
            let path = format!("/hold{n}");
            upstream.on(&path, |x| {
                let body = x.body()?;
                x.reply(200, &[], &body)
            });
            running.ask("POST", &path, &[("Content-Length", "4")]);
            upstream.wait_request(&path);
        }
        world.agent().daemon.signal("TERM");
        // Not a pace: this is the random moment.
        std::thread::park_timeout(Duration::from_micros(random.below(40_000)));
        let name = format!("d{n}.test");
        let body = mapping(&name, upstream.port(), json!({}));
        let answer = try_call(world.agent(), "PUT", &format!("/api/v1/mappings/{id}"), &body);
        if holds {
            running.send("done");
            assert_eq!(running.response("POST").text(), "done");
        }
        assert_eq!(world.agents[0].daemon.wait_exit(PATIENCE).code(), Some(0));
        world.agents[0].start_again();
        // Without an answer nobody knows; the Operator looks.
        if answer.is_some_and(|answer| answer.status() == 200) {
            last = name;
            saved += 1;
            until("what was saved to be in force", SOON, || {
                (world.get(&last, "/hello").status() == 200).then_some(())
            });
        } else {
            let listed = world.agent().call("GET", "/api/v1/mappings", None).json();
            last = listed[0]["externalDomain"].as_str().expect("a name").to_owned();
            world.agent().wait_connected();
        }
    }
    assert!(saved > 0, "nothing was saved in time, so nothing was seen");
}

/// Calls the API of an Agent that may be gone.
fn try_call(agent: &Agent, method: &str, path: &str, body: &Value) -> Option<Response> {
    let tcp = TcpStream::connect(agent.api()).ok()?;
    let authorization = format!("Bearer {}", agent.token());
    let fields = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
    let body = serde_json::to_vec(body).expect("JSON");
    let mut visitor = Visitor::over(Socket::plain(tcp), &agent.api().to_string());
    visitor.try_request(method, path, &fields, Some(&body)).ok()
}

#[test]
fn a_table_that_comes_late_over_another_link_does_not_replace_a_newer_one() {
    const ID: &str = "11111111-2222-4333-8444-555555555555";
    let gateway = Gateway::start(Settings::gateway());
    let (mut first, welcome) = Peer::greeted(gateway.address(), ID);
    let mut join = hello(ID);
    join["session"] = welcome["session"].clone();
    let mut second = Peer::dial(gateway.address());
    second.control(&join);
    second.expect_control("welcome");
    let table = |request: u64, name: &str| {
        let row = json!({ "id": format!("{request:032x}"), "domain": name, "name": "" });
        json!({ "type": "config", "request": request, "hash": name, "mappings": [row] })
    };
    second.control(&table(8, "newer.test"));
    assert_eq!(second.expect_control("config-ack")["request"], 8);
    first.control(&table(7, "older.test"));
    let answer = first.expect_control("config-ack");
    assert_eq!((&answer["request"], &answer["hash"]), (&json!(8), &json!("newer.test")), "what is in force");
    assert_eq!(gateway.visitor("older.test").get("/").status(), 404);
    first.control(&table(9, "newest.test"));
    assert_eq!(first.expect_control("config-ack")["request"], 9);
    assert_eq!(gateway.visitor("newer.test").get("/").status(), 404);
}
