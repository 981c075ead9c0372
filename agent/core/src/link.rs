//! The link: which frame goes to the aggregator next, and what its answers mean. A pure state machine.
//!
//! It must never free a record on anything but the aggregator's own acknowledgement or refusal. The hard case
//! is a channel that loses, repeats and reorders: per lane the link goes back to the oldest record that is not
//! acknowledged (go-back-N; RFC 3366 discusses such schemes), repeats none that was sent a moment ago, and never steps
//! over a gap before everything sent earlier is settled and the new horizon is announced.
//!
//! Order of output on a connection: birth, heartbeat, then deviations before roll-ups. Each lane has a window
//! of its own, so that a backlog of roll-ups never holds up a deviation.
mod flight;

use vedette_common::limits::FRAME_BYTES_MAX;
use vedette_common::wire::{
    Acknowledge, Birth, DropCount, Frame, Heartbeat, Kind, Message, Refuse, RefuseReason, WireError, decode,
    encode,
};
use vedette_common::{DropCounts, Lane, MonoMs, Now, RecordKey};

use crate::spool::{AcknowledgeError, Spool, Storage};
use flight::{Flight, InFlight};

/// Timeouts in a row, without an acknowledgement in between, after which the connection counts as dead.
pub const TIMEOUTS_MAX: u32 = 4;
/// The longest that a peer may tell the link to wait: 10 minutes.
pub const RETRY_AFTER_MS_MAX: u32 = 600_000;
/// How long a lane rests when its records cannot be read from the medium.
pub const STORAGE_RETRY_MS: u64 = 5_000;

/// Times and sizes of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkSettings {
    /// Milliseconds between heartbeats. Default 10,000.
    pub heartbeat_ms: u32,
    /// Milliseconds to wait for an acknowledgement before going back; doubles with each timeout in a row.
    /// Default 5,000.
    pub acknowledge_timeout_ms: u32,
    /// Milliseconds before the first attempt to connect again; doubles with each. Default 1,000.
    pub retry_ms_min: u32,
    /// Milliseconds between attempts at most, and the longest timeout. Default 60,000.
    pub retry_ms_max: u32,
    /// Bytes of frames sent and not yet acknowledged, per lane; one frame may always go. Default 256 KiB.
    pub in_flight_bytes_max: u32,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            heartbeat_ms: 10_000,
            acknowledge_timeout_ms: 5_000,
            retry_ms_min: 1_000,
            retry_ms_max: 60_000,
            in_flight_bytes_max: 256 * 1024,
        }
    }
}

/// What the agent knows of itself for the next heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// Series held now.
    pub series: u32,
    /// Observations received since the start.
    pub observed: u64,
    /// What was dropped since the start, without the spool's own counts, which the link adds.
    pub dropped: DropCounts,
}

/// What happened on a link since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounts {
    /// Records sent, repetitions included.
    pub sent: u64,
    /// Records sent again.
    pub resent: u64,
    /// Records acknowledged.
    pub acknowledged: u64,
    /// Refusals received, for whatever reason.
    pub refused: u64,
    /// Times that a lane went back because no acknowledgement came.
    pub timeouts: u64,
    /// Attempts to connect after the first.
    pub reconnects: u64,
    /// Frames received that made no sense.
    pub bad_frames: u64,
}

/// What the shell is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkOutput {
    /// Connect, and report with [`Link::handle_connected`] or [`Link::handle_disconnected`].
    Connect,
    /// Send so many bytes of the buffer as one frame.
    Send(usize),
    /// Close the connection. It needs no report; [`Connect`](Self::Connect) follows when it is time.
    Close,
}

/// What a received frame meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many records were acknowledged; 0 for a repetition.
    Acknowledged(u64),
    /// The aggregator wants the link to rest for so many milliseconds; nothing is lost.
    Overloaded(u32),
    /// The aggregator refused a record for good; it is counted as dropped.
    Refused(RefuseReason),
    /// The aggregator does not want this agent; the link closes and tries again much later.
    Dismissed(RefuseReason),
    /// The frame is a calendar, for the pipeline.
    Calendar,
}

/// Why a received frame was ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The frame came while no connection was open.
    #[error("a frame arrived without a connection")]
    NotConnected,
    /// A kind of frame that no aggregator sends.
    #[error("a frame of kind {0:?} is not for an agent")]
    Unexpected(Kind),
    /// The frame does not decode.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// An acknowledgement or refusal of a record that was never made.
    #[error(transparent)]
    Acknowledge(#[from] AcknowledgeError),
}

