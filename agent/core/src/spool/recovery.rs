//! Opening a spool: which records earlier starts left, and how far they were acknowledged.
//!
//! It must never allocate and never read a segment more than twice. The hard case is damage in the middle:
//! what stands behind it is kept, and what is missing is read off the sequences on both sides.
use core::ops::Range;

use vedette_common::{DropReason, Lane};

use super::Spool;
use super::index::{COUNTED, Segment, UNREAD};
use super::record::{Acknowledged, Position, Record};
use super::settings::SEGMENTS_MAX;
use super::storage::{Storage, StorageFault};

/// Starts of the agent that segments which cannot be read may hide: this one is counted as so much later.
const UNREADABLE_STARTS: u32 = 1 << 16;

/// Places in the order among which such a start takes its own, by its random id.
const PLACES_APART: u32 = 1 << 20;

/// Appends that find nothing of the medium readable, one after the other, until what cannot be read is emptied.
const BLIND_OPENINGS_MAX: u8 = 64;

/// What opening a spool found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Records that wait for their acknowledgement.
    pub records: u64,
    /// Records that were torn or flipped, as far as the sequences around them tell; counted as dropped.
    pub damaged: u64,
    /// Bytes of segments that hold no whole record.
    pub damaged_bytes: u64,
    /// Segments that could not be read; they are left alone, and unused, until the next start.
    pub unreadable_segments: u16,
}

/// What a pass over a segment found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    lane: Option<Lane>,
    /// Records that are not acknowledged.
    pub(super) records: u32,
    /// The offset and position of the first of them.
    head: Option<(u32, Position)>,
    /// The newest position, acknowledged or not.
    last: Option<Position>,
    /// Where the last whole record ends.
    end: u32,
    /// The furthest acknowledgement that a header states.
    acknowledged: Acknowledged,
    /// Records missing between others.
    missing: u64,
    /// Bytes between records.
    damaged_bytes: u64,
}

impl Tally {
    /// Adds the next record; `acknowledged` is how far the lane was.
    fn add(&mut self, record: &Record, acknowledged: Acknowledged) {
        let position = record.head.position;
        let live = !acknowledged.covers(position);
        if record.span.start > self.end {
            self.damaged_bytes += u64::from(record.span.start - self.end);
            self.missing += if live { missing_before(position, self.last, acknowledged) } else { 0 };
        }
        if live {
            self.records += 1;
            self.head = self.head.or(Some((record.span.start, position)));
        }
        self.lane = Some(record.head.lane);
        self.last = Some(position);
        self.end = record.span.end;
        self.acknowledged = self.acknowledged.max(record.head.acknowledged);
    }
}

/// Records that must have stood in the damage before `position`: by the sequences since the one before it,
/// or the last acknowledged one. Without either, one.
fn missing_before(position: Position, before: Option<Position>, acknowledged: Acknowledged) -> u64 {
    let before = before.map(|before| Acknowledged { ordinal: before.ordinal, sequence: before.sequence });
    match before.max(Some(acknowledged)) {
        Some(known) if known.ordinal == position.ordinal => position.sequence.0 - known.sequence.0 - 1,
        _ => 1,
    }
}

