//! What the judgement is told: roles of metrics, dependencies of stacks, limits, and the constants of its method.
//!
//! It must never hold anything about a single series: one parameter set serves all. The hard case is an installation
//! without any config: the defaults must let a lone machine's metrics be seen without paging for each spike.
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ingredients::Ingredients;

/// What a metric measures, and so how it is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// What people do with the application: compared between stacks.
    Traffic,
    /// Failures: counter-evidence for traffic, and judged by themselves.
    Errors,
    /// How long things take: sums of durations.
    Latency,
    /// How full a resource is.
    Saturation,
}

/// Which direction of a metric people are notified of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmOn {
    /// Below expectation.
    Drop,
    /// Above expectation.
    Rise,
    /// Either.
    Both,
}

impl Role {
    /// The direction that matters when the config does not say: a drop of traffic, a rise of anything else.
    pub const fn default_alarm_on(self) -> AlarmOn {
        match self {
            Self::Traffic => AlarmOn::Drop,
            Self::Errors | Self::Latency | Self::Saturation => AlarmOn::Rise,
        }
    }
}

/// How one metric is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricSettings {
    /// What it measures.
    pub role: Role,
    /// Which direction notifies.
    pub alarm_on: AlarmOn,
}

/// Which tag plays which part; used to write the tags of a series in alarms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dimensions {
    /// The tag that names the region.
    pub region: String,
    /// The tag that names the device family.
    pub device: String,
    /// The tag that names the stack.
    pub stack: String,
}

impl Default for Dimensions {
    fn default() -> Self {
        Self { region: "region".into(), device: "device".into(), stack: "stack".into() }
    }
}

/// Everything that the core is told. Worst-case memory follows from [`Limits`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// The tags of the dimensions.
    pub dimensions: Dimensions,
    /// Metrics by name: `measurement`, or `measurement.field`. A measurement's settings serve all its fields.
    pub metrics: BTreeMap<String, MetricSettings>,
    /// What each stack depends on, by name. Stacks that share a dependency count once as evidence.
    pub depends_on: BTreeMap<String, Vec<String>>,
    /// Bounds of everything that can grow.
    pub limits: Limits,
    /// Waiting and lateness.
    pub timing: Timing,
    /// The constants of the judgement.
    pub judgement: Judgement,
    /// The times in the life of an incident.
    pub lifecycle: Lifecycle,
    /// Classes of scheduled events during which nobody is notified.
    pub maintenance_classes: BTreeSet<String>,
    /// How many pages a week are wanted of a region, by its name; sensitivity is learned from it.
    pub pages_per_week: BTreeMap<String, f64>,
}

impl Settings {
    /// The settings of `metric`: by its full name, else by the longest prefix that ends before a `.`.
    pub fn metric(&self, metric: &str) -> Option<MetricSettings> {
        let mut name = metric;
        loop {
            if let Some(found) = self.metrics.get(name) {
                return Some(*found);
            }
            name = &name[..name.rfind('.')?];
        }
    }
}

