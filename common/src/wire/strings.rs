//! The string table of a summary: each name stands once in a frame and is spoken of by one byte.
//!
//! It must never grow past its limits: a full table is an answer, and the caller begins a new summary. The
//! hard case is a table from the wire whose lengths do not add up to its text; decoding refuses it.
use heapless::{String, Vec};
use serde::{Deserialize, Deserializer, Serialize};

use crate::limits::{STRINGS_BYTES_MAX, STRINGS_MAX};

/// The strings of one summary, in the order in which they were first named. About 4.4 KB.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StringTable {
    text: String<STRINGS_BYTES_MAX>,
    lengths: Vec<u8, STRINGS_MAX>,
}

/// The table has no room for another string; the summary is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the string table of the summary is full")]
pub struct StringsFull;

impl StringTable {
    /// An empty table.
    pub const fn new() -> Self {
        Self { text: String::new(), lengths: Vec::new() }
    }

    /// The index of `string`, added if it is new. Costs a pass over the table.
    ///
    /// # Errors
    /// [`StringsFull`] when it is new and does not fit, or is longer than 255 bytes; nothing changes then.
    #[allow(clippy::cast_possible_truncation, reason = "indices stay below STRINGS_MAX, which is below 255")]
    pub fn intern(&mut self, string: &str) -> Result<u8, StringsFull> {
        if let Some(found) = self.iter().position(|known| known == string) {
            return Ok(found as u8);
        }
        let length = u8::try_from(string.len()).map_err(|_| StringsFull)?;
        if self.lengths.is_full() {
            return Err(StringsFull);
        }
        self.text.push_str(string).map_err(|_| StringsFull)?;
        self.lengths.push(length).map_err(|_| StringsFull)?;
        Ok((self.lengths.len() - 1) as u8)
    }

    /// Every string in order of its index.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let mut rest = self.text.as_str();
        self.lengths.iter().map(move |&length| {
            let (head, tail) = rest.split_at_checked(usize::from(length)).unwrap_or((rest, ""));
            rest = tail;
            head
        })
    }

    /// Every string at once, for many look-ups by index.
    pub fn resolve(&self) -> Vec<&str, STRINGS_MAX> {
        self.iter().collect()
    }

    /// The string at `index`; costs a pass over the strings before it.
    pub fn get(&self, index: u8) -> Option<&str> {
        self.iter().nth(usize::from(index))
    }

    /// How many strings there are.
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Bytes of all strings together.
    pub fn text_bytes(&self) -> usize {
        self.text.len()
    }

    /// Forgets every string.
    pub fn clear(&mut self) {
        self.text.clear();
        self.lengths.clear();
    }

    /// Forgets every string from index `count` on; takes back an entry that did not fit as a whole.
    pub fn truncate(&mut self, count: usize) {
        let kept: usize = self.lengths.iter().take(count).map(|&length| usize::from(length)).sum();
        self.text.truncate(kept);
        self.lengths.truncate(count);
    }

    fn is_consistent(&self) -> bool {
        let mut end = 0;
        for &length in &self.lengths {
            end += usize::from(length);
            if !self.text.is_char_boundary(end) {
                return false;
            }
        }
        end == self.text.len()
    }
}

#[derive(Deserialize)]
struct Unchecked {
    text: String<STRINGS_BYTES_MAX>,
    lengths: Vec<u8, STRINGS_MAX>,
}

impl<'de> Deserialize<'de> for StringTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Unchecked { text, lengths } = Unchecked::deserialize(deserializer)?;
        let table = Self { text, lengths };
        if table.is_consistent() {
            Ok(table)
        } else {
            Err(serde::de::Error::custom("the lengths of the strings do not fit their text"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_stand_once() {
        let mut table = StringTable::new();
        assert_eq!(table.intern("uk"), Ok(0));
        assert_eq!(table.intern(""), Ok(1));
        assert_eq!(table.intern("Zürich"), Ok(2));
        assert_eq!(table.intern("uk"), Ok(0));
        assert_eq!(table.resolve().as_slice(), ["uk", "", "Zürich"]);
        assert_eq!(table.get(3), None);
        table.truncate(1);
        assert_eq!(table.resolve().as_slice(), ["uk"]);
    }

    #[test]
    fn a_full_table_says_so_and_stays_as_it_is() {
        let mut table = StringTable::new();
        for index in 0..STRINGS_MAX {
            let name = heapless::format!(8; "{index}").unwrap();
            assert!(table.intern(&name).is_ok());
        }
        let before = table.clone();
        assert_eq!(table.intern("one more"), Err(StringsFull));
        assert_eq!(table, before);
        let mut long = StringTable::new();
        let text = core::str::from_utf8(&[b'x'; 256]).unwrap();
        assert_eq!(long.intern(text), Err(StringsFull));
        for index in 0..16 {
            let mut bytes = [b'x'; 255];
            bytes[0] = b'a' + index;
            assert!(long.intern(core::str::from_utf8(&bytes).unwrap()).is_ok());
        }
        assert_eq!(long.intern(&text[..17]), Err(StringsFull));
        assert_eq!(long.len(), 16);
    }
}
