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

/// `POST /api/v1/gateway/update`: asks the Gateway to bring itself to this Agent's version. `force` asks for the
/// version that is there already, too, which our own updater refuses; to an older one it never goes.
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use shared::control::{CaddyReport, UpdateOutcome};
    use shared::logging::{Level, Line};
    use shared::mapping::MappingId;

    use super::*;
    use crate::admin::testing::app;
    use crate::control::{AskFault, CaddyAnswer, Control, LogPage, RouteState, TunnelStatus, UpdateReply};

    /// A Gateway that has this version and answers, or does not.
    struct Fake {
        version: &'static str,
        connected: bool,
        fault: Option<AskFault>,
        asked: Mutex<Vec<String>>,
    }

    impl Fake {
        fn new(version: &'static str) -> Fake {
            Fake { version, connected: true, fault: None, asked: Mutex::default() }
        }

        fn answer<T>(&self, question: String, answer: T) -> Result<T, AskFault> {
            self.asked.lock().expect("asked").push(question);
            self.fault.clone().map_or(Ok(answer), Err)
        }
    }

    impl Control for Fake {
        fn status(&self) -> TunnelStatus {
            let state = if self.connected { TunnelState::Connected } else { TunnelState::Disconnected };
            TunnelStatus { state, gateway_version: Some(self.version.into()), ..TunnelStatus::default() }
        }

        fn mappings_changed(&self, _: Duration) -> Vec<(MappingId, RouteState)> {
            Vec::new()
        }

        fn reconnect(&self) {}

        fn gateway_logs(&self, before: u64, count: u32, _: Option<&str>) -> Result<LogPage, AskFault> {
            let line = Line { id: 41, time_ms: 1, level: Level::Warning, text: "hot".into() };
            self.answer(format!("logs {before} {count}"), LogPage { lines: vec![line], has_more: true })
        }

        fn caddy(&self, config: bool) -> Result<CaddyAnswer, AskFault> {
            let report = CaddyReport { mode: "routes".into(), state: "ok".into(), ..CaddyReport::default() };
            let config = config.then(|| Ok("{}".to_owned()));
            self.answer("caddy".into(), CaddyAnswer { report, config })
        }

        fn request_update(&self, target_version: &str, force: bool) -> Result<UpdateReply, AskFault> {
            let reply = UpdateReply { status: UpdateStatus::Queued, message: "queued".into() };
            self.answer(format!("update {target_version} {force}"), reply)
        }

        fn update_outcome(&self) -> Option<UpdateOutcome> {
            Some(UpdateOutcome { state: "running".into(), ..UpdateOutcome::default() })
        }
    }

    /// The answer to one request, and what the Gateway was asked for it. Our own version is 1.2.3.
    fn ask(
        fake: Fake,
        run: fn(&App, &Request, &Params<'_>) -> Response,
        request: &Request,
    ) -> (Value, Vec<String>) {
        let (app, fake, _scratch) = app(fake);
        let response = run(&app, request, &Params::default());
        assert_eq!(response.status, 200);
        let asked = fake.asked.lock().expect("asked").clone();
        (response.value(), asked)
    }

    #[test]
    fn a_page_of_the_gateways_log_looks_as_it_always_did() {
        let request = Request::new("GET", "/api/v1/gateway/logs?beforeId=50&count=99999");
        let (value, asked) = ask(Fake::new("1.2.3"), gateway_logs, &request);
        let expected = json!({
            "success": true, "error": null, "hasMore": true,
            "logs": [{ "id": 41, "timestamp": "1970-01-01T00:00:00.001Z", "level": "Warning", "message": "hot" }],
        });
        assert_eq!((value, asked), (expected, vec!["logs 50 5000".to_owned()]));
        let (_, asked) =
            ask(Fake::new("1.2.3"), gateway_logs, &Request::new("GET", "/api/v1/gateway/logs?beforeId=x"));
        assert_eq!(asked, ["logs 0 1000"]);
    }

    #[test]
    fn a_gateway_that_cannot_be_asked_is_said_with_status_200() {
        for (fault, words) in [
            (AskFault::NotConnected, "Not connected"),
            (AskFault::Timeout, "30 seconds"),
            (AskFault::Lost, "lost"),
            (AskFault::Unsupported, "older"),
            (AskFault::Refused("busy".into()), "busy"),
        ] {
            let fake = || Fake { fault: Some(fault.clone()), ..Fake::new("1.0.0") };
            let (logs, _) = ask(fake(), gateway_logs, &Request::new("GET", "/x"));
            assert_eq!((&logs["logs"], &logs["hasMore"]), (&json!([]), &json!(false)));
            let (config, _) = ask(fake(), caddy_config, &Request::new("GET", "/x"));
            assert_eq!(config["configJson"], Value::Null);
            let (report, _) = ask(fake(), caddy, &Request::new("GET", "/x"));
            let (update, _) = ask(fake(), request_update, &Request::new("POST", "/x"));
            assert_eq!((&update["status"], &update["statusText"]), (&Value::Null, &Value::Null));
            for value in [logs, config, report, update] {
                assert_eq!(value["success"], false);
                assert!(value["error"].as_str().expect("a text").contains(words), "{value}");
            }
        }
    }

    #[test]
    fn caddys_configuration_and_state_are_passed_on() {
        let (config, _) = ask(Fake::new("1.2.3"), caddy_config, &Request::new("GET", "/x"));
        assert_eq!(config, json!({ "success": true, "error": null, "configJson": "{}" }));
        let (report, _) = ask(Fake::new("1.2.3"), caddy, &Request::new("GET", "/x"));
        assert_eq!(
            (&report["success"], &report["mode"], &report["state"]),
            (&json!(true), &json!("routes"), &json!("ok"))
        );
        assert_eq!(
            (&report["routes"], &report["ownRoutes"], &report["lastError"]),
            (&json!([]), &json!([]), &Value::Null)
        );
    }

    #[test]
    fn only_what_makes_sense_reaches_the_gateway() {
        let force = Request::new("POST", "/x").json(r#"{"force":true}"#);
        let plain = Request::new("POST", "/x");
        for (theirs, request, asked, success) in [
            ("1.2.2", &plain, Some("update 1.2.3 false"), true),
            ("1.2.3", &plain, None, false),
            ("1.2.3", &force, Some("update 1.2.3 true"), true),
            ("1.10.0", &force, None, false),
        ] {
            let (value, seen) = ask(Fake::new(theirs), request_update, request);
            assert_eq!(seen, asked.map(str::to_owned).into_iter().collect::<Vec<_>>(), "{theirs}");
            assert_eq!(value["success"], success, "{theirs}: {value}");
            assert_eq!((&value["agentVersion"], &value["gatewayVersion"]), (&json!("1.2.3"), &json!(theirs)));
            assert_eq!(value["error"].is_null(), success);
            assert_eq!(value["status"], if success { json!(0) } else { Value::Null });
        }
        // Away: what is known of it is old.
        let away = Fake { connected: false, fault: Some(AskFault::NotConnected), ..Fake::new("1.2.3") };
        let (value, _) = ask(away, request_update, &plain);
        assert!(value["message"].as_str().expect("a text").contains("Not connected"), "{value}");

        let (app, ..) = app(Fake::new("1.0.0"));
        for body in [r#"{"force":"yes"}"#, "[]", "{"] {
            let wrong = Request::new("POST", "/x").json(body);
            assert_eq!(request_update(&app, &wrong, &Params::default()).status, 400, "{body}");
        }
    }

    #[test]
    fn an_outcome_has_all_of_its_fields() {
        let (value, _) = ask(Fake::new("1.2.3"), update, &Request::new("GET", "/x"));
        let expected = json!({
            "state": "running", "targetVersion": null, "fromVersion": null, "message": null, "at": null,
        });
        assert_eq!(value, expected);
    }
}
