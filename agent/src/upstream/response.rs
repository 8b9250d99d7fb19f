//! From an upstream's socket to the Gateway: reading, the heads of answers, and their bodies.

use std::io::{self, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use shared::frame::Frame;
use shared::head::{self, Framing};
use shared::monotime;
use shared::outbox::Outbox;
use shared::reason::Reason;
use shared::spread::Place;
use shared::stream::Sent;
use socket2::{SockRef, TcpKeepalive};

use super::{Context, IDLE_TIME, Inner, Phase, Upstream};

impl Upstream {
    /// Reads and uses input until there is none, or none is wanted.
    pub(super) fn drive(self: &Arc<Self>, inner: &mut Inner, context: &mut Context, scratch: &mut [u8]) {
        loop {
            let mut place = None;
            let wanted = match (&inner.phase, &inner.exchange) {
                (Phase::Exchange, Some(e)) if e.status == 0 => scratch.len(),
                (Phase::Exchange, Some(e)) if !e.stream.sending.done => {
                    place = e.stream.place(self.token, || e.session.links());
                    place.as_ref().map_or(0, |place| place.room)
                }
                // The end, or bytes that nobody asked for.
                (Phase::Idle, _) => scratch.len(),
                _ => 0,
            };
            if wanted == 0 {
                return;
            }
            if inner.exchange.as_ref().is_some_and(|e| e.status != 0) && !inner.pending.is_empty() {
                let input = std::mem::take(&mut inner.pending);
                let (now, later) = input.split_at(wanted.min(input.len()));
                let used = self.consume(inner, context, place.as_ref(), now);
                let mut rest = now[used..].to_vec();
                rest.extend_from_slice(later);
                inner.pending = rest;
                continue;
            }
            if !inner.readable {
                return;
            }
            let Some(wire) = &mut inner.wire else { return };
            let wanted = wanted.min(scratch.len());
            match wire.read(&mut scratch[..wanted]) {
                Ok(0) => {
                    inner.readable = false;
                    self.end_of_input(inner, context);
                }
                Ok(n) => {
                    inner.readable = n == wanted || inner.closing || wire.has_decrypted();
                    self.input(inner, context, place.as_ref(), &scratch[..n]);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    inner.readable = false;
                    return;
                }
                Err(e) => {
                    inner.readable = false;
                    self.broke(inner, &e.to_string(), context);
                }
            }
        }
    }

    fn input(
        self: &Arc<Self>,
        inner: &mut Inner,
        context: &mut Context,
        place: Option<&Place>,
        bytes: &[u8],
    ) {
        let Some(exchange) = &inner.exchange else {
            // An idle connection on which something comes cannot be trusted with the next request.
            return self.close(inner);
        };
        if exchange.status != 0 {
            let used = self.consume(inner, context, place, bytes);
            inner.pending.extend_from_slice(&bytes[used..]);
            return;
        }
        if inner.pending.is_empty() {
            let used = self.heads(inner, context, bytes);
            if inner.exchange.is_some() {
                inner.pending.extend_from_slice(&bytes[used..]);
            }
        } else {
            let mut input = std::mem::take(&mut inner.pending);
            input.extend_from_slice(bytes);
            let used = self.heads(inner, context, &input);
            if inner.exchange.is_some() {
                input.drain(..used);
                inner.pending = input;
            }
        }
    }

    /// Parses response heads at the beginning of `bytes`, interim ones first; returns how many bytes are used.
    fn heads(self: &Arc<Self>, inner: &mut Inner, context: &mut Context, bytes: &[u8]) -> usize {
        let mut used = 0;
        loop {
            let Some(exchange) = &mut inner.exchange else { return bytes.len() };
            let (head, len) = match head::parse_response(&bytes[used..], &exchange.method) {
                Ok(None) => return used,
                Ok(Some(found)) => found,
                Err(fault) => {
                    self.fail(inner, Reason::UpstreamInvalid, &fault.to_string(), context);
                    return bytes.len();
                }
            };
            used += len;
            // It answered: whatever happens now, the request must not be sent again.
            exchange.again = None;
            self.deadline.store(monotime::micros() + IDLE_TIME, Relaxed);
            let stream = exchange.stream.number();
            let mut out = Vec::with_capacity(len + 64);
            head::write_tunnel_response(&head, &mut out);
            if head.status == 101 {
                if !exchange.upgrade {
                    let text = "status 101 to a request that asked for no upgrade";
                    self.fail(inner, Reason::UpstreamInvalid, text, context);
                    return bytes.len();
                }
                if !exchange.stream.receiving.done {
                    let text = "status 101 before the end of the request's body";
                    self.fail(inner, Reason::UpstreamInvalid, text, context);
                    return bytes.len();
                }
                exchange.stream.switch();
                exchange.status = 101;
                let head = Frame::Head { stream, body: false, switched: true, interim: false, head: &out };
                exchange.stream.first(&head, context);
                self.deadline.store(u64::MAX, Relaxed);
                if let Some(wire) = &inner.wire {
                    keep_alive_probes(wire.socket());
                }
                return used;
            }
            if head.status < 200 {
                exchange.interim.0 += 1;
                exchange.interim.1 += len;
                if exchange.interim.0 > head::MAX_INTERIM || exchange.interim.1 > head::MAX_INTERIM_BYTES {
                    let text = "more than 8 interim answers (1xx), or 64 KiB of them";
                    self.fail(inner, Reason::UpstreamInvalid, text, context);
                    return bytes.len();
                }
                let head = Frame::Head { stream, body: false, switched: false, interim: true, head: &out };
                exchange.stream.first(&head, context);
                continue;
            }
            let body = !matches!(head.framing, Framing::None | Framing::Length(0));
            exchange.status = head.status;
            exchange.keep_alive = head.keep_alive;
            if let Some(seconds) = head.keep_alive_timeout {
                // A second early: the upstream's clock starts before ours.
                exchange.pool_time = exchange.pool_time.min(u64::from(seconds.saturating_sub(1)) * 1_000_000);
            }
            exchange.stream.sending.frame(head.framing);
            let head = Frame::Head { stream, body, switched: false, interim: false, head: &out };
            exchange.stream.first(&head, context);
            if !body {
                let more = bytes.len() > used;
                self.finish(inner, more, context);
                return bytes.len();
            }
            // What of the body is here already, as far as Credit and the Link allow.
            let room = exchange.stream.room_at_home(self.token);
            let now = &bytes[used..];
            let now = &now[..now.len().min(room)];
            if !now.is_empty() {
                used += self.consume(inner, context, None, now);
            }
            return used;
        }
    }

    /// Uses bytes of a response body, or raw ones; returns how many.
    /// They go to `place`, or home.
    fn consume(
        self: &Arc<Self>,
        inner: &mut Inner,
        context: &mut Context,
        place: Option<&Place>,
        bytes: &[u8],
    ) -> usize {
        let Some(exchange) = &mut inner.exchange else { return bytes.len() };
        exchange.note_progress(&self.core, &self.target);
        if !exchange.stream.is_raw() {
            self.deadline.store(monotime::micros() + IDLE_TIME, Relaxed);
        }
        match exchange.stream.send(place, bytes, context) {
            Sent::More => {}
            Sent::End(used) => {
                let more = bytes.len() > used;
                self.finish(inner, more, context);
            }
            Sent::Fault(fault, before) => {
                // What came before the fault is the visitor's.
                if let Some(piece) = before {
                    exchange.stream.put(place, piece, false, context);
                }
                self.fail(inner, Reason::UpstreamInvalid, &fault.to_string(), context);
            }
        }
        bytes.len()
    }

    /// The upstream closed its sending half.
    fn end_of_input(self: &Arc<Self>, inner: &mut Inner, context: &mut Context) {
        let Some(exchange) = &mut inner.exchange else { return self.close(inner) };
        if exchange.stream.is_raw() {
            exchange.stream.end(context);
            if exchange.half_closed {
                self.finish(inner, true, context);
            }
            return;
        }
        if exchange.status != 0 && exchange.stream.sending.may_end_here() {
            exchange.stream.end(context);
            return self.finish(inner, true, context);
        }
        self.broke(inner, "it closed the connection", context);
    }

    /// The connection failed in the middle of an exchange. A request that cannot have had an effect is sent again,
    /// once, on a new connection: the kept-alive one had been closed at the other end.
    fn broke(self: &Arc<Self>, inner: &mut Inner, text: &str, context: &mut Context) {
        let Some(exchange) = &mut inner.exchange else { return self.close(inner) };
        let untouched = exchange.status == 0 && inner.pending.is_empty() && inner.reused;
        if !untouched || exchange.again.is_none() {
            return self.fail(inner, Reason::UpstreamBroke, text, context);
        }
        let exchange = inner.exchange.take().expect("checked above");
        self.close(inner);
        let mut outbox = Outbox::new();
        outbox.push(exchange.again.as_deref().unwrap_or_default());
        let (session, stream) = (Arc::clone(&exchange.session), exchange.stream.number());
        let target = Arc::clone(&self.target);
        let mut exchange = exchange;
        exchange.again = None;
        exchange.started = monotime::micros();
        let core = &self.core;
        let fresh =
            core.upstreams.insert(|token| Upstream::new(Arc::clone(core), token, target, exchange, outbox));
        session.streams.replace(stream, Arc::clone(&fresh));
        fresh.resolve(context);
    }
}

/// Upgraded connections have no idle timeout: the kernel looks for dead upstreams instead.
fn keep_alive_probes(socket: &TcpStream) {
    let probes =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(20));
    if let Err(e) = SockRef::from(socket).set_tcp_keepalive(&probes) {
        log::debug!("no TCP keep-alive for an upgraded connection: {e}");
    }
}
