//! How a Session begins: a Link is dialled, the Gateway greeted, and the mapping table brought over.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use shared::frame::Side;
use shared::hello::{
    ConfigAck, GREETING_SECONDS, Hello, ToAgent, ToGateway, VERSION_MAX, VERSION_MIN, Welcome,
};
use shared::link::{Link, Threads};
use shared::threads::lock;
use time::OffsetDateTime;

use super::wanted::Wanted;
use super::{Event, Tunnel};
use crate::agent::Core;
use crate::control::TunnelState;
use crate::dial::{self, DialFault, Step};
use crate::downlink::Downlink;
use crate::session::Session;

/// The mapping table must be acknowledged after this long.
const SYNC_TIME: Duration = Duration::from_secs(30);

impl Tunnel {
    /// Dials one Link and starts its threads.
    pub(super) fn open_link(
        self: &Arc<Self>,
        session: &Arc<Session>,
    ) -> Result<(Arc<Link>, Threads), DialFault> {
        let dialled =
            dial::dial(&self.url, self.tls.as_ref(), &self.core.config.api_key, &self.core.resolver)?;
        let name = format!("g{}.{}", self.number, self.links_made.fetch_add(1, Relaxed));
        let start = || {
            let poller = self.core.poller.clone();
            let link = Link::new(name, Side::Agent, dialled.socket, dialled.tls, poller)?;
            let receiver = Downlink::new(
                Arc::clone(&self.core),
                Arc::clone(session),
                self.sender.clone(),
                Arc::clone(&self.asks),
                Arc::clone(&self.news),
            );
            let threads = link.start(dialled.early, receiver)?;
            Ok((link, threads))
        };
        start().map_err(|e: std::io::Error| DialFault { step: Step::Tcp, text: e.to_string() })
    }

    /// Greets on a new Link. `joins`: the Session that it is a further Link of, by its number, and how it stands here.
    pub(super) fn hello(&self, link: &Link, joins: Option<(&str, &Session)>) {
        let core = &self.core;
        let names = |session: &Session| {
            let held = session.links().into_iter().filter(|held| !held.is_closed());
            held.map(|held| held.name().to_owned()).collect()
        };
        let hello = Hello {
            min_version: VERSION_MIN,
            max_version: VERSION_MAX,
            agent_version: crate::VERSION.into(),
            agent_id: core.agent_id.clone(),
            agent_name: core.config.name.clone(),
            fqdn: core.config.gateway_fqdn.clone(),
            session: joins.map(|(number, _)| number.to_owned()),
            link: Some(link.name().to_owned()),
            holds: joins.map(|(_, session)| names(session)),
            credit: core.request_credit,
            landing_page_hash: core.pages.hash(),
            mappings_hash: Some(core.targets.offer().hash),
        };
        link.control(&ToGateway::Hello(hello).to_json());
        // Learn the round trip at once: windows grow by it.
        link.beat();
        link.flush();
    }

