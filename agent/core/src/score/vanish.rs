//! The vanish scorer: zeros where there should be something, for counts that are too small for one zero to be odd.
//!
//! It must never judge a single zero by itself: it adds up what the run of zeros should have held. The hard case is a
//! night, when zeros are many: the sum then grows slowly, and is compared with the most that any run ever missed.

use super::approximate::{Bounded, choose};
use super::rhythm::FORGET_RATE;
use super::words::words;

/// What one zero misses, in nats, for a Poisson count: its mean; from the forecast and its usual error, since the
/// mean absolute error of a normal variable is 0.8 standard deviations.
const NATS: f32 = 0.64;
/// One zero adds at most this: a lone zero of a large series is left to the other scorers.
const NATS_MAX: f32 = 5.0;
/// A run has vanished when it misses this many times the most usual, and this much more.
const WORSE: f32 = 1.5;
const WORSE_BY: f32 = 8.0;

/// What the present run of zeros misses and what runs used to; 8 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vanish {
    missed: f32,
    most: f32,
}

words!(Vanish { missed, most });

impl Vanish {
    #[cfg(test)]
    pub(crate) const fn new() -> Self {
        Vanish { missed: 0.0, most: 0.0 }
    }

    /// Takes in a value and its forecast, with the forecast's usual error; whether the series has vanished.
    #[inline(always)]
    pub(crate) fn observe(&mut self, x: f32, expected: f32, usual: f32, step_s: f32) -> bool {
        self.most -= step_s * FORGET_RATE * self.most;
        let (zero, bar) = (x == 0.0, WORSE * self.most + WORSE_BY);
        // A run that was told raises the bar a little, so that what happens each night is told a few times only.
        let most = self.most.at_least(self.missed.at_most(bar));
        let share = expected.at_least(0.0) / (usual + f32::MIN_POSITIVE);
        let missed = self.missed + (NATS * (share * share).at_most(1.0e6)).at_most(NATS_MAX);
        self.most = choose(zero, self.most, most);
        self.missed = choose(zero, missed, 0.0);
        zero & (missed > bar)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_of_two_vanishes_after_some_zeros() {
        let mut vanish = Vanish::new();
        for n in 0..5_000 {
            assert!(!vanish.observe((n % 7 / 2) as f32, 1.3, 1.0, 60.0), "{n}");
        }
        let zeros = (1..100).find(|_| vanish.observe(0.0, 2.0, 1.2, 60.0));
        assert!(zeros.is_some_and(|n| n > 2 && n < 12), "{zeros:?}");
        assert!(!vanish.observe(1.0, 2.0, 1.2, 60.0));
    }

    #[test]
    fn a_series_that_is_zero_by_nature_never_vanishes() {
        let mut vanish = Vanish::new();
        assert!((0..10_000).all(|_| !vanish.observe(0.0, 0.0, 0.0, 60.0)));
        assert!((0..10_000).all(|_| !vanish.observe(0.0, -1.0, 1.0, 60.0)));
    }
}
