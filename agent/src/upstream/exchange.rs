//! One request to an upstream and its answer, as long as a Stream carries them, and what the log and the history are
//! told about it.

use std::sync::Arc;

use shared::carrier::Carrier;
use shared::exchange::Exchange;
use shared::head::RequestHead;
use shared::mapping::Mapping;
use shared::metrics::Requests;
use shared::monotime;
use shared::outbox::Outbox;
use shared::reason::Reason;
use shared::spread::Spread;

use crate::agent::Core;
use crate::history::Active;
use crate::session::Session;
use crate::targets::Target;
use crate::wire::Wire;

use super::{Context, Upstream};

/// Bytes of a request's target and of its user agent that are remembered.
pub(super) const MAX_TARGET: usize = 4096;
const MAX_USER_AGENT: usize = 512;
/// A long request's bytes are told to the history in steps of this size.
const PROGRESS: u64 = 1024 * 1024;

/// What is known of it.
pub(super) struct Ongoing {
    pub(super) session: Arc<Session>,
    /// It receives the request, and sends the answer.
    pub(super) exchange: Exchange,
    pub(super) spread: Spread,
    /// It is out of the Session's table.
    pub(super) left: bool,
    pub(super) request_id: String,
    pub(super) visitor: String,
    pub(super) method: String,
    /// Domain of the Mapping and what was asked for, as long as the history keeps it.
    pub(super) line: String,
    pub(super) user_agent: String,
    pub(super) started: u64,
    /// Bytes of request and response that the history knows of.
    pub(super) counted: (u64, u64),
    pub(super) _active: Active,
}

impl Ongoing {
    /// The machine, and what carries its actions out.
    pub(super) fn machine<'c>(
        &'c mut self,
        outbox: &'c mut Outbox,
        wire: Option<&'c mut Wire>,
        context: &'c mut Context,
    ) -> (&'c mut Exchange, Carrier<'c, Upstream, &'c mut Wire>) {
        (&mut self.exchange, Carrier::new(&mut self.spread, outbox, wire, context))
    }

    /// Takes it out of the Session's table.
    pub(super) fn leave(&mut self) {
        if !std::mem::replace(&mut self.left, true) {
            self.session.streams.remove(self.exchange.number());
            self.spread.home().stream_ends();
        }
    }

    /// Tells the history of a long request's bytes now and then, so that they count when they flow.
    pub(super) fn note_progress(&mut self, core: &Core, target: &Target) {
        let (request, response) = (self.exchange.received(), self.exchange.sent());
        let more = (request - self.counted.0, response - self.counted.1);
        if more.0 + more.1 >= PROGRESS {
            self.counted = (request, response);
            core.recorder.progress(target.mapping.id, more.0, more.1);
        }
    }

    pub(super) fn summary<'e>(&'e self, target: &'e Target) -> Summary<'e> {
        // A visitor who ends an upgraded connection does what visitors do.
        let failure = self.exchange.failure();
        let reason = failure.map(|failure| failure.reason);
        let failed = reason.filter(|reason| !self.exchange.is_raw() || *reason != Reason::VisitorGone);
        let status = match self.exchange.status() {
            0 => reason.map_or(0, Reason::status),
            status => status,
        };
        Summary {
            mapping: &target.mapping,
            request_id: &self.request_id,
            visitor: &self.visitor,
            user_agent: &self.user_agent,
            method: &self.method,
            line: &self.line,
            target: &target.authority,
            status,
            failed,
            failure: failure.filter(|failure| failure.here).map_or("", |failure| &failure.text),
            request_bytes: self.exchange.received(),
            response_bytes: self.exchange.sent(),
            counted: self.counted,
            micros: monotime::micros().saturating_sub(self.started),
            requests: &target.requests,
        }
    }
}

/// One request, for the log and the history.
pub(crate) struct Summary<'e> {
    pub(crate) mapping: &'e Mapping,
    pub(crate) request_id: &'e str,
    pub(crate) visitor: &'e str,
    pub(crate) user_agent: &'e str,
    pub(crate) method: &'e str,
    /// Domain of the Mapping, and target.
    pub(crate) line: &'e str,
    /// Host and port of the upstream.
    pub(crate) target: &'e str,
    pub(crate) status: u16,
    pub(crate) failed: Option<Reason>,
    /// More about it, or nothing.
    pub(crate) failure: &'e str,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    /// Those of them that the history knows of.
    pub(crate) counted: (u64, u64),
    pub(crate) micros: u64,
    /// The counters of its mapping.
    pub(crate) requests: &'e Requests,
}

/// What the visitor's program calls itself, as long as the history keeps it.
pub(crate) fn user_agent(head: &RequestHead<'_>) -> String {
    let value = head.get("user-agent").unwrap_or_default();
    String::from_utf8_lossy(&value[..value.len().min(MAX_USER_AGENT)]).into_owned()
}
