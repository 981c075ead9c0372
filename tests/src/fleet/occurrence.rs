//! One thing that happens to a fleet: to whom, from when until when, and what it does to traffic and errors.
//!
//! Pure arithmetic; chance has had its say when an occurrence exists. The hard case is unevenness: an event weighs more
//! on some stacks and devices than on others, a fault hits all of its scope alike.

use super::world::{Cell, World};
use serde::{Deserialize, Serialize};

/// What an occurrence is, and so what should follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A fault of the application: somebody must be paged.
    Malfunction,
    /// Something outside the application moves the numbers: nobody may be paged.
    Event,
    /// An agent says nothing: telemetry is missing, traffic is not.
    Silence,
    /// From here on there is more traffic: nobody may be paged.
    Growth,
    /// The calendar announces an event that does not take place.
    NoShow,
}

/// Which cells are concerned; an empty list means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Indices of regions.
    pub regions: Vec<usize>,
    /// Indices of device families.
    pub devices: Vec<usize>,
    /// Indices of stacks.
    pub stacks: Vec<usize>,
}

impl Scope {
    /// A whole region.
    pub fn region(region: usize) -> Self {
        Self { regions: vec![region], ..Self::default() }
    }

    /// True if the cell is concerned.
    pub fn covers(&self, cell: Cell) -> bool {
        let holds = |list: &[usize], index| list.is_empty() || list.contains(&index);
        holds(&self.regions, cell.region)
            && holds(&self.devices, cell.device)
            && holds(&self.stacks, cell.stack)
    }

    /// True if some region is concerned by both.
    pub fn shares_region(&self, other: &Self) -> bool {
        self.regions.is_empty()
            || other.regions.is_empty()
            || self.regions.iter().any(|region| other.regions.contains(region))
    }

    /// The scope by name, as alarms and the truth write it.
    pub fn named(&self, world: &World) -> NamedScope {
        NamedScope {
            region: self.regions.iter().map(|&index| world.regions[index].name.to_owned()).collect(),
            device: self.devices.iter().map(|&index| world.devices[index].name.to_owned()).collect(),
            stack: self.stacks.iter().map(|&index| world.stacks[index].name.to_owned()).collect(),
        }
    }
}

/// A scope as alarms and the truth write it; an empty list means all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedScope {
    /// Names of regions.
    #[serde(default)]
    pub region: Vec<String>,
    /// Names of device families.
    #[serde(default)]
    pub device: Vec<String>,
    /// Names of stacks.
    #[serde(default)]
    pub stack: Vec<String>,
}

/// How strong, in what form, and on whom how much.
#[derive(Clone, Debug)]
pub struct Effect {
    /// Logarithm of the factor on traffic at full strength and weight 1.
    pub traffic_log: f64,
    /// Factor on errors at full strength and weight 1.
    pub errors: f64,
    /// Seconds from the first sign to full strength.
    pub rise_s: i64,
    /// Seconds of fading before the end.
    pub fall_s: i64,
    /// Seconds on and off in turn, for what flaps.
    pub pulse_s: Option<(i64, i64)>,
    /// Weight of each stack; empty means 1.
    pub stack_weights: Vec<f64>,
    /// Weight of each device; empty means 1.
    pub device_weights: Vec<f64>,
    /// Weight of each device on errors; empty means 1.
    pub error_weights: Vec<f64>,
    /// Factor on latency at full strength.
    pub latency: f64,
}

impl Effect {
    /// Does nothing.
    pub const NONE: Self = Self {
        traffic_log: 0.0,
        errors: 1.0,
        rise_s: 0,
        fall_s: 0,
        pulse_s: None,
        stack_weights: Vec::new(),
        device_weights: Vec::new(),
        error_weights: Vec::new(),
        latency: 1.0,
    };