#[derive(Clone, Copy, Debug)]
enum State {
    Waiting { until: MonoMs },
    Connecting,
    Connected { birth_due: bool, heartbeat_at: MonoMs },
    Closing { retry_after_ms: u32 },
}

/// The link of one agent to its aggregator; see the module. Takes about 8 KiB.
#[derive(Debug)]
pub struct Link {
    settings: LinkSettings,
    birth: Birth,
    vitals: Vitals,
    state: State,
    flights: [Flight; 2],
    counts: LinkCounts,
    attempts: u32,
    connected_once: bool,
    /// The aggregator has no room for this agent before that.
    stays_away_until: MonoMs,
    random: u64,
}

impl Link {
    /// A link that wants to connect at once. `seed` spreads the attempts of many agents in time.
    pub fn new(settings: LinkSettings, birth: Birth, seed: u64) -> Self {
        Self {
            settings,
            birth,
            vitals: Vitals::default(),
            state: State::Waiting { until: MonoMs(0) },
            flights: [Flight::default(), Flight::default()],
            counts: LinkCounts::default(),
            attempts: 0,
            connected_once: false,
            stays_away_until: MonoMs(0),
            random: seed,
        }
    }

    /// Replaces what the next birth says, as when a region was seen for the first time or the config was
    /// read again.
    pub fn set_birth(&mut self, birth: Birth) {
        self.birth = birth;
    }

    /// Replaces what the next heartbeat says.
    pub const fn set_vitals(&mut self, vitals: Vitals) {
        self.vitals = vitals;
    }

    /// What happened since the start.
    pub const fn counts(&self) -> &LinkCounts {
        &self.counts
    }

    /// Whether a connection is open.
    pub const fn is_connected(&self) -> bool {
        matches!(self.state, State::Connected { .. })
    }

    /// Records sent and not yet acknowledged.
    pub fn in_flight(&self) -> usize {
        self.flights.iter().map(|flight| flight.records.len()).sum()
    }

    /// The connection that [`LinkOutput::Connect`] asked for is open.
    pub fn handle_connected(&mut self, now: Now) {
        self.rewind();
        self.state = State::Connected { birth_due: true, heartbeat_at: now.mono };
    }

    /// The connection broke, or could not be opened.
    pub fn handle_disconnected(&mut self, now: Now) {
        if !matches!(self.state, State::Waiting { .. }) {
            self.wait(now.mono, 0);
        }
    }

    /// A frame arrived.
    ///
    /// # Errors
    /// [`LinkError`] when it makes no sense; it is counted, and nothing else changes.
    pub fn handle_frame<S: Storage>(
        &mut self,
        now: Now,
        frame: &Frame<'_>,
        spool: &mut Spool<'_, S>,
    ) -> Result<Received, LinkError> {
        let received = self.receive(now.mono, frame, spool);
        match received {
            // An aggregator that answers ends the series of failed attempts, unless it sends the agent away.
            Ok(Received::Dismissed(_)) => {}
            Ok(Received::Overloaded(_)) if self.stays_away_until > now.mono => {}
            Ok(_) => self.attempts = 0,
            Err(_) => self.counts.bad_frames += 1,
        }
        received
    }

    /// What to do next; call again until there is nothing. A frame to send stands at the beginning of `buffer`.
    pub fn poll_output<S: Storage>(
        &mut self,
        now: Now,
        spool: &mut Spool<'_, S>,
        buffer: &mut [u8; FRAME_BYTES_MAX],
    ) -> Option<LinkOutput> {
        if self.is_connected() && self.expire(now.mono) {
            self.state = State::Closing { retry_after_ms: 0 };
        }
        match self.state {
            State::Waiting { until } if until <= now.mono => Some(self.connect()),
            State::Waiting { .. } | State::Connecting => None,
            State::Closing { retry_after_ms } => {
                self.wait(now.mono, retry_after_ms);
                Some(LinkOutput::Close)
            }
            State::Connected { birth_due: true, heartbeat_at } => {
                self.state = State::Connected { birth_due: false, heartbeat_at };
                send(&self.birth, buffer)
            }
            State::Connected { heartbeat_at, .. } if heartbeat_at <= now.mono => {
                let horizons = Lane::ALL.map(|lane| spool.horizon(lane));
                self.send_heartbeat(now, horizons, spool, buffer)
            }
            State::Connected { .. } => {
                Lane::ALL.into_iter().find_map(|lane| self.send_record(now, lane, spool, buffer))
            }
        }
    }

