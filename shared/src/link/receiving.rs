//! The receiving half of a Link: the reader thread, from the socket's bytes to Frames for a [`Receiver`].

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use rustls::ClientConnection;
use tungstenite::Message;
use tungstenite::protocol::{Role, WebSocketContext};

use super::sending::Owner;
use super::{Link, RECEIVED};
use crate::frame::{Frame, MAX_CONTROL};
use crate::monotime;
use crate::threads::lock;
use crate::ws;

/// What a daemon does with what arrives on a Link. All calls come from the Link's reader thread, which must not
/// be kept waiting.
pub trait Receiver: Send + 'static {
    /// A Frame that concerns a Stream. An error closes the Link as a protocol error.
    fn stream_frame(&mut self, link: &Arc<Link>, frame: Frame<'_>) -> Result<(), String>;
    /// A whole control message. An error closes the Link as a protocol error.
    fn control(&mut self, link: &Arc<Link>, json: &[u8]) -> Result<(), String>;
    /// Everything that has arrived is handled: send what it led to, before the thread waits for more.
    fn pause(&mut self, link: &Arc<Link>);
    /// The Link was in doubt and has answered: it may be given something new again.
    fn sound_again(&mut self, _link: &Arc<Link>) {}
    /// The Link is closed; the last call.
    fn closed(&mut self, link: &Arc<Link>, why: &str);
}

impl Link {
    pub(super) fn read_loop(self: &Arc<Self>, early: Vec<u8>, mut receiver: impl Receiver) {
        let role = if self.masked() { Role::Client } else { Role::Server };
        let mut context = WebSocketContext::from_partially_read(early, role, Some(ws::config()));
        let mut inlet = Inlet { link: self, tls: Vec::new(), tls_at: 0, may_wait: false, reply: Vec::new() };
        if self.tls.is_some() {
            inlet.tls = Vec::with_capacity(64 * 1024);
        }
        let mut control = [Vec::new(), Vec::new()];
        let why = loop {
            let step = match context.read(&mut inlet) {
                Ok(Message::Binary(bytes)) => {
                    self.bytes_in.fetch_add(bytes.len() as u64, Relaxed);
                    RECEIVED.add(bytes.len() as u64);
                    self.receive(&bytes, &mut control, &mut receiver)
                }
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => Ok(()),
                Ok(Message::Close(frame)) => {
                    self.close_code.store(frame.as_ref().map_or(0, |f| f.code.into()), Relaxed);
                    let text =
                        frame.map_or_else(String::new, |f| format!(" ({} {})", u16::from(f.code), f.reason));
                    self.pass_reply(&mut inlet.reply);
                    break format!("closed by the peer{text}");
                }
                Ok(Message::Text(_)) => Err("text message".into()),
                Err(tungstenite::Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                    receiver.pause(self);
                    inlet.may_wait = true;
                    Ok(())
                }
                Err(tungstenite::Error::Io(e)) => break format!("receiving failed: {e}"),
                Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => {
                    break "closed".into();
                }
                Err(tungstenite::Error::Protocol(
                    tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
                )) => break "connection lost".into(),
                Err(e) => Err(e.to_string()),
            };
            if !inlet.reply.is_empty() {
                self.pass_reply(&mut inlet.reply);
            }
            if let Err(fault) = step {
                self.close_with(1002, &fault);
                break format!("protocol error: {fault}");
            }
            if self.is_closed() {
                break "closed".into();
            }
        };
        self.close(&why);
        let why = self.why.get().map_or("closed", String::as_str);
        receiver.closed(self, why);
    }

    /// What tungstenite answers by itself (pong, close) goes out through the sending half.
    fn pass_reply(&self, reply: &mut Vec<u8>) {
        let mut sending = lock(&self.sending);
        if !sending.closed && sending.owner == Owner::Nobody {
            sending.out.extend_from_slice(reply);
        }
        reply.clear();
        drop(sending);
        self.flush();
    }

