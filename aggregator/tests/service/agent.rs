//! An agent's side of the wire, small and strict: enrols, connects, sends frames and raw bytes, reads frames.
//! It must never trust more than a real agent does. The hard case is enrolment, where only the token's fingerprint says which CA to trust.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ApplicationClose, Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use vedette_aggregator::enroll::Token;
use vedette_aggregator::listen::FrameBuffer;
use vedette_aggregator::listen::tls::{ALPN_DATA, ALPN_ENROLL};
use vedette_common::wire::{
    self, Acknowledge, Birth, Calendar, Enroll, Enrolled, Kind, Message, Refuse, Renew, Summary,
};
use vedette_common::{AgentId, BootId, Lane, RecordKey, Sequence, WallMs};

/// How long anything may take: on a machine with other things to do as well.
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent that has a certificate, whoever signed it.
pub(crate) struct TestAgent {
    pub(crate) id: AgentId,
    pub(crate) key: KeyPair,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) ca: CertificateDer<'static>,
    /// What it shows behind its certificate, as if that had signed it.
    pub(crate) shows: Option<CertificateDer<'static>>,
}

/// An open data connection.
pub(crate) struct Session {
    pub(crate) connection: Connection,
    pub(crate) send: SendStream,
    receive: RecvStream,
    buffer: FrameBuffer,
    pub(crate) endpoint: Endpoint,
}

/// What an aggregator sends on a data connection.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    Acknowledge(Acknowledge),
    Refuse(Refuse),
    Calendar(Box<Calendar>),
}

pub(crate) fn agent_id(name: &str) -> AgentId {
    AgentId::parse(name).unwrap()
}

pub(crate) fn signing_request(name: &str, key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serialize_request(key).unwrap().der().to_vec()
}

/// Enrols as `name` with a new key.
pub(crate) async fn enroll(address: SocketAddr, token: &Token, name: &str) -> Result<TestAgent, Refuse> {
    let key = KeyPair::generate().unwrap();
    let request = Enroll {
        token_secret: token.secret,
        csr_der: heapless::Vec::from_slice(&signing_request(name, &key)).unwrap(),
    };
    let enrolled = exchange(address, token, &frame(&request)).await?;
    Ok(TestAgent::new(agent_id(name), key, &enrolled))
}

/// Sends bytes over the enrolment protocol and reads the answer.
pub(crate) async fn exchange(address: SocketAddr, token: &Token, bytes: &[u8]) -> Result<Enrolled, Refuse> {
    let verifier = Arc::new(Pinned(token.ca_fingerprint));
    let mut tls =
        client_builder().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    tls.alpn_protocols = vec![ALPN_ENROLL.to_vec()];
    ask(address, tls, bytes).await
}

/// The enrolment protocol's one question and one answer.
async fn ask(address: SocketAddr, tls: ClientConfig, bytes: &[u8]) -> Result<Enrolled, Refuse> {
    let (endpoint, connection) = connect(address, tls).await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    send.finish().unwrap();
    let answer = tokio::time::timeout(PATIENCE, receive.read_to_end(64 * 1024)).await.unwrap().unwrap();
    let (frame, length) = wire::Frame::parse(&answer).unwrap();
    assert_eq!(length, answer.len());
    connection.close(0_u32.into(), b"");
    endpoint.wait_idle().await;
    match frame.kind {
        Kind::Enrolled => Ok(wire::decode(&frame).unwrap()),
        _ => Err(wire::decode(&frame).unwrap()),
    }
}

impl TestAgent {
    /// Connects for data and opens the stream; says nothing yet.
    pub(crate) async fn connect(&self, address: SocketAddr) -> Result<Session, ConnectionError> {
        self.connect_from("127.0.0.1", address).await
    }

    /// The same from another of this machine's addresses.
    pub(crate) async fn connect_from(
        &self,
        from: &str,
        address: SocketAddr,
    ) -> Result<Session, ConnectionError> {
        let (endpoint, connection) = connect_from(from, address, self.tls(ALPN_DATA)).await?;
        let (send, receive) = connection.open_bi().await?;
        Ok(Session { connection, send, receive, buffer: FrameBuffer::default(), endpoint })
    }

    /// Begins to connect, for as long as this is waited for.
    pub(crate) fn begin(&self, address: SocketAddr) -> impl Future<Output = ()> + Send + use<> {
        let connecting = connect(address, self.tls(ALPN_DATA));
        async move { drop(connecting.await) }
    }

    pub(crate) fn new(id: AgentId, key: KeyPair, enrolled: &Enrolled) -> Self {
        Self {
            id,
            key,
            certificate: CertificateDer::from(enrolled.certificate_der.to_vec()),
            ca: CertificateDer::from(enrolled.ca_der.to_vec()),
            shows: None,
        }
    }

    fn tls(&self, protocol: &[u8]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone()).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let mut chain = vec![self.certificate.clone()];
        chain.extend(self.shows.iter().cloned());
        let mut tls =
            client_builder().with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap();
        tls.alpn_protocols = vec![protocol.to_vec()];
        tls
    }

    /// Asks with its certificate for another one in the name of `name`, with another key.
    pub(crate) async fn renew(&self, address: SocketAddr, name: &str) -> Result<Self, Refuse> {
        let key = KeyPair::generate().unwrap();
        let request = Renew { csr_der: heapless::Vec::from_slice(&signing_request(name, &key)).unwrap() };
        let enrolled = ask(address, self.tls(ALPN_ENROLL), &frame(&request)).await?;
        Ok(Self::new(agent_id(name), key, &enrolled))
    }

    /// Connects, introduces itself and takes the calendar that every birth is answered with.
    pub(crate) async fn session(&self, address: SocketAddr) -> Session {
        let mut session = self.connect(address).await.unwrap();
        session.say(&birth(&self.id)).await;
        assert!(matches!(session.next().await, Answer::Calendar(_)));
        session
    }
}

