//! From the Gateway to an upstream: a Stream that is opened, and the connection that is found for it. What comes back is
//! in `response`.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use shared::carrier::Carrier;
use shared::credit::Level;
use shared::exchange::Exchange;
use shared::frame::Open;
use shared::head::{self, RequestHead};
use shared::link::Link;
use shared::monotime;
use shared::outbox::Outbox;
use shared::reason::Reason;
use shared::spread::Spread;
use shared::threads::lock;

use super::exchange::{MAX_TARGET, Ongoing, user_agent};
use super::{Context, Phase, Upstream};
use crate::agent::Core;
use crate::history::clip;
use crate::session::Session;
use crate::targets::Target;
use crate::wire::Wire;

impl Upstream {
    /// A Link's reader: the Gateway opens a Stream. `Err` is what it is told.
    pub(crate) fn open(
        core: &Arc<Core>,
        session: &Arc<Session>,
        link: &Arc<Link>,
        open: &Open<'_>,
        target: Arc<Target>,
        context: &mut Context,
    ) -> Result<(), (Reason, String)> {
        let head = match head::parse_tunnel_request(open.head) {
            Ok(Some((head, len))) if len == open.head.len() => head,
            Ok(_) => return Err((Reason::Protocol, "the request head is incomplete".into())),
            Err(fault) => return Err((Reason::Protocol, format!("request head: {fault}"))),
        };
        if core.budget.level() == Level::Full || link.unsent() > 4 * 1024 * 1024 {
            return Err((Reason::TooManyStreams, "the agent's memory budget is used up".into()));
        }
        let host = host_header(&target, &head);
        let (mut spread, mut outbox) = (Spread::new(link, open.stream), Outbox::new());
        let now = monotime::micros();
        let mut carrier = Carrier::new(&mut spread, &mut outbox, None::<&mut Wire>, context);
        let exchange = Exchange::serve(open, &head, &host, session.request_credit(), now, &mut carrier)
            .map_err(|text| (Reason::Protocol, text.to_owned()))?;
        let ongoing = Box::new(Ongoing {
            session: Arc::clone(session),
            exchange,
            spread,
            left: false,
            request_id: open.request_id.to_owned(),
            visitor: open.visitor.to_owned(),
            method: head.method.to_owned(),
            line: [target.mapping.domain.as_str(), clip(head.target, MAX_TARGET)].concat(),
            user_agent: user_agent(&head),
            started: now,
            counted: (0, 0),
            _active: core.recorder.begins(),
        });
        link.stream_begins();
        let accepted = match Upstream::from_pool(core, &target, ongoing, outbox) {
            Ok(upstream) => {
                let accepted = session.accept(open.stream, &upstream).inspect_err(|_| upstream.discard());
                accepted.map(|()| context.touch(&upstream))
            }
            Err((ongoing, outbox)) => {
                let upstream = core
                    .upstreams
                    .insert(|token| Upstream::new(Arc::clone(core), token, target, ongoing, outbox));
                let accepted = session.accept(open.stream, &upstream).inspect_err(|_| upstream.discard());
                accepted.map(|()| upstream.resolve(context))
            }
        };
        if link.is_closed()
            && let shared::streams::Lookup::Open(upstream) = session.streams.get(open.stream)
        {
            // Its end was handled before this Stream stood in the table.
            upstream.abandon(open.stream, Reason::LinkLost);
        }
        accepted
    }

    /// Its Stream was not accepted: whoever refuses it makes the note, and nothing is to be sent.
    fn discard(self: &Arc<Self>) {
        let mut inner = lock(&self.inner);
        if let Some(ongoing) = inner.ongoing.take() {
            ongoing.spread.home().stream_ends();
        }
        self.close(&mut inner);
    }

    /// Gives the exchange to an idle connection, if there is a live one.
    #[allow(clippy::type_complexity)]
    fn from_pool(
        core: &Arc<Core>,
        target: &Arc<Target>,
        mut ongoing: Box<Ongoing>,
        outbox: Outbox,
    ) -> Result<Arc<Upstream>, (Box<Ongoing>, Outbox)> {
        while let Some(upstream) = core.pool.take(target.serial) {
            let mut inner = lock(&upstream.inner);
            // One that was closed already is of no use, and bytes that nobody asked for would be taken for the answer
            // (RFC 9112 9.2).
            let usable = inner.wire.as_mut().is_some_and(Wire::is_silent);
            if !matches!(inner.phase, Phase::Idle) {
                continue;
            }
            if inner.closing || !usable {
                upstream.close(&mut inner);
                continue;
            }
            inner.phase = Phase::Exchange;
            ongoing.exchange.connected(true, monotime::micros());
            upstream.deadline.store(ongoing.exchange.deadline(), Relaxed);
            inner.ongoing = Some(ongoing);
            inner.outbox = outbox;
            drop(inner);
            return Ok(upstream);
        }
        Err((ongoing, outbox))
    }
}

/// What the upstream is called: as the Mapping says, else as the visitor did.
fn host_header(target: &Target, head: &RequestHead<'_>) -> String {
    let visitor =
        || head.get("host").and_then(|value| std::str::from_utf8(value).ok()).filter(|v| !v.is_empty());
    match &target.host_header {
        Some(fixed) => fixed.clone(),
        None => visitor().unwrap_or(&target.authority).to_owned(),
    }
}
