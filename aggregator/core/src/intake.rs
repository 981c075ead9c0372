//! Intake: the names and sums of a summary find their places in the lattice and in the windows that wait.
//!
//! It must never hold on to a summary. The hard case is a summary that is bad in parts: an index that points nowhere or
//! a cell that finds no room costs that row and a count, and the rest is kept.
use std::collections::{BTreeMap, BTreeSet};

use vedette_common::wire::{CellName, Deviation, NO_TAGS, RollUp, Summary};
use vedette_common::{AgentId, Now, WallMs};

use crate::counts::{Counts, Reason};
use crate::region::Fleet;
use crate::scopes::STACKS_MAX;
use crate::settings::Limits;
use crate::window::{Deviating, PendingWindow, RegionWindow, Sum};

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

/// A region of the summary with the window that takes its rows.
type RegionPlace = (u16, (WallMs, u32));

/// Names of one summary that found their places, by their index in it: each is looked up once.
#[derive(Default)]
struct Found {
    regions: Vec<(u8, RegionPlace)>,
    devices: Vec<(u8, u16)>,
    stacks: Vec<(u8, u16)>,
    /// The place of the latest cell in its region.
    latest: Option<u32>,
}

/// What is known of `index`, or what `look_up` finds now; a failure is not remembered, so that each is counted.
fn recall<T: Copy>(known: &mut Vec<(u8, T)>, index: u8, look_up: impl FnOnce() -> Option<T>) -> Option<T> {
    if let Some((_, value)) = known.iter().find(|(other, _)| *other == index) {
        return Some(*value);
    }
    let value = look_up()?;
    known.push((index, value));
    Some(value)
}

/// The rows of one summary on their way.
struct Rows<'a> {
    strings: &'a [&'a str],
    places: &'a [Option<Place>],
    /// Metrics that were looked up, by their index in the summary.
    metrics: Vec<(u8, u16)>,
    /// The region whose rows come, their window, and what the region reported of it.
    open: Option<(u16, (WallMs, u32), RegionWindow)>,
    /// The place that the series of the next row has, if an agent names its series in the order in which it named them first.
    next: u32,
    /// Deviations that are to come.
    deviations: usize,
}

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
        let mut found = Found::default();
        let places: Vec<Option<Place>> = summary
            .cells
            .iter()
            .map(|cell| {
                let place = self.place(now, &strings, *cell, summary, &mut found, &mut touched)?;
                self.fleet.regions[usize::from(place.0)].cells[place.1 as usize].reporter = reporter;
                Some(place)
            })
            .collect();
        // Of a summary of several regions nobody knows which of them its rows are of.
        let deviations = if found.regions.len() == 1 { summary.deviations.len() } else { 0 };
        let (strings, places, metrics) = (&strings, &places, Vec::new());
        let mut rows = Rows { strings, places, metrics, open: None, next: 0, deviations };
        for roll_up in &summary.roll_ups {
            self.take_roll_up(&mut rows, roll_up);
        }
        for deviation in &summary.deviations {
            self.take_deviation(&mut rows, deviation, summary);
        }
        self.close(&mut rows);
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
        strings: &[&str],
        cell: CellName,
        summary: &Summary,
        found: &mut Found,
        touched: &mut Touched,
    ) -> Option<Place> {
        let name = |index: u8| strings.get(usize::from(index)).copied();
        let (Some(region), Some(device), Some(stack)) =
            (name(cell.region), name(cell.device), name(cell.stack))
        else {
            self.counts.add(Reason::BadIndex, 1);
            return None;
        };
        let (region, window) = recall(&mut found.regions, cell.region, || {
            let region = self.fleet.region(region, summary.window_ms, self.limits, self.counts)?;
            let window = self.window(now, region, summary, touched)?;
            touched.regions.insert(region);
            Some((region, window))
        })?;
        let (names, names_max) = (&mut self.fleet.names, self.limits.cells_per_region_max);
        let device = recall(&mut found.devices, cell.device, || names.devices.intern(device, names_max));
        let stack =
            recall(&mut found.stacks, cell.stack, || names.stacks.intern(stack, names_max.min(STACKS_MAX)));
        let (Some(device), Some(stack)) = (device, stack) else {
            self.counts.add(Reason::CellsFull, 1);
            return None;
        };
        let lattice = &mut self.fleet.regions[usize::from(region)];
        let guess = found.latest.map_or(0, |latest| latest.saturating_add(1));
        let place = lattice.cell(guess, device, stack, self.limits, self.counts)?;
        found.latest = Some(place);
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
        pending.touch(now.wall);
        pending.regions.entry(region).or_default();
        touched.windows.insert(key);
        Some(key)
    }

    /// The series of a row; the window of its region is open in `rows` from then on.
    fn series(&mut self, rows: &mut Rows<'_>, cell: u8, metric: u8) -> Option<u32> {
        let (Some(place), Some(name)) =
            (rows.places.get(usize::from(cell)), rows.strings.get(usize::from(metric)))
        else {
            self.counts.add(Reason::BadIndex, 1);
            return None;
        };
        // A cell without a place was counted when it was looked for.
        let (region, cell, window) = (*place)?;
        let metrics = &mut self.fleet.names.metrics;
        let metric = recall(&mut rows.metrics, metric, || metrics.intern(name, self.limits.metrics_max));
        let Some(metric) = metric else {
            self.counts.add(Reason::MetricsFull, 1);
            return None;
        };
        let lattice = &mut self.fleet.regions[usize::from(region)];
        let series = lattice.series(rows.next, (cell, metric), self.limits, self.counts)?;
        rows.next = series.saturating_add(1);
        self.open(rows, region, window);
        Some(series)
    }

    /// Takes what a region reported of a window out of it while its rows come, for they come together.
    fn open(&mut self, rows: &mut Rows<'_>, region: u16, window: (WallMs, u32)) {
        if rows.open.as_ref().is_some_and(|open| (open.0, open.1) == (region, window)) {
            return;
        }
        self.close(rows);
        let known = self.windows.get_mut(&window).and_then(|pending| pending.regions.remove(&region));
        let mut known = known.unwrap_or_default();
        known.expect(rows.deviations.min(self.limits.deviations_per_window_max));
        rows.open = Some((region, window, known));
    }

    fn close(&mut self, rows: &mut Rows<'_>) {
        let Some((region, window, reported)) = rows.open.take() else { return };
        if let Some(pending) = self.windows.get_mut(&window) {
            pending.regions.insert(region, reported);
        }
    }

    fn take_roll_up(&mut self, rows: &mut Rows<'_>, row: &RollUp) {
        let Some(series) = self.series(rows, row.cell, row.metric) else { return };
        let (observed, expected) = (f64::from(row.observed.to_f32()), f64::from(row.expected.to_f32()));
        if !observed.is_finite() || !expected.is_finite() {
            self.counts.add(Reason::BadValue, 1);
            return;
        }
        let Some((.., reported)) = &mut rows.open else { return };
        reported.sums.add(series, Sum { observed, expected, count: row.count });
        self.counts.roll_ups += 1;
    }

    fn take_deviation(&mut self, rows: &mut Rows<'_>, row: &Deviation, summary: &Summary) {
        let Some(series) = self.series(rows, row.cell, row.metric) else { return };
        let tags =
            if row.tags == NO_TAGS { Some("") } else { rows.strings.get(usize::from(row.tags)).copied() };
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
        let Some((.., reported)) = &mut rows.open else { return };
        let lost = reported.keep(deviating, self.limits.deviations_per_window_max);
        self.counts.add(Reason::DeviationsFull, u64::from(lost));
        self.counts.deviations += 1;
    }
}
