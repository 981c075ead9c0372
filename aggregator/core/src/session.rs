//! Sessions: who speaks, what of it was applied, and who has fallen silent.
//!
//! It must never apply a record twice, and never acknowledge one that was not applied. The hard case is an agent whose
//! spool lost records: its horizon says that they will never come, they are counted as missing, and the lane goes on.
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use vedette_common::wire::{Birth, Heartbeat};
use vedette_common::{AgentId, BootId, Lane, Now, RecordKey, Sequence, WallMs};

use crate::counts::{Counts, Reason};
use crate::settings::{Limits, Timing};
use crate::window::PendingWindow;

/// An agent that is this many windows behind is not waited for.
const PACE_WINDOWS: i64 = 3;

/// A boot that was not used for so long is forgotten: its records are refused for their age by then
/// ([`Timing::past_max_ms`]).
const BOOT_AGE_MAX_MS: i64 = 15 * 86_400_000;

/// The regions that an agent may speak for, as its certificate names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedRegions {
    /// Every region: the aggregator's own virtual agents in a replay.
    All,
    /// These.
    Named(BTreeSet<String>),
}

impl AllowedRegions {
    /// Whether `region` is one of them.
    pub fn allows(&self, region: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(region),
        }
    }
}

/// How a record stands to what was applied before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The next one: apply it.
    Next,
    /// Applied before.
    Duplicate,
    /// Its predecessor has not come.
    Gap,
}

/// What was applied of one boot: the last sequence of each lane, none before the first word about the lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Boot {
    boot: BootId,
    through: [Option<Sequence>; 2],
    used_at: WallMs,
}

/// One agent. About 0.5 KB, and 48 bytes for each boot of the last 15 days.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    pub(crate) agent: AgentId,
    boots: Vec<Boot>,
    pub(crate) version: String,
    pub(crate) window_ms: u32,
    /// Regions it reported, with the start of the latest window.
    pub(crate) regions: BTreeMap<String, WallMs>,
    pub(crate) last_heard_at: WallMs,
    /// When its latest roll-ups came.
    pub(crate) rolled_up_at: WallMs,
    pub(crate) clock_ahead_ms: i64,
    pub(crate) missing: u64,
    pub(crate) heartbeat: Option<Heartbeat>,
    /// Whether its silence has been noticed; cleared by its next word.
    pub(crate) silent: bool,
    /// Whether there was no room for the incident about it.
    #[serde(default)]
    pub(crate) untold: bool,
}

impl Session {
    fn new(agent: &AgentId, now: Now) -> Self {
        Self {
            agent: agent.clone(),
            boots: Vec::new(),
            version: String::new(),
            window_ms: 0,
            regions: BTreeMap::new(),
            last_heard_at: now.wall,
            rolled_up_at: now.wall,
            clock_ahead_ms: 0,
            missing: 0,
            heartbeat: None,
            silent: false,
            untold: false,
        }
    }

    /// The entry of `boot`, which a record or a horizon names: nothing else takes a place, or an agent that starts again and
    /// again would push out the boots whose records it still holds.
    fn boot(&mut self, boot: BootId, now: Now, limits: &Limits, counts: &mut Counts) -> &mut Boot {
        // The order of use holds also where the clock was set back.
        let latest = self.boots.iter().filter(|known| known.boot != boot).map(|known| known.used_at).max();
        let used_at = latest.map_or(now.wall, |latest| now.wall.max(latest.plus_ms(1)));
        let place = match self.boots.iter().position(|known| known.boot == boot) {
            Some(place) => place,
            None => {
                self.forget_boots(now, limits, counts);
                self.boots.push(Boot { boot, through: [None; 2], used_at });
                self.boots.len() - 1
            }
        };
        let entry = &mut self.boots[place];
        entry.used_at = used_at;
        entry
    }

    /// Makes room for one more boot.
    fn forget_boots(&mut self, now: Now, limits: &Limits, counts: &mut Counts) {
        self.boots.retain(|known| now.wall.ms_since(known.used_at) <= BOOT_AGE_MAX_MS);
        while self.boots.len() >= limits.boots_per_agent_max.max(1) {
            let oldest = (0..self.boots.len()).min_by_key(|&i| self.boots[i].used_at);
            self.boots.swap_remove(oldest.unwrap_or(0));
            counts.add(Reason::BootEvicted, 1);
        }
    }

