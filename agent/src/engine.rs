//! The cores of one agent behind one lock: pipeline, spool and link, driven with the clocks of this process.
//!
//! Owns the order of what happens: a source's bytes are scored, a closed window is spooled, a spooled record is sent.
//! Must never wait while it holds the lock. The hard case is everything at once: the runtime has one thread, so the lock
//! is only ever contended by a test, and no queue stands between a source and the scorers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use vedette_agent_core::key::{DefaultTags, Observation};
use vedette_agent_core::link::{Link, LinkCounts, LinkError, LinkOutput, LinkSettings, Received, Vitals};
use vedette_agent_core::parse::line_protocol::Line;
use vedette_agent_core::parse::{Format, lines};
use vedette_agent_core::pipeline::{Pipeline, PipelineCounts};
use vedette_agent_core::spool::{AppendError, Segment, Spool, SpoolCounts, SpoolMemory, SpoolSettings};
use vedette_common::drops::DropUnit;
use vedette_common::limits::{FRAME_BYTES_MAX, REGIONS_MAX};
use vedette_common::wire::{Birth, Calendar, Frame, Name, Summary, decode, encode};
use vedette_common::{
    AgentId, BootId, DropCounts, DropReason, Lane, MonoMs, Now, RecordKey, Sequence, WallMs,
};

use crate::clock::Clock;
use crate::config::{Config, Transport, WindowClock};
use crate::memory::{lend, lend_pipeline};
use crate::source::host::Reading;
use crate::storage::FileStorage;
use crate::tags::Tags;
use crate::uplink::wire::Wire;
use crate::zone::Zone;

/// Why an engine cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The pipeline does not take its settings.
    #[error("pipeline: {0}")]
    Pipeline(#[from] vedette_agent_core::pipeline::SettingsError),
    /// The spool does not take its settings.
    #[error("spool: {0}")]
    Spool(#[from] vedette_agent_core::spool::SettingsError),
    /// The operating system gives no random numbers.
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
}

/// Pipeline, spool and link of one agent.
pub struct Engine {
    clock: Clock,
    state: Mutex<State>,
    /// Told when there may be something new to send.
    wake: Notify,
    wire: Arc<Wire>,
}

struct State {
    pipeline: Pipeline<'static>,
    spool: Spool<'static, FileStorage>,
    link: Link,
    birth: Birth,
    tags: Tags,
    zones: Vec<(String, Zone)>,
    /// The window whose UTC offsets are set.
    offsets_at: Option<WallMs>,
    /// What the shell dropped before the pipeline saw it.
    dropped: DropCounts,
    summary: Box<Summary>,
    connected_at: Option<WallMs>,
    /// The latest event time received, where that is what moves windows on.
    event_time: Option<WallMs>,
}

/// What an engine has done and holds, read at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The pipeline's counts; `observed` includes what the shell dropped.
    pub pipeline: PipelineCounts,
    /// The spool's counts.
    pub spool: SpoolCounts,
    /// Records in the spool, by lane.
    pub spooled_records: [u64; 2],
    /// Bytes of those records.
    pub spooled_bytes: u64,
    /// Bytes that the spool's files take.
    pub spool_file_bytes: u64,
    /// The link's counts.
    pub link: LinkCounts,
    /// Whether a connection is open.
    pub connected: bool,
    /// Bytes sent and received over QUIC, and over MQTT.
    pub wire_bytes: [[u64; 2]; 2],
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Engine").field("snapshot", &self.snapshot()).finish_non_exhaustive()
    }
}

fn lend_spool(settings: &SpoolSettings) -> SpoolMemory<'static> {
    SpoolMemory { segments: lend::<Segment>(settings.segments()), buffer: lend(settings.buffer_bytes()) }
}

fn random() -> Result<u64, EngineError> {
    getrandom::u64().map_err(EngineError::Random)
}

