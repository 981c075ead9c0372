//! From three surprisals to one score.
//!
//! It must never remember anything: what was said before is the business of `rest`. The hard case is one scorer
//! that alone sees a fault: a mean would drown it, so the most surprised one speaks.

use super::approximate::{Bounded, ln};

/// Beyond so many usual errors nothing gets worse.
const ERROR_MAX: f32 = 1.0e6;
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

/// Shares of novelty and of magnitude in how severe an observation is: never seen and yet close to the forecast is at
/// the threshold at most; seen before and eight usual errors off is too.
const NOVELTY_SHARE: f32 = 0.6;
const MAGNITUDE_SHARE: f32 = 1.2;

/// How severe an observation is, in nats: `error` is its distance from the forecast in usual errors.
///
/// What was never seen cannot be more than that: a surprisal has a ceiling, and it falls once a fault has lasted. The
/// size of the error has neither.
pub(super) fn severity(surprisal: f32, error: f32) -> f32 {
    // Not a number counts as the worst.
    let magnitude = ln(1.0 + if error < ERROR_MAX { error.at_least(0.0) } else { ERROR_MAX });
    NOVELTY_SHARE * surprisal + MAGNITUDE_SHARE * magnitude
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
    fn the_larger_of_two_new_values_is_the_more_severe() {
        assert!(severity(9.0, 100.0) > severity(9.0, 10.0));
        assert!(score(severity(9.0, 100.0)) > 0.5 && score(severity(2.0, 1.0)) < 0.5);
        for odd in [f32::MAX, f32::INFINITY, f32::NAN] {
            assert_eq!(severity(9.0, odd), severity(9.0, ERROR_MAX));
        }
    }
}
