//! What a visitor of a host gets to see: one TLS handshake with Caddy, and the certificate that it shows.
//!
//! Nothing is verified, everything is reported: whether browsers trust the issuer is for the operator to judge, and a
//! certificate of Caddy's own authority is right in many homes. With on-demand TLS the look has an effect: Caddy gets
//! the certificate now, and not when the first visitor waits for it.

use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, DigitallySignedStruct, InvalidMessage, SignatureScheme,
};
use shared::clock;
use shared::control::CertificateReport;
use shared::hostname::Hostname;
use shared::threads::lock;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Name};

/// For a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// For the handshake: with on-demand TLS Caddy may get a certificate meanwhile.
const HANDSHAKE: Duration = Duration::from_secs(12);
/// How long the Gateway's end may have to wait for a look.
const SLICE: Duration = Duration::from_millis(250);
/// A certificate that ends sooner is worth a warning: Caddy renews when a third of the time is left.
const WARNING_DAYS: i64 = 10;
const DAY: i64 = 24 * 3600;
/// Most names reported of one certificate.
const MAX_NAMES: usize = 100;
/// Label under a wildcard for which Caddy is asked.
const PROBE_LABEL: &str = "octoporty-check";

/// Nobody can tell.
pub(crate) fn unknown(host: &str, why: &str) -> CertificateReport {
    without(host, "unknown", why.to_owned())
}

fn without(host: &str, state: &str, error: String) -> CertificateReport {
    CertificateReport {
        host: host.to_owned(),
        state: state.to_owned(),
        error: Some(error),
        checked_at: Some(clock::now_iso()),
        ..CertificateReport::default()
    }
}

/// Connects to Caddy at `address` and asks for `host`. `on_demand`: a name is as good as any, so a wildcard has no
/// certificate of its own.
/// `stopped` ends the look early.
pub(crate) fn look(
    address: &str,
    port: u16,
    host: &str,
    on_demand: bool,
    stopped: &dyn Fn() -> bool,
) -> CertificateReport {
    let name = match host.strip_prefix("*.") {
        Some(_) if on_demand => {
            let why =
                "with on-demand TLS each name under a wildcard gets its own certificate at its first visit";
            return unknown(host, why);
        }
        Some(parent) => format!("{PROBE_LABEL}.{parent}"),
        None => host.to_owned(),
    };
    match handshake(address, port, &name, stopped) {
        Ok(der) => read(host, &name, &der, clock::epoch_ms() / 1000),
        Err(text) => without(host, "error", text),
    }
}

fn handshake(address: &str, port: u16, name: &str, stopped: &dyn Fn() -> bool) -> Result<Vec<u8>, String> {
    let place = format!("{address}, port {port}");
    let server =
        ServerName::try_from(name.to_owned()).map_err(|_| format!("{name:?} cannot be a name in TLS"))?;
    let seen = Arc::new(Mutex::new(None));
    let mut connection =
        ClientConnection::new(Arc::new(config(&seen)), server).map_err(|e| format!("TLS: {e}"))?;
    let mut socket =
        connect(address, port).map_err(|e| format!("Caddy cannot be reached at {place}: {e}"))?;
    let deadline = Instant::now() + HANDSHAKE;
    let late =
        || format!("Caddy at {place} did not finish the TLS handshake within {} s", HANDSHAKE.as_secs());
    while connection.is_handshaking() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || stopped() {
            return Err(late());
        }
        let left = left.min(SLICE);
        let timeouts =
            socket.set_read_timeout(Some(left)).and_then(|()| socket.set_write_timeout(Some(left)));
        timeouts.map_err(|e| e.to_string())?;
        match step(&mut connection, &mut socket) {
            Ok(()) => {}
            Err(Step::Io(e)) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(Step::Io(e)) => return Err(format!("Caddy at {place} ended the TLS handshake: {e}")),
            Err(Step::Tls(e)) => return Err(explain(&e, &place)),
        }
    }
    connection.send_close_notify();
    // A farewell; the certificate is known already.
    drop(connection.write_tls(&mut socket));
    lock(&seen).take().ok_or_else(|| format!("Caddy at {place} showed no certificate"))
}

