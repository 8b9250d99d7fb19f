//! The ingress thread: accepts visitors, watches all their sockets, looks at deadlines.

use std::io;
use std::net::{IpAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use shared::credit::Level;
use shared::monotime;
use shared::os::is_shortage;
use shared::outer::make_room;
use shared::poll::{Poller, Ready, Watcher};
use shared::threads::lock;

use crate::admission::network;
use crate::gateway::Core;
use crate::places::{Seat, Standing, Want};
use crate::visitor::{Context, SCRATCH, Visitor};

/// Token of the listener.
pub(crate) const LISTENER: usize = usize::MAX - 1;
/// Note: the memory budget is used up.
pub(crate) const OVER_BUDGET: usize = usize::MAX - 2;
/// Note: accept nobody any more.
pub(crate) const CLOSE: usize = usize::MAX - 4;
/// Note: the daemon is shutting down.
pub(crate) const DRAIN: usize = usize::MAX - 3;
/// Connections accepted before others get their turn.
const ACCEPT_BATCH: usize = 64;
/// That connections or places run out is said so often at most. Microseconds.
const SAY_AGAIN: u64 = 60_000_000;

/// What the thread owns.
pub(crate) struct Ingress {
    core: Arc<Core>,
    listener: Option<TcpListener>,
    /// There may be connections to accept.
    acceptable: bool,
    /// Said that descriptors ran out.
    short: bool,
    context: Context,
    scratch: Vec<u8>,
}

impl Core {
    /// A place for a request of this visitor; `None`: there is none for him.
    pub(crate) fn seat(&self, visitor: IpAddr, context: &mut Context) -> Option<Seat> {
        // Where the address is a proxy's of our own, it is everybody's.
        let bound = !self.config.trusted_proxies.trusts(visitor) && !visitor.is_loopback();
        let per_address = self.bounds.per_address;
        let Some(seat) = self.seats.take(network(visitor), bound.then_some(per_address)) else {
            self.say(|| format!("{visitor} has {per_address} requests under way, and gets no more places"));
            return None;
        };
        let enough = self.seats.taken() + self.held.load(Relaxed) <= self.bounds.places;
        (enough || self.make_room(Want::Place, context)).then_some(seat)
    }

    /// Most Streams of one Agent.
    pub(crate) fn most_streams(&self) -> usize {
        if self.tunnels.are_several() { self.bounds.per_agent } else { self.tunnels.max_streams() }
    }

    /// Has a connection give way to another. Only the ingress thread comes here, perhaps with a visitor's lock held, so
    /// others' locks are only tried.
    fn make_room(&self, want: Want, context: &mut Context) -> bool {
        let look = || {
            let all = self.visitors.all();
            all.iter().filter_map(|visitor| Some((visitor.token, visitor.standing()?))).collect()
        };
        let mut queue = lock(&self.queue);
        while let Some((token, standing)) = queue.next(want, monotime::micros(), look) {
            let Some(visitor) = self.visitors.get(token) else { continue };
            if !visitor.give_way(&standing, context) {
                continue;
            }
            log::debug!("a connection gave way to another: {standing:?}");
            let most = self.bounds.places;
            self.say(|| {
                let what = match (want, &standing) {
                    (Want::Place, Standing::Busy(busy)) => {
                        format!("requests; the slowest of {} is cut off", busy.network)
                    }
                    _ => "connections; those without a request are closed".into(),
                };
                format!("there are no more than {most} {what} (Gateway__MaxConnections)")
            });
            return true;
        }
        false
    }

    /// Says that there is not enough room, now and then.
    fn say(&self, what: impl FnOnce() -> String) {
        let now = monotime::micros();
        let last = self.said_full.load(Relaxed);
        if last == 0 || now.saturating_sub(last) >= SAY_AGAIN {
            self.said_full.store(now, Relaxed);
            log::warn!("{}", what());
        }
    }
}

impl Ingress {
    pub(crate) fn new(core: Arc<Core>, listener: TcpListener) -> io::Result<Ingress> {
        core.poller.register_listener(&listener, LISTENER)?;
        Ok(Ingress {
            core,
            listener: Some(listener),
            acceptable: false,
            short: false,
            context: Context::default(),
            scratch: vec![0; SCRATCH],
        })
    }

    /// Runs until the poller is stopped, then closes every connection.
    pub(crate) fn run(mut self, mut poller: Poller) {
        if let Err(e) = poller.run(&mut self) {
            log::error!("the ingress cannot wait for events: {e}");
            std::process::exit(1);
        }
        for visitor in self.core.visitors.all() {
            visitor.stop(&mut self.context);
        }
        self.context.settle();
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        let bounds = &self.core.bounds;
        let mut crowded = 0;
        for _ in 0..ACCEPT_BATCH {
            if !self.acceptable {
                return;
            }
            if self.core.visitors.len() >= bounds.places {
                // What the new ones want must be looked at before they are taken for silent ones.
                crowded += 1;
                if crowded > bounds.spare / 2 {
                    break;
                }
            }
            match listener.accept() {
                Ok((socket, peer)) => {
                    self.short = false;
                    if self.core.visitors.len() >= bounds.connections()
                        && !self.core.make_room(Want::Connection, &mut self.context)
                    {
                        log::debug!("{peer}: no room for another connection");
                        continue;
                    }
                    if let Err(e) = self.take(socket, peer.ip().to_canonical()) {
                        log::debug!("{peer}: connection lost while it was accepted: {e}");
                    }
                    let Some(_) = &self.listener else { return };
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.acceptable = false,
                Err(e)
                    if e.kind() == io::ErrorKind::Interrupted
                        || e.kind() == io::ErrorKind::ConnectionAborted => {}
                // Out of descriptors or memory: what is served stays served; the sweep tries again.
                Err(e) if is_shortage(&e) && self.core.make_room(Want::Connection, &mut self.context) => {}
                Err(e) => {
                    if !std::mem::replace(&mut self.short, true) {
                        log::warn!("cannot accept connections for the moment: {e}");
                    }
                    return;
                }
            }
        }
        // Others first; then go on.
        self.core.poller.resume(LISTENER);
    }

    fn take(&self, socket: std::net::TcpStream, peer: IpAddr) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let core = &self.core;
        let visitor = core.visitors.insert(|token| Visitor::new(Arc::clone(core), token, socket, peer));
        if let Err(e) = core.poller.register(visitor.socket(), visitor.token) {
            core.visitors.remove(visitor.token);
            return Err(e);
        }
        Ok(())
    }

    /// Runs what concerns one visitor; a panic in it ends his connection only.
    fn guarded(&mut self, token: usize, run: impl FnOnce(&Arc<Visitor>, &mut Context, &mut [u8])) {
        if self.core.budget.level() == Level::Full {
            // At once: what comes now must not be refused for what others hold.
            make_room(&self.core.budget, || self.core.visitors.all(), &mut self.context);
        }
        let Some(visitor) = self.core.visitors.get(token) else { return };
        let (context, scratch) = (&mut self.context, &mut self.scratch);
        let outcome = catch_unwind(AssertUnwindSafe(|| run(&visitor, &mut *context, scratch)));
        if outcome.is_err() {
            log::error!("a defect ended one visitor's connection; the others go on");
            visitor.stop(context);
        }
    }
}

impl Watcher for Ingress {
    fn ready(&mut self, token: usize, ready: Ready) {
        if token == LISTENER {
            self.acceptable = true;
            return self.accept();
        }
        self.guarded(token, |visitor, context, scratch| {
            visitor.ready(ready.readable, ready.writable, ready.closed, context, scratch);
        });
    }

    fn resume(&mut self, token: usize) {
        match token {
            LISTENER => self.accept(),
            OVER_BUDGET => {
                make_room(&self.core.budget, || self.core.visitors.all(), &mut self.context);
            }
            CLOSE => {
                // What waits in the kernel would go down with the socket.
                self.accept();
                self.listener = None;
                self.core.door_closed.store(true, Relaxed);
            }
            DRAIN => {
                for visitor in self.core.visitors.all() {
                    visitor.drain();
                }
            }
            token => self.guarded(token, |visitor, context, scratch| visitor.resume(context, scratch)),
        }
    }

    fn round(&mut self) {
        self.context.settle();
    }

    fn sweep(&mut self) {
        self.accept();
        let now = monotime::micros();
        for visitor in self.core.visitors.all() {
            if visitor.deadline() <= now {
                visitor.expire(now, &mut self.context);
            }
        }
    }

    fn busy(&self) -> bool {
        !self.core.visitors.is_empty() || self.acceptable
    }
}
