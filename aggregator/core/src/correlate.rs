//! The common mode: what independent stacks of a region share, and what is left over of each cell.
//!
//! It must never let a fault explain itself: a cell is compared with other stacks and other devices only. The hard case
//! is few peers: where two disagree, the smaller shared part counts, so that one fault is never everybody's mode.
use std::collections::BTreeSet;

use crate::learned::Share;

/// Added to counts before a ratio is taken, so that empty cells have one (Jeffreys' prior for a Poisson rate).
const PSEUDO_COUNT: f64 = 0.5;
/// Log ratios are kept within this; beyond it, a cell is simply empty or absurd.
const LOG_RATIO_MAX: f64 = 7.0;
/// Noise assumed of every cell besides counting, so that a huge cell does not outvote all others.
const CELL_NOISE: f64 = 0.1;
/// Devices from which they can stand in as peers when a region has one stack only.
const DEVICES_AS_PEERS_MIN: usize = 3;

/// The horizons that a cell is judged on: the window alone, and decayed sums over the latest four windows and the latest
/// twelve or so, for what is too small or too slow to show in one.
pub(crate) const HORIZONS: usize = 3;
/// How much each keeps from one window to the next.
pub(crate) const KEEP: [f64; HORIZONS] = [0.0, 0.75, 0.92];

/// Variance from counting of decayed sums, as a share of that of a single window with the same expectation.
pub(crate) const fn decayed_variance(horizon: usize) -> f64 {
    1.0 / (1.0 + KEEP[horizon])
}

/// One cell's metric in one window. Places are ranks in order of names.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) region: u16,
    pub(crate) device: u16,
    pub(crate) stack: u16,
    /// Stacks that share a dependency have the same group.
    pub(crate) group: u16,
    /// Index into the region's series.
    pub(crate) series: u32,
    pub(crate) observed: f64,
    pub(crate) expected: f64,
    /// ln(observed/expected) of the window.
    pub(crate) log_ratio: f64,
    /// The share of what its region shares that it usually feels, and how far off that may be, as a share.
    pub(crate) share: Share,
    /// What its peers share.
    pub(crate) mode: f64,
    /// What its peers share, as much of it as this cell feels.
    pub(crate) common_mode: f64,
    /// How far its peers have moved, in whatever direction.
    pub(crate) disturbance: f64,
    /// Observed and what was expected amid the common mode, by horizon.
    pub(crate) counted: [[f64; 2]; HORIZONS],
    /// Leftover by horizon.
    pub(crate) residual: [f64; HORIZONS],
    /// Variance from counting, by horizon; 0 for a metric that does not count things.
    pub(crate) poisson: [f64; HORIZONS],
    /// How much of the leftover has been explained by broader scopes.
    pub(crate) explained: f64,
}

/// The log ratio of two sums, and its variance from counting.
pub(crate) fn log_ratio(observed: f64, expected: f64, counts: bool) -> (f64, f64) {
    let (observed, expected) = (observed.max(0.0), expected.max(0.0));
    if counts {
        let ratio = ((observed + PSEUDO_COUNT) / (expected + PSEUDO_COUNT)).ln();
        return (ratio.clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX), 1.0 / (expected + PSEUDO_COUNT));
    }
    let ratio = if expected > 0.0 { (observed / expected).max(1e-9).ln() } else { 0.0 };
    (ratio.clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX), 0.0)
}

/// What the independent stacks of one region share.
#[derive(Clone, Debug, Default)]
pub(crate) struct CommonMode {
    pub(crate) value: f64,
    /// How far most of them have moved, in whatever direction.
    pub(crate) disturbance: f64,
    /// Independent groups of stacks that took part.
    pub(crate) groups: BTreeSet<u16>,
    /// Whether devices had to stand in for stacks.
    pub(crate) by_device: bool,
}

/// Takes the common mode off the points of one region, each compared with the groups and devices it is not part of.
pub(crate) fn take_common_mode(points: &mut [Point]) -> CommonMode {
    let (groups, devices) = (distinct(points, |p| p.group), distinct(points, |p| p.device));
    if groups.len() < 2 {
        return take_mode_of_devices(points, &devices, &groups);
    }
    let centres = centres(points, &groups, &devices);
    // What a device is compared with is put in order once for all its stacks.
    for of_device in points.chunk_by_mut(|a, b| a.device == b.device) {
        let device = of_device.first().map_or(0, |point| point.device);
        let device = devices.binary_search(&device).unwrap_or(devices.len());
        let all: Vec<(f64, u16)> =
            centres.iter().filter_map(|it| Some((it.without(device)?, it.group))).collect();
        let moved = Others::new(all.iter().map(|(centre, group)| (centre.abs(), *group)).collect());
        let all = Others::new(all);
        for point in of_device {
            point.take_off(all.shared_without(point.group), moved.shared_without(point.group));
        }
    }
    let mut all: Vec<f64> = centres.iter().filter_map(|it| it.all).collect();
    let disturbance = shared(&mut all.iter().map(|centre| centre.abs()).collect::<Vec<f64>>());
    let groups = groups.into_iter().collect();
    CommonMode { value: shared(&mut all), disturbance, groups, by_device: false }
}

