//! Tests of one series as a whole: what it gives on garbage, on clean seasons, in a fault, after a new level.

extern crate std;

mod forecast;

use std::vec;

use proptest::prelude::*;

use super::*;
use crate::batch::{self, Observation};
use crate::deviation::{DeviationSettings, DeviationState};
use vedette_common::wire::{Course, Phase};

const STEP_S: i64 = 300;
const DAY_S: i64 = 86_400;

/// A generator for made-up series, without a platform's libm.
struct Dice(u64);

impl Dice {
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// About normal: the sum of twelve.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }

    /// A count with this mean, by the normal approximation.
    fn count(&mut self, mean: f64) -> f64 {
        libm::round(mean + libm::sqrt(mean) * self.normal()).max(0.0)
    }
}

/// Traffic with a day and a week: low at night, high in the evening, other weekends.
fn traffic(at_s: i64, size: f64) -> f64 {
    let hour = at_s.rem_euclid(DAY_S) as f64 / 3_600.0;
    let weekend = matches!((at_s.div_euclid(DAY_S) + 4).rem_euclid(7), 0 | 6);
    let bump = |middle: f64, width: f64| libm::exp(-((hour - middle) / width) * ((hour - middle) / width));
    let shape = if weekend {
        0.3 + 0.7 * bump(16.0, 5.0)
    } else {
        0.15 + 0.4 * bump(11.0, 4.0) + 0.8 * bump(20.0, 2.5)
    };
    size * shape
}

fn moment(at_s: i64) -> Moment {
    Moment::new(WallMs(at_s * 1_000), 0)
}

/// A series of counts, and the share of traffic that reaches it.
struct Run {
    series: SeriesState,
    deviation: DeviationState,
    dice: Dice,
    at_s: i64,
    size: f64,
}

#[derive(Default)]
struct Totals {
    expected: f64,
    truth: f64,
    onsets: u32,
    deviating: u32,
    steps: u32,
}

impl Run {
    fn new(seed: u64, size: f64) -> Self {
        Run {
            series: SeriesState::new(seed as u32),
            deviation: DeviationState::default(),
            dice: Dice(seed * 0x9e37_79b9 + 1),
            at_s: 1_771_977_600,
            size,
        }
    }

    fn go(&mut self, seconds: i64, share: f64, learning: Learning) -> Totals {
        let mut totals = Totals::default();
        let end_s = self.at_s + seconds;
        while self.at_s < end_s {
            let truth = traffic(self.at_s, self.size);
            let value = self.dice.count(share * truth);
            let (score, course) = follow(&mut self.series, &mut self.deviation, self.at_s, value, learning);
            totals.onsets += u32::from(course.is_some_and(|c| c.phase == Phase::Onset));
            totals.deviating += u32::from(self.deviation.is_deviating());
            totals.steps += 1;
            totals.expected += f64::from(score.expected);
            totals.truth += truth;
            self.at_s += STEP_S;
        }
        totals
    }
}

/// One observation through scorers and deviation.
fn follow(
    state: &mut SeriesState,
    deviation: &mut DeviationState,
    at_s: i64,
    value: f64,
    learning: Learning,
) -> (Score, Option<Course>) {
    let (moment, (state, week)) = (moment(at_s), state.parts());
    let one = Observation { state, week, deviation, moment, value, learning, in_event: false };
    let outcome = batch::observe_one(&DeviationSettings::default(), one);
    (outcome.scores.score(0), outcome.courses[0])
}

/// Steady counts of one mean at one interval.
struct Steady {
    series: SeriesState,
    deviation: DeviationState,
    dice: Dice,
    at_s: i64,
    step_s: i64,
}

impl Steady {
    fn new(seed: u64, step_s: i64) -> Self {
        let mut dice = Dice(seed * 0x9e37_79b9 + 1);
        (0..20).for_each(|_| _ = dice.uniform());
        let at_s = 1_771_977_600 + seed as i64 * 4_711;
        Steady {
            series: SeriesState::new(seed as u32),
            deviation: DeviationState::default(),
            dice,
            at_s,
            step_s,
        }
    }

    /// One observation: its phase and its forecast.
    fn observe(&mut self, mean: f64) -> (Option<Phase>, f64) {
        let value = self.dice.count(mean);
        let (score, course) =
            follow(&mut self.series, &mut self.deviation, self.at_s, value, Learning::Normal);
        self.at_s += self.step_s;
        (course.map(|c| c.phase), f64::from(score.expected))
    }