impl<S: Storage> Spool<'_, S> {
    /// Fills the index from the storage.
    pub(super) fn recover(&mut self) {
        let count = self.index.numbers().end;
        let (mut surplus, mut settled) = (count..count, true);
        for segment in 0..SEGMENTS_MAX as u16 {
            if self.survey(segment) {
                settled &= self.make_final(segment);
                surplus.end = if segment >= count { segment + 1 } else { surplus.end };
            }
        }
        let unreadable = self.recovery.unreadable_segments > 0;
        self.blind = (unreadable && self.ordinal == 1).then_some(self.blind.unwrap_or(0));
        if unreadable || !settled {
            // Younger starts than any that could be read may hide there. Which place they took nobody can see, so this one takes one that is
            // hardly theirs: two starts in one place would be covered by each other's acknowledgements.
            let apart = (self.boot.0 % u64::from(PLACES_APART)) as u32;
            self.ordinal = self.ordinal.saturating_add(UNREADABLE_STARTS + apart);
        }
        let mut damaged = 0;
        for segment in self.index.numbers() {
            damaged += self.settle(segment);
        }
        for lane in Lane::ALL {
            self.recovery.records += self.index.records(lane);
            self.lanes[lane.index()].active = self.index.newest(lane);
        }
        self.counts.recovered += self.recovery.records + damaged;
        self.counts.dropped.add(DropReason::SpoolCorrupt, damaged);
        surplus.for_each(|segment| self.drop_surplus(segment));
        self.shrink_to_cap();
    }

    /// The first pass: order and acknowledgements of one segment. Gives whether it exists.
    fn survey(&mut self, segment: u16) -> bool {
        let length = self.storage.length(segment);
        let length = match self.note(length) {
            Ok(Some(length)) => length,
            Ok(None) => return false,
            Err(_) => {
                self.set_aside(segment, 0);
                return true;
            }
        };
        match self.tally(segment, 0..length, |_| Acknowledged::default()) {
            Ok(tally) => self.learn(segment, length, &tally),
            Err(_) => self.set_aside(segment, length),
        }
        true
    }

    /// Makes what earlier starts cut off `segment` gone for good. Else a power cut could bring it back beside records of this start, which
    /// takes the place in the order that is free by what can be seen now.
    fn make_final(&mut self, segment: u16) -> bool {
        let synced = self.storage.sync(segment);
        self.note(synced).is_ok()
    }

    /// Keeps what the first pass found in `segment`.
    fn learn(&mut self, segment: u16, length: u32, tally: &Tally) {
        if let Some(place) = self.index.0.get_mut(usize::from(segment)) {
            place.length = length;
        }
        if let Some((lane, last)) = tally.lane.zip(tally.last) {
            let state = &mut self.lanes[lane.index()];
            state.acknowledged = state.acknowledged.max(tally.acknowledged);
            self.ordinal = self.ordinal.max(last.ordinal.saturating_add(1));
        }
    }

    /// The second pass: what of one segment is still to be acknowledged. Gives the damaged records that no opening of this process has counted.
    fn settle(&mut self, segment: u16) -> u64 {
        let Segment { length, read_faults, damaged: known, .. } = *self.index.get(segment);
        if length == 0 || read_faults > 0 {
            return 0;
        }
        let acknowledged = self.lanes.map(|state| state.acknowledged);
        let Ok(tally) = self.tally(segment, 0..length, |lane| acknowledged[lane.index()]) else {
            self.set_aside(segment, length);
            return 0;
        };
        // A record was being written when the end came, or its bytes never reached the medium.
        let torn_bytes = u64::from(length.saturating_sub(tally.end));
        let damaged = tally.missing + u64::from(torn_bytes > 0);
        self.recovery.damaged += damaged;
        self.recovery.damaged_bytes += tally.damaged_bytes + torn_bytes;
        self.place(segment, tally.end, &tally);
        // The process that wrote it may have ended before it was made safe.
        self.index.get_mut(segment).unsynced = tally.records > 0;
        // A failure is counted; the torn bytes are cut before the next write.
        let _ = self.cut(segment);
        let place = self.index.get_mut(segment);
        // What is gone from the medium is not found by another opening.
        let stays = match place.length {
            0 => 0,
            left if left <= tally.end => tally.missing,
            _ => damaged,
        };
        place.damaged = u32::try_from(stays).unwrap_or(u32::MAX);
        damaged.saturating_sub(u64::from(known))
    }

    /// Counts the records of `segment` anew from its oldest on, because damage was met there; what is missing
    /// is counted as dropped.
    pub(super) fn recount(&mut self, segment: u16) -> Result<(), StorageFault> {
        let Segment { head, end, records, .. } = *self.index.get(segment);
        let tally = self.tally(segment, head..end, |_| Acknowledged::default())?;
        let lost = records.saturating_sub(tally.records);
        self.counts.dropped.add(DropReason::SpoolCorrupt, u64::from(lost));
        self.place(segment, end, &tally);
        Ok(())
    }

    /// One pass over `span` of `segment`.
    pub(super) fn tally(
        &mut self,
        segment: u16,
        span: Range<u32>,
        acknowledged: impl Fn(Lane) -> Acknowledged,
    ) -> Result<Tally, StorageFault> {
        let lane = self.index.0.get(usize::from(segment)).and_then(|place| place.lane);
        let mut tally = Tally { lane, end: span.start, ..Tally::default() };
        while let Some(record) = self.step(segment, (tally.end, span.end), tally.lane, tally.last)? {
            tally.add(&record, acknowledged(record.head.lane));
        }
        Ok(tally)
    }

    /// Writes what a pass found into the index; frees the segment when nothing in it is left to send.
    pub(super) fn place(&mut self, segment: u16, end: u32, tally: &Tally) {
        let place = self.index.get_mut(segment);
        place.end = end;
        place.lane = tally.lane;
        place.records = tally.records;
        match (tally.head, tally.last) {
            (Some((head, first)), Some(last)) => (place.head, place.first, place.last) = (head, first, last),
            _ => self.release(segment),
        }
    }

    /// Leaves a segment alone that could not be read.
    fn set_aside(&mut self, segment: u16, length: u32) {
        self.recovery.unreadable_segments += 1;
        if let Some(place) = self.index.0.get_mut(usize::from(segment)) {
            let damaged = place.damaged;
            *place = Segment { length, end: length, read_faults: UNREAD, damaged, ..Segment::default() };
        }
    }

    /// Opens anew a medium of which nothing could be read: to write there before would put this start before earlier
    /// ones in the order, whose acknowledgements would then cover its records.
    fn reopen(&mut self, openings: u8) {
        // A blind spool holds no record, so nothing was recovered but what was damaged, and that is not to be counted again.
        self.index
            .0
            .iter_mut()
            .for_each(|place| *place = Segment { damaged: place.damaged, ..Segment::default() });
        self.recovery = Recovery::default();
        self.ordinal = 1;
        self.recover();
        if self.blind.is_some() {
            self.blind = Some(openings.saturating_add(1));
            let unreadable = self.recovery.unreadable_segments;
            // A medium that takes changes and still does not give those segments back has lost them. One that is not
            // even to be emptied, as a folder in the place of a file, stays set aside.
            let lost =
                |spool: &mut Self| (0..unreadable).all(|_| spool.reclaim_any()) || spool.takes_changes();
            if openings >= BLIND_OPENINGS_MAX && lost(self) {
                self.blind = None;
            }
        }
    }

    /// Empties a segment that was set aside; gives whether that went well.
    fn reclaim_any(&mut self) -> bool {
        let mut set_aside = self.index.numbers().filter(|&segment| self.index.get(segment).read_faults > 0);
        set_aside.next().is_some_and(|segment| matches!(self.reclaim(segment), Ok(true)))
    }

    /// Whether a segment that nobody uses can be written and emptied.
    fn takes_changes(&mut self) -> bool {
        let unused = |segment: &u16| {
            self.index.get(*segment).lane.is_none() && self.index.get(*segment).read_faults == 0
        };
        let Some(segment) = self.index.numbers().find(unused) else { return false };
        let written = self.storage.write(segment, 0, &[0]);
        let emptied = self.storage.truncate(segment, 0);
        self.note(written).is_ok() && self.note(emptied).is_ok()
    }

    /// Looks again at segments that were set aside, so that their records are counted should they have to go; until then
    /// they wait for the next start, for the link is past their place in the order.
    pub(super) fn look_again(&mut self) {
        if let Some(openings) = self.blind {
            return self.reopen(openings);
        }
        let acknowledged = self.lanes.map(|state| state.acknowledged);
        for segment in self.index.numbers() {
            let Segment { lane, read_faults, length, .. } = *self.index.get(segment);
            if lane.is_some() || read_faults != UNREAD {
                continue;
            }
            if let Ok(tally) = self.tally(segment, 0..length, |lane| acknowledged[lane.index()]) {
                let place = self.index.get_mut(segment);
                (place.read_faults, place.records) = (COUNTED, tally.records);
            }
        }
    }

    /// Removes a segment over a cap that was lowered; its records are counted as recovered and dropped.
    fn drop_surplus(&mut self, segment: u16) {
        let length = self.storage.length(segment);
        let Ok(Some(length)) = self.note(length) else { return };
        let acknowledged = self.lanes.map(|state| state.acknowledged);
        let tally = self.tally(segment, 0..length, |lane| acknowledged[lane.index()]).unwrap_or_default();
        let removed = self.storage.remove(segment);
        if self.note(removed).is_ok() {
            self.counts.recovered += u64::from(tally.records);
            self.counts.dropped.add(DropReason::SpoolFull, u64::from(tally.records));
        }
    }
}
