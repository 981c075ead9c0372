//! The region's side of a replay: the aggregator's core in virtual time, and what comes out of it.
//!
//! Must never know whether summaries are scored now or were recorded before: both are judged the same, to the byte. The hard case is
//! a summary and a deadline at one moment: what arrived is taken first.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;
use vedette_aggregator_core::{
    Aggregator, Alarm, AllowedRegions, Basis, Effect, IncidentState, ScheduleEntry, Settings,
};
use vedette_common::wire::{Birth, Summary};
use vedette_common::{AgentId, MonoMs, Now, WallMs};

use super::Report;

/// Records of any age are judged.
const NEVER_MS: i64 = i64::MAX / 4;

/// Where the results go: one JSON object a line.
pub struct Outputs {
    /// Every state that an incident enters.
    pub alarms: Box<dyn Write>,
    /// Every decision not to notify.
    pub ledger: Box<dyn Write>,
}

/// How one incident fared.
#[derive(Clone, Copy)]
struct Course {
    state: IncidentState,
    paged: bool,
}

/// A core under judgement of what virtual agents send.
pub struct Judging {
    core: Aggregator,
    outputs: Outputs,
    dropped: BTreeMap<&'static str, u64>,
    incidents: BTreeMap<String, Course>,
    /// The state told last, and how many decisions there were and came out again.
    told: Option<Box<Alarm>>,
    decisions: (u64, u64),
    differing: Vec<String>,
    derives: bool,
}

/// Decisions that did not come out again that are told in full.
const DIFFERING_MAX: usize = 10;

impl Judging {
    /// A judgement that has seen nothing. The age of records means nothing in virtual time.
    pub fn new(mut settings: Settings, outputs: Outputs) -> Self {
        (settings.timing.past_max_ms, settings.timing.history_after_ms) = (NEVER_MS, NEVER_MS);
        Self {
            core: Aggregator::new(settings),
            outputs,
            dropped: BTreeMap::new(),
            incidents: BTreeMap::new(),
            told: None,
            decisions: (0, 0),
            differing: Vec::new(),
            derives: true,
        }
    }

    /// The same, deciding nothing twice: where decisions are counted and not explained.
    #[must_use]
    pub const fn without_deriving(mut self) -> Self {
        self.derives = false;
        self
    }

    /// Replaces the calendar.
    pub fn handle_calendar(&mut self, entries: Vec<ScheduleEntry>) {
        self.core.handle_calendar(entries);
        // Nobody commits in a replay; forgetting the changes keeps the list of them short.
        self.core.forget_changes();
    }

    /// An agent introduces itself.
    pub fn handle_birth(&mut self, at: WallMs, birth: &Birth) {
        self.core.handle_birth(moment(at), &birth.agent, birth);
    }

    /// A summary of `agent`, as if it had come over a perfect wire.
    pub fn handle_summary(&mut self, at: WallMs, agent: &AgentId, summary: &Summary) {
        self.core.handle_summary(moment(at), agent, &AllowedRegions::All, summary);
    }

    /// When something is to be judged.
    pub fn deadline(&self) -> Option<WallMs> {
        self.core.poll_deadline()
    }

    /// Judges what is due, and writes down what followed from everything handed in so far.
    ///
    /// # Errors
    /// When the results cannot be written.
    pub fn handle_deadline(&mut self, at: WallMs) -> std::io::Result<()> {
        if self.core.poll_deadline().is_some_and(|due| due <= at) {
            self.core.handle_deadline(moment(at));
            self.core.forget_changes();
        }
        while let Some(effect) = self.core.poll_effect() {
            self.write(effect)?;
        }
        Ok(())
    }

    /// Lets virtual time pass from `now` until `at`, and judges everything that falls due on the way.
    ///
    /// # Errors
    /// When the results cannot be written.
    pub fn advance(&mut self, now: &mut WallMs, at: WallMs) -> std::io::Result<()> {
        while let Some(due) = self.deadline().filter(|due| *due <= at) {
            *now = (*now).max(due);
            self.handle_deadline(*now)?;
        }
        Ok(())
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// When the results cannot be written.
    pub fn flush(&mut self) -> std::io::Result<()> {
        self.outputs.alarms.flush()?;
        self.outputs.ledger.flush()
    }

    fn write(&mut self, effect: Effect) -> std::io::Result<()> {
        match effect {
            Effect::Incident(alarm) => {
                write_line(&mut self.outputs.alarms, &alarm)?;
                let new = Course { state: alarm.state, paged: false };
                let course = self.incidents.entry(alarm.id.clone()).or_insert(new);
                course.state = alarm.state;
                course.paged |= alarm.state == IncidentState::Open;
                self.told = Some(alarm);
            }
            Effect::Ledger(entry) => write_line(&mut self.outputs.ledger, &entry)?,
            Effect::Basis { basis, .. } if self.derives => self.derive(&basis)?,
            Effect::Refuse { reason, .. } => *self.dropped.entry(reason.as_str()).or_default() += 1,
            Effect::Basis { .. } | Effect::Acknowledge { .. } => {}
        }
        Ok(())
    }

    /// Decides once more what was told just before, from its basis as it would be stored.
    fn derive(&mut self, basis: &Basis) -> std::io::Result<()> {
        let Some(told) = self.told.take() else { return Ok(()) };
        let stored: Basis = serde_json::from_slice(&serde_json::to_vec(basis)?)?;
        let told: Alarm = serde_json::from_slice(&serde_json::to_vec(&told)?)?;
        self.decisions.0 += 1;
        let derived = stored.derive(&told);
        self.decisions.1 += u64::from(derived.equal);
        if !derived.equal && self.differing.len() < DIFFERING_MAX {
            self.differing.push(format!("{} at {}: {}", told.id, told.at, derived.differences.join("; ")));
        }
        Ok(())
    }

    /// Adds what was judged.
    pub(super) fn report(&self, report: &mut Report) {
        for (reason, count) in &self.dropped {
            *report.dropped.entry(reason).or_default() += count;
        }
        report.windows = self.core.counts().windows_judged;
        (report.decisions, report.decisions_derived) = self.decisions;
        report.decisions_differing.clone_from(&self.differing);
        for course in self.incidents.values() {
            *report.incidents.entry(course.state.as_str()).or_default() += 1;
            report.paged += u64::from(course.paged);
            report.suppressed += u64::from(!course.paged);
        }
    }
}

/// Of a core, which asks for wall time alone.
fn moment(at: WallMs) -> Now {
    Now { mono: MonoMs(at.0.unsigned_abs()), wall: at }
}

fn write_line<T: Serialize>(out: &mut dyn Write, object: &T) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, object)?;
    out.write_all(b"\n")
}
