//! Certificates: of upstreams, which may be anything at home, and of Gateways, which may not.

use e2e::bytes::{Hash, first_difference, pattern};
use e2e::certificates::{Authority, Identity};
use e2e::journal::{PATIENCE, until};
use e2e::line::Line;
use e2e::sample;
use e2e::upstream::{Event, Upstream};
use e2e::world::{Agent, Folder, Gateway, Settings, World};
use serde_json::{Value, json};

/// An HTTPS upstream with this certificate.
fn upstream(identity: &Identity) -> Upstream {
    let upstream = Upstream::start_tls(identity.server());
    sample::install(&upstream);
    upstream
}

fn https(allow: bool) -> Value {
    json!({ "internalUseTls": true, "allowSelfSignedCerts": allow })
}

#[test]
fn a_bad_certificate_is_refused_unless_its_mapping_allows_it() {
    let world = World::start();
    let authority = Authority::new();
    let identities = [
        ("self-signed", Identity::self_signed(&["127.0.0.1", "localhost"])),
        ("private-ca", authority.issue(&["127.0.0.1", "localhost"])),
        ("expired", authority.issue_expired(&["127.0.0.1", "localhost"])),
        ("wrong-name", Identity::self_signed(&["elsewhere.example"])),
        ("expired-and-wrong", authority.issue_expired(&["elsewhere.example"])),
    ];
    for (what, identity) in &identities {
        let upstream = upstream(identity);
        let (strict, lax) = (format!("strict-{what}.test"), format!("lax-{what}.test"));
        world.agent().map_with(&strict, upstream.port(), https(false));
        world.agent().map_with(&lax, upstream.port(), https(true));
        // Allowed for one mapping, before and after it is refused for the other: a kept connection or a remembered
        // TLS session of the lax one must not serve the strict one.
        for _ in 0..2 {
            let answer = world.get(&lax, "/hello");
            assert_eq!((answer.status(), answer.text().as_str()), (200, "hello\n"), "{what}");
            let answer = world.get(&strict, "/hello");
            assert_eq!(answer.status(), 502, "{what}: {answer:?}");
            assert_eq!(answer.json()["hop"], "upstream", "{what}");
            assert!(answer.text().contains("certificate"), "{what}: {}", answer.text());
        }
        let reached = upstream.requests().iter().filter(|head| head.path() == "/hello").count();
        assert_eq!(reached, 2, "{what}: nothing was sent before the certificate was checked");
    }
}

#[test]
fn a_private_ca_in_the_systems_store_is_trusted() {
    let authority = Authority::new();
    let folder = Folder::new();
    let bundle = folder.write("system-store.pem", &authority.pem());
    let world = World::plan().agent("SSL_CERT_FILE", bundle).start();
    let good = upstream(&authority.issue(&["127.0.0.1"]));
    world.agent().map_with("good.test", good.port(), https(false));
    let answer = world.get("good.test", "/hello");
    assert_eq!((answer.status(), answer.text().as_str()), (200, "hello\n"));
    for (domain, identity) in [
        ("expired.test", authority.issue_expired(&["127.0.0.1"])),
        ("wrong.test", authority.issue(&["elsewhere.example"])),
    ] {
        let bad = upstream(&identity);
        world.agent().map_with(domain, bad.port(), https(false));
        assert_eq!(world.get(domain, "/hello").status(), 502, "{domain}");
    }
}

#[test]
fn the_name_asked_for_in_tls_is_the_upstreams_own() {
    let world = World::start();
    let upstream = upstream(&Identity::self_signed(&["localhost"]));
    let named = |event: &Event| match event {
        Event::Greeted { server_name, .. } => Some(server_name.clone()),
        _ => None,
    };
    let mut mapping = https(true);
    mapping["internalHost"] = json!("localhost");
    mapping["hostHeader"] = json!("preserve");
    world.agent().map_with("visitors-name.test", upstream.port(), mapping);
    assert_eq!(world.get("visitors-name.test", "/hello").status(), 200);
    assert_eq!(upstream.wait("a TLS greeting", PATIENCE, named).as_deref(), Some("localhost"));
    assert_eq!(upstream.requests()[0].get("host").as_deref(), Some("visitors-name.test"));
}

#[test]
fn an_address_is_not_asked_for_as_a_name() {
    let world = World::start();
    let upstream = upstream(&Identity::self_signed(&["127.0.0.1"]));
    world.agent().map_with("address.test", upstream.port(), https(true));
    assert_eq!(world.get("address.test", "/hello").status(), 200);
    let name = upstream.journal().look(|events| {
        events.iter().find_map(|event| match event {
            Event::Greeted { server_name, .. } => Some(server_name.clone()),
            _ => None,
        })
    });
    assert_eq!(name, Some(None), "RFC 6066 3: no addresses in SNI");
}

