//! Listening over MQTT 3.1.1 and 5: agents behind any broker, found by their births. The only file here that names the MQTT library.
//! It must never let a message speak for another agent or region than those of its topic: the broker's authentication stands between, and
//! its access rules hold each agent to its own topics; an agent that enrolled speaks only for the regions of its enrolment, and a revoked one
//! for none. The hard case is what brokers repeat: a retained birth says where an agent is to be
//! found, not that it lives, so it is told to the core only with the agent's next word of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rumqttc_v4 as v4;
use rumqttc_v5 as v5;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use vedette_aggregator_core::AllowedRegions;
use vedette_common::AgentId;
use vedette_common::wire::{self, Birth, Frame, Kind, Refuse, RefuseReason, WireError};

use super::admission::Offer;
use super::inbox::InboxClosed;
use super::{AgentMessage, Aside, Input, Reception, Replies, encode, stopped};
use crate::ca::{Authority, CaError};
use crate::config::{MqttListen, MqttVersion};
use crate::identity::Regions;
use crate::limits::{
    FAREWELL_TIMEOUT, HANDSHAKE_TIMEOUT, MQTT_ARRIVALS_MAX, MQTT_MESSAGE_BYTES_MAX, MQTT_PACKET_BYTES_MAX,
    MQTT_REQUESTS_MAX, MQTT_UNCONFIRMED_MAX, OVERLOADED_RETRY_MS, REPLY_QUEUE_MAX, RETRY_PAUSE_MIN,
    STOP_TIMEOUT,
};
use crate::metrics::Tally;

/// Longest pause before the broker is tried again.
const BROKER_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Connection numbers of this listener begin here, so that they never meet those of QUIC.
const FIRST_CONNECTION: u64 = 1 << 63;
/// What every topic begins with.
const TOPIC_ROOT: &str = "vedette/v1";

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

/// Who speaks, by the topic: an agent, for one region.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Speaker {
    agent: AgentId,
    region: String,
}

impl Speaker {
    fn command_topic(&self) -> String {
        format!("{TOPIC_ROOT}/{}/{}/command", self.region, self.agent)
    }

    /// The speaker and the last part of a topic; none for a topic that is not ours.
    fn of(topic: &str) -> Option<(Self, &str)> {
        let mut levels = topic.strip_prefix(TOPIC_ROOT)?.strip_prefix('/')?.split('/');
        let (region, agent, part) = (levels.next()?, levels.next()?, levels.next()?);
        if levels.next().is_some() || region.is_empty() {
            return None;
        }
        let agent = AgentId::parse(agent).ok()?;
        Some((Self { agent, region: region.to_owned() }, part))
    }
}

/// The listener: one connection to the broker at a time, made again for as long as it lives.
#[derive(Debug)]
pub struct MqttListener {
    settings: MqttListen,
    reception: Reception,
    agents_max: usize,
    stop: watch::Sender<bool>,
    ended: watch::Sender<bool>,
}

impl MqttListener {
    /// A listener that knows at most `agents_max` agents; [`MqttListener::serve`] then connects.
    #[must_use]
    pub fn new(settings: MqttListen, reception: Reception, agents_max: usize) -> Self {
        let (stop, ended) = (watch::Sender::new(false), watch::Sender::new(false));
        Self { settings, reception, agents_max, stop, ended }
    }

    /// Hears agents until [`MqttListener::stop`]; a broker that is away is tried again with growing pauses.
    pub async fn serve(&self) {
        let mut stopping = self.stop.subscribe();
        let mut floor = Floor::new(self);
        let mut pause = RETRY_PAUSE_MIN;
        while !*stopping.borrow() {
            let (error, connected) = self.serve_once(&mut floor).await;
            if *stopping.borrow() {
                break;
            }
            tracing::warn!(url = self.settings.url, %error, "the broker cannot be used; trying again");
            pause = if connected { RETRY_PAUSE_MIN } else { (pause * 2).min(BROKER_PAUSE_MAX) };
            tokio::select! {
                () = sleep(jittered(pause)) => {}
                () = stopped(&mut stopping) => {}
            }
        }
        self.ended.send_replace(true);
    }

    /// Hears no more agents; answers that the core still gives are sent.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until [`MqttListener::serve`] has ended, for a limited time.
    pub async fn finish(&self) {
        let mut ended = self.ended.subscribe();
        let _ = timeout(FAREWELL_TIMEOUT, stopped(&mut ended)).await;
    }

