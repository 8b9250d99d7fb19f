//! How mappings stand at the Gateway: `routeState`, `routeError` and `certificate` in their JSON, and
//! `GET /api/v1/mappings/{id}/certificate`.

use std::collections::HashMap;

use serde_json::{Value, json};

use shared::control::CertificateReport;
use shared::hello::RouteReport;
use shared::mapping::{Mapping, MappingId};

use super::App;
use super::api::Params;
use super::http::{Request, Response};
use super::problem::{self, problem};
use crate::control::{AskFault, Control, RouteState, TunnelState};
use crate::store::Stored;

/// What is known of all mappings at this moment.
pub(crate) struct Standings {
    connected: bool,
    reports: HashMap<MappingId, RouteReport>,
}

impl Standings {
    pub(crate) fn now(control: &dyn Control) -> Standings {
        Standings {
            connected: control.status().state == TunnelState::Connected,
            reports: control.route_reports().into_iter().collect(),
        }
    }

    /// The word for a mapping, and what is wrong with it.
    fn of(&self, id: MappingId, enabled: bool) -> (&str, Option<&str>) {
        match self.reports.get(&id) {
            _ if !enabled => ("off", None),
            _ if !self.connected => ("unknown", None),
            Some(report) => (&report.state, report.error.as_deref()),
            None => ("pending", None),
        }
    }

    /// Adds what is known to the JSON of a mapping.
    pub(crate) fn add(&self, value: &mut Value, control: &dyn Control, mapping: &Mapping) {
        let (state, error) = self.of(mapping.id, mapping.enabled);
        value["routeState"] = state.into();
        value["routeError"] = error.into();
        value["certificate"] =
            control.known_certificate(mapping.domain.as_str()).map_or(Value::Null, |known| {
                json!({
                    "state": known.state,
                    "issuer": known.issuer,
                    "notAfter": known.not_after,
                    "error": known.error,
                    "checkedAt": known.checked_at,
                })
            });
    }

    /// As [`Standings::add`] for a mapping that has just been saved, of which the tunnel says how far it has got.
    pub(crate) fn add_saved(
        &self,
        value: &mut Value,
        control: &dyn Control,
        mapping: &Mapping,
        state: &RouteState,
    ) {
        self.add(value, control, mapping);
        match state {
            // It has just been acknowledged, whatever is known of Caddy.
            RouteState::Synced if mapping.enabled && !self.reports.contains_key(&mapping.id) => {
                value["routeState"] = "served".into();
            }
            RouteState::Synced => {}
            RouteState::Pending if mapping.enabled && self.connected => {
                value["routeState"] = "pending".into()
            }
            RouteState::Pending => {}
            RouteState::Failed(why) => {
                value["routeState"] = "rejected".into();
                value["routeError"] = why.as_str().into();
            }
        }
    }
}

/// `GET /api/v1/mappings/{id}/certificate?fresh=true`: what visitors of the mapping's host get. When the Gateway
/// cannot be asked, the state is `unknown` and the error says why.
pub(crate) fn certificate(app: &App, request: &Request, params: &Params<'_>) -> Response {
    let id: MappingId = match params.id.parse() {
        Ok(id) => id,
        Err(fault) => return problem::invalid(&[("id".into(), format!("is {fault}"))]),
    };
    let host = match app.store.find(id) {
        Ok(Some(Stored::Mapping(mapping))) => mapping.domain.as_str().to_owned(),
        Ok(Some(Stored::Unreadable(row))) => return problem(409, format!("not used: {}", row.fault)),
        Ok(None) => return problem(404, format!("there is no mapping {id}")),
        Err(e) => return problem::internal(&e),
    };
    let fresh = request.parameter("fresh").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let report = app.control.certificate(&host, fresh).unwrap_or_else(|fault| unknown(host, &fault));
    match serde_json::to_value(&report) {
        Ok(value) => Response::json(200, &value),
        Err(e) => problem::internal(&e),
    }
}

fn unknown(host: String, fault: &AskFault) -> CertificateReport {
    CertificateReport {
        host,
        state: "unknown".into(),
        error: Some(fault.to_string()),
        ..CertificateReport::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_has_one_word_for_how_it_stands() {
        let id = MappingId::from_bytes([1; 16]);
        let report = |state: &str| RouteReport {
            id: id.to_string(),
            state: state.into(),
            error: Some("why".into()),
            certificate: None,
        };
        let standings = |connected, report: Option<RouteReport>| Standings {
            connected,
            reports: report.map(|report| (id, report)).into_iter().collect(),
        };
        for (connected, row, enabled, expected) in [
            (false, None, true, ("unknown", None)),
            (false, Some(report("served")), true, ("unknown", None)),
            (true, None, true, ("pending", None)),
            (true, Some(report("conflict")), true, ("conflict", Some("why"))),
            (true, Some(report("served")), false, ("off", None)),
        ] {
            assert_eq!(standings(connected, row).of(id, enabled), expected);
        }
    }
}
