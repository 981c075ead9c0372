//! What one series remembers, and the way of one observation through it.
//!
//! It must never grow, allocate or give a number that is not finite, whatever comes in. The hard case is
//! recovery: after any garbage the state has to become useful again by itself.

use super::approximate::Bounded;
use super::cadence::Stamp;
use super::combine::{Surprisals, score};
use super::derivative::Derivative;
use super::distribution::Distribution;
use super::forecast::{Forecast, Forecasted, Step};
use super::histogram::{self, Draw, Histogram};
use super::{Direction, Learning, Moment, Score};

/// Observations that only teach: until then nothing is reported.
pub const WARM_UP_OBSERVATIONS: u16 = 40;
/// Values are clamped to this size, far beyond any that is measured, so that squares stay finite.
pub const VALUE_MAX: f64 = 1.0e18;
/// What the state of one series may take.
pub const SERIES_STATE_BYTES_MAX: usize = 700;

/// The age at which all counts are halved, so that no counter fills up and what was long ago fades.
const AGE_MAX: u16 = 32_768;
/// Every so many observations, ranges that outliers left too wide are narrowed.
const REVIEW_EVERY: u16 = 512;
/// Time since the observation before counts as at most this many seconds: after a gap, one value is one value.
const STEP_S_MAX: f32 = 3_600.0;
/// Observations after which a new series borrows.
const BORROWS_AT: u16 = 10;
/// So many latest values are a stretch, looked at as one.
const STRETCH: u16 = 128;
/// The spread of a stretch counts as at least this share of its values.
const STRETCH_SPREAD_MIN: f32 = 0.02;
/// A range of values this many times the spread of a whole stretch, and usual errors this many times, were
/// learned from something else.
const FOREIGN_RANGE: f32 = 1_000.0;
const FOREIGN_ERROR: f32 = 3.0;

const _: () = assert!(size_of::<SeriesState>() <= SERIES_STATE_BYTES_MAX);

/// The scoring state of one series: fixed in size, plain data.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct SeriesState {
    last: Stamp,
    random: u32,
    /// Observations, halved at `AGE_MAX` together with all counts.
    n: u16,
    /// A value below zero was seen.
    signed: bool,
    /// Its seasons and usual error were those of another series, so that it is ready before its warm-up is over.
    borrowed: bool,
    /// The least and the greatest value of the present stretch.
    stretch: (f32, f32),
    distribution: Distribution,
    residuals: Histogram,
    derivative: Derivative,
    forecast: Forecast,
}

impl SeriesState {
    /// A state that has seen nothing; `seed` starts the generator of its rounding.
    pub const fn new(seed: u32) -> Self {
        SeriesState {
            last: Stamp::new(),
            random: (seed ^ 2_463_534_242) | 1,
            n: 0,
            signed: false,
            borrowed: false,
            stretch: (0.0, 0.0),
            distribution: Distribution::new(),
            residuals: Histogram::new(),
            derivative: Derivative::new(),
            forecast: Forecast::new(),
        }
    }

    /// Scores one observation against everything before it, and learns from it.
    ///
    /// Total: a value that is not finite counts as the nearest that is (not-a-number as zero), and time may
    /// stand still, run backwards or jump.
    pub fn update(&mut self, moment: Moment, value: f64, learning: Learning) -> Score {
        let x = if value.is_nan() { 0.0 } else { value.clamp(-VALUE_MAX, VALUE_MAX) as f32 };
        let step_s = self.advance(moment.at.0);
        self.look_back(x);
        self.signed |= x < 0.0;
        let draw = self.draw();
        let step = Step {
            moment,
            step_s,
            n: self.n,
            youth: draw.youth,
            random: draw.random.rotate_left(5),
            signed: self.signed,
            learning,
        };
        let change = self.derivative.step(x, draw.youth);
        let forecasted = self.forecast.step(x, &step);
        let histograms = [self.distribution.values(), self.derivative.changes(), &mut self.residuals];
        let [distribution, derivative, forecast] =
            histogram::step(histograms, [x, change, forecasted.residual], draw);
        self.report(Surprisals { forecast, derivative, distribution }, forecasted)
    }

