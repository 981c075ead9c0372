//! QUIC (RFC 9000) with TLS 1.3: the connection that carries frames, and enrolment on the same port.
//!
//! The only files that name the QUIC library are this one and its socket's. Must never send early data, resume a session,
//! or trust an authority but the stored one (or, to enrol, the one whose fingerprint the token carries). The hard case is a
//! peer that stops reading: windows are small, and the caller bounds how long it waits.

mod socket;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use vedette_common::limits::FRAME_BYTES_MAX;
use vedette_common::wire::{
    Enroll, Enrolled, Frame, Kind, Message, Refuse, RefuseReason, Renew, WireError, decode, encode,
};

use super::wire::Wire;
use crate::identity::{FINGERPRINT_BYTES, Identity, Token};
use socket::endpoint;

/// ALPN of the data connection.
const ALPN_DATA: &[u8] = b"vedette/1";
/// ALPN of enrolment.
const ALPN_ENROLL: &[u8] = b"vedette-enroll/1";

/// How long to reach the aggregator and shake hands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an enrolment may take once connected.
const ENROLL_TIMEOUT: Duration = Duration::from_secs(15);
/// Silence after which the connection is given up.
const IDLE_TIMEOUT_MS: u32 = 15_000;
/// How often silence is broken.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long a graceful close waits for the peer.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// Bytes the aggregator may send ahead: a few calendars.
const RECEIVE_WINDOW_BYTES: u32 = 64 * 1024;
/// Bytes sent and not yet acknowledged by the aggregator's transport.
const SEND_WINDOW_BYTES: u64 = 128 * 1024;
/// The longest datagram that is tried: Ethernet's 1,500 bytes without the headers of IPv6 and UDP.
const DATAGRAM_BYTES_MAX: u16 = 1_452;

/// What the library keeps for receiving through a socket that gives one datagram at a time: thirty-two of the longest that it
/// expects.
const DATAGRAMS_BYTES: usize = 32 * 1_472;

/// Worst-case memory of a connection in bytes: both windows, two frames' buffers, datagrams, and TLS and transport state
/// (64 KiB is what an idle connection took, rounded up).
pub const CONNECTION_BYTES: usize = RECEIVE_WINDOW_BYTES as usize
    + SEND_WINDOW_BYTES as usize
    + 2 * FRAME_BYTES_MAX
    + DATAGRAMS_BYTES
    + 64 * 1024;

