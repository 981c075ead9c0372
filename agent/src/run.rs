//! One agent from start to stop: sources, engine, uplink and health together.
//!
//! Owns the order of starting and stopping. Must never start over its memory budget. The hard case is the stop: sources
//! end first and hand over what has arrived, then every window is closed and spooled, then what is spooled is delivered
//! for a bounded time; the rest stays in the spool for the next start.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::{Config, Log, Transport, worst_case_bytes};
use crate::engine::{Engine, EngineError};
use crate::health::Health;
use crate::identity::{IdentityError, StateFolder};
use crate::source::{ListenError, Sources, Stop};
use crate::storage::{FileError, FileStorage};
use crate::supervisor::Supervisor;
use crate::uplink::Uplink;

/// Below the state folder: the spool's files.
const SPOOL_FOLDER: &str = "spool";
/// How long sources may take to hand over what has arrived.
const SOURCES_STOP: Duration = Duration::from_secs(1);
/// How long the stop waits for an aggregator that is not connected.
const UNCONNECTED_DRAIN: Duration = Duration::from_secs(1);
/// How often the stop looks whether everything is delivered.
const DRAIN_STEP: Duration = Duration::from_millis(20);
/// How long closing the connection may take.
const UPLINK_STOP: Duration = Duration::from_secs(1);
/// Commands that wait for a running agent.
const CONTROLS_MAX: usize = 4;

/// Why an agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The worst-case memory is over the budget.
    #[error(
        "limits.memory_bytes_max = {budget}: this config may need {worst} bytes at worst; raise the budget or lower \
         limits.series_max (`vedette-agent check` prints each limit's share)"
    )]
    OverBudget {
        /// The budget.
        budget: u64,
        /// The worst case.
        worst: u64,
    },
    /// The state folder, the name or the certificate.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The spool's files.
    #[error("the spool cannot be opened: {0}")]
    Spool(#[from] FileError),
    /// Pipeline, spool or link.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An address that cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The runtime or its thread.
    #[error("the runtime cannot start: {0}")]
    Runtime(#[from] std::io::Error),
}

/// What a running agent can be told.
#[derive(Debug)]
pub enum Control {
    /// Take what can change while running from a new config.
    Reload(Box<Config>),
    /// Deliver and end.
    Stop,
}

/// Refuses a config whose worst-case memory is over its budget.
///
/// # Errors
/// [`RunError::OverBudget`].
pub fn check_budget(config: &Config) -> Result<(), RunError> {
    let (budget, worst) = (config.limits.memory_bytes_max, worst_case_bytes(config));
    if worst > budget { Err(RunError::OverBudget { budget, worst }) } else { Ok(()) }
}

/// An agent whose sockets and files are open and that does nothing yet. Belongs to the runtime that opened it.
#[derive(Debug)]
pub struct Agent {
    config: Config,
    engine: Arc<Engine>,
    sources: Sources,
    health: Option<Health>,
    uplink: Uplink,
}

impl Agent {
    /// Opens everything; called from within a tokio runtime.
    ///
    /// # Errors
    /// [`RunError`] for the first thing that cannot be had.
    pub fn open(config: Config) -> Result<Self, RunError> {
        check_budget(&config)?;
        let folder = StateFolder::open(&config.state_dir)?;
        let agent = folder.agent_id(config.agent_id.as_deref())?;
        let storage = FileStorage::open(&folder.path().join(SPOOL_FOLDER))?;
        let health = config.http.enabled.then(|| Health::open(config.http.listen)).transpose()?;
        let sources = Sources::open(&config)?;
        let engine = Arc::new(Engine::new(&config, agent.clone(), storage)?);
        let region = config.own_region().to_owned();
        let uplink =
            Uplink { engine: engine.clone(), settings: config.uplink.clone(), folder, agent, region };
        Ok(Self { config, engine, sources, health, uplink })
    }

    /// The engine, for its counts.
    #[must_use]
    pub fn engine(&self) -> Arc<Engine> {
        self.engine.clone()
    }

    /// The addresses in use, for settings with port 0.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        let lines = self.sources.line_protocol_addresses();
        Addresses {
            statsd: self.sources.statsd_address(),
            line_protocol_tcp: lines.map(|(tcp, _)| tcp),
            line_protocol_udp: lines.map(|(_, udp)| udp),
            http: self.health.as_ref().and_then(Health::address),
        }
    }

    /// Runs until told to stop, or until nobody is left who could tell.
    pub async fn run(self, mut control: mpsc::Receiver<Control>) {
        let Self { mut config, engine, sources, health, uplink } = self;
        tracing::info!(agent = %uplink.agent, state = %config.state_dir.display(), "started");
        let (stop_sources, sources_stop) = Stop::new();
        let (stop_uplink, uplink_stop) = Stop::new();
        let dropped = sources.dropped_datagrams();
        let mut sources = sources.start(&engine, &sources_stop);
        let mut others = JoinSet::new();
        if let Some(health) = health {
            others.spawn(health.run(engine.clone(), dropped));
        }
        let uplink = tokio::spawn(uplink.run(uplink_stop));
        let mut supervisor = Supervisor::find();
        supervisor.ready();
        loop {
            supervisor.alive();
            let due = engine.clock().instant(engine.advance());
            tokio::select! {
                () = tokio::time::sleep_until(Instant::from_std(due)) => {}
                told = control.recv() => match told {
                    Some(Control::Reload(new)) => config = reload(&engine, &config, *new),
                    Some(Control::Stop) | None => break,
                },
            }
        }
        tracing::info!("stopping");
        supervisor.stopping();
        // Receivers that are gone have stopped already.
        let _ = stop_sources.send(true);
        let _ =
            tokio::time::timeout(SOURCES_STOP, async { while sources.join_next().await.is_some() {} }).await;
        drain(&engine, Duration::from_millis(config.drain_ms.into())).await;
        let _ = stop_uplink.send(true);
        let _ = tokio::time::timeout(UPLINK_STOP, uplink).await;
        let left = engine.snapshot();
        tracing::info!(
            spooled = left.spooled_records.iter().sum::<u64>(),
            delivered = left.spool.acknowledged,
            "stopped"
        );
    }
}

