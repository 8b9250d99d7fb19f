//! What requests make of a mapping.

use serde_json::json;

use super::*;
use crate::admin::mappings::shown;
use crate::store::unusable_row;

fn change(kind: Kind, body: Value) -> Change {
    let Value::Object(body) = body else { panic!("an object") };
    Change {
        id: MappingId::from_bytes([7; 16]),
        kind,
        body,
        now: timestamp::from_database("2026-02-01 12:00:00").expect("a date"),
        surroundings: Surroundings::for_tests(),
    }
}

fn create(body: Value) -> Result<Mapping, Vec<Fault>> {
    change(Kind::Create, body).apply(None)
}

fn stored() -> Mapping {
    create(json!({
        "externalDomain": "app.example", "internalHost": "nas", "internalPort": 8080, "description": "my app",
        "hostHeader": "target", "internalUseTls": true,
    }))
    .expect("a mapping")
}

fn update(kind: Kind, body: Value) -> Result<Mapping, Vec<Fault>> {
    change(kind, body).apply(Some(&Stored::Mapping(stored())))
}

#[test]
fn either_spelling_makes_the_same_mapping() {
    let one = create(json!({
        "externalDomain": "App.Example", "internalHost": " nas ", "internalPort": "8443", "internalUseTls": true,
        "allowSelfSignedCerts": true, "isEnabled": false, "description": "x", "externalPort": 443,
    }));
    let other = create(json!({
        "EXTERNALDOMAIN": "app.example", "internalHost": "nas", "internalPort": 8443, "internalProtocol": "https",
        "allowInvalidCertificates": true, "enabled": false, "name": "x",
    }));
    let one = one.expect("a mapping");
    assert_eq!(Ok(one.clone()), other);
    assert!(one.tls && one.allow_invalid_certificates && !one.enabled);
    assert_eq!(one.host_header, HostHeader::Preserve);
}

#[test]
fn every_fault_is_named_at_once_by_its_field() {
    let faults = create(json!({
        "externalDomain": "a b", "internalHost": "http://nas", "internalPort": 0, "internalProtocol": "ftp",
        "enabled": "yes", "description": "x".repeat(501), "hostHeader": "a/b", "allowSelfSignedCerts": null,
    }))
    .expect_err("faults");
    let fields: Vec<_> = faults.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "externalDomain",
            "internalHost",
            "internalPort",
            "internalProtocol",
            "allowSelfSignedCerts",
            "enabled",
            "description",
            "hostHeader"
        ]
    );
    let faults = create(json!({})).expect_err("faults");
    let empty = |field: &str| (field.to_owned(), "must not be empty".to_owned());
    assert_eq!(faults, ["externalDomain", "internalHost", "internalPort"].map(empty));
}

#[test]
fn ports_are_whole_and_in_range() {
    for (value, good) in [
        (json!(1), true),
        (json!(65535), true),
        (json!("443"), true),
        (json!(0), false),
        (json!(65536), false),
        (json!(-1), false),
        (json!(80.5), false),
        (json!("x"), false),
        (json!(null), false),
        (json!(1e30), false),
    ] {
        let made =
            create(json!({ "externalDomain": "a.example", "internalHost": "nas", "internalPort": value }));
        assert_eq!(made.is_ok(), good, "{value}");
    }
}

#[test]
fn places_nobody_may_reach_are_refused() {
    for (host, port, word) in [
        ("169.254.169.254", 80, "link-local"),
        ("0.0.0.0", 80, "unspecified"),
        ("localhost", 17201, "own admin page"),
        ("app.localhost.", 17201, "own admin page"),
        ("127.0.0.1", 17201, "own admin page"),
        ("::1", 17201, "own admin page"),
    ] {
        let faults =
            create(json!({ "externalDomain": "a.example", "internalHost": host, "internalPort": port }))
                .expect_err(host);
        assert!(faults[0].0 == "internalHost" && faults[0].1.contains(word), "{host}: {faults:?}");
    }
    for host in ["localhost", "127.0.0.1", "192.168.1.1"] {
        let made =
            create(json!({ "externalDomain": "a.example", "internalHost": host, "internalPort": 8080 }));
        assert!(made.is_ok(), "{host}");
    }
}

#[test]
fn the_gateways_own_name_cannot_be_mapped_away() {
    let faults =
        create(json!({ "externalDomain": "Gateway.Example", "internalHost": "nas", "internalPort": 80 }))
            .expect_err("a fault");
    assert_eq!(faults[0].0, "externalDomain");
    assert_eq!(host_of("wss://gateway.example:443"), "gateway.example");
    assert_eq!(host_of("wss://gateway.example/tunnel"), "gateway.example");
    assert_eq!(host_of(""), "");
}

