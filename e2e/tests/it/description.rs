//! The description of the API, judged by a real validator, and real answers judged by it, field by field.

use std::collections::HashSet;

use e2e::python;
use e2e::visitor::{Response, Visitor};
use e2e::world::{PASSWORD, World};
use serde_json::{Value, json};

/// Is the document what OpenAPI 3.1 says, and is each answer what the document says?
const JUDGE: &str = r##"
import json, sys
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
given = json.load(sys.stdin)
document = given["document"]
OpenAPIV31SpecValidator(document).validate()
faults = []
for answer in given["answers"]:
    operation = document["paths"][answer["path"]][answer["method"].lower()]
    described = operation["responses"].get(str(answer["status"]))
    name = "%(method)s %(path)s -> %(status)s" % answer
    if described is None:
        faults.append(name + ": the description has no such answer")
        continue
    content = described.get("content", {})
    kind = answer["type"].split(";")[0]
    if not content and not kind:
        continue
    if kind not in content:
        faults.append("%s: %r instead of %r" % (name, kind, list(content)))
        continue
    if not kind.endswith("json"):
        continue
    schema = dict(content[kind]["schema"])
    schema["components"] = document["components"]
    for error in Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).iter_errors(answer["body"]):
        faults.append("%s: %s: %s" % (name, error.json_path, error.message[:300]))
print("\n".join(faults))
"##;

/// What is asked of each route, in this order. `{mapping}` and `{session}` stand for ids that were made before.
fn questions() -> Vec<(&'static str, &'static str, &'static str, Value, u16)> {
    let none = Value::Null;
    let mapping = || json!({ "externalDomain": "new.test", "internalHost": "127.0.0.1", "internalPort": 9 });
    let unknown = "00000000-0000-4000-8000-000000000000";
    vec![
        ("GET", "/health", "", none.clone(), 200),
        ("GET", "/metrics", "", none.clone(), 200),
        ("GET", "/api/v1/openapi.json", "", none.clone(), 200),
        ("POST", "/api/v1/auth/login", "", json!({ "password": PASSWORD }), 200),
        ("POST", "/api/v1/auth/login", "", json!({}), 400),
        ("POST", "/api/v1/auth/login", "", json!({ "password": "wrong" }), 401),
        ("POST", "/api/v1/auth/refresh", "", json!({ "refreshToken": "none" }), 401),
        ("GET", "/api/v1/auth/sessions", "", none.clone(), 200),
        ("GET", "/api/v1/status", "", none.clone(), 200),
        ("GET", "/api/v1/mappings", "", none.clone(), 200),
        ("POST", "/api/v1/mappings", "", mapping(), 201),
        ("POST", "/api/v1/mappings", "", mapping(), 409),
        ("POST", "/api/v1/mappings", "", json!({ "internalPort": 0 }), 400),
        ("POST", "/api/v1/mappings/test", "", json!({ "internalHost": "127.0.0.1", "internalPort": 9 }), 200),
        ("GET", "/api/v1/discover", "", none.clone(), 200),
        ("GET", "/api/v1/mappings/export", "", none.clone(), 200),
        (
            "POST",
            "/api/v1/mappings/import",
            "?dryRun=true",
            json!([{ "externalDomain": "more.test", "internalHost": "127.0.0.1", "internalPort": 9 },
                   { "externalDomain": "new.test", "internalHost": "127.0.0.1", "internalPort": 10 }]),
            200,
        ),
        ("POST", "/api/v1/mappings/import", "?dryRun=true", json!([{ "externalDomain": "no.test" }]), 400),
        ("GET", "/api/v1/mappings/{id}", "{mapping}", none.clone(), 200),
        ("GET", "/api/v1/mappings/{id}", unknown, none.clone(), 404),
        ("GET", "/api/v1/mappings/{id}", "7", none.clone(), 400),
        ("PUT", "/api/v1/mappings/{id}", "{mapping}", mapping(), 200),
        (
            "PATCH",
            "/api/v1/mappings/{id}",
            "{mapping}",
            json!({ "description": "x", "hostHeader": "target" }),
            200,
        ),
        ("PATCH", "/api/v1/mappings/{id}/toggle", "{mapping}", json!({ "enabled": false }), 200),
        ("GET", "/api/v1/mappings/{id}/certificate", "{mapping}", none.clone(), 200),
        ("DELETE", "/api/v1/mappings/{id}", "{mapping}", none.clone(), 204),
        ("DELETE", "/api/v1/mappings/{id}", "{mapping}", none.clone(), 404),
        ("GET", "/api/v1/gateway/logs", "?count=5", none.clone(), 200),
        ("GET", "/api/v1/agent/logs", "?count=5&level=information&q=e", none.clone(), 200),
        ("GET", "/api/v1/agent/logs", "?level=loud", none.clone(), 400),
        ("GET", "/api/v1/gateway/caddy", "", none.clone(), 200),
        ("GET", "/api/v1/gateway/caddy-config", "", none.clone(), 200),
        ("GET", "/api/v1/gateway/update", "", none.clone(), 200),
        ("POST", "/api/v1/gateway/update", "", json!({}), 200),
        ("POST", "/api/v1/gateway/update", "", json!({ "force": 1 }), 400),
        ("POST", "/api/v1/test/diagnose", "", json!({ "url": "http://app.test/hello" }), 200),
        ("POST", "/api/v1/test/diagnose", "", json!({ "url": "nothing" }), 200),
        ("GET", "/api/v1/test/echo", "?a=b", none.clone(), 200),
        ("POST", "/api/v1/test/echo", "", json!({ "data": [1] }), 200),
        ("GET", "/api/v1/settings/landing-page", "", none.clone(), 200),
        ("PUT", "/api/v1/settings/landing-page", "", json!({ "html": "<p>Hello</p>" }), 200),
        ("PUT", "/api/v1/settings/landing-page", "", json!({ "html": "" }), 400),
        ("DELETE", "/api/v1/settings/landing-page", "", none.clone(), 200),
        ("GET", "/api/v1/settings/backup", "", none.clone(), 200),
        ("GET", "/api/v1/requests", "?limit=5", none.clone(), 200),
        ("GET", "/api/v1/requests", "?format=csv", none.clone(), 200),
        ("GET", "/api/v1/requests", "?limit=0", none.clone(), 400),
        ("GET", "/api/v1/connections", "", none.clone(), 200),
        ("GET", "/api/v1/connections", "?before=x", none.clone(), 400),
        ("GET", "/api/v1/traffic", "", none.clone(), 200),
        ("GET", "/api/v1/traffic", "?range=day", none.clone(), 200),
        ("GET", "/api/v1/traffic", "?range=year", none.clone(), 400),
        ("POST", "/api/v1/reconnect", "", none.clone(), 200),
        ("GET", "/api/v1/events", "", none.clone(), 200),
        ("DELETE", "/api/v1/auth/sessions/{id}", "{session}", none.clone(), 204),
        ("DELETE", "/api/v1/auth/sessions/{id}", unknown, none.clone(), 404),
        ("POST", "/api/v1/auth/logout", "", none.clone(), 204),
        // The Operator is nobody after that.
        ("GET", "/api/v1/status", "", none.clone(), 401),
    ]
}

