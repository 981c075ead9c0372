//! Where a record is written, and what must go to make room for it.
//!
//! It must never take more of the medium than the cap, nor push out a deviation for a roll-up. The hard case
//! is a medium that refuses to free: nothing is forgotten that still stands there, the new record is dropped.
use vedette_common::{DropReason, Lane};

use super::Spool;
use super::index::{COUNTED, STUCK, Segment};
use super::record::{RecordHead, seal};
use super::storage::{Storage, StorageFault};

/// Why a record was not stored.
pub(super) enum StoreError {
    /// Nothing that may go would make room.
    NoRoom,
    /// The medium failed.
    Fault(StorageFault),
}

impl From<StorageFault> for StoreError {
    fn from(fault: StorageFault) -> Self {
        Self::Fault(fault)
    }
}

impl<S: Storage> Spool<'_, S> {
    /// Stores the record whose frame stands in the buffer; gives the reason to count when it cannot.
    pub(super) fn store(&mut self, head: &RecordHead, record_bytes: usize) -> Result<(), DropReason> {
        if self.blind.is_some() {
            return Err(DropReason::SpoolUnwritable);
        }
        let bytes = record_bytes as u32;
        let mut stored = self.write(head, bytes);
        // The medium is full although the cap is not reached: roll-ups give way to deviations here too.
        let full = matches!(stored, Err(StoreError::Fault(StorageFault::Full)));
        if full && head.lane == Lane::Deviations && self.drop_oldest(Lane::RollUps).is_ok() {
            stored = self.write(head, bytes);
        }
        stored.map_err(|error| match error {
            StoreError::NoRoom => DropReason::SpoolFull,
            StoreError::Fault(_) => DropReason::SpoolUnwritable,
        })
    }

    fn write(&mut self, head: &RecordHead, bytes: u32) -> Result<(), StoreError> {
        if let Some(torn) = self.torn {
            self.cut(torn)?;
            self.torn = None;
        }
        let segment = self.make_room(head.lane, bytes)?;
        self.cut(segment)?;
        let at = self.index.get(segment).end;
        self.reader.forget(segment);
        let record = &mut self.reader.buffer()[..bytes as usize];
        seal(record, head, segment, at);
        let written = self.storage.write(segment, at, record);
        if let Err(fault) = self.note(written) {
            // Part of it may stand there, or all. Until that is cut off nothing is written anywhere: a new
            // start would find this record twice, or behind younger ones.
            self.index.get_mut(segment).length = at + bytes;
            let cut = self.cut(segment);
            self.torn = cut.is_err().then_some(segment);
            return Err(cut.map_or(StorageFault::Broken, |()| fault).into());
        }
        self.enter(segment, head, at, bytes);
        Ok(())
    }

    /// Enters the record that was written to offset `at` of `segment` into the index.
    fn enter(&mut self, segment: u16, head: &RecordHead, at: u32, bytes: u32) {
        let place = self.index.get_mut(segment);
        if place.records == 0 {
            (place.head, place.first) = (at, head.position);
        }
        place.lane = Some(head.lane);
        place.last = head.position;
        place.records += 1;
        place.end = at + bytes;
        place.length = place.end;
        place.unsynced = true;
        place.read_faults = 0;
        self.lanes[head.lane.index()].active = Some(segment);
    }

    /// A segment that has room for `bytes` more of `lane`, after whatever had to go is gone.
    fn make_room(&mut self, lane: Lane, bytes: u32) -> Result<u16, StoreError> {
        // Each turn but the last frees a segment, and there are only so many.
        for _ in 0..=2 * self.index.numbers().end {
            let over_quota = self.over_quota(lane, bytes);
            match self.target(lane, bytes) {
                Some(segment) if !over_quota && self.fits_cap(bytes) => {
                    if self.reclaim(segment)? {
                        return Ok(segment);
                    }
                }
                _ => self.give_way(lane, over_quota)?,
            }
        }
        Err(StoreError::NoRoom)
    }

    /// Empties a segment that was set aside at the start, before its first use; gives whether it is usable.
    /// One that fails is tried again only when no other segment is in use.
    pub(super) fn reclaim(&mut self, segment: u16) -> Result<bool, StorageFault> {
        let Segment { lane, read_faults, records, .. } = *self.index.get(segment);
        if lane.is_some() || read_faults == 0 {
            return Ok(true);
        }
        let emptied = self.storage.truncate(segment, 0);
        if let Err(fault) = self.note(emptied) {
            self.index.get_mut(segment).read_faults = STUCK;
            return if read_faults == STUCK { Err(fault) } else { Ok(false) };
        }
        // What could never be read counts as one record: it was there for something.
        let records = if read_faults == COUNTED { u64::from(records) } else { 1 };
        self.counts.recovered += records;
        self.counts.dropped.add(DropReason::SpoolUnwritable, records);
        *self.index.get_mut(segment) = Segment::default();
        Ok(true)
    }

    /// The segment that would take the next record of `lane`: the active one, or a free one.
    fn target(&self, lane: Lane, bytes: u32) -> Option<u16> {
        let active = self.lanes[lane.index()].active.filter(|&segment| {
            let Segment { lane: of, end, .. } = *self.index.get(segment);
            of == Some(lane) && end.saturating_add(bytes) <= self.settings.segment_bytes
        });
        active.or_else(|| self.index.free())
    }

    fn fits_cap(&self, bytes: u32) -> bool {
        self.index.bytes() + u64::from(bytes) <= u64::from(self.settings.bytes_max)
    }

    fn over_quota(&self, lane: Lane, bytes: u32) -> bool {
        let quota = u64::from(self.settings.deviations_bytes_max);
        lane == Lane::Deviations && self.index.lane_bytes(lane) + u64::from(bytes) > quota
    }

    /// Frees one segment for a record of `lane`: what could not be removed before, then the oldest roll-ups,
    /// then, for deviations only, the oldest deviations.
    fn give_way(&mut self, lane: Lane, over_quota: bool) -> Result<(), StoreError> {
        if over_quota {
            return self.drop_oldest(lane);
        }
        if let Some(segment) = self.index.leftover() {
            let removed = self.storage.remove(segment);
            if self.note(removed).is_ok() {
                *self.index.get_mut(segment) = Segment::default();
                return Ok(());
            }
        }
        match self.drop_oldest(Lane::RollUps) {
            Err(StoreError::NoRoom) if lane == Lane::Deviations => self.drop_oldest(lane),
            result => result,
        }
    }

    /// Drops the segment with the oldest records of `lane`. When the medium does not let it go, it stays.
    fn drop_oldest(&mut self, lane: Lane) -> Result<(), StoreError> {
        let segment = self.index.oldest(lane).ok_or(StoreError::NoRoom)?;
        let removed = self.storage.remove(segment);
        self.note(removed)?;
        let dropped = u64::from(self.index.get(segment).records);
        self.counts.dropped.add(DropReason::SpoolFull, dropped);
        self.leave(segment);
        *self.index.get_mut(segment) = Segment::default();
        Ok(())
    }

    /// Drops the oldest records until a cap that was lowered holds again.
    pub(super) fn shrink_to_cap(&mut self) {
        while self.over_quota(Lane::Deviations, 0) && self.drop_oldest(Lane::Deviations).is_ok() {}
        while !self.fits_cap(0) && self.give_way(Lane::Deviations, false).is_ok() {}
    }

    /// Frees a segment whose records are all done with. The active one of its lane is emptied and stays in
    /// use, which saves the making of a new one in every window. A failure is counted; what is left over is
    /// tried again when room is needed.
    pub(super) fn release(&mut self, segment: u16) {
        let Segment { lane, length, .. } = *self.index.get(segment);
        let active = lane.filter(|lane| self.lanes[lane.index()].active == Some(segment));
        self.leave(segment);
        if let Some(lane) = active {
            *self.index.get_mut(segment) = Segment { lane: Some(lane), length, ..Segment::default() };
            self.lanes[lane.index()].active = Some(segment);
            let _ = self.cut(segment);
            return;
        }
        let removed = self.storage.remove(segment);
        let length = if self.note(removed).is_ok() { 0 } else { length };
        *self.index.get_mut(segment) = Segment { length, ..Segment::default() };
    }

    /// Nothing reads from or writes to `segment` any more.
    fn leave(&mut self, segment: u16) {
        self.reader.forget(segment);
        for state in &mut self.lanes {
            state.active = state.active.filter(|&active| active != segment);
            state.cursor = state.cursor.filter(|cursor| cursor.segment != segment);
        }
    }

    /// Cuts off whatever stands behind the last record of `segment`.
    pub(super) fn cut(&mut self, segment: u16) -> Result<(), StorageFault> {
        let Segment { length, end, .. } = *self.index.get(segment);
        if length > end {
            self.reader.forget(segment);
            let cut = self.storage.truncate(segment, end);
            self.note(cut)?;
            self.index.get_mut(segment).length = end;
        }
        Ok(())
    }
}
