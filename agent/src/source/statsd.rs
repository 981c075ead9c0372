//! StatsD over UDP.
//!
//! Owns the socket. Must never parse: a datagram goes to the core as it is. The hard case, a flood, is handled for all
//! datagrams alike in `datagrams.rs`.

use std::net::SocketAddr;
use std::sync::Arc;

use vedette_agent_core::parse::Format;

use super::datagrams::{Datagrams, DroppedDatagrams};
use super::{ListenError, Stop};
use crate::config;
use crate::engine::Engine;

/// A socket that listens for StatsD.
#[derive(Debug)]
pub struct StatsdSource {
    datagrams: Datagrams,
}

impl StatsdSource {
    /// Opens the socket.
    ///
    /// # Errors
    /// [`ListenError`] when the address cannot be had.
    pub fn open(settings: &config::StatsdSource) -> Result<Self, ListenError> {
        Ok(Self { datagrams: Datagrams::open("source.statsd.listen", settings.listen)? })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.datagrams.address()
    }

    /// The count of what was dropped before it could be read.
    #[must_use]
    pub fn dropped(&self) -> DroppedDatagrams {
        self.datagrams.dropped()
    }

    /// Reads until `stop`.
    pub async fn run(self, engine: Arc<Engine>, stop: Stop) {
        self.datagrams.read(engine, Format::StatsD, stop).await;
    }
}
