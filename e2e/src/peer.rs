//! Agents and Gateways played by hand, to see and to break the tunnel's protocol from either side.
//!
//! Written from `docs/protocol.md` alone, without the daemons' code: numbers that disagree show here.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::protocol::CloseFrame;
use tungstenite::{Error, Message};

use crate::journal::{PATIENCE, until};
use crate::message::{Broken, Head, Incoming};
use crate::socket::Socket;
use crate::visitor::{Response, Visitor};
use crate::websocket::{self, WebSocket};
use crate::world::KEY;

/// The sub-protocol of the tunnel.
pub const SUB_PROTOCOL: &str = "octoporty.v1";
/// Credit that played peers give at first, unless a test says otherwise.
pub const CREDIT: u32 = 256 * 1024;

/// Types of Frame.
pub mod kind {
    /// JSON on stream 0.
    pub const CONTROL: u8 = 1;
    /// Are you there?
    pub const BEAT: u8 = 2;
    /// Yes.
    pub const BEAT_ACK: u8 = 3;
    /// A request begins.
    pub const OPEN: u8 = 4;
    /// A response head.
    pub const HEAD: u8 = 5;
    /// Bytes of a body.
    pub const DATA: u8 = 6;
    /// A direction is finished.
    pub const END: u8 = 7;
    /// The Stream is over.
    pub const RESET: u8 = 8;
    /// The peer may send more.
    pub const CREDIT: u8 = 9;
}

/// Flags of Frames.
pub mod flag {
    /// `Control`: the message goes on.
    pub const MORE: u8 = 1;
    /// `Control`: of the lowest priority.
    pub const LATER: u8 = 2;
    /// `Open`, `Head`: a body follows.
    pub const BODY: u8 = 1;
    /// `Open`: the visitor wants another protocol.
    pub const UPGRADE: u8 = 2;
    /// `Head`: the upstream switched protocols.
    pub const SWITCHED: u8 = 2;
    /// `Head`: another one follows.
    pub const INTERIM: u8 = 4;
    /// `Data`: the last of its direction.
    pub const END: u8 = 1;
}

/// A Frame as it travels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// The Stream, 0 for the Link itself.
    pub stream: u32,
    /// What follows the header.
    pub payload: Vec<u8>,
}

/// What an `Open` says.
#[derive(Clone, Debug)]
pub struct Open {
    /// Number of the Stream.
    pub stream: u32,
    /// Flags of the Frame.
    pub flags: u8,
    /// Bytes that may be sent at first.
    pub credit: u32,
    /// The mapping.
    pub mapping: [u8; 16],
    /// The request's label.
    pub request_id: String,
    /// The visitor's address.
    pub visitor: String,
    /// The request's head.
    pub head: Head,
}

/// One Link, played by hand.
pub struct Peer {
    socket: WebSocket,
    answers_beats: bool,
    patience: Duration,
    /// What came of unfinished control messages: of ordinary ones, and of the lowest priority, between the parts of
    /// which others may come.
    parts: [Vec<u8>; 2],
}

/// What played peers say about how long they have run, seconds.
const UPTIME: u64 = 7;

/// How a Link ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkEnd {
    /// With a close frame.
    Close(u16, String),
    /// Without.
    Cut(Broken),
}

impl Frame {
    fn parse(bytes: &[u8]) -> Frame {
        let (header, payload) = bytes.split_at_checked(8).unwrap_or_else(|| panic!("a frame of {bytes:?}"));
        assert_eq!(&header[2..4], &[0, 0], "the reserved bytes are zero");
        let stream = u32::from_be_bytes(header[4..].try_into().expect("four bytes"));
        Frame { kind: header[0], flags: header[1], stream, payload: payload.to_vec() }
    }

    /// The bytes of the Frame.
    pub fn bytes(&self) -> Vec<u8> {
        [&[self.kind, self.flags, 0, 0][..], &self.stream.to_be_bytes(), &self.payload].concat()
    }

