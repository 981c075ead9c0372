//! How much time passed since the last observation, made safe to learn with.
//!
//! Rates of the forecast are per hour, not per observation, so that a ten-second series and an hourly one
//! forget equally fast. The hard cases are clocks: stamps that repeat, run backwards or jump by months give a
//! step within fixed bounds.

/// A step is at least this long, in seconds: repeated stamps teach almost nothing.
const STEP_S_MIN: f32 = 0.1;
/// And at most this long: a gap of months does not make one observation overwrite everything.
const STEP_S_MAX: f32 = 86_400.0;

/// The time since the observation before, in seconds, within bounds.
#[inline]
pub(super) fn step_s(before_ms: i64, now_ms: i64) -> f32 {
    (now_ms.saturating_sub(before_ms) as f32 * 1.0e-3).clamp(STEP_S_MIN, STEP_S_MAX)
}

/// The share of an error that a mean with time constant `tau_s` takes up in one step: `step / (step + tau)`,
/// in `(0, 1)`, which is `1 - exp(-step / tau)` to first order and needs no exponential.
#[inline]
pub(super) fn rate(step_s: f32, tau_s: f32) -> f32 {
    step_s / (step_s + tau_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_clocks_stay_within_bounds() {
        assert_eq!(step_s(5_000, 5_000), STEP_S_MIN);
        assert_eq!(step_s(9_000, 5_000), STEP_S_MIN);
        assert_eq!(step_s(i64::MIN, i64::MAX), STEP_S_MAX);
        assert_eq!(step_s(0, 300_000), 300.0);
    }

    #[test]
    fn a_rate_is_a_share() {
        assert!(rate(STEP_S_MIN, 1.0e6) > 0.0);
        assert!(rate(STEP_S_MAX, 1.0) < 1.0);
    }
}
