//! The admin port: who is let in, and who has to make room.
//!
//! It is written by hand because the port lies open to the home network before any login: every head, body,
//! connection and wait has a bound. When all places are taken, a connection that has no complete request yet
//! makes room, first of whoever holds most of them, and then one whose answer to a stranger is not being taken;
//! so idle or slow ones keep nobody out. What is said on a connection is left to `connection`, what a request
//! means to `api`.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use socket2::SockRef;

use shared::threads;

use super::App;
use super::connection::{self, close};
use super::lockout::network;

/// Connections at a time: a browser takes six, and there is one Operator.
const MOST: usize = 64;
/// Before accepting again after an error that is likely to come back (no descriptors left).
const PAUSE: Duration = Duration::from_millis(500);
/// The listener at work.
pub(crate) struct Running {
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
    /// Closed to end a pause.
    stop: Option<Sender<()>>,
    accept: Option<JoinHandle<()>>,
}

struct Shared {
    app: Arc<App>,
    stopping: AtomicBool,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    connections: HashMap<u64, Connection>,
    /// Threads of connections that are over, but for their last instructions.
    leaving: Vec<JoinHandle<()>>,
}

struct Connection {
    socket: Arc<TcpStream>,
    peer: IpAddr,
    since: Instant,
    stage: Stage,
    /// `None` for the moment until its thread is started.
    thread: Option<JoinHandle<()>>,
}

/// What a connection is at, which says whether it may be closed to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// For a request to be complete: may be.
    Waiting,
    /// For a stranger to take his answer: may be, if nobody is waiting.
    Answering,
    /// Ours or the Operator's: never.
    Busy,
}

pub(crate) fn start(listener: TcpListener, app: Arc<App>) -> io::Result<Running> {
    let listener = Arc::new(listener);
    let shared = Arc::new(Shared { app, stopping: AtomicBool::new(false), open: Mutex::default() });
    // Nothing is ever sent: it closes.
    let (stop, stopped) = crossbeam_channel::bounded(0);
    let accept = {
        let (shared, listener) = (Arc::clone(&shared), Arc::clone(&listener));
        threads::spawn("admin", move || accept(&shared, &listener, &stopped))?
    };
    Ok(Running { shared, listener, stop: Some(stop), accept: Some(accept) })
}

impl Running {
    /// Ends it all; names the threads that had panicked.
    pub(crate) fn stop(mut self) -> Vec<String> {
        let mut panicked = Vec::new();
        let mut join = |thread: JoinHandle<()>| {
            let name = thread.thread().name().unwrap_or("admin").to_owned();
            if thread.join().is_err() {
                panicked.push(name);
            }
        };
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.app.live.hub.close();
        self.stop = None;
        // Wakes `accept` (on Linux it then fails), and the port is free from here on.
        if let Err(e) = SockRef::from(&*self.listener).shutdown(Shutdown::Both) {
            log::debug!("admin: closing the listener: {e}");
        }
        if let Some(accept) = self.accept.take() {
            join(accept);
        }
        let threads: Vec<_> = {
            let mut open = threads::lock(&self.shared.open);
            let mut threads = std::mem::take(&mut open.leaving);
            for connection in open.connections.values_mut() {
                // Readers see the end; an answer on its way is finished first.
                close(&connection.socket, Shutdown::Read);
                threads.extend(connection.thread.take());
            }
            threads
        };
        threads.into_iter().for_each(&mut join);
        panicked
    }
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener, stopped: &Receiver<()>) {
    let mut failing = false;
    while !shared.stopping.load(Ordering::Acquire) {
        match listener.accept() {
            Ok((socket, peer)) => {
                failing = false;
                if let Err(e) = admit(shared, socket, peer) {
                    log::warn!("admin: cannot serve {peer}: {e}");
                }
            }
            Err(_) if shared.stopping.load(Ordering::Acquire) => break,
            // The peer's own doing; the next one is not hurt.
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
            Err(e) => {
                if !std::mem::replace(&mut failing, true) {
                    log::error!("admin: cannot accept connections, trying again: {e}");
                }
                // Whoever holds a descriptor and says nothing gives it back.
                if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
                    let evicted = threads::lock(&shared.open).make_room();
                    if let Some(thread) = evicted {
                        join_evicted(thread);
                        continue;
                    }
                }
                // Ends early only when the channel closes.
                let _ = stopped.recv_timeout(PAUSE);
            }
        }
    }
}

