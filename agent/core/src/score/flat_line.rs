//! The flat line scorer: does a value stand still as this series never did?
//!
//! It must never speak of zero: that is what an outage of a count looks like, and is told as a drop (`vanish`). The
//! hard case is a series that stands still by nature, a slow gauge or one that rests at night: it has to be stuck
//! for much longer than it ever was, after a whole day was seen, and a constant series never is.

use super::approximate::{Bounded, choose, ln};
use super::rhythm::FORGET_RATE;
use super::words::{HALF_WORD_MAX, Pair, words};

/// The surprisal, in nats, of a run of equal values that counts as stuck.
const SURPRISAL: f32 = 16.0;
/// The probability that a value repeats counts as at least this.
const REPEAT_MIN: f32 = 0.001;
/// A run of less than this many seconds is no stuck value, but one reading told several times.
const RUN_S_MIN: f32 = 60.0;
/// A run must be this many times the longest usual one, and this many values more.
const LONGER: f32 = 2.0;
const LONGER_BY: f32 = 2.0;
/// Runs that must have ended, and seconds that must have been seen, before a run can be odd.
const RUNS_MIN: u32 = 16;
const SEEN_S_MIN: f32 = 86_400.0;
/// After so long, in seconds, a week, the series has become one that stands still.
const PATIENCE_S: f32 = 604_800.0;
/// What one value weighs in the share of repeats.
const REPEAT_RATE: f32 = 0.002;

/// A value folded to 32 bits: equal values are equal here, and zero is zero with either sign.
#[inline]
pub(crate) fn print(value: f64) -> u32 {
    let bits = (value + 0.0).to_bits();
    (bits ^ (bits >> 32)) as u32
}

/// How often the value repeats and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlatLine {
    /// That of the latest value.
    print: u32,
    /// For how long the present run has lasted.
    run_s: f32,
    /// The longest usual run.
    longest: f32,
    /// How often a value repeats the one before.
    repeats: f32,
    /// For how long the series has been seen; stops at a day.
    seen_s: f32,
    /// Values in the present run after its first, as far as they are counted; a run that was stuck, once.
    runs: Pair,
    /// Runs that ended, as far as they are counted; 1 if the present run began with a value that was nothing special.
    ended: Pair,
}

words!(FlatLine { print, run_s, longest, repeats, seen_s, runs, ended });

impl FlatLine {
    #[cfg(test)]
    pub(crate) const fn new() -> Self {
        FlatLine {
            print: 0,
            run_s: 0.0,
            longest: 0.0,
            repeats: 0.0,
            seen_s: 0.0,
            runs: Pair { low: 0, high: 0 },
            ended: Pair { low: 0, high: 0 },
        }
    }

    /// Takes in the value `x` with its [`print`], `step_s` seconds after the one before; whether the series is stuck. A run that begins with a
    /// value that is not `ordinary` is a drop or a rise, and no stuck value.
    #[inline(always)]
    pub(crate) fn observe(&mut self, x: f32, print: u32, step_s: f32, ordinary: bool) -> bool {
        self.seen_s = (self.seen_s + step_s).at_most(SEEN_S_MIN);
        self.longest -= step_s * FORGET_RATE * self.longest;
        let repeats = print == self.print;
        let goes_on = repeats & (self.runs.low < HALF_WORD_MAX);
        self.runs.low += u32::from(goes_on);
        self.run_s += choose(repeats, step_s, 0.0);
        let stuck = self.is_stuck();
        let ended = Self { print, ..self.with_run_ended(stuck, ordinary) };
        let shown = repeats & (x != 0.0) & (self.ended.high != 0) & stuck;
        self.choose_from(&ended, repeats);
        shown
    }

