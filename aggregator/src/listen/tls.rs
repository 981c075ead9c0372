//! The TLS side of listening: which certificates are shown, which are accepted.
//! It must never fall below TLS 1.3, resume a session (a revoked agent could come back by it) or allow early data.
//! The hard case is one port for two protocols: enrolment comes without a certificate, so a certificate is optional in the handshake
//! and required afterwards of whoever chose the data protocol.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::ca::{Authority, CaError};

/// ALPN of the data connection: frames, under a certificate.
pub const ALPN_DATA: &[u8] = b"vedette/1";
/// ALPN of enrolment: no certificate yet.
pub const ALPN_ENROLL: &[u8] = b"vedette-enroll/1";

/// Why no TLS configuration could be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The server's certificate could not be made.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The CA's certificate is no usable root.
    #[error("client certificates cannot be verified: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// Anything else of TLS.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// A server configuration with a fresh certificate of `authority`.
///
/// # Errors
/// [`TlsError`] when a certificate cannot be made or the CA is no usable root.
pub fn server_config(authority: &Authority, now: SystemTime) -> Result<ServerConfig, TlsError> {
    let (chain, key) = authority.issue_server(now)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(client_verifier(authority)?)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN_DATA.to_vec(), ALPN_ENROLL.to_vec()];
    config.max_early_data_size = 0;
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client_verifier(authority: &Authority) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in authority.roots() {
        roots.add(root.clone())?;
    }
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()));
    Ok(builder.allow_unauthenticated().build()?)
}
