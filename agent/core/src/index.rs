//! Open addressing over borrowed memory: from a 64-bit hash to a position below 2^24.
//!
//! It must never hold keys: the owner of the positions compares. The hard case is removal without tombstones,
//! which would slow every later search; entries behind a removed one move up instead (backward shift).
use crate::prefetch::prefetch;

/// The most positions an index can tell apart.
pub const POSITIONS_MAX: usize = (1 << 24) - 1;

/// Finds positions by hash with linear probing. 4 bytes a cell: 8 bits of the hash and the position plus one.
#[derive(Debug)]
pub struct Index<'m> {
    cells: &'m mut [u32],
}

/// Cells for `positions`: a power of two, filled to four fifths at most.
pub const fn cells_for(positions: usize) -> usize {
    (positions + positions / 4 + 1).next_power_of_two()
}

const fn entry(hash: u64, position: u32) -> u32 {
    ((hash >> 56) as u32) << 24 | (position + 1)
}

impl<'m> Index<'m> {
    /// An empty index over [`cells_for`] cells, all of them 0; with fewer, a power of two less than that is used.
    pub fn new(cells: &'m mut [u32]) -> Self {
        let usable = if cells.is_empty() { 0 } else { 1 << cells.len().ilog2() };
        // They are not filled here: memory that nobody wrote to is none.
        Self { cells: &mut cells[..usable] }
    }

    fn home(&self, hash: u64) -> usize {
        hash as usize & self.cells.len().wrapping_sub(1)
    }

    /// The first position under `hash` that `matches`.
    #[inline]
    pub fn find(&self, hash: u64, mut matches: impl FnMut(u32) -> bool) -> Option<u32> {
        let mask = self.cells.len().checked_sub(1)?;
        let mut at = self.home(hash);
        loop {
            let cell = self.cells[at];
            if cell == 0 {
                return None;
            }
            let position = (cell & 0x00ff_ffff) - 1;
            if cell >> 24 == (hash >> 56) as u32 && matches(position) {
                return Some(position);
            }
            at = (at + 1) & mask;
        }
    }

    /// Asks memory for where a search for `hash` begins.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        if let Some(cell) = self.cells.get(self.home(hash)) {
            prefetch(cell);
        }
    }

    /// Adds `position` under `hash`. The owner never holds more positions than [`cells_for`] was asked for.
    pub fn insert(&mut self, hash: u64, position: u32) {
        let mask = self.cells.len() - 1;
        let mut at = self.home(hash);
        while self.cells[at] != 0 {
            at = (at + 1) & mask;
        }
        self.cells[at] = entry(hash, position);
    }

    /// Removes `position` from under `hash`; `hash_of` tells the hash of any other position held.
    pub fn remove(&mut self, hash: u64, position: u32, hash_of: impl Fn(u32) -> u64) {
        let mask = self.cells.len() - 1;
        let mut hole = self.home(hash);
        while self.cells[hole] != entry(hash, position) {
            if self.cells[hole] == 0 {
                return;
            }
            hole = (hole + 1) & mask;
        }
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            if self.cells[at] == 0 {
                break;
            }
            let home = self.home(hash_of((self.cells[at] & 0x00ff_ffff) - 1));
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                self.cells[hole] = self.cells[at];
                hole = at;
            }
        }
        self.cells[hole] = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn behaves_like_a_map(steps in proptest::collection::vec((0u32..24, any::<bool>()), 0..200)) {
            let hash_of = |position: u32| u64::from(position % 5) | u64::from(position % 3) << 56;
            let mut cells = [0; 32];
            let mut index = Index::new(&mut cells);
            let mut model = BTreeMap::new();
            for (position, insert) in steps {
                if insert {
                    if model.insert(position, ()).is_none() {
                        index.insert(hash_of(position), position);
                    }
                } else if model.remove(&position).is_some() {
                    index.remove(hash_of(position), position, hash_of);
                }
                for wanted in 0..24 {
                    let found = index.find(hash_of(wanted), |at| at == wanted);
                    prop_assert_eq!(found.is_some(), model.contains_key(&wanted));
                }
            }
        }
    }

    #[test]
    fn there_is_always_an_empty_cell() {
        for positions in [0, 1, 2, 3, 4, 10, 100, 10_000] {
            assert!(cells_for(positions) > positions);
        }
    }
}
