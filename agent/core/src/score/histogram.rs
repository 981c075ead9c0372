//! A histogram of everything a stream has shown, in 64 bytes: 56 counters over a range that adapts.
//!
//! It answers with the surprisal of a value, `ln(n / count nearby)`, and then absorbs the value. It must
//! never let one outlier blind it: a single value widens the range by a bounded factor, and a range whose mass
//! sits in a few bins is narrowed again. The hard case is the first values, when there is no range yet.

use super::approximate::{Bounded, ln};
use super::morris;

const BINS: usize = 56;
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
const YOUNG: u16 = 40;
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
/// A number for each of them, and one to spare: what every processor handles at once.
type Lanes<T> = [T; STREAMS + 1];

/// What the histograms of a series need to know of the present update.
#[derive(Clone, Copy)]
pub(super) struct Draw {
    /// Number of values with this one, from 1.
    pub(super) n: u16,
    /// Its inverse.
    pub(super) youth: f32,
    /// 32 uniform random bits.
    pub(super) random: u32,
}

impl Draw {
    /// The draw for the `n`th value, from 1.
    #[inline]
    pub(super) fn new(n: u16, random: u32) -> Self {
        Draw { n, youth: 1.0 / f32::from(n), random }
    }

    /// Bits for each of the histograms.
    #[inline]
    fn randoms(self) -> Lanes<u32> {
        [0, 11, 21, 0].map(|by| self.random.rotate_left(by))
    }
}

/// The surprisals of a value of each stream, in nats, under what was seen before; and then they count as seen.
///
/// All streams go side by side, so that what is the same for each is one instruction for all.
#[inline]
pub(super) fn step(
    histograms: [&mut Histogram; STREAMS],
    values: [f32; STREAMS],
    draw: Draw,
) -> [f32; STREAMS] {
    let [x, y, z] = values;
    let [a, b, c] = histograms;
    let mut positions = [a.position(x), b.position(y), c.position(z), 0.0];
    if draw.n == 1 || !positions.iter().all(|position| (0.0..=BINS as f32).contains(position)) {
        positions = [a.reach(x, draw.n), b.reach(y, draw.n), c.reach(z, draw.n), 0.0];
    }
    let positions = positions.map(within);
    let words = [a.scale_and_mean, b.scale_and_mean, c.scale_and_mean, 0];
    let means = words.map(mean_position);
    let windows = windows(positions, means);
    let counts = [a.count_in(&windows, 0), b.count_in(&windows, 1), c.count_in(&windows, 2)];
    // The logarithm of all values so far rides in the lane to spare.
    let logarithms = [counts[0] + UNSEEN, counts[1] + UNSEEN, counts[2] + UNSEEN, f32::from(draw.n)].map(ln);
    let (randoms, rate) = (draw.randoms(), draw.youth.at_least(MEAN_RATE_MIN));
    let words: Lanes<u32> = core::array::from_fn(|i| {
        with_mean(words[i], means[i] + (positions[i] - means[i]) * rate, randoms[i])
    });
    for (i, histogram) in [a, b, c].into_iter().enumerate() {
        histogram.scale_and_mean = words[i];
        histogram.count(bin(positions[i]), randoms[i]);
    }
    let [p, q, r, all] = logarithms;
    [all - p, all - q, all - r]
}

/// Which counters are weighed for a value of each stream.
struct Windows {
    first: Lanes<u32>,
    /// From the value to the middle of the first counter.
    distance: Lanes<f32>,
    /// What the weight loses for each bin away from the value.
    falloff: Lanes<f32>,
}

#[inline]
fn windows(positions: Lanes<f32>, means: Lanes<f32>) -> Windows {
    let falloff = core::array::from_fn(|i| {
        let bandwidth = BANDWIDTH + BANDWIDTH_PER_BIN * (positions[i] - means[i]).abs();
        1.0 / bandwidth.at_most(BANDWIDTH_MAX)
    });
    let first = positions.map(|position| {
        bits_of_bin((position - 0.5 * (TAPS as f32 - 1.0)).between(0.0, (BINS - TAPS) as f32))
    });
    // Of so small a number the signed conversion is the cheaper one.
    let distance = core::array::from_fn(|i| first[i].cast_signed() as f32 + 0.5 - positions[i]);
    Windows { first, distance, falloff }
}

