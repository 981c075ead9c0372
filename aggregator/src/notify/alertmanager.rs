//! Alertmanager: alarms as alerts of its API v2, sent again while they are open because it forgets what it is not told again.
//! It must never claim that an alarm ended that did not. The hard case is an alarm that gets worse or moves while it is open: Alertmanager knows an
//! alert by its labels, so these stay as they were when the incident first opened, and what holds now stands in the annotations.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use vedette_aggregator_core::{IncidentState, Instant, Kind, Scope, Severity};
use vedette_common::WallMs;

use super::{Failure, http_agent, judge_status};
use crate::config::Alertmanager;
use crate::enroll::unix_ms;
use crate::limits::ALERTMANAGER_BELIEF;

/// One Alertmanager.
#[derive(Debug)]
pub struct AlertmanagerNotifier {
    name: String,
    url: String,
    labels: BTreeMap<String, String>,
    agent: ureq::Agent,
}

/// What is read of an alarm object; the rest may be of an older version of this program.
#[derive(Debug, Deserialize)]
struct Head {
    id: String,
    state: IncidentState,
    kind: Kind,
    at: Instant,
    started_at: Instant,
    severity: Severity,
    scope: Scope,
    summary: String,
}

/// An alert as the API takes it.
#[derive(Debug, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Alert {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<&'static str, String>,
    starts_at: Instant,
    ends_at: Instant,
}

impl AlertmanagerNotifier {
    /// The Alertmanager `name` of the config.
    #[must_use]
    pub fn new(name: &str, alertmanager: &Alertmanager) -> Self {
        Self {
            name: format!("alertmanager.{name}"),
            url: format!("{}/api/v2/alerts", alertmanager.url.trim_end_matches('/')),
            labels: alertmanager.labels.clone(),
            agent: http_agent(Duration::from_secs(alertmanager.timeout_s.into())),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Posts alarm objects as alerts, in one request; beside each its incident's first open state, if there is one.
    pub(super) fn send<'b>(
        &self,
        alarms: impl IntoIterator<Item = (&'b str, Option<&'b str>)>,
    ) -> Result<(), Failure> {
        let now_ms = unix_ms(SystemTime::now());
        let alert = |(body, opened): (&str, Option<&str>)| {
            let alarm: Head = serde_json::from_str(body)?;
            // One of an older program that cannot be read any more is as good as none.
            let opened: Option<Head> = opened.and_then(|opened| serde_json::from_str(opened).ok());
            Ok::<_, serde_json::Error>(self.alert(&alarm, opened.as_ref().unwrap_or(&alarm), now_ms))
        };
        let alerts: Vec<Alert> = alarms
            .into_iter()
            .map(alert)
            .collect::<Result<_, _>>()
            .map_err(|error| Failure::Final(format!("not an alarm: {error}")))?;
        let body = serde_json::to_string(&alerts).map_err(|error| Failure::Final(error.to_string()))?;
        judge_status(self.agent.post(&self.url).content_type("application/json").send(&body))
    }

    fn alert(&self, alarm: &Head, opened: &Head, now_ms: i64) -> Alert {
        let belief_ms = i64::try_from(ALERTMANAGER_BELIEF.as_millis()).unwrap_or(i64::MAX);
        let open_until = Instant(WallMs(now_ms.saturating_add(belief_ms)));
        Alert {
            labels: self.labels(opened),
            annotations: annotations(alarm),
            starts_at: alarm.started_at,
            ends_at: if alarm.state == IncidentState::Open { open_until } else { alarm.at },
        }
    }

    /// A dimension without names means all, and stays out of the labels.
    fn labels(&self, alarm: &Head) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        let own = [("alertname", format!("vedette_{}", alarm.kind.as_str())), ("id", alarm.id.clone())];
        let own = own.into_iter().chain(place(alarm)).filter(|(_, value)| !value.is_empty());
        labels.extend(own.map(|(name, value)| (name.to_owned(), value)));
        labels
    }
}

fn annotations(alarm: &Head) -> BTreeMap<&'static str, String> {
    let said = place(alarm).into_iter().filter(|(_, value)| !value.is_empty());
    said.chain([("summary", alarm.summary.clone())]).collect()
}

/// What may change while an incident lasts.
fn place(alarm: &Head) -> [(&'static str, String); 4] {
    [
        ("severity", alarm.severity.as_str().to_owned()),
        ("region", alarm.scope.region.join(",")),
        ("device", alarm.scope.device.join(",")),
        ("stack", alarm.scope.stack.join(",")),
    ]
}
