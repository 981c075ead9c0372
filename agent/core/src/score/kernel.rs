//! The way of several observations through the scorers at once, each of another series.
//!
//! It must never let lanes touch: what a lane gives depends on its own series alone, and is the same to the bit however
//! many there are. The hard case is what few observations need (a range to widen, an hour of the season to begin): it is
//! done lane by lane between the loops, which themselves have no branches.

use super::approximate::ln;
use super::cadence::tenths;
use super::combine::{self, Surprisals};
use super::histogram::{self, Histogram, STREAMS};
use super::morris;
use super::season::{Place, Sides};
use super::state::{Given, Head, Numbers, Scorers, VALUE_MAX, WORDS};
use super::transpose::Turn;
use super::week::Week;
use super::words::Block;
use super::{Direction, Learning, Moment, Score};

/// One observation and the state of its series, which no other lane has.
pub(crate) trait Observed {
    /// When, what, and whether its forecast may learn.
    fn what(&self) -> (Moment, f64, Learning);
    /// Of its series.
    fn state(&self) -> &Scorers;
    /// Of its series, with the hours of its week.
    fn parts(&mut self) -> (&mut Scorers, Week<'_>);
}

/// An observation that nobody follows.
pub(super) struct Lone<'a>(pub(super) (&'a mut Scorers, Week<'a>), pub(super) (Moment, f64, Learning));

impl Observed for Lone<'_> {
    #[inline(always)]
    fn what(&self) -> (Moment, f64, Learning) {
        self.1
    }

    #[inline(always)]
    fn state(&self) -> &Scorers {
        self.0.0
    }

    #[inline(always)]
    fn parts(&mut self) -> (&mut Scorers, Week<'_>) {
        (self.0.0, self.0.1)
    }
}

/// Numbers of several series, one in each lane.
pub(crate) type Lane<const N: usize> = [f32; N];

/// What the scorers say of several observations.
#[derive(Clone, Debug)]
pub struct Scores<const N: usize> {
    pub(crate) x: Lane<N>,
    pub(crate) expected: Lane<N>,
    pub(crate) usual: Lane<N>,
    pub(crate) strain: Lane<N>,
    pub(crate) residual: Lane<N>,
    /// Not 0 once warm-up is over.
    pub(crate) ready: [u32; N],
    next: Lane<N>,
    band: Lane<N>,
    /// By the distribution, the derivative and the forecast, in nats.
    surprisals: [Lane<N>; STREAMS],
}

/// What the observations bring, a lane each.
struct Brought<const N: usize> {
    x: Lane<N>,
    now: [u32; N],
    learns: [u32; N],
    places: [Place; N],
    day: [[i32; N]; 2],
    week: [[i32; N]; 2],
    exponent: [i32; N],
    precision: [i32; N],
    share: Lane<N>,
}

/// What the first loop leaves for the others.
struct Left<const N: usize> {
    positions: [Lane<N>; STREAMS],
    values: [Lane<N>; STREAMS],
    day: [[i32; N]; 2],
    week: [[i32; N]; 2],
    /// Hours of the season need more than to move; a value lies outside of a range.
    rarely: [u32; N],
    outside: [u32; N],
}

