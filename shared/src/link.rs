//! A Link: one WebSocket connection that carries Frames, read by one thread and written by whoever has something.
//!
//! ```text
//!   any thread ── push a Frame ──▶ Sending { out, schedule } ── flush: send without waiting ──▶ socket
//!                                        │ would block
//!                                        ▼
//!                                  writer thread: the only one that may wait for the socket
//!   socket ──▶ reader thread: decode, hand each Frame to the Receiver, never wait for anybody
//! ```
//! The right to write belongs to nobody, to one sender, or to the writer thread ([`Owner`]); whoever pushes while
//! somebody has it leaves the Frame in the schedule and goes on. With TLS the connection state is locked for
//! computing only: `recv` and `send` happen outside. Of a Tunnel's code only this module touches the socket.

mod receiving;
mod rtt;
mod sending;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::ClientConnection;
use socket2::{SockRef, TcpKeepalive};

use crate::alive::Signs;
use crate::frame::{Frame, Side};
use crate::metrics::Counter;
use crate::monotime;
use crate::poll::Handle;
use crate::schedule::Schedule;
use crate::threads::{self, lock};
use crate::ws;

pub use receiving::Receiver;
use rtt::BaseRtt;
use sending::{Owner, Sending};

/// Bytes received on all Links of the process until now, WebSocket framing included.
pub static RECEIVED: Counter = Counter::new();
/// Bytes sent likewise.
pub static SENT: Counter = Counter::new();
/// Messages that could wait and were dropped, because too many did.
pub static LATER_DROPPED: Counter = Counter::new();

/// Unsent bytes in the kernel above which the socket counts as full, so that queueing happens in the schedule,
/// where control goes first.
const NOTSENT: u32 = 64 * 1024;
/// The writer gives a Link up after waiting this long for the socket to take a single byte …
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// … and takes note of what it has taken this often.
const SEND_STEP: Duration = Duration::from_secs(1);

/// One WebSocket connection of a Session.
pub struct Link {
    name: String,
    ours: Side,
    socket: TcpStream,
    tls: Option<Mutex<ClientConnection>>,
    sending: Mutex<Sending>,
    /// Wakes the writer thread.
    writer: Condvar,
    poller: Handle,
    /// Why it was closed, said once.
    why: OnceLock<String>,
    last_in: AtomicU64,
    last_out: AtomicU64,
    /// When the socket, full before, last took something.
    drained: AtomicU64,
    /// When a Beat was last answered, or else when the Link was made.
    answered: AtomicU64,
    /// Since when the Link is in doubt, microseconds; 0: it is not.
    doubted: AtomicU64,
    rtt: AtomicU64,
    base_rtt: Mutex<BaseRtt>,
    peer_uptime: AtomicU64,
    good_window: AtomicU32,
    busy: AtomicBool,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    streams: AtomicUsize,
    /// Of these, long transfers.
    heavy: AtomicUsize,
    /// The WebSocket close code that the peer sent; 0 for none.
    close_code: AtomicU16,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.name)
    }
}

/// Socket options of every Link: no delay, little unsent data in the kernel, and the kernel's own search for dead
/// peers as a second net. Options that a kernel lacks are left out silently: none is needed for correctness.
pub fn tune(socket: &TcpStream) {
    let socket = SockRef::from(socket);
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15));
    for (option, result) in [
        ("TCP_NODELAY", socket.set_tcp_nodelay(true)),
        ("TCP_NOTSENT_LOWAT", socket.set_tcp_notsent_lowat(NOTSENT)),
        ("SO_KEEPALIVE", socket.set_tcp_keepalive(&keepalive)),
        ("TCP_USER_TIMEOUT", socket.set_tcp_user_timeout(Some(Duration::from_secs(90)))),
        ("TCP_CONGESTION", socket.set_tcp_congestion(b"bbr")),
    ] {
        if let Err(e) = result {
            log::debug!("socket option {option} not set: {e}");
        }
    }
}

