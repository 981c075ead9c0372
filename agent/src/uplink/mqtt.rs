//! MQTT 3.1.1 and 5 through any broker, over TCP or TLS: the same frames as over QUIC, on topics of this agent.
//!
//! The only file that names the MQTT library. Must never take a broker's PUBACK for delivery: the link hears nothing of it.
//! The hard case is a session that the broker kept while this process was away. The library lets such a session send only
//! with a memory of its own, so it is given an empty one: what it may have lost is sent again by the link.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rumqttc_v4 as v4;
use rumqttc_v5 as v5;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use vedette_common::AgentId;
use vedette_common::wire::{Frame, Kind};

use super::BATCH_BYTES_MAX;
use super::wire::{Counted, Wire};
use crate::config::{MqttUplink, MqttVersion};
use crate::identity::Identity;

/// How long to reach the broker, log in and subscribe.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a graceful close waits for the broker to take the last messages.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// Messages handed to the broker that it has not confirmed.
const UNCONFIRMED_MAX: u16 = 8;
/// Messages that wait for room among those.
const REQUESTS_MAX: usize = 2;
/// Messages from the aggregator that wait to be read; one more ends the connection.
const ARRIVALS_MAX: usize = 16;
/// The longest packet: a batch of frames with its topic and properties.
const PACKET_BYTES_MAX: u32 = BATCH_BYTES_MAX as u32 + 4_096;

/// Worst-case memory of a connection in bytes: unconfirmed messages and a snapshot of them, messages that wait on both
/// sides, a read and a write buffer, and the state of TLS (64 KiB) and of the protocol's packet ids (64 KiB).
pub const CONNECTION_BYTES: usize =
    (2 * UNCONFIRMED_MAX as usize + REQUESTS_MAX + ARRIVALS_MAX + 4) * PACKET_BYTES_MAX as usize + 128 * 1024;

/// Why there is no connection to the broker, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum MqttError {
    /// The address is none; `check` refuses it.
    #[error("{0} is no broker's address")]
    Url(String),
    /// A file that the config names cannot be read.
    #[error("{}: {cause}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A file that should hold certificates does not.
    #[error("{}: holds no certificate in PEM", .0.display())]
    Pem(PathBuf),
    /// Nothing says whose brokers are trusted.
    #[error("no authority to trust: enrol with the aggregator, or set uplink.mqtt.ca_file")]
    NoAuthority,
    /// Key, certificate or authority cannot be used.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The connection failed or ended, MQTT 3.1.1.
    #[error("the broker: {0}")]
    V4(#[from] v4::ConnectionError),
    /// The connection failed or ended, MQTT 5.
    #[error("the broker: {0}")]
    V5(#[from] v5::ConnectionError),
    /// The broker does not let this agent hear its answers.
    #[error("the broker refuses the subscription to {0}")]
    Subscription(String),
    /// More messages came than this agent reads.
    #[error("more than {ARRIVALS_MAX} messages wait to be read")]
    Unread,
    /// It took too long.
    #[error("no answer from the broker in time")]
    TimedOut,
    /// The connection ended.
    #[error("the connection to the broker ended")]
    Ended,
}

/// Where a broker listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Whether TLS protects the way.
    pub tls: bool,
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Broker {
    /// Reads `mqtt://HOST[:1883]` or `mqtts://HOST[:8883]`.
    #[must_use]
    pub fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let (tls, port) = match scheme {
            "mqtt" => (false, 1883),
            "mqtts" => (true, 8883),
            _ => return None,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, digits)) if !digits.ends_with(']') => (host, digits.parse().ok()?),
            _ => (rest, port),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let plain = !host.is_empty() && !host.contains(['/', '@', ' ', '?', '#']);
        (plain && port != 0).then(|| Self { tls, host: host.to_owned(), port })
    }
}

/// Whether `region` can be a level of a topic.
#[must_use]
pub fn is_topic_level(region: &str) -> bool {
    !region.is_empty() && !region.contains(['/', '+', '#', '\0'])
}

