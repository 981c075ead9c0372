//! The keys about the life of incidents: its times, and which scheduled events are maintenance.
//!
//! Must never hold a constant of the judgement itself. The hard case is a time below the width of a window: windows are
//! the finest look there is, so a deviation needs two of them and an end four, whatever these keys say.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use vedette_aggregator_core::Lifecycle;

use super::{Problems, check_range, path};

/// Classes of maintenance that may be named.
const CLASSES_MAX: usize = 64;

/// Times in the life of an incident, in seconds of event time.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Incidents {
    /// How long a deviation has to last before it is told, 0 to 86,400; default 0. Two windows at least, but for what is
    /// too large for chance and for missing telemetry, where one is enough.
    pub hold_s: u32,
    /// How long no sign of it ends an incident, and four windows at least, 0 to 86,400; default 300. Doubled by each return.
    pub quiet_s: u32,
    /// How long after its end its return is the same incident, 0 to 604,800; default 7,200.
    pub flap_s: u32,
    /// How long an alarm waits for an announced event that has not shown itself, 0 to 86,400; default 0. It does not
    /// wait where errors are raised.
    pub wait_s: u32,
    /// How long what an event or maintenance held back is held back after its end, 0 to 604,800; default 7,200. What
    /// notifies by its own numbers does not wait.
    pub extension_s: u32,
    /// After how long an open incident is critical if it is a third or more, 60 to 604,800; default 1,800. Smaller ones
    /// after four times as long.
    pub worsens_after_s: u32,
    /// After how long an incident whose regions send no windows, or whose agent is silent, ends by itself, 3,600 to
    /// 31,536,000; default 604,800: the region or agent is no more.
    pub gone_s: u32,
}

impl Default for Incidents {
    fn default() -> Self {
        let core = Lifecycle::default();
        let seconds = |ms: i64| u32::try_from(ms / 1_000).unwrap_or(u32::MAX);
        Self {
            hold_s: seconds(core.hold_ms),
            quiet_s: seconds(core.quiet_ms),
            flap_s: seconds(core.flap_ms),
            wait_s: seconds(core.wait_ms),
            extension_s: seconds(core.extension_ms),
            worsens_after_s: seconds(core.worsens_after_ms),
            gone_s: seconds(core.gone_ms),
        }
    }
}

impl Incidents {
    /// What the core is told.
    pub(crate) fn lifecycle(&self) -> Lifecycle {
        let ms = |seconds: u32| i64::from(seconds) * 1_000;
        Lifecycle {
            hold_ms: ms(self.hold_s),
            quiet_ms: ms(self.quiet_s),
            flap_ms: ms(self.flap_s),
            wait_ms: ms(self.wait_s),
            extension_ms: ms(self.extension_s),
            worsens_after_ms: ms(self.worsens_after_s),
            gone_ms: ms(self.gone_s),
        }
    }

    pub(super) fn problems(&self, problems: &mut Problems) {
        let ranges = [
            ("hold_s", self.hold_s, 0, 86_400),
            ("quiet_s", self.quiet_s, 0, 86_400),
            ("flap_s", self.flap_s, 0, 604_800),
            ("wait_s", self.wait_s, 0, 86_400),
            ("extension_s", self.extension_s, 0, 604_800),
            ("worsens_after_s", self.worsens_after_s, 60, 604_800),
            ("gone_s", self.gone_s, 3_600, 31_536_000),
        ];
        for (key, value, least, most) in ranges {
            check_range(problems, &["incidents", key], u64::from(value), least, most);
        }
    }
}

/// What the classes of scheduled events mean.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Calendar {
    /// Classes (the first of CATEGORIES) during which nobody is notified of the regions that they name; default none.
    pub maintenance_classes: BTreeSet<String>,
}

impl Calendar {
    pub(super) fn problems(&self, problems: &mut Problems) {
        let key = || path(&["calendar", "maintenance_classes"]);
        if self.maintenance_classes.iter().any(String::is_empty) {
            let problem = "names an empty class, which no entry has: without CATEGORIES it is `event`";
            problems.push((key(), problem.into()));
        }
        if self.maintenance_classes.len() > CLASSES_MAX {
            problems
                .push((key(), format!("{} classes: at most {CLASSES_MAX}", self.maintenance_classes.len())));
        }
    }
}
