//! Scopes: what is left over, pooled over the sets that faults come in, and the fewest of them that explain it.
//!
//! It must never report one fault twice. The hard case is nested sets, a cell within a stack within a device everywhere:
//! the set with the best support is taken, its shift is subtracted, and the search goes on with the rest.
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::correlate::{HORIZONS, LONG_KEEP, Point};
use crate::counting::{deviance, together};

/// Stands for every region, device or stack in a [`ScopeKey`].
pub(crate) const ALL: u16 = u16::MAX;
/// Marks the stack of a key as the first of a group that shares a dependency.
pub(crate) const GROUP: u16 = 0x8000;
/// Scopes explained in one window and metric at most.
const SCOPES_MAX: usize = 16;
/// The share of a scope's weight that must deviate like the scope.
const COHERENCE_MIN: f64 = 0.7;
/// Noise of a scope before any was learned, and the least it can come to.
const NOISE_FIRST: f64 = 0.12;
const NOISE_MIN: f64 = 0.02;
/// A window moves the learned noise by at most this many standard deviations.
const NOISE_CLIP: f64 = 3.0;
/// How far a cell may follow peers that move in different directions, as a share of their movement.
const UNEVEN_TORN: f64 = 0.5;
/// A cell may differ by this share from what a broader scope explained.
const UNEVEN_EXPLAINED: f64 = 0.35;

/// A set of cells: a region or all, a device or all, a stack, a group or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct ScopeKey {
    pub(crate) metric: u16,
    pub(crate) region: u16,
    pub(crate) device: u16,
    pub(crate) stack: u16,
}

impl ScopeKey {
    /// Every scope of one metric.
    fn all_of(metric: u16) -> std::ops::RangeInclusive<Self> {
        let bound = |place| Self { metric, region: place, device: place, stack: place };
        bound(0)..=bound(u16::MAX)
    }

    /// The key as one number in the same order.
    fn packed(self) -> u64 {
        let places = [self.metric, self.region, self.device, self.stack];
        places.into_iter().fold(0, |packed, place| packed << 16 | u64::from(place))
    }
}

/// The learned noise of one scope: variance of its pooled leftover beyond counting, by horizon. 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Noise {
    windows: u32,
    variance: [f64; HORIZONS],
}

impl Default for Noise {
    fn default() -> Self {
        Self { windows: 0, variance: [NOISE_FIRST * NOISE_FIRST; HORIZONS] }
    }
}

impl Noise {
    pub(crate) fn variance(&self, horizon: usize) -> f64 {
        self.variance[horizon].max(NOISE_MIN * NOISE_MIN)
    }

    /// Learns from a pooled leftover whose known variance is `known`; outliers move it by a bounded step only.
    pub(crate) fn learn(&mut self, shift: [f64; HORIZONS], known: [f64; HORIZONS], half_life_windows: f64) {
        self.windows = self.windows.saturating_add(1);
        let settled = std::f64::consts::LN_2 / half_life_windows.max(1.0);
        let rate = settled.max(1.0 / (f64::from(self.windows) + 10.0));
        for horizon in 0..HORIZONS {
            let sd2 = known[horizon] + self.variance(horizon);
            let seen = (shift[horizon] * shift[horizon]).min(NOISE_CLIP * NOISE_CLIP * sd2) - known[horizon];
            let next = self.variance[horizon] + rate * (seen - self.variance[horizon]);
            self.variance[horizon] = next.max(NOISE_MIN * NOISE_MIN);
        }
    }
}

/// The learned noise of every scope.
pub(crate) type Noises = BTreeMap<ScopeKey, Noise>;

/// What a scope shows in one window.
#[derive(Clone, Debug)]
pub(crate) struct Pooled {
    pub(crate) key: ScopeKey,
    /// Indices of its points.
    pub(crate) members: Vec<usize>,
    /// The pooled leftover, as a log ratio, of the horizon that shows it best.
    pub(crate) shift: f64,
    /// One standard deviation of it, unevenness included.
    pub(crate) deviation: f64,
    /// `shift` in standard deviations.
    pub(crate) significance: f64,
    /// The mean common mode of its cells.
    pub(crate) common_mode: f64,
    /// How far their peers have moved, in whatever direction.
    pub(crate) disturbance: f64,
    /// How much better the window is explained with it.
    pub(crate) gain: f64,
    /// The regions among its cells that deviate like the whole.
    pub(crate) regions: BTreeSet<u16>,
}