/// Scores observations of at most `N` different series. Of what `meanwhile` is called for, these are the first six.
#[inline(always)]
pub(crate) fn step<const N: usize>(
    seen: &mut [impl Observed],
    turn: impl Turn<N>,
    meanwhile: &mut impl FnMut(usize, usize),
) -> Scores<N> {
    let brought = bring::<N>(seen, meanwhile);
    let mut block = Block::<WORDS, N>::new();
    let last = seen.len() - 1;
    block.gather(turn, core::array::from_fn(|lane| &seen[lane.min(last)].state().words));
    (0..N).for_each(|lane| meanwhile(1, lane));
    let (mut left, mut scores) = (Left::new(), Scores::new());
    forecast(&brought, &mut block, &mut left, &mut scores);
    for lane in 0..seen.len().min(N) {
        meanwhile(2, lane);
        let (state, week) = seen[lane].parts();
        if left.rarely[lane] != 0 {
            learn_rarely(&brought, lane, state, week);
        } else {
            let sides = |both: &[[i32; N]; 2]| [both[0][lane], both[1][lane]];
            state.season.put(week, brought.places[lane], sides(&left.day), sides(&left.week));
        }
        if left.outside[lane] != 0 {
            reach(&mut block, &mut left, lane, state);
        }
    }
    let windows = windows(&mut block, &left);
    count(seen, &windows, &mut scores, meanwhile);
    (0..N).for_each(|lane| meanwhile(5, lane));
    block.scatter(turn, seen.iter_mut().map(|one| &mut one.parts().0.words));
    scores
}

/// Looks at what came, and at the hours of each season around it.
#[inline(always)]
fn bring<const N: usize>(seen: &mut [impl Observed], meanwhile: &mut impl FnMut(usize, usize)) -> Brought<N> {
    let mut brought = Brought::new();
    let mut last = seen[0].what().0;
    let (mut now, mut place) = (tenths(last.at.0), Place::new(last.local_s));
    for (lane, one) in seen.iter_mut().enumerate().take(N) {
        let (moment, value, learning) = one.what();
        if moment != last {
            last = moment;
            (now, place) = (tenths(moment.at.0), Place::new(moment.local_s));
        }
        meanwhile(0, lane);
        let x = bounded(value);
        let (state, week) = one.parts();
        state.tidy(week, x);
        let sides = state.season.sides(week, place);
        brought.x[lane] = x;
        brought.now[lane] = now;
        brought.learns[lane] = u32::from(learning == Learning::Normal);
        brought.places[lane] = place;
        for side in 0..2 {
            brought.day[side][lane] = sides.day[side];
            brought.week[side][lane] = sides.week[side];
        }
        brought.exponent[lane] = sides.exponent;
        brought.precision[lane] = sides.precision;
        brought.share[lane] = sides.share;
    }
    brought
}

/// A value as scorers take it.
#[inline(always)]
fn bounded(value: f64) -> f32 {
    if value.is_nan() { 0.0 } else { value.clamp(-VALUE_MAX, VALUE_MAX) as f32 }
}

impl<const N: usize> Brought<N> {
    #[inline(always)]
    fn new() -> Self {
        Brought {
            x: [0.0; N],
            now: [0; N],
            learns: [0; N],
            places: [Place::new(0); N],
            day: [[0; N]; 2],
            week: [[0; N]; 2],
            exponent: [0; N],
            precision: [0; N],
            share: [0.0; N],
        }
    }

    #[inline(always)]
    fn given(&self, lane: usize) -> Given {
        let sides = Sides {
            day: [self.day[0][lane], self.day[1][lane]],
            week: [self.week[0][lane], self.week[1][lane]],
            exponent: self.exponent[lane],
            precision: self.precision[lane],
            share: self.share[lane],
        };
        Given { x: self.x[lane], now: self.now[lane], learns: self.learns[lane] != 0, sides }
    }
}

impl<const N: usize> Left<N> {
    #[inline(always)]
    fn new() -> Self {
        Left {
            positions: [[0.0; N]; STREAMS],
            values: [[0.0; N]; STREAMS],
            day: [[0; N]; 2],
            week: [[0; N]; 2],
            rarely: [0; N],
            outside: [0; N],
        }
    }
}

