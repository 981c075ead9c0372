//! The grounds of a ruling: the cells that it was taken from, small enough to be stored with each decision.
//!
//! It must never hold more cells than its limit; it says when these are not all. The hard case is a cell that another
//! scope explained first: what that took off is kept, and taken off again.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::correlate::{HORIZONS, Point, log_ratio, take_common_mode};
use crate::evidence::Evidence;
use crate::incident::Source;
use crate::learned::Share;
use crate::scopes;
use crate::settings::{AlarmOn, Judgement, Role};
use crate::verdict::{self, Ruling};

/// Cells kept of one decision at most.
const CELLS_MAX: usize = 256;

/// What a ruling was taken from besides its evidence, as it came out of the lattice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Grounds {
    role: Role,
    pub(crate) alarm_on: AlarmOn,
    /// The numbers as they were ruled on, before anything held the finding back.
    pub(super) evidence: Box<Evidence>,
    /// Whether the metric counts things.
    counts: bool,
    /// The horizon that shows it best.
    horizon: usize,
    /// The names of regions, devices and stacks by their places, which mean something in one decision only.
    names: [BTreeMap<u16, String>; 3],
    /// The cells of the scope and those it was compared with.
    pub(super) cells: Vec<ComparedCell>,
    /// Whether these are all.
    pub(super) complete: bool,
}

/// How a ruling looked at its metric.
pub(crate) struct Look<'a> {
    pub(crate) role: Role,
    pub(crate) alarm_on: AlarmOn,
    pub(crate) counts: bool,
    pub(crate) horizon: usize,
    pub(crate) evidence: &'a Evidence,
}

/// What a ruling made of one cell.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Part {
    /// Whether the scope holds it, and whether it lies in a region that the incident names.
    pub(crate) inside: bool,
    pub(crate) named: bool,
    /// What other scopes had explained of its leftover, in the order in which it was taken off.
    pub(crate) explained: Vec<f64>,
}

/// One cell that took part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "StoredCell", into = "StoredCell")]
pub(super) struct ComparedCell {
    /// Places of region, device, stack and group.
    places: [u16; 4],
    pub(super) part: Part,
    pub(super) observed: f64,
    pub(super) expected: f64,
    /// The leftover and its variance from counting over the latest windows, by horizon after that of the window alone.
    longer: [[f64; 2]; HORIZONS - 1],
    /// The share of what its region shares that it was taken to feel, and how unevenly; its variance from counting.
    share: [f64; 3],
}

/// A cell without the names of its fields, which would be most of what is stored: about 200 bytes of JSON.
type StoredCell = ([u16; 4], [bool; 2], [f64; 2], [[f64; 2]; HORIZONS - 1], [f64; 3], Vec<f64>);

impl From<StoredCell> for ComparedCell {
    fn from((places, [inside, named], sums, longer, share, explained): StoredCell) -> Self {
        let (part, [observed, expected]) = (Part { inside, named, explained }, sums);
        Self { places, part, observed, expected, longer, share }
    }
}

impl From<ComparedCell> for StoredCell {
    fn from(cell: ComparedCell) -> Self {
        let ComparedCell { places, part, observed, expected, longer, share } = cell;
        (places, [part.inside, part.named], [observed, expected], longer, share, part.explained)
    }
}

impl Grounds {
    /// The grounds of a ruling that saw `points`. `part` says what it made of each, `names` gives its names.
    pub(crate) fn new(
        look: &Look<'_>,
        points: &[&Point],
        part: &dyn Fn(&Point) -> Part,
        names: &dyn Fn(&Point) -> [String; 3],
    ) -> Box<Self> {
        let kept = &points[..points.len().min(CELLS_MAX)];
        let cell = |point: &&Point| ComparedCell {
            places: [point.region, point.device, point.stack, point.group],
            part: part(point),
            observed: point.observed,
            expected: point.expected,
            longer: std::array::from_fn(|it| [point.residual[it + 1], point.poisson[it + 1]]),
            share: [point.share.value, point.share.uneven, point.poisson[0]],
        };
        let mut named: [BTreeMap<u16, String>; 3] = Default::default();
        for point in kept {
            let places = [point.region, point.device, point.stack];
            for ((known, place), name) in named.iter_mut().zip(places).zip(names(point)) {
                known.insert(place, name);
            }
        }
        Box::new(Self {
            role: look.role,
            alarm_on: look.alarm_on,
            evidence: Box::new(look.evidence.clone()),
            counts: look.counts,
            horizon: look.horizon,
            names: named,
            cells: kept.iter().map(cell).collect(),
            complete: points.len() <= CELLS_MAX,
        })
    }

    pub(super) fn name(&self, dimension: usize, cell: &ComparedCell) -> &str {
        self.names[dimension].get(&cell.places[dimension]).map_or("", String::as_str)
    }

    pub(super) fn rule(&self, source: Source, evidence: &Evidence, judgement: &Judgement) -> Option<Ruling> {
        match source {
            Source::Common => Some(verdict::rule_common(evidence, self.alarm_on, judgement)),
            _ => verdict::rule_leftover(evidence, self.role, judgement),
        }
    }

    /// The cells as the judgement saw them, those outside the scope moved by `peers_by` as a log ratio.
    pub(super) fn points(&self, peers_by: f64) -> Vec<Point> {
        let point = |(index, cell): (u32, &ComparedCell)| {
            let observed = if cell.part.inside { cell.observed } else { cell.observed * peers_by.exp() };
            let (ratio, _) = log_ratio(observed, cell.expected, self.counts);
            let [value, uneven, now] = cell.share;
            let (mut residual, mut poisson) = ([0.0; HORIZONS], [now; HORIZONS]);
            for (horizon, longer) in (1..).zip(&cell.longer) {
                [residual[horizon], poisson[horizon]] = *longer;
            }
            let [region, device, stack, group] = cell.places;
            Point {
                region,
                device,
                stack,
                group,
                series: index,
                observed,
                expected: cell.expected,
                log_ratio: ratio,
                share: Share { value, uneven },
                mode: 0.0,
                common_mode: 0.0,
                disturbance: 0.0,
                counted: [[observed, cell.expected]; HORIZONS],
                residual,
                poisson,
                explained: 0.0,
            }
        };
        let mut points: Vec<Point> = (0..).zip(&self.cells).map(point).collect();
        // Each region has a common mode of its own.
        points.chunk_by_mut(|a, b| a.region == b.region).for_each(|region| drop(take_common_mode(region)));
        for (point, cell) in points.iter_mut().zip(&self.cells) {
            for shift in &cell.part.explained {
                point.residual.iter_mut().for_each(|residual| *residual -= shift);
            }
        }
        points
    }

    /// The leftover of the scope at the horizon that showed it best, once more from its cells, and what its peers share.
    pub(super) fn leftover(&self, peers_by: f64) -> (f64, f64) {
        let points = self.points(peers_by);
        let members: Vec<usize> = (0..points.len()).filter(|index| self.cells[*index].part.inside).collect();
        let pooled = scopes::pool(&points, &members, self.horizon.min(HORIZONS - 1));
        (pooled.shift, pooled.common_mode)
    }
}
