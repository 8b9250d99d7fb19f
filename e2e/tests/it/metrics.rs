//! `/metrics` of both daemons, read by Prometheus' own parser.

use e2e::journal::{PATIENCE, until};
use e2e::python;
use e2e::visitor::Response;
use e2e::world::World;
use serde_json::Value;

const TOKEN: &str = "a-token-for-metrics-only";

/// Reads a page with the parser of Prometheus' client library and gives every sample.
fn samples(page: &Response) -> Vec<Value> {
    assert_eq!(page.status(), 200, "{page:?}");
    assert_eq!(page.get("content-type").as_deref(), Some("text/plain; version=0.0.4; charset=utf-8"));
    let program = r#"
import json, sys
from prometheus_client.parser import text_string_to_metric_families
names = set()
out = []
for family in text_string_to_metric_families(sys.stdin.buffer.read().decode()):
    assert family.name not in names, "told twice: " + family.name
    names.add(family.name)
    assert family.type in ("counter", "gauge", "histogram"), family
    assert family.documentation, family
    assert family.samples or family.type == "gauge" or "request" in family.name, family
    seen = set()
    for sample in family.samples:
        key = (sample.name, tuple(sorted(sample.labels.items())))
        assert key not in seen, key
        seen.add(key)
        out.append({"family": family.name, "type": family.type, "name": sample.name, "labels": sample.labels,
                    "value": sample.value})
print(json.dumps(out))
"#;
    let samples: Vec<Value> =
        serde_json::from_str(&python::run(program, &page.body)).expect("what the program prints");
    assert!(samples.len() > 20, "{samples:?}");
    samples
}

/// The value of a sample that has at least these labels.
fn value(samples: &[Value], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let fits = |sample: &&Value| {
        sample["name"] == name && labels.iter().all(|(label, wanted)| sample["labels"][label] == *wanted)
    };
    let mut fitting = samples.iter().filter(fits);
    let found = fitting.next()?;
    assert_eq!(fitting.next(), None, "{name} {labels:?} stands for several");
    found["value"].as_f64()
}

#[test]
fn both_daemons_count_what_passes_and_prometheus_can_read_it() {
    let world = World::plan().agent("Agent__MetricsToken", TOKEN).start();
    let upstream = world.publish("app.test");
    upstream.on("/missing", |x| x.reply(404, &[], b"no"));
    upstream.on("/taken", |x| x.reply(200, &[], b"12345"));
    world.wait_served("app.test");
    let authorization = format!("Bearer {TOKEN}");
    let agents = || world.agent().call_with("GET", "/metrics", &[("Authorization", &authorization)], None);
    let gateways = || world.get("127.0.0.1", "/metrics");
    let mapping = |host| [("host", host)];
    let class = |class| [("host", "app.test"), ("class", class)];
    // The pages that are compared were asked for before and after.
    let pages = || [samples(&agents()), samples(&gateways())];
    let before = pages();
    for _ in 0..5 {
        assert_eq!(world.get("app.test", "/taken").status(), 200);
    }
    assert_eq!(world.get("app.test", "/missing").status(), 404);
    let more = |after: &[Vec<Value>; 2], name: &str, labels: &[(&str, &str)]| -> [f64; 2] {
        [0, 1].map(|daemon| {
            let at =
                |page: &[Value]| value(page, name, labels).unwrap_or_else(|| panic!("{name} {labels:?}"));
            at(&after[daemon]) - at(&before[daemon])
        })
    };
    // A request is counted when it is over, which the visitor may know sooner.
    let after = until("six requests counted", PATIENCE, || {
        let after = pages();
        (more(&after, "octoporty_request_duration_seconds_count", &mapping("app.test")) == [6.0, 6.0])
            .then_some(after)
    });
    assert_eq!(more(&after, "octoporty_requests_total", &class("2xx")), [5.0, 5.0]);
    assert_eq!(more(&after, "octoporty_requests_total", &class("4xx")), [1.0, 1.0]);
    assert_eq!(more(&after, "octoporty_requests_total", &class("5xx")), [0.0, 0.0]);
    assert_eq!(more(&after, "octoporty_requests_failed_total", &mapping("app.test")), [0.0, 0.0]);
    assert_eq!(more(&after, "octoporty_response_bytes_total", &mapping("app.test")), [27.0, 27.0]);
    let all = [("host", "app.test"), ("le", "+Inf")];
    assert_eq!(more(&after, "octoporty_request_duration_seconds_bucket", &all), [6.0, 6.0]);
    for bytes in ["octoporty_tunnel_received_bytes_total", "octoporty_tunnel_sent_bytes_total"] {
        assert!(more(&after, bytes, &[]).iter().all(|more| *more > 100.0), "{bytes}");
    }
    for page in &after {
        assert_eq!(value(page, "octoporty_tunnel_up", &[]), Some(1.0));
        for (name, least) in [
            ("octoporty_tunnel_links", 1.0),
            ("octoporty_tunnel_streams", 0.0),
            ("octoporty_tunnel_rtt_seconds", 0.0),
            ("octoporty_memory_budget_bytes", 1.0),
            ("octoporty_memory_held_bytes", 0.0),
            ("process_resident_memory_bytes", 1e6),
        ] {
            let value = value(page, name, &[]).unwrap_or_else(|| panic!("{name} in {page:?}"));
            assert!(value >= least, "{name} {value}");
        }
        assert_eq!(value(page, "octoporty_queue_overflows_total", &[("queue", "log")]), Some(0.0));
        let buckets: Vec<f64> = page
            .iter()
            .filter(|sample| sample["name"] == "octoporty_request_duration_seconds_bucket")
            .filter_map(|sample| sample["value"].as_f64())
            .collect();
        assert!(buckets.len() > 10 && buckets.is_sorted(), "{buckets:?}");
    }
    assert!(value(&after[1], "octoporty_caddy_passes_total", &[]).is_some());
    assert_eq!(value(&after[1], "octoporty_agents", &[]), Some(1.0));
    assert_eq!(value(&after[0], "octoporty_mappings", &[("state", "enabled")]), Some(1.0));
}

