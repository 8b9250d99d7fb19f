//! `octoporty-agent doctor` on a way that works, and on one that is broken at each hop in turn.

use std::net::{SocketAddr, TcpListener};
use std::thread;

use e2e::caddy::{self, Caddy};
use e2e::certificates::{Authority, Identity};
use e2e::daemon::{self, Ended, Program};
use e2e::line::Line;
use e2e::peer::{FakeGateway, welcome};
use e2e::upstream::{Then, Upstream};
use e2e::world::{Agent, Folder, Gateway, Settings, World};
use serde_json::{Value, json};

type Environment = Vec<(String, String)>;

fn run(environment: &Environment, arguments: &[&str]) -> Ended {
    let environment: Vec<_> = environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    daemon::run(Program::Agent, arguments, &environment)
}

/// What the doctor says, as JSON, with this exit status.
fn doctor(environment: &Environment, status: i32) -> Value {
    let ended = run(environment, &["doctor", "--json"]);
    assert_eq!(ended.status.code(), Some(status), "{ended:?}");
    let value: Value = serde_json::from_str(&ended.out).unwrap_or_else(|e| panic!("{e}: {ended:?}"));
    assert_eq!(value["ok"], status == 0, "{value:#}");
    let checks = value["checks"].as_array().expect("a list");
    assert!(!checks.is_empty());
    // Whatever does not work comes with something to do.
    for check in checks.iter().filter(|check| check["state"] == "fail") {
        assert!(check["hint"].is_string(), "{check:#}");
    }
    value
}

/// The first check of a hop.
fn check<'v>(value: &'v Value, hop: &str) -> &'v Value {
    let checks = value["checks"].as_array().expect("a list");
    checks.iter().find(|check| check["hop"] == hop).unwrap_or_else(|| panic!("no {hop} in {value:#}"))
}

fn state<'v>(value: &'v Value, hop: &str) -> &'v str {
    check(value, hop)["state"].as_str().expect("a state")
}

/// The way fails at this hop first, for a reason with these words, with this advice.
fn broken(environment: &Environment, hop: &str, text: &str, hint: &str) -> Value {
    let value = doctor(environment, 1);
    assert_eq!(value["failedHop"], hop, "{value:#}");
    let checks = value["checks"].as_array().expect("a list");
    let failed = checks.iter().find(|check| check["state"] == "fail").expect("a failure");
    assert!(failed["text"].as_str().is_some_and(|said| said.contains(text)), "{text}: {failed:#}");
    assert!(failed["hint"].as_str().is_some_and(|said| said.contains(hint)), "{hint}: {failed:#}");
    value
}

/// Settings of an Agent that does not run, with a database of its own.
fn resting(url: &str, folder: &Folder) -> Environment {
    let mut settings = Settings::agent();
    settings.set("Agent__GatewayUrl", url);
    let database = folder.path().join("resting.db");
    settings.set("ConnectionStrings__DefaultConnection", format!("Data Source={}", database.display()));
    settings.list()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port()
}

fn url(address: SocketAddr) -> String {
    format!("ws://{address}/tunnel")
}

#[test]
fn a_way_that_works_is_clear_and_the_running_tunnel_is_not_disturbed() {
    let world = World::start();
    let app = world.publish("app.example.com");
    app.on("/", |x| x.reply(200, &[], b"hello"));
    let before = world.agent().status();
    let env = world.agent().environment();
    let value = doctor(&env, 0);
    for hop in [
        "settings",
        "agent",
        "database",
        "dns",
        "tcp",
        "gateway",
        "clock",
        "websocket",
        "key",
        "version",
        "target",
        "route",
        "public",
    ] {
        assert_eq!(state(&value, hop), "ok", "{hop}: {value:#}");
    }
    assert_eq!(value["failedHop"], Value::Null);
    assert_eq!(check(&value, "target")["subject"], "app.example.com");
    let after = world.agent().status();
    assert_eq!(before["lastConnected"], after["lastConnected"], "the session is still the same");
    assert_eq!((&after["connectionStatus"], &after["lastDisconnected"]), (&json!("Connected"), &json!(null)));
    assert_eq!(world.get("app.example.com", "/hello").status(), 200);

    let ended = run(&env, &["doctor"]);
    assert_eq!((ended.status.code(), ended.err.as_str()), (Some(0), ""));
    let lines: Vec<&str> = ended.out.lines().collect();
    assert!(lines[0].starts_with("ok    settings"), "{}", ended.out);
    assert_eq!(lines.last(), Some(&"the way is clear"), "{}", ended.out);
    assert!(!ended.out.contains('\x1b'), "no colours outside a terminal");
}

