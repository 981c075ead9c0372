//! StatsD with the tags of DogStatsD: `name:1|c|@0.1|#key:value,other:value`.
//!
//! It must never aggregate: that is the table's part, which knows the series. The hard case is what one line
//! may hold: several values (`name:1:2:3|ms`), signs that mean a change of a gauge, and sections of later
//! DogStatsD versions, which are passed over. Source: the protocol pages of StatsD (Etsy) and Datadog.
use core::str;

use vedette_common::limits::{LINE_BYTES_MAX, NAME_BYTES_MAX, TAGS_MAX};

use super::{ParseError, number};

/// What the values of a line mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `c`: summed over an interval, each value weighing 1 / sample rate.
    Counter,
    /// `g`: the last value, or a change of it when the value has a sign.
    Gauge,
    /// `ms`, `h` and `d`: timings and distributions, averaged over an interval.
    Timer,
}

/// One line of StatsD, all but its values checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Line<'a> {
    /// The name, which is the measurement.
    pub name: &'a str,
    /// What the values mean.
    pub kind: Kind,
    /// How many real events one value stands for: 1 / sample rate, at least 1.
    pub weight: f64,
    /// The tags as received, `key:value,key:value`.
    pub tags: &'a str,
    values: &'a [u8],
}

/// One value of a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A value as it stands.
    Absolute(f64),
    /// A gauge's change, written with a sign.
    Change(f64),
}

impl<'a> Line<'a> {
    /// Reads one line without its line end; `None` for blanks.
    ///
    /// # Errors
    /// [`ParseError`] when the line is too long, not UTF-8, has no name, no type or a type without value.
    pub fn parse(bytes: &'a [u8]) -> Result<Option<Self>, ParseError> {
        if bytes.len() > LINE_BYTES_MAX {
            return Err(ParseError::LineTooLong);
        }
        let line = bytes.trim_ascii();
        if line.is_empty() {
            return Ok(None);
        }
        if line.starts_with(b"_e{") || line.starts_with(b"_sc|") {
            return Err(ParseError::TypeUnsupported);
        }
        let mut sections = line.split(|&byte| byte == b'|');
        let (name, values) = split_name(sections.next().unwrap_or_default())?;
        let kind = parse_kind(sections.next().ok_or(ParseError::TypeUnknown)?)?;
        let mut parsed = Self { name, kind, weight: 1.0, tags: "", values };
        for section in sections {
            match section.split_first() {
                Some((b'@', rate)) => parsed.weight = parse_weight(rate)?,
                Some((b'#', tags)) => parsed.tags = str::from_utf8(tags).map_err(|_| ParseError::NotUtf8)?,
                // Container ids, timestamps and cardinality of later DogStatsD versions change no value.
                _ => {}
            }
        }
        Ok(Some(parsed))
    }

    /// The values in order; a value in error is reported and the next one follows.
    pub fn values(&self) -> impl Iterator<Item = Result<Value, ParseError>> + use<'a> {
        let kind = self.kind;
        self.values.split(|&byte| byte == b':').map(move |value| match value.first() {
            None => Err(ParseError::ValueMissing),
            Some(b'+' | b'-') if kind == Kind::Gauge => parse_signed(value).map(Value::Change),
            Some(_) => parse_signed(value).map(Value::Absolute),
        })
    }

    /// The tags, one by one. A tag without value counts as `true`, as in Datadog.
    ///
    /// # Errors
    /// [`ParseError::TagMalformed`] for a tag without key, [`ParseError::TagsTooMany`] past the limit.
    pub fn parse_tags(&self) -> Result<heapless::Vec<(&'a str, &'a str), TAGS_MAX>, ParseError> {
        let mut tags = heapless::Vec::new();
        for tag in self.tags.split(',').filter(|tag| !tag.is_empty()) {
            let (key, value) = tag.split_once(':').unwrap_or((tag, "true"));
            if key.is_empty() || value.is_empty() {
                return Err(ParseError::TagMalformed);
            }
            tags.push((key, value)).map_err(|_| ParseError::TagsTooMany)?;
        }
        Ok(tags)
    }
}

fn split_name(section: &[u8]) -> Result<(&str, &[u8]), ParseError> {
    let end = memchr::memchr(b':', section).ok_or(ParseError::ValueMissing)?;
    let (name, values) = (&section[..end], &section[end + 1..]);
    match name.len() {
        0 => Err(ParseError::NameMissing),
        length if length > NAME_BYTES_MAX => Err(ParseError::NameTooLong),
        _ => Ok((str::from_utf8(name).map_err(|_| ParseError::NotUtf8)?, values)),
    }
}

fn parse_kind(section: &[u8]) -> Result<Kind, ParseError> {
    match section {
        b"c" => Ok(Kind::Counter),
        b"g" => Ok(Kind::Gauge),
        b"ms" | b"h" | b"d" => Ok(Kind::Timer),
        b"s" => Err(ParseError::TypeUnsupported),
        _ => Err(ParseError::TypeUnknown),
    }
}

fn parse_weight(rate: &[u8]) -> Result<f64, ParseError> {
    let rate = number::float(rate).map_err(|_| ParseError::SampleRateMalformed)?;
    let weight = 1.0 / rate;
    if rate > 0.0 && rate <= 1.0 && weight.is_finite() {
        Ok(weight)
    } else {
        Err(ParseError::SampleRateMalformed)
    }
}

