//! An agent: its process with the real spool and the real link, and what outlives the process.
//!
//! It must never keep anything of a process over its end but the medium and the memory that the next one works in. The hard
//! case is a process that ends between a write and its sync: what the next one must find depends on how it ended.
use std::cell::RefCell;
use std::rc::Rc;

use vedette_agent_core::link::{Link, LinkOutput, Received};
use vedette_agent_core::spool::{AppendError, Segment, Spool, SpoolMemory, SpoolSettings};
use vedette_common::drops::DropUnit;
use vedette_common::limits::FRAME_BYTES_MAX;
use vedette_common::wire::{Birth, Frame, Kind, Summary, WireError, decode, encode};
use vedette_common::{AgentId, BootId, DropReason, Lane, MonoMs, Now, RecordKey, WallMs};

use super::medium::{Handle, Medium};
use super::oracle::{Oracle, content_of};
use super::plan::Plan;
use super::telemetry::Window;
use crate::fleet::random::Random;

/// When virtual time begins, for people: 2026-03-01.
pub(super) const BEGINNING: WallMs = WallMs(1_772_323_200_000);

/// The memory of one agent, which its processes borrow one after the other.
pub(super) struct Room {
    segments: Vec<Segment>,
    buffer: Vec<u8>,
}

impl Room {
    pub(super) fn new(settings: &SpoolSettings) -> Self {
        Self {
            segments: vec![Segment::default(); settings.segments()],
            buffer: vec![0; settings.buffer_bytes()],
        }
    }

    pub(super) fn lend(&mut self) -> SpoolMemory<'_> {
        SpoolMemory { segments: &mut self.segments, buffer: &mut self.buffer }
    }
}

/// One agent.
pub(super) struct Edge<'m> {
    place: usize,
    pub(super) id: AgentId,
    device: String,
    plan: Plan,
    pub(super) medium: Rc<RefCell<Medium>>,
    memory: Option<SpoolMemory<'m>>,
    process: Option<Process<'m>>,
    /// How far its wall clock is ahead.
    pub(super) ahead_ms: i64,
    random: Random,
    /// What the last process left for sure, as the next one must find it.
    left: Vec<RecordKey>,
    /// Bits flipped since the last start that could read the medium.
    flips: usize,
    /// Records appended since everything was synced last, by this process or an earlier one; those included that the medium
    /// refused, for all of their bytes may have arrived.
    unsynced: Vec<RecordKey>,
    pub(super) hours_ms: u64,
}

struct Process<'m> {
    spool: Spool<'m, Handle>,
    link: Link,
    started_ms: u64,
    /// When the window that is open now ends, by its own clock.
    window_ends: WallMs,
}

/// Every key that a spool holds; none when its medium cannot be read.
fn keys_of(spool: &mut Spool<'_, Handle>) -> Option<Vec<RecordKey>> {
    let mut keys = Vec::new();
    for lane in Lane::ALL {
        let mut after = None;
        while let Some(next) = spool.next(lane, after).ok()? {
            keys.push(next.key);
            after = Some(next.position);
        }
    }
    Some(keys)
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Kill,
    PowerCut,
}

impl<'m> Edge<'m> {
    pub(super) fn new(place: usize, plan: &Plan, memory: SpoolMemory<'m>) -> Self {
        let id = AgentId::parse(&format!("edge-{place}")).expect("a good name");
        let mut random = Random::new(plan.seed ^ (place as u64) << 48, "edge");
        let medium = Rc::new(RefCell::new(Medium::new(plan.spool.segments())));
        Self {
            place,
            id,
            device: format!("device-{place}"),
            plan: plan.clone(),
            medium,
            memory: Some(memory),
            process: None,
            ahead_ms: random.between(-20_000.0, 20_000.0) as i64,
            random,
            left: Vec::new(),
            unsynced: Vec::new(),
            flips: 0,
            hours_ms: 0,
        }
    }