    /// Observations until this phase, at most so many.
    fn until(&mut self, phase: Phase, mean: f64, most: usize) -> usize {
        (1..=most).find(|_| self.observe(mean).0 == Some(phase)).unwrap_or(usize::MAX)
    }
}

const STEPS_S: [i64; 5] = [1, 10, 60, 300, 3_600];

#[test]
fn a_jump_begins_and_ends_a_deviation_at_every_interval() {
    for (seed, step_s) in (1..=10).flat_map(|seed| STEPS_S.map(|step_s| (seed, step_s))) {
        let mut series = Steady::new(seed, step_s);
        (0..100).for_each(|_| _ = series.observe(200.0));
        let onset = series.until(Phase::Onset, 1_800.0, 10);
        assert!(onset <= 3, "every {step_s} s, seed {seed}: onset at {onset}");
        // A working day later it would be the new level.
        let fault = (4 * 3_600 / step_s).clamp(1, 60);
        let lasts = (0..fault).all(|_| series.observe(1_800.0).0 == Some(Phase::Ongoing));
        assert!(lasts, "every {step_s} s, seed {seed}");
        let calm = DeviationSettings::default().calm_ms_max / 1_000 / step_s;
        let ended = series.until(Phase::Ended, 200.0, 700);
        // So young a series learns hours from what lasts: it may take two hours and a half.
        assert!(ended <= calm as usize + 30, "every {step_s} s, seed {seed}: ended after {ended}");
    }
}

#[test]
fn a_drop_of_fast_counts_shows_and_the_forecast_stays() {
    let mut late = 0;
    for (seed, step_s) in (1..=10).flat_map(|seed| [1, 10].map(|step_s| (seed, step_s))) {
        for (mean, share) in [(50.0, 0.4), (50.0, 0.1), (200.0, 0.4), (1_000.0, 0.4), (1_000.0, 0.1)] {
            let mut series = Steady::new(seed, step_s);
            (0..100).for_each(|_| _ = series.observe(mean));
            let onset = series.until(Phase::Onset, share * mean, 60);
            assert!(onset <= 60, "every {step_s} s, {mean} times {share}, seed {seed}: no onset");
            late += u32::from(onset > 6);
            for n in onset..60 {
                let ratio = series.observe(share * mean).1 / mean;
                assert!((ratio - 1.0).abs() < 0.1, "every {step_s} s, {mean} times {share}: {ratio} at {n}");
            }
        }
    }
    assert!(late <= 5, "{late} of 100 later than six observations");
}

#[test]
fn noise_at_any_interval_raises_little() {
    for step_s in STEPS_S {
        let mut onsets = 0;
        for seed in 1..=4 {
            let mut series = Steady::new(seed, step_s);
            (0..100).for_each(|_| _ = series.observe(200.0));
            onsets += (0..5_000).filter(|_| series.observe(200.0).0 == Some(Phase::Onset)).count();
        }
        assert!(onsets <= 4, "every {step_s} s: {onsets} false deviations in 20,000 observations");
    }
}

#[test]
fn the_forecast_of_clean_counts_is_unbiased_and_raises_little() {
    for seed in 1..6 {
        let mut run = Run::new(seed, 400.0);
        run.go(14 * DAY_S, 1.0, Learning::Normal);
        let week = run.go(7 * DAY_S, 1.0, Learning::Normal);
        let ratio = week.expected / week.truth;
        assert!((ratio - 1.0).abs() < 0.02, "seed {seed}: {ratio}");
        assert!(week.onsets <= 2, "seed {seed}: {} false deviations in a week", week.onsets);
    }
}

#[test]
fn a_fault_stays_visible_and_is_one_deviation() {
    for (seed, share) in [(1, 0.2), (2, 0.4), (3, 0.6), (4, 1.8)] {
        let mut run = Run::new(seed, 400.0);
        run.go(21 * DAY_S + 17 * 3_600, 1.0, Learning::Normal);
        let fault = run.go(4 * 3_600, share, Learning::Normal);
        let ratio = fault.expected / fault.truth;
        assert!((ratio - 1.0).abs() < 0.1, "share {share}: expected {ratio} of the truth");
        assert!(fault.deviating > fault.steps * 2 / 3, "share {share}: {} steps", fault.deviating);
        run.go(3 * 3_600, 1.0, Learning::Normal);
        assert!(!run.deviation.is_deviating(), "share {share}: it has returned");
    }
}