    fn receive(
        self: &Arc<Self>,
        bytes: &[u8],
        control: &mut [Vec<u8>; 2],
        receiver: &mut impl Receiver,
    ) -> Result<(), String> {
        match Frame::decode(bytes, self.ours).map_err(|fault| fault.to_string())? {
            None => Ok(()),
            Some(Frame::Control { more, later, json }) => {
                // What may wait comes in parts with whole other messages between them.
                let control = &mut control[usize::from(later)];
                if !more && control.is_empty() {
                    return receiver.control(self, json);
                }
                if control.len() + json.len() > MAX_CONTROL {
                    return Err(format!("control message of more than {MAX_CONTROL} bytes"));
                }
                control.extend_from_slice(json);
                if more { Ok(()) } else { receiver.control(self, &std::mem::take(control)) }
            }
            Some(Frame::Beat { time }) => {
                self.urgent(&Frame::BeatAck { time, uptime: monotime::seconds() });
                self.flush();
                Ok(())
            }
            Some(Frame::BeatAck { time, uptime }) => {
                let sample = monotime::micros().saturating_sub(time).max(1);
                let old = self.rtt.load(Relaxed);
                let smooth = if old == 0 { sample } else { (old * 3 + sample) / 4 };
                self.rtt.store(smooth, Relaxed);
                lock(&self.base_rtt).add(sample, monotime::micros());
                self.peer_uptime.store(uptime, Relaxed);
                if self.answers(time) {
                    receiver.sound_again(self);
                }
                Ok(())
            }
            Some(frame) => {
                if matches!(frame, Frame::Data { .. }) && !self.busy.load(Relaxed) {
                    self.busy.store(true, Relaxed);
                }
                receiver.stream_frame(self, frame)
            }
        }
    }

    /// Sends what TLS itself has to say (an alert, a key update), which came up while receiving.
    fn send_tls_own(&self, tls: &Mutex<ClientConnection>) {
        let mut sending = lock(&self.sending);
        if sending.owner == Owner::Nobody && !sending.closed {
            let mut own = Vec::new();
            let mut connection = lock(tls);
            while connection.wants_write() && connection.write_tls(&mut own).is_ok() {}
            drop(connection);
            sending.rest.extend_from_slice(&own);
            drop(sending);
            self.flush();
        }
        // Otherwise whoever writes takes it along with the next batch.
    }
}

/// Where tungstenite reads from: the socket, or the TLS connection over it. It says `WouldBlock` once before each
/// wait, so that the reader can send what it has gathered; what tungstenite wants to answer is kept in `reply`.
struct Inlet<'l> {
    link: &'l Link,
    /// Encrypted bytes received and not yet given to rustls.
    tls: Vec<u8>,
    tls_at: usize,
    may_wait: bool,
    reply: Vec<u8>,
}

impl Inlet<'_> {
    fn wait(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.may_wait) { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    fn read_tls(&mut self, tls: &Mutex<ClientConnection>, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut connection = lock(tls);
            match connection.reader().read(out) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            if self.tls_at < self.tls.len() {
                let mut rest = &self.tls[self.tls_at..];
                let before = rest.len();
                connection.read_tls(&mut rest)?;
                self.tls_at += before - rest.len();
                let state = connection.process_new_packets();
                let own = connection.wants_write();
                drop(connection);
                if own {
                    self.link.send_tls_own(tls);
                }
                state.map_err(io::Error::other)?;
                continue;
            }
            drop(connection);
            self.wait()?;
            self.tls.resize(64 * 1024, 0);
            let n = receive(&self.link.socket, &mut self.tls)?;
            self.tls.truncate(n);
            self.tls_at = 0;
            self.link.last_in.store(monotime::micros(), Relaxed);
            if n == 0 {
                return Ok(0);
            }
        }
    }
}

fn receive(mut socket: &TcpStream, out: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.read(out) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

impl Read for Inlet<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if let Some(tls) = &self.link.tls {
            return self.read_tls(tls, out);
        }
        self.wait()?;
        let n = receive(&self.link.socket, out)?;
        self.link.last_in.store(monotime::micros(), Relaxed);
        Ok(n)
    }
}

impl Write for Inlet<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.reply.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
