//! The last windows of each cell and metric, for the console's curves.
//!
//! Must never hold more series than it may, or more windows of one than it may: about 16 bytes a window. The hard cases
//! are a cell that is gone, whose curve goes with the first picture that no longer shows it, and one without data for now,
//! whose curve waits: missing data must not look like a drop.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;
use vedette_aggregator_core::{CellState, Instant, Snapshot};

/// Region, device, stack and metric.
type Name = (String, String, String, String);

/// Observed and expected sums of one window.
type Point = (f64, f64);

/// The curves of every cell and metric.
#[derive(Debug)]
pub(super) struct History {
    series_max: usize,
    windows_max: usize,
    through: BTreeMap<String, Instant>,
    curves: BTreeMap<Name, VecDeque<Point>>,
}

/// One curve, the oldest window first.
#[derive(Debug, Serialize)]
pub(super) struct Curve<'h> {
    region: &'h str,
    device: &'h str,
    stack: &'h str,
    metric: &'h str,
    points: &'h VecDeque<Point>,
}

impl History {
    pub(super) fn new(series_max: usize, windows_max: usize) -> Self {
        Self { series_max, windows_max, through: BTreeMap::new(), curves: BTreeMap::new() }
    }

    /// Adds the latest window of every region that has judged one since the last picture.
    pub(super) fn take(&mut self, picture: &Snapshot) {
        for region in &picture.regions {
            let Some(through) = region.judged_through else { continue };
            if self.through.get(&region.region) == Some(&through) {
                continue;
            }
            self.through.insert(region.region.clone(), through);
            let mut present = BTreeMap::new();
            for cell in &region.cells {
                let name =
                    (region.region.clone(), cell.device.clone(), cell.stack.clone(), cell.metric.clone());
                let seen = cell.state != CellState::Missing;
                present.insert(name, seen.then_some((cell.observed, cell.expected)));
            }
            self.curves.retain(|name, _| name.0 != region.region || present.contains_key(name));
            for (name, point) in present {
                if let Some(point) = point {
                    self.push(name, point);
                }
            }
        }
    }

    fn push(&mut self, name: Name, point: Point) {
        if self.curves.len() >= self.series_max && !self.curves.contains_key(&name) {
            return;
        }
        let curve = self.curves.entry(name).or_default();
        curve.push_back(point);
        if curve.len() > self.windows_max {
            curve.pop_front();
        }
    }

    /// The curves of a region, or of all.
    pub(super) fn curves(&self, region: Option<&str>) -> Vec<Curve<'_>> {
        let wanted = self.curves.iter().filter(|(name, _)| region.is_none_or(|region| region == name.0));
        wanted
            .map(|((region, device, stack, metric), points)| Curve { region, device, stack, metric, points })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use vedette_aggregator_core::{CellView, Counts, RegionView};
    use vedette_common::WallMs;

    use super::*;

    fn cell(stack: &str, observed: f64) -> CellView {
        CellView {
            device: "tv".into(),
            stack: stack.into(),
            metric: "activity".into(),
            observed,
            expected: 10.0,
            count: 1,
            log_ratio: 0.0,
            residual: 0.0,
            noise: 0.0,
            score: 0.0,
            state: CellState::Quiet,
            incident: None,
        }
    }

    fn picture(through_ms: i64, cells: Vec<CellView>) -> Snapshot {
        let region = RegionView {
            region: "uk".into(),
            window_ms: 1_000,
            judged_through: Some(Instant(WallMs(through_ms))),
            common_modes: Vec::new(),
            cells,
        };
        Snapshot {
            open: Vec::new(),
            suppressed: Vec::new(),
            resolved: Vec::new(),
            regions: vec![region],
            agents: Vec::new(),
            counts: Counts::default(),
        }
    }

    fn observed(history: &History, stack: &str) -> Vec<f64> {
        let curves = history.curves(Some("uk"));
        let found = curves.iter().find(|curve| curve.stack == stack);
        found.map(|curve| curve.points.iter().map(|point| point.0).collect()).unwrap_or_default()
    }

    #[test]
    fn a_window_counts_once_and_the_oldest_goes_first() {
        let mut history = History::new(4, 2);
        history.take(&picture(1, vec![cell("web", 1.0)]));
        history.take(&picture(1, vec![cell("web", 9.0)]));
        assert_eq!(observed(&history, "web"), [1.0]);
        history.take(&picture(2, vec![cell("web", 2.0)]));
        history.take(&picture(3, vec![cell("web", 3.0)]));
        assert_eq!(observed(&history, "web"), [2.0, 3.0]);
        assert!(history.curves(Some("ie")).is_empty());
    }

    #[test]
    fn missing_data_is_no_drop() {
        let mut history = History::new(4, 4);
        history.take(&picture(1, vec![cell("web", 7.0)]));
        history.take(&picture(2, vec![CellView { state: CellState::Missing, ..cell("web", 0.0) }]));
        assert_eq!(observed(&history, "web"), [7.0]);
        history.take(&picture(3, vec![cell("web", 8.0)]));
        assert_eq!(observed(&history, "web"), [7.0, 8.0]);
    }

    #[test]
    fn a_cell_that_is_gone_leaves_room_for_another() {
        let mut history = History::new(1, 2);
        history.take(&picture(1, vec![cell("a", 1.0), cell("b", 1.0)]));
        assert_eq!(
            (observed(&history, "a").len(), observed(&history, "b").len()),
            (1, 0),
            "one is the limit"
        );
        history.take(&picture(2, vec![cell("b", 2.0)]));
        assert_eq!((observed(&history, "a").len(), observed(&history, "b").len()), (0, 1));
    }
}
