//! Made-up summaries: what an agent would say of its window, with malfunctions now and then.
//!
//! It must never be more than the delivery needs. The hard case is an incident worth the name: the traffic of one stack falls
//! in all cells of a region at once, so that the aggregator's judgement has something to tell once and not twice.
use vedette_common::wire::{
    CellName, Course, Deviation, Direction, F24, Fraction, NO_TAGS, Phase, RollUp, Scorer, Shape, Summary,
};
use vedette_common::{RecordKey, WallMs};

use crate::fleet::random::Random;

const STACKS: [&str; 3] = ["browse", "playback", "search"];
/// Observations of one cell in a window.
const COUNT: u32 = 60;
const EXPECTED: f32 = 60_000.0;
/// What a malfunction leaves of the traffic.
const LEFT: f32 = 0.3;
/// Windows in which a malfunction begins, on average one of so many.
const MALFUNCTION_EVERY: u64 = 150;
/// Windows that it lasts.
const MALFUNCTION_WINDOWS: u64 = 12;

/// The region of an agent.
pub(super) fn region_of(agent: usize) -> &'static str {
    ["uk", "fr"][agent % 2]
}

/// The stack that is broken in a region at a window, the same for all agents of the region.
fn broken(seed: u64, region: &str, window: u64) -> Option<usize> {
    (0..MALFUNCTION_WINDOWS).find_map(|ago| {
        let mut random = Random::new(seed ^ window.saturating_sub(ago).rotate_left(32), region);
        random.bits().is_multiple_of(MALFUNCTION_EVERY).then(|| random.index(STACKS.len()))
    })
}

/// What an agent has to say of a window: its roll-ups, and a deviation if its stack fell or it only thinks so.
pub(super) struct Window<'a> {
    pub(super) seed: u64,
    pub(super) agent: usize,
    pub(super) device: &'a str,
    pub(super) start: WallMs,
    pub(super) window_ms: u32,
}

impl Window<'_> {
    fn broken(&self) -> Option<usize> {
        let number = self.start.0.unsigned_abs() / u64::from(self.window_ms);
        broken(self.seed, region_of(self.agent), number)
    }

    /// Whether there is a deviation to tell.
    pub(super) fn deviates(&self, random: &mut Random) -> bool {
        self.broken().is_some() || random.chance(0.03)
    }

    fn summary(&self, key: RecordKey) -> Summary {
        let mut summary = Summary::new(key, self.start, self.window_ms);
        let mut name = |text: &str| summary.strings.intern(text).expect("a handful of names fit");
        let (region, device) = (name(region_of(self.agent)), name(self.device));
        let cells = STACKS.map(|stack| CellName { region, device, stack: name(stack) });
        summary.cells = cells.into_iter().collect();
        summary
    }

    /// The roll-ups of every cell.
    pub(super) fn roll_ups(&self, key: RecordKey, random: &mut Random) -> Summary {
        let mut summary = self.summary(key);
        let metric = summary.strings.intern("activity").expect("one more name fits");
        let broken = self.broken();
        summary.roll_ups = (0..STACKS.len())
            .map(|stack| {
                let factor = if broken == Some(stack) { LEFT } else { 1.0 };
                let observed = F24::from_f32(EXPECTED * factor * random.between(0.98, 1.02) as f32);
                let expected = F24::from_f32(EXPECTED);
                RollUp { cell: stack as u8, metric, observed, expected, count: COUNT }
            })
            .collect();
        summary
    }

    /// One deviating series.
    pub(super) fn deviation(&self, key: RecordKey, random: &mut Random) -> Summary {
        let mut summary = self.summary(key);
        let metric = summary.strings.intern("activity").expect("one more name fits");
        let cell = self.broken().unwrap_or_else(|| random.index(STACKS.len())) as u8;
        let course = Course {
            phase: Phase::Ongoing,
            direction: Direction::Down,
            in_event: false,
            scorer: Scorer::Value,
        };
        let (observed, expected) = (F24::from_f32(EXPECTED * LEFT), F24::from_f32(EXPECTED));
        let (score, shape) = (Fraction(200 + random.index(55) as u8), Shape::default());
        let deviation = Deviation {
            cell,
            metric,
            tags: NO_TAGS,
            course,
            onset_s_ago: 0,
            observed,
            expected,
            score,
            forecast: score,
            derivative: score,
            distribution: score,
            shape,
        };
        summary.deviations = [deviation].into_iter().collect();
        summary
    }
}