/// The topics of one agent in its region.
#[derive(Clone, Debug)]
pub struct Topics {
    base: String,
}

impl Topics {
    /// The topics of `agent` in `region`.
    #[must_use]
    pub fn new(region: &str, agent: &AgentId) -> Self {
        Self { base: format!("vedette/v1/{region}/{agent}") }
    }

    fn birth(&self) -> String {
        format!("{}/birth", self.base)
    }

    fn summary(&self) -> String {
        format!("{}/summary", self.base)
    }

    fn death(&self) -> String {
        format!("{}/death", self.base)
    }

    fn command(&self) -> String {
        format!("{}/command", self.base)
    }
}

/// A connection to the broker, subscribed to this agent's commands.
#[derive(Debug)]
pub struct Connected {
    client: Client,
    topics: Topics,
    arrivals: mpsc::Receiver<Vec<u8>>,
    /// The message being read, and how far.
    message: Vec<u8>,
    read: usize,
    pump: Pump,
}

/// The task that drives the library; it ends with this.
#[derive(Debug)]
struct Pump(JoinHandle<MqttError>);

impl Drop for Pump {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connects, with the agent's certificate over TLS if there is one, and subscribes to its commands.
///
/// # Errors
/// [`MqttError`] for files that cannot be used, a broker that cannot be reached within ten seconds, or its refusal.
pub async fn connect(
    settings: &MqttUplink,
    agent: &AgentId,
    topics: &Topics,
    identity: Option<&Identity>,
    wire: Arc<Wire>,
) -> Result<Connected, MqttError> {
    let (client, events) = prepare(settings, agent, topics, identity, wire)?;
    client.subscribe(topics.command()).await?;
    let (arrived, arrivals) = mpsc::channel(ARRIVALS_MAX);
    let (ready, subscribed) = oneshot::channel();
    let mut pump = Pump(tokio::spawn(drive(events, arrived, ready, topics.command())));
    let opened = async {
        match subscribed.await {
            Ok(()) => Ok(()),
            Err(_) => Err((&mut pump.0).await.unwrap_or(MqttError::Ended)),
        }
    };
    tokio::time::timeout(CONNECT_TIMEOUT, opened).await.map_err(|_| MqttError::TimedOut)??;
    Ok(Connected { client, topics: topics.clone(), arrivals, message: Vec::new(), read: 0, pump })
}

impl Connected {
    /// Hands whole frames to the broker, a birth as the message by which the agent is found; waits while the broker does
    /// not confirm earlier ones.
    ///
    /// # Errors
    /// [`MqttError::Ended`] when the connection is gone.
    pub async fn send(&mut self, frames: &[u8]) -> Result<(), MqttError> {
        let birth = match Frame::parse(frames) {
            Ok((frame, length)) if frame.kind == Kind::Birth => length,
            _ => 0,
        };
        let (birth, rest) = frames.split_at(birth);
        if !birth.is_empty() {
            self.client.publish(self.topics.birth(), birth, Retain::Yes).await?;
        }
        if !rest.is_empty() {
            self.client.publish(self.topics.summary(), rest, Retain::No).await?;
        }
        Ok(())
    }

    /// The next frame. Dropping the future in between loses nothing; what is no frame is skipped with its message, since
    /// anybody whom the broker lets may write it.
    ///
    /// # Errors
    /// Why the connection ended.
    pub async fn frame(&mut self) -> Result<Frame<'_>, MqttError> {
        let length = loop {
            match Frame::parse(&self.message[self.read..]) {
                Ok((_, length)) => break length,
                Err(error) if self.read < self.message.len() => {
                    tracing::warn!(%error, "a command that is no frame was skipped");
                }
                Err(_) => {}
            }
            self.message.clear();
            self.read = 0;
            match self.arrivals.recv().await {
                Some(message) => self.message = message,
                None => return Err((&mut self.pump.0).await.unwrap_or(MqttError::Ended)),
            }
        };
        let begin = self.read;
        self.read += length;
        // It parsed a moment ago.
        Frame::parse(&self.message[begin..]).map(|(frame, _)| frame).map_err(|_| MqttError::Ended)
    }

