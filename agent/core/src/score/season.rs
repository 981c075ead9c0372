//! The seasonal profile: what is usual at an hour of the day, and how each hour of the week differs from it, in
//! local time.
//!
//! The day is learned from every day, so it is soon known and follows a change of season; the week is a factor on
//! it, one byte for each hour, so that evenings, weekends of any country and closing days keep their shape.
//! Between the middles of two hours the profile is a straight line, so that it has no steps at full hours. It must
//! never learn from a value that the forecast calls abnormal; the caller gives the rates. The hard case is
//! precision in so few bits: numbers are rounded at random in proportion to what is cut off, so that small
//! corrections arrive on average.

use super::approximate::{Bounded, choose};
use super::week::{WEEK, Week};

/// Hours of a day.
const DAY: usize = 24;
/// Seconds of an hour.
const HOUR_S: i64 = 3_600;
/// The Unix epoch was a Thursday; the week here begins with it.
const WEEK_S: i64 = WEEK as i64 * HOUR_S;
/// So many weeks that hardly any time is that long before the epoch.
const WEEKS: i64 = i64::MAX / WEEK_S;

/// An hour of the day counts units of a power of two that all hours share, like the samples of a sound.
type Short = i16;
/// A slot that has seen nothing.
const UNSEEN: Short = Short::MIN;
/// When the unit is chosen, the largest hour has so many bits: there is room to grow, and a rounding is far below
/// the noise of anything measured.
const BITS: i32 = 13;
/// Bounds of the exponent of the unit.
const EXPONENT_MIN: i32 = -100;
const EXPONENT_MAX: i32 = 46;
/// The largest number of units that an hour is rounded to.
const WHOLE_MAX: f32 = 32_766.0;
/// A byte of the week counts units of `2^-precision`: at first fine, coarser when some hour needs the range.
const PRECISION_MAX: u8 = 9;
const PRECISION_MIN: u8 = 5;
/// The most units that a byte of the week holds.
const FACTOR_UNITS_MAX: i32 = 127;
/// An hour begins with the first value of which it has this share.
const BEGINS_AT: f32 = 0.5;
/// A finer unit is taken when every hour would use less than half of its range.
const REFINE_BELOW: u8 = 48;
/// About one observation in so many looks whether the units could be finer; a mask of random bits.
const REFINE_MASK: u32 = 0x7fe0_0000;
/// The least factor of an hour of the week.
const FACTOR_MIN: f32 = 0.1;
/// One error moves an hour of the week as if it were at most these shares of the hour of the day, down and up.
const FALL_MAX: f32 = 0.5;
const RISE_MAX: f32 = 2.0;

/// `2^exponent` within the range of normal numbers.
#[inline(always)]
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((127 + exponent) as u32) << 23)
}

/// A number as an integer, rounded down after a random share of one was added; beyond 16 bits the last that fits.
#[inline(always)]
fn round(x: f32, random: u32) -> i32 {
    let share = (random & 0xffff).cast_signed() as f32 * (1.0 / 65_536.0);
    // Just below the exponent of 2^17 the bits of a float are the number with seven binary places, so that no
    // conversion is needed. One in 256 is rounded up beyond its share by that: what is found on real series depends on
    // it, see the benchmark.
    let bits = (x.between(-WHOLE_MAX, WHOLE_MAX) + share + 98_304.0).to_bits();
    ((bits >> 7) & 0xffff).cast_signed() - 32_768
}

/// The exponent of the unit in which `x` has `BITS` bits.
fn exponent_for(x: f32) -> i8 {
    let exponent = ((x.to_bits() >> 23) & 0xff) as i32 - 127;
    (exponent + 1 - BITS).clamp(EXPONENT_MIN, EXPONENT_MAX) as i8
}

/// Where a moment lies among the hours of the week: between the middles of two of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Hours of the week, and the same two as hours of the day.
    pub(super) week: [u8; 2],
    day: [u8; 2],
    /// The share of the second of them; the first has the rest.
    share: f32,
}

