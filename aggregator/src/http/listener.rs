//! The console's listening socket: plain HTTP, or TLS 1.3 where the config names a certificate.
//! It must never let one slow handshake hold up the next connection, nor hold more connections than a number, in all or for one address. The
//! hard case is a certificate that is renewed: the files are read again with the config, and connections that stand stay.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, PoisonError, RwLock};

use axum::serve::Listener;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::stream::{Socket, WebStream};
use crate::auth::Gate;
use crate::config::HttpTls;
use crate::limits::{
    HANDSHAKE_TIMEOUT, HTTP_CONNECTIONS_MAX, HTTP_CONNECTIONS_PER_ADDRESS_MAX, HTTP_PATIENCE,
};
use crate::metrics::Tally;
use crate::places::{NoPlace, Place, Places};

/// Why TLS cannot be spoken with these files.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read, or holds no PEM of the kind that is wanted.
    #[error("{file}: {problem}")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The key does not belong to the certificate, or is of an unknown kind.
    #[error("the console's certificate and key: {0}")]
    Tls(#[from] rustls::Error),
}

/// What the console shows in handshakes; shared, so that it can be renewed.
pub type Shown = Arc<RwLock<Arc<ServerConfig>>>;

/// Reads certificate and key.
///
/// # Errors
/// [`CertificateError`] names the file.
pub fn read_certificate(files: HttpTls<'_>) -> Result<Arc<ServerConfig>, CertificateError> {
    let wrong = |file: &std::path::Path| {
        let file = file.display().to_string();
        move |problem: String| CertificateError::File { file, problem }
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(files.certificate)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(files.certificate)(error.to_string()))?;
    let mode =
        std::fs::metadata(files.key).map_err(|error| wrong(files.key)(error.to_string()))?.mode() & 0o7777;
    if mode & 0o007 != 0 {
        let problem = format!("has mode {mode:04o}, which lets everybody read the key: chmod 600");
        return Err(wrong(files.key)(problem));
    }
    let key = PrivateKeyDer::from_pem_file(files.key).map_err(|error| wrong(files.key)(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The socket, what is shown on it, and the places behind it.
#[derive(Debug)]
pub struct WebListener {
    socket: TcpListener,
    shown: Option<Shown>,
    gate: Gate,
    places: Places,
    handshakes: JoinSet<Option<(WebStream, SocketAddr)>>,
}

impl WebListener {
    /// Speaks TLS if there is something to show; the gate says which proxies are believed, and counts whom there is no place for.
    #[must_use]
    pub fn new(socket: TcpListener, shown: Option<Shown>, gate: Gate) -> Self {
        let places = Places::new(HTTP_CONNECTIONS_MAX, HTTP_CONNECTIONS_PER_ADDRESS_MAX);
        Self { socket, shown, gate, places, handshakes: JoinSet::new() }
    }

    /// A place for a connection; this machine and proxies speak for many.
    fn place(&self, address: IpAddr) -> Option<Place> {
        let address = address.to_canonical();
        let is_trusted = address.is_loopback() || self.gate.config().auth.proxies.contains(&address);
        let refused = |no_place| {
            let reason = match no_place {
                NoPlace::Full => "connections",
                NoPlace::AddressFull => "connections_of_address",
            };
            self.gate.metrics().count(Tally::TurnedAway, reason);
        };
        self.places.take(address, is_trusted).map_err(refused).ok()
    }
}

impl Listener for WebListener {
    type Io = WebStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (WebStream, SocketAddr) {
        loop {
            let (stream, address) = tokio::select! {
                Some(done) = self.handshakes.join_next() => match done {
                    Ok(Some(ready)) => return ready,
                    _ => continue,
                },
                accepted = Listener::accept(&mut self.socket) => accepted,
            };
            let Some(place) = self.place(address.ip()) else { continue };
            let Some(shown) = &self.shown else {
                return (WebStream::new(Socket::Plain(stream), place, HTTP_PATIENCE), address);
            };
            let config = Arc::clone(&shown.read().unwrap_or_else(PoisonError::into_inner));
            self.handshakes.spawn(async move {
                let done = timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await;
                let stream =
                    done.ok()?.inspect_err(|error| tracing::debug!(%address, %error, "no TLS")).ok()?;
                Some((WebStream::new(Socket::Tls(Box::new(stream)), place, HTTP_PATIENCE), address))
            });
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}
