//! The core as a firmware would use it: samples in, and for each window frames out, ready for any link.
//!
//! It must never lose a sample silently: what the pipeline refuses, it counts. The hard case is memory: the pipeline's
//! comes from the caller, in lengths that follow from the limits.

use core::fmt::Write;

use vedette_agent_core::index::cells_for;
use vedette_agent_core::key::{DefaultTags, Observation};
use vedette_agent_core::lattice::{Cell, Row};
use vedette_agent_core::names::NameEntry;
use vedette_agent_core::parse::{Format, Precision};
use vedette_agent_core::pending::Pending;
use vedette_agent_core::pipeline::{Pipeline, PipelineMemory, PipelineSettings};
use vedette_agent_core::room::Vacant;
use vedette_agent_core::table::{SLOT_BYTES, weeks_for};
use vedette_common::limits::FRAME_BYTES_MAX;
use vedette_common::wire::{Summary, encode};
use vedette_common::{BootId, Lane, MonoMs, Now, RecordKey, Sequence, WallMs};

use crate::digest::Digest;
use crate::recording;

/// Series that are scored at once; the memory of everything else follows.
pub(crate) const SERIES_MAX: u32 = 4;
const CELLS_MAX: usize = 1;
const METRICS_MAX: usize = 8;
const NAMES_MAX: usize = 16;
const NAME_BYTES_MAX: usize = 4_096;
const PENDING_MAX: usize = 8;
const SLOTS: usize = SERIES_MAX as usize + CELLS_MAX;
const INDEX: usize = 2 * cells_for(SLOTS) + cells_for(NAMES_MAX);
const ROWS: usize = METRICS_MAX + CELLS_MAX;

/// All memory that the pipeline works in, the summary and the frame that are made of it included.
pub(crate) const PIPELINE_BYTES: usize = size_of::<Pipeline<'_>>()
    + SLOTS * SLOT_BYTES
    + INDEX * size_of::<u32>()
    + NAMES_MAX * size_of::<NameEntry>()
    + NAME_BYTES_MAX
    + CELLS_MAX * size_of::<Cell>()
    + ROWS * size_of::<Row>()
    + PENDING_MAX * size_of::<Pending>()
    + size_of::<Summary>()
    + FRAME_BYTES_MAX;

/// What was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) digest: u64,
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
}

/// What the pipeline is fed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// One value after the other.
    Samples,
    /// The values of one moment as lines of text, which are scored side by side.
    Lines,
}

/// Bytes of one moment's lines.
const LINES_BYTES: usize = 256;

pub(crate) fn of_recording(input: Input) -> Sent {
    let (mut slots, mut index) = ([const { Vacant::new() }; SLOTS], [0; INDEX]);
    let mut weeks = [0; weeks_for(SLOTS)];
    let (mut names, mut name_bytes) = ([const { Vacant::new() }; NAMES_MAX], [0; NAME_BYTES_MAX]);
    let (mut cells, mut rows) = ([Cell::default(); CELLS_MAX], [const { Vacant::new() }; ROWS]);
    let mut pending = [const { Vacant::new() }; PENDING_MAX];
    let memory = PipelineMemory {
        slots: &mut slots,
        weeks: &mut weeks,
        index: &mut index,
        names: &mut names,
        name_bytes: &mut name_bytes,
        cells: &mut cells,
        rows: &mut rows,
        pending: &mut pending,
    };
    let pipeline =
        Pipeline::new(settings(), memory, 1).expect("the memory has the lengths that follow from the limits");
    let mut firmware = Firmware::new(pipeline);
    for place in 0..recording::LENGTH {
        // One clock for all: the recording's own times are ten seconds to ten minutes apart.
        let at = WallMs(1_748_822_400_000 + i64::from(place) * 60_000);
        let values = recording::ALL
            .into_iter()
            .filter_map(|series| Some((series.name(), series.observation(place)?.1)));
        match input {
            Input::Samples => values.for_each(|(name, value)| firmware.sample(at, name, value)),
            Input::Lines => {
                let mut text = heapless::String::<LINES_BYTES>::new();
                for (name, value) in values {
                    writeln!(text, "{name},region=uk,device=meter,stack=sensors value={value}")
                        .expect("three lines fit");
                }
                firmware.lines(at, text.as_bytes());
            }
        }
    }
    firmware.sent()
}

fn settings() -> PipelineSettings {
    PipelineSettings {
        cells_max: CELLS_MAX as u32,
        metrics_max: METRICS_MAX as u32,
        names_max: NAMES_MAX as u32,
        name_bytes_max: NAME_BYTES_MAX as u32,
        deviations_pending_max: PENDING_MAX as u32,
        window_ms: 300_000,
        ..PipelineSettings::for_series(SERIES_MAX)
    }
}

/// A pipeline, the summary it fills, and the frame that leaves.
struct Firmware<'m> {
    pipeline: Pipeline<'m>,
    summary: Summary,
    frame: [u8; FRAME_BYTES_MAX],
    sequence: u64,
    digest: Digest,
    bytes: u64,
}

impl<'m> Firmware<'m> {
    fn new(pipeline: Pipeline<'m>) -> Self {
        let summary = Summary::new(key(0), WallMs(0), 0);
        Self { pipeline, summary, frame: [0; FRAME_BYTES_MAX], sequence: 0, digest: Digest::new(), bytes: 0 }
    }

    /// One sample of a sensor, taken at `at`; windows that are over by then are sent first.
    fn sample(&mut self, at: WallMs, measurement: &str, value: f64) {
        let now = self.close_windows(at);
        let tags = [("region", "uk"), ("device", "meter"), ("stack", "sensors")];
        let observation = Observation { measurement, field: "value", tags: &tags, value, at: None };
        // What is refused is counted, with its reason, in `pipeline.counts()`.
        let _ = self.pipeline.handle_observation(now, &DefaultTags::default(), &observation);
    }

    /// Lines of text, as another device may send them, that came at `at`.
    fn lines(&mut self, at: WallMs, text: &[u8]) {
        let now = self.close_windows(at);
        let format = Format::LineProtocol(Precision::Nanoseconds);
        self.pipeline.handle_bytes(now, format, &DefaultTags::default(), text);
    }

    fn close_windows(&mut self, at: WallMs) -> Now {
        let now = Now { mono: MonoMs(at.0.unsigned_abs()), wall: at };
        while self.pipeline.poll_deadline().is_some_and(|deadline| deadline <= at) {
            self.pipeline.handle_deadline(now);
            while self.pipeline.poll_summary(&mut self.summary) {
                self.send();
            }
        }
        now
    }

    /// Here a firmware would hand the frame to its radio or wire; the digest stands in for it.
    fn send(&mut self) {
        self.sequence += 1;
        self.summary.key = key(self.sequence);
        let length = encode(&self.summary, &mut self.frame).expect("a frame holds any summary");
        self.digest.bytes(&self.frame[..length]);
        self.bytes += length as u64;
    }

    fn sent(&self) -> Sent {
        Sent { digest: self.digest.value(), frames: self.sequence, bytes: self.bytes }
    }
}

fn key(sequence: u64) -> RecordKey {
    RecordKey { boot: BootId(1), lane: Lane::RollUps, sequence: Sequence(sequence) }
}
