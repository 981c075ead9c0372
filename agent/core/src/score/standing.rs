//! How severe one observation is, beside how new it is: a number to rank a series' whole past by.
//!
//! It must never touch what the scorers learned, nor live in a series' state: only who ranks pays its 48 bytes; nor be
//! spoiled for ever by what it saw. The hard case is a fault that lasts: the scorers learn it and fall silent, but it
//! stays as far from the long run of the series as it was, which is the third of its three terms.

use super::approximate::{Bounded, ln};
use super::combine;
use super::{Score, VALUE_MAX};

/// Beyond so many usual errors, or standard deviations, nothing gets worse.
const ODD_MAX: f32 = 1.0e6;
/// What is new, what is far from the forecast and what is far from the mean are worth so much, in nats: never seen and
/// yet close to forecast and mean stays below the threshold; seen before, but eight usual errors and eight standard
/// deviations off, is above.
const NOVELTY_SHARE: f32 = 0.42;
const ERROR_SHARE: f32 = 0.84;
const DISTANCE_SHARE: f32 = 0.7;
/// Observations before the mean means anything.
const DISTANCE_COUNT_MIN: f64 = 10.0;

/// The long run forgets what is older than so many observations.
const COUNT_MAX: f64 = 32_768.0;
/// So many values are a stretch. A long run this many times as wild as all of a stretch, which counts as at least this
/// share of its mean, was learned from something else.
const STRETCH: f64 = 128.0;
const FOREIGN: f64 = 1_000.0;
const STRETCH_SHARE_MIN: f64 = 0.02;

/// Mean and variance of values (Welford, Technometrics 4, 1962); 24 bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Run {
    const fn new() -> Self {
        Run { count: 0.0, mean: 0.0, squares: 0.0 }
    }

    fn variance(&self) -> f64 {
        if self.count > 0.0 { self.squares / self.count } else { 0.0 }
    }

    fn learn(&mut self, value: f64) {
        if self.count >= COUNT_MAX {
            self.squares -= self.variance();
        } else {
            self.count += 1.0;
        }
        let off = value - self.mean;
        self.mean += off / self.count;
        self.squares += off * (value - self.mean);
    }
}

/// Where the values of one series stand in its long run; 48 bytes.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    long: Run,
    /// The latest values, up to a stretch.
    latest: Run,
}

impl Standing {
    /// A series of which nothing was seen.
    pub const fn new() -> Self {
        Standing { long: Run::new(), latest: Run::new() }
    }

    /// How severe the observation `value` is that `score` is of: `[0, 1]`, about 0.5 is worth a look; 0 during warm-up.
    /// To be called for each observation of the series, in order; what is not finite is as severe as can be, and is
    /// not learned.
    pub fn rank(&mut self, score: &Score, value: f64) -> f32 {
        let distance = self.distance(value);
        if value.is_finite() {
            self.learn(value.clamp(-VALUE_MAX, VALUE_MAX));
        }
        if !score.ready {
            return 0.0;
        }
        let error = (value as f32 - score.expected).abs() / score.usual.max(f32::MIN_POSITIVE);
        let surprisal = score.surprise * core::f32::consts::LN_10;
        combine::score(nats(surprisal, error, distance))
    }

    /// Standard deviations between the value and the mean of the past.
    fn distance(&self, value: f64) -> f32 {
        let variance = self.long.variance();
        if self.long.count < DISTANCE_COUNT_MIN || variance <= 0.0 {
            return 0.0;
        }
        let off = value - self.long.mean;
        libm::sqrtf((off * off / variance) as f32)
    }

    fn learn(&mut self, value: f64) {
        self.long.learn(value);
        self.latest.learn(value);
        if self.latest.count < STRETCH {
            return;
        }
        let latest = core::mem::take(&mut self.latest);
        let least = STRETCH_SHARE_MIN * latest.mean;
        // Of a series that rests at zero nothing can be said.
        let wild = latest.variance().max(least * least);
        if wild > 0.0 && self.long.variance() > FOREIGN * FOREIGN * wild {
            self.long = latest;
        }
    }
}

/// The three terms together, in nats.
fn nats(surprisal: f32, error: f32, distance: f32) -> f32 {
    NOVELTY_SHARE * surprisal + ERROR_SHARE * ln(1.0 + bounded(error)) + DISTANCE_SHARE * bounded(distance)
}

/// Not a number counts as the worst.
fn bounded(odd: f32) -> f32 {
    if odd < ODD_MAX { odd.at_least(0.0) } else { ODD_MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(surprise: f32) -> Score {
        Score { surprise, expected: 10.0, usual: 1.0, ready: true, ..Score::default() }
    }

    #[test]
    fn the_larger_of_two_new_values_is_the_more_severe() {
        let mut series = Standing::new();
        assert!(series.clone().rank(&score(4.0), 110.0) > series.rank(&score(4.0), 20.0));
        for odd in [f32::MAX, f32::INFINITY, f32::NAN] {
            assert_eq!(nats(9.0, odd, 1.0), nats(9.0, ODD_MAX, 1.0));
        }
    }

    #[test]
    fn a_fault_that_the_scorers_learned_still_stands_out_from_the_long_run() {
        let mut series = Standing::new();
        for i in 0..1000 {
            series.rank(&score(0.0), 10.0 + f64::from(i % 3));
        }
        let learned = Score { expected: 50.0, ..score(0.0) };
        let ranks = [(); 20].map(|()| series.rank(&learned, 50.0));
        assert!(ranks[0] > 0.9 && ranks.iter().all(|&rank| rank > 0.1), "{ranks:?}");
        let usual = Score { expected: 11.0, ..score(0.0) };
        assert!(series.rank(&usual, 11.0) < 0.01);
    }

    #[test]
    fn one_value_of_any_size_spoils_no_long_run() {
        for garbage in [1.0e12, 1.0e18, 1.0e200, -1.0e300, f64::MAX] {
            for at in [0, 5, 1_500] {
                let mut series = Standing::new();
                let level = |i: u32| 100.0 + f64::from(i * 37 % 11) - 5.0;
                let usual = Score { expected: 100.0, usual: 3.0, ..score(0.0) };
                for i in 0..2_000 {
                    series.rank(&usual, if i == at { garbage } else { level(i) });
                }
                let ranks: std::vec::Vec<f32> = (0..100).map(|i| series.rank(&usual, level(i))).collect();
                assert!(ranks.iter().all(|&rank| rank < 0.1), "{garbage} at {at}: {ranks:?}");
                let far = Score { expected: 100.0, ..score(4.0) };
                assert!(series.rank(&far, 300.0) > 0.9, "{garbage} at {at}: awake");
            }
        }
    }

    #[test]
    fn the_long_run_forgets() {
        let mut series = Standing::new();
        (0..200_000).for_each(|i| series.learn(f64::from(i % 2)));
        (0..200_000).for_each(|i| series.learn(50.0 + f64::from(i % 2)));
        assert!((series.long.mean - 50.5).abs() < 0.5 && series.long.variance() < 8.0, "{series:?}");
    }

    #[test]
    fn nothing_is_severe_while_warming_up_or_standing_still() {
        let mut series = Standing::new();
        assert_eq!(series.rank(&Score::default(), 1.0e9), 0.0);
        let mut still = Standing::new();
        for _ in 0..100 {
            assert_eq!(still.rank(&score(0.0), 10.0), 0.0, "{still:?}");
        }
        for value in [f64::NAN, f64::INFINITY] {
            assert!(still.rank(&score(0.0), value) > 0.85);
        }
        assert_eq!(still.long.count, 100.0);
    }
}
