//! The lattice region x device x stack: which cells and series exist, and what is remembered of each.
//!
//! It must never decide what a number means. The hard case is names that arrive in any order: places are given in
//! order of arrival, and whoever walks the lattice walks it in order of names, so that arrival never shows.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vedette_common::WallMs;

use crate::correlate::HORIZONS;
use crate::counts::{Counts, Reason};
use crate::settings::Limits;
use crate::window::Sum;

/// Windows of history kept of each series: its shape.
pub(crate) const HISTORY_WINDOWS: usize = 8;

/// Names and their places. Places are stable; the names are never forgotten.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub(crate) struct Names {
    names: Vec<String>,
    places: BTreeMap<String, u16>,
}

impl From<Vec<String>> for Names {
    fn from(names: Vec<String>) -> Self {
        let places = (0..=u16::MAX).zip(&names).map(|(place, name)| (name.clone(), place)).collect();
        Self { names, places }
    }
}

impl From<Names> for Vec<String> {
    fn from(names: Names) -> Self {
        names.names
    }
}

impl Names {
    /// The place of `name`, given now if it is new; none when there are `names_max` already.
    pub(crate) fn intern(&mut self, name: &str, names_max: usize) -> Option<u16> {
        if let Some(place) = self.places.get(name) {
            return Some(*place);
        }
        let place = u16::try_from(self.names.len()).ok()?;
        (self.names.len() < names_max).then_some(())?;
        self.names.push(name.into());
        self.places.insert(name.into(), place);
        Some(place)
    }

    pub(crate) fn get(&self, place: u16) -> &str {
        self.names.get(usize::from(place)).map_or("", String::as_str)
    }

    pub(crate) fn find(&self, name: &str) -> Option<u16> {
        self.places.get(name).copied()
    }

    /// Places in order of their names.
    pub(crate) fn sorted(&self) -> impl Iterator<Item = u16> + '_ {
        self.places.values().copied()
    }

    /// The rank of each place's name among all names.
    pub(crate) fn ranks(&self) -> Vec<u16> {
        let mut ranks = vec![0; self.names.len()];
        (0..).zip(self.sorted()).for_each(|(rank, place): (u16, u16)| ranks[usize::from(place)] = rank);
        ranks
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }
}

/// One region x device x stack. About 64 bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) device: u16,
    pub(crate) stack: u16,
    /// The agent that reported it last: its place among the fleet's reporters.
    pub(crate) reporter: u16,
    /// Start of the latest window that it was reported in.
    pub(crate) seen: WallMs,
    /// Windows that it was reported in, short gaps aside; saturates.
    pub(crate) streak: u16,
    /// Windows in a row that it was reported in, since the latest gap; saturates.
    pub(crate) run: u16,
    /// The longest gap in windows that is usual: one that came after little more than such a gap's length of reports.
    pub(crate) usual_gap: u16,
}

/// One metric of one cell. About 180 bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Series {
    pub(crate) cell: u32,
    pub(crate) metric: u16,
    /// Windows with scored observations; saturates.
    pub(crate) age: u32,
    /// The latest window.
    pub(crate) latest: Sum,
    /// Decayed sums over the latest windows, by horizon after that of the window alone; the expectation moved by the
    /// common mode.
    #[serde(default)]
    pub(crate) longer: [Sum; HORIZONS - 1],
    /// The latest residuals, the newest last.
    pub(crate) history: [f32; HISTORY_WINDOWS],
    /// What was left over in the latest window, and one standard deviation of its noise.
    pub(crate) residual: f64,
    pub(crate) noise: f64,
    /// The highest score among its deviations in the latest window.
    pub(crate) score: f64,
    /// How much more is counted in the mean than was expected; what hardly ever happens is forecast never to.
    #[serde(default)]
    pub(crate) bias: f64,
}

/// What the independent stacks of a region share in one metric.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shared {
    /// The latest common mode.
    pub(crate) value: f64,
    /// The number of independent stacks.
    pub(crate) peers: u16,
    /// The size of the common mode, fading: an event is not over for everybody at once, and forecasts that took some of
    /// it in are off for a while.
    pub(crate) lingering: f64,
    /// How far most stacks have moved, in whatever direction and much further than usual, fading likewise.
    #[serde(default)]
    pub(crate) stirred: f64,
    /// How far most stacks have moved, in whatever direction, in the mean.
    #[serde(default)]
    usual: f64,
    /// The same in the latest windows, the newest last.
    #[serde(default)]
    pub(crate) moved: [f32; HISTORY_WINDOWS],
}

