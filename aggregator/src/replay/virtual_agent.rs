//! The virtual agent of one region in a replay: the agent's own pipeline, without spool and link.
//!
//! Owns the memory lent to its pipeline and the sequences of its records. Must never score differently from a real
//! agent. The hard case is the seed of its hash table: a real agent draws it at random, here it is fixed, since the
//! order of nothing depends on it and the same input is to give the same bytes.

use chrono::{Offset, TimeZone};
use chrono_tz::Tz;
use vedette_agent_core::key::{DefaultTags, Dimensions, Observation};
use vedette_agent_core::parse::Format;
use vedette_agent_core::pipeline::{Pipeline, PipelineMemory, PipelineSettings};
use vedette_common::limits::{CALENDAR_ENTRIES_MAX, TAGS_MAX};
use vedette_common::wire::{Birth, Calendar, CalendarEntry, Summary};
use vedette_common::{AgentId, BootId, Lane, Now, RecordKey, Sequence, WallMs};

use super::input::{Body, Line};
use crate::calendar::Occurrence;
use crate::config::Config;

/// The seed of every virtual agent.
const SEED: u64 = 0x0076_6564_6574_7465;

/// One region's agent.
pub(super) struct VirtualAgent {
    pub(super) id: AgentId,
    pub(super) pipeline: Pipeline<'static>,
    region: String,
    zone: Tz,
    window_ms: u32,
    series_max: u32,
    sequences: [u64; 2],
}

impl VirtualAgent {
    /// An agent for `region`, the `number`th; none if the config's limits do not make a pipeline.
    pub(super) fn new(number: usize, region: &str, zone: Tz, config: &Config) -> Option<Self> {
        let named = AgentId::parse(&format!("replay-{region}"));
        let id = named.or_else(|_| AgentId::parse(&format!("replay-{number}"))).ok()?;
        let settings = settings(config)?;
        let memory = lend(&settings);
        let pipeline = Pipeline::new(settings, memory, SEED).ok()?;
        Some(Self {
            id,
            pipeline,
            region: region.to_owned(),
            zone,
            window_ms: config.replay.window_ms,
            series_max: config.replay.series_max,
            sequences: [0; 2],
        })
    }

    /// How it introduces itself.
    pub(super) fn birth(&self, now: WallMs) -> Birth {
        Birth {
            agent: self.id.clone(),
            boot: BootId(1),
            version: env!("CARGO_PKG_VERSION").try_into().unwrap_or_default(),
            started_at: now,
            window_ms: self.window_ms,
            regions: self.region.as_str().try_into().into_iter().collect(),
            series_max: self.series_max,
        }
    }

    /// Scores one line; gives a reason for what did not reach the pipeline, which counts the rest itself.
    pub(super) fn take(&mut self, now: Now, line: &Line<'_>) -> Option<&'static str> {
        let defaults = DefaultTags::default();
        match &line.body {
            Body::LineProtocol { bytes, precision } => {
                self.pipeline.handle_bytes(now, Format::LineProtocol(*precision), &defaults, bytes);
                None
            }
            Body::Row(row) => {
                let mut tags: heapless::Vec<(&str, &str), TAGS_MAX> = heapless::Vec::new();
                if row.tags().any(|tag| tags.push(tag).is_err()) {
                    return Some("too_many_tags");
                }
                let value = match row.value() {
                    Ok(value) => value,
                    Err(reason) => return Some(reason),
                };
                let (measurement, at) = (row.measurement(), Some(line.at));
                let observation = Observation { measurement, field: "value", tags: &tags, value, at };
                // The pipeline counts what it drops.
                let _ = self.pipeline.handle_observation(now, &defaults, &observation);
                None
            }
        }
    }

    /// Gives a summary its place in the agent's sequence.
    pub(super) fn label(&mut self, summary: &mut Summary) {
        let lane = if summary.deviations.is_empty() { Lane::RollUps } else { Lane::Deviations };
        let last = &mut self.sequences[lane.index()];
        *last += 1;
        summary.key = RecordKey { boot: BootId(1), lane, sequence: Sequence(*last) };
    }

    /// Sets the region's clock and the events that it has to know of now.
    pub(super) fn keep_up(&mut self, now: WallMs, occurrences: &[Occurrence]) {
        let at = chrono::DateTime::from_timestamp_millis(now.0).unwrap_or_default();
        let offset = self.zone.offset_from_utc_datetime(&at.naive_utc()).fix();
        self.pipeline.set_utc_offset(&self.region, offset.local_minus_utc());
        if !occurrences.is_empty() {
            self.pipeline.set_calendar(&calendar(&self.region, now, occurrences));
        }
    }
}

/// The soonest events of a region that have not ended.
fn calendar(region: &str, now: WallMs, occurrences: &[Occurrence]) -> Calendar {
    let concerns =
        |it: &&Occurrence| it.until > now && it.region.as_deref().is_none_or(|name| name == region);
    let entry = |it: &Occurrence| {
        Some(CalendarEntry {
            region: region.try_into().ok()?,
            class: it.class.as_str().try_into().unwrap_or_default(),
            from: it.from,
            until: it.until,
        })
    };
    let soonest = occurrences.iter().filter(concerns).filter_map(entry).take(CALENDAR_ENTRIES_MAX);
    Calendar { version: 1, entries: soonest.collect() }
}

/// The pipeline's settings: lines come in order, so no window waits for late ones.
fn settings(config: &Config) -> Option<PipelineSettings> {
    let series_max = config.replay.series_max;
    let name = |tag: &str| heapless::String::try_from(tag).ok();
    let dimensions = Dimensions {
        region: name(&config.dimensions.region)?,
        device: name(&config.dimensions.device)?,
        stack: name(&config.dimensions.stack)?,
    };
    let base = PipelineSettings::for_series(series_max);
    Some(PipelineSettings {
        dimensions,
        cells_max: series_max.clamp(1, 4096),
        metrics_max: series_max.saturating_add(4096),
        window_ms: config.replay.window_ms,
        lateness_ms: 0,
        silent_ms: base.silent_ms.max(config.replay.window_ms.saturating_mul(4)),
        ..base
    })
}

/// Memory for one pipeline. It is never given back: a replay needs it until its end.
fn lend(settings: &PipelineSettings) -> PipelineMemory<'static> {
    fn leak<T: Clone + Default>(length: usize) -> &'static mut [T] {
        vec![T::default(); length].leak()
    }
    let lengths = settings.lengths();
    PipelineMemory {
        slots: leak(lengths.slots),
        weeks: leak(lengths.weeks),
        index: leak(lengths.index),
        names: leak(lengths.names),
        name_bytes: leak(lengths.name_bytes),
        cells: leak(lengths.cells),
        rows: leak(lengths.rows),
        pending: leak(lengths.pending),
    }
}
