//! The aggregator: its process with the real core, and a store that commits, is slow, fails, or is there after a crash.
//!
//! It must never answer before the commit, and never take anything in while one is under way: so does the shell that this stands
//! for. The hard case is a process that ends in the middle of a commit: the batch is on the disk or it is not, and either
//! way nobody was answered.
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use vedette_aggregator_core::{
    Aggregator, AlarmOn, AllowedRegions, Change, Disposition, Effect, MetricSettings, Part, Role, Settings,
};
use vedette_common::limits::FRAME_BYTES_MAX;
use vedette_common::wire::{Acknowledge, Frame, Heartbeat, Kind, Message, Refuse, Summary, decode, encode};
use vedette_common::{AgentId, BootId, Lane, MonoMs, Now, RecordKey};

use super::edge::BEGINNING;
use super::oracle::{Oracle, content_of};
use super::telemetry::region_of;

/// Inputs that wait for the core, at most; the ways then hold them back.
pub(super) const QUEUE_MAX: usize = 512;
/// Records of one commit, at most.
const BATCH_MAX: usize = 512;
/// How long a batch is gathered.
const LINGER_MS: u64 = 5;
/// How long a failed commit rests.
const COMMIT_RETRY_MS: u64 = 1_000;

/// A batch whose commit is under way.
#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    effects: Vec<Effect>,
    consumed: Vec<(usize, RecordKey)>,
}

/// What happens next in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Nothing,
    /// The batch is complete, or the core's deadline has come.
    Gathered(u64),
    /// The commit ends.
    Committed(u64),
}

struct Process {
    core: Aggregator,
    queue: VecDeque<(usize, Rc<[u8]>)>,
    taken: usize,
    gathers_until: Option<u64>,
    committing: Option<(Batch, u64)>,
}

/// The aggregator and its disk.
pub(super) struct Centre {
    settings: Settings,
    agents: Vec<AgentId>,
    allowed: [AllowedRegions; 2],
    disk: BTreeMap<String, Part>,
    process: Option<Process>,
    pub(super) ahead_ms: i64,
    pub(super) store_fails: bool,
    /// How much longer a commit takes than it should.
    pub(super) slowness: u64,
}

fn settings() -> Settings {
    let mut settings = Settings::default();
    let traffic = MetricSettings { role: Role::Traffic, alarm_on: AlarmOn::Drop };
    settings.metrics.insert("activity".into(), traffic);
    // Few enough that a partition of some minutes reaches it.
    settings.limits.ahead_windows_max = 64;
    settings
}

impl Centre {
    pub(super) fn new(agents: Vec<AgentId>) -> Self {
        let allowed =
            [0, 1].map(|place| AllowedRegions::Named(BTreeSet::from([region_of(place).to_owned()])));
        Self {
            settings: settings(),
            agents,
            allowed,
            disk: BTreeMap::new(),
            process: None,
            ahead_ms: 0,
            store_fails: false,
            slowness: 1,
        }
    }

    fn now(&self, ms: u64) -> Now {
        Now { mono: MonoMs(ms), wall: BEGINNING.plus_ms(ms as i64 + self.ahead_ms) }
    }

    pub(super) const fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// A process begins with what is on the disk, read back from the text that it is stored as.
    pub(super) fn start(&mut self, ms: u64) {
        let parts = self.disk.values().map(|part| {
            let text = serde_json::to_string(part).expect("a part is plain data");
            serde_json::from_str::<Part>(&text).expect("a part reads what it wrote")
        });
        let mut core = Aggregator::restore(self.settings.clone(), parts.collect::<Vec<_>>());
        core.handle_start(self.now(ms));
        let queue = VecDeque::new();
        self.process = Some(Process { core, queue, taken: 0, gathers_until: None, committing: None });
    }

    /// The process ends; `commits`: a commit that was under way reached the disk.
    pub(super) fn kill(&mut self, commits: bool, oracle: &mut Oracle) {
        let Some(process) = self.process.take() else { return };
        let tentative = oracle.take_tentative();
        oracle.settle(&tentative, false);
        if let Some((batch, _)) = process.committing {
            oracle.settle(&batch.consumed, commits);
            if commits {
                self.write(batch, oracle);
            }
        }
    }

