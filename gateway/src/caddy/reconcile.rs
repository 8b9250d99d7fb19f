//! The thread that makes Caddy's routes like the wanted ones, and finds out how things stand.
//!
//! A pass reads, compares, and writes only when there is a difference: every accepted change makes Caddy reload, and a
//! reload closes all WebSockets that go through it, our own Links included. Nothing is remembered of what Caddy has; it
//! is asked each time. A pass follows a change of a table (bursts are gathered), a Link that Caddy cut off, and every
//! 15 s the clock, because a reload by others silently drops what we wrote.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shared::hostname::Hostname;
use shared::mapping::MappingId;
use shared::threads::lock;
use shared::{backoff, clock, monotime};

use super::client::Fault;
use super::looks::Looks;
use super::plan::{self, Plan, Refusal, Row, Wish};
use super::servers::{self, NoServer};
use super::view::{Outcome, status};
use super::{Caddy, RouteState, State, Tables, Woken, known};
use crate::config::CaddyMode;
use crate::gateway::Core;

/// How often Caddy is looked at when nothing happens.
const POLL: Duration = Duration::from_secs(15);
/// First pause after a failure; doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// How long a Caddy without any server is given to get one before we make it: it may be starting.
const NO_SERVER: Duration = Duration::from_secs(30);
/// Rounds of reading and writing in one pass.
const MAX_ROUNDS: usize = 30;
/// Times that somebody else may change Caddy between our reading and writing.
const MAX_STALE: usize = 5;
/// Writes of one pass while a route that Caddy refuses is looked for.
const MAX_TRIES: usize = 8;
/// Before something refused is tried a second time.
const DOUBT: Duration = Duration::from_millis(500);
/// After this time a refused route is tried again.
const FORGIVE: Duration = Duration::from_secs(600);
/// For `Gateway__RemoveRoutesOnTunnelUnavailable`. Microseconds.
const AWAY: u64 = 60_000_000;
/// While an Agent of an earlier process may still be dialling, its routes stay. Microseconds since the start.
const ARRIVING: u64 = 600_000_000;
/// Agents whose tables are kept after the Gateway has forgotten them.
const MAX_REMEMBERED: usize = 10_000;

const HTTP: &str = "/config/apps/http";
const APPS: &str = "/config/apps";

/// Runs until [`Caddy::stop`].
pub(crate) fn run(core: &Arc<Core>) {
    let mut reconciler = Reconciler::default();
    let mut due = Instant::now();
    loop {
        let woken = core.caddy.wait(due);
        if woken == Woken::Stopped {
            break;
        }
        let (pause, changed) = reconciler.pass(&core.caddy, &core.tunnels.tables());
        due = Instant::now() + pause;
        if changed {
            core.routes_changed();
        }
        reconciler.looks.start(core);
    }
    reconciler.looks.join();
}

/// What an Agent publishes, and since when it has been away (microseconds).
type Names = (Vec<(MappingId, Hostname)>, Option<u64>);

/// What the thread remembers from pass to pass.
#[derive(Default)]
struct Reconciler {
    /// Tables of all Agents, also of those that the Gateway has forgotten since: an absent Agent's routes stay.
    tables: HashMap<String, Names>,
    refused: HashMap<MappingId, Refusal>,
    forgive_at: Option<Instant>,
    /// Routes among which one is that Caddy refuses.
    suspects: Vec<MappingId>,
    /// Caddy's words about them.
    last_refusal: String,
    /// This Caddy does not know `stream_close_delay`.
    no_close_delay: bool,
    empty_since: Option<Instant>,
    failures: u32,
    looks: Looks,
    /// Notes that have been logged.
    noted: Option<String>,
}