    /// Says that the agent goes, and ends the connection in order; the broker then sends no last will.
    pub async fn close(mut self) {
        let farewell = async {
            self.client.publish(self.topics.death(), &[], Retain::No).await?;
            self.client.disconnect().await?;
            (&mut self.pump.0).await.map_err(|_| MqttError::Ended)
        };
        // A broker that does not answer sends the last will instead.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, farewell).await;
    }
}

/// Whether the broker keeps a message for later subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retain {
    Yes,
    No,
}

/// Runs the library until the connection ends; gives why.
async fn drive(
    mut events: Events,
    arrived: mpsc::Sender<Vec<u8>>,
    ready: oneshot::Sender<()>,
    topic: String,
) -> MqttError {
    let mut ready = Some(ready);
    loop {
        match events.next().await {
            Ok(Happening::Subscribed(true)) => {
                if let Some(ready) = ready.take() {
                    // Whoever waited may have given up; the connection then ends with them.
                    let _ = ready.send(());
                }
            }
            Ok(Happening::Subscribed(false)) => return MqttError::Subscription(topic),
            Ok(Happening::Arrived(message)) => {
                // What the broker kept from earlier may be more than anybody reads yet; it is said again.
                if arrived.try_send(message).is_err() && ready.is_none() {
                    return MqttError::Unread;
                }
            }
            Ok(Happening::Other) => {}
            Err(error) => return error,
        }
    }
}

/// What the broker let us know.
enum Happening {
    /// It answered the subscription, and whether it grants it.
    Subscribed(bool),
    /// A message for this agent.
    Arrived(Vec<u8>),
    /// Anything else, confirmations among them: they mean nothing to the link.
    Other,
}

/// Sends requests, in either version.
#[derive(Clone, Debug)]
enum Client {
    V4(v4::AsyncClient),
    V5(v5::AsyncClient),
}

impl Client {
    async fn subscribe(&self, topic: String) -> Result<(), MqttError> {
        match self {
            Self::V4(client) => {
                client.subscribe(topic, v4::QoS::AtLeastOnce).await.map_err(|_| MqttError::Ended)
            }
            Self::V5(client) => {
                client.subscribe(topic, v5::QoS::AtLeastOnce).await.map_err(|_| MqttError::Ended)
            }
        }
    }

    async fn publish(&self, topic: String, payload: &[u8], retain: Retain) -> Result<(), MqttError> {
        let retain = retain == Retain::Yes;
        match self {
            Self::V4(client) => {
                let options = v4::PublishOptions::new(v4::QoS::AtLeastOnce).retain(retain);
                client.publish(topic, payload, options).await.map_err(|_| MqttError::Ended)
            }
            Self::V5(client) => {
                let options = v5::PublishOptions::new(v5::QoS::AtLeastOnce).retain(retain);
                client.publish(topic, payload, options).await.map_err(|_| MqttError::Ended)
            }
        }
    }

    /// Asks for the end of the connection once everything sent is confirmed.
    async fn disconnect(&self) -> Result<(), MqttError> {
        match self {
            Self::V4(client) => client.disconnect().await.map_err(|_| MqttError::Ended),
            Self::V5(client) => client.disconnect().await.map_err(|_| MqttError::Ended),
        }
    }
}

/// Receives, in either version. Each connection has its own: the link knows what is to be sent again.
enum Events {
    V4(Box<v4::EventLoop>),
    V5(Box<v5::EventLoop>),
}

