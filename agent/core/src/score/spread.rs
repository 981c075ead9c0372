//! The spread scorer: are the errors of the forecast larger, or smaller, than they used to be?
//!
//! It must never speak of a value that is merely off: a forecast that errs to one side is the forecast scorer's
//! business. The hard case is a heavy tail, where one error outweighs a hundred: an error counts as at most a few
//! usual ones, so that only many of them together raise the mean.

use super::approximate::{Bounded, choose};
use super::cadence::rate;
use super::words::{Pair, words};

/// Time constant, in seconds, of the recent mean, and the least and the most that one error weighs in it.
const RECENT_TAU_S: f32 = 1_800.0;
const RECENT_RATE_MIN: f32 = 0.01;
const RECENT_RATE_MAX: f32 = 0.1;
/// What one second weighs in what is usual, one over two days; until so many errors, it is the mean of all.
const USUAL_RATE: f32 = 1.0 / 172_800.0;
/// But at most for so many seconds: after a gap, one error is one error.
const USUAL_STEP_S_MAX: f32 = 3_600.0;
const YOUTH: u32 = 400;
/// An error counts as at most this many usual ones.
const ERROR_MAX: f32 = 4.0;
/// The recent mean deviates when it is this many times the usual one, and this many of its own usual swings away.
const WILDER: f32 = 1.6;
const SWINGS: f32 = 6.0;
/// The swing counts as at least that of the mean of independent normal errors, which is 0.6 sqrt(rate / 2) of the usual
/// size, a straight line over the rates there are: a series that comes more seldom than it did swings more.
const WHITE_SWING: f32 = 0.032;
const WHITE_SWING_RATE: f32 = 1.02;
/// It has returned within this share of that way.
const RETURNED: f32 = 0.5;
/// Errors, and seconds, before it says anything.
const LEARNED: u32 = 200;
const LEARNED_S: u32 = 64_800;

/// Means of the size of errors, in usual errors of the forecast; 16 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    recent: f32,
    usual: f32,
    /// Usual distance of `recent` from `usual`.
    swing: f32,
    /// Errors, as far as they are counted; and for how long it has learned, in seconds, up to eighteen hours.
    seen: Pair,
}

words!(Spread { recent, usual, swing, seen });

/// A step counts as at most this many seconds.
const STEP_S_MAX: f32 = 64_800.0;

/// A number below 2^17 rounded down to a whole one, by its bits.
#[inline(always)]
fn whole(x: f32) -> u32 {
    ((x + 131_072.0).to_bits() >> 6) & 0x1_ffff
}

impl Spread {
    #[cfg(test)]
    pub(crate) const fn new() -> Self {
        Spread { recent: 1.0, usual: 1.0, swing: 0.0, seen: Pair { low: 0, high: 0 } }
    }

    /// Takes in an error of the forecast whose usual size is `usual`, `step_s` seconds after the one before; two
    /// signs, whether the spread is unusual and whether it is wilder.
    #[inline(always)]
    pub(crate) fn observe(&mut self, error: f32, usual: f32, step_s: f32) -> (bool, bool) {
        let size = (error.abs() / (usual + f32::MIN_POSITIVE)).at_most(ERROR_MAX);
        self.seen.low += u32::from(self.seen.low <= YOUTH);
        let seen_s = whole(self.seen.high.cast_signed() as f32 + step_s.at_most(STEP_S_MAX));
        self.seen.high = choose(seen_s > LEARNED_S, LEARNED_S, seen_s);
        let steady = step_s.at_most(USUAL_STEP_S_MAX) * USUAL_RATE;
        let known = choose(self.seen.low <= YOUTH, 1.0 / self.seen.low.cast_signed() as f32, steady);
        let recent_rate = rate(step_s, RECENT_TAU_S).between(RECENT_RATE_MIN, RECENT_RATE_MAX);
        self.recent += recent_rate * (size - self.recent);
        let away = self.recent - self.usual;
        let least = (WHITE_SWING + WHITE_SWING_RATE * recent_rate) * self.usual;
        let far = SWINGS * self.swing.at_least(least);
        let most = far + (WILDER - 1.0) * self.usual;
        let width = self.judge(away, far, most);
        // While it is unusual, what is usual learns slowly, and so within days all the same.
        self.usual += known * (size.at_most(self.usual + most) - self.usual);
        self.swing += known * (away.abs().at_most(most) - self.swing);
        width
    }

    /// Says nothing for a while and learns: the series has a new level, and may have a spread of its own there.
    pub(crate) fn relearn(&mut self) {
        self.seen.high = 0;
    }

    #[inline(always)]
    fn judge(&self, away: f32, far: f32, most: f32) -> (bool, bool) {
        let wilder = (away > far) & (self.recent > WILDER * self.usual);
        let learned = (self.seen.low >= LEARNED) & (self.seen.high >= LEARNED_S);
        (learned & (wilder | (away > RETURNED * most)), learned & wilder)
    }

    /// Goes back to what it was before, when the error counts for nothing.
    #[inline(always)]
    pub(crate) fn rest(&mut self, before: &Self, counts: bool) {
        self.recent = choose(counts, self.recent, before.recent);
        self.usual = choose(counts, self.usual, before.usual);
        self.swing = choose(counts, self.swing, before.swing);
        self.seen.low = choose(counts, self.seen.low, before.seen.low);
        self.seen.high = choose(counts, self.seen.high, before.seen.high);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled() -> (Spread, u32) {
        let (mut spread, mut random) = (Spread::new(), 1);
        for _ in 0..2_000 {
            assert_eq!(spread.observe(error(&mut random), 1.0, 60.0), (false, false));
        }
        (spread, random)
    }

    /// Uniform in -2..2: a mean size of 1.
    fn error(random: &mut u32) -> f32 {
        *random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*random >> 8) as f32 / 4_194_304.0 - 2.0
    }

    #[test]
    fn wilder_errors_show_and_are_learned_in_days() {
        let (mut spread, mut random) = settled();
        let wilder = |spread: &mut Spread, random: &mut u32| spread.observe(3.0 * error(random), 1.0, 60.0);
        let first = (1..200).find(|_| wilder(&mut spread, &mut random).1);
        assert!(first.is_some_and(|first| first < 60), "{first:?}");
        (0..10 * 1_440).for_each(|_| _ = wilder(&mut spread, &mut random));
        assert_eq!(wilder(&mut spread, &mut random), (false, false));
    }

    #[test]
    fn one_huge_error_is_no_spread() {
        let (mut spread, mut random) = settled();
        assert!(!spread.observe(f32::MAX, 1.0, 60.0).1);
        (0..500).for_each(|_| assert!(!spread.observe(error(&mut random), 1.0, 60.0).1));
    }

    #[test]
    fn odd_errors_leave_finite_numbers() {
        let mut spread = Spread::new();
        for (error, usual) in [(f32::MAX, 0.0), (0.0, 0.0), (f32::MIN, f32::MAX), (1.0, f32::MIN_POSITIVE)] {
            spread.observe(error, usual, 0.1);
            assert!(spread.recent.is_finite() && spread.usual.is_finite() && spread.swing.is_finite());
        }
    }
}
