//! What is on its way in one lane, and how much may be.
//!
//! It must never hold a record, only its position. The hard case is an aggregator that cannot take everything: how many
//! records may be on their way halves with each refusal for overload and grows by those acknowledged, as TCP's window
//! does (RFC 5681), so that little is sent in vain.
use heapless::Deque;
use vedette_common::limits::IN_FLIGHT_MAX;
use vedette_common::{MonoMs, RecordKey};

use super::LinkSettings;
use crate::spool::Position;

/// A record that was sent and is not acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlight {
    pub(super) position: Position,
    pub(super) frame_bytes: u32,
}

/// What is on its way in one lane.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) records: Deque<InFlight, IN_FLIGHT_MAX>,
    pub(super) bytes: u32,
    /// The last record sent, or acknowledged, since the lane last went back.
    pub(super) cursor: Option<Position>,
    /// The key that the last heartbeat named as the horizon.
    pub(super) announced: Option<RecordKey>,
    /// The newest record ever sent; what is not after it is a repetition.
    pub(super) newest: Option<Position>,
    /// When the oldest record in flight was sent, or the last acknowledgement came.
    pub(super) since: MonoMs,
    pub(super) timeouts: u32,
    pub(super) rests_until: Option<MonoMs>,
    /// When a record was last sent.
    pub(super) sent_at: MonoMs,
    /// Until when nothing but the oldest record is repeated.
    pub(super) repeats_at: Option<MonoMs>,
    /// Records that may be on their way.
    window: usize,
}

impl Default for Flight {
    fn default() -> Self {
        Self {
            records: Deque::new(),
            bytes: 0,
            cursor: None,
            announced: None,
            newest: None,
            since: MonoMs(0),
            timeouts: 0,
            rests_until: None,
            sent_at: MonoMs(0),
            repeats_at: None,
            window: IN_FLIGHT_MAX,
        }
    }
}

impl Flight {
    /// Starts over from the oldest record in the spool.
    pub(super) fn go_back(&mut self) {
        self.records.clear();
        (self.bytes, self.cursor, self.announced) = (0, None, None);
    }

    /// No acknowledgement came in time: goes back to the oldest record and repeats that alone. What was sent after it may have been sent a
    /// moment ago, and an aggregator be about to commit it, while another one that shares the broker would get the repetition: it is not
    /// repeated before its own time is up (RFC 6298 sends the earliest segment again, too).
    pub(super) fn time_out(&mut self, settings: &LinkSettings) {
        self.go_back();
        self.timeouts += 1;
        self.repeats_at = Some(self.sent_at.plus_ms(u64::from(settings.acknowledge_timeout_ms)));
    }

    /// Whether the record at `position` is to wait, for it was sent a moment ago.
    pub(super) fn is_early(&self, position: Position) -> bool {
        self.repeats_at.is_some() && self.cursor.is_some() && self.newest >= Some(position)
    }

    /// The aggregator cannot take more now: goes back, rests, and goes on more slowly.
    pub(super) fn hold_back(&mut self, until: MonoMs) {
        // The same answer may come twice; nothing was sent in between.
        if !self.records.is_empty() {
            self.window = (self.window.min(self.records.len()) / 2).max(1);
        }
        self.go_back();
        // The aggregator answered: this is no timeout.
        (self.timeouts, self.rests_until, self.repeats_at) = (0, Some(until), None);
    }

    /// Whether one more record may go.
    pub(super) fn has_room(&self, bytes_max: u32) -> bool {
        self.records.len() < self.window && self.bytes < bytes_max && self.rests_until.is_none()
    }

    /// Takes what `key` covers out of flight. `progress`: the acknowledgement was news.
    pub(super) fn settle(&mut self, now: MonoMs, key: RecordKey, progress: bool) {
        let covers = |position: Position| position.boot == key.boot && position.sequence <= key.sequence;
        while let Some(first) = self.records.front().copied().filter(|first| covers(first.position)) {
            self.records.pop_front();
            self.bytes = self.bytes.saturating_sub(first.frame_bytes);
            self.window = (self.window + 1).min(IN_FLIGHT_MAX);
        }
        if progress {
            (self.since, self.timeouts) = (now, 0);
        }
        // The aggregator is further than the lane went since it went back: go on from there.
        if let Some(cursor) = self.cursor.filter(|cursor| covers(*cursor)) {
            self.cursor = Some(Position { sequence: key.sequence, ..cursor });
        }
    }

    pub(super) fn timeout_at(&self, settings: &LinkSettings) -> Option<MonoMs> {
        let ms = u64::from(settings.acknowledge_timeout_ms) << self.timeouts.min(16);
        let ms = ms.min(u64::from(settings.retry_ms_max.max(settings.acknowledge_timeout_ms)));
        (!self.records.is_empty()).then(|| self.since.plus_ms(ms))
    }
}
