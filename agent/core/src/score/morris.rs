//! Approximate counters of one byte (Morris, "Counting large numbers of events in small registers", CACM 21
//! (10), 1978), in steps that a float has by itself: sixteen an octave.
//!
//! A counter `c` of exponent `e = c / 16` and mantissa `m = c % 16` stands for `2^e (16 + m) - 16`: exact up to
//! 16, then within about 15 %, up to a million. So a count is a shift into the bits of a float and one
//! subtraction, and eight of them are one vector. It must never be read as an exact count. The hard case is the
//! top: a counter at 255 stays there.

/// Mantissa bits of a counter, and how far they stand from those of an `f32`.
const MANTISSA_BITS: u32 = 4;
const SHIFT: u32 = 23 - MANTISSA_BITS;
/// What counters are offset by: the first octave begins here, and so a counter of 0 stands for 0.
const OFFSET: f32 = 16.0;

/// The count that the counter `c` stands for.
#[inline(always)]
pub(super) fn count(c: u8) -> f32 {
    count_of(c.into())
}

/// The same for a counter among the bits of a word.
#[inline(always)]
pub(super) fn count_of(c: u32) -> f32 {
    f32::from_bits((c << SHIFT) + OFFSET.to_bits()) - OFFSET
}

/// By what the counter `c` grows with one more event, given 32 uniform random bits: 1 with probability `2^-e`, else 0.
#[inline(always)]
pub(super) fn growth(c: u32, random: u32) -> u32 {
    let mask = (1_u32 << (c >> MANTISSA_BITS)) - 1;
    u32::from((random & mask == 0) & (c < u32::from(u8::MAX)))
}

/// The counter that stands for `count` events, to the nearest step; not below zero, not above the top.
#[inline(always)]
pub(super) fn from_count(count: f32) -> u8 {
    let bits = (count.max(0.0) + OFFSET).to_bits() - OFFSET.to_bits();
    let nearest = (bits + (1 << (SHIFT - 1))) >> SHIFT;
    // The policy for a counter that is full: it stays full.
    nearest.min(u32::from(u8::MAX)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn increment(c: u8, random: u32) -> u8 {
        c + growth(c.into(), random) as u8
    }

    #[test]
    fn every_counter_survives_the_way_through_its_count() {
        for c in 0..=255 {
            assert_eq!(from_count(count(c)), c);
        }
        assert_eq!((count(0), count(16), count(17), count(32)), (0.0, 16.0, 18.0, 48.0));
        assert_eq!((from_count(1.0e30), from_count(-1.0), from_count(0.49)), (255, 0, 0));
    }

    #[test]
    fn counting_is_right_on_average() {
        let (mut random, mut c) = (2_463_534_242_u32, 0);
        for _ in 0..10_000 {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            c = increment(c, random);
        }
        assert!((7_000.0..14_000.0).contains(&count(c)), "{}", count(c));
    }

    #[test]
    fn a_full_counter_stays_full() {
        assert_eq!(increment(255, 0), 255);
        assert_eq!(increment(0, u32::MAX), 1);
    }
}
