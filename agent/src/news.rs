//! What a Gateway tells by itself, as last heard: its routes, its log, its landing page, its updates.
//!
//! Noted by the readers of Links, read by the API.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use serde_json::{Value, json};
use shared::control::{CertificateReport, LogLine, LogNews, UpdateOutcome};
use shared::hello::{RouteNews, RouteReport};
use shared::logging::{Level, Line};
use shared::mapping::MappingId;
use shared::threads::lock;
use time::OffsetDateTime;

use crate::timestamp;

/// Certificates remembered; a Gateway that names more is not sane.
const MOST_CERTIFICATES: usize = 20_000;

/// A line of the Gateway's log, as ours look.
pub(crate) fn line(line: LogLine) -> Line {
    let level = Level::from_word(&line.level);
    Line { id: line.id, time_ms: line.time, level, text: line.message.into() }
}

/// Stands for lines that were left out, so that nobody takes what he sees for everything.
pub(crate) fn gap(news: &LogNews) -> Option<Line> {
    let first = news.lines.first().filter(|_| news.dropped > 0)?;
    let text = format!("[{} lines are left out here: the tunnel had no room for them]", news.dropped);
    Some(Line {
        id: first.id.saturating_sub(1),
        time_ms: first.time,
        level: Level::Warning,
        text: text.into(),
    })
}

/// How far an update has got, as the API shows it.
pub(crate) fn outcome_value(outcome: &UpdateOutcome) -> Value {
    json!({
        "state": if outcome.state.is_empty() { "none" } else { &outcome.state },
        "targetVersion": outcome.target_version,
        "fromVersion": outcome.from_version,
        "message": outcome.message,
        "at": outcome.at,
    })
}

/// How a mapping stands, as those who listen are told. `last` is when it was last asked for.
pub(crate) fn route_value(report: &RouteReport, last: Option<OffsetDateTime>) -> Value {
    json!({
        "mappingId": report.id,
        "status": if report.error.is_some() { "Error" } else { "Active" },
        "lastRequestAt": last.map(timestamp::api_form),
        "errorMessage": report.error,
        "routeState": report.state,
        "routeError": report.error,
    })
}

/// As last heard from one Gateway.
#[derive(Default)]
pub(crate) struct News {
    heard: Mutex<Heard>,
    /// The newest line of its log that has passed here; 0 for none.
    last_line: AtomicU64,
    /// It has refused the landing page that the tunnel sent.
    page_refused: AtomicBool,
    /// It is older and cannot send lines of its log.
    pub(crate) cannot_watch: AtomicBool,
}

#[derive(Default)]
struct Heard {
    /// The table that it last acknowledged.
    acknowledged: Vec<RouteReport>,
    /// What it last said of Caddy's routes.
    routes: Vec<RouteReport>,
    /// Caddy has routes of its own for our hosts.
    caddy: bool,
    certificates: HashMap<String, CertificateReport>,
    outcome: Option<UpdateOutcome>,
    landing_page: Option<Option<String>>,
}

impl News {
    /// A Session has ended: what concerned it only is forgotten.
    pub(crate) fn session_ended(&self) {
        let mut heard = lock(&self.heard);
        heard.acknowledged.clear();
        heard.routes.clear();
        heard.caddy = false;
        heard.landing_page = None;
        self.page_refused.store(false, Relaxed);
        self.cannot_watch.store(false, Relaxed);
    }

    /// It has acknowledged a table. Gives the mappings that stand otherwise than before.
    pub(crate) fn acknowledged(&self, routes: &[RouteReport]) -> Vec<(MappingId, RouteReport)> {
        self.change(|heard| heard.acknowledged = routes.to_vec())
    }

    /// What Caddy does with the routes. Gives the mappings that stand otherwise than before.
    pub(crate) fn routes(&self, news: RouteNews) -> Vec<(MappingId, RouteReport)> {
        self.change(|heard| {
            heard.routes = news.routes;
            heard.caddy = !matches!(news.caddy.mode.as_str(), "" | "off");
        })
    }

    fn change(&self, change: impl FnOnce(&mut Heard)) -> Vec<(MappingId, RouteReport)> {
        let mut heard = lock(&self.heard);
        let before: HashMap<MappingId, RouteReport> = heard.standings().into_iter().collect();
        change(&mut heard);
        let now = heard.standings();
        now.into_iter().filter(|(id, report)| before.get(id) != Some(report)).collect()
    }

    /// A certificate that the Gateway has looked at.
    pub(crate) fn certificate(&self, report: &CertificateReport) {
        let certificates = &mut lock(&self.heard).certificates;
        if certificates.len() < MOST_CERTIFICATES || certificates.contains_key(&report.host) {
            certificates.insert(report.host.clone(), report.clone());
        }
    }

    /// What is known of a host's certificate.
    pub(crate) fn known_certificate(&self, host: &str) -> Option<CertificateReport> {
        lock(&self.heard).certificates.get(host).cloned()
    }

    /// How far an update has got. Whether that is new.
    pub(crate) fn outcome(&self, outcome: &UpdateOutcome) -> bool {
        let heard = &mut lock(&self.heard).outcome;
        let new = heard.as_ref() != Some(outcome);
        *heard = Some(outcome.clone());
        new
    }

    /// How far the last update has got.
    pub(crate) fn last_outcome(&self) -> Option<UpdateOutcome> {
        lock(&self.heard).outcome.clone()
    }

