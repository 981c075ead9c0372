//! The medium under a spool: segments of bytes that may fail, tear, flip, and lose what was not synced.
//!
//! It must never lose what was synced, nor bring back what was cut off and synced since. The hard case is a power cut: each
//! block of a segment may hold what was synced or what was written since, in any mixture, and the end of what was being
//! written may be garbage.
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use vedette_agent_core::spool::record::RECORD_HEADER_BYTES;
use vedette_agent_core::spool::{Storage, StorageFault, record};
use vedette_common::RecordKey;

use crate::fleet::random::Random;

/// Bytes that a medium writes as a whole or not at all.
const BLOCK_BYTES: usize = 64;

/// One segment: what reading gives, and what a power cut leaves for sure.
#[derive(Clone, Debug, Default)]
struct Kept {
    held: Option<Vec<u8>>,
    synced: Option<Vec<u8>>,
    changed: bool,
}

/// The medium of one agent.
#[derive(Debug, Default)]
pub(super) struct Medium {
    segments: Vec<Kept>,
    /// What every change meets, if anything.
    pub(super) fault: Option<StorageFault>,
    /// Bytes of a failing write that arrive all the same.
    arrives: usize,
    /// The records of segments that were removed or cut, until somebody asks.
    removed: Vec<RecordKey>,
}

/// The whole records in a segment, with the bytes that each takes.
fn records_in(segment: usize, held: &[u8]) -> impl Iterator<Item = (Range<usize>, RecordKey)> {
    record::records(segment as u16, held).map(|(head, frame)| {
        let frame_at = frame.as_ptr().addr() - held.as_ptr().addr();
        (frame_at - RECORD_HEADER_BYTES..frame_at + frame.len(), head.position.key(head.lane))
    })
}

/// A failure that the plan asked for, or reading what is not there.
#[derive(Debug, Clone, Copy)]
pub(super) struct MediumError(StorageFault);

impl std::fmt::Display for MediumError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.0.as_str())
    }
}

impl std::error::Error for MediumError {}

impl Medium {
    pub(super) fn new(segments: usize) -> Self {
        Self { segments: vec![Kept::default(); segments], fault: None, arrives: 0, removed: Vec::new() }
    }

    /// Begins to fail; of each write `arrives` bytes come through.
    pub(super) const fn fail(&mut self, fault: StorageFault, arrives: usize) {
        (self.fault, self.arrives) = (Some(fault), arrives);
    }

    /// Whether a power cut now would take nothing that is held.
    pub(super) fn is_synced(&self) -> bool {
        self.segments.iter().all(|kept| !kept.changed || kept.held.is_none())
    }

    pub(super) fn bytes(&self) -> usize {
        self.segments.iter().filter_map(|kept| kept.held.as_ref()).map(Vec::len).sum()
    }

    /// The records of the segments that were removed or cut since this was asked last.
    pub(super) fn take_removed(&mut self) -> Vec<RecordKey> {
        std::mem::take(&mut self.removed)
    }

    /// Every whole record that is held.
    pub(super) fn keys(&self) -> Vec<RecordKey> {
        let held = self.segments.iter().enumerate();
        held.flat_map(|(segment, kept)| records_in(segment, kept.held.as_deref().unwrap_or_default()))
            .map(|(_, key)| key)
            .collect()
    }

    /// Loses a segment as no medium should: for a test that this is noticed.
    pub(super) fn lose_segment(&mut self) {
        if let Some(kept) = self.segments.iter_mut().find(|kept| kept.held.is_some()) {
            *kept = Kept::default();
        }
    }

    /// Flips one bit of something that is held, and gives the record that it was of; none if there was nothing to flip.
    pub(super) fn flip_bit(&mut self, random: &mut Random) -> Option<Option<RecordKey>> {
        let mut held: Vec<(usize, &mut Kept)> = self
            .segments
            .iter_mut()
            .enumerate()
            .filter(|(_, kept)| kept.held.as_ref().is_some_and(|h| !h.is_empty()))
            .collect();
        let count = held.len();
        let (segment, kept) = held.get_mut(random.index(count.max(1)))?;
        let bytes = kept.held.as_mut()?;
        let (at, bit) = (random.index(bytes.len()), 1u8 << random.index(8));
        let harmed = records_in(*segment, bytes).find(|(span, _)| span.contains(&at)).map(|(_, key)| key);
        bytes[at] ^= bit;
        if let Some(byte) = kept.synced.as_mut().and_then(|synced| synced.get_mut(at)) {
            *byte ^= bit;
        }
        Some(harmed)
    }

    /// The power is cut: of what was not synced, any mixture is left.
    pub(super) fn cut_power(&mut self, random: &mut Random) {
        for kept in self.segments.iter_mut().filter(|kept| kept.changed) {
            kept.held = match (kept.synced.take(), kept.held.take()) {
                (None, None) => None,
                (old, new) if random.chance(0.3) => {
                    if random.chance(0.5) {
                        old
                    } else {
                        new
                    }
                }
                // The name in the folder is one thing and what it names another.
                (None, Some(new)) => Some(mix(&[], &new, random)),
                (Some(old), None) => random.chance(0.5).then_some(old),
                (Some(old), Some(new)) => Some(mix(&old, &new, random)),
            };
            (kept.synced, kept.changed) = (kept.held.clone(), false);
        }
    }
}

