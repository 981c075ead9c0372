//! Listening on QUIC: one UDP port, one connection an agent, one bidirectional stream of frames. Beside its own folder nothing here names quinn.
//! It must never let an unverified peer reach the core: the data protocol needs a certificate of our CA whose key is the agent's latest, and ends
//! when the agent is revoked or the certificate expires.
//! The hard case is the end of a connection. A peer that breaks the protocol is told why and cut off; a graceful stop reads no more,
//! but still writes every answer that the core owes before it closes.

mod socket;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use quinn::crypto::HandshakeTokenKey;
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{Connection, ConnectionError, Endpoint, Incoming, RecvStream, SendStream, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};
use vedette_aggregator_core::AllowedRegions;
use vedette_common::wire::{self, Enroll, Frame, Kind, Refuse, RefuseReason, Renew, WireError};

use super::admission::Offer;
use super::doorway::{Doorway, Pass, TurnedAway};
use super::tls::{ALPN_DATA, ALPN_ENROLL, TlsError, server_config};
use super::{AgentMessage, Aside, FrameBuffer, Input, Reception, Replies, encode, stopped};
use crate::ca::Authority;
use crate::clock::Clock;
use crate::enroll::Standing;
use crate::identity::Identity;
use crate::limits::{
    ENROLMENTS_MAX, FAREWELL_TIMEOUT, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, IDLE_TIMEOUT, OVERLOADED_RETRY_MS,
    REFUSED_ENROLMENT_WEIGHT, REPLY_QUEUE_MAX, SEND_WINDOW_BYTES, STREAM_WINDOW_BYTES,
};
use crate::metrics::Tally;
pub use socket::DroppedDatagrams;

/// TLS alerts by which a handshake tells what was wrong with a certificate (RFC 8446, section 6).
const ALERT_BAD_CERTIFICATE: u8 = 42;
const ALERT_CERTIFICATE_EXPIRED: u8 = 45;
const ALERT_UNKNOWN_CA: u8 = 48;
const ALERT_DECRYPT_ERROR: u8 = 51;

/// Records refused one after the other from which an agent takes no notice of refusals: a few times what it may have on
/// its way.
const REFUSED_IN_A_ROW_MAX: usize = 4 * vedette_common::limits::IN_FLIGHT_MAX;

/// How often what a connection sends and receives is counted.
const WIRE_COUNT_INTERVAL: Duration = Duration::from_secs(5);