impl Place {
    /// The place of a local time.
    #[inline(always)]
    pub(super) fn new(local_s: i64) -> Self {
        // Many weeks later, so that no time of use is negative: the remainder of an unsigned number is cheap.
        let since_middle =
            (local_s as u64).wrapping_add((WEEKS * WEEK_S - HOUR_S / 2) as u64) % WEEK_S as u64;
        let since_middle = since_middle as u32;
        let before = since_middle / HOUR_S as u32;
        let share = (since_middle - before * HOUR_S as u32) as f32 * (1.0 / HOUR_S as f32);
        let next = |hour: u32, hours: usize| if hour + 1 == hours as u32 { 0 } else { hour + 1 };
        let (day, week) = (before % DAY as u32, before);
        let pair = |hour, hours| [hour as u8, next(hour, hours) as u8];
        Place { week: pair(week, WEEK), day: pair(day, DAY), share }
    }
}

/// What a profile holds of the two hours around a moment, before and after.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sides {
    /// Units of these hours of the day and of the week.
    pub(super) day: [i32; 2],
    pub(super) week: [i32; 2],
    /// The exponent of the unit of the day and the precision of that of the week.
    pub(super) exponent: i32,
    pub(super) precision: i32,
    /// The share of the hour after.
    pub(super) share: f32,
}

/// What became of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    pub(super) day: [i32; 2],
    pub(super) week: [i32; 2],
    /// It takes more than that: an hour begins, or the units change. Then nothing here counts.
    pub(super) rarely: bool,
}

impl Sides {
    /// Whether both hours were seen.
    #[inline(always)]
    pub(super) fn known(&self) -> bool {
        (self.day[0] != i32::from(UNSEEN)) & (self.day[1] != i32::from(UNSEEN))
    }

    #[inline(always)]
    fn shares(&self) -> [f32; 2] {
        [1.0 - self.share, self.share]
    }

    /// What is usual here; an hour never seen is like `otherwise`.
    #[inline(always)]
    pub(super) fn usual(&self, otherwise: f32) -> Usual {
        let day_unit = power_of_two(self.exponent);
        let week_unit = power_of_two(-self.precision);
        let mut usual = Usual { of_day: 0.0, of_week: 0.0 };
        for side in 0..2 {
            let unseen = self.day[side] == i32::from(UNSEEN);
            let hour = choose(unseen, otherwise, day_unit * self.day[side] as f32);
            let of_day = self.shares()[side] * hour;
            usual.of_day += of_day;
            usual.of_week += of_day * (1.0 + week_unit * self.week[side] as f32);
        }
        usual
    }

    /// Moves both hours, of the day and of the week, towards a value.
    #[inline(always)]
    pub(super) fn moved(&self, usual: Usual, lesson: &Lesson) -> Moved {
        let size = usual.of_day.abs().at_least(lesson.least);
        let week_error = lesson.week_error.between(-FALL_MAX * size, RISE_MAX * size);
        let week_unit = power_of_two(self.precision);
        let units = lesson.week_rate * (week_error / size) * week_unit;
        let least = (FACTOR_MIN - 1.0) * week_unit;
        let mut moved = Moved { day: self.day, week: self.week, rarely: lesson.random & REFINE_MASK == 0 };
        for side in 0..2 {
            let (share, random) = (self.shares()[side], lesson.random >> (16 * side));
            let day = self.day_wanted(side, lesson);
            let week = (self.week[side] as f32 + share * units).at_least(least);
            let (day_units, week_units) = (round(day, random), round(week, random));
            let unseen = self.day[side] == i32::from(UNSEEN);
            moved.day[side] = choose(unseen, self.day[side], day_units);
            moved.week[side] = choose(unseen, self.week[side], week_units);
            let too_large = (day.abs() > WHOLE_MAX) | (week_units.abs() > FACTOR_UNITS_MAX);
            moved.rarely |= choose(unseen, share >= BEGINS_AT, too_large);
        }
        moved
    }

    /// Where an hour of the day moves to, in units, however many: beyond all numbers where the unit is far too fine.
    #[inline(always)]
    fn day_wanted(&self, side: usize, lesson: &Lesson) -> f32 {
        let by = lesson.day_rate * self.shares()[side] * lesson.error;
        let day = self.day[side] as f32 + by * power_of_two(-self.exponent);
        choose(lesson.signed, day, day.at_least(0.0))
    }