impl Engine {
    /// An engine over the spool in `storage`, for an agent of this name. Its memory is what
    /// [`needs`](crate::config::needs) says and is never given back.
    ///
    /// # Errors
    /// [`EngineError`] when settings do not fit together, or there are no random numbers.
    pub fn new(config: &Config, agent: AgentId, storage: FileStorage) -> Result<Self, EngineError> {
        let (pipeline, spool) = (config.pipeline_settings(), config.spool_settings());
        let clock = Clock::start();
        let boot = BootId(random()?);
        let birth = birth(config, agent, boot, clock.now().wall);
        let pipeline_memory = lend_pipeline(&pipeline);
        let spool_memory = lend_spool(&spool);
        let no_key = RecordKey { boot, lane: Lane::RollUps, sequence: Sequence(0) };
        let state = State {
            pipeline: Pipeline::new(pipeline, pipeline_memory, random()?)?,
            spool: Spool::open(storage, spool, spool_memory, boot)?,
            link: Link::new(LinkSettings::default(), birth.clone(), random()?),
            birth,
            tags: Tags::new(config),
            zones: config.zones(),
            offsets_at: None,
            dropped: DropCounts::default(),
            summary: Box::new(Summary::new(no_key, WallMs(0), config.window.window_ms)),
            connected_at: None,
            event_time: (config.window.clock == WindowClock::Event).then_some(NO_EVENT_YET),
        };
        let recovery = state.spool.recovery();
        tracing::info!(records = recovery.records, damaged = recovery.damaged, "the spool is open");
        Ok(Self { clock, state: Mutex::new(state), wake: Notify::new(), wire: Arc::default() })
    }

    /// Where bytes on the wire are counted.
    #[must_use]
    pub const fn wire(&self) -> &Arc<Wire> {
        &self.wire
    }

    /// Both clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// The clock whose monotonic times the engine's deadlines are in.
    #[must_use]
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Scores whole lines from a source. What is wrong is counted, and the first of it logged at a limited rate.
    pub fn take(&self, format: Format, bytes: &[u8]) {
        let now = self.clock.now();
        let state = &mut *self.lock();
        if state.event_time.is_none() {
            return state.take(now, format, bytes);
        }
        for line in lines(bytes) {
            match state.advance_event_time(now, format, line) {
                Some(wall) => state.take(Now { wall, ..now }, format, line),
                None => state.dropped.add(DropReason::TimestampOutOfRange, 1),
            }
        }
    }

    /// Scores one value of this machine.
    pub fn observe(&self, reading: &Reading<'_>) {
        let now = self.clock.now();
        let State { pipeline, tags, .. } = &mut *self.lock();
        let observation = Observation {
            measurement: reading.measurement,
            field: "value",
            tags: reading.tag.as_slice(),
            value: reading.value,
            at: None,
        };
        let pairs = tags.host();
        if let Err(reason) = pipeline.handle_observation(now, &DefaultTags::new(&pairs), &observation) {
            tracing::debug!(
                reason = reason.as_str(),
                reading.measurement,
                "a value of this machine was dropped"
            );
        }
    }

    /// Counts what a source had to drop before it could be parsed.
    pub fn dropped(&self, reason: DropReason, count: u64) {
        self.lock().dropped.add(reason, count);
        tracing::warn!(reason = reason.as_str(), count, "input was dropped");
    }

    /// Closes the windows that are due and spools them. Gives when to call again at the latest.
    pub fn advance(&self) -> MonoMs {
        let now = self.clock.now();
        let state = &mut *self.lock();
        if state.event_time.is_none() {
            state.set_utc_offsets(now.wall);
            state.close_windows(now);
        }
        state.spool.handle_deadline(now.mono);
        self.wake.notify_one();
        let window = state.pipeline.poll_deadline().filter(|_| state.event_time.is_none());
        let window = window.map(|at| at.ms_since(now.wall).max(1).unsigned_abs());
        let spool = state.spool.poll_deadline().map(|at| at.ms_since(now.mono).max(1));
        // A wall clock that jumped would make a long sleep too long.
        now.mono.plus_ms(window.into_iter().chain(spool).min().unwrap_or(IDLE_MS).min(IDLE_MS))
    }

