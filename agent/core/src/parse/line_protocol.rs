//! InfluxDB line protocol: `measurement,tag=value field=1,other=2i 1465839830100400200`.
//!
//! It must never copy where nothing is escaped. The hard case is finding the parts in one pass over the
//! bytes: a separator counts unless a backslash stands directly before it, and the last word is a
//! timestamp exactly when it holds neither `=` nor `"`, since every word inside or after a field has one.
//! Source: the line protocol reference of InfluxDB v1 and v2. Not taken over: line breaks inside quoted text.
use core::str;

use vedette_common::limits::{LINE_BYTES_MAX, NAME_BYTES_MAX, TAGS_MAX};

use super::ParseError;
use super::number::{eight_digits, float, integer, leading_plain, unsigned};

/// Room for every name of one line, its escapes taken out: measurement, field, and keys and values of tags.
pub const SCRATCH_BYTES: usize = NAME_BYTES_MAX * (2 + 2 * TAGS_MAX);

/// One line, cut into its three parts; names are still escaped and not yet checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line<'a> {
    /// Measurement and tags as received: what tells the series of one measurement apart.
    pub head: &'a [u8],
    /// The fields as received.
    pub fields: &'a [u8],
    /// The timestamp in the unit of the source.
    pub timestamp: Option<i64>,
    prefix: &'a [u8],
}

/// Measurement and tags with their escapes taken out.
#[derive(Clone, Debug, PartialEq)]
pub struct Head<'a> {
    /// The name of the measurement.
    pub measurement: &'a str,
    /// Keys and values in the order received.
    pub tags: heapless::Vec<(&'a str, &'a str), TAGS_MAX>,
}

/// One field of a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field<'a> {
    /// Its key as received, escapes included.
    pub key: &'a [u8],
    /// Its value.
    pub value: Value<'a>,
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// A float, an integer (`i`, `u`) or a boolean (0 or 1); always finite.
    Number(f64),
    /// Quoted text, escapes included: nothing to score.
    Text(&'a str),
}

impl<'a> Line<'a> {
    /// Cuts one line without its line end; `None` for a comment or blanks.
    ///
    /// # Errors
    /// [`ParseError`] when the line is too long, has no measurement or no field, or its timestamp is none.
    #[inline]
    pub fn split(bytes: &'a [u8]) -> Result<Option<Self>, ParseError> {
        if bytes.len() > LINE_BYTES_MAX {
            return Err(ParseError::LineTooLong);
        }
        let line = bytes.trim_ascii();
        match line.first() {
            None | Some(b'#') => return Ok(None),
            Some(b',') => return Err(ParseError::NameMissing),
            Some(_) => {}
        }
        let end = unescaped(line, b' ').ok_or(ParseError::ValueMissing)?;
        let (prefix, rest) = line.split_at(end + 1);
        let (fields, timestamp) = split_timestamp(rest.trim_ascii_start())?;
        if fields.is_empty() {
            return Err(ParseError::ValueMissing);
        }
        Ok(Some(Self { head: &line[..end], fields, timestamp, prefix }))
    }

    /// The head with the blank that ends it: two different heads never begin with one another like this.
    pub(crate) fn prefix(&self) -> &'a [u8] {
        self.prefix
    }

    /// The fields in order; a field in error is reported and the next one follows.
    pub fn fields(&self) -> Fields<'a> {
        Fields { rest: self.fields }
    }
}

/// Cuts the timestamp off the end of the fields.
#[inline]
fn split_timestamp(rest: &[u8]) -> Result<(&[u8], Option<i64>), ParseError> {
    if let Some((fields, word)) = rest.split_last_chunk()
        && let Some(timestamp) = nineteen_digits(word)
    {
        return Ok((fields.trim_ascii_end(), Some(timestamp)));
    }
    split_any_timestamp(rest)
}

/// Cuts off a timestamp of any length, or finds that there is none.
fn split_any_timestamp(rest: &[u8]) -> Result<(&[u8], Option<i64>), ParseError> {
    let start = memchr::memrchr(b' ', rest).map_or(0, |space| space + 1);
    let word = &rest[start..];
    match integer(word) {
        Some(timestamp) => Ok((rest[..start].trim_ascii_end(), Some(timestamp))),
        None if memchr::memchr2(b'=', b'"', word).is_some() => Ok((rest, None)),
        None => Err(ParseError::TimestampMalformed),
    }
}

