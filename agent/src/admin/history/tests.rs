//! Lists, tables and charts of what was recorded.

use std::sync::Arc;
use std::time::Duration;

use shared::mapping::Mapping;
use shared::reason::Reason;

use super::charts::show_traffic;
use super::*;
use crate::events::Hub;
use crate::history::{Limits, RequestEntry};
use crate::store::mapping_for_tests;
use crate::store::scratch::Scratch;

struct World {
    history: Arc<Recorder>,
    store: Store,
    nas: Mapping,
    scratch: Scratch,
}

impl World {
    fn new() -> World {
        World::with(Limits::default())
    }

    fn with(limits: Limits) -> World {
        let scratch = Scratch::new();
        let store = scratch.store();
        let nas = Mapping { description: Some("My NAS".into()), ..mapping_for_tests("nas.example") };
        store.insert(nas.clone()).expect("saved");
        let history = Recorder::start(store.clone(), limits, Arc::default()).expect("a recorder");
        World { history, store, nas, scratch }
    }

    fn entry<'e>(&'e self, target: &'e str) -> RequestEntry<'e> {
        RequestEntry {
            mapping: self.nas.id,
            called: Some(self.nas.called()),
            method: "GET",
            target,
            status: 200,
            request_bytes: 5,
            response_bytes: 500,
            counted: (0, 0),
            micros: 1_500,
            visitor: "203.0.113.9",
            user_agent: "curl/8.5",
            failure: None,
        }
    }

    fn requests(&self, query: &str) -> Value {
        let response =
            list_requests(&self.store, &self.history, &Request::new("GET", &format!("/x?{query}")));
        assert_eq!(response.status, 200, "{query}");
        response.value()
    }

    /// Paths of the requests that are listed.
    fn paths(&self, query: &str) -> Vec<String> {
        let answer = self.requests(query);
        let items = answer["items"].as_array().expect("items");
        items.iter().map(|item| item["path"].as_str().expect("a path").to_owned()).collect()
    }

    fn traffic(&self, query: &str) -> Value {
        let response = show_traffic(&self.store, &self.history, &Request::new("GET", &format!("/x?{query}")));
        assert_eq!(response.status, 200, "{query}");
        response.value()
    }

    fn csv(&self, query: &str) -> String {
        let request = Request::new("GET", &format!("/x?{query}")).field("Accept", "text/csv");
        let response = list_requests(&self.store, &self.history, &request);
        assert!(response.header("Content-Type").is_some_and(|kind| kind.starts_with("text/csv")));
        String::from_utf8(response.written().expect("written")).expect("text")
    }
}

#[test]
fn a_request_is_seen_at_once_with_every_field() {
    let world = World::new();
    let failure = Some((Reason::UpstreamBroke, "it closed the connection"));
    world.history.request(&RequestEntry {
        method: "POST",
        status: 502,
        failure,
        ..world.entry("/a%20b?x=1")
    });
    let answer = world.requests("");
    assert_eq!((&answer["next"], answer["items"].as_array().map(Vec::len)), (&Value::Null, Some(1)));
    let mut item = answer["items"][0].clone();
    let id = item["id"].take();
    assert!(id.as_str().is_some_and(|id| id.parse::<MappingId>().is_ok() && id == id.to_lowercase()));
    let at = item["timestamp"].take();
    assert!(at.as_str().is_some_and(|at| at.ends_with('Z') && timestamp::from_api(at).is_some()));
    assert_eq!(
        item,
        json!({
            "id": null,
            "timestamp": null,
            "mappingId": world.nas.id.to_string(),
            "mappingName": "My NAS",
            "externalDomain": "nas.example",
            "method": "POST",
            "path": "/a%20b",
            "queryString": "x=1",
            "statusCode": 502,
            "requestSize": 5,
            "responseSize": 500,
            "durationMs": 1,
            "clientIp": "203.0.113.9",
            "userAgent": "curl/8.5",
            "errorMessage": "UpstreamBroke at the upstream: it closed the connection",
        })
    );
}

