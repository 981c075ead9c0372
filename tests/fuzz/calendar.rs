//! Fuzzes iCalendar: whatever a file holds, its good entries are read, each bad one is a mistake, and expanding ends.
//!
//! The hard case is a recurrence that never comes to a date, or to too many.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use vedette_aggregator::calendar::{Calendar, MISTAKES_MAX, Span};
use vedette_common::WallMs;

const OCCURRENCES_MAX: usize = 100;

fuzz_target!(|bytes: &[u8]| {
    let reading = Calendar::read(bytes);
    assert!(
        reading.mistakes.len() <= MISTAKES_MAX && reading.mistakes.len() as u64 <= reading.mistakes_total
    );
    // Four weeks of 2026.
    let span = Span { from: WallMs(1_767_225_600_000), until: WallMs(1_769_644_800_000) };
    let expansion = reading.calendar.expand(span, &BTreeMap::new(), OCCURRENCES_MAX);
    assert!(expansion.occurrences.len() <= OCCURRENCES_MAX);
    assert!(expansion.occurrences.iter().all(|occurrence| occurrence.from <= occurrence.until));
});
