//! Tables of what Caddy has, what is wanted, and what is written.

use super::*;

const DIAL: &str = "127.0.0.1:17200";

fn id(number: u8) -> MappingId {
    MappingId::from_bytes([number; 16])
}

fn row(number: u8, host: &str) -> Row {
    Row { id: id(number), host: Hostname::parse(host).expect(host), agent: "one".to_owned() }
}

/// A foreign site as the Caddyfile adapter writes it.
fn site(host: &str, dial: &str) -> Value {
    json!({
        "match": [{ "host": [host] }],
        "handle": [{ "handler": "subroute", "routes": [{ "handle": [
            { "handler": "reverse_proxy", "upstreams": [{ "dial": dial }] },
        ] }] }],
        "terminal": true,
    })
}

#[derive(Default)]
struct Case {
    own: Vec<String>,
    refused: HashMap<MappingId, Refusal>,
    skip: HashSet<MappingId>,
    keep: HashSet<String>,
    bare: HashSet<String>,
    old_caddy: bool,
}

impl Case {
    fn plan(&self, actual: Option<&[Value]>, rows: Option<&[Row]>) -> Plan {
        let wish = Wish {
            rows,
            own: &self.own,
            dial: DIAL,
            close_delay: !self.old_caddy,
            refused: &self.refused,
            bare: &self.bare,
            skip: &self.skip,
            keep: &self.keep,
        };
        plan(actual, &wish)
    }

    /// What Caddy has after the plan was carried out, and that nothing is left to do then.
    fn settled(&self, actual: Option<&[Value]>, rows: &[Row]) -> Vec<Value> {
        let written = self.plan(actual, Some(rows)).write;
        let list = written.unwrap_or_else(|| actual.expect("a list").to_vec());
        let again = self.plan(Some(&list), Some(rows));
        assert_eq!(again.write, None, "a second pass finds nothing to do");
        assert!(again.states.iter().all(|route| route.state != RouteState::Pending), "{:?}", again.states);
        list
    }
}

fn ids(list: &[Value]) -> Vec<String> {
    list.iter()
        .map(|route| match id_of(route) {
            Some(id) => id.trim_start_matches(ID_PREFIX)[..2].to_owned(),
            None => hosts_of(route).join(","),
        })
        .collect()
}

fn state(plan: &Plan, number: u8) -> (RouteState, Option<&str>) {
    let route = plan.states.iter().find(|route| route.id == id(number)).expect("a state");
    (route.state, route.error.as_deref())
}

#[test]
fn our_routes_stand_before_foreign_ones_which_keep_their_order_and_content() {
    let foreign = [
        site("*.w.test", "10.0.0.1:80"),
        json!({ "handle": [{ "handler": "vars" }] }),
        site("b.test", "x:1"),
    ];
    let rows = [row(3, "c.w.test"), row(2, "*.x.test"), row(1, "a.w.test")];
    let list = Case::default().settled(Some(&foreign), &rows);
    assert_eq!(ids(&list), ["01", "03", "02", "*.w.test", "", "b.test"], "exact names, wildcards, foreign");
    assert_eq!(list[3..], foreign);
}

#[test]
fn a_route_has_the_id_of_the_earlier_program_and_all_that_streaming_needs() {
    let list = Case::default().settled(None, &[row(0xab, "a.test")]);
    let expected = json!([{
        "@id": format!("octoporty-{}", "ab".repeat(16)),
        "match": [{ "host": ["a.test"] }],
        "terminal": true,
        "handle": [{
            "handler": "reverse_proxy",
            "upstreams": [{ "dial": DIAL }],
            "flush_interval": 20_000_000,
            "stream_close_delay": 3_600_000_000_000_u64,
            "transport": { "protocol": "http", "compression": false },
            "headers": { "request": { "delete": ["X-Octoporty-*"] } },
        }],
    }]);
    assert_eq!(Value::Array(list), expected);
    let old = Case { old_caddy: true, ..Case::default() }.settled(None, &[row(1, "a.test")]);
    assert!(old[0]["handle"][0].get("stream_close_delay").is_none());
}

#[test]
fn while_nobody_has_said_what_is_wanted_nothing_is_touched() {
    let stale = Case::default().settled(None, &[row(1, "a.test")]);
    let plan = Case::default().plan(Some(&stale), None);
    assert_eq!((plan.write, plan.states.len(), plan.present.len()), (None, 0, 1));
    // An empty table is something else.
    assert_eq!(Case::default().plan(Some(&stale), Some(&[])).write, Some(Vec::new()));
}

