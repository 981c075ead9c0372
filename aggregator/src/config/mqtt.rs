//! The MQTT broker that agents are heard through.
//!
//! Owns the keys of `[listen.mqtt]`, their ranges and what they may need in memory. Must never hold a secret: the password
//! stands in a file of its own. The hard case is several aggregators at one broker, which must not share a client id.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Limits, Memory, Problems, check_range, path};
use crate::limits::{MQTT_ARRIVALS_MAX, MQTT_PACKET_BYTES_MAX, MQTT_REQUESTS_MAX, MQTT_UNCONFIRMED_MAX};
use crate::listen::mqtt::Broker;

/// A birth that is remembered, with names of full length.
const BIRTH_BYTES: u64 = 2 * 1024;
/// Answers that wait for one agent.
const LINK_BYTES: u64 = 256 * 1024;
/// State of TLS and of the protocol's packet ids.
const STATE_BYTES: u64 = 128 * 1024;

/// The MQTT broker that agents are heard through. Any other way to the aggregator goes on beside it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MqttListen {
    /// Address: `mqtt://HOST[:1883]`, or `mqtts://HOST[:8883]` for TLS with a certificate of our CA; default empty: no MQTT.
    pub url: String,
    /// Version of the protocol: 3.1.1 or 5; default 5.
    pub version: MqttVersion,
    /// Name at the broker, which keeps the session under it; each aggregator needs its own. Default `vedette-aggregator`.
    pub client_id: String,
    /// Group of aggregators that share the summaries (MQTT 5), for brokers that keep each topic with one member. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<String>,
    /// User name at the broker; default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File whose first line is the password; default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Certificates (PEM) of the authorities that may have signed the broker's; default: our own CA.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// How long the broker keeps messages for an absent aggregator, in seconds, MQTT 5 only; default 3,600, and 10 in a group: a broker may
    /// deal messages to an absent member until its session ends, and its agents wait for a time-out each time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_expiry_s: Option<u32>,
    /// Silence after which the connection is tried, in seconds, 5 to 3,600; default 15.
    pub keep_alive_s: u16,
}

impl Default for MqttListen {
    fn default() -> Self {
        Self {
            url: String::new(),
            version: MqttVersion::V5,
            client_id: "vedette-aggregator".into(),
            share: None,
            username: None,
            password_file: None,
            ca_file: None,
            session_expiry_s: None,
            keep_alive_s: 15,
        }
    }
}

/// A version of MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum MqttVersion {
    /// OASIS standard of 2014.
    #[serde(rename = "3.1.1")]
    V3_1_1,
    /// OASIS standard of 2019.
    #[serde(rename = "5")]
    V5,
}

impl MqttListen {
    /// Whether a broker is configured.
    #[must_use]
    pub const fn is_enabled(&self) -> bool {
        !self.url.is_empty()
    }

    /// How long the broker keeps the session of this aggregator when it is away, in seconds.
    #[must_use]
    pub fn session_expiry_s(&self) -> u32 {
        self.session_expiry_s.unwrap_or(if self.share.is_some() { 10 } else { 3_600 })
    }

    /// What it may need at worst; nothing when it is off.
    pub(super) fn memory(&self, limits: &Limits) -> Vec<Memory> {
        if !self.is_enabled() {
            return Vec::new();
        }
        let packets =
            2 * u64::from(MQTT_UNCONFIRMED_MAX) + (MQTT_REQUESTS_MAX + MQTT_ARRIVALS_MAX + 4) as u64;
        let memory = |limit, items, bytes_each| Memory { limit, items, bytes_each };
        vec![
            memory("listen.mqtt (packets)", packets, u64::from(MQTT_PACKET_BYTES_MAX)),
            memory("listen.mqtt (state)", 1, STATE_BYTES),
            memory("listen.mqtt (births, agents_max)", u64::from(limits.agents_max), BIRTH_BYTES),
            memory("listen.mqtt (answers, connections_max)", u64::from(limits.connections_max), LINK_BYTES),
        ]
    }

    /// What is wrong with values that have the right type.
    pub(super) fn problems(&self, problems: &mut Problems) {
        let key = |name: &str| path(&["listen", "mqtt", name]);
        check_range(problems, &["listen", "mqtt", "keep_alive_s"], u64::from(self.keep_alive_s), 5, 3_600);
        if self.is_enabled() && Broker::parse(&self.url).is_none() {
            let problem = format!(
                "`{}` is no mqtt://HOST[:PORT] or mqtts://HOST[:PORT]; a user stands in username",
                self.url
            );
            problems.push((key("url"), problem));
        }
        if self.client_id.is_empty() || self.client_id.len() > 128 {
            problems.push((key("client_id"), "must have 1 to 128 bytes".into()));
        }
        if self.password_file.is_some() && self.username.is_none() {
            problems.push((key("password_file"), "is of no use without username".into()));
        }
        if let Some(group) = &self.share {
            if group.is_empty() || group.contains(['/', '+', '#']) {
                problems.push((key("share"), format!("`{group}` is no group: leave out / + and #")));
            }
            if self.version == MqttVersion::V3_1_1 {
                problems.push((key("share"), "needs version = \"5\"".into()));
            }
        }
    }
}