/// Counters over a range, for one stream of numbers; 64 bytes.
#[repr(C)]
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    low: f32,
    /// Above, bins for each unit, an `f32` cut to eleven bits of mantissa; the range reaches from `low` over all of
    /// them. Below, where the mean lies, in bins with six binary places.
    scale_and_mean: u32,
    counters: [u8; BINS],
}

impl Histogram {
    pub(super) const fn new() -> Self {
        Histogram { low: 0.0, scale_and_mean: 0, counters: [0; BINS] }
    }

    /// Sees to it that the range holds `x`, as far as one value may widen it; where `x` lies then.
    #[cold]
    #[inline(never)]
    fn reach(&mut self, x: f32, n: u16) -> f32 {
        if n == 1 {
            self.begin(x);
        } else if !(0.0..=BINS as f32).contains(&self.position(x)) {
            self.widen(x, n);
        }
        self.position(x)
    }

    /// The mass in a window under a triangular kernel.
    ///
    /// The kernel lies around the position and not around its bin: where the edges of the bins happen to fall
    /// must not decide. Always eight bins are weighed, those beyond the kernel by zero: a fixed amount of work
    /// without branches.
    #[inline]
    fn count_in(&self, windows: &Windows, lane: usize) -> f32 {
        let first = (windows.first[lane] as usize).min(BINS - TAPS);
        let window = self.counters[first..].first_chunk().expect("the last window is whole");
        let [a, b, c, d] = weigh(window, windows.distance[lane], windows.falloff[lane]);
        (a + c) + (b + d)
    }

    /// Counts one value.
    #[inline]
    fn count(&mut self, bin: usize, random: u32) {
        let counter = &mut self.counters[bin.min(BINS - 1)];
        *counter = morris::increment(*counter, random);
    }

    /// The width of the range, in the units of the stream.
    pub(super) fn range(&self) -> f32 {
        BINS as f32 / self.bins_per_unit()
    }

    #[inline]
    fn bins_per_unit(&self) -> f32 {
        f32::from_bits(self.scale_and_mean & !MEAN_MASK)
    }

    /// Where `x` lies, in bins.
    #[inline]
    fn position(&self, x: f32) -> f32 {
        (x - self.low) * self.bins_per_unit()
    }

    #[cold]
    fn begin(&mut self, x: f32) {
        let margin = (x.abs() * 0.01).at_least(1.0e-12);
        self.set_range(x - margin, x + margin);
        self.scale_and_mean = with_mean(self.scale_and_mean, self.position(x), 0);
    }

    fn high(&self) -> f32 {
        self.low + self.range()
    }

    fn set_range(&mut self, low: f32, high: f32) {
        self.low = low;
        self.scale_and_mean = (BINS as f32 / (high - low)).to_bits() & !MEAN_MASK;
    }

    /// Widens the range so that it holds `x`, or goes as far towards it as one value may.
    fn widen(&mut self, x: f32, n: u16) {
        let room = if n < YOUNG { 0.25 } else { 0.1 };
        let reach = if n < YOUNG { f32::MAX } else { WIDENING_MAX * self.range() };
        let (mut low, mut high) = (self.low, self.high());
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
            let width = 1.0 / self.bins_per_unit();
            let (low, high) = (self.low + first as f32 * width, self.low + end as f32 * width);
            let room = 0.5 * (high - low);
            if high - low > 1.0e-5 * (low.abs() + high.abs()) {
                self.rebin(low - room, high + room, NARROW_KEEP, BINS);
            }
        }
    }

    /// Moves all counts into bins over a new range, multiplied by `keep`; those of one bin are spread evenly
    /// over `parts` places.
    fn rebin(&mut self, low: f32, high: f32, keep: f32, parts: usize) {
        let (old_low, width) = (self.low, 1.0 / self.bins_per_unit());
        let (step, share) = (width / parts as f32, keep / parts as f32);
        let mean = old_low + mean_position(self.scale_and_mean) * width;
        let mut mass = [0.0_f32; BINS];
        self.set_range(low, high);
        self.scale_and_mean = with_mean(self.scale_and_mean, within(self.position(mean)), 0);
        for (i, c) in self.counters.into_iter().enumerate().filter(|(_, c)| *c > 0) {
            let first = old_low + i as f32 * width + 0.5 * step;
            for part in 0..parts {
                mass[bin(within(self.position(first + part as f32 * step)))] += share * morris::count(c);
            }
        }
        self.counters = mass.map(morris::from_count);
    }
}