    /// When to poll again if nothing else happens.
    pub fn poll_deadline(&self) -> Option<MonoMs> {
        match self.state {
            State::Waiting { until } => Some(until),
            State::Connecting => None,
            State::Closing { .. } => Some(MonoMs(0)),
            State::Connected { heartbeat_at, .. } => {
                let timeouts = self.flights.iter().filter_map(|flight| flight.timeout_at(&self.settings));
                let rests = self.flights.iter().filter_map(|flight| flight.rests_until);
                let repeats = self.flights.iter().filter_map(|flight| flight.repeats_at);
                timeouts.chain(rests).chain(repeats).chain([heartbeat_at]).min()
            }
        }
    }

    fn connect(&mut self) -> LinkOutput {
        self.state = State::Connecting;
        self.counts.reconnects += u64::from(self.connected_once);
        self.connected_once = true;
        LinkOutput::Connect
    }

    /// Waits before the next attempt: doubling from `retry_ms_min` to `retry_ms_max`, of which a random half
    /// is taken off so that a fleet does not return in step; at least `at_least_ms`.
    fn wait(&mut self, now: MonoMs, at_least_ms: u32) {
        self.rewind();
        let full = (u64::from(self.settings.retry_ms_min) << self.attempts.min(16))
            .min(u64::from(self.settings.retry_ms_max));
        self.attempts = self.attempts.saturating_add(1);
        let jitter = self.next_random() % (full / 2 + 1);
        let until = now.plus_ms((full - jitter).max(u64::from(at_least_ms)));
        self.state = State::Waiting { until: until.max(self.stays_away_until) };
    }

    /// SplitMix64 (Steele, Lea and Flood 2014): enough to spread attempts, and the same on every target.
    const fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Forgets what was on its way.
    fn rewind(&mut self) {
        for flight in &mut self.flights {
            flight.go_back();
            (flight.timeouts, flight.rests_until, flight.repeats_at) = (0, None, None);
        }
    }

    /// Goes back in every lane whose acknowledgement is overdue. Gives whether the connection is dead.
    fn expire(&mut self, now: MonoMs) -> bool {
        for flight in &mut self.flights {
            if flight.timeout_at(&self.settings).is_some_and(|at| at <= now) {
                flight.time_out(&self.settings);
                self.counts.timeouts += 1;
            }
            flight.rests_until = flight.rests_until.filter(|until| *until > now);
            flight.repeats_at = flight.repeats_at.filter(|at| *at > now);
        }
        self.flights.iter().any(|flight| flight.timeouts >= TIMEOUTS_MAX)
    }

    fn receive<S: Storage>(
        &mut self,
        now: MonoMs,
        frame: &Frame<'_>,
        spool: &mut Spool<'_, S>,
    ) -> Result<Received, LinkError> {
        if !self.is_connected() {
            return Err(LinkError::NotConnected);
        }
        match frame.kind {
            Kind::Acknowledge => {
                let Acknowledge { key } = decode(frame)?;
                let records = spool.acknowledge(key)?;
                self.counts.acknowledged += records;
                self.flights[key.lane.index()].settle(now, key, records > 0);
                Ok(Received::Acknowledged(records))
            }
            Kind::Refuse => self.receive_refusal(now, decode(frame)?, spool),
            Kind::Calendar => Ok(Received::Calendar),
            kind => Err(LinkError::Unexpected(kind)),
        }
    }

    fn receive_refusal<S: Storage>(
        &mut self,
        now: MonoMs,
        refuse: Refuse,
        spool: &mut Spool<'_, S>,
    ) -> Result<Received, LinkError> {
        let Refuse { reason, key, retry_after_ms } = refuse;
        let retry_after_ms = retry_after_ms.min(RETRY_AFTER_MS_MAX);
        self.counts.refused += 1;
        match (reason, key) {
            (RefuseReason::Overloaded, key) => {
                // Those who were refused at the same time do not come back at the same time.
                let jitter = self.next_random() % (u64::from(retry_after_ms) / 4 + 1);
                let until = now.plus_ms(u64::from(retry_after_ms) + jitter);
                match key {
                    Some(key) => self.flights[key.lane.index()].hold_back(until),
                    None => {
                        self.stays_away_until = until;
                        self.flights.iter_mut().for_each(|flight| flight.hold_back(until));
                    }
                }
                Ok(Received::Overloaded(retry_after_ms))
            }
            (reason, Some(key)) => {
                let before = spool.counts().acknowledged;
                let refused = spool.refuse(key)?;
                self.counts.acknowledged += spool.counts().acknowledged - before;
                self.flights[key.lane.index()].settle(now, key, refused);
                Ok(Received::Refused(reason))
            }
            (reason, None) => {
                self.state =
                    State::Closing { retry_after_ms: retry_after_ms.max(self.settings.retry_ms_max) };
                Ok(Received::Dismissed(reason))
            }
        }
    }

