//! The life of a deviation: onset, ongoing, ended, for one series.
//!
//! It must never judge oddness itself: it follows what the scorers say, with hysteresis in size and in time, so
//! that a value that wavers about a threshold is one deviation. The hard case is a fault that lasts: the
//! anomaly score rests after its first alarm, yet the deviation stays until the series returns or its new
//! level is learned; it therefore follows `strain`, which does not rest.

use vedette_common::WallMs;
use vedette_common::wire::{Course, Direction, Phase, Shape};

use crate::score::Score;

/// How many residuals the shape of a deviation keeps.
const SHAPE_SAMPLES: usize = 8;
/// What the state of one deviation may take.
pub const DEVIATION_STATE_BYTES_MAX: usize = 64;

const _: () = assert!(size_of::<DeviationState>() <= DEVIATION_STATE_BYTES_MAX);

/// When a deviation begins and ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeviationSettings {
    /// A deviation begins at this combined score, `[0, 1]`, when the strain is at least `strain_ongoing`;
    /// default 0.5.
    pub combined_onset: f32,
    /// Or at this strain, whatever the score, at least 0; default 5.
    pub strain_onset: f32,
    /// It lasts while the strain is at least this, between 0 and `strain_onset`; default 3.
    pub strain_ongoing: f32,
    /// It ends after this time without a sign of it, in milliseconds of event time; default 600,000.
    pub calm_ms: i64,
}

impl Default for DeviationSettings {
    fn default() -> Self {
        DeviationSettings { combined_onset: 0.5, strain_onset: 5.0, strain_ongoing: 3.0, calm_ms: 600_000 }
    }
}

/// Where one series stands; 56 bytes.
#[repr(C)]
#[derive(Clone, Debug, Default)]
pub struct DeviationState {
    /// When the present run of abnormal observations began, or the deviation that grew out of it.
    onset_ms: i64,
    /// The latest sign of abnormality.
    sign_ms: i64,
    /// The latest residuals, a ring.
    residuals: [f32; SHAPE_SAMPLES],
    next: u8,
    stage: Stage,
    direction: Direction,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    /// Nothing unusual.
    #[default]
    Calm,
    /// Unusual, and not yet enough so.
    Strained,
    /// A deviation.
    Deviating,
}

impl DeviationState {
    /// A series without a deviation.
    pub const fn new() -> Self {
        DeviationState {
            onset_ms: 0,
            sign_ms: 0,
            residuals: [0.0; SHAPE_SAMPLES],
            next: 0,
            stage: Stage::Calm,
            direction: Direction::Up,
        }
    }

    /// Follows one observation. `None` while there is no deviation; `Onset` and `Ended` once each, on the
    /// observation that showed it; `Ongoing` in between.
    pub fn step(
        &mut self,
        settings: &DeviationSettings,
        at: WallMs,
        value: f64,
        score: &Score,
        in_event: bool,
    ) -> Option<Course> {
        self.residuals[usize::from(self.next)] = value as f32 - score.expected;
        self.next = (self.next + 1) % SHAPE_SAMPLES as u8;
        if !score.ready {
            return None;
        }
        let phase = self.advance(settings, at.0, score)?;
        Some(Course { phase, direction: self.direction, in_event })
    }

    /// When the present deviation began: the first observation of the run that led to it.
    pub const fn onset(&self) -> WallMs {
        WallMs(self.onset_ms)
    }

    /// Whether there is a deviation now.
    pub fn is_deviating(&self) -> bool {
        self.stage == Stage::Deviating
    }

    /// The latest residuals, oldest first.
    pub fn shape(&self) -> Shape {
        let mut ordered = self.residuals;
        ordered.rotate_left(usize::from(self.next));
        Shape::from_samples(&ordered)
    }

    fn advance(&mut self, settings: &DeviationSettings, at_ms: i64, score: &Score) -> Option<Phase> {
        let strain = score.strain.abs();
        let strained = strain >= settings.strain_ongoing;
        let alarmed =
            strain >= settings.strain_onset || (strained && score.combined >= settings.combined_onset);
        if strained {
            self.sign_ms = at_ms;
            if self.stage == Stage::Calm {
                (self.stage, self.onset_ms) = (Stage::Strained, at_ms);
            }
        }
        // A clock that ran backwards ends nothing early: the difference is then negative.
        let calm = at_ms.saturating_sub(self.sign_ms) >= settings.calm_ms;
        match self.stage {
            Stage::Calm => None,
            Stage::Strained if alarmed => Some(self.begin(score)),
            Stage::Strained => {
                if !strained {
                    self.stage = Stage::Calm;
                }
                None
            }
            Stage::Deviating if calm => {
                self.stage = Stage::Calm;
                Some(Phase::Ended)
            }
            Stage::Deviating => Some(Phase::Ongoing),
        }
    }

