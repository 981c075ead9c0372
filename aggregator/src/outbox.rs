//! Delivery of incident states to notifiers: each has its own queue in the store, its own order and its own retries.
//! It must never drop a delivery silently, nor let one notifier hold up another.
//! The hard case is a kill between a delivery and its note in the store: the same delivery is made again under the same idempotency key.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};
use vedette_aggregator_core::IncidentState;

use crate::config::Config;
use crate::enroll::unix_ms;
use crate::limits::{
    ALERTMANAGER_ALARMS_MAX, DELIVERY_AGE_MAX, OUTBOX_BATCH_MAX, OUTBOX_POLL, RETRY_PAUSE_MAX,
    RETRY_PAUSE_MIN,
};
use crate::listen::stopped;
use crate::metrics::Metrics;
use crate::notify::{Failure, Notifier};
use crate::store::{Delivery, Notified, Outcome, StoreClosed, StoreError, StoreHandle};

/// Which notifiers hear of which states.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Routes {
    routes: Vec<Route>,
    /// Deliveries that may wait for one notifier.
    pub outbox_max: u32,
}

#[derive(Debug, Clone, PartialEq)]
struct Route {
    notifier: String,
    states: Vec<IncidentState>,
    once_opened: bool,
}

impl Routes {
    /// The routes of a config.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let routes = Notifier::all(config)
            .into_iter()
            .map(|notifier| Route {
                notifier: notifier.name().to_owned(),
                states: notifier.states(),
                once_opened: notifier.hears_once_opened(),
            })
            .collect();
        Self { routes, outbox_max: config.limits.outbox_max }
    }

    /// Who is to be told that an incident entered `state`.
    #[must_use]
    pub fn notified(&self, state: IncidentState) -> Vec<Notified> {
        self.routes
            .iter()
            .filter(|route| route.states.contains(&state))
            .map(|route| Notified { notifier: route.notifier.clone(), once_opened: route.once_opened })
            .collect()
    }
}

/// The tasks that deliver, one for each notifier of a config.
#[derive(Debug)]
pub struct Deliveries {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Deliveries {
    /// Delivers to everybody whom `config` names, once `former` has come to rest: what is under way is finished and noted, not made
    /// twice. `woken` says that something was put into the outbox.
    #[must_use]
    pub fn start(
        config: &Config,
        store: &StoreHandle,
        woken: &Arc<Notify>,
        metrics: &Metrics,
        former: Option<Self>,
    ) -> Self {
        let (stop, stopping) = watch::channel(false);
        let mut workers = JoinSet::new();
        let notifiers = Notifier::all(config);
        let (store, woken, metrics) = (store.clone(), Arc::clone(woken), metrics.clone());
        let task = tokio::spawn(async move {
            if let Some(former) = former {
                former.rest().await;
            }
            for notifier in notifiers {
                let worker = Worker {
                    notifier: Arc::new(notifier),
                    store: store.clone(),
                    metrics: metrics.clone(),
                    stopping: stopping.clone(),
                };
                let woken = Arc::clone(&woken);
                // It ends only with the store, which ends the driver too; that is where the error is told.
                workers.spawn(async move { drop(worker.deliver_all(&woken).await) });
            }
            while workers.join_next().await.is_some() {}
        });
        Self { stop, task }
    }

    /// Finishes the deliveries under way, and begins no more.
    async fn rest(self) {
        self.stop.send_replace(true);
        // A task that panicked has nothing under way any more.
        let _ = self.task.await;
    }

    /// As long as `patience`, waits for the deliveries under way; what takes longer is made again after the next start.
    pub async fn stop(self, patience: Duration) {
        let abort = self.task.abort_handle();
        if timeout(patience, self.rest()).await.is_err() {
            tracing::warn!("a delivery under way was left; it is made again under the same key");
            abort.abort();
        }
    }
}

struct Worker {
    notifier: Arc<Notifier>,
    store: StoreHandle,
    metrics: Metrics,
    stopping: watch::Receiver<bool>,
}

impl Worker {
    /// Delivers until a stop, or the end of the store's thread.
    async fn deliver_all(mut self, woken: &Notify) -> Result<(), StoreClosed> {
        let mut resent_at: Option<Instant> = None;
        while !*self.stopping.borrow() {
            let notified = woken.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            while self.deliver_due().await? {}
            self.count_waiting().await?;
            if let Some(every) = self.notifier.resends_every()
                && resent_at.is_none_or(|at| at.elapsed() >= every)
            {
                self.resend_open().await?;
                resent_at = Some(Instant::now());
            }
            // Whatever wakes it or not, the queue is looked at again soon: retries fall due, and other processes write.
            tokio::select! {
                _ = timeout(OUTBOX_POLL, notified) => {}
                () = stopped(&mut self.stopping) => {}
            }
        }
        Ok(())
    }