impl Link {
    /// Wraps a connection whose WebSocket handshake is done. `ours` is the side that this process is.
    /// The socket must be in blocking mode.
    pub fn new(
        name: String,
        ours: Side,
        socket: TcpStream,
        tls: Option<ClientConnection>,
        poller: Handle,
    ) -> io::Result<Arc<Link>> {
        tune(&socket);
        socket.set_read_timeout(None)?;
        socket.set_write_timeout(Some(SEND_STEP))?;
        let now = monotime::micros();
        Ok(Arc::new(Link {
            name,
            ours,
            socket,
            tls: tls.map(|mut tls| {
                tls.set_buffer_limit(None);
                Mutex::new(tls)
            }),
            sending: Mutex::new(Sending {
                owner: Owner::Nobody,
                out: Vec::new(),
                rest: Vec::new(),
                schedule: Schedule::new(),
                waiting: VecDeque::new(),
                waiting_first: VecDeque::new(),
                closed: false,
            }),
            writer: Condvar::new(),
            poller,
            why: OnceLock::new(),
            last_in: AtomicU64::new(now),
            last_out: AtomicU64::new(now),
            drained: AtomicU64::new(0),
            answered: AtomicU64::new(now),
            doubted: AtomicU64::new(0),
            rtt: AtomicU64::new(0),
            base_rtt: Mutex::default(),
            peer_uptime: AtomicU64::new(0),
            good_window: AtomicU32::new(0),
            busy: AtomicBool::new(false),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            streams: AtomicUsize::new(0),
            heavy: AtomicUsize::new(0),
            close_code: AtomicU16::new(0),
        }))
    }

    /// Starts the two threads. `early` are bytes that arrived together with the end of the handshake.
    pub fn start(self: &Arc<Self>, early: Vec<u8>, receiver: impl Receiver) -> io::Result<Threads> {
        let (reader, writer) = (Arc::clone(self), Arc::clone(self));
        let writer = threads::spawn(format!("{}-write", self.name), move || writer.write_loop())?;
        let reader = threads::spawn(format!("{}-read", self.name), move || reader.read_loop(early, receiver));
        if reader.is_err() {
            self.close("no thread for its reader");
        }
        Ok(Threads { reader: reader?, writer })
    }

    /// Name in logs and of its threads, such as `t3.0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Round trip, microseconds, smoothed; 0 until the first Beat was answered.
    pub fn rtt(&self) -> u64 {
        self.rtt.load(Relaxed)
    }

    /// The shortest round trip of the last minutes, microseconds; 0 until the first Beat was answered. Windows grow by
    /// it and not by the present one, because that includes the queue which they cause.
    pub fn base_rtt(&self) -> u64 {
        lock(&self.base_rtt).get()
    }

    /// How long the peer has run, seconds, as it last said.
    pub fn peer_uptime(&self) -> u64 {
        self.peer_uptime.load(Relaxed)
    }

    /// Bytes received and sent, WebSocket framing included.
    pub fn traffic(&self) -> (u64, u64) {
        (self.bytes_in.load(Relaxed), self.bytes_out.load(Relaxed))
    }

    /// The largest window that a Stream of this Link grew to.
    pub fn good_window(&self) -> u32 {
        self.good_window.load(Relaxed)
    }

    /// Remembers a window that a Stream grew to.
    pub fn note_window(&self, size: u32) {
        self.good_window.fetch_max(size, Relaxed);
    }

    /// The WebSocket close code that the peer sent; 0 if it sent none.
    pub fn close_code(&self) -> u16 {
        self.close_code.load(Relaxed)
    }

    /// Open Streams that it carries.
    pub fn streams(&self) -> usize {
        self.streams.load(Relaxed)
    }

    /// Long transfers among them.
    pub fn heavy(&self) -> usize {
        self.heavy.load(Relaxed)
    }

    /// One of its Streams turned out to be a long transfer.
    pub fn heavy_begins(&self) {
        self.heavy.fetch_add(1, Relaxed);
    }

    /// A long transfer has ended.
    pub fn heavy_ends(&self) {
        self.heavy.fetch_sub(1, Relaxed);
    }

    /// A Stream was given to it.
    pub fn stream_begins(&self) {
        self.streams.fetch_add(1, Relaxed);
    }

