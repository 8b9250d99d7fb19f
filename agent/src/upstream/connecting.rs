//! How a connection to an upstream is made: its addresses, one after the other, TCP, TLS; and why it could not be made.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use shared::mapping::UpstreamHost;
use shared::monotime;
use shared::reason::Reason;
use shared::target;
use shared::threads::lock;
use socket2::{Domain, Protocol, Socket, Type};

use super::{CONNECT_TIME, Context, Inner, Phase, Upstream};
use crate::wire::Wire;

/// One address of several may take this long before the next is tried.
const ADDRESS_TIME: u64 = 3_000_000;

impl Upstream {
    /// Finds the addresses of the upstream: at once, or by a thread that may wait.
    pub(super) fn resolve(self: &Arc<Self>, context: &mut Context) {
        // The poller may be asleep without a timeout; from now on there is a deadline to look at.
        self.core.poller.resume(self.token);
        let port = self.target.mapping.port;
        match &self.target.mapping.host {
            UpstreamHost::Address(ip) => self.resolved(Ok(vec![SocketAddr::new(*ip, port)]), context),
            UpstreamHost::Name(name) => match self.core.resolver.known(name.as_str(), port) {
                Some(addresses) => self.resolved(Ok(addresses), context),
                None => {
                    let upstream = Arc::clone(self);
                    let done = move |result| {
                        let mut context = Context::default();
                        upstream.resolved(result, &mut context);
                        context.settle();
                    };
                    if !self.core.resolver.resolve(name.as_str(), port, Box::new(done)) {
                        let mut inner = lock(&self.inner);
                        let text = "too many names are being looked up";
                        self.fail(&mut inner, Reason::TooManyStreams, text, context);
                    }
                }
            },
        }
    }

    fn resolved(self: &Arc<Self>, result: io::Result<Vec<SocketAddr>>, context: &mut Context) {
        let mut inner = lock(&self.inner);
        if !matches!(inner.phase, Phase::Resolving) {
            return; // Reset meanwhile.
        }
        match result {
            Ok(addresses) if addresses.is_empty() => {
                self.fail(&mut inner, Reason::UpstreamDns, "the name has no address", context);
            }
            Ok(mut addresses) => {
                addresses.reverse();
                self.connect(&mut inner, addresses, (Reason::UpstreamUnreachable, String::new()), context);
            }
            Err(e) => self.fail(&mut inner, Reason::UpstreamDns, &e.to_string(), context),
        }
    }

    /// Starts a connection to the last of `rest`, or fails with what the one before failed with.
    fn connect(
        self: &Arc<Self>,
        inner: &mut Inner,
        mut rest: Vec<SocketAddr>,
        mut failure: (Reason, String),
        context: &mut Context,
    ) {
        let end = self.exchange_start(inner) + CONNECT_TIME;
        while let Some(address) = rest.pop() {
            if let Some(why) = target::forbidden(address.ip()) {
                failure = (Reason::TargetForbidden, format!("{address} {why}"));
                continue;
            }
            let now = monotime::micros();
            let until = if rest.is_empty() { end } else { (now + ADDRESS_TIME).min(end) };
            match self.dial(address) {
                Ok(wire) => {
                    inner.wire = Some(wire);
                    inner.phase = Phase::Connecting { rest, tcp: true };
                    self.core.pool.note(self.target.serial, |turns| turns.dials(self.token, now));
                    self.deadline.store(until, Relaxed);
                    return;
                }
                Err(e)
                    if e.raw_os_error() == Some(libc::EMFILE) || e.raw_os_error() == Some(libc::ENFILE) =>
                {
                    failure = (Reason::TooManyStreams, format!("out of descriptors: {e}"));
                }
                Err(e) => failure = (connect_reason(&e), format!("{address}: {e}")),
            }
        }
        self.fail(inner, failure.0, &failure.1, context);
    }

    /// Opens a socket and starts connecting it.
    fn dial(&self, address: SocketAddr) -> io::Result<Wire> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&address.into()) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(e) => return Err(e),
        }
        let mapping = &self.target.mapping;
        let tls = if mapping.tls {
            let tls = self.core.tls.connect(&mapping.host, mapping.allow_invalid_certificates);
            Some(tls.map_err(|text| io::Error::new(io::ErrorKind::InvalidInput, text))?)
        } else {
            None
        };
        let wire = Wire::new(TcpStream::from(socket), tls);
        self.core.poller.register(&wire, self.token)?;
        Ok(wire)
    }

    fn exchange_start(&self, inner: &Inner) -> u64 {
        inner.ongoing.as_ref().map_or_else(monotime::micros, |ongoing| ongoing.started)
    }

    /// Takes connecting one step further.
    pub(super) fn progress(self: &Arc<Self>, inner: &mut Inner, context: &mut Context) {
        let (Phase::Connecting { tcp, .. }, Some(wire)) = (&mut inner.phase, &mut inner.wire) else { return };
        let result = (|| {
            if *tcp {
                if let Some(e) = wire.socket().take_error().unwrap_or_else(Some) {
                    return Err((connect_reason(&e), e));
                }
                let peer = match wire.socket().peer_addr() {
                    Ok(peer) => peer,
                    Err(e) if e.kind() == io::ErrorKind::NotConnected => return Ok(false),
                    Err(e) => return Err((Reason::UpstreamUnreachable, e)),
                };
                *tcp = false;
                if target::reaches_listener(peer, self.core.admin_address()) {
                    let text = "this is the agent's own admin page";
                    return Err((Reason::TargetForbidden, io::Error::other(text)));
                }
            }
            wire.handshake().map_err(|e| match e.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => (Reason::UpstreamTls, e),
                _ => (connect_reason(&e), e),
            })
        })();
        match result {
            Ok(false) => {}
            Ok(true) => {
                inner.phase = Phase::Exchange;
                if let Some(ongoing) = &mut inner.ongoing {
                    ongoing.exchange.connected(false, monotime::micros());
                }
                self.core.pool.note(self.target.serial, |turns| turns.connected(self.token));
                self.write(inner, context);
            }
            Err((reason, e)) => self.next_address(inner, reason, &e.to_string(), context),
        }
    }

    pub(super) fn next_address(
        self: &Arc<Self>,
        inner: &mut Inner,
        reason: Reason,
        text: &str,
        context: &mut Context,
    ) {
        inner.wire = None;
        (inner.readable, inner.closing) = (false, false);
        let text = format!("{}: {text}", self.target.authority);
        match std::mem::replace(&mut inner.phase, Phase::Resolving) {
            // Another address will not have another certificate, nor be more allowed.
            Phase::Connecting { rest, .. }
                if !matches!(reason, Reason::UpstreamTls | Reason::TargetForbidden) =>
            {
                self.connect(inner, rest, (reason, text), context);
            }
            _ => self.fail(inner, reason, &text, context),
        }
    }
}

/// Why a connection could not be made.
fn connect_reason(e: &io::Error) -> Reason {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => Reason::UpstreamRefused,
        io::ErrorKind::InvalidInput => Reason::UpstreamTls,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Reason::UpstreamBroke,
        _ => Reason::UpstreamUnreachable,
    }
}
