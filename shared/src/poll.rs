//! One thread that watches many sockets: readiness from the kernel, notes from other threads, a sweep every second.
//!
//! Edge-triggered: a socket is registered once, for both directions, and never re-armed. So a handler that stops
//! reading for lack of Credit simply does not read, remembers that there was something to read, and is resumed by
//! a [`Handle::resume`] when it may go on. What the handlers do is not known here.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};

use crate::threads::lock;

/// Token of the waker; no table reaches this far.
const WAKER: Token = Token(usize::MAX);

/// What became possible on a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ready {
    /// There may be bytes, an end or an error to read.
    pub readable: bool,
    /// There may be room to write.
    pub writable: bool,
    /// The peer closed at least its sending half, or the connection failed.
    pub closed: bool,
}

/// What the thread does with events. All calls come from the one thread.
pub trait Watcher {
    /// A registered socket is ready.
    fn ready(&mut self, token: usize, ready: Ready);
    /// Somebody called [`Handle::resume`].
    fn resume(&mut self, token: usize);
    /// All events of one round have been handled: send what they queued.
    fn round(&mut self);
    /// Called about every `SWEEP` while [`busy`](Watcher::busy): look at deadlines.
    fn sweep(&mut self);
    /// Whether there is anything that has a deadline. An idle daemon sleeps without a timeout.
    fn busy(&self) -> bool;
}

/// Most bytes that a handler takes from one socket before it lets others have their turn: it then has itself
/// [resumed](Handle::resume).
pub const TURN: usize = 256 * 1024;

/// How often deadlines are looked at.
pub const SWEEP: Duration = Duration::from_millis(500);

/// The thread's own end.
pub struct Poller {
    poll: Poll,
    handle: Handle,
}

/// For other threads: register sockets, leave notes, stop.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

struct Shared {
    registry: Registry,
    waker: Waker,
    /// A wake-up is on its way, so another is not needed.
    notified: AtomicBool,
    stopped: AtomicBool,
    notes: Mutex<Vec<usize>>,
    /// Signs of life that were wanted, and the last of them that was given.
    asked: AtomicU64,
    answered: AtomicU64,
}

impl Poller {
    /// Creates the kernel objects.
    pub fn new() -> io::Result<Poller> {
        let poll = Poll::new()?;
        let shared = Shared {
            registry: poll.registry().try_clone()?,
            waker: Waker::new(poll.registry(), WAKER)?,
            notified: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            notes: Mutex::new(Vec::new()),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        };
        Ok(Poller { poll, handle: Handle(Arc::new(shared)) })
    }

    /// The end for other threads.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until [`Handle::stop`]. An error is one that `epoll_wait` cannot give for a correct program.
    pub fn run(&mut self, watcher: &mut dyn Watcher) -> io::Result<()> {
        let shared = Arc::clone(&self.handle.0);
        let mut events = Events::with_capacity(256);
        let mut notes = Vec::new();
        let mut next_sweep = Instant::now() + SWEEP;
        while !shared.stopped.load(Ordering::Acquire) {
            let timeout = watcher.busy().then(|| next_sweep.saturating_duration_since(Instant::now()));
            match self.poll.poll(&mut events, timeout) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            for event in &events {
                if event.token() == WAKER {
                    continue;
                }
                let ready = Ready {
                    readable: event.is_readable() || event.is_error(),
                    writable: event.is_writable(),
                    closed: event.is_read_closed() || event.is_error(),
                };
                watcher.ready(event.token().0, ready);
            }
            shared.notified.store(false, Ordering::Release);
            // Asked before this round; answered when all of it is done.
            let asked = shared.asked.load(Ordering::Acquire);
            std::mem::swap(&mut notes, &mut *lock(&shared.notes));
            for token in notes.drain(..) {
                watcher.resume(token);
            }
            watcher.round();
            let now = Instant::now();
            if now >= next_sweep {
                next_sweep = now + SWEEP;
                watcher.sweep();
                watcher.round();
            }
            shared.answered.store(asked, Ordering::Release);
        }
        Ok(())
    }
}

