//! Scopes: what is left over, pooled over the sets that faults come in, and the fewest of them that explain it.
//!
//! It must never report one fault twice. The hard case is nested sets, a cell within a stack within a device everywhere:
//! the set with the best support is taken, its shift is subtracted, and the search goes on with the rest.
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::correlate::{HORIZONS, Point, decayed_variance};
use crate::counting::{deviance, together};

/// Stands for every region, device or stack in a [`ScopeKey`].
pub(crate) const ALL: u16 = u16::MAX;
/// Marks the stack of a key as the first of a group that shares a dependency.
pub(crate) const GROUP: u16 = 0x8000;
/// Stacks that have a place: the places above mark groups.
pub(crate) const STACKS_MAX: usize = GROUP as usize;
/// Scopes explained in one window and metric at most.
const SCOPES_MAX: usize = 16;
/// The share of a scope's weight that must deviate like the scope.
const COHERENCE_MIN: f64 = 0.7;
/// Noise of a scope before any was learned, and the least it can come to.
const NOISE_FIRST: f64 = 0.12;
const NOISE_MIN: f64 = 0.02;
/// What a scope strays by is learned: as standard deviations that are usual, the share of windows that may pass, the
/// logarithm that one of them moves the bar by and the largest that it comes to, and the windows before it is begun.
const TAIL_USUAL: f64 = 4.5;
const TAIL_RARE: f64 = 1e-4;
const TAIL_STEP: f64 = 0.06;
const TAIL_MAX: f64 = 1.2;
const TAIL_WINDOWS_MIN: u32 = 2_000;
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

/// The learned noise of one scope: variance of its pooled leftover beyond counting, by horizon. 48 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Noise {
    windows: u32,
    #[serde(with = "by_horizon")]
    variance: [f64; HORIZONS],
    /// Logarithm of how much further than usual noise its leftover strays now and then.
    #[serde(default)]
    tail: f64,
    /// Whether it strays at the moment.
    #[serde(default)]
    strays: bool,
}

impl Default for Noise {
    fn default() -> Self {
        Self { windows: 0, variance: [NOISE_FIRST * NOISE_FIRST; HORIZONS], tail: 0.0, strays: false }
    }
}

impl Noise {
    pub(crate) fn variance(&self, horizon: usize) -> f64 {
        self.variance[horizon].max(NOISE_MIN * NOISE_MIN)
    }

    /// How many times as many standard deviations as usual this scope has to show: more than one where it keeps straying
    /// far from its peers by itself.
    pub(crate) fn bar(&self) -> f64 {
        self.tail.exp()
    }

