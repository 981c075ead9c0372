//! What one series remembers, and the way of one observation through it.
//!
//! It must never grow, allocate or give a number that is not finite, whatever comes in. The hard case is
//! recovery: after any garbage the state has to become useful again by itself.

use super::approximate::{Bounded, choose};
use super::cadence::Stamp;
use super::derivative::Derivative;
use super::forecast::{Forecast, Forecasted, Step};
use super::histogram::{BINS, Counters, Histogram, Range, STREAMS};
use super::kernel::{self, Lone};
use super::season::{Place, Season, Sides};
use super::transpose::Anywhere;
use super::week::{WEEK, Week};
use super::words::{HALF_WORD_MAX, Pair, read_row, words, write_row};
use super::{Learning, Moment, Score};

/// Observations that only teach: until then nothing is reported.
pub const WARM_UP_OBSERVATIONS: u16 = 40;
/// Values are clamped to this size, far beyond any that is measured, so that squares stay finite.
pub const VALUE_MAX: f64 = 1.0e18;
/// What the state of one series may take.
pub const SERIES_STATE_BYTES_MAX: usize = 520;

/// The age at which all counts are halved, so that no counter fills up and what was long ago fades.
const AGE_MAX: u32 = 32_768;
/// Every so many observations, ranges that outliers left too wide are narrowed.
const REVIEW_EVERY: u32 = 512;
/// Time since the observation before counts as at most this many seconds: after a gap, one value is one value.
const STEP_S_MAX: f32 = 3_600.0;
/// So many latest values are a stretch, looked at as one.
const STRETCH: u32 = 128;
/// The spread of a stretch counts as at least this share of its values.
const STRETCH_SPREAD_MIN: f32 = 0.02;
/// A range of values this many times the spread of a whole stretch, and usual errors this many times, were
/// learned from something else.
const FOREIGN_RANGE: f32 = 1_000.0;
const FOREIGN_ERROR: f32 = 3.0;

/// A value below zero was seen.
const SIGNED: u32 = 1;
/// Its seasons and usual error were those of another series, so that it is ready before its warm-up is over.
const BORROWED: u32 = 2;

/// Numbers of a series that every observation changes.
pub(super) const WORDS: usize = 32;

const _: () = assert!(size_of::<SeriesState>() <= SERIES_STATE_BYTES_MAX);

/// The scoring state of one series: fixed in size, plain data.
#[derive(Clone, Debug)]
pub struct SeriesState {
    scorers: Scorers,
    week: [i8; WEEK],
}

/// All of it but the hours of the week.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct Scorers {
    /// [`Numbers`].
    pub(super) words: [u32; WORDS],
    pub(super) counters: [Counters; STREAMS],
    pub(super) season: Season,
}

/// The numbers of a series that every observation changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub(super) head: Head,
    last: Stamp,
    /// The least and the greatest value of the present stretch.
    stretch: [f32; 2],
    derivative: Derivative,
    forecast: Forecast,
}

words!(Numbers { head, last, stretch, derivative, forecast });

/// Those of them that the histograms ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) ranges: [Range; STREAMS],
    random: u32,
    /// Observations, halved at `AGE_MAX` together with all counts; and marks.
    age: Pair,
}

words!(Head { ranges, random, age });

/// Where the age stands among the words.
const AGE_AT: usize = 7;

impl Head {
    /// Random bits, number of values and its inverse, of the observation just taken in.
    #[inline(always)]
    pub(super) fn draw(&self) -> (u32, u32, f32) {
        (self.random, self.age.low, 1.0 / self.age.low.cast_signed() as f32)
    }
}

/// What one observation brings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given {
    pub(super) x: f32,
    /// In tenths of seconds.
    pub(super) now: u32,
    pub(super) learns: bool,
    pub(super) sides: Sides,
}

/// What it gave before the histograms are asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stepped {
    /// The number for each stream.
    pub(super) values: [f32; STREAMS],
    pub(super) forecasted: Forecasted,
    pub(super) ready: bool,
}