    /// Of a `Control`: its JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap_or_else(|e| panic!("{e} in {self:?}"))
    }

    /// Of a `Reset`: its code.
    pub fn code(&self) -> u16 {
        assert_eq!(self.kind, kind::RESET, "{self:?}");
        u16::from_be_bytes(self.payload[..2].try_into().expect("two bytes"))
    }

    /// Of a `Credit`: the bytes.
    pub fn credit(&self) -> u32 {
        assert_eq!(self.kind, kind::CREDIT, "{self:?}");
        u32::from_be_bytes(self.payload[..].try_into().expect("four bytes"))
    }

    /// Of an `Open`: what it says.
    pub fn open(&self) -> Open {
        assert_eq!(self.kind, kind::OPEN, "{self:?}");
        let (fixed, rest) = self.payload.split_at(20);
        let (len, rest) = rest.split_first().expect("a length");
        let (request_id, rest) = rest.split_at(*len as usize);
        let (len, rest) = rest.split_first().expect("a length");
        let (visitor, head) = rest.split_at(*len as usize);
        Open {
            stream: self.stream,
            flags: self.flags,
            credit: u32::from_be_bytes(fixed[..4].try_into().expect("four bytes")),
            mapping: fixed[4..].try_into().expect("sixteen bytes"),
            request_id: String::from_utf8(request_id.to_vec()).expect("text"),
            visitor: String::from_utf8(visitor.to_vec()).expect("text"),
            head: Head::parse(head).unwrap_or_else(|e| panic!("{e}")),
        }
    }
}

/// The payload of an `Open`.
pub fn open_payload(credit: u32, mapping: [u8; 16], head: &str) -> Vec<u8> {
    let texts: &[u8] = b"\x06test-1\x09192.0.2.1";
    [&credit.to_be_bytes()[..], &mapping, texts, head.as_bytes()].concat()
}

/// The fields with which an Agent asks for a Link.
pub fn agent_fields() -> Vec<(&'static str, &'static str)> {
    websocket::request_fields(&[("Sec-WebSocket-Protocol", SUB_PROTOCOL), ("X-Api-Key", KEY)])
}

/// A `hello` that a Gateway accepts; the id makes the Agent.
pub fn hello(agent_id: &str) -> Value {
    json!({
        "type": "hello",
        "minVersion": 1,
        "maxVersion": 1,
        "agentVersion": "0.0.0-test",
        "agentId": agent_id,
        "agentName": "played by hand",
        "credit": CREDIT,
    })
}

impl Peer {
    /// Asks a Gateway for a Link with these fields; its answer if it declines.
    pub fn try_dial(gateway: SocketAddr, fields: &[(&str, &str)]) -> Result<Peer, Box<Response>> {
        let mut visitor = Visitor::connect(gateway, &gateway.to_string());
        visitor.ask("GET", "/tunnel", fields);
        let head = visitor.head("GET");
        if head.status() != 101 {
            let body = visitor.rest();
            return Err(Box::new(Response { interim: Vec::new(), head, body, trailers: Vec::new() }));
        }
        assert_eq!(head.get("sec-websocket-protocol").as_deref(), Some(SUB_PROTOCOL), "{head:?}");
        assert_eq!(head.get("sec-websocket-accept").as_deref(), Some(websocket::ACCEPT), "{head:?}");
        let socket = visitor.socket().clone();
        Ok(Peer::over(websocket::client(socket, Vec::new())))
    }

    /// Opens a Link to a Gateway.
    pub fn dial(gateway: SocketAddr) -> Peer {
        Peer::try_dial(gateway, &agent_fields()).unwrap_or_else(|answer| panic!("no link: {answer:?}"))
    }

    /// Opens a Link and a Session as this Agent; gives the `welcome` as well.
    pub fn greeted(gateway: SocketAddr, agent_id: &str) -> (Peer, Value) {
        let mut peer = Peer::dial(gateway);
        peer.control(&hello(agent_id));
        let welcome = peer.expect_control("welcome");
        (peer, welcome)
    }

    /// Opens a Session that publishes these names, with mapping ids 1, 2, ...
    pub fn publishing(gateway: SocketAddr, agent_id: &str, domains: &[&str]) -> Peer {
        let (mut peer, _) = Peer::greeted(gateway, agent_id);
        peer.publish(domains);
        peer
    }

    fn over(socket: WebSocket) -> Peer {
        Peer { socket, answers_beats: true, patience: PATIENCE, parts: Default::default() }
    }

