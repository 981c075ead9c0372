//! Received bytes to observations: line protocol and StatsD, both without copying and without allocating.
//!
//! It must never panic, whatever the bytes, and never guess: what is wrong gets a typed error, and the good
//! part of a line is kept. The hard case is speed together with escapes, so text is borrowed from the
//! input, and only a name that holds a backslash is rewritten, into a bounded buffer of the caller.
pub mod line_protocol;
pub mod statsd;

use vedette_common::{
    drops::DropReason,
    limits::{LINE_BYTES_MAX, NAME_BYTES_MAX, TAG_SET_BYTES_MAX, TAGS_MAX},
};

/// What bytes from a source are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// InfluxDB line protocol of versions 1 and 2, its timestamps counted in this unit.
    LineProtocol(Precision),
    /// StatsD with the tags of DogStatsD; several lines a datagram.
    StatsD,
}

/// The unit of a timestamp in line protocol; nanoseconds unless a source is configured otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 10^-9 s.
    #[default]
    Nanoseconds,
    /// 10^-6 s.
    Microseconds,
    /// 10^-3 s.
    Milliseconds,
    /// 1 s.
    Seconds,
}

impl Precision {
    /// A timestamp of this unit in milliseconds, rounded down; saturates.
    pub const fn to_ms(self, timestamp: i64) -> i64 {
        match self {
            Self::Nanoseconds => timestamp.div_euclid(1_000_000),
            Self::Microseconds => timestamp.div_euclid(1_000),
            Self::Milliseconds => timestamp,
            Self::Seconds => timestamp.saturating_mul(1_000),
        }
    }
}

/// Why a line, or one value of it, is no observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// More than [`LINE_BYTES_MAX`] bytes without a line end.
    #[error("a line has at most {LINE_BYTES_MAX} bytes")]
    LineTooLong,
    /// Names or text that are not UTF-8.
    #[error("text must be UTF-8")]
    NotUtf8,
    /// No measurement (line protocol) or no name (StatsD) before the values.
    #[error("a line begins with a name")]
    NameMissing,
    /// A measurement, field, tag key or tag value of more than [`NAME_BYTES_MAX`] bytes.
    #[error("a name, a tag's key and a tag's value have at most {NAME_BYTES_MAX} bytes each")]
    NameTooLong,
    /// A tag without key, value or `=`.
    #[error("a tag is written key=value, neither of them empty")]
    TagMalformed,
    /// More tags than [`TAGS_MAX`].
    #[error("an observation has at most {TAGS_MAX} tags")]
    TagsTooMany,
    /// The same tag key twice.
    #[error("a tag key may stand once in a line")]
    TagRepeated,
    /// The tags that are no dimension are longer than [`TAG_SET_BYTES_MAX`] when written together.
    #[error("tags other than the dimensions have at most {TAG_SET_BYTES_MAX} bytes together")]
    TagSetTooLong,
    /// No value on the line.
    #[error("a line needs at least one value")]
    ValueMissing,
    /// A value that is neither number, boolean nor quoted text, or text that is never closed.
    #[error("a value is a number, a boolean or quoted text")]
    ValueMalformed,
    /// NaN, an infinity, or a number too large for its type.
    #[error("a value must be finite and fit its type")]
    ValueNotFinite,
    /// A timestamp that is not a whole number of 64 bits.
    #[error("a timestamp is a whole number of 64 bits")]
    TimestampMalformed,
    /// A StatsD line without type, or of a type that does not exist.
    #[error("a StatsD line is name:value|type, with a type of c, g, ms, h or d")]
    TypeUnknown,
    /// A StatsD set, event or service check: they count distinct texts or carry prose, and have no value to score.
    #[error("sets, events and service checks have no value to score")]
    TypeUnsupported,
    /// A sample rate outside (0, 1].
    #[error("a sample rate is above 0 and at most 1")]
    SampleRateMalformed,
}

impl ParseError {
    /// The reason under which this error is counted.
    pub const fn reason(self) -> DropReason {
        match self {
            Self::LineTooLong => DropReason::LineTooLong,
            Self::NotUtf8 => DropReason::NotUtf8,
            Self::NameTooLong | Self::TagSetTooLong => DropReason::NameTooLong,
            Self::TagsTooMany => DropReason::TooManyTags,
            Self::ValueNotFinite => DropReason::NotFinite,
            Self::TypeUnsupported => DropReason::UnsupportedType,
            _ => DropReason::MalformedLine,
        }
    }
}

