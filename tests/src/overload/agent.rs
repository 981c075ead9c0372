//! An agent under load: the real link, spool and QUIC connection, with records made on a schedule that waits for nobody.
//!
//! It must never slow down because the aggregator does: what is due is made, whatever becomes of it. The hard case is a
//! record that the full spool drops: it is no longer waited for, and counted.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::time::{Instant, sleep_until, timeout};
use vedette_agent::identity::Identity;
use vedette_agent::uplink::quic::{self, Connected};
use vedette_agent_core::link::{Link, LinkOutput, LinkSettings};
use vedette_agent_core::spool::{MemoryStorage, Segment, Spool, SpoolMemory, SpoolSettings};
use vedette_common::drops::DropUnit;
use vedette_common::limits::{FRAME_BYTES_MAX, IN_FLIGHT_MAX};
use vedette_common::wire::{
    Birth, CellName, Course, Deviation, Direction, F24, Fraction, Frame, NO_TAGS, Phase, RollUp, Scorer,
    Shape, Summary, encode,
};
use vedette_common::{AgentId, BootId, Lane, MonoMs, Now, RecordKey, Sequence, WallMs};

use super::{Plan, SERVER_NAME, Seen};

/// Bytes of each agent's spool: seconds of ten times too much. A spool that is full sooner than an acknowledgement comes drops what was
/// delivered, and nobody can tell from the agent alone.
const SPOOL_BYTES: u32 = 4 << 20;
/// Width of the windows that are reported.
const WINDOW_MS: u32 = 10_000;
/// Regions that the agents are spread over.
const REGIONS: usize = 8;
/// Records made before the link is asked again.
const MADE_IN_A_TURN_MAX: usize = 8;
/// Frames are written together up to here.
const BATCH_BYTES: usize = 2 * FRAME_BYTES_MAX;

/// One agent of one step.
pub(super) struct Agent {
    pub(super) index: usize,
    pub(super) identity: Arc<(AgentId, Identity)>,
    pub(super) aggregator: SocketAddr,
    pub(super) plan: Plan,
    /// Roll-up records to make in a second; none: always a backlog.
    pub(super) records_per_s: Option<f64>,
    /// When measuring begins and ends.
    pub(super) from: Instant,
    pub(super) until: Instant,
    pub(super) seen: Arc<Mutex<Seen>>,
}

/// The agent at work.
struct Life<'m> {
    agent: Agent,
    begun: Instant,
    spool: Spool<'m, MemoryStorage<'m>>,
    link: Link,
    records: [Summary; 2],
    /// When the next record of each lane is due.
    due: [Instant; 2],
    /// What was made and is not acknowledged: sequence and time.
    waiting: [VecDeque<(u64, Instant)>; 2],
    /// What was acknowledged and dropped before measuring began.
    before: Option<[u64; 2]>,
}

