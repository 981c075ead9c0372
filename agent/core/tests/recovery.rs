//! What a series survives: garbage, odd clocks, gaps, a changed interval, a new level; and what never alarms.
//!
//! It must never be content with numbers that are finite: healthy means calm on good data, with a forecast near them,
//! and awake when they fall. The hard case is garbage of any size at any time, just before good data begin.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "quality_grid/random.rs"]
#[allow(dead_code, reason = "the grid uses all of it")]
mod random;

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use random::Dice;
use vedette_agent_core::batch::{self, Observation};
use vedette_agent_core::deviation::{DeviationSettings, DeviationState};
use vedette_agent_core::score::{Learning, Moment, SeriesState};
use vedette_common::WallMs;
use vedette_common::wire::{Course, Direction, Phase, Scorer};

const START_S: i64 = 1_771_804_800;
const DAY_S: i64 = 86_400;

/// A series, its deviation, and what was told so far.
struct Watch {
    series: SeriesState,
    deviation: DeviationState,
    dice: Dice,
    at_s: i64,
    expected: f64,
    onsets: Vec<(i64, Scorer, Direction)>,
    deviating: u32,
}

impl Watch {
    fn new(seed: u64) -> Self {
        Self {
            series: SeriesState::new(seed as u32),
            deviation: DeviationState::default(),
            dice: Dice::new(seed),
            at_s: START_S,
            expected: 0.0,
            onsets: Vec::new(),
            deviating: 0,
        }
    }

    fn observe(&mut self, at: WallMs, value: f64) -> Option<Course> {
        let (state, week) = self.series.parts();
        let one = Observation {
            state,
            week,
            deviation: &mut self.deviation,
            moment: Moment::new(at, 0),
            value,
            learning: Learning::Normal,
            in_event: false,
        };
        let outcome = batch::observe_one(&DeviationSettings::default(), one);
        let (score, course) = (outcome.scores.score(0), outcome.courses[0]);
        assert!(score.expected.is_finite() && score.usual.is_finite() && score.usual >= 0.0, "{score:?}");
        self.expected = f64::from(score.expected);
        if let Some(Course { phase: Phase::Onset, scorer, direction, .. }) = course {
            self.onsets.push((at.0.div_euclid(1_000) - START_S, scorer, direction));
        }
        self.deviating += u32::from(self.deviation.is_deviating());
        course
    }

    /// `count` good values about `level`, every `step_s` seconds.
    fn live(&mut self, count: usize, step_s: i64, level: f64) {
        (self.onsets, self.deviating) = (Vec::new(), 0);
        for _ in 0..count {
            let value = level * (1.0 + 0.05 * self.dice.normal());
            self.observe(WallMs(self.at_s * 1_000), value);
            self.at_s += step_s;
        }
    }

    /// Calm but for a false alarm at most, with a forecast near `level`, and awake when the values fall to a fifth.
    fn assert_healthy(&mut self, step_s: i64, level: f64) {
        self.live(100, step_s, level);
        assert!(
            self.deviating <= 40,
            "deviating for {} of 100 good values: {:?}",
            self.deviating,
            self.onsets
        );
        let ratio = self.expected / level;
        assert!((0.8..1.25).contains(&ratio), "expected {ratio} of the level {level}");
        self.live(12, step_s, 0.2 * level);
        let told = self.onsets.iter().any(|told| (told.1, told.2) == (Scorer::Value, Direction::Down));
        assert!(told, "a fall to a fifth of {level}: {:?}", self.onsets);
    }
}

fn odd_value() -> impl Strategy<Value = f64> {
    let odd = [0.0, -0.0, 1.0, f64::MAX, f64::MIN, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.0e-300];
    prop_oneof![any::<f64>(), -1.0e15..1.0e15_f64, 0.0..1.0e-9_f64, prop::sample::select(odd.to_vec())]
}

fn odd_time() -> impl Strategy<Value = i64> {
    let near = (START_S - 90 * DAY_S) * 1_000..(START_S + 90 * DAY_S) * 1_000;
    prop_oneof![any::<i64>(), near, prop::sample::select(vec![0, -1, i64::MAX, i64::MIN])]
}

/// Where the cases begin: the same each time, so that a failure says something of the change under test. Two of them once
/// found a case that failed. `VEDETTE_RECOVERY_SEED=5` tries another one.
const SEEDS: [u64; 4] = [1, 2, 37, 40];

/// Tries a claim on many cases.
fn hold<S: Strategy>(strategy: &S, claim: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let one = std::env::var("VEDETTE_RECOVERY_SEED").ok().map(|text| text.parse().unwrap());
    for seed in SEEDS.into_iter().map(|seed| one.unwrap_or(seed)).take(one.map_or(SEEDS.len(), |_| 1)) {
        let config = ProptestConfig {
            cases: 48,
            rng_seed: RngSeed::Fixed(seed),
            failure_persistence: None,
            ..ProptestConfig::default()
        };
        let held = TestRunner::new(config).run(strategy, &claim);
        assert!(held.is_ok(), "VEDETTE_RECOVERY_SEED={seed}: {held:?}");
    }
}

