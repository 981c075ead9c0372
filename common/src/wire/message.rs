//! The messages between agent and aggregator, except the summary, which has a file of its own.
//!
//! They must never hold an unbounded container. The hard case is growth of the protocol: a message changes
//! only together with the frame version, and the golden bytes of older versions stay readable.
use heapless::{String, Vec};
use serde::{Deserialize, Serialize};

use super::frame::Kind;
use crate::ids::{AgentId, BootId, RecordKey};
use crate::limits::{
    CALENDAR_ENTRIES_MAX, CERTIFICATE_BYTES_MAX, DROP_REASONS_MAX, NAME_BYTES_MAX, REGIONS_MAX,
    TOKEN_SECRET_BYTES,
};
use crate::units::WallMs;

/// A message: what one frame carries.
pub trait Message: Serialize {
    /// The kind of the frame that carries it.
    const KIND: Kind;
}

/// A region's, device's, stack's or class's name: at most 64 bytes.
pub type Name = String<NAME_BYTES_MAX>;

/// An agent introduces itself; the first frame of every connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Birth {
    /// Who speaks; must be the name in the certificate.
    pub agent: AgentId,
    /// This start of the agent.
    pub boot: BootId,
    /// The agent's software version.
    pub version: String<32>,
    /// When this start was, by the agent's wall clock.
    pub started_at: WallMs,
    /// Width of its windows in milliseconds.
    pub window_ms: u32,
    /// The regions it speaks for, as far as it knows yet.
    pub regions: Vec<Name, REGIONS_MAX>,
    /// How many series it can hold.
    pub series_max: u32,
}

/// How often something was dropped for one reason since the agent's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropCount {
    /// The number of the [`DropReason`](crate::DropReason).
    pub reason: u8,
    /// How often.
    pub count: u64,
}

/// Signs of life, and the horizon of each lane: nothing below that key will ever come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The agent's wall clock when it was made.
    pub at: WallMs,
    /// This start of the agent.
    pub boot: BootId,
    /// Series that the agent holds now.
    pub series: u32,
    /// Records in the spool now.
    pub spooled_records: u32,
    /// Bytes in the spool now.
    pub spooled_bytes: u32,
    /// By [`Lane::index`](crate::Lane::index): the oldest key that is still to come; none when nothing is.
    pub horizons: [Option<RecordKey>; 2],
    /// Observations received since the start.
    pub observed: u64,
    /// Records acknowledged since the start.
    pub delivered: u64,
    /// What was dropped since the start, one entry for each reason that occurred.
    pub dropped: Vec<DropCount, DROP_REASONS_MAX>,
}

/// Everything of the key's boot and lane through its sequence is committed; the agent may forget it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledge {
    /// The last committed key.
    pub key: RecordKey,
}

/// Why the aggregator did not take something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RefuseReason {
    /// Too much to do: try again after the given time; nothing was consumed.
    Overloaded,
    /// The certificate does not name the region; the record is consumed.
    RegionForbidden,
    /// The record does not decode or contradicts itself; it is consumed.
    Malformed,
    /// The window lies absurdly far in the past or the future; the record is consumed.
    WindowOutOfRange,
    /// The agent's name is not the one in its certificate.
    WrongIdentity,
    /// The enrolment token is not known.
    TokenUnknown,
    /// The enrolment token was used before.
    TokenUsed,
    /// The enrolment token is past its time.
    TokenExpired,
    /// The agent's name belongs to another key already.
    AgentKnown,
    /// The agent's certificate was revoked.
    Revoked,
}

impl RefuseReason {
    /// The name for counters and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Overloaded => "overloaded",
            Self::RegionForbidden => "region_forbidden",
            Self::Malformed => "malformed",
            Self::WindowOutOfRange => "window_out_of_range",
            Self::WrongIdentity => "wrong_identity",
            Self::TokenUnknown => "token_unknown",
            Self::TokenUsed => "token_used",
            Self::TokenExpired => "token_expired",
            Self::AgentKnown => "agent_known",
            Self::Revoked => "revoked",
        }
    }
}

/// Something was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refuse {
    /// Why.
    pub reason: RefuseReason,
    /// The record in question; none for the connection as a whole.
    pub key: Option<RecordKey>,
    /// When to try again, in milliseconds; 0 when trying again is of no use.
    pub retry_after_ms: u32,
}

/// One scheduled event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CalendarEntry {
    /// The region; empty for all.
    pub region: Name,
    /// The class of the event, from its CATEGORIES.
    pub class: Name,
    /// When it begins.
    pub from: WallMs,
    /// When it has ended.
    pub until: WallMs,
}

/// The scheduled events that matter to an agent; replaces what it had.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calendar {
    /// Changes whenever the entries do.
    pub version: u64,
    /// The entries, the soonest first.
    pub entries: Vec<CalendarEntry, CALENDAR_ENTRIES_MAX>,
}

/// A request for a certificate, under an enrolment token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enroll {
    /// The secret part of the token.
    pub token_secret: [u8; TOKEN_SECRET_BYTES],
    /// A PKCS #10 signing request (RFC 2986) in DER, its common name the agent's id.
    pub csr_der: Vec<u8, CERTIFICATE_BYTES_MAX>,
}

/// A request for another certificate in place of the one that the connection was opened with, for a new key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renew {
    /// A PKCS #10 signing request (RFC 2986) in DER, its common name the agent's id.
    pub csr_der: Vec<u8, CERTIFICATE_BYTES_MAX>,
}

/// The answer to [`Enroll`] and [`Renew`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// The agent's certificate in DER.
    pub certificate_der: Vec<u8, CERTIFICATE_BYTES_MAX>,
    /// The certificate of the authority that signed it, in DER.
    pub ca_der: Vec<u8, CERTIFICATE_BYTES_MAX>,
}

impl Message for Birth {
    const KIND: Kind = Kind::Birth;
}
impl Message for Heartbeat {
    const KIND: Kind = Kind::Heartbeat;
}
impl Message for Acknowledge {
    const KIND: Kind = Kind::Acknowledge;
}
impl Message for Refuse {
    const KIND: Kind = Kind::Refuse;
}
impl Message for Calendar {
    const KIND: Kind = Kind::Calendar;
}
impl Message for Enroll {
    const KIND: Kind = Kind::Enroll;
}
impl Message for Enrolled {
    const KIND: Kind = Kind::Enrolled;
}
impl Message for Renew {
    const KIND: Kind = Kind::Renew;
}
