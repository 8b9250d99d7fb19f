//! What arrives on a Link from an Agent: control messages, and Frames for visitors' Streams.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use shared::control::Sealed;
use shared::frame::Frame;
use shared::hello::{ControlFault, ToAgent, ToGateway};
use shared::link::{Link, Receiver};
use shared::reason::Reason;
use shared::streams::Lookup;

use crate::gateway::Core;
use crate::questions;
use crate::tunnels::Session;
use crate::visitor::Context;

/// WebSocket close code with which Caddy cuts off what it carries when it is reloaded (RFC 6455 7.4.1).
const GOING_AWAY: u16 = 1001;

/// The receiver of one Link.
pub(crate) struct Uplink {
    core: Arc<Core>,
    /// The name under which the Agent reached us.
    host: String,
    /// None until it has greeted.
    session: Option<Arc<Session>>,
    context: Context,
}

impl Uplink {
    pub(crate) fn new(core: Arc<Core>, host: String) -> Uplink {
        Uplink { core, host, session: None, context: Context::default() }
    }

    fn greet(&mut self, link: &Arc<Link>, json: &[u8]) -> Result<(), String> {
        let hello = match ToGateway::parse(json) {
            Ok(ToGateway::Hello(hello)) => hello,
            Ok(_) => return Err("the first message is not a hello".into()),
            Err(fault) => return Err(fault.to_string()),
        };
        match self.core.tunnels.greet(link, &hello, &self.host) {
            Ok((session, welcome)) => {
                self.session = Some(session);
                link.control(&ToAgent::Welcome(welcome).to_json());
                // Learn the round trip at once: windows grow by it.
                link.beat();
                link.flush();
                // If its other Links are in doubt, requests have waited for this one.
                self.core.resume_held();
                Ok(())
            }
            Err(refused) => {
                log::warn!("link {} refused: {} ({})", link.name(), refused.message, refused.code);
                let text = refused.message.clone();
                link.control(&ToAgent::Refused(refused).to_json());
                link.flush();
                link.close_with(1008, &text);
                Ok(())
            }
        }
    }
}

impl Receiver for Uplink {
    fn stream_frame(&mut self, _link: &Arc<Link>, frame: Frame<'_>) -> Result<(), String> {
        let Some(session) = &self.session else { return Err("a frame before the greeting".into()) };
        let stream = frame.stream();
        let visitor = match session.streams.get(stream) {
            Lookup::Open(visitor) => visitor,
            Lookup::Ended => return Ok(()),
            Lookup::Never => return Err(format!("a frame for stream {stream}, which never was")),
        };
        catch_unwind(AssertUnwindSafe(|| visitor.frame(stream, &frame, &mut self.context))).unwrap_or_else(
            |_| {
                log::error!("a defect ended stream {stream}; the others go on");
                visitor.fail(stream, Reason::Protocol, &mut self.context);
                visitor.stop(&mut self.context);
                Ok(())
            },
        )
    }

    fn control(&mut self, link: &Arc<Link>, json: &[u8]) -> Result<(), String> {
        let Some(session) = &self.session else { return self.greet(link, json) };
        match ToGateway::parse(json) {
            Ok(ToGateway::Config(config)) => {
                let ack = self.core.tunnels.configure(session, &config)?;
                link.control(&ToAgent::ConfigAck(ack).to_json());
                // Before Caddy is changed: that may cut off this very Link.
                link.flush();
                self.core.resume_held();
                self.core.caddy.table_changed();
                self.core.route_news(session);
                self.core.tell_update(session);
            }
            Ok(ToGateway::GetLogs(asked)) => questions::logs(&self.core, link, asked),
            Ok(ToGateway::WatchLogs(wish)) => self.core.feed.watch(session, wish),
            Ok(ToGateway::GetCaddy(asked)) => questions::caddy(&self.core, link, &asked),
            Ok(ToGateway::GetCertificate(asked)) => questions::certificate(&self.core, session, link, asked),
            Ok(ToGateway::Update(asked)) => questions::update(&self.core, session, link, asked),
            Ok(ToGateway::LandingPage(asked)) => questions::landing_page(&self.core, session, link, asked),
            Ok(ToGateway::Draining(leaving)) => {
                let opened = Some(session.drain(leaving.seconds.unwrap_or_default()));
                log::info!("{}: it is about to stop", session.label());
                // On every Link, for Agents that wait until none can bring another Open.
                for link in session.links() {
                    link.control(&ToAgent::Draining(Sealed { opened }).to_json());
                    self.context.touch_link(&link);
                }
            }
            Ok(ToGateway::Bye) => return Err("the agent said goodbye".into()),
            Ok(ToGateway::Hello(_)) => return Err("a second hello".into()),
            Ok(ToGateway::Unsupported { what }) => {
                log::warn!("agent {:?} does not know the message {what:?}: it is older", session.agent_name);
            }
            Err(ControlFault::Unknown(what)) => link.control(&ToAgent::Unsupported { what }.to_json()),
            Err(fault) => return Err(fault.to_string()),
        }
        self.context.touch_link(link);
        Ok(())
    }

    fn pause(&mut self, _link: &Arc<Link>) {
        let context = &mut self.context;
        if catch_unwind(AssertUnwindSafe(|| context.settle())).is_err() {
            log::error!(
                "a defect while answers were sent; some visitors' connections may hang until their timeout"
            );
        }
    }

    fn sound_again(&mut self, _link: &Arc<Link>) {
        self.core.resume_held();
    }

    fn closed(&mut self, link: &Arc<Link>, why: &str) {
        self.context.settle();
        if link.close_code() == GOING_AWAY {
            self.core.caddy.was_reloaded();
        }
        self.core.tunnels.link_closed(link, self.session.as_ref(), why);
    }
}
