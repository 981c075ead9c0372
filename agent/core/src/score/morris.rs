//! Approximate counters of one byte: logarithmic, to the base 1.03 (Morris, "Counting large numbers of events
//! in small registers", CACM 21 (10), 1978).
//!
//! A counter at `c` stands for `(1.03^c - 1) / 0.03`, so a byte reaches 62,000 with an error of about 12 %.
//! It must never be read as an exact count. The hard case is the top: a counter at 255 stays there.

use super::approximate::ln;

const BASE: f64 = 1.03;
const LN_BASE: f32 = 0.029_558_802;

/// What a counter stands for, by its byte.
static COUNT: [f32; 256] = counts();
/// A counter takes a step when a uniform 32-bit number is at most this; probability `1.03^-c`.
static STEP: [u32; 256] = steps();

const fn counts() -> [f32; 256] {
    let mut table = [0.0; 256];
    let (mut power, mut c) = (1.0, 0);
    while c < 256 {
        table[c] = ((power - 1.0) / (BASE - 1.0)) as f32;
        power *= BASE;
        c += 1;
    }
    table
}

const fn steps() -> [u32; 256] {
    let mut table = [0; 256];
    let (mut power, mut c) = (1.0, 0);
    while c < 255 {
        table[c] = (4_294_967_295.0 / power) as u32;
        power *= BASE;
        c += 1;
    }
    table
}

/// The count that the counter `c` stands for.
#[inline]
pub(super) fn count(c: u8) -> f32 {
    COUNT[c as usize]
}

/// The counter after one more event, given 32 uniform random bits.
#[inline]
pub(super) fn increment(c: u8, random: u32) -> u8 {
    c.saturating_add(u8::from(random <= STEP[c as usize]))
}

/// The counter that stands for `count` events, to the nearest step; not below zero, not above the top.
pub(super) fn from_count(count: f32) -> u8 {
    let scaled = 1.0 + count.max(0.0) * (BASE - 1.0) as f32;
    // The cast saturates at 255, which is the policy for a counter that is full.
    (ln(scaled) / LN_BASE + 0.5) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_survives_the_way_through_its_count() {
        for c in 0..=255 {
            assert_eq!(from_count(count(c)), c);
        }
        assert_eq!(from_count(1.0e30), 255);
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
