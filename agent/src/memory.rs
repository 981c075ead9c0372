//! The memory that the cores work in, taken once at start.
//!
//! It must never be called after start: what it lends is never given back. The hard case is its size, which
//! [`PipelineSettings::memory_bytes`] tells beforehand.
use vedette_agent_core::pipeline::{PipelineMemory, PipelineSettings};

use crate::pages;

/// Memory of `count` elements for the rest of the process, as the cores want it lent.
pub fn lend<T: Clone + Default>(count: usize) -> &'static mut [T] {
    Box::leak(vec![T::default(); count].into_boxed_slice())
}

/// The same, in huge pages if it is large: to be used from its beginning on.
pub(crate) fn lend_huge<T: Clone + Default>(count: usize) -> &'static mut [T] {
    let memory = lend(count);
    pages::prefer_huge(memory);
    memory
}

/// The memory of one pipeline.
pub fn lend_pipeline(settings: &PipelineSettings) -> PipelineMemory<'static> {
    let lengths = settings.lengths();
    PipelineMemory {
        slots: lend_huge(lengths.slots),
        weeks: lend(lengths.weeks),
        index: lend_huge(lengths.index),
        names: lend(lengths.names),
        name_bytes: lend(lengths.name_bytes),
        cells: lend(lengths.cells),
        rows: lend(lengths.rows),
        pending: lend(lengths.pending),
    }
}
