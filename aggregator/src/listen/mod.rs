//! Listening: how frames come in from agents and answers go back, whatever the transport.
//! It owns what a listener hands to the core's task and what it gets from it; it must never judge, store or acknowledge by itself.
//! The hard case is an agent that connects again before its old connection has ended: the newer one speaks for it,
//! and the older one ends when the core's task drops its [`Replies`].

pub mod admission;
mod counted;
pub mod doorway;
pub mod inbox;
pub mod mqtt;
pub mod quic;
pub mod tls;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use vedette_aggregator_core::AllowedRegions;
use vedette_common::wire::{self, Birth, Frame, Heartbeat, Kind, Message, Refuse, Summary, WireError};
use vedette_common::{AgentId, RecordKey};

use crate::enroll::Enroller;
use crate::identity::Regions;
use crate::limits::REPLY_FRAME_BYTES_MAX;
use crate::metrics::{Metrics, Tally};
use inbox::Inbox;

/// What the core's task gets from listeners.
#[derive(Debug)]
pub enum Input {
    /// A connection is ready: its agent is verified. Any former connection of that agent is over.
    Opened {
        /// Who speaks.
        agent: AgentId,
        /// The connection's number, unique in this process.
        connection: u64,
        /// The way back.
        replies: Replies,
    },
    /// A frame came.
    Received {
        /// Who speaks.
        agent: AgentId,
        /// On which connection.
        connection: u64,
        /// The regions it may speak for.
        regions: Arc<AllowedRegions>,
        /// What it says.
        message: Box<AgentMessage>,
    },
    /// Another aggregator that shares the agent's records has acknowledged everything up to `key` of its lane.
    Elsewhere {
        /// Whose records.
        agent: AgentId,
        /// The last of them.
        key: RecordKey,
    },
    /// A connection ended.
    Closed {
        /// Whose it was.
        agent: AgentId,
        /// Its number.
        connection: u64,
    },
}

/// What an agent may say on a data connection. Always boxed as a whole, so the size of a summary is paid once.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq)]
pub enum AgentMessage {
    /// Its introduction; first on every connection.
    Birth(Birth),
    /// A window.
    Summary(Summary),
    /// Signs of life and horizons.
    Heartbeat(Heartbeat),
}

impl AgentMessage {
    /// Decodes a frame of one of the kinds that an agent sends.
    ///
    /// # Errors
    /// [`WireError`] for other kinds and for payloads that do not decode.
    pub fn decode(frame: &Frame<'_>) -> Result<Self, WireError> {
        match frame.kind {
            Kind::Birth => wire::decode(frame).map(Self::Birth),
            Kind::Summary => wire::decode(frame).map(Self::Summary),
            Kind::Heartbeat => wire::decode(frame).map(Self::Heartbeat),
            found => Err(WireError::WrongKind { expected: Kind::Summary, found }),
        }
    }

    /// The kind's name for counters.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Birth(_) => "birth",
            Self::Summary(_) => "summary",
            Self::Heartbeat(_) => "heartbeat",
        }
    }
}

/// The way back to one connection; the connection ends when the last clone is gone.
#[derive(Debug, Clone)]
pub struct Replies(mpsc::Sender<Vec<u8>>);

/// The connection is over, or its agent does not read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection takes no more answers")]
pub struct RepliesClosed;

impl Replies {
    /// Wraps the queue of one connection.
    #[must_use]
    pub const fn new(queue: mpsc::Sender<Vec<u8>>) -> Self {
        Self(queue)
    }

    /// Queues a message for the agent without waiting.
    ///
    /// # Errors
    /// [`RepliesClosed`] when the queue is full or the connection over: the caller lets go of it.
    pub fn send<M: Message>(&self, message: &M) -> Result<(), RepliesClosed> {
        let frame = encode(message).map_err(|_| RepliesClosed)?;
        self.0.try_send(frame).map_err(|_| RepliesClosed)
    }

    /// A way back for the listener itself, which does not keep the connection.
    #[must_use]
    pub fn aside(&self) -> Aside {
        Aside(self.0.downgrade())
    }
}

/// A listener's own way back to one connection, for refusals.
#[derive(Debug, Clone)]
pub struct Aside(mpsc::WeakSender<Vec<u8>>);

impl Aside {
    /// Queues a refusal. One that finds no room or no connection is not missed: the agent finds out by its own timeout.
    pub fn refuse(&self, refuse: &Refuse) {
        if let (Some(queue), Ok(frame)) = (self.0.upgrade(), encode(refuse)) {
            let _ = queue.try_send(frame);
        }
    }
}

/// A message as one frame.
///
/// # Errors
/// [`WireError::BufferTooSmall`] for a message over the limit of frames.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, WireError> {
    let mut frame = vec![0; REPLY_FRAME_BYTES_MAX];
    let length = wire::encode(message, &mut frame)?;
    frame.truncate(length);
    // Frames wait in queues; most of them take a few dozen bytes.
    frame.shrink_to_fit();
    Ok(frame)
}

/// What every listener needs.
#[derive(Debug, Clone)]
pub struct Reception {
    /// Answers enrolments and knows current keys.
    pub enroller: Arc<Enroller>,
    /// Where the core's task takes from.
    pub inbox: Inbox,
    /// Where to count.
    pub metrics: Metrics,
    /// Data connections open at a time, at most.
    pub connections_max: usize,
}

impl Reception {
    /// Counts a bad frame under its reason.
    pub(crate) fn count_bad_frame(&self, error: &WireError) {
        self.metrics.count(Tally::BadFrame, error.drop_reason().as_str());
    }
}

impl From<&Regions> for AllowedRegions {
    fn from(regions: &Regions) -> Self {
        if regions.is_all() { Self::All } else { Self::Named(regions.names().map(str::to_owned).collect()) }
    }
}

/// Waits for a graceful stop.
pub async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that the listener itself is gone, which is a stop as well.
    let _ = stopping.wait_for(|stop| *stop).await.map(drop);
}

/// Takes frames out of a stream of bytes.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
}

impl FrameBuffer {
    /// Adds received bytes. It holds one frame and one chunk at most, because frames are taken out after each addition.
    pub fn extend(&mut self, chunk: &[u8]) {
        self.bytes.extend_from_slice(chunk);
    }

    /// Whether bytes of an unfinished frame are held.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next whole frame through `decode`; none until more bytes come.
    ///
    /// # Errors
    /// [`WireError`] for bytes that are no frame and for what `decode` refuses; the stream is of no more use then.
    pub fn next<T>(
        &mut self,
        decode: impl FnOnce(&Frame<'_>) -> Result<T, WireError>,
    ) -> Result<Option<T>, WireError> {
        let (message, length) = match Frame::parse(&self.bytes) {
            Err(error) if error.wants_more() => return Ok(None),
            Err(error) => return Err(error),
            Ok((frame, length)) => (decode(&frame)?, length),
        };
        self.bytes.drain(..length);
        Ok(Some(message))
    }
}
