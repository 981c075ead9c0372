//! The spool: records that wait for their acknowledgement, on a medium that may fail, in bounded memory.
//!
//! It must never lose a record without a count: appended + recovered = acknowledged + spooled + dropped holds
//! at any moment. The hard case is a medium that fills up, turns read-only or breaks in the middle of a
//! write: new records are dropped with a reason, what is spooled stays, and the next append tries again.
//!
//! Records stand in segments of fixed size ([`record`] has the byte layout), each of one lane. A segment is
//! freed as a whole when all of its records are acknowledged. How far a lane was acknowledged stands in the
//! header of every later record of that lane, so that it costs no write of its own: after a kill at most the
//! acknowledgements since the lane's last append are forgotten, never more than one segment's, and those
//! records are sent again for the aggregator to recognise.
//!
//! Room is made a segment at a time: the oldest roll-ups go first, then, over their own quota or with no
//! roll-ups left, the oldest deviations. Roll-ups never push out deviations.
mod acknowledge;
mod index;
mod memory;
mod reader;
pub mod record;
mod recovery;
mod room;
mod settings;
mod storage;

use core::ops::Range;

use vedette_common::{BootId, DropCounts, DropReason, Lane, MonoMs, RecordKey, Sequence};

use index::Index;
pub use index::Segment;
pub use memory::{MemoryError, MemoryStorage};
use reader::Reader;
pub use record::Position;
use record::{Acknowledged, RECORD_HEADER_BYTES, Record, RecordHead};
pub use recovery::Recovery;
pub use settings::{SEGMENTS_MAX, SettingsError, SpoolSettings, SyncPolicy};
pub use storage::{Storage, StorageFault};

/// Reads of one segment that may fail in a row before its records are given up.
pub const READ_FAULTS_MAX: u8 = 8;

/// The memory that a spool works in; [`SpoolSettings::memory_bytes`] in all.
#[derive(Debug)]
pub struct SpoolMemory<'m> {
    /// [`SpoolSettings::segments`] places.
    pub segments: &'m mut [Segment],
    /// [`SpoolSettings::buffer_bytes`] bytes.
    pub buffer: &'m mut [u8],
}

/// What happened to the records of a spool since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpoolCounts {
    /// Records that were given a key, those included that the medium did not take.
    pub appended: u64,
    /// Records found when the spool was opened, those included that turned out to be damaged.
    pub recovered: u64,
    /// Records that the aggregator acknowledged.
    pub acknowledged: u64,
    /// Records dropped, by reason.
    pub dropped: DropCounts,
    /// Failures of the medium, by [`StorageFault::index`].
    pub faults: [u64; StorageFault::ALL.len()],
}

/// One record to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spooled<'a> {
    /// Its place in the order of its lane; what to continue after.
    pub position: Position,
    /// The key under which it is delivered.
    pub key: RecordKey,
    /// Its frame.
    pub frame: &'a [u8],
}

/// Why nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError<E: core::error::Error + 'static> {
    /// The frame could not be written into the buffer. No key was used up and nothing was counted.
    #[error("the record's frame could not be made")]
    Frame(#[source] E),
    /// The frame is empty or longer than was room for. No key was used up and nothing was counted.
    #[error("a frame of {0} bytes does not fit a record")]
    FrameBytes(usize),
    /// The medium did not take the record; it is counted as dropped under the reason. Its key is used up, so
    /// that the aggregator sees the gap.
    #[error("record {} of {} was dropped: {}", key.sequence.0, key.lane.as_str(), reason.as_str())]
    Dropped {
        /// The key that was used up.
        key: RecordKey,
        /// The reason it is counted under.
        reason: DropReason,
    },
}

/// An acknowledgement of records that were never made: the peer is confused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("acknowledged sequence {} of {}, but the last one made is {last}", key.sequence.0, key.lane.as_str())]
pub struct AcknowledgeError {
    /// The key that was acknowledged.
    pub key: RecordKey,
    /// The last sequence of that lane.
    pub last: u64,
}

