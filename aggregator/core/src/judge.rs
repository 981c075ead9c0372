//! The judgement of one window: from sums to findings.
//!
//! It must never tell anybody; it says what it finds. The hard case is order: regions, cells and metrics are walked by
//! name, so that what arrived first does not show in the result.
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::incident::Finding;
use crate::journal::Journal;
use crate::region::Fleet;
use crate::schedule::{Schedule, Silence};
use crate::settings::Settings;
use crate::window::PendingWindow;

/// What the judgement has learned.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {}

/// What the judgement may look at besides the numbers.
pub(crate) struct Case<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) schedule: &'a Schedule,
    pub(crate) silences: &'a [Silence],
    pub(crate) journal: &'a Journal,
    /// Agents known to be silent, by their place among the reporters.
    pub(crate) silent: &'a BTreeSet<u16>,
}

/// Judges the regions of `window` together.
pub(crate) fn judge(
    fleet: &mut Fleet,
    _memory: &mut Memory,
    _case: &Case<'_>,
    window: &PendingWindow,
) -> Vec<Finding> {
    for (place, reported) in &window.regions {
        let Some(region) = fleet.regions.get_mut(usize::from(*place)) else { continue };
        region.judged = Some(window.start);
        for (series, sum) in &reported.sums {
            let Some(series) = region.series.get_mut(*series as usize) else { continue };
            series.latest = *sum;
            series.age = series.age.saturating_add(u32::from(sum.count > 0));
            if let Some(cell) = region.cells.get_mut(series.cell as usize) {
                cell.seen = window.start;
            }
        }
    }
    Vec::new()
}
