//! Questions about services before there is a mapping: does this target answer, and which services are there?

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use serde_json::{Value, json};
use shared::hostname::Hostname;
use shared::mapping::HostHeader;

use super::App;
use super::api::{Params, json_object};
use super::http::{Request, Response};
use super::mappings;
use super::problem::{self, problem};
use crate::discover;
use crate::probe::{Target, probe};

/// Questions at the same time; each keeps a thread for as long as a service is silent.
const MOST: usize = 8;
/// Longest path that is asked for.
const MAX_PATH: usize = 2048;

static ASKING: AtomicUsize = AtomicUsize::new(0);

/// A place among those who may ask; given back when dropped.
struct Place;

impl Place {
    fn take() -> Result<Place, Response> {
        let claim = |count| (count < MOST).then_some(count + 1);
        match ASKING.fetch_update(Relaxed, Relaxed, claim) {
            Ok(_) => Ok(Place),
            Err(_) => {
                let text = "too many services are being asked at this moment; try again in a few seconds";
                Err(problem(503, text).with("Retry-After", "5"))
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        ASKING.fetch_sub(1, Relaxed);
    }
}

/// `POST /api/v1/mappings/test`: the fields of a mapping, and `path`; the answer says how the service there answers.
pub(crate) fn test(app: &App, request: &Request, _: &Params<'_>) -> Response {
    let mut body = match json_object(request) {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let path = match body.remove("path") {
        None | Some(Value::Null) => "/".to_owned(),
        Some(Value::String(path)) if is_path(&path) => path,
        Some(_) => {
            let fault = format!("must begin with / and have at most {MAX_PATH} visible ASCII characters");
            return problem::invalid(&[("path".into(), fault)]);
        }
    };
    // The name may still be missing or half typed: it matters only for the Host field.
    let domain =
        body.get("externalDomain").and_then(Value::as_str).and_then(|text| Hostname::parse(text).ok());
    body.insert("externalDomain".into(), "target.invalid".into());
    let mapping = match mappings::draft(app, body) {
        Ok(mapping) => mapping,
        Err(faults) => return problem::invalid(&faults),
    };
    let host_header = match &mapping.host_header {
        HostHeader::Preserve => domain.as_ref().map(|domain| domain.as_str().trim_start_matches("*.")),
        HostHeader::Target => None,
        HostHeader::Literal(value) => Some(value.as_str()),
    };
    let target = Target {
        host: &mapping.host,
        port: mapping.port,
        tls: mapping.tls,
        any_certificate: mapping.allow_invalid_certificates,
        host_header,
        path: &path,
    };
    let _place = match Place::take() {
        Ok(place) => place,
        Err(refusal) => return refusal,
    };
    Response::json(200, &probe(&target, app.address()).shown())
}

fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.len() <= MAX_PATH && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
}

/// `GET /api/v1/discover`: web services on the Agent's own machine.
pub(crate) fn discover(app: &App, _: &Request, _: &Params<'_>) -> Response {
    let _place = match Place::take() {
        Ok(place) => place,
        Err(refusal) => return refusal,
    };
    match discover::services(app.address()) {
        Ok(services) => {
            let services: Vec<_> = services.iter().map(discover::Service::shown).collect();
            Response::json(200, &json!({ "services": services }))
        }
        Err(e) => problem(503, format!("the listening sockets of this machine cannot be read: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_what_may_stand_in_a_request_line() {
        for good in ["/", "/a?b=c%20d"] {
            assert!(is_path(good), "{good}");
        }
        for bad in ["", "a", "/a b", "/a\r\nX: y", "/\u{e9}", "/a#b", "http://x/"] {
            assert!(!is_path(bad), "{bad:?}");
        }
        assert!(!is_path(&format!("/{}", "x".repeat(MAX_PATH))));
    }
}
