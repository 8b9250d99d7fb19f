//! The closed loop: a fixed number of connections, each sending its next request when it has the answer.
//! One thread and one poller, so that the generator takes no more of the two cores than it must.

use std::io;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde_json::{Value, json};

use crate::answer::Answers;
use crate::fault::Fault;
use crate::stats::Latencies;
use crate::target::Target;
use crate::wire::Wire;

/// One read; larger than any answer of the closed loop, so that one read is an answer.
const SCRATCH: usize = 64 * 1024;
/// With so many failures there is nothing to measure.
const FAILURES_LIMIT: u64 = 1000;

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where.
    pub target: Target,
    /// What to ask for.
    pub path: String,
    /// Connections.
    pub connections: usize,
    /// Not counted: connections are made and caches filled.
    pub warm_up: Duration,
    /// Counted.
    pub duration: Duration,
    /// A new connection for each request.
    pub renew: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Latency of each counted answer; with `renew` from before the connection was made.
    pub latencies: Latencies,
    /// Answers, warm-up included: what CPU time is divided by.
    pub answered: u64,
    /// Answers that were not 200, and connections that broke with a request under way.
    pub failed: u64,
    /// Connections the other side closed between two answers, which it may.
    pub reconnected: u64,
    /// Requests older than a second when time was up.
    pub stuck: u64,
    /// What was counted, in seconds.
    pub seconds: f64,
    /// The last failure, in words.
    pub last_failure: Option<String>,
}

impl Outcome {
    /// As the orchestration reads it.
    pub fn to_json(mut self) -> Value {
        json!({
            "rps": self.latencies.len() as f64 / self.seconds,
            "p50_ms": self.latencies.percentile_ms(0.50),
            "p99_ms": self.latencies.percentile_ms(0.99),
            "requests": self.latencies.len(),
            "answered": self.answered,
            "failed": self.failed,
            "reconnected": self.reconnected,
            "stuck": self.stuck,
            "last_failure": self.last_failure,
        })
    }

    fn fail(&mut self, why: impl ToString) -> Result<(), Fault> {
        self.failed += 1;
        let why = why.to_string();
        if self.failed >= FAILURES_LIMIT {
            return Err(Fault::Answer(format!("{} failed requests, the last: {why}", self.failed)));
        }
        self.last_failure = Some(why);
        Ok(())
    }
}

/// One Visitor.
struct Visitor {
    wire: Wire<TcpStream>,
    answers: Answers,
    /// When the request under way was sent, or the connection for it begun.
    started: Instant,
    connected: bool,
    /// Whether this connection has had an answer, so that closing it now is nobody's fault.
    served: bool,
}

/// Runs it to its end.
pub fn run(plan: &Plan) -> Result<Outcome, Fault> {
    let mut poll = Poll::new().map_err(Fault::io("poller"))?;
    let mut events = Events::with_capacity(1024);
    let request = plan.target.get(&plan.path, plan.renew);
    let mut scratch = vec![0; SCRATCH];
    let mut outcome = Outcome::default();
    let begin = Instant::now();
    let counted_from = begin + plan.warm_up;
    let end = counted_from + plan.duration;
    let mut visitors = Vec::with_capacity(plan.connections);
    for at in 0..plan.connections {
        visitors.push(Visitor::connect(&poll, at, &plan.target)?);
    }
    loop {
        let now = Instant::now();
        if now >= end {
            break;
        }
        match poll.poll(&mut events, Some(end - now)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Fault::io("poller")(error)),
        }
        for event in &events {
            let at = event.token().0;
            let visitor = &mut visitors[at];
            if event.is_writable()
                && let Err(error) = visitor.writable(&request)
            {
                outcome.fail(error)?;
                *visitor = Visitor::connect(&poll, at, &plan.target)?;
                continue;
            }
            if !visitor.connected || !(event.is_readable() || event.is_read_closed()) {
                continue;
            }
            let to_the_end = event.is_read_closed();
            match visitor.readable(&mut scratch, &request, plan, to_the_end, &mut outcome, counted_from)? {
                Ending::Open => {}
                Ending::Renew => *visitor = Visitor::connect(&poll, at, &plan.target)?,
                Ending::Closed => {
                    outcome.reconnected += 1;
                    *visitor = Visitor::connect(&poll, at, &plan.target)?;
                }
                Ending::Failed(why) => {
                    outcome.fail(why)?;
                    *visitor = Visitor::connect(&poll, at, &plan.target)?;
                }
            }
        }
    }
    let now = Instant::now();
    outcome.seconds = (now - counted_from).as_secs_f64();
    outcome.stuck = visitors.iter().filter(|v| now - v.started > Duration::from_secs(1)).count() as u64;
    Ok(outcome)
}

/// How reading a connection ended.
enum Ending {
    Open,
    /// As planned: the next request has its own connection.
    Renew,
    /// The other side closed between two answers.
    Closed,
    Failed(String),
}

