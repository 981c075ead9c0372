//! Dependencies that nobody declared: stacks that keep failing together, learned from history.
//!
//! It must never take an event for a failure: only what people were to be notified of counts. The hard case is chance:
//! two stacks that fail in the same region within two windows of each other count once, and depend from twice on.
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use vedette_common::WallMs;

/// Failures that begin at most so many windows apart begin together.
const TOGETHER_WINDOWS: i64 = 2;
/// A failure not seen for so many windows is over.
const OVER_WINDOWS: i64 = 12;
/// Times that two stacks have to fail together.
const TIMES_MIN: u16 = 2;
/// Pairs remembered; further ones are not learned.
const PAIRS_MAX: usize = 4_096;

/// One stack failing in one region.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Run {
    region: u16,
    stack: u16,
    began: WallMs,
    seen: WallMs,
}

/// Which stacks failed together, and how often. 24 bytes for each failure under way, 6 for each pair.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Dependencies {
    runs: Vec<Run>,
    times: Vec<((u16, u16), u16)>,
}

impl Dependencies {
    /// Takes the stacks that fail as a whole in `region` in the window that begins at `at`.
    pub(crate) fn observe(&mut self, region: u16, failing: &BTreeSet<u16>, at: WallMs, window_ms: u32) {
        let windows = |from: WallMs| at.ms_since(from) / i64::from(window_ms.max(1));
        self.runs.retain(|run| windows(run.seen) <= OVER_WINDOWS);
        for stack in failing {
            let known = self.runs.iter_mut().find(|run| run.region == region && run.stack == *stack);
            if let Some(run) = known {
                run.seen = at;
                continue;
            }
            let others = self.runs.iter().filter(|run| run.region == region);
            let together = others.filter(|run| windows(run.began) <= TOGETHER_WINDOWS).map(|run| run.stack);
            let pairs: Vec<(u16, u16)> =
                together.map(|other| (other.min(*stack), other.max(*stack))).collect();
            pairs.into_iter().for_each(|pair| self.count(pair));
            self.runs.push(Run { region, stack: *stack, began: at, seen: at });
        }
    }

    fn count(&mut self, pair: (u16, u16)) {
        if let Some((_, times)) = self.times.iter_mut().find(|(known, _)| *known == pair) {
            *times = times.saturating_add(1);
        } else if self.times.len() < PAIRS_MAX {
            self.times.push((pair, 1));
        }
    }

    /// Pairs of stacks that depend on something in common, as far as history tells.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        self.times.iter().filter(|(_, times)| *times >= TIMES_MIN).map(|(pair, _)| *pair)
    }
}

/// Joins the groups of the pairs, as long as three independent groups are left to compare.
pub(crate) fn join(groups: &mut BTreeMap<u16, u16>, pairs: impl Iterator<Item = (u16, u16)>) {
    for (one, other) in pairs {
        let (Some(one), Some(other)) = (groups.get(&one).copied(), groups.get(&other).copied()) else {
            continue;
        };
        let distinct: BTreeSet<u16> = groups.values().copied().collect();
        if one != other && distinct.len() > GROUPS_MIN {
            let (low, high) = (one.min(other), one.max(other));
            groups.values_mut().filter(|group| **group == high).for_each(|group| *group = low);
        }
    }
}

/// Independent groups that learning leaves.
const GROUPS_MIN: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_that_fail_together_twice_depend() {
        let mut learned = Dependencies::default();
        let at = |window: i64| WallMs(window * 300_000);
        let fail = |learned: &mut Dependencies, window, stacks: &[u16]| {
            learned.observe(0, &stacks.iter().copied().collect(), at(window), 300_000);
        };
        fail(&mut learned, 0, &[1]);
        fail(&mut learned, 1, &[1, 2]);
        fail(&mut learned, 30, &[1, 3]);
        assert_eq!(learned.pairs().count(), 0, "once is chance");
        fail(&mut learned, 60, &[1, 2]);
        assert_eq!(learned.pairs().collect::<Vec<_>>(), [(1, 2)]);
        let mut groups = BTreeMap::from([(0, 0), (1, 1), (2, 2), (3, 3)]);
        join(&mut groups, learned.pairs());
        assert_eq!(groups[&2], 1);
        join(&mut groups, [(0, 3)].into_iter());
        assert_eq!(groups[&3], 3, "three groups stay apart");
    }
}
