//! The agent's machine: bytes or observations in, summaries out.
//!
//! It must never allocate, read a clock, or drop anything without a count and a reason. The hard case is what
//! an arrival may be: late, doubled, from a clock that jumped, of a series that finds no slot. Each has a rule
//! of its own here, and no scorer ever sees time run backwards.
use vedette_common::{DropCounts, DropReason, Now, WallMs, wire::Calendar};

use crate::{
    cohort::Cohorts,
    deviation::Interest,
    fold,
    index::cells_for,
    key::{DefaultTags, HashKey, Observation, SeriesName},
    lattice::Lattice,
    metric,
    names::Names,
    observe::{Due, Dues},
    parse::{
        Format, ParseError, Precision,
        line_protocol::{self, Field, Head},
        lines, statsd,
    },
    pending::Queue,
    region::Regions,
    score::Score,
    summary::Windows,
    table::{NewSeries, Origin, SeriesTable},
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

/// Why something is not an observation of a series: its text, or the state of the pipeline.
enum Fault {
    Text(ParseError),
    Dropped(DropReason),
}

impl From<ParseError> for Fault {
    fn from(error: ParseError) -> Self {
        Self::Text(error)
    }
}

impl From<DropReason> for Fault {
    fn from(reason: DropReason) -> Self {
        Self::Dropped(reason)
    }
}

impl Fault {
    fn reason(&self) -> DropReason {
        match self {
            Self::Text(error) => error.reason(),
            Self::Dropped(reason) => *reason,
        }
    }
}

/// When something arrived and which window it belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) at: WallMs,
    /// Its source stated the time, so that the same time twice is a duplicate.
    pub(crate) stated: bool,
    pub(crate) window: u8,
    pub(crate) now: Now,
}

impl Arrival {
    pub(crate) fn seen_s(&self) -> u32 {
        u32::try_from(self.now.mono.0 / 1000).unwrap_or(u32::MAX)
    }
}

/// Values of line protocol whose slots are on their way from memory at once.
const BLOCK: usize = 16;

/// A value of line protocol that waits for the slot of its series.
#[derive(Clone, Copy, Debug)]
struct Waiting<'a> {
    /// Its line within the batch, from 1.
    line: u32,
    spelling: u64,
    head: &'a [u8],
    key: &'a [u8],
    arrival: Arrival,
    value: f64,
}

type Block<'a> = heapless::Vec<Waiting<'a>, BLOCK>;

/// Ways in which a series can be spelled; they keep the hashes of different formats apart.
const SPELLED_AS_LINE: u8 = 1;
const SPELLED_AS_STATSD: u8 = 2;
const SPELLED_AS_OBSERVATION: u8 = 3;

