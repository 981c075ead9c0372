//! What an acknowledgement frees.
//!
//! It must never free a record that the acknowledgement does not cover. The hard case is one that ends inside
//! a segment: its records are walked from the oldest on, and a medium that fails on the way leaves the index
//! at the last place that is sure.
use vedette_common::RecordKey;

use super::index::Segment;
use super::record::{Acknowledged, Position};
use super::storage::{Storage, StorageFault};
use super::{AcknowledgeError, Spool};

/// What was freed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Freed {
    /// Records.
    pub(super) records: u64,
    /// Whether the record under the acknowledged key itself was among them.
    pub(super) reached_key: bool,
}

impl<S: Storage> Spool<'_, S> {
    /// Frees the records that an acknowledgement of `key` covers.
    pub(super) fn free_through(&mut self, key: RecordKey) -> Result<Freed, AcknowledgeError> {
        let mut freed = Freed::default();
        let last = self.lanes[key.lane.index()].next.0 - 1;
        if key.boot == self.boot && key.sequence.0 > last {
            return Err(AcknowledgeError { key, last });
        }
        let Some(oldest) = self.index.oldest(key.lane) else { return Ok(freed) };
        let Position { ordinal, boot, sequence } = self.index.get(oldest).first;
        if boot != key.boot || key.sequence < sequence {
            return Ok(freed);
        }
        let through = Acknowledged { ordinal, sequence: key.sequence };
        if !self.index.has_set_aside() {
            // Written into headers, it would cover the older records that could not be read, too.
            self.lanes[key.lane.index()].acknowledged = through;
        }
        while let Some(segment) = self.index.oldest(key.lane) {
            let Segment { first, last, records, .. } = *self.index.get(segment);
            if !through.covers(first) {
                break;
            }
            if through.covers(last) {
                freed.records += u64::from(records);
                freed.reached_key = last.key(key.lane) == key;
                self.release(segment);
                continue;
            }
            if let Ok(advanced) = self.advance(segment, through) {
                freed.records += advanced.records;
                freed.reached_key = advanced.reached_key;
            }
            break;
        }
        Ok(freed)
    }

    /// Frees the records of `segment` that `through` covers; there are some that it does not. A failure to
    /// read changes nothing: the records will be sent and acknowledged again.
    fn advance(&mut self, segment: u16, through: Acknowledged) -> Result<Freed, StorageFault> {
        let Segment { lane, end, head, .. } = *self.index.get(segment);
        let (mut at, mut last, mut records) = (head, None, 0);
        loop {
            let record = self.step(segment, (at, end), lane, last)?;
            let Some(record) = record.filter(|record| record.span.start == at) else {
                return self.advance_through_damage(segment, through);
            };
            let position = record.head.position;
            if !through.covers(position) {
                let place = self.index.get_mut(segment);
                (place.head, place.first) = (at, position);
                place.records = place.records.saturating_sub(records);
                let reached_key = last.is_some_and(|last: Position| last.sequence == through.sequence);
                return Ok(Freed { records: u64::from(records), reached_key });
            }
            records += 1;
            (at, last) = (record.span.end, Some(position));
        }
    }

    /// The same when damage is met on the way: all that is left of the segment is counted anew, and what is
    /// missing counts as dropped, delivered or not.
    fn advance_through_damage(&mut self, segment: u16, through: Acknowledged) -> Result<Freed, StorageFault> {
        self.recount(segment)?;
        let Segment { head, end, records, .. } = *self.index.get(segment);
        let tally = self.tally(segment, head..end, |_| through)?;
        self.place(segment, end, &tally);
        Ok(Freed { records: u64::from(records.saturating_sub(tally.records)), reached_key: false })
    }
}
