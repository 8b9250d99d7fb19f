//! A connection to an upstream: plain TCP or TLS over it, neither of which ever waits.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, RawFd};

use rustls::ClientConnection;

/// Clear bytes taken into the TLS connection while the socket is full.
const TLS_PENDING: usize = 64 * 1024;

/// A non-blocking connection. Reading and writing give `WouldBlock` instead of waiting.
pub(crate) struct Wire {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// TLS said that no more comes (RFC 8446 6.1), together with the last bytes.
    ended: bool,
}

impl Wire {
    /// Wraps a socket, connected or connecting, in non-blocking mode.
    pub(crate) fn new(socket: TcpStream, tls: Option<ClientConnection>) -> Wire {
        let tls = tls.map(|mut tls| {
            tls.set_buffer_limit(Some(TLS_PENDING));
            Box::new(tls)
        });
        Wire { socket, tls, ended: false }
    }

    /// The socket below.
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Takes the TLS handshake as far as it goes without waiting. `Ok(true)`: done, or none is needed.
    pub(crate) fn handshake(&mut self) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else { return Ok(true) };
        while tls.is_handshaking() {
            if send(tls, &self.socket)? == Sent::Blocked {
                return Ok(false);
            }
            if tls.is_handshaking() && !receive(tls, &self.socket)? {
                return Ok(false);
            }
        }
        send(tls, &self.socket)?;
        Ok(true)
    }

    /// Sends what TLS holds back. `Ok(true)`: nothing is left.
    pub(crate) fn flush_tls(&mut self) -> io::Result<bool> {
        match &mut self.tls {
            Some(tls) => Ok(send(tls, &self.socket)? == Sent::All),
            None => Ok(true),
        }
    }

    /// Ends the sending direction: TLS says so in its own way (RFC 8446 6.1), then TCP.
    pub(crate) fn shutdown_write(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => {
                tls.send_close_notify();
                send(tls, &self.socket).map(drop)
            }
            None => self.socket.shutdown(Shutdown::Write),
        }
    }

    /// Says goodbye in the way of TLS, if its socket takes that now.
    pub(crate) fn say_goodbye(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // Nobody waits for it: the connection is closed next.
            let _ = send(tls, &self.socket);
        }
    }

    /// Whether there is nothing to read, not even an end. What is there is lost: the connection is of no more use.
    pub(crate) fn is_silent(&mut self) -> bool {
        self.read(&mut [0]).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether reading may give bytes, or the end, although the socket has none: TLS has decrypted them already.
    pub(crate) fn has_decrypted(&mut self) -> bool {
        if self.ended {
            return true;
        }
        self.tls
            .as_mut()
            .is_some_and(|tls| tls.process_new_packets().is_ok_and(|s| s.plaintext_bytes_to_read() > 0))
    }
}

impl AsRawFd for Wire {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[derive(PartialEq, Eq)]
enum Sent {
    All,
    Blocked,
}

fn send(tls: &mut ClientConnection, mut socket: &TcpStream) -> io::Result<Sent> {
    while tls.wants_write() {
        match tls.write_tls(&mut socket) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Sent::Blocked),
            Err(e) => return Err(e),
        }
    }
    Ok(Sent::All)
}

/// Receives and decrypts some. `Ok(false)`: nothing there yet.
fn receive(tls: &mut ClientConnection, mut socket: &TcpStream) -> io::Result<bool> {
    loop {
        match tls.read_tls(&mut socket) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(e),
        }
    }
    if let Err(fault) = tls.process_new_packets() {
        // Tell the other side why, if its socket takes it; our own error is the one that counts.
        let _ = send(tls, socket);
        return Err(io::Error::new(io::ErrorKind::InvalidData, fault));
    }
    Ok(true)
}

impl Read for Wire {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return (&self.socket).read(out) };
        // Fill `out` as far as possible: one record is at most 16 KiB, and a short read means "empty" to the caller.
        let mut filled = 0;
        while filled < out.len() {
            match tls.reader().read(&mut out[filled..]) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(n) => {
                    filled += n;
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) if filled > 0 => break,
                Err(e) => return Err(e),
            }
            match receive(tls, &self.socket) {
                Ok(true) => {}
                Ok(false) if filled > 0 => break,
                Ok(false) => return Err(io::ErrorKind::WouldBlock.into()),
                // What was decrypted counts first; the next call meets the error again.
                Err(_) if filled > 0 => break,
                Err(e) => return Err(e),
            }
        }
        send(tls, &self.socket)?;
        Ok(filled)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return (&self.socket).write(bytes) };
        if send(tls, &self.socket)? == Sent::Blocked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = tls.writer().write(bytes)?;
        send(tls, &self.socket)?;
        if taken == 0 && !bytes.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    fn write_vectored(&mut self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return (&self.socket).write_vectored(parts) };
        if send(tls, &self.socket)? == Sent::Blocked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = tls.writer().write_vectored(parts)?;
        send(tls, &self.socket)?;
        let any = parts.iter().any(|part| !part.is_empty());
        if taken == 0 && any { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flush_tls().map(drop)
    }
}
