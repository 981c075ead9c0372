//! Lines of line protocol as most are written: read whole in one go, a word of bytes at a time.
//!
//! `head key=12.5,other=3i 1748822400123456789` and a line end: nothing escaped, one blank between the parts, numbers
//! alone. It must never read a line otherwise than [`line_protocol`](super::line_protocol) does, and leaves every line that
//! it is not sure of to it. The hard case is to be sure without a second look: each part is read up to the byte that
//! ends it, and that byte must be the one that a plain line has there.
use vedette_common::limits::{LINE_BYTES_MAX, NAME_BYTES_MAX};

use super::number::{self, HIGHEST, LOWEST};

/// Fields of one line that are read at once; a line of more is left to the other reader.
const FIELDS_MAX: usize = 24;
/// Bytes that are searched at once.
const BLOCK_BYTES: usize = 32;
const BLANK: u8 = b' ';
/// Digits of nanoseconds since the epoch, from 2001 to 2262: those of most timestamps.
const DIGITS_MOST: usize = 19;

/// One plain line.
#[derive(Clone, Debug, Default)]
pub(crate) struct PlainLine<'a> {
    /// Measurement and tags, and the blank that ends them.
    pub(crate) prefix: &'a [u8],
    /// Keys as received, none of them empty, and values, all of them finite.
    pub(crate) fields: heapless::Vec<(&'a [u8], f64), FIELDS_MAX>,
    /// The digits of the timestamp; empty when there is none.
    pub(crate) timestamp: &'a [u8],
    /// It is that of the line read before, as within a batch it mostly is.
    pub(crate) repeats: bool,
}

impl<'a> PlainLine<'a> {
    /// Reads the line that `bytes` begin with, and says how many bytes it takes with its line end. `None` for a line of
    /// any other form; what was read of it then is of no meaning.
    #[inline]
    pub(crate) fn read(&mut self, bytes: &'a [u8]) -> Option<usize> {
        let end = self.read_parts(bytes);
        if end.is_none() {
            self.timestamp = &[];
        }
        end
    }

    #[inline]
    fn read_parts(&mut self, bytes: &'a [u8]) -> Option<usize> {
        // Neither a comment nor a blank, and no comma where the measurement should be.
        if *bytes.first()? <= b',' {
            return None;
        }
        let mut at = end_of_head(bytes)?;
        self.prefix = &bytes[..at];
        self.fields.clear();
        let end = loop {
            let key = key(&bytes[at..])?;
            at += key.len() + 1;
            let (value, length) = number::read(&bytes[at..])?;
            at += length;
            self.fields.push((key, value)).ok()?;
            match bytes.get(at) {
                Some(b',') => at += 1,
                Some(&BLANK) => break self.read_timestamp(bytes, at + 1)?,
                _ => {
                    (self.timestamp, self.repeats) = (&[], false);
                    break at;
                }
            }
        };
        (end <= LINE_BYTES_MAX).then_some(end + line_end(&bytes[end..])?)
    }

    /// Where the timestamp ends.
    #[inline]
    fn read_timestamp(&mut self, bytes: &'a [u8], at: usize) -> Option<usize> {
        let rest = &bytes[at..];
        let before: Result<&[u8; DIGITS_MOST], _> = self.timestamp.try_into();
        self.repeats = before.ok().is_some_and(|before| rest.first_chunk() == Some(before));
        if !self.repeats {
            let length = number::whole_length(rest)?;
            self.repeats = &rest[..length] == self.timestamp;
            self.timestamp = &rest[..length];
        }
        Some(at + self.timestamp.len())
    }
}

/// The bytes of a line end, if there is one.
#[inline]
fn line_end(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [b'\n', ..] => Some(1),
        [b'\r', b'\n', ..] => Some(2),
        _ => None,
    }
}

/// One past the blank that ends the head, if it is the first one and not escaped.
#[inline]
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let (blocks, _) = bytes.as_chunks::<BLOCK_BYTES>();
    let place = blocks.iter().position(has_blank)?;
    let (words, _) = blocks[place].as_chunks();
    let mut at = place * BLOCK_BYTES;
    for word in words {
        let blanks = blanks(u64::from_le_bytes(*word));
        if blanks != 0 {
            at += blanks.trailing_zeros() as usize / 8;
            break;
        }
        at += 8;
    }
    let is_plain = bytes[at] == BLANK && bytes[at.checked_sub(1)?] != b'\\';
    is_plain.then_some(at + 1)
}

/// Whether a byte is a blank, or below, as line ends and other white space are: a loop that the compiler makes a few
/// comparisons of whole vectors.
#[inline]
fn has_blank(block: &[u8; BLOCK_BYTES]) -> bool {
    block.iter().fold(false, |any, byte| any | (*byte <= BLANK))
}

/// The highest bit of each byte that is a blank or below; above the first of them others may be marked too.
#[inline]
fn blanks(word: u64) -> u64 {
    word.wrapping_sub(LOWEST * u64::from(BLANK + 1)) & !word & HIGHEST
}

/// The highest bit of each byte that is `=`; above the first of them others may be marked too.
#[inline]
fn signs(word: u64) -> u64 {
    let differing = word ^ (LOWEST * u64::from(b'='));
    differing.wrapping_sub(LOWEST) & !differing & HIGHEST
}

