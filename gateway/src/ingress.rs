//! The ingress thread: accepts visitors, watches all their sockets, looks at deadlines.

use std::io;
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use shared::monotime;
use shared::outer::make_room;
use shared::poll::{Poller, Ready, Watcher};

use crate::gateway::Core;
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
        for _ in 0..ACCEPT_BATCH {
            if !self.acceptable || self.core.visitors.len() >= self.core.max_connections {
                return;
            }
            match listener.accept() {
                Ok((socket, peer)) => {
                    self.short = false;
                    if let Err(e) = self.take(socket, peer.ip().to_canonical()) {
                        log::debug!("{peer}: connection lost while it was accepted: {e}");
                    }
                    let Some(_) = &self.listener else { return };
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.acceptable = false,
                Err(e)
                    if e.kind() == io::ErrorKind::Interrupted
                        || e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(e) => {
                    // Out of descriptors or memory: what is served stays served; the sweep tries again.
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

    fn take(&self, socket: std::net::TcpStream, peer: std::net::IpAddr) -> io::Result<()> {
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
