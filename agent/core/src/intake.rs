//! From received bytes, or single observations, to values that know their slot.
//!
//! It must never allocate, nor drop anything without a count and a reason. The hard case is speed with a table larger than
//! the caches: values go through in blocks, and while one block is read, the slots of the block before are on their way
//! from memory. The look-up proper comes after that, since what is observed first may move or free a slot.
use vedette_common::{DropReason, Now, WallMs};

use crate::{
    fold,
    key::{DefaultTags, Observation, Spelling},
    observe::Dues,
    parse::{
        Format, ParseError, Precision,
        line_protocol::{self, Field, Head, Value},
        lines, next_line, number,
        plain::PlainLine,
        statsd,
    },
    pipeline::{Pipeline, Rejection, Tally},
    score::Score,
    table::{NO_PLACE, Origin},
};

/// Ways in which a series can be spelled; they keep the hashes of different formats apart.
const SPELLED_AS_LINE: u8 = 1;
const SPELLED_AS_STATSD: u8 = 2;
const SPELLED_AS_OBSERVATION: u8 = 3;
/// Values of line protocol whose slots are asked for at once: as many as are scored at once.
const BLOCK: usize = crate::batch::LANES;
/// Values that are read between asking for the place of one in the index and asking for its slot.
const LINES_AHEAD: usize = 3;

/// Why something is not an observation of a series: its text, or the state of the pipeline.
pub(crate) enum Fault {
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

/// A value of line protocol that waits for the slot of its series.
#[derive(Clone, Copy, Debug)]
struct Waiting<'a> {
    spelling: u64,
    value: f64,
    head: &'a [u8],
    key: &'a [u8],
    at: WallMs,
    /// Its line within the batch, from 1.
    line: u32,
    /// Where the series most likely is.
    hint: u32,
    window: u8,
    stated: bool,
}

type Block<'a> = heapless::Vec<Waiting<'a>, BLOCK>;

/// One batch of line protocol on its way in.
struct Intake<'a> {
    now: Now,
    precision: Precision,
    defaults: &'a DefaultTags<'a>,
    tally: Tally,
    /// One block is being filled; the slots of the other are on their way.
    blocks: [Block<'a>; 2],
    filling: usize,
    /// Values of the block being filled whose slots were asked for.
    asked: usize,
    /// What the latest plain line's timestamp came to: most lines of a batch have the same.
    arrival: Result<Arrival, DropReason>,
}

