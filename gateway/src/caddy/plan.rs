//! What Caddy's routes should be, compared with what they are. Pure: JSON and a wish in, at most one write out.
//!
//! Rules: routes whose `@id` begins with `octoporty-` are ours, everything else is foreign and keeps its place and its
//! content. Ours stand in front, because Caddy takes the first route that matches and a foreign wildcard would win
//! otherwise; a wildcard of ours leaves out the names that a foreign route has for itself. While it is unknown what is
//! wanted (no Agent has sent its table yet) nothing is written at all.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};
use shared::hostname::{Host, Hostname};
use shared::mapping::MappingId;

use super::{RouteState, RouteStatus};

/// Begins the `@id` of every route of ours.
pub(crate) const ID_PREFIX: &str = "octoporty-";
/// Name of the server that is made when Caddy has none.
pub(crate) const OWN_SERVER: &str = "octoporty";
/// `@id` of that server.
const OWN_SERVER_ID: &str = "octoporty-server";
/// How soon a byte of a slow answer must leave Caddy; nanoseconds. Not -1: Caddy before 2.11 then never tells that the
/// visitor has gone.
const FLUSH_INTERVAL: u64 = 20_000_000;
/// How long open WebSockets survive a change of Caddy's configuration, where Caddy knows that; nanoseconds.
const STREAM_CLOSE_DELAY: u64 = 3_600_000_000_000;
/// How deep sub-routes are looked into.
pub(super) const MAX_DEPTH: usize = 16;

/// One name that an Agent publishes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    pub(crate) id: MappingId,
    pub(crate) host: Hostname,
    /// The Agent's identity.
    pub(crate) agent: String,
}

/// What is wanted of Caddy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'w> {
    /// All names; `None` while nobody has said.
    pub(crate) rows: Option<&'w [Row]>,
    /// The Gateway's own names, lower case.
    pub(crate) own: &'w [String],
    /// Where Caddy reaches the Gateway, `host:port`.
    pub(crate) dial: &'w str,
    /// Whether Caddy knows `stream_close_delay`.
    pub(crate) close_delay: bool,
    /// Routes that Caddy has refused, with its words.
    pub(crate) refused: &'w HashMap<MappingId, Refusal>,
    /// Wildcards for which Caddy cannot get a certificate. Since 2.10 the names under a wildcard have none of their own,
    /// so that such a route would take theirs away, and the Gateway's.
    pub(crate) bare: &'w HashSet<String>,
    /// Left as they are in Caddy for the moment, while the culprit of a refusal is looked for.
    pub(crate) skip: &'w HashSet<MappingId>,
    /// Names of routes that an earlier process wrote and whose Agent may still be dialling: their routes stay.
    pub(crate) keep: &'w HashSet<String>,
}

/// Caddy did not take the route of a mapping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    /// The name at that time: a changed mapping is tried again.
    pub(crate) host: Hostname,
    /// Caddy's words.
    pub(crate) text: String,
}

/// The comparison's result.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Plan {
    /// The whole list of routes to write; `None` when Caddy has it already.
    pub(crate) write: Option<Vec<Value>>,
    /// Mappings whose route Caddy does not have yet in this form.
    pub(crate) changed: Vec<MappingId>,
    /// Every mapping as Caddy sees it now.
    pub(crate) states: Vec<RouteStatus>,
    /// Ids of all routes of ours that Caddy has now.
    pub(crate) present: Vec<String>,
}