    /// Attempts what is due; true when there may be more. Stops at the first failure, so that order is kept.
    async fn deliver_due(&self) -> Result<bool, StoreClosed> {
        let name = self.notifier.name().to_owned();
        let now_ms = unix_ms(SystemTime::now());
        let due = self.store.with(move |store| store.due_deliveries(&name, now_ms, OUTBOX_BATCH_MAX)).await?;
        let Some(due) = self.logged(due) else { return Ok(false) };
        let full = due.len() == OUTBOX_BATCH_MAX;
        for delivery in due {
            if *self.stopping.borrow() || !self.deliver(delivery).await? {
                return Ok(false);
            }
        }
        Ok(full)
    }

    async fn count_waiting(&self) -> Result<(), StoreClosed> {
        let rows = self.store.with(|store| store.outbox_rows()).await?;
        if let Some(rows) = self.logged(rows) {
            self.metrics.outbox_rows.set(i64::try_from(rows).unwrap_or(i64::MAX));
        }
        Ok(())
    }

    async fn deliver(&self, delivery: Delivery) -> Result<bool, StoreClosed> {
        let (number, attempts) = (delivery.number, delivery.attempts);
        let age_ms = unix_ms(SystemTime::now()).saturating_sub(delivery.created_ms);
        let too_old = u128::try_from(age_ms).is_ok_and(|age_ms| age_ms > DELIVERY_AGE_MAX.as_millis());
        // What waited for days, as while the aggregator was off, would be a page about the past.
        let (outcome, name) = if too_old {
            (Outcome::Done, "expired")
        } else {
            match self.attempt(delivery).await {
                Ok(()) => (Outcome::Done, "delivered"),
                Err(Failure::Final(_)) => (Outcome::Done, "rejected"),
                Err(Failure::Passing(_)) => {
                    let due_ms = unix_ms(SystemTime::now() + retry_pause(attempts));
                    (Outcome::Retry { due_ms }, "failed")
                }
            }
        };
        self.metrics.count_deliveries(self.notifier.name(), name, 1);
        let finished = self.store.with(move |store| store.finish_delivery(number, outcome)).await?;
        Ok(self.logged(finished).is_some() && outcome == Outcome::Done)
    }

    /// One attempt, on a thread that may block.
    async fn attempt(&self, delivery: Delivery) -> Result<(), Failure> {
        let notifier = Arc::clone(&self.notifier);
        let key = delivery.idempotency_key.clone();
        let result = tokio::task::spawn_blocking(move || notifier.deliver(&delivery)).await;
        let result = result.unwrap_or_else(|error| Err(Failure::Passing(error.to_string())));
        if let Err(error) = &result {
            tracing::warn!(notifier = self.notifier.name(), key, %error, "delivery failed");
        }
        result
    }

    async fn resend_open(&self) -> Result<(), StoreClosed> {
        let open = self.store.with(|store| store.open_alarms(ALERTMANAGER_ALARMS_MAX)).await?;
        let Some(open) = self.logged(open).filter(|open| !open.is_empty()) else { return Ok(()) };
        let notifier = Arc::clone(&self.notifier);
        let result = tokio::task::spawn_blocking(move || notifier.resend(&open)).await;
        if let Ok(Err(error)) = result {
            tracing::warn!(notifier = self.notifier.name(), %error, "re-sending open alarms failed");
        }
        Ok(())
    }

    fn logged<T>(&self, result: Result<T, StoreError>) -> Option<T> {
        result.inspect_err(|error| tracing::warn!(notifier = self.notifier.name(), %error, "outbox")).ok()
    }
}

/// Doubles with each failed attempt, up to a limit, and lies anywhere in its upper half: many notifiers that failed together
/// should not come back together.
fn retry_pause(attempts: u32) -> Duration {
    let whole = RETRY_PAUSE_MIN.saturating_mul(1 << attempts.min(20)).min(RETRY_PAUSE_MAX);
    let mut random = [0; 2];
    // Without random numbers the pause is whole, which is only less polite.
    let share =
        getrandom::fill(&mut random).map_or(1.0, |()| f64::from(u16::from_le_bytes(random)) / 65_535.0);
    whole.mul_f64(0.5 + share / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_with_jitter_and_are_bounded() {
        for (attempts, whole_s) in [(0, 1.0), (1, 2.0), (5, 32.0), (9, 300.0), (4_000_000_000, 300.0)] {
            let pause_s = retry_pause(attempts).as_secs_f64();
            assert!((whole_s / 2.0..=whole_s).contains(&pause_s), "{attempts}: {pause_s}");
        }
    }
}
