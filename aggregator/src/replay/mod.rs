//! Replay: recorded telemetry through the agent's scoring and the region's judgement, in virtual time.
//!
//! Owns virtual time; the virtual agents stand in `agents.rs`, the region's side in `judging.rs`. Must never read a clock or
//! hold more of the input than its lateness asks for: the same files and config give the same alarms, byte for byte. The hard
//! case is the order of what falls due together: windows close in the order of the regions' appearance, then the core judges.

mod agents;
pub mod input;
mod judging;
pub mod recording;
pub mod row;
mod virtual_agent;

use std::collections::BTreeMap;

use serde::Serialize;
use vedette_agent_core::parse::Precision;
use vedette_common::{MonoMs, Now, WallMs};

use crate::calendar::Calendar;
use crate::config::Config;
use agents::Agents;
pub use agents::schedule;
use input::Line;
pub use judging::{Judging, Outputs};

/// Virtual agents, one for each region; lines of further regions are dropped and counted.
pub const AGENTS_MAX: usize = 64;

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
    /// The first of those that did not, each with what differs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub decisions_differing: Vec<String>,
    /// Calendar entries that could be read.
    pub calendar_entries: u64,
    /// Calendar entries that could not.
    pub calendar_mistakes: u64,
    /// Event time from the first to the last observation, seconds.
    pub seconds: f64,
}

/// A replay under way.
pub struct Replay<'c> {
    config: &'c Config,
    judging: Judging,
    agents: Agents<'c>,
    first: Option<WallMs>,
    now: WallMs,
}

impl<'c> Replay<'c> {
    /// A replay that has seen nothing.
    pub fn new(config: &'c Config, calendar: Calendar, outputs: Outputs) -> Self {
        Self {
            config,
            judging: Judging::new(config.core_settings(), outputs),
            agents: Agents::new(config, calendar),
            first: None,
            now: WallMs(i64::MIN),
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
        let judging = &mut self.judging;
        self.agents.take(now, line, &mut |birth| judging.handle_birth(now.wall, birth));
        Ok(())
    }

    /// Closes and judges the last windows, and says what was done.
    ///
    /// # Errors
    /// When the results cannot be written.
    pub fn finish(mut self, input_dropped: &BTreeMap<&'static str, u64>) -> std::io::Result<Report> {
        let mut span_ms = 0;
        if let Some(first) = self.first {
            span_ms = self.now.ms_since(first);
            // A window waits for agents that were silent in the end, and no longer than this.
            let end = self.agents.last_close(self.now);
            self.advance(end)?;
            self.judging
                .advance(&mut self.now, end.plus_ms(self.config.core_settings().timing.lateness_ms))?;
            self.judging.flush()?;
        }
        let mut report = Report {
            dropped: input_dropped.iter().map(|(reason, count)| (*reason, *count)).collect(),
            calendar_entries: self.agents.calendar_entries(),
            seconds: span_ms as f64 / 1000.0,
            ..Report::default()
        };
        self.judging.report(&mut report);
        self.agents.report(&mut report);
        Ok(report)
    }

    fn virtual_now(&self) -> Now {
        virtual_now(self.first, self.now)
    }

    /// Lets virtual time pass until `at`, with everything that falls due on the way, in order.
    fn advance(&mut self, at: WallMs) -> std::io::Result<()> {
        while let Some(wake) = self.agents.deadline().into_iter().chain(self.judging.deadline()).min() {
            if wake > at {
                break;
            }
            self.now = self.now.max(wake);
            let (now, judging) = (self.virtual_now(), &mut self.judging);
            self.agents.close(now, &mut |_, agent, summary| judging.handle_summary(now.wall, agent, summary));
            self.judging.handle_deadline(now.wall)?;
        }
        self.now = self.now.max(at);
        if let Some(entries) = self.agents.keep_up(self.now) {
            self.judging.handle_calendar(entries);
        }
        Ok(())
    }
}

/// Virtual time, of which monotonic time counts from the first line.
fn virtual_now(first: Option<WallMs>, now: WallMs) -> Now {
    let since = now.ms_since(first.unwrap_or(now));
    Now { mono: MonoMs(since.unsigned_abs()), wall: now }
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

#[cfg(test)]
mod tests;
