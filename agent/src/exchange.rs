//! One HTTP exchange made step by step, waiting at each: name, TCP, TLS, request, answer.
//!
//! For questions of the Operator ("does this service answer?", "is the Agent there?"), not for traffic: the point is
//! to know at which step it ended, and why. Bounded by one deadline for everything. What a failure means, and what to
//! do about it, is left to whoever asks.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustls::{CertificateError, ClientConnection, InvalidMessage, StreamOwned};
use shared::body::{Decoder, Step as BodyStep};
use shared::head::{self, MAX_HEAD};

use crate::resolver::Resolver;

/// Longest that one of several addresses may keep the others waiting.
const ADDRESS: Duration = Duration::from_secs(4);

/// The steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Looking the name up.
    Dns,
    /// Being allowed to.
    Rules,
    /// The TCP connection.
    Connect,
    /// The secure connection over it.
    Tls,
    /// Request and answer.
    Http,
}

impl Step {
    /// Its name in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Step::Dns => "dns",
            Step::Rules => "rules",
            Step::Connect => "connect",
            Step::Tls => "tls",
            Step::Http => "http",
        }
    }
}

/// Where an exchange ended before its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) step: Step,
    pub(crate) trouble: Trouble,
    /// What happened, without the name of what was asked.
    pub(crate) text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Kinds of failure that call for different advice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trouble {
    /// Nothing listens there.
    Refused,
    /// Nobody answers.
    Silent,
    /// There is no way there.
    NoRoute,
    /// The certificate is over, or begins later.
    CertificateTime,
    /// The certificate is for other names.
    CertificateName,
    /// The certificate is from somebody unknown.
    CertificateIssuer,
    /// The other side does not speak TLS.
    NotTls,
    /// The other side does not speak HTTP.
    NotHttp,
    /// The other side hung up.
    Closed,
    /// Something else.
    Other,
}

fn fault<T>(step: Step, trouble: Trouble, text: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { step, trouble, text: text.into() })
}

/// The addresses of a name, or the address that it is.
pub(crate) fn resolve(host: &str, port: u16, until: Instant) -> Result<Vec<SocketAddr>, Fault> {
    static RESOLVER: LazyLock<Resolver> = LazyLock::new(Resolver::new);
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    match RESOLVER.wait(host, port, until.saturating_duration_since(Instant::now())) {
        Ok(addresses) if !addresses.is_empty() => Ok(addresses),
        Ok(_) => fault(Step::Dns, Trouble::Other, "the name has no address"),
        Err(e) if e.kind() == ErrorKind::TimedOut => fault(Step::Dns, Trouble::Silent, e.to_string()),
        Err(e) => fault(Step::Dns, Trouble::Other, format!("the name cannot be looked up: {}", plain(&e))),
    }
}

/// Connects to the first address that answers and that `allowed` has nothing against.
pub(crate) fn connect(
    addresses: &[SocketAddr],
    until: Instant,
    allowed: impl Fn(SocketAddr) -> Result<(), String>,
) -> Result<(TcpStream, SocketAddr), Fault> {
    let mut last = None;
    for (index, address) in addresses.iter().enumerate() {
        if let Err(why) = allowed(*address) {
            last = Some(Fault { step: Step::Rules, trouble: Trouble::Other, text: why });
            continue;
        }
        let left = until.saturating_duration_since(Instant::now());
        let patience = if index + 1 == addresses.len() { left } else { left.min(ADDRESS) };
        if patience.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(address, patience) {
            Ok(socket) => return Ok((socket, *address)),
            Err(e) => {
                let trouble = match e.kind() {
                    ErrorKind::ConnectionRefused => Trouble::Refused,
                    ErrorKind::TimedOut | ErrorKind::WouldBlock => Trouble::Silent,
                    ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Trouble::NoRoute,
                    _ => Trouble::Other,
                };
                let text = format!("cannot connect to {address}: {}", plain(&e));
                last = Some(Fault { step: Step::Connect, trouble, text });
            }
        }
    }
    Err(last.unwrap_or(Fault {
        step: Step::Connect,
        trouble: Trouble::Silent,
        text: "no time was left to connect".into(),
    }))
}

/// A connection on which every read and write ends by the deadline.
pub(crate) struct Timed {
    socket: TcpStream,
    until: Instant,
}

