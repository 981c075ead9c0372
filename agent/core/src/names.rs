//! Names kept once: metrics, tag sets and cells of all series share one arena of bounded size.
//!
//! It must never grow past the memory it was given. The hard case is churn: names come and go with their
//! series, so each is counted by its users, and a full arena is packed before it is called full.
use core::str;

use crate::{
    index::{self, Index},
    key::HashKey,
    room::{Room, Vacant},
};

/// Stands for one name; valid while the name has a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NameId(u32);

impl NameId {
    /// Stands for no name at all.
    pub(crate) const NONE: Self = Self(u32::MAX);
}

/// Where a name stands and how many use it. 12 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct NameEntry {
    /// Place of its header in the arena, or the next free entry.
    offset: u32,
    users: u32,
    /// The upper and lower halves of the hash, folded: enough to find its cell of the index again.
    hash: u32,
}

/// Bytes in the arena before each name: its entry (4) and its length (1).
const HEADER_BYTES: usize = 5;
const NONE: u32 = u32::MAX;

/// The names in use.
#[derive(Debug)]
pub struct Names<'m> {
    key: HashKey,
    arena: &'m mut [u8],
    used: usize,
    dead: usize,
    entries: Room<'m, NameEntry>,
    /// The first of the entries that are free again; those never used come after them.
    free: u32,
    index: Index<'m>,
}

/// Neither the arena nor the entries have room for another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for another name")]
pub struct NamesFull;

impl<'m> Names<'m> {
    /// No names yet. `index` needs [`index::cells_for`] as many cells as there are entries.
    pub fn new(
        key: HashKey,
        arena: &'m mut [u8],
        entries: &'m mut [Vacant<NameEntry>],
        index: &'m mut [u32],
    ) -> Self {
        debug_assert!(index.len() >= index::cells_for(entries.len()));
        let entries = Room::new(entries);
        Self { key, arena, used: 0, dead: 0, entries, free: NONE, index: Index::new(index) }
    }

    fn hash(&self, text: &str) -> u32 {
        let hash = self.key.text(text);
        (hash ^ hash >> 32) as u32
    }

    fn bytes(&self, id: NameId) -> &[u8] {
        let header = self.entries[id.0 as usize].offset as usize;
        let length = usize::from(self.arena[header + HEADER_BYTES - 1]);
        &self.arena[header + HEADER_BYTES..][..length]
    }

    /// The text of a name that has a user.
    pub fn text(&self, id: NameId) -> &str {
        str::from_utf8(self.bytes(id)).expect("only text is ever written to the arena, whole")
    }

    /// The name `text`, if it is known; no user is added.
    pub fn find(&self, text: &str) -> Option<NameId> {
        let matches = |place| self.bytes(NameId(place)) == text.as_bytes();
        self.index.find(spread(self.hash(text)), matches).map(NameId)
    }

    /// The name `text` with one user more; at most 255 bytes.
    ///
    /// # Errors
    /// [`NamesFull`] when it is new and there is no room.
    pub fn retain(&mut self, text: &str) -> Result<NameId, NamesFull> {
        let id = match self.find(text) {
            Some(id) => id,
            None => self.add(text)?,
        };
        self.retain_id(id);
        Ok(id)
    }

    /// One user more of a name that has one.
    pub fn retain_id(&mut self, id: NameId) {
        self.entries[id.0 as usize].users += 1;
    }

    fn add(&mut self, text: &str) -> Result<NameId, NamesFull> {
        let length = u8::try_from(text.len()).map_err(|_| NamesFull)?;
        let needed = HEADER_BYTES + text.len();
        if self.free == NONE && self.entries.len() == self.entries.capacity() {
            return Err(NamesFull);
        }
        if self.arena.len() - self.used < needed {
            // Packing costs a pass over the arena, so it must free a fair part of it, or one name at a time would.
            if self.dead < needed.max(self.arena.len() / 16) {
                return Err(NamesFull);
            }
            self.pack();
        }
        let hash = self.hash(text);
        let place = self.place(NameEntry { offset: self.used as u32, users: 0, hash })?;
        let room = &mut self.arena[self.used..self.used + needed];
        room[..4].copy_from_slice(&place.to_le_bytes());
        room[4] = length;
        room[HEADER_BYTES..].copy_from_slice(text.as_bytes());
        self.used += needed;
        self.index.insert(spread(hash), place);
        Ok(NameId(place))
    }