impl Pooled {
    const fn nothing(key: ScopeKey) -> Self {
        Self {
            key,
            members: Vec::new(),
            shift: 0.0,
            deviation: 1.0,
            significance: 0.0,
            common_mode: 0.0,
            disturbance: 0.0,
            gain: 0.0,
            regions: BTreeSet::new(),
        }
    }
}

/// What the search needs to know besides the points.
pub(crate) struct Search<'a> {
    /// What is learned of each scope's noise, in the order of the scopes.
    pub(crate) noise: &'a [Noise],
    /// The least common mode to allow for, by the region's place: larger while an event lingers or is announced.
    pub(crate) allowed: &'a [Option<f64>],
    /// The significance that a scope needs; lower for those of live incidents.
    pub(crate) needed: &'a dyn Fn(ScopeKey) -> f64,
    /// Whether the metric counts things, so that small numbers of them are weighed as such.
    pub(crate) counts: bool,
    /// Whether cells may follow peers that move in different directions.
    pub(crate) torn: bool,
    /// The least leftover that matters.
    pub(crate) residual_min: f64,
    /// Directions that matter: down, up.
    pub(crate) directions: (bool, bool),
}

/// The members of every scope, in order of keys.
pub(crate) type Scopes = Vec<(ScopeKey, Vec<usize>)>;

/// The scopes of a metric, kept from window to window: they change only when other cells take part.
#[derive(Clone, Debug, Default)]
pub(crate) struct Membership {
    cells: Vec<[u16; 4]>,
    scopes: Scopes,
}

impl Membership {
    /// The scopes that `points` make up; with `neighbours`, those across regions too.
    pub(crate) fn of(&mut self, metric: u16, points: &[Point], neighbours: bool) -> &Scopes {
        let cell = |p: &Point| [p.region, p.device, p.stack, p.group];
        if self.cells.len() != points.len()
            || !self.cells.iter().zip(points).all(|(known, p)| *known == cell(p))
        {
            self.cells = points.iter().map(cell).collect();
            self.scopes = members(metric, points);
            if !neighbours {
                self.scopes.retain(|(key, _)| key.region != ALL);
            }
        }
        &self.scopes
    }
}

/// The members of every scope that the points make up.
pub(crate) fn members(metric: u16, points: &[Point]) -> Scopes {
    let several = points.windows(2).any(|pair| pair[0].region != pair[1].region);
    let mut stack_of: BTreeMap<u16, u16> = BTreeMap::new();
    let shared: BTreeSet<u16> = points
        .iter()
        .filter(|p| *stack_of.entry(p.group).or_insert(p.stack) != p.stack)
        .map(|p| p.group)
        .collect();
    let mut pairs: Vec<(u64, u32, ScopeKey)> = Vec::with_capacity(10 * points.len());
    for (index, p) in (0u32..).zip(points) {
        let mut add = |region, device, stack| {
            let key = ScopeKey { metric, region, device, stack };
            pairs.push((key.packed(), index, key));
        };
        for region in [p.region, ALL].into_iter().take(if several { 2 } else { 1 }) {
            add(region, p.device, p.stack);
            add(region, ALL, p.stack);
            add(region, p.device, ALL);
            if shared.contains(&p.group) {
                add(region, ALL, GROUP | p.group);
                add(region, p.device, GROUP | p.group);
            }
        }
    }
    pairs.sort_unstable_by_key(|(packed, index, _)| (*packed, *index));
    let members =
        |run: &[(u64, u32, ScopeKey)]| (run[0].2, run.iter().map(|(_, index, _)| *index as usize).collect());
    pairs.chunk_by(|a, b| a.0 == b.0).map(members).collect()
}

/// What the members of a scope come to at one horizon.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    weights: f64,
    /// Pooled leftover and its variance from counting.
    pub(crate) shift: f64,
    counting: f64,
    pub(crate) common_mode: f64,
    /// How unevenly the members may feel what they share, as a share, and how far their peers have moved.
    uneven: f64,
    disturbance: f64,
    /// Observed and expected, what broader scopes explained taken off.
    counted: [f64; 2],
}