impl Events {
    async fn next(&mut self) -> Result<Happening, MqttError> {
        match self {
            Self::V4(events) => Ok(match Box::pin(events.poll()).await? {
                v4::Event::Incoming(v4::Packet::Publish(publish)) => {
                    Happening::Arrived(publish.payload.to_vec())
                }
                v4::Event::Incoming(v4::Packet::SubAck(answer)) => Happening::Subscribed(
                    answer
                        .return_codes
                        .iter()
                        .all(|code| matches!(code, v4::SubscribeReasonCode::Success(_))),
                ),
                _ => Happening::Other,
            }),
            Self::V5(events) => Ok(match Box::pin(events.poll()).await? {
                v5::Event::Incoming(v5::Packet::Publish(publish)) => {
                    Happening::Arrived(publish.payload.to_vec())
                }
                v5::Event::Incoming(v5::Packet::SubAck(answer)) => Happening::Subscribed(
                    answer
                        .return_codes
                        .iter()
                        .all(|code| matches!(code, v5::SubscribeReasonCode::Success(_))),
                ),
                _ => Happening::Other,
            }),
        }
    }
}

fn prepare(
    settings: &MqttUplink,
    agent: &AgentId,
    topics: &Topics,
    identity: Option<&Identity>,
    wire: Arc<Wire>,
) -> Result<(Client, Events), MqttError> {
    let broker = Broker::parse(&settings.url).ok_or_else(|| MqttError::Url(settings.url.clone()))?;
    let tls = if broker.tls { Some(Arc::new(tls(settings, identity)?)) } else { None };
    let login = match (&settings.username, &settings.password_file) {
        (Some(name), Some(path)) => Some((name.clone(), Some(read(path)?))),
        (Some(name), None) => Some((name.clone(), None)),
        (None, _) => None,
    };
    let client_id = format!("vedette-agent-{agent}");
    Ok(match settings.version {
        MqttVersion::V3_1_1 => {
            let mut options = v4::MqttOptions::new(client_id, (broker.host, broker.port));
            options.set_clean_session(false).set_keep_alive(settings.keep_alive_s);
            options.set_last_will(v4::LastWill::new(topics.death(), [], v4::QoS::AtLeastOnce, false));
            options.set_inflight(UNCONFIRMED_MAX);
            options.set_socket_connector(move |host, network| {
                let wire = Arc::clone(&wire);
                async move { Ok(Counted::new(v4::default_socket_connect(host, network).await?, wire)) }
            });
            options.set_max_packet_size(PACKET_BYTES_MAX as usize, PACKET_BYTES_MAX as usize);
            match login {
                Some((name, Some(password))) => drop(options.set_credentials(name, password)),
                Some((name, None)) => drop(options.set_username(name)),
                None => {}
            }
            if let Some(tls) = tls {
                options.set_transport(v4::Transport::Tls(v4::TlsConfiguration::Rustls(tls)));
            }
            let (client, events) = v4::AsyncClient::builder(options).capacity(REQUESTS_MAX).build();
            (Client::V4(client), Events::V4(Box::new(events)))
        }
        MqttVersion::V5 => {
            let mut options = v5::MqttOptions::new(client_id.clone(), (broker.host, broker.port));
            options.set_clean_start(false).set_keep_alive(settings.keep_alive_s);
            options.set_session_expiry_interval(Some(settings.session_expiry_s));
            options.set_last_will(v5::LastWill::new(topics.death(), [], v5::QoS::AtLeastOnce, false, None));
            options.set_outgoing_inflight_upper_limit(UNCONFIRMED_MAX);
            options.set_receive_maximum(Some(UNCONFIRMED_MAX));
            options.set_max_packet_size(Some(PACKET_BYTES_MAX));
            options.set_connect_timeout(CONNECT_TIMEOUT);
            options.set_socket_connector(move |host, network| {
                let wire = Arc::clone(&wire);
                async move { Ok(Counted::new(v5::default_socket_connect(host, network).await?, wire)) }
            });
            options.set_session_store(EmptyMemory { client_id, unconfirmed_max: UNCONFIRMED_MAX });
            match login {
                Some((name, Some(password))) => drop(options.set_credentials(name, password)),
                Some((name, None)) => drop(options.set_username(name)),
                None => {}
            }
            if let Some(tls) = tls {
                options.set_transport(v5::Transport::Tls(v5::TlsConfiguration::Rustls(tls)));
            }
            let (client, events) = v5::AsyncClient::builder(options).capacity(REQUESTS_MAX).build();
            (Client::V5(client), Events::V5(Box::new(events)))
        }
    })
}