#[test]
fn without_a_running_agent_the_way_is_walked_as_far_as_it_can_be() {
    let gateway = Gateway::start(Settings::gateway());
    let folder = Folder::new();
    let env = resting(&url(gateway.address()), &folder);
    let value = doctor(&env, 0);
    for hop in ["agent", "target"] {
        assert_eq!(state(&value, hop), "skip", "{hop}: {value:#}");
    }
    for hop in ["database", "gateway", "websocket", "key", "version"] {
        assert_eq!(state(&value, hop), "ok", "{hop}: {value:#}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0, "looking makes no database");
}

#[test]
fn wrong_settings_are_the_first_hop() {
    let folder = Folder::new();
    let mut env = resting("ws://127.0.0.1:1/tunnel", &folder);
    env.iter_mut().filter(|(k, _)| k == "Agent__ApiKey").for_each(|(_, v)| *v = "short".into());
    let value = doctor(&env, 2);
    assert_eq!(value["failedHop"], "settings");
    assert!(check(&value, "settings")["text"].as_str().is_some_and(|t| t.contains("at least 32 characters")));
}

#[test]
fn a_name_without_an_address_and_a_port_without_a_listener_are_told_apart() {
    let folder = Folder::new();
    broken(&resting("wss://no-such-gateway.invalid/tunnel", &folder), "dns", "looked up", "spelt right");
    let env = resting(&format!("ws://127.0.0.1:{}/tunnel", free_port()), &folder);
    broken(&env, "tcp", "cannot connect", "nothing listens");
}

#[test]
fn tls_that_is_none_and_certificates_that_are_wrong_are_told_apart() {
    let gateway = Gateway::start(Settings::gateway());
    let folder = Folder::new();
    let env = resting(&format!("wss://localhost:{}/tunnel", gateway.address().port()), &folder);
    broken(&env, "tls", "", "443");

    let authority = Authority::new();
    let ca = folder.write("ca.pem", &authority.pem());
    for (identity, trusted, text, hint) in [
        (Identity::self_signed(&["localhost"]), false, "self-signed", "Agent__GatewayCaFile"),
        (authority.issue(&["localhost"]), false, "not known here", "Agent__GatewayCaFile"),
        (authority.issue_expired(&["localhost"]), true, "expired", "clock"),
        (authority.issue(&["elsewhere.example"]), true, "elsewhere.example", "site for that name"),
    ] {
        let line = Line::tls(gateway.address(), identity.server());
        let mut env = resting(&format!("wss://localhost:{}/tunnel", line.address().port()), &folder);
        if trusted {
            env.push(("Agent__GatewayCaFile".into(), ca.clone()));
        }
        broken(&env, "tls", text, hint);
        assert_eq!(line.carried(), 0, "nothing is sent to somebody unknown");
    }

    let line = Line::tls(gateway.address(), authority.issue(&["localhost"]).server());
    let mut env = resting(&format!("wss://localhost:{}/tunnel", line.address().port()), &folder);
    env.push(("Agent__GatewayCaFile".into(), ca));
    let value = doctor(&env, 0);
    let text = check(&value, "tls")["text"].as_str().expect("a text").to_owned();
    assert!(text.contains("localhost") && text.contains("Octoporty test authority"), "{text}");
    assert_eq!(state(&value, "version"), "ok");
}

/// A web server in the Gateway's place.
fn instead(health: &'static str, tunnel: &'static str) -> Upstream {
    let upstream = Upstream::start();
    upstream.on("/health", move |x| x.send(health).map(|()| Then::Close));
    upstream.on("/tunnel", move |x| x.send(tunnel).map(|()| Then::Close));
    upstream
}

const HEALTHY: &str =
    "HTTP/1.1 200 OK\r\nContent-Length: 20\r\nConnection: close\r\n\r\n{\"status\":\"healthy\"}";

#[test]
fn a_proxy_without_a_gateway_behind_it_and_a_site_of_others_are_told_apart() {
    let folder = Folder::new();
    let rows = [
        (
            "HTTP/1.1 502 Bad Gateway\r\nServer: Caddy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            "the proxy (Caddy) is up, the Gateway behind it does not answer",
            "octoporty-gateway running",
        ),
        (
            "HTTP/1.1 308 Permanent Redirect\r\nLocation: https://x.example/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            "redirected to https://x.example/",
            "wss://",
        ),
        ("SSH-2.0-OpenSSH_9.2\r\n", "not HTTP", "another service has this port"),
    ];
    for (health, text, hint) in rows {
        let server = instead(health, "");
        broken(&resting(&url(server.address()), &folder), "gateway", text, hint);
    }
    // A web server that knows nothing of us.
    let nothing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let server = instead(nothing, nothing);
    let value =
        broken(&resting(&url(server.address()), &folder), "websocket", "status 404", "lead to the Gateway");
    assert_eq!(state(&value, "gateway"), "warn");
}

#[test]
fn a_wrong_key_is_the_hop_key() {
    let gateway = Gateway::start(Settings::gateway());
    let folder = Folder::new();
    let mut env = resting(&url(gateway.address()), &folder);
    env.iter_mut().filter(|(k, _)| k == "Agent__ApiKey").for_each(|(_, v)| *v = "x".repeat(40));
    let value = broken(&env, "key", "refused the key", "Gateway__ApiKey");
    assert_eq!(state(&value, "websocket"), "ok");
}

#[test]
fn a_gateway_of_another_version_is_the_hop_version() {
    let folder = Folder::new();
    let other = "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 33\r\nConnection: close\r\n\r\nthis Gateway speaks octoporty.v9\n";
    let server = instead(HEALTHY, other);
    broken(&resting(&url(server.address()), &folder), "version", "octoporty.v9", "update the older");

    // One that can still be talked to.
    let fake = FakeGateway::new();
    let env = resting(&fake.url(), &folder);
    let playing = thread::spawn(move || {
        let (head, mut socket) = fake.accept_head();
        assert_eq!(head.path(), "/health");
        std::io::Write::write_all(&mut socket, HEALTHY.as_bytes()).expect("answered");
        drop(socket);
        let (head, mut peer) = fake.accept();
        assert_eq!(head.path(), "/tunnel");
        let hello = peer.expect_control("hello");
        let mut answer = welcome();
        answer["gatewayVersion"] = json!("0.0.1");
        peer.control(&answer);
        // Beats are answered by the way.
        peer.expect_control("bye");
        hello
    });
    let value = doctor(&env, 0);
    let version = check(&value, "version");
    assert_eq!(version["state"], "warn", "{version:#}");
    assert!(
        version["hint"].as_str().is_some_and(|hint| hint.contains("the Gateway is older")),
        "{version:#}"
    );
    let hello = playing.join().expect("no panic");
    assert!(hello["agentName"].as_str().is_some_and(|name| name.ends_with("(doctor)")), "{hello}");
}

#[test]
fn a_clock_that_is_off_is_noticed() {
    let folder = Folder::new();
    let health = "HTTP/1.1 200 OK\r\nDate: Tue, 20 Jan 2015 19:58:47 GMT\r\nContent-Length: 20\r\nConnection: close\r\n\r\n{\"status\":\"healthy\"}";
    let server = instead(health, "");
    broken(&resting(&url(server.address()), &folder), "clock", "ahead of the server", "set-ntp");
}

#[test]
fn a_target_that_is_down_is_named_and_its_public_address_not_blamed() {
    let world = World::start();
    let good = world.publish("good.example.com");
    good.on("/", |x| x.reply(404, &[], b"no page here is an answer all the same"));
    world.agent().map("down.example.com", free_port());
    let value = broken(&world.agent().environment(), "target", "cannot connect", "nothing listens");
    let of = |domain: &str, hop: &str| {
        let checks = value["checks"].as_array().expect("a list");
        let found = checks.iter().find(|check| check["hop"] == hop && check["subject"] == domain);
        found.unwrap_or_else(|| panic!("{hop} of {domain} in {value:#}"))["state"].clone()
    };
    assert_eq!(
        (of("down.example.com", "target"), of("down.example.com", "public")),
        (json!("fail"), json!("skip"))
    );
    assert_eq!(
        (of("good.example.com", "target"), of("good.example.com", "public")),
        (json!("ok"), json!("ok"))
    );
}

#[test]
fn an_agent_that_cannot_connect_says_so_beside_the_hop_that_fails() {
    let folder = Folder::new();
    let mut settings = Settings::agent();
    settings.set("Agent__GatewayUrl", format!("ws://127.0.0.1:{}/tunnel", free_port()));
    settings
        .set("ConnectionStrings__DefaultConnection", format!("Data Source={}/a.db", folder.path().display()));
    let agent = Agent::start(settings);
    let value = doctor(&agent.environment(), 1);
    assert_eq!((state(&value, "agent"), &value["failedHop"]), ("warn", &json!("tcp")), "{value:#}");
}

#[test]
fn through_a_real_caddy_the_way_is_clear_and_its_gateway_is_told_from_caddy() {
    if !caddy::is_here() {
        return;
    }
    let folder = Folder::new();
    let caddy = Caddy::start(|ports| {
        let (https, gateway) = (ports.https, ports.gateway);
        format!("{}localhost:{https} {{\n\treverse_proxy 127.0.0.1:{gateway}\n}}\n", ports.global(""))
    });
    let mut env = resting(&format!("wss://localhost:{}/tunnel", caddy.ports.https), &folder);
    broken(&env, "tls", "not known here", "Agent__GatewayCaFile");
    env.push(("Agent__GatewayCaFile".into(), caddy.authority().display().to_string()));
    broken(
        &env,
        "gateway",
        "the proxy (Caddy) is up, the Gateway behind it does not answer",
        "reverse_proxy",
    );
    let mut settings = Settings::gateway();
    settings.set("Gateway__Port", caddy.ports.gateway.to_string());
    let _gateway = Gateway::start(settings);
    let value = doctor(&env, 0);
    for hop in ["dns", "tcp", "tls", "gateway", "clock", "websocket", "key", "version"] {
        assert_eq!(state(&value, hop), "ok", "{hop}: {value:#}");
    }
    // A name that this Caddy has no site for.
    let other =
        env.iter().map(|(k, v)| (k.clone(), v.replace("wss://localhost", "wss://127.0.0.1"))).collect();
    let value = doctor(&other, 1);
    assert_eq!(value["failedHop"], "tls", "{value:#}");
}

#[test]
fn the_public_address_is_asked_from_outside_through_caddy_and_the_tunnel() {
    if !caddy::is_here() {
        return;
    }
    let folder = Folder::new();
    // The only name that leads here everywhere is the published one; the Gateway has the address.
    let caddy = Caddy::start(|ports| {
        let (https, gateway) = (ports.https, ports.gateway);
        let site = |name| format!("{name}:{https} {{\n\treverse_proxy 127.0.0.1:{gateway}\n}}\n");
        format!("{}{}{}", ports.global(""), site("127.0.0.1"), site("localhost"))
    });
    let mut settings = Settings::gateway();
    settings.set("Gateway__Port", caddy.ports.gateway.to_string());
    let _gateway = Gateway::start(settings);
    let mut settings = Settings::agent();
    settings.set("Agent__GatewayUrl", format!("wss://127.0.0.1:{}/tunnel", caddy.ports.https));
    settings.set("Agent__GatewayCaFile", caddy.authority().display().to_string());
    settings
        .set("ConnectionStrings__DefaultConnection", format!("Data Source={}/a.db", folder.path().display()));
    let agent = Agent::start(settings);
    agent.wait_connected();
    let upstream = Upstream::start();
    upstream.on("/", |x| x.reply(200, &[], b"hello"));
    agent.map("localhost", upstream.port());
    let value = doctor(&agent.environment(), 0);
    let public = check(&value, "public");
    assert_eq!(public["state"], "ok", "{value:#}");
    assert!(public["text"].as_str().is_some_and(|text| text.contains("https://localhost")), "{public:#}");

    // A name that has no record, and one that is not ours any more.
    agent.map("no-such-name.invalid", upstream.port());
    let value = doctor(&agent.environment(), 1);
    let checks = value["checks"].as_array().expect("a list");
    let of = |domain: &str| {
        let found = checks.iter().find(|check| check["hop"] == "public" && check["subject"] == domain);
        found.unwrap_or_else(|| panic!("{domain} in {value:#}")).clone()
    };
    assert_eq!(of("localhost")["state"], "ok");
    let missing = of("no-such-name.invalid");
    assert_eq!(missing["state"], "fail");
    assert!(missing["hint"].as_str().is_some_and(|hint| hint.contains("add a DNS record")), "{missing:#}");
}
