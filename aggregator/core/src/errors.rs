//! Errors as counter-evidence: errors per unit of traffic inside a scope, against those outside it.
//!
//! It must never read more traffic as more errors. The hard case is traffic that fell: the errors expected of what is
//! left fall with it, so that a service that fails for those who still come is seen.
use std::collections::{BTreeMap, BTreeSet};

use crate::correlate::{HORIZONS, KEEP, decayed_variance, log_ratio, shared};
use crate::counting::{deviance, together};
use crate::evidence::ErrorEvidence;
use crate::region::{Fleet, Region, Series};
use crate::scopes::{Noises, ScopeKey};

/// Least spread of error ratios between healthy parts of a region, besides counting; more where more was learned.
const SPREAD: f64 = 0.15;
/// Cells are not independent of each other: this part of their learned spread is left in their mean.
const SPREAD_SHARED: f64 = 0.5;
/// Standard deviations from which errors inside lie above those outside for sure.
const SIGNIFICANCE_MIN: f64 = 2.5;
/// Fewer expected and observed errors than this together say nothing.
const ERRORS_MIN: f64 = 2.0;
/// Latency is raised from this log ratio on.
const LATENCY_RAISED: f64 = 0.2;
/// How many standard deviations of counting a window may lie off in sums that keep more than this of the windows before.
const SPIKE: f64 = 3.0;
const SPIKES_KEPT_MAX: f64 = 0.8;
/// A cell's traffic moves the errors expected of it by at most this log ratio.
const TRAFFIC_MAX: f64 = 3.0;

/// Which metrics are errors and which are traffic, by place, in order of their names.
pub(crate) struct Roles {
    pub(crate) errors: Vec<u16>,
    pub(crate) traffic: Vec<u16>,
    pub(crate) latency: Vec<u16>,
}

impl Roles {
    /// How much traffic `cell` had in the window; none when it is not known.
    pub(crate) fn traffic(&self, region: &Region, cell: u32) -> Option<f64> {
        let known = self.traffic.iter().filter_map(|metric| region.find_series(cell, *metric));
        known.map(|series| series.latest.observed.max(0.0)).reduce(f64::max)
    }

    /// What the traffic of `cell` was in the window, as a factor of its expectation; 1 when it is not known.
    pub(crate) fn traffic_factor(&self, region: &Region, cell: u32) -> f64 {
        let known = self.traffic.iter().filter_map(|metric| region.find_series(cell, *metric));
        let Some(traffic) = known.into_iter().find(|s| s.latest.count > 0 && s.latest.expected > 0.0) else {
            return 1.0;
        };
        let (ratio, _) = log_ratio(traffic.latest.observed, traffic.latest.expected, true);
        ratio.clamp(-TRAFFIC_MAX, TRAFFIC_MAX).exp()
    }
}

/// What is asked of errors to count as raised.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    /// How far they lie above those outside, as a log ratio, and above their expectation where there is no outside.
    pub(crate) raised: f64,
    pub(crate) strongly: f64,
    /// The horizons that are looked at, the shortest first. Amid an event the long ones mix what was before with it.
    pub(crate) horizons: usize,
}

#[derive(Clone, Copy, Default)]
struct Tally {
    observed: f64,
    expected: f64,
    /// Learned deviations of the cells, by their expectation.
    spread: f64,
}

impl Tally {
    fn add(&mut self, observed: f64, expected: f64, spread: f64) {
        self.observed += observed;
        self.expected += expected;
        self.spread += expected * spread;
    }

    /// Spread of the whole, from that of its cells.
    fn spread(self) -> f64 {
        SPREAD.max(SPREAD_SHARED * self.spread / self.expected.max(1e-9))
    }

    fn log_ratio(self) -> f64 {
        log_ratio(self.observed, self.expected, true).0
    }
}