/// A number with an optional sign; one sign only.
fn parse_signed(bytes: &[u8]) -> Result<f64, ParseError> {
    number::float(
        bytes.strip_prefix(b"+").filter(|rest| !matches!(rest.first(), Some(b'+' | b'-'))).unwrap_or(bytes),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{format, string::String, vec, vec::Vec};

    fn parse(line: &[u8]) -> Result<Line<'_>, ParseError> {
        Line::parse(line).map(|line| line.expect("the test's line is not blank"))
    }

    fn values(line: &[u8]) -> Vec<Result<Value, ParseError>> {
        parse(line).unwrap().values().collect()
    }

    #[test]
    fn a_line_with_everything() {
        let line = parse(b"page.views:3|c|@0.1|#region:uk,beta|c:83c0a99c|T1656581400\r").unwrap();
        assert_eq!((line.name, line.kind, line.weight), ("page.views", Kind::Counter, 10.0));
        assert_eq!(&line.parse_tags().unwrap()[..], &[("region", "uk"), ("beta", "true")]);
        assert_eq!(line.values().collect::<Vec<_>>(), [Ok(Value::Absolute(3.0))]);
        assert_eq!(Line::parse(b" \r"), Ok(None));
    }

    #[test]
    fn signs_change_a_gauge_and_nothing_else() {
        assert_eq!(values(b"t:-5|g"), [Ok(Value::Change(-5.0))]);
        assert_eq!(values(b"t:+5|g"), [Ok(Value::Change(5.0))]);
        assert_eq!(values(b"t:5|g"), [Ok(Value::Absolute(5.0))]);
        assert_eq!(values(b"t:-5|c"), [Ok(Value::Absolute(-5.0))]);
    }

    #[test]
    fn several_values_and_the_good_ones_are_kept() {
        let found = values(b"t:1:x::NaN:+-3:2.5|ms");
        let (bad, empty) = (Err(ParseError::ValueMalformed), Err(ParseError::ValueMissing));
        assert_eq!(found[..3], [Ok(Value::Absolute(1.0)), bad, empty]);
        assert_eq!(found[3..], [Err(ParseError::ValueNotFinite), bad, Ok(Value::Absolute(2.5))]);
    }

    #[test]
    fn broken_lines_are_typed_errors() {
        for (line, error) in [
            (&b"users:17|s"[..], ParseError::TypeUnsupported),
            (b"_e{5,4}:title|text", ParseError::TypeUnsupported),
            (b"_sc|name|0", ParseError::TypeUnsupported),
            (b"hits:1|q", ParseError::TypeUnknown),
            (b"hits:1", ParseError::TypeUnknown),
            (b"hits", ParseError::ValueMissing),
            (b":1|c", ParseError::NameMissing),
            (b"hits:1|c|@0", ParseError::SampleRateMalformed),
            (b"hits:1|c|@2", ParseError::SampleRateMalformed),
            (b"hits:1|c|@NaN", ParseError::SampleRateMalformed),
            (b"hits:1|c|@1e-320", ParseError::SampleRateMalformed),
            (b"\xff:1|c", ParseError::NotUtf8),
            (b"hits:1|c|#\xff:1", ParseError::NotUtf8),
        ] {
            assert_eq!(parse(line), Err(error), "{}", String::from_utf8_lossy(line));
        }
        assert_eq!(parse(&[b'a'; LINE_BYTES_MAX + 1]), Err(ParseError::LineTooLong));
        assert_eq!(parse(&[&[b'a'; 65][..], b":1|c"].concat()), Err(ParseError::NameTooLong));
        assert_eq!(parse(b"a:1|c|#:x").unwrap().parse_tags(), Err(ParseError::TagMalformed));
        let many = format!("a:1|c|#{}", vec!["k:v"; 17].join(","));
        assert_eq!(parse(many.as_bytes()).unwrap().parse_tags(), Err(ParseError::TagsTooMany));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(
            name in "[a-z.éß-]{1,12}",
            sizes in proptest::collection::vec(0.0..1e9f64, 1..5),
            kind in prop_oneof![Just((Kind::Counter, "c")), Just((Kind::Gauge, "g")), Just((Kind::Timer, "d"))],
            tags in proptest::collection::vec(("[a-z]{1,5}", "[a-z0-9:=]{1,5}"), 0..6),
        ) {
            let printed: Vec<_> = sizes.iter().map(|size| format!("{size}")).collect();
            let tagged: Vec<_> = tags.iter().map(|(key, value)| format!("{key}:{value}")).collect();
            let line = format!("{name}:{}|{}|@0.5|#{}", printed.join(":"), kind.1, tagged.join(","));
            let parsed = parse(line.as_bytes()).unwrap();
            prop_assert_eq!((parsed.name, parsed.kind, parsed.weight), (name.as_str(), kind.0, 2.0));
            let read: Vec<_> = parsed.values().map(Result::unwrap).collect();
            prop_assert_eq!(read, sizes.into_iter().map(Value::Absolute).collect::<Vec<_>>());
            let read: Vec<_> = parsed.parse_tags().unwrap().iter().map(|&(k, v)| (String::from(k), String::from(v))).collect();
            prop_assert_eq!(read, tags);
        }

        #[test]
        fn any_text_is_read_without_panic(bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..100),
            "[a-c:|@#+.0-9gcmsh-]{0,40}".prop_map(String::into_bytes),
        ]) {
            if let Ok(Some(line)) = Line::parse(&bytes) {
                let _ = line.parse_tags();
                prop_assert!(line.values().count() <= bytes.len() + 1);
            }
        }
    }
}