    /// Dials, greets and brings the mapping table over.
    pub(super) fn establish(
        self: &Arc<Self>,
        events: &Receiver<Event>,
        all_threads: &mut Vec<(Arc<Link>, Threads)>,
    ) -> Result<(Arc<Session>, Welcome, Wanted), Failure> {
        while let Ok(event) = events.try_recv() {
            match event {
                Event::Stop { .. } => return Err(Failure::Stop),
                // A further Link for a Session that is over.
                Event::Joined(_, Ok((link, _))) => link.close("the session is over"),
                // Of that Session, too; a wish for a fresh connection, which is being made; or a change, which is
                // looked for once the table is acknowledged.
                Event::Message(..)
                | Event::LinkClosed(..)
                | Event::Joined(_, Err(_))
                | Event::Reconnect
                | Event::Look => {}
            }
        }
        let session = Arc::new(Session::new(self.core.request_credit));
        let (link, threads) = self.open_link(&session)?;
        all_threads.push((Arc::clone(&link), threads));
        self.set_state(TunnelState::Authenticating);
        self.hello(&link, None);
        let mut welcome: Option<Welcome> = None;
        let mut wanted = Wanted::default();
        let mut deadline = Instant::now() + Duration::from_secs(GREETING_SECONDS);
        let give_up = |step, text: String| {
            session.end("giving up");
            link.close(&text);
            Err(Failure::Fault(DialFault { step, text }))
        };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match events.recv_timeout(left) {
                Err(_) => {
                    let what = if welcome.is_some() { "the mapping table" } else { "our greeting" };
                    return give_up(Step::Greeting, format!("the gateway does not answer {what}"));
                }
                Ok(Event::Stop { .. }) => {
                    session.end("the agent is shutting down");
                    link.close("the agent is shutting down");
                    return Err(Failure::Stop);
                }
                Ok(Event::LinkClosed(closed, why)) if Arc::ptr_eq(&closed, &link) => {
                    return give_up(Step::Greeting, format!("the gateway closed the connection: {why}"));
                }
                Ok(Event::Message(from, message)) if Arc::ptr_eq(&from, &link) => match *message {
                    ToAgent::Welcome(answer) => {
                        session.allow_streams(answer.max_streams as usize);
                        session.add(&link, heartbeat(&self.core, &answer));
                        {
                            let mut state = lock(&self.state);
                            state.status.gateway_version = Some(answer.gateway_version.clone());
                            state.status.gateway_uptime = Some(answer.uptime_seconds);
                            state.session = Some(Arc::clone(&session));
                        }
                        self.set_state(TunnelState::Syncing);
                        self.news.holds_page(answer.landing_page_hash.clone());
                        self.offer_table(&link, &mut wanted);
                        deadline = Instant::now() + SYNC_TIME;
                        welcome = Some(answer);
                    }
                    ToAgent::Refused(refused) => {
                        return give_up(Step::Greeting, format!("{} ({})", refused.message, refused.code));
                    }
                    ToAgent::ConfigAck(ack) => {
                        if let Some(welcome) = welcome {
                            wanted.acknowledged(&ack);
                            self.connected(&ack, &welcome);
                            return Ok((session, welcome, wanted));
                        }
                        return give_up(Step::Greeting, "the gateway answers what was not asked".into());
                    }
                    ToAgent::Draining(_) => session.drain(),
                    ToAgent::Bye => return give_up(Step::Greeting, "the gateway is shutting down".into()),
                    other => self.strange(&other),
                },
                Ok(Event::Joined(_, Ok((link, _)))) => link.close("the session is over"),
                // Of an earlier Session; a wish for a fresh connection, which this is; or a change, which is looked for
                // once the table is acknowledged.
                Ok(
                    Event::Message(..)
                    | Event::LinkClosed(..)
                    | Event::Joined(_, Err(_))
                    | Event::Reconnect
                    | Event::Look,
                ) => {}
            }
        }
    }

    fn connected(&self, ack: &ConfigAck, welcome: &Welcome) {
        // Who listens looks at all mappings when the tunnel is there.
        drop(self.note_ack(ack));
        {
            let mut state = lock(&self.state);
            state.status.last_connected = Some(OffsetDateTime::now_utc());
            state.status.connected_since = Some(Instant::now());
            state.status.last_error = None;
            state.status.reconnect_attempts = 0;
        }
        self.set_state(TunnelState::Connected);
        log::info!(
            "gateway {}: connected, version {}, {} mappings in force",
            self.url,
            welcome.gateway_version,
            ack.routes.iter().filter(|r| r.error.is_none()).count()
        );
    }
}

/// Why there is no Session.
pub(super) enum Failure {
    Stop,
    Fault(DialFault),
}

impl From<DialFault> for Failure {
    fn from(fault: DialFault) -> Failure {
        Failure::Fault(fault)
    }
}

/// The shorter of what both sides want, microseconds.
pub(super) fn heartbeat(core: &Core, welcome: &Welcome) -> u64 {
    core.config.heartbeat_seconds.min(welcome.heartbeat_seconds.max(1)) * 1_000_000
}
