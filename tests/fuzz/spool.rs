//! Fuzzes the recovery of a spool: whatever a crash left in its segments, it opens, reads in order and takes new records.
//!
//! The hard case is a record whose length points past its segment or into another record. Random bytes hardly ever carry a
//! right checksum, so they are also taken as the heads of records, which are then written where they say with a right one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::convert::Infallible;
use vedette_agent_core::spool::record::RECORD_HEADER_BYTES;
use vedette_agent_core::spool::{
    MemoryStorage, Segment, Spool, SpoolMemory, SpoolSettings, SyncPolicy, record,
};
use vedette_common::{BootId, Lane};

const SEGMENTS: usize = 8;
const SEGMENT_BYTES: usize = 200;
const SETTINGS: SpoolSettings = SpoolSettings {
    bytes_max: (SEGMENTS * SEGMENT_BYTES) as u32,
    segment_bytes: SEGMENT_BYTES as u32,
    deviations_bytes_max: 800,
    frame_bytes_max: 60,
    sync: SyncPolicy::EachWindow,
};

fuzz_target!(|bytes: &[u8]| {
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    assert!(record::records(0, bytes).take(bytes.len() + 1).count() <= bytes.len());
    let mut left: [Vec<u8>; SEGMENTS] = Default::default();
    if kind % 2 == 0 {
        bytes.chunks(SEGMENT_BYTES).zip(&mut left).for_each(|(bytes, segment)| segment.extend(bytes));
    } else {
        bytes.as_chunks::<7>().0.iter().for_each(|head| write(head, &mut left));
    }
    recover(&left);
});

/// Writes the record that these bytes ask for behind those before it in its segment, if there is room.
fn write(
    &[segment, lane, ordinal, sequence, acknowledged_ordinal, acknowledged, frame]: &[u8; 7],
    left: &mut [Vec<u8>; SEGMENTS],
) {
    let number = usize::from(segment) % SEGMENTS;
    let segment = &mut left[number];
    let frame_bytes = 1 + frame % 60;
    if segment.len() + RECORD_HEADER_BYTES + usize::from(frame_bytes) > SEGMENT_BYTES {
        return;
    }
    let word = |byte: u8| u64::from(byte).to_le_bytes();
    let mut covered = vec![frame_bytes, 0, lane % 2, 0, ordinal, 0, 0, 0];
    covered.extend(word(ordinal));
    covered.extend(word(sequence));
    covered.extend([acknowledged_ordinal, 0, 0, 0]);
    covered.extend(word(acknowledged));
    covered.resize(covered.len() + usize::from(frame_bytes), frame);
    let place = [(number as u32).to_le_bytes(), (segment.len() as u32).to_le_bytes()].concat();
    let sum = !covered.iter().fold(place.iter().fold(u32::MAX, step), step);
    segment.extend(record::RECORD_MAGIC);
    segment.extend(sum.to_le_bytes());
    segment.extend(covered);
}

/// One byte of crc32c (Castagnoli), from a table: most of a run would be spent on sums bit by bit.
fn step(crc: u32, byte: &u8) -> u32 {
    CRC_OF_BYTE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8)
}

const CRC_OF_BYTE: [u32; 256] = {
    let (mut table, mut byte) = ([0; 256], 0);
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

fn recover(left: &[Vec<u8>; SEGMENTS]) {
    let mut medium = [0; SEGMENTS * SEGMENT_BYTES];
    let mut lengths = [None; SEGMENTS];
    for (number, segment) in left.iter().enumerate().filter(|(_, segment)| !segment.is_empty()) {
        medium[number * SEGMENT_BYTES..][..segment.len()].copy_from_slice(segment);
        lengths[number] = Some(segment.len() as u32);
    }
    let mut segments = vec![Segment::default(); SETTINGS.segments()];
    let mut buffer = vec![0; SETTINGS.buffer_bytes()];
    let memory = SpoolMemory { segments: &mut segments, buffer: &mut buffer };
    let storage = MemoryStorage::new(&mut medium, &mut lengths);
    let mut spool =
        Spool::open(storage, SETTINGS, memory, BootId(u64::MAX - 1)).expect("the settings are right");
    for lane in [Lane::Deviations, Lane::RollUps] {
        let _ = spool.append(lane, |_, frame| {
            frame[..4].copy_from_slice(b"new!");
            Ok::<usize, Infallible>(4)
        });
        let (mut after, mut reads) = (None, 0);
        while let Ok(Some(spooled)) = spool.next(lane, after) {
            assert!(after < Some(spooled.position), "the spool goes back");
            after = Some(spooled.position);
            reads += 1;
            assert!(reads <= SETTINGS.bytes_max, "the spool goes round in circles");
        }
    }
}
