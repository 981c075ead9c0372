//! Replay: recorded telemetry through the agent's scoring and the region's judgement, in virtual time.
//!
//! Owns virtual time and the virtual agents, one for each region. Must never read a clock or hold more of the input
//! than its lateness asks for: the same files and config give the same alarms, byte for byte. The hard case is the
//! order of what falls due together: windows close in the order of the regions' appearance, then the core judges.

pub mod input;
pub mod row;
mod virtual_agent;

use std::collections::BTreeMap;
use std::io::Write;

use chrono_tz::Tz;
use serde::Serialize;
use vedette_agent_core::parse::Precision;
use vedette_aggregator_core::{
    Aggregator, Alarm, AllowedRegions, Basis, Effect, IncidentState, ScheduleEntry,
};
use vedette_common::wire::Summary;
use vedette_common::{BootId, Lane, MonoMs, Now, RecordKey, Sequence, WallMs};

use crate::calendar::{Calendar, Occurrence, Span};
use crate::config::Config;
use input::Line;
use virtual_agent::VirtualAgent;

/// Virtual agents, one for each region; lines of further regions are dropped and counted.
pub const AGENTS_MAX: usize = 64;
/// How often clocks and calendars are looked at: no zone changes its offset between two quarters of an hour.
const UPKEEP_MS: i64 = 15 * 60_000;
/// How far back the calendar reaches, so that an event that began before the data is known.
const CALENDAR_PAST_MS: i64 = 31 * 86_400_000;
/// Records of any age are judged.
const NEVER_MS: i64 = i64::MAX / 4;

/// What a replay did, as its last line says.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Observations and unreadable lines.
    pub observations: u64,
    /// Observations that were scored.
    pub scored: u64,
    /// Series that were seen and not evicted.
    pub series: u64,
    /// What was left out, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Windows judged, one for each region.
    pub windows: u64,
    /// Incidents by the state that they were last in.
    pub incidents: BTreeMap<&'static str, u64>,
    /// Incidents that notified people.
    pub paged: u64,
    /// Incidents that never did.
    pub suppressed: u64,
    /// Decisions, and those that came out again, to the bit, from what `run` would have stored of them.
    pub decisions: u64,
    /// See `decisions`.
    pub decisions_derived: u64,
    /// Calendar entries that could be read.
    pub calendar_entries: u64,
    /// Calendar entries that could not.
    pub calendar_mistakes: u64,
    /// Event time from the first to the last observation, seconds.
    pub seconds: f64,
}

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

/// A replay under way.
pub struct Replay<'c> {
    config: &'c Config,
    outputs: Outputs,
    core: Aggregator,
    agents: Vec<VirtualAgent>,
    places: BTreeMap<String, usize>,
    calendar: Calendar,
    zones: BTreeMap<String, Tz>,
    occurrences: Vec<Occurrence>,
    summary: Box<Summary>,
    dropped: BTreeMap<&'static str, u64>,
    incidents: BTreeMap<String, Course>,
    /// The state told last, and how many decisions there were and came out again.
    told: Option<Box<Alarm>>,
    decisions: (u64, u64),
    first: Option<WallMs>,
    now: WallMs,
    next_wake: Option<WallMs>,
    next_upkeep: WallMs,
    calendar_until: WallMs,
}

impl<'c> Replay<'c> {
    /// A replay that has seen nothing. The age of records means nothing in virtual time.
    pub fn new(config: &'c Config, calendar: Calendar, outputs: Outputs) -> Self {
        let mut settings = config.core_settings();
        (settings.timing.past_max_ms, settings.timing.history_after_ms) = (NEVER_MS, NEVER_MS);
        let key = RecordKey { boot: BootId(1), lane: Lane::RollUps, sequence: Sequence(0) };
        Self {
            config,
            outputs,
            core: Aggregator::new(settings),
            agents: Vec::new(),
            places: BTreeMap::new(),
            calendar,
            zones: config.regions.keys().map(|name| (name.clone(), config.timezone(name))).collect(),
            occurrences: Vec::new(),
            summary: Box::new(Summary::new(key, WallMs(0), config.replay.window_ms)),
            dropped: BTreeMap::new(),
            incidents: BTreeMap::new(),
            told: None,
            decisions: (0, 0),
            first: None,
            now: WallMs(i64::MIN),
            next_wake: None,
            next_upkeep: WallMs(i64::MIN),
            calendar_until: WallMs(i64::MIN),
        }
    }

