//! The agent's machine: bytes or observations in, summaries out.
//!
//! It must never allocate, read a clock, or drop anything without a count and a reason. The hard case is what
//! an arrival may be: late, doubled, from a clock that jumped, of a series that finds no slot. Each has a rule
//! of its own here, and no scorer ever sees time run backwards.
use vedette_common::{DropCounts, DropReason, Now, WallMs, wire::Calendar};

use crate::{
    cohort::Cohorts,
    fold,
    index::cells_for,
    key::HashKey,
    lattice::Lattice,
    names::Names,
    observe::{Due, Dues},
    parse::ParseError,
    pending::Queue,
    region::Regions,
    summary::Windows,
    table::{Origin, SeriesTable},
};

pub use crate::settings::{PipelineLengths, PipelineMemory, PipelineSettings, SettingsError};

/// What became of one batch of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Lines read, comments and blanks included.
    pub lines: u32,
    /// Observations scored, and StatsD values folded.
    pub accepted: u32,
    /// Observations dropped; each is in [`PipelineCounts::drops`] with its reason.
    pub dropped: u32,
    /// The first of those, for the log.
    pub rejection: Option<Rejection>,
}

/// An observation or line that was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Its line within the batch, from 1.
    pub line: u32,
    /// The reason under which it is counted.
    pub reason: DropReason,
    /// What was wrong with the text, if it was the text.
    pub error: Option<ParseError>,
}

/// What a pipeline has done since start. `observed` = `scored` + the observations in `drops`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PipelineCounts {
    /// Observations that came or were made of folded values, and unreadable lines.
    pub observed: u64,
    /// Observations that went through the scorers.
    pub scored: u64,
    /// StatsD values that were folded.
    pub folded: u64,
    /// What was dropped, by reason.
    pub drops: DropCounts,
    /// Deviations that began.
    pub onsets: u64,
    /// New series that began with the seasons of another one of their metric in their cell.
    pub borrowed: u64,
    /// Deviations that began in a direction that the settings do not ask for; they are not sent.
    pub unwanted: u64,
    /// Series evicted because another needed the slot.
    pub evicted: u64,
    /// Series that have a slot now.
    pub series: u32,
    /// Cells now.
    pub cells: u32,
    /// Metrics of all cells now.
    pub metrics: u32,
}

/// Parse, table, scorers and windows of one agent. About 10 KB besides the memory lent to it.
#[derive(Debug)]
pub struct Pipeline<'m> {
    pub(crate) settings: PipelineSettings,
    pub(crate) key: HashKey,
    pub(crate) table: SeriesTable<'m>,
    pub(crate) names: Names<'m>,
    pub(crate) lattice: Lattice<'m>,
    pub(crate) queue: Queue<'m>,
    pub(crate) windows: Windows,
    pub(crate) regions: Regions,
    next_flush: Option<WallMs>,
    pub(crate) cohorts: Cohorts,
    /// The slot that was last asked whether it is silent.
    pub(crate) next_asked: u32,
    pub(crate) counts: PipelineCounts,
}

impl<'m> Pipeline<'m> {
    /// A pipeline that has seen nothing. `seed` keys the hash table and should be random in an agent; the same seed
    /// and the same inputs give the same outputs.
    ///
    /// # Errors
    /// [`SettingsError`] when a setting is out of range or `memory` has other lengths than the settings need.
    pub fn new(
        settings: PipelineSettings,
        memory: PipelineMemory<'m>,
        seed: u64,
    ) -> Result<Self, SettingsError> {
        settings.check()?;
        if memory.lengths() != settings.lengths() {
            return Err(SettingsError::MemoryMismatch);
        }
        let key = HashKey::new(seed);
        let PipelineMemory { slots, weeks, index, names, name_bytes, cells, rows, pending } = memory;
        let each = cells_for(slots.len());
        let (identities, index) = index.split_at_mut(each);
        let (spellings, index) = index.split_at_mut(each);
        let mut names = Names::new(key, name_bytes, names, index);
        let lattice = Lattice::new(cells, rows, &mut names).map_err(|_| SettingsError::MemoryMismatch)?;
        Ok(Self {
            key,
            table: SeriesTable::new(slots, weeks, identities, spellings, settings.series_max),
            names,
            lattice,
            queue: Queue::new(pending),
            windows: Windows::new(settings.window_ms, settings.lateness_ms),
            regions: Regions::default(),
            next_flush: None,
            cohorts: Cohorts::new(),
            next_asked: 0,
            counts: PipelineCounts::default(),
            settings,
        })
    }

