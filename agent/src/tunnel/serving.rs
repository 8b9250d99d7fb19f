//! How a Session is kept going until it ends: further Links, what the Gateway says, what happens to the table, and taking
//! leave.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::Receiver;
use shared::backoff;
use shared::control::Leaving;
use shared::hello::{CLOSE_REPLACED, GREETING_SECONDS, ToAgent, ToGateway, Welcome};
use shared::link::{Link, Threads};
use shared::links::MOST_LINKS;
use shared::threads;

use super::greeting::heartbeat;
use super::wanted::Wanted;
use super::{End, Event, Tunnel, join, slept};
use crate::session::Session;

/// How often to look after the Links …
const TICK: Duration = Duration::from_secs(1);
/// … and while an answer of one of them is outstanding.
const TICK_PRESSING: Duration = Duration::from_millis(200);
/// How long a further Link may wait for its welcome …
const WELCOME: Duration = Duration::from_secs(GREETING_SECONDS);
/// … and at least, when all others are in doubt.
const WELCOME_AT_LAST: Duration = Duration::from_secs(3);
/// How long to wait for the Gateway's answer to `draining`.
const DRAIN_ANSWER: Duration = Duration::from_secs(2);
/// No Stream for this long after it, and none is coming, from a Gateway that does not say how many it has opened.
const DRAIN_QUIET: Duration = Duration::from_millis(100);
/// How often is looked, while we take leave, at what still runs.
const DRAIN_ROUND: Duration = Duration::from_millis(10);
/// How long the Gateway may take to read the last that we send.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Tunnel {
    /// Keeps an established Session going until it ends.
    pub(super) fn serve(
        self: &Arc<Self>,
        session: &Arc<Session>,
        welcome: &Welcome,
        mut wanted: Wanted,
        events: &Receiver<Event>,
        all_threads: &mut Vec<(Arc<Link>, Threads)>,
    ) -> End {
        let most_links = usize::from(self.core.config.links.unwrap_or(welcome.links).clamp(1, 8));
        let mut joining = false;
        let mut join_failures = 0;
        let mut greeting: Option<(Arc<Link>, Instant)> = None;
        let mut next_join = Instant::now();
        let mut next_tick = Instant::now() + TICK;
        let (mut mono, mut wall) = (Instant::now(), SystemTime::now());
        loop {
            self.beat();
            let now = Instant::now();
            // Those in doubt do not count: if they turn out dead, the new one serves already.
            let lacks = session.links.sound() < most_links && !session.is_draining();
            if !joining && lacks && now >= next_join && make_room(session) {
                joining = self.join_link(session, welcome);
                next_join = now + Duration::from_secs(1);
            }
            if now >= next_tick {
                if slept(mono, wall) {
                    log::info!("gateway {}: the machine has slept; checking the tunnel", self.url);
                    session.links.doubt();
                }
                (mono, wall) = (Instant::now(), SystemTime::now());
                let pressing = session.links.tick();
                next_tick = now + if pressing { TICK_PRESSING } else { TICK };
                if let Some((link, since)) = &greeting
                    && since.elapsed() >= welcome_patience(session)
                {
                    link.close(&format!("no welcome within {} s", since.elapsed().as_secs()));
                }
            }
            self.catch_up(session, &mut wanted);
            let event = match events.recv_timeout(next_tick.saturating_duration_since(now)) {
                Ok(event) => event,
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => continue,
                Err(crossbeam_channel::RecvTimeoutError::Disconnected) => return End::Stop,
            };
            match event {
                Event::Message(link, message) => match *message {
                    ToAgent::Welcome(_) => {
                        session.add(&link, heartbeat(&self.core, welcome));
                        greeting = None;
                        (joining, join_failures) = (false, 0);
                    }
                    ToAgent::Refused(refused) => {
                        log::warn!("gateway {}: a further link was refused: {}", self.url, refused.message);
                        link.close(&refused.message);
                        if refused.code == "session-unknown" {
                            session.end("the gateway does not know the session");
                        }
                    }
                    ToAgent::ConfigAck(ack) => {
                        wanted.acknowledged(&ack);
                        self.core.tell_standings(self.note_ack(&ack));
                    }
                    ToAgent::Draining(_) => {
                        log::info!("gateway {}: it is shutting down", self.url);
                    }
                    ToAgent::Bye => session.end("the gateway is shutting down"),
                    other => self.strange(&other),
                },
                Event::LinkClosed(link, why) => {
                    let left = session.lose(&link);
                    wanted.lost(&link);
                    if left == 0 {
                        let replaced = link.close_code() == CLOSE_REPLACED;
                        return if replaced { End::Replaced } else { End::Lost(why) };
                    }
                    if greeting.take_if(|(g, _)| Arc::ptr_eq(g, &link)).is_some() {
                        joining = false;
                        join_failures += 1;
                    }
                    // Before the next look at the clock: the others are being asked.
                    next_tick = next_tick.min(Instant::now() + TICK_PRESSING);
                    log::info!("gateway {}: link {} closed ({why}), {left} left", self.url, link.name());
                }
                Event::Joined(of, result) if !Arc::ptr_eq(&of, session) => {
                    // Dialled for an earlier Session, whose Streams it would carry.
                    if let Ok((link, _)) = result {
                        link.close("the session is over");
                    }
                }
                Event::Joined(_, result) => {
                    match result {
                        Ok((link, threads)) => {
                            reap(all_threads);
                            all_threads.push((Arc::clone(&link), threads));
                            if session.links.sound() < most_links {
                                self.hello(&link, Some((&welcome.session, session)));
                                // Not another one before this one is welcome, or closed.
                                greeting = Some((link, Instant::now()));
                            } else {
                                link.close("those in doubt have answered meanwhile");
                                (joining, join_failures) = (false, 0);
                            }
                        }
                        Err(fault) => {
                            joining = false;
                            join_failures += 1;
                            log::info!("gateway {}: a further link failed: {fault}", self.url);
                        }
                    }
                    next_join = Instant::now()
                        + backoff::delay(join_failures, Duration::from_secs(1), Duration::from_secs(60), 0.0);
                }
                Event::Look => {}
                Event::Reconnect => {
                    log::info!("gateway {}: reconnecting as asked", self.url);
                    return End::Reconnect;
                }
                Event::Stop { until } => {
                    self.drain(session, &mut wanted, events, until);
                    return End::Stop;
                }
            }
        }
    }

    /// Dials a further Link in a thread of its own, because events must not wait for that.
    fn join_link(self: &Arc<Self>, session: &Arc<Session>, _welcome: &Welcome) -> bool {
        let (tunnel, session) = (Arc::clone(self), Arc::clone(session));
        let dial = move || {
            let result = tunnel.open_link(&session);
            tunnel.tell(Event::Joined(session, result));
        };
        match threads::spawn(format!("g{}-join", self.number), dial) {
            Ok(_detached) => true, // Ends by itself: every step of dialling has a deadline.
            Err(e) => {
                log::warn!("no thread for a further link: {e}");
                false
            }
        }
    }

    /// Takes leave: the Gateway opens no more Streams and holds its visitors, those that would never end are ended, the
    /// others finish, and the Gateway has everything before the Links are closed. [`Agent::stop`](crate::Agent::stop) has
    /// waited for the long ones.
    fn drain(&self, session: &Session, wanted: &mut Wanted, events: &Receiver<Event>, until: Instant) {
        session.drain();
        if let Some(link) = session.links.speaker() {
            let left = until.saturating_duration_since(Instant::now());
            let leaving = Leaving { seconds: Some(left.as_secs() + 1) };
            link.control(&ToGateway::Draining(leaving).to_json());
            link.flush();
        }
        let patience = (Instant::now() + DRAIN_ANSWER).min(until);
        let mut farewell = Farewell::default();
        let mut quiet = Instant::now();
        while Instant::now() < until && !session.links().is_empty() {
            let now = Instant::now();
            let sealed = farewell.is_sealed(session.links().len()) || now >= patience;
            if sealed {
                // Visitors who come back from here on are held.
                session.part();
            }
            if !sealed || !session.streams.is_empty() {
                quiet = now;
            }
            let all_came = match farewell.opened {
                Some(opened) => session.streams.have_come(opened) || now >= patience,
                None => now >= quiet + DRAIN_QUIET,
            };
            if sealed && session.streams.is_empty() && all_came {
                break;
            }
            // What the Operator changes meanwhile concerns what still runs.
            self.catch_up(session, wanted);
            self.hear_at_last(session, wanted, &mut farewell, events);
        }
        session.cut();
        // Closing a Link throws away what it has not sent.
        let patience = Instant::now() + LAST_WORDS;
        while session.links().iter().any(|link| link.unsent() > 0) && Instant::now() < patience {
            self.hear_at_last(session, wanted, &mut farewell, events);
        }
        for link in session.links() {
            link.control(&ToGateway::Bye.to_json());
            link.flush();
        }
        // The Gateway has read everything when it closes them.
        while !session.links().is_empty() && Instant::now() < patience {
            self.hear_at_last(session, wanted, &mut farewell, events);
        }
    }

    /// Takes an event while we take leave, and waits a little for one.
    fn hear_at_last(
        &self,
        session: &Session,
        wanted: &mut Wanted,
        farewell: &mut Farewell,
        events: &Receiver<Event>,
    ) {
        match events.recv_timeout(DRAIN_ROUND) {
            Ok(Event::LinkClosed(link, _)) => {
                session.lose(&link);
                wanted.lost(&link);
            }
            Ok(Event::Message(_, message)) => match *message {
                ToAgent::Draining(sealed) => {
                    farewell.answers += 1;
                    farewell.opened = sealed.opened.or(farewell.opened);
                }
                ToAgent::ConfigAck(ack) => {
                    wanted.acknowledged(&ack);
                    self.core.tell_standings(self.note_ack(&ack));
                }
                ToAgent::Bye => session.end("the gateway is shutting down"),
                other => log::debug!("gateway {}: while we take leave: {other:?}", self.url),
            },
            Ok(Event::Joined(_, Ok((link, _)))) => link.close("the agent is shutting down"),
            // We stop already; and changes are looked for in each round.
            Ok(Event::Joined(_, Err(_)) | Event::Look | Event::Reconnect | Event::Stop { .. }) => {}
            // Disconnected is impossible: the tunnel itself holds a sender.
            Err(_) => {}
        }
    }
}

