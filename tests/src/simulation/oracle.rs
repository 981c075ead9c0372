//! The oracle: what was made, what became of it, and whether that may be.
//!
//! It must never take anybody's word: it sees each record when it is made, when the aggregator's core consumes it, when that is
//! committed, and when the spool frees it. The hard case is a crash of the aggregator: what was consumed and not
//! committed is as if it had never come, and may come again.
use std::collections::{BTreeMap, HashMap};

use vedette_aggregator_core::{Alarm, IncidentState};
use vedette_common::{BootId, Lane, RecordKey};

/// What the aggregator did with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Consumed {
    No,
    /// By the core, in a batch that is not committed.
    Tentatively,
    Committed,
}

#[derive(Clone, Copy, Debug)]
struct Fate {
    content: u64,
    consumed: Consumed,
    /// The agent told the aggregator that it will never come.
    is_given_up: bool,
    /// Something happened to this very record after which it may be missing, if it was counted.
    is_excused: bool,
    /// It was not synced when the power was cut, and nothing else had happened to it before.
    is_unsynced: bool,
}

impl Fate {
    /// Whether it never was committed, and nothing explains that.
    const fn is_lost(&self) -> bool {
        !matches!(self.consumed, Consumed::Committed) && !self.is_excused
    }
}

/// What may be missing of one agent's records, and why.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Allowance {
    /// Records that its spools counted as dropped, refusals apart.
    pub(super) dropped: u64,
    /// Records that were not synced when the power was cut and never arrived.
    unsynced: u64,
    /// Bits that flipped on its medium: each harms one record at most.
    pub(super) flipped: u64,
}

impl Allowance {
    const fn total(&self) -> u64 {
        self.dropped + self.unsynced + self.flipped
    }
}

/// The place of one stream of records: agent, boot, lane.
type Stream = (usize, BootId, usize);

/// What is known of all records and incidents.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    fates: HashMap<Stream, Vec<Fate>>,
    pub(super) allowances: Vec<Allowance>,
    tentative: Vec<(usize, RecordKey)>,
    incidents: BTreeMap<String, IncidentState>,
    pub(super) made: u64,
    pub(super) refused: u64,
    pub(super) repeated: u64,
    pub(super) incident_states: u64,
    pub(super) lost: u64,
    pub(super) doubled: u64,
    /// The first thing that did not hold.
    pub(super) failure: Option<String>,
}

