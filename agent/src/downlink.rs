//! What arrives on a Link from a Gateway: control messages, and Frames of visitors' Streams.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crossbeam_channel::Sender;
use shared::frame::{Frame, Open};
use shared::head;
use shared::hello::{ControlFault, ToAgent, ToGateway};
use shared::link::{Link, Receiver};
use shared::mapping::MappingId;
use shared::reason::Reason;
use shared::streams::Lookup;

use crate::agent::Core;
use crate::asks::Asks;
use crate::events;
use crate::history::RequestEntry;
use crate::news::{self, News};
use crate::session::Session;
use crate::targets::{Found, Target};
use crate::tunnel::{Event, MOST_MESSAGES};
use crate::upstream::{Context, Upstream, user_agent};

fn too_many() -> String {
    "more control messages than can be handled".to_owned()
}

/// The receiver of one Link.
pub(crate) struct Downlink {
    core: Arc<Core>,
    session: Arc<Session>,
    events: Sender<Event>,
    asks: Arc<Asks>,
    news: Arc<News>,
    context: Context,
}

impl Downlink {
    pub(crate) fn new(
        core: Arc<Core>,
        session: Arc<Session>,
        events: Sender<Event>,
        asks: Arc<Asks>,
        news: Arc<News>,
    ) -> Downlink {
        Downlink { core, session, events, asks, news, context: Context::default() }
    }

    /// Answers, and what the Gateway tells by itself. Gives back what concerns the tunnel.
    fn heard(&self, message: ToAgent) -> Option<ToAgent> {
        match message {
            ToAgent::Log(lines) => {
                // Nothing is logged here: a line about lines would never end.
                self.news.lines(&lines);
                for line in news::gap(&lines).into_iter().chain(lines.lines.into_iter().map(news::line)) {
                    self.core.hub.publish(events::Event::GatewayLog(line));
                }
            }
            ToAgent::Routes(routes) => {
                for certificate in routes.routes.iter().filter_map(|route| route.certificate.as_ref()) {
                    self.news.certificate(certificate);
                }
                self.core.tell_standings(self.news.routes(routes));
            }
            ToAgent::UpdateOutcome(outcome) => {
                if self.news.outcome(&outcome) && outcome.state != "none" {
                    self.core.hub.publish(events::Event::UpdateOutcome(news::outcome_value(&outcome)));
                    let message = outcome.message.as_deref().unwrap_or_default();
                    log::info!("update of the gateway: {} {message}", outcome.state);
                }
            }
            ToAgent::Unsupported { what } if what == "watch-logs" => {
                self.news.cannot_watch.store(true, Relaxed);
            }
            ToAgent::Unsupported { what } if self.asks.unsupported(&what) => {}
            ToAgent::LandingPageAck(ack) => {
                self.news.holds_page(ack.hash.clone());
                if ack.request != 0 {
                    self.asks.answer(ToAgent::LandingPageAck(ack));
                }
            }
            ToAgent::Failed(failed) if failed.request == 0 => {
                log::warn!("the gateway does not take the landing page: {}", failed.error);
                self.news.refuses_page();
            }
            message if message.answers() != 0 => self.asks.answer(message),
            message => return Some(message),
        }
        None
    }

    fn open(&mut self, link: &Arc<Link>, open: &Open<'_>) {
        #[cfg(debug_assertions)]
        provoke_panic(open);
        // Also while we drain: the Gateway sent it before it knew.
        let (refusal, target) = match self.core.targets.find(&open.mapping) {
            Found::Target(target) => {
                let opened = Upstream::open(
                    &self.core,
                    &self.session,
                    link,
                    open,
                    Arc::clone(&target),
                    &mut self.context,
                );
                match opened {
                    Ok(()) => return,
                    Err(refusal) => (refusal, Some(target)),
                }
            }
            Found::Disabled(target) => ((Reason::MappingDisabled, String::new()), Some(target)),
            Found::Unknown => ((Reason::MappingUnknown, String::new()), None),
        };
        self.note_refused(open, target.as_deref(), (refusal.0, &refusal.1));
        self.refuse(link, open.stream, refusal.0, &refusal.1);
    }