/// What the Gateway has answered to our `draining`.
#[derive(Default)]
struct Farewell {
    answers: usize,
    /// How many Streams it has opened; an older one does not say.
    opened: Option<u32>,
}

impl Farewell {
    /// Whether it opens no more. One that does not say how many it has opened answers on each Link, behind what it opened.
    fn is_sealed(&self, links: usize) -> bool {
        self.opened.is_some() || self.answers >= links
    }
}

/// Joins the threads of Links that have ended: a Session that lives for months loses many.
fn reap(all_threads: &mut Vec<(Arc<Link>, Threads)>) {
    let (ended, running) = all_threads.drain(..).partition(|(_, threads)| threads.ended());
    *all_threads = running;
    join(ended);
}

/// How long a further Link may wait for its welcome. While no Link is sound, all depends on the next one.
fn welcome_patience(session: &Session) -> Duration {
    if session.links.sound() > 0 {
        return WELCOME;
    }
    let rtt = session.links().iter().map(|link| link.rtt()).max().unwrap_or(0);
    Duration::from_micros(4 * rtt).clamp(WELCOME_AT_LAST, WELCOME)
}

/// Whether the Session may have a further Link. If it has as many as there may be, and all are in doubt, one is given up
/// for it.
fn make_room(session: &Session) -> bool {
    let links = session.links();
    if links.len() < MOST_LINKS {
        return true;
    }
    if session.links.sound() == 0
        && let Some(link) = links.first()
    {
        // The room is there when its end has been handled.
        link.close("none of the links answers; a new one takes its place");
    }
    false
}