impl Pipeline<'_> {
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
        match format {
            Format::LineProtocol(precision) => self.handle_line_protocol(now, precision, defaults, bytes),
            Format::StatsD => {
                let mut tally = Tally::default();
                for line in lines(bytes) {
                    tally.lines += 1;
                    self.handle_statsd(now, defaults, line, &mut tally);
                }
                tally
            }
        }
    }

    fn handle_line_protocol(
        &mut self,
        now: Now,
        precision: Precision,
        defaults: &DefaultTags<'_>,
        bytes: &[u8],
    ) -> Tally {
        let mut intake = Intake {
            now,
            precision,
            defaults,
            tally: Tally::default(),
            blocks: [Block::new(), Block::new()],
            filling: 0,
            asked: 0,
            arrival: self.arrive(now, None),
        };
        let mut plain = PlainLine::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            if let Some(taken) = plain.read(rest) {
                rest = &rest[taken..];
                intake.tally.lines += 1;
                self.handle_plain(&plain, &mut intake);
                continue;
            }
            let line = next_line(&mut rest);
            if !line.is_empty() {
                intake.tally.lines += 1;
                self.handle_line(line, &mut intake);
            }
        }
        self.observe_all(&mut intake);
        intake.tally
    }

    /// Takes the values of a line that was read at once.
    #[inline]
    fn handle_plain<'a>(&mut self, line: &PlainLine<'a>, intake: &mut Intake<'a>) {
        if !line.repeats {
            let at = number::integer(line.timestamp);
            intake.arrival = self.arrive(intake.now, at.map(|at| WallMs(intake.precision.to_ms(at))));
        }
        let arrival = match intake.arrival {
            Ok(arrival) => arrival,
            Err(reason) => {
                return line.fields.iter().for_each(|_| self.reject(intake, reason.into()));
            }
        };
        let head = line.prefix.split_last().map_or(line.prefix, |(_, head)| head);
        let spelled = self.spelled(intake, line.prefix);
        for (key, value) in &line.fields {
            self.await_slot(intake, &spelled, (head, key), &arrival, *value);
        }
    }

    /// Reads a line of any form.
    #[inline(never)]
    fn handle_line<'a>(&mut self, line: &'a [u8], intake: &mut Intake<'a>) {
        let line = match line_protocol::Line::split(line) {
            Ok(Some(line)) => line,
            Ok(None) => return,
            Err(error) => return self.reject(intake, error.into()),
        };
        let at = line.timestamp.map(|timestamp| WallMs(intake.precision.to_ms(timestamp)));
        let arrival = self.arrive(intake.now, at);
        let spelled = self.spelled(intake, line.prefix());
        for field in line.fields() {
            match (field, arrival) {
                (Err(error), _) => self.reject(intake, error.into()),
                (Ok(_), Err(reason)) => self.reject(intake, reason.into()),
                (Ok(Field { value: Value::Text(_), .. }), _) => {
                    self.reject(intake, DropReason::UnsupportedType.into());
                }
                (Ok(Field { key, value: Value::Number(value) }), Ok(arrival)) => {
                    self.await_slot(intake, &spelled, (line.head, key), &arrival, value);
                }
            }
        }
    }

    /// The spelling of a head, to which the keys of its fields are added.
    #[inline]
    fn spelled(&self, intake: &Intake<'_>, prefix: &[u8]) -> Spelling {
        let mut spelling = self.key.spelling(intake.defaults, SPELLED_AS_LINE);
        spelling.write(prefix);
        spelling
    }

    /// Puts a value into a block, and asks memory for its place in the index.
    #[inline]
    fn await_slot<'a>(
        &mut self,
        intake: &mut Intake<'a>,
        spelled: &Spelling,
        (head, key): (&'a [u8], &'a [u8]),
        arrival: &Arrival,
        value: f64,
    ) {
        let mut spelling = *spelled;
        spelling.write(key);
        let spelling = spelling.finish();
        self.table.prefetch_spelling(spelling);
        let &Arrival { at, stated, window, .. } = arrival;
        let line = intake.tally.lines;
        let waiting = Waiting { spelling, value, head, key, at, line, hint: NO_PLACE, window, stated };
        if intake.blocks[intake.filling].is_full() {
            self.turn(intake);
        }
        let block = &mut intake.blocks[intake.filling];
        block.push(waiting).expect("a full block was changed for an empty one");
        if block.len() > LINES_AHEAD {
            self.ask(intake, 1);
        }
    }

    /// Asks for the slots of the next few values of the block being filled. One at a time, since a processor waits for
    /// no more than a dozen lines at once.
    #[inline]
    fn ask(&self, intake: &mut Intake<'_>, count: usize) {
        let block = &mut intake.blocks[intake.filling];
        for waiting in block.iter_mut().skip(intake.asked).take(count) {
            waiting.hint = self.table.prefetch_slot(waiting.spelling);
            intake.asked += 1;
        }
    }

    /// Observes the block whose slots have arrived, and asks for what is left of the other one.
    #[inline(never)]
    fn turn(&mut self, intake: &mut Intake<'_>) {
        self.ask(intake, BLOCK);
        (intake.filling, intake.asked) = (intake.filling ^ 1, 0);
        self.observe_block(intake);
    }

    /// Observes what waits in both blocks, in the order in which it came.
    fn observe_all(&mut self, intake: &mut Intake<'_>) {
        self.turn(intake);
        self.turn(intake);
    }

    /// Counts what cannot be observed, after everything that came before it.
    #[cold]
    fn reject(&mut self, intake: &mut Intake<'_>, fault: Fault) {
        self.observe_all(intake);
        let line = intake.tally.lines;
        self.settle(&mut intake.tally, line, Err(fault));
    }

    /// Observes the values of the block that is to be filled next.
    fn observe_block(&mut self, intake: &mut Intake<'_>) {
        let Intake { blocks, filling, tally, now, defaults, .. } = intake;
        let mut dues = Dues::new();
        for waiting in &blocks[*filling] {
            let &Waiting { at, stated, window, .. } = waiting;
            let arrival = Arrival { at, stated, window, now: *now };
            let place = match self.table.find_spelling_near(waiting.hint, waiting.spelling) {
                Some(place) => Ok(place),
                None => {
                    // A new series may take the place of one that is due.
                    self.score_dues(&mut dues);
                    self.resolve_line(&arrival, defaults, waiting)
                }
            };
            let outcome = place.and_then(|place| Ok(self.accept(place, &arrival, waiting.value)?));
            let outcome = outcome.map(|due| self.await_score(&mut dues, due));
            self.settle(tally, waiting.line, outcome);
        }
        self.score_dues(&mut dues);
        blocks[*filling].clear();
    }

    /// The slot for a spelling in line protocol that was not seen before.
    #[cold]
    fn resolve_line(
        &mut self,
        arrival: &Arrival,
        defaults: &DefaultTags<'_>,
        waiting: &Waiting<'_>,
    ) -> Result<u32, Fault> {
        let mut scratch = [0; line_protocol::SCRATCH_BYTES];
        let (for_field, for_head) = scratch.split_at_mut(vedette_common::limits::NAME_BYTES_MAX);
        let field = line_protocol::unescape(waiting.key, &mut &mut *for_field)?;
        let head = Head::parse(waiting.head, for_head)?;
        let observation =
            Observation { measurement: head.measurement, field, tags: &head.tags, value: 0.0, at: None };
        self.resolve(arrival, defaults, &observation, Origin::Direct, waiting.spelling)
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
}