    /// The hash of the landing page that it holds for us.
    pub(crate) fn holds_page(&self, hash: Option<String>) {
        lock(&self.heard).landing_page = Some(hash);
    }

    /// It does not take the landing page that the tunnel sent.
    pub(crate) fn refuses_page(&self) {
        self.page_refused.store(true, Relaxed);
    }

    /// Whether it has done so since this was last asked.
    pub(crate) fn take_page_refusal(&self) -> bool {
        self.page_refused.swap(false, Relaxed)
    }

    /// The hash of the landing page that it holds for us, if it has said so.
    pub(crate) fn held_page(&self) -> Option<Option<String>> {
        lock(&self.heard).landing_page.clone()
    }

    /// The newest line of its log that has passed here.
    pub(crate) fn last_line(&self) -> Option<u64> {
        Some(self.last_line.load(Relaxed)).filter(|id| *id > 0)
    }

    /// Lines of its log have passed here.
    pub(crate) fn lines(&self, news: &LogNews) {
        if let Some(last) = news.lines.last() {
            self.last_line.store(last.id, Relaxed);
        }
    }

    /// A page of its log was read up to this line.
    pub(crate) fn read_to(&self, id: u64) {
        self.last_line.fetch_max(id, Relaxed);
    }

    /// How each mapping stands: what its table says, and what Caddy does with it when that is known.
    pub(crate) fn reports(&self) -> Vec<(MappingId, RouteReport)> {
        lock(&self.heard).standings()
    }
}

impl Heard {
    /// How each mapping stands that the Gateway has acknowledged: what it and Caddy say together.
    fn standings(&self) -> Vec<(MappingId, RouteReport)> {
        let caddy: HashMap<&str, &RouteReport> =
            self.routes.iter().map(|route| (route.id.as_str(), route)).collect();
        let merged = self.acknowledged.iter().filter_map(|row| {
            let id: MappingId = row.id.parse().ok()?;
            let report = match (row.state.as_str(), caddy.get(row.id.as_str())) {
                // Somebody else's proxy leads to the Gateway, which serves it.
                ("ok", _) if !self.caddy => RouteReport { state: "served".into(), ..row.clone() },
                ("ok", Some(caddy)) => (*caddy).clone(),
                ("ok", None) => RouteReport { state: "pending".into(), ..row.clone() },
                ("pending", _) => row.clone(),
                // The Gateway itself does not take it: whatever Caddy does, nobody is served.
                _ => RouteReport { state: "rejected".into(), ..row.clone() },
            };
            Some((id, report))
        });
        merged.collect()
    }
}

#[cfg(test)]
mod tests {
    use shared::control::CaddyReport;

    use super::*;

    const ID: &str = "00000000-0000-0000-0000-000000000001";

    fn row(state: &str, error: Option<&str>) -> RouteReport {
        RouteReport { id: ID.into(), state: state.into(), error: error.map(str::to_owned), certificate: None }
    }

    fn state(news: &News) -> (String, Option<String>) {
        let all = news.reports();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].0.to_string(), ID);
        (all[0].1.state.clone(), all[0].1.error.clone())
    }

    #[test]
    fn a_route_is_what_the_table_and_caddy_say_together() {
        let news = News::default();
        assert!(news.reports().is_empty());
        news.acknowledged(&[row("ok", None)]);
        assert_eq!(state(&news), ("served".into(), None), "an older Gateway says nothing of Caddy");
        let conflict = row("conflict", Some("another route has it"));
        let caddy = CaddyReport { mode: "routes".into(), ..CaddyReport::default() };
        let changed = news.routes(RouteNews { routes: vec![conflict.clone()], caddy: caddy.clone() });
        assert_eq!(changed, news.reports());
        assert_eq!(state(&news), ("conflict".into(), Some("another route has it".into())));
        let changed = news.routes(RouteNews { routes: vec![conflict], caddy: caddy.clone() });
        assert!(changed.is_empty());
        news.routes(RouteNews { routes: Vec::new(), caddy });
        assert_eq!(state(&news), ("pending".into(), None), "Caddy has not been asked yet");
        let changed = news.routes(RouteNews { routes: vec![row("off", None)], ..RouteNews::default() });
        assert_eq!(state(&news), ("served".into(), None), "Caddy is left alone");
        assert_eq!(changed, news.reports(), "who listens is told what who asks is told");
        assert!(news.acknowledged(&[row("ok", None)]).is_empty());
        news.acknowledged(&[row("error", Some("its own address"))]);
        assert_eq!(state(&news), ("rejected".into(), Some("its own address".into())));
        news.session_ended();
        assert!(news.reports().is_empty());
    }

    #[test]
    fn lines_left_out_leave_a_line() {
        let lines = vec![LogLine { id: 8, time: 5, level: "Info".into(), message: "m".into() }];
        assert_eq!(gap(&LogNews { lines: lines.clone(), dropped: 0 }), None);
        let line = gap(&LogNews { lines, dropped: 3 }).expect("a line");
        assert_eq!((line.id, line.level), (7, Level::Warning));
        assert!(line.text.contains("3 lines"), "{}", line.text);
    }

    #[test]
    fn an_outcome_is_new_once() {
        let news = News::default();
        let outcome = UpdateOutcome { state: "queued".into(), ..UpdateOutcome::default() };
        assert!(news.outcome(&outcome));
        assert!(!news.outcome(&outcome));
        assert_eq!(news.last_outcome(), Some(outcome));
    }
}
