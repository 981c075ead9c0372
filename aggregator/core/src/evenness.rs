//! Evenness: whether a whole region fell alike, as it does when what all its stacks share fails, or unevenly, as people
//! behave.
//!
//! It must never be asked where errors are measured: they tell it better. The hard case is a small region, where counting
//! alone makes cells differ: then the odds stay near even, and nobody is told.
use std::collections::{BTreeMap, BTreeSet};

use crate::correlate::{CommonMode, Point};
use crate::scopes::{ALL, Noises, ScopeKey};

/// How unevenly stacks and devices feel an event at least, as a share of it: one standard deviation.
const UNEVEN: f64 = 0.2;
/// Independent stacks, and devices, from which evenness says something.
const GROUPS_MIN: usize = 3;
const DEVICES_MIN: usize = 3;
/// What one stack or device may say against a failure: one that has trouble of its own as well does not outvote all.
const AGAINST_MAX: f64 = 4.0;

/// Log odds that `mode` is a failure of what all share, rather than an event that acts unevenly: the likelihood of how far
/// each stack and each device lies from it, under the noise that is known alone, against that noise and unevenness.
pub(crate) fn log_odds(mode: &CommonMode, members: &[&Point], noises: &Noises, key: ScopeKey) -> f64 {
    let devices: BTreeSet<u16> = members.iter().map(|p| p.device).collect();
    if mode.by_device || mode.groups.len() < GROUPS_MIN || devices.len() < DEVICES_MIN {
        return 0.0;
    }
    let mut parts: BTreeMap<ScopeKey, [f64; 2]> = BTreeMap::new();
    for point in members {
        for part in [ScopeKey { stack: point.stack, ..key }, ScopeKey { device: point.device, ..key }] {
            let sum = parts.entry(part).or_default();
            sum[0] += point.observed;
            sum[1] += point.expected * mode.value.exp();
        }
    }
    debug_assert!(key.device == ALL && key.stack == ALL, "a whole region is asked");
    let told = parts.iter().map(|(part, [observed, expected])| {
        let noise = noises.get(part).copied().unwrap_or_default().variance(0);
        let apart = ((observed + 0.5) / (expected + 0.5)).ln();
        let known = noise + 1.0 / (expected + 0.5);
        odds(apart, known, UNEVEN * mode.value)
    });
    told.sum()
}

/// What one part says that lies `apart` from what is shared.
fn odds(apart: f64, known: f64, uneven: f64) -> f64 {
    let of_event = known + uneven * uneven;
    let odds = 0.5 * ((of_event / known).ln() + apart * apart * (1.0 / of_event - 1.0 / known));
    odds.max(-AGAINST_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_near_speaks_for_a_failure_and_what_lies_far_against_it() {
        assert!(odds(0.02, 0.0025, 0.2) > 1.0);
        assert!(odds(0.3, 0.0025, 0.2) < -3.0);
        assert_eq!(odds(3.0, 0.0025, 0.2), -AGAINST_MAX);
        assert!(odds(0.0, 1.0, 0.2).abs() < 0.05, "where counts are small nothing is said");
    }
}
