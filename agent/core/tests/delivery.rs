//! Link and spool against a small model of the aggregator's session rule, over a channel that loses, repeats,
//! reorders and breaks, with an agent that is killed and started again. A first phase is rough, a second one
//! is calm: in the end every record was applied exactly once, refused, or counted as dropped.
//!
//! Everything is drawn from a seed, which a failure prints.
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use vedette_agent_core::link::{Link, LinkOutput, LinkSettings};
use vedette_agent_core::spool::{MemoryStorage, Segment, Spool, SpoolMemory, SpoolSettings, SyncPolicy};
use vedette_common::drops::DropUnit;
use vedette_common::limits::FRAME_BYTES_MAX;
use vedette_common::wire::{
    Acknowledge, Birth, Frame, Heartbeat, Kind, Message, Refuse, RefuseReason, decode, encode,
};
use vedette_common::{AgentId, BootId, DropReason, Lane, MonoMs, Now, RecordKey, Sequence, WallMs};

const ROUGH_MS: u64 = 200_000;
const CALM_MS: u64 = 1_800_000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Frames on their way in one direction, by the time at which they arrive.
#[derive(Default)]
struct Pipe(Vec<(u64, Vec<u8>)>);

impl Pipe {
    fn send(&mut self, at: u64, frame: &[u8], rough: bool, random: &mut Random) {
        let copies = if rough { [1, 1, 1, 1, 1, 1, 1, 0, 2, 1][random.below(10) as usize] } else { 1 };
        for _ in 0..copies {
            let delay = if rough { random.below(300) } else { 20 };
            self.0.push((at + delay, frame.to_vec()));
        }
    }
    fn arrived(&mut self, at: u64) -> Vec<Vec<u8>> {
        let (mut due, later): (Vec<_>, Vec<_>) = self.0.drain(..).partition(|(when, _)| *when <= at);
        self.0 = later;
        due.sort_by_key(|(when, _)| *when);
        due.into_iter().map(|(_, frame)| frame).collect()
    }
}

/// The session rule: of each boot and lane only the next sequence is taken; a horizon moves it forward.
#[derive(Default)]
struct Aggregator {
    through: BTreeMap<(BootId, Lane), u64>,
    applied: BTreeSet<RecordKey>,
    refused: BTreeSet<RecordKey>,
    missing: u64,
    births: u64,
    begun: bool,
}

impl Aggregator {
    fn handle(&mut self, bytes: &[u8], rough: bool, random: &mut Random) -> Vec<Vec<u8>> {
        let (frame, length) = Frame::parse(bytes).expect("a whole frame");
        assert_eq!(length, bytes.len());
        match frame.kind {
            Kind::Birth => {
                self.births += 1;
                self.begun = true;
                Vec::new()
            }
            Kind::Heartbeat => {
                let heartbeat: Heartbeat = decode(&frame).expect("a heartbeat");
                heartbeat.horizons.into_iter().flatten().for_each(|horizon| self.advance(horizon));
                Vec::new()
            }
            _ => {
                let Acknowledge { key } = decode(&frame).expect("a record's key");
                self.handle_record(key, rough, random)
            }
        }
    }

    fn advance(&mut self, horizon: RecordKey) {
        let below = horizon.sequence.0 - 1;
        let through = self.through.entry((horizon.boot, horizon.lane)).or_insert(below);
        self.missing += below.saturating_sub(*through);
        *through = below.max(*through);
    }

    fn handle_record(&mut self, key: RecordKey, rough: bool, random: &mut Random) -> Vec<Vec<u8>> {
        if rough && random.chance(3) {
            let retry_after_ms = random.below(3_000) as u32;
            return vec![frame(&Refuse { reason: RefuseReason::Overloaded, key: Some(key), retry_after_ms })];
        }
        let Some(through) = self.through.get_mut(&(key.boot, key.lane)) else { return Vec::new() };
        let mut answers = Vec::new();
        if key.sequence.0 == *through + 1 {
            *through += 1;
            if key.sequence.0.is_multiple_of(23) {
                assert!(self.refused.insert(key), "{key:?} was consumed twice");
                let reason = RefuseReason::Malformed;
                answers.push(frame(&Refuse { reason, key: Some(key), retry_after_ms: 0 }));
            } else {
                assert!(self.applied.insert(key), "{key:?} was applied twice");
            }
        }
        let committed = RecordKey { sequence: Sequence(*through), ..key };
        answers.push(frame(&Acknowledge { key: committed }));
        answers
    }
}

fn frame<M: Message>(message: &M) -> Vec<u8> {
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    let length = encode(message, &mut buffer).expect("it fits");
    buffer.truncate(length);
    buffer
}

fn birth(boot: BootId) -> Birth {
    Birth {
        agent: AgentId::parse("edge-1").expect("a good name"),
        boot,
        version: heapless::String::new(),
        started_at: WallMs(0),
        window_ms: 1_000,
        regions: heapless::Vec::new(),
        series_max: 10,
    }
}

/// The world outside the agent's process, and what the oracle remembers.
struct World {
    random: Random,
    aggregator: Aggregator,
    up: Pipe,
    down: Pipe,
    made: BTreeSet<RecordKey>,
    dropped: u64,
    sent: u64,
    resent: u64,
    now: u64,
}

type TestSpool<'m> = Spool<'m, MemoryStorage<'m>>;

