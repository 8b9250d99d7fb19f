//! Mappings over the API: what is saved, refused and told.

use super::*;

#[test]
fn a_mapping_lives_through_its_whole_life() {
    let world = World::new();
    let body = json!({
        "externalDomain": "App.Example", "internalHost": "192.168.1.20", "internalPort": 8123,
        "internalUseTls": true, "allowSelfSignedCerts": true, "description": "home",
    });
    let created = world.operator("POST", "/api/v1/mappings", Some(body));
    assert_eq!(created.status, 201);
    let value = created.value();
    let id = value["id"].as_str().expect("an id").to_owned();
    let path = format!("/api/v1/mappings/{id}");
    assert_eq!(created.header("Location"), Some(path.as_str()));
    assert_eq!(id, id.to_lowercase());
    let created_at = value["createdAt"].clone();
    assert!(created_at.as_str().expect("a date").ends_with('Z'));
    assert_eq!(
        value,
        json!({
            "id": id, "name": "home", "description": "home", "externalDomain": "app.example",
            "internalHost": "192.168.1.20", "internalPort": 8123, "internalProtocol": "Https",
            "internalUseTls": true, "allowInvalidCertificates": true, "allowSelfSignedCerts": true,
            "enabled": true, "isEnabled": true, "hostHeader": "preserve", "createdAt": created_at,
            "updatedAt": created_at, "lastRequestAt": null, "routeState": "served", "routeError": null, "certificate": null,
        })
    );

    let got = world.operator("GET", &path, None);
    assert_eq!(got.status, 200);
    assert_eq!(got.value()["routeState"], "unknown");
    assert_eq!(got.value()["createdAt"], created_at);
    assert_eq!(world.operator("GET", &format!("/api/v1/mappings/{}", id.to_uppercase()), None).status, 200);

    let off = world.operator("PATCH", &format!("{path}/toggle"), Some(json!({ "enabled": false })));
    assert_eq!((off.status, &off.value()["enabled"]), (200, &json!(false)));
    let patched =
        world.operator("PATCH", &path, Some(json!({ "hostHeader": "app.lan", "description": null })));
    assert_eq!(patched.value()["hostHeader"], "app.lan");
    assert_eq!(patched.value()["name"], "app.example");
    assert_eq!(patched.value()["enabled"], false);
    let put = json!({ "externalDomain": "b.example", "internalHost": "nas", "internalPort": 80 });
    let put = world.operator("PUT", &path, Some(put));
    assert_eq!(put.status, 200);
    assert_eq!(put.value()["enabled"], true);
    assert_eq!(put.value()["hostHeader"], "app.lan");

    let listed = world.operator("GET", "/api/v1/mappings", None).value();
    assert_eq!(listed.as_array().expect("a list").len(), 1);
    let deleted = world.operator("DELETE", &path, None);
    assert_eq!((deleted.status, deleted.written().expect("a body").len()), (204, 0));
    assert_eq!(world.operator("DELETE", &path, None).status, 404);
    assert_eq!(world.operator("GET", &path, None).status, 404);
    assert_eq!(world.operator("PUT", &path, Some(json!({}))).status, 404);
    assert_eq!(world.tunnel.changes.load(Ordering::Relaxed), 5, "each change reaches the tunnel, no other");
}

#[test]
fn mappings_are_listed_by_domain() {
    let world = World::new();
    for domain in ["c.example", "a.example", "b.example"] {
        world.mapping(domain);
    }
    let listed = world.operator("GET", "/api/v1/mappings", None).value();
    let domains: Vec<_> = listed.as_array().expect("a list").iter().map(|m| &m["externalDomain"]).collect();
    assert_eq!(domains, ["a.example", "b.example", "c.example"]);
}

#[test]
fn a_save_tells_how_the_route_stands() {
    let world = World::new();
    let id = world.mapping("a.example")["id"].as_str().expect("an id").to_owned();
    *world.tunnel.store.lock().expect("store") = None;
    world.tunnel.status.lock().expect("status").state = TunnelState::Connected;
    let path = format!("/api/v1/mappings/{id}");
    for (routes, expected) in [
        (vec![], ("pending", Value::Null)),
        (vec![RouteState::Pending], ("pending", Value::Null)),
        (vec![RouteState::Failed("caddy: no".into())], ("rejected", json!("caddy: no"))),
    ] {
        let id: MappingId = id.parse().expect("an id");
        *world.tunnel.routes.lock().expect("routes") = routes.into_iter().map(|s| (id, s)).collect();
        let saved = world.operator("PATCH", &path, Some(json!({})));
        let value = saved.value();
        assert_eq!((&value["routeState"], &value["routeError"]), (&json!(expected.0), &expected.1));
    }
}

#[test]
fn a_domain_taken_is_a_conflict_with_a_sentence() {
    let world = World::new();
    world.mapping("a.example");
    let other = world.mapping("b.example");
    let body = json!({ "externalDomain": "A.EXAMPLE", "internalHost": "nas", "internalPort": 80 });
    let refused = world.operator("POST", "/api/v1/mappings", Some(body.clone()));
    assert_eq!(refused.status, 409);
    assert_eq!(
        refused.value(),
        json!({
            "statusCode": 409, "message": "the domain a.example already has a mapping",
            "errors": { "externalDomain": ["already has a mapping"] },
        })
    );
    let path = format!("/api/v1/mappings/{}", other["id"].as_str().expect("an id"));
    assert_eq!(world.operator("PUT", &path, Some(body)).status, 409);
    assert_eq!(world.operator("PATCH", &path, Some(json!({ "externalDomain": "b.example" }))).status, 200);
}

#[test]
fn a_validation_error_names_field_and_reason() {
    let world = World::new();
    let body = json!({ "externalDomain": "a.example", "internalHost": "169.254.169.254", "internalPort": 0 });
    let refused = world.operator("POST", "/api/v1/mappings", Some(body));
    assert_eq!(refused.status, 400);
    assert_eq!(refused.header("Content-Type"), Some("application/problem+json; charset=utf-8"));
    let value = refused.value();
    assert_eq!(value["statusCode"], 400);
    assert_eq!(value["message"], "One or more errors occurred!");
    assert_eq!(value["errors"]["internalPort"], json!(["must be between 1 and 65535, is 0"]));
    assert!(value["errors"]["internalHost"][0].as_str().expect("a text").contains("link-local"));
    let refused = world.operator("GET", "/api/v1/mappings/7", None).value();
    assert!(refused["errors"]["id"][0].as_str().expect("a text").contains("not an id"), "{refused}");
}

#[test]
fn open_pages_hear_of_every_change_of_a_mapping() {
    let world = World::new();
    let listener = world.app.live.hub.listen(None).expect("room for a listener");
    let id = world.mapping("app.example")["id"].as_str().expect("an id").to_owned();
    let path = format!("/api/v1/mappings/{id}");
    assert_eq!(world.operator("PATCH", &path, Some(json!({ "internalPort": 81 }))).status, 200);
    let toggle = format!("{path}/toggle");
    assert_eq!(world.operator("PATCH", &toggle, Some(json!({ "enabled": false }))).status, 200);
    assert_eq!(world.operator("PATCH", &path, Some(json!({ "internalPort": 0 }))).status, 400);
    assert_eq!(world.operator("DELETE", &path, None).status, 204);
    let heard: Vec<_> = listener.take().messages.iter().map(|m| (m.name, m.data.clone())).collect();
    let expected = ["created", "updated", "updated", "deleted"]
        .map(|reason| ("MappingsChanged", json!({ "reason": reason, "ids": [id] }).to_string()));
    assert_eq!(heard, expected);
}
