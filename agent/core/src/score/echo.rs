//! The echo: what the last errors of the expectation foretell of the next one, and how wide the band around that
//! forecast has to be.
//!
//! Where a series is above what its level and seasons expect, it mostly stays there for a while: a warm day, a
//! busy evening. How much of the last error and of its change returns is learned for each series by least mean
//! squares. It must never reach the expectation itself, which has to stay where it is during a fault, while this
//! forecast follows one. The hard case is a lone outlier: it echoes only as far as usual errors go.

use super::approximate::{Bounded, choose};
use super::words::words;

/// Rates of the powers that normalise the learning, and of the usual error, for each observation.
const POWER_RATE: f32 = 1.0 / 256.0;
const USUAL_RATE: f32 = 1.0 / 100.0;
/// Rate of the least mean squares, relative to the power.
const WEIGHT_RATE: f32 = 0.005;
/// What the weights begin with: most of an error returns.
const WEIGHTS_BEGIN: [f32; 2] = [0.9, 0.0];
/// One error echoes as at most this many usual ones.
const ECHO_MAX: f32 = 8.0;
/// And teaches as at most this many, unless the pace says otherwise.
const LESSON_MAX: f32 = 20.0;
/// And none more than this, so that squares stay finite.
const FEATURE_MAX: f32 = 1.0e18;
/// The first so many observations echo and teach in full.
const YOUNG: u32 = 40;
/// After a gap of more than this many usual steps an echo fades.
const GAP_STEPS: f32 = 1.5;
/// The share of observations outside of the band, and by what part of it they widen it.
const OUTSIDE: f32 = 0.1;
const WIDTH_RATE: f32 = 0.03;
/// The band in usual errors: at the beginning (that of a normal distribution), at least and at most.
const WIDTH_BEGIN: f32 = 2.06;
const WIDTH_MIN: f32 = 0.05;
const WIDTH_MAX: f32 = 100.0;

/// Recent errors and how they return; 36 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Echo {
    /// The last two errors of the expectation, at the mean size of the series.
    past: [f32; 2],
    /// Mean squares of the last error and of its change, and how much of each returns.
    powers: [f32; 2],
    weights: [f32; 2],
    /// Usual (mean absolute) error of this forecast.
    usual: f32,
    /// Half of the band, in usual errors.
    width: f32,
    /// The usual time between observations.
    pitch_s: f32,
}

/// How the echo learns from one observation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lesson {
    /// The error of the expectation, at the mean size of the series.
    pub(super) error: f32,
    /// The smallest error told apart from none.
    pub(super) floor: f32,
    /// Seconds since the observation before.
    pub(super) step_s: f32,
    /// The number of observations with this one, and its inverse.
    pub(super) n: u32,
    pub(super) youth: f32,
    /// One error teaches at most as much as this many usual ones.
    pub(super) clip: f32,
}

words!(Echo { past, powers, weights, usual, width, pitch_s });

impl Echo {
    pub(super) const fn new() -> Self {
        Echo {
            past: [0.0; 2],
            powers: [0.0; 2],
            weights: WEIGHTS_BEGIN,
            usual: 0.0,
            width: WIDTH_BEGIN,
            pitch_s: 0.0,
        }
    }

    /// How far the next error of the expectation is likely to be from zero, `step_s` after the last.
    #[inline(always)]
    pub(super) fn ahead(&self, step_s: f32) -> f32 {
        let [error, change] = self.features();
        self.fade(step_s) * (self.weights[0] * error + self.weights[1] * change)
    }

    /// Half of the band that holds nine of ten errors of this forecast.
    #[inline(always)]
    pub(super) fn band(&self) -> f32 {
        self.width * self.usual
    }