impl Numbers {
    const fn new(seed: u32) -> Self {
        Numbers {
            head: Head {
                ranges: [Range::new(); STREAMS],
                random: (seed ^ 2_463_534_242) | 1,
                age: Pair { low: 0, high: 0 },
            },
            last: Stamp::new(),
            stretch: [0.0; 2],
            derivative: Derivative::new(),
            forecast: Forecast::new(),
        }
    }

    /// Takes in one observation: everything but its histograms.
    #[inline(always)]
    pub(super) fn step(&mut self, given: &Given) -> Stepped {
        let x = given.x;
        let step = self.advance(x, given);
        let change = self.derivative.step(x, step.youth);
        let forecasted = self.forecast.step(x, &given.sides, &step);
        let ready = (step.n > u32::from(WARM_UP_OBSERVATIONS)) | (self.head.age.high & BORROWED != 0);
        Stepped { values: [x, change, forecasted.residual], forecasted, ready }
    }

    /// Counts the observation and says what is the same for all that look at it.
    #[inline(always)]
    fn advance(&mut self, x: f32, given: &Given) -> Step {
        let Head { random, age, .. } = &mut self.head;
        age.low += 1;
        let n = age.low;
        let step_s = self.last.advance(given.now).at_most(STEP_S_MAX);
        let step_s = choose(n == 1, 0.0, step_s);
        let begins = n % STRETCH == 1;
        let [low, high] = self.stretch;
        let (low, high) = (choose(begins, x, low), choose(begins, x, high));
        self.stretch = [low.at_most(x), high.at_least(x)];
        age.high |= choose(x < 0.0, SIGNED, 0);
        // xorshift32 (Marsaglia 2003); never zero because it did not begin at zero.
        *random ^= *random << 13;
        *random ^= *random >> 17;
        *random ^= *random << 5;
        let signed = age.high & SIGNED != 0;
        let youth = 1.0 / n.cast_signed() as f32;
        Step { step_s, n, youth, random: random.rotate_left(5), signed, learns: given.learns }
    }

    /// The hours of the season when more is to be done to them than to move: these numbers are of before `step`.
    #[cold]
    pub(super) fn learn_hours(&self, (season, week): (&mut Season, Week<'_>), place: Place, given: &Given) {
        let mut again = *self;
        let step = again.advance(given.x, given);
        let (usual, lesson) = again.forecast.lesson(given.x, &given.sides, &step);
        season.learn(week, place, usual, &lesson);
    }
}

impl SeriesState {
    /// A state that has seen nothing; `seed` starts the generator of its rounding.
    pub fn new(seed: u32) -> Self {
        SeriesState { scorers: Scorers::new(seed), week: [0; WEEK] }
    }

    /// The scorers and the hours of their week, as an observation takes them.
    pub fn parts(&mut self) -> (&mut Scorers, Week<'_>) {
        (&mut self.scorers, Week::own(&mut self.week))
    }

    /// Scores one observation against everything before it, and learns from it.
    ///
    /// Total: a value that is not finite counts as the nearest that is (not-a-number as zero), and time may
    /// stand still, run backwards or jump.
    pub fn update(&mut self, moment: Moment, value: f64, learning: Learning) -> Score {
        kernel::step::<1>(&mut [Lone(self.parts(), (moment, value, learning))], Anywhere, &mut |_, _| ())
            .score(0)
    }

    /// Whether it is time to borrow from a series of the same kind: its level is known, and nothing else.
    pub fn may_borrow(&self) -> bool {
        self.scorers.may_borrow()
    }

    /// Whether it has seen enough to lend its seasons.
    pub fn can_lend(&self) -> bool {
        self.scorers.can_lend()
    }

    /// Takes over the seasons of `donor`, a series of the same kind in the same place, at its own level. The donor
    /// must be one that can lend; `moment` is that of the latest observation.
    pub fn borrow(&mut self, donor: &Self, moment: Moment) {
        let (donor, (scorers, week)) = (&mut donor.clone(), self.parts());
        let (lender, theirs) = donor.parts();
        scorers.borrow(week, (lender, theirs), moment);
    }
}

impl Scorers {
    /// Observations after which a new series borrows.
    pub(crate) const BORROWS_AT: u32 = 10;

