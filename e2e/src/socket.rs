//! A connection, plain or TLS, that several threads may use: one reads, one writes, any may shut it down.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use socket2::SockRef;

/// A connection. Clones are the same connection.
#[derive(Clone, Debug)]
pub struct Socket {
    tcp: Arc<TcpStream>,
    tls: Option<Arc<Tls>>,
}

struct Tls {
    connection: Mutex<Connection>,
    /// Arrived, but not given to `connection` yet: it takes more only when what it has deciphered was fetched.
    arrived: Mutex<Vec<u8>>,
    /// Held while bytes of `connection` go out, so that they keep their order.
    sending: Mutex<()>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Socket {
    /// A plain connection.
    pub fn plain(tcp: TcpStream) -> Socket {
        tcp.set_nodelay(true).expect("nodelay");
        Socket { tcp: Arc::new(tcp), tls: None }
    }

    /// Greets as a TLS server.
    pub fn accept_tls(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<Socket> {
        let connection = ServerConnection::new(config).map_err(io::Error::other)?;
        Socket::greet(tcp, connection.into())
    }

    /// Greets as a TLS client.
    pub fn connect_tls(tcp: TcpStream, config: Arc<ClientConfig>, name: &str) -> io::Result<Socket> {
        let name = name.to_owned().try_into().map_err(io::Error::other)?;
        let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        Socket::greet(tcp, connection.into())
    }

    fn greet(tcp: TcpStream, mut connection: Connection) -> io::Result<Socket> {
        tcp.set_nodelay(true)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut &tcp)?;
        }
        let tls =
            Tls { connection: Mutex::new(connection), arrived: Mutex::default(), sending: Mutex::new(()) };
        Ok(Socket { tcp: Arc::new(tcp), tls: Some(Arc::new(tls)) })
    }

    /// The name that a TLS client asked for.
    pub fn server_name(&self) -> Option<String> {
        let tls = self.tls.as_ref()?;
        match &*tls.connection.lock().expect("no thread panics while it holds this") {
            Connection::Server(server) => server.server_name().map(str::to_owned),
            Connection::Client(_) => None,
        }
    }

    /// The TCP connection below.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// The other side's address.
    pub fn peer(&self) -> SocketAddr {
        self.tcp.peer_addr().expect("connected")
    }

    /// Bounds how long a read waits; when it is over, the read fails with `WouldBlock`.
    pub fn set_read_timeout(&self, patience: Duration) {
        self.tcp.set_read_timeout(Some(patience)).expect("a duration above zero");
    }

    /// Bounds how long a write waits.
    pub fn set_write_timeout(&self, patience: Duration) {
        self.tcp.set_write_timeout(Some(patience)).expect("a duration above zero");
    }

    /// Says that nothing more will be sent.
    pub fn finish_writing(&self) -> io::Result<()> {
        if let Some(tls) = &self.tls {
            tls.connection.lock().expect("no thread panics while it holds this").send_close_notify();
            self.flush_tls(tls)?;
        }
        self.tcp.shutdown(Shutdown::Write)
    }

    /// Ends the connection in both directions; a reader in another thread returns.
    pub fn close(&self) {
        // It may be closed already; then there is nothing left to do.
        drop(self.finish_writing());
        drop(self.tcp.shutdown(Shutdown::Both));
    }

    /// Sends bytes over TLS and, in the same packet, that no more come (RFC 8446 6.1), or these raw bytes instead. TCP
    /// stays open in both directions.
    pub fn send_last(&self, bytes: &[u8], instead: Option<&[u8]>) -> io::Result<()> {
        let tls = self.tls.as_ref().expect("a connection with TLS");
        let _sending = tls.sending.lock().expect("no thread panics while it holds this");
        let mut out = Vec::new();
        let mut connection = tls.connection.lock().expect("no thread panics while it holds this");
        connection.writer().write_all(bytes)?;
        if instead.is_none() {
            connection.send_close_notify();
        }
        while connection.wants_write() {
            connection.write_tls(&mut out)?;
        }
        drop(connection);
        out.extend_from_slice(instead.unwrap_or_default());
        (&*self.tcp).write_all(&out)
    }

    /// Makes the connection end with `RST` once the last clone is dropped.
    pub fn abort_on_drop(&self) {
        SockRef::from(&*self.tcp).set_linger(Some(Duration::ZERO)).expect("linger");
    }

    fn flush_tls(&self, tls: &Tls) -> io::Result<()> {
        let _sending = tls.sending.lock().expect("no thread panics while it holds this");
        let mut bytes = Vec::new();
        {
            let mut connection = tls.connection.lock().expect("no thread panics while it holds this");
            while connection.wants_write() {
                connection.write_tls(&mut bytes)?;
            }
        }
        (&*self.tcp).write_all(&bytes)
    }

    fn read_tls(&self, tls: &Tls, out: &mut [u8]) -> io::Result<usize> {
        // Held while waiting: there is one reader.
        let mut arrived = tls.arrived.lock().expect("no thread panics while it holds this");
        loop {
            let answered = {
                let mut connection = tls.connection.lock().expect("no thread panics while it holds this");
                match connection.reader().read(out) {
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                    other => return other,
                }
                if arrived.is_empty() {
                    None
                } else {
                    let taken = connection.read_tls(&mut &arrived[..])?;
                    arrived.drain(..taken);
                    Some(connection.process_new_packets())
                }
            };
            match answered {
                // Also when it failed: the other side is to hear why.
                Some(result) => {
                    self.flush_tls(tls)?;
                    result.map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?;
                }
                None => {
                    let mut buffer = [0; 16 * 1024];
                    match (&*self.tcp).read(&mut buffer)? {
                        0 => {
                            let mut connection =
                                tls.connection.lock().expect("no thread panics while it holds this");
                            connection.read_tls(&mut io::empty())?;
                            return connection.reader().read(out);
                        }
                        len => arrived.extend_from_slice(&buffer[..len]),
                    }
                }
            }
        }
    }
}

impl Read for &Socket {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match &self.tls {
            None => (&*self.tcp).read(out),
            Some(tls) => self.read_tls(tls, out),
        }
    }
}

impl Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &self.tls else { return (&*self.tcp).write(bytes) };
        let len = bytes.len().min(16 * 1024);
        let mut connection = tls.connection.lock().expect("no thread panics while it holds this");
        let len = connection.writer().write(&bytes[..len])?;
        drop(connection);
        self.flush_tls(tls)?;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Socket {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        (&*self).read(out)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
