//! Fuzzes StatsD: whatever a packet holds, each line is parsed or gets a typed error, and its numbers are finite.
//!
//! The hard case is a line with many values and tags, all of them slightly wrong.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vedette_agent_core::parse::lines;
use vedette_agent_core::parse::statsd::Line;

fuzz_target!(|bytes: &[u8]| {
    for line in lines(bytes) {
        if let Ok(Some(line)) = Line::parse(line) {
            assert!(line.values().take(bytes.len() + 1).count() <= bytes.len());
            let _ = line.parse_tags();
        }
    }
});