#[test]
fn https_upstreams_do_everything_that_http_upstreams_do() {
    let world = World::start();
    let upstream = upstream(&Identity::self_signed(&["127.0.0.1"]));
    world.agent().map_with("https.test", upstream.port(), https(true));
    let mut visitor = world.visitor("https.test");
    let body = visitor.get("/bytes?n=5000000").body;
    assert_eq!(first_difference(&body, &pattern(0, 5_000_000)), None);
    let body = pattern(0, 5_000_000);
    let answer = visitor.request("POST", "/upload", &[], Some(&body));
    assert_eq!(answer.text(), format!("5000000 {} Length(5000000)", Hash::of(&body).hex()));
    for n in 0..20 {
        assert_eq!(visitor.get(&format!("/chunked?n={n}000")).body, pattern(0, n * 1000));
    }
    assert!(upstream.accepted() <= 3, "connections are kept: {}", upstream.accepted());
    let failed = visitor.try_request("GET", "/short", &[], None).expect_err("a byte is missing");
    assert_eq!(failed.body.len(), sample::ANNOUNCED - 1);

    let (_, mut socket) = world.visitor("https.test").websocket("/ws", &[]);
    let message = tungstenite::Message::binary(pattern(0, 1_000_000));
    socket.send(message.clone()).expect("sent");
    assert_eq!(socket.read().expect("echoed"), message);

    let mut visitor = world.visitor("https.test");
    visitor.ask("POST", "/hang", &[]);
    let (connection, _) = upstream.wait_request("/hang");
    visitor.leave();
    upstream.wait_closed(connection, std::time::Duration::from_secs(1));
}

#[test]
fn a_truncated_tls_answer_is_not_taken_for_a_complete_one() {
    let world = World::start();
    let upstream = upstream(&Identity::self_signed(&["127.0.0.1"]));
    upstream.on("/truncated", |x| {
        x.send([b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", &pattern(0, 5000)[..]].concat())?;
        // An attacker's FIN: the TCP connection ends in an orderly way, TLS does not.
        x.socket().tcp().shutdown(std::net::Shutdown::Write)?;
        x.wait_gone()
    });
    world.agent().map_with("truncated.test", upstream.port(), https(true));
    let answer = world.visitor("truncated.test").try_request("GET", "/truncated", &[], None);
    let failed = answer.expect_err("the closing message is missing");
    assert!(failed.body.len() <= 5000);
}

#[test]
fn http_where_https_was_expected_is_502() {
    let world = World::start();
    let plain = Upstream::start();
    sample::install(&plain);
    world.agent().map_with("plain.test", plain.port(), https(true));
    let answer = world.get("plain.test", "/hello");
    assert_eq!((answer.status(), &answer.json()["hop"]), (502, &json!("upstream")), "{answer:?}");
    let secret = upstream(&Identity::self_signed(&["127.0.0.1"]));
    world.agent().map("secret.test", secret.port());
    let answer = world.get("secret.test", "/hello");
    assert_eq!((answer.status(), &answer.json()["hop"]), (502, &json!("upstream")), "{answer:?}");
}

/// An Agent that reaches a Gateway over `wss`, through a line with this certificate.
fn wss(gateway: &Gateway, identity: &Identity, host: &str, ca: Option<&str>) -> (Line, Folder, Agent) {
    let line = Line::tls(gateway.address(), identity.server());
    let folder = Folder::new();
    let mut settings = Settings::agent();
    settings.set("Agent__GatewayUrl", format!("wss://{host}:{}/tunnel", line.address().port()));
    settings
        .set("ConnectionStrings__DefaultConnection", format!("Data Source={}/a.db", folder.path().display()));
    if let Some(pem) = ca {
        settings.set("Agent__GatewayCaFile", folder.write("gateway-ca.pem", pem));
    }
    (line, folder, Agent::start(settings))
}

#[test]
fn a_gateway_with_a_private_ca_is_reached_over_wss() {
    let gateway = Gateway::start(Settings::gateway());
    let authority = Authority::new();
    let identity = authority.issue(&["localhost"]);
    let (_line, _folder, agent) = wss(&gateway, &identity, "localhost", Some(&authority.pem()));
    agent.wait_connected();
    let upstream = Upstream::start();
    sample::install(&upstream);
    agent.map("wss.test", upstream.port());
    let mut visitor = gateway.visitor("wss.test");
    let body = visitor.get("/bytes?n=5000000").body;
    assert_eq!(first_difference(&body, &pattern(0, 5_000_000)), None);
    let body = pattern(0, 5_000_000);
    let answer = visitor.request("POST", "/echo", &[], Some(&body));
    assert_eq!(first_difference(&answer.body, &body), None);
}

#[test]
fn a_gateway_with_a_bad_certificate_gets_no_key() {
    let gateway = Gateway::start(Settings::gateway());
    let authority = Authority::new();
    let cases = [
        ("an unknown CA", authority.issue(&["localhost"]), None),
        ("another CA", authority.issue(&["localhost"]), Some(Authority::new().pem())),
        ("expired", authority.issue_expired(&["localhost"]), Some(authority.pem())),
        ("another name", authority.issue(&["elsewhere.example"]), Some(authority.pem())),
        ("self-signed", Identity::self_signed(&["localhost"]), None),
    ];
    for (what, identity, ca) in &cases {
        let (line, _folder, agent) = wss(&gateway, identity, "localhost", ca.as_deref());
        let error = until(&format!("{what}: an error"), PATIENCE, || {
            agent.status()["lastError"].as_str().map(str::to_lowercase)
        });
        assert!(error.contains("cert") || error.contains("tls"), "{what}: {error}");
        assert_ne!(agent.status()["connectionStatus"], "Connected", "{what}");
        assert_eq!(line.carried(), 0, "{what}: not a byte got through");
    }
}
