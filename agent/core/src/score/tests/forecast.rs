//! Tests of the forecasts of one series: the next value, its band, clocks and gaps, sizes, and a new level.

use super::*;

/// The forecasts of a noisy day at one interval: mean errors relative to its mean, of `next` and of `expected`, and
/// the share of values inside the band, over the last half of `days`.
fn follow(
    step_s: i64,
    days: i64,
    offset_s: impl Fn(i64) -> i32,
    truth: impl Fn(i64) -> f64,
) -> (f64, f64, f64) {
    let (mut series, mut dice, mut drift) = (SeriesState::new(3), Dice(77), 0.0);
    let (mut next, mut expected, mut inside, mut count, mut sum) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for n in 0..days * DAY_S / step_s {
        let at_s = 1_771_977_600 + n * step_s;
        let moment = Moment::new(WallMs(at_s * 1_000), offset_s(at_s));
        // What echoes: it returns by nine tenths.
        drift = 0.9 * drift + 0.02 * dice.normal();
        let value = truth(moment.local_s) * (1.0 + drift + 0.005 * dice.normal());
        let score = series.update(moment, value, Learning::Normal);
        if n >= days * DAY_S / step_s / 2 {
            next += (value - f64::from(score.next)).abs();
            expected += (value - f64::from(score.expected)).abs();
            inside += if (value - f64::from(score.next)).abs() <= f64::from(score.band) { 1.0 } else { 0.0 };
            (count, sum) = (count + 1.0, sum + value);
        }
    }
    (next / sum, expected / sum, inside / count)
}

#[test]
fn the_next_value_is_foretold_better_than_expected_and_the_band_holds_nine_of_ten() {
    for (step_s, days) in [(10, 6), (60, 14), (300, 42), (3_600, 120)] {
        let (next, expected, inside) = follow(step_s, days, |_| 3_600, |local_s| traffic(local_s, 1_000.0));
        assert!(next < 0.8 * expected, "every {step_s} s: {next} against {expected}");
        assert!((0.88..0.92).contains(&inside), "every {step_s} s: {inside}");
    }
}

#[test]
fn seasons_follow_the_clock_of_the_region_through_its_changes() {
    // Summer time from day 60 of 120: the people's day moves by an hour of Unix time, and nothing is learned anew.
    let changed = |at_s: i64| if at_s < 1_771_977_600 + 60 * DAY_S { 0 } else { 3_600 };
    let people = |local_s: i64| traffic(local_s, 1_000.0);
    let (_, steady, _) = follow(900, 120, |_| 0, people);
    let (_, through, _) = follow(900, 120, changed, people);
    assert!(through < 1.1 * steady, "{through} against {steady} without a change");
}

#[test]
fn a_gap_of_any_length_and_another_interval_leave_the_forecast_useful() {
    for (gap_s, step_s) in
        [(600, 300), (DAY_S, 300), (90 * DAY_S, 300), (0, 10), (0, 3_600), (90 * DAY_S, 3_600)]
    {
        let mut run = Run::new(5, 400.0);
        run.go(28 * DAY_S, 1.0, Learning::Normal);
        run.at_s += gap_s;
        let (mut expected, mut next, mut truth) = (0.0, 0.0, 0.0);
        for _ in 0..(DAY_S / step_s) {
            let mean = traffic(run.at_s, 400.0);
            let score = run.series.update(moment(run.at_s), run.dice.count(mean), Learning::Normal);
            (expected, next) = (expected + f64::from(score.expected), next + f64::from(score.next));
            truth += mean;
            run.at_s += step_s;
        }
        for ratio in [expected / truth, next / truth] {
            assert!((ratio - 1.0).abs() < 0.12, "gap {gap_s} s, then every {step_s} s: {ratio}");
        }
    }
}

#[test]
fn repeated_late_and_backward_stamps_do_little() {
    let mut run = Run::new(5, 400.0);
    run.go(28 * DAY_S, 1.0, Learning::Normal);
    for n in 0..2_000_i64 {
        // Thousands of copies of one moment, and records of hours ago.
        let at_s = run.at_s - if n % 2 == 0 { 0 } else { n % 7 * 3_600 };
        let value = run.dice.count(traffic(at_s, 400.0));
        assert_finite(&run.series.update(moment(at_s), value, Learning::Normal));
    }
    let after = run.go(DAY_S, 1.0, Learning::Normal);
    assert!((after.expected / after.truth - 1.0).abs() < 0.1, "{}", after.expected / after.truth);
}

#[test]
fn constant_series_and_series_of_zero_and_one_are_forecast_plainly() {
    for constant in [0.0, 1.0e-9, -3.0, 5.0, 1.0e15] {
        let mut series = SeriesState::new(2);
        for n in 0..3_000 {
            let score = series.update(moment(n * STEP_S), constant, Learning::Normal);
            for forecast in [score.expected, score.next] {
                let error = (f64::from(forecast) - constant).abs();
                assert!(error <= 1.0e-3 * constant.abs() + 1.0e-20, "{constant} after {n}: {score:?}");
            }
            assert!(f64::from(score.band) <= 1.0e-2 * constant.abs() + 1.0e-12, "{constant}: {score:?}");
        }
    }
    let (mut series, mut dice, mut sum) = (SeriesState::new(2), Dice(5), 0.0);
    for n in 0..6_000 {
        let bit = if dice.uniform() < 0.2 { 1.0 } else { 0.0 };
        let score = series.update(moment(n * STEP_S), bit, Learning::Normal);
        let sound = (0.0..=1.0).contains(&score.expected) && (0.0..=1.1).contains(&score.next);
        assert!(sound || n < 200, "{score:?}");
        sum += if n >= 3_000 { f64::from(score.expected) } else { 0.0 };
    }
    assert!((sum / 3_000.0 - 0.2).abs() < 0.03, "{}", sum / 3_000.0);
}

#[test]
fn forecasts_are_as_good_at_any_size() {
    let small = follow(900, 40, |_| 0, |local_s| traffic(local_s, 1.0));
    for size in [1.0e-9, 1.0e6, 1.0e15] {
        let (next, _, inside) = follow(900, 40, |_| 0, |local_s| traffic(local_s, size));
        assert!((next / small.0 - 1.0).abs() < 0.05, "{size}: {next} against {}", small.0);
        assert!((0.87..0.93).contains(&inside), "{size}: {inside}");
    }
}

#[test]
fn a_lasting_shift_is_told_once_and_learned_at_every_interval() {
    for (seed, step_s) in (1..=3).flat_map(|seed| [10, 60, 300, 3_600].map(|step_s| (seed, step_s))) {
        let mut series = Steady::new(seed, step_s);
        let per_day = (DAY_S / step_s) as usize;
        (0..3 * per_day).for_each(|_| _ = series.observe(400.0));
        let shifted: [(usize, f64); 2] = [1, 2].map(|_| {
            let day: std::vec::Vec<_> = (0..per_day).map(|_| series.observe(800.0)).collect();
            let onsets = day.iter().filter(|(phase, _)| *phase == Some(Phase::Onset)).count();
            (onsets, day.iter().map(|(_, expected)| expected).sum::<f64>() / per_day as f64)
        });
        assert!(shifted[0].0 == 1 && shifted[1].0 <= 1, "every {step_s} s, seed {seed}: {shifted:?}");
        assert!((shifted[1].1 / 800.0 - 1.0).abs() < 0.1, "every {step_s} s, seed {seed}: {shifted:?}");
    }
}
