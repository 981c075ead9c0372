//! The reasons why something was not kept. Nothing is dropped without one of these and a count.
//!
//! It must never lose a reason's meaning: names and places in arrays are part of the wire format, so new
//! reasons go at the end. The hard case is a peer that reports a reason this build does not know yet; it
//! keeps its number and is counted by number.

/// What a reason counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropUnit {
    /// One value of one series (or one unreadable line, datagram or connection that held some).
    Observation,
    /// One record of the spool: a summary.
    Record,
    /// One frame on the wire.
    Frame,
}

/// Why an observation, a record or a frame was dropped. The number is stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// A line or a part of it that the format does not allow.
    MalformedLine = 0,
    /// Bytes that are not UTF-8.
    NotUtf8 = 1,
    /// A line over `LINE_BYTES_MAX`, cut off and thrown away up to its end.
    LineTooLong = 2,
    /// NaN, an infinity, or a number too large for a 64-bit float.
    NotFinite = 3,
    /// An event time absurdly far in the past or in the future.
    TimestampOutOfRange = 4,
    /// A name or a tag's value over `NAME_BYTES_MAX`, or a tag set over `TAG_SET_BYTES_MAX`.
    NameTooLong = 5,
    /// More tags than `TAGS_MAX`.
    TooManyTags = 6,
    /// A kind of value that has no meaning as a number over time: string fields, StatsD sets.
    UnsupportedType = 7,
    /// An observation for a window that was closed already.
    Late = 8,
    /// No room for another cell or metric in the open window.
    CellLimit = 9,
    /// A source delivered faster than the scoring took it; counted in datagrams or chunks.
    SourceBacklog = 10,
    /// A connection over the limit of a source.
    ConnectionLimit = 11,
    /// More deviations at once than the pending queue holds; ongoing ones go first.
    DeviationLimit = 12,
    /// More closed windows pending than the queue holds.
    RollUpLimit = 13,
    /// The oldest record of a lane made room under the hard cap.
    SpoolFull = 14,
    /// A spool record whose bytes were torn or flipped.
    SpoolCorrupt = 15,
    /// The disk refused: full, read-only, or broken.
    SpoolUnwritable = 16,
    /// The aggregator refused the record for good.
    Refused = 17,
    /// A frame that does not begin with the magic.
    BadMagic = 18,
    /// A frame of a version that this program does not know.
    UnknownVersion = 19,
    /// A frame of an unknown kind, or of one that this side does not take.
    UnknownKind = 20,
    /// A frame over `FRAME_BYTES_MAX`.
    FrameTooLong = 21,
    /// A frame that ended before its length.
    FrameTruncated = 22,
    /// A frame whose crc32c does not match.
    BadChecksum = 23,
    /// A payload that does not decode: bad values, lengths over a limit, trailing bytes.
    BadPayload = 24,
    /// A summary for a region that the agent's certificate does not name.
    RegionForbidden = 25,
    /// A summary whose window lies absurdly far in the past or the future.
    WindowOutOfRange = 26,
    /// A second observation of a series for the same event time; the first one counts.
    Duplicate = 27,
    /// No room for another series: counted in the overflow series of its cell instead of being scored.
    SeriesLimit = 28,
    /// The first value of a counter, and the first after it began anew: there is no rate yet.
    CounterStart = 29,
}

impl DropReason {
    /// Every reason, in the order of its number.
    pub const ALL: [Self; 30] = [
        Self::MalformedLine,
        Self::NotUtf8,
        Self::LineTooLong,
        Self::NotFinite,
        Self::TimestampOutOfRange,
        Self::NameTooLong,
        Self::TooManyTags,
        Self::UnsupportedType,
        Self::Late,
        Self::CellLimit,
        Self::SourceBacklog,
        Self::ConnectionLimit,
        Self::DeviationLimit,
        Self::RollUpLimit,
        Self::SpoolFull,
        Self::SpoolCorrupt,
        Self::SpoolUnwritable,
        Self::Refused,
        Self::BadMagic,
        Self::UnknownVersion,
        Self::UnknownKind,
        Self::FrameTooLong,
        Self::FrameTruncated,
        Self::BadChecksum,
        Self::BadPayload,
        Self::RegionForbidden,
        Self::WindowOutOfRange,
        Self::Duplicate,
        Self::SeriesLimit,
        Self::CounterStart,
    ];

