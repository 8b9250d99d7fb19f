//! The page on the Gateway's own host, which the Operator writes at home.

use e2e::journal::{PATIENCE, until};
use e2e::world::World;
use serde_json::json;

#[test]
fn the_landing_page_is_the_operators() {
    let mut world = World::start();
    world.agent().wait_connected();
    let own = world.own_name();
    let default = world.get(&own, "/");
    assert_eq!(default.status(), 200);
    assert!(default.text().contains("Octoporty Gateway"));
    let policy = default.get("Content-Security-Policy").expect("a policy");
    assert!(policy.starts_with("sandbox ") && !policy.contains("allow-scripts"), "{policy}");

    let settings = world.agent().call("GET", "/api/v1/settings/landing-page", None).json();
    assert_eq!((&settings["isDefault"], &settings["synced"]), (&json!(true), &json!(true)));
    assert_eq!(settings["html"].as_str(), Some(default.text().as_str()));

    let html = "<h1>Grüße</h1><script>alert(1)</script>";
    let put = |world: &World, html: &str| {
        world.agent().call("PUT", "/api/v1/settings/landing-page", Some(&json!({ "html": html })))
    };
    let saved = put(&world, html);
    assert_eq!(saved.status(), 200, "{saved:?}");
    let saved = saved.json();
    assert_eq!((&saved["isDefault"], &saved["synced"]), (&json!(false), &json!(true)), "{saved}");
    assert_eq!(saved["hash"], saved["gatewayHash"]);
    assert_eq!(saved["hash"].as_str().map(str::len), Some(32));
    let shown = world.get(&own, "/");
    assert_eq!((shown.status(), shown.text().as_str()), (200, html));
    assert!(shown.get("Content-Security-Policy").is_some_and(|policy| policy.starts_with("sandbox ")));
    assert_eq!(shown.get("Content-Type").as_deref(), Some("text/html; charset=utf-8"));

    // A Gateway that knows nothing gets it again; so does one that an Agent comes back to.
    world.gateways[0].restart();
    until("the page after a restart of the Gateway", PATIENCE, || {
        (world.get(&own, "/").text() == html).then_some(())
    });
    world.agents[0].restart();
    world.agent().wait_connected();
    assert_eq!(world.get(&own, "/").text(), html);

    // What is too long is refused; what is just not too long comes through.
    let answer = put(&world, &"x".repeat(1_000_001));
    assert_eq!(answer.status(), 400);
    assert!(answer.json()["errors"]["html"][0].as_str().expect("a text").contains("1000001"), "{answer:?}");
    assert_eq!(put(&world, "").status(), 400);
    let long = "\u{1}ü".repeat(500_000);
    let answer = put(&world, &long);
    assert_eq!((answer.status(), &answer.json()["synced"]), (200, &json!(true)));
    assert_eq!(world.get(&own, "/").text(), long);

    let reset = world.agent().call("DELETE", "/api/v1/settings/landing-page", None).json();
    assert_eq!((&reset["isDefault"], &reset["synced"]), (&json!(true), &json!(true)), "{reset}");
    assert_eq!(world.get(&own, "/").text(), default.text());

    // Elsewhere on this host people find the way, and programs learn that there is nothing.
    let astray = world.visitor(&own).request("GET", "/somewhere", &[("Accept", "text/html")], None);
    assert_eq!((astray.status(), astray.get("Location").as_deref()), (302, Some("/")));
    assert_eq!(world.get(&own, "/api/v1/status").status(), 404);
    assert_eq!(world.visitor(&own).request("POST", "/", &[], None).status(), 405);
    assert_eq!(world.get(&own, "/health").json()["status"], "healthy");
    assert_eq!(world.get("unknown.test", "/").status(), 404);
}

#[test]
fn of_two_agents_pages_the_one_saved_last_is_shown() {
    let world = World::plan().agents(2).start();
    let own = world.own_name();
    for agent in &world.agents {
        agent.wait_connected();
    }
    for (agent, html) in [(0, "zero"), (1, "one"), (0, "zero again")] {
        let body = json!({ "html": html });
        let saved = world.agents[agent].call("PUT", "/api/v1/settings/landing-page", Some(&body));
        assert_eq!(saved.json()["synced"], true, "{saved:?}");
        assert_eq!(world.get(&own, "/").text(), html);
    }
    world.agents[0].call("DELETE", "/api/v1/settings/landing-page", None);
    assert_eq!(world.get(&own, "/").text(), "one");
}