    /// Scorers that have seen nothing; `seed` starts the generator of their rounding. The hours of the week that go with
    /// them must be clear.
    pub fn new(seed: u32) -> Self {
        let mut state = Self::free();
        write_row(&mut state.words, Numbers::new(seed));
        state
    }

    /// Memory for a state; not one that was begun.
    pub(crate) const fn free() -> Self {
        Scorers { words: [0; WORDS], counters: [[0; BINS]; STREAMS], season: Season::new() }
    }

    /// As [`SeriesState::may_borrow`].
    #[inline]
    pub(crate) fn may_borrow(&self) -> bool {
        self.age() == Self::BORROWS_AT
    }

    /// Whether the next observation makes it time to borrow.
    #[inline]
    pub(crate) fn will_borrow(&self) -> bool {
        self.age() == Self::BORROWS_AT - 1
    }

    /// Whether it is time to see whether it can lend: now and then.
    #[inline]
    pub(crate) fn may_lend(&self) -> bool {
        self.age().is_multiple_of(REVIEW_EVERY)
    }

    /// As [`SeriesState::can_lend`].
    pub(crate) fn can_lend(&self) -> bool {
        self.age() > u32::from(WARM_UP_OBSERVATIONS) && self.numbers().forecast.can_lend()
    }

    /// As [`SeriesState::borrow`].
    #[cold]
    pub(crate) fn borrow(&mut self, week: Week<'_>, (donor, theirs): (&Self, Week<'_>), moment: Moment) {
        let mut numbers = self.numbers();
        let sides = donor.season.sides(theirs, Place::new(moment.local_s));
        let donor = (&donor.numbers().forecast, &donor.season, theirs);
        numbers.forecast.borrow((&mut self.season, week), donor, &sides);
        numbers.head.age.high |= BORROWED;
        write_row(&mut self.words, numbers);
    }

    pub(super) fn numbers(&self) -> Numbers {
        read_row(&self.words)
    }

    /// Observations so far; halved now and then.
    #[inline(always)]
    fn age(&self) -> u32 {
        self.words[AGE_AT] & HALF_WORD_MAX
    }

    /// What is to be done now and then, before the observation `x` is taken in.
    #[inline(always)]
    pub(super) fn tidy(&mut self, week: Week<'_>, x: f32) {
        if (self.age() + 1).is_multiple_of(STRETCH) || self.age().is_multiple_of(REVIEW_EVERY / 2) {
            self.tidy_now(week, x);
        }
    }

    /// Halves what is old, narrows what is too wide, and begins anew when what was learned has nothing to do with a
    /// whole stretch: a series that began with garbage would otherwise need many days to see again.
    #[cold]
    fn tidy_now(&mut self, week: Week<'_>, x: f32) {
        let mut numbers = self.numbers();
        if numbers.head.age.low == AGE_MAX {
            numbers.head.age.low /= 2;
            self.each_histogram(&mut numbers, Histogram::halve);
        } else if numbers.head.age.low % REVIEW_EVERY == REVIEW_EVERY / 2 {
            self.each_histogram(&mut numbers, Histogram::narrow);
        } else if numbers.is_foreign(x) && (numbers.head.age.low + 1).is_multiple_of(STRETCH) {
            *self = Self::new(numbers.head.random);
            week.clear();
            numbers = Numbers { last: numbers.last, ..self.numbers() };
        }
        write_row(&mut self.words, numbers);
    }

    fn each_histogram(&mut self, numbers: &mut Numbers, f: impl Fn(&mut Histogram)) {
        for (range, counters) in numbers.head.ranges.iter_mut().zip(&mut self.counters) {
            let mut histogram = Histogram { range: *range, counters: *counters };
            f(&mut histogram);
            (*range, *counters) = (histogram.range, histogram.counters);
        }
    }
}

impl Numbers {
    fn is_foreign(&self, x: f32) -> bool {
        let [low, high] = [self.stretch[0].at_most(x), self.stretch[1].at_least(x)];
        let spread = (high - low).max(STRETCH_SPREAD_MIN * low.abs().max(high.abs()));
        // Of a series that rests at zero nothing can be said.
        spread > 0.0
            && self.head.ranges[0].width() > FOREIGN_RANGE * spread
            && self.forecast.usual() > FOREIGN_ERROR * spread
    }
}
