//! What visitors get through a real Caddy, in both modes, and what a new mapping does to those who are there already.

use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use e2e::bytes::{first_difference, pattern};
use e2e::caddy::{self, Caddy, Ports};
use e2e::daemon::{Program, run};
use e2e::journal::{PATIENCE, until};
use e2e::line::Line;
use e2e::sample;
use e2e::upstream::{Then, Upstream};
use e2e::websocket::WebSocket;
use e2e::world::{Agent, Folder, Gateway, Settings, World};
use serde_json::{Value, json};
use tungstenite::Message;

/// The Caddyfile that `octoporty-gateway init` writes, changed to test ports and certificates of Caddy's own.
fn file(ports: &Ports, mode: &str, domain: &str) -> String {
    let folder = Folder::new();
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let (env, caddyfile, upstream) =
        (path("gateway.env"), path("Caddyfile"), format!("127.0.0.1:{}", ports.gateway));
    let mut arguments = vec![
        "init",
        "--non-interactive",
        "--fqdn",
        "gateway.test",
        "--output",
        &env,
        "--caddyfile",
        &caddyfile,
        "--upstream",
        &upstream,
    ];
    if mode == "routes" {
        arguments.push("--routes");
    }
    let ended = run(Program::Gateway, &arguments, &[("PATH", "/nowhere")]);
    assert!(ended.status.success(), "{ended:?}");
    let text = std::fs::read_to_string(&caddyfile).expect("the Caddyfile that init wrote");
    let admin = "\tadmin localhost:2019\n";
    assert!(text.contains(admin), "{text}");
    let global = ports.global("");
    let inner = global.trim_start_matches("{\n").trim_end().trim_end_matches('}');
    let text = text.replacen(admin, inner, 1).replace("\ngateway.test {", &format!("\n{domain} {{"));
    if caddy::keeps_streams() { text.replace("# stream_close_delay", "stream_close_delay") } else { text }
}

/// Both daemons behind Caddy. The Agent dials the Gateway past it.
struct Home {
    world: World,
    caddy: Caddy,
}

fn home(mode: &str) -> Home {
    let caddy = Caddy::start(|ports| file(ports, mode, "gateway.test"));
    let world = World::plan()
        .gateway("Gateway__CaddyMode", mode)
        .gateway("Gateway__CaddyAdminUrl", caddy.admin_url())
        .gateway("Gateway__GatewayFqdn", "gateway.test")
        .gateway("Gateway__Port", caddy.ports.gateway.to_string())
        .start();
    Home { world, caddy }
}

impl Home {
    /// Publishes an upstream and waits until its visitors are served.
    fn publish(&self, domain: &str) -> Upstream {
        let upstream = self.world.publish(domain);
        self.caddy.wait_served(domain);
        upstream
    }
}

fn assert_alive(socket: &mut WebSocket, text: &str) {
    socket.send(Message::text(text)).expect("sent");
    assert_eq!(socket.read().expect("echoed"), Message::text(text));
}

/// The mapping with this name, as the API shows it.
fn shown(agent: &Agent, domain: &str) -> Value {
    let answer = agent.call("GET", "/api/v1/mappings", None);
    assert_eq!(answer.status(), 200, "{answer:?}");
    let all = answer.json();
    let all = all.as_array().expect("a list");
    all.iter().find(|mapping| mapping["externalDomain"] == domain).expect("the mapping").clone()
}