impl Reconciler {
    /// One pass. Gives the pause until the next one, and whether Agents should hear of a change.
    fn pass(&mut self, caddy: &Caddy, tables: &Tables) -> (Duration, bool) {
        let (rows, next_away) = self.rows(caddy, tables);
        if let Some(all) = &rows {
            let mut known = lock(&caddy.known);
            let hosts: HashSet<&str> = all.iter().map(|row| row.host.as_str()).collect();
            let new = hosts.iter().copied().filter(|host| !known.is_old(host));
            self.looks.note(&hosts, new);
            let unwritten = known.publish(&tables.agents);
            drop(known);
            // Not under the lock, which the ingress takes: a disk may be slow.
            if let Some(unwritten) = unwritten {
                let result = unwritten.write();
                lock(&caddy.known).wrote(result);
            }
        }
        let mode = caddy.settings.mode;
        if mode == CaddyMode::Off {
            let off = |row: &Row| status(row, RouteState::Off, None);
            let routes = rows.unwrap_or_default().iter().map(off).collect();
            let outcome = Outcome {
                state: State::Off,
                error: None,
                server: None,
                routes: Some(routes),
                own_routes: None,
                front: None,
            };
            return (Duration::from_secs(3600), outcome.publish(caddy, &[], &mut self.noted));
        }
        caddy.counters.passes.fetch_add(1, Relaxed);
        if self.forgive_at.is_some_and(|at| at <= Instant::now()) {
            self.forgive_at = None;
            self.refused.clear();
        }
        let outcome = match mode {
            CaddyMode::Routes => self.routes_pass(caddy, rows.as_deref(), tables),
            CaddyMode::Ask | CaddyMode::Off => self.ask_pass(caddy, rows.as_deref(), &tables.own),
        };
        let pause = if matches!(outcome.state, State::Ok | State::Pending) && outcome.error.is_none() {
            self.failures = 0;
            POLL
        } else {
            caddy.counters.failures.fetch_add(1, Relaxed);
            self.failures = self.failures.saturating_add(1);
            backoff::delay(self.failures, FIRST_PAUSE, MAX_PAUSE, rand::random())
        };
        let changed = outcome.publish(caddy, rows.as_deref().unwrap_or_default(), &mut self.noted);
        (next_away.map_or(pause, |away| away.min(pause)), changed)
    }

    /// The wanted names; `None` while no Agent has sent its table. And when the next Agent has been away for too long.
    fn rows(&mut self, caddy: &Caddy, tables: &Tables) -> (Option<Vec<Row>>, Option<Duration>) {
        for table in &tables.agents {
            self.tables.insert(table.agent.clone(), (table.rows.clone(), table.lost));
        }
        if self.tables.len() > MAX_REMEMBERED {
            self.tables.retain(|agent, _| tables.agents.iter().any(|table| table.agent == *agent));
        }
        if self.tables.is_empty() {
            return (None, None);
        }
        let now = monotime::micros();
        let mut next = None;
        let mut all = Vec::new();
        for (agent, (rows, lost)) in &self.tables {
            if caddy.settings.remove_when_away
                && let Some(lost) = lost
            {
                let away = now.saturating_sub(*lost);
                if away >= AWAY {
                    continue;
                }
                let left = Duration::from_micros(AWAY - away);
                next = Some(next.map_or(left, |next: Duration| next.min(left)));
            }
            all.extend(rows.iter().map(|(id, host)| Row {
                id: *id,
                host: host.clone(),
                agent: agent.clone(),
            }));
        }
        (Some(all), next)
    }

