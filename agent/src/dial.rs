//! Making one connection to a Gateway: name, TCP, TLS, WebSocket. Says which of the steps failed, and what to do.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use shared::head::{self, MAX_HEAD};
use shared::hello::SUB_PROTOCOL;
use shared::secret::Secret;
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;

use crate::config::GatewayUrl;
use crate::resolver::Resolver;

/// Each step must be done after this long.
const STEP: Duration = Duration::from_secs(10);

/// A connection whose WebSocket handshake is done.
pub(crate) struct Dialled {
    pub(crate) socket: TcpStream,
    pub(crate) tls: Option<ClientConnection>,
    /// Bytes that came with the end of the handshake.
    pub(crate) early: Vec<u8>,
}

/// The step at which dialling failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// The name has no address.
    Dns,
    /// Nobody answers, or nothing listens.
    Tcp,
    /// No secure connection.
    Tls,
    /// Something answered, but not a Gateway that is up.
    Http,
    /// The Gateway does not accept the key.
    Key,
    /// The Gateway declined, or said nothing sensible.
    Greeting,
}

/// Why dialling failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct DialFault {
    pub(crate) step: Step,
    pub(crate) text: String,
}

impl fmt::Display for DialFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The text does not name the Gateway: whoever reads it knows which one was dialled.
fn fault<T>(step: Step, text: String) -> Result<T, DialFault> {
    Err(DialFault { step, text })
}

/// The Gateway's addresses. A name is looked up anew at every try.
pub(crate) fn addresses(url: &GatewayUrl, resolver: &Resolver) -> Result<Vec<SocketAddr>, DialFault> {
    if let Ok(ip) = url.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, url.port)]);
    }
    match resolver.wait(&url.host, url.port, STEP) {
        Ok(addresses) if !addresses.is_empty() => Ok(addresses),
        Ok(_) => fault(Step::Dns, format!("{}: the name has no address", url.host)),
        Err(e) => fault(Step::Dns, format!("{}: the name cannot be looked up: {e}", url.host)),
    }
}

/// Whether the Gateway's address accepts a TCP connection now.
pub(crate) fn answers(url: &GatewayUrl, resolver: &Resolver) -> bool {
    addresses(url, resolver).is_ok_and(|all| {
        all.iter().any(|address| TcpStream::connect_timeout(address, Duration::from_millis(900)).is_ok())
    })
}

/// Dials every address of the Gateway until one leads to a Gateway.
pub(crate) fn dial(
    url: &GatewayUrl,
    tls: Option<&Arc<ClientConfig>>,
    key: &Secret,
    resolver: &Resolver,
) -> Result<Dialled, DialFault> {
    let mut last = None;
    for address in addresses(url, resolver)? {
        match TcpStream::connect_timeout(&address, STEP / 2) {
            Ok(socket) => match handshakes(url, socket, tls, key) {
                Ok(dialled) => return Ok(dialled),
                // The key is as wrong at the Gateway's other addresses.
                Err(fault) if fault.step == Step::Key => return Err(fault),
                Err(fault) => last = Some(fault),
            },
            Err(e) => {
                let hint = match e.kind() {
                    io::ErrorKind::ConnectionRefused => {
                        "nothing listens there: is the Gateway (or Caddy) running?"
                    }
                    io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
                        "no answer: is the server up, and does its firewall let this port through?"
                    }
                    _ => "is the network up?",
                };
                let text = format!("cannot connect to {address}: {e}; {hint}");
                last = Some(DialFault { step: Step::Tcp, text });
            }
        }
    }
    Err(last.unwrap_or(DialFault { step: Step::Dns, text: format!("{}: no address", url.host) }))
}

