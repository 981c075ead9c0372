//! Listening over MQTT 3.1.1 and 5: agents behind any broker, found by their births.
//! It must never let a message speak for another agent or region than those of its topic: the broker's authentication stands between, and
//! its access rules hold each agent to its own topics; an agent that enrolled speaks only for the regions of its enrolment, and a revoked one
//! for none. The hard case is what brokers repeat: a retained birth says where an agent is to be
//! found, not that it lives, so it is told to the core only with the agent's next word of its own.

mod address;
mod client;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use vedette_aggregator_core::AllowedRegions;
use vedette_common::AgentId;
use vedette_common::wire::{self, Acknowledge, Birth, Frame, Kind, Refuse, RefuseReason, WireError};

use super::admission::Offer;
use super::inbox::InboxClosed;
use super::{AgentMessage, Aside, Input, Reception, Replies, encode, stopped};
use crate::config::MqttListen;
use crate::identity::Regions;
use crate::limits::{
    FAREWELL_TIMEOUT, HANDSHAKE_TIMEOUT, MQTT_MESSAGE_BYTES_MAX, OVERLOADED_RETRY_MS, REPLY_QUEUE_MAX,
    RETRY_PAUSE_MIN, STOP_TIMEOUT,
};
use crate::metrics::Tally;
pub use address::Broker;
pub use client::BrokerError;
use client::{Arrived, Client, Happening, Pump};

/// Longest pause before the broker is tried again.
const BROKER_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Connection numbers of this listener begin here, so that they never meet those of QUIC.
const FIRST_CONNECTION: u64 = 1 << 63;
/// What every topic begins with.
const TOPIC_ROOT: &str = "vedette/v1";

/// Who speaks, by the topic: an agent, for one region.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Speaker {
    /// The agent.
    pub agent: AgentId,
    /// The region: whatever stands at its level, not empty.
    pub region: String,
}

impl Speaker {
    fn command_topic(&self) -> String {
        format!("{TOPIC_ROOT}/{}/{}/command", self.region, self.agent)
    }

    /// The speaker and the last part of a topic; none for a topic that is not ours.
    #[must_use]
    pub fn of(topic: &str) -> Option<(Self, &str)> {
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
        let (client, mut pump) = match client::connect(&self.settings, &self.reception, self.filters()).await
        {
            Ok(connecting) => connecting,
            Err(error) => return (error, false),
        };
        let error = floor.listen(&client, &mut pump).await;
        floor.leave().await;
        let stood = self.reception.metrics.broker_connected.set(0) == 1;
        (error, stood)
    }

    /// Births and deaths come to every aggregator, summaries to one of those that share; what it acknowledges, the others hear.
    fn filters(&self) -> Vec<String> {
        let of_all = |part: &str| format!("{TOPIC_ROOT}/+/+/{part}");
        let mut filters = vec![of_all("birth"), of_all("death")];
        match &self.settings.share {
            Some(group) => {
                filters.extend([format!("$share/{group}/{}", of_all("summary")), of_all("command")]);
            }
            None => filters.push(of_all("summary")),
        }
        filters
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
            "command" => self.hear_command(&speaker, &message.payload),
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

    /// What this or another aggregator has told an agent: what another has acknowledged is not to be applied here as well.
    fn hear_command(&self, speaker: &Speaker, payload: &[u8]) -> Result<(), InboxClosed> {
        let mut rest = payload;
        while let Ok((frame, length)) = Frame::parse(rest) {
            rest = &rest[length..];
            if frame.kind == Kind::Acknowledge
                && let Ok(Acknowledge { key }) = wire::decode(&frame)
            {
                self.offer(Input::Elsewhere { agent: speaker.agent.clone(), key })?;
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

    /// Whether the agent speaks for some region already. To the core it is one: two links of it would end each other without end.
    fn speaks(&self, agent: &AgentId) -> bool {
        let first = Speaker { agent: agent.clone(), region: String::new() };
        self.links.range(first..).next().is_some_and(|(known, _)| known.agent == *agent)
    }

    /// The core's task knows the agent as connected after this, unless there are too many, or it speaks for another region.
    fn open(&mut self, client: &Client, speaker: &Speaker) -> Result<bool, InboxClosed> {
        if self.links.contains_key(speaker) {
            return Ok(true);
        }
        let regions = match self.regions_of(speaker) {
            Ok(_)
                if self.speaks(&speaker.agent)
                    || self.links.len() >= self.listener.reception.connections_max =>
            {
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
