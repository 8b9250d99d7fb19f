//! From an upstream's socket to the Gateway: reading, the heads of answers, and their bodies.

use std::io::{self, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use shared::exchange::Wants;
use shared::monotime;
use shared::outbox::Outbox;
use shared::poll::TURN;
use shared::spread::Place;
use socket2::{SockRef, TcpKeepalive};

use super::{Context, Inner, Phase, Upstream};

impl Upstream {
    /// Reads and uses input until there is none, or none is wanted.
    pub(super) fn drive(self: &Arc<Self>, inner: &mut Inner, context: &mut Context, scratch: &mut [u8]) {
        let mut turn = TURN;
        loop {
            if turn == 0 {
                // Others first; then go on.
                return self.core.poller.resume(self.token);
            }
            let (mut place, mut wants) = (None, Wants::Nothing);
            let wanted = match (&inner.phase, &inner.ongoing) {
                (Phase::Exchange, Some(o)) => {
                    wants = o.exchange.wants();
                    match wants {
                        Wants::Nothing => 0,
                        Wants::Head if !o.spread.room_for_head(self.token) => 0,
                        Wants::Head => scratch.len(),
                        Wants::Body if o.exchange.credit() == 0 => 0,
                        Wants::Body => {
                            let away = o.exchange.may_spread();
                            place = o.spread.place(self.token, away, || o.session.links());
                            place.as_ref().map_or(0, |place| place.room.min(o.exchange.credit()))
                        }
                    }
                }
                // The end, or bytes that nobody asked for.
                (Phase::Idle, _) => scratch.len(),
                _ => 0,
            };
            if wanted == 0 {
                return;
            }
            if wants == Wants::Body && !inner.pending.is_empty() {
                let mut input = std::mem::take(&mut inner.pending);
                // Where the exchange may end, so that it sees whether more came than the answer.
                inner.pending = input.split_off(wanted.min(input.len()));
                turn = turn.saturating_sub(input.len());
                let used = self.consume(inner, context, place.as_ref(), &input);
                if inner.ongoing.is_some() {
                    input.drain(..used);
                    input.append(&mut inner.pending);
                    if !input.is_empty() {
                        inner.pending = input;
                    }
                }
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
                    turn = turn.saturating_sub(n);
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

    /// Bytes that were read. What is not used now waits in `pending`.
    fn input(
        self: &Arc<Self>,
        inner: &mut Inner,
        context: &mut Context,
        place: Option<&Place>,
        bytes: &[u8],
    ) {
        if !std::mem::replace(&mut inner.answered, true) {
            let now = monotime::micros();
            self.core.pool.note(self.target.serial, |turns| turns.answers(self.token, now));
        }
        if inner.ongoing.is_none() {
            // An idle connection on which something comes cannot be trusted with the next request.
            return self.close(inner);
        }
        if inner.pending.is_empty() {
            let used = self.consume(inner, context, place, bytes);
            if inner.ongoing.is_some() {
                inner.pending.extend_from_slice(&bytes[used..]);
            }
        } else {
            let mut input = std::mem::take(&mut inner.pending);
            input.extend_from_slice(bytes);
            let used = self.consume(inner, context, place, &input);
            if inner.ongoing.is_some() {
                input.drain(..used);
                if !input.is_empty() {
                    inner.pending = input;
                }
            }
        }
    }

    /// Uses bytes of a response, or raw ones; returns how many. Those of a body go to `place`, or home.
    fn consume(
        self: &Arc<Self>,
        inner: &mut Inner,
        context: &mut Context,
        place: Option<&Place>,
        bytes: &[u8],
    ) -> usize {
        let Some(ongoing) = &mut inner.ongoing else { return bytes.len() };
        let raw = ongoing.exchange.is_raw();
        let (exchange, carrier) = ongoing.machine(&mut inner.outbox, None, context);
        let mut carrier = match place {
            Some(place) => carrier.at(place, exchange),
            None => carrier,
        };
        let used = exchange.input(bytes, monotime::micros(), &mut carrier);
        let done = carrier.done;
        if exchange.is_raw()
            && !raw
            && let Some(wire) = &inner.wire
        {
            keep_alive_probes(wire.socket());
        }
        ongoing.note_progress(&self.core, &self.target);
        self.follow_up(inner, done, context);
        used
    }

    /// The upstream closed its sending half.
    fn end_of_input(self: &Arc<Self>, inner: &mut Inner, context: &mut Context) {
        let Some(ongoing) = &mut inner.ongoing else { return self.close(inner) };
        let (exchange, mut carrier) = ongoing.machine(&mut inner.outbox, None, context);
        exchange.input_ended(&mut carrier);
        self.proceed(inner, context);
    }

    /// The connection failed in the middle of an exchange.
    fn broke(self: &Arc<Self>, inner: &mut Inner, text: &str, context: &mut Context) {
        let Some(ongoing) = &mut inner.ongoing else { return self.close(inner) };
        let (exchange, mut carrier) = ongoing.machine(&mut inner.outbox, None, context);
        exchange.broke(text, &mut carrier);
        self.proceed(inner, context);
    }

    /// Sends the request again, on a new connection.
    pub(super) fn retry(self: &Arc<Self>, inner: &mut Inner, context: &mut Context) {
        let Some(mut ongoing) = inner.ongoing.take() else { return };
        self.close(inner);
        let mut outbox = Outbox::new();
        let now = monotime::micros();
        let (exchange, mut carrier) = ongoing.machine(&mut outbox, None, context);
        exchange.retry(now, &mut carrier);
        ongoing.started = now;
        let (session, stream) = (Arc::clone(&ongoing.session), ongoing.exchange.number());
        let (core, target) = (&self.core, Arc::clone(&self.target));
        let fresh =
            core.upstreams.insert(|token| Upstream::new(Arc::clone(core), token, target, ongoing, outbox));
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
