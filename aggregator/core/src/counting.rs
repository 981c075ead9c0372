//! Counting: how unlikely a count is, for counts of a few as of millions.
//!
//! It must never be asked about what is not counted. The hard case is an empty window where three were expected: a
//! log ratio calls it enormous, and every twentieth window is like that.

/// Less than this is never expected for sure.
const EXPECTED_MIN: f64 = 0.25;

/// How far `observed` lies from `expected` in standard deviations, signed: the root of the Poisson deviance (McCullagh
/// and Nelder 1989), near normal from a count of one up.
pub(crate) fn deviance(observed: f64, expected: f64) -> f64 {
    let (observed, expected) = (observed.max(0.0), expected.max(EXPECTED_MIN));
    let log = if observed > 0.0 { observed * (observed / expected).ln() } else { 0.0 };
    (2.0 * (log - (observed - expected)).max(0.0)).sqrt() * (observed - expected).signum()
}

/// Two sources of noise together: a deviation that each alone would show as so many of its own standard deviations.
pub(crate) fn together(one: f64, other: f64) -> f64 {
    if one == 0.0 || other == 0.0 { 0.0 } else { 1.0 / (one.powi(-2) + other.powi(-2)).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_counts_are_neither_too_odd_nor_too_usual() {
        assert!((2.0..2.6).contains(&-deviance(0.0, 3.0)));
        assert!((3.4..4.0).contains(&deviance(5.0, 0.5)));
        assert!((deviance(1100.0, 1000.0) - 3.1).abs() < 0.1);
        assert_eq!(deviance(7.0, 7.0), 0.0);
    }

    #[test]
    fn the_larger_noise_decides() {
        assert!((together(3.0, 1000.0) - 3.0).abs() < 0.01);
        assert!((together(4.0, 4.0) - 2.83).abs() < 0.01);
        assert_eq!(together(0.0, 5.0), 0.0);
    }
}