/// The lines of `bytes`, without their line ends; empty lines are left out.
pub fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    core::iter::from_fn(move || {
        while !rest.is_empty() {
            let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            rest = rest.get(end + 1..).unwrap_or_default();
            if !line.is_empty() {
                return Some(line);
            }
        }
        None
    })
}

/// A decimal number of the wire: finite, or a typed error. Accepts what C's `strtod` accepts in decimal.
fn parse_float(bytes: &[u8]) -> Result<f64, ParseError> {
    if let Some(value) = parse_plain(bytes) {
        return Ok(value);
    }
    let value: f64 = fast_float2::parse(bytes).map_err(|_| ParseError::ValueMalformed)?;
    if value.is_finite() { Ok(value) } else { Err(ParseError::ValueNotFinite) }
}

/// The whole of `bytes` as a [`leading_plain`] number.
#[inline]
fn parse_plain(bytes: &[u8]) -> Option<f64> {
    leading_plain(bytes).filter(|(_, end)| *end == bytes.len()).map(|(value, _)| value)
}

/// A number as most are written, `-12.5`: up to fifteen digits and perhaps a point among them, before a comma or the
/// end; and where it ends. `None` for any other number, and for what is none.
///
/// Exact, because neither digits nor power of ten exceed what an `f64` holds and one division rounds but once
/// (Clinger, "How to read floating point numbers accurately", PLDI 1990).
#[inline]
fn leading_plain(bytes: &[u8]) -> Option<(f64, usize)> {
    const POWERS: [f64; 16] =
        [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
    const NO_POINT: usize = usize::MAX;
    let start = usize::from(bytes.first() == Some(&b'-'));
    let (mut sum, mut at, mut after_point) = (0_u64, start, NO_POINT);
    while let Some(&byte) = bytes.get(at) {
        let digit = byte.wrapping_sub(b'0');
        if digit <= 9 {
            // Past fifteen digits the sum is not used; it may wrap.
            sum = sum.wrapping_mul(10).wrapping_add(u64::from(digit));
        } else if byte == b'.' && after_point == NO_POINT {
            after_point = at + 1;
        } else if byte == b',' {
            break;
        } else {
            return None;
        }
        at += 1;
    }
    let (decimals, points) = if after_point == NO_POINT { (0, 0) } else { (at - after_point, 1) };
    if !(1..=15).contains(&(at - start - points)) {
        return None;
    }
    let value = sum as f64 / POWERS.get(decimals)?;
    Some((if start == 1 { -value } else { value }, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn lines_end_with_either_line_end() {
        let found: Vec<_> = lines(b"a\r\n\nb\nc").collect();
        assert_eq!(found, [b"a", b"b", b"c"]);
        assert_eq!(lines(b"\n\r\n").count(), 0);
    }

    proptest! {
        #[test]
        fn plain_numbers_are_exact(text in "-?[0-9]{0,9}[.]?[0-9]{0,9}") {
            if let Some(value) = parse_plain(text.as_bytes()) {
                prop_assert_eq!(value.to_bits(), text.parse::<f64>().unwrap().to_bits());
            }
        }
    }

    #[test]
    fn what_is_not_plain_is_left() {
        for text in ["", "-", ".", "-.", "1e3", "+1", "1.2.3", "1234567890123456", "nan", " 1"] {
            assert_eq!(parse_plain(text.as_bytes()), None, "{text}");
        }
        assert_eq!(
            (parse_plain(b"-12.5"), parse_plain(b".5"), parse_plain(b"5.")),
            (Some(-12.5), Some(0.5), Some(5.0))
        );
    }

    #[test]
    fn timestamps_round_down_before_the_epoch_too() {
        assert_eq!(Precision::Nanoseconds.to_ms(-1), -1);
        assert_eq!(Precision::Microseconds.to_ms(1_999), 1);
        assert_eq!(Precision::Milliseconds.to_ms(7), 7);
        assert_eq!(Precision::Seconds.to_ms(i64::MAX), i64::MAX);
    }
}