impl Handle {
    /// Watches a socket for both directions, for as long as it is open.
    pub fn register(&self, socket: &impl AsRawFd, token: usize) -> io::Result<()> {
        self.register_fd(socket.as_raw_fd(), token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Watches a listener.
    pub fn register_listener(&self, listener: &impl AsRawFd, token: usize) -> io::Result<()> {
        self.register_fd(listener.as_raw_fd(), token, Interest::READABLE)
    }

    fn register_fd(&self, fd: RawFd, token: usize, interest: Interest) -> io::Result<()> {
        self.0.registry.register(&mut SourceFd(&fd), Token(token), interest)
    }

    /// Stops watching a socket that stays open, or is about to be closed.
    pub fn deregister(&self, socket: &impl AsRawFd) -> io::Result<()> {
        self.0.registry.deregister(&mut SourceFd(&socket.as_raw_fd()))
    }

    /// Has the thread call [`Watcher::resume`] soon. Never waits.
    pub fn resume(&self, token: usize) {
        lock(&self.0.notes).push(token);
        self.wake();
    }

    /// Wants a sign of life from the thread: that it comes round. Never waits.
    pub fn ask(&self) {
        self.0.asked.fetch_add(1, Ordering::AcqRel);
        self.wake();
    }

    /// Whether the last sign of life wanted has been given.
    pub fn has_answered(&self) -> bool {
        self.0.answered.load(Ordering::Acquire) >= self.0.asked.load(Ordering::Acquire)
    }

    /// Ends [`Poller::run`].
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        if !self.0.notified.swap(true, Ordering::AcqRel)
            && let Err(e) = self.0.waker.wake()
        {
            log::error!("cannot wake the poller: {e}");
        }
    }
}

/// Connections by token. Any thread may add one; the poller's thread removes them.
pub struct Table<C> {
    inner: Mutex<Slots<C>>,
}

struct Slots<C> {
    slots: Vec<Option<Arc<C>>>,
    free: Vec<usize>,
    len: usize,
}

impl<C> Default for Table<C> {
    fn default() -> Self {
        Table { inner: Mutex::new(Slots { slots: Vec::new(), free: Vec::new(), len: 0 }) }
    }
}

impl<C> Table<C> {
    /// Adds what `make` makes of its token.
    pub fn insert(&self, make: impl FnOnce(usize) -> C) -> Arc<C> {
        let mut inner = lock(&self.inner);
        let token = inner.free.pop().unwrap_or_else(|| {
            inner.slots.push(None);
            inner.slots.len() - 1
        });
        let connection = Arc::new(make(token));
        inner.slots[token] = Some(Arc::clone(&connection));
        inner.len += 1;
        connection
    }

    /// The connection of a token, unless it is gone.
    pub fn get(&self, token: usize) -> Option<Arc<C>> {
        lock(&self.inner).slots.get(token)?.clone()
    }

    /// Forgets a token; it is used again for another connection.
    pub fn remove(&self, token: usize) -> Option<Arc<C>> {
        let mut inner = lock(&self.inner);
        let connection = inner.slots.get_mut(token)?.take()?;
        inner.free.push(token);
        inner.len -= 1;
        Some(connection)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        lock(&self.inner).len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, at this moment.
    pub fn all(&self) -> Vec<Arc<C>> {
        lock(&self.inner).slots.iter().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    struct Echo {
        socket: TcpStream,
        resumed: Vec<usize>,
        handle: Handle,
    }

    impl Watcher for Echo {
        fn ready(&mut self, token: usize, ready: Ready) {
            assert_eq!(token, 7);
            let mut bytes = [0; 16];
            if ready.readable
                && let Ok(n) = self.socket.read(&mut bytes)
            {
                self.socket.write_all(&bytes[..n]).unwrap();
            }
        }

        fn resume(&mut self, token: usize) {
            self.resumed.push(token);
            if token == 99 {
                self.handle.stop();
            }
        }

        fn round(&mut self) {}
        fn sweep(&mut self) {}
        fn busy(&self) -> bool {
            false
        }
    }

    #[test]
    fn sockets_and_notes_reach_the_thread() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut visitor = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut poller = Poller::new().unwrap();
        let handle = poller.handle();
        handle.register(&socket, 7).unwrap();
        let mut echo = Echo { socket, resumed: Vec::new(), handle: handle.clone() };
        let thread = std::thread::spawn(move || {
            poller.run(&mut echo).unwrap();
            echo.resumed
        });
        visitor.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        visitor.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");
        handle.resume(3);
        handle.resume(99);
        assert_eq!(thread.join().unwrap(), [3, 99]);
    }

    #[test]
    fn a_thread_that_hangs_gives_no_sign_of_life() {
        struct Hanging(crossbeam_channel::Receiver<()>, crossbeam_channel::Sender<()>);
        impl Watcher for Hanging {
            fn ready(&mut self, _: usize, _: Ready) {}
            fn resume(&mut self, _: usize) {
                self.1.send(()).expect("the test waits");
                self.0.recv().expect("the test lets go");
            }
            fn round(&mut self) {}
            fn sweep(&mut self) {}
            fn busy(&self) -> bool {
                false
            }
        }
        let (let_go, held) = crossbeam_channel::bounded(0);
        let (hangs, hung) = crossbeam_channel::bounded(0);
        let mut poller = Poller::new().unwrap();
        let handle = poller.handle();
        let thread = std::thread::spawn(move || poller.run(&mut Hanging(held, hangs)).unwrap());
        let answers = || {
            let deadline = Instant::now() + Duration::from_secs(30);
            while !handle.has_answered() {
                assert!(Instant::now() < deadline, "no sign of life");
                std::thread::yield_now();
            }
        };
        handle.ask();
        answers();
        handle.resume(1);
        hung.recv().unwrap();
        handle.ask();
        assert!(!handle.has_answered());
        let_go.send(()).unwrap();
        answers();
        handle.stop();
        thread.join().unwrap();
    }

    #[test]
    fn tokens_are_used_again() {
        let table = Table::default();
        assert_eq!(*table.insert(|t| t), 0);
        assert_eq!(*table.insert(|t| t), 1);
        assert!(table.remove(0).is_some());
        assert!(table.remove(0).is_none() && table.get(0).is_none());
        assert_eq!(*table.insert(|t| t), 0);
        assert_eq!((table.len(), table.all().len()), (2, 2));
    }
}