#[test]
fn a_series_is_healthy_after_two_days_of_good_values_whatever_came_before() {
    let garbage = prop::collection::vec((odd_value(), odd_time()), 0..400);
    let steps_s = prop::sample::select(vec![10_i64, 60, 300]);
    hold(&(garbage, 1..u64::MAX / 2, -9..=15_i32, steps_s), |(garbage, seed, exponent, step_s)| {
        let level = libm::pow(10.0, f64::from(exponent));
        let mut watch = Watch::new(seed);
        for (value, at_ms) in garbage {
            watch.observe(WallMs(at_ms), value);
        }
        // What follows garbage is a new level: it is looked at for a working day before it is believed, and then each
        // hour of the day has to come round once more.
        watch.live((2 * DAY_S / step_s) as usize, step_s, level);
        watch.assert_healthy(step_s, level);
        Ok(())
    });
}

/// What a day is like: half as much more at noon, half as much less at night.
fn by_hour(at_s: i64) -> f64 {
    let turn = (at_s.rem_euclid(DAY_S) as f64 / DAY_S as f64 - 0.35) * core::f64::consts::TAU;
    100.0 * (1.0 + 0.5 * libm::sin(turn))
}

#[test]
fn zeros_and_other_small_garbage_in_hours_of_the_first_day_is_forgotten_in_the_fifth_week() {
    let factors = prop::sample::select(vec![0.0, 0.1, 0.5, -1.0]);
    let steps_s = prop::sample::select(vec![300_i64, 900]);
    hold(
        &(1..u64::MAX / 2, factors, 0..18_i64, 1..=6_i64, steps_s),
        |(seed, factor, from, hours, step_s)| {
            let mut watch = Watch::new(seed);
            let (mut deviating, mut errors) = (0, [0.0; 24]);
            for step in 0..35 * DAY_S / step_s {
                let (after_s, truth) = (step * step_s, by_hour(START_S + step * step_s));
                let is_garbage = (from * 3_600..(from + hours) * 3_600).contains(&after_s);
                let value =
                    truth * (1.0 + 0.05 * watch.dice.normal()) * if is_garbage { factor } else { 1.0 };
                watch.observe(WallMs((START_S + after_s) * 1_000), value);
                if after_s >= 28 * DAY_S {
                    errors[(after_s / 3_600 % 24) as usize] += (watch.expected / truth - 1.0).abs();
                    deviating += i64::from(watch.deviation.is_deviating());
                }
            }
            // The mean of a week's errors at the worst hour of the day.
            let worst = errors.into_iter().fold(0.0, f64::max) / (7 * 3_600 / step_s) as f64;
            prop_assert!(worst < 0.2, "an hour is off by {worst}");
            prop_assert!(deviating * 10 < 7 * DAY_S / step_s, "deviating for {deviating} of a week's values");
            Ok(())
        },
    );
}

/// The mean error of the forecasts of a Wednesday and of the Thursday after it, six weeks on. The Wednesday may be a
/// holiday that was announced, and goes like a Sunday then, of so much less or more than other days.
fn errors_around(seed: u64, holiday: bool, sunday: f64, step_s: i64) -> [f64; 2] {
    let (mut watch, mut errors) = (Watch::new(seed), [0.0; 2]);
    for step in 0..46 * DAY_S / step_s {
        // The first day is a Monday, and day 44 a Wednesday.
        let (at_s, day) = (START_S + step * step_s, step * step_s / DAY_S);
        let is_holiday = holiday && day == 44;
        let truth = by_hour(at_s) * if day % 7 >= 5 || is_holiday { sunday } else { 1.0 };
        let value = truth * (1.0 + 0.05 * watch.dice.normal());
        let learning = if is_holiday { Learning::SeasonRests } else { Learning::Normal };
        let score = watch.series.update(Moment::new(WallMs(at_s * 1_000), 0), value, learning);
        if day >= 44 {
            let error = (f64::from(score.expected) / truth - 1.0).abs();
            errors[usize::from(day == 45)] += error * step_s as f64 / DAY_S as f64;
        }
    }
    errors
}

#[test]
fn the_day_after_an_announced_holiday_is_forecast_as_if_the_holiday_had_not_been() {
    for (seed, sunday, step_s) in
        [(1, 0.5, 300), (2, 0.8, 300), (3, 1.5, 300), (4, 0.5, 3_600), (5, 1.5, 3_600)]
    {
        let [usual, _] = errors_around(seed, false, sunday, step_s);
        let [of_holiday, after] = errors_around(seed, true, sunday, step_s);
        assert!(of_holiday > 0.15, "it was no ordinary day: {of_holiday}");
        assert!(after < usual + 0.03, "Sundays x {sunday} every {step_s} s: {after} after it, else {usual}");
    }
}

