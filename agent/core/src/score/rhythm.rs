//! Rhythm: how often a series is observed, and so when it is silent.
//!
//! It must never be asked by an observation: silence has none; whoever closes a window asks. The hard case is a series
//! without a beat, or one that rests each night: it is silent only after a gap much longer than those that are usual
//! for it, a gap becomes usual when it has come twice, and the hours of the day in which a series rests count for
//! nothing, or a stop by day would be told after two nights' time.

use super::Moment;
use super::approximate::{Bounded, choose};
use super::cadence::wrapping_quotient;
use super::words::{Sink, Source, Word, words};

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
/// One that rests may do so for a whole weekend.
const GONE_RESTING_S: f32 = 345_600.0;
/// A gap of so many mean ones may be a rest, unless it is so long that no day is left beside it.
const REST_STEPS: f32 = 4.0;
const REST_S_MAX: f32 = 72_000.0;
const HOUR_S: u32 = 3_600;
const DAY_S: u32 = 86_400;
/// The bits of the hours of a day.
const HOURS_MASK: u32 = 0x00ff_ffff;
/// Gaps are at most this long, in seconds: half the range of the stamp below.
const GAP_S_MAX: f32 = 2.0e9;

/// The usual gaps; 24 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rhythm {
    /// Seconds of Unix time of the latest observation, wrapping.
    last_s: u32,
    mean_s: f32,
    /// The longest usual gap, and one that came once, without the hours of rest in it.
    longest_s: f32,
    once_s: f32,
    hours: Hours,
}

words!(Rhythm { last_s, mean_s, longest_s, once_s, hours });

/// Hours of the day as bits, by the clock of the region; two words.
#[derive(Clone, Copy, Debug)]
struct Hours {
    /// All of which lay in a long gap once, and nothing came in them since.
    once: u32,
    /// The same at least twice: in these the series rests.
    rests: u32,
    /// Observations that took time; stops counting when they are many. Shares a word with `once`.
    seen: u32,
}

impl Word for Hours {
    #[inline(always)]
    fn read(from: &mut impl Source) -> Self {
        let (once_and_seen, rests) = (from.next(), from.next());
        Hours { once: once_and_seen & HOURS_MASK, rests, seen: once_and_seen >> 24 }
    }

    #[inline(always)]
    fn write(self, to: &mut impl Sink) {
        to.put(self.once | self.seen << 24);
        to.put(self.rests);
    }
}

/// When something is observed or asked for, in the two ways that a rhythm needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beat {
    /// Seconds of Unix time, wrapping.
    pub(crate) now_s: u32,
    /// The hour of the day, as a bit.
    pub(crate) hour: u32,
}

