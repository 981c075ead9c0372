//! Fuzzes the configs of both programs: whatever the text is, there is a config or a list of mistakes, each with its line.
//!
//! The hard case is a document that is broken in several places: reading goes on past each.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use vedette_agent::config::{Config, worst_case_bytes};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let file = Path::new("fuzz.toml");
    match Config::parse(file, text) {
        Ok(config) => assert!(worst_case_bytes(&config) > 0),
        Err(errors) => assert!(errors.to_string().contains("fuzz.toml")),
    }
    if let Err(errors) = vedette_aggregator::config::Config::parse(file, text) {
        assert!(errors.to_string().contains("fuzz.toml"));
    }
});
