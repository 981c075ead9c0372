//! Cold start: how old a series must be before each kind of fault is noticed.
//!
//! It must never give a young series what it could not know. The hard case is the time of day: series are born at all
//! hours, since a fault at an hour never seen is another thing than one at a known hour.

use crate::family::{Family, Noise};
use crate::random::Dice;
use crate::trial::{Caught, START_S, Watch, meet_faults};

const HOUR_S: i64 = 3_600;
/// The ages at which faults are met.
pub(crate) const AGES_S: [i64; 7] =
    [HOUR_S, 3 * HOUR_S, 6 * HOUR_S, 12 * HOUR_S, 24 * HOUR_S, 72 * HOUR_S, 168 * HOUR_S];
const SERIES: i64 = 24;

/// What the faults at one age gave, and how many deviations the quiet time up to there began, for each series.
#[derive(Clone, Debug, Default)]
pub(crate) struct Age {
    pub(crate) caught: [Caught; Family::ALL.len()],
    pub(crate) onsets: u32,
}

impl Age {
    pub(crate) fn onsets_a_series(&self) -> f64 {
        f64::from(self.onsets) / SERIES as f64
    }
}

/// A series of the same kind, three weeks old; ten times as large, for a shape has no size.
fn donor(seed: u64, noise: Noise, step_s: i64) -> Watch {
    let (mut watch, mut dice) = (Watch::new(99), Dice::new(seed * 3_000 + 99));
    for at_s in (START_S - 21 * 24 * HOUR_S..START_S).step_by(step_s as usize) {
        watch.observe(at_s, 10.0 * crate::family::value(noise, at_s, None, &mut dice));
    }
    watch
}

pub(crate) fn measure(seed: u64, noise: Noise, step_s: i64, in_cohort: bool) -> [Age; AGES_S.len()] {
    let donor = in_cohort.then(|| donor(seed, noise, step_s));
    let mut ages: [Age; AGES_S.len()] = Default::default();
    for series in 0..SERIES {
        // Born at all hours of all days of the week.
        let born_s = START_S + series * 29 * HOUR_S;
        let (mut watch, mut dice) = (Watch::new(series as u32), Dice::new(seed * 2_000 + series as u64));
        let (mut met, mut onsets, mut last) = (0, 0, 0.0);
        for at_s in (born_s..).step_by(step_s as usize) {
            let Some(age) = ages.get_mut(met) else { break };
            if at_s - born_s >= AGES_S[met] && !watch.is_deviating() {
                meet_faults(&watch, &dice, noise, step_s, at_s, last, &mut age.caught);
                age.onsets += onsets;
                met += 1;
            }
            last = crate::family::value(noise, at_s, None, &mut dice);
            onsets += u32::from(watch.observe(at_s, last).is_onset());
            if let Some(donor) = &donor {
                watch.borrow(at_s, donor);
            }
        }
    }
    ages
}
