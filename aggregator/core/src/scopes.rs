//! Scopes: what is left over, pooled over the sets that faults come in, and the fewest of them that explain it.
//!
//! It must never report one fault twice. The hard case is nested sets, a cell within a stack within a device everywhere:
//! the set with the best support is taken, its shift is subtracted, and the search goes on with the rest.
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::correlate::{HORIZONS, Point, decayed_variance};
use crate::counting::{deviance, together};
use crate::membership::Membership;

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
    pub(crate) fn packed(self) -> u64 {
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

    /// Learns from what the members of the scope come to.
    fn take(&mut self, sums: &[Sums; HORIZONS], half_life_windows: f64) {
        let shift = sums.map(|sums| sums.shift);
        let known = sums.map(|sums| sums.counting + (sums.uneven * sums.common_mode).powi(2));
        self.learn(shift, known, half_life_windows);
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

/// What a scope shows in one window. 64 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    pub(crate) key: ScopeKey,
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
}

/// A scope that was chosen to explain what is left over.
#[derive(Clone, Debug)]
pub(crate) struct Pooled {
    pub(crate) shown: Shown,
    /// Indices of its points.
    pub(crate) members: Vec<usize>,
    /// The regions among its cells that deviate like the whole.
    pub(crate) regions: BTreeSet<u16>,
}

impl Shown {
    /// Whether it is anything that could be chosen.
    fn shows(&self) -> bool {
        self.significance > 0.0
    }

    const fn nothing(key: ScopeKey) -> Self {
        Self {
            key,
            shift: 0.0,
            horizon: 0,
            deviation: 1.0,
            significance: 0.0,
            common_mode: 0.0,
            disturbance: 0.0,
            gain: 0.0,
        }
    }
}

/// What the search needs to know besides the points.
pub(crate) struct Search<'a> {
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

/// What is learned of the scopes' noise in a window, and of which.
pub(crate) struct Learning<'a> {
    pub(crate) half_life_windows: f64,
    /// Scopes that have no noise to learn from, by place: a live incident covers them.
    pub(crate) rests: &'a [bool],
    /// Whether nothing from outside moves a region: how far scopes stray by themselves is learned then.
    pub(crate) is_calm: &'a dyn Fn(u16) -> bool,
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
    let mut pooled = [Sums::default(); HORIZONS];
    members.iter().for_each(|index| add(&mut pooled, &parts(&points[*index])));
    pooled.map(Sums::settled)
}

/// Room for what is worked out of each scope, kept from window to window: asked for anew each time, it would come from the
/// system and go back to it page by page. About 50 bytes for each cell of the largest metric in a large fleet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Room {
    /// Where the sums of each scope are: most scopes are one cell, and its own sums are at hand.
    slots: Vec<Option<NonZeroU32>>,
    /// What the members of each scope of several come to, from place 1 on; not yet as means.
    sums: Vec<[Sums; HORIZONS]>,
    /// What the scopes show that show anything, by place.
    shown: BTreeMap<u32, Shown>,
}

impl Room {
    /// Adds up what the members of each scope of several come to. A point is in half a dozen scopes: what it adds to each is
    /// worked out once, and added to all while it is at hand; each scope's members come in their order all the same.
    pub(crate) fn sum(&mut self, membership: &Membership, points: &[Point]) {
        let mut slot = 0;
        let slots = membership.iter().map(|(_, members)| {
            slot += u32::from(members.len() > 1);
            NonZeroU32::new(slot).filter(|_| members.len() > 1)
        });
        self.slots.clear();
        self.slots.extend(slots);
        self.sums.clear();
        self.sums.resize(slot as usize + 1, Default::default());
        for (point, places) in points.iter().zip(membership.of_points()) {
            let parts = parts(point);
            for slot in places.iter().filter_map(|place| self.slots[*place as usize]) {
                add(&mut self.sums[slot.get() as usize], &parts);
            }
        }
    }
}

/// What a point adds to the sums of a scope, by horizon.
fn parts(point: &Point) -> [Sums; HORIZONS] {
    let explained = if point.explained == 0.0 { 1.0 } else { point.explained.exp() };
    std::array::from_fn(|horizon| Sums::part(point, horizon, explained))
}

