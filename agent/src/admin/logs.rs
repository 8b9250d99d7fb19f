//! `GET /api/v1/agent/logs`: the Agent's log, page by page from the newest line back.

use serde_json::{Value, json};

use shared::logging::{Level, Line};

use super::App;
use super::api::Params;
use super::http::{Request, Response};
use super::problem;
use crate::events::line_value;

/// Lines of a page when nobody says how many, and at most.
const COUNT: usize = 1000;
const MOST: usize = 5000;

/// `GET /api/v1/agent/logs?beforeId=&count=&level=&q=`: lines older than `beforeId` (0: the newest of all), of at
/// least this level, with this text in them in any case.
pub(crate) fn agent_logs(app: &App, request: &Request, _: &Params<'_>) -> Response {
    let (before, count) = page(request);
    let least = match request.parameter("level").filter(|level| !level.is_empty()) {
        None => Level::Verbose,
        Some(text) => match Level::parse(&text) {
            Ok(level) => level,
            Err(rule) => return problem::invalid(&[("level".into(), rule)]),
        },
    };
    let text = request.parameter("q").unwrap_or_default().to_lowercase();
    let wanted =
        |line: &Line| line.level <= least && (text.is_empty() || line.text.to_lowercase().contains(&text));
    let mut lines = app.live.log.before_where(before, count + 1, wanted);
    let more = lines.len() > count;
    lines.truncate(count);
    Response::json(200, &log_page(&lines, more))
}

/// Which lines are asked for: before which one, and how many. What is no number counts as not said, as it always did.
pub(crate) fn page(request: &Request) -> (u64, usize) {
    let number = |name| request.parameter(name).and_then(|text| text.trim().parse::<u64>().ok());
    let before = number("beforeId").filter(|id| *id > 0).unwrap_or(u64::MAX);
    let count = number("count").map_or(COUNT, |count| (count.clamp(1, MOST as u64)) as usize);
    (before, count)
}

/// The answer; lines from the newest back.
pub(crate) fn log_page(lines: &[Line], more: bool) -> Value {
    let lines: Vec<_> = lines.iter().map(line_value).collect();
    json!({ "success": true, "error": null, "logs": lines, "hasMore": more })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_bounds_and_nonsense_counts_as_not_said() {
        for (query, expected) in [
            ("", (u64::MAX, 1000)),
            ("beforeId=0&count=0", (u64::MAX, 1)),
            ("beforeId=7&count=20", (7, 20)),
            ("beforeId=x&count=-3", (u64::MAX, 1000)),
            ("count=99999999", (u64::MAX, 5000)),
        ] {
            assert_eq!(page(&Request::new("GET", &format!("/x?{query}"))), expected, "{query}");
        }
    }
}
