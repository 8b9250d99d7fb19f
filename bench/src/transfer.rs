//! Bulk: downloads and uploads over one or several connections, and small requests beside them.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fault::Fault;
use crate::paced::{self, read_answer};
use crate::target::Target;
use crate::wire::{Wire, dial};

/// One read or write.
const PIECE: usize = 256 * 1024;
/// A transfer in which nothing moves for so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Which way the bytes go, seen from the Visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the Upstream.
    Down,
    /// To the Upstream.
    Up,
}

/// What to move.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Through whom.
    pub target: Target,
    /// Which way.
    pub way: Way,
    /// Bytes over all connections.
    pub bytes: u64,
    /// Connections, one request each.
    pub streams: u64,
    /// When this has passed, what has been moved so far is the result.
    pub limit: Duration,
}

/// Moves it; the result is the rate from the moment every connection stands to the last byte.
pub fn run(plan: &Plan) -> Result<Value, Fault> {
    if plan.streams == 0 {
        return Err(Fault::Usage("streams must be above zero".to_owned()));
    }
    let each = plan.bytes / plan.streams;
    // The connections are made first: new connections have a measurement of their own.
    let wires: Vec<Wire<TcpStream>> =
        (0..plan.streams).map(|_| dial(&plan.target, PATIENCE)).collect::<Result<_, _>>()?;
    let barrier = Barrier::new(wires.len() + 1);
    let moved = AtomicU64::new(0);
    let (results, seconds) = thread::scope(|scope| {
        let threads: Vec<_> = wires
            .into_iter()
            .map(|wire| {
                let (barrier, moved) = (&barrier, &moved);
                scope.spawn(move || {
                    barrier.wait();
                    let end = Instant::now() + plan.limit;
                    match plan.way {
                        Way::Down => download(wire, &plan.target, each, moved, || Instant::now() >= end),
                        Way::Up => upload(wire, &plan.target, each, moved, || Instant::now() >= end),
                    }
                })
            })
            .collect();
        barrier.wait();
        let begin = Instant::now();
        let results: Vec<Result<(), Fault>> = threads
            .into_iter()
            .map(|thread| {
                thread.join().unwrap_or_else(|_| Err(Fault::Answer("a stream panicked".to_owned())))
            })
            .collect();
        (results, begin.elapsed().as_secs_f64())
    });
    results.into_iter().collect::<Result<(), _>>()?;
    let bytes = moved.into_inner();
    Ok(json!({ "mib_s": bytes as f64 / 1048576.0 / seconds, "bytes": bytes, "seconds": seconds }))
}

/// One download; `enough` ends it early.
fn download(
    mut wire: Wire<TcpStream>,
    target: &Target,
    bytes: u64,
    moved: &AtomicU64,
    enough: impl Fn() -> bool,
) -> Result<(), Fault> {
    let mut answers = crate::answer::Answers::default();
    let mut scratch = vec![0; PIECE];
    wire.send(&target.get(&format!("/gib?n={bytes}"), false)).map_err(Fault::io("ask for a download"))?;
    loop {
        let mut finished = None;
        let mut wrong = None;
        let mut plain = 0;
        let count = wire
            .receive(&mut scratch, |piece| {
                plain += piece.len() as u64;
                match answers.feed(piece) {
                    Ok((_, answer)) => finished = answer,
                    Err(error) => wrong = Some(error),
                }
            })
            .map_err(Fault::io("read a download"))?;
        moved.fetch_add(plain, Ordering::Relaxed);
        if let Some(error) = wrong {
            return Err(Fault::Answer(error.to_string()));
        }
        match finished {
            Some(answer) if answer.status == 200 && answer.length == bytes => return Ok(()),
            Some(answer) => return Err(Fault::Answer(format!("download: status {}", answer.status))),
            None if count == 0 => return Err(Fault::Answer("download: closed before its end".to_owned())),
            None if enough() => return Ok(()),
            None => {}
        }
    }
}

/// One upload; `enough` ends it early.
fn upload(
    mut wire: Wire<TcpStream>,
    target: &Target,
    bytes: u64,
    moved: &AtomicU64,
    enough: impl Fn() -> bool,
) -> Result<(), Fault> {
    let pattern = vec![b'y'; PIECE];
    wire.send(&target.post("/sink", bytes)).map_err(Fault::io("announce an upload"))?;
    let mut rest = bytes;
    while rest > 0 {
        let length = usize::try_from(rest).unwrap_or(PIECE).min(PIECE);
        let count = wire.write(&pattern[..length]).map_err(Fault::io("send an upload"))?;
        moved.fetch_add(count as u64, Ordering::Relaxed);
        rest -= count as u64;
        if rest > 0 && enough() {
            return Ok(());
        }
    }
    let mut scratch = vec![0; 4096];
    match read_answer(&mut wire, &mut scratch)? {
        answer if answer.status == 200 => Ok(()),
        answer => Err(Fault::Answer(format!("upload: status {}", answer.status))),
    }
}

