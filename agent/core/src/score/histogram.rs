//! A histogram of everything a stream has shown, in 64 bytes: 56 counters and the
//! range, which adapts, that they lie over.
//!
//! It answers with the surprisal of a value, `ln(n / count nearby)`, and then absorbs the value. It must
//! never let one outlier blind it: a single value widens the range by a bounded factor, and a range whose mass
//! sits in a few bins is narrowed again. The hard case is the first values, when there is no range yet.

use super::approximate::{Bounded, choose, ln};
use super::morris;
use super::words::words;

pub(super) const BINS: usize = 56;
/// Bandwidth of the kernel at the mean, in bins, and its growth for each bin away from the mean: the tails are
/// thin, so their counts are taken from further around.
const BANDWIDTH: f32 = 1.5;
const BANDWIDTH_PER_BIN: f32 = 0.05;
const BANDWIDTH_MAX: f32 = 4.0;
/// How many bins are weighed: all whose middle is within the largest bandwidth.
const TAPS: usize = 8;
/// The last place in the range, just inside the last bin.
const LAST: f32 = BINS as f32 - 1.0 / 256.0;
/// An `f32` near this has eight binary places, and above them room for so many bins.
const PLACES: f32 = 32_768.0;
const PLACES_BINS: u32 = 64;
/// An `f32` just above this has sixteen binary places, ten more than are kept of the mean in the lower 12 bits.
const MEAN_BASE: f32 = 128.0;
const MEAN_CUT: u32 = 10;
const MEAN_MASK: u32 = 0xfff;
/// Stands for the mass never seen: the surprisal of an empty neighbourhood is `ln(10 n)`.
const UNSEEN: f32 = 0.1;
/// While younger than this many values the range may widen without limit and leaves more room.
const YOUNG: u32 = 40;
/// Later, one value widens the range at most this many times; what lies outside counts in the edge bin.
const WIDENING_MAX: f32 = 8.0;
/// What is kept when counts are halved: a little less than half, so that a lone value rounds to none.
const HALF: f32 = 0.49;
/// A range is narrowed when all but this share of the mass, at either end, sits in so few bins.
const STRAY_SHARE: f32 = 0.01;
const CROWDED_BINS: usize = 2;
/// Where in a wide bin its mass was nobody knows: it is spread evenly, and so much of it is kept, enough that no
/// value inside is a surprise and little enough that new values soon tell.
const NARROW_KEEP: f32 = 0.1;
/// Slowest adaptation of the mean.
const MEAN_RATE_MIN: f32 = 1.0e-3;

/// The streams of a series.
pub(super) const STREAMS: usize = 3;
/// The counters of one stream.
pub(super) type Counters = [u8; BINS];

/// What a new mean weighs in the one before, for the value that comes `1 / youth`th.
#[inline(always)]
pub(super) fn mean_rate(youth: f32) -> f32 {
    youth.at_least(MEAN_RATE_MIN)
}

/// Over which numbers the counters of a stream lie, and their mean.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    low: f32,
    /// Above, bins for each unit, an `f32` cut to eleven bits of mantissa; the range reaches from `low` over all of
    /// them. Below, where the mean lies, in bins with six binary places.
    scale_and_mean: u32,
}

words!(Range { low, scale_and_mean });

/// Which counters are weighed for a value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// The first of the counters.
    pub(super) first: u32,
    /// From the value to the middle of the first counter.
    pub(super) distance: f32,
    /// What the weight loses for each bin away from the value.
    pub(super) falloff: f32,
    /// The bin of the value.
    pub(super) bin: u32,
}

impl Range {
    pub(super) const fn new() -> Self {
        Range { low: 0.0, scale_and_mean: 0 }
    }

    /// Where `x` lies, in bins.
    #[inline(always)]
    pub(super) fn position(&self, x: f32) -> f32 {
        (x - self.low) * self.bins_per_unit()
    }

