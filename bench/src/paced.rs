//! The open loop: requests leave at a fixed rate whether or not earlier ones are answered, as real
//! Visitors come. Latency counts from when a request was due, so a stall costs every request it delays
//! (no coordinated omission).
//!
//! A thread per connection with blocking calls: at these rates that is cheaper than a poller whose
//! timeouts are whole milliseconds. A thread that merely woke late counts from its waking, because that
//! lateness is the generator's and the machine's, not the measured system's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::answer::{Answers, Finished};
use crate::fault::Fault;
use crate::stats::Latencies;
use crate::target::Target;
use crate::wire::{Wire, dial};

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where.
    pub target: Target,
    /// What to ask for.
    pub path: String,
    /// Connections, each with its thread.
    pub connections: u32,
    /// Requests per second over all connections.
    pub rate: f64,
    /// For how long; the first tenth is not counted.
    pub duration: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Latency of each counted answer.
    pub latencies: Latencies,
    /// Requests without a good answer.
    pub failed: u64,
    /// The last failure, in words.
    pub last_failure: Option<String>,
}

impl Outcome {
    /// As the orchestration reads it.
    pub fn to_json(mut self) -> Value {
        json!({
            "p50_ms": self.latencies.percentile_ms(0.50),
            "p99_ms": self.latencies.percentile_ms(0.99),
            "requests": self.latencies.len(),
            "failed": self.failed,
            "last_failure": self.last_failure,
        })
    }
}

/// Runs to its end, or until `stop` is set.
pub fn run(plan: &Plan, stop: &AtomicBool) -> Result<Outcome, Fault> {
    if plan.rate <= 0.0 || plan.connections == 0 {
        return Err(Fault::Usage("rate and connections must be above zero".to_owned()));
    }
    let period = Duration::from_secs_f64(f64::from(plan.connections) / plan.rate);
    let start = Instant::now() + Duration::from_millis(20);
    let outcomes: Vec<Result<Outcome, Fault>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.connections)
            .map(|at| {
                // Connections take turns within the period, so requests are evenly spaced.
                let first = start + period.mul_f64(f64::from(at) / f64::from(plan.connections));
                scope.spawn(move || one(plan, first, period, start, stop))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread.join().unwrap_or_else(|_| Err(Fault::Answer("a paced thread panicked".to_owned())))
            })
            .collect()
    });
    let mut all = Outcome::default();
    for outcome in outcomes {
        let outcome = outcome?;
        all.latencies.merge(outcome.latencies);
        all.failed += outcome.failed;
        all.last_failure = outcome.last_failure.or(all.last_failure);
    }
    Ok(all)
}

fn one(
    plan: &Plan,
    first: Instant,
    period: Duration,
    start: Instant,
    stop: &AtomicBool,
) -> Result<Outcome, Fault> {
    let request = plan.target.get(&plan.path, false);
    let patience = Duration::from_secs(10);
    let mut wire = dial(&plan.target, patience)?;
    let mut scratch = vec![0; 16 * 1024];
    let mut outcome = Outcome::default();
    let counted_from = start + plan.duration / 10;
    let end = start + plan.duration;
    let mut due = first;
    while due < end && !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        let from = if now < due {
            thread::sleep(due - now);
            Instant::now()
        } else {
            due
        };
        match exchange(&mut wire, &request, &mut scratch) {
            Ok(answer) if answer.status == 200 => {
                if due >= counted_from {
                    outcome.latencies.record(from.elapsed());
                }
                if answer.close {
                    wire = dial(&plan.target, patience)?;
                }
            }
            other => {
                outcome.failed += 1;
                outcome.last_failure = Some(match other {
                    Ok(answer) => format!("status {}", answer.status),
                    Err(fault) => fault.to_string(),
                });
                wire = dial(&plan.target, patience)?;
            }
        }
        due += period;
    }
    Ok(outcome)
}

/// One request and its answer on a blocking connection.
pub fn exchange(
    wire: &mut Wire<std::net::TcpStream>,
    request: &[u8],
    scratch: &mut [u8],
) -> Result<Finished, Fault> {
    wire.send(request).map_err(Fault::io("send a request"))?;
    read_answer(wire, scratch)
}

/// Reads one answer to its end.
pub fn read_answer(wire: &mut Wire<std::net::TcpStream>, scratch: &mut [u8]) -> Result<Finished, Fault> {
    let mut answers = Answers::default();
    loop {
        let mut finished = None;
        let mut wrong = None;
        let count = wire
            .receive(scratch, |bytes| match answers.feed(bytes) {
                Ok((_, Some(answer))) => finished = Some(answer),
                Ok((_, None)) => {}
                Err(error) => wrong = Some(error),
            })
            .map_err(Fault::io("read an answer"))?;
        if let Some(error) = wrong {
            return Err(Fault::Answer(error.to_string()));
        }
        if let Some(answer) = finished {
            return Ok(answer);
        }
        if count == 0 {
            return Err(Fault::Answer("closed before the answer's end".to_owned()));
        }
    }
}
