//! Webhooks: a POST of the alarm object, with an `Idempotency-Key` that is the same for every attempt at the same state.
//! It must never put a header's value or the URL's password into a log. The hard case is a receiver that took the message
//! but whose answer was lost: it gets the message again and knows it by the key.

use std::time::Duration;

use vedette_aggregator_core::IncidentState;

use super::{Failure, core_state, http_agent, judge_status};
use crate::config::Webhook;
use crate::store::Delivery;

/// One webhook.
pub struct WebhookNotifier {
    name: String,
    url: String,
    headers: Vec<(String, String)>,
    states: Vec<IncidentState>,
    agent: ureq::Agent,
}

impl std::fmt::Debug for WebhookNotifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookNotifier").field("name", &self.name).finish_non_exhaustive()
    }
}

impl WebhookNotifier {
    /// The webhook `name` of the config.
    #[must_use]
    pub fn new(name: &str, webhook: &Webhook) -> Self {
        Self {
            name: format!("webhook.{name}"),
            url: webhook.url.clone(),
            headers: webhook.headers.clone().into_iter().collect(),
            states: webhook.states.iter().copied().map(core_state).collect(),
            agent: http_agent(Duration::from_secs(webhook.timeout_s.into())),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn states(&self) -> &[IncidentState] {
        &self.states
    }

    pub(super) fn deliver(&self, delivery: &Delivery) -> Result<(), Failure> {
        let mut request = self.agent.post(&self.url).content_type("application/json");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        judge_status(request.header("Idempotency-Key", &delivery.idempotency_key).send(&delivery.body))
    }
}
