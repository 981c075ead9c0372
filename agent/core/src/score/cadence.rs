//! How much time passed since the last observation, made safe to learn with.
//!
//! Rates of the forecast are per hour, not per observation, so that a ten-second series and an hourly one
//! forget equally fast. The hard cases are clocks: stamps that repeat, run backwards or jump by months give a
//! step within fixed bounds, and time that was counted once is not counted again.

use super::approximate::Bounded;
use super::words::{Sink, Source, Word};

/// A step is at least this long, in seconds: repeated stamps teach almost nothing.
const STEP_S_MIN: f32 = 0.1;
/// And at most this long: a gap of months does not make one observation overwrite everything.
const STEP_S_MAX: f32 = 86_400.0;

/// A stamp earlier by up to this, in tenths of seconds, is late; one before that tells that the clock was set.
const LATE_TENTHS_MAX: i32 = 864_000;

/// The time of the latest observation in tenths of seconds, wrapping after 13 years, which only differences
/// within half of that need to survive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp(u32);

impl Stamp {
    pub(super) const fn new() -> Self {
        Stamp(0)
    }

    /// Moves on to `now`, in [`tenths`], and gives the seconds passed, within bounds.
    #[inline(always)]
    pub(super) fn advance(&mut self, now: u32) -> f32 {
        let passed = now.wrapping_sub(self.0).cast_signed();
        let late = (-LATE_TENTHS_MAX..0).contains(&passed);
        self.0 = if late { self.0 } else { now };
        (passed as f32 * 0.1).between(STEP_S_MIN, STEP_S_MAX)
    }
}

impl Word for Stamp {
    #[inline(always)]
    fn read(from: &mut impl Source) -> Self {
        Stamp(from.next())
    }

    #[inline(always)]
    fn write(self, to: &mut impl Sink) {
        to.put(self.0);
    }
}

/// A time in tenths of seconds, as a [`Stamp`] counts them.
#[inline]
pub(super) fn tenths(ms: i64) -> u32 {
    wrapping_quotient::<100>(ms)
}

/// `x / N`, rounded down, of which only the lower 32 bits are kept.
///
/// The numerator is moved up to be positive: division of unsigned numbers by a constant is the cheaper one.
#[inline(always)]
pub(super) const fn wrapping_quotient<const N: u64>(x: i64) -> u32 {
    let moved_by = (1 << 63) / N;
    ((x as u64).wrapping_add(moved_by * N) / N).wrapping_sub(moved_by) as u32
}

/// The share of an error that a mean with time constant `tau_s` takes up in one step: `step / (step + tau)`,
/// in `(0, 1)`, which is `1 - exp(-step / tau)` to first order and needs no exponential.
#[inline(always)]
pub(super) fn rate(step_s: f32, tau_s: f32) -> f32 {
    step_s / (step_s + tau_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Stamp {
        fn advance_ms(&mut self, now_ms: i64) -> f32 {
            self.advance(tenths(now_ms))
        }
    }

    #[test]
    fn odd_clocks_stay_within_bounds() {
        let mut stamp = Stamp::new();
        stamp.advance_ms(1_700_000_000_000);
        assert_eq!(stamp.advance_ms(1_700_000_300_000), 300.0);
        assert_eq!(stamp.advance_ms(1_700_000_300_000), STEP_S_MIN);
        assert_eq!(stamp.advance_ms(1_700_000_000_000), STEP_S_MIN, "late");
        assert_eq!(stamp.advance_ms(1_700_000_360_000), 60.0, "counted once");
        assert_eq!(stamp.advance_ms(1_699_000_000_000), STEP_S_MIN);
        assert_eq!(stamp.advance_ms(1_726_524_800_000), STEP_S_MAX);
        for odd in [i64::MIN, i64::MAX, 0, -1] {
            assert!((STEP_S_MIN..=STEP_S_MAX).contains(&stamp.advance_ms(odd)));
        }
    }

    #[test]
    fn a_rate_is_a_share() {
        assert!(rate(STEP_S_MIN, 1.0e6) > 0.0);
        assert!(rate(STEP_S_MAX, 1.0) < 1.0);
    }

    #[test]
    fn a_quotient_is_rounded_down_on_either_side_of_zero() {
        for x in [0, 1, 99, 100, -1, -100, -101, 1_748_822_400_123, -1_748_822_400_123] {
            assert_eq!(wrapping_quotient::<100>(x), x.div_euclid(100) as u32, "{x}");
        }
    }
}