impl Shared {
    /// The time in which what lingers halves.
    const HALF_LIFE_MS: f64 = 1_800_000.0;

    /// How many times as far as usual stacks have to move to be disturbed, and how fast the usual is learned.
    const DISTURBED: f64 = 4.0;
    const USUAL_RATE: f64 = 1.0 / 288.0;

    /// Takes the common mode of the next window, and how far most stacks have moved in it.
    pub(crate) fn follow(&mut self, (value, disturbance): (f64, f64), peers: u16, window_ms: u32) {
        let kept = (-f64::from(window_ms) / Self::HALF_LIFE_MS).exp2();
        let disturbed = if disturbance > Self::DISTURBED * self.usual { disturbance } else { 0.0 };
        self.lingering = value.abs().max(kept * self.lingering);
        self.stirred = value.abs().max(disturbed).max(kept * self.stirred);
        let known =
            if self.usual > 0.0 { disturbance.min(Self::DISTURBED * self.usual) } else { disturbance };
        self.usual += Self::USUAL_RATE * (known - self.usual);
        self.moved.rotate_left(1);
        #[allow(clippy::cast_possible_truncation, reason = "a log ratio within 14 of zero")]
        let latest = disturbance as f32;
        self.moved[HISTORY_WINDOWS - 1] = latest;
        (self.value, self.peers) = (value, peers);
    }
}

/// One region of the lattice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Region {
    pub(crate) name: String,
    pub(crate) window_ms: u32,
    /// Start of the latest window judged.
    pub(crate) judged: Option<WallMs>,
    pub(crate) cells: Vec<Cell>,
    pub(crate) series: Vec<Series>,
    /// What its independent stacks share, by metric.
    pub(crate) common_modes: BTreeMap<u16, Shared>,
    #[serde(skip)]
    cell_places: BTreeMap<(u16, u16), u32>,
    /// The series of each cell, by metric.
    #[serde(skip)]
    series_places: Vec<Vec<(u16, u32)>>,
    /// Cell and metric of each series: looked at for every row, they lie closer together than the series do.
    #[serde(skip)]
    series_keys: Vec<(u32, u16)>,
}

impl Region {
    pub(crate) fn new(name: &str, window_ms: u32) -> Self {
        Self {
            name: name.into(),
            window_ms,
            judged: None,
            cells: Vec::new(),
            series: Vec::new(),
            common_modes: BTreeMap::new(),
            cell_places: BTreeMap::new(),
            series_places: Vec::new(),
            series_keys: Vec::new(),
        }
    }

    /// Builds the look-ups again that are not part of the stored state.
    pub(crate) fn restored(mut self) -> Self {
        self.cell_places = (0..).zip(&self.cells).map(|(place, c)| ((c.device, c.stack), place)).collect();
        self.series_keys = self.series.iter().map(|series| (series.cell, series.metric)).collect();
        self.series_places = vec![Vec::new(); self.cells.len()];
        for (place, series) in (0..).zip(&self.series) {
            if let Some(places) = self.series_places.get_mut(series.cell as usize) {
                places.push((series.metric, place));
                places.sort_unstable();
            }
        }
        self
    }

    /// The place of a cell, made now if it is new. It is looked for at `guess` first, for an agent names its cells in
    /// the same order each time.
    pub(crate) fn cell(
        &mut self,
        guess: u32,
        device: u16,
        stack: u16,
        limits: &Limits,
        counts: &mut Counts,
    ) -> Option<u32> {
        if self.cells.get(guess as usize).is_some_and(|it| (it.device, it.stack) == (device, stack)) {
            return Some(guess);
        }
        if let Some(place) = self.cell_places.get(&(device, stack)) {
            return Some(*place);
        }
        if self.cells.len() >= limits.cells_per_region_max {
            counts.add(Reason::CellsFull, 1);
            return None;
        }
        let place = u32::try_from(self.cells.len()).ok()?;
        let seen = WallMs(i64::MIN);
        self.cells.push(Cell { device, stack, reporter: 0, seen, streak: 0, run: 0, usual_gap: 0 });
        self.series_places.push(Vec::new());
        self.cell_places.insert((device, stack), place);
        Some(place)
    }

