//! What is measured of a fleet, interval by interval: traffic and errors of each cell with drift and Poisson noise.
//!
//! Must go through time in order, for drifts remember. The hard case is the difference between no traffic and no
//! telemetry: a silent region has no samples at all.

use super::random::Random;
use super::world::Cell;
use super::{Fleet, INTERVAL_S, Kind, Occurrence};
use std::fmt::Write;

/// What one cell counted in one interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Whose.
    pub cell: Cell,
    /// Units of traffic.
    pub activity: u64,
    /// Errors.
    pub errors: u64,
    /// Mean milliseconds of a request, where the stack measures it and there was one.
    pub latency_ms: Option<f64>,
}

/// All samples of one interval.
#[derive(Clone, Debug, PartialEq)]
pub struct Interval {
    /// Its beginning, Unix seconds.
    pub from_s: i64,
    /// Cells of regions that are not silent.
    pub samples: Vec<Sample>,
}

/// A slow wandering around zero (Ornstein and Uhlenbeck).
#[derive(Clone, Debug)]
struct Drift {
    value: f64,
    keep: f64,
    step: f64,
}

impl Drift {
    fn new(random: &mut Random, deviation: f64, hours: f64, interval_s: i64) -> Self {
        let keep = (-(interval_s as f64) / (hours * 3_600.0)).exp();
        Self { value: deviation * random.normal(), keep, step: deviation * (1.0 - keep * keep).sqrt() }
    }

    fn next(&mut self, random: &mut Random) -> f64 {
        self.value = self.value * self.keep + self.step * random.normal();
        self.value
    }
}

/// The intervals of a fleet from the first to the last.
#[derive(Clone, Debug)]
pub struct Telemetry<'f> {
    fleet: &'f Fleet,
    random: Random,
    next_s: i64,
    /// One for each region.
    gusts: Vec<Drift>,
    /// One for each region and stack, in that order.
    shared: Vec<Drift>,
    /// One for each cell.
    own: Vec<Drift>,
}

impl<'f> Telemetry<'f> {
    /// Before the first interval of the fleet's plan.
    pub fn new(fleet: &'f Fleet) -> Self {
        let mut random = Random::new(fleet.seed, "telemetry");
        let world = &fleet.world;
        let (life, interval_s) = (world.life, fleet.interval_s);
        let mut drifts = |count: usize, deviation: f64, hours: f64| -> Vec<Drift> {
            (0..count).map(|_| Drift::new(&mut random, deviation, hours, interval_s)).collect()
        };
        let (shared, own, hours) = life.drift;
        let shared = drifts(world.regions.len() * world.stacks.len(), shared, hours);
        let own = drifts(world.cells().count(), own, hours / 2.0);
        let gusts = drifts(world.regions.len(), life.gusts, 1.0);
        Self { fleet, random, next_s: fleet.plan.from_s, gusts, shared, own }
    }

    fn sample(&mut self, cell: Cell, from_s: i64, active: &[&Occurrence]) -> Sample {
        let world = &self.fleet.world;
        let life = world.life;
        let middle_s = from_s + self.fleet.interval_s / 2;
        let drift = self.shared[cell.region * world.stacks.len() + cell.stack].value
            + self.gusts[cell.region].value
            + self.own[world.position(cell)].next(&mut self.random);
        let (mut demand_log, mut lost_log, mut errors, mut latency) = (drift, 0.0, 1.0, 1.0);
        for occurrence in active {
            let traffic_log = occurrence.traffic_log(cell, middle_s);
            match occurrence.kind {
                Kind::Malfunction => lost_log += traffic_log,
                _ => demand_log += traffic_log,
            }
            errors *= occurrence.errors_factor(cell, middle_s);
            latency *= occurrence.latency_factor(cell, middle_s);
        }
        let random = &mut self.random;
        // A request that a fault turned away is an error; an event's absent people ask for nothing.
        let scale = self.fleet.interval_s as f64 / INTERVAL_S as f64;
        let season = world.season(cell, middle_s);
        let demand =
            scale * world.traffic(cell) * season * (demand_log + life.jitter * random.normal()).exp();
        let stack = &world.stacks[cell.stack];
        let activity = random.poisson(demand * lost_log.exp());
        let jitter = random.log_normal(life.errors_jitter);
        let errors = random.poisson(demand * stack.error_ratio * errors * jitter);
        // Slower when busier, and the mean of few is restless.
        let restless = 0.03 + 0.5 / (activity as f64 + 1.0).sqrt();
        let usual_ms = stack.latency_ms.filter(|_| activity > 0);
        let latency_ms = usual_ms.map(|ms| ms * season.powf(0.1) * latency * random.log_normal(restless));
        Sample { cell, activity, errors, latency_ms }
    }
}

