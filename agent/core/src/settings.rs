//! The limits and delays of a pipeline, and the memory that follows from them.
//!
//! It must never hide a cost: every limit names its bytes, and [`PipelineSettings::memory_bytes`] adds them up.
//! The hard case is that memory comes from the shell, once, at start: [`PipelineSettings::lengths`] tells how much
//! of what, and a pipeline over memory of other lengths is refused.
use vedette_common::WallMs;

use crate::{
    deviation::DeviationSettings,
    index::{self, POSITIONS_MAX},
    key::Dimensions,
    lattice::{Cell, Row},
    metric::MetricRules,
    names::NameEntry,
    pending::Pending,
    room::Vacant,
    table::{Slot, weeks_for},
};

/// How a pipeline is bounded and when it gives up waiting.
#[derive(Clone, Debug, PartialEq)]
pub struct PipelineSettings {
    /// Which tags make the cell; default region, device and stack.
    pub dimensions: Dimensions,
    /// Series that are scored at once, 1 to 16 million; default 10,000. A slot and two index cells each.
    pub series_max: u32,
    /// Cells at once, 1 to 4096; default 256. A slot, a row and 40 bytes each.
    pub cells_max: u32,
    /// Metrics of all cells together, at least 1; default 2048. 64 bytes each.
    pub metrics_max: u32,
    /// Different names, tag sets and metrics at once; default `series_max` + 3000, which is enough for
    /// the tag sets, metrics and cells of the other defaults. 17 to 22 bytes each.
    pub names_max: u32,
    /// Bytes of all those names together, each with 5 bytes more; default 32 * `series_max` + 64 KiB.
    pub name_bytes_max: u32,
    /// Deviations that wait for their window to close, 1 to 65,534; default 1024. 56 bytes each.
    pub deviations_pending_max: u32,
    /// Width of a window in milliseconds, at least 1000; default 10,000. Windows are aligned to the epoch.
    pub window_ms: u32,
    /// How long a window stays open for late observations, at most `window_ms`; default 5,000. Two windows are open
    /// at once, so `window_ms - lateness_ms` is how far the shell may be behind with a deadline before new
    /// observations count into the window before theirs.
    pub lateness_ms: u32,
    /// Event times before this are refused; default 2000-01-01.
    pub earliest: WallMs,
    /// Event times this far ahead of the clock are refused; default 1 h.
    pub future_ms_max: u32,
    /// How long StatsD values are folded before they are observed once, at least 100; default 10,000.
    pub flush_ms: u32,
    /// How long a StatsD counter that gets nothing is observed as 0; default 300,000.
    pub counter_quiet_ms: u32,
    /// How long a series must be silent before it may be evicted for another; default 1 h, at least 60,000
    /// and never less than 4 windows.
    pub silent_ms: u32,
    /// When a deviation begins and ends.
    pub deviation: DeviationSettings,
    /// What holds for some metrics; default nothing.
    pub metrics: MetricRules,
}

/// What is wrong with the settings of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A number outside its range.
    #[error("{key} must be from {least} to {most}, not {found}")]
    OutOfRange {
        /// The field.
        key: &'static str,
        /// The smallest value.
        least: u32,
        /// The largest value.
        most: u32,
        /// The value found.
        found: u32,
    },
    /// Memory whose lengths are not those of [`PipelineSettings::lengths`].
    #[error("the memory handed over does not have the lengths that the settings ask for")]
    MemoryMismatch,
}

/// How many elements of each kind a pipeline needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PipelineLengths {
    /// Series and overflow series.
    pub slots: usize,
    /// Hours of their weeks.
    pub weeks: usize,
    /// Cells of all three indices.
    pub index: usize,
    /// Entries for names.
    pub names: usize,
    /// Bytes of names.
    pub name_bytes: usize,
    /// Cells of the lattice.
    pub cells: usize,
    /// Rows of the lattice.
    pub rows: usize,
    /// Deviations that wait.
    pub pending: usize,
}

/// The memory of a pipeline: slices of exactly the lengths of [`PipelineSettings::lengths`], of default elements.
#[derive(Debug)]
pub struct PipelineMemory<'m> {
    /// Series and overflow series.
    pub slots: &'m mut [Vacant<Slot>],
    /// Hours of their weeks: where the memory comes from untouched it stays so until a series lives through an hour.
    pub weeks: &'m mut [i8],
    /// Cells of all three indices.
    pub index: &'m mut [u32],
    /// Entries for names.
    pub names: &'m mut [Vacant<NameEntry>],
    /// Bytes of names.
    pub name_bytes: &'m mut [u8],
    /// Cells of the lattice.
    pub cells: &'m mut [Cell],
    /// Rows of the lattice.
    pub rows: &'m mut [Vacant<Row>],
    /// Deviations that wait.
    pub pending: &'m mut [Vacant<Pending>],
}

