//! Fuzzes the scoring of a CSV file: whatever the bytes are, each row that is read comes out again with its scores.
//!
//! The hard case is a quote that never ends, and a row with another number of cells than the header.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vedette_agent::command::score::{ScoreOptions, score_csv};

fuzz_target!(|bytes: &[u8]| {
    let mut output = Vec::new();
    if let Ok(tally) = score_csv(bytes, &mut output, std::io::sink(), &ScoreOptions::default()) {
        assert!(tally.bad <= tally.rows);
        assert!(
            output.iter().filter(|byte| **byte == b'\n').count() as u64 > tally.rows,
            "a row was not answered"
        );
    }
});
