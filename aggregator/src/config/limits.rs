//! The bounds of everything in the aggregator that could grow, and what each may need in memory.
//!
//! Owns the range, default and worst case of each limit. Must never be exceeded silently: who holds the bounded
//! thing counts what it turned away. The hard case is honesty: the cost of an item is its worst case, with every
//! name as long as it may be, not its average.

use serde::{Deserialize, Serialize};
use vedette_aggregator_core::footprint::{CELL_BYTES, DEVIATION_BYTES, ROLL_UP_BYTES, SERIES_BYTES};

use crate::limits::ADMITTED_MAX;
use crate::listen::{AgentMessage, Input};

/// The bounds of everything that could grow. Each is a count unless its name says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Agents connected at a time, 1 to 65,536; default 1,024. One more is refused with a time to retry after.
    pub connections_max: u32,
    /// Agents remembered, 1 to 65,536; default 4,096. The longest silent is forgotten first.
    pub agents_max: u32,
    /// Regions, 1 to 1,024; default 64. Data of further ones is counted and dropped.
    pub regions_max: u32,
    /// Cells of one region, 1 to 65,536; default 1,024. Roll-ups of further cells are counted and dropped.
    pub cells_per_region_max: u32,
    /// Metrics of all cells of one region together, 1 to 262,144; default 2,048. Further ones are counted and dropped.
    pub series_per_region_max: u32,
    /// Windows that wait to be judged, 1 to 1,024; default 16. When full, the oldest is judged at once.
    pub pending_windows_max: u32,
    /// Deviations that wait for the roll-ups of their windows after an outage, 1 to 1,048,576; default 65,536. When full, the
    /// oldest window is judged without roll-ups.
    pub ahead_deviations_max: u32,
    /// Deviations kept for one region and window, 1 to 65,536; default 256. Higher scores take the place of lower ones.
    pub deviations_per_window_max: u32,
    /// Incidents that are open or suppressed at a time, 1 to 100,000; default 1,024.
    pub incidents_max: u32,
    /// Occurrences of calendar entries held, 1 to 1,000,000; default 20,000. The nearest are kept.
    pub calendar_entries_max: u32,
    /// How far into the future calendar entries are expanded, in days, 1 to 3,660; default 400.
    pub calendar_horizon_days: u32,
    /// Notifications that wait on the disk for one notifier, 1 to 100,000; default 4,096. The oldest are dropped and counted.
    pub outbox_max: u32,
    /// Requests to console and API served at a time, 1 to 1,024; default 64.
    pub requests_max: u32,
    /// Curves kept for the console, one for each metric of a cell, 1 to 1,000,000; default 4,096.
    pub history_series_max: u32,
    /// Windows of each curve, 2 to 4,096; default 64.
    pub history_windows_max: u32,
    /// Days for which resolved incidents and the ledger are kept, 1 to 3,660; default 90.
    pub retention_days: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 1_024,
            agents_max: 4_096,
            regions_max: 64,
            cells_per_region_max: 1_024,
            series_per_region_max: 2_048,
            pending_windows_max: 16,
            ahead_deviations_max: 65_536,
            deviations_per_window_max: 256,
            incidents_max: 1_024,
            calendar_entries_max: 20_000,
            calendar_horizon_days: 400,
            outbox_max: 4_096,
            requests_max: 64,
            history_series_max: 4_096,
            history_windows_max: 64,
            retention_days: 90,
        }
    }
}

/// What one limit may need in memory at worst.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The limit's key below `[limits]`, or what else is bounded.
    pub limit: &'static str,
    /// How many items it allows.
    pub items: u64,
    /// Bytes of one item at worst.
    pub bytes_each: u64,
}

impl Memory {
    /// Bytes of all items at worst.
    pub fn bytes(&self) -> u64 {
        self.items.saturating_mul(self.bytes_each)
    }
}

