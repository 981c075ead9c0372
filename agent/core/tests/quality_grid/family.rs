//! The series of the grid: what they are like when all is well, and the ways in which they go wrong.
//!
//! It must never know a scorer. The hard case is fairness between intervals: a fault lasts a time, not a number of
//! observations, yet at least long enough to be seen at all.

use crate::random::Dice;

const HOUR_S: i64 = 3_600;
const DAY_S: i64 = 24 * HOUR_S;

/// What a series is made of beside its season.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noise {
    Low,
    Medium,
    High,
    Heavy,
    SmallCounts,
    LargeCounts,
}

impl Noise {
    pub(crate) const ALL: [Self; 6] =
        [Self::Low, Self::Medium, Self::High, Self::Heavy, Self::SmallCounts, Self::LargeCounts];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Low => "2 %",
            Self::Medium => "10 %",
            Self::High => "30 %",
            Self::Heavy => "heavy 10 %",
            Self::SmallCounts => "counts of 3",
            Self::LargeCounts => "counts of 300",
        }
    }

    /// A value where `mean` (about 1) is true and the noise is `wild` times as large as usual.
    fn value(self, mean: f64, wild: f64, dice: &mut Dice) -> f64 {
        let relative = |sigma: f64, z: f64| (1_000.0 * mean * (1.0 + wild * sigma * z)).max(0.0);
        // A count whose rate wavers has `wild` times the standard deviation of one whose rate is steady.
        let count = |mean: f64, dice: &mut Dice| {
            let wavering = libm::sqrt((wild * wild - 1.0) / mean) * dice.normal();
            dice.count(mean * (1.0 + wavering).max(0.0))
        };
        match self {
            Self::Low => relative(0.02, dice.normal()),
            Self::Medium => relative(0.1, dice.normal()),
            Self::High => relative(0.3, dice.normal()),
            Self::Heavy => relative(0.1, dice.heavy()),
            Self::SmallCounts => count(3.0 * mean, dice),
            Self::LargeCounts => count(300.0 * mean, dice),
        }
    }
}

/// A day with a quiet night and a busy evening, and calmer weekends; about 1 on average.
fn season(at_s: i64) -> f64 {
    let phase = core::f64::consts::TAU * ((at_s.rem_euclid(DAY_S)) as f64 / DAY_S as f64 - 20.0 / 24.0);
    let weekend = matches!((at_s.div_euclid(DAY_S) + 4).rem_euclid(7), 0 | 6);
    (1.0 + 0.5 * libm::cos(phase) + 0.15 * libm::cos(2.0 * phase)) * if weekend { 0.85 } else { 1.0 }
}

/// A way to go wrong. Missing data are measured elsewhere: no observation shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Spike,
    Dip,
    Outage,
    Shift,
    Trend,
    Variance,
    Flat,
    Season,
}

impl Family {
    pub(crate) const ALL: [Self; 8] = [
        Self::Spike,
        Self::Dip,
        Self::Outage,
        Self::Shift,
        Self::Trend,
        Self::Variance,
        Self::Flat,
        Self::Season,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Spike => "spike, x 3, one value",
            Self::Dip => "dip, x 0.4, 30 min",
            Self::Outage => "outage, x 0, 30 min",
            Self::Shift => "level shift, x 0.6",
            Self::Trend => "trend, 10 % an hour",
            Self::Variance => "noise x 3",
            Self::Flat => "stuck value",
            Self::Season => "season 6 h ahead",
        }
    }

    /// For how long the fault lasts, and how late it may be noticed.
    pub(crate) fn lasts_s(self, step_s: i64) -> i64 {
        match self {
            Self::Spike => step_s,
            Self::Dip | Self::Outage => (30 * 60).max(3 * step_s),
            Self::Shift => 6 * HOUR_S,
            Self::Trend | Self::Variance | Self::Flat => 12 * HOUR_S,
            Self::Season => 24 * HOUR_S,
        }
    }
}

/// A fault that began at a time, when the series had a value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) family: Family,
    pub(crate) since_s: i64,
    pub(crate) value: f64,
}

/// The value of a series at a time, with a fault or without.
pub(crate) fn value(noise: Noise, at_s: i64, fault: Option<Fault>, dice: &mut Dice) -> f64 {
    let Some(fault) = fault else { return noise.value(season(at_s), 1.0, dice) };
    let hours = (at_s - fault.since_s) as f64 / HOUR_S as f64;
    match fault.family {
        Family::Spike => 3.0 * noise.value(season(at_s), 1.0, dice),
        Family::Dip => noise.value(0.4 * season(at_s), 1.0, dice),
        Family::Outage => 0.0,
        Family::Shift => noise.value(0.6 * season(at_s), 1.0, dice),
        Family::Trend => noise.value((1.0 + 0.1 * hours) * season(at_s), 1.0, dice),
        Family::Variance => noise.value(season(at_s), 3.0, dice),
        Family::Flat => fault.value,
        Family::Season => noise.value(season(at_s + 6 * HOUR_S), 1.0, dice),
    }
}
