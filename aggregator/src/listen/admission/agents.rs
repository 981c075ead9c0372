//! Real links and spools before a core that is far too slow, in virtual time: ten times the load it can take, half of the
//! agents greedy, connections that break. Afterwards everything must have been applied once.

use std::sync::Arc;

use tokio::sync::mpsc;
use vedette_agent_core::link::{Link, LinkOutput, LinkSettings};
use vedette_agent_core::spool::{MemoryStorage, Segment, Spool, SpoolMemory, SpoolSettings};
use vedette_aggregator_core::{Aggregator, AllowedRegions, Effect, Settings};
use vedette_common::limits::FRAME_BYTES_MAX;
use vedette_common::wire::{
    self, Acknowledge, Birth, CellName, F24, Frame, Message, Refuse, RollUp, Summary,
};
use vedette_common::{AgentId, BootId, Lane, MonoMs, Now, RecordKey, WallMs};

use super::{Admission, Offer};
use crate::listen::{AgentMessage, Input, Replies};

/// One turn of the world.
const STEP_MS: u64 = 10;
/// Records that the core takes in a turn: 200 a second.
const TAKEN_IN_A_STEP: usize = 2;
/// How long records are made: ten times as many as can be taken.
const LOAD_MS: u64 = 5_000;
/// All agents, and those among them that make far too much.
const AGENTS: usize = 20;
const GREEDY: usize = 10;
/// What each of these makes in a turn.
const GREEDY_RECORDS: u64 = 2;
const WINDOW_MS: u32 = 10_000;
const WALL: WallMs = WallMs(1_772_323_200_000);

struct Edge<'m> {
    id: AgentId,
    spool: Spool<'m, MemoryStorage<'m>>,
    link: Link,
    connection: u64,
    /// When its deviations were made that are not acknowledged, and the longest that one took.
    deviations: Vec<u64>,
    slowest_ms: u64,
    made: u64,
}

struct World<'m> {
    edges: Vec<Edge<'m>>,
    admission: Admission,
    core: Aggregator,
    /// The connections that the core's task knows.
    known: Vec<u64>,
    connections: u64,
    refused: u64,
    now_ms: u64,
}

fn now(ms: u64) -> Now {
    Now { mono: MonoMs(ms), wall: WALL.plus_ms(ms as i64) }
}

fn record(key: RecordKey, device: &str, at: WallMs) -> Summary {
    let mut summary = Summary::new(key, at.window_start(WINDOW_MS), WINDOW_MS);
    let mut name = |text: &str| summary.strings.intern(text).unwrap();
    let cell = CellName { region: name("uk"), device: name(device), stack: name("playback") };
    let metric = name("activity");
    summary.cells.push(cell).unwrap();
    let one = F24::from_f32(1.0);
    summary.roll_ups.push(RollUp { cell: 0, metric, observed: one, expected: one, count: 1 }).unwrap();
    summary
}

impl Edge<'_> {
    fn make(&mut self, lane: Lane, ms: u64) {
        let (id, at) = (self.id.clone(), now(ms).wall);
        let written =
            self.spool.append(lane, |key, buffer| wire::encode(&record(key, id.as_str(), at), buffer));
        written.unwrap();
        self.made += 1;
        if lane == Lane::Deviations {
            self.deviations.push(ms);
        }
    }

    fn hear<M: Message>(&mut self, ms: u64, message: &M) {
        let mut bytes = vec![0; 1_024];
        let length = wire::encode(message, &mut bytes).unwrap();
        let (frame, _) = Frame::parse(&bytes[..length]).unwrap();
        if self.link.is_connected() {
            self.link.handle_frame(now(ms), &frame, &mut self.spool).unwrap();
        }
        let left = self.spool.records(Lane::Deviations) as usize;
        let done = self.deviations.len().saturating_sub(left);
        for made in self.deviations.drain(..done) {
            self.slowest_ms = self.slowest_ms.max(ms - made);
        }
    }
}