#[test]
fn what_is_told_live_is_what_is_listed_later() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let nas = mapping_for_tests("nas.example");
    store.insert(nas.clone()).expect("saved");
    let hub: Arc<Hub> = Arc::default();
    let history = Recorder::start(store.clone(), Limits::default(), Arc::clone(&hub)).expect("a recorder");
    let listener = hub.listen(None).expect("room");
    history.request(&RequestEntry {
        mapping: nas.id,
        called: Some(nas.called()),
        method: "GET",
        target: "/live?a=b",
        status: 499,
        request_bytes: 0,
        response_bytes: 9,
        counted: (0, 0),
        micros: 2_000_000,
        visitor: "2001:db8::1",
        user_agent: "",
        failure: Some((Reason::VisitorGone, "")),
    });
    let news = listener.take();
    let told = news.messages.iter().find(|message| message.name == "RequestLogged").expect("told");
    let listed = list_requests(&store, &history, &Request::new("GET", "/x")).value();
    assert_eq!(serde_json::from_str::<Value>(&told.data).expect("JSON"), listed["items"][0]);
    drop(history);
}

#[test]
fn every_filter_picks_what_it_says() {
    let world = World::new();
    let other = Mapping { description: None, ..mapping_for_tests("wiki.example") };
    world.store.insert(other.clone()).expect("saved");
    let note = |entry: RequestEntry<'_>| world.history.request(&entry);
    let broke = Some((Reason::UpstreamRefused, "192.168.1.20:80: refused"));
    note(world.entry("/one?secret=50%25"));
    note(RequestEntry { method: "POST", status: 201, ..world.entry("/two") });
    note(RequestEntry { status: 404, user_agent: "Bot_7", ..world.entry("/three") });
    note(RequestEntry { status: 502, failure: broke, ..world.entry("/four") });
    note(RequestEntry { status: 499, failure: Some((Reason::VisitorGone, "")), ..world.entry("/five") });
    note(RequestEntry { mapping: other.id, called: Some(other.called()), ..world.entry("/six") });
    let unknown = MappingId::from_bytes([9; 16]);
    let gone = Some((Reason::MappingUnknown, ""));
    note(RequestEntry {
        mapping: unknown,
        called: None,
        status: 404,
        failure: gone,
        ..world.entry("/seven")
    });

    let all = ["/seven", "/six", "/five", "/four", "/three", "/two", "/one"];
    let mapping = format!("mapping={}", other.id);
    let either = format!("mapping={},{}&method=POST", other.id, world.nas.id.database_form());
    let cases: [(&str, &[&str]); 24] = [
        ("", &all),
        ("status=&method=&q=", &all),
        ("status=201", &["/two"]),
        ("status=2xx", &["/six", "/two", "/one"]),
        ("status=404,2XX", &["/seven", "/six", "/three", "/two", "/one"]),
        ("status=error", &["/seven", "/four"]),
        ("status=error,499", &["/seven", "/five", "/four"]),
        ("status=599", &[]),
        ("method=post", &["/two"]),
        ("method=GET,POST", &all),
        ("method=DELETE", &[]),
        (&mapping, &["/six"]),
        (&either, &["/two"]),
        ("q=FOUR", &["/four"]),
        ("q=secret", &["/one"]),
        ("q=50%25", &["/one"]),
        ("q=%25", &["/one"]),
        ("q=t_7", &["/three"]),
        ("q=_", &["/three"]),
        ("q=my+nas", &["/five", "/four", "/three", "/two", "/one"]),
        ("q=WIKI.example", &["/six"]),
        ("q=refused", &["/four"]),
        ("from=2020-01-01&to=2999-01-01T00:00:00Z", &all),
        ("to=2020-01-01", &[]),
    ];
    for (query, expected) in cases {
        assert_eq!(world.paths(query), expected, "{query}");
    }
    assert_eq!(world.paths("from=2999-01-01"), [""; 0]);
}