/// Why there is no connection, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// The name did not resolve.
    #[error("{address}: {cause}")]
    Lookup {
        /// What was asked for.
        address: String,
        /// Why it did not resolve.
        cause: std::io::Error,
    },
    /// No address came back for the name.
    #[error("{0}: the name has no address")]
    NoAddress(String),
    /// No local socket.
    #[error("no UDP socket: {0}")]
    Socket(std::io::Error),
    /// Key, certificate or authority cannot be used.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The authority cannot be used as a root.
    #[error("TLS: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// TLS without what QUIC needs.
    #[error("TLS lacks a cipher suite that QUIC needs")]
    CipherSuite,
    /// The attempt could not begin.
    #[error("{0}")]
    Connect(#[from] quinn::ConnectError),
    /// The connection failed or ended.
    #[error("{0}")]
    Connection(#[from] quinn::ConnectionError),
    /// Reading failed.
    #[error("reading: {0}")]
    Read(#[from] quinn::ReadError),
    /// Writing failed.
    #[error("writing: {0}")]
    Write(#[from] quinn::WriteError),
    /// The aggregator sent what is no frame.
    #[error("the aggregator sent what is no frame: {0}")]
    Frame(#[from] WireError),
    /// The aggregator ended its side.
    #[error("the aggregator ended the connection")]
    Ended,
    /// It took too long.
    #[error("no answer in time")]
    TimedOut,
    /// The signing request is longer than the message allows.
    #[error("the signing request has {0} bytes and does not fit the message")]
    RequestTooLong(usize),
    /// Whoever answered is not the aggregator that made the token.
    #[error("{0} is not the aggregator that the token is for: its authority has another fingerprint")]
    OtherAuthority(String),
    /// The aggregator did not take the token or the request.
    #[error("the aggregator refused the enrolment: {}", .0.as_str())]
    Refused(RefuseReason),
}

/// A connection to the aggregator: one stream of frames each way.
#[derive(Debug)]
pub struct Connected {
    /// Writes frames.
    pub sender: FrameSender,
    /// Reads frames.
    pub receiver: FrameReceiver,
}

/// Where to connect to.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Host and port.
    pub address: &'a str,
    /// The name in the aggregator's certificate.
    pub server_name: &'a str,
    /// Where every datagram is counted, whatever becomes of the attempt.
    pub wire: &'a Arc<Wire>,
}

/// Connects with mutual TLS and opens the stream.
///
/// # Errors
/// [`UplinkError`] for a name that does not resolve, a handshake that fails, or no answer within ten seconds.
pub async fn connect(target: Target<'_>, identity: &Identity) -> Result<Connected, UplinkError> {
    open(target, mutual(identity, ALPN_DATA)?).await
}

/// TLS that shows the identity's certificate and trusts its authorities.
fn mutual(identity: &Identity, protocol: &[u8]) -> Result<ClientConfig, UplinkError> {
    let mut roots = RootCertStore::empty();
    for root in &identity.roots {
        roots.add(root.clone())?;
    }
    let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())?;
    tls.alpn_protocols = vec![protocol.to_vec()];
    Ok(tls)
}

/// Sends a token and a signing request, and gives the certificates that come back.
///
/// # Errors
/// [`UplinkError`]; [`UplinkError::Refused`] says that the aggregator did not take the token or the request.
pub async fn enroll(target: Target<'_>, token: &Token, csr_der: &[u8]) -> Result<Enrolled, UplinkError> {
    let csr = heapless::Vec::from_slice(csr_der).map_err(|_| UplinkError::RequestTooLong(csr_der.len()))?;
    let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedAuthority { fingerprint: token.ca_fingerprint }))
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN_ENROLL.to_vec()];
    let connected = open(target, tls).await.map_err(|error| match error {
        UplinkError::Connection(quinn::ConnectionError::TransportError(failed))
            if is_unknown_issuer(failed.code) =>
        {
            UplinkError::OtherAuthority(target.address.into())
        }
        other => other,
    })?;
    ask(connected, &Enroll { token_secret: token.secret, csr_der: csr }).await
}

/// Sends a signing request under the present certificate, and gives the certificates that come back.
///
/// # Errors
/// [`UplinkError`]; [`UplinkError::Refused`] says that the present certificate gives no other.
pub async fn renew(target: Target<'_>, identity: &Identity, csr_der: &[u8]) -> Result<Enrolled, UplinkError> {
    let csr = heapless::Vec::from_slice(csr_der).map_err(|_| UplinkError::RequestTooLong(csr_der.len()))?;
    let connected = open(target, mutual(identity, ALPN_ENROLL)?).await?;
    ask(connected, &Renew { csr_der: csr }).await
}

/// The enrolment protocol's one request and one answer.
async fn ask(mut connected: Connected, request: &impl Message) -> Result<Enrolled, UplinkError> {
    let mut bytes = vec![0; FRAME_BYTES_MAX];
    let length = encode(request, &mut bytes)?;
    let exchange = async {
        connected.sender.send(&bytes[..length]).await?;
        let answer = connected.receiver.frame().await?;
        match answer.kind {
            Kind::Refuse => Err(UplinkError::Refused(decode::<Refuse>(&answer)?.reason)),
            _ => Ok(decode::<Enrolled>(&answer)?),
        }
    };
    let enrolled =
        tokio::time::timeout(ENROLL_TIMEOUT, exchange).await.map_err(|_| UplinkError::TimedOut)??;
    connected.sender.close().await;
    Ok(enrolled)
}

/// The alert (RFC 8446, section 6.2) that follows from an authority that was not found.
fn is_unknown_issuer(code: quinn::TransportErrorCode) -> bool {
    code == quinn::TransportErrorCode::crypto(u8::from(rustls::AlertDescription::UnknownCA))
}

/// Whether `identity` trusts the authority that `token` names.
#[must_use]
pub fn trusts(identity: &Identity, token: &Token) -> bool {
    identity.roots.iter().any(|root| fingerprint(root) == token.ca_fingerprint)
}

fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; FINGERPRINT_BYTES] {
    Sha256::digest(certificate).into()
}

async fn open(target: Target<'_>, mut tls: ClientConfig) -> Result<Connected, UplinkError> {
    // A resumed session would outlive a certificate that was revoked meanwhile, and early data could be replayed.
    tls.resumption = rustls::client::Resumption::disabled();
    tls.enable_early_data = false;
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).map_err(|_| UplinkError::CipherSuite)?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport()));
    let remote = resolve(target.address).await?;
    let local: IpAddr =
        if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let local = SocketAddr::new(local, 0);
    let endpoint = endpoint(local, Arc::clone(target.wire)).map_err(UplinkError::Socket)?;
    let connecting = async {
        let connection = endpoint.connect_with(config, remote, target.server_name)?.await?;
        let (send, receive) = connection.open_bi().await?;
        Ok::<_, UplinkError>((connection, send, receive))
    };
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
    let (connection, send, receive) = connected.map_err(|_| UplinkError::TimedOut)??;
    Ok(Connected {
        sender: FrameSender { send, connection, endpoint },
        receiver: FrameReceiver::new(receive),
    })
}

async fn resolve(address: &str) -> Result<SocketAddr, UplinkError> {
    let found = tokio::net::lookup_host(address).await;
    let mut found = found.map_err(|cause| UplinkError::Lookup { address: address.into(), cause })?;
    found.next().ok_or_else(|| UplinkError::NoAddress(address.into()))
}

fn transport() -> quinn::TransportConfig {
    let mut transport = quinn::TransportConfig::default();
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    discovery.upper_bound(DATAGRAM_BYTES_MAX);
    transport
        .mtu_discovery_config(Some(discovery))
        .max_idle_timeout(Some(quinn::VarInt::from_u32(IDLE_TIMEOUT_MS).into()))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .stream_receive_window(quinn::VarInt::from_u32(RECEIVE_WINDOW_BYTES))
        .receive_window(quinn::VarInt::from_u32(RECEIVE_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .max_concurrent_bidi_streams(quinn::VarInt::from_u32(0))
        .max_concurrent_uni_streams(quinn::VarInt::from_u32(0))
        .datagram_receive_buffer_size(None);
    transport
}

/// Writes frames to the aggregator, and holds the connection open.
#[derive(Debug)]
pub struct FrameSender {
    send: quinn::SendStream,
    connection: quinn::Connection,
    endpoint: quinn::Endpoint,
}

impl FrameSender {
    /// Hands whole frames to the transport; waits while its window is full.
    ///
    /// # Errors
    /// [`UplinkError::Write`] when the connection is gone.
    pub async fn send(&mut self, frames: &[u8]) -> Result<(), UplinkError> {
        Ok(self.send.write_all(frames).await?)
    }

    /// Ends the connection and waits a little for the peer to hear of it.
    pub async fn close(mut self) {
        // A connection that is gone already is closed.
        let _ = self.send.finish();
        self.connection.close(quinn::VarInt::from_u32(0), b"done");
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.endpoint.wait_idle()).await;
    }
}

/// Reads frames from the aggregator through one buffer of a frame's size.
#[derive(Debug)]
pub struct FrameReceiver {
    receive: quinn::RecvStream,
    buffer: Box<[u8]>,
    begin: usize,
    end: usize,
}

impl FrameReceiver {
    fn new(receive: quinn::RecvStream) -> Self {
        Self { receive, buffer: vec![0; FRAME_BYTES_MAX].into_boxed_slice(), begin: 0, end: 0 }
    }

    /// The next frame, once all of it is there. Dropping the future in between loses nothing.
    ///
    /// # Errors
    /// [`UplinkError::Frame`] for bytes that can never become a frame; the stream cannot go on after it.
    pub async fn frame(&mut self) -> Result<Frame<'_>, UplinkError> {
        let length = loop {
            match Frame::parse(&self.buffer[self.begin..self.end]) {
                Ok((_, length)) => break length,
                Err(error) if error.wants_more() => self.fill().await?,
                Err(error) => return Err(error.into()),
            }
        };
        let begin = self.begin;
        self.begin += length;
        let (frame, _) = Frame::parse(&self.buffer[begin..begin + length])?;
        Ok(frame)
    }

    async fn fill(&mut self) -> Result<(), UplinkError> {
        // What is left of the last read moves to the front: a frame always fits behind it then.
        self.buffer.copy_within(self.begin..self.end, 0);
        self.end -= self.begin;
        self.begin = 0;
        let count = self.receive.read(&mut self.buffer[self.end..]).await?.ok_or(UplinkError::Ended)?;
        self.end += count;
        Ok(())
    }
}

