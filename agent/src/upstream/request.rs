//! From the Gateway to an upstream: a Stream that is opened, the connection that is found for it, and the request's
//! body. What comes back is in `response`.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use shared::assembly::Turn;
use shared::credit::Level;
use shared::frame::Open;
use shared::head::{self, Framing, RequestHead};
use shared::link::Link;
use shared::monotime;
use shared::outbox::Outbox;
use shared::reason::Reason;
use shared::stream::Stream;
use shared::threads::lock;

use super::exchange::{Exchange, MAX_TARGET, user_agent};
use super::{Context, IDLE_TIME, Inner, POOL_TIME, Phase, Upstream, exchange_of};
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
        let framing = match (open.body, head.framing) {
            (false, Framing::Length(1..)) => {
                return Err((Reason::Protocol, "a request with a length was opened without a body".into()));
            }
            (false, _) => Framing::None,
            (true, Framing::Length(length)) => Framing::Length(length),
            (true, _) => Framing::Chunked,
        };
        let mut bytes = Vec::with_capacity(open.head.len() + 128);
        let host = host_header(&target, &head);
        head::write_upstream_request(&head, &host, framing == Framing::Chunked, open.upgrade, &mut bytes);
        let mut stream = Stream::new(link, open.stream, open.credit, session.request_credit());
        stream.receiving.frame(framing);
        let idempotent = matches!(head.method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE");
        let exchange = Box::new(Exchange {
            session: Arc::clone(session),
            stream,
            request_id: open.request_id.to_owned(),
            visitor: open.visitor.to_owned(),
            method: head.method.to_owned(),
            line: [target.mapping.domain.as_str(), clip(head.target, MAX_TARGET)].concat(),
            user_agent: user_agent(&head),
            again: (idempotent && framing == Framing::None).then(|| bytes.clone()),
            upgrade: open.upgrade,
            started: monotime::micros(),
            status: 0,
            interim: (0, 0),
            keep_alive: false,
            pool_time: if logs_the_connection_in(&head) { 0 } else { POOL_TIME },
            half_closed: false,
            failed: None,
            failure: String::new(),
            counted: (0, 0),
            _active: core.recorder.begins(),
        });
        let mut outbox = Outbox::new();
        outbox.push(&bytes);
        link.stream_begins();
        let accepted = match Upstream::from_pool(core, &target, exchange, outbox) {
            Ok(upstream) => {
                let accepted = session.accept(open.stream, &upstream).inspect_err(|_| upstream.discard());
                accepted.map(|()| context.touch(&upstream))
            }
            Err((exchange, outbox)) => {
                let upstream = core
                    .upstreams
                    .insert(|token| Upstream::new(Arc::clone(core), token, target, exchange, outbox));
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
        if let Some(exchange) = inner.exchange.take() {
            exchange.stream.link().stream_ends();
        }
        self.close(&mut inner);
    }

    /// Gives the exchange to an idle connection, if there is a live one.
    #[allow(clippy::type_complexity)]
    fn from_pool(
        core: &Arc<Core>,
        target: &Arc<Target>,
        exchange: Box<Exchange>,
        outbox: Outbox,
    ) -> Result<Arc<Upstream>, (Box<Exchange>, Outbox)> {
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
            inner.reused = true;
            inner.exchange = Some(exchange);
            inner.outbox = outbox;
            upstream.deadline.store(monotime::micros() + IDLE_TIME, Relaxed);
            drop(inner);
            return Ok(upstream);
        }
        Err((exchange, outbox))
    }

    /// A Link's reader: bytes of the request's body, or raw ones.
    pub(crate) fn request_data(
        self: &Arc<Self>,
        stream: u32,
        at: Option<u64>,
        bytes: &[u8],
        end: bool,
        context: &mut Context,
    ) -> Result<(), String> {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let Some(exchange) = exchange_of(&mut inner.exchange, stream) else { return Ok(()) };
        match exchange.stream.arrive(at, bytes, end)? {
            Turn::Now => self.deliver(inner, bytes, end, context),
            Turn::Later => self.wrote(inner, context),
        }
        while let Some((bytes, end)) = inner.exchange.as_mut().and_then(|e| e.stream.receiving.pop()) {
            self.deliver(inner, &bytes, end, context);
        }
        Ok(())
    }

    /// Bytes of the request whose turn it is.
    fn deliver(self: &Arc<Self>, inner: &mut Inner, bytes: &[u8], end: bool, context: &mut Context) {
        let Some(exchange) = &mut inner.exchange else { return };
        if !exchange.stream.is_raw() {
            self.deadline.store(monotime::micros() + IDLE_TIME, Relaxed);
        }
        if exchange.stream.count(bytes.len()).is_err() {
            return self.fail(inner, Reason::Protocol, "more bytes than the request declared", context);
        }
        exchange.note_progress(&self.core, &self.target);
        if inner.deaf {
            self.wrote(inner, context);
        } else if !bytes.is_empty() {
            let wire = inner.wire.as_mut().filter(|_| matches!(inner.phase, Phase::Exchange));
            match exchange.stream.pass(bytes, &mut inner.outbox, wire) {
                Ok(true) => self.wrote(inner, context),
                Ok(false) => context.touch(self),
                Err(e) => {
                    self.write_failed(inner, &e);
                    self.wrote(inner, context);
                }
            }
        }
        if end {
            self.request_ends(inner, b"", context);
        }
    }

    /// A Link's reader: the request is complete.
    pub(crate) fn request_end(
        self: &Arc<Self>,
        stream: u32,
        at: Option<u64>,
        trailers: &[u8],
        context: &mut Context,
    ) -> Result<(), String> {
        let mut inner = lock(&self.inner);
        let Some(exchange) = exchange_of(&mut inner.exchange, stream) else { return Ok(()) };
        if exchange.stream.receiving.done {
            return Err(format!("a second end on stream {stream}"));
        }
        if exchange.stream.arrive_end(at, trailers)? == Turn::Now {
            self.request_ends(&mut inner, trailers, context);
        }
        Ok(())
    }

    fn request_ends(self: &Arc<Self>, inner: &mut Inner, trailers: &[u8], context: &mut Context) {
        let Some(exchange) = &mut inner.exchange else { return };
        context.touch(self);
        if inner.deaf {
            exchange.stream.receiving.done = true;
        } else if exchange.stream.finish(trailers, &mut inner.outbox).is_err() {
            self.fail(inner, Reason::Protocol, "fewer bytes than the request declared", context);
        }
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

/// Whether the request logs in with a scheme that authenticates the connection instead of the request: it must not
/// serve another visitor afterwards (RFC 4559 6).
fn logs_the_connection_in(head: &RequestHead<'_>) -> bool {
    let value = head.get("authorization").unwrap_or_default();
    let scheme = value.split(|b| b.is_ascii_whitespace()).next().unwrap_or_default();
    scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
}
