//! The derivative scorer: the change over long horizons against the distribution of such changes.
//!
//! It must never see a season or a clock; it counts observations. The hard case is a trend that bends slowly:
//! each step looks ordinary, and only the difference of two slow means gives it away.

use super::approximate::Bounded;
use super::words::words;

/// Rates of the two moving averages: half-lives of 32 and 192 observations, `1 - 2^(-1/h)`.
const RATE_FAST: f32 = 0.021_428;
const RATE_SLOW: f32 = 0.003_603_7;

/// Two moving averages; what their difference has been stands in a histogram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Derivative {
    fast: f32,
    slow: f32,
}

words!(Derivative { fast, slow });

impl Derivative {
    pub(super) const fn new() -> Self {
        Derivative { fast: 0.0, slow: 0.0 }
    }

    /// Moves both averages on; how far they are apart then.
    #[inline(always)]
    pub(super) fn step(&mut self, x: f32, youth: f32) -> f32 {
        self.fast += (x - self.fast) * RATE_FAST.at_least(youth);
        self.slow += (x - self.slow) * RATE_SLOW.at_least(youth);
        self.fast - self.slow
    }
}