/// Parse, table, scorers and windows of one agent. About 10 KB besides the memory lent to it.
#[derive(Debug)]
pub struct Pipeline<'m> {
    pub(crate) settings: PipelineSettings,
    key: HashKey,
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
        let PipelineMemory { slots, index, names, name_bytes, cells, rows, pending } = memory;
        let each = cells_for(slots.len());
        let (identities, index) = index.split_at_mut(each);
        let (spellings, index) = index.split_at_mut(each);
        let mut names = Names::new(key, name_bytes, names, index);
        let lattice = Lattice::new(cells, rows, &mut names).map_err(|_| SettingsError::MemoryMismatch)?;
        Ok(Self {
            key,
            table: SeriesTable::new(slots, identities, spellings, settings.series_max),
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

    /// Reads whole lines; what stands after the last line end counts as a line too. A deadline that is due by `now`
    /// should be handled first, as in every other machine here.
    pub fn handle_bytes(
        &mut self,
        now: Now,
        format: Format,
        defaults: &DefaultTags<'_>,
        bytes: &[u8],
    ) -> Tally {
        self.windows.open(now);
        let mut tally = Tally::default();
        let mut block = Block::new();
        for line in lines(bytes) {
            tally.lines += 1;
            match format {
                Format::LineProtocol(precision) => {
                    self.handle_line(now, precision, defaults, line, &mut block, &mut tally);
                }
                Format::StatsD => self.handle_statsd(now, defaults, line, &mut tally),
            }
        }
        self.observe_block(defaults, &mut block, &mut tally);
        tally
    }

    /// Takes one observation that needs no parsing.
    ///
    /// # Errors
    /// The reason for which it was dropped and counted.
    pub fn handle_observation(
        &mut self,
        now: Now,
        defaults: &DefaultTags<'_>,
        observation: &Observation<'_>,
    ) -> Result<Score, DropReason> {
        self.windows.open(now);
        let result = self.take_observation(now, defaults, observation);
        let mut tally = Tally::default();
        let kept = result.as_ref().map(|_| ()).map_err(Fault::reason);
        self.settle(&mut tally, 0, kept.map_err(Fault::Dropped));
        result.map_err(|fault| fault.reason())
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

    /// Reads one line of line protocol; its values wait in `block`, which is observed whenever it is full.
    #[inline]
    fn handle_line<'a>(
        &mut self,
        now: Now,
        precision: Precision,
        defaults: &DefaultTags<'_>,
        line: &'a [u8],
        block: &mut Block<'a>,
        tally: &mut Tally,
    ) {
        let line = match line_protocol::Line::split(line) {
            Ok(Some(line)) => line,
            Ok(None) => return,
            Err(error) => return self.reject(defaults, block, tally, error.into()),
        };
        let at = line.timestamp.map(|timestamp| WallMs(precision.to_ms(timestamp)));
        let arrival = self.arrive(now, at);
        let mut head = self.key.spelling(defaults, SPELLED_AS_LINE);
        head.write(line.prefix());
        for field in line.fields() {
            let waiting = match (field, arrival) {
                (Err(error), _) => Err(error.into()),
                (Ok(_), Err(reason)) => Err(reason.into()),
                (Ok(Field { value: line_protocol::Value::Text(_), .. }), _) => {
                    Err(DropReason::UnsupportedType.into())
                }
                (Ok(Field { key, value: line_protocol::Value::Number(value) }), Ok(arrival)) => {
                    let mut spelling = head;
                    spelling.write(key);
                    let spelling = spelling.finish();
                    Ok(Waiting { line: tally.lines, spelling, head: line.head, key, arrival, value })
                }
            };
            match waiting {
                Ok(waiting) => self.await_slot(defaults, block, tally, waiting),
                Err(fault) => self.reject(defaults, block, tally, fault),
            }
        }
    }

    /// Puts a value into the block, and asks memory for its place in the index.
    #[inline]
    fn await_slot<'a>(
        &mut self,
        defaults: &DefaultTags<'_>,
        block: &mut Block<'a>,
        tally: &mut Tally,
        waiting: Waiting<'a>,
    ) {
        self.table.prefetch_spelling(waiting.spelling);
        if block.is_full() {
            self.observe_block(defaults, block, tally);
        }
        block.push(waiting).expect("a full block was emptied just before");
    }

    /// Counts what cannot be observed, after everything that came before it.
    #[cold]
    fn reject(&mut self, defaults: &DefaultTags<'_>, block: &mut Block<'_>, tally: &mut Tally, fault: Fault) {
        self.observe_block(defaults, block, tally);
        self.settle(tally, tally.lines, Err(fault));
    }

    /// Observes what waits, in the order in which it came. The slots are asked for all at once before that; the look-up
    /// proper comes after, since what is observed first may move or free them.
    #[inline(never)]
    fn observe_block(&mut self, defaults: &DefaultTags<'_>, block: &mut Block<'_>, tally: &mut Tally) {
        for waiting in &*block {
            self.table.prefetch_slot(waiting.spelling);
        }
        let mut dues = Dues::new();
        for Waiting { line, spelling, head, key, arrival, value } in &*block {
            let place = match self.table.find_spelling(*spelling) {
                Some(place) => Ok(place),
                None => {
                    // A new series may take the place of one that is due.
                    self.score_dues(&mut dues);
                    self.resolve_line(arrival, defaults, head, key, *spelling)
                }
            };
            let outcome = place.and_then(|place| Ok(self.accept(place, arrival, *value)?));
            let outcome = outcome.map(|due| self.await_score(&mut dues, due));
            self.settle(tally, *line, outcome);
        }
        self.score_dues(&mut dues);
        block.clear();
    }

    /// The slot for a spelling in line protocol that was not seen before.
    #[cold]
    fn resolve_line(
        &mut self,
        arrival: &Arrival,
        defaults: &DefaultTags<'_>,
        head: &[u8],
        field: &[u8],
        spelling: u64,
    ) -> Result<u32, Fault> {
        let mut scratch = [0; line_protocol::SCRATCH_BYTES];
        let (for_field, for_head) = scratch.split_at_mut(vedette_common::limits::NAME_BYTES_MAX);
        let field = line_protocol::unescape(field, &mut &mut *for_field)?;
        let head = Head::parse(head, for_head)?;
        let observation =
            Observation { measurement: head.measurement, field, tags: &head.tags, value: 0.0, at: None };
        self.resolve(arrival, defaults, &observation, Origin::Direct, spelling)
    }

    /// Reads one line of StatsD.
    fn handle_statsd(&mut self, now: Now, defaults: &DefaultTags<'_>, line: &[u8], tally: &mut Tally) {
        let line = match statsd::Line::parse(line) {
            Ok(Some(line)) => line,
            Ok(None) => return,
            Err(error) => return self.settle(tally, tally.lines, Err(error.into())),
        };
        let place = match self.statsd_slot(now, defaults, &line) {
            Ok(place) => place,
            Err(fault) => return self.settle(tally, tally.lines, Err(fault)),
        };
        for value in line.values() {
            match value {
                Ok(value) => {
                    fold::fold(self.table.slot_mut(place), line.kind, value, line.weight);
                    self.counts.folded += 1;
                    tally.accepted += 1;
                }
                Err(error) => self.settle(tally, tally.lines, Err(error.into())),
            }
        }
    }

    fn statsd_slot(
        &mut self,
        now: Now,
        defaults: &DefaultTags<'_>,
        line: &statsd::Line<'_>,
    ) -> Result<u32, Fault> {
        let arrival = self.arrive(now, None)?;
        let mut hasher = self.key.spelling(defaults, SPELLED_AS_STATSD);
        // A name holds no '|', so name and tags cannot run into each other.
        for part in [line.name.as_bytes(), b"|", &[line.kind as u8], line.tags.as_bytes()] {
            hasher.write(part);
        }
        let spelling = hasher.finish();
        let place = match self.table.find_spelling(spelling) {
            Some(place) => place,
            None => {
                let tags = line.parse_tags()?;
                let observation =
                    Observation { measurement: line.name, field: "", tags: &tags, value: 0.0, at: None };
                self.resolve(&arrival, defaults, &observation, Origin::Folded(line.kind), spelling)?
            }
        };
        self.table.slot_mut(place).seen_s = arrival.seen_s();
        self.plan_flush(now);
        Ok(place)
    }

    fn take_observation(
        &mut self,
        now: Now,
        defaults: &DefaultTags<'_>,
        observation: &Observation<'_>,
    ) -> Result<Score, Fault> {
        if !observation.value.is_finite() {
            return Err(DropReason::NotFinite.into());
        }
        let arrival = self.arrive(now, observation.at)?;
        let mut hasher = self.key.spelling(defaults, SPELLED_AS_OBSERVATION);
        let tags = observation.tags.iter().flat_map(|&(key, value)| [key, value]);
        for part in [observation.measurement, observation.field].into_iter().chain(tags) {
            hasher.write(part.as_bytes());
        }
        let spelling = hasher.finish();
        let place = match self.table.find_spelling(spelling) {
            Some(place) => place,
            None => self.resolve(&arrival, defaults, observation, Origin::Direct, spelling)?,
        };
        let due = self.accept(place, &arrival, observation.value)?;
        Ok(self.score(due))
    }

    /// Counts what became of one observation of this line.
    #[inline]
    fn settle(&mut self, tally: &mut Tally, line: u32, outcome: Result<(), Fault>) {
        self.counts.observed += 1;
        match outcome {
            Ok(()) => tally.accepted += 1,
            Err(fault) => {
                let reason = fault.reason();
                let error = if let Fault::Text(error) = fault { Some(error) } else { None };
                self.counts.drops.add(reason, 1);
                tally.dropped += 1;
                tally.rejection.get_or_insert(Rejection { line, reason, error });
            }
        }
    }

    /// Checks an event time against the clock and finds its window.
    #[inline]
    fn arrive(&self, now: Now, at: Option<WallMs>) -> Result<Arrival, DropReason> {
        let Some(at) = at else {
            // What comes without a time is of now, and so never late, whatever the clock did.
            let window = self.windows.place(now.wall).unwrap_or(self.windows.oldest());
            return Ok(Arrival { at: now.wall, stated: false, window, now });
        };
        let latest = now.wall.plus_ms(i64::from(self.settings.future_ms_max));
        if at < self.settings.earliest || at > latest {
            return Err(DropReason::TimestampOutOfRange);
        }
        let window = self.windows.place(at).ok_or(DropReason::Late)?;
        Ok(Arrival { at, stated: true, window, now })
    }

    /// The slot of a series under a spelling that was not seen before; a new series gets one.
    fn resolve(
        &mut self,
        arrival: &Arrival,
        defaults: &DefaultTags<'_>,
        observation: &Observation<'_>,
        origin: Origin,
        spelling: u64,
    ) -> Result<u32, Fault> {
        let name = SeriesName::new(&self.settings.dimensions, defaults, observation)?;
        let identity = name.identity(self.key);
        let (interest, counter) = metric::look_up(&self.settings.metrics, &name.metric);
        let origin = if counter && origin == Origin::Direct { Origin::Counter } else { origin };
        let place = match self.table.find(identity) {
            // One name for a counter and a gauge, or for StatsD and line protocol, would mix two meanings.
            Some(place) if self.table.slot(place).origin != origin => {
                return Err(DropReason::UnsupportedType.into());
            }
            Some(place) => place,
            None => self.admit(arrival, &name, identity, (origin, interest))?,
        };
        self.table.respell(place, spelling);
        Ok(place)
    }

    /// Gives a new series a slot, or counts it in the overflow series of its cell.
    fn admit(
        &mut self,
        arrival: &Arrival,
        name: &SeriesName<'_>,
        identity: u128,
        kind: (Origin, Interest),
    ) -> Result<u32, DropReason> {
        let region = self.regions.place(name.cell[0]).ok_or(DropReason::CellLimit)?;
        let cell =
            self.lattice.cell(&mut self.names, name.cell, region).map_err(|_| DropReason::CellLimit)?;
        if self.table.is_full() {
            self.evict(arrival.seen_s());
        }
        let place = self.fill_slot(arrival, name, identity, kind, (cell, region));
        place.ok_or_else(|| {
            self.lattice.cells[cell as usize].overflowed += 1;
            DropReason::SeriesLimit
        })
    }

    fn fill_slot(
        &mut self,
        arrival: &Arrival,
        name: &SeriesName<'_>,
        identity: u128,
        (origin, interest): (Origin, Interest),
        (cell, region): (u32, u8),
    ) -> Option<u32> {
        if self.table.is_full() {
            return None;
        }
        let row = self.lattice.retain(&mut self.names, cell, &name.metric).ok()?;
        let Ok(tags) = self.names.retain(&name.tags) else {
            self.lattice.release(&mut self.names, row);
            return None;
        };
        let seen_s = arrival.seen_s();
        self.table.insert(NewSeries { identity, origin, row, tags, region, seen_s, interest })
    }

    /// Makes room: the series that were silent longest go, if they were silent long enough.
    #[cold]
    fn evict(&mut self, now_s: u32) {
        let Some(cutoff_s) = self.table.eviction_cutoff(now_s, self.settings.silent_ms / 1000) else {
            return;
        };
        for place in 0..self.table.slots() {
            if self.table.is_silent_since(place, cutoff_s) {
                self.remove_series(place);
                self.counts.evicted += 1;
            }
        }
    }

    fn remove_series(&mut self, place: u32) {
        let slot = self.table.remove(place);
        for waiting in slot.pending.into_iter().filter_map(|hint| hint.checked_sub(1)) {
            self.queue.forget_slot(waiting);
        }
        self.lattice.release(&mut self.names, slot.row);
        self.names.release(slot.tags);
    }

    /// Sets the next flush, unless one is due within an interval.
    fn plan_flush(&mut self, now: Now) {
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
                self.await_score(&mut dues, Due { place, window, at, value });
            } else {
                self.counts.drops.add(DropReason::NotFinite, 1);
            }
        }
        self.score_dues(&mut dues);
    }

    /// Before a window closes: frees cells that nothing uses, and observes how much overflowed in the others.
    fn close_cells(&mut self, now: Now) {
        let (at, window) = (self.windows.last_ms(), self.windows.oldest());
        for cell in 0..self.lattice.cells_reached() {
            if let Some(slot) = self.lattice.free_unused(&mut self.names, cell) {
                let freed = self.table.remove(slot);
                self.names.release(freed.tags);
            }
            let known = &self.lattice.cells[cell as usize];
            if known.is_free() || known.overflowed == 0 && known.overflow_slot().is_none() {
                continue;
            }
            let value = f64::from(core::mem::take(&mut self.lattice.cells[cell as usize].overflowed));
            if let Some(place) = self.overflow_slot(now, cell) {
                self.counts.observed += 1;
                self.score(Due { place, window, at, value });
            }
        }
    }

    /// The slot of a cell's overflow series.
    fn overflow_slot(&mut self, now: Now, cell: u32) -> Option<u32> {
        let known = &self.lattice.cells[cell as usize];
        if let Some(slot) = known.overflow_slot() {
            return Some(slot);
        }
        let new = NewSeries {
            // Never looked up, and unlike any hash: a cell has one overflow series.
            identity: u128::from(cell),
            origin: Origin::Overflow,
            row: known.overflow_row,
            tags: self.names.retain("").ok()?,
            region: known.region,
            seen_s: u32::try_from(now.mono.0 / 1000).unwrap_or(u32::MAX),
            interest: Interest::Both,
        };
        let place = self.table.insert(new);
        match place {
            Some(place) => self.lattice.cells[cell as usize].overflow_slot = place,
            None => self.names.release(new.tags),
        }
        place
    }
}