    /// Whoever looks for a request that never reached its service finds it in the history, too.
    fn note_refused(&self, open: &Open<'_>, target: Option<&Target>, failure: (Reason, &str)) {
        let head = match head::parse_tunnel_request(open.head) {
            Ok(Some((head, _))) => Some(head),
            // The failure says so.
            _ => None,
        };
        self.core.recorder.request(&RequestEntry {
            mapping: MappingId::from_bytes(open.mapping),
            called: target.map(|target| target.mapping.called()),
            method: head.as_ref().map_or("", |head| head.method),
            target: head.as_ref().map_or("", |head| head.target),
            status: failure.0.status(),
            request_bytes: 0,
            response_bytes: 0,
            counted: (0, 0),
            micros: 0,
            visitor: open.visitor,
            user_agent: &head.as_ref().map(user_agent).unwrap_or_default(),
            failure: Some(failure),
        });
    }

    fn refuse(&mut self, link: &Arc<Link>, stream: u32, reason: Reason, text: &str) {
        log::info!("stream {stream} refused: {reason} {text}");
        self.session.streams.skip(stream);
        self.session.streams.remove(stream);
        link.reset(stream, &Frame::Reset { stream, reason, text });
        self.context.touch_link(link);
    }
}

/// Debug builds only: lets the end-to-end tests see that a defect in one Stream ends that Stream only.
#[cfg(debug_assertions)]
fn provoke_panic(open: &Open<'_>) {
    if std::env::var_os("OCTOPORTY_TEST_PANIC").is_some()
        && open.head.windows(22).any(|w| w == b"X-Octoporty-Test-Panic")
    {
        panic!("provoked by a test");
    }
}

impl Receiver for Downlink {
    fn stream_frame(&mut self, link: &Arc<Link>, frame: Frame<'_>) -> Result<(), String> {
        let stream = match &frame {
            Frame::Open(open) => {
                let outcome = catch_unwind(AssertUnwindSafe(|| self.open(link, open)));
                if outcome.is_err() {
                    log::error!("a defect ended stream {}; the others go on", open.stream);
                    self.refuse(link, open.stream, Reason::Protocol, "internal error");
                }
                return Ok(());
            }
            Frame::Data { stream, .. }
            | Frame::End { stream, .. }
            | Frame::Reset { stream, .. }
            | Frame::Credit { stream, .. }
            | Frame::Head { stream, .. } => *stream,
            Frame::Control { .. } | Frame::Beat { .. } | Frame::BeatAck { .. } => 0,
        };
        let upstream = match self.session.streams.get(stream) {
            Lookup::Open(upstream) => upstream,
            Lookup::Ended | Lookup::Never if matches!(frame, Frame::Reset { .. }) => {
                // Its Open was withdrawn before it was sent, or it has ended.
                self.session.streams.skip(stream);
                return Ok(());
            }
            Lookup::Ended => return Ok(()),
            Lookup::Never => return Err(format!("a frame for stream {stream}, which never was")),
        };
        catch_unwind(AssertUnwindSafe(|| upstream.frame(stream, &frame, &mut self.context))).unwrap_or_else(
            |_| {
                log::error!("a defect ended stream {stream}; the others go on");
                upstream.defect(&mut self.context);
                Ok(())
            },
        )
    }

    fn control(&mut self, link: &Arc<Link>, json: &[u8]) -> Result<(), String> {
        match ToAgent::parse(json) {
            Ok(message) => match self.heard(message) {
                // Its end must find room, too.
                Some(_) if self.events.len() >= MOST_MESSAGES => Err(too_many()),
                Some(message) => self
                    .events
                    .try_send(Event::Message(Arc::clone(link), Box::new(message)))
                    .map_err(|_| too_many()),
                None => Ok(()),
            },
            Err(ControlFault::Unknown(what)) => {
                link.control(&ToGateway::Unsupported { what }.to_json());
                self.context.touch_link(link);
                Ok(())
            }
            Err(fault) => Err(fault.to_string()),
        }
    }

    fn pause(&mut self, _link: &Arc<Link>) {
        let context = &mut self.context;
        if catch_unwind(AssertUnwindSafe(|| context.settle())).is_err() {
            log::error!("a defect while requests were sent; some of them may hang until their timeout");
        }
    }

    fn closed(&mut self, link: &Arc<Link>, why: &str) {
        self.context.settle();
        self.asks.lost(link);
        let event = Event::LinkClosed(Arc::clone(link), why.to_owned());
        if self.events.send(event).is_err() {
            log::debug!("link {} closed after its tunnel: {why}", link.name());
        }
    }
}