#[test]
fn everything_passes_with_http_1_and_with_http_2() {
    if !caddy::is_here() {
        return;
    }
    for mode in ["ask", "routes"] {
        let home = home(mode);
        let upstream = home.publish("app.test");
        let mut visitor = home.caddy.visitor("app.test");
        // 80,000 bytes of head would be refused; 30,000 must pass.
        let long = "x".repeat(30_000);
        let answer = visitor.request("GET", "/echo%2Fx//y/../z?q=a+b%20c&e=", &[("X-Long", &long)], None);
        assert_eq!(answer.status(), 200, "{mode}: {answer:?}");
        let seen = upstream.requests().pop().expect("a request");
        assert_eq!(seen.target(), "/echo%2Fx//y/../z?q=a+b%20c&e=", "{mode}: as it was sent");
        assert_eq!(seen.get("x-long").as_deref(), Some(&*long));
        assert_eq!(
            seen.get("accept-encoding"),
            None,
            "{mode}: nothing is asked for that the visitor did not ask for"
        );
        let answer = visitor.get("/bytes?n=3000000");
        assert_eq!(first_difference(&answer.body, &pattern(0, 3_000_000)), None, "{mode}");
        let body = pattern(0, 5_000_000);
        let answer = visitor.request("POST", "/upload", &[], Some(&body));
        assert!(answer.text().contains("5000000"), "{mode}: {}", answer.text());
        let file = home.world.folder().path().join("body");
        std::fs::write(&file, &body).expect("a file");
        let data = format!("@{}", file.display());
        for (option, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
            let said = home.caddy.curl("app.test", "/hello", &[option, "--write-out", "%{http_version}"]);
            assert_eq!(said, format!("hello\n{version}"), "{mode}");
            let said = home.caddy.curl("app.test", "/upload", &[option, "--data-binary", &data]);
            assert!(said.contains("5000000"), "{mode}, {option}: {said}");
            let said = home.caddy.curl(
                "app.test",
                "/bytes?n=2000000",
                &[option, "--output", "/dev/null", "--write-out", "%{size_download}"],
            );
            assert_eq!(said, "2000000", "{mode}, {option}");
        }
        // A name that nobody publishes has no certificate.
        assert!(home.caddy.try_visitor("stranger.test").is_err(), "{mode}");
        let (_, mut socket) = home.caddy.visitor("app.test").websocket("/ws", &[]);
        assert_alive(&mut socket, "through Caddy");
    }
}

/// A handler's two halves, and the word for the second one.
fn gate() -> (Sender<()>, Mutex<Receiver<()>>) {
    let (open, wait) = channel();
    (open, Mutex::new(wait))
}

#[test]
fn what_is_sent_arrives_before_more_is_sent() {
    if !caddy::is_here() {
        return;
    }
    for mode in ["ask", "routes"] {
        let home = home(mode);
        let upstream = home.publish("app.test");
        for (path, first, head, second) in [
            (
                "/events",
                "7\r\ndata: 1\r\n",
                "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n",
                "7\r\ndata: 2\r\n0\r\n\r\n",
            ),
            ("/slow", "data: 1", "Content-Length: 14\r\n", "data: 2"),
        ] {
            let (open, wait) = gate();
            upstream.on(path, move |x| {
                x.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n{first}"))?;
                wait.lock().expect("one visitor").recv().expect("the test opens it");
                x.send(second)?;
                Ok(Then::Keep)
            });
            let mut visitor = home.caddy.visitor("app.test");
            visitor.ask("GET", path, &[]);
            assert_eq!(visitor.head("GET").status(), 200);
            assert_eq!(visitor.exactly(7), b"data: 1", "{mode}, {path}");
            open.send(()).expect("the upstream waits");
            assert_eq!(visitor.rest(), b"data: 2", "{mode}, {path}");
        }
        // A visitor who leaves is noticed at the other end.
        let mut visitor = home.caddy.visitor("app.test");
        visitor.ask("GET", "/hang", &[]);
        let (connection, _) = upstream.wait_request("/hang");
        visitor.leave();
        assert!(upstream.wait_closed(connection, PATIENCE).is_some(), "{mode}");
    }
}

#[test]
fn an_early_refusal_of_an_upload_is_seen_with_http_2_too() {
    if !caddy::is_here() {
        return;
    }
    let home = home("ask");
    let _upstream = home.publish("app.test");
    let file = home.world.folder().path().join("body");
    std::fs::write(&file, pattern(0, 20_000_000)).expect("a file");
    let data = format!("@{}", file.display());
    // The status is what matters: Debian's curl does not always read the body of an answer that comes while it uploads.
    // With HTTP/1.1 Caddy resets the connection of a visitor who goes on sending, whatever the Gateway does.
    let arguments =
        ["--http2", "--data-binary", &data, "--output", "/dev/null", "--write-out", "%{http_code}"];
    for _ in 0..5 {
        let output = home.caddy.try_curl("app.test", "/early-413", &arguments);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "413", "{output:?}");
    }
}