/// Where a running agent listens; none for a source that is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// StatsD over UDP.
    pub statsd: Option<SocketAddr>,
    /// Line protocol over TCP.
    pub line_protocol_tcp: Option<SocketAddr>,
    /// Line protocol over UDP.
    pub line_protocol_udp: Option<SocketAddr>,
    /// Health and metrics.
    pub http: Option<SocketAddr>,
}

/// Spools what is open and waits until it is delivered, at most for `drain`.
async fn drain(engine: &Engine, drain: Duration) {
    engine.finish();
    let began = Instant::now();
    loop {
        let patience = if engine.snapshot().connected { drain } else { drain.min(UNCONNECTED_DRAIN) };
        if engine.is_drained() || began.elapsed() >= patience {
            return;
        }
        tokio::time::sleep(DRAIN_STEP).await;
    }
}

/// Takes what can change from `new`, says what cannot, and gives the config that is in force.
fn reload(engine: &Engine, old: &Config, new: Config) -> Config {
    for key in fixed_changes(old, &new) {
        tracing::warn!(key, "this setting changes with the next start only");
    }
    let mut config = old.clone();
    (config.tags, config.regions, config.drain_ms) = (new.tags, new.regions, new.drain_ms);
    config.log.level = new.log.level;
    crate::log::set_level(config.log.level);
    engine.reload(&config);
    tracing::info!("read the config again: tags, regions, drain_ms and log.level are in force");
    config
}

/// What has changed that holds from the next start only. Every key is named here, so that none is forgotten.
fn fixed_changes(old: &Config, new: &Config) -> Vec<&'static str> {
    let Config {
        agent_id,
        state_dir,
        drain_ms: _,
        tags: _,
        dimensions,
        regions: _,
        metrics,
        source,
        window,
        limits,
        uplink,
        http,
        log: Log { level: _, format, repeats_max },
    } = new;
    let is_over_mqtt = old.uplink.kind.contains(Transport::Mqtt);
    let fixed = [
        ("agent_id", old.agent_id != *agent_id),
        ("state_dir", old.state_dir != *state_dir),
        ("dimensions", old.dimensions != *dimensions),
        ("metrics", old.metrics != *metrics),
        ("source", old.source != *source),
        ("window", old.window != *window),
        ("limits", old.limits != *limits),
        ("uplink", old.uplink != *uplink),
        ("the region of MQTT topics", is_over_mqtt && old.own_region() != new.own_region()),
        ("http", old.http != *http),
        ("log.format", old.log.format != *format),
        ("log.repeats_max", old.log.repeats_max != *repeats_max),
    ];
    fixed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

/// An agent that runs in a thread of its own within this process, for tests and the demo. Stops when dropped.
#[derive(Debug)]
pub struct RunningAgent {
    control: mpsc::Sender<Control>,
    thread: Option<JoinHandle<()>>,
    engine: Arc<Engine>,
    addresses: Addresses,
}

/// Starts an agent in a thread of its own.
///
/// # Errors
/// [`RunError`] as for [`Agent::open`].
pub fn start(config: Config) -> Result<RunningAgent, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let agent = {
        let _within = runtime.enter();
        Agent::open(config)?
    };
    let (engine, addresses) = (agent.engine(), agent.addresses());
    let (control, controls) = mpsc::channel(CONTROLS_MAX);
    let run = move || {
        runtime.block_on(agent.run(controls));
        runtime.shutdown_background();
    };
    let thread = std::thread::Builder::new().name("vedette-agent".into()).spawn(run)?;
    Ok(RunningAgent { control, thread: Some(thread), engine, addresses })
}

impl RunningAgent {
    /// Pipeline, spool and link, for their counts.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Where it listens.
    #[must_use]
    pub const fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Drains and stops, and waits for it.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // An agent that is gone has stopped already.
        let _ = self.control.try_send(Control::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for RunningAgent {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Metric;

    #[test]
    fn what_a_reload_cannot_change_is_named() {
        let old = Config::default();
        assert!(fixed_changes(&old, &old).is_empty());
        let metric = Metric { counter: Some(true), ..Metric::default() };
        let metrics = [("bytes".to_owned(), metric)].into();
        let new = Config { metrics, drain_ms: 1, ..old.clone() };
        assert_eq!(fixed_changes(&old, &new), ["metrics"]);
    }
}