/// A blank and the nanoseconds since the epoch, as they are written from 2001 to 2262: found without a search.
#[inline]
fn nineteen_digits(word: &[u8; 20]) -> Option<i64> {
    let [b' ', digits @ ..] = word else { return None };
    let (words, rest) = digits.as_chunks::<8>();
    let &[upper, lower] = words else { return None };
    let mut sum = eight_digits(upper)? * 100_000_000 + eight_digits(lower)?;
    for byte in rest {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        sum = sum * 10 + u64::from(digit);
    }
    i64::try_from(sum).ok()
}

/// Where `separator` stands without a backslash before it.
fn unescaped(bytes: &[u8], separator: u8) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + memchr::memchr(separator, &bytes[from..])?;
        if at == 0 || bytes[at - 1] != b'\\' {
            return Some(at);
        }
        from = at + 1;
    }
}

/// Where a key ends. It is short, so that a word of eight bytes at a time is faster than a call of a search.
#[inline]
fn end_of_key(bytes: &[u8]) -> Option<usize> {
    const LOWEST: u64 = 0x0101_0101_0101_0101;
    const HIGHEST: u64 = 0x8080_8080_8080_8080;
    for (place, word) in bytes.as_chunks().0.iter().enumerate() {
        let differing = u64::from_le_bytes(*word) ^ (LOWEST * u64::from(b'='));
        let zeros = differing.wrapping_sub(LOWEST) & !differing & HIGHEST;
        if zeros != 0 {
            let at = place * 8 + zeros.trailing_zeros() as usize / 8;
            let is_escaped = at > 0 && bytes[at - 1] == b'\\';
            return if is_escaped { unescaped(bytes, b'=') } else { Some(at) };
        }
    }
    unescaped(bytes, b'=')
}

impl<'a> Head<'a> {
    /// Reads measurement and tags from a [`Line::head`]; names with escapes are written into `scratch`.
    ///
    /// # Errors
    /// [`ParseError`] when a name is empty, too long or not UTF-8, or there are too many tags.
    pub fn parse(head: &'a [u8], mut scratch: &'a mut [u8]) -> Result<Self, ParseError> {
        let mut rest = head;
        let measurement = unescape(cut(&mut rest, b','), &mut scratch)?;
        if measurement.is_empty() {
            return Err(ParseError::NameMissing);
        }
        let mut tags = heapless::Vec::new();
        while !rest.is_empty() {
            let mut value = cut(&mut rest, b',');
            let key = unescape(cut(&mut value, b'='), &mut scratch)?;
            let value = unescape(value, &mut scratch)?;
            if key.is_empty() || value.is_empty() {
                return Err(ParseError::TagMalformed);
            }
            tags.push((key, value)).map_err(|_| ParseError::TagsTooMany)?;
        }
        Ok(Self { measurement, tags })
    }
}

/// Takes everything before the first unescaped `separator` off `rest`, and the separator with it.
fn cut<'a>(rest: &mut &'a [u8], separator: u8) -> &'a [u8] {
    let end = unescaped(rest, separator).unwrap_or(rest.len());
    let part = &rest[..end];
    *rest = rest.get(end + 1..).unwrap_or_default();
    part
}

/// A name with its escapes taken out: borrowed as it is, or rewritten into `scratch` when it holds a backslash.
///
/// # Errors
/// [`ParseError::NotUtf8`], or [`ParseError::NameTooLong`] when it exceeds [`NAME_BYTES_MAX`] or the room left.
pub fn unescape<'a>(raw: &'a [u8], scratch: &mut &'a mut [u8]) -> Result<&'a str, ParseError> {
    let name = if memchr::memchr(b'\\', raw).is_none() { raw } else { rewrite(raw, scratch)? };
    if name.len() > NAME_BYTES_MAX {
        return Err(ParseError::NameTooLong);
    }
    str::from_utf8(name).map_err(|_| ParseError::NotUtf8)
}