/// Remembers nothing of earlier connections: whatever the broker did not confirm, the link sends again.
#[derive(Debug)]
struct EmptyMemory {
    client_id: String,
    unconfirmed_max: u16,
}

impl v5::SessionStore for EmptyMemory {
    fn load<'a>(
        &'a self,
        _: &'a v5::SessionStoreKey,
    ) -> std::pin::Pin<
        Box<dyn Future<Output = Result<Option<v5::PersistedSession>, v5::SessionStoreError>> + Send + 'a>,
    > {
        let empty = v5::PersistedSession {
            format_version: 1,
            client_id: self.client_id.clone(),
            clean_start: false,
            session_expiry_interval: None,
            outgoing_inflight_upper_limit: Some(self.unconfirmed_max),
            ack_mode: v5::PersistedAckMode::Automatic,
            last_pkid: 0,
            last_puback: 0,
            replay: Vec::new(),
            incoming_qos2: Vec::new(),
        };
        Box::pin(async { Ok(Some(empty)) })
    }

    fn save<'a>(
        &'a self,
        _: &'a v5::SessionStoreKey,
        _: &'a v5::PersistedSession,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(), v5::SessionStoreError>> + Send + 'a>> {
        Box::pin(async { Ok(()) })
    }

    fn clear<'a>(
        &'a self,
        _: &'a v5::SessionStoreKey,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(), v5::SessionStoreError>> + Send + 'a>> {
        Box::pin(async { Ok(()) })
    }
}

/// TLS 1.3 with the agent's certificate, if it has one, trusting the authority that the config names, else the aggregator's.
fn tls(settings: &MqttUplink, identity: Option<&Identity>) -> Result<ClientConfig, MqttError> {
    let authorities = match (&settings.ca_file, identity) {
        (Some(path), _) => certificates(path)?,
        (None, Some(identity)) => identity.roots.clone(),
        (None, None) => return Err(MqttError::NoAuthority),
    };
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(identity) => builder.with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())?,
        None => builder.with_no_client_auth(),
    };
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, MqttError> {
    let text = fs::read(path).map_err(|cause| MqttError::File { path: path.clone(), cause })?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(|| MqttError::Pem(path.clone()))
}

/// The first line of a file: a password.
fn read(path: &PathBuf) -> Result<String, MqttError> {
    let text = fs::read_to_string(path).map_err(|cause| MqttError::File { path: path.clone(), cause })?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let broker = |url| Broker::parse(url).map(|it| (it.tls, it.host, it.port));
        assert_eq!(broker("mqtt://a.example"), Some((false, "a.example".into(), 1883)));
        assert_eq!(broker("mqtts://a.example/"), Some((true, "a.example".into(), 8883)));
        assert_eq!(broker("mqtt://[::1]:99"), Some((false, "::1".into(), 99)));
        assert_eq!(broker("mqtts://[::1]"), Some((true, "::1".into(), 8883)));
        for none in
            ["a.example", "http://a", "mqtt://", "mqtt://u:p@a", "mqtt://a:0", "mqtt://a:x", "mqtt://a/b"]
        {
            assert_eq!(broker(none), None, "{none}");
        }
    }

    #[test]
    fn regions_that_would_be_other_topics_are_known() {
        assert!(is_topic_level("eu-west"));
        for bad in ["", "a/b", "+", "#", "a#"] {
            assert!(!is_topic_level(bad), "{bad}");
        }
    }
}