    fn routes_pass(&mut self, caddy: &Caddy, rows: Option<&[Row]>, tables: &Tables) -> Outcome {
        let own = tables.own.as_slice();
        let told = |agent: Option<&str>| match agent {
            Some(agent) => tables.agents.iter().any(|table| known::mark(&table.agent) == agent),
            None => !tables.agents.is_empty(),
        };
        let arriving = monotime::micros() < ARRIVING;
        let keep = if arriving { lock(&caddy.known).waiting(told) } else { HashSet::new() };
        let (mut stale, mut tries, mut doubted) = (0, 0, false);
        for _ in 0..MAX_ROUNDS {
            let (apps, etag) = match read(caddy, APPS) {
                Ok(read) => read,
                Err(fault) => return Outcome::of(&fault),
            };
            let http = &apps["http"];
            let server = match servers::choose_server(http, own, caddy.settings.server.as_deref()) {
                Ok(server) => server,
                Err(NoServer::Unclear(text)) => return Outcome::failed(State::NoServer, text),
                Err(NoServer::Empty) => {
                    match self.make_server(caddy, &apps, rows, own, &keep) {
                        Some(outcome) => return outcome,
                        None => continue,
                    };
                }
            };
            self.empty_since = None;
            let tree = &http["servers"][&server.name];
            let front = Some(servers::front(http, tree));
            // An earlier choice of the server left routes elsewhere: two with one id confuse Caddy.
            if rows.is_some()
                && let Some((path, rest)) = leftover(http, Some(&server.name))
            {
                match self.write(caddy, "PATCH", &path, Some(&etag), &rest) {
                    Ok(()) => continue,
                    Err(Fault::Stale) if stale < MAX_STALE => {
                        stale += 1;
                        continue;
                    }
                    Err(fault) => return Outcome::of(&fault),
                }
            }
            let dial = match self.dial(caddy, tree, own) {
                Ok(dial) => dial,
                Err(fault) => return Outcome::failed(State::Unreachable, fault),
            };
            let actual = tree.get("routes").and_then(Value::as_array).map(Vec::as_slice);
            let none = HashSet::new();
            let bare = bare_wildcards(&apps, tree, rows);
            let wish = Wish {
                rows,
                own,
                dial: &dial,
                close_delay: !self.no_close_delay,
                refused: &self.refused,
                bare: &bare,
                skip: &none,
                keep: &keep,
            };
            let whole = plan::plan(actual, &wish);
            let done = |state, error, plan: Plan| Outcome {
                state,
                error,
                server: Some(server.clone()),
                routes: Some(plan.states),
                own_routes: Some(plan.present),
                front: front.clone(),
            };
            if whole.write.is_none() {
                self.suspects.clear();
                return match rows {
                    Some(_) => done(State::Ok, None, whole),
                    None => Outcome { routes: None, ..done(State::Pending, None, whole) },
                };
            }
            self.suspects.retain(|id| whole.changed.contains(id));
            if let [culprit] = self.suspects[..] {
                // Found by elimination; the words are those of the last refusal.
                self.suspects.clear();
                self.blame(culprit, rows);
                continue;
            }
            let trial: Vec<MappingId> = self.suspects[..self.suspects.len() / 2].to_vec();
            let skip: HashSet<MappingId> = if trial.is_empty() {
                HashSet::new()
            } else {
                whole.changed.iter().copied().filter(|id| !trial.contains(id)).collect()
            };
            let attempt = plan::plan(actual, &Wish { skip: &skip, ..wish });
            let Some(list) = attempt.write else {
                // What is left over of the trial is in Caddy already.
                self.suspects.retain(|id| !trial.contains(id));
                continue;
            };
            let path = format!("{HTTP}/servers/{}/routes", server.name);
            let method = if actual.is_some() { "PATCH" } else { "PUT" };
            match self.write(caddy, method, &path, Some(&etag), &Value::Array(list)) {
                Ok(()) => self.suspects.retain(|id| !trial.contains(id)),
                Err(Fault::Stale) => {
                    stale += 1;
                    if stale > MAX_STALE {
                        let text = "other programs keep changing Caddy's configuration".to_owned();
                        return done(State::Pending, Some(text), whole);
                    }
                }
                Err(Fault::Refused { text, .. })
                    if !self.no_close_delay && text.contains("unknown field \"stream_close_delay\"") =>
                {
                    self.no_close_delay = true;
                    log::info!(
                        "this Caddy is older than 2.7: WebSockets through it are cut off whenever its configuration \
                         changes"
                    );
                }
                Err(Fault::Refused { status, text }) => {
                    // Caddy also refuses what is right when it stumbles over itself (such as a certificate that it is
                    // just writing): nobody is blamed for that.
                    if !std::mem::replace(&mut doubted, true) {
                        log::debug!("Caddy refused our routes with {status}, tried again: {text}");
                        if caddy.stopped_within(DOUBT) {
                            return Outcome::failed(State::Pending, text);
                        }
                        continue;
                    }
                    tries += 1;
                    let error = format!("Caddy refused our routes with {status}: {text}");
                    self.last_refusal = text;
                    match (&trial[..], &whole.changed[..]) {
                        ([], []) => return done(State::Rejected, Some(error), whole),
                        ([], all) => self.suspects = all.to_vec(),
                        (trial, _) => self.suspects = trial.to_vec(),
                    }
                    if tries >= MAX_TRIES && self.suspects.len() > 1 {
                        return done(State::Rejected, Some(error), whole);
                    }
                }
                Err(fault) => return Outcome::of(&fault),
            }
        }
        Outcome::failed(State::Pending, "Caddy's routes do not stay as they are written".to_owned())
    }