    /// Sends the mapping table and waits until it is in force.
    pub fn publish(&mut self, domains: &[&str]) {
        let rows = (1u128..).zip(domains);
        let mappings: Vec<_> = rows
            .map(|(id, domain)| json!({ "id": format!("{id:032x}"), "domain": domain, "name": "" }))
            .collect();
        let hash = format!("{domains:?}");
        self.control(&json!({ "type": "config", "request": 1, "hash": hash, "mappings": mappings }));
        let ack = self.expect_control("config-ack");
        assert_eq!((&ack["request"], &ack["hash"]), (&json!(1), &json!(hash)), "{ack}");
        assert_eq!(ack["routes"].as_array().map(Vec::len), Some(domains.len()), "{ack}");
    }

    /// From now on Beats stay without an answer.
    pub fn ignore_beats(&mut self) {
        self.answers_beats = false;
    }

    /// How long to wait for Frames.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Sends a Frame.
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.try_send(kind, flags, stream, payload).unwrap_or_else(|e| panic!("cannot send: {e}"));
    }

    /// Sends a Frame; fails if the Link is gone.
    pub fn try_send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<(), Error> {
        self.message(Message::binary(Frame { kind, flags, stream, payload: payload.to_vec() }.bytes()))
    }

    /// Sends any WebSocket message.
    pub fn message(&mut self, message: Message) -> Result<(), Error> {
        self.socket.send(message)
    }

    /// Sends a control message.
    pub fn control(&mut self, json: &Value) {
        self.send(kind::CONTROL, 0, 0, json.to_string().as_bytes());
    }

    /// The next Frame other than a Beat, which is answered.
    pub fn try_receive(&mut self) -> Result<Frame, LinkEnd> {
        // Beats do not count: a tunnel on which nothing but them happens would never end a test.
        let deadline = Instant::now() + self.patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            self.socket.get_ref().set_read_timeout(left.max(Duration::from_millis(1)));
            let message = match self.socket.read() {
                Ok(message) => message,
                Err(e) => return Err(LinkEnd::Cut(broken(&e))),
            };
            match message {
                Message::Binary(bytes) => {
                    let frame = Frame::parse(&bytes);
                    match frame.kind {
                        kind::BEAT if self.answers_beats => {
                            let payload = [&frame.payload[..], &UPTIME.to_be_bytes()].concat();
                            // The other side may have gone since; the next read tells.
                            drop(self.try_send(kind::BEAT_ACK, 0, 0, &payload));
                        }
                        _ => return Ok(frame),
                    }
                }
                Message::Close(frame) => return Err(LinkEnd::of(frame)),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("a tunnel carries binary messages only, not {other:?}"),
            }
        }
    }

    /// The next Frame.
    pub fn receive(&mut self) -> Frame {
        self.try_receive().unwrap_or_else(|end| panic!("no frame: {end:?}"))
    }

    /// The next Frame of this type; others are thrown away.
    pub fn expect(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.receive();
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// The next control message of this type; others, and other Frames, are thrown away.
    pub fn expect_control(&mut self, what: &str) -> Value {
        loop {
            let json = self.expect_whole_control();
            if json["type"] == what {
                return json;
            }
            assert_ne!(json["type"], "refused", "{json}");
        }
    }

    /// The next control message, put together from its parts.
    fn expect_whole_control(&mut self) -> Value {
        loop {
            let frame = self.expect(kind::CONTROL);
            let part = &mut self.parts[usize::from(frame.flags & flag::LATER != 0)];
            part.extend_from_slice(&frame.payload);
            if frame.flags & flag::MORE == 0 {
                return Frame { payload: std::mem::take(part), ..frame }.json();
            }
        }
    }

    /// The next request.
    pub fn expect_open(&mut self) -> Open {
        self.expect(kind::OPEN).open()
    }

    /// Waits until the other side ends the Link; what comes before is thrown away.
    pub fn ending(&mut self) -> LinkEnd {
        loop {
            if let Err(end) = self.try_receive() {
                return end;
            }
        }
    }

    /// Answers a request completely.
    pub fn answer(&mut self, stream: u32, body: &[u8]) {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        self.send(kind::HEAD, flag::BODY, stream, head.as_bytes());
        self.send(kind::DATA, flag::END, stream, body);
    }

    /// Ends the connection without a word.
    pub fn cut(self) {
        self.socket.get_ref().abort_on_drop();
    }
}

