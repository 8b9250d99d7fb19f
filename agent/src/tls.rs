//! TLS settings: which certificates are believed, towards Gateways and towards upstreams.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, IpAddr, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};
use shared::mapping::UpstreamHost;

/// The two kinds of trust that an Agent needs for upstreams. Made when first used: a home without HTTPS services
/// never pays for the list of certificate authorities.
#[derive(Default)]
pub(crate) struct UpstreamTls {
    strict: OnceLock<Arc<ClientConfig>>,
    lenient: OnceLock<Arc<ClientConfig>>,
}

impl UpstreamTls {
    /// A TLS connection to an upstream. With `any_certificate` every certificate is accepted.
    pub(crate) fn connect(
        &self,
        host: &UpstreamHost,
        any_certificate: bool,
    ) -> Result<ClientConnection, String> {
        let config = if any_certificate {
            self.lenient.get_or_init(|| Arc::new(lenient()))
        } else {
            self.strict.get_or_init(|| Arc::new(strict(roots())))
        };
        let name = match host {
            UpstreamHost::Address(ip) => ServerName::IpAddress(IpAddr::from(*ip)),
            UpstreamHost::Name(name) => ServerName::try_from(name.as_str().trim_end_matches('.').to_owned())
                .map_err(|_| format!("{:?} cannot be a name in TLS", name.as_str()))?,
        };
        ClientConnection::new(Arc::clone(config), name).map_err(|e| e.to_string())
    }
}

/// Trust towards a Gateway: the public authorities, the system's, and those in `ca_file`.
pub(crate) fn gateway_config(ca_file: Option<&Path>) -> io::Result<Arc<ClientConfig>> {
    let mut roots = roots();
    if let Some(path) = ca_file {
        let pem = fs::read(path)?;
        let mut found = 0;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|e| io::Error::other(e.to_string()))?;
            roots.add(certificate).map_err(io::Error::other)?;
            found += 1;
        }
        if found == 0 {
            return Err(io::Error::other("no certificate in it"));
        }
    }
    Ok(Arc::new(strict(roots)))
}

/// The public authorities that browsers know, and those that the system's owner added. What the system's list has
/// and we cannot use is left out, as every TLS library does.
fn roots() -> RootCertStore {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let native = rustls_native_certs::load_native_certs();
    for fault in &native.errors {
        log::debug!("system certificates: {fault}");
    }
    roots.add_parsable_certificates(native.certs);
    roots
}

fn strict(roots: RootCertStore) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider knows the default versions");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

fn lenient() -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider knows the default versions");
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// Accepts whatever certificate an upstream shows, because the operator said so for one Mapping. The handshake's
/// signature is still checked, so the upstream does hold the key of the certificate that it shows.
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
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
