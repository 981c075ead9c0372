//! A made-up recording of three series: a day's wave that falls, counts of a few, and signed values of any size.
//!
//! It must never be computed in floating point, so that every machine is asked the same. The hard case is to make every
//! scorer speak: there are faults, gaps, standstills and values far out in it.

use vedette_common::WallMs;

/// What is recorded of one series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Series {
    /// Every ten minutes, a wave of a day with noise; falls to a third for some hours.
    Wave,
    /// Every minute, 0 to 5; nothing but zeros near the end.
    Counts,
    /// Every ten seconds with gaps, either sign, now and then a thousand times as large; stands still near the end.
    Wild,
}

pub(crate) const ALL: [Series; 3] = [Series::Wave, Series::Counts, Series::Wild];
/// Observations of each series: two weeks of the wave.
pub(crate) const LENGTH: u32 = 2_016;
/// A Monday, 00:00 UTC.
const START_MS: i64 = 1_748_822_400_000;

impl Series {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Wave => "activity",
            Self::Counts => "errors",
            Self::Wild => "drift",
        }
    }

    /// The time and value of an observation; none where there is a gap.
    pub(crate) fn observation(self, place: u32) -> Option<(WallMs, f64)> {
        let dice = dice(self as u32, place);
        let near_end = place > LENGTH - LENGTH / 8;
        let (step_ms, thousandths) = match self {
            Self::Wave => (600_000, wave(place, dice, near_end)),
            Self::Counts => (60_000, if near_end { 0 } else { i64::from(dice % 6) * 1_000 }),
            Self::Wild if dice % 17 == 0 => return None,
            Self::Wild => (10_000, if near_end { 42_000 } else { wild(dice) }),
        };
        Some((WallMs(START_MS + i64::from(place) * step_ms), thousandths as f64 / 1_000.0))
    }
}

/// A parabola over each half of 144 steps, and a tenth of noise.
fn wave(place: u32, dice: u32, falls: bool) -> i64 {
    let hour = i64::from(place % 144);
    let height = 5_000 + hour * (144 - hour) * 20;
    let noisy = height * (950 + i64::from(dice % 101)) / 1_000;
    if falls && place % 144 > 60 { noisy / 3 } else { noisy }
}

fn wild(dice: u32) -> i64 {
    let small = i64::from(dice % 20_011) - 10_005;
    if dice % 97 == 0 { small * 1_000 } else { small }
}

/// A number that only its place decides (the finaliser of MurmurHash3).
fn dice(series: u32, place: u32) -> u32 {
    let mut mixed = series.wrapping_mul(0x9e37_79b9) ^ place.wrapping_add(1).wrapping_mul(0x85eb_ca6b);
    mixed = (mixed ^ (mixed >> 16)).wrapping_mul(0x85eb_ca6b);
    mixed = (mixed ^ (mixed >> 13)).wrapping_mul(0xc2b2_ae35);
    mixed ^ (mixed >> 16)
}