#[test]
fn put_replaces_everything_but_what_old_programs_cannot_know() {
    let mapping = update(
        Kind::Replace,
        json!({ "externalDomain": "b.example", "internalHost": "10.0.0.1", "internalPort": 1 }),
    )
    .expect("a mapping");
    assert_eq!(mapping.description, None);
    assert!(!mapping.tls && mapping.enabled);
    assert_eq!(mapping.host_header, HostHeader::Target);
    assert!(update(Kind::Replace, json!({ "enabled": true })).is_err());
}

#[test]
fn patch_changes_what_it_names() {
    let before = stored();
    for (body, expected) in [
        (json!({}), before.clone()),
        (json!({ "internalPort": 9 }), Mapping { port: 9, ..before.clone() }),
        (json!({ "description": null }), Mapping { description: None, ..before.clone() }),
        (json!({ "name": "  " }), Mapping { description: None, ..before.clone() }),
        (json!({ "isEnabled": false }), Mapping { enabled: false, ..before.clone() }),
        (
            json!({ "hostHeader": "preserve" }),
            Mapping { host_header: HostHeader::Preserve, ..before.clone() },
        ),
    ] {
        assert_eq!(update(Kind::Merge, body.clone()), Ok(expected), "{body}");
    }
}

#[test]
fn toggle_touches_one_field_and_is_off_without_a_word() {
    let off = Mapping { enabled: false, ..stored() };
    assert_eq!(update(Kind::Toggle, json!({})), Ok(off.clone()));
    assert_eq!(update(Kind::Toggle, json!({ "enabled": false, "internalPort": 9 })), Ok(off));
    assert_eq!(update(Kind::Toggle, json!({ "isEnabled": true })), Ok(stored()));
}

#[test]
fn what_was_read_can_be_changed_under_either_name_and_sent_back() {
    for (name, value, check) in [
        ("description", json!("new"), Mapping { description: Some("new".into()), ..stored() }),
        ("name", json!("new"), Mapping { description: Some("new".into()), ..stored() }),
        ("description", json!(null), Mapping { description: None, ..stored() }),
        ("internalProtocol", json!("Http"), Mapping { tls: false, ..stored() }),
        ("internalUseTls", json!(false), Mapping { tls: false, ..stored() }),
        ("enabled", json!(false), Mapping { enabled: false, ..stored() }),
        ("isEnabled", json!(false), Mapping { enabled: false, ..stored() }),
    ] {
        let mut body = shown(&Stored::Mapping(stored()));
        body[name] = value;
        assert_eq!(update(Kind::Replace, body.clone()), Ok(check.clone()), "{name}");
        assert_eq!(update(Kind::Merge, body), Ok(check), "{name}");
    }
    // Without a description the name is the domain; moving the mapping does not turn it into one.
    let bare = Mapping { description: None, ..stored() };
    let mut body = shown(&Stored::Mapping(bare.clone()));
    body["externalDomain"] = json!("new.example");
    let moved = change(Kind::Replace, body).apply(Some(&Stored::Mapping(bare))).expect("a mapping");
    assert_eq!((moved.domain.as_str(), moved.description), ("new.example", None));
}

#[test]
fn two_spellings_that_disagree_are_refused() {
    let faults = create(json!({
        "externalDomain": "a.example", "internalHost": "nas", "internalPort": 80, "enabled": true,
        "isEnabled": false,
    }))
    .expect_err("a fault");
    assert_eq!(
        faults,
        [("enabled".into(), "says otherwise than \"isEnabled\", which means the same".into())]
    );
    let faults = update(Kind::Merge, json!({ "name": "x", "description": "y" })).expect_err("a fault");
    assert_eq!(faults.len(), 1);
}

#[test]
fn a_long_description_of_the_earlier_program_may_stay() {
    let old = Mapping { description: Some("x".repeat(600)), ..stored() };
    let body = shown(&Stored::Mapping(old.clone()));
    let kept = change(Kind::Replace, body).apply(Some(&Stored::Mapping(old.clone())));
    assert_eq!(kept, Ok(Mapping { updated_at: old.updated_at, ..old }));
}

#[test]
fn a_row_that_cannot_be_used_is_shown_and_mended() {
    let row = unusable_row("app.example", 7);
    let value = shown(&row);
    assert_eq!(value["internalHost"], "nas/path");
    assert_eq!(value["routeState"], "invalid");
    assert_eq!(value["routeError"], "not used: host \"nas/path\": no");
    let faults = change(Kind::Merge, json!({ "enabled": true })).apply(Some(&row)).expect_err("a fault");
    assert!(faults[0].1.contains("must be sent too"), "{faults:?}");
    let mended = change(Kind::Merge, json!({ "internalHost": "nas" })).apply(Some(&row)).expect("a mapping");
    assert_eq!(mended.host_header, HostHeader::Target);
}
