//! Dependencies that nobody declared: stacks that keep failing together, learned from history.
//!
//! It must never take an event for a failure: only what people were to be notified of counts, and nothing while a
//! maintenance is on. The hard case is chance: two stacks that fail in the same region within two windows of each other count
//! once, in however many regions they do, and depend from twice on, until that was long ago.
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use vedette_common::WallMs;

/// Failures that begin at most so many windows apart begin together.
const TOGETHER_WINDOWS: i64 = 2;
/// A failure not seen for so many windows is over.
const OVER_WINDOWS: i64 = 12;
/// Times that two stacks have to fail together.
const TIMES_MIN: u16 = 2;
/// Times together are forgotten after so long without another.
const FORGOTTEN_MS: i64 = 90 * 86_400_000;
/// Pairs remembered; of further ones, the pair gives way that failed together longest ago.
const PAIRS_MAX: usize = 4_096;

/// One stack failing in one region.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Run {
    region: u16,
    stack: u16,
    began: WallMs,
    seen: WallMs,
    /// The width of its region's windows.
    #[serde(default)]
    window_ms: u32,
}

impl Run {
    /// Windows of its own width from `from` to `at`.
    fn windows(&self, from: WallMs, at: WallMs) -> i64 {
        at.ms_since(from) / i64::from(self.window_ms.max(1))
    }
}

/// Two stacks that failed together: how often, and when last.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Pair {
    stacks: (u16, u16),
    times: u16,
    at: WallMs,
}

/// Which stacks failed together, and how often. 32 bytes for each failure under way, 16 for each pair.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Dependencies {
    runs: Vec<Run>,
    #[serde(default)]
    pairs: Vec<Pair>,
}

impl Dependencies {
    /// Takes the stacks that fail as a whole in `region` in the window that begins at `at`.
    pub(crate) fn observe(&mut self, region: u16, failing: &BTreeSet<u16>, at: WallMs, window_ms: u32) {
        // Other regions may be hours behind or ahead, and have windows of another width.
        self.runs.retain(|run| run.region != region || run.windows(run.seen, at) <= OVER_WINDOWS);
        for stack in failing {
            let known = self.runs.iter_mut().find(|run| run.region == region && run.stack == *stack);
            if let Some(run) = known {
                run.seen = at;
                continue;
            }
            let others = self.runs.iter().filter(|run| run.region == region);
            let together = others.filter(|run| run.windows(run.began, at) <= TOGETHER_WINDOWS);
            let pairs: Vec<(u16, u16)> =
                together.map(|run| (run.stack.min(*stack), run.stack.max(*stack))).collect();
            pairs.into_iter().for_each(|pair| self.count(pair, at, window_ms));
            self.runs.push(Run { region, stack: *stack, began: at, seen: at, window_ms });
        }
    }

    /// Counts a failure of both, once for all regions that it hits.
    fn count(&mut self, stacks: (u16, u16), at: WallMs, window_ms: u32) {
        let same_ms = OVER_WINDOWS * i64::from(window_ms);
        self.pairs.retain(|pair| at.ms_since(pair.at) < FORGOTTEN_MS);
        if let Some(pair) = self.pairs.iter_mut().find(|pair| pair.stacks == stacks) {
            if at.ms_since(pair.at).abs() > same_ms {
                pair.times = pair.times.saturating_add(1);
            }
            pair.at = pair.at.max(at);
            return;
        }
        if self.pairs.len() >= PAIRS_MAX
            && let Some(oldest) = (0..self.pairs.len()).min_by_key(|place| self.pairs[*place].at)
        {
            self.pairs.remove(oldest);
        }
        self.pairs.push(Pair { stacks, times: 1, at });
    }

    /// Pairs of stacks that depend on something in common, as far as history before `now` tells.
    pub(crate) fn pairs(&self, now: WallMs) -> impl Iterator<Item = (u16, u16)> + '_ {
        let known = move |pair: &&Pair| pair.times >= TIMES_MIN && now.ms_since(pair.at) < FORGOTTEN_MS;
        self.pairs.iter().filter(known).map(|pair| pair.stacks)
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
        assert_eq!(learned.pairs(at(30)).count(), 0, "once is chance");
        fail(&mut learned, 60, &[1, 2]);
        assert_eq!(learned.pairs(at(60)).collect::<Vec<_>>(), [(1, 2)]);
        let mut groups = BTreeMap::from([(0, 0), (1, 1), (2, 2), (3, 3)]);
        join(&mut groups, learned.pairs(at(60)));
        assert_eq!(groups[&2], 1);
        join(&mut groups, [(0, 3)].into_iter());
        assert_eq!(groups[&3], 3, "three groups stay apart");
    }

    #[test]
    fn one_failure_counts_once_in_however_many_regions_and_whatever_their_windows() {
        let mut learned = Dependencies::default();
        let both = BTreeSet::from([1, 2]);
        for step in 0..60_i64 {
            learned.observe(7, &BTreeSet::new(), WallMs(step * 10_000), 10_000);
            if step % 30 == 0 {
                learned.observe(0, &both, WallMs(step * 10_000), 300_000);
                learned.observe(1, &both, WallMs(step * 10_000), 300_000);
            }
        }
        let next_day = WallMs(86_400_000);
        assert_eq!(learned.pairs(next_day).count(), 0, "one failure of ten minutes in two regions is one");
        learned.observe(0, &both, next_day, 300_000);
        assert_eq!(learned.pairs(next_day).count(), 1);
        let later = next_day.plus_ms(FORGOTTEN_MS);
        assert_eq!(
            learned.pairs(later).count(),
            0,
            "what was long ago is forgotten, though nothing fails since"
        );
    }
}
