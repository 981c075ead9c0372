//! MQTT 3.1.1 and 5 through any broker, over TCP or TLS: the same frames as over QUIC, on topics of this agent.
//!
//! Must never take a broker's PUBACK for delivery: the link hears nothing of it.
//! The hard case is a session that the broker kept while this process was away. The library lets such a session send only
//! with a memory of its own, so it is given an empty one: what it may have lost is sent again by the link.

mod client;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use vedette_common::AgentId;
use vedette_common::wire::{Frame, Kind};

use super::BATCH_BYTES_MAX;
use super::wire::Wire;
use crate::config::MqttUplink;
use crate::identity::Identity;
pub use client::MqttError;
use client::{Client, Retain, drive, prepare};

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
