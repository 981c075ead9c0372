//! The machine: inputs with the time they came at, out of which fall changes to commit and effects to carry out.
//!
//! It must never act by itself or look at a clock. The hard case is agents that report the same window at different
//! times, or never: a window waits for those that keep pace, for a limited time, and is then judged once.
use std::collections::{BTreeSet, VecDeque};

use vedette_common::wire::{Birth, Heartbeat, RefuseReason, Summary};
use vedette_common::{AgentId, Lane, MonoMs, Now, RecordKey, WallMs};

use crate::alarm::Kind;
use crate::counts::{Counts, Reason};
use crate::effect::{Change, Effect, Part};
use crate::incident::Told;
use crate::intake::{Intake, WINDOW_MS_MAX, Windows};
use crate::journal::{Journal, Judged};
use crate::judge::{self, Case, Memory};
use crate::region::Fleet;
use crate::schedule::{Schedule, ScheduleEntry, Silence, Span};
use crate::sensitivity::Sensitivities;
use crate::session::{AllowedRegions, Order, Session, Sessions};
use crate::settings::Settings;
use crate::silences::Holds;
use crate::snapshot::Snapshot;
use crate::window::PendingWindow;
use crate::{telemetry, view};

/// How often it is looked for incidents about what is gone.
const GONE_SOUGHT_MS: u64 = 60_000;

/// What became of a summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Applied; an acknowledgement is among the effects.
    Accepted,
    /// Applied before; acknowledged again.
    Duplicate,
    /// Not applied, for its predecessor has not come; what was applied is acknowledged again.
    Gap,
    /// Not applied and never will be; it counts as consumed, and is acknowledged.
    Refused(RefuseReason),
}

/// The deterministic aggregator. Memory: see [`Limits`](crate::Limits).
#[derive(Clone, Debug)]
pub struct Aggregator {
    settings: Settings,
    sessions: Sessions,
    fleet: Fleet,
    windows: Windows,
    memory: Memory,
    journal: Journal,
    schedule: Schedule,
    silences: Vec<Silence>,
    /// Whether silent agents are to be judged again at once, for what holds them back may have changed.
    silences_changed: bool,
    /// When silent agents were last judged, and when it was last looked for what is gone.
    silences_judged_at: WallMs,
    gone_sought_at: MonoMs,
    sensitivities: Sensitivities,
    counts: Counts,
    effects: VecDeque<Effect>,
    changed: Changed,
}

/// Which parts changed since the last commit.
#[derive(Clone, Debug, Default)]
struct Changed {
    sessions: BTreeSet<AgentId>,
    windows: BTreeSet<(WallMs, u32)>,
    regions: BTreeSet<u16>,
    names: bool,
    /// Regions of which the judgement has learned.
    memory: BTreeSet<u16>,
    sensitivities: bool,
}

