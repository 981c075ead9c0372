//! The ways to the aggregator that a config can name, and the broker of one of them.
//!
//! Owns the keys below `[uplink]` that say how. Must never hold a secret: passwords stand in files of their own. The hard
//! case is `kind`, one word or a list: a wrong one is told with the words that would be right.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};

/// A way to the aggregator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Directly, over QUIC.
    Quic,
    /// Through an MQTT broker.
    Mqtt,
}

/// One or two ways to the aggregator, the preferred one first. Default QUIC alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transports(Vec<Transport>);

impl Default for Transports {
    fn default() -> Self {
        Self(vec![Transport::Quic])
    }
}

impl Transports {
    /// Whether `transport` is among them.
    #[must_use]
    pub fn contains(&self, transport: Transport) -> bool {
        self.0.contains(&transport)
    }

    /// The way to take after `failures` in a row: the first, then the next, and around again.
    #[must_use]
    pub fn after(&self, failures: usize) -> Transport {
        self.0.get(failures % self.0.len().max(1)).copied().unwrap_or(Transport::Quic)
    }

    /// Whether there is another way when one fails.
    #[must_use]
    pub fn has_other(&self) -> bool {
        self.0.len() > 1
    }
}

impl<'de> Deserialize<'de> for Transports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TransportsVisitor)
    }
}

struct TransportsVisitor;

impl<'de> Visitor<'de> for TransportsVisitor {
    type Value = Transports;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("\"quic\", \"mqtt\", or a list of both in the order of preference")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Transports, E> {
        transport(name).map(|one| Transports(vec![one]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Transports, A::Error> {
        let mut found = Vec::new();
        while let Some(name) = names.next_element::<String>()? {
            let next = transport(&name)?;
            if found.contains(&next) {
                return Err(Error::custom(format!("\"{name}\" is named twice")));
            }
            found.push(next);
        }
        if found.is_empty() { Err(Error::invalid_length(0, &self)) } else { Ok(Transports(found)) }
    }
}

fn transport<E: Error>(name: &str) -> Result<Transport, E> {
    match name {
        "quic" => Ok(Transport::Quic),
        "mqtt" => Ok(Transport::Mqtt),
        other => Err(Error::unknown_variant(other, &["quic", "mqtt"])),
    }
}

/// The broker. An agent speaks over it for its own region alone, the one in its tags.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MqttUplink {
    /// Address: `mqtt://HOST[:1883]`, or `mqtts://HOST[:8883]` for TLS with the agent's certificate; default
    /// `mqtt://127.0.0.1:1883`.
    pub url: String,
    /// Version of the protocol: 3.1.1 or 5; default 5.
    pub version: MqttVersion,
    /// User name at the broker; default none.
    pub username: Option<String>,
    /// File whose first line is the password; default none.
    pub password_file: Option<PathBuf>,
    /// Certificates (PEM) of the authorities that may have signed the broker's; default: the aggregator's.
    pub ca_file: Option<PathBuf>,
    /// How long the broker keeps the session of an absent agent, in seconds, MQTT 5 only; default 3,600.
    pub session_expiry_s: u32,
    /// Silence after which the connection is tried, in seconds, 5 to 3,600; default 15.
    pub keep_alive_s: u16,
}

impl Default for MqttUplink {
    fn default() -> Self {
        Self {
            url: "mqtt://127.0.0.1:1883".into(),
            version: MqttVersion::V5,
            username: None,
            password_file: None,
            ca_file: None,
            session_expiry_s: 3_600,
            keep_alive_s: 15,
        }
    }
}

/// A version of MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum MqttVersion {
    /// OASIS standard of 2014.
    #[serde(rename = "3.1.1")]
    V3_1_1,
    /// OASIS standard of 2019.
    #[serde(rename = "5")]
    V5,
}