/// Compares a server's routes (`None` when the key is absent) with the wish.
pub(crate) fn plan(actual: Option<&[Value]>, wish: &Wish<'_>) -> Plan {
    let routes = actual.unwrap_or_default();
    let foreign: Vec<&Value> = routes.iter().filter(|route| !is_ours(route)).collect();
    let ours: Vec<&Value> = routes.iter().filter(|route| is_ours(route)).collect();
    let mut by_id: HashMap<&str, &Value> = HashMap::new();
    for &route in &ours {
        by_id.entry(id_of(route).unwrap_or_default()).or_insert(route);
    }
    let present = ours.iter().filter_map(|route| id_of(route)).map(str::to_owned).collect();
    let Some(rows) = wish.rows else {
        return Plan { write: None, changed: Vec::new(), states: Vec::new(), present };
    };
    let taken = foreign_hosts(&foreign);
    let mut rows: Vec<&Row> = rows.iter().collect();
    rows.sort_by(|a, b| (a.id, &a.agent).cmp(&(b.id, &b.agent)));
    // The mapping that has a name, and the name that a mapping has.
    let mut holders: HashMap<&str, (&Row, RouteState)> = HashMap::new();
    let mut ids: HashMap<MappingId, &Row> = HashMap::new();
    let mut wanted: Vec<(Order, Value)> = Vec::new();
    let mut changed = Vec::new();
    let mut states = Vec::with_capacity(rows.len());
    for row in rows {
        let host = row.host.as_str();
        let (state, error) = match judge(row, wish, &taken, &ids, holders.get(host)) {
            Verdict::Ours => {
                let route = route(row, wish, &taken);
                let id = route_id(row.id);
                let there = by_id.get(id.as_str());
                if wish.skip.contains(&row.id) {
                    wanted.extend(there.map(|&old| (order(host, &id), old.clone())));
                    changed.push(row.id);
                    (RouteState::Pending, None)
                } else {
                    let same = there.is_some_and(|&known| *known == route);
                    wanted.push((order(host, &id), route));
                    if !same {
                        changed.push(row.id);
                    }
                    (if same { RouteState::Served } else { RouteState::Pending }, None)
                }
            }
            Verdict::Shared(state) => (state, None),
            Verdict::Elsewhere => (RouteState::Served, None),
            Verdict::No(state, error) => (state, Some(error)),
        };
        ids.entry(row.id).or_insert(row);
        holders.entry(host).or_insert((row, state));
        states.push(RouteStatus {
            id: row.id,
            agent: row.agent.clone(),
            host: host.to_owned(),
            state,
            error,
        });
    }
    for &route in &ours {
        let Some(id) = id_of(route) else { continue };
        let hosts = hosts_of(route);
        let waiting = !hosts.is_empty()
            && hosts.iter().all(|&host| wish.keep.contains(host) && !holders.contains_key(host))
            && !wanted.iter().any(|(_, known)| id_of(known) == Some(id));
        if waiting {
            wanted.push((order(hosts[0], id), route.clone()));
        }
    }
    wanted.sort_by(|(a, _), (b, _)| a.cmp(b));
    let list: Vec<Value> =
        wanted.into_iter().map(|(_, route)| route).chain(foreign.into_iter().cloned()).collect();
    let write = (list != routes).then_some(list);
    Plan { write, changed, states, present }
}

/// The list without any route of ours; `None` when it has none.
pub(crate) fn without_ours(actual: &[Value]) -> Option<Vec<Value>> {
    let rest: Vec<_> = actual.iter().filter(|route| !is_ours(route)).cloned().collect();
    (rest.len() < actual.len()).then_some(rest)
}

enum Verdict {
    /// Needs a route.
    Ours,
    /// Another Agent's mapping of the same name has the route; both are behind it.
    Shared(RouteState),
    /// A foreign route leads to the Gateway already.
    Elsewhere,
    No(RouteState, String),
}

fn judge(
    row: &Row,
    wish: &Wish<'_>,
    taken: &HashMap<String, Vec<&str>>,
    ids: &HashMap<MappingId, &Row>,
    holder: Option<&(&Row, RouteState)>,
) -> Verdict {
    let host = row.host.as_str();
    let no = |state, text: String| Verdict::No(state, text);
    // A visitor's name must be able to match it.
    let plain = host.strip_prefix("*.").unwrap_or(host);
    match Host::parse(plain.as_bytes()) {
        Ok(parsed) if parsed.is_ip() => {
            return no(RouteState::Invalid, format!("{host} is an address; Caddy needs a name"));
        }
        Ok(_) => {}
        Err(fault) => return no(RouteState::Invalid, format!("{host}: {fault}")),
    }
    if wish.own.iter().any(|own| own == host) {
        return no(
            RouteState::Conflict,
            format!("{host} is the Gateway's own name: the tunnel itself would be cut off"),
        );
    }
    if wish.bare.contains(host) {
        return no(
            RouteState::Invalid,
            format!(
                "Caddy can get a certificate for {host} by a DNS challenge only, for which it has no setting; map the \
                 names one by one, or use Gateway__CaddyMode=ask"
            ),
        );
    }
    if let Some((first, state)) = holder {
        return if first.agent == row.agent {
            no(RouteState::Conflict, format!("mapping {} of the same Agent has this name already", first.id))
        } else {
            Verdict::Shared(*state)
        };
    }
    if let Some(other) = ids.get(&row.id) {
        return no(
            RouteState::Conflict,
            format!(
                "another Agent uses the same mapping id for {}; was the database copied? Delete one of the two",
                other.host
            ),
        );
    }
    if let Some(dials) = taken.get(host) {
        return if dials.contains(&wish.dial) {
            Verdict::Elsewhere
        } else {
            no(
                RouteState::Conflict,
                format!("{host} is already served by another site of Caddy; remove one of the two"),
            )
        };
    }
    match wish.refused.get(&row.id) {
        Some(refusal) if refusal.host == row.host => {
            no(RouteState::Rejected, format!("Caddy refused the route: {}", refusal.text))
        }
        _ => Verdict::Ours,
    }
}

