//! Intake: the names and sums of a summary find their places in the lattice and in the windows that wait.
//!
//! It must never hold on to a summary. The hard case is a summary that is bad in parts: an index that points nowhere or
//! a cell that finds no room costs that row and a count, and the rest is kept.
use std::collections::{BTreeMap, BTreeSet};

use vedette_common::wire::{CellName, Deviation, NO_TAGS, RollUp, Summary};
use vedette_common::{AgentId, Now, WallMs};

use crate::counts::{Counts, Reason};
use crate::region::Fleet;
use crate::settings::Limits;
use crate::window::{Deviating, PendingWindow, Sum};

/// The widest window that a region can have.
pub(crate) const WINDOW_MS_MAX: u32 = 3_600_000;

/// Windows that wait, the oldest first; by start and width.
pub(crate) type Windows = BTreeMap<(WallMs, u32), PendingWindow>;

/// Where the parts of a summary go.
pub(crate) struct Intake<'a> {
    pub(crate) fleet: &'a mut Fleet,
    pub(crate) windows: &'a mut Windows,
    pub(crate) limits: &'a Limits,
    pub(crate) counts: &'a mut Counts,
}

/// What a summary touched.
#[derive(Default)]
pub(crate) struct Touched {
    /// Regions by place.
    pub(crate) regions: BTreeSet<u16>,
    pub(crate) windows: BTreeSet<(WallMs, u32)>,
    /// Whether a name, cell or series is new.
    pub(crate) lattice: bool,
}

/// A cell of the summary with its place: region, cell, and the window that takes its rows.
type Place = (u16, u32, (WallMs, u32));

