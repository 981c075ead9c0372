//! A storage in borrowed memory, for simulation and for devices without a file system.
//!
//! It must never allocate, and never hold more than the memory it was given: `segments` times
//! `segment_bytes`. The hard case is a write over the end of a segment; it fails whole, as a full medium.
use super::storage::{Storage, StorageFault};

/// Segments in one borrowed block of bytes. Costs the block, and 8 bytes a segment for the lengths.
#[derive(Debug)]
pub struct MemoryStorage<'m> {
    bytes: &'m mut [u8],
    lengths: &'m mut [Option<u32>],
}

/// Why a [`MemoryStorage`] could not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// The segment's share of the memory is used up, or there is no such segment.
    #[error("segment {segment} has no room for {needed} bytes")]
    Full {
        /// The segment.
        segment: u16,
        /// Its length after the write that was refused.
        needed: usize,
    },
    /// The segment does not exist, or ends before the place that was asked for.
    #[error("segment {segment} holds nothing at {at}")]
    Absent {
        /// The segment.
        segment: u16,
        /// The offset.
        at: u32,
    },
}

impl<'m> MemoryStorage<'m> {
    /// Takes over `bytes`, shared out evenly among as many segments as `lengths` has places. Segments exist
    /// where `lengths` says so, which lets the same memory be opened again.
    pub const fn new(bytes: &'m mut [u8], lengths: &'m mut [Option<u32>]) -> Self {
        Self { bytes, lengths }
    }

    fn segment_bytes(&self) -> usize {
        self.bytes.len().checked_div(self.lengths.len()).unwrap_or(0)
    }

    fn held(&self, segment: u16) -> Option<&[u8]> {
        let length = self.lengths.get(usize::from(segment)).copied().flatten()? as usize;
        let start = usize::from(segment) * self.segment_bytes();
        self.bytes.get(start..start + length)
    }
}

impl Storage for MemoryStorage<'_> {
    type Error = MemoryError;

    fn fault(error: &MemoryError) -> StorageFault {
        match error {
            MemoryError::Full { .. } => StorageFault::Full,
            MemoryError::Absent { .. } => StorageFault::Broken,
        }
    }

    fn length(&mut self, segment: u16) -> Result<Option<u32>, MemoryError> {
        Ok(self.lengths.get(usize::from(segment)).copied().flatten())
    }

    fn read(&mut self, segment: u16, at: u32, out: &mut [u8]) -> Result<usize, MemoryError> {
        let absent = MemoryError::Absent { segment, at };
        let held = self.held(segment).and_then(|held| held.get(at as usize..)).ok_or(absent)?;
        let taken = held.len().min(out.len());
        out[..taken].copy_from_slice(&held[..taken]);
        Ok(taken)
    }

    fn write(&mut self, segment: u16, at: u32, bytes: &[u8]) -> Result<(), MemoryError> {
        let length = self.length(segment)?.unwrap_or(0);
        let needed = (at as usize).saturating_add(bytes.len());
        if needed > self.segment_bytes() || usize::from(segment) >= self.lengths.len() {
            return Err(MemoryError::Full { segment, needed });
        }
        if at > length {
            return Err(MemoryError::Absent { segment, at });
        }
        let start = usize::from(segment) * self.segment_bytes();
        self.bytes[start + at as usize..start + needed].copy_from_slice(bytes);
        self.lengths[usize::from(segment)] = Some(length.max(needed as u32));
        Ok(())
    }

    fn sync(&mut self, _segment: u16) -> Result<(), MemoryError> {
        Ok(())
    }

    fn truncate(&mut self, segment: u16, length: u32) -> Result<(), MemoryError> {
        if let Some(Some(held)) = self.lengths.get_mut(usize::from(segment)) {
            *held = length.min(*held);
        }
        Ok(())
    }

    fn remove(&mut self, segment: u16) -> Result<(), MemoryError> {
        if let Some(held) = self.lengths.get_mut(usize::from(segment)) {
            *held = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_keep_to_their_share() {
        let (mut bytes, mut lengths) = ([0; 20], [None; 2]);
        let mut storage = MemoryStorage::new(&mut bytes, &mut lengths);
        storage.write(0, 0, b"0123456789").unwrap();
        storage.write(1, 0, b"abc").unwrap();
        assert_eq!(storage.write(0, 10, b"x"), Err(MemoryError::Full { segment: 0, needed: 11 }));
        assert_eq!(storage.write(2, 0, b"x"), Err(MemoryError::Full { segment: 2, needed: 1 }));
        assert_eq!(storage.write(1, 4, b"x"), Err(MemoryError::Absent { segment: 1, at: 4 }));
        let mut out = [0; 4];
        assert_eq!(storage.read(1, 1, &mut out), Ok(2));
        assert_eq!(&out[..2], b"bc");
        storage.truncate(0, 4).unwrap();
        assert_eq!(storage.length(0), Ok(Some(4)));
        storage.remove(0).unwrap();
        assert_eq!(storage.read(0, 0, &mut out), Err(MemoryError::Absent { segment: 0, at: 0 }));
    }
}