#[test]
fn pages_follow_without_gap_or_repetition_even_at_one_instant() {
    let world = World::new();
    for n in 0..25 {
        world.history.request(&world.entry(&format!("/{n}")));
    }
    world.history.settle();
    // The clock may have stood still.
    world
        .scratch
        .sql("UPDATE RequestLogs SET Timestamp = (SELECT min(Timestamp) FROM RequestLogs) WHERE Path < '/2'");
    let all = world.paths("");
    assert_eq!(all.len(), 25);
    for limit in [1, 3, 7, 24, 25, 26] {
        let mut seen = Vec::new();
        let mut query = format!("limit={limit}");
        loop {
            let answer = world.requests(&query);
            let items = answer["items"].as_array().expect("items");
            assert!(items.len() <= limit && !items.is_empty());
            seen.extend(items.iter().map(|item| item["path"].as_str().expect("a path").to_owned()));
            match answer["next"].as_str() {
                Some(next) => query = format!("limit={limit}&before={next}"),
                None => break,
            }
        }
        assert_eq!(seen, all, "{limit}");
    }
    // What comes meanwhile does not move the next page.
    let next = world.requests("limit=10")["next"].as_str().expect("more").to_owned();
    world.history.request(&world.entry("/new"));
    assert_eq!(world.paths(&format!("limit=10&before={next}")), all[10..20]);
}

#[test]
fn nonsense_is_named() {
    let world = World::new();
    let ask = |query: &str| {
        let request = Request::new("GET", &format!("/x?{query}"));
        let response = list_requests(&world.store, &world.history, &request);
        (response.status, response.value()["errors"].clone())
    };
    let long = format!("q={}", "x".repeat(501));
    let many = format!("status={}", "200,".repeat(101));
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=ten", "limit"),
        ("before=x", "before"),
        ("before=2026-01-20T19:58:47_x", "before"),
        ("before=x_0f8fad5b-d9cb-469f-a165-70867728950e", "before"),
        ("mapping=nas", "mapping"),
        ("status=6xx", "status"),
        ("status=2000", "status"),
        ("status=abc", "status"),
        ("from=yesterday", "from"),
        ("to=2026-13-01", "to"),
        (&long, "q"),
        (&many, "status"),
    ] {
        let (status, errors) = ask(query);
        assert_eq!(status, 400, "{query}");
        assert_eq!(errors.as_object().map(|e| e.keys().collect::<Vec<_>>()), Some(vec![&field.to_owned()]));
    }
    let (_, errors) = ask("limit=0&status=x&from=x");
    assert_eq!(errors.as_object().map(serde_json::Map::len), Some(3), "all at once");
    for query in ["range=year", "mapping=x"] {
        let request = Request::new("GET", &format!("/x?{query}"));
        assert_eq!(show_traffic(&world.store, &world.history, &request).status, 400, "{query}");
    }
}

#[test]
fn a_spreadsheet_gets_the_whole_selection_and_no_formulas() {
    let world = World::new();
    assert_eq!(world.csv("").lines().count(), 1, "the names of the columns");
    for n in 0..MOST + 500 {
        world.history.request(&RequestEntry {
            user_agent: if n == 0 { "=cmd|'/c calc'!A1" } else { "say \"hi\", twice" },
            ..world.entry("/many?x")
        });
    }
    world.history.request(&RequestEntry { status: 404, ..world.entry("/other") });
    let text = world.csv("status=200&limit=10");
    let lines: Vec<_> = text.split_terminator("\r\n").collect();
    assert_eq!(lines.len(), 1 + MOST + 500);
    assert!(
        lines[0].starts_with("id,timestamp,mappingId,mappingName,externalDomain,method,path,queryString")
    );
    assert!(lines[1].contains(",My NAS,nas.example,GET,/many,x,200,5,500,1,203.0.113.9,"), "{}", lines[1]);
    assert!(lines[1].ends_with(",\"say \"\"hi\"\", twice\","), "{}", lines[1]);
    assert!(lines[MOST + 500].ends_with(",\"'=cmd|'/c calc'!A1\","), "{}", lines[MOST + 500]);
    let ids: std::collections::HashSet<_> = lines.iter().map(|line| &line[..36]).collect();
    assert_eq!(ids.len(), lines.len(), "each once");
    assert_eq!(world.csv("format=csv&status=404").lines().count(), 2);
}

