//! What a running aggregator does for its database by itself: old history goes, and every few hours it is looked through.
//! It must never hold up commits: a look has a connection of its own. The hard case is a database that turns out damaged: nothing is stopped, for
//! what works still works, but it is said on every look until a person acts.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use tokio::time::interval;

use crate::config::Config;
use crate::enroll::unix_ms;
use crate::limits::{DELIVERY_AGE_MAX, HISTORY_SWEEP, STORE_CHECK};
use crate::metrics::{Metrics, Tally};
use crate::state_folder::StateFolder;
use crate::store::{DATABASE_FILE, Store, StoreHandle};

/// Removes history past its retention, once an hour, and deliveries that are long past their age: those of notifiers that the
/// config no longer names.
///
/// # Errors
/// When the store's thread is gone.
pub(crate) async fn sweep_history(
    store: StoreHandle,
    configs: watch::Receiver<Arc<Config>>,
    metrics: Metrics,
) -> anyhow::Result<()> {
    let mut ticks = interval(HISTORY_SWEEP);
    let age_ms = i64::try_from(DELIVERY_AGE_MAX.as_millis()).unwrap_or(i64::MAX / 2);
    loop {
        ticks.tick().await;
        let kept_ms = i64::from(configs.borrow().limits.retention_days) * 86_400_000;
        let now_ms = unix_ms(SystemTime::now());
        let before_ms = now_ms.saturating_sub(kept_ms);
        let unmade_ms = now_ms.saturating_sub(2 * age_ms);
        match store.with(move |store| store.forget_deliveries(unmade_ms)).await? {
            Ok(given_up) => given_up.iter().for_each(|(notifier, rows)| {
                metrics.count_deliveries(notifier, "expired", *rows);
            }),
            Err(error) => tracing::warn!(%error, "deliveries that nobody makes any more cannot be swept"),
        }
        match store.with(move |store| store.forget_history(before_ms)).await? {
            Ok(rows) => tracing::debug!(rows, "history past its retention removed"),
            Err(error) => tracing::warn!(%error, "history cannot be swept"),
        }
    }
}

/// Looks through the database soon after the start and every few hours.
///
/// # Errors
/// When the runtime ends.
pub(crate) async fn check_store(folder: StateFolder, metrics: Metrics) -> anyhow::Result<()> {
    let mut ticks = interval(STORE_CHECK);
    loop {
        ticks.tick().await;
        let file = folder.file(DATABASE_FILE);
        let look = move || Store::open_to_look(&file).and_then(|store| store.quick_integrity());
        let outcome = match tokio::task::spawn_blocking(look).await? {
            Ok(findings) if findings.is_empty() => "whole",
            Ok(findings) => {
                let findings = findings.join("; ");
                tracing::error!(findings, "the database is damaged: stop, and `restore` a backup");
                "damaged"
            }
            Err(error) => {
                tracing::error!(%error, "the database cannot be looked through");
                "failed"
            }
        };
        metrics.count(Tally::StoreCheck, outcome);
        // A look that failed says nothing of the database.
        if outcome != "failed" {
            metrics.store_whole.set(i64::from(outcome == "whole"));
        }
    }
}
