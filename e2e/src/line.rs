//! A line between two TCP sides that can be cut, frozen and slow: what networks do to a tunnel.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustls::ServerConfig;

use crate::journal::{PATIENCE, until};
use crate::socket::Socket;

/// Pieces under way in one direction of a connection: with pieces of 16 KiB, more than any emulated line holds.
const UNDER_WAY: usize = 4096;

/// A line; cut when dropped.
pub struct Line {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    stopped: AtomicBool,
    tls: Option<Arc<ServerConfig>>,
}

struct State {
    target: SocketAddr,
    frozen: bool,
    refusing: bool,
    /// Connections up to this one are dead without a word: what is sent is thrown away, and no end is passed on.
    silent: u64,
    most: u64,
    delay: Duration,
    /// Both sockets of every connection.
    open: HashMap<u64, (Socket, TcpStream)>,
    tried: u64,
    accepted: u64,
    carried: u64,
}

impl Line {
    /// A line to `target` that passes everything on at once.
    pub fn to(target: SocketAddr) -> Line {
        Line::start(target, None)
    }

    /// The same with TLS on this side, as Caddy in front of a Gateway.
    pub fn tls(target: SocketAddr, config: Arc<ServerConfig>) -> Line {
        Line::start(target, Some(config))
    }

    fn start(target: SocketAddr, tls: Option<Arc<ServerConfig>>) -> Line {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let state = State {
            target,
            frozen: false,
            refusing: false,
            silent: 0,
            most: u64::MAX,
            delay: Duration::ZERO,
            open: HashMap::new(),
            tried: 0,
            accepted: 0,
            carried: 0,
        };
        let stopped = AtomicBool::new(false);
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), stopped, tls });
        let accepting = Arc::clone(&shared);
        let thread = thread::Builder::new().name("line".into());
        let thread = thread.spawn(move || accepting.accept(&listener)).expect("a thread");
        Line { address, shared, listener: Some(thread) }
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads new connections elsewhere.
    pub fn set_target(&self, target: SocketAddr) {
        self.shared.lock().target = target;
    }

    /// How long every byte takes, each way.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.lock().delay = delay;
    }

    /// From now on nothing gets through and nothing is closed: a cable that was pulled, a router that lost its table.
    pub fn freeze(&self) {
        self.shared.lock().frozen = true;
    }

    /// From now on nothing gets through on the connections that are open, nor does their end; new ones work: a router that
    /// forgot its table, a firewall that drops what it did not see begin.
    pub fn silence(&self) {
        let mut state = self.shared.lock();
        state.silent = state.accepted;
    }

    /// Ends one connection on the near side only; the far side hears nothing more, and not even that.
    pub fn lose_near(&self, connection: u64) {
        let state = self.shared.lock();
        assert!(connection <= state.silent, "silence it before, or its end gets through");
        if let Some((near, _)) = state.open.get(&connection) {
            near.close();
        }
    }

    /// Everything that waited gets through.
    pub fn thaw(&self) {
        self.shared.lock().frozen = false;
        self.shared.changed.notify_all();
    }

    /// Only so many connections get through; further ones are accepted, and then nothing happens on them.
    pub fn carry_at_most(&self, connections: u64) {
        self.shared.lock().most = connections;
        self.shared.changed.notify_all();
    }

    /// New connections are closed at once (`true`) or accepted again.
    pub fn refuse(&self, refusing: bool) {
        self.shared.lock().refusing = refusing;
    }

    /// Ends all connections.
    pub fn cut(&self) {
        let connections: Vec<_> = self.shared.lock().open.keys().copied().collect();
        for connection in connections {
            self.cut_one(connection);
        }
    }

    /// Ends one connection.
    pub fn cut_one(&self, connection: u64) {
        if let Some((near, far)) = self.shared.lock().open.get(&connection) {
            near.close();
            drop(far.shutdown(Shutdown::Both));
        }
    }

    /// Numbers of the open connections, oldest first.
    pub fn open(&self) -> Vec<u64> {
        let mut open: Vec<_> = self.shared.lock().open.keys().copied().collect();
        open.sort_unstable();
        open
    }

    /// How many connections there have been.
    pub fn accepted(&self) -> u64 {
        self.shared.lock().accepted
    }

    /// How many connections there have been, those included that got nowhere.
    pub fn tried(&self) -> u64 {
        self.shared.lock().tried
    }

    /// How many bytes were carried, both ways together.
    pub fn carried(&self) -> u64 {
        self.shared.lock().carried
    }

    /// Waits until so many connections are open.
    pub fn wait_open(&self, count: usize) {
        until(&format!("{count} connections on the line"), PATIENCE, || {
            (self.open().len() == count).then_some(())
        });
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.carry_at_most(u64::MAX);
        self.thaw();
        drop(TcpStream::connect(self.address));
        if let Some(listener) = self.listener.take() {
            // A panic there was printed when it happened, and the test is over.
            drop(listener.join());
        }
        self.cut();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("never held while anything can panic")
    }

    fn accept(self: Arc<Shared>, listener: &TcpListener) {
        loop {
            let (near, _) = listener.accept().expect("accept");
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            let (target, refusing) = {
                let mut state = self.lock();
                state.tried += 1;
                (state.target, state.refusing)
            };
            if refusing {
                continue;
            }
            let shared = Arc::clone(&self);
            thread::spawn(move || shared.connect(near, target));
        }
    }

    fn connect(self: Arc<Shared>, near: TcpStream, target: SocketAddr) {
        let near = match &self.tls {
            None => Socket::plain(near),
            // Whoever does not accept the certificate leaves here.
            Some(config) => match Socket::accept_tls(near, Arc::clone(config)) {
                Ok(near) => near,
                Err(_) => return,
            },
        };
        let waiting = |state: &mut State| state.frozen || state.accepted >= state.most;
        drop(self.changed.wait_while(self.lock(), waiting).expect("never held while anything can panic"));
        // A target that is down looks like a line that is cut at once.
        let Ok(far) = TcpStream::connect_timeout(&target, PATIENCE) else { return };
        far.set_nodelay(true).expect("nodelay");
        let connection = {
            let mut state = self.lock();
            state.accepted += 1;
            let connection = state.accepted;
            state.open.insert(connection, (near.clone(), far.try_clone().expect("a descriptor")));
            connection
        };
        let (to_far, from_near) = sync_channel(UNDER_WAY);
        let (to_near, from_far) = sync_channel(UNDER_WAY);
        let far_reader = far.try_clone().expect("a descriptor");
        thread::scope(|scope| {
            scope.spawn(|| self.receive(&near, to_far));
            scope.spawn(|| self.receive(&far_reader, to_near));
            scope.spawn(|| {
                self.send(connection, &far, from_near);
                if !self.is_silent(connection) {
                    drop(far.shutdown(Shutdown::Write));
                }
            });
            scope.spawn(|| {
                self.send(connection, &near, from_far);
                if !self.is_silent(connection) {
                    drop(near.finish_writing());
                }
            });
        });
        self.lock().open.remove(&connection);
    }

    fn receive<S>(&self, source: &S, out: SyncSender<(Instant, Vec<u8>)>)
    where
        for<'s> &'s S: Read,
    {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let mut source = source;
            match source.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(len) => {
                    let due = Instant::now() + self.lock().delay;
                    if out.send((due, buffer[..len].to_vec())).is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn send<S>(&self, connection: u64, destination: &S, pieces: Receiver<(Instant, Vec<u8>)>)
    where
        for<'s> &'s S: Write,
    {
        for (due, bytes) in pieces {
            // Not a pace of a test: this is the distance that the line emulates.
            while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                thread::park_timeout(left);
            }
            self.pass_gate();
            if self.is_silent(connection) {
                continue;
            }
            self.lock().carried += bytes.len() as u64;
            let mut destination = destination;
            if destination.write_all(&bytes).is_err() {
                return;
            }
        }
    }

    fn is_silent(&self, connection: u64) -> bool {
        connection <= self.lock().silent
    }

    /// Waits while the line is frozen.
    fn pass_gate(&self) {
        let state = self.lock();
        drop(
            self.changed
                .wait_while(state, |state| state.frozen)
                .expect("never held while anything can panic"),
        );
    }
}