/// Trusts the server whose chain holds the authority of this fingerprint, and whose certificate that authority signed.
#[derive(Debug)]
struct PinnedAuthority {
    fingerprint: [u8; FINGERPRINT_BYTES],
}

impl PinnedAuthority {
    fn verifier(&self, chain: &[CertificateDer<'_>]) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
        let pinned = |der: &&CertificateDer<'_>| fingerprint(der) == self.fingerprint;
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let authority = chain.iter().find(pinned).ok_or(unknown.clone())?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let provider = Arc::new(ring::default_provider());
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().map_err(|_| unknown)
    }
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verifier = self.verifier(intermediates)?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls13RequiredForQuic))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::path::Path;
    use std::time::Instant;

    use base64::Engine as _;
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa, KeyPair,
    };
    use rustls::pki_types::{CertificateSigningRequestDer, PrivateKeyDer};
    use rustls::server::WebPkiClientVerifier;
    use vedette_common::wire::{Acknowledge, Birth, Heartbeat, Summary};

    use crate::config::{Config, Transport};
    use crate::identity::{LOCAL_TOKEN_FILE, NewKey};

    const SECRET: [u8; 16] = [9; 16];
    const NAME: &str = "vedette-aggregator";

    const fn target<'a>(address: &'a str, wire: &'a Arc<Wire>) -> Target<'a> {
        Target { address, server_name: NAME, wire }
    }

    type Authority = CertifiedIssuer<'static, KeyPair>;

    fn authority() -> Arc<Authority> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Arc::new(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn token(authority: &Authority) -> Token {
        Token { ca_fingerprint: fingerprint(authority.der()), secret: SECRET }
    }

    /// An aggregator's side of both protocols: signs what comes with the secret, acknowledges every summary.
    fn listen(authority: &Arc<Authority>) -> (quinn::Endpoint, SocketAddr) {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![NAME.to_owned()]).unwrap().signed_by(&key, authority).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(clients.allow_unauthenticated().build().unwrap())
            .with_single_cert(
                vec![leaf.der().clone(), authority.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        tls.alpn_protocols = vec![ALPN_DATA.to_vec(), ALPN_ENROLL.to_vec()];
        let tls = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
        let endpoint = quinn::Endpoint::server(config, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = endpoint.local_addr().unwrap();
        tokio::spawn(serve(endpoint.clone(), authority.clone()));
        (endpoint, address)
    }

    async fn serve(endpoint: quinn::Endpoint, authority: Arc<Authority>) {
        while let Some(incoming) = endpoint.accept().await {
            let authority = authority.clone();
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else { return };
                let Ok((send, receive)) = connection.accept_bi().await else { return };
                let enrols = connection.peer_identity().is_none();
                let (mut send, receive) = (send, FrameReceiver::new(receive));
                let served = if enrols {
                    sign(&mut send, receive, &authority).await
                } else {
                    acknowledge(&mut send, receive).await
                };
                drop((served, connection.closed().await));
            });
        }
    }

    async fn sign(
        send: &mut quinn::SendStream,
        mut receive: FrameReceiver,
        authority: &Authority,
    ) -> Result<(), UplinkError> {
        let enroll: Enroll = decode(&receive.frame().await?)?;
        let mut bytes = vec![0; FRAME_BYTES_MAX];
        let length = if enroll.token_secret == SECRET {
            let csr = CertificateSigningRequestDer::from(enroll.csr_der.as_slice());
            let certificate =
                CertificateSigningRequestParams::from_der(&csr).unwrap().signed_by(authority).unwrap();
            let der = |der: &[u8]| heapless::Vec::from_slice(der).unwrap();
            let answer = Enrolled { certificate_der: der(certificate.der()), ca_der: der(authority.der()) };
            encode(&answer, &mut bytes)?
        } else {
            let answer = Refuse { reason: RefuseReason::TokenUnknown, key: None, retry_after_ms: 0 };
            encode(&answer, &mut bytes)?
        };
        Ok(send.write_all(&bytes[..length]).await?)
    }

    async fn acknowledge(
        send: &mut quinn::SendStream,
        mut receive: FrameReceiver,
    ) -> Result<(), UplinkError> {
        let mut bytes = vec![0; FRAME_BYTES_MAX];
        decode::<Birth>(&receive.frame().await?)?;
        decode::<Heartbeat>(&receive.frame().await?)?;
        loop {
            let frame = receive.frame().await?;
            if frame.kind == Kind::Summary {
                let summary: Box<Summary> = Box::new(decode(&frame)?);
                let length = encode(&Acknowledge { key: summary.key }, &mut bytes)?;
                send.write_all(&bytes[..length]).await?;
            }
        }
    }

    fn identity(new: &NewKey, enrolled: &Enrolled) -> Identity {
        use rustls::pki_types::pem::PemObject;
        Identity {
            chain: vec![CertificateDer::from(enrolled.certificate_der.to_vec())],
            key: PrivateKeyDer::from_pem_slice(new.key_pem.as_bytes()).unwrap(),
            roots: vec![CertificateDer::from(enrolled.ca_der.to_vec())],
        }
    }

    fn new_key() -> NewKey {
        NewKey::generate(&vedette_common::AgentId::parse("edge-1").unwrap()).unwrap()
    }

    /// An aggregator, and a connection to it with the certificate that a token gave.
    async fn enrolled_and_connected(wire: &Arc<Wire>) -> (quinn::Endpoint, Connected) {
        let authority = authority();
        let (endpoint, address) = listen(&authority);
        let (address, new) = (address.to_string(), new_key());
        let enrolled = enroll(target(&address, wire), &token(&authority), &new.csr_der).await.unwrap();
        (endpoint, connect(target(&address, wire), &identity(&new, &enrolled)).await.unwrap())
    }

    #[tokio::test]
    async fn a_token_gives_a_certificate_that_opens_the_connection() {
        let wire = Arc::default();
        enrolled_and_connected(&wire).await;
    }

    #[tokio::test]
    async fn frames_that_wait_together_share_datagrams_of_the_paths_size() {
        let wire = Arc::default();
        let (_endpoint, mut connected) = enrolled_and_connected(&wire).await;
        let birth = Birth {
            agent: vedette_common::AgentId::parse("edge-1").unwrap(),
            boot: vedette_common::BootId(1),
            version: heapless::String::new(),
            started_at: vedette_common::WallMs(0),
            window_ms: 1_000,
            regions: heapless::Vec::new(),
            series_max: 1,
        };
        let (mut batch, mut frame) = (Vec::new(), vec![0; FRAME_BYTES_MAX]);
        let length = encode(&birth, &mut frame).unwrap();
        batch.extend_from_slice(&frame[..length]);
        for _ in 0..200 {
            let length = encode(&Heartbeat::default(), &mut frame).unwrap();
            batch.extend_from_slice(&frame[..length]);
        }
        let lane = vedette_common::Lane::RollUps;
        let key = vedette_common::RecordKey { boot: birth.boot, lane, sequence: vedette_common::Sequence(1) };
        let length = encode(&Summary::new(key, vedette_common::WallMs(0), 1_000), &mut frame).unwrap();
        batch.extend_from_slice(&frame[..length]);

        let before = connected.sender.connection.stats().udp_tx.datagrams;
        connected.sender.send(&batch).await.unwrap();
        assert_eq!(connected.receiver.frame().await.unwrap().kind, Kind::Acknowledge);
        let datagrams = connected.sender.connection.stats().udp_tx.datagrams - before;
        let least = batch.len() as u64 / 1_500;
        // Besides the frames there are acknowledgements, and searches for a larger size of packets.
        assert!(datagrams < least + 20, "{datagrams} datagrams for {} bytes", batch.len());
        assert!(wire.totals(Transport::Quic)[0] > batch.len() as u64);
    }

    /// Loopback carries the longest datagram that the library tries.
    #[tokio::test]
    async fn datagrams_grow_to_what_the_path_carries() {
        let wire = Arc::default();
        let (_endpoint, connected) = enrolled_and_connected(&wire).await;
        let mtu = || connected.sender.connection.stats().path.current_mtu;
        let grown = async {
            while mtu() < DATAGRAM_BYTES_MAX {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let grown = tokio::time::timeout(Duration::from_secs(60), grown).await;
        assert!(grown.is_ok(), "datagrams stay at {} bytes", mtu());
    }

    #[tokio::test]
    async fn an_authority_other_than_the_tokens_is_not_trusted() {
        let wire = Arc::default();
        let authority = authority();
        let (_endpoint, address) = listen(&authority);
        let foreign = Token { ca_fingerprint: [1; 32], secret: SECRET };
        let error =
            enroll(target(&address.to_string(), &wire), &foreign, &new_key().csr_der).await.unwrap_err();
        assert!(matches!(error, UplinkError::OtherAuthority(_)), "{error}");
    }

    #[tokio::test]
    async fn a_wrong_secret_is_refused_by_name() {
        let wire = Arc::default();
        let authority = authority();
        let (_endpoint, address) = listen(&authority);
        let wrong = Token { secret: [0; 16], ..token(&authority) };
        let error =
            enroll(target(&address.to_string(), &wire), &wrong, &new_key().csr_der).await.unwrap_err();
        assert!(matches!(error, UplinkError::Refused(RefuseReason::TokenUnknown)), "{error}");
    }

    #[tokio::test]
    async fn an_aggregator_of_another_authority_is_not_spoken_to() {
        let wire = Arc::default();
        let (ours, other) = (authority(), authority());
        let (_endpoint, address) = listen(&ours);
        let (_other_endpoint, other_address) = listen(&other);
        let new = new_key();
        let enrolled =
            enroll(target(&address.to_string(), &wire), &token(&ours), &new.csr_der).await.unwrap();
        let error =
            connect(target(&other_address.to_string(), &wire), &identity(&new, &enrolled)).await.unwrap_err();
        assert!(matches!(error, UplinkError::Connection(_)), "{error}");
    }

    #[tokio::test]
    async fn a_whole_agent_enrols_by_itself_and_delivers() {
        let authority = authority();
        let (_endpoint, address) = listen(&authority);
        let dir = tempfile::tempdir().unwrap();
        let secret = [token(&authority).ca_fingerprint.as_slice(), &SECRET].concat();
        let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(secret);
        std::fs::write(dir.path().join(LOCAL_TOKEN_FILE), format!("vdt1.{text}\n")).unwrap();
        let agent = crate::run::start(config(dir.path(), address)).unwrap();
        let lines = agent.addresses().line_protocol_tcp.unwrap();
        std::net::TcpStream::connect(lines).unwrap().write_all(b"activity,stack=web value=1\n").unwrap();
        let began = Instant::now();
        loop {
            let snapshot = agent.engine().snapshot();
            let records = snapshot.spool.acknowledged + snapshot.spooled_records.iter().sum::<u64>();
            assert_eq!(snapshot.spool.appended, records, "nothing was dropped");
            if snapshot.spool.acknowledged >= 2 && snapshot.pipeline.scored >= 1 {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "{snapshot:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::task::spawn_blocking(|| agent.stop()).await.unwrap();
    }

    fn config(dir: &Path, aggregator: SocketAddr) -> Config {
        let text = format!(
            "agent_id = \"edge-1\"\nstate_dir = {state:?}\n\
             [source.host]\ninterval_ms = 100\n[source.statsd]\nlisten = \"127.0.0.1:0\"\n\
             [source.line_protocol]\ntcp = \"127.0.0.1:0\"\nudp = \"127.0.0.1:0\"\n\
             [window]\nwindow_ms = 1000\nlateness_ms = 0\n[limits]\nseries_max = 100\n\
             [uplink]\naddress = \"{aggregator}\"\naggregator_state_dir = {dir:?}\n[http]\nlisten = \"127.0.0.1:0\"\n",
            state = dir.join("state"),
        );
        Config::parse(Path::new("test.toml"), &text).unwrap()
    }
}
