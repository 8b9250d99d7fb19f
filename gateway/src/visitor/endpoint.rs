//! A visitor who asks an endpoint of the Gateway's own that takes a while: his request's body is gathered, somebody at
//! the desk does what it asks for, and the answer goes out when it is there. What the endpoints do is left to `own`.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use shared::body::{Decoder, Step};
use shared::forwarded;
use shared::head::{Framing, RequestHead};
use shared::monotime;
use shared::threads::lock;

use super::request::Begun;
use super::{Context, HEAD_TIME, Inner, Phase, Visitor};
use crate::answers::{self, Answer};
use crate::metrics;
use crate::own::{self, Own, Task};

/// An endpoint of our own answers within this time, with room for the queue before it. Microseconds.
const OWN_TIME: u64 = 120_000_000;

/// What is done for such a request.
#[derive(Clone)]
enum Work {
    /// Something of `own`.
    Task(Task),
    /// The page for Prometheus is written.
    Metrics,
}

/// A request to an endpoint of our own that takes a while.
pub(super) struct OwnRequest {
    work: Work,
    origin: Option<Vec<u8>>,
    /// Who asks for what, for the log; nothing for what is asked all the time.
    label: Option<String>,
    /// Only the head of the answer is wanted.
    is_head: bool,
    decoder: Decoder,
    body: Vec<u8>,
    /// All of it is here.
    complete: bool,
    keep_alive: bool,
}

impl OwnRequest {
    /// All of the request is here, and somebody is at work.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Bytes of the body that are here.
    pub(super) fn kept(&self) -> usize {
        self.body.capacity()
    }
}

impl Visitor {
    /// A request to an endpoint of our own that may take a while.
    pub(super) fn own_task(
        self: &Arc<Self>,
        inner: &mut Inner,
        context: &mut Context,
        head: &RequestHead<'_>,
    ) -> Begun {
        let core = &self.core;
        let visitor = forwarded::visitor(&core.config.trusted_proxies, self.peer, head, "-");
        let (address, origin) = (visitor.address(), head.get("origin"));
        match own::begin(core, head, address) {
            Own::Now(answer) => {
                log::info!("{address} {} {} -> {}", head.method, answers::path(head.target), answer.status);
                let keep = head.keep_alive && head.framing == Framing::None;
                let answer = answer.shared_with(core, origin);
                self.answer(inner, context, &answer, keep, head.method == "HEAD");
            }
            Own::Later(task) => {
                let label = format!("{address} {} {}", head.method, answers::path(head.target));
                self.own_later(inner, context, head, Work::Task(task), Some(label));
            }
        }
        Begun::Used
    }

    /// A request for the page for Prometheus.
    pub(super) fn own_metrics(
        self: &Arc<Self>,
        inner: &mut Inner,
        context: &mut Context,
        head: &RequestHead<'_>,
    ) -> Begun {
        self.own_later(inner, context, head, Work::Metrics, None);
        Begun::Used
    }

    /// The body is gathered first.
    fn own_later(
        self: &Arc<Self>,
        inner: &mut Inner,
        context: &mut Context,
        head: &RequestHead<'_>,
        work: Work,
        label: Option<String>,
    ) {
        if head.expect_continue {
            inner.outbox.push(b"HTTP/1.1 100 Continue\r\n\r\n");
            context.touch(self);
        }
        self.deadline.store(monotime::micros() + HEAD_TIME, Relaxed);
        inner.phase = Phase::Own(Box::new(OwnRequest {
            work,
            origin: head.get("origin").map(<[u8]>::to_vec),
            label,
            is_head: head.method == "HEAD",
            decoder: Decoder::new(head.framing),
            body: Vec::new(),
            complete: false,
            keep_alive: head.keep_alive,
        }));
        if matches!(head.framing, Framing::None | Framing::Length(0)) {
            self.own_complete(inner, context);
        }
    }

    /// Bytes of the body of such a request; returns how many are used.
    pub(super) fn own_body(
        self: &Arc<Self>,
        inner: &mut Inner,
        context: &mut Context,
        bytes: &[u8],
    ) -> usize {
        let mut used = 0;
        let refusal = loop {
            let Phase::Own(request) = &mut inner.phase else { return used };
            if request.complete {
                return used;
            }
            match request.decoder.decode(&bytes[used..]) {
                Ok(Step::Data { used: n, data }) => {
                    used += n;
                    if request.body.len() + data.len() > own::MAX_BODY {
                        break Answer::plain_fault(413, "a request to this path has at most 256 KiB");
                    }
                    request.body.extend_from_slice(data);
                }
                Ok(Step::More { used: n }) => return used + n,
                Ok(Step::End { used: n, .. }) => {
                    used += n;
                    self.own_complete(inner, context);
                }
                Err(fault) => {
                    break Answer::plain_fault(400, &format!("the request body is malformed: {fault}"));
                }
            }
        };
        inner.phase = Phase::Head;
        self.answer(inner, context, &refusal, false, false);
        bytes.len()
    }

    /// The request is here: somebody who may wait does it.
    fn own_complete(self: &Arc<Self>, inner: &mut Inner, context: &mut Context) {
        let Phase::Own(request) = &mut inner.phase else { return };
        request.complete = true;
        self.deadline.store(monotime::micros() + OWN_TIME, Relaxed);
        let (work, body, visitor) =
            (request.work.clone(), std::mem::take(&mut request.body), Arc::clone(self));
        let desk = &self.core.desk;
        let taken = match work {
            Work::Task(task) => desk.slow(Box::new(move |core| visitor.own_answer(&task.run(core, &body)))),
            Work::Metrics => {
                desk.quick(Box::new(move |core| visitor.own_answer(&Answer::metrics(metrics::page(core)))))
            }
        };
        if !taken {
            let answer = Answer::plain_fault(503, "too many such requests at the moment; try again later");
            self.own_reply(inner, context, &answer);
        }
    }

    /// It is done.
    fn own_answer(self: &Arc<Self>, answer: &Answer) {
        let mut context = Context::default();
        self.own_reply(&mut lock(&self.inner), &mut context, answer);
        context.settle();
        // The next request may be here already.
        self.core.poller.resume(self.token);
    }

    fn own_reply(self: &Arc<Self>, inner: &mut Inner, context: &mut Context, answer: &Answer) {
        let request = match std::mem::replace(&mut inner.phase, Phase::Head) {
            Phase::Own(request) => request,
            // The visitor has gone, or waited too long.
            other => {
                inner.phase = other;
                return;
            }
        };
        if let Some(label) = &request.label {
            log::info!("{label} -> {}", answer.status);
        }
        inner.tried = usize::MAX;
        let answer = answer.clone().shared_with(&self.core, request.origin.as_deref());
        self.answer(inner, context, &answer, request.keep_alive, request.is_head);
    }
}
