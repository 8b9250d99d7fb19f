//! `GET` and `POST /api/v1/test/echo`: says what arrived, for whoever tries whether something does.

use serde_json::{Map, Value, json};

use super::App;
use super::api::{Params, json_object};
use super::http::{Request, Response};
use crate::timestamp;

/// What a request must not bring back: it would end up in somebody's terminal.
const SECRET: [&str; 3] = ["authorization", "cookie", "x-api-key"];

/// Whether the request shows the key of the tunnel.
pub(crate) fn has_key(app: &App, request: &Request) -> bool {
    let shown = app.reach.api_key.as_ref().zip(request.header("x-api-key"));
    shown.is_some_and(|(key, given)| key.matches(given.as_bytes()))
}

/// `/api/v1/test/echo`.
pub(crate) fn echo(app: &App, request: &Request, _: &Params<'_>) -> Response {
    let data = if request.method == "POST" && !request.body.is_empty() {
        match json_object(request) {
            Ok(body) => body.get("data").map(Value::to_string),
            Err(refusal) => return refusal,
        }
    } else {
        None
    };
    let mut headers = Map::new();
    for (name, value) in &request.headers {
        let secret = SECRET.iter().any(|secret| name.eq_ignore_ascii_case(secret));
        let value = if secret { "[redacted]" } else { value.as_str() };
        if let Value::Array(values) = headers.entry(name.as_str()).or_insert_with(|| json!([])) {
            values.push(value.into());
        }
    }
    let query = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
    let status = app.control.status();
    Response::json(
        200,
        &json!({
            "success": true,
            "message": "Octoporty Agent received the request",
            "request": {
                "method": request.method,
                "path": format!("{}{query}", request.path),
                "headers": headers,
                "body": data,
                "remoteIp": request.peer.to_string(),
            },
            "agent": {
                "version": app.config.version,
                "connectionStatus": status.state.to_string(),
                "gatewayVersion": status.gateway_version,
                "machineName": app.config.name,
            },
            "timestamp": timestamp::api_form(timestamp::now()),
        }),
    )
}