/// Forecasts, compares and learns, in all lanes.
#[inline(always)]
fn forecast<const N: usize>(
    brought: &Brought<N>,
    block: &mut Block<WORDS, N>,
    left: &mut Left<N>,
    scores: &mut Scores<N>,
) {
    for lane in 0..N {
        let mut numbers: Numbers = block.read(lane);
        let given = brought.given(lane);
        let stepped = numbers.step(&given);
        let forecasted = stepped.forecasted;
        let mut outside = numbers.head.draw().1 == 1;
        for stream in 0..STREAMS {
            let position = numbers.head.ranges[stream].position(stepped.values[stream]);
            outside |= !histogram::is_inside(position);
            left.positions[stream][lane] = position;
            left.values[stream][lane] = stepped.values[stream];
        }
        for side in 0..2 {
            left.day[side][lane] = forecasted.moved.day[side];
            left.week[side][lane] = forecasted.moved.week[side];
        }
        left.rarely[lane] = u32::from(forecasted.moved.rarely | !given.learns);
        left.outside[lane] = u32::from(outside);
        scores.x[lane] = given.x;
        scores.expected[lane] = forecasted.expected;
        scores.usual[lane] = forecasted.usual;
        scores.strain[lane] = forecasted.strain;
        scores.residual[lane] = forecasted.residual;
        scores.next[lane] = forecasted.next;
        scores.band[lane] = forecasted.band;
        scores.ready[lane] = u32::from(stepped.ready);
        block.write(lane, numbers);
    }
}

/// Lets hours learn more than a move. The words of the series are still those of before the step.
#[cold]
#[inline(never)]
fn learn_rarely<const N: usize>(brought: &Brought<N>, lane: usize, state: &mut Scorers, week: Week<'_>) {
    if brought.learns[lane] != 0 {
        let numbers = state.numbers();
        numbers.learn_hours((&mut state.season, week), brought.places[lane], &brought.given(lane));
    }
}

/// Widens the ranges of one lane where they must be.
#[cold]
#[inline(never)]
fn reach<const N: usize>(after: &mut Block<WORDS, N>, left: &mut Left<N>, lane: usize, state: &mut Scorers) {
    let mut head: Head = after.read(lane);
    let (_, n, _) = head.draw();
    for stream in 0..STREAMS {
        let (range, counters) = (head.ranges[stream], state.counters[stream]);
        let mut histogram = Histogram { range, counters };
        left.positions[stream][lane] = histogram.reach(left.values[stream][lane], n);
        (head.ranges[stream], state.counters[stream]) = (histogram.range, histogram.counters);
    }
    after.write(lane, head);
}

/// Which counters are asked for the values, and which of them count those.
struct Windows<const N: usize> {
    first: [[u32; N]; STREAMS],
    bins: [[u32; N]; STREAMS],
    distance: [Lane<N>; STREAMS],
    falloff: [Lane<N>; STREAMS],
    randoms: [[u32; N]; STREAMS],
    /// The logarithm of all values so far.
    all: Lane<N>,
}

#[inline(always)]
fn windows<const N: usize>(after: &mut Block<WORDS, N>, left: &Left<N>) -> Windows<N> {
    let (none, zero) = ([[0; N]; STREAMS], [[0.0; N]; STREAMS]);
    let mut windows =
        Windows { first: none, bins: none, distance: zero, falloff: zero, randoms: none, all: [0.0; N] };
    for lane in 0..N {
        let mut head: Head = after.read(lane);
        let (random, n, youth) = head.draw();
        let (random, rate) = (histogram::randoms(random), histogram::mean_rate(youth));
        for (stream, random) in random.into_iter().enumerate() {
            let position = left.positions[stream][lane];
            let window = head.ranges[stream].window(position, rate, random);
            windows.first[stream][lane] = window.first;
            windows.bins[stream][lane] = window.bin;
            windows.distance[stream][lane] = window.distance;
            windows.falloff[stream][lane] = window.falloff;
            windows.randoms[stream][lane] = random;
        }
        windows.all[lane] = ln(n.cast_signed() as f32);
        after.write(lane, head);
    }
    windows
}