#[test]
fn the_api_is_what_it_says_of_itself() {
    let world = World::start();
    let agent = world.agent();
    let _upstream = world.publish("app.test");
    world.wait_served("app.test");
    assert_eq!(world.get("app.test", "/page?a=b").status(), 200);
    let document = agent.call("GET", "/api/v1/openapi.json", None).json();
    let mut asked = HashSet::new();
    let mut answers = Vec::new();
    let login = |body: &Value| agent.call_with("POST", "/api/v1/auth/login", &[], Some(body)).json();
    let right = json!({ "password": PASSWORD });
    let mut token = login(&right)["token"].as_str().expect("a token").to_owned();
    let call = |token: &str, method: &str, path: &str, body: &Value| -> Response {
        let authorization = format!("Bearer {token}");
        let body = (!body.is_null()).then_some(body);
        agent.call_with(method, path, &[("Authorization", &authorization)], body)
    };
    let mut note = |method: &str, path: &str, answer: &Response| {
        asked.insert(format!("{method} {path}"));
        let kind = answer.get("content-type").unwrap_or_default();
        let body = if kind.contains("json") { answer.json() } else { Value::Null };
        answers.push(
            json!({ "method": method, "path": path, "status": answer.status(), "type": kind, "body": body }),
        );
    };
    let mut mapping = String::new();
    for (method, path, rest, body, status) in questions() {
        if path == "/api/v1/events" {
            // Never ends: its head is enough.
            let mut visitor = Visitor::connect(agent.api(), "agent");
            visitor
                .send(format!("GET {path} HTTP/1.1\r\nHost: agent\r\nAuthorization: Bearer {token}\r\n\r\n"));
            let head = visitor.head("GET");
            let answer = Response { interim: Vec::new(), head, body: Vec::new(), trailers: Vec::new() };
            note(method, path, &answer);
            continue;
        }
        let session = || {
            let sessions = call(&token, "GET", "/api/v1/auth/sessions", &Value::Null).json();
            let others =
                sessions.as_array().expect("a list").iter().find(|session| session["current"] == false);
            others.expect("another session")["id"].as_str().expect("an id").to_owned()
        };
        let real = match rest {
            "{mapping}" => path.replace("{id}", &mapping),
            "{session}" => path.replace("{id}", &session()),
            id if path.contains("{id}") => path.replace("{id}", id),
            query => format!("{path}{query}"),
        };
        let answer = call(&token, method, &real, &body);
        assert_eq!(answer.status(), status, "{method} {real}: {answer:?}");
        if status == 201 {
            mapping = answer.json()["id"].as_str().expect("an id").to_owned();
        }
        note(method, path, &answer);
    }
    token = login(&right)["token"].as_str().expect("a token").to_owned();
    note("POST", "/api/v1/auth/logout-all", &call(&token, "POST", "/api/v1/auth/logout-all", &Value::Null));

    let mut operations = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("operations").keys() {
            let operation = format!("{} {path}", method.to_uppercase());
            assert!(asked.contains(&operation), "{operation} is described and was not asked");
            operations += 1;
        }
    }
    assert!(operations > 30, "{operations}");
    let given = json!({ "document": document, "answers": answers }).to_string();
    let faults = python::run(JUDGE, given.as_bytes());
    assert_eq!(faults.trim(), "");
}