    /// One connection, from log-in to its end: why it ended, and whether it ever stood.
    async fn serve_once(&self, floor: &mut Floor<'_>) -> (BrokerError, bool) {
        let (client, mut pump) = match self.connect().await {
            Ok(connecting) => connecting,
            Err(error) => return (error, false),
        };
        let error = floor.listen(&client, &mut pump).await;
        floor.leave().await;
        let stood = self.reception.metrics.broker_connected.set(0) == 1;
        (error, stood)
    }

    /// Begins to connect and subscribe; messages of a session that the broker kept may come before its answers.
    async fn connect(&self) -> Result<(Client, Pump), BrokerError> {
        let (client, events) = prepare(&self.settings, &self.reception.enroller.authority())?;
        client.subscribe(self.filters()).await?;
        let (arrived, arrivals) = mpsc::channel(MQTT_ARRIVALS_MAX);
        Ok((client, Pump { arrivals, task: tokio::spawn(drive(events, arrived)) }))
    }

    /// Births and deaths come to every aggregator, summaries to one of those that share.
    fn filters(&self) -> Vec<String> {
        let share = self.settings.share.as_ref().map(|group| format!("$share/{group}/")).unwrap_or_default();
        vec![
            format!("{TOPIC_ROOT}/+/+/birth"),
            format!("{TOPIC_ROOT}/+/+/death"),
            format!("{share}{TOPIC_ROOT}/+/+/summary"),
        ]
    }
}

/// The agents that are known, and those that have spoken on the present connection to the broker.
struct Floor<'l> {
    listener: &'l MqttListener,
    births: BTreeMap<Speaker, Box<Birth>>,
    links: BTreeMap<Speaker, Link>,
    next_connection: u64,
    /// Moves when an agent's standing changes.
    changes: watch::Receiver<i64>,
    /// One task for each link, which gives whose it was.
    writers: JoinSet<(Speaker, u64)>,
}

/// An agent that the core's task knows to be connected.
struct Link {
    connection: u64,
    regions: Arc<AllowedRegions>,
    aside: Aside,
}

impl<'l> Floor<'l> {
    fn new(listener: &'l MqttListener) -> Self {
        let (births, links, writers) = (BTreeMap::new(), BTreeMap::new(), JoinSet::new());
        let changes = listener.reception.enroller.changes();
        Self { listener, births, links, next_connection: FIRST_CONNECTION, changes, writers }
    }

    /// Takes messages until the connection or the listener ends.
    async fn listen(&mut self, client: &Client, pump: &mut Pump) -> BrokerError {
        let mut stopping = self.listener.stop.subscribe();
        let patience = Instant::now() + HANDSHAKE_TIMEOUT;
        let mut subscribed = false;
        loop {
            let happening = tokio::select! {
                () = stopped(&mut stopping) => return self.bow_out(client, pump).await,
                () = sleep_until(patience), if !subscribed => return BrokerError::TimedOut,
                Some(ended) = self.writers.join_next() => {
                    self.let_go(ended.ok());
                    continue;
                }
                Ok(()) = self.changes.changed() => {
                    self.look_again(client);
                    continue;
                }
                happening = pump.next() => happening,
            };
            match happening {
                Ok(Happening::Arrived(message)) => {
                    if self.hear(client, &message).is_err() {
                        return self.bow_out(client, pump).await;
                    }
                }
                Ok(Happening::Subscribed(true)) => {
                    subscribed = true;
                    self.listener.reception.metrics.broker_connected.set(1);
                    tracing::info!(url = self.listener.settings.url, "connected to the broker");
                }
                Ok(Happening::Subscribed(false)) => return BrokerError::Subscription,
                Err(error) => return error,
            }
        }
    }

    /// Hears nothing more, but sends every answer that the core still gives, and then takes leave of the broker.
    async fn bow_out(&mut self, client: &Client, pump: &mut Pump) -> BrokerError {
        let answers = async {
            loop {
                tokio::select! {
                    ended = self.writers.join_next() => if ended.is_none() { return },
                    // What still comes is not acknowledged, and so comes again later.
                    happening = pump.next() => if happening.is_err() { return },
                }
            }
        };
        let _ = timeout(STOP_TIMEOUT, answers).await;
        let farewell = async {
            client.disconnect().await?;
            loop {
                pump.next().await?;
            }
        };
        let farewell: Result<Result<(), BrokerError>, _> = timeout(FAREWELL_TIMEOUT, farewell).await;
        farewell.unwrap_or(Ok(())).err().unwrap_or(BrokerError::Ended)
    }