#[test]
fn with_on_demand_tls_a_new_mapping_cuts_nothing_and_changes_nothing_in_caddy() {
    if !caddy::is_here() {
        return;
    }
    let home = home("ask");
    let _first = home.publish("app.test");
    let (_, mut socket) = home.caddy.visitor("app.test").websocket("/ws", &[]);
    assert_alive(&mut socket, "before");
    let agent = home.world.agent();
    let other = Upstream::start();
    sample::install(&other);
    let id = agent.map("other.test", other.port());
    home.caddy.wait_served("other.test");
    assert_alive(&mut socket, "after");
    agent.unmap(&id);
    // Its certificate is there still; what is behind it is not.
    until("the mapping gone", PATIENCE, || {
        let answer =
            home.caddy.try_visitor("other.test").ok()?.try_request("GET", "/hello", &[], None).ok()?;
        (answer.status() == 404).then_some(())
    });
    assert_alive(&mut socket, "at last");
    assert_eq!(home.caddy.reloads(), 0);
    let caddy = agent.call("GET", "/api/v1/gateway/caddy", None).json();
    assert_eq!(
        (&caddy["mode"], &caddy["state"], &caddy["writes"]),
        (&json!("ask"), &json!("ok"), &json!(0)),
        "{caddy}"
    );
}

#[test]
fn in_routes_mode_a_table_without_a_difference_cuts_nothing() {
    if !caddy::is_here() {
        return;
    }
    let home = home("routes");
    let upstream = home.publish("app.test");
    let agent = home.world.agent();
    let (_, mut socket) = home.caddy.visitor("app.test").websocket("/ws", &[]);
    assert_alive(&mut socket, "before");
    let id = shown(agent, "app.test")["id"].as_str().expect("an id").to_owned();
    let (reads, reloads) = (home.caddy.reads(), home.caddy.reloads());
    // Another text: a new table for the Gateway, nothing new for Caddy.
    agent.change(&id, &e2e::world::mapping("app.test", upstream.port(), json!({ "description": "another" })));
    until("the table's pass", PATIENCE, || (home.caddy.reads() > reads).then_some(()));
    assert_alive(&mut socket, "after");
    assert_eq!(home.caddy.reloads(), reloads);
    agent.map("other.test", upstream.port());
    home.caddy.wait_served("other.test");
    assert_eq!(home.caddy.reloads(), reloads + 1);
    if caddy::keeps_streams() {
        assert_alive(&mut socket, "after a change");
    } else {
        // What this Caddy does to every WebSocket when anything changes, and why ask mode is better.
        let end = until("the end", PATIENCE, || {
            socket.read().map_or_else(
                |_| Some(None),
                |m| match m {
                    Message::Close(frame) => Some(frame.map(|frame| u16::from(frame.code))),
                    _ => None,
                },
            )
        });
        assert_eq!(end, Some(1001));
    }
}

#[test]
fn a_name_under_a_foreign_wildcard_reaches_us_and_its_siblings_do_not() {
    if !caddy::is_here() {
        return;
    }
    let caddy = Caddy::start(|ports| {
        format!("{}\n*.w.test {{\n\trespond wildcard\n}}\n", file(ports, "routes", "gateway.test"))
    });
    let world = World::plan()
        .gateway("Gateway__CaddyMode", "routes")
        .gateway("Gateway__CaddyAdminUrl", caddy.admin_url())
        .gateway("Gateway__Port", caddy.ports.gateway.to_string())
        .start();
    let home = Home { world, caddy };
    let _upstream = home.publish("app.w.test");
    assert_eq!(home.caddy.first_visitor("other.w.test").get("/").text(), "wildcard");
}