    /// Whether it is time to borrow from a series of the same kind: its level is known, and nothing else.
    #[inline]
    pub const fn may_borrow(&self) -> bool {
        self.n == BORROWS_AT
    }

    /// Whether it is time to see whether it can lend: now and then.
    #[inline]
    pub const fn may_lend(&self) -> bool {
        self.n.is_multiple_of(REVIEW_EVERY)
    }

    /// Whether it has seen enough to lend its seasons.
    pub fn can_lend(&self) -> bool {
        self.n > WARM_UP_OBSERVATIONS && self.forecast.can_lend()
    }

    /// Takes over the seasons of `donor`, a series of the same kind in the same place, at its own level. The donor
    /// must be one that can lend; `moment` is that of the latest observation.
    #[cold]
    pub fn borrow(&mut self, donor: &Self, moment: Moment) {
        self.forecast.borrow(&donor.forecast, moment);
        self.borrowed = true;
    }

    /// Counts one observation and says how many seconds after the last it came.
    fn advance(&mut self, now_ms: i64) -> f32 {
        if self.n == AGE_MAX {
            self.n /= 2;
            self.each_histogram(Histogram::halve);
        } else if self.n % REVIEW_EVERY == REVIEW_EVERY / 2 {
            self.each_histogram(Histogram::narrow);
        }
        self.n += 1;
        let step_s = self.last.advance(now_ms).at_most(STEP_S_MAX);
        if self.n == 1 { 0.0 } else { step_s }
    }

    /// Watches over stretches, and begins anew when what was learned has nothing to do with a whole one: a
    /// series that began with garbage would otherwise need many days to see again.
    #[inline]
    fn look_back(&mut self, x: f32) {
        let (low, high) = if self.n % STRETCH == 1 { (x, x) } else { self.stretch };
        self.stretch = (low.at_most(x), high.at_least(x));
        if self.n.is_multiple_of(STRETCH) && self.is_foreign() {
            *self = SeriesState { last: self.last, n: 1, ..SeriesState::new(self.random) };
            self.stretch = (x, x);
        }
    }

    #[cold]
    fn is_foreign(&mut self) -> bool {
        let (low, high) = self.stretch;
        let spread = (high - low).max(STRETCH_SPREAD_MIN * low.abs().max(high.abs()));
        // Of a series that rests at zero nothing can be said.
        spread > 0.0
            && self.distribution.values().range() > FOREIGN_RANGE * spread
            && self.forecast.usual() > FOREIGN_ERROR * spread
    }

    fn each_histogram(&mut self, f: impl Fn(&mut Histogram)) {
        f(self.distribution.values());
        f(self.derivative.changes());
        f(&mut self.residuals);
    }

    fn draw(&mut self) -> Draw {
        // xorshift32 (Marsaglia 2003); never zero because it did not begin at zero.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        Draw::new(self.n, self.random)
    }

    fn report(&self, surprisals: Surprisals, forecasted: Forecasted) -> Score {
        let direction = if forecasted.residual < 0.0 { Direction::Down } else { Direction::Up };
        let Forecasted { expected, usual, next, band, strain, .. } = forecasted;
        let quiet = Score { expected, usual, next, band, direction, ..Score::default() };
        if self.n <= WARM_UP_OBSERVATIONS && !self.borrowed {
            return quiet;
        }
        let most = surprisals.most();
        Score {
            combined: score(most),
            surprise: most * core::f32::consts::LOG10_E,
            strain,
            ready: true,
            forecast: score(surprisals.forecast),
            derivative: score(surprisals.derivative),
            distribution: score(surprisals.distribution),
            ..quiet
        }
    }
}
