//! What the settings say of a metric: which deviations matter, and whether its values are those of a counter.
//!
//! It must never be asked for each observation: a series is told once, when it begins. The hard case is a name that
//! several rules fit: the first one counts, so that an exception stands before the pattern it is taken from.
use vedette_common::limits::METRIC_BYTES_MAX;

use crate::deviation::Interest;

/// Rules that one agent can have. About 140 bytes each.
pub const METRIC_RULES_MAX: usize = 32;

/// What holds for the metrics that a pattern fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricRule {
    /// A measurement, all its fields included; a metric, `measurement.field`; or the beginning of one, with `*` as its end.
    pub pattern: heapless::String<METRIC_BYTES_MAX>,
    /// Which deviations of it are sent; default both.
    pub interest: Interest,
    /// Whether its values only grow until the process that counts begins anew; its rate a second is then scored.
    /// Default `None`: what only grows from its first value on is found to be a counter after some 40 values, and with
    /// `Some(false)` never is. StatsD's counters are differences already.
    pub counter: Option<bool>,
}

/// The rules, the first one that fits counts.
pub type MetricRules = heapless::Vec<MetricRule, METRIC_RULES_MAX>;

impl MetricRule {
    /// Whether it holds for `metric`.
    pub fn fits(&self, metric: &str) -> bool {
        match self.pattern.strip_suffix('*') {
            Some(beginning) => metric.starts_with(beginning),
            None => metric
                .strip_prefix(self.pattern.as_str())
                .is_some_and(|rest| matches!(rest.bytes().next(), None | Some(b'.'))),
        }
    }
}

/// The interest in `metric`, and whether it is a counter, if that is known.
pub(crate) fn look_up(rules: &MetricRules, metric: &str) -> (Interest, Option<bool>) {
    let rule = rules.iter().find(|rule| rule.fits(metric));
    rule.map_or((Interest::Both, None), |rule| (rule.interest, rule.counter))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, metric: &str) -> bool {
        let pattern = heapless::String::try_from(pattern).expect("short");
        MetricRule { pattern, interest: Interest::Both, counter: None }.fits(metric)
    }

    #[test]
    fn a_measurement_its_fields_and_beginnings() {
        assert!(fits("http", "http") && fits("http", "http.count") && fits("http.count", "http.count"));
        assert!(!fits("http", "https") && !fits("http.count", "http"));
        assert!(fits("net*", "network.bytes") && fits("*", "anything") && !fits("net*", "ne"));
    }
}