impl Agent {
    /// Lives until the end of the step, and then tells what it has seen.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let settings = SpoolSettings::with_bytes_max(SPOOL_BYTES);
        let (mut bytes, mut lengths) = (vec![0; SPOOL_BYTES as usize], vec![None; settings.segments()]);
        let (mut segments, mut buffer) =
            (vec![Segment::default(); settings.segments()], vec![0; settings.buffer_bytes()]);
        let memory = SpoolMemory { segments: &mut segments, buffer: &mut buffer };
        let begun = Instant::now();
        // Another boot in every step: the former step's spool is gone.
        let boot = BootId(begun.into_std().elapsed().as_nanos() as u64 ^ wall().0 as u64);
        let spool = Spool::open(MemoryStorage::new(&mut bytes, &mut lengths), settings, memory, boot)?;
        let birth = Birth {
            agent: self.identity.0.clone(),
            boot,
            version: Default::default(),
            started_at: wall(),
            window_ms: WINDOW_MS,
            regions: Default::default(),
            series_max: 1_000,
        };
        let link = Link::new(LinkSettings::default(), birth, self.index as u64);
        let records = [self.deviation(), self.roll_ups()];
        // Spread over their interval, so that agents are not in step.
        let phase = self.index as f64 / self.plan.agents as f64;
        let due = Lane::ALL.map(|lane| begun + self.interval(lane).mul_f64(phase));
        let life =
            Life { agent: self, begun, spool, link, records, due, waiting: Default::default(), before: None };
        Box::pin(life.run()).await
    }

    fn interval(&self, lane: Lane) -> Duration {
        match lane {
            Lane::Deviations => Duration::from_secs_f64(1.0 / self.plan.deviations_per_s),
            Lane::RollUps => Duration::from_secs_f64(self.records_per_s.map_or(0.01, |rate| 1.0 / rate)),
        }
    }

    fn summary(&self) -> (Summary, u8) {
        let key = RecordKey { boot: BootId(0), lane: Lane::RollUps, sequence: Sequence(0) };
        let mut summary = Summary::new(key, wall().window_start(WINDOW_MS), WINDOW_MS);
        let region = summary.strings.intern(&format!("region-{}", self.index % REGIONS)).unwrap_or_default();
        let device = summary.strings.intern(&format!("device-{}", self.index)).unwrap_or_default();
        let metric = summary.strings.intern("activity").unwrap_or_default();
        for cell in 0..self.plan.roll_ups {
            let stack = summary.strings.intern(&format!("stack-{cell}")).unwrap_or_default();
            let _ = summary.cells.push(CellName { region, device, stack });
        }
        (summary, metric)
    }

    fn roll_ups(&self) -> Summary {
        let (mut summary, metric) = self.summary();
        let expected = F24::from_f32(1_000.0);
        for cell in 0..summary.cells.len() as u8 {
            let _ = summary.roll_ups.push(RollUp { cell, metric, observed: expected, expected, count: 60 });
        }
        summary
    }

    fn deviation(&self) -> Summary {
        let (mut summary, metric) = self.summary();
        summary.cells.truncate(1);
        let course = Course {
            phase: Phase::Ongoing,
            direction: Direction::Down,
            in_event: false,
            scorer: Scorer::Value,
        };
        let _ = summary.deviations.push(Deviation {
            cell: 0,
            metric,
            tags: NO_TAGS,
            course,
            onset_s_ago: 60,
            observed: F24::from_f32(300.0),
            expected: F24::from_f32(1_000.0),
            score: Fraction::from_f32(0.9),
            forecast: Fraction::from_f32(0.9),
            derivative: Fraction::from_f32(0.5),
            distribution: Fraction::from_f32(0.9),
            shape: Shape::default(),
        });
        summary
    }
}

