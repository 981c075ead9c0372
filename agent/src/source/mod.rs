//! Where observations come from: this machine, StatsD, line protocol over the network, files and standard input.
//!
//! Owns reading and its limits. Must never parse: whole lines go to the core as bytes. The hard case is a sender that
//! is faster, longer or slower than it may be: each limit cuts it off and counts why.

pub mod datagrams;
pub mod file;
pub mod host;
pub mod line_protocol;
pub mod lines;
pub mod statsd;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use vedette_agent_core::parse::{Format, Precision};

use crate::config::{self, Config};
use crate::engine::Engine;

/// Why a source cannot begin.
#[derive(Debug, thiserror::Error)]
#[error(
    "{key} = \"{address}\": cannot listen: {cause}; another program may hold it, so set another or `enabled = false`"
)]
pub struct ListenError {
    /// The setting that names the address.
    pub key: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// Why the system refused.
    pub cause: std::io::Error,
}

/// Tells every source to take in what has arrived already, and to end.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// A pair: sending `true` stops.
    #[must_use]
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Returns once it is time to stop.
    pub async fn stopped(&mut self) {
        // A sender that is gone means that nobody wants this source any more.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

/// Every source of a config, listening and not yet reading.
#[derive(Debug)]
pub struct Sources {
    host: Option<host::HostSource>,
    statsd: Option<statsd::StatsdSource>,
    line_protocol: Option<line_protocol::LineProtocolSource>,
    files: file::FileSources,
}

impl Sources {
    /// Opens every socket.
    ///
    /// # Errors
    /// [`ListenError`] for the first address that cannot be had.
    pub fn open(config: &Config) -> Result<Self, ListenError> {
        let source = &config.source;
        let statsd = source.statsd.enabled.then(|| statsd::StatsdSource::open(&source.statsd));
        let lines = &source.line_protocol;
        let lines = lines.enabled.then(|| line_protocol::LineProtocolSource::open(lines));
        Ok(Self {
            host: source.host.enabled.then(|| host::HostSource::new(&source.host)),
            statsd: statsd.transpose()?,
            line_protocol: lines.transpose()?,
            files: file::FileSources::new(&source.file, source.line_protocol.precision),
        })
    }

    /// Where line protocol is listened for: TCP, then UDP; for settings with port 0.
    #[must_use]
    pub fn line_protocol_addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.line_protocol.as_ref().and_then(line_protocol::LineProtocolSource::addresses)
    }

    /// Where StatsD is listened for.
    #[must_use]
    pub fn statsd_address(&self) -> Option<SocketAddr> {
        self.statsd.as_ref().and_then(statsd::StatsdSource::address)
    }

    /// The counts of datagrams that were dropped before they could be read, by source.
    #[must_use]
    pub fn dropped_datagrams(&self) -> Vec<(&'static str, datagrams::DroppedDatagrams)> {
        let statsd = self.statsd.as_ref().map(|source| ("statsd", source.dropped()));
        let line_protocol = self.line_protocol.as_ref().map(|source| ("line_protocol", source.dropped()));
        statsd.into_iter().chain(line_protocol).collect()
    }

    /// Starts reading; each source ends after `stop`.
    pub fn start(self, engine: &Arc<Engine>, stop: &Stop) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        if let Some(host) = self.host {
            tasks.spawn(host.run(engine.clone(), stop.clone()));
        }
        if let Some(statsd) = self.statsd {
            tasks.spawn(statsd.run(engine.clone(), stop.clone()));
        }
        if let Some(lines) = self.line_protocol {
            tasks.spawn(lines.run(engine.clone(), stop.clone()));
        }
        self.files.start(&mut tasks, engine, stop);
        tasks
    }
}

fn line_protocol_format(precision: config::Precision) -> Format {
    Format::LineProtocol(match precision {
        config::Precision::Nanoseconds => Precision::Nanoseconds,
        config::Precision::Microseconds => Precision::Microseconds,
        config::Precision::Milliseconds => Precision::Milliseconds,
        config::Precision::Seconds => Precision::Seconds,
    })
}