pub(crate) fn pool(points: &[Point], members: &[usize], horizon: usize) -> Sums {
    let mut sums = Sums::default();
    for point in members.iter().map(|index| &points[*index]) {
        let weight = 1.0 / (point.poisson[horizon] + CELL_SPREAD * CELL_SPREAD);
        sums.weights += weight;
        sums.shift += weight * point.residual[horizon];
        sums.counting += weight * weight * point.poisson[horizon];
        sums.common_mode += weight * point.common_mode;
        sums.uneven += weight * point.share.uneven;
        sums.disturbance += weight * point.disturbance;
        let [observed, expected] = point.counted[horizon];
        let explained = if point.explained == 0.0 { 1.0 } else { point.explained.exp() };
        sums.counted[0] += observed;
        sums.counted[1] += expected * explained;
    }
    let total = if sums.weights > 0.0 { sums.weights } else { 1.0 };
    for mean in [&mut sums.shift, &mut sums.common_mode, &mut sums.uneven, &mut sums.disturbance] {
        *mean /= total;
    }
    sums.counting /= total * total;
    sums
}

impl Sums {
    /// The leftover in standard deviations, when all noise but that of counting has the deviation `other`.
    fn significance(&self, horizon: usize, counts: bool, other: f64) -> f64 {
        if !counts {
            return self.shift.abs() / (self.counting + other * other).sqrt();
        }
        let [observed, expected] = self.counted;
        let scale = if horizon == 0 { 1.0 } else { LONG_VARIANCE.sqrt() };
        let counted = deviance(observed, expected) / scale;
        // A few large cells that stay where they were outweigh small ones that did not, or the other way round.
        if counted * self.shift <= 0.0 { 0.0 } else { together(counted.abs(), self.shift.abs() / other) }
    }
}

/// Spread of cells within a scope besides counting, so that a huge cell does not stand for its whole scope.
const CELL_SPREAD: f64 = 0.08;

impl Search<'_> {
    /// What the scope shows, at the horizon that shows it best. Members and regions are filled in once it is chosen.
    fn pool(&self, key: ScopeKey, noise: &Noise, members: &[usize], points: &[Point]) -> Pooled {
        let explained = members.iter().map(|i| points[*i].explained.abs()).fold(0.0, f64::max);
        let allowed = members.iter().filter_map(|i| *self.allowed.get(usize::from(points[*i].region))?);
        let allowed = allowed.sum::<f64>() / members.len().max(1) as f64;
        let mut best = Pooled::nothing(key);
        let mut now = 0.0;
        for horizon in 0..HORIZONS {
            let sums = pool(points, members, horizon);
            if horizon == 0 {
                now = sums.shift;
            }
            let shift = sums.shift;
            // Where peers move in different directions nobody can say how much of it a cell should feel.
            let torn = if self.torn {
                UNEVEN_TORN * (sums.disturbance - sums.common_mode.abs()).max(0.0)
            } else {
                0.0
            };
            let uneven =
                sums.uneven * sums.common_mode.abs().max(allowed) + torn + UNEVEN_EXPLAINED * explained;
            let other = (noise.variance(horizon) + uneven * uneven).sqrt();
            let significance = sums.significance(horizon, self.counts, other);
            // Past windows count only while the present one agrees with them.
            let agrees = now * shift.signum() >= 0.5 * shift.abs();
            if agrees && significance > best.significance {
                let spread = uneven * uneven * sums.weights / (members.len().max(1) as f64);
                let gain = 0.5 * shift * shift * sums.weights / (1.0 + spread);
                let deviation = shift.abs() / significance;
                let (common_mode, disturbance) = (sums.common_mode, sums.disturbance);
                let nothing = Pooled::nothing(key);
                best = Pooled { shift, deviation, significance, common_mode, disturbance, gain, ..nothing };
            }
        }
        best
    }

    fn qualifies(&self, pooled: &Pooled, members: &[usize], points: &[Point]) -> bool {
        let wanted = if pooled.shift < 0.0 { self.directions.0 } else { self.directions.1 };
        wanted
            && pooled.shift.abs() >= self.residual_min
            && pooled.significance >= (self.needed)(pooled.key)
            && is_coherent(pooled.shift, members, points)
    }

    /// The fewest scopes that explain what is left over, the best supported first.
    pub(crate) fn explain(&self, scopes: &Scopes, points: &mut [Point]) -> Vec<Pooled> {
        let pool = |place: usize, points: &[Point]| {
            let (key, members): &(ScopeKey, Vec<usize>) = &scopes[place];
            self.pool(*key, &self.noise[place], members, points)
        };
        let mut shown: Vec<Pooled> = (0..scopes.len()).map(|place| pool(place, points)).collect();
        let mut found: Vec<Pooled> = Vec::new();
        while found.len() < SCOPES_MAX {
            let mut best: Option<usize> = None;
            for (place, pooled) in shown.iter().enumerate() {
                let better = best.is_none_or(|known| pooled.gain > shown[known].gain * (1.0 + 1e-9));
                let is_new = || found.iter().all(|f| f.key != pooled.key);
                if better && is_new() && self.qualifies(pooled, &scopes[place].1, points) {
                    best = Some(place);
                }
            }
            let Some(best) = best.map(|place| self.take(&shown[place], &scopes[place].1, points)) else {
                break;
            };
            // Only scopes that share a cell with it show something else now.
            let mut touched = vec![false; points.len()];
            best.members.iter().for_each(|index| touched[*index] = true);
            for (place, (_, members)) in scopes.iter().enumerate() {
                if members.iter().any(|index| touched[*index]) {
                    shown[place] = pool(place, points);
                }
            }
            found.push(best);
        }
        found
    }

    /// Chooses a scope: what it explains is taken off its cells.
    fn take(&self, pooled: &Pooled, members: &[usize], points: &mut [Point]) -> Pooled {
        let mut best = Pooled { members: members.to_vec(), ..pooled.clone() };
        best.regions = regions_alike(&best, points);
        for index in &best.members {
            let point = &mut points[*index];
            point.residual.iter_mut().for_each(|residual| *residual -= best.shift);
            point.explained += best.shift;
        }
        best
    }
}