    /// Caddy refuses this route alone: it is left out, so that the others get in.
    fn blame(&mut self, culprit: MappingId, rows: Option<&[Row]>) {
        let rows = rows.unwrap_or_default();
        if let Some(row) = rows.iter().find(|row| row.id == culprit) {
            let refusal = Refusal { host: row.host.clone(), text: self.last_refusal.clone() };
            self.refused.insert(culprit, refusal);
            self.forgive_at.get_or_insert_with(|| Instant::now() + FORGIVE);
        }
    }

    /// Caddy has no server. `None`: it has one now.
    fn make_server(
        &mut self,
        caddy: &Caddy,
        apps: &Value,
        rows: Option<&[Row]>,
        own: &[String],
        keep: &HashSet<String>,
    ) -> Option<Outcome> {
        let since = *self.empty_since.get_or_insert_with(Instant::now);
        let wait = |text: &str| Some(Outcome::failed(State::NoServer, text.to_owned()));
        if rows.is_none() {
            return wait("Caddy has no site at all yet");
        }
        if since.elapsed() < NO_SERVER {
            return wait(
                "Caddy has no site at all; if that stays so for half a minute, one is made for our routes",
            );
        }
        let dial = match self.dial(caddy, &Value::Null, own) {
            Ok(dial) => dial,
            Err(fault) => return Some(Outcome::failed(State::Unreachable, fault)),
        };
        let skip = HashSet::new();
        let refused = HashMap::new();
        let bare = bare_wildcards(apps, &Value::Null, rows);
        let http = &apps["http"];
        let wish = Wish {
            rows,
            own,
            dial: &dial,
            close_delay: !self.no_close_delay,
            refused: &refused,
            bare: &bare,
            skip: &skip,
            keep,
        };
        let routes = plan::plan(None, &wish).write.unwrap_or_default();
        let path = format!("{HTTP}/servers/{}", plan::OWN_SERVER);
        match self.write(caddy, "PUT", &path, None, &plan::own_server(http, &routes)) {
            Ok(()) => {
                log::warn!("Caddy had no site at all: made the server {:?} for our routes", plan::OWN_SERVER);
                None
            }
            Err(Fault::Refused { text, .. })
                if !self.no_close_delay && text.contains("unknown field \"stream_close_delay\"") =>
            {
                self.no_close_delay = true;
                None
            }
            Err(fault) => Some(Outcome::of(&fault)),
        }
    }

