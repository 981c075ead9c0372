//! Windows that wait to be judged: what agents reported of one stretch of event time, summed by series.
//!
//! It must never judge. The hard case is a window that some agents have not reported: it waits for those that keep
//! pace, for a limited time, and what comes after that is late and counted.
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use vedette_common::wire::{Phase, Scorer, Shape};
use vedette_common::{AgentId, WallMs};

/// Observed and expected sums of one series over one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sum {
    pub(crate) observed: f64,
    pub(crate) expected: f64,
    pub(crate) count: u32,
}

impl Sum {
    pub(crate) fn add(&mut self, other: Self) {
        self.observed += other.observed;
        self.expected += other.expected;
        self.count = self.count.saturating_add(other.count);
    }
}

/// One deviating series as its agent saw it in the window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Deviating {
    /// The cell and metric: index into the region's series.
    pub(crate) series: u32,
    /// Further tags in canonical form.
    pub(crate) tags: String,
    pub(crate) phase: Phase,
    /// Who found it; of a flat line or a silence the values say nothing.
    #[serde(default)]
    pub(crate) scorer: Scorer,
    pub(crate) onset_at: WallMs,
    pub(crate) observed: f64,
    pub(crate) expected: f64,
    pub(crate) score: f64,
    pub(crate) shape: Shape,
}

/// The sums of a region's series, by index: dense, for most series report every window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<(u32, Sum)>", into = "Vec<(u32, Sum)>")]
pub(crate) struct Sums(Vec<Option<Sum>>);

impl Sums {
    /// Adds `sum` to what is known of `series`.
    pub(crate) fn add(&mut self, series: u32, sum: Sum) {
        let place = series as usize;
        if self.0.len() <= place {
            self.0.resize(place + 1, None);
        }
        self.0[place].get_or_insert_default().add(sum);
    }

    /// Every series that reported, in order of their indices.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, Sum)> + '_ {
        (0..).zip(&self.0).filter_map(|(series, sum)| Some((series, (*sum)?)))
    }
}

impl From<Vec<(u32, Sum)>> for Sums {
    fn from(stored: Vec<(u32, Sum)>) -> Self {
        let mut sums = Self::default();
        // An index beyond what any region can hold was not written by this program.
        let known = stored.into_iter().filter(|(series, _)| *series <= SERIES_PLACE_MAX);
        known.for_each(|(series, sum)| sums.add(series, sum));
        sums
    }
}

impl From<Sums> for Vec<(u32, Sum)> {
    fn from(sums: Sums) -> Self {
        sums.iter().collect()
    }
}

/// The last place that a series can have: more than any limit on series allows.
const SERIES_PLACE_MAX: u32 = 1 << 24;

/// What one region reported of one window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RegionWindow {
    pub(crate) sums: Sums,
    pub(crate) deviations: Vec<Deviating>,
    /// The lowest score among them once they are as many as may be: what is no higher need not be looked at.
    #[serde(skip)]
    lowest: Option<f64>,
}

impl RegionWindow {
    /// Makes room for the first `deviations` at once.
    pub(crate) fn expect(&mut self, deviations: usize) {
        if self.deviations.is_empty() {
            self.deviations.reserve_exact(deviations);
        }
    }

    /// Keeps `deviating`, or over `deviations_max` whichever has the higher score. Returns whether one was let go.
    pub(crate) fn keep(&mut self, deviating: Deviating, deviations_max: usize) -> bool {
        if self.deviations.len() < deviations_max {
            self.deviations.push(deviating);
            return false;
        }
        if self.lowest.is_some_and(|lowest| lowest >= deviating.score) {
            return true;
        }
        let lowest = self.deviations.iter_mut().min_by(|a, b| a.score.total_cmp(&b.score));
        if let Some(lowest) = lowest.filter(|lowest| lowest.score < deviating.score) {
            *lowest = deviating;
        }
        self.lowest = self.deviations.iter().map(|d| d.score).min_by(f64::total_cmp);
        true
    }
}

/// One stretch of event time and what arrived of it. Windows of different widths wait apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PendingWindow {
    pub(crate) start: WallMs,
    pub(crate) window_ms: u32,
    pub(crate) first_at: WallMs,
    pub(crate) last_at: WallMs,
    /// How late the timeliest of its records came, milliseconds after its end.
    #[serde(default)]
    pub(crate) late_ms: i64,
    /// By index of the region.
    pub(crate) regions: BTreeMap<u16, RegionWindow>,
    /// Agents whose deviations came ahead of their roll-ups, as they do after an outage: both lanes drain apart.
    pub(crate) ahead: BTreeSet<AgentId>,
}

impl PendingWindow {
    pub(crate) fn new(start: WallMs, window_ms: u32, now: WallMs) -> Self {
        Self {
            start,
            window_ms,
            first_at: now,
            last_at: now,
            late_ms: i64::MAX,
            regions: BTreeMap::new(),
            ahead: BTreeSet::new(),
        }
    }

    pub(crate) fn end(&self) -> WallMs {
        self.start.plus_ms(i64::from(self.window_ms))
    }

    pub(crate) fn key(&self) -> (WallMs, u32) {
        (self.start, self.window_ms)
    }

    /// A record of it came.
    pub(crate) fn touch(&mut self, now: WallMs) {
        self.last_at = self.last_at.max(now);
        self.late_ms = self.late_ms.min(now.ms_since(self.end()));
    }

    /// Deviations that it holds.
    pub(crate) fn deviations(&self) -> usize {
        self.regions.values().map(|region| region.deviations.len()).sum()
    }

    pub(crate) fn shares_region_with(&self, other: &Self) -> bool {
        self.regions.keys().any(|region| other.regions.contains_key(region))
    }
}
