//! Which host a request is for, what belongs to one hop only, and who the upstream is told the visitor is.

use e2e::message::Head;
use e2e::site::Site;
use e2e::upstream::Upstream;
use e2e::visitor::Visitor;
use e2e::world::World;
use serde_json::json;

/// The head of the only request at an upstream so far with this path.
fn seen(upstream: &Upstream, path: &str) -> Head {
    upstream.wait_request(path).1
}

#[test]
fn hop_by_hop_fields_of_a_request_are_removed() {
    let site = Site::new();
    let fields = [
        ("Connection", "keep-alive, X-Listed"),
        ("connection", "x-also-listed"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authorization", "Basic eDp5"),
        ("TE", "trailers, deflate"),
        ("X-Listed", "1"),
        ("X-Also-Listed", "2"),
        ("X-Kept", "3"),
        ("Upgrade", "h2c"),
        ("Authorization", "Basic eDp5"),
    ];
    assert_eq!(site.request("GET", "/hop", &fields, None).status(), 200);
    let head = seen(&site.upstream, "/hop");
    for name in
        ["keep-alive", "proxy-connection", "proxy-authorization", "x-listed", "x-also-listed", "upgrade"]
    {
        assert_eq!(head.get(name), None, "{head:?}");
    }
    assert!(!head.lists("te", "deflate"), "{head:?}");
    assert_eq!(head.get("x-kept").as_deref(), Some("3"));
    assert_eq!(head.get("authorization").as_deref(), Some("Basic eDp5"));
}

#[test]
fn hop_by_hop_fields_of_an_answer_are_removed() {
    let site = Site::new();
    site.upstream.on("/hop", |x| {
        let fields = [
            ("Connection", "keep-alive, X-Listed"),
            ("Keep-Alive", "timeout=5, max=7"),
            ("Proxy-Authenticate", "Basic"),
            ("Proxy-Connection", "keep-alive"),
            ("X-Listed", "1"),
            ("X-Kept", "2"),
            ("WWW-Authenticate", "Basic realm=\"x\""),
            ("Via", "1.1 somebody"),
            ("Upgrade", "h2c"),
        ];
        x.reply(200, &fields, b"ok")
    });
    let answer = site.get("/hop");
    for name in ["keep-alive", "proxy-connection", "x-listed"] {
        assert_eq!(answer.get(name), None, "{:?}", answer.head);
    }
    assert!(!answer.head.lists("connection", "x-listed"), "{:?}", answer.head);
    assert_eq!(answer.get("x-kept").as_deref(), Some("2"));
    assert_eq!(answer.get("via").as_deref(), Some("1.1 somebody"));
    assert_eq!(answer.get("www-authenticate").as_deref(), Some("Basic realm=\"x\""));
}

#[test]
fn naming_a_vital_field_in_connection_removes_nothing_vital() {
    let site = Site::new();
    let fields = [("Connection", "close, Content-Length, Host, X-Forwarded-For")];
    let answer = site.request("POST", "/upload", &fields, Some(b"hello"));
    assert_eq!(answer.status(), 200);
    assert!(answer.text().starts_with("5 "), "{}", answer.text());
    let head = seen(&site.upstream, "/upload");
    assert_eq!(head.get("host").as_deref(), Some(site.domain()));
    assert_eq!(head.all("x-forwarded-for").len(), 1, "{head:?}");
}

#[test]
fn a_trusted_proxy_says_who_the_visitor_is() {
    let site = Site::new();
    let fields = [
        ("X-Forwarded-For", "203.0.113.9, 198.51.100.7"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", site.domain()),
        ("X-Real-IP", "10.9.8.7"),
    ];
    assert_eq!(site.request("GET", "/who", &fields, None).status(), 200);
    let head = seen(&site.upstream, "/who");
    assert_eq!(head.all("x-forwarded-for"), ["203.0.113.9, 198.51.100.7"]);
    assert_eq!(head.all("x-forwarded-proto"), ["https"]);
    assert_eq!(head.all("x-forwarded-host"), [site.domain()]);
    assert_eq!(head.all("x-real-ip"), ["198.51.100.7"], "the right-most address that no trusted proxy has");
}

#[test]
fn without_a_proxy_the_visitor_is_the_peer() {
    let site = Site::new();
    assert_eq!(site.get("/who").status(), 200);
    let head = seen(&site.upstream, "/who");
    assert_eq!(head.all("x-forwarded-proto"), ["http"]);
    assert_eq!(head.all("x-forwarded-host"), [site.domain()]);
    assert_eq!(head.all("x-real-ip"), ["127.0.0.1"]);
    assert_eq!(head.all("x-forwarded-for").len(), 1, "{head:?}");
    assert_eq!(head.all("x-octoporty-request-id").len(), 1, "{head:?}");
}

#[test]
fn nobody_else_is_believed() {
    let world = World::plan().gateway("Gateway__TrustedProxies", "none").start();
    let upstream = world.publish("app.test");
    let fields = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("x-forwarded-for", "203.0.113.10"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "bank.example"),
        ("X-Real-IP", "203.0.113.9"),
        ("Forwarded", "for=203.0.113.9"),
    ];
    assert_eq!(world.visitor("app.test").request("GET", "/who", &fields, None).status(), 200);
    let head = seen(&upstream, "/who");
    assert_eq!(head.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(head.all("x-forwarded-proto"), ["http"]);
    assert_eq!(head.all("x-forwarded-host"), ["app.test"]);
    assert_eq!(head.all("x-real-ip"), ["127.0.0.1"]);
    assert!(!String::from_utf8_lossy(&head.raw).contains("203.0.113"), "{head:?}");
}

#[test]
fn internal_fields_cannot_be_forged() {
    let site = Site::new();
    let fields = [
        ("X-Octoporty-Mapping-Id", "00000000-0000-0000-0000-000000000001"),
        ("X-Octoporty-Request-Id", "chosen-by-the-visitor"),
    ];
    assert_eq!(site.request("GET", "/forged", &fields, None).status(), 200);
    let head = seen(&site.upstream, "/forged");
    assert_eq!(head.get("x-octoporty-mapping-id"), None, "{head:?}");
    let ids = head.all("x-octoporty-request-id");
    assert_eq!(ids.len(), 1, "{head:?}");
    assert_ne!(ids[0], "chosen-by-the-visitor");
    assert_eq!(head.get("x-request-id").as_deref(), Some("chosen-by-the-visitor"), "kept as a label");
}

#[test]
fn every_request_has_an_id_of_its_own() {
    let site = Site::new();
    let mut visitor = site.visitor();
    for _ in 0..20 {
        visitor.get("/any");
    }
    let ids: std::collections::HashSet<_> =
        site.upstream.requests().iter().filter_map(|head| head.get("x-octoporty-request-id")).collect();
    assert_eq!(ids.len(), 20, "{ids:?}");
}

#[test]
fn the_host_is_found_in_any_spelling() {
    let site = Site::new();
    let domain = site.domain();
    for host in
        [domain.to_uppercase(), format!("{domain}:80"), format!("{domain}:17200"), format!("{domain}.")]
    {
        let answer = Visitor::connect(site.address(), &host).get("/hello");
        assert_eq!((answer.status(), answer.text().as_str()), (200, "hello\n"), "{host}");
    }
}

#[test]
fn an_absolute_target_names_the_host() {
    let site = Site::new();
    let mut visitor = site.visitor();
    let domain = site.domain();
    visitor.send(format!("GET http://{domain}/absolute?x=1 HTTP/1.1\r\nHost: {domain}\r\n\r\n"));
    assert_eq!(visitor.response("GET").status(), 200);
    let head = seen(&site.upstream, "/absolute");
    assert_eq!((head.target().as_str(), head.get("host").as_deref()), ("/absolute?x=1", Some(domain)));
    visitor.send(format!("GET http://{domain} HTTP/1.1\r\nHost: {domain}\r\n\r\n"));
    assert_eq!(visitor.response("GET").status(), 200);
    assert_eq!(seen(&site.upstream, "/").target(), "/");
}

#[test]
fn a_wildcard_serves_one_label_and_an_exact_name_goes_first() {
    let world = World::start();
    let wild = world.publish("*.wild.test");
    let exact = world.publish("exact.wild.test");
    for host in ["a.wild.test", "b-2.wild.test", "xn--caf-dma.wild.test"] {
        assert_eq!(world.get(host, "/hello").status(), 200, "{host}");
    }
    assert_eq!((wild.requests().len(), exact.requests().len()), (3, 0));
    assert_eq!(world.get("exact.wild.test", "/hello").status(), 200);
    assert_eq!((wild.requests().len(), exact.requests().len()), (3, 1));
    for host in ["wild.test", "a.b.wild.test", "wild.test.example", "awild.test"] {
        assert_eq!(world.get(host, "/hello").status(), 404, "{host}");
    }
}

#[test]
fn paths_of_an_app_belong_to_the_app() {
    let site = Site::new();
    for path in ["/health", "/tunnel", "/test/echo", "/metrics", "/caddy/ask", "/api/v1/status", "/"] {
        let answer = site.get(path);
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(seen(&site.upstream, path).path(), path);
    }
}

#[test]
fn the_gateways_own_paths_exist_on_its_own_hosts_only() {
    let site = Site::new();
    let address = site.address();
    for host in
        [address.to_string(), "127.0.0.1".into(), "localhost".into(), format!("localhost:{}", address.port())]
    {
        let answer = Visitor::connect(address, &host).get("/health");
        assert_eq!((answer.status(), answer.json()["status"].as_str()), (200, Some("healthy")), "{host}");
        let nothing = Visitor::connect(address, &host).get("/nothing-here");
        assert_eq!(nothing.status(), 404, "{host}");
    }
    assert!(site.upstream.requests().is_empty());
}

#[test]
fn host_header_is_what_the_mapping_says() {
    let port_of = |site: &Site| site.upstream.port();
    let preserve = Site::with(json!({ "hostHeader": "preserve" }));
    assert_eq!(preserve.get("/host").status(), 200);
    assert_eq!(seen(&preserve.upstream, "/host").all("host"), [preserve.domain()]);

    let target = Site::with(json!({ "hostHeader": "target" }));
    assert_eq!(target.get("/host").status(), 200);
    assert_eq!(seen(&target.upstream, "/host").all("host"), [format!("127.0.0.1:{}", port_of(&target))]);

    let literal = Site::with(json!({ "hostHeader": "intern.example" }));
    assert_eq!(literal.get("/host").status(), 200);
    let head = seen(&literal.upstream, "/host");
    assert_eq!(head.all("host"), ["intern.example"]);
    assert_eq!(head.all("x-forwarded-host"), [literal.domain()], "what the visitor asked for is not lost");

    let mut other_port = Visitor::connect(preserve.address(), &format!("{}:8443", preserve.domain()));
    assert_eq!(other_port.get("/host-with-port").status(), 200);
    let head = seen(&preserve.upstream, "/host-with-port");
    assert_eq!(head.all("host"), [format!("{}:8443", preserve.domain())], "preserved with its port");
}

#[test]
fn an_upstream_may_be_named() {
    let site = Site::with(json!({ "internalHost": "localhost", "hostHeader": "target" }));
    assert_eq!(site.get("/named").status(), 200);
    assert_eq!(seen(&site.upstream, "/named").all("host"), [format!("localhost:{}", site.upstream.port())]);
}

#[test]
fn cors_belongs_to_the_app() {
    let site = Site::new();
    let fields = [("Origin", "https://elsewhere.example"), ("Access-Control-Request-Method", "PUT")];
    let preflight = site.request("OPTIONS", "/any", &fields, None);
    assert_eq!(preflight.get("access-control-allow-origin"), None, "nothing is added: {:?}", preflight.head);
    let head = seen(&site.upstream, "/any");
    assert_eq!(head.get("origin").as_deref(), Some("https://elsewhere.example"));
}