    /// Follows the deviation that one window in ten thousand passes (Robbins and Monro, 1951): each that passes the bar
    /// raises it, each that does not lowers it a little. Call it for windows in which no event is on.
    fn learn_tail(&mut self, significance: f64) {
        if self.windows < TAIL_WINDOWS_MIN {
            return;
        }
        let bar = TAIL_USUAL * self.bar();
        // However long it strays, it strays once.
        let passes = significance > bar && !self.strays;
        self.strays = significance > if self.strays { 0.5 * bar } else { bar };
        let step = if passes { TAIL_STEP * (1.0 - TAIL_RARE) } else { -TAIL_STEP * TAIL_RARE };
        self.tail = (self.tail + step).clamp(0.0, TAIL_MAX);
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

/// The part of a shift over many windows that the latest ones must show too.
const AGREES_MIN: f64 = 0.5;

/// Variances as a list that may be shorter than there are horizons: it was stored when there were fewer.
mod by_horizon {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{HORIZONS, NOISE_FIRST};

    pub(super) fn serialize<S: Serializer>(
        variance: &[f64; HORIZONS],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        variance.as_slice().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[f64; HORIZONS], D::Error> {
        let stored = Vec::<f64>::deserialize(deserializer)?;
        let last = stored.last().copied().unwrap_or(NOISE_FIRST * NOISE_FIRST);
        Ok(std::array::from_fn(|horizon| stored.get(horizon).copied().unwrap_or(last)))
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
    /// That horizon.
    pub(crate) horizon: usize,
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
            horizon: 0,
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

/// What the members of a scope come to at one horizon.
pub(crate) fn pool(points: &[Point], members: &[usize], horizon: usize) -> Sums {
    pool_all(points, members)[horizon]
}

/// What the members of a scope come to at every horizon. A point is several cache lines, so each is looked at once for all of them.
pub(crate) fn pool_all(points: &[Point], members: &[usize]) -> [Sums; HORIZONS] {
    let parts: Vec<[Sums; HORIZONS]> = members.iter().map(|index| parts(&points[*index])).collect();
    total(parts.iter())
}

/// Room for what is worked out of each point and scope, kept from window to window: asked for anew each time, it would come
/// from the system and go back to it page by page. About 600 bytes for each cell of the largest metric.
#[derive(Clone, Debug, Default)]
pub(crate) struct Room {
    parts: Vec<[Sums; HORIZONS]>,
    /// What the members of each scope come to.
    pub(crate) sums: Vec<[Sums; HORIZONS]>,
    /// What is learned of each scope's noise.
    pub(crate) noise: Vec<Noise>,
    /// What each scope shows by itself.
    pub(crate) shown: Vec<Pooled>,
}

impl Room {
    /// Works out what the members of each scope come to. A point is in half a dozen scopes: what it adds to each is worked
    /// out once.
    pub(crate) fn sum(&mut self, scopes: &Scopes, points: &[Point]) {
        self.parts.clear();
        self.parts.extend(points.iter().map(parts));
        let parts = &self.parts;
        self.sums.clear();
        self.sums.extend(scopes.iter().map(|(_, members)| total(members.iter().map(|index| &parts[*index]))));
    }

    /// Looks up what is learned of the noise of each of `scopes`.
    pub(crate) fn look_up(&mut self, noise: &Noises, scopes: &Scopes) {
        self.noise.clear();
        let Some(metric) = scopes.first().map(|(key, _)| key.metric) else { return };
        let mut known = noise.range(ScopeKey::all_of(metric)).peekable();
        let mut of = |key: &ScopeKey| {
            while known.next_if(|(other, _)| *other < key).is_some() {}
            known.next_if(|(other, _)| *other == key).map(|(_, noise)| *noise).unwrap_or_default()
        };
        self.noise.extend(scopes.iter().map(|(key, _)| of(key)));
    }
}

/// What a point adds to the sums of a scope, by horizon.
fn parts(point: &Point) -> [Sums; HORIZONS] {
    let explained = if point.explained == 0.0 { 1.0 } else { point.explained.exp() };
    std::array::from_fn(|horizon| Sums::part(point, horizon, explained))
}

/// The sums of `parts` in their order, as means.
fn total<'a>(parts: impl Iterator<Item = &'a [Sums; HORIZONS]>) -> [Sums; HORIZONS] {
    let mut pooled = [Sums::default(); HORIZONS];
    for part in parts {
        pooled.iter_mut().zip(part).for_each(|(sums, part)| sums.add(part));
    }
    pooled.map(Sums::settled)
}

impl Sums {
    fn part(point: &Point, horizon: usize, explained: f64) -> Self {
        let weight = 1.0 / (point.poisson[horizon] + CELL_SPREAD * CELL_SPREAD);
        let [observed, expected] = point.counted[horizon];
        Self {
            weights: weight,
            shift: weight * point.residual[horizon],
            counting: weight * weight * point.poisson[horizon],
            common_mode: weight * point.common_mode,
            uneven: weight * point.share.uneven,
            disturbance: weight * point.disturbance,
            counted: [observed, expected * explained],
        }
    }

    fn add(&mut self, part: &Self) {
        self.weights += part.weights;
        self.shift += part.shift;
        self.counting += part.counting;
        self.common_mode += part.common_mode;
        self.uneven += part.uneven;
        self.disturbance += part.disturbance;
        self.counted[0] += part.counted[0];
        self.counted[1] += part.counted[1];
    }

    /// Means in place of weighted sums.
    fn settled(mut self) -> Self {
        let total = if self.weights > 0.0 { self.weights } else { 1.0 };
        for mean in [&mut self.shift, &mut self.common_mode, &mut self.uneven, &mut self.disturbance] {
            *mean /= total;
        }
        self.counting /= total * total;
        self
    }

    /// The leftover in standard deviations, when all noise but that of counting has the deviation `other`.
    fn significance(&self, horizon: usize, counts: bool, other: f64) -> f64 {
        if !counts {
            return self.shift.abs() / (self.counting + other * other).sqrt();
        }
        let [observed, expected] = self.counted;
        let counted = deviance(observed, expected) / decayed_variance(horizon).sqrt();
        // A few large cells that stay where they were outweigh small ones that did not, or the other way round.
        if counted * self.shift <= 0.0 { 0.0 } else { together(counted.abs(), self.shift.abs() / other) }
    }
}

/// Spread of cells within a scope besides counting, so that a huge cell does not stand for its whole scope.
const CELL_SPREAD: f64 = 0.08;

impl Search<'_> {
    /// What the scope shows, at the horizon that shows it best. Members and regions are filled in once it is chosen.
    fn pool(
        &self,
        key: ScopeKey,
        noise: &Noise,
        (members, explained): (usize, f64),
        allowed: f64,
        by_horizon: &[Sums; HORIZONS],
    ) -> Pooled {
        let mut best = Pooled::nothing(key);
        let mut later = [0.0; HORIZONS];
        for (horizon, sums) in by_horizon.iter().enumerate() {
            let shift = sums.shift;
            // Past windows count only while all those after them agree: what is over fades from sight at once.
            if later.iter().take(horizon).any(|it| it * shift.signum() < AGREES_MIN * shift.abs()) {
                break;
            }
            later[horizon] = shift;
            if !self.matters(shift) {
                continue;
            }
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
            if significance > best.significance {
                let spread = uneven * uneven * sums.weights / (members.max(1) as f64);
                let gain = 0.5 * shift * shift * sums.weights / (1.0 + spread);
                let deviation = shift.abs() / significance;
                let (common_mode, disturbance) = (sums.common_mode, sums.disturbance);
                let nothing = Pooled::nothing(key);
                best = Pooled {
                    shift,
                    horizon,
                    deviation,
                    significance,
                    common_mode,
                    disturbance,
                    gain,
                    ..nothing
                };
            }
        }
        best
    }

    /// The least common mode to allow for in a scope: that of its region, the mean over its cells where it has several.
    fn allowed(&self, key: ScopeKey, members: &[usize], points: &[Point]) -> f64 {
        let of = |region: u16| self.allowed.get(usize::from(region)).copied().flatten().unwrap_or(0.0);
        if key.region != ALL {
            return of(key.region);
        }
        members.iter().map(|index| of(points[*index].region)).sum::<f64>() / members.len().max(1) as f64
    }

    fn matters(&self, shift: f64) -> bool {
        let wanted = if shift < 0.0 { self.directions.0 } else { self.directions.1 };
        wanted && shift.abs() >= self.residual_min
    }

    fn qualifies(&self, pooled: &Pooled, members: &[usize], points: &[Point]) -> bool {
        self.matters(pooled.shift)
            && pooled.significance >= (self.needed)(pooled.key)
            && is_coherent(pooled, members, points)
    }

    /// Works out what each scope shows by itself, into `shown`; `sums` is what its members come to.
    pub(crate) fn show(
        &self,
        scopes: &Scopes,
        sums: &[[Sums; HORIZONS]],
        points: &[Point],
        shown: &mut Vec<Pooled>,
    ) {
        let all = scopes.iter().zip(sums).zip(self.noise);
        // Nothing is explained yet.
        let show = |(((key, members), sums), noise): ((&(ScopeKey, Vec<usize>), _), _)| {
            self.pool(*key, noise, (members.len(), 0.0), self.allowed(*key, members, points), sums)
        };
        shown.clear();
        shown.extend(all.map(show));
    }

    /// The fewest scopes that explain what is left over, the best supported first, from what each shows by itself.
    pub(crate) fn explain(&self, scopes: &Scopes, shown: &mut [Pooled], points: &[Point]) -> Vec<Pooled> {
        // Copied only where something is found.
        let mut points = Cow::Borrowed(points);
        let pool = |place: usize, points: &[Point], sums: &[Sums; HORIZONS]| {
            let (key, members): &(ScopeKey, Vec<usize>) = &scopes[place];
            let explained = members.iter().map(|i| points[*i].explained.abs()).fold(0.0, f64::max);
            let allowed = self.allowed(*key, members, points);
            self.pool(*key, &self.noise[place], (members.len(), explained), allowed, sums)
        };
        let mut found: Vec<Pooled> = Vec::new();
        while found.len() < SCOPES_MAX {
            let mut best: Option<usize> = None;
            for (place, pooled) in shown.iter().enumerate() {
                let better = best.is_none_or(|known| pooled.gain > shown[known].gain * (1.0 + 1e-9));
                let is_new = || found.iter().all(|f| f.key != pooled.key);
                if better && is_new() && self.qualifies(pooled, &scopes[place].1, &points) {
                    best = Some(place);
                }
            }
            let Some(best) = best.map(|place| self.take(&shown[place], &scopes[place].1, points.to_mut()))
            else {
                break;
            };
            // Only scopes that share a cell with it show something else now.
            let mut touched = vec![false; points.len()];
            best.members.iter().for_each(|index| touched[*index] = true);
            for (place, (_, members)) in scopes.iter().enumerate() {
                if members.iter().any(|index| touched[*index]) {
                    shown[place] = pool(place, &points, &pool_all(&points, members));
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
        pool(points, &slice, pooled.horizon).shift * pooled.shift.signum() >= 0.4 * pooled.shift.abs()
    };
    let kept: BTreeSet<u16> = regions.iter().copied().filter(alike).collect();
    if kept.is_empty() { regions } else { kept }
}

/// Whether most of the scope's weight deviates like the whole.
fn is_coherent(pooled: &Pooled, members: &[usize], points: &[Point]) -> bool {
    let (shift, horizon) = (pooled.shift, pooled.horizon);
    let (mut alike, mut total) = (0.0, 0.0);
    for point in members.iter().map(|index| &points[*index]) {
        let weight = 1.0 / (point.poisson[horizon] + CELL_SPREAD * CELL_SPREAD);
        total += weight;
        if point.residual[horizon] * shift.signum() >= 0.4 * shift.abs() {
            alike += weight;
        }
    }
    alike >= COHERENCE_MIN * total
}

/// Learns the noise of every scope from leftovers that no live incident covers. Call it before explaining.
pub(crate) fn learn(
    noise: &mut Noises,
    scopes: &Scopes,
    sums: &[[Sums; HORIZONS]],
    half_life_windows: f64,
    rests: &dyn Fn(usize, ScopeKey) -> bool,
) {
    let Some(metric) = scopes.first().map(|(key, _)| key.metric) else { return };
    let mut known_noise = noise.range_mut(ScopeKey::all_of(metric)).peekable();
    let mut new = Vec::new();
    let all = scopes.iter().zip(sums).enumerate();
    for (_, ((key, _), sums)) in all.filter(|(place, ((key, _), _))| !rests(*place, *key)) {
        let shifts = sums.map(|sums| sums.shift);
        let known = sums.map(|sums| sums.counting + (sums.uneven * sums.common_mode).powi(2));
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

/// Learns how far scopes stray by themselves, from what each of them shows.
pub(crate) fn learn_tails(
    noise: &mut Noises,
    shown: &[Pooled],
    sums: &[[Sums; HORIZONS]],
    rests: &dyn Fn(usize, ScopeKey) -> bool,
) {
    let Some(metric) = shown.first().map(|pooled| pooled.key.metric) else { return };
    let mut known = noise.range_mut(ScopeKey::all_of(metric)).peekable();
    let all = shown.iter().zip(sums).enumerate();
    for (_, (pooled, sums)) in all.filter(|(place, (pooled, _))| !rests(*place, pooled.key)) {
        while known.next_if(|(other, _)| **other < pooled.key).is_some() {}
        // How far counts stray is known; it is learned of what strays for other reasons.
        let own = known.next_if(|(other, _)| **other == pooled.key);
        if let Some((_, noise)) = own.filter(|(_, noise)| sums[0].counting < noise.variance(0)) {
            noise.learn_tail(pooled.significance);
        }
    }
}

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
                p.residual = [p.residual[0]; HORIZONS];
            }
            all.extend(points);
        }
        all
    }

    fn explain(points: &[Point]) -> Vec<(u16, u16, u16)> {
        let (mut noise, mut room) = (BTreeMap::new(), Room::default());
        let quiet = lattice(|_, _, _| 0.0);
        for _ in 0..500 {
            let scopes = members(0, &quiet);
            room.sum(&scopes, &quiet);
            learn(&mut noise, &scopes, &room.sums, 288.0, &|_, _| false);
        }
        let scopes = members(0, points);
        room.look_up(&noise, &scopes);
        room.sum(&scopes, points);
        let search = Search {
            noise: &room.noise,
            allowed: &[],
            needed: &|_| 4.5,
            counts: true,
            torn: true,
            residual_min: 0.2,
            directions: (true, false),
        };
        search.show(&scopes, &room.sums, points, &mut room.shown);
        let found = search.explain(&scopes, &mut room.shown, points);
        found.iter().map(|f| (f.key.region, f.key.device, f.key.stack)).collect()
    }

    #[test]
    fn each_fault_is_explained_by_its_own_scope() {
        assert_eq!(explain(&lattice(|_, _, _| 0.0)), []);
        assert_eq!(explain(&lattice(|r, _, s| if (r, s) == (1, 2) { -0.7 } else { 0.0 })), [(1, ALL, 2)]);
        assert_eq!(explain(&lattice(|_, d, _| if d == 3 { -0.7 } else { 0.0 })), [(ALL, 3, ALL)]);
        assert_eq!(explain(&lattice(|r, d, s| if (r, d, s) == (0, 1, 2) { -0.7 } else { 0.0 })), [(0, 1, 2)]);
    }

    #[test]
    fn a_fault_during_an_event_is_found_and_the_event_is_not() {
        let event = |_: u16, d: u16, s: u16| 0.6 + 0.05 * f64::from(d) - 0.04 * f64::from(s);
        assert_eq!(explain(&lattice(event)), []);
        let both = |r: u16, d: u16, s: u16| event(r, d, s) - if (r, s) == (1, 2) { 1.5 } else { 0.0 };
        assert_eq!(explain(&lattice(both)), [(1, ALL, 2)]);
    }

    #[test]
    fn noise_is_learned_and_outliers_move_it_little() {
        let mut noise = Noise::default();
        for step in 0..2000 {
            let shift = if step % 2 == 0 { 0.05 } else { -0.05 };
            noise.learn([shift; HORIZONS], [0.0; HORIZONS], 288.0);
        }
        assert!((noise.variance(0).sqrt() - 0.05).abs() < 0.005, "{}", noise.variance(0).sqrt());
        noise.learn([-5.0; HORIZONS], [0.0; HORIZONS], 288.0);
        assert!(noise.variance(0).sqrt() < 0.052);
    }
}