impl Aggregator {
    /// An aggregator that knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            sessions: Sessions::default(),
            fleet: Fleet::default(),
            windows: Windows::new(),
            memory: Memory::default(),
            journal: Journal::default(),
            schedule: Schedule::default(),
            silences: Vec::new(),
            silences_changed: false,
            silences_judged_at: WallMs(i64::MIN),
            gone_sought_at: MonoMs(0),
            sensitivities: Sensitivities::default(),
            counts: Counts::default(),
            effects: VecDeque::new(),
            changed: Changed::default(),
        }
    }

    /// Replaces the settings; what is known stays.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// The counters since this process began.
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The process begins: nobody could be heard while it was away, so the silence of every agent counts from `now`.
    pub fn handle_start(&mut self, now: Now) {
        for session in self.sessions.iter_mut() {
            session.last_heard_at = session.last_heard_at.max(now.wall);
        }
        self.journal.start(now.mono);
    }

    /// An agent introduces itself.
    pub fn handle_birth(&mut self, now: Now, agent: &AgentId, birth: &Birth) {
        let limits = self.settings.limits.clone();
        let counts = &mut self.counts;
        let (session, evicted) = self.sessions.hear(now, agent, &limits, counts);
        session.take_birth(birth);
        self.changed.sessions.extend(evicted);
        self.heard(now, agent);
    }

    /// An agent shows that it lives, and tells what will never come.
    pub fn handle_heartbeat(&mut self, now: Now, agent: &AgentId, heartbeat: &Heartbeat) {
        let limits = self.settings.limits.clone();
        let counts = &mut self.counts;
        let (session, evicted) = self.sessions.hear(now, agent, &limits, counts);
        session.take_heartbeat(now, heartbeat, &limits, counts);
        self.changed.sessions.extend(evicted);
        self.heard(now, agent);
    }

    /// Another aggregator that shares the records of `agent` has acknowledged `key` to it: what it committed is not applied here as well.
    /// The agent lives, though it speaks to the other one.
    pub fn handle_elsewhere(&mut self, now: Now, agent: &AgentId, key: RecordKey) {
        let limits = self.settings.limits.clone();
        let (session, evicted) = self.sessions.hear(now, agent, &limits, &mut self.counts);
        session.take_elsewhere(now, key, &limits, &mut self.counts);
        self.changed.sessions.extend(evicted);
        self.heard(now, agent);
    }

    /// Replaces the calendar. Entries may come in any order; those that end before they begin are counted and dropped.
    pub fn handle_calendar(&mut self, entries: Vec<ScheduleEntry>) {
        self.schedule = Schedule::new(entries, self.settings.limits.calendar_entries_max, &mut self.counts);
        self.silences_changed = true;
    }

    /// Replaces the silences.
    pub fn handle_silences(&mut self, silences: Vec<Silence>) {
        self.silences = silences;
        self.silences_changed = true;
    }

    /// A summary of `agent`, whose certificate names the regions `allowed`.
    pub fn handle_summary(
        &mut self,
        now: Now,
        agent: &AgentId,
        allowed: &AllowedRegions,
        summary: &Summary,
    ) -> Disposition {
        let limits = self.settings.limits.clone();
        let (session, evicted) = self.sessions.hear(now, agent, &limits, &mut self.counts);
        let order = session.advance(now, summary.key, &limits, &mut self.counts);
        let through = session.through(summary.key);
        if session.window_ms == 0 {
            session.window_ms = summary.window_ms;
        }
        self.changed.sessions.extend(evicted);
        let disposition = match order {
            Order::Duplicate => Disposition::Duplicate,
            Order::Gap => Disposition::Gap,
            Order::Next => match self.check(now, allowed, summary) {
                Some(reason) => Disposition::Refused(reason),
                None => Disposition::Accepted,
            },
        };
        match disposition {
            Disposition::Accepted => self.apply(now, agent, allowed, summary),
            Disposition::Duplicate => self.counts.add(Reason::Duplicate, 1),
            Disposition::Gap => self.counts.add(Reason::Gap, 1),
            Disposition::Refused(reason) => {
                self.effects.push_back(Effect::Refuse { agent: agent.clone(), key: summary.key, reason });
            }
        }
        self.heard(now, agent);
        self.effects.push_back(Effect::Acknowledge { agent: agent.clone(), key: through });
        disposition
    }

    /// Why `summary` is refused for good, if it is.
    fn check(&mut self, now: Now, allowed: &AllowedRegions, summary: &Summary) -> Option<RefuseReason> {
        let timing = &self.settings.timing;
        // An index that points nowhere names no region; the row falls out of the intake.
        let foreign = |region: u8| summary.strings.get(region).is_some_and(|name| !allowed.allows(name));
        let end = summary.window_start.plus_ms(i64::from(summary.window_ms));
        let (reason, refuse) = if summary.window_ms == 0 || summary.window_ms > WINDOW_MS_MAX {
            (Reason::WindowWidth, RefuseReason::Malformed)
        } else if end.ms_since(now.wall) > timing.future_max_ms {
            (Reason::WindowFuture, RefuseReason::WindowOutOfRange)
        } else if now.wall.ms_since(end) > timing.past_max_ms {
            (Reason::WindowPast, RefuseReason::WindowOutOfRange)
        } else if summary.cells.iter().any(|cell| foreign(cell.region)) {
            (Reason::RegionForbidden, RefuseReason::RegionForbidden)
        } else {
            return None;
        };
        self.counts.add(reason, 1);
        Some(refuse)
    }

    fn apply(&mut self, now: Now, agent: &AgentId, allowed: &AllowedRegions, summary: &Summary) {
        let mut intake = Intake {
            fleet: &mut self.fleet,
            windows: &mut self.windows,
            limits: &self.settings.limits,
            counts: &mut self.counts,
        };
        let known = self.sessions.get(agent).map(|session| &session.regions).into_iter().flatten();
        let known: Vec<&str> = if summary.cells.is_empty() {
            known.map(|(region, _)| region.as_str()).filter(|region| allowed.allows(region)).collect()
        } else {
            Vec::new()
        };
        let touched = intake.take(now, agent, summary, &known);
        self.counts.summaries += 1;
        if touched.lattice {
            self.changed.names = true;
            self.changed.regions.extend(&touched.regions);
        }
        // Only roll-ups say that a window is complete: deviations of the same window travel ahead of them.
        let complete = summary.key.lane == Lane::RollUps;
        for key in &touched.windows {
            let Some(window) = self.windows.get_mut(key) else { continue };
            if complete {
                window.ahead.remove(agent);
            } else {
                window.ahead.insert(agent.clone());
            }
        }
        for region in touched.regions.iter().filter(|_| complete) {
            let name = self.fleet.names.regions.get(*region);
            self.sessions.report(now, agent, name, summary.window_start);
        }
        self.changed.windows.extend(touched.windows);
        self.make_room(now);
    }

    /// Over the limit, the oldest window is judged before its time. Windows whose roll-ups are still on their way have
    /// limits of their own: after an outage the deviations of all of them come first.
    fn make_room(&mut self, now: Now) {
        while let Some(key) = self.over_limit() {
            self.counts.add(Reason::WindowsFull, 1);
            let key = self.first_sharing(key);
            self.judge(now, key);
        }
    }

    /// The oldest window of a kind of which there are too many.
    fn over_limit(&self) -> Option<(WallMs, u32)> {
        let limits = &self.settings.limits;
        if self.windows.len() <= limits.pending_windows_max.max(1) {
            return None;
        }
        let oldest = |is_ahead: bool| {
            let mut keys = self.windows.iter().filter(move |(_, w)| w.ahead.is_empty() != is_ahead);
            keys.next().map(|(key, _)| *key)
        };
        let ahead = || self.windows.values().filter(|window| !window.ahead.is_empty());
        let ahead_count = ahead().count();
        if self.windows.len() - ahead_count > limits.pending_windows_max.max(1) {
            return oldest(false);
        }
        let deviations: usize = ahead().map(PendingWindow::deviations).sum();
        let is_full = ahead_count > limits.ahead_windows_max || deviations > limits.ahead_deviations_max;
        if is_full { oldest(true) } else { None }
    }

    /// The first window with a region of the window `key`: a region is judged in the order of event time, so what waits
    /// before that one goes first.
    fn first_sharing(&self, key: (WallMs, u32)) -> (WallMs, u32) {
        let Some(window) = self.windows.get(&key) else { return key };
        let first = self.windows.iter().find(|(known, w)| **known == key || w.shares_region_with(window));
        first.map_or(key, |(known, _)| *known)
    }

    /// When it has to be woken at the latest; none when nothing waits.
    pub fn poll_deadline(&self) -> Option<WallMs> {
        let due = self.windows.values().map(|window| self.due_at(window)).min();
        let silent = self.sessions.iter().filter_map(|s| s.silent_at(&self.settings.timing)).min();
        let held = self.journal.silences_held(&self.settings.lifecycle).map(|(_, due_at)| due_at);
        // What was due then and is held back all the same changes with the next word of a person only.
        let held = held.filter(|due_at| *due_at > self.silences_judged_at).min();
        due.into_iter().chain(silent).chain(held).min()
    }

    /// When `window` is to be judged, as things stand.
    fn due_at(&self, window: &PendingWindow) -> WallMs {
        let timing = &self.settings.timing;
        let latest = window.first_at.plus_ms(timing.lateness_ms);
        let ahead = window.ahead.iter().filter_map(|agent| self.sessions.get(agent)).filter(|s| !s.silent);
        if let Some(rolled_up_at) = ahead.map(|session| session.rolled_up_at).max() {
            // Its roll-ups are on their way as long as earlier ones keep coming.
            return latest.max(rolled_up_at.plus_ms(timing.lateness_ms));
        }
        let awaited = self.sessions.iter().any(|session| session.is_awaited_for(window));
        if awaited { latest } else { window.last_at.plus_ms(timing.settle_ms).min(latest) }
    }

    /// Judges every window that is due, and notices agents that have fallen silent.
    pub fn handle_deadline(&mut self, now: Now) {
        while let Some(due) =
            self.windows.values().find(|w| self.due_at(w) <= now.wall).map(PendingWindow::key)
        {
            let key = self.first_sharing(due);
            self.judge(now, key);
        }
        self.notice_silence(now);
        self.end_gone(now);
    }

    /// Ends what nothing has looked at for long; it looks once a minute.
    fn end_gone(&mut self, now: Now) {
        if now.mono.0.saturating_sub(self.gone_sought_at.0) < GONE_SOUGHT_MS {
            return;
        }
        self.gone_sought_at = now.mono;
        let told = self.journal.end_gone(now, &self.settings.lifecycle);
        told.into_iter().for_each(|told| self.tell(told));
    }

    /// Judges one window and forgets it.
    fn judge(&mut self, now: Now, key: (WallMs, u32)) {
        let Some(window) = self.windows.remove(&key) else { return };
        self.changed.windows.insert(key);
        self.changed.regions.extend(window.regions.keys());
        self.changed.memory.extend(window.regions.keys());
        self.counts.windows_judged += window.regions.len() as u64;
        let silent = self.sessions.iter().filter(|s| s.silent).map(|s| s.agent.as_str());
        let silent: BTreeSet<u16> =
            silent.filter_map(|agent| self.fleet.names.reporters.find(agent)).collect();
        self.changed.sensitivities |= self.sensitivities.begin(window.start, &self.settings.pages_per_week);
        let span = Span { from: window.start, until: window.end() };
        let Self { settings, schedule, silences, sensitivities, journal, fleet, memory, .. } = self;
        let mut holds = Holds::new(settings, schedule, silences, sensitivities, span);
        if window.late_ms > settings.timing.history_after_ms {
            self.counts.history_windows += 1;
            holds.is_history(window.late_ms);
        }
        let case = Case { settings, schedule, journal, silent: &silent, holds: &holds };
        let findings = judge::judge(fleet, memory, &case, &window);
        let regions = window.regions.keys().map(|region| self.fleet.names.regions.get(*region)).collect();
        let sizes = self.fleet.names.sizes();
        let (end, window_ms) = (window.end(), window.window_ms);
        let judged = Judged { now, end, window_ms, regions, sizes };
        let told = self.journal.step(findings, &judged, &self.settings, &mut self.counts);
        told.into_iter().for_each(|told| self.tell(told));
    }

    fn tell(&mut self, Told { alarm, entry, basis }: Told) {
        // A rise of severity is told under a page that was counted when it came; that data is missing says nothing of how
        // sensitive the judgement is.
        if alarm.opens() && alarm.kind == Kind::Malfunction {
            let (region, at) = (&alarm.scope.region, alarm.at.0);
            self.changed.sensitivities |= self.sensitivities.page(region, at, &self.settings.pages_per_week);
        }
        let id = alarm.id.clone();
        self.effects.push_back(Effect::Incident(Box::new(alarm)));
        self.effects.extend(entry.map(|entry| Effect::Ledger(Box::new(entry))));
        self.effects.extend(basis.map(|basis| Effect::Basis { id, basis }));
    }

    fn notice_silence(&mut self, now: Now) {
        let timing = &self.settings.timing;
        let mut findings = Vec::new();
        for session in self.sessions.iter_mut() {
            if session.silent_at(timing).is_some_and(|at| at <= now.wall) {
                (session.silent, session.untold) = (true, false);
                self.changed.sessions.insert(session.agent.clone());
                findings.push(telemetry::silent(session));
            }
        }
        // Those that were held back are judged again when that ends, and when a person changes it.
        self.silences_judged_at = now.wall;
        let all = std::mem::take(&mut self.silences_changed);
        let held = self.journal.silences_held(&self.settings.lifecycle);
        let due: BTreeSet<&str> =
            held.filter(|(_, due_at)| all || *due_at <= now.wall).map(|(agent, _)| agent).collect();
        let is_due = |it: &&Session| it.silent && (it.untold || due.contains(it.agent.as_str()));
        let again = self.sessions.iter().filter(is_due);
        findings.extend(again.map(telemetry::silent));
        let moment = Span { from: now.wall, until: now.wall };
        for mut finding in findings {
            let Self { settings, schedule, silences, sensitivities, journal, counts, sessions, .. } = self;
            Holds::new(settings, schedule, silences, sensitivities, moment).apply(&mut finding);
            let agent = finding.evidence.missing.as_ref().map(|missing| missing.agent.clone());
            let session = sessions.iter_mut().find(|it| Some(it.agent.as_str()) == agent.as_deref());
            let mut counted_before = Counts::default();
            let is_again = session.as_ref().is_some_and(|session| session.untold);
            let counts = if is_again { &mut counted_before } else { counts };
            let told = journal.silent(finding, now, settings, counts);
            // Where there was no room for it, it is told once there is.
            if let Some(session) = session {
                session.untold = !journal.knows_silence_of(session.agent.as_str());
            }
            told.into_iter().for_each(|told| self.tell(told));
        }
    }

    /// `agent` has spoken: its silence, if it was noticed, is over.
    fn heard(&mut self, now: Now, agent: &AgentId) {
        self.changed.sessions.insert(agent.clone());
        if self.sessions.end_silence(agent) {
            let told = self.journal.heard(agent.as_str(), now.wall);
            told.into_iter().for_each(|told| self.tell(told));
        }
    }

    /// The next effect to carry out; drain after every input, once the changes are committed.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The parts that changed since the last call, to be committed together before the effects are carried out.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let changed = std::mem::take(&mut self.changed);
        let mut changes = Vec::new();
        for agent in &changed.sessions {
            let part = self.sessions.get(agent).map(|s| Part::Session(Box::new(s.clone())));
            changes.push(Change { key: format!("session/{agent}"), part });
        }
        if changed.names {
            changes.push(Change {
                key: "names".into(),
                part: Some(Part::Names(Box::new(self.fleet.names.clone()))),
            });
        }
        for region in self
            .fleet
            .regions
            .iter()
            .enumerate()
            .filter(|(place, _)| changed.regions.contains(&(*place as u16)))
        {
            let key = format!("region/{}", region.1.name);
            changes.push(Change { key, part: Some(Part::Region(Box::new(region.1.clone()))) });
        }
        for key in &changed.windows {
            let part = self.windows.get(key).map(|w| Part::Window(Box::new(w.clone())));
            changes.push(Change { key: format!("window/{}/{}", key.0.0, key.1), part });
        }
        if !changed.memory.is_empty() {
            let parts = self.memory.parts(&changed.memory).into_iter();
            changes.extend(parts.map(|(key, part)| Change { key, part: Some(Part::Memory(Box::new(part))) }));
        }
        if changed.sensitivities {
            let part = Some(Part::Sensitivities(Box::new(self.sensitivities.clone())));
            changes.push(Change { key: "sensitivities".into(), part });
        }
        for id in self.journal.take_changed() {
            let part = self.journal.get(&id).map(|i| Part::Incident(Box::new(i.clone())));
            changes.push(Change { key: format!("incident/{id}"), part });
        }
        changes
    }

    /// Forgets what changed, where nobody commits it: in a replay.
    pub fn forget_changes(&mut self) {
        self.changed = Changed::default();
        drop(self.journal.take_changed());
    }

    /// The whole persistent state, as parts in the order that [`Aggregator::restore`] accepts.
    pub fn state(&self) -> Vec<Part> {
        let mut parts = vec![Part::Names(Box::new(self.fleet.names.clone()))];
        parts.extend(self.sessions.iter().map(|s| Part::Session(Box::new(s.clone()))));
        parts.extend(self.fleet.regions.iter().map(|r| Part::Region(Box::new(r.clone()))));
        parts.extend(self.windows.values().map(|w| Part::Window(Box::new(w.clone()))));
        let memory = self.memory.parts(&self.memory.regions()).into_values();
        parts.extend(memory.map(|part| Part::Memory(Box::new(part))));
        parts.extend(self.journal.iter().map(|i| Part::Incident(Box::new(i.clone()))));
        parts.push(Part::Sensitivities(Box::new(self.sensitivities.clone())));
        parts
    }

    /// An aggregator with the committed state: every part that was written and not removed, in any order.
    /// The calendar and the silences belong to the shell and are to be handed in again.
    pub fn restore(settings: Settings, parts: impl IntoIterator<Item = Part>) -> Self {
        let mut restored = Self::new(settings);
        let mut regions = Vec::new();
        for part in parts {
            match part {
                Part::Session(session) => restored.sessions.restore(*session),
                Part::Names(names) => restored.fleet.names = *names,
                Part::Region(region) => regions.push(*region),
                Part::Window(window) => drop(restored.windows.insert(window.key(), *window)),
                Part::Memory(memory) => restored.memory.merge(*memory),
                Part::Incident(incident) => restored.journal.restore(*incident),
                Part::Sensitivities(learned) => restored.sensitivities = *learned,
            }
        }
        restored.fleet.restore(regions);
        restored
    }

    /// What the API, the console and `explain` may see.
    pub fn snapshot(&self) -> Snapshot {
        let parts = view::Parts {
            settings: &self.settings,
            sessions: &self.sessions,
            fleet: &self.fleet,
            journal: &self.journal,
            counts: &self.counts,
        };
        view::snapshot(&parts)
    }
}
