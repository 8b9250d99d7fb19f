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
//! computing only: `recv` and `send` happen outside. Of a Tunnel's code only this file touches the socket.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::ClientConnection;
use socket2::{SockRef, TcpKeepalive};
use tungstenite::Message;
use tungstenite::protocol::{Role, WebSocketContext};

use crate::alive::Signs;
use crate::frame::{self, Frame, HEADER, MAX_CONTROL, MAX_CONTROL_PART, MAX_DATA, Side};
use crate::metrics::Counter;
use crate::monotime;
use crate::poll::Handle;
use crate::schedule::Schedule;
use crate::threads::{self, lock};
use crate::ws;

/// Bytes received on all Links of the process until now, WebSocket framing included.
pub static RECEIVED: Counter = Counter::new();
/// Bytes sent likewise.
pub static SENT: Counter = Counter::new();
/// Messages that could wait and were dropped, because too many did.
pub static LATER_DROPPED: Counter = Counter::new();

/// Bytes encoded into one `send`.
const BATCH: usize = 64 * 1024;
/// Sends by one sender before the writer thread takes over: a sender is somebody's reader and has other work.
const BATCHES: usize = 4;
/// Unsent bytes in the kernel above which the socket counts as full, so that queueing happens in the schedule,
/// where control goes first.
const NOTSENT: u32 = 64 * 1024;
/// The writer gives a Link up after waiting this long for the socket to take a single byte.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Control bytes waiting beyond which the peer evidently does not read.
const MAX_CONTROL_QUEUED: usize = 16 * 1024 * 1024;
/// Bytes that may wait for everything else.
const MAX_LATER_QUEUED: usize = 16 * 1024 * 1024;
/// How long the shortest round trip is believed, at least. Microseconds.
const BASE_RTT_TIME: u64 = 60_000_000;
/// Waiting sources looked at per batch.
const WAITERS_PER_BATCH: usize = 32;

/// What a daemon does with what arrives on a Link. All calls come from the Link's reader thread, which must not
/// be kept waiting.
pub trait Receiver: Send + 'static {
    /// A Frame that concerns a Stream. An error closes the Link as a protocol error.
    fn stream_frame(&mut self, link: &Arc<Link>, frame: Frame<'_>) -> Result<(), String>;
    /// A whole control message. An error closes the Link as a protocol error.
    fn control(&mut self, link: &Arc<Link>, json: &[u8]) -> Result<(), String>;
    /// Everything that has arrived is handled: send what it led to, before the thread waits for more.
    fn pause(&mut self, link: &Arc<Link>);
    /// The Link is closed; the last call.
    fn closed(&mut self, link: &Arc<Link>, why: &str);
}

/// The shortest round trip of the present minute and of the one before, so that a line that became longer is noticed.
#[derive(Default)]
struct BaseRtt {
    since: u64,
    now: Option<u64>,
    before: Option<u64>,
}

impl BaseRtt {
    fn add(&mut self, sample: u64, now: u64) {
        if now.saturating_sub(self.since) > BASE_RTT_TIME {
            *self = BaseRtt { since: now, now: None, before: self.now };
        }
        self.now = Some(self.now.map_or(sample, |least| least.min(sample)));
    }

    fn get(&self) -> u64 {
        [self.now, self.before].into_iter().flatten().min().unwrap_or(0)
    }
}

/// Who may write to the socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    /// Nobody is writing; what is in `out` waits for a flush.
    Nobody,
    /// A sender, in a system call that does not wait.
    Sender,
    /// The writer thread, which may wait.
    Writer,
}