/// The regions of the scope whose own pooled leftover is like that of the whole.
fn regions_alike(pooled: &Pooled, points: &[Point]) -> BTreeSet<u16> {
    let regions: BTreeSet<u16> = pooled.members.iter().map(|index| points[*index].region).collect();
    let alike = |region: &u16| {
        let slice: Vec<usize> =
            pooled.members.iter().copied().filter(|i| points[*i].region == *region).collect();
        pool(points, &slice, 0).shift * pooled.shift.signum() >= 0.4 * pooled.shift.abs()
    };
    let kept: BTreeSet<u16> = regions.iter().copied().filter(alike).collect();
    if kept.is_empty() { regions } else { kept }
}

/// Whether most of the scope's weight deviates like the whole.
fn is_coherent(shift: f64, members: &[usize], points: &[Point]) -> bool {
    let (mut alike, mut total) = (0.0, 0.0);
    for point in members.iter().map(|index| &points[*index]) {
        let weight = 1.0 / (point.poisson[0] + CELL_SPREAD * CELL_SPREAD);
        total += weight;
        if point.residual[0] * shift.signum() >= 0.4 * shift.abs() {
            alike += weight;
        }
    }
    alike >= COHERENCE_MIN * total
}

/// Learns the noise of every scope from leftovers that no live incident covers. Call it before explaining.
pub(crate) fn learn(
    noise: &mut Noises,
    scopes: &Scopes,
    points: &[Point],
    half_life_windows: f64,
    rests: &dyn Fn(ScopeKey) -> bool,
) {
    let Some(metric) = scopes.first().map(|(key, _)| key.metric) else { return };
    let mut known_noise = noise.range_mut(ScopeKey::all_of(metric)).peekable();
    let mut new = Vec::new();
    for (key, members) in scopes.iter().filter(|(key, _)| !rests(*key)) {
        let (mut shifts, mut known) = ([0.0; HORIZONS], [0.0; HORIZONS]);
        for horizon in 0..HORIZONS {
            let sums = pool(points, members, horizon);
            let uneven = sums.uneven * sums.common_mode;
            shifts[horizon] = sums.shift;
            known[horizon] = sums.counting + uneven * uneven;
        }
        // Both are in order of their keys, so that one walk finds every scope's noise.
        while known_noise.next_if(|(other, _)| *other < key).is_some() {}
        match known_noise.next_if(|(other, _)| *other == key) {
            Some((_, noise)) => noise.learn(shifts, known, half_life_windows),
            None => {
                let mut noise = Noise::default();
                noise.learn(shifts, known, half_life_windows);
                new.push((*key, noise));
            }
        }
    }
    noise.extend(new);
}

