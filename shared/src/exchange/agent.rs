//! The service's end of a Stream: an Open becomes a request, and the heads of answers become Heads.

use super::halves::{Receiving, Sending};
use super::{Exchange, IDLE_AT_AGENT, Order, POOL_TIME, Port, Role};
use crate::frame::{Frame, Open};
use crate::head::{self, Framing, RequestHead, ResponseFault};
use crate::lasting::Course;
use crate::login;
use crate::reason::Reason;

impl Exchange {
    /// The Gateway opened a Stream for a request with this head: writes it for a service that is called `host`. The
    /// Gateway may send `window` bytes of its body before it is granted more. An error is a fault of the Gateway, which
    /// it is to be told.
    pub fn serve(
        open: &Open<'_>,
        head: &RequestHead<'_>,
        host: &str,
        window: u32,
        now: u64,
        port: &mut impl Port,
    ) -> Result<Exchange, &'static str> {
        let framing = match (open.body, head.framing) {
            (false, Framing::Length(1..)) => return Err("a request with a length was opened without a body"),
            (false, _) => Framing::None,
            (true, Framing::Length(length)) => Framing::Length(length),
            (true, _) => Framing::Chunked,
        };
        let mut bytes = Vec::with_capacity(open.head.len() + 128);
        head::write_upstream_request(head, host, framing == Framing::Chunked, open.upgrade, &mut bytes);
        port.write(&[&bytes]);
        let mut receiving = Receiving::new(window);
        receiving.frame(framing);
        let idempotent = matches!(head.method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE");
        let role = Role::Agent {
            method: head.method.to_owned(),
            again: (idempotent && framing == Framing::None).then_some(bytes),
            reused: false,
            touched: false,
            surplus: false,
            deaf: false,
            retry: false,
            pool_time: if login::in_request(head) { 0 } else { POOL_TIME },
        };
        Ok(Exchange {
            role,
            number: open.stream,
            open: true,
            upgrade: open.upgrade,
            raw: false,
            status: 0,
            course: Course::default(),
            interim: (0, 0),
            keep_alive: false,
            half_closed: false,
            failure: None,
            deadline: now + IDLE_AT_AGENT,
            lost_beside: false,
            sending: Sending::new(open.credit, true),
            receiving,
        })
    }

    /// A connection to the service is there: a new one, or one that served a Stream before.
    pub fn connected(&mut self, again: bool, now: u64) {
        if let Role::Agent { reused, .. } = &mut self.role {
            *reused = again;
        }
        self.progress(now);
    }

    /// Heads at the beginning of `bytes`, interim ones first; returns how many bytes are used.
    pub(super) fn heads(&mut self, bytes: &[u8], now: u64, port: &mut impl Port) -> usize {
        let mut used = 0;
        loop {
            let Role::Agent { method, again, reused, touched, surplus, pool_time, .. } = &mut self.role
            else {
                return used;
            };
            *touched |= !bytes.is_empty();
            let (head, len) = match head::parse_response(&bytes[used..], method) {
                Ok(None) => return used,
                Ok(Some(found)) => found,
                Err(ResponseFault::StatusLine) if used == 0 => {
                    // Perhaps a body that came late, behind an answer that has none: this request had gone out before
                    // it was seen (RFC 9112 9.2).
                    *touched = false;
                    if again.is_some() && *reused {
                        self.broke("bytes that are no answer", port);
                    } else {
                        self.fail(Reason::UpstreamInvalid, &ResponseFault::StatusLine.to_string(), port);
                    }
                    return bytes.len();
                }
                Err(fault) => {
                    self.fail(Reason::UpstreamInvalid, &fault.to_string(), port);
                    return bytes.len();
                }
            };
            used += len;
            if head.status == 408 && !head.keep_alive && *reused && again.is_some() {
                // Said to the idle connection, when our request was on its way (RFC 9110 15.5.9).
                *touched = false;
                self.broke("it had waited for a request for too long", port);
                return bytes.len();
            }
            // It answered: whatever happens now, the request must not be sent again.
            *again = None;
            let mut out = Vec::with_capacity(len + 64);
            head::write_tunnel_response(&head, &mut out);
            let mut frame =
                Frame::Head { stream: self.number, body: false, switched: false, interim: false, head: &out };
            let Frame::Head { body, switched, interim, .. } = &mut frame else { return used };
            if head.status == 101 {
                let text = if !self.upgrade {
                    "status 101 to a request that asked for no upgrade"
                } else if !self.receiving.done {
                    "status 101 before the end of the request's body"
                } else {
                    *switched = true;
                    self.status = 101;
                    self.switch();
                    port.frame(&frame, Order::First);
                    return used;
                };
                self.fail(Reason::UpstreamInvalid, text, port);
                return bytes.len();
            }
            if head.status < 200 {
                self.interim.0 += 1;
                self.interim.1 += len;
                if self.interim.0 > head::MAX_INTERIM || self.interim.1 > head::MAX_INTERIM_BYTES {
                    let text = "more than 8 interim answers (1xx), or 64 KiB of them";
                    self.fail(Reason::UpstreamInvalid, text, port);
                    return bytes.len();
                }
                *interim = true;
                port.frame(&frame, Order::First);
                self.progress(now);
                continue;
            }
            self.status = head.status;
            self.course = Course::of(head.framing, head.get("content-type"));
            self.keep_alive = head.keep_alive && !login::in_response(&head);
            if let Some(seconds) = head.keep_alive_timeout {
                // A second early: the service's clock starts before ours.
                *pool_time = (*pool_time).min(u64::from(seconds.saturating_sub(1)) * 1_000_000);
            }
            self.sending.frame(head.framing);
            *body = !self.sending.done;
            if self.sending.done {
                *surplus |= bytes.len() > used;
                self.open = false;
                used = bytes.len();
            }
            port.frame(&frame, Order::First);
            self.progress(now);
            return used;
        }
    }

    /// The socket takes no more of the request. The service may have answered before (413 and close): reading tells.
    pub fn output_failed(&mut self) {
        if let Role::Agent { deaf, .. } = &mut self.role {
            *deaf = true;
        }
    }

    /// Whether what the peer sends is dropped.
    pub fn is_deaf(&self) -> bool {
        matches!(self.role, Role::Agent { deaf: true, .. })
    }

    /// The connection ended together with the answer.
    pub(super) fn surplus(&mut self) {
        if let Role::Agent { surplus, .. } = &mut self.role {
            *surplus = true;
        }
    }

    /// The connection failed, in these words. A request that cannot have had an effect is sent again, once, on a new
    /// connection: the kept-alive one had been closed at the other end.
    pub fn broke(&mut self, text: &str, port: &mut impl Port) {
        if let Role::Agent { again: Some(_), reused: true, touched: false, retry, .. } = &mut self.role
            && self.open
        {
            *retry = true;
            return;
        }
        self.fail(Reason::UpstreamBroke, text, port);
    }

    /// Writes the request again, for a new connection.
    pub fn retry(&mut self, now: u64, port: &mut impl Port) {
        if let Role::Agent { again, retry, reused, deaf, .. } = &mut self.role {
            (*retry, *reused, *deaf) = (false, false, false);
            port.write(&[&again.take().unwrap_or_default()]);
        }
        self.progress(now);
    }

    /// For how long the connection may be kept idle afterwards, microseconds.
    pub fn pool_time(&self) -> u64 {
        match self.role {
            Role::Gateway { .. } => 0,
            Role::Agent { pool_time, .. } => pool_time,
        }
    }
}
