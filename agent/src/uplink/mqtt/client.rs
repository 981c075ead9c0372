//! The MQTT library in either version: what is sent to the broker, and what it lets us know.
//!
//! The only file that names the library. Must never remember what was sent: the link does. The hard case is the two
//! versions, whose types are alike and not the same.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use rumqttc_v4 as v4;
use rumqttc_v5 as v5;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::{mpsc, oneshot};
use vedette_common::AgentId;

use super::{ARRIVALS_MAX, Broker, CONNECT_TIMEOUT, PACKET_BYTES_MAX, REQUESTS_MAX, Topics, UNCONFIRMED_MAX};
use crate::config::{MqttUplink, MqttVersion};
use crate::identity::Identity;
use crate::uplink::wire::{Counted, Wire};

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

/// Whether the broker keeps a message for later subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retain {
    Yes,
    No,
}

/// Runs the library until the connection ends; gives why.
pub(super) async fn drive(
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
pub(super) enum Client {
    V4(v4::AsyncClient),
    V5(v5::AsyncClient),
}

impl Client {
    pub(super) async fn subscribe(&self, topic: String) -> Result<(), MqttError> {
        match self {
            Self::V4(client) => {
                client.subscribe(topic, v4::QoS::AtLeastOnce).await.map_err(|_| MqttError::Ended)
            }
            Self::V5(client) => {
                client.subscribe(topic, v5::QoS::AtLeastOnce).await.map_err(|_| MqttError::Ended)
            }
        }
    }

    pub(super) async fn publish(
        &self,
        topic: String,
        payload: &[u8],
        retain: Retain,
    ) -> Result<(), MqttError> {
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
    pub(super) async fn disconnect(&self) -> Result<(), MqttError> {
        match self {
            Self::V4(client) => client.disconnect().await.map_err(|_| MqttError::Ended),
            Self::V5(client) => client.disconnect().await.map_err(|_| MqttError::Ended),
        }
    }
}

/// Receives, in either version. Each connection has its own: the link knows what is to be sent again.
pub(super) enum Events {
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

/// A client and its events, connecting; nothing happens until events are asked for.
pub(super) fn prepare(
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
