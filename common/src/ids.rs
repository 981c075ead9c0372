//! Identities as types: agents, boots, sequences, lanes, and the key under which a record is delivered.
//!
//! It must never accept a name that could break out of a topic, a path or a certificate field; the hard
//! case is a name from a peer, so [`AgentId::parse`] is the only way in, deserialising included.
use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::AGENT_ID_BYTES_MAX;

/// The name of one agent: 1 to 64 bytes of `a-z`, `0-9`, `.`, `_`, `-`, beginning with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentId(heapless::String<AGENT_ID_BYTES_MAX>);

/// Why a text is no agent id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text was empty.
    #[error("an agent id needs at least one character")]
    Empty,
    /// The text was longer than 64 bytes.
    #[error("an agent id has at most {AGENT_ID_BYTES_MAX} bytes")]
    TooLong,
    /// A character outside the allowed set, or a first character that is neither letter nor digit.
    #[error("an agent id is made of a-z, 0-9, '.', '_' and '-', and begins with a letter or digit")]
    BadCharacter,
}

impl AgentId {
    /// Checks `text` and keeps it.
    ///
    /// # Errors
    /// [`IdError`] when the text is empty, too long, or has a character outside the set.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let first = *text.as_bytes().first().ok_or(IdError::Empty)?;
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let allowed = |b: u8| plain(b) || matches!(b, b'.' | b'_' | b'-');
        if !plain(first) || !text.bytes().all(allowed) {
            return Err(IdError::BadCharacter);
        }
        heapless::String::try_from(text).map(Self).map_err(|_| IdError::TooLong)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AgentId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for AgentId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for AgentId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = heapless::String::<AGENT_ID_BYTES_MAX>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// One start of an agent process: random, so that sequences of different starts never meet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BootId(pub u64);

/// Position of a record within one boot and lane; the first is 1, and they rise by 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The sequence after this one, saturating.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// The two lanes of delivery. Deviations have their own, so that roll-ups can never push them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Lane {
    /// Deviations: few, urgent, sent first.
    Deviations,
    /// Roll-ups: many, the oldest are dropped first when room runs out.
    RollUps,
}

impl Lane {
    /// Every lane, in the order in which they are sent.
    pub const ALL: [Self; 2] = [Self::Deviations, Self::RollUps];

    /// 0 or 1: the place in an array over lanes, and the byte that stands for the lane in a spool record.
    pub const fn index(self) -> usize {
        match self {
            Self::Deviations => 0,
            Self::RollUps => 1,
        }
    }

    /// The lane whose [`index`](Self::index) is `index`, if there is one.
    pub const fn from_index(index: usize) -> Option<Self> {
        match index {
            0 => Some(Self::Deviations),
            1 => Some(Self::RollUps),
            _ => None,
        }
    }

    /// The name for counters and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deviations => "deviations",
            Self::RollUps => "roll_ups",
        }
    }
}

/// What a record is delivered under, together with the agent: applying the same key twice changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecordKey {
    /// The start of the agent that made the record.
    pub boot: BootId,
    /// The lane it travels in.
    pub lane: Lane,
    /// Its place in that boot and lane.
    pub sequence: Sequence,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_ids_are_checked() {
        assert_eq!(AgentId::parse("edge-7.uk_1").unwrap().as_str(), "edge-7.uk_1");
        assert_eq!(AgentId::parse(""), Err(IdError::Empty));
        assert_eq!(AgentId::parse(&"a".repeat(64)).unwrap().as_str().len(), 64);
        assert_eq!(AgentId::parse(&"a".repeat(65)), Err(IdError::TooLong));
        for bad in ["A", "a/b", "a b", "-a", ".", "a+", "a#", "é"] {
            assert_eq!(AgentId::parse(bad), Err(IdError::BadCharacter), "{bad}");
        }
    }

    #[test]
    fn lanes_and_their_indices_agree() {
        for lane in Lane::ALL {
            assert_eq!(Lane::from_index(lane.index()), Some(lane));
        }
        assert_eq!(Lane::from_index(2), None);
    }
}