/// Bounds of everything that can grow, each with its policy when full; what is lost is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Agents known at once; a new one evicts the one heard longest ago. About 0.5 KB each, 4 KB with all boots. Default 4,096.
    pub agents_max: usize,
    /// Boots of one agent whose sequences are kept; a new one evicts the one used longest ago. What an agent sends again of
    /// boots that were evicted is applied again, so this must be more than one spool holds. Default 64.
    pub boots_per_agent_max: usize,
    /// Regions; data of further ones is refused. Default 64.
    pub regions_max: usize,
    /// Cells in one region; roll-ups of further ones are dropped. About 0.5 KB each, plus series. Default 1,024.
    pub cells_per_region_max: usize,
    /// Series (cell x metric) in one region; further ones are dropped. About 1 KB each. Default 2,048.
    pub series_per_region_max: usize,
    /// Different metrics; roll-ups and deviations of further ones are dropped. Default 512.
    pub metrics_max: usize,
    /// Windows that wait to be judged; when full, the oldest is judged at once. Default 16.
    pub pending_windows_max: usize,
    /// Windows besides those whose deviations came ahead of their roll-ups, as after an outage; when full, the oldest is
    /// judged without roll-ups. Default 4,096: eleven hours of windows of 10 s.
    pub ahead_windows_max: usize,
    /// Deviations in those windows, about 200 bytes each; when full, likewise. Default 65,536.
    pub ahead_deviations_max: usize,
    /// Deviations kept for one region and window; further ones replace the lowest score. Default 256.
    pub deviations_per_window_max: usize,
    /// Incidents open, suppressed or remembered; a new one evicts the one resolved longest ago, and is dropped when
    /// all are live. Default 1,024.
    pub incidents_max: usize,
    /// Series listed in one alarm. Default 20.
    pub series_per_alarm_max: usize,
    /// Calendar entries; the ones that end last are dropped. Default 10,000.
    pub calendar_entries_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            agents_max: 4096,
            boots_per_agent_max: 64,
            regions_max: 64,
            cells_per_region_max: 1024,
            series_per_region_max: 2048,
            metrics_max: 512,
            pending_windows_max: 16,
            ahead_windows_max: 4_096,
            ahead_deviations_max: 65_536,
            deviations_per_window_max: 256,
            incidents_max: 1024,
            series_per_alarm_max: 20,
            calendar_entries_max: 10_000,
        }
    }
}

/// Waiting: for agents that report late, and for agents that do not report at all. Milliseconds or windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a window waits, after its first record arrived, for agents that have not reported it. Default 30,000.
    pub lateness_ms: i64,
    /// How long a window that every live agent reported waits for further records of them. Default 500.
    pub settle_ms: i64,
    /// An agent is silent after this many of its windows without a word ... Default 3.
    pub silent_after_windows: i64,
    /// ... and at least this long. Default 60,000.
    pub silent_after_ms: i64,
    /// A window whose every record comes later than this after its end is history: it is judged and recorded, and pages
    /// nobody. Default 1 hour.
    pub history_after_ms: i64,
    /// Windows that begin further in the past are refused. Default 14 days.
    pub past_max_ms: i64,
    /// Windows that begin further in the future are refused. Default 5 minutes.
    pub future_max_ms: i64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lateness_ms: 30_000,
            settle_ms: 500,
            silent_after_windows: 3,
            silent_after_ms: 60_000,
            history_after_ms: 3_600_000,
            past_max_ms: 14 * 86_400_000,
            future_max_ms: 300_000,
        }
    }
}

/// Times in the life of an incident, milliseconds of event time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifecycle {
    /// A deviation has to last this long, and `hold_windows`, before it is told. Default 0.
    pub hold_ms: i64,
    /// An incident is over after this long, and `quiet_windows`, without a sign of it; twice as long after each
    /// return. Default 5 minutes.
    pub quiet_ms: i64,
    /// What comes back within this time of its end is the same incident. Default 2 hours.
    pub flap_ms: i64,
    /// How long something waits to be told while an announced event has not shown itself. Default 0: it does not.
    pub wait_ms: i64,
    /// How long what an event or a maintenance held back is held back after its end: events are moved at short notice.
    /// Default 2 hours.
    pub extension_ms: i64,
    /// After this long an open incident of at least a third less or more is critical; a smaller one after four times as
    /// long. Default 30 minutes.
    pub worsens_after_ms: i64,
    /// An incident that nothing has looked at for so long is over: its region or agent is no more. Default 7 days.
    #[serde(default = "gone_ms")]
    pub gone_ms: i64,
}

const fn gone_ms() -> i64 {
    7 * 86_400_000
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            hold_ms: 0,
            quiet_ms: 300_000,
            flap_ms: 2 * 3_600_000,
            wait_ms: 0,
            extension_ms: 2 * 3_600_000,
            worsens_after_ms: 1_800_000,
            gone_ms: gone_ms(),
        }
    }
}

