//! Load against delay: a real aggregator under a tenth to ten times what it can take, and what its agents then see.
//!
//! It must never judge: what it measures depends on the machine, so it is a command and no test. The hard case is to be fair
//! to what was not delivered in time: a record that is still on its way at the end counts with the age that it has.

mod agent;
mod graph;

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use vedette_agent::config::Config;
use vedette_agent::identity::{Identity, LOCAL_TOKEN_FILE, StateFolder, Token};
use vedette_common::AgentId;

use crate::rig::{Process, eventually, free_address, get, program};
use agent::Agent;
pub use graph::{draw, table};

/// Offered loads as shares of the capacity.
const LOADS: [f64; 10] = [0.1, 0.25, 0.5, 0.75, 0.9, 1.1, 1.5, 2.5, 5.0, 10.0];
/// How much of each step passes before anything is measured.
const WARM_UP: Duration = Duration::from_secs(2);
/// The name in the aggregator's certificate.
const SERVER_NAME: &str = "vedette-aggregator";

/// How the measurement is made.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Agents, each with a connection of its own.
    pub agents: usize,
    /// Roll-ups in each record.
    pub roll_ups: usize,
    /// Deviations that each agent makes in a second, whatever the load.
    pub deviations_per_s: f64,
    /// Length of each step after the warm-up.
    pub step: Duration,
}

/// What was measured at one load.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Offered roll-up records as a share of the capacity.
    pub load: f64,
    /// Records made in a second, all agents together.
    pub offered_per_s: f64,
    /// Of those, acknowledged in a second before their spool had to drop them.
    pub acknowledged_per_s: f64,
    /// Records that the aggregator applied in a second.
    pub applied_per_s: f64,
    /// Datagrams that the aggregator's system dropped in a second.
    pub datagrams_lost_per_s: f64,
    /// Records refused or dropped behind a refused one, in a second.
    pub refused_per_s: f64,
    /// Records that the agents' spools had to drop.
    pub dropped: u64,
    /// Milliseconds from making to acknowledging, by lane: median, 99th percentile.
    pub delay_ms: [[f64; 2]; 2],
    /// Resident memory of the aggregator at the end, bytes.
    pub resident_bytes: u64,
}

/// What the agents of one step have seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    made: u64,
    acknowledged: u64,
    dropped: u64,
    delays_ms: [Vec<f64>; 2],
}

/// Sums of the aggregator's counters.
struct Counted {
    applied: f64,
    datagrams_lost: f64,
    refused: f64,
}

/// A running aggregator and the certificates of its agents.
struct Stage {
    aggregator: Process,
    quic: SocketAddr,
    http: SocketAddr,
    identities: Vec<Arc<(AgentId, Identity)>>,
    _folder: tempfile::TempDir,
}

/// Measures the capacity, then every load; tells `progress` of each step. The aggregator is started by the words of `through`, if there are any,
/// followed by its own.
///
/// # Errors
/// When the aggregator or an agent cannot be set up.
pub fn run(plan: Plan, through: &str, mut progress: impl FnMut(&Step)) -> anyhow::Result<Vec<Step>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let stage = Stage::set(plan.agents, through).await?;
        let full = stage.measure(plan, None).await?;
        let capacity = full.acknowledged_per_s;
        let mut steps = Vec::new();
        for load in LOADS {
            let step = Step { load, ..stage.measure(plan, Some(load * capacity)).await? };
            progress(&step);
            steps.push(step);
        }
        Ok(steps)
    })
}

impl Stage {
    async fn set(agents: usize, through: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let [quic, http] = std::array::from_fn(|_| free_address());
        let state = folder.path().join("aggregator");
        let config = folder.path().join("aggregator.toml");
        let text = format!(
            "state_dir = {state:?}\n[listen]\nquic = \"{quic}\"\nhttp = \"{http}\"\n[notify]\nstdout = false\n"
        );
        std::fs::write(&config, text)?;
        let config = config.to_str().context("a path in UTF-8")?;
        let log = folder.path().join("aggregator.log");
        let aggregator = program("vedette-aggregator");
        let mut words = through.split_whitespace().map(OsStr::new).chain([aggregator.as_os_str()]);
        let mut command = Command::new(words.next().context("a program")?);
        command.args(words).args(["run", "--config", config]);
        let aggregator = Process::start_command(command, "vedette-aggregator".to_owned(), &log);
        eventually("the aggregator", 30, || get(http, "/-/ready").filter(|(status, _)| *status == 200));
        let mut identities = Vec::new();
        for index in 0..agents {
            identities.push(Arc::new(enroll(folder.path(), quic, index).await?));
        }
        Ok(Self { aggregator, quic, http, identities, _folder: folder })
    }

