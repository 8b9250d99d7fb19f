//! The Gateway keeps Caddy's routes as they should be, and writes only when they are not: a real Caddy, and an Agent
//! played by hand. What visitors see of it is in `caddy_visitors`.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use e2e::caddy::{self, Between, Caddy, Ports, Wanted};
use e2e::journal::{PATIENCE, until};
use e2e::peer::Peer;
use e2e::world::{Folder, Gateway, Settings};
use serde_json::{Value, json};

const AGENT: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
const OTHER_AGENT: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";
/// The server with TLS in a Caddyfile without other listeners.
const SERVER: &str = "srv0";

/// A Caddyfile with the Gateway's own site and more.
fn file(ports: &Ports, more: &str) -> String {
    format!("{}gateway.test {{\n\treverse_proxy 127.0.0.1:{}\n}}\n{more}", ports.global(""), ports.gateway)
}

fn settings(url: &str) -> Settings {
    let mut settings = Settings::gateway();
    settings.set("Gateway__CaddyMode", "routes");
    settings.set("Gateway__CaddyAdminUrl", url);
    settings.set("Gateway__GatewayFqdn", "gateway.test");
    settings
}

fn gateway(caddy: &Caddy) -> Gateway {
    Gateway::start(settings(&caddy.admin_url()))
}

/// Reads `routes` messages until the mappings have these states, in order; gives the message.
fn wait_states(peer: &mut Peer, wanted: &[&str]) -> Value {
    loop {
        let news = peer.expect_control("routes");
        if states(&news) == wanted {
            return news;
        }
    }
}

fn states(news: &Value) -> Vec<String> {
    let mut rows: Vec<_> = news["routes"].as_array().expect("a list").clone();
    rows.sort_by_key(|row| row["id"].to_string());
    rows.iter().map(|row| row["state"].as_str().expect("a word").to_owned()).collect()
}

/// Reads `routes` messages until Caddy as a whole is in this state; gives the message.
fn wait_caddy(peer: &mut Peer, wanted: &str) -> Value {
    loop {
        let news = peer.expect_control("routes");
        if news["caddy"]["state"] == wanted {
            return news;
        }
    }
}

/// Waits until Caddy has been looked at once more.
fn wait_pass(caddy: &Caddy) {
    let before = caddy.reads();
    until("another look at Caddy", PATIENCE * 2, || (caddy.reads() > before).then_some(()));
}

fn route_id(number: u128) -> String {
    format!("octoporty-{number:032x}")
}

