//! The summary: what an agent says of one window, in as few bytes as keep it useful.
//!
//! It must never depend on another frame: names stand in its own table, so that any record may be lost,
//! late or sent twice. The hard case is indices from the wire that point nowhere: [`Summary::is_consistent`]
//! is part of decoding, and whoever holds a decoded summary may index without fear.
use heapless::Vec;
use serde::{Deserialize, Deserializer, Serialize};

use super::frame::Kind;
use super::message::Message;
use super::quantity::{F24, Fraction, Shape};
use super::strings::StringTable;
use crate::ids::RecordKey;
use crate::limits::{CELLS_MAX, DEVIATIONS_MAX, ROLL_UPS_MAX};
use crate::units::WallMs;

/// The value of [`Deviation::tags`] when the series has no tags beyond its cell.
pub const NO_TAGS: u8 = u8::MAX;

/// Which way a value left its expectation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// Above the expectation.
    #[default]
    Up,
    /// Below it.
    Down,
}

/// Where a deviation stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// It began in this window.
    Onset,
    /// It began earlier and lasts.
    Ongoing,
    /// It ended in this window.
    Ended,
}

/// Which scorer found a deviation; it decides what the deviation may be taken for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scorer {
    /// The values: forecast, derivative and distribution, or zeros where there should be none. A drop or a rise.
    #[default]
    Value,
    /// The spread of the values about their forecast. Neither drop nor rise: up is wilder, down is calmer.
    Spread,
    /// A value that stands still as this series never did. A fault of the telemetry, no drop.
    FlatLine,
    /// No value for longer than is usual for this series. A fault of the telemetry, no drop: observed and
    /// expected are then seconds, since the latest value and of the longest usual gap.
    Silence,
}

impl Scorer {
    /// Whether the values of the series may be compared with their forecast.
    pub const fn trusts_values(self) -> bool {
        matches!(self, Self::Value | Self::Spread)
    }

    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Value,
            1 => Self::Spread,
            2 => Self::FlatLine,
            _ => Self::Silence,
        }
    }
}

/// Phase, direction, whether a scheduled event was on, and who found it; one byte on the wire: bits 0-1 the
/// phase, bit 2 set for down, bit 3 set inside an event, bits 4-5 the scorer, the rest zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Course {
    /// Where it stands.
    pub phase: Phase,
    /// Which way it went.
    pub direction: Direction,
    /// Whether a calendar entry covered the window.
    pub in_event: bool,
    /// Which scorer found it.
    pub scorer: Scorer,
}

impl Course {
    const fn to_byte(self) -> u8 {
        let down = matches!(self.direction, Direction::Down) as u8;
        self.phase as u8 | down << 2 | (self.in_event as u8) << 3 | (self.scorer as u8) << 4
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        let phase = match byte & 3 {
            0 => Phase::Onset,
            1 => Phase::Ongoing,
            2 => Phase::Ended,
            _ => return None,
        };
        if byte > 63 {
            return None;
        }
        let direction = if byte & 4 == 0 { Direction::Up } else { Direction::Down };
        Some(Self { phase, direction, in_event: byte & 8 != 0, scorer: Scorer::from_bits(byte >> 4) })
    }
}

impl Serialize for Course {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.to_byte())
    }
}

impl<'de> Deserialize<'de> for Course {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let byte = u8::deserialize(deserializer)?;
        Self::from_byte(byte).ok_or_else(|| serde::de::Error::custom("no course of a deviation"))
    }
}

/// One cell, by the indices of its names in the string table. 3 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellName {
    /// Index of the region's name.
    pub region: u8,
    /// Index of the device's name.
    pub device: u8,
    /// Index of the stack's name.
    pub stack: u8,
}

/// One metric of one cell over the window: sums over the observations that had an expectation, so that
/// the ratio observed/expected is unharmed by gaps. 9 bytes while the count stays below 251.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollUp {
    /// Index into the summary's cells.
    pub cell: u8,
    /// Index of the metric's name.
    pub metric: u8,
    /// Sum of the observed values.
    pub observed: F24,
    /// Sum of the values expected in their stead.
    pub expected: F24,
    /// How many observations had an expectation; 0 says that the cell lives but is still learning.
    pub count: u32,
}