fn add(pooled: &mut [Sums; HORIZONS], parts: &[Sums; HORIZONS]) {
    pooled.iter_mut().zip(parts).for_each(|(sums, part)| sums.add(part));
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
    /// What the scope shows, at the horizon that shows it best.
    fn pool(
        &self,
        key: ScopeKey,
        noise: &Noise,
        (members, explained): (usize, f64),
        allowed: impl Fn() -> f64,
        by_horizon: &[Sums; HORIZONS],
    ) -> Shown {
        let mut best = Shown::nothing(key);
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
                sums.uneven * sums.common_mode.abs().max(allowed()) + torn + UNEVEN_EXPLAINED * explained;
            let other = (noise.variance(horizon) + uneven * uneven).sqrt();
            let significance = sums.significance(horizon, self.counts, other);
            if significance > best.significance {
                let spread = uneven * uneven * sums.weights / (members.max(1) as f64);
                let gain = 0.5 * shift * shift * sums.weights / (1.0 + spread);
                let deviation = shift.abs() / significance;
                let (common_mode, disturbance) = (sums.common_mode, sums.disturbance);
                best = Shown { key, shift, horizon, deviation, significance, common_mode, disturbance, gain };
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

    fn qualifies(&self, shown: &Shown, members: &[usize], points: &[Point]) -> bool {
        self.matters(shown.shift)
            && shown.significance >= (self.needed)(shown.key)
            && is_coherent(shown, members, points)
    }

    /// Learns the noise of every scope from what its members come to, unless it rests, and works out what each shows by
    /// itself, into `room`. All of a scope is done while it is at hand.
    pub(crate) fn show(
        &self,
        membership: &Membership,
        points: &[Point],
        room: &mut Room,
        noises: &mut Noises,
        learning: &Learning<'_>,
    ) {
        room.shown.clear();
        let Some(metric) = membership.metric() else { return };
        let mut known = noises.range_mut(ScopeKey::all_of(metric)).peekable();
        let mut new = Vec::new();
        let all = membership.iter().zip(&room.slots).zip(learning.rests);
        for (place, (((key, members), slot), rests)) in (0u32..).zip(all) {
            // Both are in order of their keys, so that one walk finds every scope's noise.
            while known.next_if(|(other, _)| other.packed() < key.packed()).is_some() {}
            let own = known.next_if(|(other, _)| **other == key).map(|(_, noise)| noise);
            let (is_new, mut first) = (own.is_none(), Noise::default());
            let own = own.unwrap_or(&mut first);
            let sums = match slot {
                Some(slot) => room.sums[slot.get() as usize].map(Sums::settled),
                None => pool_all(points, members),
            };
            if !rests {
                own.take(&sums, learning.half_life_windows);
            }
            // Nothing is explained yet.
            let allowed = || self.allowed(key, members, points);
            let it = self.pool(key, own, (members.len(), 0.0), allowed, &sums);
            // How far counts stray is known; it is learned of what strays for other reasons.
            if !rests && (learning.is_calm)(key.region) && sums[0].counting < own.variance(0) {
                own.learn_tail(it.significance);
            }
            if it.shows() {
                room.shown.insert(place, it);
            }
            if is_new && !rests {
                new.push((key, first));
            }
        }
        noises.extend(new);
    }

    /// The fewest scopes that explain what is left over, the best supported first, from what each shows by itself.
    pub(crate) fn explain(
        &self,
        membership: &Membership,
        room: &mut Room,
        noises: &Noises,
        points: &[Point],
    ) -> Vec<Pooled> {
        let shown = &mut room.shown;
        // Copied only where something is found.
        let mut points = Cow::Borrowed(points);
        let pool = |place: u32, points: &[Point]| {
            let (key, members) = membership.get(place);
            let explained = members.iter().map(|i| points[*i].explained.abs()).fold(0.0, f64::max);
            let (allowed, sums) = (|| self.allowed(key, members, points), pool_all(points, members));
            let noise = noises.get(&key).copied().unwrap_or_default();
            self.pool(key, &noise, (members.len(), explained), allowed, &sums)
        };
        let mut found: Vec<Pooled> = Vec::new();
        while found.len() < SCOPES_MAX {
            let mut best: Option<(u32, &Shown)> = None;
            for (place, it) in &*shown {
                let better = best.is_none_or(|(_, known)| it.gain > known.gain * (1.0 + 1e-9));
                let is_new = || found.iter().all(|f| f.shown.key != it.key);
                if better && is_new() && self.qualifies(it, membership.get(*place).1, &points) {
                    best = Some((*place, it));
                }
            }
            let Some((place, best)) = best else { break };
            let best = take(*best, membership.get(place).1, points.to_mut());
            // Only scopes that share a cell with it show something else now.
            for place in membership.touched(&best.members) {
                let it = pool(place, &points);
                if it.shows() {
                    shown.insert(place, it)
                } else {
                    shown.remove(&place)
                };
            }
            found.push(best);
        }
        found
    }
}

/// Chooses a scope: what it explains is taken off its cells.
fn take(shown: Shown, members: &[usize], points: &mut [Point]) -> Pooled {
    let regions = regions_alike(&shown, members, points);
    for index in members {
        let point = &mut points[*index];
        point.residual.iter_mut().for_each(|residual| *residual -= shown.shift);
        point.explained += shown.shift;
    }
    Pooled { shown, members: members.to_vec(), regions }
}

/// The regions of the scope whose own pooled leftover is like that of the whole.
fn regions_alike(shown: &Shown, members: &[usize], points: &[Point]) -> BTreeSet<u16> {
    let regions: BTreeSet<u16> = members.iter().map(|index| points[*index].region).collect();
    let alike = |region: &u16| {
        let slice: Vec<usize> = members.iter().copied().filter(|i| points[*i].region == *region).collect();
        pool(points, &slice, shown.horizon).shift * shown.shift.signum() >= 0.4 * shown.shift.abs()
    };
    let kept: BTreeSet<u16> = regions.iter().copied().filter(alike).collect();
    if kept.is_empty() { regions } else { kept }
}

/// Whether most of the scope's weight deviates like the whole.
fn is_coherent(shown: &Shown, members: &[usize], points: &[Point]) -> bool {
    let (shift, horizon) = (shown.shift, shown.horizon);
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
        let mut membership = Membership::default();
        membership.follow(0, points, true);
        let search = Search {
            allowed: &[],
            needed: &|_| 4.5,
            counts: true,
            torn: true,
            residual_min: 0.2,
            directions: (true, false),
        };
        let mut show = |points: &[Point], rests: bool, room: &mut Room| {
            let rests = &*vec![rests; membership.len()];
            room.sum(&membership, points);
            let learning = Learning { half_life_windows: 288.0, rests, is_calm: &|_| false };
            search.show(&membership, points, room, &mut noise, &learning);
        };
        let quiet = lattice(|_, _, _| 0.0);
        (0..500).for_each(|_| show(&quiet, false, &mut room));
        show(points, true, &mut room);
        let found = search.explain(&membership, &mut room, &noise, points);
        found.iter().map(|f| (f.shown.key.region, f.shown.key.device, f.shown.key.stack)).collect()
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
