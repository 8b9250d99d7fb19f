//! Questions to a Gateway that wait for their answer: any number at a time, each with a number of its own.
//!
//! ```text
//!   API's thread ── ask ──▶ Link ──▶ Gateway          waits for the answer, a lost Link, or its patience
//!   Link's reader ◀──────── answer, failed, unsupported; or the Link is closed
//! ```
//! Who asks may wait; the reader of a Link never does.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use shared::hello::{ToAgent, ToGateway};
use shared::link::Link;
use shared::threads::lock;

use crate::control::AskFault;

/// How long an answer may take.
pub(crate) const ANSWER_TIME: Duration = Duration::from_secs(30);

/// What is waited for.
struct Waiting {
    /// The type of the question on the wire.
    kind: &'static str,
    link: Arc<Link>,
    answer: Sender<Result<ToAgent, AskFault>>,
}

/// The open questions to one Gateway.
#[derive(Default)]
pub(crate) struct Asks {
    made: AtomicU64,
    waiting: Mutex<HashMap<u64, Waiting>>,
}

/// How a question travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Urgency {
    /// Before the visitors' data.
    Now,
    /// When there is room: it is long.
    Later,
}

impl Asks {
    /// Sends a question over `link` and waits for its answer, for at most `patience` and 30 s. `question` gets the number that it must carry.
    pub(crate) fn ask(
        &self,
        link: &Arc<Link>,
        kind: &'static str,
        urgency: Urgency,
        patience: Duration,
        question: impl FnOnce(u64) -> ToGateway,
    ) -> Result<ToAgent, AskFault> {
        let number = self.made.fetch_add(1, Relaxed) + 1;
        let (answer, answered) = bounded(1);
        lock(&self.waiting).insert(number, Waiting { kind, link: Arc::clone(link), answer });
        let json = question(number).to_json();
        let room = match urgency {
            Urgency::Now => {
                link.control(&json);
                true
            }
            Urgency::Later => link.later(&json),
        };
        link.flush();
        if !room || link.is_closed() {
            // Perhaps its end was handled before this question stood in the table.
            self.lost(link);
        }
        let outcome = answered.recv_timeout(patience.min(ANSWER_TIME)).unwrap_or_else(|e| match e {
            RecvTimeoutError::Timeout => Err(AskFault::Timeout),
            RecvTimeoutError::Disconnected => Err(AskFault::Lost),
        });
        lock(&self.waiting).remove(&number);
        outcome
    }

    /// The Gateway has answered; what nobody waits for any more is dropped.
    pub(crate) fn answer(&self, message: ToAgent) {
        let waiting = lock(&self.waiting).remove(&message.answers());
        let Some(waiting) = waiting else {
            log::debug!("an answer came that nobody waits for");
            return;
        };
        let outcome = match message {
            ToAgent::Failed(failed) => Err(AskFault::Refused(failed.error)),
            message => Ok(message),
        };
        // It fails only when who asked has just given up.
        let _ = waiting.answer.try_send(outcome);
    }

    /// The Gateway is older and does not know the question. Whether one had been asked.
    pub(crate) fn unsupported(&self, what: &str) -> bool {
        self.fail(|waiting| waiting.kind == what, &AskFault::Unsupported)
    }

    /// Whether a question of this type waits for its answer.
    pub(crate) fn is_asked(&self, kind: &str) -> bool {
        lock(&self.waiting).values().any(|waiting| waiting.kind == kind)
    }

    /// A Link is closed: what was asked over it will not be answered.
    pub(crate) fn lost(&self, link: &Arc<Link>) {
        self.fail(|waiting| Arc::ptr_eq(&waiting.link, link), &AskFault::Lost);
    }

    fn fail(&self, which: impl Fn(&Waiting) -> bool, fault: &AskFault) -> bool {
        let mut all = lock(&self.waiting);
        let numbers: Vec<_> = all.iter().filter(|(_, w)| which(w)).map(|(number, _)| *number).collect();
        let failed: Vec<_> = numbers.iter().filter_map(|number| all.remove(number)).collect();
        drop(all);
        for waiting in &failed {
            // It fails only when who asked has just given up.
            let _ = waiting.answer.try_send(Err(fault.clone()));
        }
        !failed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use shared::control::{Failed, GetLogs, Logs};
    use shared::frame::Side;
    use shared::poll::Poller;

    use super::*;

    struct World {
        asks: Arc<Asks>,
        link: Arc<Link>,
        _poller: Poller,
        _peer: TcpStream,
    }

    fn world() -> World {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let socket = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
        let peer = listener.accept().expect("the other end").0;
        let poller = Poller::new().expect("a poller");
        let link = Link::new("test".into(), Side::Agent, socket, None, poller.handle()).expect("a link");
        World { asks: Arc::default(), link, _poller: poller, _peer: peer }
    }

    fn ask(world: &World) -> thread::JoinHandle<Result<ToAgent, AskFault>> {
        let (asks, link) = (Arc::clone(&world.asks), Arc::clone(&world.link));
        let before = lock(&world.asks.waiting).len();
        let asking = thread::spawn(move || {
            asks.ask(&link, "get-logs", Urgency::Now, ANSWER_TIME, |request| {
                ToGateway::GetLogs(GetLogs { request, before: 0, count: 1, contains: None })
            })
        });
        while lock(&world.asks.waiting).len() == before {
            thread::yield_now();
        }
        asking
    }

    fn logs(request: u64) -> ToAgent {
        ToAgent::Logs(Logs { request, lines: Vec::new(), has_more: false })
    }

    #[test]
    fn answers_find_their_questions_in_any_order() {
        let world = world();
        let (first, second) = (ask(&world), ask(&world));
        world.asks.answer(logs(99));
        world.asks.answer(logs(2));
        world.asks.answer(ToAgent::Failed(Failed { request: 1, error: "no".into() }));
        assert_eq!(second.join().expect("no panic"), Ok(logs(2)));
        assert_eq!(first.join().expect("no panic"), Err(AskFault::Refused("no".into())));
        assert!(lock(&world.asks.waiting).is_empty());
    }

    #[test]
    fn an_older_gateway_is_recognised() {
        let world = world();
        let asking = ask(&world);
        assert!(world.asks.is_asked("get-logs") && !world.asks.is_asked("get-caddy"));
        assert!(!world.asks.unsupported("get-caddy"));
        assert!(world.asks.unsupported("get-logs"));
        assert_eq!(asking.join().expect("no panic"), Err(AskFault::Unsupported));
    }

    #[test]
    fn a_lost_link_fails_what_was_asked_over_it_at_once() {
        let world = world();
        let asking = ask(&world);
        world.link.close("test");
        world.asks.lost(&world.link);
        assert_eq!(asking.join().expect("no panic"), Err(AskFault::Lost));
        // And what is asked afterwards.
        let late = world.asks.ask(&world.link, "get-logs", Urgency::Later, ANSWER_TIME, |request| {
            ToGateway::GetLogs(GetLogs { request, before: 0, count: 1, contains: None })
        });
        assert_eq!(late, Err(AskFault::Lost));
    }
}
