//! The record format of the spool: how one frame stands in a segment, and how records are found again.
//!
//! It must never trust a byte that its checksum does not cover, and never allocate. The hard case is damage:
//! whatever stands in a segment, [`records`] ends, skips what is torn or flipped, and goes on at the next
//! record that is whole.
//!
//! Byte layout of a record, little-endian, without padding or alignment:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `VdR1` |
//! | 4 | 4 | crc32c (RFC 3720 appendix B.4) over the place, then bytes 8 to the end of the frame |
//! | 8 | 2 | frame bytes, 1 to `FRAME_BYTES_MAX` |
//! | 10 | 1 | lane: 0 deviations, 1 roll-ups |
//! | 11 | 1 | zero |
//! | 12 | 4 | ordinal of the boot: 1 above the highest that the spool held when the agent started |
//! | 16 | 8 | boot id |
//! | 24 | 8 | sequence, from 1 |
//! | 32 | 4 | acknowledged ordinal: how far the lane was acknowledged when this was written; 0 for not at all |
//! | 36 | 8 | acknowledged sequence |
//! | 44 | n | the frame |
//!
//! The place is the segment's number (4 bytes) and the record's offset in it (4 bytes). It stands in no byte
//! of the record, only in the checksum: a record that was copied elsewhere, left over from an earlier use of
//! the same blocks, or imitated inside the content of a frame is therefore no record.
use core::ops::Range;

use crc::{CRC_32_ISCSI, Crc, Table};
use memchr::memmem;
use vedette_common::limits::FRAME_BYTES_MAX;
use vedette_common::{BootId, Lane, RecordKey, Sequence};

/// The first bytes of every record; the last of them is the version of the layout.
pub const RECORD_MAGIC: [u8; 4] = *b"VdR1";
/// Bytes before the frame.
pub const RECORD_HEADER_BYTES: usize = 44;
/// Bytes of the longest record.
pub const RECORD_BYTES_MAX: usize = RECORD_HEADER_BYTES + FRAME_BYTES_MAX;

static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

// The length field has two bytes.
const _: () = assert!(FRAME_BYTES_MAX <= u16::MAX as usize);

/// Where a record stands in the order of its lane: boots in the order of their starts, then sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Which start of the agent among those that the spool holds; rises with every start.
    pub ordinal: u32,
    /// The place within that start.
    pub sequence: Sequence,
    /// The id of that start.
    pub boot: BootId,
}

impl Position {
    /// The key under which the record at this position of `lane` is delivered.
    pub const fn key(self, lane: Lane) -> RecordKey {
        RecordKey { boot: self.boot, lane, sequence: self.sequence }
    }

    /// Whether this comes directly after `earlier`, with nothing missing between them.
    pub fn follows(self, earlier: Self) -> bool {
        self.boot == earlier.boot
            && self.ordinal == earlier.ordinal
            && self.sequence == earlier.sequence.next()
    }
}

/// How far a lane was acknowledged: ordinal and sequence, compared in that order; zeros for not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Acknowledged {
    /// The ordinal of the boot.
    pub ordinal: u32,
    /// The last sequence of that boot.
    pub sequence: Sequence,
}

impl Acknowledged {
    /// Whether this covers the record at `position`.
    pub fn covers(self, position: Position) -> bool {
        (position.ordinal, position.sequence) <= (self.ordinal, self.sequence)
    }
}

/// What a record says besides its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// The lane it travels in.
    pub lane: Lane,
    /// Its place in the order of that lane.
    pub position: Position,
    /// How far its lane was acknowledged when it was written; always before its own position.
    pub acknowledged: Acknowledged,
}

/// One whole record found in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What its header says.
    pub head: RecordHead,
    /// Its bytes in the segment, header included.
    pub span: Range<u32>,
}

impl Record {
    /// Bytes of the segment that hold the frame.
    pub const fn frame_span(&self) -> Range<u32> {
        self.span.start + RECORD_HEADER_BYTES as u32..self.span.end
    }
}

/// Why there is no record at a place.
enum Problem {
    /// More bytes are needed to tell.
    Incomplete,
    /// No bytes that follow can make it one.
    Invalid,
}

/// What a search found in the bytes at hand.
pub(super) enum Search {
    /// The next record.
    Found(Record),
    /// The bytes ended before the answer; read on from this offset of the segment.
    ReadOn(u32),
    /// Nothing up to the end of the segment.
    End,
}

