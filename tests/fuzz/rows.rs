//! Fuzzes the tables that `replay` reads: whatever header and rows are, there are columns or an error, and cells or a reason.
//!
//! The hard case is a quoted cell with a comma, a doubled quote, or no end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vedette_aggregator::replay::row::{Columns, Row};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let Ok(columns) = Columns::parse(header, "file") else { return };
    for line in lines {
        let time_ms = columns.time_ms(line);
        assert!(
            time_ms.is_none_or(|ms| ms.unsigned_abs() < 1 << 53),
            "a time that no clock shows: {time_ms:?}"
        );
        let Some(row) = Row::cut(&columns, line) else { continue };
        let _ = row.value();
        assert!(row.measurement().len() <= bytes.len());
        assert!(row.tags().all(|(_, value)| !value.is_empty()));
    }
});