impl Timed {
    pub(crate) fn new(socket: TcpStream, until: Instant) -> Timed {
        // It only makes small requests slower, should it fail.
        let _ = socket.set_nodelay(true);
        Timed { socket, until }
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

fn timed_out(e: io::Error) -> io::Error {
    if e.kind() == ErrorKind::WouldBlock { ErrorKind::TimedOut.into() } else { e }
}

impl Read for Timed {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(self.left()?)?;
        self.socket.read(out).map_err(timed_out)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(self.left()?)?;
        self.socket.write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection, secure or not.
pub(crate) enum Channel {
    Plain(Timed),
    Tls(Box<StreamOwned<ClientConnection, Timed>>),
}

impl Channel {
    /// Without TLS.
    pub(crate) fn plain(socket: TcpStream, until: Instant) -> Channel {
        Channel::Plain(Timed::new(socket, until))
    }

    /// With TLS, once the handshake is done.
    pub(crate) fn secure(
        socket: TcpStream,
        mut tls: ClientConnection,
        until: Instant,
    ) -> Result<Channel, Fault> {
        let mut timed = Timed::new(socket, until);
        while tls.is_handshaking() {
            if let Err(e) = tls.complete_io(&mut timed) {
                let trouble = tls_trouble(&e);
                return fault(
                    Step::Tls,
                    trouble,
                    format!("no secure connection: {}", tls_words(trouble, &e)),
                );
            }
        }
        Ok(Channel::Tls(Box::new(StreamOwned::new(tls, timed))))
    }

    /// The certificate that the other side has shown, DER.
    pub(crate) fn certificate(&self) -> Option<Vec<u8>> {
        match self {
            Channel::Plain(_) => None,
            Channel::Tls(stream) => Some(stream.conn.peer_certificates()?.first()?.to_vec()),
        }
    }

    /// With another deadline.
    pub(crate) fn until(mut self, until: Instant) -> Channel {
        match &mut self {
            Channel::Plain(timed) => timed.until = until,
            Channel::Tls(stream) => stream.sock.until = until,
        }
        self
    }
}

impl Read for Channel {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Channel::Plain(stream) => stream.read(out),
            Channel::Tls(stream) => stream.read(out),
        }
    }
}

impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Channel::Plain(stream) => stream.write(bytes),
            Channel::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Channel::Plain(stream) => stream.flush(),
            Channel::Tls(stream) => stream.flush(),
        }
    }
}

/// What is the matter with a handshake.
fn tls_trouble(error: &io::Error) -> Trouble {
    match error.kind() {
        ErrorKind::TimedOut => return Trouble::Silent,
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            return Trouble::Closed;
        }
        _ => {}
    }
    let Some(error) = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) else {
        return Trouble::Other;
    };
    match error {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Trouble::CertificateTime,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Trouble::CertificateName
            }
            // A certificate that signs itself is from nobody we know, or is used as what it is not.
            CertificateError::UnknownIssuer | CertificateError::Other(_) => Trouble::CertificateIssuer,
            _ => Trouble::Other,
        },
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Trouble::NotTls,
        _ => Trouble::Other,
    }
}

/// The same in words.
fn tls_words(trouble: Trouble, error: &io::Error) -> String {
    match trouble {
        Trouble::CertificateIssuer => {
            "the certificate is self-signed, or from an authority that is not known here".into()
        }
        Trouble::NotTls => "what answers there does not speak TLS".into(),
        Trouble::Closed => "the other side ended the connection during the TLS handshake".into(),
        Trouble::Silent => "no answer during the TLS handshake".into(),
        _ => plain(error),
    }
}

/// An error without the number that the library puts behind it.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}

/// What is asked.
pub(crate) struct Question<'a> {
    pub(crate) method: &'a str,
    /// Path and query.
    pub(crate) target: &'a str,
    /// The `Host` field.
    pub(crate) authority: &'a str,
    pub(crate) fields: &'a [(&'a str, &'a str)],
    pub(crate) body: Option<&'a [u8]>,
    /// Bytes of the answer's body that are read; what goes beyond is left.
    pub(crate) most: usize,
}

/// What was answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) reason: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether that is the whole body.
    pub(crate) complete: bool,
}

