//! Fuzzes the recovery of a spool: whatever a crash left in its segments, it opens, reads in order and takes new records.
//!
//! The hard case is a record whose length points past its segment or into another record.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::convert::Infallible;
use vedette_agent_core::spool::{
    MemoryStorage, Segment, Spool, SpoolMemory, SpoolSettings, SyncPolicy, record,
};
use vedette_common::{BootId, Lane};

const SETTINGS: SpoolSettings = SpoolSettings {
    bytes_max: 1_600,
    segment_bytes: 200,
    deviations_bytes_max: 800,
    frame_bytes_max: 60,
    sync: SyncPolicy::EachWindow,
};

fuzz_target!(|bytes: &[u8]| {
    assert!(record::records(0, bytes).take(bytes.len() + 1).count() <= bytes.len());

    let mut medium = [0; 1_600];
    let mut lengths = [None; 8];
    for (segment, left) in bytes.chunks(200).take(8).enumerate() {
        medium[segment * 200..][..left.len()].copy_from_slice(left);
        lengths[segment] = Some(left.len() as u32);
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
            after = Some(spooled.position);
            reads += 1;
            assert!(reads <= 1_600, "the spool goes round in circles");
        }
    }
});
