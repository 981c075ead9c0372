//! Standard output: one JSON object a line for every state that an incident enters, suppressed ones included.
//! It must never write half a line between two others. The hard case is a closed pipe: it fails like any other notifier and is tried again.

use std::io::{self, Write};

use super::Failure;
use crate::store::Delivery;

/// Writes NDJSON to standard output.
#[derive(Debug, Clone, Copy)]
pub struct StdoutNotifier;

impl StdoutNotifier {
    pub(super) fn deliver(self, delivery: &Delivery) -> Result<(), Failure> {
        let line = format!("{}\n", delivery.body);
        let mut out = io::stdout().lock();
        let written = out.write_all(line.as_bytes()).and_then(|()| out.flush());
        written.map_err(|error| Failure::Passing(format!("standard output: {error}")))
    }
}