    fn weight(&self, cell: Cell) -> f64 {
        let weight = |weights: &[f64], index: usize| weights.get(index).copied().unwrap_or(1.0);
        weight(&self.stack_weights, cell.stack) * weight(&self.device_weights, cell.device)
    }
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub struct Occurrence {
    /// What it is.
    pub kind: Kind,
    /// What it is more precisely: the class of an event, the sort of a fault.
    pub cause: &'static str,
    /// Whom it concerns.
    pub scope: Scope,
    /// When it begins, Unix seconds.
    pub from_s: i64,
    /// When it is over, Unix seconds.
    pub until_s: i64,
    /// The times that stand in the calendar, if it does.
    pub announced_s: Option<(i64, i64)>,
    /// What it does.
    pub effect: Effect,
}

impl Occurrence {
    /// Logarithm of the factor on the traffic of a cell.
    pub fn traffic_log(&self, cell: Cell, at_s: i64) -> f64 {
        if !self.scope.covers(cell) {
            return 0.0;
        }
        self.effect.traffic_log * self.effect.weight(cell) * self.strength(at_s)
    }

    /// Factor on the errors of a cell.
    pub fn errors_factor(&self, cell: Cell, at_s: i64) -> f64 {
        if !self.scope.covers(cell) {
            return 1.0;
        }
        let weight = self.effect.error_weights.get(cell.device).copied().unwrap_or(1.0);
        1.0 + (self.effect.errors - 1.0) * weight * self.strength(at_s)
    }

    /// Factor on the latency of a cell.
    pub fn latency_factor(&self, cell: Cell, at_s: i64) -> f64 {
        if self.scope.covers(cell) { 1.0 + (self.effect.latency - 1.0) * self.strength(at_s) } else { 1.0 }
    }

    /// True if the two overlap in time, with the given distance, and share a region.
    pub fn meets(&self, other: &Self, distance_s: i64) -> bool {
        self.from_s < other.until_s + distance_s
            && other.from_s < self.until_s + distance_s
            && self.scope.shares_region(&other.scope)
    }

    /// In [0, 1]: rises, holds, falls; zero outside and in the pauses of what flaps.
    fn strength(&self, at_s: i64) -> f64 {
        if at_s < self.from_s || at_s >= self.until_s {
            return 0.0;
        }
        let (since_s, left_s) = (at_s - self.from_s, self.until_s - at_s);
        if let Some((on_s, off_s)) = self.effect.pulse_s
            && since_s % (on_s + off_s) >= on_s
        {
            return 0.0;
        }
        let part = |seconds: i64, of: i64| if of == 0 { 1.0 } else { (seconds as f64 / of as f64).min(1.0) };
        part(since_s, self.effect.rise_s).min(part(left_s, self.effect.fall_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occurrence(effect: Effect) -> Occurrence {
        let scope = Scope { regions: vec![1], devices: vec![], stacks: vec![2, 3] };
        Occurrence {
            kind: Kind::Event,
            cause: "test",
            scope,
            from_s: 1_000,
            until_s: 2_000,
            announced_s: None,
            effect,
        }
    }

    #[test]
    fn only_the_scope_feels_it() {
        let event = occurrence(Effect { traffic_log: -1.0, errors: 3.0, ..Effect::NONE });
        let inside = Cell { region: 1, device: 4, stack: 3 };
        assert_eq!(event.traffic_log(inside, 1_500), -1.0);
        assert_eq!(event.errors_factor(inside, 1_500), 3.0);
        assert_eq!(event.traffic_log(inside, 2_000), 0.0);
        assert_eq!(event.traffic_log(Cell { region: 1, device: 4, stack: 0 }, 1_500), 0.0);
        assert_eq!(event.errors_factor(Cell { region: 0, device: 4, stack: 3 }, 1_500), 1.0);
    }

    #[test]
    fn it_rises_falls_and_flaps() {
        let cell = Cell { region: 1, device: 0, stack: 2 };
        let slow = occurrence(Effect { traffic_log: -1.0, rise_s: 200, fall_s: 100, ..Effect::NONE });
        assert_eq!(slow.traffic_log(cell, 1_100), -0.5);
        assert_eq!(slow.traffic_log(cell, 1_500), -1.0);
        assert_eq!(slow.traffic_log(cell, 1_950), -0.5);
        let flapping = occurrence(Effect { traffic_log: -1.0, pulse_s: Some((100, 50)), ..Effect::NONE });
        assert_eq!(flapping.traffic_log(cell, 1_099), -1.0);
        assert_eq!(flapping.traffic_log(cell, 1_120), 0.0);
        assert_eq!(flapping.traffic_log(cell, 1_150), -1.0);
    }
}