    /// Takes the next line of the input; lines come in the order of their time.
    ///
    /// # Errors
    /// When the results cannot be written.
    pub fn handle_line(&mut self, line: &Line<'_>) -> std::io::Result<()> {
        self.first.get_or_insert(line.at);
        self.advance(line.at)?;
        let now = self.virtual_now();
        let region = line.region(&self.config.dimensions.region);
        let Some(place) = self.place(&region, now) else {
            *self.dropped.entry("cell_limit").or_default() += 1;
            return Ok(());
        };
        let agent = &mut self.agents[place];
        if let Some(reason) = agent.take(now, line) {
            *self.dropped.entry(reason).or_default() += 1;
        }
        self.next_wake = self.next_wake.into_iter().chain(agent.pipeline.poll_deadline()).min();
        Ok(())
    }

    /// Closes the last window and says what was done.
    ///
    /// # Errors
    /// When the results cannot be written.
    pub fn finish(mut self, input_dropped: &BTreeMap<&'static str, u64>) -> std::io::Result<Report> {
        if let Some(first) = self.first {
            let last = self.now;
            let window_ms = self.config.replay.window_ms;
            let settle_ms = self.config.core_settings().timing.settle_ms;
            let end = last.window_start(window_ms).plus_ms(i64::from(window_ms) + settle_ms);
            self.advance(end)?;
            self.outputs.alarms.flush()?;
            self.outputs.ledger.flush()?;
            return Ok(self.report(input_dropped, last.ms_since(first)));
        }
        Ok(self.report(input_dropped, 0))
    }

    fn report(&self, input_dropped: &BTreeMap<&'static str, u64>, span_ms: i64) -> Report {
        let mut report = Report {
            dropped: self.dropped.clone(),
            windows: self.core.counts().windows_judged,
            decisions: self.decisions.0,
            decisions_derived: self.decisions.1,
            calendar_entries: self.calendar.len() as u64,
            seconds: span_ms as f64 / 1000.0,
            ..Report::default()
        };
        for (reason, count) in input_dropped {
            *report.dropped.entry(reason).or_default() += count;
        }
        report.observations = report.dropped.values().sum();
        for agent in &self.agents {
            let counts = agent.pipeline.counts();
            report.observations += counts.observed;
            report.scored += counts.scored;
            report.series += u64::from(counts.series);
            for (reason, count) in counts.drops.iter().filter(|(_, count)| *count > 0) {
                *report.dropped.entry(reason.as_str()).or_default() += count;
            }
        }
        for course in self.incidents.values() {
            *report.incidents.entry(course.state.as_str()).or_default() += 1;
            report.paged += u64::from(course.paged);
            report.suppressed += u64::from(!course.paged);
        }
        report
    }

    fn virtual_now(&self) -> Now {
        let since = self.now.ms_since(self.first.unwrap_or(self.now));
        Now { mono: MonoMs(since.unsigned_abs()), wall: self.now }
    }

    /// Lets virtual time pass until `at`, with everything that falls due on the way, in order.
    fn advance(&mut self, at: WallMs) -> std::io::Result<()> {
        while let Some(wake) = self.next_wake.filter(|wake| *wake <= at) {
            self.now = self.now.max(wake);
            self.wake()?;
        }
        self.now = self.now.max(at);
        if self.now >= self.next_upkeep {
            self.keep_up();
        }
        Ok(())
    }

    /// Closes the windows that are due and lets the core judge.
    fn wake(&mut self) -> std::io::Result<()> {
        let now = self.virtual_now();
        for place in 0..self.agents.len() {
            while self.agents[place].pipeline.poll_deadline().is_some_and(|due| due <= now.wall) {
                self.agents[place].pipeline.handle_deadline(now);
                self.drain(place, now);
            }
        }
        if self.core.poll_deadline().is_some_and(|due| due <= now.wall) {
            self.core.handle_deadline(now);
        }
        self.write_effects()?;
        let windows = self.agents.iter().filter_map(|agent| agent.pipeline.poll_deadline());
        self.next_wake = windows.chain(self.core.poll_deadline()).min();
        Ok(())
    }

