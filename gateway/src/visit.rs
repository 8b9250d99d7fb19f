//! The Gateway visits itself: a request to its own ingress, for a host that an Agent publishes. So what is tried is
//! the whole way that visitors take.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use shared::body::{Decoder, Step};
use shared::head::{self, MAX_HEAD};

/// How long it may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Most bytes of an answer's body that are kept.
pub(crate) const MOST: usize = 1024 * 1024;

/// What to ask for.
pub(crate) struct Visit<'a> {
    pub(crate) method: &'a str,
    /// The published host name.
    pub(crate) host: &'a str,
    /// Path and query.
    pub(crate) target: &'a str,
    pub(crate) fields: &'a [(&'a str, &'a str)],
    pub(crate) body: &'a [u8],
}

/// What was answered.
pub(crate) struct Answered {
    pub(crate) status: u16,
    /// By name, each value by itself.
    pub(crate) fields: BTreeMap<String, Vec<String>>,
    pub(crate) body: Vec<u8>,
    /// The body was longer than [`MOST`].
    pub(crate) truncated: bool,
    /// From the first byte of the request to the last one of the answer.
    pub(crate) time: Duration,
}

/// Why there is no answer.
pub(crate) enum Fault {
    /// Not within [`PATIENCE`].
    Timeout,
    /// Something else.
    Broken(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Timeout => write!(f, "no complete answer within {} seconds", PATIENCE.as_secs()),
            Fault::Broken(why) => f.write_str(why),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Fault::Timeout,
            _ => Fault::Broken(error.to_string()),
        }
    }
}

/// Where a listener is reached from this machine.
fn reachable(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

/// Makes the visit to the ingress that listens at `listening`. Waits.
pub(crate) fn visit(listening: SocketAddr, visit: &Visit<'_>) -> Result<Answered, Fault> {
    let start = Instant::now();
    let until = start + PATIENCE;
    let left = || {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(Fault::Timeout) } else { Ok(left) }
    };
    let mut socket = TcpStream::connect_timeout(&reachable(listening), left()?)?;
    socket.set_nodelay(true)?;
    let mut request = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", visit.method, visit.target, visit.host);
    for (name, value) in visit.fields {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if !visit.body.is_empty() || matches!(visit.method, "POST" | "PUT" | "PATCH") {
        request.push_str(&format!("Content-Length: {}\r\n", visit.body.len()));
    }
    request.push_str("Connection: close\r\n\r\n");
    let mut request = request.into_bytes();
    request.extend_from_slice(visit.body);
    socket.set_write_timeout(Some(left()?))?;
    let sent = socket.write_all(&request);
    let mut input = Vec::new();
    let mut more = |input: &mut Vec<u8>| -> Result<usize, Fault> {
        socket.set_read_timeout(Some(left()?))?;
        let mut chunk = [0; 16 * 1024];
        let n = socket.read(&mut chunk)?;
        input.extend_from_slice(&chunk[..n]);
        Ok(n)
    };
    let (mut answered, mut decoder) = loop {
        match head::parse_response(&input, visit.method) {
            Ok(Some((head, used))) if (100..200).contains(&head.status) => {
                if head.status == 101 {
                    return Err(Fault::Broken("it switched to another protocol".into()));
                }
                input.drain(..used);
            }
            Ok(Some((head, used))) => {
                let mut fields = BTreeMap::<_, Vec<_>>::new();
                for field in &head.fields {
                    let value = String::from_utf8_lossy(field.value).into_owned();
                    fields.entry(field.name.to_owned()).or_default().push(value);
                }
                let (status, decoder) = (head.status, Decoder::new(head.framing));
                input.drain(..used);
                let time = Duration::ZERO;
                break (Answered { status, fields, body: Vec::new(), truncated: false, time }, decoder);
            }
            Ok(None) if input.len() <= MAX_HEAD => {
                if more(&mut input)? == 0 {
                    // What went wrong while sending explains more than that nothing came back.
                    sent?;
                    return Err(Fault::Broken("the connection was closed without an answer".into()));
                }
            }
            Ok(None) => return Err(Fault::Broken("the head of the answer has no end".into())),
            Err(fault) => return Err(Fault::Broken(fault.to_string())),
        }
    };
    loop {
        let mut used = 0;
        let done = loop {
            match decoder.decode(&input[used..]).map_err(|fault| Fault::Broken(fault.to_string()))? {
                Step::Data { used: n, data } => {
                    let room = MOST - answered.body.len();
                    answered.body.extend_from_slice(&data[..data.len().min(room)]);
                    answered.truncated = data.len() > room;
                    used += n;
                    if answered.truncated {
                        break true;
                    }
                }
                Step::More { .. } => break false,
                Step::End { .. } => break true,
            }
        };
        input.clear();
        if done {
            break;
        }
        if more(&mut input)? == 0 {
            decoder.at_eof().map_err(|fault| Fault::Broken(fault.to_string()))?;
            break;
        }
    }
    answered.time = start.elapsed();
    Ok(answered)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn answered(answer: &'static [u8]) -> (Result<Answered, Fault>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let server = thread::spawn(move || {
            let (mut socket, _) = listener.accept().expect("a visit");
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n\r\nbody") {
                let mut chunk = [0; 1024];
                let n = socket.read(&mut chunk).expect("the request");
                seen.extend_from_slice(&chunk[..n]);
            }
            // It fails when the visitor has seen enough.
            let _ = socket.write_all(answer);
            String::from_utf8(seen).expect("ASCII")
        });
        let fields = [("X-Test", "1")];
        let asked =
            Visit { method: "POST", host: "app.test", target: "/p?q", fields: &fields, body: b"body" };
        let outcome = visit(address, &asked);
        (outcome, server.join().expect("no panic"))
    }

    #[test]
    fn a_visit_asks_and_reads_whole_answers() {
        let (outcome, sent) = answered(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\
              Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        );
        let answer = outcome.unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!((answer.status, answer.body.as_slice(), answer.truncated), (200, &b"hello"[..], false));
        assert_eq!(answer.fields["Set-Cookie"], ["a", "b"]);
        assert!(answer.time > Duration::ZERO);
        assert!(
            sent.starts_with("POST /p?q HTTP/1.1\r\nHost: app.test\r\nX-Test: 1\r\nContent-Length: 4\r\n"),
            "{sent}"
        );
    }

    #[test]
    fn half_an_answer_is_none() {
        for answer in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", b"SSH-2.0-x\r\n\r\n"] {
            let (outcome, _) = answered(answer);
            assert!(matches!(outcome, Err(Fault::Broken(_))));
        }
    }

    #[test]
    fn long_answers_are_cut_off() {
        let long: Vec<u8> = b"HTTP/1.1 200 OK\r\n\r\n".iter().copied().chain(vec![b'x'; MOST + 9]).collect();
        let (outcome, _) = answered(long.leak());
        let answer = outcome.unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!((answer.body.len(), answer.truncated), (MOST, true));
    }

    #[test]
    fn the_address_of_all_is_reached_over_loopback() {
        for (listening, expected) in
            [("0.0.0.0:80", "127.0.0.1:80"), ("[::]:80", "[::1]:80"), ("10.0.0.1:80", "10.0.0.1:80")]
        {
            let listening = listening.parse().expect("an address");
            assert_eq!(reachable(listening).to_string(), expected);
        }
    }
}
