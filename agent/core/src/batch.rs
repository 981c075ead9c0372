//! Several observations at once, each of another series: scored, and followed as deviations.
//!
//! It must never give other bits than one observation after the other, nor other bits on one processor than on another:
//! what differs is how many numbers an instruction holds. The hard case is that the shipped program has to run on
//! every x86-64, while most of them could do eight series an instruction: the same text is compiled twice, and which one
//! runs is decided when it runs. That call, and the word that it may, are the places of this file with `unsafe` in them.
//! Why that is sound: what the second text asks of the processor is asked for just before.
#![allow(unsafe_code, reason = "a function for processors that have AVX2 may only be called where they do")]

use vedette_common::wire::Course;

use crate::deviation::{self, DeviationSettings, DeviationState};
#[cfg(target_arch = "x86_64")]
use crate::score::transpose::Avx2;
use crate::score::transpose::{Anywhere, Turn};
use crate::score::{self, Learning, Moment, Observed, Scorers, Scores, Week};

/// Series that are scored at once. Sixteen, with AVX-512, gain a seventh in the caches and nothing beyond them, while the
/// processor's clock falls for all else that it does.
pub const LANES: usize = 8;

/// How often [`observe_while`] stops for each lane.
pub const STOPS: usize = 9;

/// One observation, and all that is kept of its series.
#[derive(Debug)]
pub struct Observation<'a> {
    /// What the scorers remember of the series.
    pub state: &'a mut Scorers,
    /// The hours of its week.
    pub week: Week<'a>,
    /// Where it stands.
    pub deviation: &'a mut DeviationState,
    /// When the value is of.
    pub moment: Moment,
    /// The value.
    pub value: f64,
    /// Whether the forecast may learn from it.
    pub learning: Learning,
    /// A scheduled event is on.
    pub in_event: bool,
}

/// What became of several observations.
#[derive(Clone, Debug)]
pub struct Outcomes<const N: usize> {
    /// What the scorers say of each.
    pub scores: Scores<N>,
    /// The deviation of each, if there is one.
    pub courses: [Option<Course>; N],
}

impl Observed for Observation<'_> {
    #[inline(always)]
    fn what(&self) -> (Moment, f64, Learning) {
        (self.moment, self.value, self.learning)
    }

    #[inline(always)]
    fn state(&self) -> &Scorers {
        self.state
    }

    #[inline(always)]
    fn parts(&mut self) -> (&mut Scorers, Week<'_>) {
        (self.state, self.week)
    }
}