    /// The next record of `lane`, or the heartbeat that must come before it.
    fn send_record<S: Storage>(
        &mut self,
        now: Now,
        lane: Lane,
        spool: &mut Spool<'_, S>,
        buffer: &mut [u8; FRAME_BYTES_MAX],
    ) -> Option<LinkOutput> {
        let flight = &mut self.flights[lane.index()];
        if !flight.has_room(self.settings.in_flight_bytes_max) {
            return None;
        }
        let Ok(next) = spool.next(lane, flight.cursor) else {
            flight.rests_until = Some(now.mono.plus_ms(STORAGE_RETRY_MS));
            return None;
        };
        let next = next?;
        if flight.is_early(next.position) {
            return None;
        }
        let follows = flight.cursor.is_some_and(|cursor| next.position.follows(cursor));
        if !follows && flight.announced != Some(next.key) {
            return self.cross_gap(now, lane, spool, buffer);
        }
        let frame_bytes = next.frame.len();
        buffer.get_mut(..frame_bytes)?.copy_from_slice(next.frame);
        if flight.records.is_empty() {
            flight.since = now.mono;
        }
        let in_flight = InFlight { position: next.position, frame_bytes: frame_bytes as u32 };
        flight.records.push_back(in_flight).ok()?;
        flight.bytes += in_flight.frame_bytes;
        (flight.cursor, flight.sent_at) = (Some(next.position), now.mono);
        self.counts.sent += 1;
        self.counts.resent += u64::from(flight.newest >= Some(next.position));
        flight.newest = flight.newest.max(Some(next.position));
        Some(LinkOutput::Send(frame_bytes))
    }

    /// Announces the oldest record of `lane` as its horizon, once everything sent before is settled: a horizon
    /// that overtook a record would make the aggregator count it as missing.
    fn cross_gap<S: Storage>(
        &mut self,
        now: Now,
        lane: Lane,
        spool: &mut Spool<'_, S>,
        buffer: &mut [u8; FRAME_BYTES_MAX],
    ) -> Option<LinkOutput> {
        let flight = &mut self.flights[lane.index()];
        if !flight.records.is_empty() {
            return None;
        }
        flight.go_back();
        let oldest = spool.next(lane, None).ok()??.key;
        let mut horizons = Lane::ALL.map(|lane| spool.horizon(lane));
        horizons[lane.index()] = Some(oldest);
        self.send_heartbeat(now, horizons, spool, buffer)
    }

    fn send_heartbeat<S: Storage>(
        &mut self,
        now: Now,
        horizons: [Option<RecordKey>; 2],
        spool: &Spool<'_, S>,
        buffer: &mut [u8; FRAME_BYTES_MAX],
    ) -> Option<LinkOutput> {
        let heartbeat_at = now.mono.plus_ms(u64::from(self.settings.heartbeat_ms));
        self.state = State::Connected { birth_due: false, heartbeat_at };
        for (flight, horizon) in self.flights.iter_mut().zip(horizons) {
            flight.announced = horizon;
        }
        let sum = |of: &dyn Fn(Lane) -> u64| {
            u32::try_from(Lane::ALL.into_iter().map(of).sum::<u64>()).unwrap_or(u32::MAX)
        };
        let mut heartbeat = Heartbeat {
            at: now.wall,
            boot: self.birth.boot,
            series: self.vitals.series,
            spooled_records: sum(&|lane| spool.records(lane)),
            spooled_bytes: sum(&|lane| spool.live_bytes(lane)),
            horizons,
            observed: self.vitals.observed,
            delivered: spool.counts().acknowledged,
            dropped: heapless::Vec::new(),
        };
        let mut dropped = self.vitals.dropped;
        dropped.merge(&spool.counts().dropped);
        for (reason, count) in dropped.iter().filter(|(_, count)| *count > 0) {
            // There is room for every reason; the limits say so at compile time.
            let _ = heartbeat.dropped.push(DropCount { reason: reason.index() as u8, count });
        }
        send(&heartbeat, buffer)
    }
}

/// Encodes `message`. Every message that the link makes fits a frame, which a test checks at its longest.
fn send<M: Message>(message: &M, buffer: &mut [u8; FRAME_BYTES_MAX]) -> Option<LinkOutput> {
    encode(message, buffer).ok().map(LinkOutput::Send)
}

#[cfg(test)]
mod tests;
