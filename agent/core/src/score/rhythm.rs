//! Rhythm: how often a series is observed, and so when it is silent.
//!
//! It must never be asked by an observation: silence has none; whoever closes a window asks. The hard case is a series
//! without a beat, or one that rests each night: it is silent only after a gap much longer than those that are usual
//! for it, and a gap becomes usual when it has come twice.

use super::approximate::{Bounded, choose};
use super::cadence::wrapping_quotient;
use super::words::words;

/// Observations before a gap means anything.
const LEARNED: u32 = 24;
/// A silence is longer than so many times the longest usual gap and so many times the mean one together.
const LONGEST_FACTOR: f32 = 2.0;
const MEAN_FACTOR: f32 = 2.0;
/// What one gap weighs in the mean.
const MEAN_RATE: f32 = 0.03;
const YOUTH: u32 = 33;
/// What one second takes off the longest of what is remembered, one over thirty days: it has to outlast the weekends.
/// For steps of up to [`STEP_S_MAX`].
pub(super) const FORGET_RATE: f32 = 1.0 / 2_592_000.0;
/// A step counts as at most this many seconds.
const STEP_S_MAX: f32 = 86_400.0;
/// After so long, and so many times the gap that is a silence, the series is gone for good.
const GONE_S: f32 = 86_400.0;
const GONE_FACTOR: f32 = 4.0;
/// Gaps are at most this long, in seconds: half the range of the stamp below.
const GAP_S_MAX: f32 = 2.0e9;

/// The usual gaps; 20 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rhythm {
    /// Seconds of Unix time of the latest observation, wrapping.
    last_s: u32,
    mean_s: f32,
    /// The longest usual gap, and one that came once.
    longest_s: f32,
    once_s: f32,
    /// Observations that took time; stops counting when they are many.
    seen: u32,
}

words!(Rhythm { last_s, mean_s, longest_s, once_s, seen });

/// What there is to say about the gap up to now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Gap {
    /// Nothing.
    Usual,
    /// Silent for so many seconds, where this many would have been usual.
    Silent { gap_s: f32, usual_s: f32 },
    /// Silent for so long that the series is forgotten.
    Gone,
}

impl Rhythm {
    pub(crate) const fn new() -> Self {
        Rhythm { last_s: 0, mean_s: 0.0, longest_s: 0.0, once_s: 0.0, seen: 0 }
    }

    /// Takes in an observation and gives the seconds since the one before, at most a day; 0 if there was none, and if
    /// time stood still or ran backwards.
    #[inline(always)]
    pub(crate) fn observe(&mut self, now_s: u32) -> f32 {
        let gap_s = choose(self.seen == 0, 0.0, self.since_s(now_s));
        let step_s = gap_s.at_most(STEP_S_MAX);
        self.last_s = now_s;
        self.learn_long(gap_s);
        let many = choose(self.seen == 0, 1, self.seen).cast_signed() as f32;
        let share = choose(self.seen <= YOUTH, 1.0 / many, MEAN_RATE);
        self.mean_s += share * (gap_s.at_most(self.longest_s) - self.mean_s);
        let forgotten = step_s * FORGET_RATE;
        self.longest_s -= forgotten * self.longest_s;
        self.once_s -= forgotten * self.once_s;
        let counts = ((gap_s > 0.0) | (self.seen == 0)) & (self.seen <= YOUTH);
        self.seen += u32::from(counts);
        step_s
    }

    /// A gap longer than any usual one. One that was no silence is usual from now on, and so is a silence that came
    /// about twice.
    #[inline(always)]
    fn learn_long(&mut self, gap_s: f32) {
        let long = gap_s > self.longest_s;
        let known = (self.seen >= LEARNED) & (gap_s > self.silent_s());
        let usual = !known | (gap_s <= LONGEST_FACTOR * self.once_s);
        self.once_s = choose(long & !usual, gap_s, self.once_s);
        self.longest_s = choose(long & usual, gap_s, self.longest_s);
    }

