//! The rest after an alarm: from how odd an observation is to how much attention it deserves now.
//!
//! It must never change what the scorers said: it is a layer over them, kept by whoever raises alarms, and its
//! length is a setting. The hard case is a fault that lasts: it is one alarm, not one for each observation,
//! unless it gets worse.
//!
//! All of it is in time. The peak of the last alarm fades with a half-life that is a share of the age of the
//! series, for a series that was watched for an hour has shown little of what is usual and one that was watched
//! for months has shown its weeks. Alarms of late calibrate each series: one that raises many needs more for the
//! next.

use vedette_common::WallMs;

use super::Score;
use super::approximate::ln;
use super::cadence::{Stamp, tenths};
use super::combine::{THRESHOLD, score as score_of};

/// A surprisal counts while resting only if it is this many times the peak remembered.
const OVER_PEAK: f32 = 1.2;
/// What the logarithm of recent alarms takes off a surprisal, in nats.
const FATIGUE: f32 = 0.6;

/// For how long an alarm quiets the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RestSettings {
    /// Half-life of the remembered peak as a share of the age of the series, 0 to 1; default 0.12.
    pub share: f32,
    /// The least half-life of the peak, in milliseconds of event time; default 5 h.
    pub least_ms: u32,
    /// The greatest, at least `least_ms`; default 200 h.
    pub most_ms: u32,
    /// Half-life of the memory of alarms, in milliseconds of event time, at least 1; default 30 days.
    pub fatigue_ms: u32,
}

impl Default for RestSettings {
    fn default() -> Self {
        RestSettings { share: 0.12, least_ms: 18_000_000, most_ms: 720_000_000, fatigue_ms: 2_592_000_000 }
    }
}

/// What a series remembers of its alarms; 16 bytes.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct Rest {
    last: Stamp,
    age_s: f32,
    /// The greatest surprisal of late, in nats, fading.
    peak: f32,
    /// How many alarms there were of late, fading.
    alarms: f32,
}

impl Rest {
    /// A series that raised no alarm.
    pub const fn new() -> Self {
        Rest { last: Stamp::new(), age_s: -1.0, peak: 0.0, alarms: 0.0 }
    }

    /// How much attention an observation deserves after what was said before: `[0, 1]`, 0.5 is the shipped
    /// threshold; 0 during warm-up and while at rest. To be called for each observation of the series, in order.
    pub fn admit(&mut self, settings: &RestSettings, at: WallMs, score: &Score) -> f32 {
        self.fade(settings, at);
        let surprisal = score.surprise * core::f32::consts::LN_10;
        if !score.ready || surprisal <= OVER_PEAK * self.peak {
            return 0.0;
        }
        let admitted = surprisal - FATIGUE * ln(1.0 + self.alarms);
        self.peak = self.peak.max(surprisal);
        self.alarms += if surprisal > THRESHOLD { 1.0 } else { 0.0 };
        score_of(admitted)
    }

    fn fade(&mut self, settings: &RestSettings, at: WallMs) {
        let passed_s = self.last.advance(tenths(at.0));
        let begun = self.age_s >= 0.0;
        self.age_s = if begun { self.age_s + passed_s } else { 0.0 };
        let (least_s, most_s) = (0.001 * settings.least_ms as f32, 0.001 * settings.most_ms as f32);
        let half_life_s = (settings.share * self.age_s).min(most_s).max(least_s);
        self.peak *= kept(passed_s, half_life_s);
        self.alarms *= kept(passed_s, 0.001 * settings.fatigue_ms as f32);
    }
}

impl Default for Rest {
    fn default() -> Self {
        Rest::new()
    }
}

/// `2^(-passed/half_life)` by the first terms of the exponential below the line: within 1 % down to a quarter, and
/// never more than one, whatever the gap.
fn kept(passed_s: f32, half_life_s: f32) -> f32 {
    let u = core::f32::consts::LN_2 * passed_s / half_life_s.max(0.001);
    1.0 / (1.0 + u + 0.5 * u * u)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    /// A score of this many nats.
    fn nats(surprisal: f32) -> Score {
        Score { surprise: surprisal * core::f32::consts::LOG10_E, ready: true, ..Score::default() }
    }

    /// A week of quiet, an observation every five minutes.
    fn watched() -> (Rest, i64) {
        let (mut rest, mut at_ms) = (Rest::new(), 0);
        while at_ms < 168 * HOUR_MS {
            rest.admit(&RestSettings::default(), WallMs(at_ms), &nats(1.0));
            at_ms += 300_000;
        }
        (rest, at_ms)
    }

    fn admit(rest: &mut Rest, at_ms: i64, surprisal: f32) -> f32 {
        rest.admit(&RestSettings::default(), WallMs(at_ms), &nats(surprisal))
    }

    #[test]
    fn a_lasting_fault_is_one_alarm_unless_it_gets_worse() {
        let (mut rest, at_ms) = watched();
        assert!(admit(&mut rest, at_ms, 8.0) > 0.5);
        for step in 1..12 {
            assert_eq!(admit(&mut rest, at_ms + step * 300_000, 8.0), 0.0);
        }
        assert!(admit(&mut rest, at_ms + HOUR_MS, 10.0) > 0.5);
    }

    #[test]
    fn it_is_over_after_a_time_however_many_observations() {
        for step_ms in [60_000, 300_000, HOUR_MS] {
            let (mut rest, mut at_ms) = watched();
            let end_ms = at_ms + 12 * HOUR_MS;
            assert!(admit(&mut rest, at_ms, 8.0) > 0.5);
            while at_ms < end_ms {
                at_ms += step_ms;
                admit(&mut rest, at_ms, 0.0);
            }
            assert!(admit(&mut rest, at_ms + 1, 8.0) > 0.5, "every {step_ms} ms");
        }
    }

    #[test]
    fn many_alarms_ask_for_more() {
        let (mut rest, mut at_ms) = watched();
        let first = admit(&mut rest, at_ms, 8.0);
        for _ in 0..10 {
            at_ms += 40 * HOUR_MS;
            admit(&mut rest, at_ms, 8.0);
        }
        let last = admit(&mut rest, at_ms + 40 * HOUR_MS, 8.0);
        assert!(last > 0.0 && last < first, "{first} and then {last}");
    }

    #[test]
    fn odd_clocks_neither_freeze_nor_break_it() {
        let (mut rest, at_ms) = watched();
        admit(&mut rest, at_ms, 12.0);
        for odd in [i64::MIN, i64::MAX, 0, -1, at_ms] {
            let score = admit(&mut rest, odd, 5.0);
            assert!((0.0..=1.0).contains(&score));
        }
        for day in 1..40 {
            admit(&mut rest, at_ms + day * 24 * HOUR_MS, 0.0);
        }
        assert!(admit(&mut rest, at_ms + 41 * 24 * HOUR_MS, 9.0) > 0.5);
    }

    #[test]
    fn warm_up_raises_nothing() {
        let early = Score { ready: false, ..nats(12.0) };
        assert_eq!(Rest::new().admit(&RestSettings::default(), WallMs(0), &early), 0.0);
    }
}