    /// Whether `window` should wait for it: it keeps pace in some region, and has not reported this far.
    pub(crate) fn is_awaited_for(&self, window: &PendingWindow) -> bool {
        let pace_ms = i64::from(window.window_ms).saturating_mul(PACE_WINDOWS);
        let keeps_pace =
            |latest: &WallMs| *latest < window.start && window.start.ms_since(*latest) <= pace_ms;
        // Windows of the agent may be narrower than the region's: the last of them completes it.
        let own_ms = i64::from(self.window_ms.clamp(1, window.window_ms));
        let complete = |latest: &WallMs| latest.plus_ms(own_ms) >= window.end();
        !self.silent
            && self
                .regions
                .values()
                .any(|latest| !complete(latest) && (keeps_pace(latest) || *latest >= window.start))
    }

    /// When its silence is to be noticed; none for one that never reported, or whose silence is known.
    pub(crate) fn silent_at(&self, timing: &Timing) -> Option<WallMs> {
        let windows_ms = i64::from(self.window_ms).saturating_mul(timing.silent_after_windows);
        let known = self.silent || self.regions.is_empty();
        (!known).then(|| self.last_heard_at.plus_ms(windows_ms.max(timing.silent_after_ms)))
    }
}

/// Every agent, by id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sessions {
    agents: BTreeMap<AgentId, Session>,
}

impl Sessions {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.agents.values()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.agents.values_mut()
    }

    pub(crate) fn get(&self, agent: &AgentId) -> Option<&Session> {
        self.agents.get(agent)
    }

    /// `agent` has reported the window of `region` that begins at `start`.
    pub(crate) fn report(&mut self, now: Now, agent: &AgentId, region: &str, start: WallMs) {
        let Some(session) = self.agents.get_mut(agent) else { return };
        session.rolled_up_at = now.wall;
        match session.regions.get_mut(region) {
            Some(latest) => *latest = start.max(*latest),
            None => drop(session.regions.insert(region.into(), start)),
        }
    }

    /// Ends the silence of `agent`; whether there was one.
    pub(crate) fn end_silence(&mut self, agent: &AgentId) -> bool {
        self.agents.get_mut(agent).is_some_and(|session| std::mem::take(&mut session.silent))
    }

    pub(crate) fn restore(&mut self, session: Session) {
        self.agents.insert(session.agent.clone(), session);
    }

    /// The session of `agent`, heard now. A new agent over the limit evicts the one heard longest ago, whose id is
    /// returned as well.
    pub(crate) fn hear(
        &mut self,
        now: Now,
        agent: &AgentId,
        limits: &Limits,
        counts: &mut Counts,
    ) -> (&mut Session, Option<AgentId>) {
        let mut evicted = None;
        if !self.agents.contains_key(agent) && self.agents.len() >= limits.agents_max.max(1) {
            evicted =
                self.agents.values().min_by_key(|s| (s.last_heard_at, &s.agent)).map(|s| s.agent.clone());
        }
        if let Some(oldest) = &evicted {
            self.agents.remove(oldest);
            counts.add(Reason::AgentEvicted, 1);
        }
        let session = self.agents.entry(agent.clone()).or_insert_with(|| Session::new(agent, now));
        session.last_heard_at = session.last_heard_at.max(now.wall);
        (session, evicted)
    }
}

impl Session {
    pub(crate) fn take_birth(&mut self, birth: &Birth) {
        birth.version.as_str().clone_into(&mut self.version);
        self.window_ms = birth.window_ms;
    }

    /// Takes the horizons: what lies below them will never come.
    pub(crate) fn take_heartbeat(
        &mut self,
        now: Now,
        heartbeat: &Heartbeat,
        limits: &Limits,
        counts: &mut Counts,
    ) {
        self.clock_ahead_ms = heartbeat.at.ms_since(now.wall);
        for (lane, horizon) in Lane::ALL.into_iter().zip(heartbeat.horizons) {
            let Some(horizon) = horizon.filter(|key| key.lane == lane && key.sequence.0 > 0) else {
                continue;
            };
            let through = &mut self.boot(horizon.boot, now, limits, counts).through[lane.index()];
            let below = horizon.sequence.0 - 1;
            let missing = through.map_or(0, |known| below.saturating_sub(known.0));
            *through = Some(Sequence(through.map_or(below, |known| known.0.max(below))));
            self.missing = self.missing.saturating_add(missing);
            counts.add(Reason::Missing, missing);
        }
        self.heartbeat = Some(heartbeat.clone());
    }