struct Sending {
    owner: Owner,
    /// WebSocket bytes in the clear, not yet given to anybody.
    out: Vec<u8>,
    /// Bytes as they go over the wire that the socket did not take.
    rest: Vec<u8>,
    schedule: Schedule,
    /// Sources that wait for room: Stream and the token to resume.
    waiting: VecDeque<(u32, usize)>,
    closed: bool,
}

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
        socket.set_write_timeout(Some(SEND_TIMEOUT))?;
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
                closed: false,
            }),
            writer: Condvar::new(),
            poller,
            why: OnceLock::new(),
            last_in: AtomicU64::new(now),
            last_out: AtomicU64::new(now),
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

    /// What the timer needs to know. Asking resets `busy`.
    pub fn signs(&self, waiting: bool) -> Signs {
        Signs {
            now: monotime::micros(),
            last_in: self.last_in.load(Relaxed),
            last_out: self.last_out.load(Relaxed),
            waiting,
            busy: self.busy.swap(false, Relaxed),
        }
    }

    /// Bytes queued here and not yet given to the kernel.
    pub fn unsent(&self) -> usize {
        let sending = lock(&self.sending);
        sending.out.len() + sending.rest.len() + sending.schedule.queued() + sending.schedule.control_bytes()
    }

    /// Queues a control message, in parts if it is long. Call [`flush`](Self::flush) afterwards.
    pub fn control(&self, json: &[u8]) {
        let mut frames = control_frames(json, MAX_CONTROL_PART, false);
        if frames.len() == 1 {
            return self.urgent_bytes(frames.remove(0));
        }
        // Under one lock: no part of another message may come between.
        let mut sending = lock(&self.sending);
        if sending.closed {
            return;
        }
        for frame in frames {
            sending.schedule.push_control(frame);
        }
        self.check_control(sending);
    }

    /// Queues a control message that may wait for everything else, in parts if it is long. `false`: there is no room
    /// for it, it is dropped. Call [`flush`](Self::flush) afterwards.
    pub fn later(&self, json: &[u8]) -> bool {
        let mut frames = control_frames(json, MAX_DATA, true);
        let mut sending = lock(&self.sending);
        if sending.closed || sending.schedule.later_bytes() + json.len() > MAX_LATER_QUEUED {
            LATER_DROPPED.add(1);
            return false;
        }
        if frames.len() == 1 && sending.fast() {
            ws::append_binary(&mut sending.out, self.masked(), &[&frames.remove(0)]);
        } else {
            frames.into_iter().for_each(|frame| sending.schedule.push_later(frame));
        }
        true
    }

    /// Bytes queued that may wait for everything else.
    pub fn later_bytes(&self) -> usize {
        lock(&self.sending).schedule.later_bytes()
    }

    /// Queues a Beat.
    pub fn beat(&self) {
        self.urgent(&Frame::Beat { time: monotime::micros() });
    }

    /// Queues a Frame that goes before the Streams' data: Control, Beat, Credit.
    pub fn urgent(&self, frame: &Frame<'_>) {
        let mut bytes = Vec::with_capacity(32);
        frame.encode(&mut bytes);
        self.urgent_bytes(bytes);
    }

    fn urgent_bytes(&self, bytes: Vec<u8>) {
        let mut sending = lock(&self.sending);
        if sending.fast() {
            ws::append_binary(&mut sending.out, self.masked(), &[&bytes]);
        } else {
            sending.schedule.push_control(bytes);
            self.check_control(sending);
        }
    }

    fn check_control(&self, sending: MutexGuard<'_, Sending>) {
        let too_much = sending.schedule.control_bytes() > MAX_CONTROL_QUEUED;
        drop(sending);
        if too_much {
            self.close("the peer does not read what it is sent");
        }
    }

    /// Queues an `Open` or `Head`, which goes before other Streams' data.
    pub fn first(&self, stream: u32, frame: &Frame<'_>) {
        self.push(stream, frame, true);
    }

    /// Queues an `End` after the Stream's data.
    pub fn last(&self, stream: u32, frame: &Frame<'_>) {
        self.push(stream, frame, false);
    }

    fn push(&self, stream: u32, frame: &Frame<'_>, first: bool) {
        let mut bytes = Vec::with_capacity(512);
        frame.encode(&mut bytes);
        let mut sending = lock(&self.sending);
        if sending.fast() {
            ws::append_binary(&mut sending.out, self.masked(), &[&bytes]);
        } else if !sending.closed {
            sending.schedule.push(stream, bytes, first);
        }
    }

    /// Queues bytes of a Stream as `Data` Frames; the caller asked for room. With `end`, the last one says so. With
    /// `at`, each says at which position of its direction it belongs.
    pub fn data(&self, stream: u32, bytes: &[u8], end: bool, mut at: Option<u64>) {
        let mut sending = lock(&self.sending);
        let mut pieces = bytes.chunks(MAX_DATA).peekable();
        if bytes.is_empty() && end {
            self.piece(&mut sending, stream, b"", true, at);
        }
        while let Some(piece) = pieces.next() {
            let end = end && pieces.peek().is_none();
            self.piece(&mut sending, stream, piece, end, at);
            at = at.map(|at| at + piece.len() as u64);
        }
    }

    fn piece(&self, sending: &mut Sending, stream: u32, bytes: &[u8], end: bool, at: Option<u64>) {
        let prefix = frame::data_prefix(stream, end, at);
        if sending.fast() {
            ws::append_binary(&mut sending.out, self.masked(), &[prefix.as_ref(), bytes]);
        } else if !sending.closed {
            let mut frame = Vec::with_capacity(prefix.as_ref().len() + bytes.len());
            frame.extend_from_slice(prefix.as_ref());
            frame.extend_from_slice(bytes);
            sending.schedule.push(stream, frame, false);
        }
    }

    /// Queues a `Reset` and drops what the Stream had queued.
    pub fn reset(&self, stream: u32, frame: &Frame<'_>) {
        let mut bytes = Vec::with_capacity(64);
        frame.encode(&mut bytes);
        let mut sending = lock(&self.sending);
        sending.waiting.retain(|(s, _)| *s != stream);
        if sending.fast() {
            ws::append_binary(&mut sending.out, self.masked(), &[&bytes]);
        } else if !sending.closed {
            sending.schedule.reset(stream, bytes);
        }
    }

    /// How many bytes of Data would go out at once, without queueing: all of a batch or nothing.
    pub fn room_at_once(&self) -> usize {
        if lock(&self.sending).fast() { BATCH } else { 0 }
    }

    /// How many bytes of Data the Stream may queue now. With 0, the poller is asked to resume `token` when there is
    /// room.
    pub fn room_or_wait(&self, stream: u32, token: usize) -> usize {
        let mut sending = lock(&self.sending);
        if sending.closed {
            return 0;
        }
        if sending.fast() {
            return BATCH;
        }
        if sending.schedule.room(stream) {
            return MAX_DATA;
        }
        if !sending.waiting.iter().any(|(s, _)| *s == stream) {
            sending.waiting.push_back((stream, token));
        }
        0
    }

    /// Sends what is queued, as far as the socket takes it now; the rest is left to the writer thread. Never waits.
    pub fn flush(&self) {
        let mut sending = lock(&self.sending);
        if sending.owner != Owner::Nobody || sending.is_empty() || sending.closed {
            return;
        }
        sending.owner = Owner::Sender;
        for _ in 0..BATCHES {
            let (batch, wake) = next_batch(&mut sending, self.masked());
            drop(sending);
            self.wake(wake);
            let result = self.encrypt(batch).and_then(|wire| Ok((self.send_now(&wire)?, wire)));
            sending = lock(&self.sending);
            match result {
                Ok((sent, mut wire)) => {
                    let done = sent == wire.len();
                    if done {
                        sending.reuse(wire);
                    } else {
                        wire.drain(..sent);
                        sending.rest = wire;
                    }
                    if done && sending.is_empty() {
                        sending.owner = Owner::Nobody;
                        return;
                    }
                    if !done {
                        break;
                    }
                }
                Err(e) => {
                    drop(sending);
                    self.close(&format!("sending failed: {e}"));
                    return;
                }
            }
        }
        sending.owner = Owner::Writer;
        self.writer.notify_one();
    }

    /// What goes over the wire for a batch.
    fn encrypt(&self, batch: Batch) -> io::Result<Vec<u8>> {
        match (batch, &self.tls) {
            (Batch::Wire(bytes), _) | (Batch::Clear(bytes), None) => Ok(bytes),
            (Batch::Clear(bytes), Some(tls)) => {
                let mut wire = Vec::with_capacity(bytes.len() + 256);
                let mut connection = lock(tls);
                connection.writer().write_all(&bytes)?;
                while connection.wants_write() {
                    connection.write_tls(&mut wire)?;
                }
                Ok(wire)
            }
        }
    }

    /// Sends what TLS itself has to say (an alert, a key update), which came up while receiving.
    fn send_tls_own(&self, tls: &Mutex<ClientConnection>) {
        let mut sending = lock(&self.sending);
        if sending.owner == Owner::Nobody && !sending.closed {
            let mut own = Vec::new();
            let mut connection = lock(tls);
            while connection.wants_write() && connection.write_tls(&mut own).is_ok() {}
            drop(connection);
            sending.rest.extend_from_slice(&own);
            drop(sending);
            self.flush();
        }
        // Otherwise whoever writes takes it along with the next batch.
    }

    fn wake(&self, tokens: Vec<usize>) {
        for token in tokens {
            self.poller.resume(token);
        }
    }

    fn write_loop(&self) {
        let mut sending = lock(&self.sending);
        loop {
            while sending.owner != Owner::Writer && !sending.closed {
                sending = self.writer.wait(sending).unwrap_or_else(std::sync::PoisonError::into_inner);
            }
            if sending.closed {
                return;
            }
            if sending.is_empty() {
                sending.owner = Owner::Nobody;
                continue;
            }
            let (batch, wake) = next_batch(&mut sending, self.masked());
            drop(sending);
            self.wake(wake);
            let sent = self.encrypt(batch).and_then(|wire| (&self.socket).write_all(&wire).map(|()| wire));
            match sent {
                Ok(wire) => {
                    self.note_out(wire.len());
                    sending = lock(&self.sending);
                    sending.reuse(wire);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return self.close(&format!("the peer took nothing for {} s", SEND_TIMEOUT.as_secs()));
                }
                Err(e) => return self.close(&format!("sending failed: {e}")),
            }
        }
    }

    fn note_out(&self, bytes: usize) {
        self.last_out.store(monotime::micros(), Relaxed);
        self.bytes_out.fetch_add(bytes as u64, Relaxed);
        SENT.add(bytes as u64);
    }

    /// Sends without waiting; returns how many bytes went.
    fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let socket = SockRef::from(&self.socket);
        let mut sent = 0;
        while sent < bytes.len() {
            match socket.send_with_flags(&bytes[sent..], libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) {
                Ok(n) => sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if sent > 0 {
            self.note_out(sent);
        }
        Ok(sent)
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
            let waiting: Vec<usize> = sending.waiting.drain(..).map(|(_, token)| token).collect();
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

    fn read_loop(self: &Arc<Self>, early: Vec<u8>, mut receiver: impl Receiver) {
        let role = if self.masked() { Role::Client } else { Role::Server };
        let mut context = WebSocketContext::from_partially_read(early, role, Some(ws::config()));
        let mut inlet = Inlet { link: self, tls: Vec::new(), tls_at: 0, may_wait: false, reply: Vec::new() };
        if self.tls.is_some() {
            inlet.tls = Vec::with_capacity(64 * 1024);
        }
        let mut control = [Vec::new(), Vec::new()];
        let why = loop {
            let step = match context.read(&mut inlet) {
                Ok(Message::Binary(bytes)) => {
                    self.bytes_in.fetch_add(bytes.len() as u64, Relaxed);
                    RECEIVED.add(bytes.len() as u64);
                    self.receive(&bytes, &mut control, &mut receiver)
                }
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => Ok(()),
                Ok(Message::Close(frame)) => {
                    self.close_code.store(frame.as_ref().map_or(0, |f| f.code.into()), Relaxed);
                    let text =
                        frame.map_or_else(String::new, |f| format!(" ({} {})", u16::from(f.code), f.reason));
                    self.pass_reply(&mut inlet.reply);
                    break format!("closed by the peer{text}");
                }
                Ok(Message::Text(_)) => Err("text message".into()),
                Err(tungstenite::Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                    receiver.pause(self);
                    inlet.may_wait = true;
                    Ok(())
                }
                Err(tungstenite::Error::Io(e)) => break format!("receiving failed: {e}"),
                Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => {
                    break "closed".into();
                }
                Err(tungstenite::Error::Protocol(
                    tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
                )) => break "connection lost".into(),
                Err(e) => Err(e.to_string()),
            };
            if !inlet.reply.is_empty() {
                self.pass_reply(&mut inlet.reply);
            }
            if let Err(fault) = step {
                self.close_with(1002, &fault);
                break format!("protocol error: {fault}");
            }
            if self.is_closed() {
                break "closed".into();
            }
        };
        self.close(&why);
        let why = self.why.get().map_or("closed", String::as_str);
        receiver.closed(self, why);
    }

    /// What tungstenite answers by itself (pong, close) goes out through the sending half.
    fn pass_reply(&self, reply: &mut Vec<u8>) {
        let mut sending = lock(&self.sending);
        if !sending.closed && sending.owner == Owner::Nobody {
            sending.out.extend_from_slice(reply);
        }
        reply.clear();
        drop(sending);
        self.flush();
    }

    fn receive(
        self: &Arc<Self>,
        bytes: &[u8],
        control: &mut [Vec<u8>; 2],
        receiver: &mut impl Receiver,
    ) -> Result<(), String> {
        match Frame::decode(bytes, self.ours).map_err(|fault| fault.to_string())? {
            None => Ok(()),
            Some(Frame::Control { more, later, json }) => {
                // What may wait comes in parts with whole other messages between them.
                let control = &mut control[usize::from(later)];
                if !more && control.is_empty() {
                    return receiver.control(self, json);
                }
                if control.len() + json.len() > MAX_CONTROL {
                    return Err(format!("control message of more than {MAX_CONTROL} bytes"));
                }
                control.extend_from_slice(json);
                if more { Ok(()) } else { receiver.control(self, &std::mem::take(control)) }
            }
            Some(Frame::Beat { time }) => {
                self.urgent(&Frame::BeatAck { time, uptime: monotime::seconds() });
                self.flush();
                Ok(())
            }
            Some(Frame::BeatAck { time, uptime }) => {
                let sample = monotime::micros().saturating_sub(time).max(1);
                let old = self.rtt.load(Relaxed);
                let smooth = if old == 0 { sample } else { (old * 3 + sample) / 4 };
                self.rtt.store(smooth, Relaxed);
                lock(&self.base_rtt).add(sample, monotime::micros());
                self.peer_uptime.store(uptime, Relaxed);
                Ok(())
            }
            Some(frame) => {
                if matches!(frame, Frame::Data { .. }) && !self.busy.load(Relaxed) {
                    self.busy.store(true, Relaxed);
                }
                receiver.stream_frame(self, frame)
            }
        }
    }
}

impl Sending {
    /// Nothing is queued and nobody writes: Frames may be encoded right away.
    fn fast(&self) -> bool {
        self.owner == Owner::Nobody
            && !self.closed
            && self.rest.is_empty()
            && self.out.len() < BATCH
            && self.schedule.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.out.is_empty() && self.rest.is_empty() && self.schedule.is_empty()
    }

    /// Keeps an emptied buffer for the next batch, unless it grew beyond what batches need.
    fn reuse(&mut self, mut buffer: Vec<u8>) {
        if self.out.capacity() == 0 && buffer.capacity() < 2 * BATCH {
            buffer.clear();
            self.out = buffer;
        }
    }
}

/// The Frames of a control message.
fn control_frames(json: &[u8], part: usize, later: bool) -> Vec<Vec<u8>> {
    let mut parts = json.chunks(part).peekable();
    let mut frames = Vec::with_capacity(json.len() / part + 1);
    while let Some(part) = parts.next() {
        let mut bytes = Vec::with_capacity(part.len() + HEADER);
        Frame::Control { more: parts.peek().is_some(), later, json: part }.encode(&mut bytes);
        frames.push(bytes);
    }
    frames
}

/// Bytes to send.
enum Batch {
    /// To be encrypted first, if the Link has TLS.
    Clear(Vec<u8>),
    /// As they are: the rest of an earlier batch.
    Wire(Vec<u8>),
}

/// The next bytes to send, and the tokens of sources that have room now.
fn next_batch(sending: &mut Sending, masked: bool) -> (Batch, Vec<usize>) {
    if !sending.rest.is_empty() {
        return (Batch::Wire(std::mem::take(&mut sending.rest)), Vec::new());
    }
    while sending.out.len() < BATCH
        && let Some(frame) = sending.schedule.pop()
    {
        ws::append_binary(&mut sending.out, masked, &[&frame]);
    }
    let mut wake = Vec::new();
    for _ in 0..sending.waiting.len().min(WAITERS_PER_BATCH) {
        if let Some((stream, token)) = sending.waiting.pop_front() {
            if sending.schedule.room(stream) {
                wake.push(token);
            } else {
                sending.waiting.push_back((stream, token));
            }
        }
    }
    (Batch::Clear(std::mem::take(&mut sending.out)), wake)
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

/// Where tungstenite reads from: the socket, or the TLS connection over it. It says `WouldBlock` once before each
/// wait, so that the reader can send what it has gathered; what tungstenite wants to answer is kept in `reply`.
struct Inlet<'l> {
    link: &'l Link,
    /// Encrypted bytes received and not yet given to rustls.
    tls: Vec<u8>,
    tls_at: usize,
    may_wait: bool,
    reply: Vec<u8>,
}

impl Inlet<'_> {
    fn wait(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.may_wait) { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    fn read_tls(&mut self, tls: &Mutex<ClientConnection>, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut connection = lock(tls);
            match connection.reader().read(out) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            if self.tls_at < self.tls.len() {
                let mut rest = &self.tls[self.tls_at..];
                let before = rest.len();
                connection.read_tls(&mut rest)?;
                self.tls_at += before - rest.len();
                let state = connection.process_new_packets();
                let own = connection.wants_write();
                drop(connection);
                if own {
                    self.link.send_tls_own(tls);
                }
                state.map_err(io::Error::other)?;
                continue;
            }
            drop(connection);
            self.wait()?;
            self.tls.resize(64 * 1024, 0);
            let n = receive(&self.link.socket, &mut self.tls)?;
            self.tls.truncate(n);
            self.tls_at = 0;
            self.link.last_in.store(monotime::micros(), Relaxed);
            if n == 0 {
                return Ok(0);
            }
        }
    }
}

fn receive(mut socket: &TcpStream, out: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.read(out) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

impl Read for Inlet<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if let Some(tls) = &self.link.tls {
            return self.read_tls(tls, out);
        }
        self.wait()?;
        let n = receive(&self.link.socket, out)?;
        self.link.last_in.store(monotime::micros(), Relaxed);
        Ok(n)
    }
}

impl Write for Inlet<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.reply.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_round_trip_is_believed_for_a_minute_or_two() {
        let mut base = BaseRtt::default();
        assert_eq!(base.get(), 0);
        base.add(70, 1);
        base.add(50, 2);
        base.add(900, 3);
        assert_eq!(base.get(), 50);
        base.add(900, BASE_RTT_TIME + 2);
        assert_eq!(base.get(), 50);
        base.add(900, 2 * BASE_RTT_TIME + 4);
        assert_eq!(base.get(), 900);
    }
}
