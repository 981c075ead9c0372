//! The flat line scorer: does a value stand still as this series never did?
//!
//! It must never speak of zero: that is what an outage of a count looks like, and is told as a drop (`vanish`). The
//! hard case is a series that stands still by nature, a slow gauge or one that rests at night: it has to be stuck
//! for much longer than it ever was, after a whole day was seen, and a constant series never is.

use super::approximate::{Bounded, ln};
use super::rhythm::FORGET_RATE;

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
const RUNS_MIN: u8 = 16;
const SEEN_S_MIN: f32 = 86_400.0;
/// After so long, in seconds, a week, the series has become one that stands still.
const PATIENCE_S: f32 = 604_800.0;
/// What one value weighs in the share of repeats.
const REPEAT_RATE: f32 = 0.002;

/// How often the value repeats and for how long; 28 bytes.
#[repr(C)]
#[derive(Clone, Debug)]
pub(crate) struct FlatLine {
    /// The latest value, folded to 32 bits: equal values are equal here.
    print: u32,
    /// For how long the present run has lasted.
    run_s: f32,
    /// The longest usual run.
    longest: f32,
    /// How often a value repeats the one before.
    repeats: f32,
    /// For how long the series has been seen; stops at a day.
    seen_s: f32,
    /// Values in the present run after its first; saturates.
    run: u16,
    /// A run that was stuck, once.
    once: u16,
    /// Runs that ended; saturates.
    ended: u8,
    /// The present run began with a value that was nothing special.
    ordinary: bool,
}

impl FlatLine {
    pub(crate) const fn new() -> Self {
        FlatLine {
            print: 0,
            run_s: 0.0,
            longest: 0.0,
            repeats: 0.0,
            seen_s: 0.0,
            run: 0,
            once: 0,
            ended: 0,
            ordinary: false,
        }
    }

    /// Takes in a value, `step_s` seconds after the one before; whether the series is stuck. A run that begins with a
    /// value that is not `ordinary` is a drop or a rise, and no stuck value.
    #[inline]
    pub(crate) fn observe(&mut self, value: f64, step_s: f32, ordinary: bool) -> bool {
        let bits = value.to_bits();
        let print = (bits ^ (bits >> 32)) as u32;
        self.seen_s = (self.seen_s + step_s).at_most(SEEN_S_MIN);
        self.longest -= step_s * FORGET_RATE * self.longest;
        if print != self.print {
            self.end_run();
            (self.print, self.ordinary) = (print, ordinary);
            return false;
        }
        (self.run, self.run_s) = (self.run.saturating_add(1), self.run_s + step_s);
        value != 0.0 && self.ordinary && self.is_stuck()
    }

    /// For how long the value has stood still, in seconds.
    pub(crate) fn run_s(&self) -> f32 {
        self.run_s
    }

    /// What the run was teaches how long runs are: at once if it was not stuck or stuck for good, else when it has
    /// come about twice.
    #[inline]
    fn end_run(&mut self) {
        let run = f32::from(self.run);
        if run > self.longest {
            if !self.is_stuck() || run <= LONGER * f32::from(self.once) {
                self.longest = run;
            } else {
                self.once = self.run;
            }
        }
        // The run was one value that was new and `run` that repeated it.
        self.repeats += (REPEAT_RATE * (run + 1.0)).at_most(0.1) * (run / (run + 1.0) - self.repeats);
        self.ended = self.ended.saturating_add(1);
        (self.run, self.run_s) = (0, 0.0);
    }

    fn is_stuck(&self) -> bool {
        let known = self.ended >= RUNS_MIN && self.seen_s >= SEEN_S_MIN;
        let run = f32::from(self.run);
        let long = run > LONGER * self.longest + LONGER_BY && (RUN_S_MIN..=PATIENCE_S).contains(&self.run_s);
        known && long && run * -ln(self.repeats + REPEAT_MIN) > SURPRISAL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stuck_after(flat: &mut FlatLine, value: f64, most: usize) -> Option<usize> {
        (1..=most).find(|_| flat.observe(value, 300.0, true))
    }

    #[test]
    fn a_lively_series_is_stuck_after_a_few_equal_values() {
        let mut flat = FlatLine::new();
        (0..600).for_each(|n| assert!(!flat.observe(f64::from(n).sqrt(), 300.0, true)));
        assert!(stuck_after(&mut flat, 7.5, 100).is_some_and(|n| n <= 6));
        assert!(!flat.observe(7.6, 300.0, true), "it moves again");
    }

    #[test]
    fn constants_zeros_and_slow_series_are_never_stuck() {
        for value in [0.0, 1.0, 1.0e15] {
            assert_eq!(stuck_after(&mut FlatLine::new(), value, 5_000), None, "{value}");
        }
        let mut slow = FlatLine::new();
        (0..20_000).for_each(|n| assert!(!slow.observe(f64::from(n / 40), 300.0, true), "{n}"));
        let mut lively = FlatLine::new();
        (0..600).for_each(|n| _ = lively.observe(f64::from(n), 300.0, true));
        assert_eq!(stuck_after(&mut lively, 0.0, 5_000), None, "an outage is a drop");
    }

    #[test]
    fn a_week_of_one_value_is_a_new_nature() {
        let mut flat = FlatLine::new();
        (0..600).for_each(|n| _ = flat.observe(f64::from(n).sqrt(), 300.0, true));
        assert!((0..9 * 288).map(|_| flat.observe(7.5, 300.0, true)).last() == Some(false));
    }
}