    /// The mean gap of late, in seconds.
    #[inline]
    pub(crate) fn interval_s(&self) -> f32 {
        self.mean_s
    }

    /// How long the series has been silent when the time is `now_ms` and nothing came.
    pub(crate) fn ask(&self, now_ms: i64, least_s: f32) -> Gap {
        let (gap_s, silent_s) = (self.since_s(wrapping_s(now_ms)), self.silent_s().at_least(least_s));
        match () {
            () if self.seen < LEARNED || gap_s <= silent_s => Gap::Usual,
            () if gap_s > GONE_S.at_least(GONE_FACTOR * silent_s) => Gap::Gone,
            () => Gap::Silent { gap_s, usual_s: self.longest_s },
        }
    }

    /// Forgets how often the series came: it begins anew with the next observation.
    pub(crate) fn forget(&mut self) {
        *self = Self::new();
    }

    #[inline(always)]
    fn silent_s(&self) -> f32 {
        LONGEST_FACTOR * self.longest_s + MEAN_FACTOR * self.mean_s
    }

    #[inline(always)]
    fn since_s(&self, now_s: u32) -> f32 {
        (now_s.wrapping_sub(self.last_s).cast_signed() as f32).between(0.0, GAP_S_MAX)
    }
}

/// Seconds of Unix time, wrapping: only differences count.
#[inline]
pub(crate) fn wrapping_s(ms: i64) -> u32 {
    wrapping_quotient::<1_000>(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds of silence after which it is told.
    fn told_after(rhythm: &Rhythm, now_s: i64) -> i64 {
        (1..10_000_000)
            .find(|gap| rhythm.ask((now_s + gap) * 1_000, 0.0) != Gap::Usual)
            .expect("told some day")
    }

    #[test]
    fn a_steady_series_is_silent_after_a_few_beats() {
        for step_s in [10, 60, 300, 3_600] {
            let mut rhythm = Rhythm::new();
            (0..200).for_each(|n| _ = rhythm.observe(wrapping_s(1_700_000_000_000 + n * step_s * 1_000)));
            let told = told_after(&rhythm, 1_700_000_000 + 199 * step_s);
            assert!(
                (4 * step_s - step_s / 50 - 1..=5 * step_s + 1).contains(&told),
                "every {step_s}: {told}"
            );
        }
    }

    #[test]
    fn an_irregular_series_may_pause_as_it_always_did() {
        let (mut rhythm, mut now_s, mut random) = (Rhythm::new(), 1_700_000_000_i64, 1_u32);
        for _ in 0..5_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // One of ten gaps is ten times as long.
            now_s += if random >> 28 == 0 { 600 } else { 60 };
            rhythm.observe(wrapping_s(now_s * 1_000));
        }
        let told = told_after(&rhythm, now_s);
        assert!((1_200..1_800).contains(&told), "{told}");
    }

    #[test]
    fn nights_are_told_twice_and_then_usual() {
        let mut rhythm = Rhythm::new();
        let mut told = 0;
        for day in 0..10 {
            for minute in 0..600 {
                rhythm.observe(wrapping_s((1_700_000_000 + day * 86_400 + minute * 60) * 1_000));
            }
            let morning = 1_700_000_000 + (day + 1) * 86_400;
            told += u32::from(rhythm.ask(morning * 1_000 - 1_000, 0.0) != Gap::Usual);
        }
        assert_eq!(told, 2);
    }

    #[test]
    fn odd_clocks_do_no_harm() {
        let mut rhythm = Rhythm::new();
        for ms in [i64::MIN, i64::MAX, 0, -1, 1_700_000_000_000, 5] {
            assert!((0.0..=STEP_S_MAX).contains(&rhythm.observe(wrapping_s(ms))));
            assert!(rhythm.mean_s.is_finite() && rhythm.longest_s.is_finite());
        }
    }
}