/// Why the port cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}/udp: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// TLS lacks the cipher that QUIC begins with.
    #[error("QUIC cannot use this TLS configuration: {0}")]
    Cipher(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

/// Why a connection ended. The peer gets the words.
#[derive(Debug, thiserror::Error)]
enum Ending {
    #[error("the peer went away")]
    Gone,
    #[error("nothing was sent in time")]
    Slow,
    #[error("the data protocol needs a client certificate; enrol first")]
    NoCertificate,
    #[error("the certificate is of our CA, but names no agent: {0}")]
    NoIdentity(#[from] crate::identity::IdentityError),
    #[error("the agent has enrolled with another key since")]
    OldKey,
    #[error("the agent was revoked; only a token made for it by name takes it back")]
    Revoked,
    #[error("the agent's certificate has expired")]
    Expired,
    #[error("the key of the CA that signed the agent's certificate is trusted no more; enrol again")]
    Distrusted,
    #[error("the first frame must be the birth of the agent that the certificate names")]
    WrongIdentity,
    #[error("bad frame: {0}")]
    BadFrame(#[from] WireError),
    #[error("the stream ends inside a frame")]
    CutOff,
    #[error("too many agents are connected; try again later")]
    Overloaded,
    #[error("the agent has connected again, or does not read its answers")]
    LetGo,
    #[error("the aggregator is stopping")]
    Stopping,
}

impl Ending {
    /// The name for the counter.
    const fn reason(&self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Slow => "slow",
            Self::NoCertificate => "no_certificate",
            Self::NoIdentity(_) => "no_identity",
            Self::OldKey => "old_key",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Distrusted => "distrusted",
            Self::WrongIdentity => "wrong_identity",
            Self::BadFrame(_) => "bad_frame",
            Self::CutOff => "cut_off",
            Self::Overloaded => "overloaded",
            Self::LetGo => "let_go",
            Self::Stopping => "stopping",
        }
    }

    /// The application's error code in QUIC: 0 for an end without fault, 1 when trying again at once is of no use, 2 when it is.
    const fn code(&self) -> VarInt {
        match self {
            Self::Gone | Self::Stopping => VarInt::from_u32(0),
            Self::Slow | Self::Overloaded | Self::LetGo | Self::Expired => VarInt::from_u32(2),
            _ => VarInt::from_u32(1),
        }
    }

    /// What the agent is told in our own protocol before the end, if anything.
    const fn refusal(&self) -> Option<Refuse> {
        let (reason, retry_after_ms) = match self {
            Self::Overloaded => (RefuseReason::Overloaded, OVERLOADED_RETRY_MS),
            Self::Revoked => (RefuseReason::Revoked, 0),
            Self::WrongIdentity | Self::OldKey | Self::Distrusted | Self::NoIdentity(_) => {
                (RefuseReason::WrongIdentity, 0)
            }
            _ => return None,
        };
        Some(Refuse { reason, key: None, retry_after_ms })
    }
}

/// What a standing lets happen to a connection.
const fn admit(standing: Standing) -> Result<(), Ending> {
    match standing {
        Standing::Good => Ok(()),
        Standing::OldKey => Err(Ending::OldKey),
        Standing::Revoked => Err(Ending::Revoked),
        Standing::Expired => Err(Ending::Expired),
        Standing::Distrusted => Err(Ending::Distrusted),
    }
}

/// The listening socket.
#[derive(Debug)]
pub struct QuicListener {
    endpoint: Endpoint,
    dropped: DroppedDatagrams,
    retries: RetryKey,
    stop: watch::Sender<bool>,
    shared: Arc<Shared>,
}

/// What the tasks of one listener share.
#[derive(Debug)]
struct Shared {
    reception: Reception,
    doorway: Doorway,
    enrolments: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    next_connection: AtomicU64,
    stopping: watch::Receiver<bool>,
}

impl QuicListener {
    /// Binds `address` and shows certificates of the reception's CA; [`QuicListener::serve`] then takes connections.
    ///
    /// # Errors
    /// [`ListenError`] when the address cannot be bound or TLS not be set up.
    pub fn bind(address: SocketAddr, reception: Reception) -> Result<Self, ListenError> {
        let retries = RetryKey::of(&reception.enroller.authority());
        let config = quic_config(&reception.enroller.authority(), &retries)?;
        let failed = |source| ListenError::Bind { address, source };
        let (socket, dropped) = socket::bind(address).map_err(failed)?;
        let endpoint = Endpoint::new(
            endpoint_config(&reception.enroller.authority()),
            Some(config),
            socket,
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(failed)?;
        let (stop, stopping) = watch::channel(false);
        let shared = Shared {
            doorway: Doorway::new(Clock::start()),
            enrolments: Arc::new(Semaphore::new(ENROLMENTS_MAX)),
            connections: Arc::new(Semaphore::new(reception.connections_max)),
            next_connection: AtomicU64::new(1),
            stopping,
            reception,
        };
        Ok(Self { endpoint, dropped, retries, stop, shared: Arc::new(shared) })
    }

    /// The count of datagrams that came too fast.
    #[must_use]
    pub const fn dropped_datagrams(&self) -> DroppedDatagrams {
        self.dropped
    }

    /// The address that is listened on.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Shows certificates of `authority` to new connections; the present ones go on.
    ///
    /// # Errors
    /// [`ListenError`] when TLS cannot be set up; nothing changes then.
    pub fn renew(&self, authority: &Authority) -> Result<(), ListenError> {
        self.endpoint.set_server_config(Some(quic_config(authority, &self.retries)?));
        Ok(())
    }

    /// Takes connections until [`QuicListener::stop`].
    pub async fn serve(&self) {
        let mut stopping = self.shared.stopping.clone();
        loop {
            let incoming = tokio::select! {
                () = stopped(&mut stopping) => break,
                incoming = self.endpoint.accept() => incoming,
            };
            let Some(incoming) = incoming else { break };
            self.receive(incoming);
        }
    }

    /// Takes no more connections and reads no more frames; answers that the core still gives are written.
    pub fn stop(&self) {
        self.endpoint.set_server_config(None);
        self.stop.send_replace(true);
    }

    /// Waits until every connection has ended, [`FAREWELL_TIMEOUT`] at most.
    pub async fn finish(self) {
        let Self { endpoint, stop: _stop, shared, .. } = self;
        drop(shared);
        let _ = timeout(FAREWELL_TIMEOUT, endpoint.wait_idle()).await;
    }

    fn receive(&self, incoming: Incoming) {
        // Whoever may not be sent a retry has shown the token of an earlier one, or of a former connection.
        let proven = incoming.remote_address_validated() || !incoming.may_retry();
        match self.shared.doorway.enter(incoming.remote_address().ip(), proven) {
            Ok(pass) => drop(tokio::spawn(Arc::clone(&self.shared).connect(incoming, pass))),
            Err(turned_away) => {
                self.shared.reception.metrics.count(Tally::Handshake, turned_away.as_str());
                match turned_away {
                    TurnedAway::ProveAddress => drop(incoming.retry()),
                    TurnedAway::Full | TurnedAway::AddressFull | TurnedAway::TooOften => incoming.refuse(),
                }
            }
        }
    }
}

impl Shared {
    /// The life of one connection.
    async fn connect(self: Arc<Self>, incoming: Incoming, mut pass: Pass) {
        let metrics = &self.reception.metrics;
        let connection = match timeout(HANDSHAKE_TIMEOUT, incoming).await {
            Err(_) => return metrics.count(Tally::Handshake, "slow"),
            Ok(Err(error)) => {
                tracing::debug!(%error, "handshake failed");
                let outcome = handshake_failure(&error);
                // Certificates come under keys that only who hears our answers can have.
                if outcome.starts_with("certificate") {
                    pass.prove();
                }
                return metrics.count(Tally::Handshake, outcome);
            }
            Ok(Ok(connection)) => connection,
        };
        pass.prove();
        metrics.count(Tally::Handshake, "done");
        let ending = self.serve_metered(&connection, pass).await.err().unwrap_or(Ending::Gone);
        metrics.count(Tally::Closed, ending.reason());
        tracing::debug!(peer = %connection.remote_address(), reason = %ending, "connection ended");
        connection.close(ending.code(), ending.to_string().as_bytes());
    }

    /// Serves a connection, and counts what goes over the wire meanwhile.
    async fn serve_metered(&self, connection: &Connection, pass: Pass) -> Result<(), Ending> {
        let mut serve = pin!(self.serve(connection, pass));
        let mut counted = [0; 2];
        loop {
            let served = timeout(WIRE_COUNT_INTERVAL, &mut serve).await;
            let stats = connection.stats();
            let totals = [stats.udp_tx.bytes, stats.udp_rx.bytes];
            self.reception.metrics.count_wire("quic", totals[0] - counted[0], totals[1] - counted[1]);
            counted = totals;
            if let Ok(result) = served {
                return result;
            }
        }
    }

    async fn serve(&self, connection: &Connection, pass: Pass) -> Result<(), Ending> {
        match chosen_protocol(connection).as_deref() {
            Some(ALPN_DATA) => self.carry_data(connection, pass).await,
            Some(ALPN_ENROLL) => self.enroll(connection, pass).await,
            // TLS itself refuses a peer that offers neither.
            _ => Err(Ending::NoCertificate),
        }
    }

    /// A core's task that stops lets go of every connection, and that may be noticed before the stop itself.
    fn explain(&self, ending: Ending) -> Ending {
        match ending {
            Ending::LetGo if *self.stopping.borrow() => Ending::Stopping,
            other => other,
        }
    }

    /// The data protocol. It leaves the doorway once the agent has introduced itself.
    async fn carry_data(&self, connection: &Connection, pass: Pass) -> Result<(), Ending> {
        let identity = verified_identity(connection)?;
        let (mut send, receive) = accept_stream(connection).await?;
        let result = self.carry_stream(&identity, &mut send, receive, pass).await;
        if let Err(refuse) = result.as_ref().map_err(Ending::refusal) {
            if let Some(refuse) = refuse {
                self.reception.metrics.count(Tally::Refused, refuse.reason.as_str());
            }
            say_farewell(&mut send, refuse).await;
        }
        result
    }

    async fn carry_stream(
        &self,
        identity: &Identity,
        send: &mut SendStream,
        receive: RecvStream,
        pass: Pass,
    ) -> Result<(), Ending> {
        admit(self.reception.enroller.standing(identity, SystemTime::now()))?;
        let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned() else {
            pass.end_well();
            return Err(Ending::Overloaded);
        };
        let mut frames = Frames::new(receive, self.reception.clone());
        let first = timeout(HANDSHAKE_TIMEOUT, frames.next()).await.map_err(|_| Ending::Slow)??;
        let birth = first.ok_or(Ending::Gone)?;
        if !matches!(&*birth, AgentMessage::Birth(birth) if birth.agent == identity.agent) {
            return Err(Ending::WrongIdentity);
        }
        if let Err(error) = self.reception.enroller.greet(identity).await {
            tracing::warn!(agent = %identity.agent, %error, "the agent's former key stays good for now");
        }
        let _gauge = Raised::new(&self.reception.metrics.connections);
        pass.end_well();
        let (link, answers) = Link::open(self, identity)?;
        let result = link.carry(birth, frames, answers, send).await;
        drop(permit);
        result
    }

    /// The enrolment protocol: one request, one answer.
    async fn enroll(&self, connection: &Connection, pass: Pass) -> Result<(), Ending> {
        let metrics = &self.reception.metrics;
        let (mut send, receive) = accept_stream(connection).await?;
        // Those who have not asked yet are bounded by the doorway, of each address: they must not keep out who asks.
        let request =
            timeout(HANDSHAKE_TIMEOUT, self.read_request(receive)).await.map_err(|_| Ending::Slow)??;
        let Ok(_permit) = self.enrolments.try_acquire() else {
            pass.end_well();
            metrics.count(Tally::Enrolment, RefuseReason::Overloaded.as_str());
            let refuse =
                Refuse { reason: RefuseReason::Overloaded, key: None, retry_after_ms: OVERLOADED_RETRY_MS };
            say_farewell(&mut send, Some(refuse)).await;
            return Err(Ending::Overloaded);
        };
        let (enrolled, done) = match request {
            Request::Enroll(request) => (self.reception.enroller.enroll(&request).await, "done"),
            Request::Renew(request) => {
                let identity = verified_identity(connection)?;
                (self.reception.enroller.renew(&identity, &request).await, "renewed")
            }
        };
        match enrolled {
            Ok(enrolled) => {
                metrics.count(Tally::Enrolment, done);
                pass.end_well();
                say_farewell(&mut send, Some(enrolled)).await;
            }
            Err(error) => {
                let reason = error.refusal();
                metrics.count(Tally::Enrolment, reason.as_str());
                tracing::warn!(peer = %connection.remote_address(), %error, "enrolment refused");
                let is_ours = reason == RefuseReason::Overloaded;
                let retry_after_ms = if is_ours { OVERLOADED_RETRY_MS } else { 0 };
                pass.end_as(if is_ours { 0 } else { REFUSED_ENROLMENT_WEIGHT });
                say_farewell(&mut send, Some(Refuse { reason, key: None, retry_after_ms })).await;
            }
        }
        Ok(())
    }

    async fn read_request(&self, mut receive: RecvStream) -> Result<Request, Ending> {
        let mut buffer = FrameBuffer::default();
        loop {
            match buffer.next(Request::decode) {
                Ok(Some(request)) => return Ok(request),
                Ok(None) => {}
                Err(error) => {
                    self.reception.count_bad_frame(&error);
                    return Err(error.into());
                }
            }
            let chunk = receive.read_chunk(STREAM_WINDOW_BYTES as usize, true).await;
            let chunk = chunk.map_err(|_| Ending::Gone)?.ok_or(Ending::CutOff)?;
            buffer.extend(&chunk.bytes);
        }
    }
}

/// What the enrolment protocol is asked for.
enum Request {
    Enroll(Box<Enroll>),
    Renew(Box<Renew>),
}

impl Request {
    fn decode(frame: &Frame<'_>) -> Result<Self, WireError> {
        match frame.kind {
            Kind::Renew => wire::decode(frame).map(Box::new).map(Self::Renew),
            _ => wire::decode(frame).map(Box::new).map(Self::Enroll),
        }
    }
}

/// The data connection of one agent, known to the core's task.
struct Link<'s> {
    shared: &'s Shared,
    identity: &'s Identity,
    regions: Arc<AllowedRegions>,
    connection: u64,
    aside: Aside,
}

impl<'s> Link<'s> {
    /// Tells the core's task; gives the answers that it will have for this connection as well.
    fn open(shared: &'s Shared, identity: &'s Identity) -> Result<(Self, mpsc::Receiver<Vec<u8>>), Ending> {
        let (replies, answers) = mpsc::channel(REPLY_QUEUE_MAX);
        let connection = shared.next_connection.fetch_add(1, Ordering::Relaxed);
        let replies = Replies::new(replies);
        let aside = replies.aside();
        let opened = Input::Opened { agent: identity.agent.clone(), connection, replies };
        shared.reception.inbox.offer(opened).map_err(|_| Ending::Stopping)?;
        let regions = Arc::new(AllowedRegions::from(&shared.reception.enroller.regions(identity)));
        Ok((Self { shared, identity, regions, connection, aside }, answers))
    }

    /// Passes frames to the core and answers back until either side ends.
    async fn carry(
        &self,
        birth: Box<AgentMessage>,
        mut frames: Frames,
        mut answers: mpsc::Receiver<Vec<u8>>,
        send: &mut SendStream,
    ) -> Result<(), Ending> {
        self.pass(birth)?;
        let mut stopping = self.shared.stopping.clone();
        let result = {
            let mut answers = pin!(write_answers(&mut answers, send));
            let mut read = pin!(self.read(&mut frames));
            tokio::select! {
                result = &mut read => result,
                result = &mut answers => result.map_err(|ending| self.shared.explain(ending)),
                fallen = self.shared.reception.enroller.fallen(self.identity) => admit(fallen),
                () = stopped(&mut stopping) => {
                    // Nothing more is read; what the core still owes is written.
                    let _ = timeout(crate::limits::STOP_TIMEOUT, answers).await;
                    return Err(Ending::Stopping);
                }
            }
        };
        let closed = Input::Closed { agent: self.identity.agent.clone(), connection: self.connection };
        // A core's task that has stopped needs not to be told.
        let _ = self.shared.reception.inbox.offer(closed);
        result
    }

    /// Passes frames to the core. An agent that goes on sending what is refused is not read for as long as it was told to
    /// wait, and so held back by QUIC's flow control.
    async fn read(&self, frames: &mut Frames) -> Result<(), Ending> {
        let (mut refused_in_a_row, mut rest) = (0, Duration::ZERO);
        while let Some(message) = frames.next().await? {
            if matches!(&*message, AgentMessage::Birth(birth) if birth.agent != self.identity.agent) {
                return Err(Ending::WrongIdentity);
            }
            let is_record = matches!(*message, AgentMessage::Summary(_));
            match self.pass(message)? {
                Offer::Refused(refuse, _) => {
                    self.aside.refuse(&refuse);
                    rest = Duration::from_millis(u64::from(refuse.retry_after_ms));
                    refused_in_a_row += 1;
                }
                Offer::Behind => refused_in_a_row += 1,
                Offer::Taken if is_record => refused_in_a_row = 0,
                Offer::Taken | Offer::Over => {}
            }
            if refused_in_a_row > REFUSED_IN_A_ROW_MAX {
                sleep(rest).await;
                refused_in_a_row = 0;
            }
        }
        Ok(())
    }

    fn pass(&self, message: Box<AgentMessage>) -> Result<Offer, Ending> {
        let (agent, regions) = (self.identity.agent.clone(), Arc::clone(&self.regions));
        let received = Input::Received { agent, connection: self.connection, regions, message };
        self.shared.reception.inbox.offer(received).map_err(|_| Ending::Stopping)
    }
}

/// Writes answers until the core's task lets go of the connection.
async fn write_answers(answers: &mut mpsc::Receiver<Vec<u8>>, send: &mut SendStream) -> Result<(), Ending> {
    while let Some(frame) = answers.recv().await {
        send.write_all(&frame).await.map_err(|_| Ending::Gone)?;
    }
    Err(Ending::LetGo)
}

/// Frames of one agent's stream.
struct Frames {
    receive: RecvStream,
    buffer: FrameBuffer,
    reception: Reception,
}

impl Frames {
    fn new(receive: RecvStream, reception: Reception) -> Self {
        Self { receive, buffer: FrameBuffer::default(), reception }
    }

    /// The next frame; none when the agent has ended the stream between two frames.
    async fn next(&mut self) -> Result<Option<Box<AgentMessage>>, Ending> {
        loop {
            match self.buffer.next(|frame| AgentMessage::decode(frame).map(Box::new)) {
                Ok(Some(message)) => {
                    self.reception.metrics.count(Tally::Frame, message.name());
                    return Ok(Some(message));
                }
                Ok(None) => {}
                Err(error) => {
                    self.reception.count_bad_frame(&error);
                    return Err(error.into());
                }
            }
            match self.receive.read_chunk(STREAM_WINDOW_BYTES as usize, true).await {
                Ok(Some(chunk)) => self.buffer.extend(&chunk.bytes),
                Ok(None) if self.buffer.is_empty() => return Ok(None),
                Ok(None) => {
                    let error = WireError::Truncated { have: 0, need: 1 };
                    self.reception.count_bad_frame(&error);
                    return Err(Ending::CutOff);
                }
                Err(_) => return Err(Ending::Gone),
            }
        }
    }
}

/// Counts one up in a gauge for as long as it lives.
struct Raised<'g>(&'g prometheus_client::metrics::gauge::Gauge);

impl<'g> Raised<'g> {
    fn new(gauge: &'g prometheus_client::metrics::gauge::Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

async fn accept_stream(connection: &Connection) -> Result<(SendStream, RecvStream), Ending> {
    let accepted = timeout(HANDSHAKE_TIMEOUT, connection.accept_bi()).await.map_err(|_| Ending::Slow)?;
    accepted.map_err(|_| Ending::Gone)
}

/// Sends the last message, if any, and waits a little until the peer has it: closing at once could outrun it.
async fn say_farewell<M: wire::Message>(send: &mut SendStream, message: Option<M>) {
    let Some(frame) = message.and_then(|message| encode(&message).ok()) else { return };
    let farewell = async {
        send.write_all(&frame).await.ok()?;
        send.finish().ok()?;
        send.stopped().await.ok()
    };
    let _ = timeout(FAREWELL_TIMEOUT, farewell).await;
}

fn chosen_protocol(connection: &Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

fn verified_identity(connection: &Connection) -> Result<Identity, Ending> {
    let chain =
        connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let leaf = chain.and_then(|chain| chain.into_iter().next()).ok_or(Ending::NoCertificate)?;
    Ok(Identity::from_certificate(&leaf)?)
}

/// QUIC carries a TLS alert as 0x100 plus its number (RFC 9001, section 4.8).
fn handshake_failure(error: &ConnectionError) -> &'static str {
    let alert = match error {
        ConnectionError::TransportError(error) => u64::from(error.code).checked_sub(0x100),
        ConnectionError::TimedOut => return "slow",
        _ => return "broken_off",
    };
    match alert.and_then(|alert| u8::try_from(alert).ok()) {
        Some(ALERT_CERTIFICATE_EXPIRED) => "certificate_expired",
        Some(ALERT_UNKNOWN_CA) => "certificate_foreign",
        Some(ALERT_BAD_CERTIFICATE | ALERT_DECRYPT_ERROR) => "certificate_bad",
        _ => "failed",
    }
}

/// After a kill, packets of former connections are answered with a stateless reset (RFC 9000, section 10.3) that their agents recognise,
/// because its key outlives the process: they come back at once instead of after the idle timeout.
fn endpoint_config(authority: &Authority) -> quinn::EndpointConfig {
    let secret = authority.derive_secret("vedette quic stateless reset");
    let mut config =
        quinn::EndpointConfig::new(Arc::new(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret)));
    config.cid_generator(|| Box::new(RandomIds));
    config
}

/// Random connection ids. Quinn's own are checked under a key that a restart forgets, and what fails the check gets no reset.
struct RandomIds;

impl RandomIds {
    /// Bytes of an id: enough that two never meet.
    const BYTES: usize = 8;
}

impl quinn::ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        let mut bytes = [0; Self::BYTES];
        // Without random numbers there is no TLS either; an id that is taken already is made again.
        let _ = getrandom::fill(&mut bytes);
        quinn::ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        Self::BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The key under which newcomers prove their address with the token of a retry. It stays when certificates are renewed: under another
/// one, whoever was just asked to prove its address would take our next packets for a stranger's and give up.
#[derive(Clone)]
struct RetryKey(Arc<dyn HandshakeTokenKey>);

impl RetryKey {
    fn of(authority: &Authority) -> Self {
        let secret = authority.derive_secret("vedette quic retry");
        Self(Arc::new(ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, &[]).extract(&secret)))
    }
}

impl std::fmt::Debug for RetryKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RetryKey")
    }
}

fn quic_config(authority: &Authority, retries: &RetryKey) -> Result<quinn::ServerConfig, ListenError> {
    let tls = server_config(authority, SystemTime::now())?;
    let mut config =
        quinn::ServerConfig::new(Arc::new(QuicServerConfig::try_from(tls)?), Arc::clone(&retries.0));
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(Duration::from_secs(20)))
        .max_idle_timeout(quinn::IdleTimeout::try_from(IDLE_TIMEOUT).ok());
    config.transport_config(Arc::new(transport));
    config.max_incoming(HANDSHAKES_MAX);
    Ok(config)
}
