//! Fuzzes Influx line protocol: whatever the bytes are, each line is parsed or gets a typed error.
//!
//! The hard case is a line that is cut in the middle of an escape or of a character.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vedette_agent_core::parse::line_protocol::{Head, Line, SCRATCH_BYTES};
use vedette_agent_core::parse::lines;

fuzz_target!(|bytes: &[u8]| {
    let mut scratch = [0; SCRATCH_BYTES];
    for line in lines(bytes) {
        let Ok(Some(line)) = Line::split(line) else { continue };
        if let Ok(head) = Head::parse(line.head, &mut scratch) {
            assert!(!head.measurement.is_empty());
        }
        // Fields end at the first error, so this comes to an end.
        assert!(line.fields().take(bytes.len() + 1).count() <= bytes.len());
    }
});
