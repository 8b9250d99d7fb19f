//! A visitor's connection: sends exactly the bytes it is told to, and shows exactly what came back.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use crate::bytes::excerpt;
use crate::journal::PATIENCE;
use crate::message::{Broken, Head, Incoming};
use crate::socket::Socket;
use crate::websocket::{self, WebSocket};

/// A connection to the Gateway (or straight to an upstream).
#[derive(Debug)]
pub struct Visitor {
    socket: Socket,
    incoming: Incoming,
    host: String,
}

/// A complete answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// Interim heads (1xx) that came before.
    pub interim: Vec<Head>,
    /// The final head.
    pub head: Head,
    /// The body, decoded.
    pub body: Vec<u8>,
    /// Trailers of a chunked body.
    pub trailers: Vec<(String, Vec<u8>)>,
}

/// An answer that did not come, or not completely.
#[derive(Clone, Debug)]
pub struct Failed {
    /// The final head, if it came.
    pub head: Option<Head>,
    /// As much of the body as came.
    pub body: Vec<u8>,
    /// How it ended.
    pub broken: Broken,
}

impl Response {
    /// The status.
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {self:?}"))
    }

    /// The first field of this name.
    pub fn get(&self, name: &str) -> Option<String> {
        self.head.get(name)
    }
}

impl Visitor {
    /// Connects. `host` is what [`get`](Visitor::get) and [`request`](Visitor::request) put into `Host`.
    pub fn connect(address: SocketAddr, host: &str) -> Visitor {
        let tcp = TcpStream::connect_timeout(&address, PATIENCE).unwrap_or_else(|e| panic!("{address}: {e}"));
        Visitor::over(Socket::plain(tcp), host)
    }

    /// Uses a connection that exists.
    pub fn over(socket: Socket, host: &str) -> Visitor {
        socket.set_read_timeout(PATIENCE);
        socket.set_write_timeout(PATIENCE);
        Visitor { incoming: Incoming::new(socket.clone()), socket, host: host.to_owned() }
    }

    /// How long to wait for bytes from now on.
    pub fn set_patience(&mut self, patience: Duration) {
        self.socket.set_read_timeout(patience);
    }

