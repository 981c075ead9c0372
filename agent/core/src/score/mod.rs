//! Scoring: from one value of one series to how odd it is and what was expected.
//!
//! One state per series, fixed in size, one update per observation, no heap. It must never see a clock, a
//! random source or a libm of the platform: the same observations give the same bits on every target. The
//! hard case is a lasting fault: the forecast has to stay where the truth would be for hours, and yet learn
//! a lasting change of level within a day.
//!
//! | file | answers |
//! |---|---|
//! | `state` | what one series remembers and how one observation passes through it |
//! | `forecast`, `season`, `week`, `cadence` | what was expected now, and how far off such forecasts usually are |
//! | `echo` | what the last errors foretell of the next value, and the band around it |
//! | `strain` | whether the recent errors are a fault, and how fast to learn meanwhile |
//! | `derivative` | is the slow trend bending |
//! | `histogram`, `morris` | has this number been seen before: the value itself, the error of its forecast, the bend |
//! | `spread` | are the errors larger than they used to be |
//! | `flat_line`, `vanish`, `rhythm` | does the value stand still, are there only zeros, does nothing come |
//! | `combine` | one number from three |
//! | `standing` | how bad it is, however long it has lasted |
//! | `rest` | how much attention that deserves after the last alarm |
//! | `kernel`, `words` | how several series are scored at once |
//! | `approximate` | arithmetic that is the same everywhere |

mod approximate;
mod cadence;
mod combine;
mod derivative;
mod echo;
mod flat_line;
mod forecast;
mod histogram;
mod kernel;
mod morris;
mod rest;
mod rhythm;
mod season;
mod spread;
mod standing;
mod state;
mod strain;
#[cfg(test)]
mod tests;
pub(crate) mod transpose;
mod vanish;
mod week;
pub(crate) mod words;

use vedette_common::WallMs;
pub use vedette_common::wire::Direction;

pub(crate) use approximate::choose;
pub(crate) use flat_line::{FlatLine, print};
pub use kernel::Scores;
pub(crate) use kernel::{Observed, step};
pub use rest::{Rest, RestSettings};
pub(crate) use rhythm::{Beat, Gap, Rhythm};
pub(crate) use spread::Spread;
pub use standing::Standing;
pub use state::{SERIES_STATE_BYTES_MAX, Scorers, SeriesState, VALUE_MAX, WARM_UP_OBSERVATIONS};
pub(crate) use vanish::Vanish;
pub use week::{WEEK, Week};

/// When an observation happened, in the two ways that scoring needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Event time.
    pub at: WallMs,
    /// Seconds of Unix time plus the region's UTC offset at that moment: seasons follow the wall clock of
    /// the people whose behaviour makes them.
    pub local_s: i64,
}

impl Moment {
    /// A moment in a region whose clock is `offset_s` seconds ahead of UTC.
    pub const fn new(at: WallMs, offset_s: i32) -> Self {
        Moment { at, local_s: at.0.div_euclid(1000).saturating_add(offset_s as i64) }
    }
}

/// Whether the forecast may learn from an observation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Learning {
    /// An ordinary time.
    #[default]
    Normal,
    /// Inside a scheduled event: level and seasons rest, so that the event does not become the expectation.
    SeasonRests,
}

/// What the scorers say of one observation.
///
/// Whether the series is abnormal right now, however long that has lasted. A stream of alarms, in which a fault
/// raises one and then rests, is made of it by [`Rest`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// What the scorers say together, without rest periods: `[0, 1]`, 0.5 is the shipped threshold; 0 during
    /// warm-up.
    pub combined: f32,
    /// -log10 of the probability of something at least as odd, by the most surprised scorer, without rest
    /// periods: about `[0, 7]`; 0 during warm-up.
    pub surprise: f32,
    /// Mean of recent errors against its usual size, signed: beyond about 3 the series is abnormal and stays so
    /// until it returns or its new level is learned; 0 during warm-up.
    pub strain: f32,
    /// What this observation should be if nothing is wrong, said before it was seen, in the units of the series.
    /// It stays where it is during a fault, for hours.
    pub expected: f32,
    /// The usual (mean absolute) error of such a forecast, in the units of the series; above 0 once a value came.
    pub usual: f32,
    /// The best forecast of this one observation, made before it was seen, in the units of the series: the
    /// expectation and what returns of its last errors. It follows a fault at once.
    pub next: f32,
    /// Half of a band around `next`, at least 0, in the units of the series, that holds nine values of ten.
    pub band: f32,
    /// Warm-up is over: the fields above may be used.
    pub ready: bool,
    /// The forecast scorer alone, `[0, 1]`.
    pub forecast: f32,
    /// The derivative scorer alone, `[0, 1]`.
    pub derivative: f32,
    /// The distribution scorer alone, `[0, 1]`.
    pub distribution: f32,
    /// The side of the forecast.
    pub direction: Direction,
}