    /// The same in the units of the series, which is a number always.
    fn day_value(&self, side: usize, lesson: &Lesson) -> f32 {
        let by = lesson.day_rate * self.shares()[side] * lesson.error;
        self.day[side] as f32 * power_of_two(self.exponent) + by
    }
}

/// What the profile says of a place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Usual {
    /// Of this hour of any day.
    pub(super) of_day: f32,
    /// Of this hour of the week.
    pub(super) of_week: f32,
}

/// What a profile learns from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lesson {
    /// How far the value was above the profile, as far as the day may believe it, and as far as the week may.
    pub(super) error: f32,
    pub(super) week_error: f32,
    /// Where an hour never seen begins.
    pub(super) begin: f32,
    /// An error relative to the profile is relative to at least this.
    pub(super) least: f32,
    /// The share of the error that the day takes up, and the week.
    pub(super) day_rate: f32,
    pub(super) week_rate: f32,
    /// The series has been below zero.
    pub(super) signed: bool,
    /// 32 uniform random bits.
    pub(super) random: u32,
}

/// An average for each hour of the day, and how fine the factors of the week are, which lie elsewhere; 50 bytes.
#[repr(C)]
#[derive(Clone, Debug)]
pub(super) struct Season {
    /// The exponent of the unit of `day`.
    exponent: i8,
    precision: u8,
    day: [Short; DAY],
}

impl Season {
    pub(super) const fn new() -> Self {
        let exponent = EXPONENT_MIN as i8;
        Season { day: [UNSEEN; DAY], exponent, precision: PRECISION_MAX }
    }

    /// Takes over `donor`'s hours, multiplied by a power of two near `factor`; gives what is left of the factor.
    #[cold]
    pub(super) fn borrow(&mut self, donor: &Self, factor: f32) -> f32 {
        *self = donor.clone();
        let power = ((factor.to_bits() >> 23) & 0xff) as i32 - 127;
        let exponent = (i32::from(donor.exponent) + power).clamp(EXPONENT_MIN, EXPONENT_MAX);
        self.exponent = exponent as i8;
        factor * power_of_two((i32::from(donor.exponent) - exponent).clamp(-126, 127))
    }

    /// What it holds of the hours around a place.
    #[inline(always)]
    pub(super) fn sides(&self, week: Week<'_>, place: Place) -> Sides {
        Sides {
            day: place.day.map(|hour| i32::from(self.day[usize::from(hour).min(DAY - 1)])),
            week: place.week.map(|hour| i32::from(week.factor(hour.into()))),
            exponent: self.exponent.into(),
            precision: self.precision.into(),
            share: place.share,
        }
    }

    /// Puts these hours back.
    #[inline(always)]
    pub(super) fn put(&mut self, week: Week<'_>, place: Place, days: [i32; 2], factors: [i32; 2]) {
        for side in 0..2 {
            self.day[usize::from(place.day[side]).min(DAY - 1)] = days[side] as Short;
            week.put(place.week[side].into(), factors[side] as i8);
        }
    }

    /// Moves both hours around a place, of the day and of the week, towards a value, whatever it takes: hours begin,
    /// and units change. What one side changes holds for the other already.
    #[cold]
    pub(super) fn learn(&mut self, week: Week<'_>, place: Place, usual: Usual, lesson: &Lesson) {
        for side in 0..2 {
            let sides = self.sides(week, place);
            let moved = sides.moved(usual, lesson);
            let random = lesson.random >> (16 * side);
            let hour = usize::from(place.day[side]);
            if sides.day[side] == i32::from(UNSEEN) {
                if sides.shares()[side] >= BEGINS_AT {
                    self.begin(hour, lesson.begin, random);
                }
                continue;
            }
            if sides.day_wanted(side, lesson).abs() > WHOLE_MAX {
                self.begin(hour, sides.day_value(side, lesson), random);
            } else {
                self.day[hour] = moved.day[side] as Short;
            }
            self.set_week(week, usize::from(place.week[side]), moved.week[side]);
        }
        if lesson.random & REFINE_MASK == 0 {
            self.refine(week);
        }
    }

