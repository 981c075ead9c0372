//! The virtual agents of a replay, one for each region, and the calendar that they are told of.
//!
//! Must never judge. The hard case is a region that appears late: its agent is made, and introduces itself, with its first line.

use std::collections::BTreeMap;

use chrono_tz::Tz;
use vedette_aggregator_core::ScheduleEntry;
use vedette_common::wire::{Birth, Summary};
use vedette_common::{AgentId, BootId, Lane, Now, RecordKey, Sequence, WallMs};

use super::input::Line;
use super::virtual_agent::VirtualAgent;
use super::{AGENTS_MAX, Report};
use crate::calendar::{Calendar, Occurrence, Span};
use crate::config::Config;

/// How often clocks and calendars are looked at: no zone changes its offset between two quarters of an hour.
const UPKEEP_MS: i64 = 15 * 60_000;
/// How far back the calendar reaches, so that an event that began before the data is known.
const CALENDAR_PAST_MS: i64 = 31 * 86_400_000;

/// What the region's side knows of `calendar` from `now` on.
pub fn schedule(config: &Config, calendar: &Calendar, now: WallMs) -> Vec<ScheduleEntry> {
    expand(config, calendar, &zones(config), now).iter().map(entry).collect()
}

fn zones(config: &Config) -> BTreeMap<String, Tz> {
    config.regions.keys().map(|name| (name.clone(), config.timezone(name))).collect()
}

fn horizon_ms(config: &Config) -> i64 {
    i64::from(config.limits.calendar_horizon_days) * 86_400_000
}

fn expand(
    config: &Config,
    calendar: &Calendar,
    zones: &BTreeMap<String, Tz>,
    now: WallMs,
) -> Vec<Occurrence> {
    let span = Span { from: now.plus_ms(-CALENDAR_PAST_MS), until: now.plus_ms(horizon_ms(config)) };
    calendar.expand(span, zones, config.limits.calendar_entries_max as usize).occurrences
}

fn entry(it: &Occurrence) -> ScheduleEntry {
    ScheduleEntry {
        from: it.from,
        until: it.until,
        region: it.region.clone(),
        class: it.class.clone(),
        title: it.title.clone(),
    }
}

/// Every virtual agent.
pub(super) struct Agents<'c> {
    config: &'c Config,
    agents: Vec<VirtualAgent>,
    places: BTreeMap<String, usize>,
    calendar: Calendar,
    zones: BTreeMap<String, Tz>,
    occurrences: Vec<Occurrence>,
    summary: Box<Summary>,
    dropped: BTreeMap<&'static str, u64>,
    next_close: Option<WallMs>,
    next_upkeep: WallMs,
    calendar_until: WallMs,
}

impl<'c> Agents<'c> {
    pub(super) fn new(config: &'c Config, calendar: Calendar) -> Self {
        let key = RecordKey { boot: BootId(1), lane: Lane::RollUps, sequence: Sequence(0) };
        Self {
            config,
            agents: Vec::new(),
            places: BTreeMap::new(),
            calendar,
            zones: zones(config),
            occurrences: Vec::new(),
            summary: Box::new(Summary::new(key, WallMs(0), config.replay.window_ms)),
            dropped: BTreeMap::new(),
            next_close: None,
            next_upkeep: WallMs(i64::MIN),
            calendar_until: WallMs(i64::MIN),
        }
    }

    /// How many there are; their places are in order of appearance.
    pub(super) const fn count(&self) -> u16 {
        self.agents.len() as u16
    }

    /// When the next window of any of them closes.
    pub(super) const fn deadline(&self) -> Option<WallMs> {
        self.next_close
    }

    /// When the window that is open at `now` closes.
    pub(super) fn last_close(&self, now: WallMs) -> WallMs {
        let window_ms = self.config.replay.window_ms;
        now.window_start(window_ms).plus_ms(i64::from(window_ms))
    }

    /// Has the agent of its region score a line; `born` hears of an agent that is made for it.
    pub(super) fn take(&mut self, now: Now, line: &Line<'_>, born: &mut dyn FnMut(&Birth)) {
        let region = line.region(&self.config.dimensions.region);
        let Some(place) = self.place(&region, now, born) else {
            *self.dropped.entry("cell_limit").or_default() += 1;
            return;
        };
        let agent = &mut self.agents[place];
        if let Some(reason) = agent.take(now, line) {
            *self.dropped.entry(reason).or_default() += 1;
        }
        self.next_close = self.next_close.into_iter().chain(agent.pipeline.poll_deadline()).min();
    }

    /// The virtual agent of a region; a new one is made for a region not seen before.
    fn place(&mut self, region: &str, now: Now, born: &mut dyn FnMut(&Birth)) -> Option<usize> {
        if let Some(place) = self.places.get(region) {
            return Some(*place);
        }
        if self.agents.len() >= AGENTS_MAX {
            return None;
        }
        let zone = self.config.timezone(region);
        let mut agent = VirtualAgent::new(self.agents.len(), region, zone, self.config)?;
        agent.keep_up(now.wall, &self.occurrences);
        born(&agent.birth(now.wall));
        self.agents.push(agent);
        self.places.insert(region.to_owned(), self.agents.len() - 1);
        Some(self.agents.len() - 1)
    }

    /// Closes the windows that are due; `heard` gets what each agent has to say of them.
    pub(super) fn close(&mut self, now: Now, heard: &mut dyn FnMut(u16, &AgentId, &Summary)) {
        if self.next_close.is_none_or(|due| due > now.wall) {
            return;
        }
        for (place, agent) in (0..).zip(&mut self.agents) {
            while agent.pipeline.poll_deadline().is_some_and(|due| due <= now.wall) {
                agent.pipeline.handle_deadline(now);
                while agent.pipeline.poll_summary(&mut self.summary) {
                    agent.label(&mut self.summary);
                    heard(place, &agent.id, &self.summary);
                }
            }
        }
        self.next_close = self.agents.iter().filter_map(|agent| agent.pipeline.poll_deadline()).min();
    }

    /// Sets the clocks of the regions now and then; gives the calendar anew when virtual time nears its horizon.
    pub(super) fn keep_up(&mut self, now: WallMs) -> Option<Vec<ScheduleEntry>> {
        if now < self.next_upkeep {
            return None;
        }
        self.next_upkeep = WallMs(now.0 - now.0.rem_euclid(UPKEEP_MS) + UPKEEP_MS);
        let is_due = !self.calendar.is_empty() && now >= self.calendar_until;
        let entries = is_due.then(|| self.expand_calendar(now));
        for agent in &mut self.agents {
            agent.keep_up(now, &self.occurrences);
        }
        entries
    }

    fn expand_calendar(&mut self, now: WallMs) -> Vec<ScheduleEntry> {
        self.calendar_until = now.plus_ms(horizon_ms(self.config) / 2);
        self.occurrences = expand(self.config, &self.calendar, &self.zones, now);
        self.occurrences.iter().map(entry).collect()
    }

    /// Calendar entries that could be read.
    pub(super) fn calendar_entries(&self) -> u64 {
        self.calendar.len() as u64
    }

    /// Adds what was scored and what was not.
    pub(super) fn report(&self, report: &mut Report) {
        for (reason, count) in &self.dropped {
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
    }
}