    /// Takes over how a run ended, unless it goes on.
    #[inline(always)]
    fn choose_from(&mut self, ended: &Self, goes_on: bool) {
        self.print = choose(goes_on, self.print, ended.print);
        self.run_s = choose(goes_on, self.run_s, ended.run_s);
        self.longest = choose(goes_on, self.longest, ended.longest);
        self.repeats = choose(goes_on, self.repeats, ended.repeats);
        self.runs.low = choose(goes_on, self.runs.low, ended.runs.low);
        self.runs.high = choose(goes_on, self.runs.high, ended.runs.high);
        self.ended.low = choose(goes_on, self.ended.low, ended.ended.low);
        self.ended.high = choose(goes_on, self.ended.high, ended.ended.high);
    }

    /// For how long the value has stood still, in seconds.
    pub(crate) fn run_s(&self) -> f32 {
        self.run_s
    }

    /// What the run was teaches how long runs are: at once if it was not stuck or stuck for good, else when it has
    /// come about twice.
    #[inline(always)]
    fn with_run_ended(&self, stuck: bool, ordinary: bool) -> Self {
        let run = self.runs.low.cast_signed() as f32;
        let usual = !stuck | (run <= LONGER * self.runs.high.cast_signed() as f32);
        let long = run > self.longest;
        // The run was one value that was new and `run` that repeated it.
        let share = (REPEAT_RATE * (run + 1.0)).at_most(0.1);
        let many = self.ended.low >= RUNS_MIN;
        Self {
            longest: choose(long & usual, run, self.longest),
            repeats: self.repeats + share * (run / (run + 1.0) - self.repeats),
            run_s: 0.0,
            runs: Pair { low: 0, high: choose(long & !usual, self.runs.low, self.runs.high) },
            ended: Pair { low: self.ended.low + u32::from(!many), high: u32::from(ordinary) },
            ..*self
        }
    }

    #[inline(always)]
    fn is_stuck(&self) -> bool {
        let known = (self.ended.low >= RUNS_MIN) & (self.seen_s >= SEEN_S_MIN);
        let run = self.runs.low.cast_signed() as f32;
        let lasts = (RUN_S_MIN <= self.run_s) & (self.run_s <= PATIENCE_S);
        let long = (run > LONGER * self.longest + LONGER_BY) & lasts;
        known & long & (run * -ln(self.repeats + REPEAT_MIN) > SURPRISAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl FlatLine {
        fn see(&mut self, value: f64) -> bool {
            self.observe(value as f32, print(value), 300.0, true)
        }
    }

    fn stuck_after(flat: &mut FlatLine, value: f64, most: usize) -> Option<usize> {
        (1..=most).find(|_| flat.see(value))
    }

    #[test]
    fn a_lively_series_is_stuck_after_a_few_equal_values() {
        let mut flat = FlatLine::new();
        (0..600).for_each(|n| assert!(!flat.see(f64::from(n).sqrt())));
        assert!(stuck_after(&mut flat, 7.5, 100).is_some_and(|n| n <= 6));
        assert!(!flat.see(7.6), "it moves again");
    }

    #[test]
    fn constants_zeros_and_slow_series_are_never_stuck() {
        for value in [0.0, 1.0, 1.0e15] {
            assert_eq!(stuck_after(&mut FlatLine::new(), value, 5_000), None, "{value}");
        }
        let mut slow = FlatLine::new();
        (0..20_000).for_each(|n| assert!(!slow.see(f64::from(n / 40)), "{n}"));
        let mut lively = FlatLine::new();
        (0..600).for_each(|n| _ = lively.see(f64::from(n)));
        assert_eq!(stuck_after(&mut lively, 0.0, 5_000), None, "an outage is a drop");
    }

    #[test]
    fn zero_is_equal_to_zero() {
        assert_eq!(print(0.0), print(-0.0));
        assert_ne!(print(1.0), print(-1.0));
    }

    #[test]
    fn a_week_of_one_value_is_a_new_nature() {
        let mut flat = FlatLine::new();
        (0..600).for_each(|n| _ = flat.see(f64::from(n).sqrt()));
        assert!((0..9 * 288).map(|_| flat.see(7.5)).last() == Some(false));
    }
}