    fn ask_pass(&mut self, caddy: &Caddy, rows: Option<&[Row]>, own: &[String]) -> Outcome {
        let all = rows.unwrap_or_default();
        let each = |state, error: Option<&String>| {
            Some(all.iter().map(|row| status(row, state, error.cloned())).collect())
        };
        for _ in 0..MAX_ROUNDS {
            let (apps, etag) = match read(caddy, APPS) {
                Ok(read) => read,
                // Nothing needs to be written in this mode: what is published is served when Caddy asks.
                Err(fault) => {
                    return Outcome { routes: each(RouteState::Served, None), ..Outcome::of(&fault) };
                }
            };
            if let Err(text) = servers::on_demand(&apps) {
                return Outcome {
                    routes: each(RouteState::Pending, Some(&text)),
                    ..Outcome::failed(State::NoServer, text)
                };
            }
            let http = &apps["http"];
            if let Some((path, rest)) = leftover(http, None) {
                match self.write(caddy, "PATCH", &path, Some(&etag), &rest) {
                    Ok(()) | Err(Fault::Stale) => continue,
                    Err(fault) => {
                        return Outcome { routes: each(RouteState::Served, None), ..Outcome::of(&fault) };
                    }
                }
            }
            let server = servers::choose_server(http, own, caddy.settings.server.as_deref()).ok();
            let tree = server.as_ref().map_or(&Value::Null, |server| &http["servers"][&server.name]);
            let dial = self.dial(caddy, tree, own).unwrap_or_default();
            let none = (HashMap::new(), HashSet::new(), HashSet::new());
            let wish = Wish {
                rows,
                own,
                dial: &dial,
                close_delay: false,
                refused: &none.0,
                bare: &none.1,
                skip: &none.2,
                keep: &none.1,
            };
            // Only to learn which names another site of Caddy's has.
            let mut plan = plan::plan(tree.get("routes").and_then(Value::as_array).map(Vec::as_slice), &wish);
            for route in &mut plan.states {
                if route.state == RouteState::Pending {
                    route.state = RouteState::Served;
                }
            }
            return Outcome {
                state: State::Ok,
                error: None,
                front: Some(servers::front(http, tree)),
                server,
                routes: Some(plan.states),
                own_routes: Some(plan.present),
            };
        }
        Outcome::failed(State::Pending, "other programs keep changing Caddy's configuration".to_owned())
    }

    /// Where Caddy reaches the Gateway.
    fn dial(&self, caddy: &Caddy, server: &Value, own: &[String]) -> Result<String, String> {
        let settings = &caddy.settings;
        if let Some(upstream) = &settings.upstream {
            return Ok(upstream.clone());
        }
        if let Some(known) = servers::known_dial(server, own, settings.port) {
            return Ok(known);
        }
        let address = match settings.address {
            Some(address) => address,
            None if settings.client.is_local() => std::net::Ipv4Addr::LOCALHOST.into(),
            None => settings.client.own_address().map_err(|e| {
                format!("cannot find out where Caddy reaches the Gateway ({e}): set Gateway__CaddyUpstream")
            })?,
        };
        Ok(std::net::SocketAddr::new(address, settings.port).to_string())
    }

    fn write(
        &mut self,
        caddy: &Caddy,
        method: &str,
        path: &str,
        etag: Option<&str>,
        body: &Value,
    ) -> Result<(), Fault> {
        caddy.settings.client.write(method, path, etag, body)?;
        caddy.counters.writes.fetch_add(1, Relaxed);
        lock(&caddy.view).overview.last_write_at = Some(clock::now_iso());
        log::info!("Caddy: wrote {path} ({} routes)", body.as_array().map_or(1, Vec::len));
        Ok(())
    }
}

/// Reads a part of the configuration; `null` when it is not there.
fn read(caddy: &Caddy, path: &str) -> Result<(Value, String), Fault> {
    match caddy.settings.client.get(path) {
        Ok(reply) => {
            let invalid = |text| Fault::Refused { status: 200, text };
            Ok((reply.json().map_err(invalid)?, reply.etag))
        }
        // Without `apps` there is no way down to `http`.
        Err(Fault::Refused { status: 400, text }) if text.contains("traversal path") => {
            Ok((json!(null), String::new()))
        }
        Err(fault) => Err(fault),
    }
}

/// Wildcards among the rows that Caddy could not get a certificate for.
fn bare_wildcards(apps: &Value, server: &Value, rows: Option<&[Row]>) -> HashSet<String> {
    let hosts = rows.unwrap_or_default().iter().map(|row| row.host.as_str());
    let wildcards = hosts.filter(|host| host.starts_with("*."));
    wildcards
        .filter(|host| !servers::has_wildcard_certificate(apps, server, host))
        .map(str::to_owned)
        .collect()
}

/// The routes of a server but `except` that has some of ours, as path and as list without them.
fn leftover(http: &Value, except: Option<&str>) -> Option<(String, Value)> {
    let servers = http.get("servers")?.as_object()?;
    servers.iter().filter(|(name, _)| except != Some(name.as_str())).find_map(|(name, server)| {
        let rest = plan::without_ours(server.get("routes")?.as_array()?)?;
        Some((format!("{HTTP}/servers/{name}/routes"), Value::Array(rest)))
    })
}