    /// Gives an entry a place.
    fn place(&mut self, entry: NameEntry) -> Result<u32, NamesFull> {
        if self.free == NONE {
            return self.entries.push(entry).map(|place| place as u32).ok_or(NamesFull);
        }
        let place = self.free;
        let known = &mut self.entries[place as usize];
        self.free = known.offset;
        *known = entry;
        Ok(place)
    }

    /// One user less; the last one frees the name.
    pub fn release(&mut self, id: NameId) {
        let entry = &mut self.entries[id.0 as usize];
        entry.users -= 1;
        if entry.users > 0 {
            return;
        }
        let (hash, header) = (entry.hash, entry.offset as usize);
        let entries = &*self.entries;
        self.index.remove(spread(hash), id.0, |place| spread(entries[place as usize].hash));
        self.arena[header..header + 4].copy_from_slice(&NONE.to_le_bytes());
        self.dead += HEADER_BYTES + usize::from(self.arena[header + 4]);
        self.entries[id.0 as usize].offset = self.free;
        self.free = id.0;
    }

    /// Moves the living names together.
    fn pack(&mut self) {
        let (mut from, mut to) = (0, 0);
        while from < self.used {
            let bytes = [self.arena[from], self.arena[from + 1], self.arena[from + 2], self.arena[from + 3]];
            let place = u32::from_le_bytes(bytes);
            let size = HEADER_BYTES + usize::from(self.arena[from + 4]);
            if place != NONE {
                self.arena.copy_within(from..from + size, to);
                self.entries[place as usize].offset = to as u32;
                to += size;
            }
            from += size;
        }
        self.used = to;
        self.dead = 0;
    }
}

/// A 64-bit hash for the index, whose lower and upper bits both carry the 32 that are kept.
const fn spread(hash: u32) -> u64 {
    (hash as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{collections::BTreeMap, format};

    proptest! {
        #[test]
        fn names_live_as_long_as_their_users(steps in proptest::collection::vec((0usize..12, any::<bool>()), 0..300)) {
            let (mut arena, mut entries, mut index) = ([0; 120], [const { Vacant::new() }; 8], [0; 16]);
            let mut names = Names::new(HashKey::new(3), &mut arena, &mut entries, &mut index);
            let mut model: BTreeMap<usize, (NameId, u32)> = BTreeMap::new();
            for (number, retain) in steps {
                let text = format!("{}{number}", "n".repeat(number));
                if retain {
                    match names.retain(&text) {
                        Ok(id) => model.entry(number).or_insert((id, 0)).1 += 1,
                        Err(NamesFull) => prop_assert!(!model.contains_key(&number)),
                    }
                } else if let Some((id, users)) = model.get_mut(&number) {
                    names.release(*id);
                    *users -= 1;
                    if *users == 0 { model.remove(&number); }
                }
                for (number, (id, _)) in &model {
                    prop_assert_eq!(names.text(*id), format!("{}{number}", "n".repeat(*number)));
                }
            }
        }
    }

    #[test]
    fn a_full_arena_is_packed() {
        let (mut arena, mut entries, mut index) = ([0; 64], [const { Vacant::new() }; 8], [0; 16]);
        let mut names = Names::new(HashKey::new(3), &mut arena, &mut entries, &mut index);
        for round in 0..100 {
            let id = names.retain(&format!("name-{round:03}-{}", "x".repeat(12))).unwrap();
            assert_eq!(names.text(id).len(), 21);
            names.release(id);
        }
        let kept = names.retain("kept").unwrap();
        assert_eq!(names.retain(&"y".repeat(60)), Err(NamesFull));
        assert_eq!(names.text(kept), "kept");
    }
}
