//! An upstream under a test's control: an HTTP/1.1 server on any free port, with a thread per connection, that does
//! for each path what a closure says and keeps a journal of every connection and request.
//!
//! What upstreams commonly do is ready-made in [`crate::sample`].

use std::collections::HashMap;
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustls::ServerConfig;

use crate::journal::{Journal, PATIENCE};
use crate::message::{Broken, Framing, Head, Incoming};
use crate::socket::Socket;
use crate::websocket::{self, WebSocket};

/// How long an upstream waits for the next request on a connection: longer than any test.
const KEEP_OPEN: Duration = Duration::from_secs(600);

/// Any free port of this machine.
const ANY_PORT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

/// What happened at an upstream.
#[derive(Clone, Debug)]
pub enum Event {
    /// A connection came in.
    Accepted {
        /// Its number, from 1.
        connection: u64,
    },
    /// The TLS greeting failed.
    TlsFailed {
        /// The connection.
        connection: u64,
        /// Why.
        why: String,
    },
    /// The TLS greeting succeeded.
    Greeted {
        /// The connection.
        connection: u64,
        /// The name that was asked for (SNI).
        server_name: Option<String>,
    },
    /// A request head came.
    Request {
        /// The connection.
        connection: u64,
        /// The head.
        head: Head,
    },
    /// Something that a handler wants a test to know.
    Note {
        /// The connection.
        connection: u64,
        /// What.
        text: String,
    },
    /// A connection is over.
    Closed {
        /// The connection.
        connection: u64,
        /// How the other side ended it; `None`: it was the upstream's own doing.
        by_peer: Option<Broken>,
    },
}

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// It takes the next request.
    Keep,
    /// It is closed in an orderly way.
    Close,
    /// It is reset.
    Abort,
}

type Handler = Arc<dyn Fn(&mut Exchange) -> io::Result<Then> + Send + Sync>;

/// A running upstream; ends when dropped.
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

struct Shared {
    handlers: Mutex<HashMap<String, Handler>>,
    journal: Journal<Event>,
    /// Gets its only entry when the upstream ends.
    ended: Journal<()>,
    open: Mutex<HashMap<u64, Socket>>,
    stopped: AtomicBool,
    connections: AtomicU64,
    tls: Option<Arc<ServerConfig>>,
    records: bool,
}

impl Default for Upstream {
    fn default() -> Upstream {
        Upstream::start()
    }
}

impl Upstream {
    /// Listens on any free port of 127.0.0.1 and answers 404 to everything.
    pub fn start() -> Upstream {
        Upstream::listen(ANY_PORT, None)
    }

    /// The same, with TLS.
    pub fn start_tls(config: Arc<ServerConfig>) -> Upstream {
        Upstream::listen(ANY_PORT, Some(config))
    }

    /// Listens at an address.
    pub fn listen(address: SocketAddr, tls: Option<Arc<ServerConfig>>) -> Upstream {
        let listener = TcpListener::bind(address).unwrap_or_else(|e| panic!("{address}: {e}"));
        Upstream::serve(listener, tls, true)
    }

    /// Serves without a journal, for a site that runs for longer than a test.
    pub fn without_journal(listener: TcpListener) -> Upstream {
        Upstream::serve(listener, None, false)
    }

