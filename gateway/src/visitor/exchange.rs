//! One request of a visitor and its answer, as long as a Stream carries them.

use std::sync::Arc;

use shared::head::Version;
use shared::metrics::{Done, Requests};
use shared::monotime;
use shared::reason::Reason;
use shared::stream::Stream;

use crate::tunnels::Session;

/// What is known of it.
pub(super) struct Exchange {
    pub(super) session: Arc<Session>,
    /// It sends the request, and receives the answer.
    pub(super) stream: Stream,
    pub(super) request_id: String,
    /// What the visitor calls the request, with a space and brackets, for the log.
    pub(super) label: String,
    pub(super) visitor: String,
    pub(super) method: String,
    pub(super) host: String,
    pub(super) target: String,
    pub(super) version: Version,
    pub(super) wants_html: bool,
    pub(super) upgrade: bool,
    pub(super) keep_alive: bool,
    /// Of the answer; 0 until its head has come.
    pub(super) status: u16,
    /// Interim answers so far, and bytes of their heads.
    pub(super) interim: (usize, usize),
    pub(super) until_close: bool,
    /// The answer is a long transfer, and its Link knows.
    pub(super) heavy: bool,
    /// Raw: the Agent's direction has ended, and the sending half was closed.
    pub(super) half_closed: bool,
    /// How it failed, for the log.
    pub(super) failed: Option<Reason>,
    /// The counters of its mapping.
    pub(super) requests: Arc<Requests>,
}

impl Exchange {
    /// Whether input is wanted: a body that is not complete, or raw bytes. What follows the body of an upgrade request
    /// waits for the upstream's answer, because it may be the next request.
    pub(super) fn reads(&self) -> bool {
        self.stream.is_open() && !self.stream.sending.done
    }

    /// The Stream is over on this side; false if it was before.
    pub(super) fn leave(&mut self) -> bool {
        let left = self.stream.leave(&self.session.streams);
        if left && std::mem::take(&mut self.heavy) {
            self.stream.link().heavy_ends();
        }
        left
    }

    /// It is over: counts it, and writes its line.
    pub(super) fn note(&self, since: u64) {
        let status = match self.failed {
            Some(reason) if self.status == 0 => reason.status(),
            _ => self.status,
        };
        let micros = monotime::micros().saturating_sub(since);
        self.requests.count(Done {
            status,
            failed: self.failed.is_some_and(|reason| reason != Reason::VisitorGone),
            bytes_in: self.stream.sending.bytes,
            bytes_out: self.stream.receiving.bytes,
            micros,
        });
        if !log::log_enabled!(log::Level::Info) {
            return;
        }
        let failed = self.failed.map_or_else(String::new, |r| format!(" {} at the {}", r.name(), r.hop()));
        log::info!(
            "{}{} {} {} {}{} -> {status}{failed}, {} B in, {} B out, {} ms, agent {:?}",
            self.request_id,
            self.label,
            self.visitor,
            self.method,
            self.host,
            self.target,
            self.stream.sending.bytes,
            self.stream.receiving.bytes,
            micros / 1000,
            self.session.agent_name,
        );
    }
}