impl World<'_> {
    fn offer(&mut self, edge: usize, message: AgentMessage) {
        let Edge { id, connection, .. } = &self.edges[edge];
        let (agent, connection, regions) = (id.clone(), *connection, Arc::new(AllowedRegions::All));
        let input = Input::Received { agent, connection, regions, message: Box::new(message) };
        if let Offer::Refused(refuse, _) = self.admission.offer(self.now_ms, input, 0.5) {
            self.refused += 1;
            self.edges[edge].hear(self.now_ms, &refuse);
        }
    }

    fn connect(&mut self, edge: usize) {
        self.connections += 1;
        let Edge { id, connection, link, .. } = &mut self.edges[edge];
        *connection = self.connections;
        let (replies, _) = mpsc::channel(1);
        let (agent, connection) = (id.clone(), self.connections);
        link.handle_connected(now(self.now_ms));
        self.admission.offer(
            self.now_ms,
            Input::Opened { agent, connection, replies: Replies::new(replies) },
            0.5,
        );
    }

    /// Everything that the link of one agent wants.
    fn turn(&mut self, edge: usize) {
        let mut buffer = [0; FRAME_BYTES_MAX];
        loop {
            let Edge { link, spool, .. } = &mut self.edges[edge];
            match link.poll_output(now(self.now_ms), spool, &mut buffer) {
                Some(LinkOutput::Connect) => self.connect(edge),
                Some(LinkOutput::Send(length)) => {
                    let (frame, _) = Frame::parse(&buffer[..length]).unwrap();
                    self.offer(edge, AgentMessage::decode(&frame).unwrap());
                }
                Some(LinkOutput::Close) => {}
                None => return,
            }
        }
    }

    /// What the core takes in one turn, and its answers.
    fn judge(&mut self) {
        let mut taken = 0;
        while taken < TAKEN_IN_A_STEP {
            let Some(input) = self.admission.take(self.now_ms) else { break };
            let place = |agent: &AgentId| self.edges.iter().position(|edge| edge.id == *agent).unwrap();
            match input {
                Input::Opened { agent, connection, .. } => self.known[place(&agent)] = connection,
                Input::Closed { .. } | Input::Elsewhere { .. } => {}
                Input::Received { agent, connection, message, .. } => {
                    assert_eq!(self.known[place(&agent)], connection, "heard before its opening");
                    let now = now(self.now_ms);
                    match &*message {
                        AgentMessage::Birth(birth) => {
                            self.core.handle_birth(now, &agent, birth);
                        }
                        AgentMessage::Heartbeat(heartbeat) => {
                            self.core.handle_heartbeat(now, &agent, heartbeat);
                        }
                        AgentMessage::Summary(summary) => {
                            taken += 1;
                            self.core.handle_summary(now, &agent, &AllowedRegions::All, summary);
                        }
                    }
                }
            }
        }
        drop(self.core.take_changes());
        while let Some(effect) = self.core.poll_effect() {
            let (agent, answer): (_, Result<Acknowledge, Refuse>) = match effect {
                Effect::Acknowledge { agent, key } => (agent, Ok(Acknowledge { key })),
                Effect::Refuse { agent, key, reason } => {
                    (agent, Err(Refuse { reason, key: Some(key), retry_after_ms: 0 }))
                }
                _ => continue,
            };
            let edge = self.edges.iter_mut().find(|edge| edge.id == agent).unwrap();
            match answer {
                Ok(acknowledge) => edge.hear(self.now_ms, &acknowledge),
                Err(refuse) => edge.hear(self.now_ms, &refuse),
            }
        }
    }

    fn spooled(&self, edge: usize) -> u64 {
        Lane::ALL.into_iter().map(|lane| self.edges[edge].spool.records(lane)).sum()
    }

    /// One turn under load: the last agent makes one deviation a second, the others that are not greedy a roll-up a second.
    fn make(&mut self) {
        let (step, last) = (self.now_ms / STEP_MS, self.edges.len() - 1);
        for (index, edge) in self.edges.iter_mut().enumerate() {
            let is_due = (step + index as u64).is_multiple_of(1_000 / STEP_MS);
            match index {
                0..GREEDY => (0..GREEDY_RECORDS).for_each(|_| edge.make(Lane::RollUps, self.now_ms)),
                index if index == last && is_due => edge.make(Lane::Deviations, self.now_ms),
                _ if is_due => edge.make(Lane::RollUps, self.now_ms),
                _ => {}
            }
        }
        // Now and then a connection breaks.
        if step.is_multiple_of(97) {
            let edge = (step / 97) as usize % last;
            self.edges[edge].link.handle_disconnected(now(self.now_ms));
        }
    }
}