/// Copies `raw` without the backslashes that escape `,`, `=` and blanks; any other backslash stands for itself.
fn rewrite<'a>(raw: &[u8], scratch: &mut &'a mut [u8]) -> Result<&'a [u8], ParseError> {
    let mut used = 0;
    for (at, &byte) in raw.iter().enumerate() {
        let escapes = byte == b'\\' && matches!(raw.get(at + 1), Some(b',' | b'=' | b' '));
        if !escapes {
            *scratch.get_mut(used).ok_or(ParseError::NameTooLong)? = byte;
            used += 1;
        }
    }
    let (name, rest) = core::mem::take(scratch).split_at_mut(used);
    *scratch = rest;
    Ok(name)
}

/// The fields of a line, one after the other.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, ParseError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let Some(end) = end_of_key(self.rest) else {
            self.rest = &[];
            return Some(Err(ParseError::ValueMissing));
        };
        let key = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        let value = self.value();
        Some(if key.is_empty() {
            Err(ParseError::NameMissing)
        } else {
            value.map(|value| Field { key, value })
        })
    }
}

impl<'a> Fields<'a> {
    #[inline]
    fn value(&mut self) -> Result<Value<'a>, ParseError> {
        if self.rest.first() == Some(&b'"') {
            return self.text();
        }
        if let Some((value, end)) = leading_plain(self.rest) {
            self.rest = self.rest.get(end + 1..).unwrap_or_default();
            return Ok(Value::Number(value));
        }
        self.number()
    }

    /// A number of any other spelling, or what is none.
    fn number(&mut self) -> Result<Value<'a>, ParseError> {
        let end = memchr::memchr(b',', self.rest).unwrap_or(self.rest.len());
        let value = &self.rest[..end];
        self.rest = self.rest.get(end + 1..).unwrap_or_default();
        parse_number(value).map(Value::Number)
    }

    /// Quoted text: ends at a quote that is not escaped; after it comes a comma or nothing.
    fn text(&mut self) -> Result<Value<'a>, ParseError> {
        let rest = core::mem::take(&mut self.rest);
        let mut at = 1;
        loop {
            match rest.get(at) {
                None => return Err(ParseError::ValueMalformed),
                Some(b'\\') => at += 2,
                Some(b'"') => break,
                Some(_) => at += 1,
            }
        }
        match rest.get(at + 1) {
            None => {}
            Some(b',') => self.rest = &rest[at + 2..],
            Some(_) => return Err(ParseError::ValueMalformed),
        }
        str::from_utf8(&rest[1..at]).map(Value::Text).map_err(|_| ParseError::NotUtf8)
    }
}

/// A field's number: `1.5`, `-3i`, `7u`, `true`.
fn parse_number(bytes: &[u8]) -> Result<f64, ParseError> {
    match bytes {
        [] => Err(ParseError::ValueMissing),
        [digits @ .., b'u'] => unsigned(digits).map(|value| value as f64),
        [b'-', digits @ .., b'i'] => {
            unsigned(digits).and_then(|size| signed(size, i64::MIN.unsigned_abs())).map(|v| -v)
        }
        [digits @ .., b'i'] => unsigned(digits).and_then(|size| signed(size, i64::MAX.unsigned_abs())),
        b"t" | b"T" | b"true" | b"True" | b"TRUE" => Ok(1.0),
        b"f" | b"F" | b"false" | b"False" | b"FALSE" => Ok(0.0),
        _ => float(bytes),
    }
}