/// What is learned of the noise of each of `scopes`, in their order.
pub(crate) fn noises(noise: &Noises, scopes: &Scopes) -> Vec<Noise> {
    let Some(metric) = scopes.first().map(|(key, _)| key.metric) else { return Vec::new() };
    let mut known = noise.range(ScopeKey::all_of(metric)).peekable();
    let mut of = |key: &ScopeKey| {
        while known.next_if(|(other, _)| *other < key).is_some() {}
        known.next_if(|(other, _)| *other == key).map(|(_, noise)| *noise).unwrap_or_default()
    };
    scopes.iter().map(|(key, _)| of(key)).collect()
}

/// Variance from counting of decayed sums, as a share of that of a single window with the same expectation.
pub(crate) const LONG_VARIANCE: f64 = 1.0 / (1.0 + LONG_KEEP);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::correlate::take_common_mode;
    use crate::learned::Share;

    fn lattice(ratio: impl Fn(u16, u16, u16) -> f64) -> Vec<Point> {
        let mut all = Vec::new();
        for region in 0..3 {
            let mut points = Vec::new();
            for (device, stack) in (0..4).flat_map(|device| (0..4).map(move |stack| (device, stack))) {
                points.push(Point {
                    region,
                    device,
                    stack,
                    group: stack,
                    series: 0,
                    observed: 0.0,
                    expected: 1000.0,
                    log_ratio: ratio(region, device, stack),
                    share: Share { value: 1.0, uneven: 0.3 },
                    mode: 0.0,
                    common_mode: 0.0,
                    disturbance: 0.0,
                    counted: [[1000.0; 2]; HORIZONS],
                    residual: [0.0; HORIZONS],
                    poisson: [0.001; HORIZONS],
                    explained: 0.0,
                });
            }
            take_common_mode(&mut points);
            for p in &mut points {
                let observed = 1000.0 * p.log_ratio.exp();
                p.counted = [[observed, 1000.0 * p.common_mode.exp()]; HORIZONS];
                p.residual[1] = p.residual[0];
            }
            all.extend(points);
        }
        all
    }

    fn explain(mut points: Vec<Point>) -> Vec<(u16, u16, u16)> {
        let mut noise = BTreeMap::new();
        let quiet = lattice(|_, _, _| 0.0);
        for _ in 0..500 {
            learn(&mut noise, &members(0, &quiet), &quiet, 288.0, &|_| false);
        }
        let scopes = members(0, &points);
        let search = Search {
            noise: &noises(&noise, &scopes),
            allowed: &[],
            needed: &|_| 4.5,
            counts: true,
            torn: true,
            residual_min: 0.2,
            directions: (true, false),
        };
        let found = search.explain(&scopes, &mut points);
        found.iter().map(|f| (f.key.region, f.key.device, f.key.stack)).collect()
    }

    #[test]
    fn each_fault_is_explained_by_its_own_scope() {
        assert_eq!(explain(lattice(|_, _, _| 0.0)), []);
        assert_eq!(explain(lattice(|r, _, s| if (r, s) == (1, 2) { -0.7 } else { 0.0 })), [(1, ALL, 2)]);
        assert_eq!(explain(lattice(|_, d, _| if d == 3 { -0.7 } else { 0.0 })), [(ALL, 3, ALL)]);
        assert_eq!(explain(lattice(|r, d, s| if (r, d, s) == (0, 1, 2) { -0.7 } else { 0.0 })), [(0, 1, 2)]);
    }

    #[test]
    fn a_fault_during_an_event_is_found_and_the_event_is_not() {
        let event = |_: u16, d: u16, s: u16| 0.6 + 0.05 * f64::from(d) - 0.04 * f64::from(s);
        assert_eq!(explain(lattice(event)), []);
        let both = |r: u16, d: u16, s: u16| event(r, d, s) - if (r, s) == (1, 2) { 1.5 } else { 0.0 };
        assert_eq!(explain(lattice(both)), [(1, ALL, 2)]);
    }

    #[test]
    fn noise_is_learned_and_outliers_move_it_little() {
        let mut noise = Noise::default();
        for step in 0..2000 {
            let shift = if step % 2 == 0 { 0.05 } else { -0.05 };
            noise.learn([shift; 2], [0.0; 2], 288.0);
        }
        assert!((noise.variance(0).sqrt() - 0.05).abs() < 0.005, "{}", noise.variance(0).sqrt());
        noise.learn([-5.0; 2], [0.0; 2], 288.0);
        assert!(noise.variance(0).sqrt() < 0.052);
    }
}