    /// Writes an hour in full, in a coarser unit for all if need be.
    #[cold]
    fn begin(&mut self, hour: usize, value: f32, random: u32) {
        let exponent = exponent_for(value);
        if self.day.iter().all(|slot| *slot == UNSEEN) {
            self.exponent = exponent;
        } else if exponent > self.exponent + 2 || self.day[hour] != UNSEEN {
            let shift = i32::from(exponent) - i32::from(self.exponent);
            self.shift_day(shift.max(0));
        }
        self.day[hour] = round(value * power_of_two(-i32::from(self.exponent)), random) as Short;
    }

    /// Makes the unit of the day coarser (or finer) by this many powers of two.
    fn shift_day(&mut self, shift: i32) {
        self.exponent = (i32::from(self.exponent) + shift) as i8;
        let shifted = |slot: Short| {
            (if shift > 0 { i32::from(slot) >> shift.min(16) } else { i32::from(slot) << -shift }) as Short
        };
        self.day = self.day.map(|slot| if slot == UNSEEN { UNSEEN } else { shifted(slot) });
    }

    fn set_week(&mut self, week: Week<'_>, hour: usize, units: i32) {
        week.put(hour, units.clamp(-FACTOR_UNITS_MAX, FACTOR_UNITS_MAX) as i8);
        if units.abs() > FACTOR_UNITS_MAX {
            self.coarsen_week(week);
        }
    }

    /// Doubles the unit of the week.
    #[cold]
    fn coarsen_week(&mut self, week: Week<'_>) {
        if self.precision > PRECISION_MIN {
            self.precision -= 1;
            week.change(|factor| factor / 2);
        }
    }