    /// What [`get`](Visitor::get) puts into `Host`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The connection itself, to write from another thread or to set options.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap_or_else(|e| panic!("cannot send: {e}"));
    }

    /// Sends bytes; fails if the other side has closed.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.socket.write_all(bytes.as_ref())
    }

    /// A `GET` on this connection, which stays open.
    pub fn get(&mut self, target: &str) -> Response {
        self.request("GET", target, &[], None)
    }

    /// A request on this connection, which stays open, and its answer.
    pub fn request(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Response {
        self.try_request(method, target, fields, body)
            .unwrap_or_else(|failed| panic!("{method} {}{target}: {failed:?}", self.host))
    }

    /// The same, with what came when the answer is not complete.
    pub fn try_request(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Response, Failed> {
        let fail = |broken| Failed { head: None, body: Vec::new(), broken };
        self.try_send(self.request_head(method, target, fields, body)).map_err(|_| fail(Broken::Reset))?;
        if let Some(body) = body {
            // An early answer may close the connection while the body is under way: the answer tells.
            drop(self.try_send(body));
        }
        self.try_response(method)
    }

    /// Only sends a request.
    pub fn ask(&mut self, method: &str, target: &str, fields: &[(&str, &str)]) {
        self.send(self.request_head(method, target, fields, None));
    }

    fn request_head(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> String {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.host);
        for (name, value) in fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = body {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head + "\r\n"
    }

    /// The answer to a request with this method.
    pub fn response(&mut self, method: &str) -> Response {
        self.try_response(method).unwrap_or_else(|failed| panic!("answer to {method}: {failed:?}"))
    }

    /// The answer to a request with this method, or as much as came.
    pub fn try_response(&mut self, method: &str) -> Result<Response, Failed> {
        let mut interim = Vec::new();
        let head = loop {
            let head =
                self.try_head(method).map_err(|broken| Failed { head: None, body: Vec::new(), broken })?;
            match head.status() {
                100 | 102..=199 => interim.push(head),
                _ => break head,
            }
        };
        let mut body = Vec::new();
        loop {
            match self.incoming.piece() {
                Ok(Some(piece)) => body.extend(piece),
                Ok(None) => break,
                Err(broken) => return Err(Failed { head: Some(head), body, broken }),
            }
        }
        Ok(Response { interim, head, body, trailers: self.incoming.trailers().to_vec() })
    }

    /// The next head, interim or final, of an answer to this method. The body may then be read.
    pub fn head(&mut self, method: &str) -> Head {
        self.try_head(method).unwrap_or_else(|broken| panic!("head of the answer to {method}: {broken}"))
    }

    /// The same, or why there is none.
    pub fn try_head(&mut self, method: &str) -> Result<Head, Broken> {
        let head = self.incoming.head()?;
        self.incoming.begin_body(head.response_framing(method));
        Ok(head)
    }

    /// Exactly `len` more bytes of the body.
    pub fn exactly(&mut self, len: usize) -> Vec<u8> {
        self.incoming.exactly(len).unwrap_or_else(|broken| panic!("{len} bytes of the body: {broken}"))
    }

    /// The next piece of the body, as it came; `None` at its end.
    pub fn piece(&mut self) -> Result<Option<Vec<u8>>, Broken> {
        self.incoming.piece()
    }

    /// The rest of the body.
    pub fn rest(&mut self) -> Vec<u8> {
        self.incoming.rest().unwrap_or_else(|broken| panic!("rest of the body: {broken}"))
    }

    /// Trailers of the body read last.
    pub fn trailers(&self) -> Vec<(String, Vec<u8>)> {
        self.incoming.trailers().to_vec()
    }

    /// Exactly `len` raw bytes, after an upgrade.
    pub fn raw(&mut self, len: usize) -> Vec<u8> {
        self.incoming.raw_exactly(len).unwrap_or_else(|broken| panic!("{len} raw bytes: {broken}"))
    }

    /// Waits until the other side ends the connection; everything that came before is thrown away.
    pub fn ending(&mut self) -> Broken {
        loop {
            match self.incoming.raw() {
                Ok(_) => {}
                Err(broken) => return broken,
            }
        }
    }

    /// Waits until the other side ends the connection, and gives what came before.
    pub fn all_until_end(&mut self) -> (Vec<u8>, Broken) {
        let mut all = Vec::new();
        loop {
            match self.incoming.raw() {
                Ok(bytes) => all.extend(bytes),
                Err(broken) => return (all, broken),
            }
        }
    }

    /// Fails if anything has arrived or the connection has ended, looking for as long as a byte takes that is
    /// already on its way on this machine.
    pub fn expect_silence(&mut self, patience: Duration) {
        self.socket.set_read_timeout(patience);
        match self.incoming.raw() {
            Err(Broken::Silent) => self.socket.set_read_timeout(PATIENCE),
            Ok(bytes) => panic!("nothing should have come, but: {}", excerpt(&bytes)),
            Err(broken) => panic!("nothing should have happened, but: {broken}"),
        }
    }

    /// Says that nothing more will be sent, and goes on reading.
    pub fn finish_writing(&mut self) {
        self.socket.finish_writing().expect("shutdown");
    }

    /// Leaves in an orderly way.
    pub fn leave(self) {
        self.socket.close();
    }

    /// Leaves with `RST`.
    pub fn abort(self) {
        self.socket.abort_on_drop();
        // Dropping the last handle sends it; a shutdown would send FIN.
    }

    /// Asks for a WebSocket and gives the 101 with it.
    pub fn websocket(mut self, target: &str, fields: &[(&str, &str)]) -> (Head, WebSocket) {
        self.ask("GET", target, &websocket::request_fields(fields));
        let head = self.head("GET");
        assert_eq!(head.status(), 101, "{head:?}");
        assert_eq!(head.get("sec-websocket-accept").as_deref(), Some(websocket::ACCEPT), "{head:?}");
        let buffer = self.incoming.take_buffer();
        (head, websocket::client(self.socket, buffer))
    }

    /// Closes only the reading direction of the local socket, so that the peer's bytes are refused.
    pub fn stop_reading(&self) {
        self.socket.tcp().shutdown(Shutdown::Read).expect("shutdown");
    }
}
