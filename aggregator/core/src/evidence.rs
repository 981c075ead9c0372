//! The numbers that decided an incident, in a fixed field order, with what would have changed the decision.
//!
//! It must never hold a number that was not used. The hard case is a floating point value that cannot be written as
//! JSON: every value that enters here is finite, and serialising is rounded to six digits so that texts stay short.
use serde::{Deserialize, Serialize};

use crate::basis::Grounds;

/// Which way the numbers went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Below the expectation.
    Drop,
    /// Above it.
    Rise,
}

impl Direction {
    /// -1 for a drop, 1 for a rise: what a log ratio is multiplied with to become a size.
    pub const fn sign(self) -> f64 {
        match self {
            Self::Drop => -1.0,
            Self::Rise => 1.0,
        }
    }

    /// The direction of a log ratio.
    pub fn of(log_ratio: f64) -> Self {
        if log_ratio < 0.0 { Self::Drop } else { Self::Rise }
    }

    /// The name in alarms.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Rise => "rise",
        }
    }
}

/// Errors as counter-evidence: what happened to errors per unit of traffic, inside the scope and outside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorEvidence {
    /// The metric.
    pub metric: String,
    /// Log ratio of the errors per traffic inside the scope to their expectation.
    #[serde(with = "rounded")]
    pub inside: f64,
    /// The same over the rest of the region; 0 when there is no rest.
    #[serde(with = "rounded")]
    pub outside: f64,
    /// How many standard deviations the inside lies above the outside.
    #[serde(with = "rounded")]
    pub significance: f64,
    /// The log ratio above the outside from which it counts as raised.
    #[serde(with = "rounded")]
    pub threshold: f64,
    /// Whether it counts as raised.
    pub raised: bool,
}

/// What data is missing, for incidents of kind telemetry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingEvidence {
    /// The agent that is silent or that last reported the missing cells.
    pub agent: String,
    /// When it was last heard, by the aggregator's clock, or the last window that had data.
    pub last_seen_at: crate::instant::Instant,
    /// How many cells are missing.
    pub cells: usize,
}

/// What holds a finding back besides its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuppressorKind {
    /// A scheduled event.
    Event,
    /// A scheduled maintenance.
    Maintenance,
    /// An operator's silence.
    Silence,
    /// It came so late that it says how things were, and not how they are.
    History,
}

/// What held a finding back, and for how long it may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suppressor {
    /// The sort.
    pub kind: SuppressorKind,
    /// Its name, as the calendar or the operator gives it.
    pub name: String,
    /// When it no longer holds, as far as that is known; in an extension, the extension's end.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until: Option<crate::instant::Instant>,
}

/// How much more than usual the judgement asked of the region.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SensitivityEvidence {
    /// The factor on the standard deviations asked for.
    #[serde(with = "rounded")]
    pub factor: f64,
    /// The region's target.
    #[serde(with = "rounded")]
    pub pages_per_week: f64,
}

/// Why an incident was judged as it was. Log ratios are natural logarithms of observed/expected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The metric that shows it best; empty for telemetry.
    pub metric: String,
    /// Whether that metric has the role of traffic.
    pub metric_is_traffic: bool,
    /// Which way it went.
    pub direction: Direction,
    /// Observed sum over the scope in the window judged.
    #[serde(with = "rounded")]
    pub observed: f64,
    /// Expected sum over the scope in the window judged.
    #[serde(with = "rounded")]
    pub expected: f64,
    /// ln(observed/expected) of the scope.
    #[serde(with = "rounded")]
    pub log_ratio: f64,
    /// What independent stacks of the region share; 0 when there are none.
    #[serde(with = "rounded")]
    pub common_mode: f64,
    /// What is left over of the log ratio once the common mode is taken off.
    #[serde(with = "rounded")]
    pub residual: f64,
    /// The size up to which a residual is put down to the unevenness of events and to noise.
    #[serde(with = "rounded")]
    pub tolerance: f64,
    /// The residual in standard deviations of its noise.
    #[serde(with = "rounded")]
    pub significance: f64,
    /// The significance from which the scope counts as deviating.
    #[serde(with = "rounded")]
    pub significance_threshold: f64,
    /// The independent stacks compared with; dependent ones are joined by `+` and count once.
    pub peers: Vec<String>,
    /// Judged windows that it has held for.
    pub windows: u32,
    /// Errors inside against outside; none when no metric has the role of errors.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub errors: Option<ErrorEvidence>,
    /// Latency inside, beyond what peers share; none when it is not measured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub latency: Option<ErrorEvidence>,
    /// How far most of the independent stacks have moved, in whatever direction, as a log ratio.
    #[serde(with = "rounded", default)]
    pub disturbance: f64,
    /// What the independent stacks of the region share in their traffic; only where a whole region is judged.
    #[serde(with = "rounded", default)]
    pub traffic: f64,
    /// Log odds that what all stacks of the region share fails, against an event: a failure leaves every cell alike, an
    /// event acts unevenly. Only where a whole region is judged and errors are not measured.
    #[serde(with = "rounded", default)]
    pub evenness: f64,
    /// Cosine similarity of the leftover's latest windows to how far its peers moved in them: near 1 for what began with
    /// an event.
    #[serde(with = "rounded", default)]
    pub synchrony: f64,
    /// Whether the leftover is well below what it was: a trend that broke and turned back.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub recovering: bool,
    /// The calendar entries that covered the region and time.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub calendar: Vec<String>,
    /// Whether an event that was told of one of its regions is not over.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub event_is_live: bool,
    /// The highest combined score among the series of the scope; 0 when none deviated by itself.
    #[serde(with = "rounded")]
    pub score: f64,
    /// What is missing; only for telemetry.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub missing: Option<MissingEvidence>,
    /// What holds it back besides its numbers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub suppressor: Option<Suppressor>,
    /// What the region's target of pages asked; none without a target.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sensitivity: Option<SensitivityEvidence>,
    /// What it was ruled from, on its way to the basis of the decision.
    #[serde(skip)]
    pub(crate) grounds: Option<Box<Grounds>>,
    /// The deciding reason in words.
    pub reason: String,
    /// What would have changed the decision.
    pub counterfactual: String,
}

