//! The visitor's end of a Stream: a request that was read becomes an Open, and Heads become the answer.

use super::halves::{Receiving, Sending};
use super::{Exchange, Failure, IDLE_AT_GATEWAY, Order, Port, Role};
use crate::body::BodyFault;
use crate::frame::{Frame, Open};
use crate::head::{self, Framing, HopConnection, RequestHead, Version};
use crate::lasting::Course;
use crate::reason::Reason;

impl Exchange {
    /// The visitor's request has a head: sends `open`, which grants the answer's first bytes. The Agent takes `credit`
    /// bytes of the request's body before it grants more.
    pub fn ask(
        open: &Open<'_>,
        head: &RequestHead<'_>,
        credit: u32,
        now: u64,
        port: &mut impl Port,
    ) -> Exchange {
        port.frame(&Frame::Open(*open), Order::First);
        let mut sending = Sending::new(credit, false);
        sending.frame(head.framing);
        Exchange {
            role: Role::Gateway { version: head.version, until_close: false, own_answer: false },
            number: open.stream,
            open: true,
            upgrade: open.upgrade,
            raw: false,
            status: 0,
            course: Course::default(),
            interim: (0, 0),
            keep_alive: head.keep_alive,
            half_closed: false,
            failure: None,
            deadline: now + IDLE_AT_GATEWAY,
            lost_beside: false,
            sending,
            receiving: Receiving::new(open.credit),
        }
    }

    /// The head of the answer, or of an interim one. `flags`: a body follows, the protocol is switched, it is interim.
    pub(super) fn head(
        &mut self,
        (body, switched, interim): (bool, bool, bool),
        bytes: &[u8],
        now: u64,
        port: &mut impl Port,
    ) -> Result<(), String> {
        let Role::Gateway { version, until_close, .. } = &mut self.role else {
            return Err(format!("a response head on stream {}, sent to the agent", self.number));
        };
        let head = head::parse_tunnel_response(bytes).map_err(|fault| format!("response head: {fault}"))?;
        if self.status != 0 || self.receiving.done {
            return Err(format!("second response head on stream {}", self.number));
        }
        let mut out = Vec::with_capacity(bytes.len() + 64);
        if interim {
            self.interim.0 += 1;
            self.interim.1 += bytes.len();
            if self.interim.0 > head::MAX_INTERIM || self.interim.1 > head::MAX_INTERIM_BYTES {
                return Err(format!("too many interim response heads on stream {}", self.number));
            }
            self.progress(now);
            // RFC 9110 15.2: never to HTTP/1.0.
            if let Role::Gateway { version: Version::Http11, .. } = self.role {
                head::write_visitor_response(&head, false, HopConnection::Default, &mut out);
                port.write(&[&out]);
            }
            return Ok(());
        }
        if switched {
            if !self.upgrade {
                return Err(format!("stream {} switched protocols without being asked", self.number));
            }
            if !self.sending.done {
                return Err(format!(
                    "stream {} switched protocols before the end of its request",
                    self.number
                ));
            }
            *until_close = true;
            self.status = head.status;
            self.switch();
            head::write_visitor_response(&head, false, HopConnection::Upgrade, &mut out);
            port.write(&[&out]);
            // What follows the request is part of the new protocol.
            port.wake();
            return Ok(());
        }
        let version = *version;
        let framing = match (body, head.content_length, version) {
            (false, ..) => Framing::None,
            (true, Some(length), _) => Framing::Length(length),
            (true, None, Version::Http11) => Framing::Chunked,
            (true, None, Version::Http10) => Framing::UntilClose,
        };
        *until_close = framing == Framing::UntilClose;
        self.keep_alive &= !*until_close;
        // An answer with a known end before the request's end is a refusal, as a rule: say that the rest is not wanted
        // (RFC 9112 9.6). A stream of unknown length goes on beside the request.
        self.keep_alive &= self.sending.done || framing == Framing::Chunked;
        self.status = head.status;
        self.course = Course::of(framing, head.get("content-type"));
        self.receiving.frame(framing);
        let connection = match (self.keep_alive, version) {
            (true, Version::Http11) => HopConnection::Default,
            (true, Version::Http10) => HopConnection::KeepAlive,
            (false, _) => HopConnection::Close,
        };
        head::write_visitor_response(&head, framing == Framing::Chunked, connection, &mut out);
        port.write(&[&out]);
        self.progress(now);
        if self.receiving.done {
            self.open = false;
        }
        Ok(())
    }

    /// The visitor is not there any more.
    pub fn gone(&mut self, port: &mut impl Port) {
        if self.open {
            let frame = Frame::Reset { stream: self.number, reason: Reason::VisitorGone, text: "" };
            port.frame(&frame, Order::Instead);
        }
        self.open = false;
        self.failure.get_or_insert(Failure {
            reason: Reason::VisitorGone,
            text: String::new(),
            here: true,
            body: None,
        });
    }

    /// The body that the socket gave is malformed.
    pub(super) fn bad_body(&mut self, fault: BodyFault, port: &mut impl Port) {
        match self.role {
            Role::Gateway { .. } => {
                self.fail(Reason::VisitorGone, "malformed request body", port);
                if let Some(failure) = &mut self.failure {
                    failure.body.get_or_insert(fault);
                }
            }
            Role::Agent { .. } => self.fail(Reason::UpstreamInvalid, &fault.to_string(), port),
        }
    }

    /// The Gateway has written an answer of its own with this status. `keep`: and would keep the connection.
    pub fn answered(&mut self, status: u16, keep: bool, now: u64) {
        if let Role::Gateway { own_answer, .. } = &mut self.role {
            *own_answer = true;
        }
        self.status = status;
        self.keep_alive &= keep;
        self.receiving.frame(Framing::None);
        self.progress(now);
    }

    /// Whether the visitor would let the connection be kept after an answer now: he asked for that, and all of his
    /// request has been read.
    pub fn could_keep(&self) -> bool {
        self.keep_alive && self.sending.done
    }

    /// The answer's end is the end of the connection, so one that is cut needs a reset to be told from a complete one:
    /// unless all of it has come, and none of it is among the `unsent` bytes that are left in the outbox.
    pub fn ends_with_connection(&self, unsent: usize) -> bool {
        let whole = self.receiving.done && unsent == 0;
        matches!(self.role, Role::Gateway { until_close: true, .. }) && !whole
    }
}