impl LinkEnd {
    fn of(frame: Option<CloseFrame>) -> LinkEnd {
        match frame {
            Some(frame) => LinkEnd::Close(frame.code.into(), frame.reason.to_string()),
            None => LinkEnd::Close(1005, String::new()),
        }
    }

    /// Whether the other side ended it, in whatever way, rather than that the test lost its patience.
    pub fn is_over(&self) -> bool {
        *self != LinkEnd::Cut(Broken::Silent)
    }
}

fn broken(error: &Error) -> Broken {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => Broken::Closed,
        Error::Io(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Broken::Silent,
        Error::Io(e) if e.kind() == ErrorKind::UnexpectedEof => Broken::Closed,
        Error::Io(_) => Broken::Reset,
        Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => Broken::Closed,
        other => panic!("the other side broke the WebSocket protocol: {other}"),
    }
}

/// A Gateway played by hand: waits for an Agent.
pub struct FakeGateway {
    listener: TcpListener,
}

impl Default for FakeGateway {
    fn default() -> FakeGateway {
        FakeGateway::new()
    }
}

impl FakeGateway {
    /// Listens on any free port.
    pub fn new() -> FakeGateway {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        // Accepting is bounded by patience, so that a test whose Agent never dials fails instead of hanging.
        listener.set_nonblocking(true).expect("non-blocking");
        FakeGateway { listener }
    }

    /// The address for `Agent__GatewayUrl`.
    pub fn url(&self) -> String {
        format!("ws://{}/tunnel", self.listener.local_addr().expect("bound"))
    }

    /// Waits for a connection that asks for a Link. Connections that only look whether somebody listens are passed
    /// over.
    pub fn accept_head(&self) -> (Head, Socket) {
        loop {
            let tcp = until("an Agent that connects", PATIENCE, || match self.listener.accept() {
                Ok((tcp, _)) => Some(tcp),
                Err(e) if e.kind() == ErrorKind::WouldBlock => None,
                Err(e) => panic!("accept: {e}"),
            });
            tcp.set_nonblocking(false).expect("blocking");
            let socket = Socket::plain(tcp);
            socket.set_read_timeout(PATIENCE);
            match Incoming::new(socket.clone()).head() {
                Ok(head) => return (head, socket),
                Err(Broken::Closed | Broken::Reset) => {}
                Err(broken) => panic!("no request: {broken}"),
            }
        }
    }

    /// Accepts a Link.
    pub fn accept(&self) -> (Head, Peer) {
        let (head, mut socket) = self.accept_head();
        let key = head.get("sec-websocket-key").unwrap_or_else(|| panic!("no key in {head:?}"));
        let answer = websocket::response(&key, &format!("Sec-WebSocket-Protocol: {SUB_PROTOCOL}\r\n"));
        std::io::Write::write_all(&mut socket, answer.as_bytes()).expect("the answer");
        (head, Peer::over(websocket::server(socket, Vec::new())))
    }

    /// Accepts a Link and a Session of one Link, and the mapping table; gives the `hello` as well.
    pub fn greet(&self) -> (Value, Peer) {
        let (_, mut peer) = self.accept();
        let hello = peer.expect_control("hello");
        peer.control(&welcome());
        let config = peer.expect_control("config");
        let rows = config["mappings"].as_array().expect("a table").iter();
        let routes: Vec<_> = rows.map(|row| json!({ "id": row["id"], "state": "ok" })).collect();
        let ack = json!({
            "type": "config-ack", "request": config["request"], "hash": config["hash"], "routes": routes,
        });
        peer.control(&ack);
        (hello, peer)
    }
}

/// A `welcome` to a Session of one Link.
pub fn welcome() -> Value {
    json!({
        "type": "welcome",
        "version": 1,
        "gatewayVersion": "0.0.0-test",
        "session": "session-of-a-test",
        "generation": 1,
        "heartbeatSeconds": 30,
        "maxStreams": 1000,
        "links": 1,
        "uptimeSeconds": 1,
    })
}