    /// Closes every window, complete or not, and spools it: the end of an agent.
    pub fn finish(&self) {
        let state = &mut *self.lock();
        let mut now = self.clock.now();
        // Two windows can be open, and a flush may be due before each of them.
        for _ in 0..FINISH_STEPS_MAX {
            let Some(deadline) = state.pipeline.poll_deadline() else { break };
            now.wall = now.wall.max(deadline);
            state.pipeline.handle_deadline(now);
            state.spool_summaries(now);
            if now.wall.ms_since(self.clock.now().wall) > state.horizon_ms() {
                break;
            }
        }
        state.spool.sync(now.mono);
        self.wake.notify_one();
    }

    /// What the link wants next; a frame to send is written to `buffer`.
    pub fn poll_link(&self, buffer: &mut [u8; FRAME_BYTES_MAX]) -> Option<LinkOutput> {
        let now = self.clock.now();
        let state = &mut *self.lock();
        let counts = state.pipeline.counts();
        let mut dropped = state.dropped;
        dropped.merge(&counts.drops);
        let observed = counts.observed.saturating_add(state.dropped.total(DropUnit::Observation));
        state.link.set_vitals(Vitals { series: counts.series, observed, dropped });
        state.link.poll_output(now, &mut state.spool, buffer)
    }

    /// When the link wants to be asked again at the latest.
    #[must_use]
    pub fn link_deadline(&self) -> Option<MonoMs> {
        self.lock().link.poll_deadline()
    }

    /// Returns once there may be something new for the link.
    pub async fn link_woken(&self) {
        self.wake.notified().await;
    }

    /// The connection that the link asked for is open.
    pub fn connected(&self) {
        let now = self.clock.now();
        let state = &mut *self.lock();
        state.connected_at = Some(now.wall);
        state.link.handle_connected(now);
        self.wake.notify_one();
    }

    /// The connection broke, or could not be opened.
    pub fn disconnected(&self) {
        let now = self.clock.now();
        self.lock().link.handle_disconnected(now);
        self.wake.notify_one();
    }

    /// A frame came from the aggregator.
    ///
    /// # Errors
    /// [`LinkError`] when it makes no sense; it is counted and changes nothing.
    pub fn receive(&self, frame: &Frame<'_>) -> Result<Received, LinkError> {
        let now = self.clock.now();
        let state = &mut *self.lock();
        let received = state.link.handle_frame(now, frame, &mut state.spool)?;
        if received == Received::Calendar {
            state.pipeline.set_calendar(&decode::<Calendar>(frame)?);
        }
        self.wake.notify_one();
        Ok(received)
    }

    /// Takes what can change while running: tags, regions and their time zones.
    pub fn reload(&self, config: &Config) {
        let state = &mut *self.lock();
        state.tags = Tags::new(config);
        state.zones = config.zones();
        state.offsets_at = None;
        state.birth.regions = regions(config);
        state.link.set_birth(state.birth.clone());
    }

