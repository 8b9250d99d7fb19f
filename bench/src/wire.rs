//! A Visitor's connection, plain or TLS, over a blocking or a non-blocking socket alike. TLS is fed from a
//! buffer of the caller, since rustls itself reads in 4 KiB pieces and the generator would be the limit.

use std::io::{self, BufRead, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};

use crate::fault::Fault;
use crate::target::Target;

/// A connection over a socket `S`.
#[derive(Debug)]
pub struct Wire<S> {
    sock: S,
    tls: Option<Box<ClientConnection>>,
}

/// Connects a blocking socket. `patience` bounds the connection and every later read and write.
pub fn dial(target: &Target, patience: Duration) -> Result<Wire<TcpStream>, Fault> {
    let sock = TcpStream::connect_timeout(&target.addr, patience)
        .and_then(|sock| {
            sock.set_nodelay(true)?;
            sock.set_read_timeout(Some(patience))?;
            sock.set_write_timeout(Some(patience))?;
            Ok(sock)
        })
        .map_err(Fault::io(format!("connect to {}", target.addr)))?;
    Wire::new(sock, target)
}

impl<S: Read + Write> Wire<S> {
    /// Puts TLS on `sock` where the target wants it. Nothing is sent yet.
    pub fn new(sock: S, target: &Target) -> Result<Self, Fault> {
        let tls = if target.tls { Some(Box::new(tls_connection(&target.host)?)) } else { None };
        Ok(Self { sock, tls })
    }

    /// The socket, to register it or shut it down.
    pub fn sock(&mut self) -> &mut S {
        &mut self.sock
    }

    /// Reads once from the socket and hands every piece of plain text to `each`. Returns the bytes read
    /// from the socket, 0 at its end.
    pub fn receive(&mut self, scratch: &mut [u8], mut each: impl FnMut(&[u8])) -> io::Result<usize> {
        let count = self.sock.read(scratch)?;
        let Some(tls) = self.tls.as_mut() else {
            each(&scratch[..count]);
            return Ok(count);
        };
        let mut rest = &scratch[..count];
        while !rest.is_empty() {
            // 0 after a close_notify: what follows it is not ours to read (RFC 8446 section 6.1).
            if tls.read_tls(&mut rest)? == 0 {
                return Ok(0);
            }
            tls.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let mut reader = tls.reader();
            loop {
                let length = match reader.fill_buf() {
                    Ok([]) => return Ok(0),
                    Ok(piece) => {
                        each(piece);
                        piece.len()
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                };
                reader.consume(length);
            }
        }
        if tls.wants_write() {
            self.flush_tls()?;
        }
        Ok(count)
    }

    /// Sends all of a small request. On a non-blocking socket it must fit the socket's buffer, which a
    /// request of a hundred bytes on a connection without another one under way always does.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.tls.as_mut() {
            None => self.sock.write_all(bytes),
            Some(tls) => {
                tls.writer().write_all(bytes)?;
                self.flush_tls()
            }
        }
    }

    /// Sends what an earlier call left behind.
    pub fn flush_tls(&mut self) -> io::Result<()> {
        let Some(tls) = self.tls.as_mut() else { return Ok(()) };
        while tls.wants_write() {
            match tls.write_tls(&mut self.sock) {
                Ok(_) => {}
                // The poller reports when there is room again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// For tungstenite, which wants one blocking `Read + Write`.
impl Read for Wire<TcpStream> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.tls.as_mut() {
            None => self.sock.read(buf),
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.sock).read(buf),
        }
    }
}

impl Write for Wire<TcpStream> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self.tls.as_mut() {
            None => self.sock.write(buf),
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.sock).write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.tls.as_mut() {
            None => self.sock.flush(),
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.sock).flush(),
        }
    }
}

fn tls_connection(host: &str) -> Result<ClientConnection, Fault> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| Arc::new(tls_config()));
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| Fault::Usage(format!("server name {host:?}: {error}")))?;
    ClientConnection::new(Arc::clone(config), name).map_err(|error| Fault::Answer(format!("tls: {error}")))
}

fn tls_config() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the ring provider supports the default versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    // Each Visitor is a new one: resumed sessions would make new connections look cheaper than they are.
    config.resumption = Resumption::disabled();
    config
}

/// Accepts every certificate: the generator measures a throw-away CA on this machine.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
