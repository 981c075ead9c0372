//! What a series is called: the cell's three names, the metric, and the further tags in canonical order.
//!
//! It must never let two spellings of one series become two, nor two series become one: tags are sorted,
//! separators inside names are escaped, and the identity is a keyed 128-bit hash of all parts with their lengths.
//! The hard case is that names come from outside: without the key nobody can aim for a collision, and
//! among 10 million series one by chance has a probability below 10^-24, so no exact comparison is kept.
use core::hash::Hasher;

use siphasher::sip::SipHasher13;
use siphasher::sip128::{Hasher128, SipHasher13 as SipHasher128};
use vedette_common::{
    WallMs,
    limits::{METRIC_BYTES_MAX, NAME_BYTES_MAX, TAG_SET_BYTES_MAX, TAGS_MAX},
};

use crate::parse::ParseError;

/// The name that stands where a dimension is neither tagged nor given by default.
pub const NO_NAME: &str = "-";
/// The field whose name is left out of the metric's name.
pub const PLAIN_FIELD: &str = "value";

/// One value of one series at one event time, its parts borrowed from wherever it was read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation<'a> {
    /// What is measured; 1 to 64 bytes.
    pub measurement: &'a str,
    /// Which value of it; `value` (or nothing) makes the metric the measurement alone. At most 64 bytes.
    pub field: &'a str,
    /// Keys and values in any order, dimensions among them; at most 16, at most 64 bytes each.
    pub tags: &'a [(&'a str, &'a str)],
    /// The value; must be finite.
    pub value: f64,
    /// The event time; the time of arrival when there is none.
    pub at: Option<WallMs>,
}

/// Which tags play the parts of region, device and stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dimensions {
    /// The tag that names the region; default `region`.
    pub region: heapless::String<NAME_BYTES_MAX>,
    /// The tag that names the device family; default `device`.
    pub device: heapless::String<NAME_BYTES_MAX>,
    /// The tag that names the stack; default `stack`.
    pub stack: heapless::String<NAME_BYTES_MAX>,
}

impl Dimensions {
    /// Dimensions under these names; `None` when one is longer than 64 bytes or empty.
    pub fn new(region: &str, device: &str, stack: &str) -> Option<Self> {
        let name = |text: &str| heapless::String::try_from(text).ok().filter(|name| !name.is_empty());
        Some(Self { region: name(region)?, device: name(device)?, stack: name(stack)? })
    }

    fn position(&self, key: &str) -> Option<usize> {
        [&self.region, &self.device, &self.stack].iter().position(|name| name.as_str() == key)
    }
}

impl Default for Dimensions {
    fn default() -> Self {
        let name = |text| heapless::String::try_from(text).unwrap_or_default();
        Self { region: name("region"), device: name("device"), stack: name("stack") }
    }
}

/// The tags that a source adds to what it receives, unless a line has them itself. Made once per source.
#[derive(Clone, Copy, Debug, Default)]
pub struct DefaultTags<'a> {
    tags: &'a [(&'a str, &'a str)],
    salt: u64,
}

impl<'a> DefaultTags<'a> {
    /// Takes tags with the limits of [`Observation::tags`]; a wrong one shows at the first observation.
    pub fn new(tags: &'a [(&'a str, &'a str)]) -> Self {
        let mut hasher = SipHasher13::new_with_keys(0, tags.len() as u64);
        for text in tags.iter().flat_map(|(key, value)| [key, value]) {
            write_part(&mut hasher, text);
        }
        Self { tags, salt: if tags.is_empty() { 0 } else { hasher.finish() } }
    }
}

/// The two hashes under which a series is found. 16 bytes of key, drawn at random by the shell at start.
#[derive(Clone, Copy, Debug)]
pub struct HashKey(u64, u64);

impl HashKey {
    /// A key from a seed; the same seed gives the same table.
    pub const fn new(seed: u64) -> Self {
        Self(seed, seed.rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// A hasher for the spelling of a series as received from a source with these default tags.
    #[inline]
    pub(crate) fn spelling(self, defaults: &DefaultTags<'_>, kind: u8) -> Spelling {
        Spelling { state: self.0 ^ defaults.salt, key: self.1 ^ u64::from(kind) }
    }

    /// A 64-bit hash of one text.
    pub(crate) fn text(self, text: &str) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.0, self.1);
        hasher.write(text.as_bytes());
        hasher.finish()
    }
}

/// The keyed hash of a spelling, sixteen bytes a step by a folded multiplication (as in Wang Yi's wyhash).
///
/// Every observation is hashed, so this is four times as fast as SipHash. Who does not know the key cannot aim at
/// a collision; unlike an identity, a spelling is never told to anyone, nor is its hash.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spelling {
    state: u64,
    key: u64,
}

