//! The derivative scorer: the change over long horizons against the distribution of such changes.
//!
//! It must never see a season or a clock; it counts observations. The hard case is a trend that bends slowly:
//! each step looks ordinary, and only the difference of two slow means gives it away.

use super::approximate::Bounded;
use super::histogram::Histogram;

/// Rates of the two moving averages: half-lives of 32 and 192 observations, `1 - 2^(-1/h)`.
const RATE_FAST: f32 = 0.021_428;
const RATE_SLOW: f32 = 0.003_603_7;

/// Two moving averages and what their difference has been.
#[repr(C)]
#[derive(Clone, Debug)]
pub(super) struct Derivative {
    fast: f32,
    slow: f32,
    changes: Histogram,
}

impl Derivative {
    pub(super) const fn new() -> Self {
        Derivative { fast: 0.0, slow: 0.0, changes: Histogram::new() }
    }

    /// Moves both averages on; how far they are apart then.
    #[inline]
    pub(super) fn step(&mut self, x: f32, youth: f32) -> f32 {
        self.fast += (x - self.fast) * RATE_FAST.at_least(youth);
        self.slow += (x - self.slow) * RATE_SLOW.at_least(youth);
        self.fast - self.slow
    }

    /// What such differences have been.
    pub(super) fn changes(&mut self) -> &mut Histogram {
        &mut self.changes
    }
}
