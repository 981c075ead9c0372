//! The forecast: what the next value should be, one step ahead, and how far off such forecasts usually are.
//!
//! Three experts speak: the level, the hour of the day, the hour of the week. Those that have erred less weigh
//! more. The two seasonal ones are multiplied by a slow ratio, the level of today against that of the
//! profile. It must never learn a fault within the hours that people need to see it, nor refuse a new level
//! for ever: while errors are beyond what is usual, learning nearly rests; when that has lasted
//! `PATIENCE_S`, the new level is taken up quickly. The hard case is telling the two apart by time alone.

use super::cadence;
use super::season::{DAY, Place, Profile, WEEK};
use super::{Learning, Moment};

const EXPERTS: usize = 3;
/// Time constants, in seconds, of the level, of the ratio and of the usual errors.
const LEVEL_TAU_S: f32 = 43_200.0;
const RATIO_TAU_S: f32 = 86_400.0;
const ERROR_TAU_S: f32 = 86_400.0;
/// Time constant of the mean of recent errors behind `strain`; at least `RECENT_STEPS` observations.
const RECENT_TAU_S: f32 = 1_200.0;
const RECENT_RATE_MAX: f32 = 0.25;
/// An hour's slot is a mean over its visits, by this many at least and at most.
const HOUR_S: f32 = 3_600.0;
const DAY_S: f32 = 24.0 * HOUR_S;
const WEEK_S: f32 = 7.0 * DAY_S;
const VISITS_MIN: f32 = 0.25;
const VISITS_DAY: f32 = 6.0;
const VISITS_WEEK: f32 = 4.0;
/// Strain is at least measured against this.
const RECENT_FLOOR: f32 = 0.2;
/// While younger than this many observations, errors teach whatever their size.
const YOUNG: u32 = 40;
/// Until this age means are over all observations so far.
const YOUTH: u32 = 4096;
/// One error teaches at most as much as this many usual errors.
const ERROR_CLIP: f32 = 4.0;
/// Beyond these, in usual errors, an observation, or the mean of recent ones, is abnormal.
const ABNORMAL_ERROR: f32 = 5.0;
const ABNORMAL_STRAIN: f32 = 3.5;
/// What is learned while abnormal, as a share of what is learned otherwise.
const CAUTION: f32 = 0.05;
const CAUTION_ERRORS: f32 = 0.3;
/// After so long beyond the usual, the series has a new level.
const PATIENCE_S: f32 = 28_800.0;
/// How much faster that is learned.
const HASTE: f32 = 6.0;
/// Bounds of today's level against the profile.
const RATIO_MAX: f32 = 8.0;

/// What a step of the forecast needs to know beside the value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// Now.
    pub(super) moment: Moment,
    /// Seconds since the observation before.
    pub(super) step_s: f32,
    /// Number of observations with this one, from 1.
    pub(super) n: u32,
    /// 32 uniform random bits.
    pub(super) random: u32,
    /// The series has been below zero.
    pub(super) signed: bool,
    /// Whether to learn.
    pub(super) learning: Learning,
}

/// What one step of the forecast gave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forecasted {
    /// The forecast.
    pub(super) expected: f32,
    /// The value minus the forecast.
    pub(super) residual: f32,
    /// The mean of recent residuals, in usual errors.
    pub(super) strain: f32,
}

/// Level, seasons and their usual errors.
#[repr(C)]
#[derive(Clone, Debug)]
pub(super) struct Forecast {
    level: f32,
    /// Today's level against the profile.
    ratio: f32,
    /// Mean size of the series.
    size: f32,
    /// Usual (mean absolute) error of each expert.
    errors: [f32; EXPERTS],
    /// Usual error of the blend, for a series at its mean size.
    usual: f32,
    /// Mean of recent residuals in usual errors, and its usual size.
    recent: f32,
    usual_recent: f32,
    /// For how long the series has been abnormal.
    abnormal_s: f32,
    /// For how long the seasons have been learned.
    age_s: f32,
    day: Profile<DAY>,
    week: Profile<WEEK>,
}

/// One round of forecasts, kept between predicting and learning.
struct Round {
    places: (Place, Place),
    experts: [f32; EXPERTS],
    season: f32,
}

impl Forecast {
    pub(super) const fn new() -> Self {
        Forecast {
            level: 0.0,
            ratio: 1.0,
            size: 0.0,
            errors: [0.0; EXPERTS],
            usual: 0.0,
            recent: 0.0,
            usual_recent: 0.0,
            abnormal_s: 0.0,
            age_s: 0.0,
            day: Profile::new(),
            week: Profile::new(),
        }
    }

    /// Forecasts `x`, compares and learns.
    #[inline]
    pub(super) fn step(&mut self, x: f32, step: &Step) -> Forecasted {
        if step.n == 1 {
            (self.level, self.size) = (x, x.abs());
        }
        let (round, blend) = self.predict(step.moment);
        let expected = if step.signed { blend } else { blend.max(0.0) };
        let residual = x - expected;
        let usual = self.usual_at(expected);
        self.judge(residual / usual, step);
        if step.learning == Learning::Normal {
            self.learn(x, &round, residual, usual, step);
        }
        Forecasted { expected, residual, strain: self.strain() }
    }

