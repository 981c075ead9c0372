//! How events act on cells, learned: the share of what a region shares that each cell feels.
//!
//! It must never learn from a cell that is in trouble of its own. The hard case is the first event of a class, or the
//! first in a region: each level leans on the one above it, the cell in its region on the cell in all regions, that on
//! events of any class in the same direction, and those on 1, by as much as it has not seen itself.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::scopes::ALL;

/// Windows' worth of evidence that the level above counts for.
const LEAN: f64 = 4.0;
/// Past so many windows the older half is forgotten.
const WINDOWS_MAX: f64 = 120.0;
/// A share is within these.
const SHARE_MIN: f64 = -1.0;
const SHARE_MAX: f64 = 2.5;
/// What stays uncertain of a share however often it was seen: no two events are alike.
const UNEVEN_MIN: f64 = 0.12;
/// Evidence from other regions counts for this part of one's own.
const ELSEWHERE: f64 = 0.3;
/// Shares remembered; when they are full, the quarter with the least evidence is forgotten. 40 bytes each.
const SHARES_MAX: usize = 65_536;
/// Noise of a cell besides counting, as a log ratio.
const CELL_NOISE: f64 = 0.1;

/// Classes that stand for any event: those that take traffic away, and those that bring it.
pub(crate) const ANY_DROP: u16 = u16::MAX;
pub(crate) const ANY_RISE: u16 = u16::MAX - 1;

/// A metric of one cell in one class of events; a region or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct ShareKey {
    pub(crate) class: u16,
    pub(crate) metric: u16,
    pub(crate) region: u16,
    pub(crate) device: u16,
    pub(crate) stack: u16,
}

/// Evidence of one share: its weight in windows, and the weighted sum. 8 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Evidenced {
    windows: f32,
    sum: f32,
}

/// What was learned of the effects of events. About 40 bytes for each share.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<(ShareKey, Evidenced)>", into = "Vec<(ShareKey, Evidenced)>")]
pub(crate) struct Effects {
    shares: BTreeMap<ShareKey, Evidenced>,
}

impl From<Vec<(ShareKey, Evidenced)>> for Effects {
    fn from(stored: Vec<(ShareKey, Evidenced)>) -> Self {
        Self { shares: stored.into_iter().collect() }
    }
}

impl From<Effects> for Vec<(ShareKey, Evidenced)> {
    fn from(effects: Effects) -> Self {
        effects.shares.into_iter().collect()
    }
}

/// The share of an event that a cell feels, and how far it may be from that, as a share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Share {
    pub(crate) value: f64,
    pub(crate) uneven: f64,
}