#[test]
fn two_hundred_names_are_one_write_and_then_none() {
    let rows: Vec<_> = (0..200).map(|number| row(number, &format!("h{number}.test"))).collect();
    let plan = Case::default().plan(Some(&[]), Some(&rows));
    assert_eq!((plan.write.map(|list| list.len()), plan.changed.len()), (Some(200), 200));
    let list = Case::default().settled(Some(&[]), &rows);
    let again = Case::default().plan(Some(&list), Some(&rows));
    assert!(again.changed.is_empty() && again.states.iter().all(|route| route.state == RouteState::Served));
    assert_eq!(again.present.len(), 200);
}

#[test]
fn differences_are_found_and_repaired() {
    let rows = [row(1, "a.test"), row(2, "b.test")];
    let good = Case::default().settled(Some(&[site("z.test", "z:1")]), &rows);
    let broken = |change: fn(&mut Vec<Value>)| {
        let mut list = good.clone();
        change(&mut list);
        list
    };
    for (what, actual, changed) in [
        ("an edited name", broken(|list| list[0]["match"][0]["host"] = json!(["old.test"])), 1),
        ("another dial", broken(|list| list[1]["handle"][0]["upstreams"][0]["dial"] = json!("x:1")), 1),
        ("a missing one", broken(|list| drop(list.remove(0))), 1),
        ("a stale one", broken(|list| list.push(json!({ "@id": "octoporty-stale", "handle": [] }))), 0),
        ("behind foreign ones", broken(|list| list.rotate_left(2)), 0),
        ("twice", broken(|list| list.insert(0, list[0].clone())), 0),
    ] {
        let plan = Case::default().plan(Some(&actual), Some(&rows));
        assert_eq!(plan.write.as_ref(), Some(&good), "{what}");
        assert_eq!(plan.changed.len(), changed, "{what}");
    }
    assert_eq!(Case::default().settled(Some(&good), &[]), [site("z.test", "z:1")], "all mappings gone");
}

#[test]
fn the_order_of_keys_is_no_difference() {
    let good = Case::default().settled(None, &[row(1, "a.test")]);
    let text = format!(
        "[{{\"terminal\":true,\"handle\":{},\"match\":{},\"@id\":{}}}]",
        good[0]["handle"], good[0]["match"], good[0]["@id"]
    );
    let turned: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    assert_eq!(Case::default().plan(Some(&turned), Some(&[row(1, "a.test")])).write, None);
}

#[test]
fn the_gateways_own_name_is_never_captured() {
    let case = Case { own: vec!["gw.w.test".to_owned()], ..Case::default() };
    let rows = [row(1, "gw.w.test"), row(2, "*.w.test"), row(3, "a.test")];
    let foreign = [site("gw.w.test", DIAL), site("blog.w.test", "blog:80"), site("a.b.w.test", "x:1")];
    let list = case.settled(Some(&foreign), &rows);
    let plan = case.plan(Some(&list), Some(&rows));
    let (word, error) = state(&plan, 1);
    assert!(word == RouteState::Conflict && error.is_some_and(|text| text.contains("own name")), "{error:?}");
    assert_eq!(ids(&list), ["03", "02", "gw.w.test", "blog.w.test", "a.b.w.test"]);
    // A wildcard leaves out what others have under it: with one label, as a wildcard has.
    assert_eq!(
        list[1]["match"],
        json!([{ "host": ["*.w.test"], "not": [{ "host": ["blog.w.test", "gw.w.test"] }] }])
    );
}

#[test]
fn a_name_of_another_site_is_a_conflict_unless_that_leads_to_us() {
    let foreign = [site("A.test", "10.0.0.1:80"), site("b.test", DIAL), site("*.w.test", "10.0.0.1:80")];
    let rows = [row(1, "a.test"), row(2, "b.test"), row(3, "*.w.test"), row(4, "x.w.test")];
    let plan = Case::default().plan(Some(&foreign), Some(&rows));
    assert_eq!(ids(plan.write.as_deref().expect("a write")), ["04", "A.test", "b.test", "*.w.test"]);
    for (number, expected) in [
        (1, RouteState::Conflict),
        (2, RouteState::Served),
        (3, RouteState::Conflict),
        (4, RouteState::Pending),
    ] {
        assert_eq!(state(&plan, number).0, expected, "{number}");
    }
}

