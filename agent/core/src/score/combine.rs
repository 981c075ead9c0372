//! From three surprisals to one score, and the rest after an alarm.
//!
//! It must never change what a scorer said: the rest is a layer over the combination, and both are reported.
//! The hard case is a fault that lasts: it is one alarm, not one for each observation, unless it gets worse.

use super::approximate::ln;

/// The surprisal, in nats, that is worth 0.5.
const THRESHOLD: f32 = 6.7;
/// What the forecast and the derivative are worth against the distribution.
const WEIGHT: f32 = 0.9;
/// A surprisal counts while resting only if it is this many times the peak remembered.
const OVER_PEAK: f32 = 1.2;
/// Half-life of the remembered peak: this share of the age, in observations, within bounds.
const REST_SHARE: f32 = 0.1;
const REST_MIN: f32 = 60.0;
const REST_MAX: f32 = 400.0;
/// What the logarithm of recent alarms takes off a surprisal, in nats; the memory's half-life is 4000.
const FATIGUE: f32 = 0.4;
const FATIGUE_KEEP: f32 = 0.999_826_7;

/// The surprisals of one observation, in nats.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surprisals {
    pub(super) forecast: f32,
    pub(super) derivative: f32,
    pub(super) distribution: f32,
}

impl Surprisals {
    /// The most surprised scorer.
    pub(super) fn most(self) -> f32 {
        self.distribution.max(WEIGHT * self.forecast.max(self.derivative)).max(0.0)
    }
}

/// A surprisal as a score: 0.5 at the threshold, rising from 0 towards 1.
///
/// The odds grow with the fourth power, which spreads the range that matters, 3 to 12 nats, over 0.03 to 0.90.
#[inline]
pub(super) fn score(surprisal: f32) -> f32 {
    let odds = surprisal.max(0.0) * (1.0 / THRESHOLD);
    let odds = odds * odds * odds * odds;
    odds / (1.0 + odds)
}

/// The rest period: a peak that fades, and how many alarms there were of late.
#[repr(C)]
#[derive(Clone, Debug)]
pub(super) struct Rest {
    peak: f32,
    alarms: f32,
}

impl Rest {
    pub(super) const fn new() -> Self {
        Rest { peak: 0.0, alarms: 0.0 }
    }

    /// Lets one observation pass.
    pub(super) fn fade(&mut self, n: f32) {
        let half_life = (REST_SHARE * n).clamp(REST_MIN, REST_MAX);
        // 2^(-1/h) by its first terms; h is at least 60, so the error is below 1e-6.
        let u = core::f32::consts::LN_2 / half_life;
        self.peak *= 1.0 - u + 0.5 * u * u;
        self.alarms *= FATIGUE_KEEP;
    }

    /// What remains of a surprisal after rest and fatigue.
    pub(super) fn admit(&mut self, surprisal: f32) -> f32 {
        if surprisal <= OVER_PEAK * self.peak {
            return 0.0;
        }
        let admitted = (surprisal - FATIGUE * ln(1.0 + self.alarms)).max(0.0);
        self.peak = self.peak.max(surprisal);
        self.alarms += if surprisal > THRESHOLD { 1.0 } else { 0.0 };
        admitted
    }
}
