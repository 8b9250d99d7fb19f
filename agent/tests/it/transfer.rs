//! The list of mappings, written to a document and read back through the API.

use serde_json::{Value, json};

use crate::world::World;

fn import(world: &World, token: &str, query: &str, document: &Value) -> (u16, Value) {
    world.ask("POST", &format!("/api/v1/mappings/import?{query}"), Some(token), Some(document))
}

fn sums(answer: &Value) -> [u64; 4] {
    let count = |name: &str| answer[name].as_array().map_or(0, Vec::len) as u64;
    [count("added"), count("changed"), count("removed"), answer["unchanged"].as_u64().expect("a number")]
}

#[test]
fn what_was_exported_can_be_imported_here_and_elsewhere() {
    let (here, elsewhere) = (World::new(), World::new());
    let token = here.log_in();
    for n in 0..3 {
        let body = json!({
            "externalDomain": format!("m{n}.example"), "internalHost": "nas", "internalPort": 80 + n,
            "description": "grüße <&>", "hostHeader": "target", "allowSelfSignedCerts": n == 1,
        });
        assert_eq!(here.ask("POST", "/api/v1/mappings", Some(&token), Some(&body)).0, 201);
    }
    let (status, document) = here.ask("GET", "/api/v1/mappings/export", Some(&token), None);
    assert_eq!(
        (status, &document["format"], &document["version"]),
        (200, &json!("octoporty-mappings"), &json!(1))
    );
    assert_eq!(document["mappings"].as_array().map(Vec::len), Some(3));
    let (_, list) = here.ask("GET", "/api/v1/mappings", Some(&token), None);

    for same in [&document, &list] {
        for query in ["mode=merge", "mode=replace&dryRun=true", "mode=replace", ""] {
            let (status, answer) = import(&here, &token, query, same);
            assert_eq!((status, sums(&answer)), (200, [0, 0, 0, 3]), "{query}: {answer}");
        }
    }

    let other = elsewhere.log_in();
    let body = json!({ "externalDomain": "own.example", "internalHost": "nas", "internalPort": 1 });
    assert_eq!(elsewhere.ask("POST", "/api/v1/mappings", Some(&other), Some(&body)).0, 201);
    let (status, dry) = import(&elsewhere, &other, "mode=replace&dryRun=true", &document);
    assert_eq!((status, sums(&dry), &dry["applied"]), (200, [3, 0, 1, 0], &json!(false)), "{dry}");
    let count = || {
        let (_, list) = elsewhere.ask("GET", "/api/v1/mappings", Some(&other), None);
        list.as_array().expect("a list").len()
    };
    assert_eq!(count(), 1, "a dry run changes nothing");
    let (status, real) = import(&elsewhere, &other, "mode=replace&dryRun=false", &document);
    assert_eq!((status, &real["applied"], &real["dryRun"]), (200, &json!(true), &json!(false)));
    for part in ["added", "changed", "removed", "unchanged", "faults", "mode"] {
        assert_eq!(real[part], dry[part], "{part}: the dry run said what would happen");
    }
    assert_eq!(count(), 3);
    let (_, moved) = elsewhere.ask("GET", "/api/v1/mappings/export", Some(&other), None);
    let fields =
        ["id", "externalDomain", "internalPort", "description", "hostHeader", "createdAt", "enabled"];
    for n in 0..3 {
        for field in fields {
            assert_eq!(moved["mappings"][n][field], document["mappings"][n][field], "{n} {field}");
        }
    }
    here.stop();
    elsewhere.stop();
}

#[test]
fn a_document_with_a_fault_changes_nothing_and_every_fault_is_named() {
    let world = World::new();
    let token = world.log_in();
    let rows = json!([
        { "externalDomain": "good.example", "internalHost": "nas", "internalPort": 80 },
        { "externalDomain": "bad.example", "internalHost": "169.254.169.254", "internalPort": "x" },
        { "externalDomain": "GOOD.example", "internalHost": "nas", "internalPort": 81 },
    ]);
    for dry in [true, false] {
        let (status, answer) = import(&world, &token, &format!("dryRun={dry}"), &rows);
        assert_eq!((status, &answer["applied"], &answer["mode"]), (400, &json!(false), &json!("merge")));
        let faults = answer["faults"].as_array().expect("faults");
        let named: Vec<_> = faults.iter().map(|fault| (&fault["row"], &fault["field"])).collect();
        assert_eq!(
            named,
            [
                (&json!(2), &json!("internalHost")),
                (&json!(2), &json!("internalPort")),
                (&json!(3), &json!("externalDomain")),
            ]
        );
        assert_eq!(faults[2]["externalDomain"], "GOOD.example");
    }
    let (_, list) = world.ask("GET", "/api/v1/mappings", Some(&token), None);
    assert_eq!(list, json!([]));
    for (query, document, field) in [
        ("mode=append", json!([]), "mode"),
        ("dryRun=maybe", json!([]), "dryRun"),
        ("", json!({ "version": 9, "mappings": [] }), "serializerErrors"),
        ("", json!({ "format": "something else", "mappings": [] }), "serializerErrors"),
        ("", json!(7), "serializerErrors"),
    ] {
        let (status, answer) = import(&world, &token, query, &document);
        assert_eq!(status, 400, "{query} {document}");
        assert!(answer["errors"][field].is_array(), "{query} {document}: {answer}");
    }
    world.stop();
}

#[test]
fn five_thousand_mappings_pass_in_one_document() {
    let world = World::new();
    let token = world.log_in();
    let row = |n: usize| {
        json!({ "externalDomain": format!("host-{n}.of.some.example"), "internalHost": "192.168.1.20",
            "internalPort": 8080, "description": format!("mapping number {n} of the list"), "unknown": [n] })
    };
    let document = Value::Array((0..5_000).map(row).collect());
    let (status, answer) = import(&world, &token, "mode=replace", &document);
    assert_eq!((status, sums(&answer)), (200, [5_000, 0, 0, 0]));
    let (status, exported) = world.ask("GET", "/api/v1/mappings/export", Some(&token), None);
    assert_eq!(status, 200);
    let size = exported.to_string().len();
    assert!(size <= 4 * 1024 * 1024, "{size} bytes could not be imported again");
    let (status, answer) = import(&world, &token, "mode=replace", &exported);
    assert_eq!((status, sums(&answer)), (200, [0, 0, 0, 5_000]));
    world.stop();
}
