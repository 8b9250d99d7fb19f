//! Configurations as Caddy's adapter writes them, and what is read from them.

use serde_json::json;

use super::*;

fn site(host: &str, dial: &str) -> Value {
    json!({
        "match": [{ "host": [host] }],
        "handle": [{ "handler": "subroute", "routes": [{ "handle": [
            { "handler": "reverse_proxy", "upstreams": [{ "dial": dial }] },
        ] }] }],
        "terminal": true,
    })
}

fn server(listen: &str, hosts: &[&str]) -> Value {
    let routes: Vec<_> = hosts.iter().map(|host| site(host, "127.0.0.1:17200")).collect();
    json!({ "listen": [listen], "routes": routes })
}

fn choice(servers: Value, more: Value) -> Result<String, NoServer> {
    let mut http = more;
    http["servers"] = servers;
    choose_server(&http, &["gw.test".to_owned()], None).map(|server| server.name)
}

#[test]
fn a_server_is_chosen_by_what_it_does_and_not_by_its_name() {
    for (what, servers, more, expected) in [
        (
            "names us",
            json!({ "srv0": server(":2020", &["x.test"]), "srv1": server(":8443", &["gw.test"]) }),
            json!({}),
            "srv1",
        ),
        (
            "names us on both ports",
            json!({ "srv0": server(":80", &["gw.test"]), "srv1": server(":443", &["gw.test"]) }),
            json!({}),
            "srv1",
        ),
        (
            "https port",
            json!({ "srv0": server(":2020", &["x.test"]), "srv1": server(":443", &["y.test"]) }),
            json!({}),
            "srv1",
        ),
        (
            "https port of its own",
            json!({ "srv0": server(":17243", &["x.test"]), "srv1": server(":17280", &["y.test"]), "srv2": server(":443", &[]) }),
            json!({ "https_port": 17243, "http_port": 17280 }),
            "srv0",
        ),
        (
            "http port",
            json!({ "a": server("127.0.0.1:9", &[]), "b": server("tcp/:80", &[]) }),
            json!({}),
            "b",
        ),
        ("the only one", json!({ "main": server("unix//run/x.sock", &[]) }), json!({}), "main"),
        ("a range of ports", json!({ "a": server(":9", &[]), "b": server(":440-450", &[]) }), json!({}), "b"),
        ("in upper case", json!({ "a": server(":9", &[]), "b": server(":9", &["GW.test"]) }), json!({}), "b"),
    ] {
        assert_eq!(choice(servers, more).as_deref(), Ok(expected), "{what}");
    }
}

#[test]
fn without_a_fitting_server_the_others_are_listed() {
    for http in [Value::Null, json!({}), json!({ "servers": null }), json!({ "servers": {} })] {
        assert_eq!(choose_server(&http, &[], None), Err(NoServer::Empty));
    }
    let servers = json!({ "a": server(":9", &[]), "b": server(":10", &[]) });
    let Err(NoServer::Unclear(text)) = choice(servers.clone(), json!({})) else { panic!("a choice") };
    assert!(text.contains("a (:9), b (:10)"), "{text}");
    let http = json!({ "servers": servers });
    assert_eq!(choose_server(&http, &[], Some("b")).map(|server| server.name), Ok("b".to_owned()));
    let Err(NoServer::Unclear(text)) = choose_server(&http, &[], Some("c")) else { panic!("a choice") };
    assert!(text.contains("Gateway__CaddyServer") && text.contains("a (:9)"), "{text}");
}

#[test]
fn among_several_the_first_is_taken_and_that_is_said() {
    let http = json!({ "servers": { "b": server("10.0.0.1:443", &[]), "a": server("10.0.0.2:443", &[]) } });
    let chosen = choose_server(&http, &[], None).expect("a server");
    assert_eq!(chosen.name, "a");
    assert!(chosen.note.is_some_and(|note| note.contains("a, b")));
}

#[test]
fn routes_of_ours_do_not_decide() {
    let mut ours = server(":9", &["gw.test"]);
    ours["routes"][0]["@id"] = json!("octoporty-1");
    assert_eq!(choice(json!({ "a": ours, "b": server(":443", &[]) }), json!({})).as_deref(), Ok("b"));
}