    /// The broker is gone, and with it every way back.
    async fn leave(&mut self) {
        self.writers.shutdown().await;
        while let Some((speaker, link)) = self.links.pop_first() {
            self.listener.reception.metrics.count(Tally::Closed, "broker_lost");
            // A core's task that is gone needs not to be told.
            let _ = self.close(speaker, &link);
        }
    }

    fn hear(&mut self, client: &Client, message: &Arrived) -> Result<(), InboxClosed> {
        let metrics = &self.listener.reception.metrics;
        let Some((speaker, part)) = Speaker::of(&message.topic) else {
            metrics.count(Tally::BadFrame, "topic");
            return Ok(());
        };
        if message.payload.len() > MQTT_MESSAGE_BYTES_MAX {
            metrics.count(Tally::BadFrame, "message_too_long");
            return Ok(());
        }
        match part {
            "birth" => self.hear_birth(client, &speaker, message),
            "summary" => self.hear_frames(client, &speaker, &message.payload),
            "death" => self.hear_death(speaker),
            _ => {
                metrics.count(Tally::BadFrame, "topic");
                Ok(())
            }
        }
    }

    fn hear_birth(
        &mut self,
        client: &Client,
        speaker: &Speaker,
        message: &Arrived,
    ) -> Result<(), InboxClosed> {
        let reception = &self.listener.reception;
        if message.payload.is_empty() {
            // Somebody has taken the retained birth away: the agent is no more.
            self.births.remove(speaker);
            return Ok(());
        }
        let birth = match decode_birth(&message.payload) {
            Ok(birth) => birth,
            Err(error) => {
                reception.count_bad_frame(&error);
                return Ok(());
            }
        };
        if birth.agent != speaker.agent {
            reception.metrics.count(Tally::Refused, RefuseReason::WrongIdentity.as_str());
            return Ok(());
        }
        if !self.make_room(speaker) {
            reception.metrics.count(Tally::Refused, "agents_full");
            return Ok(());
        }
        let is_open = self.links.contains_key(speaker);
        let was_known = self.births.insert(speaker.clone(), birth).is_some();
        if message.retained {
            // An agent that has spoken already is introduced late.
            return if is_open && !was_known { self.introduce(speaker) } else { Ok(()) };
        }
        self.listener.reception.metrics.count(Tally::Frame, "birth");
        let opened = self.open(client, speaker)?;
        if opened && is_open { self.introduce(speaker) } else { Ok(()) }
    }

    /// Whether one more birth can be remembered: in place of an agent that has not spoken, if need be.
    fn make_room(&mut self, speaker: &Speaker) -> bool {
        if self.births.contains_key(speaker) || self.births.len() < self.listener.agents_max {
            return true;
        }
        let silent = self.births.keys().find(|known| !self.links.contains_key(*known)).cloned();
        silent.is_some_and(|silent| self.births.remove(&silent).is_some())
    }

    fn hear_frames(&mut self, client: &Client, speaker: &Speaker, payload: &[u8]) -> Result<(), InboxClosed> {
        let metrics = self.listener.reception.metrics.clone();
        let mut rest = payload;
        while !rest.is_empty() {
            let (message, length) = match decode(rest) {
                Ok(decoded) => decoded,
                Err(error) => {
                    self.listener.reception.count_bad_frame(&error);
                    return Ok(());
                }
            };
            rest = &rest[length..];
            metrics.count(Tally::Frame, message.name());
            if matches!(*message, AgentMessage::Birth(_)) {
                let error = WireError::WrongKind { expected: Kind::Summary, found: Kind::Birth };
                self.listener.reception.count_bad_frame(&error);
            } else if self.open(client, speaker)? {
                self.pass(speaker, message)?;
            }
        }
        Ok(())
    }

    /// Some agent's standing has changed: links that stand on another one end, and those who may open them again with their next word.
    fn look_again(&mut self, client: &Client) {
        let changed: Vec<Speaker> = self
            .links
            .iter()
            .filter(|(speaker, link)| self.regions_of(speaker).ok().as_ref() != Some(&*link.regions))
            .map(|(speaker, _)| speaker.clone())
            .collect();
        for speaker in changed {
            if self.regions_of(&speaker).is_err() {
                self.turn_away(client, &speaker, RefuseReason::Revoked, 0);
            }
            let Some(link) = self.links.remove(&speaker) else { continue };
            self.listener.reception.metrics.count(Tally::Closed, "standing");
            // A core's task that is gone needs not to be told.
            let _ = self.close(speaker, &link);
        }
    }