/// Asks the histograms, and counts the values in them.
#[inline(always)]
fn count<const N: usize>(
    seen: &mut [impl Observed],
    windows: &Windows<N>,
    scores: &mut Scores<N>,
    meanwhile: &mut impl FnMut(usize, usize),
) {
    let Windows { first, bins, distance, falloff, randoms, all } = windows;
    (0..N).for_each(|lane| meanwhile(3, lane));
    let mut halves = [[[0_u32; N]; 2]; STREAMS];
    for (lane, one) in seen.iter_mut().enumerate().take(N) {
        meanwhile(4, lane);
        let counters = &one.parts().0.counters;
        for stream in 0..STREAMS {
            let [lower, upper] = histogram::weighed(&counters[stream], first[stream][lane]);
            halves[stream][0][lane] = lower;
            halves[stream][1][lane] = upper;
        }
    }
    let mut grown = [[0_u32; N]; STREAMS];
    for stream in 0..STREAMS {
        for lane in 0..N {
            let half = [halves[stream][0][lane], halves[stream][1][lane]];
            let mass = histogram::mass(half, distance[stream][lane], falloff[stream][lane]);
            scores.surprisals[stream][lane] = histogram::surprisal(mass, all[lane]);
            let counter = histogram::counter(half, bins[stream][lane] - first[stream][lane]);
            grown[stream][lane] = morris::growth(counter, randoms[stream][lane]);
        }
    }
    for (lane, one) in seen.iter_mut().enumerate().take(N) {
        let counters = &mut one.parts().0.counters;
        for stream in 0..STREAMS {
            histogram::grow(&mut counters[stream], bins[stream][lane], grown[stream][lane]);
        }
    }
}

impl<const N: usize> Scores<N> {
    #[inline(always)]
    fn new() -> Self {
        let none = [0.0; N];
        Scores {
            x: none,
            expected: none,
            usual: none,
            strain: none,
            residual: none,
            ready: [0; N],
            next: none,
            band: none,
            surprisals: [none; STREAMS],
        }
    }

    #[inline]
    fn surprisals(&self, lane: usize) -> Surprisals {
        let [distribution, derivative, forecast] = self.surprisals.map(|stream| stream[lane]);
        Surprisals { forecast, derivative, distribution }
    }

    /// Whether warm-up is over for one of them, and what was expected.
    #[inline]
    pub fn expected(&self, lane: usize) -> (bool, f32) {
        (self.ready[lane] != 0, self.expected[lane])
    }

    /// All that they say of one of them.
    #[inline]
    pub fn score(&self, lane: usize) -> Score {
        let direction = if self.residual[lane] < 0.0 { Direction::Down } else { Direction::Up };
        let quiet = Score {
            expected: self.expected[lane],
            usual: self.usual[lane],
            next: self.next[lane],
            band: self.band[lane],
            direction,
            ..Score::default()
        };
        if self.ready[lane] == 0 {
            return quiet;
        }
        let surprisals = self.surprisals(lane);
        let most = surprisals.most();
        Score {
            combined: combine::score(most),
            surprise: most * core::f32::consts::LOG10_E,
            strain: self.strain[lane],
            ready: true,
            forecast: combine::score(surprisals.forecast),
            derivative: combine::score(surprisals.derivative),
            distribution: combine::score(surprisals.distribution),
            ..quiet
        }
    }
}

#[cfg(test)]
impl Scores<1> {
    /// As if `score` had been said of the value `x`.
    pub(crate) fn said(x: f32, score: &Score) -> Self {
        let odds = score.combined / (1.0 - score.combined).max(f32::MIN_POSITIVE);
        let mut said = Scores::new();
        said.surprisals[0] = [combine::THRESHOLD * libm::powf(odds, 0.25)];
        (said.x, said.expected, said.usual) = ([x], [score.expected], [score.usual]);
        (said.strain, said.residual) = ([score.strain], [x - score.expected]);
        said.ready = [u32::from(score.ready)];
        said
    }
}
