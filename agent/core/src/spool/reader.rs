//! Reads records out of segments through one buffer of fixed size.
//!
//! It must never read more than the buffer holds at once. The hard case is a segment full of damage: each
//! refill begins behind what was searched already, so that one pass over a segment is one pass.
use core::ops::Range;

use super::record::{Record, Search, search};
use super::storage::Storage;

/// A buffer of one record, and which bytes of which segment it holds.
#[derive(Debug)]
pub(super) struct Reader<'m> {
    buffer: &'m mut [u8],
    segment: u16,
    at: u32,
    held: usize,
}

impl<'m> Reader<'m> {
    pub(super) const fn new(buffer: &'m mut [u8]) -> Self {
        Self { buffer, segment: 0, at: 0, held: 0 }
    }

    /// The whole buffer, for writing a record into; what was read before is gone.
    pub(super) const fn buffer(&mut self) -> &mut [u8] {
        self.held = 0;
        self.buffer
    }

    /// Gives the buffer back.
    pub(super) const fn into_buffer(self) -> &'m mut [u8] {
        self.buffer
    }

    /// Forgets what was read of `segment`, because it changes.
    pub(super) const fn forget(&mut self, segment: u16) {
        if self.segment == segment {
            self.held = 0;
        }
    }

    /// The first whole record of `segment` between `at` and `end`.
    pub(super) fn find<S: Storage>(
        &mut self,
        storage: &mut S,
        segment: u16,
        mut at: u32,
        end: u32,
    ) -> Result<Option<Record>, S::Error> {
        while at < end {
            if !self.holds(segment, at) {
                self.fill(storage, segment, at, end)?;
            }
            let skipped = (at - self.at) as usize;
            // A refill that ends early, before `end`, holds all that there is.
            let last = self.at + self.held as u32 >= end || self.held < self.buffer.len();
            match search(segment, at, &self.buffer[skipped..self.held], last) {
                Search::Found(record) => return Ok(Some(record)),
                Search::End => return Ok(None),
                // A full buffer did not hold it: no record of this spool is that long.
                Search::ReadOn(on) if on == self.at => at = on + 1,
                Search::ReadOn(on) => {
                    self.fill(storage, segment, on, end)?;
                    at = on;
                }
            }
        }
        Ok(None)
    }

    /// The bytes of the segment in `span`, which [`find`](Self::find) gave last.
    pub(super) fn bytes(&self, span: &Range<u32>) -> &[u8] {
        let start = span.start.saturating_sub(self.at) as usize;
        let end = span.end.saturating_sub(self.at) as usize;
        self.buffer.get(start..end.min(self.held)).unwrap_or(&[])
    }

    fn holds(&self, segment: u16, at: u32) -> bool {
        self.segment == segment && self.held > 0 && at >= self.at && at < self.at + self.held as u32
    }

    fn fill<S: Storage>(&mut self, storage: &mut S, segment: u16, at: u32, end: u32) -> Result<(), S::Error> {
        let wanted = self.buffer.len().min(end.saturating_sub(at) as usize);
        self.held = 0;
        self.held = storage.read(segment, at, &mut self.buffer[..wanted])?.min(wanted);
        (self.segment, self.at) = (segment, at);
        Ok(())
    }
}