/// A QUIC connection with its receive windows, and one frame being read.
const CONNECTION_BYTES: u64 = 256 * 1024;
/// What an agent said and the core has not taken yet: whatever it is, there is room for a summary.
const MESSAGE_BYTES: u64 = (size_of::<Input>() + size_of::<AgentMessage>()) as u64;
/// A birth and a heartbeat: of each connection the latest of both may wait beside its records.
const WORDS: u64 = 2;
/// A session: names, two lanes of sequences for each of 64 boots, counters, regions.
const AGENT_BYTES: u64 = 8 * 1024;
/// An incident with its scope, evidence and listed series.
const INCIDENT_BYTES: u64 = 32 * 1024;
/// One occurrence: region, class, two times.
const CALENDAR_ENTRY_BYTES: u64 = 256;
/// A request: head, answer being built.
const REQUEST_BYTES: u64 = 256 * 1024;
/// A curve: four names at their longest.
const CURVE_BYTES: u64 = 512;
/// One window of a curve: two floats.
const CURVE_WINDOW_BYTES: u64 = 16;

impl Limits {
    /// What each limit may need in memory at worst, in the order of the documentation. What is limited for each region
    /// counts for as many regions as there may be.
    pub(super) fn memory(&self) -> Vec<Memory> {
        let memory = |limit, items: u64, bytes_each| Memory { limit, items, bytes_each };
        let connections = u64::from(self.connections_max);
        let regions = u64::from(self.regions_max);
        let cells = regions * u64::from(self.cells_per_region_max);
        let series = regions * u64::from(self.series_per_region_max);
        let windows = u64::from(self.pending_windows_max);
        let deviations = windows * regions * u64::from(self.deviations_per_window_max);
        let curve_bytes = CURVE_BYTES + CURVE_WINDOW_BYTES * u64::from(self.history_windows_max);
        vec![
            memory("connections_max", connections, CONNECTION_BYTES),
            memory("connections_max (words that wait)", connections * WORDS, MESSAGE_BYTES),
            memory(
                "agents (records that wait)",
                ADMITTED_MAX.iter().map(|max| *max as u64).sum(),
                MESSAGE_BYTES,
            ),
            memory("agents_max", u64::from(self.agents_max), AGENT_BYTES),
            memory("cells_per_region_max", cells, CELL_BYTES),
            memory("series_per_region_max", series, SERIES_BYTES),
            memory("pending_windows_max", windows * series, ROLL_UP_BYTES),
            memory("ahead_deviations_max", u64::from(self.ahead_deviations_max), DEVIATION_BYTES),
            memory("deviations_per_window_max", deviations, DEVIATION_BYTES),
            memory("incidents_max", u64::from(self.incidents_max), INCIDENT_BYTES),
            memory("calendar_entries_max", u64::from(self.calendar_entries_max), CALENDAR_ENTRY_BYTES),
            memory("requests_max", u64::from(self.requests_max), REQUEST_BYTES),
            memory("history_series_max", u64::from(self.history_series_max), curve_bytes),
        ]
    }

    /// Values out of range: pairs of key and problem.
    pub(super) fn problems(&self) -> super::Problems {
        let ranges = [
            ("connections_max", self.connections_max, 1, 65_536),
            ("agents_max", self.agents_max, 1, 65_536),
            ("regions_max", self.regions_max, 1, 1_024),
            ("cells_per_region_max", self.cells_per_region_max, 1, 65_536),
            ("series_per_region_max", self.series_per_region_max, 1, 262_144),
            ("pending_windows_max", self.pending_windows_max, 1, 1_024),
            ("ahead_deviations_max", self.ahead_deviations_max, 1, 1_048_576),
            ("deviations_per_window_max", self.deviations_per_window_max, 1, 65_536),
            ("incidents_max", self.incidents_max, 1, 100_000),
            ("calendar_entries_max", self.calendar_entries_max, 1, 1_000_000),
            ("calendar_horizon_days", self.calendar_horizon_days, 1, 3_660),
            ("outbox_max", self.outbox_max, 1, 100_000),
            ("requests_max", self.requests_max, 1, 1_024),
            ("history_series_max", self.history_series_max, 1, 1_000_000),
            ("history_windows_max", self.history_windows_max, 2, 4_096),
            ("retention_days", self.retention_days, 1, 3_660),
        ];
        let mut problems = Vec::new();
        for (key, value, least, most) in ranges {
            super::check_range(&mut problems, &["limits", key], u64::from(value), least, most);
        }
        problems
    }
}