/// The constants of the judgement; log ratios are natural. See `correlate.rs` and `verdict.rs` for their use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Judgement {
    /// Standard deviations of its own noise at which a scope counts as deviating. Default 4.5.
    pub significance: f64,
    /// Standard deviations at which raised errors in the same cells are enough to confirm it. Default 3.
    pub significance_with_errors: f64,
    /// Standard deviations that a leftover and its raised errors must have together. Default 6.
    pub significance_of_both: f64,
    /// Standard deviations at which one window is enough, of a leftover and what confirms it together. Default 9.
    pub significance_at_once: f64,
    /// The least expectation of a count for one window to be enough. Default 100.
    pub counted_at_once: f64,
    /// The share of `significance` below which a deviation counts as over. Default 0.6.
    pub hysteresis: f64,
    /// The smallest leftover that matters, as a log ratio. Default 0.2 (18 % down).
    pub residual_min: f64,
    /// How unevenly an event acts: the share of the common mode that a scope may differ by, as one standard
    /// deviation. Default 0.3.
    pub unevenness: f64,
    /// A common mode of this size counts as an event. Default 0.2.
    pub common_mode_min: f64,
    /// How far errors inside a scope must lie above those outside to count as raised, as a log ratio. Default 0.4.
    pub errors_raised: f64,
    /// How far the errors of a whole region must lie above expectation to make its common mode a malfunction, and
    /// those of a scope to be one by themselves, as a log ratio. Default 1.0 (2.7 times).
    pub errors_strongly_raised: f64,
    /// A leftover of this size counts without raised errors, while no event is on. Default 0.7 (50 % down).
    pub large: f64,
    /// A leftover drop of this size is a malfunction whatever the errors say, one of twice this size even in the middle of
    /// an event, and so are errors raised by this much in one. Default 1.6 (80 % down, or five times; twice: 96 %).
    pub very_large: f64,
    /// Windows that a deviation must hold for. Default 2.
    pub hold_windows: u32,
    /// Windows without a sign of it after which an incident is over. Default 4.
    pub quiet_windows: u32,
    /// Half-life in windows of the memory for noise. Default 288.
    pub noise_half_life_windows: f64,
    /// Windows after which something held back for want of raised errors is told all the same, outside events ...
    /// Default 12.
    pub patience_windows: u32,
    /// ... and at least this long: an hour of the day that was learned wrongly is over by then. Default 4 hours.
    pub patience_ms: u32,
    /// Windows of a series before it takes part. Default 6.
    pub young_windows: u32,
    /// A deviation of a metric without a role notifies only at this score ... Default 0.98.
    pub lone_score: f64,
    /// ... and only once it lasted this long. Default 30 windows.
    pub lone_windows: u32,
    /// What takes part. Default everything.
    pub ingredients: Ingredients,
}

impl Judgement {
    /// Windows of `window_ms` after which people are notified of what lasts and is not explained.
    pub(crate) fn patience_windows_of(&self, window_ms: u32) -> u32 {
        self.patience_windows.max(self.patience_ms.div_ceil(window_ms.max(1)))
    }
}

impl Default for Judgement {
    fn default() -> Self {
        Self {
            significance: 4.5,
            significance_with_errors: 3.0,
            significance_of_both: 6.0,
            significance_at_once: 9.0,
            counted_at_once: 100.0,
            hysteresis: 0.6,
            residual_min: 0.2,
            unevenness: 0.3,
            common_mode_min: 0.2,
            errors_raised: 0.4,
            errors_strongly_raised: 1.0,
            large: 0.7,
            very_large: 1.6,
            hold_windows: 2,
            quiet_windows: 4,
            noise_half_life_windows: 288.0,
            patience_windows: 12,
            patience_ms: 4 * 3_600_000,
            young_windows: 6,
            lone_score: 0.98,
            lone_windows: 30,
            ingredients: Ingredients::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_speaks_for_its_fields() {
        let mut settings = Settings::default();
        let traffic = MetricSettings { role: Role::Traffic, alarm_on: AlarmOn::Drop };
        settings.metrics.insert("activity".into(), traffic);
        assert_eq!(settings.metric("activity"), Some(traffic));
        assert_eq!(settings.metric("activity.count"), Some(traffic));
        assert_eq!(settings.metric("activities"), None);
    }
}