    fn now(&self, ms: u64) -> Now {
        let started_ms = self.process.as_ref().map_or(ms, |process| process.started_ms);
        Now { mono: MonoMs(ms - started_ms), wall: BEGINNING.plus_ms(ms as i64 + self.ahead_ms) }
    }

    pub(super) const fn is_running(&self) -> bool {
        self.process.is_some()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.link.is_connected())
    }

    /// A process begins; what the one before left must be there.
    pub(super) fn start(&mut self, ms: u64, oracle: &mut Oracle) {
        let Some(memory) = self.memory.take() else { return };
        let boot = BootId(self.random.bits());
        let storage = Handle(Rc::clone(&self.medium));
        let mut spool = Spool::open(storage, self.plan.spool, memory, boot).expect("the settings fit");
        // A medium that cannot be read at the start hides its records until the next one.
        if let (Some(held), 0) = (keys_of(&mut spool), spool.recovery().unreadable_segments) {
            let (place, recovery) = (self.place, *spool.recovery());
            let is_lost = |key: &RecordKey| !held.contains(key) && !oracle.is_done(place, *key);
            let lost: Vec<RecordKey> = self.left.drain(..).filter(is_lost).collect();
            // A bit may have flipped behind what the process had read before it ended.
            let flips = std::mem::take(&mut self.flips);
            oracle.expect(lost.len() <= flips, || {
                format!("agent {place} lost {lost:?} that were safe, by {flips} flipped bits: {recovery:?}")
            });
        }
        let wall = self.now(ms).wall;
        let birth = Birth {
            agent: self.id.clone(),
            boot,
            version: Default::default(),
            started_at: wall,
            window_ms: self.plan.window_ms,
            regions: Default::default(),
            series_max: 10,
        };
        let link = Link::new(self.plan.link, birth, self.random.bits());
        let width = i64::from(self.plan.window_ms);
        let window_ends = wall.window_start(self.plan.window_ms).plus_ms(width);
        self.process = Some(Process { spool, link, started_ms: ms, window_ends });
    }

    /// The process ends. What it counted goes to the oracle.
    pub(super) fn stop(&mut self, ms: u64, end: End, oracle: &mut Oracle) {
        let Some(mut process) = self.process.take() else { return };
        self.hours_ms += ms - process.started_ms;
        // What cannot be read now must be there all the same, but for what was done with since.
        match keys_of(&mut process.spool) {
            Some(held) => self.left = held,
            None => self.left.retain(|key| !oracle.is_done(self.place, *key)),
        }
        self.account(&process, oracle);
        self.mark_removed(oracle);
        if end == End::PowerCut {
            self.unsynced.iter().for_each(|key| oracle.not_synced(self.place, *key));
            self.left.retain(|key| !self.unsynced.contains(key));
            self.unsynced.clear();
            self.medium.borrow_mut().cut_power(&mut self.random);
        }
        self.memory = Some(process.spool.into_parts().1);
    }

    /// Adds what a process dropped to what may be missing.
    fn account(&self, process: &Process<'_>, oracle: &mut Oracle) {
        let dropped = &process.spool.counts().dropped;
        let refused = dropped.get(DropReason::Refused);
        oracle.allowances[self.place].dropped += dropped.total(DropUnit::Record) - refused;
    }

    /// One bit of the medium flips.
    pub(super) fn flip_bit(&mut self, oracle: &mut Oracle) {
        let harmed = self.medium.borrow_mut().flip_bit(&mut self.random);
        if let Some(harmed) = harmed {
            oracle.allowances[self.place].flipped += 1;
            self.flips += 1;
            harmed.into_iter().for_each(|key| oracle.excuse(self.place, key));
        }
    }

    /// Records whose segment the spool gave back may be gone: it must have counted those that nobody had.
    fn mark_removed(&self, oracle: &mut Oracle) {
        let removed = self.medium.borrow_mut().take_removed();
        removed.into_iter().for_each(|key| oracle.excuse(self.place, key));
    }

    /// When something is due, if the process runs.
    pub(super) fn deadline(&self, ms: u64) -> Option<u64> {
        let process = self.process.as_ref()?;
        let now = self.now(ms);
        let window = ms + process.window_ends.ms_since(now.wall).max(1).unsigned_abs();
        let mono = [process.link.poll_deadline(), process.spool.poll_deadline()];
        let mono = mono.into_iter().flatten().map(|at| process.started_ms + at.0);
        Some(mono.chain([window]).min().unwrap_or(window).max(ms + 1))
    }

    /// Closes the windows that are due and spools what there is to say of them, if there is.
    pub(super) fn close_windows(&mut self, ms: u64, reports: bool, oracle: &mut Oracle) {
        let now = self.now(ms);
        let width = i64::from(self.plan.window_ms);
        let Some(process) = &mut self.process else { return };
        if process.window_ends.ms_since(now.wall) > width {
            // The clock was set back: windows follow it.
            process.window_ends = now.wall.window_start(self.plan.window_ms).plus_ms(width);
        }
        if process.window_ends <= now.wall {
            let ended = now.wall.window_start(self.plan.window_ms);
            process.window_ends = ended.plus_ms(width);
            if reports {
                self.report(ended.plus_ms(-width), oracle);
            }
            let handled = self.process.as_mut().map(|process| process.spool.handle_window_closed(now.mono));
            debug_assert!(handled.is_some());
        }
        if let Some(process) = &mut self.process {
            process.spool.handle_deadline(now.mono);
            if self.medium.borrow().is_synced() {
                self.unsynced.clear();
            }
        }
    }

    fn report(&mut self, start: WallMs, oracle: &mut Oracle) {
        let mut random = Random::new(self.random.bits(), "report");
        let (place, device) = (self.place, self.device.clone());
        let window = Window {
            seed: self.plan.seed,
            agent: place,
            device: &device,
            start,
            window_ms: self.plan.window_ms,
        };
        if window.deviates(&mut random) {
            self.append(Lane::Deviations, oracle, |key| window.deviation(key, &mut random));
        }
        self.append(Lane::RollUps, oracle, |key| window.roll_ups(key, &mut random));
    }

    /// A deviation now, in the middle of the window.
    pub(super) fn deviate(&mut self, ms: u64, oracle: &mut Oracle) -> Option<RecordKey> {
        let start = self.now(ms).wall.window_start(self.plan.window_ms);
        let (place, device) = (self.place, self.device.clone());
        let mut random = Random::new(self.random.bits(), "deviate");
        let window = Window {
            seed: self.plan.seed,
            agent: place,
            device: &device,
            start,
            window_ms: self.plan.window_ms,
        };
        self.append(Lane::Deviations, oracle, |key| window.deviation(key, &mut random))
    }

    /// Appends a record; gives its key if the medium took it.
    fn append(
        &mut self,
        lane: Lane,
        oracle: &mut Oracle,
        summary: impl FnOnce(RecordKey) -> Summary,
    ) -> Option<RecordKey> {
        let process = self.process.as_mut()?;
        let mut made = None;
        let appended = process.spool.append(lane, |key, buffer| -> Result<usize, WireError> {
            let length = encode(&summary(key), buffer)?;
            made = Some((key, content_of(&buffer[..length])));
            Ok(length)
        });
        let (key, content) = made?;
        oracle.made(self.place, key, content);
        self.mark_removed(oracle);
        self.unsynced.push(key);
        match appended {
            Ok(key) => Some(key),
            Err(AppendError::Dropped { key, .. }) => {
                oracle.excuse(self.place, key);
                None
            }
            Err(error) => {
                oracle.fail(|| format!("a record of agent {} was not appended: {error}", self.place));
                None
            }
        }
    }

    pub(super) fn connected(&mut self, ms: u64) {
        let now = self.now(ms);
        if let Some(process) = &mut self.process {
            process.link.handle_connected(now);
        }
    }

    pub(super) fn disconnected(&mut self, ms: u64) {
        let now = self.now(ms);
        if let Some(process) = &mut self.process {
            process.link.handle_disconnected(now);
        }
    }

    /// A frame from the aggregator; what it frees must be committed.
    pub(super) fn receive(&mut self, ms: u64, bytes: &[u8], oracle: &mut Oracle) {
        let (now, place) = (self.now(ms), self.place);
        let Some(process) = self.process.as_mut().filter(|process| process.link.is_connected()) else {
            return;
        };
        let Ok((frame, _)) = Frame::parse(bytes) else {
            return oracle.fail(|| format!("agent {place} got bytes that are no frame"));
        };
        let key = match frame.kind {
            Kind::Acknowledge => decode::<vedette_common::wire::Acknowledge>(&frame).ok().map(|a| a.key),
            _ => decode::<vedette_common::wire::Refuse>(&frame).ok().and_then(|refuse| refuse.key),
        };
        let horizon = key.and_then(|key| process.spool.horizon(key.lane));
        let before =
            process.spool.counts().acknowledged + process.spool.counts().dropped.get(DropReason::Refused);
        let received = process.link.handle_frame(now, &frame, &mut process.spool);
        let after =
            process.spool.counts().acknowledged + process.spool.counts().dropped.get(DropReason::Refused);
        if let (Some(key), true) = (key, after > before) {
            oracle.freed(place, horizon, key, after - before);
        }
        match received {
            Ok(
                Received::Refused(_)
                | Received::Acknowledged(_)
                | Received::Overloaded(_)
                | Received::Dismissed(_),
            ) => {}
            Ok(other) => oracle.fail(|| format!("agent {place} took a frame for {other:?}")),
            Err(error) => oracle.fail(|| format!("agent {place} ignores what it is told: {error}")),
        }
    }

    /// What the link wants next.
    pub(super) fn poll(&mut self, ms: u64, buffer: &mut [u8; FRAME_BYTES_MAX]) -> Option<LinkOutput> {
        let now = self.now(ms);
        let process = self.process.as_mut()?;
        process.link.poll_output(now, &mut process.spool, buffer)
    }

    /// Whether some of the medium could not be read when the process began.
    pub(super) fn has_set_aside(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.spool.recovery().unreadable_segments > 0)
    }

    /// Whether nothing waits for its acknowledgement.
    pub(super) fn is_drained(&self) -> bool {
        let spool = self.process.as_ref().map(|process| &process.spool);
        spool.is_some_and(|spool| Lane::ALL.into_iter().all(|lane| spool.records(lane) == 0))
    }

    /// What must hold of the spool at any moment.
    pub(super) fn check(&self, oracle: &mut Oracle) {
        let Some(process) = &self.process else { return };
        let (place, counts) = (self.place, process.spool.counts());
        let spooled: u64 = Lane::ALL.into_iter().map(|lane| process.spool.records(lane)).sum();
        let gone = counts.acknowledged + counts.dropped.total(DropUnit::Record);
        oracle.expect(counts.appended + counts.recovered == gone + spooled, || {
            format!("the sum of agent {place} does not hold: {spooled} spooled, {counts:?}")
        });
        let (cap, bytes) = (u64::from(self.plan.spool.bytes_max), self.medium.borrow().bytes() as u64);
        oracle.expect(bytes <= cap, || format!("agent {place} takes {bytes} bytes of {cap}"));
    }

    /// The end of the simulation: what the last process dropped.
    pub(super) fn close(&mut self, ms: u64, oracle: &mut Oracle) {
        self.stop(ms, End::Kill, oracle);
        // What a spool gave up because it could not be read may stand there still; it was counted.
        self.medium.borrow().keys().into_iter().for_each(|key| oracle.excuse(self.place, key));
    }
}