/// Blocks of `old` and `new` in any mixture, of the length of either or between; where both agree, that.
fn mix(old: &[u8], new: &[u8], random: &mut Random) -> Vec<u8> {
    let same = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let (short, long) = (old.len().min(new.len()), old.len().max(new.len()));
    // What both hold the same up to here is synced and not written since: it stays.
    let safe = same.min(short);
    let length = safe + random.index(long - safe + 1);
    let mut mixed = Vec::with_capacity(length);
    let (mut from_new, mut is_garbage) = (false, false);
    for at in 0..length {
        if at % BLOCK_BYTES == 0 {
            (from_new, is_garbage) = (random.chance(0.5), random.chance(0.05));
        }
        let (old, new) = (old.get(at).copied(), new.get(at).copied());
        mixed.push(match (old, new) {
            (Some(old), Some(new)) if old == new => old,
            _ if is_garbage => random.bits() as u8,
            _ if from_new => new.unwrap_or(0),
            _ => old.unwrap_or(0),
        });
    }
    mixed
}

/// The medium as the spool sees it, and the faults too.
#[derive(Clone, Debug)]
pub(super) struct Handle(pub(super) Rc<RefCell<Medium>>);

impl Storage for Handle {
    type Error = MediumError;

    fn fault(error: &MediumError) -> StorageFault {
        error.0
    }

    fn length(&mut self, segment: u16) -> Result<Option<u32>, MediumError> {
        let medium = self.0.borrow();
        let held = medium.segments.get(usize::from(segment)).and_then(|kept| kept.held.as_ref());
        Ok(held.map(|held| held.len() as u32))
    }

    fn read(&mut self, segment: u16, at: u32, out: &mut [u8]) -> Result<usize, MediumError> {
        let medium = self.0.borrow();
        let broken = MediumError(StorageFault::Broken);
        if medium.fault == Some(StorageFault::Broken) {
            return Err(broken);
        }
        let held = medium.segments.get(usize::from(segment)).and_then(|kept| kept.held.as_ref());
        let rest = held.and_then(|held| held.get(at as usize..)).ok_or(broken)?;
        let taken = rest.len().min(out.len());
        out[..taken].copy_from_slice(&rest[..taken]);
        Ok(taken)
    }

    fn write(&mut self, segment: u16, at: u32, bytes: &[u8]) -> Result<(), MediumError> {
        let mut medium = self.0.borrow_mut();
        let result = medium.fault.map_or(Ok(()), |fault| Err(MediumError(fault)));
        let arrives = if result.is_ok() { bytes.len() } else { medium.arrives.min(bytes.len()) };
        if arrives > 0 {
            let kept = &mut medium.segments[usize::from(segment)];
            let (at, held) = (at as usize, kept.held.get_or_insert_with(Vec::new));
            assert!(held.len() >= at, "a hole in a segment");
            held.resize(held.len().max(at + arrives), 0);
            held[at..at + arrives].copy_from_slice(&bytes[..arrives]);
            kept.changed = true;
        }
        result
    }

    fn sync(&mut self, segment: u16) -> Result<(), MediumError> {
        let mut medium = self.0.borrow_mut();
        if let Some(fault) = medium.fault {
            return Err(MediumError(fault));
        }
        let kept = &mut medium.segments[usize::from(segment)];
        if kept.changed {
            kept.synced.clone_from(&kept.held);
            kept.changed = false;
        }
        // With the folder, what was removed from it is gone for good.
        for gone in medium.segments.iter_mut().filter(|kept| kept.held.is_none()) {
            (gone.synced, gone.changed) = (None, false);
        }
        Ok(())
    }

    fn truncate(&mut self, segment: u16, length: u32) -> Result<(), MediumError> {
        let mut medium = self.0.borrow_mut();
        if let Some(fault) = medium.fault {
            return Err(MediumError(fault));
        }
        let kept = &mut medium.segments[usize::from(segment)];
        if let Some(held) = kept.held.as_mut().filter(|held| held.len() > length as usize) {
            let cut = records_in(usize::from(segment), held).filter(|(span, _)| span.end > length as usize);
            let cut: Vec<RecordKey> = cut.map(|(_, key)| key).collect();
            held.truncate(length as usize);
            kept.changed = true;
            medium.removed.extend(cut);
        }
        Ok(())
    }

    fn remove(&mut self, segment: u16) -> Result<(), MediumError> {
        let mut medium = self.0.borrow_mut();
        // A full medium still lets go of segments.
        if let Some(fault) = medium.fault.filter(|fault| *fault != StorageFault::Full) {
            return Err(MediumError(fault));
        }
        let Some(kept) = medium.segments.get_mut(usize::from(segment)) else { return Ok(()) };
        kept.changed |= kept.held.is_some();
        if let Some(held) = kept.held.take() {
            medium.removed.extend(records_in(usize::from(segment), &held).map(|(_, key)| key));
        }
        Ok(())
    }
}