    /// Puts a batch on the disk; gives what is to be told now.
    fn write(&mut self, batch: Batch, oracle: &mut Oracle) -> Vec<Effect> {
        for Change { key, part } in batch.changes {
            match part {
                Some(part) => drop(self.disk.insert(key, part)),
                None => drop(self.disk.remove(&key)),
            }
        }
        for effect in &batch.effects {
            if let Effect::Incident(alarm) = effect {
                oracle.told(alarm);
            }
        }
        batch.effects
    }

    /// The store loses what it must not.
    pub(super) fn forget_sessions(&mut self) {
        self.disk.retain(|key, _| !key.starts_with("session/"));
    }

    /// Whether another frame finds room.
    pub(super) fn has_room(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.queue.len() < QUEUE_MAX)
    }

    /// A frame of an agent arrived.
    pub(super) fn receive(&mut self, ms: u64, agent: usize, bytes: Rc<[u8]>, oracle: &mut Oracle) {
        let Some(process) = &mut self.process else { return };
        process.queue.push_back((agent, bytes));
        if process.committing.is_none() {
            self.take_queue(ms, oracle);
        }
    }

    fn take_queue(&mut self, ms: u64, oracle: &mut Oracle) {
        while let Some(process) = &mut self.process {
            if process.taken >= BATCH_MAX {
                break;
            }
            let Some((agent, bytes)) = process.queue.pop_front() else { break };
            process.taken += 1;
            process.gathers_until.get_or_insert(ms + LINGER_MS);
            self.take(ms, agent, &bytes, oracle);
        }
    }

    fn take(&mut self, ms: u64, agent: usize, bytes: &[u8], oracle: &mut Oracle) {
        let now = self.now(ms);
        let (id, allowed) = (&self.agents[agent], &self.allowed[agent % 2]);
        let Some(process) = &mut self.process else { return };
        // A frame whose bytes were harmed on the way ends here, by its checksum.
        let Ok((frame, _)) = Frame::parse(bytes) else { return };
        match frame.kind {
            Kind::Birth => match decode(&frame) {
                Ok(birth) => process.core.handle_birth(now, id, &birth),
                Err(error) => oracle.fail(|| format!("a birth does not decode: {error}")),
            },
            Kind::Heartbeat => match decode::<Heartbeat>(&frame) {
                Ok(heartbeat) => {
                    let horizons = heartbeat.horizons.iter().flatten();
                    horizons.for_each(|horizon| oracle.given_up(agent, *horizon));
                    process.core.handle_heartbeat(now, id, &heartbeat);
                }
                Err(error) => oracle.fail(|| format!("a heartbeat does not decode: {error}")),
            },
            _ => match decode::<Summary>(&frame) {
                Ok(summary) => {
                    let disposition = process.core.handle_summary(now, id, allowed, &summary);
                    match disposition {
                        Disposition::Accepted => {
                            oracle.consumed(agent, summary.key, content_of(bytes), false);
                        }
                        Disposition::Refused(_) => {
                            oracle.consumed(agent, summary.key, content_of(bytes), true);
                        }
                        Disposition::Duplicate => oracle.repeated += 1,
                        Disposition::Gap => {}
                    }
                }
                Err(error) => oracle.fail(|| format!("a summary does not decode: {error}")),
            },
        }
    }

    /// What is due next, if the process runs.
    pub(super) fn next(&self, ms: u64) -> Next {
        let Some(process) = &self.process else { return Next::Nothing };
        if let Some((_, ends)) = &process.committing {
            return Next::Committed(*ends);
        }
        let wall = self.now(ms).wall;
        let deadline = process.core.poll_deadline().map(|at| ms + at.ms_since(wall).max(0).unsigned_abs());
        let due = process.gathers_until.into_iter().chain(deadline).min();
        due.map_or(Next::Nothing, |due| Next::Gathered(due.max(ms)))
    }

    /// The batch is complete: its commit begins, and takes `commit_ms`.
    pub(super) fn commit(&mut self, ms: u64, commit_ms: u64, oracle: &mut Oracle) {
        let now = self.now(ms);
        let Some(process) = &mut self.process else { return };
        process.core.handle_deadline(now);
        let changes = process.core.take_changes();
        let effects: Vec<Effect> = std::iter::from_fn(|| process.core.poll_effect()).collect();
        (process.taken, process.gathers_until) = (0, None);
        if changes.is_empty() && effects.is_empty() {
            return;
        }
        let consumed = oracle.take_tentative();
        let ends = ms + commit_ms.max(1) * self.slowness;
        process.committing = Some((Batch { changes, effects, consumed }, ends));
    }

    /// The commit ends; gives the answers to agents, refusals first.
    pub(super) fn finish(&mut self, ms: u64, oracle: &mut Oracle) -> Vec<(usize, Vec<u8>)> {
        let Some(process) = &mut self.process else { return Vec::new() };
        if self.store_fails {
            if let Some((_, ends)) = &mut process.committing {
                *ends = ms + COMMIT_RETRY_MS;
            }
            return Vec::new();
        }
        let Some((batch, _)) = process.committing.take() else { return Vec::new() };
        oracle.settle(&batch.consumed, true);
        let effects = self.write(batch, oracle);
        let answers = self.answers(effects);
        self.take_queue(ms, oracle);
        answers
    }

    /// What the batch whose commit has just begun will answer, for an aggregator that does not wait.
    pub(super) fn early_answers(&self) -> Vec<(usize, Vec<u8>)> {
        let committing = self.process.as_ref().and_then(|process| process.committing.as_ref());
        committing.map_or_else(Vec::new, |(batch, _)| self.answers(batch.effects.clone()))
    }

    fn answers(&self, effects: Vec<Effect>) -> Vec<(usize, Vec<u8>)> {
        let known = "the core answers only agents that it heard";
        let place = |agent: &AgentId| self.agents.iter().position(|one| one == agent).expect(known);
        let mut answers = Vec::new();
        let mut acknowledged: BTreeMap<(usize, BootId, Lane), RecordKey> = BTreeMap::new();
        for effect in effects {
            match effect {
                Effect::Refuse { agent, key, reason } => {
                    let refuse = Refuse { reason, key: Some(key), retry_after_ms: 0 };
                    answers.push((place(&agent), frame(&refuse)));
                }
                Effect::Acknowledge { agent, key } => {
                    acknowledged.insert((place(&agent), key.boot, key.lane), key);
                }
                Effect::Incident(_) | Effect::Ledger(_) | Effect::Basis { .. } => {}
            }
        }
        answers
            .extend(acknowledged.into_iter().map(|((agent, ..), key)| (agent, frame(&Acknowledge { key }))));
        answers
    }

    /// Whether everything that came in is committed.
    pub(super) fn is_idle(&self) -> bool {
        self.process.as_ref().is_some_and(|process| {
            process.queue.is_empty() && process.taken == 0 && process.committing.is_none()
        })
    }

    /// In the end: a process that began with the disk would be where this one is.
    pub(super) fn check(&self, oracle: &mut Oracle) {
        let Some(process) = &self.process else { return };
        let of_core = |core: &Aggregator| {
            let text = |part| serde_json::to_string(part).expect("a part is plain data");
            let mut parts: Vec<String> = core.state().iter().map(text).collect();
            parts.sort_unstable();
            parts
        };
        let restored = Aggregator::restore(self.settings.clone(), self.disk.values().cloned());
        let (here, there) = (of_core(&process.core), of_core(&restored));
        let differs = here.iter().zip(&there).find(|(here, there)| here != there);
        oracle.expect(here == there, || format!("the disk and the core differ: {differs:?}"));
        let limits = &self.settings.limits;
        let windows = self.disk.keys().filter(|key| key.starts_with("window/")).count();
        // Those whose deviations came ahead of their roll-ups wait beside the others.
        let windows_max = limits.pending_windows_max + limits.ahead_windows_max;
        oracle.expect(windows <= windows_max, || format!("{windows} windows wait"));
    }
}

/// A message as the bytes of one frame.
pub(super) fn frame<M: Message>(message: &M) -> Vec<u8> {
    let mut buffer = vec![0; FRAME_BYTES_MAX.min(1_024)];
    let length = encode(message, &mut buffer).expect("an answer is short");
    buffer.truncate(length);
    buffer
}