#[test]
fn a_failure_of_the_upstream_is_counted_at_both_ends() {
    let world = World::plan().agent("Agent__MetricsToken", TOKEN).start();
    let upstream = world.publish("gone.test");
    world.wait_served("gone.test");
    drop(upstream);
    assert_eq!(world.get("gone.test", "/").status(), 502);
    let authorization = format!("Bearer {TOKEN}");
    until("the failure at the Agent", PATIENCE, || {
        let page = world.agent().call_with("GET", "/metrics", &[("Authorization", &authorization)], None);
        value(&samples(&page), "octoporty_requests_failed_total", &[("host", "gone.test")])
            .filter(|n| *n >= 1.0)
    });
    until("the failure at the Gateway", PATIENCE, || {
        let page = samples(&world.get("127.0.0.1", "/metrics"));
        value(&page, "octoporty_requests_failed_total", &[("host", "gone.test")]).filter(|n| *n >= 1.0)
    });
}

#[test]
fn metrics_are_not_for_visitors() {
    let world = World::start();
    let upstream = world.publish("app.test");
    upstream.on("/metrics", |x| x.reply(200, &[], b"the app's own"));
    world.wait_served("app.test");
    assert_eq!(world.get("app.test", "/metrics").text(), "the app's own");
    // What a proxy has passed on comes from a visitor, wherever the proxy is.
    for field in ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"] {
        let answer = world.visitor("127.0.0.1").request("GET", "/metrics", &[(field, "203.0.113.7")], None);
        assert_eq!(answer.status(), 404, "{field}");
    }
    let strict = World::plan().gateway("Gateway__TrustedProxies", "192.0.2.1").start();
    assert_eq!(strict.get("127.0.0.1", "/metrics").status(), 404);
    assert_eq!(world.agent().call_with("GET", "/metrics", &[], None).status(), 401);
    assert_eq!(world.agent().call("GET", "/metrics", None).status(), 200, "the Operator");
}

#[test]
fn the_gateways_page_is_written_beside_the_ingress_and_the_connection_goes_on() {
    let world = World::start();
    let mut visitor = world.visitor("127.0.0.1");
    // The second request is here before the first page is.
    visitor.ask("GET", "/metrics", &[]);
    visitor.ask("HEAD", "/metrics", &[]);
    let page = visitor.response("GET");
    assert!(page.text().contains("octoporty_agents"), "{page:?}");
    let head = visitor.response("HEAD");
    assert_eq!(
        (head.status(), head.body.len(), page.get("cache-control")),
        (200, 0, Some("no-store".into()))
    );
    let announced = head.get("content-length").and_then(|length| length.parse::<usize>().ok());
    assert!(announced.is_some_and(|length| length > 1000), "{head:?}");
    // A body that nobody asked for is read and not taken for the next request.
    let answer = visitor.request("GET", "/metrics", &[], Some(b"GET / HTTP/1.1\r\n\r\n"));
    assert_eq!(answer.status(), 200);
    assert_eq!(visitor.get("/health").status(), 200);
    assert_eq!(visitor.request("POST", "/metrics", &[], Some(b"x")).status(), 404);
}