fn signed(size: u64, largest: u64) -> Result<f64, ParseError> {
    if size <= largest { Ok(size as f64) } else { Err(ParseError::ValueNotFinite) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{format, string::String, vec::Vec};

    fn fields(line: &[u8]) -> Vec<Result<Field<'_>, ParseError>> {
        Line::split(line).unwrap().unwrap().fields().collect()
    }

    fn number(text: &str) -> Result<f64, ParseError> {
        parse_number(text.as_bytes())
    }

    #[test]
    fn a_line_has_three_parts() {
        let line = Line::split(b"cpu,host=a\\ b,region=uk load=1,idle=2i 17\r").unwrap().unwrap();
        assert_eq!(line.head, b"cpu,host=a\\ b,region=uk");
        assert_eq!((line.fields, line.timestamp), (&b"load=1,idle=2i"[..], Some(17)));
        let mut scratch = [0; SCRATCH_BYTES];
        let head = Head::parse(line.head, &mut scratch).unwrap();
        assert_eq!((head.measurement, &head.tags[..]), ("cpu", &[("host", "a b"), ("region", "uk")][..]));
    }

    #[test]
    fn comments_and_blanks_are_no_lines() {
        for line in ["", "  ", "# cpu load=1", "  # x"] {
            assert_eq!(Line::split(line.as_bytes()), Ok(None), "{line}");
        }
    }

    #[test]
    fn numbers_of_every_type() {
        for (text, value) in [
            ("1.5", 1.5),
            ("-2e3", -2000.0),
            ("7i", 7.0),
            ("-7i", -7.0),
            ("7u", 7.0),
            ("t", 1.0),
            ("FALSE", 0.0),
            (".5", 0.5),
        ] {
            assert_eq!(number(text), Ok(value), "{text}");
        }
        assert_eq!(number("-9223372036854775808i"), Ok(i64::MIN as f64));
        assert_eq!(number("18446744073709551615u"), Ok(u64::MAX as f64));
    }

    #[test]
    fn what_is_not_finite_or_does_not_fit_is_refused() {
        for text in [
            "NaN",
            "inf",
            "-Infinity",
            "1e999",
            "9223372036854775808i",
            "-9223372036854775809i",
            "18446744073709551616u",
        ] {
            assert_eq!(number(text), Err(ParseError::ValueNotFinite), "{text}");
        }
        for text in ["x", "1.5i", "--1", "-1u", "i", "1 2", "0x10", "tr"] {
            assert_eq!(number(text), Err(ParseError::ValueMalformed), "{text}");
        }
    }

    #[test]
    fn keys_of_any_length_end_at_a_sign_that_is_not_escaped() {
        for length in 1..20 {
            let key = "k".repeat(length);
            for key in [key.clone(), format!("{key}\\="), format!("{key}\\=\\=k")] {
                assert_eq!(end_of_key(format!("{key}=1=2").as_bytes()), Some(key.len()), "{key}");
                assert_eq!(end_of_key(format!("{key}=").as_bytes()), Some(key.len()), "{key}");
                assert_eq!(end_of_key(key.as_bytes()), None, "{key}");
            }
        }
    }

    #[test]
    fn timestamps_of_nineteen_digits_are_whole_numbers_too() {
        let timestamp = |text: &str| split_timestamp(text.as_bytes()).map(|(_, timestamp)| timestamp);
        assert_eq!(timestamp("a=1 1748822400123456789"), Ok(Some(1_748_822_400_123_456_789)));
        assert_eq!(timestamp("a=1  9223372036854775807"), Ok(Some(i64::MAX)));
        for wrong in ["a=1 9223372036854775808", "a=1 174882240012345678x", "a=1 x748822400123456789"] {
            assert_eq!(timestamp(wrong), Err(ParseError::TimestampMalformed), "{wrong}");
        }
    }

    #[test]
    fn text_is_passed_over_and_the_good_part_is_kept() {
        let found = fields(br#"m note="a, b=1 \"c\" 12",bad=x,=3,load=2 5"#);
        assert!(matches!(found[0], Ok(Field { value: Value::Text(_), .. })));
        assert_eq!(found[1], Err(ParseError::ValueMalformed));
        assert_eq!(found[2], Err(ParseError::NameMissing));
        assert_eq!(found[3], Ok(Field { key: b"load", value: Value::Number(2.0) }));
        assert_eq!(fields(br#"m load=1,note="open"#)[1], Err(ParseError::ValueMalformed));
        assert_eq!(fields(b"m note=\"\xff\"")[0], Err(ParseError::NotUtf8));
    }

    #[test]
    fn broken_lines_are_typed_errors() {
        let split = |line: &[u8]| Line::split(line).map(|_| ());
        assert_eq!(split(b"cpu"), Err(ParseError::ValueMissing));
        assert_eq!(split(b"cpu 17"), Err(ParseError::ValueMissing));
        assert_eq!(split(b",host=a load=1"), Err(ParseError::NameMissing));
        assert_eq!(split(b"cpu load=1 12x"), Err(ParseError::TimestampMalformed));
        assert_eq!(split(b"cpu load=1 9223372036854775808"), Err(ParseError::TimestampMalformed));
        assert_eq!(split(&[b'a'; LINE_BYTES_MAX + 1]), Err(ParseError::LineTooLong));
        let head = |head: &[u8]| Head::parse(head, &mut [0; SCRATCH_BYTES]).map(|_| ());
        assert_eq!(head(b"cpu,host=,b=1"), Err(ParseError::TagMalformed));
        assert_eq!(head(b"cpu,host"), Err(ParseError::TagMalformed));
        assert_eq!(head(b"cpu,host=\xff"), Err(ParseError::NotUtf8));
        assert_eq!(head(&[&b"cpu,host="[..], &[b'x'; 65]].concat()), Err(ParseError::NameTooLong));
        assert_eq!(
            head(b"c,a=1,b=1,c=1,d=1,e=1,f=1,g=1,h=1,i=1,j=1,k=1,l=1,m=1,n=1,o=1,p=1,q=1"),
            Err(ParseError::TagsTooMany)
        );
    }

    fn escape(text: &str) -> String {
        text.replace(',', "\\,").replace('=', "\\=").replace(' ', "\\ ")
    }

    /// A name that the format can carry: it neither ends in a backslash nor has one before a separator.
    fn name() -> impl Strategy<Value = String> {
        "[a-zA-Zäß,= ._-]{0,8}[a-zA-Zé_]"
            .prop_filter("a comment", |name| !name.starts_with('#') && name.len() <= 64)
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(
            measurement in name(),
            tags in proptest::collection::vec((name(), name()), 0..16),
            values in proptest::collection::vec((name(), any::<f64>().prop_filter("finite", |v| v.is_finite())), 1..8),
            timestamp in any::<Option<i64>>(),
        ) {
            let mut line = escape(&measurement);
            for (key, value) in &tags {
                line += &format!(",{}={}", escape(key), escape(value));
            }
            let printed: Vec<_> = values.iter().map(|(key, value)| format!("{}={value:?}", escape(key))).collect();
            line += &format!(" {}", printed.join(","));
            if let Some(timestamp) = timestamp {
                line += &format!(" {timestamp}");
            }
            // A leading blank of the first name is escaped, so trimming takes nothing off.
            let parsed = Line::split(line.as_bytes()).unwrap().unwrap();
            prop_assert_eq!(parsed.timestamp, timestamp);
            let mut scratch = [0; SCRATCH_BYTES];
            let head = Head::parse(parsed.head, &mut scratch).unwrap();
            prop_assert_eq!(head.measurement, measurement);
            let read: Vec<_> = head.tags.iter().map(|&(k, v)| (String::from(k), String::from(v))).collect();
            prop_assert_eq!(read, tags);
            for (field, (key, value)) in parsed.fields().zip(&values) {
                let field = field.unwrap();
                let mut room = [0; 64];
                prop_assert_eq!(unescape(field.key, &mut &mut room[..]).unwrap(), key);
                prop_assert_eq!(field.value, Value::Number(*value));
            }
            prop_assert_eq!(parsed.fields().count(), values.len());
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Some(line)) = Line::split(&bytes) {
                let _ = Head::parse(line.head, &mut [0; SCRATCH_BYTES]);
                prop_assert!(line.fields().count() <= bytes.len());
            }
        }

        #[test]
        fn almost_lines_are_read_without_panic(text in "[a-c\\\\ ,=\"#0-9itu.e-]{0,60}") {
            if let Ok(Some(line)) = Line::split(text.as_bytes()) {
                let _ = Head::parse(line.head, &mut [0; SCRATCH_BYTES]);
                for field in line.fields().flatten() {
                    if let Value::Number(value) = field.value {
                        prop_assert!(value.is_finite());
                    }
                }
            }
        }
    }
}
