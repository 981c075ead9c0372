//! The forecast: what the next value should be, one step ahead, and how far off such forecasts usually are.
//!
//! Three experts speak: the level, the hour of the day, the hour of the week; those that have erred less weigh
//! more. The seasonal two are multiplied by a slow ratio, the level of these days against that of the profile.
//! It must never learn a fault within the hours that people need to see it, nor refuse a new level for ever;
//! `strain` sets the pace. The hard case is counts that are small: the usual error is larger than the fault,
//! and only sums over many series can tell.

use super::cadence::rate;
use super::season::{DAY, Place, Profile, WEEK};
use super::strain::{Pace, Strain};
use super::{Learning, Moment};

const EXPERTS: usize = 3;
/// Time constants, in seconds, of the level, of the ratio and of the usual errors.
const LEVEL_TAU_S: f32 = 43_200.0;
const RATIO_TAU_S: f32 = 86_400.0;
const ERROR_TAU_S: f32 = 86_400.0;
/// Until this many observations, means are over all of them.
const YOUTH: u16 = 4_096;
/// An hour of a profile is a mean over its visits so far, but over this many at least and at most.
const HOUR_S: f32 = 3_600.0;
const VISITS_MIN: f32 = 0.25;
const VISITS_DAY_MAX: f32 = 6.0;
const VISITS_WEEK_MAX: f32 = 4.0;
/// Observations closer than about this, in seconds, hardly begin an hour each.
const BEGIN_TAU_S: f32 = 100.0;
/// Bounds of the level of these days against that of the profile.
const RATIO_MAX: f32 = 8.0;
/// A profile is stored to about this share of its size, and is never trusted further.
const RESOLUTION: f32 = 1.0 / 512.0;
/// How far below and above its mean size a series is taken to scale its noise.
const SCALE_MAX: f32 = 10.0;

/// What a step of the forecast needs to know beside the value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// Now.
    pub(super) moment: Moment,
    /// Seconds since the observation before.
    pub(super) step_s: f32,
    /// Number of observations with this one, from 1.
    pub(super) n: u16,
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
    /// The usual size of such a residual.
    pub(super) usual: f32,
    /// The mean of recent residuals against its usual size.
    pub(super) strain: f32,
}

/// Level, seasons and their usual errors; 428 bytes.
#[repr(C)]
#[derive(Clone, Debug)]
pub(super) struct Forecast {
    level: f32,
    /// The level of these days against that of the profile.
    ratio: f32,
    /// Mean size of the series.
    size: f32,
    /// Usual (mean absolute) error of each expert.
    errors: [f32; EXPERTS],
    /// Usual error of the blend when the series is at its mean size.
    usual: f32,
    strain: Strain,
    /// For how long the seasons have been learned.
    age_s: f32,
    day: Profile<DAY>,
    week: Profile<WEEK>,
}

/// What the experts said, kept between forecasting and learning.
struct Round {
    day: Place,
    week: Place,
    experts: [f32; EXPERTS],
    /// The blend of the seasonal experts, and of all.
    season: f32,
    blend: f32,
}

