//! Strain: for how far and how long the recent errors of a forecast are beyond what they usually are.
//!
//! It must never compare with a fixed size: it learns what the mean of recent errors usually is, so that a
//! forecast that is always a little off is not under strain. The hard case is a fault against a new level; both
//! look alike at first, and only time tells: until `PATIENCE_S` learning nearly rests, after it, it hurries.

use super::approximate::{Bounded, choose};
use super::cadence;
use super::words::words;

/// Time constant, in seconds, of the mean of recent errors.
const RECENT_TAU_S: f32 = 1_200.0;
/// The least and the most that one error weighs: however fast or slow a series, a handful of observations tell.
const RECENT_RATE_MIN: f32 = 0.13;
const RECENT_RATE_MAX: f32 = 0.25;
/// The usual size of that mean counts as at least this, in usual errors.
const USUAL_FLOOR: f32 = 0.2;
/// One error counts as at most this, in usual errors.
const ERROR_MAX: f32 = 10.0;
/// Beyond this, in usual errors, an observation is abnormal.
const ABNORMAL_ERROR: f32 = 5.0;
/// And beyond this strain all are.
const ABNORMAL_STRAIN: f32 = 3.5;
/// After so long in an abnormal state, a working day, the series has a new level.
const PATIENCE_S: f32 = 28_800.0;
/// It hurries for this much longer than it needs to look normal, for a level that is nearly right would soon look
/// like another fault.
const PATIENCE_OVER_S: f32 = 14_400.0;
/// While younger than this many observations, errors teach whatever their size.
const YOUNG: u32 = 40;
/// And while younger than this, they put nothing under strain.
const STARTING: u32 = 10;

/// How to learn from an observation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pace {
    /// Factor on the time that passed, as far as the level is concerned.
    pub(super) level: f32,
    /// The same for the usual errors.
    pub(super) errors: f32,
    /// The same for the hours of the day.
    pub(super) day: f32,
    /// The same for the hours of the week, where what a fault of hours taught is asked for only in a week.
    pub(super) week: f32,
    /// One error teaches at most as much as this many usual errors.
    pub(super) clip: f32,
}

/// How to learn when nothing is odd.
pub(super) const ORDINARY: Pace = Pace { level: 1.0, errors: 1.0, day: 1.0, week: 1.0, clip: 4.0 };
const BEGINNING: Pace = Pace { clip: f32::MAX, ..ORDINARY };
/// While abnormal: the forecast stays where it is, the errors learn slowly that they are larger now.
const CAUTIOUS: Pace = Pace { level: 0.05, errors: 0.3, day: 0.05, week: 0.25, ..ORDINARY };
/// When patience is over: the level moves, by as much as it takes, and the seasons as ever.
const HASTY: Pace = Pace { level: 12.0, errors: 1.0, day: 1.0, week: 1.0, clip: f32::MAX };

/// Recent errors and how long they have been abnormal; 12 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strain {
    /// Mean of recent errors, in usual errors, signed.
    recent: f32,
    /// The usual size of `recent`.
    usual: f32,
    abnormal_s: f32,
}

words!(Strain { recent, usual, abnormal_s });

impl Strain {
    pub(super) const fn new() -> Self {
        Strain { recent: 0.0, usual: 0.0, abnormal_s: 0.0 }
    }

    /// The mean of recent errors against its usual size, signed.
    #[inline(always)]
    pub(super) fn size(&self) -> f32 {
        self.recent / self.usual_or_floor()
    }

    /// Takes in one error, in usual errors, as the `n`th observation, `step_s` seconds after the one before,
    /// and says how to learn from it.
    #[inline(always)]
    pub(super) fn observe(&mut self, error: f32, step_s: f32, n: u32) -> Pace {
        let rate = cadence::rate(step_s, RECENT_TAU_S).between(RECENT_RATE_MIN, RECENT_RATE_MAX);
        // The first errors have no usual size to be compared with.
        let rate = choose(n <= STARTING, 0.0, rate);
        self.recent += rate * (error.between(-ERROR_MAX, ERROR_MAX) - self.recent);
        let abnormal = (error.abs() > ABNORMAL_ERROR) | (self.size().abs() > ABNORMAL_STRAIN);
        let passed_s = choose(abnormal, step_s, -step_s);
        let abnormal_s = (self.abnormal_s + passed_s).at_least(0.0);
        let over = abnormal & (abnormal_s > PATIENCE_S);
        self.abnormal_s = choose(over, PATIENCE_S + PATIENCE_OVER_S, abnormal_s);
        let pace = either(abnormal, CAUTIOUS, ORDINARY);
        let pace = either(self.abnormal_s > PATIENCE_S, HASTY, pace);
        either(n <= YOUNG, BEGINNING, pace)
    }

    /// Learns what is usual, robustly.
    #[inline(always)]
    pub(super) fn learn(&mut self, rate: f32) {
        let size = self.recent.abs().at_most(ABNORMAL_STRAIN * self.usual_or_floor());
        self.usual += rate * (size - self.usual);
    }

    /// Goes back to what was usual before, unless it learns.
    #[inline(always)]
    pub(super) fn rest(&mut self, before: &Self, learns: bool) {
        self.usual = choose(learns, self.usual, before.usual);
    }

    #[inline(always)]
    fn usual_or_floor(&self) -> f32 {
        self.usual + USUAL_FLOOR
    }
}

/// One of two paces, number by number.
#[inline(always)]
fn either(first: bool, one: Pace, other: Pace) -> Pace {
    let of = |one: f32, other: f32| choose(first, one, other);
    Pace {
        level: of(one.level, other.level),
        errors: of(one.errors, other.errors),
        day: of(one.day, other.day),
        week: of(one.week, other.week),
        clip: of(one.clip, other.clip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled() -> Strain {
        let mut strain = Strain::new();
        for n in 1..1_000 {
            strain.observe(if n % 2 == 0 { 1.0 } else { -1.0 }, 300.0, n);
            strain.learn(0.01);
        }
        strain
    }

    #[test]
    fn noise_is_ordinary() {
        let mut strain = settled();
        assert_eq!(strain.observe(1.0, 300.0, 1_000), ORDINARY);
        assert!(strain.size().abs() < 1.0);
    }

    #[test]
    fn a_fault_is_met_with_caution_and_a_new_level_with_haste() {
        let mut strain = settled();
        let paces: [Pace; 120] = core::array::from_fn(|_| strain.observe(-8.0, 300.0, 1_000));
        assert_eq!(paces[0], CAUTIOUS);
        assert_eq!(paces[6 * 12], CAUTIOUS, "six hours");
        assert_eq!(paces[9 * 12], HASTY, "nine hours");
        assert!(strain.size() < -5.0);
    }

    #[test]
    fn moderate_errors_on_one_side_add_up() {
        let mut strain = settled();
        for _ in 0..12 {
            strain.observe(-2.5, 300.0, 1_000);
        }
        assert_eq!(strain.observe(-2.5, 300.0, 1_000), CAUTIOUS);
    }
}