    /// Compares what came with `ahead`, the forecast that was used, and learns.
    #[inline(always)]
    pub(super) fn learn(&mut self, ahead: f32, lesson: &Lesson) {
        let usual = self.usual + lesson.floor;
        let error = lesson.error - ahead;
        let inside = error.abs() <= self.width * usual;
        let by = choose(inside, -OUTSIDE, 1.0 - OUTSIDE);
        self.width = (self.width * (1.0 + WIDTH_RATE * by)).between(WIDTH_MIN, WIDTH_MAX);
        let clipped = within(error, lesson.clip * usual);
        self.learn_weights(clipped, usual, lesson);
        self.usual += USUAL_RATE.at_least(lesson.youth) * (clipped.abs() - self.usual);
        let echo = choose(lesson.n <= YOUNG, lesson.error, ahead + within(error, ECHO_MAX * usual));
        self.past = [echo, self.past[0]];
        let step_s = lesson.step_s.between(0.5 * self.pitch_s, 2.0 * self.pitch_s + f32::MIN_POSITIVE);
        let pitch_s = choose(lesson.n <= 2, lesson.step_s, step_s);
        self.pitch_s += lesson.youth.at_least(0.1) * (pitch_s - self.pitch_s);
    }

    #[inline(always)]
    fn learn_weights(&mut self, error: f32, usual: f32, lesson: &Lesson) {
        let rate = POWER_RATE.at_least(lesson.youth);
        // After a gap nothing is learned of how errors return after one step.
        let step = choose(self.fade(lesson.step_s) < 1.0, 0.0, WEIGHT_RATE);
        for (i, feature) in self.features().into_iter().enumerate() {
            let feature = within(feature, (LESSON_MAX * usual).at_most(FEATURE_MAX));
            self.powers[i] += rate * (feature * feature - self.powers[i]);
            let power = self.powers[i] + lesson.floor * lesson.floor + f32::MIN_POSITIVE;
            self.weights[i] += step * within(error * feature / power, LESSON_MAX);
        }
        self.weights = [self.weights[0].between(0.0, 1.0), self.weights[1].between(-0.95, 0.95)];
    }

    #[inline(always)]
    fn features(&self) -> [f32; 2] {
        [self.past[0], self.past[0] - self.past[1]]
    }

    /// What is left of an echo after `step_s`.
    #[inline(always)]
    fn fade(&self, step_s: f32) -> f32 {
        let usual_s = GAP_STEPS * self.pitch_s;
        choose(step_s > usual_s, usual_s / step_s, 1.0)
    }
}

/// A number within `most` of zero.
#[inline(always)]
fn within(x: f32, most: f32) -> f32 {
    let most = most.at_most(f32::MAX);
    x.between(-most, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds errors that return with `share` and noise in `[-1, 1)`; gives the mean absolute error of the echo and
    /// the share of errors within the band over the second half.
    fn run(echo: &mut Echo, share: f32, count: u32) -> (f32, f32) {
        let (mut error, mut random, mut sum, mut inside) = (0.0_f32, 1_u32, 0.0, 0.0);
        for n in 1..=count {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            error = share * error + (random >> 8) as f32 / 8_388_608.0 - 1.0;
            let ahead = echo.ahead(60.0);
            if n > count / 2 {
                sum += (error - ahead).abs();
                inside += if (error - ahead).abs() <= echo.band() { 1.0 } else { 0.0 };
            }
            echo.learn(ahead, &lesson(error, n));
        }
        let half = (count - count / 2) as f32;
        (sum / half, inside / half)
    }

    fn lesson(error: f32, n: u32) -> Lesson {
        Lesson { error, floor: 1.0e-6, step_s: 60.0, n, youth: 1.0 / n as f32, clip: 4.0 }
    }

    #[test]
    fn what_returns_is_learned_and_the_band_holds_nine_of_ten() {
        for share in [0.0, 0.5, 0.95] {
            let mut echo = Echo::new();
            let (error, inside) = run(&mut echo, share, 8_000);
            // The mean absolute size of what cannot be known is one half.
            assert!(error < 0.53, "{share}: {error}");
            assert!((0.88..0.92).contains(&inside), "{share}: {inside}");
        }
    }

    #[test]
    fn an_outlier_hardly_echoes() {
        let mut echo = Echo::new();
        run(&mut echo, 0.9, 4_000);
        let ahead = echo.ahead(60.0);
        echo.learn(ahead, &lesson(1.0e6, 4_001));
        assert!(echo.ahead(60.0).abs() < 10.0, "{}", echo.ahead(60.0));
    }

    #[test]
    fn an_echo_fades_over_a_gap() {
        let mut echo = Echo::new();
        run(&mut echo, 0.9, 4_000);
        let (next, late) = (echo.ahead(60.0), echo.ahead(86_400.0));
        assert!(late.abs() < 0.01 * next.abs(), "{next} and after a day {late}");
    }
}