impl Effects {
    /// Every share with its region, or with that of all.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, (ShareKey, Evidenced))> + '_ {
        self.shares.iter().map(|(key, seen)| (key.region, (*key, *seen)))
    }

    /// Takes in one share as it was stored.
    pub(crate) fn restore(&mut self, (key, seen): (ShareKey, Evidenced)) {
        self.shares.insert(key, seen);
    }

    /// Makes room: those of which least was seen go, and those of cells that are gone with them sooner or later.
    fn forget(&mut self) {
        let mut windows: Vec<f32> = self.shares.values().map(|seen| seen.windows).collect();
        windows.sort_by(f32::total_cmp);
        let least = windows.get(windows.len() / 4).copied().unwrap_or(0.0);
        let mut over = windows.len() / 4;
        self.shares.retain(|_, seen| {
            let goes = over > 0 && seen.windows <= least;
            over -= usize::from(goes);
            seen.windows *= 0.5;
            seen.sum *= 0.5;
            !goes
        });
    }

    /// Every region that something was learned of.
    pub(crate) fn regions(&self) -> impl Iterator<Item = u16> + '_ {
        self.shares.keys().map(|key| key.region)
    }

    /// Takes in a stored part.
    pub(crate) fn merge(&mut self, part: Self) {
        self.shares.extend(part.shares);
    }

    /// The share that the cell of `key` feels of an event of its class; `unevenness` is what is known without history.
    pub(crate) fn share(&self, key: ShareKey, any: u16, unevenness: f64) -> Share {
        let levels = [
            ShareKey { class: any, region: ALL, ..key },
            ShareKey { region: ALL, ..key },
            ShareKey { class: any, ..key },
            key,
        ];
        let (mut value, mut windows) = (1.0, 0.0);
        for (place, level) in levels.into_iter().enumerate() {
            if place > 0 && level == levels[place - 1] {
                continue;
            }
            let Some(seen) = self.shares.get(&level) else { continue };
            let (count, sum) = (f64::from(seen.windows), f64::from(seen.sum));
            value = (sum + LEAN * value) / (count + LEAN);
            windows += if level.region == ALL { ELSEWHERE * count } else { count };
        }
        let open = LEAN / (windows + LEAN);
        let uneven = (UNEVEN_MIN * UNEVEN_MIN + open * unevenness * unevenness).sqrt();
        Share { value, uneven: uneven.min(unevenness) }
    }

    /// Learns that a cell moved by `log_ratio` when its peers moved by `mode`, both with the noise of counting of
    /// variance `counting`.
    pub(crate) fn learn(&mut self, key: ShareKey, any: u16, mode: f64, log_ratio: f64, counting: f64) {
        let share = (log_ratio / mode).clamp(SHARE_MIN, SHARE_MAX);
        let weight = mode * mode / (mode * mode + counting + CELL_NOISE * CELL_NOISE);
        let classes = [key.class, any];
        let classes = if key.class == any { &classes[..1] } else { &classes[..] };
        for class in classes {
            for region in [key.region, ALL] {
                let place = ShareKey { class: *class, region, ..key };
                if self.shares.len() >= SHARES_MAX && !self.shares.contains_key(&place) {
                    self.forget();
                }
                self.shares.entry(place).or_default().add(share, weight);
            }
        }
    }
}

impl Evidenced {
    #[allow(clippy::cast_possible_truncation, reason = "a share within 3 of zero, a weight of at most 1")]
    fn add(&mut self, share: f64, weight: f64) {
        let halved = if f64::from(self.windows) > WINDOWS_MAX { 0.5 } else { 1.0 };
        self.windows = self.windows * halved + weight as f32;
        self.sum = self.sum * halved + (share * weight) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CELL: ShareKey = ShareKey { class: 3, metric: 0, region: 1, device: 2, stack: 4 };

    #[test]
    fn a_share_is_learned_and_lends_itself_to_regions_that_have_not_seen_it() {
        let mut effects = Effects::default();
        let unknown = effects.share(CELL, ANY_DROP, 0.3);
        assert_eq!((unknown.value, unknown.uneven), (1.0, 0.3));
        for _ in 0..24 {
            effects.learn(CELL, ANY_DROP, -0.5, -0.25, 0.001);
        }
        let own = effects.share(CELL, ANY_DROP, 0.3);
        assert!((own.value - 0.5).abs() < 0.05 && own.uneven < 0.2, "{own:?}");
        let elsewhere = effects.share(ShareKey { region: 7, ..CELL }, ANY_DROP, 0.3);
        assert!((elsewhere.value - 0.5).abs() < 0.1 && elsewhere.uneven > own.uneven, "{elsewhere:?}");
        let another = effects.share(ShareKey { class: 9, region: 7, ..CELL }, ANY_DROP, 0.3);
        assert!(another.value < 0.7, "{another:?}");
        assert_eq!(effects.share(ShareKey { device: 0, ..CELL }, ANY_DROP, 0.3), unknown);
    }

    #[test]
    fn what_comes_late_is_learned_too() {
        let mut effects = Effects::default();
        for number in 0..SHARES_MAX as u32 {
            let key = ShareKey { device: (number >> 8) as u16, stack: (number & 0xff) as u16, ..CELL };
            effects.learn(key, ANY_DROP, -0.5, -0.25, 0.001);
        }
        assert!(effects.shares.len() <= SHARES_MAX);
        let last = ShareKey { device: 255, stack: 255, ..CELL };
        assert!(effects.shares.contains_key(&last), "the last is known");
    }

    #[test]
    fn noise_teaches_little() {
        let mut effects = Effects::default();
        effects.learn(CELL, ANY_DROP, -0.1, 1.0, 0.5);
        assert!(effects.share(CELL, ANY_DROP, 0.3).value > 0.95);
    }
}