    fn begin(&mut self, score: &Score) -> Phase {
        self.stage = Stage::Deviating;
        self.direction = match score.strain {
            s if s >= 1.0 => Direction::Up,
            s if s <= -1.0 => Direction::Down,
            _ => score.direction,
        };
        Phase::Onset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: DeviationSettings =
        DeviationSettings { combined_onset: 0.5, strain_onset: 6.0, strain_ongoing: 2.0, calm_ms: 600_000 };

    /// One observation a minute with these strains; the phases that follow.
    fn live<const N: usize>(
        state: &mut DeviationState,
        from_min: i64,
        strains: [f32; N],
    ) -> [Option<Phase>; N] {
        let mut minute = from_min;
        strains.map(|strain| {
            let score = Score { strain, ready: true, expected: 100.0, ..Score::default() };
            let at = WallMs(minute * 60_000);
            minute += 1;
            state.step(&SETTINGS, at, 100.0 + f64::from(strain), &score, false).map(|course| course.phase)
        })
    }

    #[test]
    fn a_deviation_begins_lasts_and_ends_once() {
        let mut state = DeviationState::new();
        let phases = live(&mut state, 100, [0.0, -3.0, -7.0, -7.0, -3.0]);
        assert_eq!(phases, [None, None, Some(Phase::Onset), Some(Phase::Ongoing), Some(Phase::Ongoing)]);
        assert_eq!(state.onset(), WallMs(101 * 60_000), "where the run began");
        let phases = live(&mut state, 105, [-0.5; 12]);
        assert_eq!(phases[8], Some(Phase::Ongoing));
        assert_eq!(phases[9], Some(Phase::Ended));
        assert_eq!(phases[10], None);
    }

    #[test]
    fn wavering_is_one_deviation() {
        let mut state = DeviationState::new();
        live(&mut state, 0, [7.0]);
        let phases = live(&mut state, 1, [1.0, 7.0, 0.0, 0.0, 7.0, 1.0, 2.5, 0.0]);
        assert_eq!(phases, [Some(Phase::Ongoing); 8]);
    }

    #[test]
    fn strain_without_alarm_is_none() {
        let mut state = DeviationState::new();
        assert_eq!(live(&mut state, 0, [3.0, 5.0, 3.0, 1.0, 3.0]), [None; 5]);
    }

    #[test]
    fn an_alarm_under_some_strain_begins_one_downwards() {
        let mut state = DeviationState::new();
        let score = Score { combined: 0.8, strain: -2.5, ready: true, ..Score::default() };
        let course = state.step(&SETTINGS, WallMs(5), 0.0, &score, true).expect("an onset");
        assert_eq!(course, Course { phase: Phase::Onset, direction: Direction::Down, in_event: true });
    }

    #[test]
    fn warm_up_is_no_deviation() {
        let score = Score { combined: 1.0, strain: 9.0, ready: false, ..Score::default() };
        assert_eq!(DeviationState::new().step(&SETTINGS, WallMs(0), 0.0, &score, false), None);
    }

    #[test]
    fn a_clock_that_jumps_keeps_the_order_of_phases() {
        let mut state = DeviationState::new();
        live(&mut state, 1_000, [7.0]);
        assert_eq!(live(&mut state, 10, [7.0, 7.0]), [Some(Phase::Ongoing); 2]);
        assert_eq!(live(&mut state, i64::MAX / 60_000, [0.0]), [Some(Phase::Ended)]);
    }

    #[test]
    fn the_shape_is_the_last_eight_residuals() {
        let mut state = DeviationState::new();
        live(&mut state, 0, [9.0, 0.0, 0.0, 0.0, 0.0, -4.0, -8.0, -8.0, -8.0]);
        let samples = state.shape().to_samples();
        assert_eq!(samples[0], 0.0);
        assert!(samples[7] < -0.9);
    }
}