    /// What the speaker may speak for: the region of its topic, unless it enrolled for others or was revoked.
    fn regions_of(&self, speaker: &Speaker) -> Result<AllowedRegions, RefuseReason> {
        let enroller = &self.listener.reception.enroller;
        // A topic's level that is no region's name gives none.
        let asked = Regions::parse([&speaker.region]).unwrap_or_else(|_| Regions::none());
        let asked = if asked.is_all() { Regions::none() } else { asked };
        enroller.regions_by_broker(&speaker.agent, asked).map(|regions| AllowedRegions::from(&regions))
    }

    /// Refuses to hear a speaker, and tells it why if there is room.
    fn turn_away(&self, client: &Client, speaker: &Speaker, reason: RefuseReason, retry_after_ms: u32) {
        self.listener.reception.metrics.count(Tally::Refused, reason.as_str());
        if let Ok(frame) = encode(&Refuse { reason, key: None, retry_after_ms }) {
            client.offer(speaker.command_topic(), frame);
        }
    }

    /// The agent's connection to the broker ended; its next word opens the link again.
    fn hear_death(&mut self, speaker: Speaker) -> Result<(), InboxClosed> {
        let Some(link) = self.links.remove(&speaker) else { return Ok(()) };
        self.listener.reception.metrics.count(Tally::Closed, "death");
        self.close(speaker, &link)
    }

    /// The core's task knows the agent as connected after this, unless there are too many.
    fn open(&mut self, client: &Client, speaker: &Speaker) -> Result<bool, InboxClosed> {
        if self.links.contains_key(speaker) {
            return Ok(true);
        }
        let regions = match self.regions_of(speaker) {
            Ok(_) if self.links.len() >= self.listener.reception.connections_max => {
                self.turn_away(client, speaker, RefuseReason::Overloaded, OVERLOADED_RETRY_MS);
                return Ok(false);
            }
            Ok(regions) => Arc::new(regions),
            Err(reason) => {
                self.turn_away(client, speaker, reason, 0);
                return Ok(false);
            }
        };
        let connection = self.next_connection;
        self.next_connection += 1;
        let (replies, answers) = mpsc::channel(REPLY_QUEUE_MAX);
        let agent = speaker.agent.clone();
        let replies = Replies::new(replies);
        let aside = replies.aside();
        self.offer(Input::Opened { agent, connection, replies })?;
        self.links.insert(speaker.clone(), Link { connection, regions, aside });
        self.listener.reception.metrics.connections.inc();
        let written = write_answers(client.clone(), speaker.command_topic(), answers);
        let whose = (speaker.clone(), connection);
        self.writers.spawn(async move {
            written.await;
            whose
        });
        self.introduce(speaker)?;
        Ok(true)
    }

    fn introduce(&self, speaker: &Speaker) -> Result<(), InboxClosed> {
        match self.births.get(speaker) {
            Some(birth) => self.pass(speaker, Box::new(AgentMessage::Birth((**birth).clone()))),
            None => Ok(()),
        }
    }

    fn pass(&self, speaker: &Speaker, message: Box<AgentMessage>) -> Result<(), InboxClosed> {
        let Some(Link { connection, regions, aside }) = self.links.get(speaker) else { return Ok(()) };
        let (agent, connection, regions) = (speaker.agent.clone(), *connection, Arc::clone(regions));
        if let Offer::Refused(refuse, _) =
            self.offer(Input::Received { agent, connection, regions, message })?
        {
            aside.refuse(&refuse);
        }
        Ok(())
    }

    /// A writer has ended: the core's task let go of the link, because another speaks for the agent or answers were not taken.
    fn let_go(&mut self, ended: Option<(Speaker, u64)>) {
        let Some((speaker, connection)) = ended else { return };
        if self.links.get(&speaker).is_some_and(|link| link.connection == connection) {
            let Some(link) = self.links.remove(&speaker) else { return };
            self.listener.reception.metrics.count(Tally::Closed, "let_go");
            // Told again at the stop, if the core's task is gone.
            let _ = self.close(speaker, &link);
        }
    }

    fn close(&self, speaker: Speaker, link: &Link) -> Result<(), InboxClosed> {
        self.listener.reception.metrics.connections.dec();
        self.offer(Input::Closed { agent: speaker.agent, connection: link.connection }).map(drop)
    }

    fn offer(&self, input: Input) -> Result<Offer, InboxClosed> {
        self.listener.reception.inbox.offer(input)
    }
}