    fn serve(listener: TcpListener, tls: Option<Arc<ServerConfig>>, records: bool) -> Upstream {
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            handlers: Mutex::default(),
            journal: Journal::default(),
            ended: Journal::default(),
            open: Mutex::default(),
            stopped: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            tls,
            records,
        });
        let accepting = Arc::clone(&shared);
        let thread = thread::Builder::new().name(format!("up-{}", address.port()));
        let thread = thread.spawn(move || accepting.accept(&listener)).expect("a thread");
        Upstream { address, shared, listener: Some(thread) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port where it listens.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What to do for requests to `path` (without query). `*` is for all paths that have nothing of their own.
    pub fn on(
        &self,
        path: &str,
        handler: impl Fn(&mut Exchange) -> io::Result<Then> + Send + Sync + 'static,
    ) {
        let mut handlers = self.shared.handlers.lock().expect("never held while a handler runs");
        handlers.insert(path.to_owned(), Arc::new(handler));
    }

    /// What happened so far.
    pub fn journal(&self) -> &Journal<Event> {
        &self.shared.journal
    }

    /// How many connections came in so far.
    pub fn accepted(&self) -> usize {
        self.journal().look(|events| events.iter().filter(|e| matches!(e, Event::Accepted { .. })).count())
    }

    /// How many connections are over.
    pub fn closed(&self) -> usize {
        self.journal().look(|events| events.iter().filter(|e| matches!(e, Event::Closed { .. })).count())
    }

    /// All request heads so far.
    pub fn requests(&self) -> Vec<Head> {
        self.journal().look(|events| {
            let heads = events.iter().filter_map(|event| match event {
                Event::Request { head, .. } => Some(head.clone()),
                _ => None,
            });
            heads.collect()
        })
    }

    /// Waits for a request to this path and gives its connection and head.
    pub fn wait_request(&self, path: &str) -> (u64, Head) {
        self.wait(&format!("a request to {path}"), PATIENCE, |event| match event {
            Event::Request { connection, head } if head.path() == path => Some((*connection, head.clone())),
            _ => None,
        })
    }

    /// Waits until a connection is over and gives how the other side ended it.
    pub fn wait_closed(&self, connection: u64, patience: Duration) -> Option<Broken> {
        self.wait(&format!("the end of connection {connection}"), patience, |event| match event {
            Event::Closed { connection: c, by_peer } if *c == connection => Some(by_peer.clone()),
            _ => None,
        })
    }

    /// Waits for a handler's note.
    pub fn wait_note(&self, text: &str) {
        self.wait(&format!("the note {text:?}"), PATIENCE, |event| match event {
            Event::Note { text: t, .. } if t == text => Some(()),
            _ => None,
        });
    }

    /// Waits for an event and panics, with all that happened, when none came in time.
    pub fn wait<R>(&self, what: &str, patience: Duration, look: impl Fn(&Event) -> Option<R>) -> R {
        let found = self.journal().wait(patience, |events| events.iter().find_map(&look));
        found.unwrap_or_else(|| {
            panic!(
                "upstream: waited {patience:?} in vain for {what}; it saw {:#?}",
                self.journal().look(<[_]>::to_vec)
            )
        })
    }

    /// Ends all connections, as if the machine had been switched off and on again; goes on listening.
    pub fn drop_connections(&self) {
        for socket in self.shared.open().values() {
            socket.close();
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener, which then sees that it should stop.
        drop(TcpStream::connect(self.address));
        if let Some(listener) = self.listener.take() {
            // A panic there was printed when it happened, and the test is over.
            drop(listener.join());
        }
        self.shared.ended.add(());
        self.drop_connections();
    }
}

impl Shared {
    fn record(&self, event: Event) {
        if self.records {
            self.journal.add(event);
        }
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Socket>> {
        self.open.lock().expect("never held while anything can panic")
    }

    fn accept(self: Arc<Shared>, listener: &TcpListener) {
        loop {
            let tcp = match listener.accept() {
                Ok((tcp, _)) => tcp,
                Err(e) => panic!("accept: {e}"),
            };
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            let connection = self.connections.fetch_add(1, Ordering::SeqCst) + 1;
            let shared = Arc::clone(&self);
            let thread = thread::Builder::new().name(format!("up-c{connection}"));
            thread.spawn(move || shared.connection(connection, tcp)).expect("a thread");
        }
    }

    fn connection(&self, connection: u64, tcp: TcpStream) {
        self.record(Event::Accepted { connection });
        let socket = match &self.tls {
            None => Socket::plain(tcp),
            Some(config) => match Socket::accept_tls(tcp, Arc::clone(config)) {
                Ok(socket) => {
                    self.record(Event::Greeted { connection, server_name: socket.server_name() });
                    socket
                }
                Err(e) => {
                    self.record(Event::TlsFailed { connection, why: e.to_string() });
                    self.record(Event::Closed { connection, by_peer: Some(Broken::Reset) });
                    return;
                }
            },
        };
        socket.set_read_timeout(KEEP_OPEN);
        self.open().insert(connection, socket.clone());
        let (then, by_peer) = match self.serve(connection, &socket) {
            Ok(then) => (then, None),
            Err(broken) => (Then::Close, Some(broken)),
        };
        self.open().remove(&connection);
        match then {
            Then::Abort => socket.abort_on_drop(),
            Then::Keep | Then::Close => socket.close(),
        }
        drop(socket);
        self.record(Event::Closed { connection, by_peer });
    }

    /// Serves requests until a handler ends the connection (`Ok`) or the other side does.
    fn serve(&self, connection: u64, socket: &Socket) -> Result<Then, Broken> {
        let mut incoming = Incoming::new(socket.clone());
        loop {
            let head = incoming.head()?;
            self.record(Event::Request { connection, head: head.clone() });
            incoming.begin_body(head.request_framing());
            let handler = {
                let handlers = self.handlers.lock().expect("never held while a handler runs");
                handlers.get(&head.path()).or_else(|| handlers.get("*")).cloned()
            };
            let mut exchange =
                Exchange { head, incoming: &mut incoming, socket: socket.clone(), connection, shared: self };
            let then = match handler {
                Some(handler) => handler(&mut exchange),
                None => exchange.reply(404, &[], b"no such path at the upstream\n"),
            };
            match then.map_err(broken)? {
                // A handler that did not want the body leaves it to us, so that the next head is found.
                Then::Keep => while incoming.piece()?.is_some() {},
                then => return Ok(then),
            }
        }
    }
}

/// How the other side ended the connection, from the error that a handler met.
fn broken(error: io::Error) -> Broken {
    match error.kind() {
        ErrorKind::UnexpectedEof => Broken::Closed,
        ErrorKind::TimedOut => Broken::Silent,
        ErrorKind::InvalidData => Broken::Malformed(error.to_string()),
        _ => Broken::Reset,
    }
}

/// One request, for a handler.
pub struct Exchange<'c> {
    /// The request's head.
    pub head: Head,
    incoming: &'c mut Incoming,
    socket: Socket,
    connection: u64,
    shared: &'c Shared,
}

impl Exchange<'_> {
    /// Number of the connection.
    pub fn connection(&self) -> u64 {
        self.connection
    }

    /// The connection itself.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Tells the test something.
    pub fn note(&self, text: impl Into<String>) {
        self.shared.record(Event::Note { connection: self.connection, text: text.into() });
    }

    /// A number from the query, or this one.
    pub fn number(&self, name: &str, otherwise: u64) -> u64 {
        match self.head.query(name) {
            Some(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} in a test's request")),
            None => otherwise,
        }
    }

    /// Sends bytes as they are.
    pub fn send(&self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        (&self.socket).write_all(bytes.as_ref())
    }

    /// Sends one chunk of a chunked body.
    pub fn chunk(&self, bytes: &[u8]) -> io::Result<()> {
        self.send([format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat())
    }

    /// Sends a whole answer with `Content-Length`. No `Date` and no `Content-Type`, unless they are among `fields`.
    pub fn reply(&self, status: u16, fields: &[(&str, &str)], body: &[u8]) -> io::Result<Then> {
        let mut head = format!("HTTP/1.1 {status} Status\r\n");
        for (name, value) in fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        let body = if self.head.method() == "HEAD" { &[] } else { body };
        self.send([head.as_bytes(), body].concat())?;
        Ok(Then::Keep)
    }

    /// The next bytes of the request's body; `None` when it is complete.
    pub fn piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.incoming.piece()?)
    }

    /// The request's body.
    pub fn body(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.incoming.rest()?)
    }

    /// Exactly `len` more bytes of the request's body.
    pub fn exactly(&mut self, len: usize) -> io::Result<Vec<u8>> {
        Ok(self.incoming.exactly(len)?)
    }

    /// The trailers of the request's body, after [`body`](Exchange::body).
    pub fn trailers(&self) -> Vec<(String, Vec<u8>)> {
        self.incoming.trailers().to_vec()
    }

    /// The body is not wanted and will not be read: what comes is taken for the next request.
    pub fn forget_body(&mut self) {
        self.incoming.begin_body(Framing::None);
    }

    /// Raw bytes, after an upgrade.
    pub fn raw(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.incoming.raw()?)
    }

    /// Waits until the other side ends the connection; what comes before is thrown away.
    pub fn wait_gone(&mut self) -> io::Result<Then> {
        loop {
            self.incoming.raw()?;
        }
    }

    /// Reads nothing for as long as the upstream runs.
    pub fn stay_deaf(&self) -> Then {
        self.shared.ended.wait(KEEP_OPEN, |ended| (!ended.is_empty()).then_some(()));
        Then::Close
    }

    /// Accepts a WebSocket, with further fields (whole lines) in the 101.
    pub fn websocket(&mut self, more: &str) -> io::Result<WebSocket> {
        let key = self.head.get("sec-websocket-key").ok_or(ErrorKind::InvalidInput)?;
        self.send(websocket::response(&key, more))?;
        let buffer = self.incoming.take_buffer();
        Ok(websocket::server(self.socket.clone(), buffer))
    }
}