fn handshakes(
    url: &GatewayUrl,
    socket: TcpStream,
    tls: Option<&Arc<ClientConfig>>,
    key: &Secret,
) -> Result<Dialled, DialFault> {
    let prepare = || -> io::Result<()> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(STEP))?;
        socket.set_write_timeout(Some(STEP))
    };
    if let Err(e) = prepare() {
        return fault(Step::Tcp, format!("{e}"));
    }
    let Some(config) = tls else {
        let early = upgrade(url, &mut &socket, key)?;
        return Ok(Dialled { socket, tls: None, early });
    };
    let name = match ServerName::try_from(url.host.clone()) {
        Ok(name) => name,
        Err(_) => return fault(Step::Tls, format!("{:?} cannot be a name in TLS", url.host)),
    };
    let mut connection = match ClientConnection::new(Arc::clone(config), name) {
        Ok(connection) => connection,
        Err(e) => return fault(Step::Tls, format!("{e}")),
    };
    while connection.is_handshaking() {
        if let Err(e) = connection.complete_io(&mut &socket) {
            let hint = if e.to_string().contains("UnknownIssuer") {
                "; the certificate is from an authority that this Agent does not know: for a private one set Agent__GatewayCaFile"
            } else {
                ""
            };
            return fault(Step::Tls, format!("no secure connection: {e}{hint}"));
        }
    }
    let mut both = &socket;
    let early = upgrade(url, &mut rustls::Stream::new(&mut connection, &mut both), key)?;
    Ok(Dialled { socket, tls: Some(connection), early })
}

/// The WebSocket handshake (RFC 6455 4.1). Returns what came after it.
fn upgrade(url: &GatewayUrl, stream: &mut (impl Read + Write), key: &Secret) -> Result<Vec<u8>, DialFault> {
    let nonce = generate_key();
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: octoporty-agent/{}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {nonce}\r\nSec-WebSocket-Protocol: {SUB_PROTOCOL}\r\n\
         X-Api-Key: {}\r\n\r\n",
        url.path,
        url.authority(),
        crate::VERSION,
        key.expose(),
    );
    let mut bytes = Vec::with_capacity(1024);
    let exchange = (|| {
        stream.write_all(request.as_bytes())?;
        stream.flush()?;
        let deadline = Instant::now() + STEP;
        let mut chunk = [0; 2048];
        while !bytes.windows(4).any(|w| w == b"\r\n\r\n") {
            if bytes.len() > MAX_HEAD || Instant::now() > deadline {
                return Err(io::Error::other("no end of the answer's head"));
            }
            match stream.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => bytes.extend_from_slice(&chunk[..n]),
            }
        }
        Ok(())
    })();
    if let Err(e) = exchange {
        return fault(Step::Http, format!("no answer to the WebSocket request: {e}"));
    }
    let (head, len) = match head::parse_response(&bytes, "GET") {
        Ok(Some(found)) => found,
        Ok(None) => return fault(Step::Http, "the answer has no end".into()),
        Err(e) => return fault(Step::Http, format!("the answer is not HTTP: {e}")),
    };
    let said = || {
        let text: String =
            String::from_utf8_lossy(&bytes[len..]).chars().filter(|c| !c.is_control()).take(200).collect();
        if text.is_empty() { String::new() } else { format!(": {text}") }
    };
    match head.status {
        101 if head.get("sec-websocket-accept") == Some(derive_accept_key(nonce.as_bytes()).as_bytes()) => {
            if head.get("sec-websocket-protocol") != Some(SUB_PROTOCOL.as_bytes()) {
                return fault(
                    Step::Http,
                    format!("this is a WebSocket server, but no Gateway that speaks {SUB_PROTOCOL}"),
                );
            }
            Ok(bytes.split_off(len))
        }
        101 => fault(Step::Http, "the WebSocket answer does not belong to our request".into()),
        401 => fault(
            Step::Key,
            "the Gateway refused the key: Agent__ApiKey must equal Gateway__ApiKey there".into(),
        ),
        429 => {
            // Not a word on our key: the same address may have guessed elsewhere. The usual back-off is right.
            fault(Step::Http, format!("the Gateway refuses this address after too many wrong keys{}", said()))
        }
        status @ (502..=504) => fault(
            Step::Http,
            format!("status {status}: the proxy in front is up, the Gateway behind it is not{}", said()),
        ),
        status @ (301 | 302 | 307 | 308) => {
            let to =
                head.get("location").map(|l| String::from_utf8_lossy(l).into_owned()).unwrap_or_default();
            fault(
                Step::Http,
                format!("status {status}, redirected to {to:?}: use the final address (wss://)"),
            )
        }
        404 => {
            fault(Step::Http, format!("status 404: no Gateway at this path; it is usually /tunnel{}", said()))
        }
        status => fault(Step::Http, format!("status {status}{}", said())),
    }
}