/// Exact names before wildcards, then by id.
type Order = (bool, String);

fn order(host: &str, id: &str) -> Order {
    (host.starts_with("*."), id.to_owned())
}

/// `@id` of a mapping's route: the mapping's id without dashes, which is what the earlier program wrote, so that its
/// routes are taken over.
pub(crate) fn route_id(id: MappingId) -> String {
    format!("{ID_PREFIX}{}", id.to_string().replace('-', ""))
}

fn route(row: &Row, wish: &Wish<'_>, taken: &HashMap<String, Vec<&str>>) -> Value {
    let host = row.host.as_str();
    let mut matcher = json!({ "host": [host] });
    if let Some(parent) = host.strip_prefix("*.") {
        let under = |name: &&str| name.split_once('.').is_some_and(|(_, rest)| rest == parent);
        let own = wish.own.iter().map(String::as_str);
        let mut except: Vec<&str> = taken
            .keys()
            .map(String::as_str)
            .chain(own)
            .filter(|name| !name.starts_with("*."))
            .filter(under)
            .collect();
        except.sort_unstable();
        except.dedup();
        if !except.is_empty() {
            matcher["not"] = json!([{ "host": except }]);
        }
    }
    let mut proxy = json!({
        "handler": "reverse_proxy",
        "upstreams": [{ "dial": wish.dial }],
        "flush_interval": FLUSH_INTERVAL,
        "transport": { "protocol": "http", "compression": false },
        "headers": { "request": { "delete": ["X-Octoporty-*"] } },
    });
    if wish.close_delay {
        proxy["stream_close_delay"] = STREAM_CLOSE_DELAY.into();
    }
    json!({ "@id": route_id(row.id), "match": [matcher], "terminal": true, "handle": [proxy] })
}

/// The server to make when Caddy has none.
pub(crate) fn own_server(http: &Value, routes: &[Value]) -> Value {
    let port = super::servers::https_port(http);
    json!({ "@id": OWN_SERVER_ID, "listen": [format!(":{port}")], "routes": routes })
}

/// Whether a route is ours.
pub(crate) fn is_ours(route: &Value) -> bool {
    id_of(route).is_some_and(|id| id.starts_with(ID_PREFIX))
}

fn id_of(route: &Value) -> Option<&str> {
    route.get("@id")?.as_str()
}

/// The host names in a route's own matchers.
pub(super) fn hosts_of(route: &Value) -> Vec<&str> {
    let matchers = route.get("match").and_then(Value::as_array);
    let hosts = matchers.into_iter().flatten().filter_map(|set| set.get("host")?.as_array()).flatten();
    hosts.filter_map(Value::as_str).collect()
}

/// The routes inside a route.
pub(super) fn inner(route: &Value) -> impl Iterator<Item = &Value> {
    let handlers = route.get("handle").and_then(Value::as_array);
    handlers.into_iter().flatten().filter_map(|handler| handler.get("routes")?.as_array()).flatten()
}

/// Every `dial` of the reverse proxies in a route.
pub(super) fn dials_of<'r>(route: &'r Value, depth: usize, found: &mut Vec<&'r str>) {
    let handlers = route.get("handle").and_then(Value::as_array);
    for handler in handlers.into_iter().flatten() {
        let upstreams = handler.get("upstreams").and_then(Value::as_array);
        found.extend(upstreams.into_iter().flatten().filter_map(|u| u.get("dial")?.as_str()));
    }
    if depth < MAX_DEPTH {
        inner(route).for_each(|route| dials_of(route, depth + 1, found));
    }
}

/// Names of foreign routes, lower case, each with the addresses its routes proxy to.
fn foreign_hosts<'r>(foreign: &[&'r Value]) -> HashMap<String, Vec<&'r str>> {
    let mut hosts: HashMap<String, Vec<&str>> = HashMap::new();
    for &route in foreign {
        let mut dials = Vec::new();
        dials_of(route, 0, &mut dials);
        for host in hosts_of(route) {
            hosts.entry(host.to_ascii_lowercase()).or_default().extend(&dials);
        }
    }
    hosts
}

#[cfg(test)]
mod tests;
