//! Answers that say what is wrong: one JSON shape for all of them, that of the earlier program's validation
//! errors.

use serde_json::{Map, Value, json};

use super::http::Response;

/// A field of the request and what is wrong with it.
pub(crate) type Fault = (String, String);

/// `{"statusCode":…,"message":…}`.
pub(crate) fn problem(status: u16, message: impl Into<String>) -> Response {
    shaped(json!({ "statusCode": status, "message": message.into() }), status)
}

/// As [`problem`], with the fields that are to blame.
pub(crate) fn with_fields(status: u16, message: impl Into<String>, faults: &[Fault]) -> Response {
    let mut errors = Map::new();
    for (field, text) in faults {
        if let Value::Array(texts) = errors.entry(field.as_str()).or_insert_with(|| json!([])) {
            texts.push(text.as_str().into());
        }
    }
    shaped(json!({ "statusCode": status, "message": message.into(), "errors": errors }), status)
}

/// The request was understood and its values will not do.
pub(crate) fn invalid(faults: &[Fault]) -> Response {
    with_fields(400, "One or more errors occurred!", faults)
}

/// The request body is no JSON, or not the JSON that was asked for.
pub(crate) fn malformed(what: impl Into<String>) -> Response {
    invalid(&[("serializerErrors".into(), what.into())])
}

/// Nobody knows what went wrong but the log, which does not go to the network.
pub(crate) fn internal(what: &dyn std::fmt::Display) -> Response {
    log::error!("admin: {what}");
    problem(500, "something went wrong here; the Agent's log says what")
}

fn shaped(value: Value, status: u16) -> Response {
    let mut response = Response::json(status, &value);
    response.headers[0].1 = "application/problem+json; charset=utf-8".into();
    response
}
