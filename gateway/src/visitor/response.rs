//! From the Agent to a visitor's socket: what the readers of Links bring for his Stream, and what he is told when it
//! fails.

use std::net::TcpStream;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use shared::assembly::Turn;
use shared::head::{self, Framing, HopConnection, Version};
use shared::link::Link;
use shared::monotime;
use shared::reason::Reason;
use shared::threads::lock;
use socket2::SockRef;

use super::{After, Context, IDLE_TIME, Inner, Phase, Visitor};
use crate::answers::Answer;

/// An answer that is longer than this is a long transfer: new Streams avoid its Link.
const HEAVY: u64 = 1024 * 1024;

impl Visitor {
    /// A Link's reader: the Agent's answer begins, or an interim answer comes.
    pub(crate) fn response_head(
        self: &Arc<Self>,
        stream: u32,
        (body, switched, interim): (bool, bool, bool),
        bytes: &[u8],
        context: &mut Context,
    ) -> Result<(), String> {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let Some(exchange) = inner.exchange(stream) else { return Ok(()) };
        let head = match head::parse_tunnel_response(bytes) {
            Ok(head) => head,
            Err(fault) => return Err(format!("response head: {fault}")),
        };
        if exchange.status != 0 || exchange.stream.receiving.done {
            return Err(format!("second response head on stream {stream}"));
        }
        self.deadline.store(monotime::micros() + IDLE_TIME, Relaxed);
        let mut out = Vec::with_capacity(bytes.len() + 64);
        if interim {
            exchange.interim.0 += 1;
            exchange.interim.1 += bytes.len();
            if exchange.interim.0 > head::MAX_INTERIM || exchange.interim.1 > head::MAX_INTERIM_BYTES {
                return Err(format!("too many interim response heads on stream {stream}"));
            }
            // RFC 9110 15.2: never to HTTP/1.0.
            if exchange.version == Version::Http11 {
                head::write_visitor_response(&head, false, HopConnection::Default, &mut out);
            }
        } else {
            exchange.status = head.status;
            let framing = match (body, head.content_length, exchange.version) {
                (false, ..) => Framing::None,
                (true, Some(length), _) => Framing::Length(length),
                (true, None, Version::Http11) => Framing::Chunked,
                (true, None, Version::Http10) => Framing::UntilClose,
            };
            if switched {
                if !exchange.upgrade {
                    return Err(format!("stream {stream} switched protocols without being asked"));
                }
                if !exchange.stream.sending.done {
                    return Err(format!("stream {stream} switched protocols before the end of its request"));
                }
                exchange.stream.switch();
                exchange.until_close = true;
                self.deadline.store(u64::MAX, Relaxed);
                keep_alive_probes(&self.socket);
                head::write_visitor_response(&head, false, HopConnection::Upgrade, &mut out);
            } else {
                exchange.until_close = framing == Framing::UntilClose;
                exchange.keep_alive &= !exchange.until_close;
                // An answer with a known end before the request's end is a refusal, as a rule: say that the rest is
                // not wanted (RFC 9112 9.6). A stream of unknown length goes on beside the request.
                exchange.keep_alive &= exchange.stream.sending.done || framing == Framing::Chunked;
                exchange.stream.receiving.frame(framing);
                let connection = match (exchange.keep_alive, exchange.version) {
                    (true, Version::Http11) => HopConnection::Default,
                    (true, Version::Http10) => HopConnection::KeepAlive,
                    (false, _) => HopConnection::Close,
                };
                head::write_visitor_response(&head, framing == Framing::Chunked, connection, &mut out);
            }
        }
        let (switched, done) = (exchange.stream.is_raw(), exchange.stream.receiving.done);
        inner.outbox.push(&out);
        context.touch(self);
        if done {
            self.close_stream(inner, None, context);
        }
        if switched && (inner.readable || !inner.pending.is_empty()) {
            self.core.poller.resume(self.token);
        }
        Ok(())
    }

    /// A Link's reader: bytes of the answer.
    pub(crate) fn response_data(
        self: &Arc<Self>,
        stream: u32,
        at: Option<u64>,
        bytes: &[u8],
        end: bool,
        context: &mut Context,
    ) -> Result<(), String> {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let Some(exchange) = inner.exchange(stream) else { return Ok(()) };
        if exchange.status == 0 || exchange.stream.receiving.done {
            return Err(format!("data on stream {stream} outside of a body"));
        }
        match exchange.stream.arrive(at, bytes, end)? {
            Turn::Now => self.deliver(inner, bytes, end, context),
            Turn::Later => self.wrote(inner, context),
        }
        while let Some((bytes, end)) = inner.exchange(stream).and_then(|e| e.stream.receiving.pop()) {
            self.deliver(inner, &bytes, end, context);
        }
        Ok(())
    }