impl World {
    /// One process of the agent: until it is killed in the rough phase, or everything is delivered.
    fn live(&mut self, boot: BootId, settings: SpoolSettings, bytes: &mut [u8], lengths: &mut [Option<u32>]) {
        let mut segments = vec![Segment::default(); settings.segments()];
        let mut buffer = vec![0; settings.buffer_bytes()];
        let memory = SpoolMemory { segments: &mut segments, buffer: &mut buffer };
        let storage = MemoryStorage::new(bytes, lengths);
        let mut spool = Spool::open(storage, settings, memory, boot).expect("the settings fit");
        let mut link = Link::new(LinkSettings::default(), birth(boot), self.random.next());
        loop {
            let rough = self.now < ROUGH_MS;
            assert!(self.now < ROUGH_MS + CALM_MS, "not everything was delivered in the calm phase");
            if rough {
                self.make_records(&mut spool);
            }
            self.turn(&mut link, &mut spool, rough);
            self.now += 50;
            let empty = Lane::ALL.into_iter().all(|lane| spool.records(lane) == 0);
            if (rough && self.random.below(1_000) == 0) || (!rough && empty) {
                break;
            }
        }
        let counts = spool.counts();
        self.dropped += counts.dropped.total(DropUnit::Record) - counts.dropped.get(DropReason::Refused);
        self.sent += link.counts().sent;
        self.resent += link.counts().resent;
    }

    fn make_records(&mut self, spool: &mut TestSpool<'_>) {
        for (lane, percent) in [(Lane::Deviations, 4), (Lane::RollUps, 12)] {
            if self.random.chance(percent) {
                // The frame of a record is nothing but its key here.
                let append = spool.append(lane, |key, buffer| {
                    self.made.insert(key);
                    Ok::<_, Infallible>(encode(&Acknowledge { key }, buffer).expect("it fits"))
                });
                append.expect("memory does not fail");
            }
        }
    }

    /// Moves frames both ways once and does what the link asks for.
    fn turn(&mut self, link: &mut Link, spool: &mut TestSpool<'_>, rough: bool) {
        let now = Now { mono: MonoMs(self.now), wall: WallMs(self.now as i64) };
        for bytes in self.up.arrived(self.now) {
            for answer in self.aggregator.handle(&bytes, rough, &mut self.random) {
                self.down.send(self.now, &answer, rough, &mut self.random);
            }
        }
        for bytes in self.down.arrived(self.now) {
            if link.is_connected() {
                let (frame, _) = Frame::parse(&bytes).expect("a whole frame");
                link.handle_frame(now, &frame, spool).expect("the aggregator makes sense");
            }
        }
        if rough && link.is_connected() && self.random.below(400) == 0 {
            link.handle_disconnected(now);
            self.break_connection();
        }
        let mut buffer = [0; FRAME_BYTES_MAX];
        while let Some(output) = link.poll_output(now, spool, &mut buffer) {
            match output {
                LinkOutput::Connect if rough && self.random.chance(40) => link.handle_disconnected(now),
                LinkOutput::Connect => link.handle_connected(now),
                LinkOutput::Send(length) => {
                    self.up.send(self.now, &buffer[..length], rough, &mut self.random);
                }
                LinkOutput::Close => self.break_connection(),
            }
        }
    }

    /// Answers on their way are lost; what was sent up may still arrive, as through a broker.
    fn break_connection(&mut self) {
        self.down.0.clear();
        let random = &mut self.random;
        self.up.0.retain(|_| random.chance(50));
    }
}

/// Lives through both phases and gives the world at the end, when the spool is empty.
fn simulate(seed: u64, settings: SpoolSettings) -> World {
    let mut world = World {
        random: Random(seed),
        aggregator: Aggregator::default(),
        up: Pipe::default(),
        down: Pipe::default(),
        made: BTreeSet::new(),
        dropped: 0,
        sent: 0,
        resent: 0,
        now: 0,
    };
    let mut bytes = vec![0; settings.bytes_max as usize];
    let mut lengths = vec![None; settings.segments()];
    let mut boot = 0;
    while world.now < ROUGH_MS || boot == 0 {
        // Boot ids are random; their order says nothing.
        boot = world.random.next();
        world.live(BootId(boot), settings, &mut bytes, &mut lengths);
        world.down.0.clear();
    }
    world
}

const SEEDS: std::ops::Range<u64> = 0..10;

const fn settings(bytes_max: u32, segment_bytes: u32) -> SpoolSettings {
    SpoolSettings {
        bytes_max,
        segment_bytes,
        deviations_bytes_max: bytes_max / 2,
        frame_bytes_max: 64,
        sync: SyncPolicy::EachWindow,
    }
}

#[test]
fn with_room_every_record_is_applied_exactly_once() {
    for seed in SEEDS {
        let world = simulate(seed, settings(1 << 20, 1 << 14));
        let consumed: BTreeSet<_> =
            world.aggregator.applied.union(&world.aggregator.refused).copied().collect();
        assert_eq!(world.dropped, 0, "seed {seed}");
        let unheard: Vec<_> = world.made.difference(&consumed).collect();
        assert!(unheard.is_empty(), "seed {seed}: never arrived: {unheard:?}");
        assert_eq!(world.aggregator.missing, 0, "seed {seed}: counted as missing, although nothing was lost");
        assert!(world.made.len() > 300 && world.resent > 0, "seed {seed}: too quiet to show anything");
    }
}

#[test]
fn without_room_every_record_is_applied_once_or_counted() {
    let mut dropped = 0;
    for seed in SEEDS {
        let world = simulate(seed, settings(4 * 700, 700));
        let consumed: BTreeSet<_> =
            world.aggregator.applied.union(&world.aggregator.refused).copied().collect();
        let unheard = world.made.difference(&consumed).count() as u64;
        assert!(unheard <= world.dropped, "seed {seed}: {unheard} never arrived, {} counted", world.dropped);
        assert!(world.aggregator.missing <= unheard, "seed {seed}: missing exceeds what never arrived");
        dropped += unheard;
    }
    assert!(dropped > 0, "too much room to show anything");
}
