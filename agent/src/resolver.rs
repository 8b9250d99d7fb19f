//! Looking names up, which may wait, in threads that may.
//!
//! The system's resolver is the right one at home (`/etc/hosts`, mDNS, the router's names), but it blocks, for half a
//! minute if a name server is silent. So a few threads do nothing else; they are never joined, because nobody can
//! interrupt a lookup.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use shared::threads::{self, lock};

/// Most lookups at the same time.
const MOST_THREADS: usize = 16;
/// Lookups waiting for a thread.
const MOST_WAITING: usize = 512;
/// A thread without work ends after this long.
const RETIRE: Duration = Duration::from_secs(30);
/// An answer is used again for this long: a page with many parts needs one lookup, and a changed address is noticed
/// soon.
const REMEMBER: Duration = Duration::from_secs(10);
/// Answers remembered.
const MOST_REMEMBERED: usize = 256;

/// Called with the addresses, in a resolver's thread.
pub(crate) type Done = Box<dyn FnOnce(io::Result<Vec<SocketAddr>>) + Send>;

struct Job {
    name: String,
    port: u16,
    done: Done,
}

/// The threads and what they remember.
pub(crate) struct Resolver(Arc<Shared>);

/// Answers by name and port, with the time of each.
type Known = HashMap<(String, u16), (Instant, Vec<SocketAddr>)>;

struct Shared {
    jobs: (Sender<Job>, Receiver<Job>),
    threads: AtomicUsize,
    idle: AtomicUsize,
    known: Mutex<Known>,
}

impl Resolver {
    /// Without threads until the first lookup.
    pub(crate) fn new() -> Resolver {
        Resolver(Arc::new(Shared {
            jobs: bounded(MOST_WAITING),
            threads: AtomicUsize::new(0),
            idle: AtomicUsize::new(0),
            known: Mutex::default(),
        }))
    }

    /// An answer of the last seconds.
    pub(crate) fn known(&self, name: &str, port: u16) -> Option<Vec<SocketAddr>> {
        let known = lock(&self.0.known);
        let (since, addresses) = known.get(&(name.to_owned(), port))?;
        (since.elapsed() < REMEMBER).then(|| addresses.clone())
    }

    /// Looks a name up and calls `done`. `false`: too many lookups are waiting; `done` is not called.
    pub(crate) fn resolve(&self, name: &str, port: u16, done: Done) -> bool {
        if self.0.jobs.0.try_send(Job { name: name.to_owned(), port, done }).is_err() {
            return false;
        }
        let busy = self.0.jobs.0.len() > self.0.idle.load(Relaxed);
        let claim = |n| (n < MOST_THREADS).then_some(n + 1);
        if busy && self.0.threads.fetch_update(Relaxed, Relaxed, claim).is_ok() {
            let shared = Arc::clone(&self.0);
            if let Err(e) = threads::spawn("resolver", move || shared.run()) {
                log::error!("no thread for looking up names: {e}");
                // Without any thread the job stays in the queue; the connection's deadline ends its Stream.
                self.0.threads.fetch_sub(1, Relaxed);
            }
        }
        true
    }

    /// Looks a name up and waits at most `limit`.
    pub(crate) fn wait(&self, name: &str, port: u16, limit: Duration) -> io::Result<Vec<SocketAddr>> {
        let (sender, receiver) = bounded(1);
        // The receiver may have given up waiting; then the answer is of no use.
        let done = move |result| drop(sender.send(result));
        if !self.resolve(name, port, Box::new(done)) {
            return Err(io::Error::other("too many names are being looked up"));
        }
        receiver.recv_timeout(limit).unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "the name server does not answer"))
        })
    }
}

impl Shared {
    fn run(&self) {
        loop {
            self.idle.fetch_add(1, Relaxed);
            let job = self.jobs.1.recv_timeout(RETIRE);
            self.idle.fetch_sub(1, Relaxed);
            let Ok(job) = job else { break };
            let result = (job.name.as_str(), job.port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
            if let Ok(addresses) = &result {
                let mut known = lock(&self.known);
                if known.len() >= MOST_REMEMBERED {
                    known.retain(|_, (since, _)| since.elapsed() < REMEMBER);
                    if known.len() >= MOST_REMEMBERED {
                        known.clear();
                    }
                }
                known.insert((job.name, job.port), (Instant::now(), addresses.clone()));
            }
            (job.done)(result);
        }
        self.threads.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_and_remembered() {
        let resolver = Resolver::new();
        assert!(resolver.known("localhost", 80).is_none());
        let found = resolver.wait("localhost", 80, Duration::from_secs(20)).unwrap();
        assert!(
            found.iter().all(|address| address.ip().is_loopback() && address.port() == 80)
                && !found.is_empty()
        );
        assert_eq!(resolver.known("localhost", 80), Some(found));
        assert!(resolver.known("localhost", 81).is_none());
    }

    #[test]
    fn a_name_that_does_not_exist_is_an_error() {
        assert!(Resolver::new().wait("no-such-name.invalid", 80, Duration::from_secs(20)).is_err());
    }
}
