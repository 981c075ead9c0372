//! The MQTT library in either version: one connection to the broker, what is sent over it and what happens on it. The only file here
//! that names the library. It must never take a session's memory for delivery: what the broker did not confirm is asked for again by the
//! agents. The hard case is the two versions, whose types are alike and not the same.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rumqttc_v4 as v4;
use rumqttc_v5 as v5;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::TOPIC_ROOT;
use super::address::Broker;
use crate::ca::{Authority, CaError};
use crate::config::{MqttListen, MqttVersion};
use crate::limits::{
    HANDSHAKE_TIMEOUT, MQTT_ARRIVALS_MAX, MQTT_PACKET_BYTES_MAX, MQTT_REQUESTS_MAX, MQTT_UNCONFIRMED_MAX,
};
use crate::listen::Reception;
use crate::listen::counted::Counted;

/// Why there is no connection to the broker, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The address is none; `check` refuses it.
    #[error("`{0}` is no broker's address")]
    Url(String),
    /// A file that the config names cannot be used.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that should hold certificates does not.
    #[error("{}: no certificate in PEM", .0.display())]
    Pem(PathBuf),
    /// Our own certificate cannot be made.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The connection failed or ended, MQTT 3.1.1.
    #[error("{0}")]
    V4(#[from] v4::ConnectionError),
    /// The connection failed or ended, MQTT 5.
    #[error("{0}")]
    V5(#[from] v5::ConnectionError),
    /// The broker does not let us hear the agents.
    #[error("the broker refuses the subscription to {TOPIC_ROOT}")]
    Subscription,
    /// It took too long.
    #[error("no answer in time")]
    TimedOut,
    /// The connection ended.
    #[error("the connection ended")]
    Ended,
}

/// Begins to connect and to subscribe to `filters`; messages of a session that the broker kept may come before its answers.
pub(super) async fn connect(
    settings: &MqttListen,
    reception: &Reception,
    filters: Vec<String>,
) -> Result<(Client, Pump), BrokerError> {
    let (client, events) = prepare(settings, reception)?;
    client.subscribe(filters).await?;
    let (arrived, arrivals) = mpsc::channel(MQTT_ARRIVALS_MAX);
    Ok((client, Pump { arrivals, task: tokio::spawn(drive(events, arrived)) }))
}

/// The task that drives the library, and what it heard.
pub(super) struct Pump {
    arrivals: mpsc::Receiver<Happening>,
    task: JoinHandle<BrokerError>,
}

impl Pump {
    /// What happens next. Dropping the future in between loses nothing.
    pub(super) async fn next(&mut self) -> Result<Happening, BrokerError> {
        match self.arrivals.recv().await {
            Some(happening) => Ok(happening),
            None => Err((&mut self.task).await.unwrap_or(BrokerError::Ended)),
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Runs the library until the connection ends. It waits while the core does not keep up; the broker then holds messages back.
async fn drive(mut events: Events, arrived: mpsc::Sender<Happening>) -> BrokerError {
    loop {
        match events.next().await {
            Ok(Some(happening)) => {
                if arrived.send(happening).await.is_err() {
                    return BrokerError::Ended;
                }
            }
            Ok(None) => {}
            Err(error) => return error,
        }
    }
}

/// What the broker let us know.
pub(super) enum Happening {
    /// It answered the subscription, and whether it grants all of it.
    Subscribed(bool),
    /// A message.
    Arrived(Arrived),
}

/// A message from an agent, or from whoever the broker lets write in its place.
pub(super) struct Arrived {
    pub(super) topic: String,
    /// Whether it was kept for us, and is not news.
    pub(super) retained: bool,
    pub(super) payload: Vec<u8>,
}

/// Sends requests, in either version.
#[derive(Clone, Debug)]
pub(super) enum Client {
    V4(v4::AsyncClient),
    V5(v5::AsyncClient),
}

impl Client {
    async fn subscribe(&self, filters: Vec<String>) -> Result<(), BrokerError> {
        match self {
            Self::V4(client) => {
                let filters = filters.into_iter().map(|f| v4::SubscribeFilter::new(f, v4::QoS::AtLeastOnce));
                client.subscribe_many(filters).await.map_err(|_| BrokerError::Ended)
            }
            Self::V5(client) => {
                // What we say ourselves is no news; a shared subscription knows no such option.
                let filters = filters.into_iter().map(|filter| {
                    let is_shared = filter.starts_with("$share/");
                    v5::SubscribeFilterInput::new(filter, v5::QoS::AtLeastOnce).no_local(!is_shared)
                });
                client.subscribe_many(filters).await.map_err(|_| BrokerError::Ended)
            }
        }
    }

    pub(super) async fn publish(&self, topic: String, payload: Vec<u8>) -> Result<(), BrokerError> {
        match self {
            Self::V4(client) => {
                let options = v4::PublishOptions::new(v4::QoS::AtLeastOnce);
                client.publish(topic, payload, options).await.map_err(|_| BrokerError::Ended)
            }
            Self::V5(client) => {
                let options = v5::PublishOptions::new(v5::QoS::AtLeastOnce);
                client.publish(topic, payload, options).await.map_err(|_| BrokerError::Ended)
            }
        }
    }

    /// Sends if there is room at once; else the agent finds out by its own timeout.
    pub(super) fn offer(&self, topic: String, payload: Vec<u8>) {
        let _ = match self {
            Self::V4(client) => {
                client.try_publish(topic, payload, v4::PublishOptions::new(v4::QoS::AtLeastOnce)).is_ok()
            }
            Self::V5(client) => {
                client.try_publish(topic, payload, v5::PublishOptions::new(v5::QoS::AtLeastOnce)).is_ok()
            }
        };
    }

    /// Asks for the end of the connection once everything sent is confirmed.
    pub(super) async fn disconnect(&self) -> Result<(), BrokerError> {
        match self {
            Self::V4(client) => client.disconnect().await.map_err(|_| BrokerError::Ended),
            Self::V5(client) => client.disconnect().await.map_err(|_| BrokerError::Ended),
        }
    }
}

/// Receives, in either version. Each connection has its own: what is lost in between, agents send again.
enum Events {
    V4(Box<v4::EventLoop>),
    V5(Box<v5::EventLoop>),
}

impl Events {
    async fn next(&mut self) -> Result<Option<Happening>, BrokerError> {
        match self {
            Self::V4(events) => Ok(match Box::pin(events.poll()).await? {
                v4::Event::Incoming(v4::Packet::Publish(publish)) => {
                    Some(arrived(&publish.topic, publish.retain, &publish.payload))
                }
                v4::Event::Incoming(v4::Packet::SubAck(answer)) => {
                    let granted =
                        |code: &v4::SubscribeReasonCode| matches!(code, v4::SubscribeReasonCode::Success(_));
                    Some(Happening::Subscribed(answer.return_codes.iter().all(granted)))
                }
                _ => None,
            }),
            Self::V5(events) => Ok(match Box::pin(events.poll()).await? {
                v5::Event::Incoming(v5::Packet::Publish(publish)) => {
                    Some(arrived(&publish.topic, publish.retain, &publish.payload))
                }
                v5::Event::Incoming(v5::Packet::SubAck(answer)) => {
                    let granted =
                        |code: &v5::SubscribeReasonCode| matches!(code, v5::SubscribeReasonCode::Success(_));
                    Some(Happening::Subscribed(answer.return_codes.iter().all(granted)))
                }
                _ => None,
            }),
        }
    }
}

fn arrived(topic: &[u8], retained: bool, payload: &[u8]) -> Happening {
    let topic = String::from_utf8_lossy(topic).into_owned();
    Happening::Arrived(Arrived { topic, retained, payload: payload.to_vec() })
}

fn prepare(settings: &MqttListen, reception: &Reception) -> Result<(Client, Events), BrokerError> {
    let broker = Broker::parse(&settings.url).ok_or_else(|| BrokerError::Url(settings.url.clone()))?;
    let tls = if broker.tls { Some(Arc::new(tls(settings, &reception.enroller.authority())?)) } else { None };
    let login = match (&settings.username, &settings.password_file) {
        (Some(name), Some(path)) => Some((name.clone(), Some(password(path)?))),
        (Some(name), None) => Some((name.clone(), None)),
        (None, _) => None,
    };
    let client_id = settings.client_id.clone();
    let metrics = reception.metrics.clone();
    Ok(match settings.version {
        MqttVersion::V3_1_1 => {
            let mut options = v4::MqttOptions::new(client_id, (broker.host, broker.port));
            options.set_clean_session(false).set_keep_alive(settings.keep_alive_s);
            options.set_inflight(MQTT_UNCONFIRMED_MAX);
            options.set_socket_connector(move |host, network| {
                let metrics = metrics.clone();
                async move { Ok(Counted::new(v4::default_socket_connect(host, network).await?, metrics)) }
            });
            options.set_max_packet_size(MQTT_PACKET_BYTES_MAX as usize, MQTT_PACKET_BYTES_MAX as usize);
            match login {
                Some((name, Some(password))) => drop(options.set_credentials(name, password)),
                Some((name, None)) => drop(options.set_username(name)),
                None => {}
            }
            if let Some(tls) = tls {
                options.set_transport(v4::Transport::Tls(v4::TlsConfiguration::Rustls(tls)));
            }
            let (client, events) = v4::AsyncClient::builder(options).capacity(MQTT_REQUESTS_MAX).build();
            (Client::V4(client), Events::V4(Box::new(events)))
        }
        MqttVersion::V5 => {
            let mut options = v5::MqttOptions::new(client_id.clone(), (broker.host, broker.port));
            options.set_clean_start(false).set_keep_alive(settings.keep_alive_s);
            options.set_session_expiry_interval(Some(settings.session_expiry_s()));
            options.set_outgoing_inflight_upper_limit(MQTT_UNCONFIRMED_MAX);
            options.set_receive_maximum(Some(MQTT_UNCONFIRMED_MAX));
            options.set_max_packet_size(Some(MQTT_PACKET_BYTES_MAX));
            options.set_connect_timeout(HANDSHAKE_TIMEOUT);
            options.set_socket_connector(move |host, network| {
                let metrics = metrics.clone();
                async move { Ok(Counted::new(v5::default_socket_connect(host, network).await?, metrics)) }
            });
            options.set_session_store(EmptyMemory { client_id });
            match login {
                Some((name, Some(password))) => drop(options.set_credentials(name, password)),
                Some((name, None)) => drop(options.set_username(name)),
                None => {}
            }
            if let Some(tls) = tls {
                options.set_transport(v5::Transport::Tls(v5::TlsConfiguration::Rustls(tls)));
            }
            let (client, events) = v5::AsyncClient::builder(options).capacity(MQTT_REQUESTS_MAX).build();
            (Client::V5(client), Events::V5(Box::new(events)))
        }
    })
}

/// The library resumes a session that the broker kept only with a memory of its own. This one is empty: what the broker did not confirm is
/// asked for again by the agents.
#[derive(Debug)]
struct EmptyMemory {
    client_id: String,
}

type Remembering<'a, T> =
    std::pin::Pin<Box<dyn Future<Output = Result<T, v5::SessionStoreError>> + Send + 'a>>;

impl v5::SessionStore for EmptyMemory {
    fn load<'a>(&'a self, _: &'a v5::SessionStoreKey) -> Remembering<'a, Option<v5::PersistedSession>> {
        let empty = v5::PersistedSession {
            format_version: 1,
            client_id: self.client_id.clone(),
            clean_start: false,
            session_expiry_interval: None,
            outgoing_inflight_upper_limit: Some(MQTT_UNCONFIRMED_MAX),
            ack_mode: v5::PersistedAckMode::Automatic,
            last_pkid: 0,
            last_puback: 0,
            replay: Vec::new(),
            incoming_qos2: Vec::new(),
        };
        Box::pin(async { Ok(Some(empty)) })
    }

    fn save<'a>(&'a self, _: &'a v5::SessionStoreKey, _: &'a v5::PersistedSession) -> Remembering<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn clear<'a>(&'a self, _: &'a v5::SessionStoreKey) -> Remembering<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// TLS 1.3 with a fresh certificate of our CA, trusting the authority that the config names, else our own.
fn tls(settings: &MqttListen, authority: &Authority) -> Result<ClientConfig, BrokerError> {
    let (chain, key) = authority.issue_server(SystemTime::now())?;
    let trusted: Vec<CertificateDer<'static>> = match &settings.ca_file {
        Some(path) => certificates(path)?,
        None => authority.roots().cloned().collect(),
    };
    let mut roots = RootCertStore::empty();
    for root in trusted {
        roots.add(root)?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BrokerError> {
    let text = std::fs::read(path).map_err(|source| BrokerError::File { path: path.into(), source })?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(|| BrokerError::Pem(path.into()))
}

/// The first line of the file.
fn password(path: &Path) -> Result<String, BrokerError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| BrokerError::File { path: path.into(), source })?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