/// What eight counters weigh under the kernel, the first of them at `distance` from its middle, in four sums.
///
/// Out of line, so that compilers see whole vectors and not the pairs in which the sums are added.
#[inline(never)]
fn weigh(window: &[u8; TAPS], distance: f32, falloff: f32) -> [f32; TAPS / 2] {
    let weighed = |tap: usize| {
        let weight = 1.0 - (distance + tap as f32).abs() * falloff;
        (if weight > 0.0 { weight } else { 0.0 }) * morris::count(window[tap])
    };
    core::array::from_fn(|tap| weighed(tap) + weighed(tap + TAPS / 2))
}

/// A position, or the nearest within the range; the lowest for not-a-number.
#[inline]
fn within(position: f32) -> f32 {
    position.between(0.0, LAST)
}

/// The bin of a position within the range: the bits of this sum hold it with eight binary places, so that no
/// conversion is needed.
#[inline]
fn bin(position: f32) -> usize {
    bits_of_bin(position) as usize
}

#[inline]
fn bits_of_bin(position: f32) -> u32 {
    ((position + PLACES).to_bits() >> 8) % PLACES_BINS
}

/// The mean, in bins, that a word of scale and mean holds.
#[inline]
fn mean_position(word: u32) -> f32 {
    f32::from_bits(MEAN_BASE.to_bits() + ((word & MEAN_MASK) << MEAN_CUT)) - MEAN_BASE
}

/// The word with another mean, rounded at random in proportion to what is cut off.
#[inline]
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

    /// One stream that has no others beside it.
    fn step_one(histogram: &mut Histogram, x: f32, draw: Draw) -> f32 {
        let others = [&mut Histogram::new(), &mut Histogram::new()];
        let [y, z] = others;
        step([histogram, y, z], [x, 0.0, 0.0], draw)[0]
    }

    fn feed(histogram: &mut Histogram, values: impl Iterator<Item = f32>) -> (u16, f32) {
        let (mut n, mut random, mut last) = (0, 1_u32, 0.0);
        for x in values {
            n += 1;
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            last = step_one(histogram, x, Draw::new(n, random));
        }
        (n, last)
    }

    fn surprisal(histogram: &Histogram, n: u16, x: f32) -> f32 {
        step_one(&mut histogram.clone(), x, Draw::new(n + 1, 0))
    }

    #[test]
    fn the_unseen_surprises_more_than_the_usual() {
        let mut histogram = Histogram::new();
        let (n, _) = feed(&mut histogram, (0..2_000).map(|i| (i * 37 % 100) as f32));
        assert!(surprisal(&histogram, n, 50.0) < 4.0);
        assert!(surprisal(&histogram, n, 300.0) > 9.0);
    }

    #[test]
    fn between_two_modes_is_surprising() {
        let mut histogram = Histogram::new();
        let (n, _) = feed(&mut histogram, (0..2_000).map(|i| (i % 2 * 100 + i % 7) as f32));
        assert!(surprisal(&histogram, n, 50.0) > 8.0);
        assert!(surprisal(&histogram, n, 103.0) < 4.0);
    }

    #[test]
    fn surprise_is_continuous_across_the_edges_of_bins() {
        let mut histogram = Histogram::new();
        let (n, _) = feed(&mut histogram, (0..2_000).map(|i| (i * 37 % 100) as f32).chain([150.0]));
        let mut before = surprisal(&histogram, n, 40.0);
        for i in 1..10_000 {
            let now = surprisal(&histogram, n, 40.0 + 0.01 * i as f32);
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