/// What is remembered of a lane.
#[derive(Clone, Copy, Debug)]
struct LaneState {
    next: Sequence,
    /// The segment that takes the next record, if it has room.
    active: Option<u16>,
    acknowledged: Acknowledged,
    cursor: Option<Cursor>,
}

/// The record that was given last, in `segment`: asked for it again, or for what follows, reading begins here.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    segment: u16,
    /// What it was asked for as coming after.
    after: Option<Position>,
    start: u32,
    position: Position,
    end: u32,
}

impl Cursor {
    /// Where to begin reading for what comes after `after`, if this is of help.
    fn begin(&self, after: Option<Position>) -> Option<u32> {
        let again = (self.after == after).then_some(self.start);
        again.or((after == Some(self.position)).then_some(self.end))
    }
}

/// Records in two lanes on a [`Storage`]; see the module.
#[derive(Debug)]
pub struct Spool<'m, S: Storage> {
    storage: S,
    settings: SpoolSettings,
    index: Index<'m>,
    reader: Reader<'m>,
    boot: BootId,
    ordinal: u32,
    lanes: [LaneState; 2],
    counts: SpoolCounts,
    recovery: Recovery,
    synced_at: MonoMs,
    /// Nothing of the medium could be read when it was opened; how often that was tried.
    blind: Option<u8>,
    /// Where a write failed and what it left could not be cut off yet.
    torn: Option<u16>,
    last_error: Option<S::Error>,
}

impl<'m, S: Storage> Spool<'m, S> {
    /// Opens the spool on `storage` and recovers the records that earlier starts left, in two passes over the
    /// segments. `boot` is this start. A medium that fails here is no error: what cannot be read is counted
    /// ([`recovery`](Self::recovery)), and appends try again.
    ///
    /// # Errors
    /// [`SettingsError`] when the settings contradict each other or `memory` is too small for them.
    pub fn open(
        storage: S,
        settings: SpoolSettings,
        memory: SpoolMemory<'m>,
        boot: BootId,
    ) -> Result<Self, SettingsError> {
        settings.check()?;
        let (segments, buffer_bytes) = (settings.segments(), settings.buffer_bytes());
        let too_small = SettingsError::Memory { segments, buffer_bytes };
        let SpoolMemory { segments: places, buffer } = memory;
        let places = places.get_mut(..segments).ok_or(too_small)?;
        let buffer = buffer.get_mut(..buffer_bytes).ok_or(too_small)?;
        places.fill(Segment::default());
        let lane = LaneState {
            next: Sequence(1),
            active: None,
            acknowledged: Acknowledged::default(),
            cursor: None,
        };
        let mut spool = Self {
            storage,
            settings,
            index: Index(places),
            reader: Reader::new(buffer),
            boot,
            ordinal: 1,
            lanes: [lane; 2],
            counts: SpoolCounts::default(),
            recovery: Recovery::default(),
            synced_at: MonoMs(0),
            blind: None,
            torn: None,
            last_error: None,
        };
        spool.recover();
        Ok(spool)
    }

    /// Appends one record to `lane`. `write` gets its key and a buffer of `frame_bytes_max` bytes, and gives
    /// the length of the frame that it wrote to the buffer's beginning.
    ///
    /// # Errors
    /// [`AppendError`]; only [`AppendError::Dropped`] is a dropped record, and it is counted already.
    pub fn append<E: core::error::Error>(
        &mut self,
        lane: Lane,
        write: impl FnOnce(RecordKey, &mut [u8]) -> Result<usize, E>,
    ) -> Result<RecordKey, AppendError<E>> {
        self.look_again();
        let state = &self.lanes[lane.index()];
        let position = Position { ordinal: self.ordinal, sequence: state.next, boot: self.boot };
        let head = RecordHead { lane, position, acknowledged: state.acknowledged };
        let key = position.key(lane);
        let frame = &mut self.reader.buffer()[RECORD_HEADER_BYTES..];
        let room = frame.len();
        let frame_bytes = write(key, frame).map_err(AppendError::Frame)?;
        if frame_bytes == 0 || frame_bytes > room {
            return Err(AppendError::FrameBytes(frame_bytes));
        }
        self.lanes[lane.index()].next = position.sequence.next();
        self.counts.appended += 1;
        self.store(&head, RECORD_HEADER_BYTES + frame_bytes).map_err(|reason| {
            self.counts.dropped.add(reason, 1);
            AppendError::Dropped { key, reason }
        })?;
        Ok(key)
    }