/// Small requests beside bulk.
#[derive(Clone, Debug)]
pub struct Mix {
    /// Through whom.
    pub target: Target,
    /// For how long.
    pub duration: Duration,
    /// Downloads that are read as fast as they come.
    pub running: usize,
    /// Downloads whose Visitor stops reading after the first bytes.
    pub stalled: usize,
    /// Small requests per second.
    pub rate: f64,
}

/// Runs small requests while the downloads go on.
pub fn mix(mix: &Mix) -> Result<Value, Fault> {
    let stop = AtomicBool::new(false);
    let moved = AtomicU64::new(0);
    // Far more than can be moved in the time.
    let endless = 1 << 40;
    let mut stalled = Vec::new();
    for _ in 0..mix.stalled {
        stalled.push(stall(&mix.target, endless)?);
    }
    let wires: Vec<Wire<TcpStream>> =
        (0..mix.running).map(|_| dial(&mix.target, PATIENCE)).collect::<Result<_, _>>()?;
    let (small, bulk, seconds) = thread::scope(|scope| {
        let threads: Vec<_> = wires
            .into_iter()
            .map(|wire| {
                let (stop, moved) = (&stop, &moved);
                scope.spawn(move || {
                    download(wire, &mix.target, endless, moved, || stop.load(Ordering::Relaxed))
                })
            })
            .collect();
        let begin = Instant::now();
        let small = paced::run(
            &paced::Plan {
                target: mix.target.clone(),
                path: "/100".to_owned(),
                connections: 16,
                rate: mix.rate,
                duration: mix.duration,
            },
            &AtomicBool::new(false),
        );
        let seconds = begin.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        let bulk: Vec<Result<(), Fault>> = threads
            .into_iter()
            .map(|thread| {
                thread.join().unwrap_or_else(|_| Err(Fault::Answer("a download panicked".to_owned())))
            })
            .collect();
        (small, bulk, seconds)
    });
    for mut wire in stalled {
        // Whether it still stands does not matter: it only had to be there.
        drop(wire.sock().shutdown(Shutdown::Both));
    }
    bulk.into_iter().collect::<Result<(), _>>()?;
    let mut value = small?.to_json();
    value["bulk_mib_s"] = json!(moved.into_inner() as f64 / 1048576.0 / seconds);
    Ok(value)
}

/// A download whose Visitor reads its first bytes and nothing more.
fn stall(target: &Target, bytes: u64) -> Result<Wire<TcpStream>, Fault> {
    let mut wire = dial(target, PATIENCE)?;
    wire.send(&target.get(&format!("/gib?n={bytes}"), false)).map_err(Fault::io("ask for a download"))?;
    let mut scratch = vec![0; 16 * 1024];
    let mut plain = 0;
    while plain == 0 {
        let count = wire
            .receive(&mut scratch, |piece| plain += piece.len())
            .map_err(Fault::io("begin a stalled download"))?;
        if count == 0 {
            return Err(Fault::Answer("stalled download: closed at its begin".to_owned()));
        }
    }
    Ok(wire)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Upstream;

    #[test]
    fn bytes_go_both_ways_and_small_requests_pass_them() {
        let upstream = Upstream::bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let addr = upstream.local_addr().expect("bound");
        let stopper = upstream.stopper();
        let server = thread::spawn(move || upstream.run());
        let target = Target { tls: false, addr, host: "a.localhost".to_owned() };
        for way in [Way::Down, Way::Up] {
            let plan = Plan {
                target: target.clone(),
                way,
                bytes: 3 << 20,
                streams: 3,
                limit: Duration::from_secs(10),
            };
            let result = run(&plan).expect("moved");
            assert!(result["bytes"].as_u64() >= Some(3 << 20), "{way:?}: {result}");
        }
        let result =
            mix(&Mix { target, duration: Duration::from_millis(100), running: 1, stalled: 1, rate: 200.0 })
                .expect("measured");
        assert_eq!(result["failed"], 0, "{result}");
        assert!(result["requests"].as_u64() > Some(5), "{result}");
        stopper.stop().expect("a waker");
        server.join().expect("no panic").expect("served");
    }
}
