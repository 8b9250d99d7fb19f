//! One request of a visitor and its answer, as long as a Stream carries them: the machine, the Links it uses, and what
//! the log is told.

use std::net::TcpStream;
use std::sync::Arc;

use shared::carrier::Carrier;
use shared::exchange::Exchange;
use shared::metrics::{Done, Requests};
use shared::monotime;
use shared::outbox::Outbox;
use shared::reason::Reason;
use shared::spread::Spread;

use super::{Context, Visitor};
use crate::places::Seat;
use crate::tunnels::Session;

/// What is known of it.
pub(super) struct Ongoing {
    pub(super) session: Arc<Session>,
    /// It sends the request, and receives the answer.
    pub(super) exchange: Exchange,
    pub(super) spread: Spread,
    /// It is out of the Session's table.
    pub(super) left: bool,
    pub(super) request_id: String,
    /// What the visitor calls the request, with a space and brackets, for the log.
    pub(super) label: String,
    pub(super) visitor: String,
    pub(super) method: String,
    pub(super) host: String,
    pub(super) target: String,
    pub(super) wants_html: bool,
    /// The answer is a long transfer, and its Link knows.
    pub(super) heavy: bool,
    /// The counters of its mapping.
    pub(super) requests: Arc<Requests>,
    /// Its place among all requests; `None`: it had to give way, and only its answer is still to be sent.
    pub(super) seat: Option<Seat>,
}

impl Ongoing {
    /// The machine, and what carries its actions out.
    pub(super) fn machine<'c>(
        &'c mut self,
        outbox: &'c mut Outbox,
        socket: Option<&'c TcpStream>,
        context: &'c mut Context,
    ) -> (&'c mut Exchange, Carrier<'c, Visitor, &'c TcpStream>) {
        (&mut self.exchange, Carrier::new(&mut self.spread, outbox, socket, context))
    }

    /// Takes it out of the Session's table.
    pub(super) fn leave(&mut self) {
        if std::mem::replace(&mut self.left, true) {
            return;
        }
        self.session.streams.remove(self.exchange.number());
        self.spread.home().stream_ends();
        if std::mem::take(&mut self.heavy) {
            self.spread.home().heavy_ends();
        }
    }

    /// It is over: counts it, and writes its line.
    pub(super) fn note(&self, since: u64) {
        let failed = self.exchange.failure().map(|failure| failure.reason);
        let status = match (self.exchange.status(), failed) {
            (0, Some(reason)) => reason.status(),
            (status, _) => status,
        };
        let micros = monotime::micros().saturating_sub(since);
        let (sent, received) = (self.exchange.sent(), self.exchange.received());
        self.requests.count(Done {
            status,
            failed: failed.is_some_and(|reason| reason != Reason::VisitorGone),
            bytes_in: sent,
            bytes_out: received,
            micros,
        });
        if !log::log_enabled!(log::Level::Info) {
            return;
        }
        let failed = failed.map_or_else(String::new, |r| format!(" {} at the {}", r.name(), r.hop()));
        log::info!(
            "{}{} {} {} {}{} -> {status}{failed}, {sent} B in, {received} B out, {} ms, agent {:?}",
            self.request_id,
            self.label,
            self.visitor,
            self.method,
            self.host,
            self.target,
            micros / 1000,
            self.session.agent_name,
        );
    }
}