    /// Which counters to weigh for the value at `position`, and then it counts for the mean.
    #[inline(always)]
    pub(super) fn window(&mut self, position: f32, rate: f32, random: u32) -> Window {
        let position = within(position);
        let mean = mean_position(self.scale_and_mean);
        let bandwidth = BANDWIDTH + BANDWIDTH_PER_BIN * (position - mean).abs();
        let falloff = 1.0 / bandwidth.at_most(BANDWIDTH_MAX);
        let first = bits_of_bin((position - 0.5 * (TAPS as f32 - 1.0)).between(0.0, (BINS - TAPS) as f32));
        // Of so small a number the signed conversion is the cheaper one.
        let distance = first.cast_signed() as f32 + 0.5 - position;
        self.scale_and_mean = with_mean(self.scale_and_mean, mean + (position - mean) * rate, random);
        Window { first, distance, falloff, bin: bits_of_bin(position) }
    }

    /// The width of the range, in the units of the stream.
    pub(super) fn width(&self) -> f32 {
        BINS as f32 / self.bins_per_unit()
    }

    #[inline(always)]
    fn bins_per_unit(&self) -> f32 {
        f32::from_bits(self.scale_and_mean & !MEAN_MASK)
    }

    fn high(&self) -> f32 {
        self.low + self.width()
    }

    fn set(&mut self, low: f32, high: f32) {
        self.low = low;
        self.scale_and_mean = (BINS as f32 / (high - low)).to_bits() & !MEAN_MASK;
    }

    fn set_mean(&mut self, position: f32) {
        self.scale_and_mean = with_mean(self.scale_and_mean, position, 0);
    }
}

/// Whether a position lies within any range.
#[inline(always)]
pub(super) fn is_inside(position: f32) -> bool {
    (0.0 <= position) & (position <= BINS as f32)
}

/// The counters that a window weighs, four in each half.
#[inline(always)]
pub(super) fn weighed(counters: &Counters, first: u32) -> [u32; 2] {
    let first = (first as usize).min(BINS - TAPS);
    let window: &[u8; TAPS] = counters[first..].first_chunk().expect("the last window is whole");
    let word = u64::from_le_bytes(*window);
    [word as u32, (word >> 32) as u32]
}

/// The mass in a window under a triangular kernel.
///
/// The kernel lies around the position and not around its bin: where the edges of the bins happen to fall
/// must not decide. Always eight bins are weighed, those beyond the kernel by zero: a fixed amount of work
/// without branches.
#[inline(always)]
pub(super) fn mass(halves: [u32; 2], distance: f32, falloff: f32) -> f32 {
    let weigh = |tap: usize| {
        let weight = 1.0 - (distance + tap as f32).abs() * falloff;
        let counter = (halves[tap / 4] >> (8 * (tap % 4))) & 0xff;
        weight.at_least(0.0) * morris::count_of(counter)
    };
    let (a, b) = (weigh(0) + weigh(4), weigh(1) + weigh(5));
    let (c, d) = (weigh(2) + weigh(6), weigh(3) + weigh(7));
    (a + c) + (b + d)
}

/// The surprisal of a value with this mass around it, in nats, when the logarithm of all values so far is `all`.
#[inline(always)]
pub(super) fn surprisal(mass: f32, all: f32) -> f32 {
    all - ln(mass + UNSEEN)
}

/// The counter of a bin so many after the first of a window, of which these are the halves.
#[inline(always)]
pub(super) fn counter(halves: [u32; 2], at: u32) -> u32 {
    (choose(at < 4, halves[0], halves[1]) >> (8 * (at % 4))) & 0xff
}

/// Lets the counter of a bin grow by 1 or not.
#[inline(always)]
pub(super) fn grow(counters: &mut Counters, bin: u32, by: u32) {
    let counter = &mut counters[(bin as usize).min(BINS - 1)];
    *counter = counter.wrapping_add(by as u8);
}

/// The bits for each of the streams, of 32 that are random.
#[inline(always)]
pub(super) fn randoms(random: u32) -> [u32; STREAMS] {
    [random, random.rotate_left(11), random.rotate_left(21)]
}

/// Counters and their range together, for what seldom happens.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    pub(super) range: Range,
    pub(super) counters: Counters,
}

impl Histogram {
    /// Sees to it that the range holds `x`, as far as one value may widen it; where `x` lies then.
    #[cold]
    #[inline(never)]
    pub(super) fn reach(&mut self, x: f32, n: u32) -> f32 {
        if n == 1 {
            self.begin(x);
        } else if !is_inside(self.range.position(x)) {
            self.widen(x, n);
        }
        self.range.position(x)
    }