    /// The oldest record of `lane` that comes after `after`, or the oldest of all. Reading on from the record
    /// that was given last costs one read; any other place, a pass over one segment at most.
    ///
    /// # Errors
    /// The kind of failure when the medium cannot be read; try again later. After [`READ_FAULTS_MAX`]
    /// failures in a row a segment is given up and its records are counted as dropped.
    pub fn next(&mut self, lane: Lane, after: Option<Position>) -> Result<Option<Spooled<'_>>, StorageFault> {
        // A segment without a record after `after` shrinks when it is counted anew: one turn for each is enough.
        for _ in 0..=self.index.numbers().end {
            let Some(segment) = self.index.oldest_after(lane, after) else { break };
            let found = self.find_after(segment, after);
            self.judge_segment(segment, found.is_ok());
            let Some(record) = found? else {
                self.recount(segment)?;
                continue;
            };
            let position = record.head.position;
            let Range { start, end } = record.span;
            let cursor = Cursor { segment, after, start, position, end };
            self.lanes[lane.index()].cursor = Some(cursor);
            let frame = self.reader.bytes(&record.frame_span());
            return Ok(Some(Spooled { position, key: position.key(lane), frame }));
        }
        Ok(None)
    }

    /// Frees every record of the key's boot and lane through its sequence, and gives their number: 0 for what
    /// was acknowledged before, or belongs to a later boot than the oldest record (it will be acknowledged
    /// again when its turn comes).
    ///
    /// # Errors
    /// [`AcknowledgeError`] for records that this start has not made yet; nothing changes.
    pub fn acknowledge(&mut self, key: RecordKey) -> Result<u64, AcknowledgeError> {
        let freed = self.free_through(key)?;
        self.counts.acknowledged += freed.records;
        Ok(freed.records)
    }

    /// The aggregator refused the record under `key` for good: it counts as dropped, and what came before it
    /// in its boot and lane as acknowledged. Gives whether the record was still spooled.
    ///
    /// # Errors
    /// As [`acknowledge`](Self::acknowledge).
    pub fn refuse(&mut self, key: RecordKey) -> Result<bool, AcknowledgeError> {
        let freed = self.free_through(key)?;
        self.counts.acknowledged += freed.records - u64::from(freed.reached_key);
        self.counts.dropped.add(DropReason::Refused, u64::from(freed.reached_key));
        Ok(freed.reached_key)
    }

    /// The key below which nothing of `lane` will come any more; none when the lane is empty.
    pub fn horizon(&self, lane: Lane) -> Option<RecordKey> {
        let oldest = self.index.oldest(lane)?;
        Some(self.index.get(oldest).first.key(lane))
    }

    /// Records of `lane` that wait for their acknowledgement.
    pub fn records(&self, lane: Lane) -> u64 {
        self.index.records(lane)
    }

    /// Bytes of the records of `lane` that wait for their acknowledgement.
    pub fn live_bytes(&self, lane: Lane) -> u64 {
        self.index.live_bytes(lane)
    }

    /// Bytes that all segments take on the medium; at most `bytes_max`, unless the medium refuses to free.
    pub fn bytes(&self) -> u64 {
        self.index.bytes()
    }

    /// What happened to the records since the spool was opened.
    pub const fn counts(&self) -> &SpoolCounts {
        &self.counts
    }

    /// What opening found.
    pub const fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// This start of the agent.
    pub const fn boot(&self) -> BootId {
        self.boot
    }

    /// The last failure of the medium in its own terms, once: for the log.
    pub const fn take_error(&mut self) -> Option<S::Error> {
        self.last_error.take()
    }

    /// Gives the storage and the memory back, for opening it again. Records stay where they are.
    pub fn into_parts(self) -> (S, SpoolMemory<'m>) {
        (self.storage, SpoolMemory { segments: self.index.0, buffer: self.reader.into_buffer() })
    }

    /// A window was closed and its records were appended: makes them safe where the policy asks for that.
    pub fn handle_window_closed(&mut self, now: MonoMs) {
        if self.settings.sync == SyncPolicy::EachWindow {
            self.sync(now);
        }
    }

    /// Does what is due; see [`poll_deadline`](Self::poll_deadline).
    pub fn handle_deadline(&mut self, now: MonoMs) {
        if self.poll_deadline().is_some_and(|due| due <= now) {
            self.sync(now);
        }
    }

    /// When records must next be made safe from a power cut; none when nothing waits for that.
    pub fn poll_deadline(&self) -> Option<MonoMs> {
        let SyncPolicy::Interval { ms } = self.settings.sync else { return None };
        let waits = self.index.0.iter().any(|segment| segment.unsynced);
        waits.then(|| self.synced_at.plus_ms(u64::from(ms)))
    }

    /// Makes every record safe from a power cut now, as before a stop. Failures are counted; what failed is
    /// tried again the next time.
    pub fn sync(&mut self, now: MonoMs) {
        self.synced_at = now;
        for segment in self.index.numbers() {
            if self.index.get(segment).unsynced {
                let synced = self.storage.sync(segment);
                let failed = self.note(synced).is_err();
                self.index.get_mut(segment).unsynced = failed;
            }
        }
    }

    /// Counts a failure of the medium and keeps it for the log.
    fn note<T>(&mut self, result: Result<T, S::Error>) -> Result<T, StorageFault> {
        result.map_err(|error| {
            let fault = S::fault(&error);
            self.counts.faults[fault.index()] += 1;
            self.last_error = Some(error);
            fault
        })
    }

    /// The first record of `segment` between `at` and `end` that is in `lane` and comes after `previous`.
    fn step(
        &mut self,
        segment: u16,
        (mut at, end): (u32, u32),
        lane: Option<Lane>,
        previous: Option<Position>,
    ) -> Result<Option<Record>, StorageFault> {
        loop {
            let found = self.reader.find(&mut self.storage, segment, at, end);
            let Some(record) = self.note(found)? else { return Ok(None) };
            let in_lane = lane.is_none_or(|lane| lane == record.head.lane);
            if in_lane && previous.is_none_or(|previous| record.head.position > previous) {
                return Ok(Some(record));
            }
            at = record.span.end;
        }
    }

    /// The first record of `segment` after `after`. Damage on the way is counted.
    fn find_after(&mut self, segment: u16, after: Option<Position>) -> Result<Option<Record>, StorageFault> {
        let Segment { lane, head, end, .. } = *self.index.get(segment);
        let cursor = lane.and_then(|lane| self.lanes[lane.index()].cursor);
        let cursor = cursor.filter(|cursor| cursor.segment == segment && cursor.start >= head);
        let mut at = cursor.and_then(|cursor| cursor.begin(after)).unwrap_or(head);
        let mut previous = None;
        loop {
            let Some(record) = self.step(segment, (at, end), lane, previous)? else { return Ok(None) };
            if record.span.start > at {
                self.recount(segment)?;
            }
            if after.is_none_or(|after| record.head.position > after) {
                // Counting anew may have moved the buffer; this brings the record back into it.
                return self.step(segment, (record.span.start, end), lane, None);
            }
            previous = Some(record.head.position);
            at = record.span.end;
        }
    }

    /// Remembers whether `segment` could be read, and gives its records up when it could not for too long.
    fn judge_segment(&mut self, segment: u16, readable: bool) {
        let place = self.index.get_mut(segment);
        place.read_faults = if readable { 0 } else { place.read_faults.saturating_add(1) };
        if place.read_faults >= READ_FAULTS_MAX {
            let records = u64::from(place.records);
            self.counts.dropped.add(DropReason::SpoolUnwritable, records);
            self.release(segment);
        }
    }
}
