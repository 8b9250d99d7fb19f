//! A real database of the earlier program under a real Agent. The file is not part of this repository;
//! `OCTOPORTY_ORIGINAL_DB` says where it is. All states in which one may be are tested in `agent/tests/it/original.rs`.

use e2e::machine::original_database;
use e2e::world::{Agent, World};
use serde_json::Value;

fn mappings(agent: &Agent) -> Vec<Value> {
    let answer = agent.call("GET", "/api/v1/mappings", None);
    assert_eq!(answer.status(), 200, "{answer:?}");
    answer.json().as_array().expect("a list").clone()
}

#[test]
fn an_agent_goes_on_with_the_database_of_the_earlier_program() {
    let Some(sample) = original_database() else { return };
    let world = World::start();
    let path = world.folder().path().join("original.db");
    std::fs::copy(&sample, &path).expect("a copy");
    let agent = world.agent().beside(&path);
    let all = mappings(&agent);
    assert_eq!(all.len(), 20);
    let first = all.iter().find(|mapping| mapping["externalDomain"] == "test.local").expect("test.local");
    assert_eq!((&first["internalPort"], &first["hostHeader"]), (&17201.into(), &"target".into()));
    assert_eq!(first["createdAt"], "2026-01-20T19:37:06Z");

    // What the list says can be taken to another Agent and is the same there, twice.
    for (query, sums) in [("mode=replace&dryRun=true", [20, 0]), ("mode=replace", [20, 0]), ("", [0, 20])] {
        let list = Value::Array(all.clone());
        let answer = world.agent().call("POST", &format!("/api/v1/mappings/import?{query}"), Some(&list));
        assert_eq!(answer.status(), 200, "{query}: {answer:?}");
        let answer = answer.json();
        assert_eq!(answer["added"].as_array().map(Vec::len), Some(sums[0]), "{query}");
        assert_eq!(answer["unchanged"], sums[1], "{query}");
    }
    let ids = |all: &[Value]| all.iter().map(|mapping| mapping["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&mappings(world.agent())), ids(&all));
}