/// Its socket is shut, so it ends now; waiting for that keeps the number of threads and descriptors within bounds.
fn join_evicted(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        log::error!("admin: the thread of a connection had panicked");
    }
}

fn admit(shared: &Arc<Shared>, socket: TcpStream, peer: SocketAddr) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = Arc::new(socket);
    let evicted = {
        let mut open = threads::lock(&shared.open);
        open.leaving.retain(|thread| !thread.is_finished());
        if open.connections.len() < MOST { Ok(None) } else { open.make_room().map(Some).ok_or(()) }
    };
    match evicted {
        Ok(None) => {}
        Ok(Some(thread)) => {
            join_evicted(thread);
        }
        Err(()) => {
            log::warn!("admin: all {MOST} connections are busy, {peer} was turned away");
            return Ok(());
        }
    }
    let mut open = threads::lock(&shared.open);
    let number = open.next;
    open.next += 1;
    let connection = Connection {
        socket: Arc::clone(&socket),
        peer: network(peer.ip()),
        since: Instant::now(),
        stage: Stage::Waiting,
        thread: None,
    };
    open.connections.insert(number, connection);
    // Started under the lock, so that it cannot end before its handle is in its place.
    let started = {
        let shared = Arc::clone(shared);
        threads::spawn(format!("c{number}-admin"), move || {
            let place = Place { shared: &shared, number };
            connection::converse(&shared.app, &place, &socket, peer.ip());
        })
    };
    match started {
        Ok(thread) => {
            if let Some(connection) = open.connections.get_mut(&number) {
                connection.thread = Some(thread);
            }
            Ok(())
        }
        Err(e) => {
            open.connections.remove(&number);
            Err(e)
        }
    }
}

impl Open {
    /// Closes the oldest connection without a request among those of the network that has most of them, and
    /// gives its thread to be joined. `None` when every connection is busy.
    fn make_room(&mut self) -> Option<JoinHandle<()>> {
        let least = self.connections.values().map(|connection| connection.stage).min()?;
        if least == Stage::Busy {
            return None;
        }
        let closable = || self.connections.iter().filter(|(_, connection)| connection.stage == least);
        let mut held: HashMap<IpAddr, usize> = HashMap::new();
        for (_, connection) in closable() {
            *held.entry(connection.peer).or_default() += 1;
        }
        let number = closable()
            .max_by_key(|(_, c)| (held.get(&c.peer).copied().unwrap_or(0), std::cmp::Reverse(c.since)))
            .map(|(number, _)| *number)?;
        let connection = self.connections.remove(&number)?;
        close(&connection.socket, Shutdown::Both);
        connection.thread
    }
}

/// A connection's place among the open ones, given back when its thread ends, however it ends.
pub(super) struct Place<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Place<'_> {
    /// `false` when the place has been given to somebody else, or nothing new is to begin.
    pub(super) fn enter(&self, stage: Stage) -> bool {
        let mut open = threads::lock(&self.shared.open);
        let Some(connection) = open.connections.get_mut(&self.number) else { return false };
        connection.stage = stage;
        connection.since = Instant::now();
        stage != Stage::Waiting || !self.stopping()
    }

    /// Whether the listener is being stopped.
    pub(super) fn stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Acquire)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut open = threads::lock(&self.shared.open);
        let connection = open.connections.remove(&self.number);
        // If the handle is not there, somebody has taken it to join us.
        open.leaving.extend(connection.and_then(|connection| connection.thread));
    }
}
