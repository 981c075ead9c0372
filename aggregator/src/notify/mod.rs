//! Notifiers: who is told of an incident's states, and how.
//! A notifier makes one attempt at a time and says whether trying again could help; it must never retry by itself, that is the outbox's.
//! The hard case is an incident that was held back from begin to end: only those who asked for suppressed states hear of it at all.

mod alertmanager;
mod stdout;
mod webhook;

use std::time::Duration;

use vedette_aggregator_core::IncidentState;

pub use alertmanager::AlertmanagerNotifier;
pub use stdout::StdoutNotifier;
pub use webhook::WebhookNotifier;

use crate::config::{self, Config};
use crate::limits::ALERTMANAGER_RESEND;
use crate::store::Delivery;

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Trying again may help: the other side is away or overloaded.
    #[error("{0}; it is tried again")]
    Passing(String),
    /// The other side refuses this very message; it is given up.
    #[error("{0}; given up")]
    Final(String),
}

/// One notifier of the config.
#[derive(Debug)]
pub enum Notifier {
    /// Standard output, as NDJSON.
    Stdout(StdoutNotifier),
    /// A webhook.
    Webhook(WebhookNotifier),
    /// An Alertmanager.
    Alertmanager(AlertmanagerNotifier),
}

impl Notifier {
    /// Every notifier of `config`.
    #[must_use]
    pub fn all(config: &Config) -> Vec<Self> {
        let stdout = config.notify.stdout.then_some(Self::Stdout(StdoutNotifier));
        let webhooks = config.notify.webhook.iter();
        let webhooks = webhooks.map(|(name, webhook)| Self::Webhook(WebhookNotifier::new(name, webhook)));
        let alertmanagers = config.notify.alertmanager.iter();
        let alertmanagers =
            alertmanagers.map(|(name, one)| Self::Alertmanager(AlertmanagerNotifier::new(name, one)));
        stdout.into_iter().chain(webhooks).chain(alertmanagers).collect()
    }

    /// The name of its queue: kind and name in the config.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Stdout(_) => "stdout",
            Self::Webhook(webhook) => webhook.name(),
            Self::Alertmanager(alertmanager) => alertmanager.name(),
        }
    }

    /// The states that it hears of. Alertmanager hears of a suppression too: an alarm that was open and is held back since ends there.
    #[must_use]
    pub fn states(&self) -> Vec<IncidentState> {
        match self {
            Self::Stdout(_) | Self::Alertmanager(_) => {
                vec![IncidentState::Open, IncidentState::Suppressed, IncidentState::Resolved]
            }
            Self::Webhook(webhook) => webhook.states().to_vec(),
        }
    }

    /// Whether it hears of an incident only from its opening on: people should not be told of the end of what they never heard of.
    #[must_use]
    pub fn hears_once_opened(&self) -> bool {
        match self {
            Self::Stdout(_) => false,
            Self::Webhook(webhook) => !webhook.states().contains(&IncidentState::Suppressed),
            Self::Alertmanager(_) => true,
        }
    }

    /// How often open alarms are sent again, for those who forget otherwise.
    #[must_use]
    pub const fn resends_every(&self) -> Option<Duration> {
        match self {
            Self::Alertmanager(_) => Some(ALERTMANAGER_RESEND),
            _ => None,
        }
    }

    /// One attempt; may block for as long as the notifier's timeout.
    ///
    /// # Errors
    /// [`Failure`] says whether to try again.
    pub fn deliver(&self, delivery: &Delivery) -> Result<(), Failure> {
        match self {
            Self::Stdout(stdout) => stdout.deliver(delivery),
            Self::Webhook(webhook) => webhook.deliver(delivery),
            Self::Alertmanager(alertmanager) => {
                alertmanager.send([(delivery.body.as_str(), delivery.opened.as_deref())])
            }
        }
    }

    /// Sends open alarms again, each with how it first opened; does nothing for notifiers that do not forget.
    ///
    /// # Errors
    /// [`Failure`] when the attempt failed.
    pub fn resend(&self, alarms: &[(String, Option<String>)]) -> Result<(), Failure> {
        match self {
            Self::Alertmanager(alertmanager) => {
                alertmanager.send(alarms.iter().map(|(body, opened)| (body.as_str(), opened.as_deref())))
            }
            _ => Ok(()),
        }
    }
}

/// The state of the config's type as the core's.
fn core_state(state: config::IncidentState) -> IncidentState {
    match state {
        config::IncidentState::Open => IncidentState::Open,
        config::IncidentState::Suppressed => IncidentState::Suppressed,
        config::IncidentState::Resolved => IncidentState::Resolved,
    }
}

/// An HTTP client that reports every status and follows no redirect: a redirected POST would lose its body.
fn http_agent(timeout: Duration) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .user_agent(concat!("vedette-aggregator/", env!("CARGO_PKG_VERSION")))
        .build();
    config.new_agent()
}

/// Success is 2xx. 408, 425, 429 and 5xx pass; any other status will be the same next time.
fn judge_status(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<(), Failure> {
    match result {
        Err(error) => Err(Failure::Passing(error.to_string())),
        Ok(response) => match response.status().as_u16() {
            200..=299 => Ok(()),
            status @ (408 | 425 | 429 | 500..) => Err(Failure::Passing(format!("status {status}"))),
            status => Err(Failure::Final(format!("status {status}"))),
        },
    }
}