/// FNV-1a (Fowler, Noll, Vo).
pub(super) fn content_of(frame: &[u8]) -> u64 {
    frame.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl Oracle {
    pub(super) fn new(agents: usize) -> Self {
        Self { allowances: vec![Allowance::default(); agents], ..Self::default() }
    }

    /// Keeps the first failure.
    pub(super) fn fail(&mut self, what: impl FnOnce() -> String) {
        if self.failure.is_none() {
            self.failure = Some(what());
        }
    }

    pub(super) fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fail(what);
        }
    }

    fn fate(&mut self, agent: usize, key: RecordKey) -> Option<&mut Fate> {
        let place = usize::try_from(key.sequence.0).ok()?.checked_sub(1)?;
        self.fates.get_mut(&(agent, key.boot, key.lane.index()))?.get_mut(place)
    }

    /// A record was given its key, whatever the medium did with it.
    pub(super) fn made(&mut self, agent: usize, key: RecordKey, content: u64) {
        self.made += 1;
        let stream = self.fates.entry((agent, key.boot, key.lane.index())).or_default();
        stream.push(Fate {
            content,
            consumed: Consumed::No,
            is_given_up: false,
            is_excused: false,
            is_unsynced: false,
        });
        let in_order = stream.len() as u64 == key.sequence.0;
        self.expect(in_order, || format!("{key:?} of agent {agent} is not the next"));
    }

    /// The record may be missing from here on: it was refused by its medium, removed or cut off with its segment, not synced at a power cut, or harmed.
    pub(super) fn excuse(&mut self, agent: usize, key: RecordKey) {
        if let Some(fate) = self.fate(agent, key) {
            fate.is_excused = true;
        }
    }

    /// The power was cut before the record was made safe. What was excused before was counted then.
    pub(super) fn not_synced(&mut self, agent: usize, key: RecordKey) {
        if let Some(fate) = self.fate(agent, key) {
            fate.is_unsynced |= !fate.is_excused;
            fate.is_excused = true;
        }
    }

    /// The core took a record as new.
    pub(super) fn consumed(&mut self, agent: usize, key: RecordKey, content: u64, refused: bool) {
        let Some(fate) = self.fate(agent, key) else {
            return self.fail(|| format!("agent {agent} never made {key:?}"));
        };
        let (before, same) = (fate.consumed, fate.content == content);
        fate.consumed = Consumed::Tentatively;
        self.refused += u64::from(refused);
        self.tentative.push((agent, key));
        self.doubled += u64::from(before != Consumed::No);
        self.expect(before == Consumed::No, || format!("{key:?} of agent {agent} was consumed twice"));
        self.expect(same, || format!("{key:?} of agent {agent} arrived with another content"));
    }

    /// The core learned that nothing before `horizon` will come any more.
    pub(super) fn given_up(&mut self, agent: usize, horizon: RecordKey) {
        let below = horizon.sequence.0.saturating_sub(1) as usize;
        let stream = self.fates.get_mut(&(agent, horizon.boot, horizon.lane.index()));
        let below = stream.into_iter().flat_map(|stream| stream.iter_mut().take(below).rev());
        // What was given up before ends the search: horizons only move forward.
        for fate in below.take_while(|fate| !fate.is_given_up) {
            fate.is_given_up = true;
        }
    }

    /// What was consumed and not yet settled; the caller settles it.
    pub(super) fn take_tentative(&mut self) -> Vec<(usize, RecordKey)> {
        std::mem::take(&mut self.tentative)
    }

    /// The batch with these records was committed, or lost in a crash.
    pub(super) fn settle(&mut self, batch: &[(usize, RecordKey)], committed: bool) {
        let consumed = if committed { Consumed::Committed } else { Consumed::No };
        for (agent, key) in batch {
            if let Some(fate) = self.fate(*agent, *key) {
                fate.consumed = consumed;
            }
        }
    }

    /// A committed incident state. Entering the state that it was in would tell people twice.
    pub(super) fn told(&mut self, alarm: &Alarm) {
        self.incident_states += 1;
        let before = self.incidents.insert(alarm.id.clone(), alarm.state);
        let (id, state) = (&alarm.id, alarm.state);
        self.expect(before != Some(state), || format!("incident {id} entered the state {state:?} twice"));
        let is_new = before.is_none();
        self.expect(!is_new || state != IncidentState::Resolved, || {
            format!("incident {id} was over before it began")
        });
    }

    /// A spool freed `records` of the lane from `first` through `key` because they were acknowledged.
    pub(super) fn freed(&mut self, agent: usize, first: Option<RecordKey>, key: RecordKey, records: u64) {
        let first = first.filter(|first| first.boot == key.boot && first.lane == key.lane);
        let Some(first) = first else {
            return self
                .fail(|| format!("{key:?} freed {records} records of agent {agent}, which held none"));
        };
        let stream = self.fates.get(&(agent, key.boot, key.lane.index()));
        let range = first.sequence.0.saturating_sub(1) as usize..key.sequence.0 as usize;
        let covered = stream.and_then(|stream| stream.get(range)).unwrap_or_default();
        let settled = |fate: &&Fate| fate.consumed == Consumed::Committed || fate.is_given_up;
        let settled = covered.iter().filter(settled).count() as u64;
        self.expect(records <= settled, || {
            format!("{key:?} freed {records} records of agent {agent}, of which {settled} are committed or given up")
        });
    }

    /// Whether a record was committed.
    pub(super) fn is_committed(&mut self, agent: usize, key: RecordKey) -> bool {
        self.fate(agent, key).is_some_and(|fate| fate.consumed == Consumed::Committed)
    }

    /// Whether nothing hangs on a record any more: it was committed, or given up before.
    pub(super) fn is_done(&self, agent: usize, key: RecordKey) -> bool {
        let stream = self.fates.get(&(agent, key.boot, key.lane.index()));
        let fate = stream.and_then(|stream| stream.get((key.sequence.0 - 1) as usize));
        fate.is_some_and(|fate| fate.consumed == Consumed::Committed || fate.is_given_up)
    }

    /// In the end, with everything drained: what is missing of each agent's records was counted, and each of these records has met something
    /// that explains it. Gives delivered and gone.
    pub(super) fn close(&mut self) -> (u64, u64) {
        let mut gone = vec![0; self.allowances.len()];
        let (mut delivered, mut lost) = (0, vec![0; self.allowances.len()]);
        for ((agent, ..), stream) in &self.fates {
            let committed = stream.iter().filter(|fate| fate.consumed == Consumed::Committed).count();
            delivered += committed as u64;
            gone[*agent] += (stream.len() - committed) as u64;
            let unsynced = |fate: &&Fate| fate.is_unsynced && fate.consumed != Consumed::Committed;
            self.allowances[*agent].unsynced += stream.iter().filter(unsynced).count() as u64;
            lost[*agent] += stream.iter().filter(|fate| fate.is_lost()).count() as u64;
        }
        self.lost = lost.iter().sum();
        if let Some(agent) = lost.iter().position(|lost| *lost > 0) {
            let (count, some) = (lost[agent], self.unaccounted(agent));
            self.fail(|| {
                format!("{count} records of agent {agent} are lost and nothing happened to them: {some:?}")
            });
        }
        for (agent, gone) in gone.iter().copied().enumerate() {
            let allowance = self.allowances[agent];
            if gone > allowance.total() {
                let some = self.unaccounted(agent);
                self.fail(|| {
                    format!(
                        "{gone} records of agent {agent} are gone, but only {allowance:?} say so: {some:?}"
                    )
                });
            }
        }
        (delivered, gone.iter().sum())
    }

    /// The first records of an agent that never were committed, for a failure's text.
    fn unaccounted(&self, agent: usize) -> Vec<(BootId, Lane, usize)> {
        let mut found = Vec::new();
        let any_lost = self.lost > 0;
        for ((of, boot, lane), stream) in self.fates.iter().filter(|((of, ..), _)| *of == agent) {
            debug_assert_eq!(*of, agent);
            let counts = |fate: &Fate| if any_lost { fate.is_lost() } else { fate.consumed == Consumed::No };
            let missing = stream.iter().enumerate().filter(|(_, fate)| counts(fate));
            found.extend(missing.map(|(place, _)| (*boot, Lane::ALL[*lane], place + 1)));
        }
        found.sort_unstable();
        found.truncate(20);
        found
    }
}