fn wall() -> WallMs {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    WallMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

impl Life<'_> {
    async fn run(mut self) -> anyhow::Result<()> {
        let mut connected: Option<Connected> = None;
        let mut buffer = Box::new([0; FRAME_BYTES_MAX]);
        let mut batch = Vec::with_capacity(BATCH_BYTES);
        while Instant::now() < self.agent.until {
            self.make_what_is_due()?;
            match self.link.poll_output(self.now(), &mut self.spool, &mut buffer) {
                Some(LinkOutput::Connect) => connected = self.connect().await,
                Some(LinkOutput::Close) => connected = None,
                Some(LinkOutput::Send(length)) => {
                    batch.extend_from_slice(&buffer[..length]);
                    if batch.len() + FRAME_BYTES_MAX > BATCH_BYTES {
                        self.send(&mut connected, &mut batch).await;
                    }
                }
                None => {
                    self.send(&mut connected, &mut batch).await;
                    self.wait(&mut connected).await;
                }
            }
        }
        self.tell();
        Ok(())
    }

    fn now(&self) -> Now {
        let mono = MonoMs(u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX));
        Now { mono, wall: wall() }
    }

    async fn connect(&mut self) -> Option<Connected> {
        let (address, wire) = (self.agent.aggregator.to_string(), Arc::default());
        let target = quic::Target { address: &address, server_name: SERVER_NAME, wire: &wire };
        match quic::connect(target, &self.agent.identity.1).await {
            Ok(connected) => {
                self.link.handle_connected(self.now());
                Some(connected)
            }
            Err(_) => {
                self.link.handle_disconnected(self.now());
                None
            }
        }
    }

    async fn send(&mut self, connected: &mut Option<Connected>, batch: &mut Vec<u8>) {
        let Some(open) = connected.as_mut().filter(|_| !batch.is_empty()) else { return batch.clear() };
        let sent = timeout(Duration::from_secs(10), open.sender.send(batch)).await;
        batch.clear();
        if !matches!(sent, Ok(Ok(()))) {
            *connected = None;
            self.link.handle_disconnected(self.now());
        }
    }

    /// Waits for an answer, or until something is due.
    async fn wait(&mut self, connected: &mut Option<Connected>) {
        let deadline = self.link.poll_deadline().map(|at| self.begun + Duration::from_millis(at.0));
        let next = self.due.into_iter().chain(deadline).chain([self.agent.until]).min();
        let next = next.unwrap_or(self.agent.until);
        let Some(open) = connected else { return sleep_until(next).await };
        let lost = tokio::select! {
            frame = open.receiver.frame() => match frame {
                Ok(frame) => {
                    let now = Now { mono: MonoMs(self.begun.elapsed().as_millis() as u64), wall: wall() };
                    receive(&mut self.link, &mut self.spool, now, &frame);
                    false
                }
                Err(_) => true,
            },
            () = sleep_until(next) => false,
        };
        self.settle();
        if lost {
            *connected = None;
            self.link.handle_disconnected(self.now());
        }
    }

    /// Makes what is due, but not all of it at once: the link must come to its turn, too.
    fn make_what_is_due(&mut self) -> anyhow::Result<()> {
        for lane in Lane::ALL {
            let backlog = self.agent.records_per_s.is_none() && lane == Lane::RollUps;
            for _ in 0..MADE_IN_A_TURN_MAX {
                let is_due = self.due[lane.index()] <= Instant::now();
                let is_short = backlog && self.waiting[lane.index()].len() < 2 * IN_FLIGHT_MAX;
                if !(is_short || is_due && !backlog) {
                    break;
                }
                self.make(lane)?;
            }
            if backlog {
                self.due[lane.index()] = Instant::now() + self.agent.interval(lane);
            }
        }
        Ok(())
    }

    fn make(&mut self, lane: Lane) -> anyhow::Result<()> {
        let record = &mut self.records[lane.index()];
        record.window_start = wall().window_start(WINDOW_MS);
        let made = self.spool.append(lane, |key, buffer| {
            record.key = key;
            encode(record, buffer)
        });
        let key = made.ok().context("an empty spool takes a record")?;
        let at = self.due[lane.index()];
        if at >= self.agent.from {
            self.seen().made += 1;
        }
        self.waiting[lane.index()].push_back((key.sequence.0, at));
        self.due[lane.index()] += self.agent.interval(lane);
        Ok(())
    }

    /// Takes what is no longer in the spool out of what is waited for; what it dropped counts with the age it had.
    fn settle(&mut self) {
        let (now, counts) = (Instant::now(), self.counts());
        if now >= self.agent.from {
            self.before.get_or_insert(counts);
        }
        let seen = Arc::clone(&self.agent.seen);
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        for lane in Lane::ALL {
            let horizon = self.spool.horizon(lane).map_or(u64::MAX, |key| key.sequence.0);
            let waiting = &mut self.waiting[lane.index()];
            while waiting.front().is_some_and(|(sequence, _)| *sequence < horizon) {
                let Some((_, at)) = waiting.pop_front() else { break };
                if now >= self.agent.from {
                    seen.delays_ms[lane.index()].push((now - at).as_secs_f64() * 1_000.0);
                }
            }
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.agent.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records acknowledged and dropped so far.
    fn counts(&self) -> [u64; 2] {
        let counts = self.spool.counts();
        [counts.acknowledged, counts.dropped.total(DropUnit::Record)]
    }

    /// What still waits counts with its age.
    fn tell(&mut self) {
        self.settle();
        let (now, counts, before) = (Instant::now(), self.counts(), self.before.unwrap_or_default());
        let mut seen = self.agent.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.acknowledged += counts[0] - before[0];
        seen.dropped += counts[1] - before[1];
        for (lane, waiting) in self.waiting.iter().enumerate() {
            seen.delays_ms[lane].extend(waiting.iter().map(|(_, at)| (now - *at).as_secs_f64() * 1_000.0));
        }
    }
}

fn receive(link: &mut Link, spool: &mut Spool<'_, MemoryStorage<'_>>, now: Now, frame: &Frame<'_>) {
    // What makes no sense is counted by the link.
    let _ = link.handle_frame(now, frame, spool);
}
