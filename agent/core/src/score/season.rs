//! The seasonal profile: what is usual at an hour of the day, and at an hour of the week, in local time.
//!
//! Between the middles of two hours the profile is a straight line, fitted by least mean squares, so that it
//! has no steps at full hours. It must never learn from a value that the forecast calls abnormal; the caller
//! gives the rate. The hard case is precision in two bytes: numbers are rounded at random in proportion to
//! what is cut off, so that small corrections arrive on average.

/// Hours of a day and of a week.
pub(super) const DAY: usize = 24;
pub(super) const WEEK: usize = 168;

/// The upper half of an `f32`: eight bits of mantissa, the whole range of exponents.
type Short = u16;
/// A slot that has seen nothing, a pattern that no finite number has.
const UNSEEN: Short = u16::MAX;
/// Seconds of an hour.
const HOUR_S: i64 = 3600;

fn widen(short: Short) -> f32 {
    f32::from_bits(u32::from(short) << 16)
}

fn shorten(x: f32, random: u32) -> Short {
    (x.to_bits().saturating_add(random & 0xffff) >> 16) as Short
}

/// Where a moment lies in a profile of hours: between the middles of slot `before` and the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    before: usize,
    after: usize,
    /// Share of `after`, `[0, 1)`.
    share: f32,
}

impl Place {
    /// The place of a local time in a cycle of `hours` hours that begins at Unix time zero, a Thursday.
    #[inline]
    pub(super) fn new(local_s: i64, hours: usize) -> Self {
        let since_middle = local_s.rem_euclid(hours as i64 * HOUR_S) - HOUR_S / 2;
        let cycle = since_middle.rem_euclid(hours as i64 * HOUR_S);
        let before = (cycle / HOUR_S) as usize;
        let share = (cycle % HOUR_S) as f32 * (1.0 / HOUR_S as f32);
        Place { before, after: if before + 1 == hours { 0 } else { before + 1 }, share }
    }
}

/// A value for each hour of a cycle of `H` hours.
#[repr(C)]
#[derive(Clone, Debug)]
pub(super) struct Profile<const H: usize> {
    slots: [Short; H],
}

impl<const H: usize> Profile<H> {
    pub(super) const fn new() -> Self {
        Profile { slots: [UNSEEN; H] }
    }

    /// What is usual at a place, or nothing when the nearer hour was never seen.
    #[inline]
    pub(super) fn usual(&self, place: Place) -> Option<f32> {
        let (before, after) = (self.slots[place.before], self.slots[place.after]);
        match (before == UNSEEN, after == UNSEEN) {
            (false, false) => {
                let (a, b) = (widen(before), widen(after));
                Some(a + place.share * (b - a))
            }
            (false, true) if place.share < 0.5 => Some(widen(before)),
            (true, false) if place.share >= 0.5 => Some(widen(after)),
            _ => None,
        }
    }

    /// Moves both hours around a place towards a value that was `error` above the profile; an hour never
    /// seen begins at `begin`.
    #[inline]
    pub(super) fn learn(&mut self, place: Place, error: f32, begin: f32, rate: f32, random: u32) {
        self.move_slot(place.before, 1.0 - place.share, error, begin, rate, random);
        self.move_slot(place.after, place.share, error, begin, rate, random >> 16);
    }

    #[inline]
    fn move_slot(&mut self, slot: usize, share: f32, error: f32, begin: f32, rate: f32, random: u32) {
        let old = match self.slots[slot] {
            UNSEEN if share < 0.5 => return,
            UNSEEN => begin,
            seen => widen(seen),
        };
        self.slots[slot] = shorten(old + rate * share * error, random);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_follow_the_local_clock() {
        // Unix time zero is a Thursday at midnight: half way between the middles of hours 23 and 0.
        let midnight = Place::new(0, DAY);
        assert_eq!((midnight.before, midnight.after, midnight.share), (23, 0, 0.5));
        let middle = Place::new(5 * HOUR_S + HOUR_S / 2, DAY);
        assert_eq!((middle.before, middle.after, middle.share), (5, 6, 0.0));
        assert_eq!(Place::new(-HOUR_S / 2, WEEK).before, WEEK - 1);
        for odd in [i64::MIN, i64::MAX] {
            assert!(Place::new(odd, WEEK).before < WEEK);
        }
    }

    #[test]
    fn a_profile_learns_a_line_between_hours() {
        let (mut profile, mut random) = (Profile::<DAY>::new(), 1_u32);
        for s in (0..20 * 86_400).step_by(300) {
            let place = Place::new(s, DAY);
            let x = 100.0 + 10.0 * (s % 86_400) as f32 / 3_600.0;
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let error = profile.usual(place).map_or(0.0, |p| x - p);
            profile.learn(place, error, x, 0.1, random);
        }
        let noon = profile.usual(Place::new(12 * HOUR_S, DAY)).expect("seen");
        assert!((noon - 220.0).abs() < 4.0, "{noon}");
    }

    #[test]
    fn rounding_is_right_on_average() {
        let (mut sum, mut random) = (0.0, 1_u32);
        for _ in 0..10_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            sum += f64::from(widen(shorten(1000.3, random >> 8)));
        }
        assert!((sum / 10_000.0 - 1000.3).abs() < 0.1, "{}", sum / 10_000.0);
    }

    #[test]
    fn an_hour_never_seen_has_no_usual_value() {
        let mut profile = Profile::<DAY>::new();
        let place = Place::new(5 * HOUR_S + HOUR_S / 2, DAY);
        assert_eq!(profile.usual(place), None);
        profile.learn(place, 0.0, 7.0, 0.5, 0);
        assert_eq!(profile.usual(place), Some(7.0));
    }
}