#[test]
fn history_outlives_its_mapping_and_keeps_its_name() {
    let world = World::new();
    world.history.request(&world.entry("/before"));
    world.history.settle();
    assert!(world.store.delete(world.nas.id).expect("asked"));
    // Its last request was still under way.
    world.history.request(&world.entry("/after"));
    assert_eq!(world.paths(""), ["/after", "/before"]);
    let item = &world.requests("q=my+nas")["items"][1];
    assert_eq!((&item["mappingName"], &item["externalDomain"]), (&json!("My NAS"), &json!("nas.example")));
    let traffic = world.traffic("range=month");
    assert_eq!(traffic["mappings"][0]["name"], "My NAS");
    assert_eq!(traffic["mappings"][0]["requests"], 2);
    // The housekeeping leaves the name as long as something needs it.
    world.scratch.sql("UPDATE OctoportyDeletedMappings SET DeletedAt = '2020-01-01 00:00:00'");
    world.store.tidy_history(30).expect("tidied");
    assert_eq!(world.requests("")["items"][0]["mappingName"], "My NAS");
    world.scratch.sql("DELETE FROM RequestLogs; DELETE FROM OctoportyTraffic");
    world.store.tidy_history(30).expect("tidied");
    assert!(world.store.names().expect("names").is_empty());
}

#[test]
fn charts_have_every_step_and_add_up() {
    let world = World::new();
    let empty = world.traffic("");
    assert_eq!((&empty["range"], &empty["bucketSeconds"]), (&json!("hour"), &json!(60)));
    assert_eq!(empty["totals"], json!({ "requests": 0, "bytesIn": 0, "bytesOut": 0, "failed": 0 }));
    assert_eq!(empty["mappings"], json!([]));
    world.history.request(&world.entry("/"));
    world.history.settle();
    world.history.request(&RequestEntry { counted: (0, 100), micros: 90_000, ..world.entry("/") });
    world.history.progress(world.nas.id, 0, 100);
    let failure = Some((Reason::UpstreamDns, ""));
    world.history.request(&RequestEntry { status: 502, failure, ..world.entry("/") });
    world.history.request(&RequestEntry { called: None, status: 404, ..world.entry("/") });
    for (range, steps) in [("hour", 60), ("day", 96), ("month", 30)] {
        let chart = world.traffic(&format!("range={range}"));
        let buckets = chart["buckets"].as_array().expect("buckets");
        assert_eq!(buckets.len(), steps, "{range}");
        assert_eq!(
            chart["totals"],
            json!({ "requests": 4, "bytesIn": 20, "bytesOut": 2_000, "failed": 1 }),
            "{range}"
        );
        let sum = |name: &str| buckets.iter().map(|b| b[name].as_u64().expect(name)).sum::<u64>();
        assert_eq!((sum("requests"), sum("bytesOut"), sum("status2xx")), (4, 2_000, 2));
        assert_eq!((sum("status4xx"), sum("status5xx"), sum("failed")), (1, 1, 1));
        let last = &buckets[steps - 1];
        assert!(buckets.iter().any(|b| b["p95Ms"].as_f64().is_some_and(|ms| ms > 80.0)), "{range}: {last}");
        assert_eq!(chart["to"].as_str().map(timestamp::from_api).map(|at| at.is_some()), Some(true));
        assert_eq!(buckets[0]["time"], chart["from"]);
        let mappings = chart["mappings"].as_array().expect("mappings");
        assert_eq!(mappings.len(), 2);
        assert_eq!((&mappings[0]["name"], &mappings[0]["requests"]), (&json!("My NAS"), &json!(3)));
        assert_eq!((&mappings[1]["mappingId"], &mappings[1]["requests"]), (&Value::Null, &json!(1)));
        let one = world.traffic(&format!("range={range}&mapping={}", world.nas.id));
        assert_eq!(one["totals"]["requests"], 3);
    }
}