/// One deviating series. About 19 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deviation {
    /// Index into the summary's cells.
    pub cell: u8,
    /// Index of the metric's name.
    pub metric: u8,
    /// Index of the further tags in canonical form `k=v,k2=v2`, or [`NO_TAGS`].
    pub tags: u8,
    /// Phase, direction, inside an event or not.
    pub course: Course,
    /// Seconds from its onset to the end of the window.
    pub onset_s_ago: u32,
    /// The latest observed value.
    pub observed: F24,
    /// What was expected in its stead.
    pub expected: F24,
    /// The combined anomaly score; 0.5 is the threshold.
    pub score: Fraction,
    /// What the forecast scorer says.
    pub forecast: Fraction,
    /// What the derivative scorer says.
    pub derivative: Fraction,
    /// What the distribution scorer says.
    pub distribution: Fraction,
    /// The last eight values against their expectation.
    pub shape: Shape,
}

/// What an agent says of one window. About 12 KB in memory; on the wire only what is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// What it is delivered under.
    pub key: RecordKey,
    /// When the window began, in event time.
    pub window_start: WallMs,
    /// How wide it is, in milliseconds.
    pub window_ms: u32,
    /// Every name that the rest speaks of.
    pub strings: StringTable,
    /// The cells that the rest speaks of.
    pub cells: Vec<CellName, CELLS_MAX>,
    /// Roll-ups, at most one for each cell and metric.
    pub roll_ups: Vec<RollUp, ROLL_UPS_MAX>,
    /// Deviations, at most one for each series.
    pub deviations: Vec<Deviation, DEVIATIONS_MAX>,
}

impl Message for Summary {
    const KIND: Kind = Kind::Summary;
}

impl Summary {
    /// A summary that says nothing yet.
    pub const fn new(key: RecordKey, window_start: WallMs, window_ms: u32) -> Self {
        Self {
            key,
            window_start,
            window_ms,
            strings: StringTable::new(),
            cells: Vec::new(),
            roll_ups: Vec::new(),
            deviations: Vec::new(),
        }
    }

    /// Whether it holds neither roll-ups nor deviations.
    pub fn is_empty(&self) -> bool {
        self.roll_ups.is_empty() && self.deviations.is_empty()
    }

    /// Whether every index points at something and the window has a width.
    pub fn is_consistent(&self) -> bool {
        let strings = self.strings.len();
        let cells = self.cells.len();
        let named = |index: u8| usize::from(index) < strings;
        let tagged = |index: u8| index == NO_TAGS || named(index);
        self.window_ms > 0
            && self.cells.iter().all(|c| named(c.region) && named(c.device) && named(c.stack))
            && self.roll_ups.iter().all(|r| usize::from(r.cell) < cells && named(r.metric))
            && self
                .deviations
                .iter()
                .all(|d| usize::from(d.cell) < cells && named(d.metric) && tagged(d.tags))
    }
}

#[derive(Deserialize)]
struct Unchecked {
    key: RecordKey,
    window_start: WallMs,
    window_ms: u32,
    strings: StringTable,
    cells: Vec<CellName, CELLS_MAX>,
    roll_ups: Vec<RollUp, ROLL_UPS_MAX>,
    deviations: Vec<Deviation, DEVIATIONS_MAX>,
}

impl<'de> Deserialize<'de> for Summary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Unchecked { key, window_start, window_ms, strings, cells, roll_ups, deviations } =
            Unchecked::deserialize(deserializer)?;
        let summary = Self { key, window_start, window_ms, strings, cells, roll_ups, deviations };
        if summary.is_consistent() {
            Ok(summary)
        } else {
            Err(serde::de::Error::custom("an index of the summary points nowhere"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn courses_fit_one_byte() {
        let mut seen = 0;
        for byte in 0..=u8::MAX {
            if let Some(course) = Course::from_byte(byte) {
                assert_eq!(course.to_byte(), byte);
                seen += 1;
            }
        }
        assert_eq!(seen, 48);
    }
}