    /// How far the clocks of a region are ahead of UTC; seasons follow them. 0 until told.
    /// A region past the limit of 16 is ignored: nothing of it is scored either.
    pub fn set_utc_offset(&mut self, region: &str, offset_s: i32) {
        if let Some(place) = self.regions.place(region) {
            self.regions.set_offset(place, offset_s);
        }
    }

    /// Takes the scheduled events in place of those before: while one is on, the seasonal profile does not learn.
    pub fn set_calendar(&mut self, calendar: &Calendar) {
        self.regions.set_calendar(calendar);
    }

    /// What was done so far, and what is held now.
    pub fn counts(&self) -> PipelineCounts {
        PipelineCounts {
            series: self.table.series(),
            cells: self.lattice.cells_used(),
            metrics: self.lattice.metrics_used(),
            ..self.counts
        }
    }

    /// The settings it was made with.
    pub const fn settings(&self) -> &PipelineSettings {
        &self.settings
    }

    /// When [`handle_deadline`](Self::handle_deadline) has something to do; `None` before the first input.
    pub fn poll_deadline(&self) -> Option<WallMs> {
        let window = self.windows.poll_deadline()?;
        Some(self.next_flush.map_or(window, |flush| flush.min(window)))
    }

    /// Flushes what StatsD folded, and closes the oldest window once its time and the lateness have passed.
    ///
    /// One window a call: drain [`poll_summary`](Self::poll_summary), then call again while
    /// [`poll_deadline`](Self::poll_deadline) is not in the future. No window closes while one is undrained.
    pub fn handle_deadline(&mut self, now: Now) {
        self.windows.open(now);
        if self.next_flush.is_some_and(|flush| now.wall >= flush) {
            self.flush(now);
        }
        if self.windows.is_due(now) {
            self.close_cells(now);
            self.ask_silent(self.windows.oldest());
            self.windows.close();
        }
    }

    /// Sets the next flush, unless one is due within an interval.
    pub(crate) fn plan_flush(&mut self, now: Now) {
        let width = i64::from(self.settings.flush_ms);
        if self.next_flush.is_none_or(|flush| flush > now.wall.plus_ms(width)) {
            self.next_flush = Some(now.wall.window_start(self.settings.flush_ms).plus_ms(width));
        }
    }

    /// Observes what StatsD folded over the interval that ends now, at the interval's last millisecond.
    fn flush(&mut self, now: Now) {
        let end = now.wall.window_start(self.settings.flush_ms);
        self.next_flush = (self.table.folded() > 0).then(|| end.plus_ms(i64::from(self.settings.flush_ms)));
        let quiet_max =
            u16::try_from(self.settings.counter_quiet_ms / self.settings.flush_ms).unwrap_or(u16::MAX);
        let at = end.plus_ms(-1);
        let window = self.windows.place(at).unwrap_or(self.windows.oldest());
        let mut dues = Dues::new();
        for place in 0..self.table.slots() {
            let slot = self.table.slot_mut(place);
            let Origin::Folded(kind) = slot.origin else { continue };
            let Some(value) = fold::flush(slot, kind, quiet_max) else { continue };
            self.counts.observed += 1;
            if value.is_finite() {
                slot.last_ms = slot.last_ms.max(at.0);
                let at = WallMs(slot.last_ms);
                self.await_score(&mut dues, Due { place, window, at, value, anew: false });
            } else {
                self.counts.drops.add(DropReason::NotFinite, 1);
            }
        }
        self.score_dues(&mut dues);
    }
}
