//! One cell of the grid: a series lives through quiet weeks, and copies of it meet every fault.
//!
//! It must never let one trial touch another: each fault is met by a copy of the state. The hard case is a series that
//! is deviating by mistake when a fault is due: the trial waits, for a false alarm is not a detection.

use vedette_agent_core::batch::{self, Observation};
use vedette_agent_core::deviation::{DeviationSettings, DeviationState};
use vedette_agent_core::score::{Learning, Moment, Rest, RestSettings, SeriesState};
use vedette_common::WallMs;
use vedette_common::wire::{Course, Phase, Scorer};

use crate::family::{Family, Fault, Noise, value};
use crate::random::Dice;

const DAY_S: i64 = 86_400;
/// A Monday.
pub(crate) const START_S: i64 = 1_771_804_800;
/// How many series there are in a cell of the grid, and how many faults of a family each meets.
const SERIES: u64 = 4;
const TRIALS: i64 = 12;
/// The scorers that an observation can make speak.
pub(crate) const SCORERS: [Scorer; 3] = [Scorer::Value, Scorer::Spread, Scorer::FlatLine];
/// How long a deviation may outlast its fault before it no longer counts as ended.
const ENDED_WITHIN_S: i64 = 2 * DAY_S;

/// The state of a series and of its deviation.
#[derive(Clone)]
pub(crate) struct Watch {
    series: SeriesState,
    rest: Rest,
    deviation: DeviationState,
}

/// What one observation gave.
pub(crate) struct Said {
    course: Option<Course>,
    alarmed: bool,
}

impl Watch {
    pub(crate) fn new(seed: u32) -> Self {
        Self { series: SeriesState::new(seed), rest: Rest::new(), deviation: DeviationState::default() }
    }

    pub(crate) fn is_deviating(&self) -> bool {
        self.deviation.is_deviating()
    }

    /// Borrows from `donor` when it is time to.
    pub(crate) fn borrow(&mut self, at_s: i64, donor: &Self) {
        if self.series.may_borrow() && donor.series.can_lend() {
            self.series.borrow(&donor.series, Moment::new(WallMs(at_s * 1_000), 0));
        }
    }

    pub(crate) fn observe(&mut self, at_s: i64, value: f64) -> Said {
        let at = WallMs(at_s * 1_000);
        let (state, week) = self.series.parts();
        let one = Observation {
            state,
            week,
            deviation: &mut self.deviation,
            moment: Moment::new(at, 0),
            value,
            learning: Learning::Normal,
            in_event: false,
        };
        let outcome = batch::observe_one(&DeviationSettings::default(), one);
        let (score, course) = (outcome.scores.score(0), outcome.courses[0]);
        let anomaly = self.rest.admit(&RestSettings::default(), at, &score);
        Said { course, alarmed: anomaly >= 0.5 }
    }
}

impl Said {
    pub(crate) fn is_onset(&self) -> bool {
        self.is(Phase::Onset)
    }

    fn is(&self, phase: Phase) -> bool {
        self.course.is_some_and(|course| course.phase == phase)
    }

    fn is_onset_by(&self, scorer: Scorer) -> bool {
        self.is(Phase::Onset) && self.course.is_some_and(|course| course.scorer == scorer)
    }
}

/// What the quiet weeks gave.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Quiet {
    pub(crate) observations: u32,
    /// By scorer.
    pub(crate) onsets: [u32; SCORERS.len()],
    pub(crate) alarms: u32,
    pub(crate) deviating: u32,
    pub(crate) weeks: f64,
}

/// What the trials of one family gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caught {
    pub(crate) trials: u32,
    /// Seconds from the beginning of the fault to the onset, of those that were noticed.
    pub(crate) delays_s: Vec<i64>,
    /// Seconds from the end of the fault to the end of the deviation, where the fault has one.
    pub(crate) tails_s: Vec<i64>,
}

/// One noise at one interval.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cell {
    pub(crate) quiet: Quiet,
    pub(crate) caught: [Caught; Family::ALL.len()],
}

/// How long a series learns before it is watched, and how long it is: days that keep a cell affordable.
fn spans_days(step_s: i64) -> (i64, i64) {
    match step_s {
        ..60 => (8, 7),
        60..300 => (15, 7),
        300..3_600 => (22, 14),
        _ => (29, 56),
    }
}

pub(crate) fn measure(seed: u64, noise: Noise, step_s: i64) -> Cell {
    let mut cell = Cell::default();
    for series in 0..SERIES {
        live(seed * 1_000 + series, noise, step_s, &mut cell);
    }
    cell
}

fn live(seed: u64, noise: Noise, step_s: i64, cell: &mut Cell) {
    let (learned_days, quiet_days) = spans_days(step_s);
    let (mut watch, mut dice) = (Watch::new(seed as u32), Dice::new(seed));
    let watched_s = START_S + learned_days * DAY_S;
    let end_s = watched_s + quiet_days * DAY_S;
    let between_s = quiet_days * DAY_S / TRIALS;
    let mut trials = 0;
    let mut last = 0.0;
    for at_s in (START_S..end_s).step_by(step_s as usize) {
        let due = at_s >= watched_s && at_s >= watched_s + trials * between_s + between_s / 2;
        if due && !watch.deviation.is_deviating() {
            meet_faults(&watch, &dice, noise, step_s, at_s, last, &mut cell.caught);
            trials += 1;
        }
        last = value(noise, at_s, None, &mut dice);
        let said = watch.observe(at_s, last);
        if at_s >= watched_s {
            cell.quiet.observations += 1;
            for (onsets, scorer) in cell.quiet.onsets.iter_mut().zip(SCORERS) {
                *onsets += u32::from(said.is_onset_by(scorer));
            }
            cell.quiet.alarms += u32::from(said.alarmed);
            cell.quiet.deviating += u32::from(watch.deviation.is_deviating());
        }
    }
    cell.quiet.weeks += quiet_days as f64 / 7.0;
}

pub(crate) fn meet_faults(
    watch: &Watch,
    dice: &Dice,
    noise: Noise,
    step_s: i64,
    at_s: i64,
    last: f64,
    all: &mut [Caught; Family::ALL.len()],
) {
    for (family, caught) in Family::ALL.into_iter().zip(all) {
        let fault = Fault { family, since_s: at_s, value: last };
        meet(watch.clone(), dice.clone(), noise, step_s, fault, caught);
    }
}

fn meet(mut watch: Watch, mut dice: Dice, noise: Noise, step_s: i64, fault: Fault, caught: &mut Caught) {
    caught.trials += 1;
    let end_s = fault.since_s + fault.family.lasts_s(step_s);
    let returns = matches!(fault.family, Family::Spike | Family::Dip | Family::Outage);
    let mut noticed = false;
    for at_s in (fault.since_s..end_s).step_by(step_s as usize) {
        let said = watch.observe(at_s, value(noise, at_s, Some(fault), &mut dice));
        if said.is(Phase::Onset) && !noticed {
            caught.delays_s.push(at_s - fault.since_s);
            noticed = true;
            if !returns {
                return;
            }
        }
    }
    if !watch.deviation.is_deviating() {
        return;
    }
    for at_s in (end_s..end_s + ENDED_WITHIN_S).step_by(step_s as usize) {
        if watch.observe(at_s, value(noise, at_s, None, &mut dice)).is(Phase::Ended) {
            caught.tails_s.push(at_s - end_s);
            return;
        }
    }
}