impl Answer {
    /// The first field of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Asks one question on a new connection.
pub(crate) fn ask(channel: &mut (impl Read + Write), question: &Question<'_>) -> Result<Answer, Fault> {
    let mut request = format!(
        "{} {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: octoporty-agent/{}\r\nAccept: */*\r\nConnection: close\r\n",
        question.method,
        question.target,
        question.authority,
        crate::VERSION
    );
    for (name, value) in question.fields {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = question.body {
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    request.push_str("\r\n");
    let mut bytes = request.into_bytes();
    bytes.extend_from_slice(question.body.unwrap_or_default());
    // Whoever refuses a body may answer and close before all of it is sent: what he says counts.
    let sent = channel.write_all(&bytes).and_then(|()| channel.flush());
    let answer = read_answer(channel, question);
    match (sent, answer) {
        (_, Ok(answer)) => Ok(answer),
        (Err(e), Err(_)) => {
            fault(Step::Http, io_trouble(&e), format!("cannot send the request: {}", plain(&e)))
        }
        (Ok(()), Err(fault)) => Err(fault),
    }
}

fn io_trouble(error: &io::Error) -> Trouble {
    match error.kind() {
        ErrorKind::TimedOut => Trouble::Silent,
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Trouble::Closed,
        _ => Trouble::Other,
    }
}

fn read_answer(channel: &mut impl Read, question: &Question<'_>) -> Result<Answer, Fault> {
    let mut input: Vec<u8> = Vec::new();
    let mut chunk = [0; 8192];
    let mut more = |input: &mut Vec<u8>| -> Result<usize, Fault> {
        loop {
            match channel.read(&mut chunk) {
                Ok(count) => {
                    input.extend_from_slice(&chunk[..count]);
                    return Ok(count);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // TLS that ends without saying so is an end all the same: framing tells whether it was too early.
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                Err(e) if e.kind() == ErrorKind::TimedOut => {
                    return fault(Step::Http, Trouble::Silent, "connected, but no complete answer in time");
                }
                Err(e) => {
                    let text = format!("connected, but no answer: {}", plain(&e));
                    return fault(Step::Http, io_trouble(&e), text);
                }
            }
        }
    };
    loop {
        let (head, used) = match head::parse_response(&input, question.method) {
            Ok(Some(found)) => found,
            Ok(None) if input.len() <= MAX_HEAD => {
                if more(&mut input)? == 0 {
                    let (trouble, text) = if input.is_empty() {
                        (Trouble::Closed, "connected, but the other side hung up without an answer")
                    } else {
                        (Trouble::NotHttp, "the answer is not HTTP, or ends within its head")
                    };
                    return fault(Step::Http, trouble, text);
                }
                continue;
            }
            Ok(None) => return fault(Step::Http, Trouble::NotHttp, "the head of the answer has no end"),
            Err(e) => return fault(Step::Http, Trouble::NotHttp, format!("the answer is not HTTP: {e}")),
        };
        if (100..200).contains(&head.status) && head.status != 101 {
            input.drain(..used);
            continue;
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut answer = Answer {
            status: head.status,
            reason: text(head.reason),
            fields: head.fields.iter().map(|f| (f.name.to_owned(), text(f.value))).collect(),
            body: Vec::new(),
            complete: false,
        };
        let mut decoder = Decoder::new(head.framing);
        input.drain(..used);
        loop {
            let used = match decoder.decode(&input) {
                Ok(BodyStep::Data { used, data }) => {
                    let room = question.most.saturating_sub(answer.body.len());
                    answer.body.extend_from_slice(&data[..data.len().min(room)]);
                    if data.len() > room {
                        return Ok(answer);
                    }
                    used
                }
                Ok(BodyStep::More { used }) => {
                    input.drain(..used);
                    // The head was there: an answer that breaks off is one that says so.
                    match more(&mut input) {
                        Ok(0) => {
                            answer.complete = decoder.at_eof().is_ok();
                            return Ok(answer);
                        }
                        Ok(_) => 0,
                        Err(_) => return Ok(answer),
                    }
                }
                Ok(BodyStep::End { .. }) => {
                    answer.complete = true;
                    return Ok(answer);
                }
                Err(e) => return fault(Step::Http, Trouble::NotHttp, format!("the answer is not HTTP: {e}")),
            };
            input.drain(..used);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// A channel that answers with these bytes, at most three at a time, and keeps what is sent.
    struct Fake {
        answer: Cursor<Vec<u8>>,
        sent: Vec<u8>,
    }

    impl Read for Fake {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let most = out.len().min(3);
            self.answer.read(&mut out[..most])
        }
    }

    impl Write for Fake {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.sent.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn asked(answer: &str, most: usize) -> (Result<Answer, Fault>, String) {
        let mut fake = Fake { answer: Cursor::new(answer.as_bytes().to_vec()), sent: Vec::new() };
        let fields = [("X-A", "1")];
        let question = Question {
            method: "POST",
            target: "/p?q",
            authority: "host:81",
            fields: &fields,
            body: Some(b"body"),
            most,
        };
        let answer = ask(&mut fake, &question);
        (answer, String::from_utf8(fake.sent).expect("ASCII"))
    }

    #[test]
    fn a_question_is_a_whole_request() {
        let (_, sent) = asked("", 10);
        assert!(sent.starts_with("POST /p?q HTTP/1.1\r\nHost: host:81\r\n"), "{sent}");
        assert!(sent.ends_with("X-A: 1\r\nContent-Length: 4\r\n\r\nbody"), "{sent}");
    }

    #[test]
    fn answers_of_every_framing_are_read() {
        for (answer, body, complete) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", true),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "hi", true),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
                "abcde",
                true,
            ),
            ("HTTP/1.0 200 OK\r\n\r\nuntil the end", "until the end", true),
            ("HTTP/1.1 204 No Content\r\n\r\n", "", true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf", "half", false),
        ] {
            let (answer, _) = asked(answer, 100);
            let answer = answer.expect("an answer");
            assert_eq!((String::from_utf8_lossy(&answer.body).as_ref(), answer.complete), (body, complete));
        }
        let (answer, _) = asked("HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 50\r\n\r\n0123456789", 4);
        let answer = answer.expect("an answer");
        assert_eq!(
            (answer.get("server"), answer.body.as_slice(), answer.complete),
            (Some("x"), &b"0123"[..], false)
        );
    }

    #[test]
    fn what_is_no_answer_is_told_apart() {
        for (answer, trouble) in [
            ("", Trouble::Closed),
            ("SSH-2.0-OpenSSH_9\r\n", Trouble::NotHttp),
            ("HTTP/1.1 200 OK\r\nServer", Trouble::NotHttp),
        ] {
            let (answer, _) = asked(answer, 100);
            let fault = answer.expect_err("a fault");
            assert_eq!((fault.step, fault.trouble), (Step::Http, trouble), "{fault}");
        }
    }
}
