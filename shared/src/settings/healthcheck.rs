//! Asks the daemon on this machine whether it is well: what a container's health check runs.
//!
//! One plain request; images without a shell have no curl.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long the whole question may take; container engines ask every 30 s.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of the answer that matter: its status line.
const ANSWER: usize = 1024;

/// Why the daemon is not well.
#[derive(Debug)]
pub enum Unwell {
    /// It takes any free port, so there is no telling which.
    NoPort,
    /// It cannot be reached, or does not answer in time.
    Io(SocketAddr, io::Error),
    /// It answers, but not with 200.
    Answer(SocketAddr, String),
}

impl fmt::Display for Unwell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unwell::NoPort => f.write_str("the port is set to 0, so it is not known where to ask"),
            Unwell::Io(address, error) => write!(f, "http://{address}/health: {error}"),
            Unwell::Answer(address, line) => write!(f, "http://{address}/health: answered {line:?}"),
        }
    }
}

impl std::error::Error for Unwell {}

/// Asks `/health` of the daemon that listens on `bind`:`port`.
pub fn ask(bind: IpAddr, port: u16) -> Result<(), Unwell> {
    if port == 0 {
        return Err(Unwell::NoPort);
    }
    let mut result = Err(Unwell::NoPort);
    for address in addresses(bind) {
        let address = SocketAddr::new(address, port);
        result = ask_at(address);
        // Only a refused connection may mean the other family; a wrong answer is an answer.
        if !matches!(result, Err(Unwell::Io(..))) {
            break;
        }
    }
    result
}

/// Where a daemon bound to `bind` is found on this machine.
pub fn addresses(bind: IpAddr) -> Vec<IpAddr> {
    match bind.to_canonical() {
        ip if !ip.is_unspecified() => vec![ip],
        IpAddr::V4(_) => vec![Ipv4Addr::LOCALHOST.into()],
        IpAddr::V6(_) => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
    }
}

fn ask_at(address: SocketAddr) -> Result<(), Unwell> {
    let line = status_line(address).map_err(|error| Unwell::Io(address, error))?;
    let mut words = line.split(' ');
    if words.next().is_some_and(|version| version.starts_with("HTTP/1.")) && words.next() == Some("200") {
        return Ok(());
    }
    Err(Unwell::Answer(address, line))
}

fn status_line(address: SocketAddr) -> io::Result<String> {
    let deadline = Instant::now() + PATIENCE;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // In one piece, so that it is one segment.
    let request = format!("GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut buffer = [0; 256];
    while !answer.contains(&b'\n') && answer.len() < ANSWER {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
    }
    let line = answer.split(|&b| b == b'\n').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(line).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// What `ask` says when the daemon answers `answer`.
    fn answered(answer: &'static str) -> Result<(), Unwell> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("asked");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                assert_eq!(stream.read(&mut byte).expect("a whole head"), 1);
                head.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).expect("still there");
            String::from_utf8(head).expect("ASCII")
        });
        let result = ask(address.ip(), address.port());
        let head = server.join().expect("answered");
        assert!(head.starts_with("GET /health HTTP/1.1\r\nHost: 127.0.0.1:"), "{head}");
        result
    }

    #[test]
    fn status_200_is_well_and_nothing_else_is() {
        assert!(answered("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_ok());
        for answer in
            ["HTTP/1.1 503 Service Unavailable\r\n\r\n", "HTTP/1.1 2000 X\r\n\r\n", "SSH-2.0-x\r\n", ""]
        {
            assert!(matches!(answered(answer), Err(Unwell::Answer(..))), "{answer:?}");
        }
    }

    #[test]
    fn nobody_listening_is_unwell() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        drop(listener);
        assert!(matches!(ask(address.ip(), address.port()), Err(Unwell::Io(..))));
        assert!(matches!(ask(address.ip(), 0), Err(Unwell::NoPort)));
    }

    #[test]
    fn a_wildcard_bind_is_asked_on_loopback() {
        let rows: [(&str, &[&str]); 4] = [
            ("0.0.0.0", &["127.0.0.1"]),
            ("::", &["127.0.0.1", "::1"]),
            ("192.0.2.7", &["192.0.2.7"]),
            ("::ffff:192.0.2.7", &["192.0.2.7"]),
        ];
        for (bind, asked) in rows {
            let asked: Vec<IpAddr> = asked.iter().map(|ip| ip.parse().expect("an address")).collect();
            assert_eq!(addresses(bind.parse().expect("an address")), asked, "{bind}");
        }
    }
}
