//! The forecast: what a value should be, and how far off such forecasts usually are.
//!
//! Two experts speak of what to expect: the level, and the season times a slow ratio, the level of these days
//! against that of the profile; the one that errs less is heard. The expectation must never learn a fault within
//! the hours that people need to see it, nor refuse a new level for ever; `strain` sets the pace. What follows a
//! fault at once is the other forecast, of the next value alone: the expectation and the `echo` of its last
//! errors. The hard case is counts that are small: the usual error is larger than the fault, and only sums over
//! many series can tell.

use super::approximate::{Bounded, choose};
use super::cadence::rate;
use super::echo::{self, Echo};
use super::season::{self, Moved, Season, Sides, Usual};
use super::strain::{ORDINARY, Pace, Strain};
use super::week::Week;
use super::words::words;

/// Time constants, in seconds, of the level, of the ratio and of the usual errors.
const LEVEL_TAU_S: f32 = 43_200.0;
const RATIO_TAU_S: f32 = 86_400.0;
const ERROR_TAU_S: f32 = 86_400.0;
/// Until this many observations, means are over all of them.
const YOUTH: u32 = 4_096;
const HOUR_S: f32 = 3_600.0;
const DAY_S: f32 = 86_400.0;
/// An hour of the day is a mean over its visits so far, one each day, but over this many at most.
const VISITS_DAY_MAX: f32 = 4.0;
/// An hour of the week likewise, one visit each week; it takes up this share of an error beside the day.
const VISITS_WEEK_MAX: f32 = 5.0;
const WEEK_SHARE: f32 = 0.9;
/// After two days and until it has been visited this often (as inverses), the week learns whatever the strain,
/// for the first weekends look like faults.
const DAY_NEW: f32 = 0.5;
const WEEK_NEW: f32 = 0.4;
/// The profile may hold hours that were learned from garbage, and each later visit looks like a fault there. So an hour is
/// learned anew, whatever the strain, on the first three days; in the first week where the level alone is nearer; and at
/// any age where it is, and the two are this many sizes of the series apart.
const DAY_UNKNOWN: f32 = 0.3;
const DAY_UNSURE: f32 = 1.0 / 7.0;
const DAY_ABSURD: f32 = 3.0;
/// The inverse of the visits of an hour of the day that the profile begins with.
const NOVELTY_MAX: f32 = 4.0;
/// Observations closer than about this, in seconds, hardly begin an hour each.
const BEGIN_TAU_S: f32 = 100.0;
/// Bounds of the level of these days against that of the profile.
const RATIO_MAX: f32 = 8.0;
/// A season is forecast to be at most this, so that products stay finite.
const SEASON_MAX: f32 = 1.0e19;
/// A profile is stored to about this share of its size, and is never trusted further.
const RESOLUTION: f32 = 1.0 / 512.0;
/// An error relative to the profile is relative to at least this share of the mean size.
const LEAST_SHARE: f32 = 0.02;
/// How far below and above its mean size a series is taken to scale its noise.
const SCALE_MAX: f32 = 20.0;
/// An echo leaves at least this share of what is expected of a series that is never below zero.
const ECHO_SHARE_MIN: f32 = 0.25;

/// A borrowed season counts as erring so many times as much as it did for its owner, and as one of three days.
const BORROWED_ERROR: f32 = 1.5;
const BORROWED_NOVELTY: f32 = 1.0 / 3.0;

/// What a step of the forecast needs to know beside the value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// Seconds since the observation before.
    pub(super) step_s: f32,
    /// Number of observations with this one, from 1.
    pub(super) n: u32,
    /// The inverse of that number.
    pub(super) youth: f32,
    /// 32 uniform random bits.
    pub(super) random: u32,
    /// The series has been below zero.
    pub(super) signed: bool,
    /// Whether level and seasons learn; else they rest.
    pub(super) learns: bool,
}

/// What one step of the forecast gave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forecasted {
    /// What should be here if nothing is wrong.
    pub(super) expected: f32,
    /// The value minus that.
    pub(super) residual: f32,
    /// The usual size of such a residual.
    pub(super) usual: f32,
    /// The best forecast of this one value.
    pub(super) next: f32,
    /// Half of the band around `next` that holds nine values of ten.
    pub(super) band: f32,
    /// The mean of recent residuals against its usual size.
    pub(super) strain: f32,
    /// What became of the hours around now.
    pub(super) moved: Moved,
}