/// What `of` gives of the points, each once and in order.
fn distinct(points: &[Point], of: impl Fn(&Point) -> u16) -> Vec<u16> {
    let mut all: Vec<u16> = points.iter().map(of).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn take_mode_of_devices(points: &mut [Point], devices: &[u16], groups: &[u16]) -> CommonMode {
    let all = groups.iter().copied().collect();
    if devices.len() < DEVICES_AS_PEERS_MIN {
        points.iter_mut().for_each(|point| point.take_off(0.0, 0.0));
        return CommonMode { groups: all, ..CommonMode::default() };
    }
    let centres = centres(points, groups, devices);
    let own = centres.first();
    for point in points {
        let device = devices.binary_search(&point.device).unwrap_or(devices.len());
        let mode = own.and_then(|it| it.without(device)).unwrap_or(0.0);
        point.take_off(mode, mode.abs());
    }
    let value = own.and_then(|it| it.all).unwrap_or(0.0);
    let groups = all;
    CommonMode { value, disturbance: value.abs(), groups, by_device: true }
}

/// Leaves everything in the points: each is judged against its forecast alone.
pub(crate) fn take_nothing(points: &mut [Point]) -> CommonMode {
    points.iter_mut().for_each(|point| point.take_off(0.0, 0.0));
    CommonMode { groups: points.iter().map(|p| p.group).collect(), ..CommonMode::default() }
}

/// Least share by which a cell's log ratio is divided to tell what its region shares.
const SHARE_TOLD_MIN: f64 = 0.3;

impl Point {
    /// Its cell: region, device, stack.
    pub(crate) const fn cell(&self) -> (u16, u16, u16) {
        (self.region, self.device, self.stack)
    }

    fn take_off(&mut self, mode: f64, moved: f64) {
        self.mode = mode;
        self.common_mode = self.share.value * mode;
        self.disturbance = moved.max(mode.abs());
        self.residual[0] = self.log_ratio - self.common_mode;
        self.counted[0] = [self.observed, self.expected * self.common_mode.exp()];
    }

    /// What the region would share if this cell alone were asked.
    fn told(&self) -> f64 {
        self.log_ratio / self.share.value.max(SHARE_TOLD_MIN)
    }

    fn weight(&self) -> f64 {
        let share = self.share.value.max(SHARE_TOLD_MIN);
        share * share / (self.poisson[0] + CELL_NOISE * CELL_NOISE)
    }
}

/// The centre of one group.
struct Centre {
    group: u16,
    all: Option<f64>,
    /// Of the group's other devices, by the place of the device left out; none where the group has nothing of it.
    without: Vec<Option<f64>>,
}

impl Centre {
    /// The centre with the device of `place` left out: that of all where the group has nothing of it.
    fn without(&self, place: usize) -> Option<f64> {
        self.without.get(place).copied().flatten().or(self.all)
    }
}

/// What one point says of the centre of its group.
#[derive(Clone, Copy)]
struct Vote {
    told: f64,
    weight: f64,
    group: u16,
    /// The place of its device.
    device: u16,
}

/// The weighted median of each group, over all its devices and with each device left out. A group that has no other
/// device keeps the one it has.
fn centres(points: &[Point], groups: &[u16], devices: &[u16]) -> Vec<Centre> {
    let device = |p: &Point| devices.binary_search(&p.device).unwrap_or(devices.len()) as u16;
    let vote = |p: &Point| Vote { told: p.told(), weight: p.weight(), group: p.group, device: device(p) };
    let votes: Vec<Vote> = points.iter().map(vote).collect();
    let mut members: Vec<Vote> = Vec::with_capacity(votes.len());
    let centre = |group: &u16| {
        members.clear();
        members.extend(votes.iter().filter(|vote| vote.group == *group));
        members.sort_by(|a, b| a.told.total_cmp(&b.told));
        let all = weighted_median(&members, None);
        let mut without = vec![None; devices.len()];
        for device in members.iter().map(|vote| vote.device) {
            let centre = &mut without[usize::from(device)];
            *centre = centre.or_else(|| weighted_median(&members, Some(device))).or(all);
        }
        Centre { group: *group, all, without }
    };
    groups.iter().map(centre).collect()
}

/// The lower weighted median of votes in ascending order, those of the device `left_out` aside.
fn weighted_median(sorted: &[Vote], left_out: Option<u16>) -> Option<f64> {
    let counted = || sorted.iter().filter(|vote| Some(vote.device) != left_out);
    let half = counted().map(|vote| vote.weight).sum::<f64>() / 2.0;
    let mut below = 0.0;
    for vote in counted() {
        below += vote.weight;
        if below >= half {
            return Some(vote.told);
        }
    }
    None
}

/// What a majority shares: the median; between two middle values the one nearer to zero, or zero when they disagree.
pub(crate) fn shared(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    middle(values.len(), |place| values[place])
}

/// The centres of all groups in ascending order.
struct Others(Vec<(f64, u16)>);

impl Others {
    fn new(mut centres: Vec<(f64, u16)>) -> Self {
        centres.sort_by(|a, b| a.0.total_cmp(&b.0));
        Self(centres)
    }

    /// What the groups but `group` share.
    fn shared_without(&self, group: u16) -> f64 {
        let own = self.0.iter().position(|(_, other)| *other == group);
        let own = own.unwrap_or(self.0.len());
        let count = self.0.len() - usize::from(own < self.0.len());
        middle(count, |place| self.0[place + usize::from(place >= own)].0)
    }
}

/// What a majority of `count` values shares; `at` gives them in ascending order.
fn middle(count: usize, at: impl Fn(usize) -> f64) -> f64 {
    if count == 0 {
        return 0.0;
    }
    let (low, high) = (at((count - 1) / 2), at(count / 2));
    match (low.signum() == high.signum(), low.abs() < high.abs()) {
        (false, _) => 0.0,
        (true, true) => low,
        (true, false) => high,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn point(device: u16, stack: u16, log_ratio: f64) -> Point {
        Point {
            region: 0,
            device,
            stack,
            group: stack,
            series: 0,
            observed: 0.0,
            expected: 1000.0,
            log_ratio,
            share: Share { value: 1.0, uneven: 0.3 },
            mode: 0.0,
            common_mode: 0.0,
            disturbance: 0.0,
            counted: [[1000.0; 2]; HORIZONS],
            residual: [0.0; HORIZONS],
            poisson: [0.001; HORIZONS],
            explained: 0.0,
        }
    }

    fn lattice(ratio: impl Fn(u16, u16) -> f64) -> Vec<Point> {
        let cells = (0..4).flat_map(|device| (0..4).map(move |stack| (device, stack)));
        cells.map(|(device, stack)| point(device, stack, ratio(device, stack))).collect()
    }

    #[test]
    fn an_event_is_shared_and_leaves_little_over() {
        let mut points = lattice(|_, stack| [-0.5, -0.6, -0.4, -0.55][usize::from(stack)]);
        let mode = take_common_mode(&mut points);
        assert!((mode.value + 0.5).abs() < 0.06, "{}", mode.value);
        assert!(points.iter().all(|p| p.residual[0].abs() < 0.2));
    }

    #[test]
    fn a_fault_of_one_stack_or_device_is_left_over_whole() {
        let mut points = lattice(|_, stack| if stack == 2 { -1.0 } else { 0.0 });
        assert!(take_common_mode(&mut points).value.abs() < 1e-9);
        assert!(points.iter().all(|p| (p.residual[0] - p.log_ratio).abs() < 1e-9));
        let mut points = lattice(|device, _| if device == 1 { -1.0 } else { 0.3 });
        take_common_mode(&mut points);
        assert!(points.iter().filter(|p| p.device == 1).all(|p| (p.residual[0] + 1.3).abs() < 1e-9));
    }

    #[test]
    fn stacks_with_a_shared_dependency_count_once() {
        let ratio = |_, stack: u16| if stack < 2 { -1.0 } else { 0.0 };
        let mut points: Vec<Point> = lattice(ratio);
        points.retain(|p| p.stack < 3);
        points.iter_mut().filter(|p| p.stack == 1).for_each(|p| p.group = 0);
        let mode = take_common_mode(&mut points);
        assert_eq!(mode.groups.len(), 2);
        assert!(mode.value.abs() < 1e-9, "one of two is no majority");
        assert!(points.iter().filter(|p| p.stack < 2).all(|p| p.residual[0] < -0.9));
    }

    #[test]
    fn with_one_stack_devices_stand_in_and_alone_nothing_does() {
        let mut points: Vec<Point> =
            (0..5).map(|device| point(device, 0, -f64::from(u8::from(device == 2)))).collect();
        assert!(take_common_mode(&mut points).by_device);
        assert!(points[2].residual[0] < -0.9 && points[0].residual[0].abs() < 1e-9);
        let mut lone = vec![point(0, 0, -1.0)];
        assert_eq!(take_common_mode(&mut lone).groups.len(), 1);
        assert!(lone[0].residual[0] < -0.9);
    }

    #[test]
    fn what_is_shared_needs_a_majority() {
        assert_eq!(shared(&mut []), 0.0);
        assert_eq!(shared(&mut [-1.0, 0.0]), 0.0);
        assert_eq!(shared(&mut [-1.0, -0.2]), -0.2);
        assert_eq!(shared(&mut [-1.0, 0.0, 0.1]), 0.0);
        assert_eq!(shared(&mut [0.3, 0.5, 0.4, 9.0]), 0.4);
    }
}
