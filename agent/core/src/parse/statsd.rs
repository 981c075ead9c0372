//! StatsD with the tags of DogStatsD: `name:1|c|@0.1|#key:value,other:value`.
//!
//! It must never aggregate: that is the table's part, which knows the series. The hard case is what one line
//! may hold: several values (`name:1:2:3|ms`), signs that mean a change of a gauge, and sections of later
//! DogStatsD versions, which are passed over. Source: the protocol pages of StatsD (Etsy) and Datadog.
use core::str;

use vedette_common::limits::{LINE_BYTES_MAX, NAME_BYTES_MAX, TAGS_MAX};

use super::{ParseError, parse_float};

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
    let rate = parse_float(rate).map_err(|_| ParseError::SampleRateMalformed)?;
    let weight = 1.0 / rate;
    if rate > 0.0 && rate <= 1.0 && weight.is_finite() {
        Ok(weight)
    } else {
        Err(ParseError::SampleRateMalformed)
    }
}

/// A number with an optional sign; one sign only.
fn parse_signed(bytes: &[u8]) -> Result<f64, ParseError> {
    parse_float(
        bytes.strip_prefix(b"+").filter(|rest| !matches!(rest.first(), Some(b'+' | b'-'))).unwrap_or(bytes),
    )
}