#[test]
fn two_hundred_names_are_one_change_and_a_repeated_table_is_none() {
    if !caddy::is_here() {
        return;
    }
    let caddy = Caddy::start(|ports| file(ports, ""));
    let gateway = gateway(&caddy);
    let names: Vec<_> = (0..200).map(|n| format!("h{n}.test")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut peer = Peer::publishing(gateway.address(), AGENT, &names);
    let news = wait_states(&mut peer, &["served"; 200]);
    assert_eq!((&news["caddy"]["writes"], &news["caddy"]["server"]), (&json!(1), &json!(SERVER)), "{news}");
    assert_eq!((caddy.routes(SERVER).len(), caddy.reloads()), (201, 1));
    for _ in 0..20 {
        let before = caddy.reads();
        peer.publish(&names);
        until("the table's pass", PATIENCE, || (caddy.reads() > before).then_some(()));
    }
    assert_eq!(caddy.reloads(), 1, "no difference, no change");
    // Fewer names: one more.
    peer.publish(&names[..100]);
    until("a hundred routes", PATIENCE, || (caddy.routes(SERVER).len() == 101).then_some(()));
    assert_eq!(caddy.reloads(), 2);
}

#[test]
fn an_edited_name_reaches_caddy_and_with_the_last_mapping_only_foreign_routes_are_left() {
    if !caddy::is_here() {
        return;
    }
    let more = "a.foreign.test {\n\trespond a\n}\n*.w.test {\n\trespond w\n}\n";
    let caddy = Caddy::start(|ports| file(ports, more));
    let foreign = caddy.routes(SERVER);
    let gateway = gateway(&caddy);
    let mut peer = Peer::publishing(gateway.address(), AGENT, &["old.test", "b.w.test"]);
    let sites = ["a.foreign.test", "gateway.test", "*.w.test"];
    caddy.wait_hosts(SERVER, &[&["old.test ours", "b.w.test ours"], &sites[..]].concat());
    peer.publish(&["new.test", "b.w.test"]);
    caddy.wait_hosts(SERVER, &[&["new.test ours", "b.w.test ours"], &sites[..]].concat());
    peer.publish(&[]);
    caddy.wait_hosts(SERVER, &sites);
    assert_eq!((caddy.routes(SERVER), caddy.reloads()), (foreign, 3));
}

#[test]
fn routes_of_an_earlier_process_are_taken_over_or_removed() {
    if !caddy::is_here() {
        return;
    }
    let caddy = Caddy::start(|ports| file(ports, ""));
    let path = format!("/config/apps/http/servers/{SERVER}/routes/0");
    for (id, host) in [(route_id(1), "a.test"), (route_id(0xdead), "stale.test")] {
        // As the earlier program wrote them.
        let proxy = json!({ "handler": "reverse_proxy", "upstreams": [{ "dial": "gateway:17200" }] });
        let route = json!({ "@id": id, "match": [{ "host": [host] }], "handle": [proxy] });
        caddy.change("PUT", &path, Some(&route));
    }
    let gateway = gateway(&caddy);
    let mut peer = Peer::publishing(gateway.address(), AGENT, &["a.test"]);
    wait_states(&mut peer, &["served"]);
    assert_eq!(caddy.hosts(SERVER), ["a.test ours", "gateway.test"]);
    let dial = &caddy.routes(SERVER)[0]["handle"][0]["upstreams"][0]["dial"];
    assert_eq!(*dial, json!(gateway.address().to_string()));
    assert_eq!(caddy.reloads(), 3, "two by the test, one by the Gateway");
}

#[test]
fn a_change_by_somebody_else_between_reading_and_writing_is_kept() {
    if !caddy::is_here() {
        return;
    }
    let caddy = Caddy::start(|ports| file(ports, ""));
    let admin = caddy.ports.admin;
    let done = AtomicBool::new(false);
    let between = Between::new(admin, move |call| {
        if call.method == "PATCH" && !done.swap(true, SeqCst) {
            let route = json!({ "match": [{ "host": ["foreign.test"] }], "handle": [{ "handler": "static_response" }] });
            let path = format!("/config/apps/http/servers/{SERVER}/routes/0");
            assert_eq!(caddy::call(admin, "PUT", &path, Some(&route)).status(), 200);
        }
        Wanted::Pass
    });
    let gateway = Gateway::start(settings(&between.url()));
    let mut peer = Peer::publishing(gateway.address(), AGENT, &["a.test"]);
    wait_states(&mut peer, &["served"]);
    assert_eq!(caddy.hosts(SERVER), ["a.test ours", "foreign.test", "gateway.test"]);
    // Older Caddys refuse a field at first, which is one write more.
    let expected = if caddy::keeps_streams() { 2 } else { 3 };
    // Caddy's endpoint begins anew with each change, so the first write may be lost with its connection.
    let writes = between.writes();
    assert!((expected..=expected + 1).contains(&writes.len()), "{writes:?}");
}

#[test]
fn whatever_somebody_does_to_our_routes_is_repaired() {
    if !caddy::is_here() {
        return;
    }
    let mut caddy = Caddy::start(|ports| file(ports, ""));
    let gateway = gateway(&caddy);
    let mut peer = Peer::publishing(gateway.address(), AGENT, &["a.test"]);
    wait_states(&mut peer, &["served"]);
    let good = caddy.routes(SERVER);
    caddy.reload();
    assert_eq!(caddy.hosts(SERVER), ["gateway.test"], "a reload drops what the API made");
    caddy.wait_hosts(SERVER, &["a.test ours", "gateway.test"]);
    let dial = format!("/id/{}/handle/0/upstreams/0/dial", route_id(1));
    caddy.change("PATCH", &dial, Some(&json!("127.0.0.1:1")));
    until("the dial repaired", PATIENCE * 2, || (caddy.routes(SERVER) == good).then_some(()));
    caddy.restart();
    caddy.wait_hosts(SERVER, &["a.test ours", "gateway.test"]);
    caddy.daemon.signal("TERM");
    caddy.daemon.wait_exit(PATIENCE);
    wait_caddy(&mut peer, "unreachable");
    caddy.start_again();
    until("healed", PATIENCE * 3, || (caddy.routes(SERVER) == good).then_some(()));
}

#[test]
fn the_gateways_own_name_is_never_taken_from_it() {
    if !caddy::is_here() {
        return;
    }
    let caddy = Caddy::start(|ports| {
        format!("{}gateway.w.test {{\n\treverse_proxy 127.0.0.1:{}\n}}\n", ports.global(""), ports.gateway)
    });
    let mut settings = settings(&caddy.admin_url());
    settings.set("Gateway__GatewayFqdn", "gateway.w.test");
    settings.set("Gateway__Port", caddy.ports.gateway.to_string());
    let gateway = Gateway::start(settings);
    let mut peer = Peer::publishing(gateway.address(), AGENT, &["gateway.w.test", "*.w.test"]);
    // The first never gets as far as Caddy; its error is in the config-ack.
    wait_states(&mut peer, &["served"]);
    assert_eq!(caddy.hosts(SERVER), ["*.w.test ours", "gateway.w.test"]);
    let answer = caddy.first_visitor("gateway.w.test").get("/health");
    assert_eq!((answer.status(), answer.json()["status"].as_str()), (200, Some("healthy")));
}

#[test]
fn the_server_for_visitors_is_found_whatever_it_is_called() {
    if !caddy::is_here() {
        return;
    }
    // Names follow the ports' texts, so the one with TLS is first or last here.
    for swap in [false, true] {
        let caddy = Caddy::start(|ports| {
            let (low, high) = (ports.https.min(ports.other), ports.https.max(ports.other));
            let (other, https) = if swap { (low, high) } else { (high, low) };
            let global = format!(
                "{{\n\tadmin localhost:{}\n\thttp_port {}\n\thttps_port {https}\n\tlocal_certs\n\tskip_install_trust\n}}\n",
                ports.admin, ports.http
            );
            format!("{global}http://:{other} {{\n\trespond x\n}}\nx.test {{\n\trespond x\n}}\n")
        });
        let (name, other) = if swap { ("srv1", "srv0") } else { ("srv0", "srv1") };
        assert_eq!(caddy.hosts(name), ["x.test"], "as the test expects");
        let gateway = gateway(&caddy);
        let mut peer = Peer::publishing(gateway.address(), AGENT, &["a.test"]);
        let news = wait_states(&mut peer, &["served"]);
        assert_eq!(news["caddy"]["server"], json!(name), "{news}");
        assert_eq!(caddy.hosts(name), ["a.test ours", "x.test"]);
        assert_eq!(caddy.routes(other).len(), 1);
    }
}

/// JSON with our own authority only, and this `apps.http`.
fn raw(ports: &Ports, http: Value) -> String {
    let internal = json!({ "automation": { "policies": [{ "issuers": [{ "module": "internal" }] }] } });
    let mut http = http;
    http["http_port"] = ports.http.into();
    http["https_port"] = ports.https.into();
    let pki = json!({ "certificate_authorities": { "local": { "install_trust": false } } });
    let admin = json!({ "listen": format!("localhost:{}", ports.admin) });
    json!({ "admin": admin, "apps": { "http": http, "tls": internal, "pki": pki } }).to_string()
}

#[test]
fn servers_without_routes_get_some() {
    if !caddy::is_here() {
        return;
    }
    for (what, more) in [("no key", json!({})), ("an empty list", json!({ "routes": [] }))] {
        let caddy = Caddy::start(|ports| {
            let mut server = more.clone();
            server["listen"] = json!([format!(":{}", ports.https)]);
            raw(ports, json!({ "servers": { "main": server } }))
        });
        let gateway = gateway(&caddy);
        let mut peer = Peer::publishing(gateway.address(), AGENT, &["a.test"]);
        let news = wait_states(&mut peer, &["served"]);
        assert_eq!(news["caddy"]["server"], json!("main"), "{what}: {news}");
        assert_eq!((caddy.hosts("main").len(), caddy.reloads()), (1, 1), "{what}");
    }
}

#[test]
fn a_caddy_without_any_server_is_reported_and_gets_one_after_a_while() {
    if !caddy::is_here() {
        return;
    }
    let caddy = Caddy::start(|ports| raw(ports, json!({})));
    let gateway = gateway(&caddy);
    let mut peer = Peer::publishing(gateway.address(), AGENT, &["a.test"]);
    let news = wait_caddy(&mut peer, "no_server");
    assert_eq!(states(&news), ["pending"], "{news}");
    assert!(news["caddy"]["lastError"].as_str().is_some_and(|text| text.contains("no site")), "{news}");
    // Half a minute, and a busy machine.
    peer.set_patience(PATIENCE * 3);
    let news = wait_states(&mut peer, &["served"]);
    assert_eq!(news["caddy"]["server"], json!("octoporty"), "{news}");
    let server = caddy.config("/config/apps/http/servers/octoporty");
    assert_eq!(server["listen"], json!([format!(":{}", caddy.ports.https)]));
    drop(caddy.first_visitor("a.test"));
    assert_eq!(caddy.reloads(), 1);
}

#[test]
fn an_empty_configuration_is_reported() {
    if !caddy::is_here() {
        return;
    }
    for apps in [None, Some(json!({}))] {
        let caddy = Caddy::start(|ports| {
            let mut config = json!({ "admin": { "listen": format!("localhost:{}", ports.admin) } });
            if let Some(apps) = &apps {
                config["apps"] = apps.clone();
            }
            config.to_string()
        });
        let gateway = gateway(&caddy);
        let mut peer = Peer::publishing(gateway.address(), AGENT, &["a.test"]);
        wait_caddy(&mut peer, "no_server");
        assert_eq!(caddy.reloads(), 0);
    }
}

#[test]
fn an_old_caddy_refuses_a_field_once_and_is_not_asked_again() {
    if !caddy::is_here() {
        return;
    }
    let caddy = Caddy::start(|ports| file(ports, ""));
    let between = Between::new(caddy.ports.admin, |_| Wanted::Pass);
    let gateway = Gateway::start(settings(&between.url()));
    let mut peer = Peer::publishing(gateway.address(), AGENT, &["a.test"]);
    wait_states(&mut peer, &["served"]);
    peer.publish(&["a.test", "b.test"]);
    wait_states(&mut peer, &["served", "served"]);
    let with_field: Vec<_> =
        between.writes().iter().map(|call| call.body.contains("stream_close_delay")).collect();
    let expected: &[bool] = if caddy::keeps_streams() { &[true, true] } else { &[true, false, false] };
    assert_eq!(with_field, expected);
    assert_eq!(caddy.reloads(), 2);
}

#[test]
fn after_a_restart_of_the_gateway_nothing_is_removed_while_agents_are_away() {
    if !caddy::is_here() {
        return;
    }
    let caddy = Caddy::start(|ports| file(ports, ""));
    let folder = Folder::new();
    let mut settings = settings(&caddy.admin_url());
    settings.set("Gateway__StateDirectory", folder.path().to_str().expect("UTF-8"));
    let mut gateway = Gateway::start(settings);
    let mut one = Peer::publishing(gateway.address(), AGENT, &["a.test"]);
    wait_states(&mut one, &["served"]);
    let (mut two, _) = Peer::greeted(gateway.address(), OTHER_AGENT);
    // Ids of its own.
    let row = json!({ "id": format!("{:032x}", 77), "domain": "b.test", "name": "" });
    two.control(&json!({ "type": "config", "request": 1, "hash": "b", "mappings": [row] }));
    wait_states(&mut two, &["served"]);
    let names = std::fs::read_to_string(folder.path().join("known-hosts")).expect("a file of names");
    assert!(names.contains(" a.test\n") && names.contains(" b.test\n"), "{names}");
    assert!(!names.contains(e2e::world::KEY) && !names.contains(AGENT), "names only: {names}");
    let reloads = caddy.reloads();
    one.cut();
    two.cut();
    gateway.restart();
    wait_pass(&caddy);
    wait_pass(&caddy);
    let both = ["a.test ours", "b.test ours", "gateway.test"];
    assert_eq!(caddy.hosts(SERVER), both);
    // The first to come back does not drive the other one's routes out.
    let mut one = Peer::publishing(gateway.address(), AGENT, &["a.test"]);
    wait_states(&mut one, &["served"]);
    assert_eq!((caddy.hosts(SERVER), caddy.reloads()), (both.map(str::to_owned).to_vec(), reloads));
}

#[test]
fn routes_of_an_absent_agent_are_removed_only_when_that_is_wanted() {
    if !caddy::is_here() {
        return;
    }
    let caddies = [true, false].map(|remove| {
        let caddy = Caddy::start(|ports| file(ports, ""));
        let mut settings = settings(&caddy.admin_url());
        settings.set("Gateway__RemoveRoutesOnTunnelUnavailable", remove.to_string());
        let gateway = Gateway::start(settings);
        let mut peer = Peer::publishing(gateway.address(), AGENT, &["a.test"]);
        wait_states(&mut peer, &["served"]);
        peer.cut();
        (caddy, gateway)
    });
    let [(removing, gateway), (keeping, _keeping)] = &caddies;
    // A minute, as the setting says.
    until("the routes removed", PATIENCE * 4, || (removing.hosts(SERVER) == ["gateway.test"]).then_some(()));
    assert_eq!(keeping.hosts(SERVER), ["a.test ours", "gateway.test"]);
    assert_eq!((removing.reloads(), keeping.reloads()), (2, 1));
    let mut peer = Peer::publishing(gateway.address(), AGENT, &["a.test"]);
    wait_states(&mut peer, &["served"]);
    assert_eq!(removing.hosts(SERVER), ["a.test ours", "gateway.test"]);
}

#[test]
fn one_route_that_caddy_refuses_does_not_stop_the_others() {
    if !caddy::is_here() {
        return;
    }
    let caddy = Caddy::start(|ports| file(ports, ""));
    // No Caddy refuses a valid host name, so somebody between does.
    let between = Between::new(caddy.ports.admin, |call| {
        if call.method != "GET" && call.body.contains("bad.test") {
            return Wanted::Answer(400, "{\"error\":\"loading new config: not this one\"}".to_owned());
        }
        Wanted::Pass
    });
    let gateway = Gateway::start(settings(&between.url()));
    let names = [
        "a.test", "b.test", "c.test", "d.test", "e.test", "f.test", "bad.test", "h.test", "i.test", "j.test",
    ];
    let mut peer = Peer::publishing(gateway.address(), AGENT, &names);
    let news =
        wait_states(&mut peer, &names.map(|name| if name == "bad.test" { "rejected" } else { "served" }));
    let errors: Vec<_> =
        news["routes"].as_array().expect("a list").iter().filter_map(|row| row["error"].as_str()).collect();
    assert!(matches!(errors[..], [error] if error.contains("not this one")), "{errors:?}");
    assert_eq!((news["caddy"]["state"].as_str(), caddy.routes(SERVER).len()), (Some("ok"), 10));
    let writes = between.writes().len();
    wait_pass(&caddy);
    wait_pass(&caddy);
    assert_eq!(between.writes().len(), writes, "it is not tried again and again");
    // Another name under the same id is another matter.
    let mut names = names;
    names[6] = "good.test";
    peer.publish(&names);
    wait_states(&mut peer, &["served"; 10]);
}

#[test]
fn names_that_caddy_could_not_serve_never_reach_it() {
    if !caddy::is_here() {
        return;
    }
    let caddy = Caddy::start(|ports| file(ports, "taken.test {\n\trespond x\n}\n"));
    let gateway = gateway(&caddy);
    let (mut peer, _) = Peer::greeted(gateway.address(), AGENT);
    let names = [
        "UPPER.test",
        "dot.test.",
        "b\u{fc}cher.test",
        "port.test:8080",
        "10.0.0.1",
        "a b.test",
        "upper.test",
        "taken.test",
    ];
    peer.publish(&names);
    // Only those that are host names at all come into the Gateway's own table.
    let news = wait_states(&mut peer, &["served", "served", "conflict", "conflict"]);
    let error = |n: usize| news["routes"][n]["error"].as_str().unwrap_or_default().to_owned();
    assert!(error(2).contains("already") && error(3).contains("another site"), "{news}");
    assert_eq!(caddy.hosts(SERVER), ["upper.test ours", "dot.test ours", "gateway.test", "taken.test"]);
}

#[test]
fn an_admin_api_that_refuses_us_is_a_clear_error() {
    if !caddy::is_here() {
        return;
    }
    let caddy = Caddy::start(|ports| {
        file(ports, "").replacen(
            &format!("admin localhost:{}", ports.admin),
            &format!("admin localhost:{} {{\n\t\torigins caddy:2019\n\t}}", ports.admin),
            1,
        )
    });
    let gateway = gateway(&caddy);
    let mut peer = Peer::publishing(gateway.address(), AGENT, &["a.test"]);
    let news = wait_caddy(&mut peer, "forbidden");
    let error = news["caddy"]["lastError"].as_str().expect("an error");
    for part in
        ["host not allowed", "Gateway__CaddyAdminUrl", &format!("origins localhost:{}", caddy.ports.admin)]
    {
        assert!(error.contains(part), "{part} is missing: {error}");
    }
    assert_eq!(states(&news), ["pending"]);
}

#[test]
fn a_unix_socket_is_as_good() {
    if !caddy::is_here() {
        return;
    }
    let folder = Folder::new();
    let socket = folder.path().join("admin.sock").to_str().expect("UTF-8").to_owned();
    let caddy = Caddy::start(|ports| {
        file(ports, "").replacen(
            &format!("admin localhost:{}", ports.admin),
            &format!("admin unix/{socket}"),
            1,
        )
    });
    let gateway = Gateway::start(settings(&format!("unix:{socket}")));
    let mut peer = Peer::publishing(gateway.address(), AGENT, &["a.test"]);
    wait_states(&mut peer, &["served"]);
    let mut visitor = caddy.first_visitor("a.test");
    visitor.ask("GET", "/here", &[]);
    let open = peer.expect_open();
    assert_eq!(open.head.target(), "/here");
    peer.answer(open.stream, b"through a socket");
    assert_eq!(visitor.response("GET").text(), "through a socket");
    peer.publish(&["a.test", "b.test"]);
    let news = wait_states(&mut peer, &["served", "served"]);
    assert_eq!((&news["caddy"]["writes"], caddy.reloads()), (&json!(2), 2));
}

#[test]
fn calls_that_caddy_cuts_off_are_made_again() {
    if !caddy::is_here() {
        return;
    }
    let caddy = Caddy::start(|ports| file(ports, ""));
    let (read, written) = (AtomicBool::new(false), AtomicBool::new(false));
    let between = Between::new(caddy.ports.admin, move |call| match call.method.as_str() {
        "GET" if !read.swap(true, SeqCst) => Wanted::Cut,
        // Done, and nobody is told: the second time it must not be done again.
        "PATCH"
            if call.body.contains("stream_close_delay") == caddy::keeps_streams()
                && !written.swap(true, SeqCst) =>
        {
            Wanted::PassAndCut
        }
        _ => Wanted::Pass,
    });
    let gateway = Gateway::start(settings(&between.url()));
    let mut peer = Peer::publishing(gateway.address(), AGENT, &["a.test"]);
    wait_states(&mut peer, &["served"]);
    assert_eq!(caddy.reloads(), 1);
}

#[test]
fn foreign_changes_at_the_same_time_do_no_harm() {
    if !caddy::is_here() {
        return;
    }
    let caddy = Caddy::start(|ports| file(ports, ""));
    let gateway = gateway(&caddy);
    let mut peer = Peer::publishing(gateway.address(), AGENT, &["a.test"]);
    let admin = caddy.ports.admin;
    let stop = std::sync::Arc::new(AtomicBool::new(false));
    let foreign = {
        let stop = std::sync::Arc::clone(&stop);
        thread::spawn(move || {
            let mut count = 0;
            while !stop.load(SeqCst) && count < 200 {
                count += 1;
                // Appended, and so behind everything; a host would get a certificate, which is not the matter here.
                let matcher = json!({ "path": [format!("/{count}")] });
                let route = json!({ "match": [matcher], "handle": [{ "handler": "static_response" }] });
                let path = format!("/config/apps/http/servers/{SERVER}/routes");
                let answer = caddy::call(admin, "POST", &path, Some(&route));
                assert_eq!(answer.status(), 200, "{answer:?}");
            }
            count
        })
    };
    for n in 0..10 {
        let name = format!("n{n}.test");
        peer.publish(&["a.test", &name]);
        wait_pass(&caddy);
    }
    stop.store(true, SeqCst);
    let count = foreign.join().expect("the foreign changes went through");
    until("our routes in front", PATIENCE * 2, || {
        let hosts = caddy.hosts(SERVER);
        // An answer that is cut off makes the test ask again.
        (hosts[..3] == ["a.test ours", "n9.test ours", "gateway.test"] && hosts.len() >= 3 + count)
            .then_some(())
    });
}

#[test]
fn a_caddy_that_comes_later_gets_its_routes_then() {
    if !caddy::is_here() {
        return;
    }
    let ports = Ports::free();
    let mut gateway = Gateway::start(settings(&format!("http://localhost:{}", ports.admin)));
    gateway.daemon.wait_line("cannot be reached");
    let mut peer = Peer::publishing(gateway.address(), AGENT, &["a.test"]);
    let news = wait_caddy(&mut peer, "unreachable");
    assert_eq!(states(&news), ["pending"], "{news}");
    let caddy = Caddy::start_on(ports, &file(&ports, ""));
    wait_states(&mut peer, &["served"]);
    assert_eq!(caddy.hosts(SERVER), ["a.test ours", "gateway.test"]);
    let complaints = gateway.daemon.lines().iter().filter(|line| line.contains("cannot be reached")).count();
    assert_eq!(complaints, 1, "said once, not at every attempt");
}

#[test]
fn the_configuration_is_shown_without_secrets_and_with_our_routes_marked() {
    if !caddy::is_here() {
        return;
    }
    let hash = "$2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG";
    let more = format!("private.test {{\n\tbasicauth {{\n\t\tann {hash}\n\t}}\n\trespond x\n}}\n");
    let caddy = Caddy::start(|ports| file(ports, &more));
    let gateway = gateway(&caddy);
    let mut peer = Peer::publishing(gateway.address(), AGENT, &["a.test"]);
    wait_states(&mut peer, &["served"]);
    peer.control(&json!({ "type": "get-caddy", "request": 7, "config": true }));
    let answer = peer.expect_control("caddy");
    let text = answer["config"].as_str().unwrap_or_else(|| panic!("a configuration: {answer}"));
    let config: Value = serde_json::from_str(text).expect("JSON");
    let routes = config["apps"]["http"]["servers"][SERVER]["routes"].as_array().expect("routes");
    let marks: Vec<_> = routes.iter().map(|route| route.get("#octoporty").is_some()).collect();
    assert_eq!(marks, [true, false, false], "{text}");
    assert!(text.contains("private.test") && text.contains("ann"), "{text}");
    // Caddy keeps the hash in base64.
    assert!(text.contains("(redacted)") && !text.contains("$2a$") && !text.contains("JDJhJD"), "{text}");
}