impl Default for PipelineSettings {
    fn default() -> Self {
        Self::for_series(10_000)
    }
}

impl PipelineSettings {
    /// The defaults for this many series.
    pub fn for_series(series_max: u32) -> Self {
        Self {
            dimensions: Dimensions::default(),
            series_max,
            cells_max: 256,
            metrics_max: 2048,
            names_max: series_max.saturating_add(3_000),
            name_bytes_max: series_max.saturating_mul(32).saturating_add(64 * 1024),
            deviations_pending_max: 1024,
            window_ms: 10_000,
            lateness_ms: 5_000,
            earliest: WallMs(946_684_800_000),
            future_ms_max: 3_600_000,
            flush_ms: 10_000,
            counter_quiet_ms: 300_000,
            silent_ms: 3_600_000,
            deviation: DeviationSettings::default(),
            metrics: MetricRules::new(),
        }
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`SettingsError::OutOfRange`] for the first field outside its range.
    pub fn check(&self) -> Result<(), SettingsError> {
        let series_most = POSITIONS_MAX as u32 - 4096;
        let ranges = [
            ("series_max", self.series_max, 1, series_most),
            ("cells_max", self.cells_max, 1, 4096),
            ("metrics_max", self.metrics_max, 1, POSITIONS_MAX as u32 - 4096),
            ("names_max", self.names_max, 16, POSITIONS_MAX as u32),
            ("name_bytes_max", self.name_bytes_max, 4096, i32::MAX as u32),
            ("deviations_pending_max", self.deviations_pending_max, 1, 65_534),
            ("window_ms", self.window_ms, 1000, 86_400_000),
            ("lateness_ms", self.lateness_ms, 0, self.window_ms),
            ("flush_ms", self.flush_ms, 100, 3_600_000),
            ("silent_ms", self.silent_ms, 60_000.max(self.window_ms.saturating_mul(4)), u32::MAX),
        ];
        for (key, found, least, most) in ranges {
            if found < least || found > most {
                return Err(SettingsError::OutOfRange { key, least, most, found });
            }
        }
        Ok(())
    }

    /// How much memory of each kind these settings need.
    pub const fn lengths(&self) -> PipelineLengths {
        let slots = self.series_max as usize + self.cells_max as usize;
        PipelineLengths {
            slots,
            weeks: weeks_for(slots),
            index: 2 * index::cells_for(slots) + index::cells_for(self.names_max as usize),
            names: self.names_max as usize,
            name_bytes: self.name_bytes_max as usize,
            cells: self.cells_max as usize,
            rows: self.metrics_max as usize + self.cells_max as usize,
            pending: self.deviations_pending_max as usize,
        }
    }

    /// The bytes of all memory that a pipeline with these settings will ever use, itself not counted (about 10 KB).
    pub const fn memory_bytes(&self) -> usize {
        let lengths = self.lengths();
        lengths.slots * size_of::<Slot>()
            + lengths.weeks
            + lengths.index * size_of::<u32>()
            + lengths.names * size_of::<NameEntry>()
            + lengths.name_bytes
            + lengths.cells * size_of::<Cell>()
            + lengths.rows * size_of::<Row>()
            + lengths.pending * size_of::<Pending>()
    }
}

impl PipelineMemory<'_> {
    /// The lengths of the slices.
    pub const fn lengths(&self) -> PipelineLengths {
        PipelineLengths {
            slots: self.slots.len(),
            weeks: self.weeks.len(),
            index: self.index.len(),
            names: self.names.len(),
            name_bytes: self.name_bytes.len(),
            cells: self.cells.len(),
            rows: self.rows.len(),
            pending: self.pending.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::SLOT_BYTES;

    #[test]
    fn the_defaults_are_in_range() {
        for series_max in [1, 10_000, 1_000_000] {
            assert_eq!(PipelineSettings::for_series(series_max).check(), Ok(()));
        }
    }

    #[test]
    fn a_wrong_number_is_named() {
        let wrong = PipelineSettings { lateness_ms: 20_000, ..PipelineSettings::default() };
        let Err(SettingsError::OutOfRange { key, most, .. }) = wrong.check() else { panic!("accepted") };
        assert_eq!((key, most), ("lateness_ms", 10_000));
    }

    #[test]
    fn a_series_costs_its_slot_and_less_than_a_hundred_bytes() {
        let bytes = |series| PipelineSettings::for_series(series).memory_bytes();
        let each = (bytes(2_000_000) - bytes(1_000_000)) / 1_000_000;
        assert!(each < SLOT_BYTES + 100, "{each}");
    }
}
