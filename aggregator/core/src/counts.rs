//! What the core counts: what came in, what was left out and why.
//!
//! It must never lose a thing without a reason. The hard case is a reason added later: [`Reason::ALL`] and the array
//! are sized together, so that none can be forgotten.
use serde::{Deserialize, Serialize};

/// Why something that arrived was left out, or what was let go to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A record that was applied before.
    Duplicate,
    /// A record whose predecessor has not come.
    Gap,
    /// Records that an agent says will never come.
    Missing,
    /// A record for a region that the agent's certificate does not name.
    RegionForbidden,
    /// A record whose window lies too far in the past.
    WindowPast,
    /// A record whose window lies too far in the future.
    WindowFuture,
    /// A record whose window has no width or does not fit the region's.
    WindowWidth,
    /// A roll-up or deviation of a window that was judged already.
    Late,
    /// A roll-up or deviation with an index that points nowhere.
    BadIndex,
    /// A roll-up with a value that cannot be a sum.
    BadValue,
    /// No room for another region.
    RegionsFull,
    /// No room for another cell.
    CellsFull,
    /// No room for another series.
    SeriesFull,
    /// No room for another metric.
    MetricsFull,
    /// A window was judged early to make room.
    WindowsFull,
    /// A deviation gave way to one with a higher score.
    DeviationsFull,
    /// An agent was forgotten to make room.
    AgentEvicted,
    /// The sequences of a boot were forgotten to make room.
    BootEvicted,
    /// An incident could not be kept.
    IncidentsFull,
    /// A calendar entry could not be kept, or ends before it begins.
    CalendarEntry,
}

impl Reason {
    /// Every reason, in order of its place in the array.
    pub const ALL: [Self; 20] = [
        Self::Duplicate,
        Self::Gap,
        Self::Missing,
        Self::RegionForbidden,
        Self::WindowPast,
        Self::WindowFuture,
        Self::WindowWidth,
        Self::Late,
        Self::BadIndex,
        Self::BadValue,
        Self::RegionsFull,
        Self::CellsFull,
        Self::SeriesFull,
        Self::MetricsFull,
        Self::WindowsFull,
        Self::DeviationsFull,
        Self::AgentEvicted,
        Self::BootEvicted,
        Self::IncidentsFull,
        Self::CalendarEntry,
    ];

    /// The name for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate",
            Self::Gap => "gap",
            Self::Missing => "missing",
            Self::RegionForbidden => "region_forbidden",
            Self::WindowPast => "window_past",
            Self::WindowFuture => "window_future",
            Self::WindowWidth => "window_width",
            Self::Late => "late",
            Self::BadIndex => "bad_index",
            Self::BadValue => "bad_value",
            Self::RegionsFull => "regions_full",
            Self::CellsFull => "cells_full",
            Self::SeriesFull => "series_full",
            Self::MetricsFull => "metrics_full",
            Self::WindowsFull => "windows_full",
            Self::DeviationsFull => "deviations_full",
            Self::AgentEvicted => "agent_evicted",
            Self::BootEvicted => "boot_evicted",
            Self::IncidentsFull => "incidents_full",
            Self::CalendarEntry => "calendar_entry",
        }
    }
}

/// Counters since the core was made; they only rise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Records applied.
    pub summaries: u64,
    /// Roll-ups applied.
    pub roll_ups: u64,
    /// Deviations applied.
    pub deviations: u64,
    /// Windows judged, one for each region.
    pub windows_judged: u64,
    /// Windows judged as history: everything in them came late.
    pub history_windows: u64,
    left_out: [u64; Reason::ALL.len()],
}

impl Counts {
    /// Adds `n` for `reason`, saturating.
    pub fn add(&mut self, reason: Reason, n: u64) {
        let count = &mut self.left_out[reason as usize];
        *count = count.saturating_add(n);
    }

    /// How often `reason` occurred.
    pub const fn get(&self, reason: Reason) -> u64 {
        self.left_out[reason as usize]
    }

    /// Every reason with its count, those of zero included.
    pub fn left_out(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.into_iter().zip(self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_place() {
        let mut counts = Counts::default();
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
            counts.add(reason, place as u64);
        }
        assert!(counts.left_out().enumerate().all(|(place, (_, n))| n == place as u64));
    }
}
