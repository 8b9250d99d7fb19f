//! One request to an upstream and its answer, as long as a Stream carries them, and what the log and the history are
//! told about it.

use std::sync::Arc;

use shared::head::RequestHead;
use shared::mapping::Mapping;
use shared::metrics::Requests;
use shared::monotime;
use shared::reason::Reason;
use shared::stream::Stream;

use crate::agent::Core;
use crate::history::Active;
use crate::session::Session;
use crate::targets::Target;

/// Bytes of a request's target and of its user agent that are remembered.
pub(super) const MAX_TARGET: usize = 4096;
const MAX_USER_AGENT: usize = 512;
/// A long request's bytes are told to the history in steps of this size.
const PROGRESS: u64 = 1024 * 1024;

/// What is known of it.
pub(super) struct Exchange {
    pub(super) session: Arc<Session>,
    /// It receives the request, and sends the answer.
    pub(super) stream: Stream,
    pub(super) request_id: String,
    pub(super) visitor: String,
    pub(super) method: String,
    /// Domain of the Mapping and what was asked for, as long as the history keeps it.
    pub(super) line: String,
    pub(super) user_agent: String,
    /// The request head, kept while the request may have to be sent again.
    pub(super) again: Option<Vec<u8>>,
    pub(super) upgrade: bool,
    pub(super) started: u64,
    /// Of the answer; 0 until its head has come.
    pub(super) status: u16,
    /// Interim answers so far, and bytes of their heads.
    pub(super) interim: (usize, usize),
    pub(super) keep_alive: bool,
    pub(super) pool_time: u64,
    pub(super) half_closed: bool,
    pub(super) failed: Option<Reason>,
    /// In the words of whoever noticed.
    pub(super) failure: String,
    /// Bytes of request and response that the history knows of.
    pub(super) counted: (u64, u64),
    pub(super) _active: Active,
}

impl Exchange {
    /// The Stream is over for this side.
    pub(super) fn leave(&mut self) {
        self.stream.leave(&self.session.streams);
    }

    /// Tells the history of a long request's bytes now and then, so that they count when they flow.
    pub(super) fn note_progress(&mut self, core: &Core, target: &Target) {
        let (request, response) = (self.stream.receiving.bytes, self.stream.sending.bytes);
        let more = (request - self.counted.0, response - self.counted.1);
        if more.0 + more.1 >= PROGRESS {
            self.counted = (request, response);
            core.recorder.progress(target.mapping.id, more.0, more.1);
        }
    }

    pub(super) fn summary<'e>(&'e self, target: &'e Target) -> Summary<'e> {
        // A visitor who ends an upgraded connection does what visitors do.
        let failed = self.failed.filter(|reason| !self.stream.is_raw() || *reason != Reason::VisitorGone);
        Summary {
            mapping: &target.mapping,
            request_id: &self.request_id,
            visitor: &self.visitor,
            user_agent: &self.user_agent,
            method: &self.method,
            line: &self.line,
            target: &target.authority,
            status: if self.status == 0 { self.failed.map_or(0, Reason::status) } else { self.status },
            failed,
            failure: &self.failure,
            request_bytes: self.stream.receiving.bytes,
            response_bytes: self.stream.sending.bytes,
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
