//! What the spool remembers of each segment, and the questions it asks of all of them.
//!
//! It must never grow: one place for each segment, in borrowed memory. The hard case is order: segments are
//! reused in any order, so that age is read off the positions of their records and never off their numbers.
use vedette_common::Lane;

use super::record::Position;

/// On a free segment: it could not be read when the spool was opened, and is left alone until the next start.
pub(super) const UNREAD: u8 = 1;
/// The same, but it could be read since, and its records are known.
pub(super) const COUNTED: u8 = 2;
/// The same, and it could not be emptied either.
pub(super) const STUCK: u8 = u8::MAX;

/// One place of the index: what one segment holds. 80 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The lane of its records; none while it is free.
    pub(super) lane: Option<Lane>,
    /// Written since it was last made safe.
    pub(super) unsynced: bool,
    /// Reads that failed in a row; on a free segment 0, [`UNREAD`], [`COUNTED`] or [`STUCK`].
    pub(super) read_faults: u8,
    /// Bytes that it takes on the medium; more than `end` when something torn could not be cut off.
    pub(super) length: u32,
    /// Where the next record goes.
    pub(super) end: u32,
    /// Where the oldest record that is not acknowledged begins.
    pub(super) head: u32,
    /// Records that are not acknowledged.
    pub(super) records: u32,
    /// Records that were found damaged and counted, and would be found again, by openings of this process.
    pub(super) damaged: u32,
    /// Position of the oldest of them, or a lower bound of it.
    pub(super) first: Position,
    /// Position of the newest of them.
    pub(super) last: Position,
}

/// All places of the index.
#[derive(Debug)]
pub(super) struct Index<'m>(pub(super) &'m mut [Segment]);

impl Index<'_> {
    pub(super) fn get(&self, segment: u16) -> &Segment {
        &self.0[usize::from(segment)]
    }

    pub(super) fn get_mut(&mut self, segment: u16) -> &mut Segment {
        &mut self.0[usize::from(segment)]
    }

    pub(super) fn numbers(&self) -> core::ops::Range<u16> {
        0..self.0.len() as u16
    }

    /// Segments of `lane` that hold records.
    fn holding(&self, lane: Lane) -> impl Iterator<Item = (u16, &Segment)> {
        let all = (0..).zip(self.0.iter());
        all.filter(move |(_, segment)| segment.lane == Some(lane) && segment.records > 0)
    }

    /// The segment with the oldest records of `lane`.
    pub(super) fn oldest(&self, lane: Lane) -> Option<u16> {
        self.holding(lane).min_by_key(|(number, segment)| (segment.first, *number)).map(|(number, _)| number)
    }

    /// The segment with the oldest record of `lane` that comes after `after`.
    pub(super) fn oldest_after(&self, lane: Lane, after: Option<Position>) -> Option<u16> {
        let later = self.holding(lane).filter(|(_, segment)| after.is_none_or(|after| segment.last > after));
        later.min_by_key(|(number, segment)| (segment.first, *number)).map(|(number, _)| number)
    }

    /// The segment with the newest records of `lane`.
    pub(super) fn newest(&self, lane: Lane) -> Option<u16> {
        self.holding(lane).max_by_key(|(number, segment)| (segment.last, *number)).map(|(number, _)| number)
    }

    /// A free segment: one that takes no room on the medium if there is one; then one that could not be read
    /// when the spool was opened; and only with nothing else in use, one that could not be emptied since.
    pub(super) fn free(&self) -> Option<u16> {
        let in_use = self.0.iter().any(|segment| segment.lane.is_some());
        let usable = |segment: &Segment| segment.lane.is_none() && !(in_use && segment.read_faults == STUCK);
        let free = (0..).zip(self.0.iter()).filter(|(_, segment)| usable(segment));
        let rank = |segment: &Segment| (segment.read_faults, segment.length);
        free.min_by_key(|(number, segment)| (rank(segment), *number)).map(|(number, _)| number)
    }

    /// Whether a segment that could not be read when the spool was opened still waits for the next start.
    pub(super) fn has_set_aside(&self) -> bool {
        self.0.iter().any(|segment| segment.lane.is_none() && segment.read_faults > 0)
    }

    /// A free segment that still takes room on the medium because it could not be removed.
    pub(super) fn leftover(&self) -> Option<u16> {
        let all = (0..).zip(self.0.iter());
        let mut left = all.filter(|(_, s)| s.lane.is_none() && s.length > 0 && s.read_faults == 0);
        left.next().map(|(number, _)| number)
    }

    /// Bytes that all segments take on the medium.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|segment| u64::from(segment.length)).sum()
    }

    /// Bytes that the segments of `lane` take on the medium.
    pub(super) fn lane_bytes(&self, lane: Lane) -> u64 {
        let of_lane = self.0.iter().filter(|segment| segment.lane == Some(lane));
        of_lane.map(|segment| u64::from(segment.length)).sum()
    }

    /// Bytes of records of `lane` that are not acknowledged.
    pub(super) fn live_bytes(&self, lane: Lane) -> u64 {
        self.holding(lane).map(|(_, segment)| u64::from(segment.end.saturating_sub(segment.head))).sum()
    }

    /// Records of `lane` that are not acknowledged.
    pub(super) fn records(&self, lane: Lane) -> u64 {
        self.holding(lane).map(|(_, segment)| u64::from(segment.records)).sum()
    }
}