impl Spelling {
    /// Takes a part, and turns the state by its length, so that parts do not run into each other: nobody who does not
    /// know the state can make up for that with bytes.
    #[inline]
    pub(crate) fn write(&mut self, part: &[u8]) {
        let (blocks, rest) = part.as_chunks::<16>();
        for block in blocks {
            let (words, _) = block.as_chunks();
            self.mix(u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1]));
        }
        // What is left fills up to two words; a short one is read twice over rather than byte by byte.
        let (a, b) = match rest.len() {
            8.. => (word(&rest[..8]), word(&rest[rest.len() - 8..])),
            4.. => (half_word(&rest[..4]), half_word(&rest[rest.len() - 4..])),
            1.. => {
                (u64::from(rest[0]), u64::from(rest[rest.len() / 2]) << 8 | u64::from(rest[rest.len() - 1]))
            }
            0 => (0, 0),
        };
        self.mix(a, b);
        self.state = self.state.rotate_left(part.len() as u32 % u64::BITS);
    }

    #[inline]
    pub(crate) fn finish(mut self) -> u64 {
        self.mix(self.state.rotate_left(32), self.key);
        self.state
    }

    #[inline]
    fn mix(&mut self, a: u64, b: u64) {
        let product = u128::from(a ^ self.key) * u128::from(b ^ self.state);
        self.state = product as u64 ^ (product >> 64) as u64;
    }
}

#[inline]
fn word(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

#[inline]
fn half_word(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u32::from_le_bytes).into()
}

fn write_part<H: Hasher>(hasher: &mut H, text: &str) {
    hasher.write(&(text.len() as u32).to_le_bytes());
    hasher.write(text.as_bytes());
}

/// The canonical name of a series. About 400 bytes, on the stack, and only while a new spelling is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesName<'a> {
    /// Region, device and stack.
    pub cell: [&'a str; 3],
    /// `measurement`, or `measurement.field`.
    pub metric: heapless::String<METRIC_BYTES_MAX>,
    /// `k=v,k2=v2` in the order of the keys; `,`, `=`, blank and backslash inside them have a backslash before them.
    pub tags: heapless::String<TAG_SET_BYTES_MAX>,
}

impl<'a> SeriesName<'a> {
    /// Splits an observation's tags into the cell and the rest.
    ///
    /// # Errors
    /// [`ParseError`] when a name is empty or too long, a key stands twice, or there are too many tags.
    pub fn new(
        dimensions: &Dimensions,
        defaults: &DefaultTags<'a>,
        observation: &Observation<'a>,
    ) -> Result<Self, ParseError> {
        check_name(observation.measurement, ParseError::NameMissing)?;
        let mut tags = sorted(observation.tags)?;
        for &(key, value) in defaults.tags {
            if let Err(place) = tags.binary_search_by_key(&key, |tag| tag.0) {
                tags.insert(place, (key, value)).map_err(|_| ParseError::TagsTooMany)?;
            }
        }
        let mut name =
            Self { cell: [NO_NAME; 3], metric: metric(observation)?, tags: heapless::String::new() };
        for (key, value) in tags {
            check_name(key, ParseError::TagMalformed)?;
            check_name(value, ParseError::TagMalformed)?;
            match dimensions.position(key) {
                Some(place) => name.cell[place] = value,
                None => name.push_tag(key, value).map_err(|_| ParseError::TagSetTooLong)?,
            }
        }
        Ok(name)
    }

    /// The keyed identity of the series.
    pub fn identity(&self, key: HashKey) -> u128 {
        let mut hasher = SipHasher128::new_with_keys(key.0, key.1);
        for part in self.cell {
            write_part(&mut hasher, part);
        }
        write_part(&mut hasher, &self.metric);
        write_part(&mut hasher, &self.tags);
        hasher.finish128().as_u128()
    }

    fn push_tag(&mut self, key: &str, value: &str) -> Result<(), heapless::CapacityError> {
        if !self.tags.is_empty() {
            self.tags.push(',')?;
        }
        self.push_escaped(key)?;
        self.tags.push('=')?;
        self.push_escaped(value)
    }

    fn push_escaped(&mut self, text: &str) -> Result<(), heapless::CapacityError> {
        for letter in text.chars() {
            if matches!(letter, ',' | '=' | ' ' | '\\') {
                self.tags.push('\\')?;
            }
            self.tags.push(letter)?;
        }
        Ok(())
    }
}

fn check_name(text: &str, empty: ParseError) -> Result<(), ParseError> {
    match text.len() {
        0 => Err(empty),
        1..=NAME_BYTES_MAX => Ok(()),
        _ => Err(ParseError::NameTooLong),
    }
}

