//! Received bytes to observations: line protocol and StatsD, both without copying and without allocating.
//!
//! It must never panic, whatever the bytes, and never guess: what is wrong gets a typed error, and the good
//! part of a line is kept. The hard case is speed together with escapes, so text is borrowed from the
//! input, and only a name that holds a backslash is rewritten, into a bounded buffer of the caller.
pub mod line_protocol;
pub(crate) mod number;
pub(crate) mod plain;
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
            let line = next_line(&mut rest);
            if !line.is_empty() {
                return Some(line);
            }
        }
        None
    })
}

/// Takes one line off `rest`; without its line end it may be empty.
pub(crate) fn next_line<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
    let line = &rest[..end];
    *rest = rest.get(end + 1..).unwrap_or_default();
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn lines_end_with_either_line_end() {
        let found: Vec<_> = lines(b"a\r\n\nb\nc").collect();
        assert_eq!(found, [b"a", b"b", b"c"]);
        assert_eq!(lines(b"\n\r\n").count(), 0);
    }

    #[test]
    fn timestamps_round_down_before_the_epoch_too() {
        assert_eq!(Precision::Nanoseconds.to_ms(-1), -1);
        assert_eq!(Precision::Microseconds.to_ms(1_999), 1);
        assert_eq!(Precision::Milliseconds.to_ms(7), 7);
        assert_eq!(Precision::Seconds.to_ms(i64::MAX), i64::MAX);
    }
}
