//! What the API, the console and `explain` may see: a copy of the state at one moment, read only.
//!
//! It must never be needed to judge. The hard case is size: one entry for each cell and judged metric, all bounded by
//! the limits of the settings.
use serde::{Deserialize, Serialize};

use crate::alarm::Alarm;
use crate::counts::Counts;
use crate::evidence::rounded;
use crate::instant::Instant;
use crate::settings::Role;

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Open incidents, the worst first.
    pub open: Vec<IncidentView>,
    /// Suppressed incidents, the latest first.
    pub suppressed: Vec<IncidentView>,
    /// Incidents that are over and still remembered, the latest first.
    pub resolved: Vec<IncidentView>,
    /// The lattice by region.
    pub regions: Vec<RegionView>,
    /// Every agent.
    pub agents: Vec<AgentView>,
    /// The counters.
    pub counts: Counts,
}

/// One incident as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IncidentView {
    /// The object of its latest state, evidence and series brought up to date.
    pub alarm: Alarm,
    /// The latest window that showed it, its end.
    pub last_seen_at: Instant,
    /// Judged windows that it has held for.
    pub windows: u32,
}

/// One region of the lattice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegionView {
    /// Its name.
    pub region: String,
    /// Width of its windows.
    pub window_ms: u32,
    /// End of the latest window judged; none before the first.
    pub judged_through: Option<Instant>,
    /// The common mode of each judged metric.
    pub common_modes: Vec<CommonModeView>,
    /// Each cell and judged metric, by device, stack and metric.
    pub cells: Vec<CellView>,
}

/// The common mode of one metric in one region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommonModeView {
    /// The metric.
    pub metric: String,
    /// Its role; none when the config names none.
    pub role: Option<Role>,
    /// What the independent stacks share, as a log ratio.
    #[serde(with = "rounded")]
    pub common_mode: f64,
    /// How many independent stacks took part.
    pub peers: usize,
}

/// What a cell's colour is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CellState {
    /// No data for now.
    Missing,
    /// Too young to be judged.
    Learning,
    /// As expected.
    Quiet,
    /// Part of a suppressed incident.
    Suppressed,
    /// Part of an open incident.
    Open,
}

/// One metric of one cell in the latest window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellView {
    /// The device family.
    pub device: String,
    /// The stack.
    pub stack: String,
    /// The metric.
    pub metric: String,
    /// Observed sum.
    #[serde(with = "rounded")]
    pub observed: f64,
    /// Expected sum.
    #[serde(with = "rounded")]
    pub expected: f64,
    /// Scored observations.
    pub count: u32,
    /// ln(observed/expected).
    #[serde(with = "rounded")]
    pub log_ratio: f64,
    /// What is left over once the common mode is taken off.
    #[serde(with = "rounded")]
    pub residual: f64,
    /// One standard deviation of its noise.
    #[serde(with = "rounded")]
    pub noise: f64,
    /// The highest score among its deviating series; 0 when there is none.
    #[serde(with = "rounded")]
    pub score: f64,
    /// Where it stands.
    pub state: CellState,
    /// The incident that covers it, if one does.
    pub incident: Option<String>,
}

/// One agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentView {
    /// Its id.
    pub agent: String,
    /// Its software version; empty before its birth message.
    pub version: String,
    /// The regions it reported.
    pub regions: Vec<String>,
    /// When it was last heard, by the aggregator's clock.
    pub last_heard_at: Instant,
    /// Its wall clock less the aggregator's at the last heartbeat, milliseconds.
    pub clock_ahead_ms: i64,
    /// Series that it holds.
    pub series: u32,
    /// Records in its spool.
    pub spooled_records: u32,
    /// Bytes in its spool.
    pub spooled_bytes: u32,
    /// Observations since its start.
    pub observed: u64,
    /// Records that never came.
    pub missing: u64,
    /// What it dropped since its start, by reason.
    pub dropped: Vec<(String, u64)>,
    /// Whether it has been silent for too long.
    pub silent: bool,
}