    fn predict(&self, moment: Moment) -> (Round, f32) {
        let places = (Place::new(moment.local_s, DAY), Place::new(moment.local_s, WEEK));
        let day = self.day.usual(places.0);
        let week = self.week.usual(places.1).or(day);
        let [day_value, week_value] = [day, week].map(|p| p.map_or(self.level, |p| p * self.ratio));
        let experts = [self.level, day_value, week_value];
        let weights = self.weights();
        let total = weights[0] + weights[1] + weights[2];
        let seasonal = weights[1] + weights[2];
        let season = (weights[1] * day_value + weights[2] * week_value) / seasonal;
        let blend = (weights[0] * self.level + seasonal * season) / total;
        (Round { places, experts, season }, blend)
    }

    /// The weight of each expert, `1 / error^6` up to a factor; the best has 1.
    fn weights(&self) -> [f32; EXPERTS] {
        let floor = self.error_floor();
        let best = self.errors[0].min(self.errors[1]).min(self.errors[2]) + floor;
        self.errors.map(|e| {
            let share = best / (e + floor);
            let square = share * share;
            (square * square * square).max(1.0e-12)
        })
    }

    /// The smallest error told apart from none.
    fn error_floor(&self) -> f32 {
        1.0e-6 * self.size + 1.0e-18
    }

    /// The usual error where `expected` is the forecast: like the noise of counts it grows with the square
    /// root of the size.
    fn usual_at(&self, expected: f32) -> f32 {
        let relative = (expected.abs() / (self.size + 1.0e-18)).clamp(0.1, 10.0);
        self.usual * libm::sqrtf(relative) + self.error_floor()
    }

    /// Keeps the mean of recent errors, and for how long it has been abnormal. `error` is in usual errors.
    fn judge(&mut self, error: f32, step: &Step) {
        let rate =
            cadence::rate(step.step_s, RECENT_TAU_S).clamp(1.0 / step.n as f32, 1.0).min(RECENT_RATE_MAX);
        let bound = 2.0 * ABNORMAL_ERROR;
        self.recent += rate * (error.clamp(-bound, bound) - self.recent);
        if self.is_abnormal(error) {
            self.abnormal_s = (self.abnormal_s + step.step_s).min(1.5 * PATIENCE_S);
        } else {
            self.abnormal_s = (self.abnormal_s - step.step_s).max(0.0);
        }
    }

    /// The mean of recent errors against its own usual size.
    fn strain(&self) -> f32 {
        self.recent / (self.usual_recent + RECENT_FLOOR)
    }

    fn is_abnormal(&self, error: f32) -> bool {
        error.abs() > ABNORMAL_ERROR || self.strain().abs() > ABNORMAL_STRAIN
    }

    /// How fast to learn, and how much one error may teach, in usual errors.
    fn pace(&self, error: f32, n: u32) -> (f32, f32) {
        if n <= YOUNG {
            (1.0, f32::MAX)
        } else if self.abnormal_s > PATIENCE_S {
            (HASTE, f32::MAX)
        } else if self.is_abnormal(error) {
            (CAUTION, ERROR_CLIP)
        } else {
            (1.0, ERROR_CLIP)
        }
    }

    fn learn(&mut self, x: f32, round: &Round, residual: f32, usual: f32, step: &Step) {
        let (pace, clip) = self.pace(residual / usual, step.n);
        let youth = if step.n <= YOUTH { pace.min(1.0) / step.n as f32 } else { 0.0 };
        let floor = self.error_floor();
        let error_rate = cadence::rate(step.step_s * pace.max(CAUTION_ERRORS), ERROR_TAU_S).max(youth);
        let mut errors = round.experts.map(|p| x - p);
        for (error, usual) in errors.iter_mut().zip(&mut self.errors) {
            *error = clamp(*error, clip, *usual + floor);
            *usual += error_rate * (error.abs() - *usual);
        }
        let scale = self.usual / usual;
        self.usual += error_rate * (clamp(residual, clip, usual).abs() * scale.max(0.1) - self.usual);
        self.usual_recent += error_rate
            * (self.recent.abs().min(ABNORMAL_STRAIN * (self.usual_recent + RECENT_FLOOR))
                - self.usual_recent);
        self.size += error_rate * (x.abs().min(self.size + 2.0 * errors[0].abs()) - self.size);
        self.level += cadence::rate(step.step_s * pace, LEVEL_TAU_S).max(youth) * errors[0];
        self.learn_ratio(
            clamp(x - round.season, clip, usual),
            round.season,
            cadence::rate(step.step_s * pace, RATIO_TAU_S),
        );
        let step_s = step.step_s * pace.min(1.0);
        self.age_s += step_s;
        let day_rate = cadence::rate(step_s, HOUR_S * (self.age_s / DAY_S).clamp(VISITS_MIN, VISITS_DAY));
        let week_rate = cadence::rate(step_s, HOUR_S * (self.age_s / WEEK_S).clamp(VISITS_MIN, VISITS_WEEK));
        self.day.learn(round.places.0, errors[1], x, day_rate, step.random);
        self.week.learn(round.places.1, errors[2], x, week_rate, step.random.rotate_left(7));
    }

    /// Least mean squares of the value on the seasonal forecast.
    fn learn_ratio(&mut self, error: f32, season: f32, rate: f32) {
        let profile = season / self.ratio;
        let power = self.size * self.size + 0.1 * profile * profile + f32::MIN_POSITIVE;
        self.ratio = (self.ratio + rate * error * profile / power).clamp(1.0 / RATIO_MAX, RATIO_MAX);
    }
}

/// An error within `clip` usual errors.
fn clamp(error: f32, clip: f32, usual: f32) -> f32 {
    let bound = (clip * usual).min(f32::MAX);
    error.clamp(-bound, bound)
}