impl Beat {
    #[inline]
    pub(crate) fn new(moment: Moment) -> Self {
        // Many days later, so that no time of use is negative: the remainder of an unsigned number is cheap.
        const MOVED_BY: u64 = (1 << 63) / DAY_S as u64 * DAY_S as u64;
        let of_day_s = (moment.local_s as u64).wrapping_add(MOVED_BY) % u64::from(DAY_S);
        Beat { now_s: wrapping_s(moment.at.0), hour: 1 << (of_day_s as u32 / HOUR_S) }
    }
}

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
        let hours = Hours { once: 0, rests: 0, seen: 0 };
        Rhythm { last_s: 0, mean_s: 0.0, longest_s: 0.0, once_s: 0.0, hours }
    }

    /// Takes in an observation and gives the seconds since the one before, at most a day; 0 if there was none, and if
    /// time stood still or ran backwards. And whether [`learn_long`](Self::learn_long) has more to learn from it.
    #[inline(always)]
    pub(crate) fn observe(&mut self, beat: Beat) -> (f32, bool) {
        let seen = self.hours.seen;
        let gap_s = choose(seen == 0, 0.0, self.since_s(beat.now_s));
        let step_s = gap_s.at_most(STEP_S_MAX);
        self.last_s = beat.now_s;
        let silent = (seen >= LEARNED) & (gap_s > self.silent_s());
        let long = silent | (gap_s > REST_STEPS * self.mean_s);
        self.longest_s = choose(silent, self.longest_s, self.longest_s.at_least(gap_s));
        let many = choose(seen == 0, 1, seen).cast_signed() as f32;
        let share = choose(seen <= YOUTH, 1.0 / many, MEAN_RATE);
        self.mean_s += share * (gap_s.at_most(self.longest_s) - self.mean_s);
        let forgotten = step_s * FORGET_RATE;
        self.longest_s -= forgotten * self.longest_s;
        self.once_s -= forgotten * self.once_s;
        let counts = ((gap_s > 0.0) | (seen == 0)) & (seen <= YOUTH);
        self.hours.seen += u32::from(counts);
        self.hours.once &= !beat.hour;
        self.hours.rests &= !beat.hour;
        (step_s, long)
    }

    /// Learns from a gap that ended at `moment` and was long for what the rhythm was `before`. Hours that lay in such a
    /// gap for the second time are hours of rest. What is left of a silence is usual if one of about that length came
    /// once before.
    #[cold]
    pub(crate) fn learn_long(&mut self, before: &Self, moment: Moment) {
        let now_s = wrapping_s(moment.at.0);
        let gap_s = before.since_s(now_s);
        let from_s = local(before.last_s, moment);
        let inside = if gap_s < REST_S_MAX { whole_hours(from_s, local(now_s, moment)) } else { 0 };
        let rests = self.hours.rests | inside & before.hours.once;
        let found = rests != self.hours.rests;
        (self.hours.rests, self.hours.once) = (rests, self.hours.once | inside);
        let awake_s = awake_s(from_s, gap_s, rests);
        if found {
            // What was the longest gap had these hours in it.
            self.longest_s = self.longest_s.at_most(awake_s.at_least(self.mean_s));
        }
        if before.hours.seen < LEARNED || awake_s <= before.silent_s() || found {
            return;
        }
        if awake_s <= LONGEST_FACTOR * before.once_s {
            self.longest_s = self.longest_s.at_least(awake_s);
        } else {
            self.once_s = awake_s;
        }
    }

    /// The mean gap of late, in seconds.
    #[inline]
    pub(crate) fn interval_s(&self) -> f32 {
        self.mean_s
    }

    /// How long the series has been silent at `now`, when nothing came.
    pub(crate) fn ask(&self, now: Moment, least_s: f32) -> Gap {
        let now_s = wrapping_s(now.at.0);
        let (gap_s, silent_s) = (self.since_s(now_s), self.silent_s().at_least(least_s));
        if self.hours.seen < LEARNED || gap_s <= silent_s {
            return Gap::Usual;
        }
        let gone_s = if self.hours.rests == 0 { GONE_S } else { GONE_RESTING_S };
        match awake_s(local(self.last_s, now), gap_s, self.hours.rests) {
            _ if gap_s > gone_s.at_least(GONE_FACTOR * silent_s) => Gap::Gone,
            awake_s if awake_s <= silent_s => Gap::Usual,
            _ => Gap::Silent { gap_s, usual_s: self.longest_s },
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

/// Seconds by the clock of the region, wrapping.
fn local(at_s: u32, moment: Moment) -> u32 {
    let offset_s = (moment.local_s as u32).wrapping_sub(wrapping_s(moment.at.0));
    at_s.wrapping_add(offset_s)
}

/// The hours of the day that lie whole between two times less than a day apart.
fn whole_hours(from_s: u32, until_s: u32) -> u32 {
    let first = from_s.div_ceil(HOUR_S);
    let hours = (until_s / HOUR_S).saturating_sub(first).min(DAY_S / HOUR_S);
    (first..first + hours).fold(0, |bits, hour| bits | 1 << (hour % 24))
}

/// Seconds of a gap outside of the hours of rest, which are left out on its first day alone.
fn awake_s(from_s: u32, gap_s: f32, rests: u32) -> f32 {
    let until_s = from_s.saturating_add((gap_s as u32).min(DAY_S));
    let mut rested_s = 0;
    let mut at_s = from_s;
    while at_s < until_s {
        let next_s = (at_s / HOUR_S + 1).saturating_mul(HOUR_S).min(until_s);
        rested_s += if rests >> (at_s / HOUR_S % 24) & 1 != 0 { next_s - at_s } else { 0 };
        at_s = next_s;
    }
    gap_s - rested_s as f32
}

/// Seconds of Unix time, wrapping: only differences count.
#[inline]
pub(crate) fn wrapping_s(ms: i64) -> u32 {
    wrapping_quotient::<1_000>(ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vedette_common::WallMs;

    fn at(second: i64) -> Moment {
        Moment::new(WallMs(second * 1_000), 0)
    }

    fn see(rhythm: &mut Rhythm, second: i64) -> f32 {
        let (before, moment) = (*rhythm, at(second));
        let (step_s, long) = rhythm.observe(Beat::new(moment));
        if long {
            rhythm.learn_long(&before, moment);
        }
        step_s
    }

    /// Seconds of silence after which it is told.
    fn told_after(rhythm: &Rhythm, now_s: i64) -> i64 {
        (1..10_000_000).find(|gap| rhythm.ask(at(now_s + gap), 0.0) != Gap::Usual).expect("told some day")
    }

    #[test]
    fn a_steady_series_is_silent_after_a_few_beats() {
        for step_s in [10, 60, 300, 3_600] {
            let mut rhythm = Rhythm::new();
            (0..200).for_each(|n| _ = see(&mut rhythm, 1_700_000_000 + n * step_s));
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
            see(&mut rhythm, now_s);
        }
        let told = told_after(&rhythm, now_s);
        assert!((1_200..1_800).contains(&told), "{told}");
    }

    /// They begin and end amid an hour, so that what is left of those two hours has to become usual as well.
    #[test]
    fn nights_that_begin_amid_an_hour_are_told_a_few_times_and_then_usual() {
        let mut rhythm = Rhythm::new();
        let mut told = 0;
        for day in 0..10 {
            for minute in 0..600 {
                see(&mut rhythm, 1_700_000_000 + day * 86_400 + minute * 60);
            }
            let morning = 1_700_000_000 + (day + 1) * 86_400;
            told += u32::from(rhythm.ask(at(morning - 1), 0.0) != Gap::Usual);
        }
        assert!((2..=4).contains(&told), "{told}");
        let evening = 1_700_000_000 + 9 * 86_400 + 599 * 60;
        let rested = (1..86_400).find(|gap| rhythm.ask(at(evening + gap), 0.0) != Gap::Usual);
        assert!(rested.is_some_and(|gap| gap > 14 * 3_600), "{rested:?}");
        // After two hours of the next day a stop is told within some more.
        (0..120).for_each(|minute| _ = see(&mut rhythm, 1_700_000_000 + 10 * 86_400 + minute * 60));
        let told = told_after(&rhythm, 1_700_000_000 + 10 * 86_400 + 119 * 60);
        assert!(told < 3 * 3_600, "{told}");
    }

    #[test]
    fn odd_clocks_do_no_harm() {
        let mut rhythm = Rhythm::new();
        for ms in [i64::MIN, i64::MAX, 0, -1, 1_700_000_000_000, 5] {
            assert!((0.0..=STEP_S_MAX).contains(&rhythm.observe(Beat::new(Moment::new(WallMs(ms), 0))).0));
            assert!(rhythm.mean_s.is_finite() && rhythm.longest_s.is_finite());
        }
    }

    #[test]
    fn a_series_that_rests_at_night_is_missed_by_day_within_minutes() {
        for (step_s, offset_s) in [(60, 0), (300, 7_200), (3_600, 0)] {
            let mut rhythm = Rhythm::new();
            let midnight = 1_699_920_000 + offset_s;
            let lives =
                |second: i64| (6 * 3_600..22 * 3_600).contains(&(second - midnight).rem_euclid(86_400));
            let mut told = 0;
            for second in (midnight..midnight + 20 * 86_400).step_by(step_s as usize) {
                if lives(second) {
                    see(&mut rhythm, second);
                }
                let silent = rhythm.ask(at(second), 0.0) != Gap::Usual;
                told += u32::from(silent && second > midnight + 4 * 86_400);
            }
            assert_eq!(told, 0, "every {step_s} s: the nights of later days are usual");
            let noon = midnight + 20 * 86_400 + 12 * 3_600;
            (6 * 3_600..12 * 3_600)
                .step_by(step_s as usize)
                .for_each(|s| _ = see(&mut rhythm, midnight + 20 * 86_400 + s));
            let after = told_after(&rhythm, noon - step_s);
            assert!(after <= 7 * step_s, "every {step_s} s: {after}");
        }
    }

    #[test]
    fn a_whole_day_without_anything_is_no_rest() {
        let mut rhythm = Rhythm::new();
        for week in 0..6 {
            for minute in 0..6 * 1_440 {
                see(&mut rhythm, 1_700_000_000 + week * 604_800 + minute * 60);
            }
        }
        assert_eq!(rhythm.hours.rests, 0);
    }
}