    /// Another aggregator that shares the agent's records has committed everything up to `key`: it is applied, though not here.
    pub(crate) fn take_elsewhere(&mut self, now: Now, key: RecordKey, limits: &Limits, counts: &mut Counts) {
        let through = &mut self.boot(key.boot, now, limits, counts).through[key.lane.index()];
        *through = Some(key.sequence.max(through.unwrap_or_default()));
    }

    /// Where `key` stands; the next one counts as applied from here on.
    pub(crate) fn advance(
        &mut self,
        now: Now,
        key: RecordKey,
        limits: &Limits,
        counts: &mut Counts,
    ) -> Order {
        let applied = self.through(key).sequence.0;
        if key.sequence.0 > applied.saturating_add(1) {
            return Order::Gap;
        }
        // A repeated record is a use, too: those after it will be repeated as well.
        let through = &mut self.boot(key.boot, now, limits, counts).through[key.lane.index()];
        if key.sequence.0 <= applied {
            return Order::Duplicate;
        }
        *through = Some(key.sequence);
        Order::Next
    }

    /// The last applied key of the boot and lane of `key`; sequence 0 when there is none.
    pub(crate) fn through(&self, key: RecordKey) -> RecordKey {
        let boot = self.boots.iter().find(|known| known.boot == key.boot);
        let sequence = boot.and_then(|known| known.through[key.lane.index()]).unwrap_or_default();
        RecordKey { sequence, ..key }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(boot: u64, sequence: u64) -> RecordKey {
        RecordKey { boot: BootId(boot), lane: Lane::RollUps, sequence: Sequence(sequence) }
    }

    fn birth() -> Birth {
        Birth {
            agent: AgentId::parse("edge-1").unwrap(),
            boot: BootId(1),
            version: Default::default(),
            started_at: WallMs(0),
            window_ms: 10_000,
            regions: Default::default(),
            series_max: 10,
        }
    }

    fn horizon(boot: u64, sequence: u64) -> Heartbeat {
        Heartbeat { horizons: [None, Some(key(boot, sequence))], ..Heartbeat::default() }
    }

    fn fixture() -> (Session, Now, Limits, Counts) {
        let agent = AgentId::parse("edge-1").unwrap();
        (Session::new(&agent, Now::default()), Now::default(), Limits::default(), Counts::default())
    }

    #[test]
    fn records_are_applied_once_and_in_order() {
        let (mut session, now, limits, mut counts) = fixture();
        let mut go = |sequence| session.advance(now, key(1, sequence), &limits, &mut counts);
        assert_eq!(go(1), Order::Next);
        assert_eq!(go(1), Order::Duplicate);
        assert_eq!(go(3), Order::Gap);
        assert_eq!(go(2), Order::Next);
        assert_eq!(go(3), Order::Next);
        assert_eq!(go(0), Order::Duplicate);
        assert_eq!(session.through(key(1, 9)), key(1, 3));
        assert_eq!(session.through(key(2, 9)), key(2, 0));
    }

    #[test]
    fn what_another_aggregator_applied_is_applied() {
        let (mut session, now, limits, mut counts) = fixture();
        assert_eq!(session.advance(now, key(1, 1), &limits, &mut counts), Order::Next);
        session.take_elsewhere(now, key(1, 4), &limits, &mut counts);
        session.take_elsewhere(now, key(1, 2), &limits, &mut counts);
        assert_eq!(session.advance(now, key(1, 4), &limits, &mut counts), Order::Duplicate);
        assert_eq!(session.advance(now, key(1, 5), &limits, &mut counts), Order::Next);
        assert_eq!((session.missing, session.through(key(1, 9))), (0, key(1, 5)), "nothing is missing");
    }

    #[test]
    fn a_horizon_closes_a_gap_and_counts_what_is_lost() {
        let (mut session, now, limits, mut counts) = fixture();
        session.take_heartbeat(now, &horizon(1, 5), &limits, &mut counts);
        assert_eq!(session.missing, 0, "a lane never seen before starts at its horizon");
        assert_eq!(session.advance(now, key(1, 5), &limits, &mut counts), Order::Next);
        session.take_heartbeat(now, &horizon(1, 9), &limits, &mut counts);
        assert_eq!(session.missing, 3);
        session.take_heartbeat(now, &horizon(1, 7), &limits, &mut counts);
        assert_eq!(session.missing, 3, "a horizon never goes back");
        assert_eq!(session.advance(now, key(1, 8), &limits, &mut counts), Order::Duplicate);
        assert_eq!(session.advance(now, key(1, 9), &limits, &mut counts), Order::Next);
        assert_eq!(counts.get(Reason::Missing), 3);
    }

    /// Found by seed 2813 of the simulation: acknowledgements that a broken disk did not keep, and then start after start.
    #[test]
    fn starts_that_say_nothing_push_out_no_boot_whose_records_may_come_again() {
        let (mut session, now, limits, mut counts) = fixture();
        assert_eq!(session.advance(now, key(1, 1), &limits, &mut counts), Order::Next);
        for boot in 2..=2_000 {
            session.take_birth(&Birth { boot: BootId(boot), ..birth() });
            assert_eq!(
                session.advance(now, key(boot, 2), &limits, &mut counts),
                Order::Gap,
                "of no boot known"
            );
        }
        assert_eq!(session.advance(now, key(1, 1), &limits, &mut counts), Order::Duplicate);
        for boot in 2..=64 {
            session.advance(now, key(boot, 1), &limits, &mut counts);
        }
        for boot in 1..=64 {
            assert_eq!(session.advance(now, key(boot, 1), &limits, &mut counts), Order::Duplicate);
        }
        assert_eq!(counts.get(Reason::BootEvicted), 0);
    }

    #[test]
    fn the_boot_used_longest_ago_goes_also_when_the_clock_was_set_back() {
        let (mut session, _, _, mut counts) = fixture();
        let limits = Limits { boots_per_agent_max: 2, ..Limits::default() };
        for (wall, boot) in [(WallMs(600_000), 9), (WallMs(0), 5), (WallMs(1), 1)] {
            session.advance(Now { wall, ..Now::default() }, key(boot, 1), &limits, &mut counts);
        }
        let left: Vec<u64> = session.boots.iter().map(|known| known.boot.0).collect();
        assert_eq!(left, [5, 1]);
    }

    #[test]
    fn a_boot_is_forgotten_once_its_records_are_refused_for_their_age() {
        let (mut session, _, limits, mut counts) = fixture();
        assert!(Timing::default().past_max_ms < BOOT_AGE_MAX_MS);
        for (wall, boot, left) in [(0, 1, 1), (BOOT_AGE_MAX_MS, 2, 2), (BOOT_AGE_MAX_MS + 1, 3, 2)] {
            let now = Now { wall: WallMs(wall), ..Now::default() };
            session.advance(now, key(boot, 1), &limits, &mut counts);
            assert_eq!(session.boots.len(), left);
        }
    }

    #[test]
    fn agents_and_boots_are_bounded() {
        let (_, _, _, mut counts) = fixture();
        let limits = Limits { agents_max: 2, boots_per_agent_max: 2, ..Limits::default() };
        let mut sessions = Sessions::default();
        for (at, name) in ["a", "b", "a", "c"].into_iter().enumerate() {
            let now = Now { wall: WallMs(at as i64), ..Now::default() };
            sessions.hear(now, &AgentId::parse(name).unwrap(), &limits, &mut counts);
        }
        let left: Vec<&str> = sessions.iter().map(|s| s.agent.as_str()).collect();
        assert_eq!(left, ["a", "c"]);
        let session = sessions.hear(Now::default(), &AgentId::parse("a").unwrap(), &limits, &mut counts).0;
        for boot in 1..=3 {
            let now = Now { wall: WallMs(boot as i64), ..Now::default() };
            session.advance(now, key(boot, 1), &limits, &mut counts);
        }
        assert_eq!(session.boots.len(), 2);
        assert_eq!((counts.get(Reason::AgentEvicted), counts.get(Reason::BootEvicted)), (1, 1));
    }
}