impl Visitor {
    fn connect(poll: &Poll, at: usize, target: &Target) -> Result<Self, Fault> {
        let what = || format!("connect to {}", target.addr);
        let started = Instant::now();
        let sock = TcpStream::connect(target.addr).map_err(Fault::io(what()))?;
        let mut wire = Wire::new(sock, target)?;
        poll.registry()
            .register(wire.sock(), Token(at), Interest::READABLE | Interest::WRITABLE)
            .map_err(Fault::io(what()))?;
        Ok(Self { wire, answers: Answers::default(), started, connected: false, served: false })
    }

    /// The first time the connection stands (or failed); later only TLS may have something left.
    fn writable(&mut self, request: &[u8]) -> io::Result<()> {
        if self.connected {
            return self.wire.flush_tls();
        }
        if let Some(error) = self.wire.sock().take_error()? {
            return Err(error);
        }
        self.wire.sock().set_nodelay(true)?;
        self.connected = true;
        self.wire.send(request)
    }

    /// Reads until the socket is empty; sends the next request after each answer.
    fn readable(
        &mut self,
        scratch: &mut [u8],
        request: &[u8],
        plan: &Plan,
        to_the_end: bool,
        outcome: &mut Outcome,
        counted_from: Instant,
    ) -> Result<Ending, Fault> {
        loop {
            let mut finished = None;
            let mut wrong = None;
            let answers = &mut self.answers;
            let received = self.wire.receive(scratch, |bytes| match answers.feed(bytes) {
                Ok((used, Some(answer))) if used == bytes.len() && finished.is_none() => {
                    finished = Some(answer);
                }
                Ok((_, None)) => {}
                Ok(_) => wrong = Some("bytes after the answer".to_owned()),
                Err(error) => wrong = Some(error.to_string()),
            });
            if let Some(why) = wrong {
                return Ok(Ending::Failed(why));
            }
            if let Some(answer) = finished {
                let now = Instant::now();
                outcome.answered += 1;
                if answer.status != 200 {
                    outcome.fail(format!("status {}", answer.status))?;
                } else if now >= counted_from {
                    outcome.latencies.record(now - self.started);
                }
                if plan.renew {
                    return Ok(Ending::Renew);
                }
                if answer.close {
                    return Ok(Ending::Closed);
                }
                self.served = true;
                self.started = now;
                if let Err(error) = self.wire.send(request) {
                    return Ok(Ending::Failed(error.to_string()));
                }
            }
            match received {
                // The next request, already sent, was not answered: the other side had closed before.
                Ok(0) if self.served && !self.answers.in_answer() => return Ok(Ending::Closed),
                Ok(0) => return Ok(Ending::Failed("closed before the answer's end".to_owned())),
                // A short read has emptied the socket, even under edge triggering (epoll(7)), unless the
                // other side's end came with it, which is reported only once.
                Ok(count) if count < scratch.len() && !to_the_end => return Ok(Ending::Open),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Ending::Open),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset && self.served => {
                    return Ok(Ending::Closed);
                }
                Err(error) => return Ok(Ending::Failed(error.to_string())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::upstream::Upstream;

    fn against_upstream(path: &str, renew: bool) -> Outcome {
        let upstream = Upstream::bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let addr = upstream.local_addr().expect("bound");
        let stopper = upstream.stopper();
        let server = thread::spawn(move || upstream.run());
        let outcome = run(&Plan {
            target: Target { tls: false, addr, host: "a.localhost".to_owned() },
            path: path.to_owned(),
            connections: 4,
            warm_up: Duration::from_millis(20),
            duration: Duration::from_millis(100),
            renew,
        });
        stopper.stop().expect("a waker");
        server.join().expect("no panic").expect("served");
        outcome.expect("measured")
    }

    #[test]
    fn answers_are_counted_on_kept_connections() {
        for path in ["/100", "/10k"] {
            let outcome = against_upstream(path, false);
            assert!(outcome.latencies.len() > 4, "{outcome:?}");
            assert!(outcome.answered >= outcome.latencies.len() as u64);
            assert_eq!((outcome.failed, outcome.reconnected, outcome.stuck), (0, 0, 0), "{outcome:?}");
        }
    }

    #[test]
    fn each_request_may_have_its_own_connection() {
        let outcome = against_upstream("/100", true);
        assert!(outcome.latencies.len() > 4, "{outcome:?}");
        assert_eq!((outcome.failed, outcome.reconnected), (0, 0), "{outcome:?}");
    }

    #[test]
    fn other_statuses_are_failures() {
        let mut outcome = Outcome::default();
        for _ in 1..FAILURES_LIMIT {
            outcome.fail("status 404").expect("below the limit");
        }
        assert!(outcome.fail("status 404").is_err());
    }
}