/// Writes the header of a record in front of its frame: `record` holds [`RECORD_HEADER_BYTES`] of room, then
/// the frame. The checksum binds it to offset `at` of `segment`.
pub(super) fn seal(record: &mut [u8], head: &RecordHead, segment: u16, at: u32) {
    let frame_bytes = u16::try_from(record.len() - RECORD_HEADER_BYTES).unwrap_or(u16::MAX);
    record[..4].copy_from_slice(&RECORD_MAGIC);
    record[8..10].copy_from_slice(&frame_bytes.to_le_bytes());
    record[10] = head.lane.index() as u8;
    record[11] = 0;
    record[12..16].copy_from_slice(&head.position.ordinal.to_le_bytes());
    record[16..24].copy_from_slice(&head.position.boot.0.to_le_bytes());
    record[24..32].copy_from_slice(&head.position.sequence.0.to_le_bytes());
    record[32..36].copy_from_slice(&head.acknowledged.ordinal.to_le_bytes());
    record[36..44].copy_from_slice(&head.acknowledged.sequence.0.to_le_bytes());
    let sum = checksum(segment, at, &record[8..]);
    record[4..8].copy_from_slice(&sum.to_le_bytes());
}

/// Searches `bytes`, which stand at offset `at` of `segment`, for the first whole record. `last` says that the
/// segment ends where `bytes` end.
///
/// Work is bounded: every place that begins with the magic costs one checksum over at most
/// [`RECORD_BYTES_MAX`] bytes, every other byte one comparison.
pub(super) fn search(segment: u16, at: u32, bytes: &[u8], last: bool) -> Search {
    let mut skipped = 0;
    while let Some(found) = memmem::find(&bytes[skipped..], &RECORD_MAGIC) {
        skipped += found;
        let start = at.saturating_add(skipped as u32);
        match parse(segment, start, &bytes[skipped..]) {
            Ok(record) => return Search::Found(record),
            Err(Problem::Incomplete) if !last => return Search::ReadOn(start),
            Err(_) => skipped += 1,
        }
    }
    if last {
        return Search::End;
    }
    // The bytes may end within a magic.
    let kept = bytes.len().saturating_sub(skipped).min(RECORD_MAGIC.len() - 1);
    Search::ReadOn(at.saturating_add((bytes.len() - kept) as u32))
}

/// Reads the record at the beginning of `bytes`, which stand at offset `at` of `segment`.
fn parse(segment: u16, at: u32, bytes: &[u8]) -> Result<Record, Problem> {
    let header = bytes.first_chunk::<RECORD_HEADER_BYTES>().ok_or(Problem::Incomplete)?;
    let frame_bytes = usize::from(u16::from_le_bytes([header[8], header[9]]));
    if header[..4] != RECORD_MAGIC || frame_bytes == 0 || frame_bytes > FRAME_BYTES_MAX || header[11] != 0 {
        return Err(Problem::Invalid);
    }
    let record = bytes.get(..RECORD_HEADER_BYTES + frame_bytes).ok_or(Problem::Incomplete)?;
    if u32_at(header, 4) != checksum(segment, at, &record[8..]) {
        return Err(Problem::Invalid);
    }
    let head = parse_head(header).ok_or(Problem::Invalid)?;
    let end = at.checked_add(record.len() as u32).ok_or(Problem::Invalid)?;
    Ok(Record { head, span: at..end })
}

/// The meaning of a header; none when it contradicts itself.
fn parse_head(header: &[u8; RECORD_HEADER_BYTES]) -> Option<RecordHead> {
    let position = Position {
        ordinal: u32_at(header, 12),
        boot: BootId(u64_at(header, 16)),
        sequence: Sequence(u64_at(header, 24)),
    };
    let acknowledged = Acknowledged { ordinal: u32_at(header, 32), sequence: Sequence(u64_at(header, 36)) };
    let lane = Lane::from_index(usize::from(header[10]))?;
    let plausible = position.ordinal > 0 && position.sequence.0 > 0 && !acknowledged.covers(position);
    plausible.then_some(RecordHead { lane, position, acknowledged })
}

fn u32_at(header: &[u8; RECORD_HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

fn u64_at(header: &[u8; RECORD_HEADER_BYTES], at: usize) -> u64 {
    u64::from(u32_at(header, at)) | u64::from(u32_at(header, at + 4)) << 32
}

/// The checksum over the place of a record and what follows its checksum field.
fn checksum(segment: u16, at: u32, covered: &[u8]) -> u32 {
    let mut digest = CRC32C.digest();
    digest.update(&u32::from(segment).to_le_bytes());
    digest.update(&at.to_le_bytes());
    digest.update(covered);
    digest.finalize()
}

/// Every whole record in the bytes of one segment, in the order in which they stand. Never panics, whatever
/// the bytes are, and allocates nothing; this is what a fuzzer should call.
pub fn records(segment: u16, bytes: &[u8]) -> Records<'_> {
    Records { segment, bytes, at: 0 }
}

/// Iterator over the records of a segment; see [`records`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    segment: u16,
    bytes: &'a [u8],
    at: u32,
}

