//! What people and notifiers get: one object for every state that an incident enters, in the field order of the NDJSON.
//!
//! It must never decide anything; it says what was decided. The hard case is a sentence that stays readable for any
//! scope, from one cell to the whole fleet: [`summarise`] writes it.
use serde::{Deserialize, Serialize};

use crate::evidence::{Direction, Evidence, MissingEvidence};
use crate::instant::Instant;

/// The state that an incident has entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IncidentState {
    /// People are notified.
    Open,
    /// Held back; the evidence says why.
    Suppressed,
    /// Over.
    Resolved,
}

/// What sort of trouble it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The application's numbers deviate.
    Malfunction,
    /// Data is missing, or an agent is silent.
    Telemetry,
}

/// How urgent it is: from the size and breadth of the deviation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// For the record.
    Info,
    /// Someone should look at it.
    Warning,
    /// Someone should look at it now.
    Critical,
}

/// What the judgement says an incident is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The application is broken.
    Malfunction,
    /// An event that stands in the calendar.
    ScheduledEvent,
    /// An event outside the application that no calendar announced, inferred from the common mode.
    ExternalEvent,
    /// The data is at fault, not the application.
    DataFault,
    /// There is not enough to tell.
    Undecided,
}

macro_rules! name_variants {
    ($name:ident, $($variant:ident => $text:literal),+) => {
        impl $name {
            /// The name as it stands in alarms.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}
name_variants!(IncidentState, Open => "open", Suppressed => "suppressed", Resolved => "resolved");
name_variants!(Kind, Malfunction => "malfunction", Telemetry => "telemetry");
name_variants!(Severity, Info => "info", Warning => "warning", Critical => "critical");
name_variants!(Verdict, Malfunction => "malfunction", ScheduledEvent => "scheduled_event",
    ExternalEvent => "external_event", DataFault => "data_fault", Undecided => "undecided");

/// Which cells an incident covers: the product of three sorted lists of names. An empty list means all.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Scope {
    /// Regions.
    pub region: Vec<String>,
    /// Device families.
    pub device: Vec<String>,
    /// Stacks.
    pub stack: Vec<String>,
}

/// One series of an incident, the worst first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlarmSeries {
    /// The measurement, with `.field` unless the field is `value`.
    pub measurement: String,
    /// Its tags, the dimensions included, by key.
    pub tags: std::collections::BTreeMap<String, String>,
    /// Observed sum over the window.
    pub observed: f64,
    /// Expected sum over the window.
    pub expected: f64,
    /// Combined score in `[0,1]`; 0 where the series did not deviate by itself and only the pooled cells did.
    pub score: f64,
}

/// Keeps the `most` series that differ most from what was expected of them, the worst first.
pub(crate) fn keep_worst(series: &mut Vec<AlarmSeries>, most: usize) {
    let size = |it: &AlarmSeries| (it.observed - it.expected).abs();
    series.sort_by(|a, b| size(b).total_cmp(&size(a)).then_with(|| a.tags.cmp(&b.tags)));
    series.truncate(most);
}

/// An incident that has entered a state: the object of the alarm file and of webhooks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// Stable for the life of the incident: 26 characters, ordered by `started_at`.
    pub id: String,
    /// The state entered.
    pub state: IncidentState,
    /// The sort of trouble.
    pub kind: Kind,
    /// Event time at which the state was entered.
    pub at: Instant,
    /// Event time at which the deviation began.
    pub started_at: Instant,
    /// How urgent.
    pub severity: Severity,
    /// What it is.
    pub verdict: Verdict,
    /// Which cells.
    pub scope: Scope,
    /// One sentence for people.
    pub summary: String,
    /// What brought it into the state, where that is not the first finding: a rise of severity, a return, the end of what
    /// held it back.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub change: Option<String>,
    /// Whether it was open before, and only its severity rose.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub rises: bool,
    /// How often it came back after it had ended.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub returns: u32,
    /// The incident whose scope it once was a part of.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub split_from: Option<String>,
    /// The numbers that decided it and what would have changed it.
    pub evidence: Evidence,
    /// The series involved, the worst first; bounded by `series_per_alarm_max`.
    pub series: Vec<AlarmSeries>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
const fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Alarm {
    /// Whether it opens an incident: what is told again of an open one is its severity.
    pub fn opens(&self) -> bool {
        self.state == IncidentState::Open && !self.rises
    }
}

/// Names as people list them: `a`, `a and b`, `a, b and c`; past five, the rest is counted.
pub fn list(names: &[String]) -> String {
    const SHOWN: usize = 5;
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [head @ .., last] if names.len() <= SHOWN => format!("{} and {last}", head.join(", ")),
        _ => format!("{} and {} more", names[..SHOWN - 1].join(", "), names.len() - SHOWN + 1),
    }
}

impl Scope {
    /// The scope as people say it: `playback and browse on tv-lg in uk`; an empty dimension is "all".
    pub fn describe(&self) -> String {
        let stack = if self.stack.is_empty() { "all stacks".into() } else { list(&self.stack) };
        let device =
            if self.device.is_empty() { String::new() } else { format!(" on {}", list(&self.device)) };
        let region = if self.region.is_empty() { "all regions".into() } else { list(&self.region) };
        format!("{stack}{device} in {region}")
    }

    /// What a reader would compare with: the dimension in which the scope is narrow.
    fn describe_others(&self, peers: usize) -> &'static str {
        match (self.device.is_empty(), self.stack.is_empty()) {
            _ if peers == 0 => "there are no peers to compare with",
            (false, true) => "other devices are not",
            (false, false) if self.stack.len() > 1 => "other devices are not",
            (false, false) => "its peers are not",
            (true, false) => "other stacks are not",
            (true, true) => "all stacks there share it",
        }
    }
}

/// The sentence of an alarm, as in `playback and browse on tv-lg in uk are 62% below expectation; other devices are not`.
pub fn summarise(scope: &Scope, evidence: &Evidence) -> String {
    if let Some(missing) = &evidence.missing {
        return summarise_missing(scope, missing);
    }
    let times = evidence.log_ratio.exp();
    let size = match evidence.direction {
        Direction::Rise if times >= 4.0 => format!("{times:.1} times the expectation"),
        Direction::Rise => format!("{:.0}% above expectation", (times - 1.0).max(0.0) * 100.0),
        Direction::Drop => format!("{:.0}% below expectation", (1.0 - times).max(0.0) * 100.0),
    };
    let others = scope.describe_others(evidence.peers.len());
    if evidence.metric_is_traffic {
        let verb = if scope.stack.len() == 1 { "is" } else { "are" };
        return format!("{} {verb} {size}; {others}", scope.describe());
    }
    format!("{} of {} is {size}; {others}", evidence.metric, scope.describe())
}

fn summarise_missing(scope: &Scope, missing: &MissingEvidence) -> String {
    let region = if scope.region.is_empty() { "all regions".into() } else { list(&scope.region) };
    match missing.cells {
        0 => format!("agent {} is silent; {region} is not watched by it", missing.agent),
        1 => format!("{} sends no data; agent {} reported it last", scope.describe(), missing.agent),
        n => format!(
            "{} send no data ({n} cells); agent {} reported them last",
            scope.describe(),
            missing.agent
        ),
    }
}
