//! What the API passes on to the Gateway: its log, Caddy, its update. Answers 200 also when the Gateway cannot be
//! asked, with `success` false and a sentence, as scripts written for the earlier program expect.

use serde_json::{Value, json};

use shared::control::UpdateStatus;
use shared::hello::RouteReport;
use shared::version;

use super::App;
use super::api::{Params, json_object};
use super::http::{Request, Response};
use super::logs;
use super::problem;
use crate::control::TunnelState;

/// `GET /api/v1/gateway/logs?beforeId=&count=`: lines older than `beforeId` (0: the newest of all).
pub(crate) fn gateway_logs(app: &App, request: &Request, _: &Params<'_>) -> Response {
    let (before, count) = logs::page(request);
    let before = if before == u64::MAX { 0 } else { before };
    match app.control.gateway_logs(before, u32::try_from(count).unwrap_or(u32::MAX), None) {
        Ok(page) => Response::json(200, &logs::log_page(&page.lines, page.has_more)),
        Err(fault) => {
            let nothing = json!({
                "success": false, "error": fault.to_string(), "logs": [], "hasMore": false,
            });
            Response::json(200, &nothing)
        }
    }
}

/// `GET /api/v1/gateway/caddy-config`: Caddy's configuration, secrets redacted.
pub(crate) fn caddy_config(app: &App, _: &Request, _: &Params<'_>) -> Response {
    let config = app.control.caddy(true).map_err(|fault| fault.to_string());
    let config =
        config.and_then(|answer| answer.config.unwrap_or_else(|| Err("the Gateway sent none".into())));
    let value = match config {
        Ok(json) => json!({ "success": true, "error": null, "configJson": json }),
        Err(why) => json!({ "success": false, "error": why, "configJson": null }),
    };
    Response::json(200, &value)
}

/// `GET /api/v1/gateway/caddy`: how the Gateway and Caddy get along, and what Caddy does with each mapping.
pub(crate) fn caddy(app: &App, _: &Request, _: &Params<'_>) -> Response {
    let mut value = match app.control.caddy(false) {
        Ok(answer) => match serde_json::to_value(&answer.report) {
            Ok(mut value) => {
                value["success"] = true.into();
                value["error"] = Value::Null;
                value
            }
            Err(e) => return problem::internal(&e),
        },
        Err(fault) => json!({ "success": false, "error": fault.to_string() }),
    };
    let mappings = match app.store.mappings() {
        Ok(mappings) => mappings,
        Err(e) => return problem::internal(&e),
    };
    let row = |(id, report): (_, RouteReport)| {
        let mapping = mappings.iter().find(|mapping| mapping.id == id)?;
        Some(json!({
            "mappingId": report.id,
            "externalDomain": mapping.domain.as_str(),
            "state": report.state,
            "error": report.error,
        }))
    };
    value["routes"] = app.control.route_reports().into_iter().filter_map(row).collect();
    Response::json(200, &value)
}

/// `POST /api/v1/gateway/update`: asks the Gateway to bring itself to this Agent's version. `force` installs the
/// version again that is there already; to an older one it never goes.
pub(crate) fn request_update(app: &App, request: &Request, _: &Params<'_>) -> Response {
    let force = if request.body.is_empty() {
        false
    } else {
        match json_object(request).map(|body| body.get("force").cloned()) {
            Ok(None | Some(Value::Null)) => false,
            Ok(Some(Value::Bool(force))) => force,
            Ok(Some(_)) => return problem::invalid(&[("force".into(), "must be true or false".into())]),
            Err(refusal) => return refusal,
        }
    };
    let ours = &app.config.version;
    let status = app.control.status();
    let theirs = status.gateway_version;
    let answer = |success: bool, message: &str, status: Option<UpdateStatus>| {
        let (number, text) = match status {
            None => (Value::Null, Value::Null),
            Some(UpdateStatus::Queued) => (0.into(), "Queued".into()),
            Some(UpdateStatus::Rejected) => (1.into(), "Rejected".into()),
            Some(UpdateStatus::AlreadyQueued) => (2.into(), "AlreadyQueued".into()),
        };
        let value = json!({
            "success": success,
            "message": message,
            "error": if success { Value::Null } else { message.into() },
            "agentVersion": ours,
            "gatewayVersion": theirs,
            "status": number,
            "statusText": text,
        });
        Response::json(200, &value)
    };
    let known = theirs.as_deref().filter(|_| status.state == TunnelState::Connected);
    if let Some(theirs) = known {
        if version::newer(theirs, ours) {
            let text = format!(
                "The Gateway has {theirs}, which is newer than this Agent's {ours}: update the Agent"
            );
            return answer(false, &text, None);
        }
        if !force && !version::newer(ours, theirs) {
            return answer(false, &format!("No update is available: the Gateway has {theirs} already"), None);
        }
    }
    match app.control.request_update(ours, force) {
        Ok(reply) => {
            let success = reply.status != UpdateStatus::Rejected;
            answer(success, &reply.message, Some(reply.status))
        }
        Err(fault) => answer(false, &fault.to_string(), None),
    }
}

/// `GET /api/v1/gateway/update`: how far the last update has got.
pub(crate) fn update(app: &App, _: &Request, _: &Params<'_>) -> Response {
    let outcome = app.control.update_outcome().unwrap_or_default();
    Response::json(200, &crate::news::outcome_value(&outcome))
}