#[test]
fn a_new_level_is_learned_within_two_days() {
    for share in [0.5, 2.0] {
        let mut run = Run::new(7, 400.0);
        run.go(21 * DAY_S, 1.0, Learning::Normal);
        run.go(2 * DAY_S, share, Learning::Normal);
        let day = run.go(DAY_S, share, Learning::Normal);
        let ratio = day.expected / (share * day.truth);
        assert!((ratio - 1.0).abs() < 0.15, "share {share}: {ratio}");
        assert!(day.deviating < day.steps / 4, "share {share}: {}", day.deviating);
    }
}

#[test]
fn a_scheduled_event_does_not_become_the_expectation() {
    let mut run = Run::new(9, 400.0);
    run.go(21 * DAY_S, 1.0, Learning::Normal);
    run.go(20 * 3_600, 1.6, Learning::SeasonRests);
    let after = run.go(3_600, 1.0, Learning::Normal);
    let ratio = after.expected / after.truth;
    assert!((ratio - 1.0).abs() < 0.06, "{ratio}");
}

#[test]
fn warm_up_reports_nothing() {
    let mut series = SeriesState::new(0);
    for n in 0..i64::from(WARM_UP_OBSERVATIONS) {
        let score = series.update(moment(n * STEP_S), 1_000.0 * n as f64, Learning::Normal);
        assert!(!score.ready && score.combined == 0.0 && score.surprise == 0.0);
    }
    assert!(series.update(moment(99_999), 0.0, Learning::Normal).ready);
}

#[test]
fn a_spike_stands_out_in_series_of_any_size() {
    for size in [1.0e-9, 1.0e-3, 1.0, 1.0e6, 1.0e15] {
        let (mut series, mut dice) = (SeriesState::new(1), Dice(42));
        for n in 0..2_000 {
            series.update(moment(n * STEP_S), size * (10.0 + dice.normal()), Learning::Normal);
        }
        let spike = series.update(moment(2_000 * STEP_S), size * 40.0, Learning::Normal);
        assert!(spike.combined > 0.5 && spike.strain > 3.0, "size {size}: {spike:?}");
        assert_eq!(spike.direction, Direction::Up);
        assert!((f64::from(spike.expected) / size - 10.0).abs() < 1.0, "size {size}: {spike:?}");
    }
}

#[test]
fn a_series_that_began_with_garbage_sees_again_within_a_few_hundred() {
    for (size, count) in [(1.0e6, 1), (1.0e6, 100), (1.0e12, 50), (1.0e18, 1), (1.0e18, 400)] {
        let (mut series, mut dice) = (SeriesState::new(1), Dice(42));
        for n in 0..count {
            series.update(moment(n * STEP_S), size * (1.0 - 2.0 * dice.uniform()), Learning::Normal);
        }
        for n in count..count + 400 {
            series.update(moment(n * STEP_S), 100.0 + 5.0 * dice.normal(), Learning::Normal);
        }
        let spike = series.update(moment((count + 400) * STEP_S), 300.0, Learning::Normal);
        assert!(spike.ready && spike.combined > 0.5, "{count} times {size}: {spike:?}");
        assert!((spike.expected - 100.0).abs() < 10.0, "{count} times {size}: {spike:?}");
    }
}

#[test]
fn a_rare_burst_is_not_taken_for_garbage() {
    let (mut series, mut dice) = (SeriesState::new(1), Dice(42));
    for n in 0..3_000 {
        let burst = if n % 500 == 499 { 1.0e7 } else { 0.0 };
        let score = series.update(moment(n * STEP_S), burst + 100.0 + 5.0 * dice.normal(), Learning::Normal);
        assert!(score.ready || n < 40, "after {n}");
    }
}