impl Iterator for Telemetry<'_> {
    type Item = Interval;

    fn next(&mut self) -> Option<Interval> {
        let from_s = self.next_s;
        if from_s >= self.fleet.plan.until_s {
            return None;
        }
        self.next_s += self.fleet.interval_s;
        for drift in self.shared.iter_mut().chain(&mut self.gusts) {
            drift.next(&mut self.random);
        }
        let middle_s = from_s + self.fleet.interval_s / 2;
        let active: Vec<&Occurrence> = self.fleet.plan.active(middle_s).collect();
        let cells: Vec<Cell> = self.fleet.world.cells().collect();
        let samples: Vec<Sample> = cells.into_iter().map(|cell| self.sample(cell, from_s, &active)).collect();
        let silences = active.iter().filter(|occurrence| occurrence.kind == Kind::Silence);
        let silent = |cell: Cell| silences.clone().any(|silence| silence.scope.covers(cell));
        Some(Interval {
            from_s,
            samples: samples.into_iter().filter(|sample| !silent(sample.cell)).collect(),
        })
    }
}

/// Appends a sample as line protocol: `activity`, and if the fleet measures them `errors` and `latency`, stamped in
/// nanoseconds. Gives the number of lines.
pub fn write_lines(out: &mut String, fleet: &Fleet, sample: &Sample, at_ns: i64) -> u64 {
    let world = &fleet.world;
    let region = world.regions[sample.cell.region].name;
    let device = world.devices[sample.cell.device].name;
    let stack = world.stacks[sample.cell.stack].name;
    let mut lines = 0;
    for (measurement, value) in sample.values(fleet.errors) {
        lines += 1;
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{measurement},device={device},region={region},stack={stack} value={value} {at_ns}"
        );
    }
    lines
}

impl Sample {
    /// Its measurements by name; latency to a tenth of a millisecond.
    pub fn values(&self, with_errors: bool) -> impl Iterator<Item = (&'static str, f64)> {
        let latency = self.latency_ms.map(|ms| (ms * 10.0).round() / 10.0);
        let others = [("errors", Some(self.errors as f64)), ("latency", latency)];
        let others = others.into_iter().filter_map(|(name, value)| Some((name, value?)));
        std::iter::once(("activity", self.activity as f64)).chain(others.filter(move |_| with_errors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(intervals: &[Interval], inside: impl Fn(&Sample) -> bool) -> f64 {
        intervals
            .iter()
            .flat_map(|interval| &interval.samples)
            .filter(|sample| inside(sample))
            .map(|sample| sample.activity as f64)
            .sum()
    }

    #[test]
    fn a_fault_loses_traffic_and_raises_errors_in_its_scope_only() {
        let fleet = Fleet::of_days(11, 12);
        let lasting =
            |occurrence: &&Occurrence| ["stack_in_region", "shared_dependency"].contains(&occurrence.cause);
        let fault = fleet.plan.occurrences.iter().find(lasting).expect("one is planned");
        let mut quiet = fleet.clone();
        quiet.plan.occurrences.retain(|occurrence| occurrence.kind != Kind::Malfunction);
        let during = |fleet: &Fleet| -> Vec<Interval> {
            Telemetry::new(fleet)
                .filter(|interval| {
                    interval.from_s >= fault.from_s + 600 && interval.from_s < fault.until_s - 300
                })
                .collect()
        };
        let (with, without) = (during(&fleet), during(&quiet));
        let covered = |sample: &Sample| fault.scope.covers(sample.cell);
        assert!(traffic(&with, covered) < 0.75 * traffic(&without, covered));
        let errors = |intervals: &[Interval]| -> u64 {
            intervals
                .iter()
                .flat_map(|interval| &interval.samples)
                .filter(|sample| covered(sample))
                .map(|sample| sample.errors)
                .sum()
        };
        assert!(errors(&with) > 2 * errors(&without));
        let other = |sample: &Sample| sample.cell.region == fault.scope.regions[0] && !covered(sample);
        // Not the same draws, and so not the same noise.
        assert!((traffic(&with, other) / traffic(&without, other) - 1.0).abs() < 0.15);
    }

    #[test]
    fn silence_is_missing_and_not_zero() {
        let fleet = Fleet::of_days(11, 6);
        let silence = fleet
            .plan
            .occurrences
            .iter()
            .find(|occurrence| occurrence.kind == Kind::Silence)
            .expect("one is planned");
        for interval in Telemetry::new(&fleet) {
            let middle_s = interval.from_s + INTERVAL_S / 2;
            let silent = silence.from_s <= middle_s && middle_s < silence.until_s;
            let heard = interval.samples.iter().any(|sample| silence.scope.covers(sample.cell));
            assert!(!(silent && heard), "a sample at {}", interval.from_s);
        }
    }

    #[test]
    fn lines_are_the_same_for_the_same_seed() {
        let lines = |seed| {
            let fleet = Fleet { world: crate::fleet::World::plain(seed), ..Fleet::of_days(seed, 2) };
            let mut out = String::new();
            for interval in Telemetry::new(&fleet).take(3) {
                interval.samples.iter().for_each(|sample| {
                    write_lines(&mut out, &fleet, sample, interval.from_s * 1_000_000_000);
                });
            }
            out
        };
        assert_eq!(lines(1), lines(1));
        assert_ne!(lines(1), lines(2));
        assert!(lines(1).starts_with("activity,device=android,region=us-east,stack=playback value="));
        assert_eq!(lines(1).lines().count(), 3 * 150 * 2);
    }
}
