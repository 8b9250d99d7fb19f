//! How an Agent's Link is greeted: who may be one, which Session it begins or joins, and which Session that replaces.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use shared::hello::{GREETING_SECONDS, Hello, Refused, Welcome};
use shared::link::Link;
use shared::links::{Links, MOST_LINKS};
use shared::monotime;
use shared::reason::Reason;
use shared::streams::Streams;
use shared::threads::lock;

use super::{Session, Tunnel, Tunnels};

/// Links that have not greeted yet; a stranger needs the key to get here.
const MAX_GREETING: usize = 64;

impl Tunnels {
    /// Name for the next Link; its threads are called after it.
    pub(crate) fn next_link_name(&self) -> String {
        format!("t{}", self.links_made.fetch_add(1, Relaxed))
    }

    /// Whether a Link may begin to greet.
    pub(crate) fn has_room(&self) -> bool {
        !self.draining.load(Relaxed) && lock(&self.greeting).len() < MAX_GREETING
    }

    /// A Link has been accepted and must greet soon.
    pub(crate) fn expect_greeting(&self, link: &Arc<Link>) {
        let deadline = monotime::micros() + GREETING_SECONDS * 1_000_000;
        lock(&self.greeting).push((Arc::clone(link), deadline));
    }

    /// The Agent's first message on a Link. `host` is the name under which it reached us.
    pub(crate) fn greet(
        &self,
        link: &Arc<Link>,
        hello: &Hello,
        host: &str,
    ) -> Result<(Arc<Session>, Welcome), Refused> {
        lock(&self.greeting).retain(|(known, _)| !Arc::ptr_eq(known, link));
        let refuse = |code: &str, message: String| Err(Refused { code: code.into(), message });
        let Some(version) = shared::hello::common_version(hello.min_version, hello.max_version) else {
            let (min, max) = (shared::hello::VERSION_MIN, shared::hello::VERSION_MAX);
            return refuse(
                "version",
                format!(
                    "the Agent speaks protocol versions {}-{}, this Gateway (version {}) {min}-{max}: update the older one",
                    hello.min_version,
                    hello.max_version,
                    crate::VERSION
                ),
            );
        };
        if self.draining.load(Relaxed) {
            return refuse("draining", "this Gateway is shutting down".into());
        }
        if !(8..=64).contains(&hello.agent_id.len())
            || !hello.agent_id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        {
            return refuse("hello-invalid", "the Agent's identity is not a UUID".into());
        }
        let tunnel = {
            let mut tunnels = lock(&self.tunnels);
            if !tunnels.contains_key(&hello.agent_id) && tunnels.len() >= self.settings.max_agents {
                let gone =
                    tunnels.iter().filter_map(|(id, t)| Some((lock(&t.state).lost?, id.clone()))).min();
                match gone {
                    Some((_, id)) => drop(tunnels.remove(&id)),
                    None => {
                        return refuse(
                            "too-many-agents",
                            format!("{} Agents are connected already (Gateway__MaxAgents)", tunnels.len()),
                        );
                    }
                }
            }
            Arc::clone(tunnels.entry(hello.agent_id.clone()).or_insert_with(|| {
                Arc::new(Tunnel { agent_id: hello.agent_id.clone(), state: Mutex::default() })
            }))
        };
        let mut state = lock(&tunnel.state);
        let session = match &hello.session {
            Some(id) => match &state.session {
                Some(session) if session.id == *id => Arc::clone(session),
                _ => return refuse("session-unknown", "the session to join has ended".into()),
            },
            None => {
                state.generation += 1;
                let session = Arc::new(Session {
                    id: new_session_id(),
                    number: self.sessions_made.fetch_add(1, Relaxed) + 1,
                    agent_name: clean(&hello.agent_name),
                    agent_version: clean(&hello.agent_version),
                    tunnel: Arc::clone(&tunnel),
                    streams: Streams::default(),
                    credit: hello.credit.min(shared::credit::MAX_WINDOW),
                    links: Links::default(),
                    link_count: AtomicUsize::new(0),
                    configured: AtomicBool::new(false),
                    draining: AtomicBool::new(false),
                    leaves_until: AtomicU64::new(0),
                    applied: Mutex::default(),
                    told: Mutex::default(),
                    untold: AtomicBool::new(false),
                });
                state.name = session.agent_name.clone();
                state.lost = None;
                state.own_hosts = hello.fqdn.iter().cloned().chain([host.to_owned()]).collect();
                session
            }
        };
        let dropped = hello.holds.as_ref().map_or_else(Vec::new, |held| session.links.keep(held));
        let others = session.links.all();
        if others.len() >= MOST_LINKS {
            return refuse("hello-invalid", "the session has 8 links already".into());
        }
        let name = hello.link.as_deref().map(clean);
        let count = session.links.add(link, self.settings.heartbeat_seconds * 1_000_000, name);
        session.link_count.store(count, Relaxed);
        let replaced =
            if hello.session.is_none() { state.session.replace(Arc::clone(&session)) } else { None };
        let welcome = Welcome {
            version,
            gateway_version: crate::VERSION.into(),
            session: session.id.clone(),
            generation: state.generation,
            heartbeat_seconds: self.settings.heartbeat_seconds,
            max_streams: u32::try_from(self.settings.max_streams).unwrap_or(u32::MAX),
            links: self.settings.links,
            uptime_seconds: monotime::seconds(),
            landing_page_hash: state.page.as_ref().map(|page| page.hash.clone()),
            mappings_hash: (!state.hash.is_empty()).then(|| state.hash.clone()),
        };
        drop(state);
        for link in dropped {
            link.close("the agent has lost it");
        }
        // There is a reason for a further Link: another one was lost, or does not answer.
        for link in others {
            link.doubt();
        }
        if let Some(old) = replaced {
            log::info!("{} replaces session {}", session.label(), old.number);
            old.end(Reason::AgentReplaced, "replaced by a newer session of the same agent");
        } else if hello.session.is_none() {
            log::info!("{}: connected, version {:?}", session.label(), clean(&hello.agent_version));
        }
        Ok((session, welcome))
    }
}

/// 128 random bits: a Session's number must not be guessable.
fn new_session_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Text from an Agent for our log: printable, short.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}
