//! From three surprisals to one score.
//!
//! It must never remember anything: what was said before is the business of `rest`. The hard case is one scorer
//! that alone sees a fault: a mean would drown it, so the most surprised one speaks.

use super::approximate::Bounded;

/// The surprisal, in nats, that is worth 0.5.
pub(super) const THRESHOLD: f32 = 6.9;
/// What the forecast and the derivative are worth against the distribution.
const FORECAST_WEIGHT: f32 = 0.85;
const DERIVATIVE_WEIGHT: f32 = 0.9;

/// The surprisals of one observation, in nats.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surprisals {
    pub(super) forecast: f32,
    pub(super) derivative: f32,
    pub(super) distribution: f32,
}

impl Surprisals {
    /// The most surprised scorer.
    pub(super) fn most(self) -> f32 {
        let weighted = (FORECAST_WEIGHT * self.forecast).at_least(DERIVATIVE_WEIGHT * self.derivative);
        self.distribution.at_least(weighted).at_least(0.0)
    }
}

/// A surprisal as a score: 0.5 at the threshold, rising from 0 towards 1.
///
/// The odds grow with the fourth power, which spreads the range that matters, 3 to 12 nats, over 0.03 to 0.90.
#[inline]
pub(super) fn score(surprisal: f32) -> f32 {
    let odds = surprisal.at_least(0.0) * (1.0 / THRESHOLD);
    let odds = odds * odds * odds * odds;
    odds / (1.0 + odds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_is_worth_a_half() {
        assert_eq!(score(THRESHOLD), 0.5);
        assert!(score(-1.0) == 0.0 && score(THRESHOLD + 1.0) > 0.5 && score(1.0e9) <= 1.0);
    }
}