    /// A Stream that it carried has ended.
    pub fn stream_ends(&self) {
        self.streams.fetch_sub(1, Relaxed);
    }

    /// Whether it has been closed, by whomever.
    pub fn is_closed(&self) -> bool {
        self.why.get().is_some()
    }

    /// Whether it has been asked for a sign of life, and has not given one since.
    pub fn in_doubt(&self) -> bool {
        self.doubted.load(Relaxed) > 0
    }

    /// Whether anything new may go over it: it is open and not in doubt.
    pub fn is_sound(&self) -> bool {
        !self.in_doubt() && !self.is_closed()
    }

    /// Something happened to it, or to another Link of its Session: asks for a sign of life, unless it is being asked
    /// already. It is in doubt until the Beat of this moment, or a later one, is answered.
    pub fn doubt(&self) {
        let now = monotime::micros().max(1);
        if !self.is_closed() && self.doubted.compare_exchange(0, now, Relaxed, Relaxed).is_ok() {
            self.urgent(&Frame::Beat { time: now });
            self.flush();
        }
    }

    /// A Beat of this moment was answered; true if that ends a doubt.
    fn answers(&self, time: u64) -> bool {
        self.answered.store(monotime::micros(), Relaxed);
        let since = self.doubted.load(Relaxed);
        since > 0 && time >= since && self.doubted.compare_exchange(since, 0, Relaxed, Relaxed).is_ok()
    }

    /// What the timer needs to know. Asking resets `busy`.
    pub fn signs(&self, waiting: bool) -> Signs {
        Signs {
            now: monotime::micros(),
            last_in: self.last_in.load(Relaxed),
            last_out: self.last_out.load(Relaxed),
            drained: self.drained.load(Relaxed),
            blocked: lock(&self.sending).owner == Owner::Writer,
            answered: self.answered.load(Relaxed),
            doubted: Some(self.doubted.load(Relaxed)).filter(|since| *since > 0),
            rtt: self.rtt.load(Relaxed),
            waiting,
            busy: self.busy.swap(false, Relaxed),
        }
    }

    /// Bytes queued here and not yet given to the kernel.
    pub fn unsent(&self) -> usize {
        let sending = lock(&self.sending);
        sending.out.len() + sending.rest.len() + sending.schedule.queued() + sending.schedule.control_bytes()
    }

    /// RFC 6455 5.1: the side that dialled masks.
    fn masked(&self) -> bool {
        self.ours == Side::Agent
    }

    /// Closes at once: the reader ends, and with it everything that the Link carried. The first reason is kept.
    pub fn close(&self, why: &str) {
        if self.why.set(why.to_owned()).is_ok() {
            let mut sending = lock(&self.sending);
            sending.closed = true;
            let mut waiting: Vec<usize> = sending.waiting.drain(..).map(|(_, token)| token).collect();
            waiting.extend(sending.waiting_first.drain(..).map(|(_, token)| token));
            sending.out = Vec::new();
            sending.rest = Vec::new();
            sending.schedule = Schedule::new();
            drop(sending);
            self.writer.notify_all();
            self.wake(waiting);
            // It fails only when the peer has closed already.
            let _ = self.socket.shutdown(Shutdown::Both);
        }
    }

    /// Says goodbye with a WebSocket close code, as far as the socket takes it, and closes.
    pub fn close_with(&self, code: u16, why: &str) {
        let mut sending = lock(&self.sending);
        if !sending.closed && sending.owner == Owner::Nobody {
            ws::append_close(&mut sending.out, self.masked(), code, why);
            drop(sending);
            self.flush();
        } else {
            drop(sending);
        }
        self.close(why);
    }
}

/// The two threads of a Link.
pub struct Threads {
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

impl Threads {
    /// Waits for both; the Link must have been closed. Returns the names of those that panicked.
    pub fn join(self) -> Vec<&'static str> {
        let mut panicked = Vec::new();
        if self.reader.join().is_err() {
            panicked.push("reader");
        }
        if self.writer.join().is_err() {
            panicked.push("writer");
        }
        panicked
    }

    /// Whether both have ended.
    pub fn ended(&self) -> bool {
        self.reader.is_finished() && self.writer.is_finished()
    }
}
