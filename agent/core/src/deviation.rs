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
    /// A deviation begins at this anomaly score, `[0, 1]`; default 0.5.
    pub anomaly_onset: f32,
    /// Or when recent errors are on average this many usual errors, at least 0; default 2.
    pub strain_onset: f32,
    /// It lasts while they are above this, at least 0, less than `strain_onset`; default 1.
    pub strain_ongoing: f32,
    /// It ends after this time without a sign of it, in milliseconds of event time; default 600,000.
    pub calm_ms: i64,
}

impl Default for DeviationSettings {
    fn default() -> Self {
        DeviationSettings { anomaly_onset: 0.5, strain_onset: 6.0, strain_ongoing: 2.0, calm_ms: 600_000 }
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
            strain >= settings.strain_onset || (strained && score.anomaly >= settings.anomaly_onset);
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