#[test]
fn what_a_visitor_says_about_himself_is_not_believed() {
    if !caddy::is_here() {
        return;
    }
    for mode in ["ask", "routes"] {
        let home = home(mode);
        let upstream = home.publish("app.test");
        let forged = [
            ("X-Octoporty-Mapping-Id", "00000000-0000-0000-0000-000000000000"),
            ("X-Octoporty-Anything", "x"),
            ("X-Real-IP", "192.0.2.66"),
            ("Forwarded", "for=192.0.2.66;host=evil.test"),
            ("X-Forwarded-For", "192.0.2.66"),
            ("X-Forwarded-Host", "evil.test"),
            ("X-Forwarded-Proto", "gopher"),
        ];
        let mut visitor = home.caddy.visitor("app.test");
        let answer = visitor.request("GET", "/seen", &forged, None);
        assert_eq!(answer.status(), 200);
        let (_, head) = upstream.wait_request("/seen");
        let text = String::from_utf8_lossy(&head.raw).to_lowercase();
        for word in ["192.0.2.66", "evil.test", "gopher", "x-octoporty-anything", "00000000-0000-0000"] {
            assert!(!text.contains(word), "{mode}, {word}: {text}");
        }
        assert_eq!(head.get("x-forwarded-for").as_deref(), Some("127.0.0.1"), "{mode}");
        assert_eq!(head.get("x-forwarded-proto").as_deref(), Some("https"), "{mode}");
        // The port in Host is the visitor's, and names the same mapping.
        let host = format!("app.test:{}", home.caddy.ports.https);
        let mut visitor = home.caddy.visitor("app.test");
        visitor.send(format!("GET /port HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(visitor.response("GET").status(), 200, "{mode}");
        assert_eq!(upstream.wait_request("/port").1.get("host"), Some(host), "{mode}");
    }
}

/// An Agent that dials through Caddy with TLS, believing Caddy's own authority. `port` leads to Caddy's for HTTPS.
fn agent_through(caddy: &Caddy, port: u16, folder: &Folder) -> Agent {
    let mut settings = Settings::agent();
    settings.set("Agent__GatewayUrl", format!("wss://localhost:{port}/tunnel"));
    settings.set("Agent__GatewayCaFile", caddy.authority().to_str().expect("UTF-8"));
    let database = folder.path().join("agent.db");
    settings.set("ConnectionStrings__DefaultConnection", format!("Data Source={}", database.display()));
    Agent::start(settings)
}

#[test]
fn the_tunnel_itself_passes_through_caddy_and_survives_a_new_mapping() {
    if !caddy::is_here() {
        return;
    }
    for mode in ["ask", "routes"] {
        let caddy = Caddy::start(|ports| file(ports, mode, "localhost"));
        let mut settings = Settings::gateway();
        settings.set("Gateway__CaddyMode", mode);
        settings.set("Gateway__CaddyAdminUrl", caddy.admin_url());
        settings.set("Gateway__Port", caddy.ports.gateway.to_string());
        let gateway = Gateway::start(settings);
        let folder = Folder::new();
        let agent = agent_through(&caddy, caddy.ports.https, &folder);
        agent.wait_connected();
        let upstream = Upstream::start();
        sample::install(&upstream);
        let sessions =
            || gateway.daemon.lines().iter().filter(|line| line.contains(": connected, version")).count();
        let mut expected = 1;
        for (n, name) in ["one.test", "two.test"].iter().enumerate() {
            agent.map(name, upstream.port());
            caddy.wait_served(name);
            // Older Caddys cut off all that is open when they change; then the Agent is back at once.
            let cut = mode == "routes" && !caddy::keeps_streams();
            expected += usize::from(cut);
            until("the Agent back", PATIENCE, || {
                (sessions() == expected && agent.status()["connectionStatus"] == "Connected").then_some(())
            });
            assert_eq!(
                caddy.reloads(),
                if mode == "routes" { n + 1 } else { 0 },
                "{mode}: one change for one mapping"
            );
        }
        // No loop: the next looks at Caddy find nothing to do.
        let reads = caddy.reads();
        if mode == "routes" {
            until("two more looks", PATIENCE * 2, || (caddy.reads() >= reads + 2).then_some(()));
            assert_eq!((caddy.reloads(), sessions()), (2, expected));
        } else {
            assert_eq!((caddy.reloads(), sessions()), (0, 1));
        }
    }
}

#[test]
fn links_through_caddy_that_fall_silent_are_replaced_too() {
    if !caddy::is_here() {
        return;
    }
    let caddy = Caddy::start(|ports| file(ports, "ask", "localhost"));
    let mut settings = Settings::gateway();
    settings.set("Gateway__Port", caddy.ports.gateway.to_string());
    let gateway = Gateway::start(settings);
    let line = Line::to((Ipv4Addr::LOCALHOST, caddy.ports.https).into());
    let folder = Folder::new();
    let agent = agent_through(&caddy, line.address().port(), &folder);
    agent.wait_connected();
    let upstream = Upstream::start();
    sample::install(&upstream);
    agent.map("silent.test", upstream.port());
    until("four links", PATIENCE, || (agent.status()["links"] == 4).then_some(()));
    // Caddy still has all of them to the Gateway, and the Gateway all of them to Caddy.
    line.silence();
    let began = Instant::now();
    until("served again", PATIENCE, || {
        (gateway.visitor("silent.test").get("/hello").status() == 200).then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let len = 8 << 20;
    let body = gateway.visitor("silent.test").get(&format!("/bytes?n={len}")).body;
    assert_eq!(first_difference(&body, &pattern(0, len)), None);
}

#[test]
fn the_operator_sees_certificates_and_states() {
    if !caddy::is_here() {
        return;
    }
    for mode in ["ask", "routes"] {
        let home = home(mode);
        let agent = home.world.agent();
        let upstream = home.publish("app.test");
        // Looked at once without being asked to.
        let mapping = until("a look at the certificate", PATIENCE, || {
            let mapping = shown(agent, "app.test");
            (mapping["certificate"]["state"] == "ok").then_some(mapping)
        });
        assert_eq!(
            (&mapping["routeState"], &mapping["routeError"]),
            (&json!("served"), &Value::Null),
            "{mapping}"
        );
        let issuer = mapping["certificate"]["issuer"].as_str().unwrap_or_default();
        assert!(issuer.contains("Caddy Local Authority"), "{mapping}");
        let id = mapping["id"].as_str().expect("an id");
        let answer = agent.call("GET", &format!("/api/v1/mappings/{id}/certificate?fresh=true"), None);
        assert_eq!(answer.status(), 200, "{answer:?}");
        let report = answer.json();
        assert_eq!((&report["state"], &report["names"]), (&json!("ok"), &json!(["app.test"])), "{report}");
        assert!(
            report["notAfter"].as_str() > report["notBefore"].as_str() && report["daysLeft"] == 0,
            "{report}"
        );
        let caddy = agent.call("GET", "/api/v1/gateway/caddy", None).json();
        assert_eq!((&caddy["mode"], &caddy["state"]), (&json!(mode), &json!("ok")), "{caddy}");
        // A name of the Gateway's own is refused for the certificate's sake as well.
        let stranger = agent.map("never.test", upstream.port());
        let path = format!("/api/v1/mappings/{stranger}");
        let off = e2e::world::mapping("never.test", upstream.port(), json!({ "isEnabled": false }));
        assert_eq!(agent.call("PUT", &path, Some(&off)).status(), 200);
        let report = agent.call("GET", &format!("{path}/certificate?fresh=true"), None).json();
        assert_ne!(report["state"], "ok", "not published: {report}");
    }
}

#[test]
fn a_caddy_that_cannot_serve_a_name_says_why() {
    if !caddy::is_here() {
        return;
    }
    // On demand, and asking somebody who always says no.
    let nobody = Upstream::start();
    let caddy = Caddy::start(|ports| {
        let text = file(ports, "ask", "gateway.test");
        let ask = format!("ask http://127.0.0.1:{}/caddy/ask", ports.gateway);
        assert!(text.contains(&ask), "{text}");
        text.replace(&ask, &format!("ask http://127.0.0.1:{}/caddy/ask", nobody.port()))
    });
    let world = World::plan()
        .gateway("Gateway__CaddyMode", "ask")
        .gateway("Gateway__CaddyAdminUrl", caddy.admin_url())
        .gateway("Gateway__Port", caddy.ports.gateway.to_string())
        .start();
    let upstream = world.publish("app.test");
    drop(upstream);
    let id = shown(world.agent(), "app.test")["id"].as_str().expect("an id").to_owned();
    let report = until("the alert", PATIENCE, || {
        let path = format!("/api/v1/mappings/{id}/certificate?fresh=true");
        let report = world.agent().call("GET", &path, None).json();
        (report["state"] == "error").then_some(report)
    });
    assert!(report["error"].as_str().is_some_and(|text| text.contains("internal_error")), "{report}");
}

#[test]
fn caddys_question_is_answered_for_published_names_only() {
    let folder = Folder::new();
    let directory = folder.path().to_str().expect("UTF-8");
    let mut world = World::plan().gateway("Gateway__StateDirectory", directory).start();
    let upstream = Upstream::start();
    let agent = world.agent();
    agent.map("app.test", upstream.port());
    agent.map("*.w.test", upstream.port());
    let gateway = world.gateway();
    let address = gateway.address().to_string();
    let ask = |gateway: &Gateway, target: &str, fields: &[(&str, &str)]| {
        gateway.visitor(&address).request("GET", target, fields, None).status()
    };
    for (domain, status) in [
        ("app.test", 200),
        ("APP.Test", 200),
        ("app.test.", 200),
        ("x.w.test", 200),
        ("w.test", 404),
        ("x.y.w.test", 404),
        ("*.w.test", 400),
        ("stranger.test", 404),
        ("127.0.0.1", 404),
        ("app.test:443", 404),
        ("", 400),
        ("a%00b", 400),
    ] {
        let target = format!("/caddy/ask?domain={domain}");
        assert_eq!(ask(gateway, &target, &[]), status, "{domain:?}");
    }
    assert_eq!(ask(gateway, "/caddy/ask", &[]), 400);
    let target = "/caddy/ask?domain=app.test";
    // A visitor through Caddy, and one who asks under a public name.
    assert_eq!(ask(gateway, target, &[("X-Forwarded-For", "192.0.2.1")]), 404);
    assert_eq!(gateway.visitor("gateway.example.com").get(target).status(), 404);
    // The Agent is away, then the Gateway starts anew and has not seen it yet.
    world.agents[0].daemon.kill();
    until("the Agent away", PATIENCE, || {
        (world.gateway().visitor(&address).get("/health").json()["status"] == "degraded").then_some(())
    });
    assert_eq!(ask(world.gateway(), target, &[]), 200);
    let file = folder.path().join("known-hosts");
    until("names remembered", PATIENCE, || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains("*.w.test")).then_some(())
    });
    world.gateways[0].restart();
    for (domain, status) in [("app.test", 200), ("x.w.test", 200), ("stranger.test", 404)] {
        assert_eq!(ask(world.gateway(), &format!("/caddy/ask?domain={domain}"), &[]), status, "{domain}");
    }
    // Without the file nothing is known, and nothing else happens.
    std::fs::remove_file(&file).expect("a file");
    world.gateways[0].restart();
    assert_eq!(ask(world.gateway(), target, &[]), 404);
    world.agents[0].start_again();
    world.agents[0].wait_connected();
    until("known again", PATIENCE, || (ask(world.gateway(), target, &[]) == 200).then_some(()));
}

#[test]
fn visitors_of_an_agent_that_is_started_again_see_an_end_and_come_back() {
    if !caddy::is_here() {
        return;
    }
    let mut home = home("ask");
    let upstream = home.publish("app.test");
    upstream.on("/events", |x| {
        x.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        x.chunk(b"data: 1\n\n")?;
        x.wait_gone()
    });
    let (_, mut socket) = home.caddy.visitor("app.test").websocket("/ws", &[]);
    assert_alive(&mut socket, "before");
    let mut events = home.caddy.visitor("app.test");
    events.ask("GET", "/events", &[("Accept", "text/event-stream")]);
    assert_eq!(events.head("GET").status(), 200);
    assert_eq!(events.exactly(9), b"data: 1\n\n");
    home.world.agent().daemon.signal("TERM");
    assert_eq!(events.piece(), Ok(None), "the last chunk, as the service would have sent it");
    assert!(socket.read().is_err(), "the WebSocket's connection has ended");
    // Both come back while nobody is there.
    let tls = home.caddy.visitor("app.test");
    let again = sample::beside(move || tls.websocket("/ws", &[]).1);
    let mut events = home.caddy.visitor("app.test");
    events.ask("GET", "/events", &[("Accept", "text/event-stream")]);
    assert_eq!(home.world.agents[0].daemon.wait_exit(PATIENCE).code(), Some(0));
    home.world.agents[0].start_again();
    assert_alive(&mut again.join().expect("a visitor"), "after");
    assert_eq!(events.head("GET").status(), 200);
    assert_eq!(events.exactly(9), b"data: 1\n\n");
}