impl Forecast {
    pub(super) const fn new() -> Self {
        Forecast {
            level: 0.0,
            ratio: 1.0,
            size: 0.0,
            errors: [0.0; EXPERTS],
            usual: 0.0,
            strain: Strain::new(),
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
        let round = self.ask(step.moment);
        let expected = if step.signed { round.blend } else { round.blend.max(0.0) };
        let residual = x - expected;
        let scale = self.scale_at(expected);
        let usual = self.usual * scale + self.error_floor();
        let pace = self.strain.observe(residual / usual, step.step_s, step.n);
        if step.learning == Learning::Normal {
            self.learn_errors(x, &round, pace, step);
            let bound = clip(residual, pace.clip, usual);
            self.usual += self.error_rate(pace, step) * (bound.abs() / scale - self.usual);
            self.learn_level(x, &round, pace, usual, step);
            self.learn_seasons(x, &round, pace, step);
        }
        Forecasted { expected, residual, usual, strain: self.strain.size() }
    }

    /// The usual error when the series is at its mean size.
    pub(super) fn usual(&self) -> f32 {
        self.usual
    }

    /// Asks the experts, and blends what they say.
    #[inline]
    fn ask(&self, moment: Moment) -> Round {
        let (day, week) = (Place::new(moment.local_s, DAY), Place::new(moment.local_s, WEEK));
        let of_day = self.day.usual(day);
        let of_week = self.week.usual(week).or(of_day);
        let [of_day, of_week] = [of_day, of_week].map(|p| p.map_or(self.level, |p| p * self.ratio));
        let [w_level, w_day, w_week] = self.weights();
        let season = (w_day * of_day + w_week * of_week) / (w_day + w_week);
        let blend = (w_level * self.level + (w_day + w_week) * season) / (w_level + w_day + w_week);
        Round { day, week, experts: [self.level, of_day, of_week], season, blend }
    }

    /// The weight of each expert, `1 / error^6` up to a factor; the best has 1. The high power nearly chooses:
    /// a mean with a much worse expert would be biased at the same hours each week.
    #[inline]
    fn weights(&self) -> [f32; EXPERTS] {
        let (floor, resolution) = (self.error_floor(), RESOLUTION * self.size);
        let errors = [self.errors[0] + floor, self.errors[1] + resolution, self.errors[2] + resolution];
        let best = errors[0].min(errors[1]).min(errors[2]);
        errors.map(|error| {
            let share = best / error;
            let square = share * share;
            (square * square * square).max(1.0e-12)
        })
    }

    /// The smallest error told apart from none.
    fn error_floor(&self) -> f32 {
        1.0e-6 * self.size + 1.0e-18
    }

    /// How much larger errors are where `expected` is the forecast: like the noise of counts they grow with the
    /// square root of the size.
    fn scale_at(&self, expected: f32) -> f32 {
        let relative = expected.abs() / (self.size + 1.0e-18);
        libm::sqrtf(relative.clamp(1.0 / SCALE_MAX, SCALE_MAX))
    }

    fn error_rate(&self, pace: Pace, step: &Step) -> f32 {
        rate(step.step_s * pace.errors, ERROR_TAU_S).max(youth(pace, step.n))
    }

    fn learn_errors(&mut self, x: f32, round: &Round, pace: Pace, step: &Step) {
        let (floor, rate) = (self.error_floor(), self.error_rate(pace, step));
        for (usual, said) in self.errors.iter_mut().zip(round.experts) {
            *usual += rate * (clip(x - said, pace.clip, *usual + floor).abs() - *usual);
        }
        // A size that grows by no more than the errors do keeps out a lone outlier.
        let size = x.abs().min(self.size + 2.0 * pace.clip.min(1.0e6) * (self.errors[0] + floor));
        self.size += rate * (size - self.size);
        self.strain.learn(rate);
    }

    /// Moves the level, and the ratio by least mean squares of the value on the profile.
    fn learn_level(&mut self, x: f32, round: &Round, pace: Pace, usual: f32, step: &Step) {
        let step_s = step.step_s * pace.level;
        let level_rate = rate(step_s, LEVEL_TAU_S).max(youth(pace, step.n));
        self.level += level_rate * clip(x - self.level, pace.clip, self.errors[0] + self.error_floor());
        let profile = round.season / self.ratio;
        let power = self.size * self.size + 0.1 * profile * profile + f32::MIN_POSITIVE;
        let error = clip(x - round.season, pace.clip, usual);
        let ratio = self.ratio + rate(step_s, RATIO_TAU_S) * (error * profile / power);
        self.ratio = ratio.clamp(1.0 / RATIO_MAX, RATIO_MAX);
    }

    fn learn_seasons(&mut self, x: f32, round: &Round, pace: Pace, step: &Step) {
        let step_s = step.step_s * pace.seasons;
        self.age_s += step_s;
        let visits = |hours: usize, max: f32| (self.age_s / (hours as f32 * HOUR_S)).clamp(VISITS_MIN, max);
        let day_rate = rate(step_s, HOUR_S * visits(DAY, VISITS_DAY_MAX));
        let week_rate = rate(step_s, HOUR_S * visits(WEEK, VISITS_WEEK_MAX));
        let floor = self.error_floor();
        let errors = [1, 2].map(|j| clip(x - round.experts[j], pace.clip, self.errors[j] + floor));
        let begins = [1, 2].map(|j| self.begin(x, round.experts[j], step));
        self.day.learn(round.day, errors[0], begins[0], day_rate, step.random);
        self.week.learn(round.week, errors[1], begins[1], week_rate, step.random.rotate_left(7));
    }

    /// Where an hour never seen begins, when `said` was forecast without it: near the value where an hour is a
    /// few observations, near the forecast where it is many, for one value of many is mostly noise or of a fault.
    fn begin(&self, x: f32, said: f32, step: &Step) -> f32 {
        let share = rate(step.step_s, BEGIN_TAU_S);
        let bound = said.abs() + 4.0 * self.errors[0];
        (said + share * share * (x - said).clamp(-bound, bound)) / self.ratio
    }
}

/// The least rate of a mean while it is over all observations so far.
fn youth(pace: Pace, n: u16) -> f32 {
    if n <= YOUTH { pace.level.min(1.0) / f32::from(n) } else { 0.0 }
}

/// An error within `most` usual errors.
fn clip(error: f32, most: f32, usual: f32) -> f32 {
    let bound = (most * usual).min(f32::MAX);
    error.clamp(-bound, bound)
}
