//! The console's listening socket: plain HTTP, or TLS 1.3 where the config names a certificate.
//! It must never let one slow handshake hold up the next connection, nor have more than a few under way. The hard case is a certificate that is
//! renewed: the files are read again with the config, and connections that stand stay.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};

use axum::serve::Listener;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::HttpTls;
use crate::limits::{HANDSHAKE_TIMEOUT, HTTP_HANDSHAKES_MAX};

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

/// The socket, and what is shown on it.
#[derive(Debug)]
pub struct WebListener {
    socket: TcpListener,
    shown: Option<Shown>,
    handshakes: JoinSet<Option<(WebStream, SocketAddr)>>,
}

impl WebListener {
    /// Speaks TLS if there is something to show.
    #[must_use]
    pub fn new(socket: TcpListener, shown: Option<Shown>) -> Self {
        Self { socket, shown, handshakes: JoinSet::new() }
    }
}

impl Listener for WebListener {
    type Io = WebStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (WebStream, SocketAddr) {
        loop {
            let room = self.handshakes.len() < HTTP_HANDSHAKES_MAX;
            let (stream, address) = tokio::select! {
                Some(done) = self.handshakes.join_next() => match done {
                    Ok(Some(ready)) => return ready,
                    _ => continue,
                },
                accepted = Listener::accept(&mut self.socket), if room => accepted,
            };
            let Some(shown) = &self.shown else { return (WebStream::Plain(stream), address) };
            let config = Arc::clone(&shown.read().unwrap_or_else(PoisonError::into_inner));
            self.handshakes.spawn(async move {
                let done = timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await;
                let stream =
                    done.ok()?.inspect_err(|error| tracing::debug!(%address, %error, "no TLS")).ok()?;
                Some((WebStream::Tls(Box::new(stream)), address))
            });
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// A connection, with TLS or without.
#[derive(Debug)]
pub enum WebStream {
    /// Without.
    Plain(TcpStream),
    /// With.
    Tls(Box<TlsStream<TcpStream>>),
}

impl WebStream {
    pub(super) fn send_at_once(&mut self) {
        let socket = match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        };
        // Where it cannot be had, answers are only slower.
        let _ = socket.set_nodelay(true);
    }
}

impl AsyncRead for WebStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for WebStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