#[test]
fn what_is_too_old_or_too_much_goes_and_the_totals_stay() {
    let world = World::with(Limits { days: 30, rows: 10, queries: false });
    for n in 0..25 {
        world.history.request(&world.entry(&format!("/{n}?secret=1")));
    }
    let items = world.requests("");
    assert_eq!(items["items"].as_array().map(Vec::len), Some(10));
    assert!(items["items"].as_array().is_some_and(|all| all.iter().all(|i| i["queryString"].is_null())));
    assert_eq!(world.paths("")[0], "/24");
    world.scratch.sql("UPDATE RequestLogs SET Timestamp = '2020-01-01 00:00:00' WHERE Path < '/2'");
    world.history.request(&world.entry("/new"));
    assert_eq!(world.paths("")[0], "/new");
    assert!(world.paths("").len() < 10 && world.paths("to=2021-01-01").is_empty());
    assert_eq!(world.traffic("range=month")["totals"]["requests"], 26);
    // Nothing new comes, and still the old goes.
    world.scratch.sql("UPDATE RequestLogs SET Timestamp = '2020-01-01 00:00:00'");
    world.store.tidy_history(30).expect("tidied");
    assert_eq!(world.paths(""), [""; 0]);
    assert_eq!(world.traffic("range=day")["totals"]["requests"], 26);
    assert_eq!(world.history.dropped(), 0);
}

#[test]
fn without_rows_there_are_still_totals() {
    let world = World::with(Limits { days: 30, rows: 0, queries: true });
    world.history.request(&world.entry("/"));
    assert_eq!(world.paths(""), [""; 0]);
    assert_eq!(world.traffic("")["totals"]["requests"], 1);
    assert_eq!(world.history.dropped(), 0, "nothing was to be kept");
}

#[test]
fn connections_are_open_closed_or_broken_off() {
    let world = World::new();
    let list = |history: &Recorder, query: &str| {
        list_connections(&world.store, history, &Request::new("GET", &format!("/x?{query}"))).value()
    };
    let first = world.history.connected("wss://one.example:443", Box::new(|| (7, 9)));
    let open = list(&world.history, "")["items"][0].clone();
    assert_eq!((&open["gatewayUrl"], &open["bytesSent"]), (&json!("wss://one.example:443"), &json!(7)));
    assert_eq!((&open["disconnectedAt"], &open["disconnectReason"]), (&Value::Null, &Value::Null));
    assert!(open["durationSeconds"].as_f64().is_some_and(|seconds| seconds >= 0.0));
    world.history.disconnected(first, "the line broke");
    let second = world.history.connected("wss://two.example:443", Box::new(|| (1, 2)));
    let answer = list(&world.history, "limit=1");
    assert_eq!(answer["items"][0]["id"], second.to_string());
    let next = answer["next"].as_str().expect("more").to_owned();
    let older = list(&world.history, &format!("before={next}"));
    let closed = &older["items"][0];
    assert_eq!((&closed["id"], &closed["bytesReceived"]), (&json!(first.to_string()), &json!(9)));
    assert_eq!(closed["disconnectReason"], "the line broke");
    assert!(closed["disconnectedAt"].is_string() && older["next"].is_null());

    // As if it had been killed: nobody said that the second is over.
    assert!(!world.history.stop());
    world.store.close_connections().expect("closed");
    let again = Recorder::start(world.store.clone(), Limits::default(), Arc::default()).expect("a recorder");
    let broken = list(&again, "")["items"][0].clone();
    assert_eq!((&broken["id"], &broken["bytesSent"]), (&json!(second.to_string()), &json!(1)));
    assert!(broken["disconnectedAt"].is_string());
    assert!(broken["disconnectReason"].as_str().is_some_and(|reason| reason.contains("killed")));
}

#[test]
fn the_last_request_of_a_mapping_survives_a_restart() {
    let world = World::new();
    assert!(world.history.last_requests().is_empty());
    world.history.request(&world.entry("/"));
    let last = world.history.last_requests();
    let at = last[&world.nas.id];
    assert!(timestamp::now() - at < Duration::from_secs(60));
    assert!(!world.history.stop());
    let again = Recorder::start(world.store.clone(), Limits::default(), Arc::default()).expect("a recorder");
    assert_eq!(again.last_requests(), last);
    assert!(world.store.delete(world.nas.id).expect("asked"));
    assert!(world.store.last_requests().expect("asked").is_empty());
}