    /// Hands the summaries of a closed window to the core, as if they had come over a perfect wire.
    fn drain(&mut self, place: usize, now: Now) {
        let agent = &mut self.agents[place];
        while agent.pipeline.poll_summary(&mut self.summary) {
            agent.label(&mut self.summary);
            self.core.handle_summary(now, &agent.id, &AllowedRegions::All, &self.summary);
        }
    }

    fn write_effects(&mut self) -> std::io::Result<()> {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Incident(alarm) => {
                    write_line(&mut self.outputs.alarms, &alarm)?;
                    let course = self
                        .incidents
                        .entry(alarm.id.clone())
                        .or_insert(Course { state: alarm.state, paged: false });
                    course.state = alarm.state;
                    course.paged |= alarm.state == IncidentState::Open;
                    self.told = Some(alarm);
                }
                Effect::Ledger(entry) => write_line(&mut self.outputs.ledger, &entry)?,
                Effect::Basis { basis, .. } => self.derive(&basis)?,
                Effect::Refuse { reason, .. } => *self.dropped.entry(reason.as_str()).or_default() += 1,
                Effect::Acknowledge { .. } => {}
            }
        }
        Ok(())
    }

    /// Decides once more what was told just before, from its basis as it would be stored.
    fn derive(&mut self, basis: &Basis) -> std::io::Result<()> {
        let Some(told) = self.told.take() else { return Ok(()) };
        let stored: Basis = serde_json::from_slice(&serde_json::to_vec(basis)?)?;
        let told: Alarm = serde_json::from_slice(&serde_json::to_vec(&told)?)?;
        self.decisions.0 += 1;
        self.decisions.1 += u64::from(stored.derive(&told).equal);
        Ok(())
    }

    /// The virtual agent of a region; a new one is made for a region not seen before.
    fn place(&mut self, region: &str, now: Now) -> Option<usize> {
        if let Some(place) = self.places.get(region) {
            return Some(*place);
        }
        if self.agents.len() >= AGENTS_MAX {
            return None;
        }
        let zone = self.config.timezone(region);
        let mut agent = VirtualAgent::new(self.agents.len(), region, zone, self.config)?;
        agent.keep_up(now.wall, &self.occurrences);
        self.core.handle_birth(now, &agent.id, &agent.birth(now.wall));
        self.agents.push(agent);
        self.places.insert(region.to_owned(), self.agents.len() - 1);
        Some(self.agents.len() - 1)
    }

    /// Sets the clocks of the regions, and expands the calendar anew when virtual time nears its horizon.
    fn keep_up(&mut self) {
        let now = self.now;
        self.next_upkeep = WallMs(now.0 - now.0.rem_euclid(UPKEEP_MS) + UPKEEP_MS);
        if !self.calendar.is_empty() && now >= self.calendar_until {
            self.expand_calendar();
        }
        for agent in &mut self.agents {
            agent.keep_up(now, &self.occurrences);
        }
        // Nobody commits in a replay; forgetting the changes keeps the list of them short.
        self.core.forget_changes();
    }

    fn expand_calendar(&mut self) {
        let horizon_ms = i64::from(self.config.limits.calendar_horizon_days) * 86_400_000;
        let span = Span { from: self.now.plus_ms(-CALENDAR_PAST_MS), until: self.now.plus_ms(horizon_ms) };
        let most = self.config.limits.calendar_entries_max as usize;
        let expansion = self.calendar.expand(span, &self.zones, most);
        self.calendar_until = self.now.plus_ms(horizon_ms / 2);
        let entry = |it: &Occurrence| ScheduleEntry {
            from: it.from,
            until: it.until,
            region: it.region.clone(),
            class: it.class.clone(),
            title: it.title.clone(),
        };
        self.core.handle_calendar(expansion.occurrences.iter().map(entry).collect());
        self.occurrences = expansion.occurrences;
    }
}

/// The unit of timestamps in line protocol, as the config names it.
pub(crate) fn precision(config: &Config) -> Precision {
    match config.replay.precision {
        crate::config::TimestampUnit::Ns => Precision::Nanoseconds,
        crate::config::TimestampUnit::Us => Precision::Microseconds,
        crate::config::TimestampUnit::Ms => Precision::Milliseconds,
        crate::config::TimestampUnit::S => Precision::Seconds,
    }
}

fn write_line<T: Serialize>(out: &mut dyn Write, object: &T) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, object)?;
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests;