    /// One step with fresh agents that together make `records_per_s`, or always have a backlog.
    async fn measure(&self, plan: Plan, records_per_s: Option<f64>) -> anyhow::Result<Step> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let begun = Instant::now();
        let (from, until) = (begun + WARM_UP, begun + WARM_UP + plan.step);
        let per_agent = records_per_s.map(|all| all / plan.agents as f64);
        let mut agents = JoinSet::new();
        for (index, identity) in self.identities.iter().enumerate() {
            let agent = Agent {
                index,
                identity: Arc::clone(identity),
                aggregator: self.quic,
                plan,
                records_per_s: per_agent,
                from,
                until,
                seen: Arc::clone(&seen),
            };
            agents.spawn(agent.run());
        }
        sleep_until(from).await;
        let before = self.counted();
        sleep_until(until).await;
        let after = self.counted();
        let resident_bytes = self.aggregator.resident_bytes().context("the aggregator runs")?;
        while let Some(ended) = agents.join_next().await {
            ended??;
        }
        // What is left in the aggregator's rooms belongs to nobody any more; it is gone in a moment.
        sleep(Duration::from_secs(1)).await;
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = plan.step.as_secs_f64();
        Ok(Step {
            load: 0.0,
            offered_per_s: seen.made as f64 / seconds,
            acknowledged_per_s: seen.acknowledged as f64 / seconds,
            applied_per_s: (after.applied - before.applied) / seconds,
            datagrams_lost_per_s: (after.datagrams_lost - before.datagrams_lost) / seconds,
            refused_per_s: (after.refused - before.refused) / seconds,
            dropped: seen.dropped,
            delay_ms: seen.delays_ms.each_mut().map(|delays| percentiles(delays)),
            resident_bytes,
        })
    }

    /// What the aggregator itself has counted so far.
    fn counted(&self) -> Counted {
        let text = get(self.http, "/metrics").map(|(_, body)| body).unwrap_or_default();
        let total = |name: &str| {
            let lines = text.lines().filter(|line| {
                line.strip_prefix("vedette_aggregator_").is_some_and(|line| line.starts_with(name))
            });
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        Counted {
            applied: total("core_summaries_total"),
            datagrams_lost: total("datagrams_dropped_total"),
            refused: total("refused_total"),
        }
    }
}

/// A certificate with the token that the aggregator leaves for agents of the same user; each works once.
async fn enroll(folder: &Path, quic: SocketAddr, index: usize) -> anyhow::Result<(AgentId, Identity)> {
    let text = format!("[uplink]\naddress = \"{quic}\"\n");
    let settings = Config::parse(Path::new("overload.toml"), &text)?.uplink;
    let id = AgentId::parse(&format!("edge-{index}"))?;
    let state = StateFolder::open(&folder.join(id.as_str()))?;
    let file = folder.join("aggregator").join(LOCAL_TOKEN_FILE);
    let patience = Instant::now() + Duration::from_secs(30);
    loop {
        let token = std::fs::read_to_string(&file).ok().and_then(|text| Token::parse(text.trim()).ok());
        if let Some(token) = token
            && vedette_agent::uplink::enroll(&state, &id, &settings, &token, &Arc::default()).await.is_ok()
        {
            let identity = state.identity()?.context("an enrolled agent has a certificate")?;
            return Ok((id, identity));
        }
        anyhow::ensure!(Instant::now() < patience, "agent {index} could not enrol");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The median and the 99th percentile; none of nothing.
fn percentiles(delays_ms: &mut [f64]) -> [f64; 2] {
    delays_ms.sort_by(f64::total_cmp);
    [0.5, 0.99].map(|share| {
        let place = (delays_ms.len() as f64 * share) as usize;
        delays_ms.get(place.min(delays_ms.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    })
}