    fn begin(&mut self, x: f32) {
        let margin = (x.abs() * 0.01).at_least(1.0e-12);
        self.range.set(x - margin, x + margin);
        self.range.set_mean(self.range.position(x));
    }

    /// Widens the range so that it holds `x`, or goes as far towards it as one value may.
    fn widen(&mut self, x: f32, n: u32) {
        let room = if n < YOUNG { 0.25 } else { 0.1 };
        let reach = if n < YOUNG { f32::MAX } else { WIDENING_MAX * self.range.width() };
        let (mut low, mut high) = (self.range.low, self.range.high());
        if x < low {
            low = (x - room * (high - x)).at_least(low - reach);
        } else {
            high = (x + room * (x - low)).at_most(high + reach);
        }
        self.rebin(low, high, 1.0, 1);
    }

    /// Halves all counts.
    #[cold]
    pub(super) fn halve(&mut self) {
        self.counters = self.counters.map(|c| morris::from_count(HALF * morris::count(c)));
        self.narrow();
    }

    /// Narrows a range whose mass, but for strays, sits in few bins; strays go to the edge.
    #[cold]
    pub(super) fn narrow(&mut self) {
        let total: f32 = self.counters.iter().map(|c| morris::count(*c)).sum();
        let first = first_beyond(self.counters.iter(), STRAY_SHARE * total);
        let end = BINS - first_beyond(self.counters.iter().rev(), STRAY_SHARE * total);
        if first < end && end - first <= CROWDED_BINS {
            let width = 1.0 / self.range.bins_per_unit();
            let (low, high) = (self.range.low + first as f32 * width, self.range.low + end as f32 * width);
            let room = 0.5 * (high - low);
            if high - low > 1.0e-5 * (low.abs() + high.abs()) {
                self.rebin(low - room, high + room, NARROW_KEEP, BINS);
            }
        }
    }

    /// Moves all counts into bins over a new range, multiplied by `keep`; those of one bin are spread evenly
    /// over `parts` places.
    fn rebin(&mut self, low: f32, high: f32, keep: f32, parts: usize) {
        let (old_low, width) = (self.range.low, 1.0 / self.range.bins_per_unit());
        let (step, share) = (width / parts as f32, keep / parts as f32);
        let mean = old_low + mean_position(self.range.scale_and_mean) * width;
        let mut mass = [0.0_f32; BINS];
        self.range.set(low, high);
        self.range.set_mean(within(self.range.position(mean)));
        for (i, c) in self.counters.into_iter().enumerate().filter(|(_, c)| *c > 0) {
            let first = old_low + i as f32 * width + 0.5 * step;
            for part in 0..parts {
                mass[bin(within(self.range.position(first + part as f32 * step)))] +=
                    share * morris::count(c);
            }
        }
        self.counters = mass.map(morris::from_count);
    }
}

/// A position, or the nearest within the range; the lowest for not-a-number.
#[inline(always)]
fn within(position: f32) -> f32 {
    position.between(0.0, LAST)
}

/// The bin of a position within the range: the bits of this sum hold it with eight binary places, so that no
/// conversion is needed.
#[inline(always)]
fn bin(position: f32) -> usize {
    bits_of_bin(position) as usize
}

#[inline(always)]
fn bits_of_bin(position: f32) -> u32 {
    ((position + PLACES).to_bits() >> 8) % PLACES_BINS
}

/// The mean, in bins, that a word of scale and mean holds.
#[inline(always)]
fn mean_position(word: u32) -> f32 {
    f32::from_bits(MEAN_BASE.to_bits() + ((word & MEAN_MASK) << MEAN_CUT)) - MEAN_BASE
}

/// The word with another mean, rounded at random in proportion to what is cut off.
#[inline(always)]
fn with_mean(word: u32, position: f32, random: u32) -> u32 {
    let mean = ((position + MEAN_BASE).to_bits() + (random >> (32 - MEAN_CUT))) >> MEAN_CUT;
    word & !MEAN_MASK | mean & MEAN_MASK
}