impl Evidence {
    /// No numbers yet: every one zero, every text empty.
    pub(crate) const fn nothing(direction: Direction) -> Self {
        Self {
            metric: String::new(),
            metric_is_traffic: false,
            direction,
            observed: 0.0,
            expected: 0.0,
            log_ratio: 0.0,
            common_mode: 0.0,
            residual: 0.0,
            tolerance: 0.0,
            significance: 0.0,
            significance_threshold: 0.0,
            peers: Vec::new(),
            windows: 0,
            errors: None,
            latency: None,
            disturbance: 0.0,
            traffic: 0.0,
            evenness: 0.0,
            synchrony: 0.0,
            recovering: false,
            calendar: Vec::new(),
            event_is_live: false,
            score: 0.0,
            missing: None,
            suppressor: None,
            sensitivity: None,
            grounds: None,
            reason: String::new(),
            counterfactual: String::new(),
        }
    }

    /// With every number as it will be written, so that what is decided can be decided again from what was written.
    pub(crate) fn settled(mut self) -> Self {
        for number in [
            &mut self.observed,
            &mut self.expected,
            &mut self.log_ratio,
            &mut self.common_mode,
            &mut self.residual,
            &mut self.tolerance,
            &mut self.significance,
            &mut self.significance_threshold,
            &mut self.score,
            &mut self.disturbance,
            &mut self.traffic,
            &mut self.evenness,
            &mut self.synchrony,
        ] {
            *number = round(*number);
        }
        for sign in self.errors.iter_mut().chain(&mut self.latency) {
            for number in [&mut sign.inside, &mut sign.outside, &mut sign.significance, &mut sign.threshold] {
                *number = round(*number);
            }
        }
        if let Some(sensitivity) = &mut self.sensitivity {
            sensitivity.factor = round(sensitivity.factor);
            sensitivity.pages_per_week = round(sensitivity.pages_per_week);
        }
        self
    }

    /// The same with errors and latency as they usually are, where they are measured.
    pub(crate) fn without_signs(mut self) -> Self {
        for sign in self.errors.iter_mut().chain(&mut self.latency) {
            sign.raised = false;
        }
        self
    }
}

/// From here on a number is left as it is: its millionths have no bits to be exact in, and rounding twice would not be rounding
/// once.
const ROUNDED_MAX: f64 = 2_147_483_648.0;

/// A number as it is written: six digits after the point; zero in place of what is not finite.
pub(crate) fn round(value: f64) -> f64 {
    if !value.is_finite() {
        return 0.0;
    }
    // Adding zero turns a negative zero into a plain one, so that equal values have equal bytes.
    if value.abs() < ROUNDED_MAX { (value * 1e6).round() / 1e6 + 0.0 } else { value }
}

/// Serialises with six digits after the point: enough to re-derive a decision, short enough to read.
pub(crate) mod rounded {
    use serde::{Deserialize, Deserializer, Serializer};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
    pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(super::round(*value))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        f64::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_twice_is_rounding_once_however_large_the_number() {
        let mut dice = 7_u64;
        for exponent in 0..400 {
            for _ in 0..2_000 {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let value =
                    1.1_f64.powi(exponent - 100) * (1.0 + (dice >> 40) as f64 / f64::from(1_u32 << 24));
                let once = round(value);
                assert_eq!(round(once).to_bits(), once.to_bits(), "{value}");
            }
        }
        assert_eq!(round(f64::NAN), 0.0);
    }

    #[test]
    fn what_is_settled_is_what_comes_back_from_what_was_written() {
        let third = 1.0 / 3.0;
        let sign = ErrorEvidence {
            metric: "errors".into(),
            inside: third,
            outside: third,
            significance: third,
            threshold: third,
            raised: true,
        };
        let evidence = Evidence {
            observed: third,
            expected: third,
            log_ratio: third,
            common_mode: third,
            residual: third,
            tolerance: third,
            significance: third,
            significance_threshold: third,
            errors: Some(sign.clone()),
            latency: Some(sign),
            disturbance: third,
            traffic: third,
            evenness: third,
            synchrony: third,
            score: third,
            sensitivity: Some(SensitivityEvidence { factor: third, pages_per_week: third }),
            ..Evidence::nothing(Direction::Rise)
        };
        let written = serde_json::to_string(&evidence).unwrap();
        assert_eq!(serde_json::from_str::<Evidence>(&written).unwrap(), evidence.settled());
    }
}
