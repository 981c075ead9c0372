//! Fuzzes what the store gives back: whatever stands in a row, it is read or an error, and what was read is written and read alike.
//!
//! The hard case is a row that is right in form and holds numbers that no core would write: a core that begins with it must begin.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use vedette_aggregator_core::{
    Aggregator, Alarm, Basis, LedgerEntry, Part, ScheduleEntry, Settings, Silence,
};

fuzz_target!(|bytes: &[u8]| {
    if let Some(part) = again::<Part>(bytes) {
        Aggregator::restore(Settings::default(), [part]);
    }
    again::<Alarm>(bytes);
    again::<LedgerEntry>(bytes);
    again::<Basis>(bytes);
    again::<ScheduleEntry>(bytes);
    again::<Silence>(bytes);
});

/// What stands in the row, after it was written and read once more.
fn again<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Option<T> {
    let read: T = serde_json::from_slice(bytes).ok()?;
    let written = serde_json::to_string(&read).expect("what was read is plain data");
    Some(serde_json::from_str(&written).expect("what we wrote is read"))
}