/// What a series tells in the four hours after a gap, and that it is healthy then.
fn live_through_gap(seed: u64, gap_s: i64) {
    let mut watch = Watch::new(seed);
    watch.live(2_000, 300, 100.0);
    watch.at_s += gap_s;
    watch.live(50, 300, 100.0);
    assert!(watch.onsets.len() <= 2, "after {gap_s} s: {:?}", watch.onsets);
    watch.assert_healthy(300, 100.0);
}

#[test]
fn gaps_of_minutes_to_months_harm_nothing() {
    let gaps_s = prop::sample::select(vec![600, 7_200, DAY_S, 30 * DAY_S, 200 * DAY_S]);
    hold(&(1..u64::MAX / 2, gaps_s), |(seed, gap_s)| {
        live_through_gap(seed, gap_s);
        Ok(())
    });
}

/// The one error after the gap was a third of what is usual of the spread from then on.
#[test]
fn the_first_error_after_a_gap_of_a_day_says_little_of_the_spread() {
    for seed in [8_371_124_620_799_731_176, 3_297_563_374_151_076_575] {
        live_through_gap(seed, DAY_S);
    }
}

#[test]
fn an_interval_may_change() {
    let steps_s = || prop::sample::select(vec![10_i64, 60, 300, 3_600]);
    hold(&(1..u64::MAX / 2, steps_s(), steps_s()), |(seed, from_s, to_s)| {
        let mut watch = Watch::new(seed);
        watch.live(1_500, from_s, 100.0);
        watch.live(300, to_s, 100.0);
        prop_assert!(watch.onsets.len() <= 2, "{from_s} s to {to_s} s: {:?}", watch.onsets);
        watch.live(200, to_s, 100.0);
        watch.assert_healthy(to_s, 100.0);
        Ok(())
    });
}

#[test]
fn times_that_repeat_or_run_backwards_harm_nothing() {
    let jumps = prop::collection::vec(-100_000..100_000_i64, 200);
    hold(&(1..u64::MAX / 2, jumps), |(seed, jumps)| {
        let mut watch = Watch::new(seed);
        watch.live(1_000, 60, 100.0);
        let at_s = watch.at_s;
        for jump_s in jumps {
            let value = 100.0 + 5.0 * watch.dice.normal();
            watch.observe(WallMs((at_s + jump_s) * 1_000), value);
        }
        watch.at_s = at_s + 100_000;
        watch.live(3_000, 60, 100.0);
        watch.assert_healthy(60, 100.0);
        Ok(())
    });
}

#[test]
fn a_new_level_is_told_once_and_learned_within_a_day() {
    for (seed, share) in [(1, 0.5), (2, 2.0), (3, 0.1), (4, 10.0)] {
        for step_s in [60, 300] {
            let mut watch = Watch::new(seed);
            watch.live((7 * DAY_S / step_s) as usize, step_s, 100.0);
            watch.live((DAY_S / step_s) as usize, step_s, 100.0 * share);
            let values = watch.onsets.iter().filter(|(_, scorer, _)| *scorer == Scorer::Value).count();
            assert_eq!(
                (values, watch.onsets.len()),
                (1, 1),
                "x {share} every {step_s} s: {:?}",
                watch.onsets
            );
            assert!(!watch.deviation.is_deviating(), "x {share} every {step_s} s: learned within a day");
            watch.live((3 * DAY_S / step_s) as usize, step_s, 100.0 * share);
            // In three days a false one is allowed.
            assert!(watch.onsets.len() <= 1, "x {share} every {step_s} s, after it: {:?}", watch.onsets);
        }
    }
}

#[test]
fn zeros_and_ones_raise_little() {
    for (seed, share) in [(1, 0.5), (2, 0.1), (3, 0.9), (4, 0.01), (5, 0.99)] {
        let mut watch = Watch::new(seed);
        for _ in 0..20_000 {
            let value = f64::from(u8::from(watch.dice.uniform() < share));
            watch.observe(WallMs(watch.at_s * 1_000), value);
            watch.at_s += 60;
        }
        assert!(watch.onsets.len() <= 30, "share {share}: {} in 20,000", watch.onsets.len());
    }
}

#[test]
fn a_constant_is_calm_and_its_change_is_told() {
    for value in [0.0, 1.0, -1.0, 1.0e-9, 1.0e15] {
        let mut watch = Watch::new(1);
        for _ in 0..5_000 {
            watch.observe(WallMs(watch.at_s * 1_000), value);
            watch.at_s += 60;
        }
        assert!(watch.onsets.is_empty(), "{value}: {:?}", watch.onsets);
        for _ in 0..5 {
            watch.observe(WallMs(watch.at_s * 1_000), 3.0 * value + 1.0e-12);
            watch.at_s += 60;
        }
        assert_eq!(watch.onsets.len(), 1, "{value} to three times it");
    }
}
