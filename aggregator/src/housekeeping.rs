//! What a running aggregator does for its database by itself: old history goes, and every few hours it is looked through.
//! It must never hold up commits: a look has a connection of its own. The hard case is a database that turns out damaged: nothing is stopped, for
//! what works still works, but it is said on every look until a person acts.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use tokio::time::interval;

use crate::config::Config;
use crate::enroll::unix_ms;
use crate::limits::{HISTORY_SWEEP, STORE_CHECK};
use crate::metrics::{Metrics, Tally};
use crate::state_folder::StateFolder;
use crate::store::{DATABASE_FILE, Store, StoreHandle};

/// Removes history past its retention, once an hour.
///
/// # Errors
/// When the store's thread is gone.
pub(crate) async fn sweep_history(
    store: StoreHandle,
    configs: watch::Receiver<Arc<Config>>,
) -> anyhow::Result<()> {
    let mut ticks = interval(HISTORY_SWEEP);
    loop {
        ticks.tick().await;
        let kept_ms = i64::from(configs.borrow().limits.retention_days) * 86_400_000;
        let before_ms = unix_ms(SystemTime::now()).saturating_sub(kept_ms);
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