/// How many counters from one end hold at most `strays` together.
fn first_beyond<'a>(counters: impl Iterator<Item = &'a u8>, strays: f32) -> usize {
    let mut mass = 0.0;
    counters
        .take_while(|c| {
            mass += morris::count(**c);
            mass <= strays
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Histogram {
        fn new() -> Self {
            Histogram { range: Range::new(), counters: [0; BINS] }
        }

        fn high(&self) -> f32 {
            self.range.high()
        }

        /// The surprisal of the `n`th value, which then counts as seen.
        fn step(&mut self, x: f32, n: u16, random: u32) -> f32 {
            let mut position = self.range.position(x);
            if n == 1 || !is_inside(position) {
                position = self.reach(x, n.into());
            }
            let window = self.range.window(position, mean_rate(1.0 / f32::from(n)), random);
            let halves = weighed(&self.counters, window.first);
            let mass = mass(halves, window.distance, window.falloff);
            let counter = counter(halves, window.bin - window.first);
            assert_eq!(counter, u32::from(self.counters[window.bin as usize]));
            grow(&mut self.counters, window.bin, morris::growth(counter, random));
            surprisal(mass, ln(f32::from(n)))
        }
    }

    fn feed(histogram: &mut Histogram, values: impl Iterator<Item = f32>) -> (u16, f32) {
        let (mut n, mut random, mut last) = (0, 1_u32, 0.0);
        for x in values {
            n += 1;
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            last = histogram.step(x, n, random);
        }
        (n, last)
    }

    fn surprisal_of(histogram: &Histogram, n: u16, x: f32) -> f32 {
        histogram.clone().step(x, n + 1, 0)
    }

    #[test]
    fn the_unseen_surprises_more_than_the_usual() {
        let mut histogram = Histogram::new();
        let (n, _) = feed(&mut histogram, (0..2_000).map(|i| (i * 37 % 100) as f32));
        assert!(surprisal_of(&histogram, n, 50.0) < 4.0);
        assert!(surprisal_of(&histogram, n, 300.0) > 9.0);
    }

    #[test]
    fn between_two_modes_is_surprising() {
        let mut histogram = Histogram::new();
        let (n, _) = feed(&mut histogram, (0..2_000).map(|i| (i % 2 * 100 + i % 7) as f32));
        assert!(surprisal_of(&histogram, n, 50.0) > 8.0);
        assert!(surprisal_of(&histogram, n, 103.0) < 4.0);
    }

    #[test]
    fn surprise_is_continuous_across_the_edges_of_bins() {
        let mut histogram = Histogram::new();
        let (n, _) = feed(&mut histogram, (0..2_000).map(|i| (i * 37 % 100) as f32).chain([150.0]));
        let mut before = surprisal_of(&histogram, n, 40.0);
        for i in 1..10_000 {
            let now = surprisal_of(&histogram, n, 40.0 + 0.01 * i as f32);
            assert!((now - before).abs() < 1.0, "a leap of {} at {}", now - before, 40.0 + 0.01 * i as f32);
            before = now;
        }
    }

    #[test]
    fn a_lone_outlier_widens_by_a_bounded_factor() {
        let mut histogram = Histogram::new();
        feed(&mut histogram, (0..200).map(|i| (i % 10) as f32).chain([1.0e15]));
        assert!(histogram.high() < 200.0, "{}", histogram.high());
    }

    #[test]
    fn narrowing_brings_back_a_range_spoiled_at_the_start() {
        let mut histogram = Histogram::new();
        feed(&mut histogram, [1.0e15].into_iter().chain((0..2_000).map(|i| (i % 10) as f32)));
        for _ in 0..20 {
            histogram.narrow();
        }
        assert!(histogram.high() < 1.0e14, "{}", histogram.high());
        assert!(histogram.counters.iter().any(|c| *c > 0));
    }

    #[test]
    fn an_empty_histogram_is_left_alone() {
        let mut histogram = Histogram::new();
        histogram.narrow();
        histogram.halve();
        assert_eq!(histogram.counters, [0; BINS]);
    }

    #[test]
    fn halving_forgets_what_was_seen_once() {
        let mut histogram = Histogram::new();
        feed(&mut histogram, (0..1_000).map(|i| (i % 10) as f32).chain([60.0]));
        let before: f32 = histogram.counters.iter().map(|c| morris::count(*c)).sum();
        histogram.halve();
        let after: f32 = histogram.counters.iter().map(|c| morris::count(*c)).sum();
        assert!((0.4..0.6).contains(&(after / before)), "{before} became {after}");
    }
}