#[test]
fn a_name_has_one_route_whoever_publishes_it() {
    let other = |number, host| Row { agent: "two".to_owned(), ..row(number, host) };
    let rows = [row(1, "a.test"), row(2, "a.test"), other(3, "a.test"), row(4, "b.test"), other(4, "c.test")];
    let list = Case::default().settled(None, &rows);
    assert_eq!(ids(&list), ["01", "04"]);
    let plan = Case::default().plan(Some(&list), Some(&rows));
    let states: Vec<_> = plan.states.iter().map(|r| (r.agent.as_str(), r.host.as_str(), r.state)).collect();
    assert_eq!(
        states,
        [
            ("one", "a.test", RouteState::Served),
            ("one", "a.test", RouteState::Conflict),
            ("two", "a.test", RouteState::Served),
            ("one", "b.test", RouteState::Served),
            ("two", "c.test", RouteState::Conflict),
        ]
    );
    assert!(plan.states[4].error.as_deref().is_some_and(|text| text.contains("copied")));
}

#[test]
fn a_refused_route_is_left_out_until_its_name_changes() {
    let refusal =
        Refusal { host: Hostname::parse("bad.test").expect("a name"), text: "no such thing".to_owned() };
    let case = Case { refused: HashMap::from([(id(1), refusal)]), ..Case::default() };
    let rows = [row(1, "bad.test"), row(2, "good.test")];
    let list = case.settled(None, &rows);
    assert_eq!(ids(&list), ["02"]);
    let plan = case.plan(Some(&list), Some(&rows));
    assert_eq!(state(&plan, 1).0, RouteState::Rejected);
    assert!(state(&plan, 1).1.is_some_and(|text| text.contains("no such thing")));
    let edited = [row(1, "better.test"), row(2, "good.test")];
    assert_eq!(ids(&case.settled(Some(&list), &edited)), ["01", "02"]);
}

#[test]
fn a_wildcard_without_a_certificate_is_no_route() {
    let case = Case { bare: HashSet::from(["*.w.test".to_owned()]), ..Case::default() };
    let rows = [row(1, "*.w.test"), row(2, "a.w.test"), row(3, "*.x.test")];
    let list = case.settled(None, &rows);
    assert_eq!(ids(&list), ["02", "03"]);
    let plan = case.plan(Some(&list), Some(&rows));
    assert_eq!(state(&plan, 1).0, RouteState::Invalid);
    assert!(state(&plan, 1).1.is_some_and(|text| text.contains("DNS challenge")));
}

#[test]
fn a_skipped_route_stays_as_it_is_for_the_moment() {
    let old = Case::default().settled(None, &[row(1, "old.test")]);
    let case = Case { skip: HashSet::from([id(1), id(2)]), ..Case::default() };
    let plan = case.plan(Some(&old), Some(&[row(1, "new.test"), row(2, "b.test"), row(3, "c.test")]));
    let list = plan.write.expect("a write");
    assert_eq!((ids(&list), &list[0]), (vec!["01".to_owned(), "03".to_owned()], &old[0]));
    assert_eq!(plan.changed, [id(1), id(2), id(3)]);
}

#[test]
fn routes_whose_agent_is_still_dialling_stay_where_they_are() {
    let all = [row(1, "a.test"), row(2, "b.test"), row(3, "*.c.test"), row(4, "d.test")];
    let before = Case::default().settled(None, &all);
    let case = Case { keep: ["a.test", "*.c.test"].map(str::to_owned).into(), ..Case::default() };
    let plan = case.plan(Some(&before), Some(&all[1..2]));
    assert_eq!(ids(&plan.write.expect("a write")), ["01", "02", "03"], "the fourth is not remembered");
    // The first Agent to come back causes no write at all.
    let case = Case { keep: ["a.test", "*.c.test", "d.test"].map(str::to_owned).into(), ..Case::default() };
    assert_eq!(case.plan(Some(&before), Some(&all[1..2])).write, None);
    // The same name under a new id replaces the old one.
    let plan = case.plan(Some(&before), Some(&[all[1].clone(), row(9, "a.test")]));
    assert_eq!(ids(&plan.write.expect("a write")), ["02", "04", "09", "03"]);
}

#[test]
fn in_ask_mode_only_foreign_routes_are_left() {
    let list = Case::default().settled(Some(&[site("z.test", "z:1")]), &[row(1, "a.test")]);
    assert_eq!(without_ours(&list), Some(vec![site("z.test", "z:1")]));
    assert_eq!(without_ours(&list[1..]), None);
}

#[test]
fn a_server_of_our_own_follows_the_https_port() {
    let server = own_server(&json!({ "https_port": 17243 }), &[json!({})]);
    assert_eq!(server, json!({ "@id": "octoporty-server", "listen": [":17243"], "routes": [{}] }));
    assert_eq!(own_server(&Value::Null, &[])["listen"], json!([":443"]));
}