#[test]
fn the_address_that_caddy_uses_already_is_used_again() {
    let tree = json!({ "routes": [site("x.test", "other:17200"), site("gw.test", "gateway:17200")] });
    let own = ["gw.test".to_owned()];
    assert_eq!(known_dial(&tree, &own, 17200).as_deref(), Some("gateway:17200"));
    assert_eq!(known_dial(&tree, &own, 17299), None, "that is somebody else");
    assert_eq!(known_dial(&tree, &[], 17200), None);
    assert_eq!(known_dial(&Value::Null, &own, 17200), None);
}

#[test]
fn where_visitors_arrive_is_read_from_the_listeners() {
    for (listen, https, expected) in [
        (json!([":443"]), 443, (None, 443)),
        (json!([":80", ":17243"]), 17243, (None, 17243)),
        (json!(["127.0.0.1:8443"]), 443, (Some("127.0.0.1"), 8443)),
        (json!(["tcp/[::1]:443"]), 443, (Some("::1"), 443)),
        (json!(["0.0.0.0:443"]), 443, (None, 443)),
        (json!(["unix//run/x"]), 443, (None, 443)),
        (json!([]), 443, (None, 443)),
    ] {
        let http = json!({ "https_port": https });
        let (address, port) = front(&http, &json!({ "listen": listen }));
        assert_eq!((address.as_deref(), port), expected, "{listen}");
    }
}

#[test]
fn on_demand_tls_is_recognised_in_both_forms() {
    let apps = |on_demand: Value| json!({ "tls": { "automation": { "policies": [{ "subjects": ["gw.test"] }, { "on_demand": true }], "on_demand": on_demand } } });
    assert_eq!(on_demand(&apps(json!({ "ask": "http://127.0.0.1:17200/caddy/ask" }))), Ok(()));
    assert_eq!(
        on_demand(&apps(
            json!({ "permission": { "module": "http", "endpoint": "http://gateway:17200/caddy/ask?x=1" } })
        )),
        Ok(())
    );
    let error =
        on_demand(&apps(json!({ "ask": "http://127.0.0.1:9/other" }))).expect_err("somebody else is asked");
    assert!(error.contains("/caddy/ask"), "{error}");
    assert!(on_demand(&apps(Value::Null)).is_err());
    for apps in
        [Value::Null, json!({}), json!({ "tls": { "automation": { "policies": [{ "subjects": ["a"] }] } } })]
    {
        let error = on_demand(&apps).expect_err("no on-demand TLS");
        assert!(error.contains("Gateway__CaddyMode=routes"), "{error}");
    }
}

#[test]
fn what_gives_a_wildcard_its_certificate_is_recognised() {
    let policy = |policy: Value| json!({ "tls": { "automation": { "policies": [policy] } } });
    let tls = json!({ "listen": [":443"] });
    let acme = json!({ "module": "acme", "challenges": { "dns": { "provider": { "name": "x" } } } });
    for (what, apps, server, expected) in [
        ("nothing", json!({}), tls.clone(), false),
        ("no listener at all", json!({}), Value::Null, false),
        ("plain ACME", policy(json!({ "issuers": [{ "module": "acme" }] })), tls.clone(), false),
        ("on demand only", policy(json!({ "on_demand": true })), tls.clone(), false),
        ("its own authority", policy(json!({ "issuers": [{ "module": "internal" }] })), tls.clone(), true),
        ("DNS", policy(json!({ "issuers": [acme] })), tls.clone(), true),
        ("DNS for it", policy(json!({ "subjects": ["*.w.test"], "issuers": [acme] })), tls.clone(), true),
        (
            "DNS for others",
            policy(json!({ "subjects": ["*.x.test"], "issuers": [acme] })),
            tls.clone(),
            false,
        ),
        ("a manager", policy(json!({ "get_certificate": [{ "via": "tailscale" }] })), tls.clone(), true),
        ("files", json!({ "tls": { "certificates": { "load_files": [{}] } } }), tls, true),
        ("no TLS here", json!({}), json!({ "listen": [":80"] }), true),
        ("off", json!({}), json!({ "listen": [":443"], "automatic_https": { "disable": true } }), true),
    ] {
        assert_eq!(has_wildcard_certificate(&apps, &server, "*.w.test"), expected, "{what}");
    }
}