    /// The place of a series, made now if it is new; looked for at `guess` first, as a cell is.
    pub(crate) fn series(
        &mut self,
        guess: u32,
        (cell, metric): (u32, u16),
        limits: &Limits,
        counts: &mut Counts,
    ) -> Option<u32> {
        if self.series_keys.get(guess as usize) == Some(&(cell, metric)) {
            return Some(guess);
        }
        let places = self.series_places.get_mut(cell as usize)?;
        let free = match places.binary_search_by_key(&metric, |(known, _)| *known) {
            Ok(found) => return Some(places[found].1),
            Err(free) => free,
        };
        if self.series.len() >= limits.series_per_region_max {
            counts.add(Reason::SeriesFull, 1);
            return None;
        }
        let place = u32::try_from(self.series.len()).ok()?;
        self.series.push(Series::new(cell, metric));
        self.series_keys.push((cell, metric));
        places.insert(free, (metric, place));
        Some(place)
    }

    /// The cell and metric of the series at `place`.
    pub(crate) fn series_key(&self, place: u32) -> Option<(u32, u16)> {
        self.series_keys.get(place as usize).copied()
    }

    pub(crate) fn find_series(&self, cell: u32, metric: u16) -> Option<&Series> {
        let places = self.series_places.get(cell as usize)?;
        let found = places.binary_search_by_key(&metric, |(known, _)| *known).ok()?;
        self.series.get(places[found].1 as usize)
    }
}

impl Series {
    const fn new(cell: u32, metric: u16) -> Self {
        Self {
            cell,
            metric,
            age: 0,
            latest: Sum { observed: 0.0, expected: 0.0, count: 0 },
            longer: [Sum { observed: 0.0, expected: 0.0, count: 0 }; HORIZONS - 1],
            history: [0.0; HISTORY_WINDOWS],
            residual: 0.0,
            noise: 0.0,
            score: 0.0,
            bias: 0.0,
        }
    }
}

/// Windows over which the mean difference from the forecast is taken, and until which it is a plain mean.
const BIAS_WINDOWS: f64 = 400.0;

impl Series {
    /// Takes the sums of the next window; of what `counts`, the expectation is made right in the mean.
    pub(crate) fn take(&mut self, sum: Sum, counts: bool) {
        self.latest = sum;
        self.age = self.age.saturating_add(u32::from(sum.count > 0));
        if !counts || sum.count == 0 {
            return;
        }
        self.latest.expected += self.bias.max(0.0);
        let bound = 3.0 * (sum.expected.max(0.0) + 1.0).sqrt();
        let off = (sum.observed - sum.expected).clamp(-bound, bound);
        let rate = (1.0 / BIAS_WINDOWS).max(1.0 / (f64::from(self.age) + 10.0));
        self.bias += rate * (off - self.bias);
    }
}

/// The names that all regions share, and the regions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fleet {
    pub(crate) names: FleetNames,
    pub(crate) regions: Vec<Region>,
}

/// The names of devices, stacks, metrics, regions and reporting agents, by place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FleetNames {
    pub(crate) devices: Names,
    pub(crate) stacks: Names,
    pub(crate) metrics: Names,
    pub(crate) regions: Names,
    pub(crate) reporters: Names,
}

impl Fleet {
    /// The place of `region`, made now if it is new; none when there is no room.
    pub(crate) fn region(
        &mut self,
        name: &str,
        window_ms: u32,
        limits: &Limits,
        counts: &mut Counts,
    ) -> Option<u16> {
        let Some(place) = self.names.regions.intern(name, limits.regions_max) else {
            counts.add(Reason::RegionsFull, 1);
            return None;
        };
        if usize::from(place) == self.regions.len() {
            self.regions.push(Region::new(name, window_ms));
        }
        Some(place)
    }

    pub(crate) fn get(&self, region: u16) -> Option<&Region> {
        self.regions.get(usize::from(region))
    }

    /// Takes stored regions back, in the order of their names' places; one that was never stored begins anew.
    pub(crate) fn restore(&mut self, stored: Vec<Region>) {
        let mut by_name: BTreeMap<String, Region> = stored.into_iter().map(|r| (r.name.clone(), r)).collect();
        let names: Vec<String> = self.names.regions.clone().into();
        let revive =
            |name: &String| by_name.remove(name).map_or_else(|| Region::new(name, 1), Region::restored);
        self.regions = names.iter().map(revive).collect();
    }
}

impl FleetNames {
    /// The names of a cell: region, device, stack.
    pub(crate) fn of(&self, (region, device, stack): (u16, u16, u16)) -> [String; 3] {
        [self.regions.get(region).into(), self.devices.get(device).into(), self.stacks.get(stack).into()]
    }

    /// How many regions, devices and stacks there are.
    pub(crate) fn sizes(&self) -> [usize; 3] {
        [self.regions.len(), self.devices.len(), self.stacks.len()]
    }
}