/// Scores and follows up to [`LANES`] observations, each of another series; those beyond are left alone.
#[inline]
pub fn observe(settings: &DeviationSettings, observations: &mut [Observation<'_>]) -> Outcomes<LANES> {
    observe_while(settings, observations, |_, _| ())
}

/// As [`observe`], and calls `meanwhile` now and then: with each number below [`STOPS`] and each lane. It should be short: to
/// ask memory for a line of what is observed next. A processor waits for about a dozen lines at once, so that asking for
/// all of them in one go would stop it.
#[inline]
pub fn observe_while(
    settings: &DeviationSettings,
    observations: &mut [Observation<'_>],
    meanwhile: impl FnMut(usize, usize),
) -> Outcomes<LANES> {
    #[cfg(target_arch = "x86_64")]
    if avx2::get() {
        // SAFETY: the processor has AVX2, and the system keeps its registers: `avx2::get` asked for both.
        return unsafe { observe_with_avx2(settings, observations, meanwhile) };
    }
    observe_anywhere(settings, observations, meanwhile)
}

/// Scores and follows one observation.
#[inline(never)]
pub fn observe_one(settings: &DeviationSettings, observation: Observation<'_>) -> Outcomes<1> {
    observe_lanes(settings, &mut [observation], Anywhere, |_, _| ())
}

#[inline(never)]
fn observe_anywhere(
    settings: &DeviationSettings,
    observations: &mut [Observation<'_>],
    meanwhile: impl FnMut(usize, usize),
) -> Outcomes<LANES> {
    observe_lanes(settings, observations, Anywhere, meanwhile)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline(never)]
fn observe_with_avx2(
    settings: &DeviationSettings,
    observations: &mut [Observation<'_>],
    meanwhile: impl FnMut(usize, usize),
) -> Outcomes<LANES> {
    // SAFETY: this function may be called on such a processor only.
    let turn = unsafe { Avx2::new() };
    observe_lanes(settings, observations, turn, meanwhile)
}

#[inline(always)]
fn observe_lanes<const N: usize>(
    settings: &DeviationSettings,
    observations: &mut [Observation<'_>],
    turn: impl Turn<N>,
    mut meanwhile: impl FnMut(usize, usize),
) -> Outcomes<N> {
    let scores = score::step(observations, turn, &mut meanwhile);
    let courses = deviation::follow(settings, observations, &scores, turn, &mut meanwhile);
    Outcomes { scores, courses }
}

#[cfg(target_arch = "x86_64")]
cpufeatures::new!(avx2, "avx2");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score::SeriesState;
    use proptest::prelude::*;
    use std::{format, string::String, vec::Vec};
    use vedette_common::WallMs;

    type Series = (SeriesState, DeviationState);

    /// When, what, and whether seasons rest.
    type Given = (i64, f64, bool);

    fn observation(series: &mut Series, (at_ms, value, rests): Given) -> Observation<'_> {
        let learning = if rests { Learning::SeasonRests } else { Learning::Normal };
        let moment = Moment::new(WallMs(at_ms), 3_600);
        let (state, week) = series.0.parts();
        Observation { state, week, deviation: &mut series.1, moment, value, learning, in_event: rests }
    }

    /// Values of eight kinds: lively, counts, signed, constant, rare, huge, stuck and garbage.
    fn value(kind: usize, step: i64, random: u32) -> f64 {
        let noise = f64::from(random >> 8) / 16_777_216.0;
        match kind {
            0 => 100.0 + 10.0 * noise + (step / 40 % 24) as f64,
            1 => (noise * 4.0).floor(),
            2 => noise - 0.5,
            3 => 7.0,
            4 => {
                if random > 4_000_000_000 {
                    9.0
                } else {
                    0.0
                }
            }
            5 => 1.0e15 * noise,
            6 => {
                if step % 400 > 300 {
                    55.5
                } else {
                    50.0 + noise
                }
            }
            _ => [f64::NAN, f64::INFINITY, -1.0e300, 1.0e-300, 3.0][random as usize % 5],
        }
    }

    fn told_together(
        series: &mut [Series],
        given: &[Given],
        observe: impl FnOnce(&mut [Observation<'_>]) -> Outcomes<LANES>,
    ) -> Vec<String> {
        let pairs = series.iter_mut().zip(given);
        let mut seen: Vec<_> = pairs.map(|(one, given)| observation(one, *given)).collect();
        let outcomes = observe(&mut seen);
        let told = |lane| format!("{:?} {:?}", outcomes.scores.score(lane), outcomes.courses[lane]);
        (0..seen.len()).map(told).collect()
    }

    /// The same observations one by one, side by side, and side by side by the text for any processor.
    fn compare(seed: u32, steps: i64) -> Result<(), TestCaseError> {
        let new = |kind: usize| (SeriesState::new(seed ^ kind as u32), DeviationState::default());
        let mut alone: Vec<Series> = (0..LANES).map(new).collect();
        let (mut together, mut anywhere) = (alone.clone(), alone.clone());
        let (settings, mut random) = (DeviationSettings::default(), seed | 1);
        for step in 0..steps {
            let given: [Given; LANES] = core::array::from_fn(|kind| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let late_ms = i64::from(random % 7) * 1_000;
                (step * 300_000 - late_ms, value(kind, step, random), step % 500 > 480)
            });
            let count = 1 + random as usize % LANES;
            let lanes = told_together(&mut together[..count], &given, |seen| observe(&settings, seen));
            let plain = told_together(&mut anywhere[..count], &given, |seen| {
                observe_anywhere(&settings, seen, |_, _| ())
            });
            let ones: Vec<String> = alone[..count]
                .iter_mut()
                .zip(given)
                .map(|(one, given)| {
                    let outcome = observe_one(&settings, observation(one, given));
                    format!("{:?} {:?}", outcome.scores.score(0), outcome.courses[0])
                })
                .collect();
            prop_assert_eq!(&lanes, &ones, "at step {}", step);
            prop_assert_eq!(&plain, &ones, "at step {}", step);
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn side_by_side_is_as_one_by_one(seed in any::<u32>()) {
            compare(seed, 3_000)?;
        }
    }
}
