//! Missing data: how soon a series that stops is told as silent, and how often one is that only paused.
//!
//! It must never ask more often than an agent does: at the close of each window. The hard case is a series without a
//! beat, whose pauses are its nature.

use vedette_agent_core::batch::{self, Observation};
use vedette_agent_core::deviation::{DeviationSettings, DeviationState, Interest};
use vedette_agent_core::score::{Learning, Moment, SeriesState};
use vedette_common::WallMs;
use vedette_common::wire::Phase;

use crate::random::Dice;

const DAY_S: i64 = 86_400;
/// A Monday.
const START_S: i64 = 1_771_804_800;
const WINDOW_S: i64 = 10;
/// Series of a kind, and how often each is made to stop.
const SERIES: u64 = 3;
const TRIALS: i64 = 8;

/// How a series comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    Steady,
    /// Each gap up to 30 % longer or shorter.
    Jittered,
    /// One of ten observations is lost.
    Lossy,
    /// Gaps of a Poisson process.
    Irregular,
    /// Nothing from 22 to 6.
    RestsAtNight,
}

impl Beat {
    pub(crate) const ALL: [Self; 5] =
        [Self::Steady, Self::Jittered, Self::Lossy, Self::Irregular, Self::RestsAtNight];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Jittered => "jittered",
            Self::Lossy => "one in 10 lost",
            Self::Irregular => "irregular",
            Self::RestsAtNight => "rests at night",
        }
    }

    /// The time of the observation after one at `at_s`.
    fn next(self, at_s: f64, step_s: f64, dice: &mut Dice) -> f64 {
        let gap_s = match self {
            Self::Steady | Self::RestsAtNight => step_s,
            Self::Jittered => step_s * (0.7 + 0.6 * dice.uniform()),
            Self::Lossy => step_s * if dice.uniform() < 0.1 { 2.0 } else { 1.0 },
            Self::Irregular => -step_s * libm::log(dice.uniform()),
        };
        let next_s = at_s + gap_s;
        let night = (next_s as i64 + 2 * 3_600).rem_euclid(DAY_S) < 8 * 3_600;
        if self == Self::RestsAtNight && night {
            let evening_s = (next_s as i64 + 2 * 3_600).div_euclid(DAY_S) * DAY_S - 2 * 3_600;
            return (evening_s + 8 * 3_600) as f64;
        }
        next_s
    }
}

/// What the weeks and the stops gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Silences {
    pub(crate) weeks: f64,
    /// Silences told of series that only paused.
    pub(crate) mistaken: u32,
    pub(crate) trials: u32,
    pub(crate) delays_s: Vec<i64>,
}

pub(crate) fn measure(seed: u64, beat: Beat, step_s: i64) -> Silences {
    let mut silences = Silences::default();
    for series in 0..SERIES {
        live(&mut Dice::new(seed * 1_000 + series), beat, step_s, &mut silences);
    }
    silences
}

fn live(dice: &mut Dice, beat: Beat, step_s: i64, silences: &mut Silences) {
    let settings = DeviationSettings::default();
    let (learned_s, watched_s) = if step_s < 60 { (3 * DAY_S, 3 * DAY_S) } else { (14 * DAY_S, 14 * DAY_S) };
    let (mut series, mut state) = (SeriesState::new(1), DeviationState::new(Interest::Both));
    let mut next_s = START_S as f64;
    let mut trials = 0;
    let mut window_s = START_S;
    let is_onset = |state: &mut DeviationState, now_s: i64| {
        let now = Moment::new(WallMs(now_s * 1_000), 0);
        let overdue = state.overdue(&settings, now, false);
        overdue.is_some_and(|overdue| overdue.course.phase == Phase::Onset)
    };
    while window_s < START_S + learned_s + watched_s {
        window_s += WINDOW_S;
        let mut came = false;
        while next_s < window_s as f64 {
            let at = WallMs((next_s * 1_000.0) as i64);
            let ((state, week), deviation) = (series.parts(), &mut state);
            let (moment, value, learning) = (Moment::new(at, 0), 1.0, Learning::Normal);
            let one = Observation { state, week, deviation, moment, value, learning, in_event: false };
            batch::observe_one(&settings, one);
            next_s = beat.next(next_s, step_s as f64, dice);
            came = true;
        }
        let watched = window_s >= START_S + learned_s;
        silences.mistaken += u32::from(is_onset(&mut state, window_s) && watched);
        if came && watched && window_s - START_S - learned_s >= trials * watched_s / TRIALS {
            trials += 1;
            silences.trials += 1;
            let mut stopped = state.clone();
            let asked = (window_s + WINDOW_S..window_s + 3 * DAY_S).step_by(WINDOW_S as usize);
            let told = asked.into_iter().find(|&now_s| is_onset(&mut stopped, now_s));
            silences.delays_s.extend(told.map(|now_s| now_s - window_s));
        }
    }
    silences.weeks += watched_s as f64 / (7 * DAY_S) as f64;
}