    /// The name in metrics, logs and reports: `snake_case`, stable.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MalformedLine => "malformed_line",
            Self::NotUtf8 => "not_utf8",
            Self::LineTooLong => "line_too_long",
            Self::NotFinite => "not_finite",
            Self::TimestampOutOfRange => "timestamp_out_of_range",
            Self::NameTooLong => "name_too_long",
            Self::TooManyTags => "too_many_tags",
            Self::UnsupportedType => "unsupported_type",
            Self::Late => "late",
            Self::CellLimit => "cell_limit",
            Self::SourceBacklog => "source_backlog",
            Self::ConnectionLimit => "connection_limit",
            Self::DeviationLimit => "deviation_limit",
            Self::RollUpLimit => "roll_up_limit",
            Self::SpoolFull => "spool_full",
            Self::SpoolCorrupt => "spool_corrupt",
            Self::SpoolUnwritable => "spool_unwritable",
            Self::Refused => "refused",
            Self::BadMagic => "bad_magic",
            Self::UnknownVersion => "unknown_version",
            Self::UnknownKind => "unknown_kind",
            Self::FrameTooLong => "frame_too_long",
            Self::FrameTruncated => "frame_truncated",
            Self::BadChecksum => "bad_checksum",
            Self::BadPayload => "bad_payload",
            Self::RegionForbidden => "region_forbidden",
            Self::WindowOutOfRange => "window_out_of_range",
            Self::Duplicate => "duplicate",
            Self::SeriesLimit => "series_limit",
            Self::CounterStart => "counter_start",
        }
    }

    /// What one count of this reason stands for.
    pub const fn unit(self) -> DropUnit {
        match self as usize {
            0..=11 | 27..=29 => DropUnit::Observation,
            12..=17 => DropUnit::Record,
            _ => DropUnit::Frame,
        }
    }

    /// The place in [`ALL`](Self::ALL) and in [`DropCounts`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// A count for each reason. Counts saturate. 8 bytes a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropCounts([u64; DropReason::ALL.len()]);

impl Default for DropCounts {
    fn default() -> Self {
        Self::new()
    }
}

impl DropCounts {
    /// All counts at zero.
    pub const fn new() -> Self {
        Self([0; DropReason::ALL.len()])
    }

    /// Adds `n` under `reason`.
    pub const fn add(&mut self, reason: DropReason, n: u64) {
        self.0[reason.index()] = self.0[reason.index()].saturating_add(n);
    }

    /// The count under `reason`.
    pub const fn get(&self, reason: DropReason) -> u64 {
        self.0[reason.index()]
    }

    /// Every reason with its count, zeros included, in the order of the numbers.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason, self.get(reason)))
    }

    /// The sum of the counts whose reason counts `unit`.
    pub fn total(&self, unit: DropUnit) -> u64 {
        self.iter().filter(|(reason, _)| reason.unit() == unit).fold(0, |sum, (_, n)| sum.saturating_add(n))
    }

    /// Adds every count of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (reason, n) in other.iter() {
            self.add(reason, n);
        }
    }
}

// A heartbeat can report every reason there is.
const _: () = assert!(DropReason::ALL.len() <= crate::limits::DROP_REASONS_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_names_and_units_agree() {
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
            let name = reason.as_str();
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{name}"
            );
            assert_eq!(DropReason::ALL.iter().filter(|other| other.as_str() == name).count(), 1);
        }
        assert_eq!(DropReason::ConnectionLimit.unit(), DropUnit::Observation);
        assert_eq!(DropReason::DeviationLimit.unit(), DropUnit::Record);
        assert_eq!(DropReason::Refused.unit(), DropUnit::Record);
        assert_eq!(DropReason::BadMagic.unit(), DropUnit::Frame);
    }

    #[test]
    fn counts_add_up_and_saturate() {
        let mut counts = DropCounts::new();
        counts.add(DropReason::Late, 2);
        counts.add(DropReason::NotUtf8, u64::MAX);
        counts.add(DropReason::NotUtf8, 1);
        counts.add(DropReason::SpoolFull, 5);
        assert_eq!(counts.total(DropUnit::Record), 5);
        assert_eq!(counts.get(DropReason::NotUtf8), u64::MAX);
        let mut sum = counts;
        sum.merge(&counts);
        assert_eq!(sum.get(DropReason::Late), 4);
    }
}