/// Compares the errors of the cells that `inside` picks (by device and stack) with the others of `regions`.
/// Without an outside, the inside is compared with its expectation and has to be raised strongly.
/// None when nothing of these regions is measured in the role of errors; too few errors to say anything are not raised.
pub(crate) fn weigh(
    fleet: &Fleet,
    noises: &Noises,
    roles: &Roles,
    regions: &[u16],
    inside: &dyn Fn(u16, u16, u16) -> bool,
    asked: Asked,
) -> Option<ErrorEvidence> {
    let weighed = roles
        .errors
        .iter()
        .filter_map(|metric| weigh_metric(fleet, noises, roles, *metric, regions, inside, asked));
    weighed.reduce(|best, next| if next.significance > best.significance { next } else { best })
}

fn weigh_metric(
    fleet: &Fleet,
    noises: &Noises,
    roles: &Roles,
    metric: u16,
    regions: &[u16],
    inside: &dyn Fn(u16, u16, u16) -> bool,
    asked: Asked,
) -> Option<ErrorEvidence> {
    // The window alone, and the decayed sums, whose expectation has the common mode of the errors in it.
    let mut tallies = [[Tally::default(); 2]; HORIZONS];
    for place in regions {
        let Some(region) = fleet.get(*place) else { continue };
        let of_metric = region.series.iter().filter(|s| s.metric == metric && s.latest.count > 0);
        for series in of_metric {
            let Some(cell) = region.cells.get(series.cell as usize) else { continue };
            let side = usize::from(!inside(*place, cell.device, cell.stack));
            let factor = roles.traffic_factor(region, series.cell);
            let key = ScopeKey { metric, region: *place, device: cell.device, stack: cell.stack };
            let noise = noises.get(&key).copied().unwrap_or_default();
            let now = [series.latest.observed, series.latest.expected * factor];
            let longer = series.longer.iter().map(|sum| [sum.observed, sum.expected]);
            for (horizon, [observed, expected]) in std::iter::once(now).chain(longer).enumerate() {
                tallies[horizon][side].add(observed, expected, noise.variance(horizon).sqrt());
            }
        }
    }
    let alone = tallies[0][1].expected <= 0.0;
    let horizons = if alone { &tallies[..1] } else { &tallies[..asked.horizons] };
    let threshold = if alone { asked.strongly } else { asked.raised };
    let name = fleet.names.metrics.get(metric);
    let compared = horizons.iter().enumerate().map(|(horizon, [inner, outer])| {
        compare(name, *inner, *outer, alone, (threshold, decayed_variance(horizon).sqrt()))
    });
    let best = compared.reduce(|best, next| if next.significance > best.significance { next } else { best });
    best.filter(|_| tallies[0][0].expected > 0.0)
}

/// Whether the independent stacks of a whole region share raised errors: a stack or device that fails by itself does not
/// make it everybody's failure. None when errors are not measured there.
pub(crate) fn weigh_common(
    fleet: &Fleet,
    noises: &Noises,
    roles: &Roles,
    region: u16,
    groups: &BTreeMap<u16, u16>,
    asked: Asked,
) -> Option<ErrorEvidence> {
    let weighed = weigh(fleet, noises, roles, &[region], &|_, _, _| true, asked)?;
    let metric = fleet.names.metrics.find(&weighed.metric)?;
    let inside = errors_of_all(fleet.get(region)?, roles, metric, groups);
    Some(ErrorEvidence { inside, raised: weighed.raised && inside >= asked.strongly, ..weighed })
}

/// What independent stacks share in their errors: of each as its errors are counted over all devices, so that few still
/// tell, and with that device left out which tells most.
fn errors_of_all(region: &Region, roles: &Roles, metric: u16, groups: &BTreeMap<u16, u16>) -> f64 {
    let mut sums: BTreeMap<(u16, u16), [f64; 2]> = BTreeMap::new();
    for series in region.series.iter().filter(|s| s.metric == metric && s.latest.count > 0) {
        let Some(cell) = region.cells.get(series.cell as usize) else { continue };
        let group = groups.get(&cell.stack).copied().unwrap_or(cell.stack);
        let sum = sums.entry((group, cell.device)).or_default();
        sum[0] += series.latest.observed;
        sum[1] += series.latest.expected * roles.traffic_factor(region, series.cell);
    }
    let devices: BTreeSet<u16> = sums.keys().map(|(_, device)| *device).collect();
    let independent: BTreeSet<u16> = sums.keys().map(|(group, _)| *group).collect();
    let without = |left_out: Option<u16>| {
        let told = |group: &u16| {
            let of_group = sums.range((*group, 0)..=(*group, u16::MAX));
            let kept = of_group.filter(|((_, device), _)| Some(*device) != left_out);
            let [observed, expected] =
                kept.fold([0.0, 0.0], |sum, (_, one)| [sum[0] + one[0], sum[1] + one[1]]);
            log_ratio(observed, expected, true).0
        };
        shared(&mut independent.iter().map(told).collect::<Vec<f64>>())
    };
    let left_out = devices.iter().filter(|_| devices.len() > 1).map(|device| without(Some(*device)));
    left_out.fold(without(None), f64::min)
}