/// The key that `bytes` begin with, if it is plain.
#[inline]
fn key(bytes: &[u8]) -> Option<&[u8]> {
    let (words, _) = bytes.as_chunks();
    for (place, word) in words.iter().take(NAME_BYTES_MAX / 8).enumerate() {
        let word = u64::from_le_bytes(*word);
        let ends = signs(word) | blanks(word);
        if ends != 0 {
            let at = place * 8 + ends.trailing_zeros() as usize / 8;
            let is_plain = bytes[at] == b'=' && bytes[at.checked_sub(1)?] != b'\\';
            return is_plain.then_some(&bytes[..at]);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::line_protocol::{Line, Value};
    use crate::parse::lines;
    use proptest::prelude::*;
    use std::{format, string::String, vec::Vec};

    /// Room behind a line, which is read in whole words.
    const MORE: &str = "\nnext,region=uk,device=tv value=1 1748822400000000000\n";

    fn is_read(line: &str) -> bool {
        let text = format!("{line}{MORE}");
        let mut plain = PlainLine::default();
        plain.read(text.as_bytes()).is_some()
    }

    /// What is read at once is what the other reader makes of it; whether it was.
    fn compare(bytes: &[u8]) -> Result<bool, TestCaseError> {
        let mut plain = PlainLine::default();
        let Some(taken) = plain.read(bytes) else { return Ok(false) };
        let first = lines(bytes).next().expect("a line was read");
        prop_assert_eq!(bytes[..taken].trim_ascii_end(), first.trim_ascii_end());
        prop_assert_eq!(bytes[taken - 1], b'\n');
        let line = Line::split(first).expect("a plain line is a line").expect("and no comment");
        prop_assert_eq!(plain.prefix, line.prefix());
        let timestamp = str::from_utf8(plain.timestamp).expect("digits");
        prop_assert_eq!(timestamp.parse().ok(), line.timestamp, "{:?}", timestamp);
        let fields: Vec<_> = line.fields().collect();
        prop_assert_eq!(plain.fields.len(), fields.len());
        for ((key, value), field) in plain.fields.iter().zip(fields) {
            let field = field.expect("a plain field is a field");
            prop_assert_eq!(*key, field.key);
            let Value::Number(number) = field.value else { panic!("text is not plain") };
            prop_assert_eq!(value.to_bits(), number.to_bits(), "{} is not {}", value, number);
        }
        Ok(true)
    }

    #[test]
    fn what_most_lines_are_is_read_at_once() {
        for line in [
            "activity,device=tv-lg,host=edge-00017,region=uk,stack=playback value=812.25 1748822400123000000",
            "cpu,cpu=cpu0,host=a usage_idle=98.93390191897655,usage_user=1i,n=7u 1748822400000000000",
            "mem free=12345678901i,used=-7.5,x=-3i 1748822400",
            "mem free=1",
            "m value=0.000012345 1748822400123\r",
        ] {
            assert!(is_read(line), "{line}");
            assert!(compare(format!("{line}{MORE}").as_bytes()).unwrap(), "{line}");
        }
    }

    #[test]
    fn what_is_not_plain_is_left() {
        for line in [
            "",
            " m a=1",
            "# m a=1",
            ",m a=1",
            "m",
            "m ",
            "m  a=1",
            "m a=1 ",
            "m a=1  5",
            "m a=1 -5",
            "m\\ n a=1",
            "m a\\=b=1",
            "m a b=1",
            "m =1",
            "m a=",
            "m a=1,",
            "m a=1e5",
            "m a=nan",
            "m a=\"x\"",
            "m a=t",
            "m a=1x",
            "m a=1.5i",
            "m a=-1u",
            "m a=1 9223372036854775808",
            "m a=1 5\t",
            "m a=1 5x",
            "m a=.",
            "m a=-",
            "m a=1.2.3",
        ] {
            assert!(!is_read(line), "{line}");
        }
    }

    #[test]
    fn a_line_too_long_or_without_end_is_left() {
        let long = |bytes: usize| format!("m,t={} a=1 5", "x".repeat(bytes - "m,t= a=1 5".len()));
        assert!(is_read(&long(LINE_BYTES_MAX)) && !is_read(&long(LINE_BYTES_MAX + 1)));
        let mut plain = PlainLine::default();
        assert_eq!(plain.read(b"measurement,tag=value field=1 1748822400123456789"), None);
    }

    fn hostile() -> impl Strategy<Value = String> {
        let number = "(-?[0-9]{0,22}[.]?[0-9]{0,18}[iu]?|[0-9.eEinfatu+-]{0,6})";
        let field = format!("[a-c\\\\,= ]{{0,1}}[a-z_]{{1,18}}[ \\\\]?={number}");
        let line = format!(
            "[a-z,=\\\\# -]{{0,20}}[ ]{{1,2}}{field}(,{field}){{0,3}}([ ]{{1,2}}-?[0-9]{{0,20}})?[ \r\t]{{0,1}}"
        );
        proptest::string::string_regex(&line).expect("an expression")
    }

    proptest! {
        #[test]
        fn plain_lines_are_read_alike(line in "[a-z]{1,9}(,[a-z]{1,9}=[a-z0-9-]{1,19}){0,5} [a-z_]{1,20}=-?[0-9]{1,9}([.][0-9]{1,12})?i?(,[a-z]{1,9}=[0-9]{1,7}[.][0-9]{0,3}){0,4}( [0-9]{1,19})?\r?") {
            compare(format!("{line}{MORE}").as_bytes())?;
        }

        #[test]
        fn hostile_lines_are_read_alike(line in hostile(), cut in 0usize..80) {
            let text = format!("{line}{MORE}");
            compare(text.as_bytes())?;
            compare(&text.as_bytes()[..text.len().saturating_sub(cut)])?;
        }

        #[test]
        fn any_bytes_are_read_alike(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            compare(&bytes)?;
        }
    }
}
