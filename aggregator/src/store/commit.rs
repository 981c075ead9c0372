//! The transaction behind every acknowledgement: the parts of the core that changed, and the states and decisions that followed.
//! It must never be split: either all of a batch is on the disk or nothing of it.
//! The hard case is a kill around it: before the commit nothing was acknowledged or told, so the agent sends again; after it the
//! sessions among the parts say that the record was applied, so its coming again changes nothing.

use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};

use super::{Store, StoreError, UnixMs};

/// One state that an incident entered, to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredState {
    /// The incident.
    pub id: String,
    /// `open`, `suppressed` or `resolved`.
    pub state: String,
    /// The alarm object as JSON.
    pub body: String,
    /// What it was decided from, as JSON; none where only time has passed.
    pub basis: Option<String>,
    /// The notifiers that are to be told.
    pub notified: Vec<Notified>,
}

/// A notifier that is to be told of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notified {
    /// The notifier.
    pub notifier: String,
    /// Only if the incident was open at some time, this state included.
    pub once_opened: bool,
}

/// One part of the core's persistent state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPart {
    /// The core's name for it.
    pub key: String,
    /// The part as JSON; none to remove it.
    pub body: Option<String>,
}

/// Everything that one transaction commits.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    /// Parts of the core that changed.
    pub parts: Vec<StoredPart>,
    /// States that incidents entered.
    pub states: Vec<StoredState>,
    /// Ledger entries: incident and JSON.
    pub ledger: Vec<(String, String)>,
}

impl Batch {
    /// Whether committing it would change nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.states.is_empty() && self.ledger.is_empty()
    }
}

impl Store {
    /// Commits `batch` to the disk; gives the notifiers whose queue was longer than `outbox_max`,
    /// with the number of their oldest deliveries that were given up.
    ///
    /// # Errors
    /// What SQLite says; nothing of the batch is stored then.
    pub fn commit(
        &mut self,
        batch: &Batch,
        now_ms: UnixMs,
        outbox_max: u32,
    ) -> Result<Vec<(String, u64)>, StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        write_parts(&transaction, &batch.parts)?;
        let mut dropped = Vec::new();
        for state in &batch.states {
            insert_state(&transaction, state, now_ms, outbox_max, &mut dropped)?;
        }
        insert_ledger(&transaction, &batch.ledger, now_ms)?;
        transaction.commit()?;
        Ok(dropped)
    }

    /// Every part of the core, by key: what a restart begins with.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn parts(&self) -> Result<Vec<(String, String)>, StoreError> {
        let mut statement = self.connection.prepare("SELECT key, body FROM core_parts ORDER BY key")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One part of the core's state as JSON, if it was committed.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn part(&self, key: &str) -> Result<Option<String>, StoreError> {
        let mut statement = self.connection.prepare("SELECT body FROM core_parts WHERE key = ?1")?;
        Ok(statement.query_row([key], |row| row.get(0)).optional()?)
    }
}

fn write_parts(transaction: &Transaction<'_>, parts: &[StoredPart]) -> rusqlite::Result<()> {
    let mut write =
        transaction.prepare_cached("INSERT OR REPLACE INTO core_parts (key, body) VALUES (?1, ?2)")?;
    let mut remove = transaction.prepare_cached("DELETE FROM core_parts WHERE key = ?1")?;
    for part in parts {
        match &part.body {
            Some(body) => write.execute(params![part.key, body])?,
            None => remove.execute([&part.key])?,
        };
    }
    Ok(())
}

/// Inserts the state and its deliveries; older deliveries given up for them go to `dropped`.
fn insert_state(
    transaction: &Transaction<'_>,
    state: &StoredState,
    now_ms: UnixMs,
    outbox_max: u32,
    dropped: &mut Vec<(String, u64)>,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO incidents (id, state, written_ms, body, basis) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![state.id, state.state, now_ms, state.body, state.basis])?;
    let number = transaction.last_insert_rowid();
    let opened = was_opened(transaction, &state.id)?;
    let key = format!("{}-{}-{number}", state.id, state.state);
    for Notified { notifier, .. } in state.notified.iter().filter(|one| opened || !one.once_opened) {
        let count = super::outbox::insert(transaction, notifier, &key, number, now_ms, outbox_max)?;
        if count > 0 {
            dropped.push((notifier.clone(), count));
        }
    }
    Ok(())
}

fn was_opened(transaction: &Transaction<'_>, id: &str) -> rusqlite::Result<bool> {
    transaction
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM incidents WHERE id = ?1 AND state = 'open')")?
        .query_row([id], |row| row.get(0))
}

fn insert_ledger(
    transaction: &Transaction<'_>,
    entries: &[(String, String)],
    now_ms: UnixMs,
) -> rusqlite::Result<()> {
    let mut statement =
        transaction.prepare_cached("INSERT INTO ledger (id, written_ms, body) VALUES (?1, ?2, ?3)")?;
    for (id, body) in entries {
        statement.execute(params![id, now_ms, body])?;
    }
    Ok(())
}
