//! The smallest use of the core: one series, one value, one score.
//!
//! It must never hold more than the state of a series. The hard case is a board of 16 KiB without floating point
//! hardware, on which the bits have to be the same as anywhere.

use vedette_agent_core::batch::{self, Observation};
use vedette_agent_core::deviation::{DeviationSettings, DeviationState, Interest};
use vedette_agent_core::score::{Learning, Moment, Score, SeriesState};

use crate::digest::Digest;
use crate::recording;

/// What a firmware keeps for each series.
pub(crate) const SERIES_BYTES: usize = size_of::<SeriesState>() + size_of::<DeviationState>();

/// What came of a recording.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scores {
    pub(crate) digest: u64,
    pub(crate) observations: u32,
}

pub(crate) fn of_recording() -> Scores {
    let (mut digest, mut observations) = (Digest::new(), 0);
    let settings = DeviationSettings::default();
    for series in recording::ALL {
        let mut state = SeriesState::new(series as u32 + 1);
        let mut deviation = DeviationState::new(Interest::Both);
        for (at, value) in (0..recording::LENGTH).filter_map(|place| series.observation(place)) {
            let (state, week) = state.parts();
            let one = Observation {
                state,
                week,
                deviation: &mut deviation,
                moment: Moment::new(at, 3_600),
                value,
                learning: Learning::Normal,
                in_event: false,
            };
            let outcome = batch::observe_one(&settings, one);
            let (score, course) = (outcome.scores.score(0), outcome.courses[0]);
            add(&mut digest, &score);
            digest.bytes(&[u8::from(score.ready), course.map_or(u8::MAX, |course| course.phase as u8)]);
            observations += 1;
        }
    }
    Scores { digest: digest.value(), observations }
}

fn add(digest: &mut Digest, score: &Score) {
    let parts = [
        score.combined,
        score.surprise,
        score.strain,
        score.expected,
        score.usual,
        score.next,
        score.band,
        score.forecast,
        score.derivative,
        score.distribution,
    ];
    for part in parts {
        digest.float(part);
    }
}