impl<'a> Iterator for Records<'a> {
    type Item = (RecordHead, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.at as usize..)?;
        let Search::Found(record) = search(self.segment, self.at, rest, true) else {
            return None;
        };
        let span = record.frame_span();
        self.at = span.end;
        Some((record.head, &self.bytes[span.start as usize..span.end as usize]))
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const SEGMENT: u16 = 3;

    fn head(sequence: u64) -> RecordHead {
        RecordHead {
            lane: Lane::RollUps,
            position: Position { ordinal: 2, sequence: Sequence(sequence), boot: BootId(77) },
            acknowledged: Acknowledged { ordinal: 1, sequence: Sequence(9) },
        }
    }

    fn segment_of(frames: &[Vec<u8>]) -> (Vec<u8>, Vec<Range<usize>>) {
        let (mut bytes, mut spans) = (Vec::new(), Vec::new());
        for (index, frame) in frames.iter().enumerate() {
            let mut record = vec![0; RECORD_HEADER_BYTES];
            record.extend_from_slice(frame);
            seal(&mut record, &head(index as u64 + 1), SEGMENT, bytes.len() as u32);
            spans.push(bytes.len()..bytes.len() + record.len());
            bytes.extend_from_slice(&record);
        }
        (bytes, spans)
    }

    fn sequences(bytes: &[u8]) -> Vec<u64> {
        records(SEGMENT, bytes).map(|(head, _)| head.position.sequence.0).collect()
    }

    #[test]
    fn the_byte_layout_is_as_documented() {
        let mut record = vec![0; RECORD_HEADER_BYTES];
        record.extend_from_slice(b"ab");
        seal(&mut record, &head(5), SEGMENT, 0x0102);
        let covered = [&[2, 0, 1, 0, 2, 0, 0, 0, 77, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0][..]]
            .concat()
            .into_iter()
            .chain([1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, b'a', b'b']);
        let covered: Vec<u8> = covered.collect();
        let placed = [&[3, 0, 0, 0, 2, 1, 0, 0][..], &covered].concat();
        let sum = Crc::<u32>::new(&CRC_32_ISCSI).checksum(&placed);
        assert_eq!(record, [b"VdR1", &sum.to_le_bytes()[..], &covered].concat());
    }

    #[test]
    fn a_record_elsewhere_is_no_record() {
        let (bytes, _) = segment_of(&[vec![1; 10]]);
        assert_eq!(records(SEGMENT, &bytes).count(), 1);
        assert_eq!(records(SEGMENT + 1, &bytes).count(), 0);
        assert_eq!(records(SEGMENT, &[&[0], &bytes[..]].concat()).count(), 0);
        // A record imitated inside a frame is passed over, also when the outer one is damaged.
        let (mut outer, _) = segment_of(&[bytes, vec![2; 5]]);
        outer[20] ^= 1;
        assert_eq!(sequences(&outer), [2]);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 0..20)) {
            let (bytes, _) = segment_of(&frames);
            let read: Vec<Vec<u8>> = records(SEGMENT, &bytes).map(|(_, frame)| frame.to_vec()).collect();
            prop_assert_eq!(read, frames);
        }

        #[test]
        fn one_flipped_bit_costs_one_record(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 1..12),
            place in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let (mut bytes, spans) = segment_of(&frames);
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
            let expected: Vec<u64> =
                (1..).zip(&spans).filter(|(_, span)| !span.contains(&place)).map(|(sequence, _)| sequence).collect();
            prop_assert_eq!(sequences(&bytes), expected);
        }

        #[test]
        fn a_torn_tail_costs_only_the_tail(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 1..12),
            cut in any::<prop::sample::Index>(),
        ) {
            let (bytes, spans) = segment_of(&frames);
            let cut = cut.index(bytes.len());
            let whole = spans.iter().filter(|span| span.end <= cut).count();
            prop_assert_eq!(sequences(&bytes[..cut]).len(), whole);
        }

        #[test]
        fn any_bytes_end_without_a_panic(pieces in prop::collection::vec(
            prop_oneof![Just(RECORD_MAGIC.to_vec()), prop::collection::vec(any::<u8>(), 0..60)], 0..40)) {
            let bytes = pieces.concat();
            prop_assert!(records(SEGMENT, &bytes).count() <= bytes.len() / RECORD_HEADER_BYTES);
        }
    }
}