/// The first frame of `bytes`, and how many it takes.
fn decode(bytes: &[u8]) -> Result<(Box<AgentMessage>, usize), WireError> {
    let (frame, length) = Frame::parse(bytes)?;
    Ok((AgentMessage::decode(&frame).map(Box::new)?, length))
}

/// The one frame of a birth message.
fn decode_birth(bytes: &[u8]) -> Result<Box<Birth>, WireError> {
    let (frame, _) = Frame::parse(bytes)?;
    wire::decode(&frame).map(Box::new)
}

/// Sends answers until the core's task lets go of the link; what waits together goes in one message.
async fn write_answers(client: Client, topic: String, mut answers: mpsc::Receiver<Vec<u8>>) {
    while let Some(mut message) = answers.recv().await {
        while message.len() + vedette_common::limits::FRAME_BYTES_MAX <= MQTT_MESSAGE_BYTES_MAX {
            let Ok(next) = answers.try_recv() else { break };
            message.extend_from_slice(&next);
        }
        if client.publish(topic.clone(), message).await.is_err() {
            return;
        }
    }
}

fn jittered(pause: Duration) -> Duration {
    let half = pause / 2;
    let random = getrandom::u32().unwrap_or(0);
    half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// The task that drives the library, and what it heard.
struct Pump {
    arrivals: mpsc::Receiver<Happening>,
    task: JoinHandle<BrokerError>,
}

impl Pump {
    /// What happens next. Dropping the future in between loses nothing.
    async fn next(&mut self) -> Result<Happening, BrokerError> {
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
enum Happening {
    /// It answered the subscription, and whether it grants all of it.
    Subscribed(bool),
    /// A message.
    Arrived(Arrived),
}

/// A message from an agent, or from whoever the broker lets write in its place.
struct Arrived {
    topic: String,
    /// Whether it was kept for us, and is not news.
    retained: bool,
    payload: Vec<u8>,
}

/// Sends requests, in either version.
#[derive(Clone, Debug)]
enum Client {
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
                let filters =
                    filters.into_iter().map(|f| v5::SubscribeFilterInput::new(f, v5::QoS::AtLeastOnce));
                client.subscribe_many(filters).await.map_err(|_| BrokerError::Ended)
            }
        }
    }

    async fn publish(&self, topic: String, payload: Vec<u8>) -> Result<(), BrokerError> {
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
    fn offer(&self, topic: String, payload: Vec<u8>) {
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
    async fn disconnect(&self) -> Result<(), BrokerError> {
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

fn prepare(settings: &MqttListen, authority: &Authority) -> Result<(Client, Events), BrokerError> {
    let broker = Broker::parse(&settings.url).ok_or_else(|| BrokerError::Url(settings.url.clone()))?;
    let tls = if broker.tls { Some(Arc::new(tls(settings, authority)?)) } else { None };
    let login = match (&settings.username, &settings.password_file) {
        (Some(name), Some(path)) => Some((name.clone(), Some(password(path)?))),
        (Some(name), None) => Some((name.clone(), None)),
        (None, _) => None,
    };
    let client_id = settings.client_id.clone();
    Ok(match settings.version {
        MqttVersion::V3_1_1 => {
            let mut options = v4::MqttOptions::new(client_id, (broker.host, broker.port));
            options.set_clean_session(false).set_keep_alive(settings.keep_alive_s);
            options.set_inflight(MQTT_UNCONFIRMED_MAX);
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
            options.set_session_expiry_interval(Some(settings.session_expiry_s));
            options.set_outgoing_inflight_upper_limit(MQTT_UNCONFIRMED_MAX);
            options.set_receive_maximum(Some(MQTT_UNCONFIRMED_MAX));
            options.set_max_packet_size(Some(MQTT_PACKET_BYTES_MAX));
            options.set_connect_timeout(HANDSHAKE_TIMEOUT);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_names_who_speaks() {
        let of = |topic| Speaker::of(topic).map(|(who, part)| (who.region, who.agent.to_string(), part));
        assert_eq!(of("vedette/v1/uk/edge-1/summary"), Some(("uk".into(), "edge-1".into(), "summary")));
        for foreign in [
            "vedette/v1/uk/edge-1",
            "vedette/v1/uk/edge-1/summary/more",
            "vedette/v2/uk/edge-1/summary",
            "vedette/v1//edge-1/summary",
            "vedette/v1/uk/Not An Id/summary",
            "",
        ] {
            assert_eq!(of(foreign), None, "{foreign}");
        }
    }
}