    /// Whether every record was acknowledged.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let state = self.lock();
        Lane::ALL.into_iter().all(|lane| state.spool.records(lane) == 0)
    }

    /// What was done and is held, at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let state = self.lock();
        let mut pipeline = state.pipeline.counts();
        pipeline.observed = pipeline.observed.saturating_add(state.dropped.total(DropUnit::Observation));
        pipeline.drops.merge(&state.dropped);
        Snapshot {
            pipeline,
            spool: *state.spool.counts(),
            spooled_records: Lane::ALL.map(|lane| state.spool.records(lane)),
            spooled_bytes: Lane::ALL.into_iter().map(|lane| state.spool.live_bytes(lane)).sum(),
            spool_file_bytes: state.spool.bytes(),
            link: *state.link.counts(),
            connected: state.link.is_connected(),
            wire_bytes: [Transport::Quic, Transport::Mqtt].map(|transport| self.wire.totals(transport)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves counts and tables valid: each mutation is finished before the lock is let go.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Before the first event time.
const NO_EVENT_YET: WallMs = WallMs(i64::MIN);
/// How long nothing may happen before the engine looks at its clocks again.
const IDLE_MS: u64 = 1_000;
/// Deadlines that the end of an agent runs through at most.
const FINISH_STEPS_MAX: usize = 16;

impl State {
    /// Scores whole lines as of `now`.
    fn take(&mut self, now: Now, format: Format, bytes: &[u8]) {
        let pairs = self.tags.received();
        let tally = self.pipeline.handle_bytes(now, format, &DefaultTags::new(&pairs), bytes);
        if let Some(rejection) = tally.rejection {
            let what =
                rejection.error.map_or_else(|| rejection.reason.as_str().into(), |error| error.to_string());
            tracing::warn!(
                reason = rejection.reason.as_str(),
                what,
                dropped = tally.dropped,
                "input was dropped"
            );
        }
    }

    /// Closes every window that the event time of `line` leaves behind; gives the latest event time so far, if there
    /// was any. A time that the pipeline would refuse moves nothing.
    fn advance_event_time(&mut self, now: Now, format: Format, line: &[u8]) -> Option<WallMs> {
        let stated = match (format, Line::split(line)) {
            (Format::LineProtocol(precision), Ok(Some(line))) => {
                line.timestamp.map(|timestamp| WallMs(precision.to_ms(timestamp)))
            }
            _ => None,
        };
        let settings = self.pipeline.settings();
        let credible = settings.earliest..=now.wall.plus_ms(i64::from(settings.future_ms_max));
        let before = self.event_time.unwrap_or(NO_EVENT_YET);
        let latest = stated.filter(|at| credible.contains(at)).map_or(before, |at| at.max(before));
        if latest == NO_EVENT_YET {
            return None;
        }
        self.event_time = Some(latest);
        self.set_utc_offsets(latest);
        self.close_windows(Now { wall: latest, ..now });
        Some(latest)
    }

    /// Closes and spools every window that is due.
    fn close_windows(&mut self, now: Now) {
        while self.pipeline.poll_deadline().is_some_and(|deadline| deadline <= now.wall) {
            self.pipeline.handle_deadline(now);
            self.spool_summaries(now);
        }
    }

    /// Sets the regions' UTC offsets once in each window, so that a clock change is seen when it happens.
    fn set_utc_offsets(&mut self, now: WallMs) {
        let window = now.window_start(self.pipeline.settings().window_ms);
        if self.offsets_at == Some(window) {
            return;
        }
        self.offsets_at = Some(window);
        for (region, zone) in &self.zones {
            self.pipeline.set_utc_offset(region, zone.offset_s(now));
        }
    }

    /// How far ahead of the clock the end of an agent may go: past the window that is open now.
    fn horizon_ms(&self) -> i64 {
        let settings = self.pipeline.settings();
        i64::from(settings.window_ms) + i64::from(settings.lateness_ms)
    }

    fn spool_summaries(&mut self, now: Now) {
        let mut any = false;
        while self.pipeline.poll_summary(&mut self.summary) {
            any = true;
            self.spool_summary();
        }
        if any {
            self.spool.handle_window_closed(now.mono);
        }
        if let Some(error) = self.spool.take_error() {
            tracing::error!(%error, "the spool's files failed");
        }
    }

    fn spool_summary(&mut self) {
        let Self { spool, summary, dropped, .. } = self;
        let lane = if summary.deviations.is_empty() { Lane::RollUps } else { Lane::Deviations };
        let appended = spool.append(lane, |key, buffer| {
            summary.key = key;
            encode(&**summary, buffer)
        });
        match appended {
            Ok(_) => {}
            // Counted by the spool already.
            Err(AppendError::Dropped { reason, .. }) => {
                tracing::error!(
                    reason = reason.as_str(),
                    lane = lane.as_str(),
                    "a summary could not be spooled"
                );
            }
            Err(error) => {
                dropped.add(DropReason::FrameTooLong, 1);
                tracing::error!(%error, lane = lane.as_str(), "a summary could not be written");
            }
        }
    }
}

fn birth(config: &Config, agent: AgentId, boot: BootId, now: WallMs) -> Birth {
    Birth {
        agent,
        boot,
        version: env!("CARGO_PKG_VERSION").try_into().unwrap_or_default(),
        started_at: now,
        window_ms: config.window.window_ms,
        regions: regions(config),
        series_max: config.limits.series_max,
    }
}

fn regions(config: &Config) -> heapless::Vec<Name, REGIONS_MAX> {
    let zones = config.zones();
    zones.iter().filter_map(|(region, _)| region.as_str().try_into().ok()).take(REGIONS_MAX).collect()
}