fn edge<'m>(index: usize) -> Edge<'m> {
    let settings = SpoolSettings::with_bytes_max(1 << 20);
    let lend = |length: usize| Vec::leak(vec![0_u8; length]);
    let lengths = Vec::leak(vec![None; settings.segments()]);
    let segments = Vec::leak(vec![Segment::default(); settings.segments()]);
    let memory = SpoolMemory { segments, buffer: lend(settings.buffer_bytes()) };
    let storage = MemoryStorage::new(lend(settings.bytes_max as usize), lengths);
    let boot = BootId(index as u64 + 1);
    let id = AgentId::parse(&format!("edge-{index}")).unwrap();
    let birth = Birth {
        agent: id.clone(),
        boot,
        version: heapless::String::new(),
        started_at: WALL,
        window_ms: WINDOW_MS,
        regions: heapless::Vec::new(),
        series_max: 10,
    };
    let spool = Spool::open(storage, settings, memory, boot).unwrap();
    let link = Link::new(LinkSettings::default(), birth, index as u64);
    Edge { id, spool, link, connection: 0, deviations: Vec::new(), slowest_ms: 0, made: 0 }
}

#[test]
fn under_ten_times_the_load_the_quiet_are_served_and_in_the_end_everything_was_applied_once() {
    let mut world = World {
        edges: (0..AGENTS).map(edge).collect(),
        admission: Admission::default(),
        core: Aggregator::new(Settings::default()),
        known: vec![0; AGENTS],
        connections: 0,
        refused: 0,
        now_ms: 0,
    };
    let drained = |world: &World<'_>| (0..AGENTS).all(|edge| world.spooled(edge) == 0);
    while world.now_ms < LOAD_MS || !drained(&world) {
        if world.now_ms < LOAD_MS {
            world.make();
        }
        (0..AGENTS).for_each(|edge| world.turn(edge));
        world.judge();
        world.now_ms += STEP_MS;
        if world.now_ms == LOAD_MS {
            let backlogs: Vec<u64> = (0..GREEDY).map(|edge| world.spooled(edge)).collect();
            assert!(backlogs.iter().all(|backlog| *backlog > 500), "the greedy keep theirs: {backlogs:?}");
            let others: u64 = (GREEDY..AGENTS).map(|edge| world.spooled(edge)).sum();
            assert!(others < 3 * (AGENTS - GREEDY) as u64, "{others} records of the others wait");
            assert!(world.refused > 0, "too little load to show anything");
        }
        assert!(world.now_ms < 20 * LOAD_MS, "it does not drain");
    }
    assert!(world.edges[AGENTS - 1].slowest_ms <= 200, "{} ms", world.edges[AGENTS - 1].slowest_ms);
    let (made, counts) =
        (world.edges.iter().map(|edge| edge.made).sum::<u64>(), world.core.snapshot().counts);
    assert_eq!(counts.summaries, made, "each was applied once");
    assert_eq!(counts.get(vedette_aggregator_core::Reason::Missing), 0);
    for edge in &world.edges {
        assert_eq!(edge.spool.counts().acknowledged, edge.made, "{}", edge.id);
    }
    // The time that it took is that of the core, not of waiting in vain.
    let least_ms = made / TAKEN_IN_A_STEP as u64 * STEP_MS;
    assert!(world.now_ms < least_ms * 3 / 2, "{} ms for what the core needs {least_ms} ms for", world.now_ms);
}