/// Latency of the cells that `inside` picks, beyond what their peers share; none when it is not measured there.
pub(crate) fn weigh_latency(
    fleet: &Fleet,
    noises: &Noises,
    roles: &Roles,
    regions: &[u16],
    inside: &dyn Fn(u16, u16, u16) -> bool,
) -> Option<ErrorEvidence> {
    let (mut weights, mut sum, mut name) = (0.0, 0.0, None);
    for (metric, place) in roles.latency.iter().flat_map(|m| regions.iter().map(move |r| (*m, *r))) {
        let Some(region) = fleet.get(place) else { continue };
        for series in region.series.iter().filter(|s| s.metric == metric && s.latest.count > 0) {
            let Some(cell) = region.cells.get(series.cell as usize) else { continue };
            if !inside(place, cell.device, cell.stack) {
                continue;
            }
            let key = ScopeKey { metric, region: place, device: cell.device, stack: cell.stack };
            let noise = noises.get(&key).copied().unwrap_or_default();
            let weight = 1.0 / (series.noise * series.noise + noise.variance(0));
            (weights, sum, name) = (weights + weight, sum + weight * series.residual, Some(metric));
        }
    }
    let metric = fleet.names.metrics.get(name?).to_owned();
    let (inside, significance) = (sum / weights, sum / weights.sqrt());
    let raised = inside >= LATENCY_RAISED && significance >= SIGNIFICANCE_MIN;
    Some(ErrorEvidence { metric, inside, outside: 0.0, significance, threshold: LATENCY_RAISED, raised })
}

fn compare(
    metric: &str,
    inner: Tally,
    outer: Tally,
    alone: bool,
    (threshold, scale): (f64, f64),
) -> ErrorEvidence {
    let (inside, outside) = (inner.log_ratio(), if alone { 0.0 } else { outer.log_ratio() });
    let counted = deviance(inner.observed, inner.expected * outside.exp()) / scale;
    let others = if alone { 0.0 } else { 1.0 / (outer.expected.max(outer.observed) + 0.5) };
    let spread = (inner.spread().powi(2) + others).sqrt();
    let significance =
        together(counted.abs(), (inside - outside).abs() / spread) * (inside - outside).signum();
    let enough = inner.observed + inner.expected >= ERRORS_MIN;
    // Fewer errors outside do not make more inside.
    let raised = enough && inside - outside.max(0.0) >= threshold && significance >= SIGNIFICANCE_MIN;
    ErrorEvidence { metric: metric.into(), inside, outside, significance, threshold, raised }
}

impl Series {
    /// Moves the decayed sums on by the latest window, whose expectation is multiplied by `factor`. Where a window is a
    /// small part, it can lie only so far off: one spike is no state that lasts.
    pub(crate) fn decay(&mut self, factor: f64) {
        let expected = self.latest.expected * factor;
        let reach = SPIKE * expected.max(0.0).sqrt();
        let bounds = ((expected - reach.max(0.7 * expected)).max(0.0), expected + reach.max(expected) + 1.0);
        for (sum, keep) in self.longer.iter_mut().zip(&KEEP[1..]) {
            let far = *keep > SPIKES_KEPT_MAX;
            let observed =
                if far { self.latest.observed.clamp(bounds.0, bounds.1) } else { self.latest.observed };
            sum.observed = keep * sum.observed + observed;
            sum.expected = keep * sum.expected + expected;
        }
    }
}