    /// Bytes of the answer whose turn it is.
    fn deliver(self: &Arc<Self>, inner: &mut Inner, bytes: &[u8], end: bool, context: &mut Context) {
        let Phase::Exchange(exchange) = &mut inner.phase else { return };
        if !exchange.stream.is_raw() {
            self.deadline.store(monotime::micros() + IDLE_TIME, Relaxed);
        }
        if exchange.stream.count(bytes.len()).is_err() {
            exchange.failed = Some(Reason::UpstreamInvalid);
            let tell = (Reason::UpstreamInvalid, "more bytes than the head declared");
            self.close_stream(inner, Some(tell), context);
            return self.abort(inner, context);
        }
        if exchange.stream.receiving.bytes > HEAVY && exchange.stream.is_open() && !exchange.heavy {
            exchange.heavy = true;
            exchange.stream.link().heavy_begins();
        }
        if !bytes.is_empty() {
            match exchange.stream.pass(bytes, &mut inner.outbox, Some(&mut &self.socket)) {
                Ok(true) => self.wrote(inner, context),
                Ok(false) => context.touch(self),
                Err(_) => return self.gone(inner, context),
            }
        }
        if end {
            self.response_ends(inner, b"", context);
        }
    }

    /// A Link's reader: the answer is complete.
    pub(crate) fn response_end(
        self: &Arc<Self>,
        stream: u32,
        at: Option<u64>,
        trailers: &[u8],
        context: &mut Context,
    ) -> Result<(), String> {
        let mut inner = lock(&self.inner);
        let Some(exchange) = inner.exchange(stream) else { return Ok(()) };
        if exchange.status == 0 || exchange.stream.receiving.done {
            return Err(format!("end on stream {stream} outside of a body"));
        }
        if exchange.stream.arrive_end(at, trailers)? == Turn::Now {
            self.response_ends(&mut inner, trailers, context);
        }
        Ok(())
    }

    fn response_ends(self: &Arc<Self>, inner: &mut Inner, trailers: &[u8], context: &mut Context) {
        let Phase::Exchange(exchange) = &mut inner.phase else { return };
        context.touch(self);
        if exchange.stream.finish(trailers, &mut inner.outbox).is_err() {
            // Fewer bytes than declared: the visitor must see it.
            exchange.failed = Some(Reason::UpstreamBroke);
            inner.after = After::Abort;
        }
        if !exchange.stream.is_raw() {
            self.close_stream(inner, None, context);
        }
    }

    /// A Link's reader: the Agent ended the Stream.
    pub(crate) fn reset(self: &Arc<Self>, stream: u32, reason: Reason, text: &str, context: &mut Context) {
        let mut inner = lock(&self.inner);
        if let Some(exchange) = inner.exchange(stream) {
            log::debug!("{} reset by the agent: {reason} {text}", exchange.request_id);
            exchange.leave();
            self.fail_inner(&mut inner, stream, reason, context);
        }
    }

    /// A Link's reader: more may be sent.
    pub(crate) fn credit(self: &Arc<Self>, stream: u32, bytes: u32) {
        let mut inner = lock(&self.inner);
        if inner.exchange(stream).is_some_and(|exchange| exchange.stream.granted(bytes)) {
            self.core.poller.resume(self.token);
        }
    }

    /// The Stream ended without the Agent having said so.
    pub(crate) fn fail(self: &Arc<Self>, stream: u32, reason: Reason, context: &mut Context) {
        let mut inner = lock(&self.inner);
        self.fail_inner(&mut inner, stream, reason, context);
    }

    /// Fails the Stream if `link` carried it, or a part of it.
    pub(crate) fn fail_on_link(self: &Arc<Self>, stream: u32, link: &Arc<Link>, context: &mut Context) {
        let mut inner = lock(&self.inner);
        let Some(exchange) = inner.exchange(stream) else { return };
        if !exchange.stream.uses(link) {
            return;
        }
        if !Arc::ptr_eq(exchange.stream.link(), link) {
            exchange.stream.reset(Reason::LinkLost, "a link that carried a part of it was lost", context);
        }
        self.fail_inner(&mut inner, stream, Reason::LinkLost, context);
    }

    pub(super) fn fail_inner(
        self: &Arc<Self>,
        inner: &mut Inner,
        stream: u32,
        reason: Reason,
        context: &mut Context,
    ) {
        let Phase::Exchange(exchange) = &mut inner.phase else { return };
        if exchange.stream.number() != stream || exchange.failed.is_some() {
            return;
        }
        if exchange.stream.receiving.done && !exchange.stream.is_raw() {
            return; // All of the answer is here; only the visitor has not taken it yet.
        }
        exchange.failed = Some(reason);
        let answered = exchange.status != 0;
        let answer = Answer::failure(reason, &exchange.request_id, exchange.wants_html);
        let keep = exchange.keep_alive && exchange.stream.sending.done;
        let is_head = exchange.method == "HEAD";
        self.close_stream(inner, None, context);
        if answered {
            inner.after = After::Abort;
            context.touch(self);
        } else {
            self.answer(inner, context, &answer, keep, is_head);
        }
    }
}

/// Upgraded connections have no idle timeout: the kernel looks for dead visitors instead.
fn keep_alive_probes(socket: &TcpStream) {
    let probes = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(20));
    if let Err(e) = SockRef::from(socket).set_tcp_keepalive(&probes) {
        static ONCE: OnceLock<()> = OnceLock::new();
        ONCE.get_or_init(|| log::warn!("no TCP keep-alive for upgraded connections: {e}"));
    }
}
