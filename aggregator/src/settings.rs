//! The core's settings out of the config, the same for `run`, `replay`, `bench` and `explain`.
//! It must never decide a default that the core or the config decides. The hard case is a limit that both know: the config's holds.

use std::collections::BTreeMap;

use vedette_aggregator_core as core;

use crate::config::{AlarmOn, Config, Role};

impl Config {
    /// What the core is told.
    #[must_use]
    pub fn core_settings(&self) -> core::Settings {
        core::Settings {
            dimensions: core::Dimensions {
                region: self.dimensions.region.clone(),
                device: self.dimensions.device.clone(),
                stack: self.dimensions.stack.clone(),
            },
            metrics: self.core_metrics(),
            depends_on: self
                .stacks
                .iter()
                .map(|(name, stack)| (name.clone(), stack.depends_on.clone()))
                .collect(),
            limits: self.core_limits(),
            timing: core::Timing {
                lateness_ms: self.judge.lateness_ms.into(),
                silent_after_ms: i64::from(self.judge.silent_after_s) * 1_000,
                history_after_ms: i64::from(self.judge.history_after_s) * 1_000,
                ..core::Timing::default()
            },
            judgement: core::Judgement::default(),
            lifecycle: self.incidents.lifecycle(),
            maintenance_classes: self.calendar.maintenance_classes.clone(),
            pages_per_week: self
                .regions
                .iter()
                .filter_map(|(name, region)| Some((name.clone(), region.pages_per_week?)))
                .collect(),
        }
    }

    fn core_metrics(&self) -> BTreeMap<String, core::MetricSettings> {
        let metrics = self.metrics.iter();
        metrics
            .map(|(name, metric)| {
                let settings = core::MetricSettings {
                    role: core_role(metric.role),
                    alarm_on: core_alarm_on(metric.alarm_on()),
                };
                (name.clone(), settings)
            })
            .collect()
    }

    fn core_limits(&self) -> core::Limits {
        core::Limits {
            agents_max: count(self.limits.agents_max),
            regions_max: count(self.limits.regions_max),
            cells_per_region_max: count(self.limits.cells_per_region_max),
            series_per_region_max: count(self.limits.series_per_region_max),
            pending_windows_max: count(self.limits.pending_windows_max),
            ahead_deviations_max: count(self.limits.ahead_deviations_max),
            deviations_per_window_max: count(self.limits.deviations_per_window_max),
            incidents_max: count(self.limits.incidents_max),
            calendar_entries_max: count(self.limits.calendar_entries_max),
            ..core::Limits::default()
        }
    }
}

fn count(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

const fn core_role(role: Role) -> core::Role {
    match role {
        Role::Traffic => core::Role::Traffic,
        Role::Errors => core::Role::Errors,
        Role::Latency => core::Role::Latency,
        Role::Saturation => core::Role::Saturation,
    }
}

const fn core_alarm_on(alarm_on: AlarmOn) -> core::AlarmOn {
    match alarm_on {
        AlarmOn::Drop => core::AlarmOn::Drop,
        AlarmOn::Rise => core::AlarmOn::Rise,
        AlarmOn::Both => core::AlarmOn::Both,
    }
}
