//! Membership: which cells make up which scopes, worked out again only when other cells take part.
//!
//! It must never look at what the cells report. The hard case is a large fleet: a cell is in up to ten scopes and most scopes
//! are one cell, so keys and members lie side by side in a few long lists, and nothing is looked up.
use std::collections::{BTreeMap, BTreeSet};

use crate::correlate::Point;
use crate::scopes::{ALL, GROUP, ScopeKey};

/// The scopes of a metric, in order of keys, and the points that are in them. About 100 bytes for each cell of a large fleet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Membership {
    /// Region, device, stack and group of each point.
    cells: Vec<[u16; 4]>,
    keys: Vec<ScopeKey>,
    /// The points of each scope in ascending order, one scope after the other.
    members: Lists<usize>,
    /// The scopes of each point in ascending order, one point after the other.
    places: Lists<u32>,
}

/// Lists one after the other, and where each ends.
#[derive(Clone, Debug, Default)]
struct Lists<T> {
    all: Vec<T>,
    ends: Vec<u32>,
}

impl<T> Lists<T> {
    fn get(&self, place: usize) -> &[T] {
        let begin = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.all[begin as usize..self.ends[place] as usize]
    }

    fn iter(&self) -> impl Iterator<Item = &[T]> {
        let begins = std::iter::once(&0).chain(&self.ends);
        begins.zip(&self.ends).map(|(begin, end)| &self.all[*begin as usize..*end as usize])
    }
}

impl Membership {
    /// Follows the cells that take part: the scopes are those that `points` make up; with `neighbours`, those across regions
    /// too.
    pub(crate) fn follow(&mut self, metric: u16, points: &[Point], neighbours: bool) {
        let cell = |p: &Point| [p.region, p.device, p.stack, p.group];
        if self.cells.len() == points.len()
            && self.cells.iter().zip(points).all(|(known, p)| *known == cell(p))
        {
            return;
        }
        self.cells = points.iter().map(cell).collect();
        let pairs = pairs(metric, points, neighbours);
        let scopes = || pairs.chunk_by(|a, b| a.0 == b.0);
        self.keys = scopes().map(|of_scope| of_scope[0].2).collect();
        self.members.all = pairs.iter().map(|(_, index, _)| *index as usize).collect();
        let mut end = 0;
        let ends = scopes().map(|of_scope| {
            end += of_scope.len() as u32;
            end
        });
        self.members.ends = ends.collect();
        self.index(points.len());
    }

    /// Notes which scopes each of `count` points is in.
    fn index(&mut self, count: usize) {
        let Lists { all, ends } = &mut self.places;
        *ends = vec![0; count];
        self.members.all.iter().for_each(|index| ends[*index] += 1);
        let mut begin = 0;
        for end in ends.iter_mut() {
            begin += std::mem::replace(end, begin);
        }
        *all = vec![0; self.members.all.len()];
        for (place, members) in (0u32..).zip(self.members.iter()) {
            for index in members {
                let end = &mut ends[*index];
                all[*end as usize] = place;
                *end += 1;
            }
        }
    }

    /// How many scopes there are.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The metric, once there is a scope of it.
    pub(crate) fn metric(&self) -> Option<u16> {
        self.keys.first().map(|key| key.metric)
    }

    /// Every scope with the indices of its points.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ScopeKey, &[usize])> {
        self.keys.iter().copied().zip(self.members.iter())
    }

    /// The scope at `place` with the indices of its points.
    pub(crate) fn get(&self, place: u32) -> (ScopeKey, &[usize]) {
        (self.keys[place as usize], self.members.get(place as usize))
    }

    /// The place of the scope of `key`.
    pub(crate) fn find(&self, key: ScopeKey) -> Option<usize> {
        self.keys.binary_search_by_key(&key.packed(), |known| known.packed()).ok()
    }

    /// The places of the scopes of each point, in order of the points.
    pub(crate) fn of_points(&self) -> impl Iterator<Item = &[u32]> {
        self.places.iter()
    }

    /// The places of the scopes that share a point with `members`, in order.
    pub(crate) fn touched(&self, members: &[usize]) -> BTreeSet<u32> {
        members.iter().flat_map(|index| self.places.get(*index)).copied().collect()
    }
}

/// Every scope that each point is in, with the point, in order of keys and points.
fn pairs(metric: u16, points: &[Point], neighbours: bool) -> Vec<(u64, u32, ScopeKey)> {
    let several = neighbours && points.windows(2).any(|pair| pair[0].region != pair[1].region);
    let mut stack_of: BTreeMap<u16, u16> = BTreeMap::new();
    let shared: BTreeSet<u16> = points
        .iter()
        .filter(|p| *stack_of.entry(p.group).or_insert(p.stack) != p.stack)
        .map(|p| p.group)
        .collect();
    let mut pairs: Vec<(u64, u32, ScopeKey)> = Vec::with_capacity(10 * points.len());
    for (index, p) in (0u32..).zip(points) {
        let mut add = |region, device, stack| {
            let key = ScopeKey { metric, region, device, stack };
            pairs.push((key.packed(), index, key));
        };
        for region in [p.region, ALL].into_iter().take(if several { 2 } else { 1 }) {
            add(region, p.device, p.stack);
            add(region, ALL, p.stack);
            add(region, p.device, ALL);
            if shared.contains(&p.group) {
                add(region, ALL, GROUP | p.group);
                add(region, p.device, GROUP | p.group);
            }
        }
    }
    pairs.sort_unstable_by_key(|(packed, index, _)| (*packed, *index));
    pairs
}