impl Intake<'_> {
    /// Adds the rows of `summary` to the windows that they belong to. An empty one says of the regions that its agent
    /// reported before, `known`, that there was nothing.
    pub(crate) fn take(&mut self, now: Now, agent: &AgentId, summary: &Summary, known: &[&str]) -> Touched {
        let mut touched = Touched::default();
        for name in known {
            let Some(region) = self.fleet.names.regions.find(name) else { continue };
            if self.window(now, region, summary, &mut touched).is_some() {
                touched.regions.insert(region);
            }
        }
        let size_before = self.lattice_size();
        let strings = summary.strings.resolve();
        let reporter = self.fleet.names.reporters.intern(agent.as_str(), usize::from(u16::MAX)).unwrap_or(0);
        let places: Vec<Option<Place>> = summary
            .cells
            .iter()
            .map(|cell| self.place(now, reporter, &strings, *cell, summary, &mut touched))
            .collect();
        for roll_up in &summary.roll_ups {
            self.take_roll_up(&strings, &places, roll_up);
        }
        for deviation in &summary.deviations {
            self.take_deviation(&strings, &places, deviation, summary);
        }
        touched.lattice = self.lattice_size() != size_before;
        touched
    }

    fn lattice_size(&self) -> (usize, usize, usize) {
        let names = &self.fleet.names;
        let named = names.devices.len() + names.stacks.len() + names.metrics.len() + names.reporters.len();
        let sum = |of: fn(&crate::region::Region) -> usize| self.fleet.regions.iter().map(of).sum::<usize>();
        (named, sum(|r| r.cells.len()), sum(|r| r.series.len()) + self.fleet.regions.len())
    }

    /// The place of `cell`, if it has one, and its window is open.
    fn place(
        &mut self,
        now: Now,
        reporter: u16,
        strings: &[&str],
        cell: CellName,
        summary: &Summary,
        touched: &mut Touched,
    ) -> Option<Place> {
        let name = |index: u8| strings.get(usize::from(index)).copied();
        let (Some(region), Some(device), Some(stack)) =
            (name(cell.region), name(cell.device), name(cell.stack))
        else {
            self.counts.add(Reason::BadIndex, 1);
            return None;
        };
        let region = self.fleet.region(region, summary.window_ms, self.limits, self.counts)?;
        let window = self.window(now, region, summary, touched)?;
        let names_max = self.limits.cells_per_region_max;
        let device = self.fleet.names.devices.intern(device, names_max);
        let stack = self.fleet.names.stacks.intern(stack, names_max);
        let (Some(device), Some(stack)) = (device, stack) else {
            self.counts.add(Reason::CellsFull, 1);
            return None;
        };
        let lattice = &mut self.fleet.regions[usize::from(region)];
        let place = lattice.cell(device, stack, self.limits, self.counts)?;
        lattice.cells[place as usize].reporter = reporter;
        touched.regions.insert(region);
        Some((region, place, window))
    }

    /// The window of `region` that takes the summary; none when it was judged already or does not fit.
    fn window(
        &mut self,
        now: Now,
        region: u16,
        summary: &Summary,
        touched: &mut Touched,
    ) -> Option<(WallMs, u32)> {
        let lattice = &mut self.fleet.regions[usize::from(region)];
        if summary.window_ms > lattice.window_ms && summary.window_ms.is_multiple_of(lattice.window_ms) {
            lattice.window_ms = summary.window_ms;
        }
        if !lattice.window_ms.is_multiple_of(summary.window_ms) {
            self.counts.add(Reason::WindowWidth, 1);
            return None;
        }
        let key = (summary.window_start.window_start(lattice.window_ms), lattice.window_ms);
        if lattice.judged.is_some_and(|judged| key.0 <= judged) {
            self.counts.add(Reason::Late, 1);
            return None;
        }
        let pending = self.windows.entry(key).or_insert_with(|| PendingWindow::new(key.0, key.1, now.wall));
        pending.last_at = pending.last_at.max(now.wall);
        pending.regions.entry(region).or_default();
        touched.windows.insert(key);
        Some(key)
    }

    fn series(
        &mut self,
        strings: &[&str],
        places: &[Option<Place>],
        cell: u8,
        metric: u8,
    ) -> Option<(Place, u32)> {
        let (Some(place), Some(metric)) = (places.get(usize::from(cell)), strings.get(usize::from(metric)))
        else {
            self.counts.add(Reason::BadIndex, 1);
            return None;
        };
        // A cell without a place was counted when it was looked for.
        let place = (*place)?;
        let Some(metric) = self.fleet.names.metrics.intern(metric, self.limits.metrics_max) else {
            self.counts.add(Reason::MetricsFull, 1);
            return None;
        };
        let series =
            self.fleet.regions[usize::from(place.0)].series(place.1, metric, self.limits, self.counts)?;
        Some((place, series))
    }

    fn take_roll_up(&mut self, strings: &[&str], places: &[Option<Place>], row: &RollUp) {
        let Some(((region, _, window), series)) = self.series(strings, places, row.cell, row.metric) else {
            return;
        };
        let (observed, expected) = (f64::from(row.observed.to_f32()), f64::from(row.expected.to_f32()));
        if !observed.is_finite() || !expected.is_finite() {
            self.counts.add(Reason::BadValue, 1);
            return;
        }
        let Some(pending) = self.windows.get_mut(&window) else { return };
        let sums = &mut pending.regions.entry(region).or_default().sums;
        sums.entry(series).or_default().add(Sum { observed, expected, count: row.count });
        self.counts.roll_ups += 1;
    }

    fn take_deviation(
        &mut self,
        strings: &[&str],
        places: &[Option<Place>],
        row: &Deviation,
        summary: &Summary,
    ) {
        let Some(((region, _, window), series)) = self.series(strings, places, row.cell, row.metric) else {
            return;
        };
        let tags = if row.tags == NO_TAGS { Some("") } else { strings.get(usize::from(row.tags)).copied() };
        let Some(tags) = tags else {
            self.counts.add(Reason::BadIndex, 1);
            return;
        };
        let end = summary.window_start.plus_ms(i64::from(summary.window_ms));
        let deviating = Deviating {
            series,
            tags: tags.into(),
            phase: row.course.phase,
            scorer: row.course.scorer,
            onset_at: end.plus_ms(-1000 * i64::from(row.onset_s_ago)),
            observed: f64::from(row.observed.to_f32()),
            expected: f64::from(row.expected.to_f32()),
            score: f64::from(row.score.to_f32()),
            shape: row.shape,
        };
        let Some(pending) = self.windows.get_mut(&window) else { return };
        let lost =
            pending.regions.entry(region).or_default().keep(deviating, self.limits.deviations_per_window_max);
        self.counts.add(Reason::DeviationsFull, u64::from(lost));
        self.counts.deviations += 1;
    }
}