/// The tags by key; a second one of the same key is an error, since either could be the one that is meant.
fn sorted<'a>(
    tags: &[(&'a str, &'a str)],
) -> Result<heapless::Vec<(&'a str, &'a str), TAGS_MAX>, ParseError> {
    let mut sorted = heapless::Vec::new();
    for &(key, value) in tags {
        match sorted.binary_search_by_key(&key, |tag: &(&str, &str)| tag.0) {
            Ok(_) => return Err(ParseError::TagRepeated),
            Err(place) => sorted.insert(place, (key, value)).map_err(|_| ParseError::TagsTooMany)?,
        }
    }
    Ok(sorted)
}

fn metric(observation: &Observation<'_>) -> Result<heapless::String<METRIC_BYTES_MAX>, ParseError> {
    let mut metric = heapless::String::new();
    let mut push = |text: &str| metric.push_str(text).map_err(|_| ParseError::NameTooLong);
    push(observation.measurement)?;
    if !matches!(observation.field, PLAIN_FIELD | "") {
        check_name(observation.field, ParseError::NameMissing)?;
        push(".")?;
        push(observation.field)?;
    }
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name<'a>(
        tags: &'a [(&'a str, &'a str)],
        defaults: &'a [(&'a str, &'a str)],
    ) -> Result<SeriesName<'a>, ParseError> {
        let observation = Observation { measurement: "cpu", field: "load", tags, value: 1.0, at: None };
        SeriesName::new(&Dimensions::default(), &DefaultTags::new(defaults), &observation)
    }

    #[test]
    fn spellings_of_any_length_differ() {
        let hash = |parts: &[&[u8]]| {
            let mut spelling = HashKey::new(7).spelling(&DefaultTags::default(), 1);
            parts.iter().for_each(|part| spelling.write(part));
            spelling.finish()
        };
        let mut seen = std::collections::BTreeSet::new();
        for length in 0..100 {
            for text in [&[b'a'; 100][..length], &[0; 100][..length], &[b'`'; 100][..length]] {
                assert!(seen.insert(hash(&[text])) || length == 0, "{length}");
                assert!(seen.insert(hash(&[text, b"x"])) || length == 0, "{length}");
            }
        }
        assert_ne!(hash(&[b"aaaaaaa`"]), hash(&[b"aaaaaaa``"]));
    }

    #[test]
    fn the_order_of_tags_does_not_matter() {
        let key = HashKey::new(7);
        let one = name(&[("b", "2"), ("region", "uk"), ("a", "1")], &[]).unwrap();
        let other = name(&[("a", "1"), ("b", "2")], &[("region", "uk")]).unwrap();
        assert_eq!(one, other);
        assert_eq!(one.identity(key), other.identity(key));
        assert_eq!((one.cell, one.tags.as_str()), (["uk", "-", "-"], "a=1,b=2"));
        assert_eq!(one.metric.as_str(), "cpu.load");
        assert_ne!(one.identity(key), one.identity(HashKey::new(8)));
    }

    #[test]
    fn separators_inside_names_cannot_make_two_series_one() {
        let one = name(&[("a", "1,b=2")], &[]).unwrap();
        let other = name(&[("a", "1"), ("b", "2")], &[]).unwrap();
        assert_eq!(one.tags.as_str(), r"a=1\,b\=2");
        assert_ne!(one.identity(HashKey::new(1)), other.identity(HashKey::new(1)));
    }

    #[test]
    fn a_line_overrides_the_default_tags() {
        let found = name(&[("region", "uk")], &[("region", "de"), ("host", "h1")]).unwrap();
        assert_eq!((found.cell[0], found.tags.as_str()), ("uk", "host=h1"));
    }

    #[test]
    fn wrong_names_are_errors() {
        let long = core::str::from_utf8(&[b'x'; 65]).unwrap();
        assert_eq!(name(&[("a", long)], &[]), Err(ParseError::NameTooLong));
        assert_eq!(name(&[("a", "")], &[]), Err(ParseError::TagMalformed));
        assert_eq!(name(&[("a", "1"), ("a", "2")], &[]), Err(ParseError::TagRepeated));
        let keys = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q"];
        let many = keys.map(|key| (key, "v"));
        assert!(name(&many[..16], &[]).is_ok());
        assert_eq!(name(&many, &[]), Err(ParseError::TagsTooMany));
        let wide = ["a", "b", "c", "d"].map(|key| (key, &long[..64]));
        assert_eq!(name(&wide, &[]), Err(ParseError::TagSetTooLong));
    }
}