/// Level, ratio and usual errors: all of the forecast but the hours of its seasons.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forecast {
    level: f32,
    /// The level of these days against that of the profile.
    ratio: f32,
    /// Mean size of the series.
    size: f32,
    /// Usual (mean absolute) error of the level and of the season.
    level_error: f32,
    season_error: f32,
    /// Usual error of the blend when the series is at its mean size.
    usual: f32,
    strain: Strain,
    /// The inverse of the days for which the seasons have been learned.
    novelty: f32,
    echo: Echo,
}

words!(Forecast { level, ratio, size, level_error, season_error, usual, strain, novelty, echo });

/// What the experts said, kept between forecasting and learning.
#[derive(Clone, Copy)]
struct Round {
    usual: Usual,
    /// The season's forecast, and the blend.
    season: f32,
    blend: f32,
}

/// What the value was against the forecast, kept between comparing and learning.
#[derive(Clone, Copy)]
struct Compared {
    round: Round,
    expected: f32,
    residual: f32,
    /// How much larger errors are here than at the mean size.
    scale: f32,
    /// The usual error here.
    usual: f32,
    pace: Pace,
}

impl Forecast {
    pub(super) const fn new() -> Self {
        Forecast {
            level: 0.0,
            ratio: 1.0,
            size: 0.0,
            level_error: 0.0,
            season_error: 0.0,
            usual: 0.0,
            strain: Strain::new(),
            novelty: NOVELTY_MAX,
            echo: Echo::new(),
        }
    }

    /// Forecasts `x`, compares and learns; `sides` are the hours around now.
    #[inline(always)]
    pub(super) fn step(&mut self, x: f32, sides: &Sides, step: &Step) -> Forecasted {
        let compared = self.compare(x, sides, step);
        let &Compared { expected, residual, scale, usual, .. } = &compared;
        let ahead = self.echo.ahead(step.step_s);
        let least = choose(step.signed, f32::MIN, ECHO_SHARE_MIN * expected);
        let next = (expected + scale * ahead).at_least(least);
        let band = scale * self.echo.band();
        self.learn_echo(residual / scale, ahead, &compared.pace, step);
        let before = *self;
        let lesson = self.learn(x, sides, &compared, step);
        let moved = sides.moved(compared.round.usual, &lesson);
        self.rest(&before, step.learns);
        Forecasted { expected, residual, usual, next, band, strain: self.strain.size(), moved }
    }

    /// What the hours learn in a step: for the few whose change is more than a number.
    #[cold]
    pub(super) fn lesson(&self, x: f32, sides: &Sides, step: &Step) -> (Usual, season::Lesson) {
        let mut again = *self;
        let compared = again.compare(x, sides, step);
        (compared.round.usual, again.learn(x, sides, &compared, step))
    }

    /// Asks the experts and compares `x` with what they say.
    #[inline(always)]
    fn compare(&mut self, x: f32, sides: &Sides, step: &Step) -> Compared {
        let first = step.n == 1;
        self.level = choose(first, x, self.level);
        self.size = choose(first, x.abs(), self.size);
        let round = self.ask(sides);
        let expected = choose(step.signed, round.blend, round.blend.at_least(0.0));
        let residual = x - expected;
        let scale = self.scale_at(expected);
        let usual = self.usual * scale + self.error_floor();
        let pace = self.strain.observe(residual / usual, step.step_s, step.n);
        Compared { round, expected, residual, scale, usual, pace }
    }

    /// Learns all but the echo, and says what the hours are to learn.
    #[inline(always)]
    fn learn(&mut self, x: f32, sides: &Sides, compared: &Compared, step: &Step) -> season::Lesson {
        let Compared { round, residual, scale, usual, pace, .. } = compared;
        self.learn_errors(x, round, pace, step);
        let bound = clip(*residual, pace.clip, *usual);
        self.usual += error_rate(pace, step) * (bound.abs() / scale - self.usual);
        self.learn_level(x, round, pace, *usual, step);
        self.learn_season(x, sides, round, pace, step)
    }

    /// Goes back to what was known before, unless it learns.
    #[inline(always)]
    fn rest(&mut self, before: &Self, learns: bool) {
        let of = |now: f32, before: f32| choose(learns, now, before);
        self.level = of(self.level, before.level);
        self.ratio = of(self.ratio, before.ratio);
        self.size = of(self.size, before.size);
        self.level_error = of(self.level_error, before.level_error);
        self.season_error = of(self.season_error, before.season_error);
        self.usual = of(self.usual, before.usual);
        self.novelty = of(self.novelty, before.novelty);
        self.strain.rest(&before.strain, learns);
    }