    /// Takes finer units where the hours leave room.
    #[cold]
    fn refine(&mut self, week: Week<'_>) {
        if self.precision < PRECISION_MAX && week.most() < REFINE_BELOW {
            self.precision += 1;
            week.change(|factor| factor * 2);
        }
        let seen = self.day.iter().filter(|slot| **slot != UNSEEN);
        let most = i32::from(seen.map(|slot| slot.unsigned_abs()).fold(0, u16::max));
        // The bits that the largest hour has too few; one of all zeros learns its size from what comes.
        let spare = BITS - (32 - most.leading_zeros() as i32);
        if spare > 1 {
            let room = i32::from(self.exponent) - EXPONENT_MIN;
            self.shift_day(-spare.min(room));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LESSON: Lesson = Lesson {
        error: 0.0,
        week_error: 0.0,
        begin: 0.0,
        least: 1.0,
        day_rate: 0.05,
        week_rate: 0.1,
        signed: false,
        random: 0,
    };

    fn place(day: i64, hour: f64) -> Place {
        Place::new(day * 86_400 + (hour * 3_600.0) as i64)
    }

    /// Teaches `weeks` weeks of `truth`, a function of the day of the week from Thursday and of the hour.
    fn taught(weeks: i64, truth: impl Fn(i64, f64) -> f64) -> (Season, [i8; WEEK]) {
        let (mut season, mut factors, mut random) = (Season::new(), [0; WEEK], 1_u32);
        let week = Week::own(&mut factors);
        for s in (0..weeks * WEEK_S).step_by(600) {
            let place = Place::new(s);
            let x = truth(s / 86_400 % 7, (s % 86_400) as f64 / 3_600.0) as f32;
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let usual = season.sides(week, place).usual(x);
            let error = x - usual.of_week;
            let lesson =
                Lesson { error, week_error: error, begin: x, least: f32::MIN_POSITIVE, random, ..LESSON };
            let sides = season.sides(week, place);
            let moved = sides.moved(usual, &lesson);
            season.learn(week, place, usual, &lesson);
            if !moved.rarely {
                let now = season.sides(week, place);
                assert_eq!((now.day, now.week), (moved.day, moved.week), "one way and the other");
            }
        }
        (season, factors)
    }

    #[test]
    fn places_follow_the_local_clock() {
        // Unix time zero is a Thursday at midnight: half way between the middles of hours 23 and 0.
        let midnight = Place::new(0);
        assert_eq!((midnight.week, midnight.day, midnight.share), ([167, 0], [23, 0], 0.5));
        let middle = place(1, 5.5);
        assert_eq!((middle.week, middle.day, middle.share), ([29, 30], [5, 6], 0.0));
        assert_eq!(Place::new(-HOUR_S / 2).week, [167, 0]);
        for odd in [i64::MIN, i64::MAX] {
            assert!(Place::new(odd).week.iter().all(|hour| usize::from(*hour) < WEEK));
        }
    }

    #[test]
    fn a_profile_learns_a_line_between_hours() {
        let (season, mut factors) = taught(3, |_, hour| 100.0 + 10.0 * hour);
        let week = Week::own(&mut factors);
        for hour in [6.25, 12.0, 18.75] {
            let usual = season.sides(week, place(2, hour)).usual(0.0);
            assert!((f64::from(usual.of_week) - 100.0 - 10.0 * hour).abs() < 5.0, "{hour}: {usual:?}");
        }
    }

    #[test]
    fn a_week_learns_its_quiet_days_whichever_they_are() {
        let (season, mut factors) =
            taught(12, |day, hour| if day == 1 || day == 5 { 30.0 } else { 100.0 + hour });
        let week = Week::own(&mut factors);
        for day in 0..7 {
            let usual = season.sides(week, place(day, 12.5)).usual(0.0).of_week;
            let truth = if day == 1 || day == 5 { 30.0 } else { 112.5 };
            assert!((usual - truth).abs() < 0.05 * truth, "day {day}: {usual}");
        }
    }

    #[test]
    fn the_unit_is_as_fine_as_the_week_allows() {
        assert_eq!(taught(12, |_, hour| 100.0 + hour).0.precision, PRECISION_MAX);
        let wide = taught(12, |day, hour| if day == 3 { 300.0 } else { 100.0 + hour });
        assert!(wide.0.precision < PRECISION_MAX);
    }

    #[test]
    fn rounding_is_right_on_average() {
        let (mut sum, mut random) = (0, 1_u32);
        for _ in 0..10_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            sum += round(-1000.3, random >> 8);
        }
        assert!((f64::from(sum) / 10_000.0 + 1000.3).abs() < 0.02, "{sum}");
    }

    #[test]
    fn a_day_of_any_size_is_held() {
        for size in [1.0e-12, 1.0e-3, 1.0, 1.0e9, 1.0e17] {
            let (season, mut factors) = taught(2, |_, hour| size * (1.0 + hour));
            let week = Week::own(&mut factors);
            let usual = f64::from(season.sides(week, place(2, 20.5)).usual(0.0).of_week) / size;
            assert!((usual - 21.5).abs() < 0.3, "{size}: {usual}");
        }
    }

    #[test]
    fn a_unit_spoiled_by_garbage_becomes_fine_again() {
        let (mut season, mut factors) = taught(1, |_, _| 1.0e15);
        let week = Week::own(&mut factors);
        for day in 0..60 {
            for hour in 0..24 {
                let place = place(day, hour as f64 + 0.5);
                let usual = season.sides(week, place).usual(0.0);
                let error = 100.0 - usual.of_week;
                let random = ((day * 24 + hour) as u32).wrapping_mul(0x9e37_79b9);
                season.learn(week, place, usual, &Lesson { error, day_rate: 0.8, random, ..LESSON });
                season.refine(week);
            }
        }
        let usual = season.sides(week, place(61, 7.5)).usual(0.0).of_week;
        assert!((usual - 100.0).abs() < 5.0, "{usual}");
    }

    #[test]
    fn an_hour_never_seen_is_like_what_it_is_told() {
        let (mut season, mut factors) = (Season::new(), [0; WEEK]);
        let week = Week::own(&mut factors);
        let place = place(0, 5.5);
        let usual = season.sides(week, place).usual(3.0);
        assert!(!season.sides(week, place).known() && usual.of_week == 3.0);
        let lesson = Lesson { begin: 7.0, ..LESSON };
        season.learn(week, place, usual, &lesson);
        assert_eq!(season.sides(week, place).usual(3.0).of_week, 7.0);
    }
}