#[test]
fn a_long_life_neither_fills_nor_goes_blind() {
    let (mut series, mut dice) = (SeriesState::new(1), Dice(42));
    for n in 0..150_000 {
        let outlier = if n == 1_000 { 1.0e15 } else { 0.0 };
        let score = series.update(moment(n * 60), outlier + 10.0 + dice.normal(), Learning::Normal);
        assert_finite(&score);
    }
    let spike = series.update(moment(150_000 * 60), 40.0, Learning::Normal);
    assert!(spike.combined > 0.5, "{spike:?}");
}

#[test]
fn zeros_before_the_first_day_spoil_no_season() {
    for (step_s, size, zeros) in [(60, 1.6e10, 1), (300, 3.0e9, 1), (300, 1.0e12, 3), (3_600, 2.0e9, 1)] {
        let (mut series, mut dice) = (SeriesState::new(1), Dice(5));
        let (mut errors, mut count) = (0.0, 0.0);
        for n in 0..14 * DAY_S / step_s {
            let phase = (n * step_s % DAY_S) as f64 / DAY_S as f64;
            let truth = size * (1.0 + 0.5 * libm::sin(core::f64::consts::TAU * phase));
            let value = if n < zeros { 0.0 } else { truth * (1.0 + 0.01 * dice.normal()) };
            let score = series.update(moment(1_771_977_600 + n * step_s), value, Learning::Normal);
            if n >= 13 * DAY_S / step_s {
                errors += (f64::from(score.expected) - truth).abs() / size;
                count += 1.0;
            }
        }
        assert!(errors / count < 0.05, "{zeros} zeros, {size} every {step_s} s: {}", errors / count);
    }
}

const GOLDEN: u64 = 0xb70f_c5d0_47f9_2c43;

/// FNV-1a over the bits of every score: the same on every target, and changed only on purpose.
#[test]
fn bits_are_the_same_everywhere() {
    let (mut series, mut dice) = (SeriesState::new(7), Dice(2026));
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for n in 0..40_000_i64 {
        let season = (n % 288 - 144).abs() as f64;
        let value = if n % 5_000 > 4_900 { 3.0 * season } else { season } + 20.0 * dice.uniform();
        let s = series.update(moment(1_700_000_000 + n * STEP_S), value, Learning::Normal);
        for part in [
            s.combined,
            s.surprise,
            s.strain,
            s.expected,
            s.next,
            s.band,
            s.forecast,
            s.derivative,
            s.distribution,
        ] {
            hash = (hash ^ u64::from(part.to_bits())).wrapping_mul(0x0100_0000_01b3);
        }
    }
    assert_eq!(hash, GOLDEN, "{hash:#018x}");
}

fn assert_finite(s: &Score) {
    for part in [s.combined, s.forecast, s.derivative, s.distribution] {
        assert!((0.0..=1.0).contains(&part), "{s:?}");
    }
    assert!(s.surprise.is_finite() && s.strain.is_finite() && s.expected.is_finite(), "{s:?}");
    assert!(s.next.is_finite() && s.band.is_finite() && s.band >= 0.0, "{s:?}");
}

fn odd_value() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        -1.0e15..1.0e15_f64,
        0.0..1.0e-9_f64,
        prop::sample::select(vec![0.0, 1.0, f64::MAX, f64::MIN, f64::NAN, f64::INFINITY, 1.0e-300]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_comes_the_series_recovers(
        garbage in prop::collection::vec((odd_value(), any::<i64>(), any::<bool>()), 0..400),
        seed in any::<u32>(),
        level in -1.0e6..1.0e6_f64,
        wave in 0.0..1.0_f64,
    ) {
        let mut series = SeriesState::new(seed);
        for (value, local_s, rests) in garbage {
            let learning = if rests { Learning::SeasonRests } else { Learning::Normal };
            let odd = Moment { at: WallMs(local_s.wrapping_mul(7)), local_s };
            assert_finite(&series.update(odd, value, learning));
        }
        let (mut rest, mut alarms) = (Rest::new(), 0);
        for n in 0..8_000_i64 {
            let value = level + wave * (n % 8) as f64;
            let now = moment(1_700_000_000 + n * STEP_S);
            let score = series.update(now, value, Learning::Normal);
            assert_finite(&score);
            let anomaly = rest.admit(&RestSettings::default(), now.at, &score);
            alarms += u32::from(n >= 600 && anomaly >= 0.5);
        }
        prop_assert!(alarms <= 5, "{alarms} alarms on a clean wave after its first 600 observations");
    }
}