/// Connects for data without any certificate.
pub(crate) async fn connect_unknown(address: SocketAddr, ca: &CertificateDer<'static>) -> Connection {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).unwrap();
    let mut tls = client_builder().with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![ALPN_DATA.to_vec()];
    let (endpoint, connection) = connect(address, tls).await.unwrap();
    tokio::spawn(async move { endpoint.wait_idle().await });
    connection
}

impl Session {
    pub(crate) async fn say<M: Message>(&mut self, message: &M) {
        self.say_bytes(&frame(message)).await;
    }

    pub(crate) async fn say_bytes(&mut self, bytes: &[u8]) {
        self.send.write_all(bytes).await.unwrap();
    }

    /// The next frame from the aggregator.
    pub(crate) async fn answer(&mut self) -> Answer {
        loop {
            // A calendar can come at any time: whenever the aggregator's schedule was read again.
            match self.next().await {
                Answer::Calendar(_) => {}
                answer => return answer,
            }
        }
    }

    async fn next(&mut self) -> Answer {
        tokio::time::timeout(PATIENCE, self.read()).await.expect("an answer in time")
    }

    async fn read(&mut self) -> Answer {
        loop {
            let next = self.buffer.next(|frame| match frame.kind {
                Kind::Acknowledge => wire::decode(frame).map(Answer::Acknowledge),
                Kind::Refuse => wire::decode(frame).map(Answer::Refuse),
                _ => wire::decode(frame).map(Box::new).map(Answer::Calendar),
            });
            if let Some(answer) = next.unwrap() {
                return answer;
            }
            let chunk = self.receive.read_chunk(4096, true).await.unwrap().expect("an answer before the end");
            self.buffer.extend(&chunk.bytes);
        }
    }

    /// The certificate that the aggregator showed.
    pub(crate) fn server_certificate(&self) -> CertificateDer<'static> {
        let chain = self.connection.peer_identity().unwrap().downcast::<Vec<CertificateDer<'static>>>();
        chain.unwrap().remove(0)
    }

    /// The words with which the aggregator closed the connection.
    pub(crate) async fn farewell(self) -> String {
        farewell(&self.connection).await
    }
}

pub(crate) async fn farewell(connection: &Connection) -> String {
    match tokio::time::timeout(PATIENCE, connection.closed()).await.expect("an end in time") {
        ConnectionError::ApplicationClosed(ApplicationClose { reason, .. }) => {
            String::from_utf8(reason.to_vec()).unwrap()
        }
        other => panic!("not closed by the aggregator: {other}"),
    }
}

pub(crate) fn frame<M: Message>(message: &M) -> Vec<u8> {
    vedette_aggregator::listen::encode(message).unwrap()
}

pub(crate) fn birth(agent: &AgentId) -> Birth {
    Birth {
        agent: agent.clone(),
        boot: BootId(7),
        version: "0.1.0".try_into().unwrap(),
        started_at: now(),
        window_ms: 10_000,
        regions: heapless::Vec::new(),
        series_max: 1000,
    }
}

pub(crate) fn now() -> WallMs {
    WallMs(vedette_aggregator::enroll::unix_ms(std::time::SystemTime::now()))
}

pub(crate) fn key(sequence: u64) -> RecordKey {
    RecordKey { boot: BootId(7), lane: Lane::RollUps, sequence: Sequence(sequence) }
}

/// A summary of one quiet cell in `region`.
pub(crate) fn summary(sequence: u64, region: &str) -> Summary {
    let start = now().window_start(10_000).plus_ms(-10_000);
    let mut summary = Summary::new(key(sequence), start, 10_000);
    let cell = wire::CellName {
        region: summary.strings.intern(region).unwrap(),
        device: summary.strings.intern("tv").unwrap(),
        stack: summary.strings.intern("playback").unwrap(),
    };
    let metric = summary.strings.intern("activity").unwrap();
    summary.cells.push(cell).unwrap();
    let hundred = wire::F24::from_f32(100.0);
    let roll_up = wire::RollUp { cell: 0, metric, observed: hundred, expected: hundred, count: 10 };
    summary.roll_ups.push(roll_up).unwrap();
    summary
}

pub(crate) fn acknowledged(sequence: u64) -> Answer {
    Answer::Acknowledge(Acknowledge { key: key(sequence) })
}

fn client_builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
}

async fn connect(address: SocketAddr, tls: ClientConfig) -> Result<(Endpoint, Connection), ConnectionError> {
    connect_from("127.0.0.1", address, tls).await
}

async fn connect_from(
    from: &str,
    address: SocketAddr,
    tls: ClientConfig,
) -> Result<(Endpoint, Connection), ConnectionError> {
    let endpoint = Endpoint::client(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let connecting = endpoint.connect_with(config, address, "vedette-aggregator").unwrap();
    Ok((endpoint, connecting.await?))
}

/// Trusts the one CA whose certificate has this fingerprint, if the server shows it.
#[derive(Debug)]
struct Pinned([u8; 32]);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = chain.iter().find(|one| Sha256::digest(one).as_slice() == self.0);
        let pinned =
            pinned.ok_or(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()))
                .build()
                .unwrap();
        verifier.verify_server_cert(leaf, chain, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