    /// Takes over the seasons of a series of the same kind, at its own level: how a day and a week go is no longer
    /// new to it. `donor` has to have learned for a while; `moment` is the time of the latest observation.
    #[cold]
    pub(super) fn borrow(
        &mut self,
        (season, week): (&mut Season, Week<'_>),
        donor: (&Self, &Season, Week<'_>),
        sides: &Sides,
    ) {
        let (donor, hours, factors) = donor;
        let theirs = donor.ask(sides).season;
        let own = self.level;
        let comparable = theirs.abs() > donor.error_floor() && own.abs() > self.error_floor();
        if !comparable || (theirs < 0.0) != (own < 0.0) {
            return;
        }
        // As many powers of two as it takes go into the unit, and what is left into the ratio.
        let factor = own / theirs * donor.ratio;
        self.ratio = season.borrow(hours, factor).between(1.0 / RATIO_MAX, RATIO_MAX);
        week.borrow(factors);
        // A borrowed season errs somewhat more than one of its own; what it is worth shows within hours.
        let relative = donor.season_error / (donor.size + f32::MIN_POSITIVE);
        self.season_error = BORROWED_ERROR * relative * self.size;
        self.usual = BORROWED_ERROR * donor.usual / (donor.size + f32::MIN_POSITIVE) * self.size;
        self.novelty = donor.novelty.at_least(BORROWED_NOVELTY);
    }

    /// Whether it has learned its seasons for long enough to lend them: a week.
    pub(super) fn can_lend(&self) -> bool {
        self.novelty <= 1.0 / 7.0
    }

    /// The usual error when the series is at its mean size.
    pub(super) fn usual(&self) -> f32 {
        self.usual
    }

    /// Asks the experts, and blends what they say.
    #[inline(always)]
    fn ask(&self, sides: &Sides) -> Round {
        let usual = sides.usual(self.level / self.ratio);
        let season = (usual.of_week * self.ratio).between(-SEASON_MAX, SEASON_MAX);
        let blend = self.level + self.season_weight() * (season - self.level);
        Round { usual, season, blend }
    }

    /// The weight of the season against the level, which nearly chooses: a mean with a much worse expert would be
    /// biased at the same hours each week.
    #[inline(always)]
    fn season_weight(&self) -> f32 {
        let season = self.season_error + RESOLUTION * self.size;
        let share = season / (season + self.level_error + self.error_floor());
        // From 1 at two fifths to 0 at three fifths of both errors, smoothly.
        let t = (3.0 - 5.0 * share).between(0.0, 1.0);
        t * t * (3.0 - 2.0 * t)
    }

    /// The smallest error told apart from none.
    #[inline(always)]
    fn error_floor(&self) -> f32 {
        1.0e-6 * self.size + 1.0e-18
    }

    /// How much larger errors are where `expected` is the forecast: like the noise of counts they grow with the
    /// square root of the size.
    #[inline(always)]
    fn scale_at(&self, expected: f32) -> f32 {
        let relative = expected.abs() / (self.size + 1.0e-18);
        square_root(relative.between(1.0 / SCALE_MAX, SCALE_MAX))
    }

    #[inline(always)]
    fn learn_echo(&mut self, error: f32, ahead: f32, pace: &Pace, step: &Step) {
        let (floor, youth) = (self.error_floor(), step.youth);
        let lesson = echo::Lesson { error, floor, step_s: step.step_s, n: step.n, youth, clip: pace.clip };
        self.echo.learn(ahead, &lesson);
    }

    #[inline(always)]
    fn learn_errors(&mut self, x: f32, round: &Round, pace: &Pace, step: &Step) {
        let (floor, rate) = (self.error_floor(), error_rate(pace, step));
        let moved =
            |usual: f32, said: f32| usual + rate * (clip(x - said, pace.clip, usual + floor).abs() - usual);
        self.level_error = moved(self.level_error, self.level);
        self.season_error = moved(self.season_error, round.season);
        // A size that grows by no more than the errors do keeps out a lone outlier.
        let size = x.abs().at_most(self.size + 2.0 * pace.clip.at_most(1.0e6) * (self.level_error + floor));
        self.size += rate * (size - self.size);
        self.strain.learn(rate);
    }

    /// Moves the level, and the ratio by least mean squares of the value on the profile.
    #[inline(always)]
    fn learn_level(&mut self, x: f32, round: &Round, pace: &Pace, usual: f32, step: &Step) {
        let step_s = step.step_s * pace.level;
        let level_rate = rate(step_s, LEVEL_TAU_S).at_least(youth(pace, step));
        self.level += level_rate * clip(x - self.level, pace.clip, self.level_error + self.error_floor());
        let profile = round.usual.of_week;
        let power = self.size * self.size + 0.1 * profile * profile + f32::MIN_POSITIVE;
        let error = clip(x - round.season, pace.clip, usual);
        let ratio = self.ratio + rate(step_s, RATIO_TAU_S) * (error * profile / power);
        self.ratio = ratio.between(1.0 / RATIO_MAX, RATIO_MAX);
    }

    /// What the hours around now are to learn.
    #[inline(always)]
    fn learn_season(
        &mut self,
        x: f32,
        sides: &Sides,
        round: &Round,
        pace: &Pace,
        step: &Step,
    ) -> season::Lesson {
        let hours = step.step_s * (1.0 / HOUR_S);
        let weekly = (7.0 * self.novelty).between(1.0 / VISITS_WEEK_MAX, 1.0);
        let new = (self.novelty < DAY_NEW) & (weekly > WEEK_NEW);
        let (error, inverse) = (x - round.season, 1.0 / self.ratio);
        let clipped = clip(error, pace.clip, self.season_error + self.error_floor());
        let day_rate = pace.day * self.novelty.at_least(1.0 / VISITS_DAY_MAX);
        let (unsure, most) = self.doubt(x, round);
        let anew = unsure & (pace.day < ORDINARY.day);
        let lesson = season::Lesson {
            error: choose(anew, error.between(-most, most), clipped) * inverse,
            week_error: choose(new, error, clipped) * inverse,
            begin: choose(sides.known(), 0.0, self.begin(x, round.season, step)),
            least: LEAST_SHARE * self.size + f32::MIN_POSITIVE,
            day_rate: share(hours * choose(anew, 1.0, day_rate)),
            week_rate: WEEK_SHARE * share(hours * weekly * choose(new, 1.0, pace.week)),
            signed: step.signed,
            random: step.random,
        };
        // The inverse of a time that grows by the step.
        let novelty = self.novelty * (1.0 - share(self.novelty * step.step_s * (1.0 / DAY_S)));
        self.novelty = novelty.at_least(1.0 / (7.0 * VISITS_WEEK_MAX));
        lesson
    }

    /// Whether it may be the profile that is at fault here, and not the value; and what it learns from such an error at most.
    #[inline(always)]
    fn doubt(&self, x: f32, round: &Round) -> (bool, f32) {
        let apart = (round.season - self.level).abs();
        let nearer = (x - self.level).abs() < apart;
        let young = (self.novelty > DAY_UNSURE) | (apart > DAY_ABSURD * self.size);
        ((self.novelty > DAY_UNKNOWN) | (young & nearer), 2.0 * apart + 4.0 * self.level_error)
    }

    /// Where an hour never seen begins, when `said` was forecast without it: near the value where an hour is a
    /// few observations, near the forecast where it is many, for one value of many is mostly noise or of a fault.
    #[inline(always)]
    fn begin(&self, x: f32, said: f32, step: &Step) -> f32 {
        let share = rate(step.step_s, BEGIN_TAU_S);
        let bound = said.abs() + 4.0 * self.level_error;
        (said + share * share * (x - said).between(-bound, bound)) / self.ratio
    }
}

/// The least rate of a mean while it is over all observations so far.
#[inline(always)]
fn youth(pace: &Pace, step: &Step) -> f32 {
    choose(step.n <= YOUTH, pace.level.at_most(1.0) * step.youth, 0.0)
}

#[inline(always)]
fn error_rate(pace: &Pace, step: &Step) -> f32 {
    rate(step.step_s * pace.errors, ERROR_TAU_S).at_least(youth(pace, step))
}

/// The share that a part has of itself and one.
#[inline(always)]
fn share(part: f32) -> f32 {
    part / (1.0 + part)
}

/// The square root of a normal number to a few parts in a hundred: a half of the exponent, and of the mantissa as
/// if its logarithm were straight.
#[inline(always)]
fn square_root(x: f32) -> f32 {
    f32::from_bits((x.to_bits() >> 1) + 0x1fbd_1df5)
}

/// An error within `most` usual errors.
#[inline(always)]
fn clip(error: f32, most: f32, usual: f32) -> f32 {
    let bound = (most * usual).at_most(f32::MAX);
    error.between(-bound, bound)
}