enum Step {
    Io(io::Error),
    Tls(rustls::Error),
}

/// Writes what is due, else reads what there is.
fn step(connection: &mut ClientConnection, socket: &mut TcpStream) -> Result<(), Step> {
    if connection.wants_write() {
        connection.write_tls(socket).map_err(Step::Io)?;
        return socket.flush().map_err(Step::Io);
    }
    let len = connection.read_tls(socket).map_err(Step::Io)?;
    if len == 0 {
        return Err(Step::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    connection.process_new_packets().map(drop).map_err(Step::Tls)
}

fn connect(address: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in (address, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(socket) => return Ok(socket),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn explain(e: &rustls::Error, place: &str) -> String {
    match e {
        rustls::Error::AlertReceived(AlertDescription::InternalError) => {
            "Caddy has no certificate for this name (TLS alert internal_error): either it is still getting one, or that \
             failed; the reason is in Caddy's log. Does the name's DNS record lead to this server, and are ports 80 and \
             443 open?"
                .to_owned()
        }
        rustls::Error::AlertReceived(alert) => format!("Caddy refused the TLS handshake: alert {alert:?}"),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => format!(
            "what answers at {place} does not speak TLS: is TLS turned off for that port in the Caddyfile (auto_https off, \
             or a site with http://), or does another program listen there?"
        ),
        e => format!("the TLS handshake with Caddy at {place} failed: {e}"),
    }
}

/// What the certificate says, at `now` (seconds since 1970).
fn read(host: &str, name: &str, der: &[u8], now: i64) -> CertificateReport {
    let certificate = match X509Certificate::from_der(der) {
        Ok((_, certificate)) => certificate,
        Err(e) => {
            return without(host, "error", format!("Caddy's certificate cannot be read: {e}"));
        }
    };
    let validity = certificate.validity();
    let (from, to) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let iso = |seconds: i64| clock::from_epoch_ms(seconds.saturating_mul(1000)).map(clock::iso);
    let names: Vec<String> = match certificate.subject_alternative_name() {
        Ok(Some(extension)) => {
            let dns = |name: &GeneralName<'_>| match name {
                GeneralName::DNSName(name) => Some(printable(name)),
                _ => None,
            };
            extension.value.general_names.iter().filter_map(dns).take(MAX_NAMES).collect()
        }
        _ => Vec::new(),
    };
    let fits = names.iter().any(|known| Hostname::parse(known).is_ok_and(|known| known.matches(name)));
    let days_left = (to - now).div_euclid(DAY);
    // Those that live for days or hours only would be a warning for ever.
    let enough = if to - from > 2 * WARNING_DAYS * DAY { WARNING_DAYS * DAY } else { (to - from) / 5 };
    let (state, error) = if !fits {
        ("error", Some(format!("the certificate is not for {name}")))
    } else if now < from {
        ("error", Some("the certificate is not valid yet; is this machine's clock right?".to_owned()))
    } else if now >= to {
        ("error", Some("the certificate has expired; Caddy's log says why it was not renewed".to_owned()))
    } else if to - now < enough {
        let left =
            if days_left > 0 { format!("{days_left} days") } else { format!("{} hours", (to - now) / 3600) };
        (
            "warning",
            Some(format!("the certificate ends in {left}; Caddy's log says why it was not renewed yet")),
        )
    } else {
        ("ok", None)
    };
    CertificateReport {
        host: host.to_owned(),
        state: state.to_owned(),
        issuer: title(certificate.issuer()),
        subject: title(certificate.subject()).or_else(|| names.first().cloned()),
        names,
        not_before: iso(from),
        not_after: iso(to),
        days_left: Some(days_left),
        error,
        checked_at: Some(clock::now_iso()),
    }
}

/// Organisation and common name, as people know an issuer.
fn title(name: &X509Name<'_>) -> Option<String> {
    let first = |mut all: Box<dyn Iterator<Item = &str> + '_>| all.next().map(str::to_owned);
    let organisation = first(Box::new(name.iter_organization().filter_map(|part| part.as_str().ok())));
    let common = first(Box::new(name.iter_common_name().filter_map(|part| part.as_str().ok())));
    let text = match (organisation, common) {
        (Some(organisation), Some(common)) => format!("{organisation}, {common}"),
        (one, other) => one.or(other)?,
    };
    Some(printable(&text))
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(255).collect()
}

fn config(seen: &Arc<Mutex<Option<Vec<u8>>>>) -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider knows the default versions");
    let verifier = Witness { provider, seen: Arc::clone(seen) };
    builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
}

/// Accepts every certificate and keeps it. Nothing is ever sent over such a connection.
#[derive(Debug)]
struct Witness {
    provider: Arc<CryptoProvider>,
    seen: Arc<Mutex<Option<Vec<u8>>>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *lock(&self.seen) = Some(end_entity.to_vec());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;

    use super::*;

    /// 1 January 2026; the sample ends 90 days later.
    const BEGIN: i64 = 1_767_225_600;

    fn sample(name: &str, days: i64) -> CertificateReport {
        let der =
            CertificateDer::from_pem_slice(include_bytes!("certificate/sample.pem")).expect("a certificate");
        read(name, name, &der, BEGIN + days * DAY)
    }

    #[test]
    fn a_certificate_says_whose_it_is_and_for_how_long() {
        let report = sample("app.test", 0);
        assert_eq!((report.state.as_str(), report.error), ("ok", None));
        assert_eq!(report.issuer.as_deref(), Some("Octoporty tests, Test Authority"));
        assert_eq!(report.subject.as_deref(), Some("app.test"));
        assert_eq!(report.names, ["app.test", "*.w.test"]);
        assert_eq!(report.not_before.as_deref(), Some("2026-01-01T00:00:00.000Z"));
        assert_eq!(report.not_after.as_deref(), Some("2026-04-01T00:00:00.000Z"));
        assert_eq!(report.days_left, Some(90));
    }

    #[test]
    fn its_time_and_its_names_decide_whether_it_is_good() {
        for (name, days, state, part) in [
            ("app.test", 79, "ok", ""),
            ("x.w.test", 0, "ok", ""),
            ("app.test", 81, "warning", "ends in 9 days"),
            ("app.test", 90, "error", "has expired"),
            ("app.test", -1, "error", "not valid yet"),
            ("other.test", 0, "error", "not for other.test"),
            ("x.y.w.test", 0, "error", "not for x.y.w.test"),
        ] {
            let report = sample(name, days);
            assert_eq!(report.state, state, "{name}, day {days}: {report:?}");
            assert!(report.error.unwrap_or_default().contains(part), "{name}, day {days}");
        }
        assert_eq!(sample("app.test", 100).days_left, Some(-10));
    }

    #[test]
    fn what_is_no_certificate_is_said() {
        let report = read("app.test", "app.test", b"\x30\x03\x02\x01\x00", BEGIN);
        assert_eq!(report.state, "error");
        assert!(report.error.is_some_and(|text| text.contains("cannot be read")));
    }

    #[test]
    fn what_cannot_be_reached_or_speaks_no_tls_is_said() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let server = std::thread::spawn(move || {
            let (socket, _) = listener.accept().expect("a connection");
            drop((&socket).write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
            // Until he has read it, and goes.
            drop(std::io::copy(&mut &socket, &mut std::io::sink()));
        });
        let report = look("127.0.0.1", port, "app.test", false, &|| false);
        server.join().expect("it answered");
        assert_eq!(report.state, "error", "{report:?}");
        let text = report.error.expect("it says why");
        let place = format!("127.0.0.1, port {port}");
        assert!(text.contains(&place) && text.contains("does not speak TLS"), "{text}");
        let report = look("127.0.0.1", port, "app.test", false, &|| false);
        assert!(report.error.is_some_and(|text| text.contains("cannot be reached")));
        let report = look("127.0.0.1", port, "*.w.test", true, &|| false);
        assert_eq!(report.state, "unknown", "on demand a wildcard has none of its own");
    }
}
