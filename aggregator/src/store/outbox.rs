//! The outbox table: what each notifier has still to be told, in order.
//! It must never lose a delivery without saying so: a full queue gives up its oldest row and reports it.
//! The hard case is a kill between a delivery and its removal: the row is still here and is delivered again, under the same idempotency key.

use rusqlite::{Transaction, params};

use super::{Store, StoreError, UnixMs};

/// One delivery that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its row.
    pub number: i64,
    /// The same for every attempt: incident, state and number of the state.
    pub idempotency_key: String,
    /// The alarm object as JSON.
    pub body: String,
    /// Attempts that failed so far.
    pub attempts: u32,
    /// When it was put here.
    pub created_ms: UnixMs,
}

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Delivered, or given up: the row goes.
    Done,
    /// To be tried again at this time.
    Retry {
        /// When.
        due_ms: UnixMs,
    },
}

/// Adds a delivery; gives the number of older ones given up for it.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    notifier: &str,
    key: &str,
    incident_number: i64,
    now_ms: UnixMs,
    outbox_max: u32,
) -> rusqlite::Result<u64> {
    transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO outbox (notifier, idempotency_key, incident_number, due_ms, created_ms)
             VALUES (?1, ?2, ?3, ?4, ?4)",
        )?
        .execute(params![notifier, key, incident_number, now_ms])?;
    let dropped = transaction
        .prepare_cached(
            "DELETE FROM outbox WHERE number IN
             (SELECT number FROM outbox WHERE notifier = ?1 ORDER BY number DESC LIMIT -1 OFFSET ?2)",
        )?
        .execute(params![notifier, outbox_max])?;
    Ok(dropped as u64)
}

impl Store {
    /// The oldest deliveries of `notifier`, `limit` at most, up to the first that is not due: what is told stays in order.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn due_deliveries(
        &self,
        notifier: &str,
        now_ms: UnixMs,
        limit: usize,
    ) -> Result<Vec<Delivery>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT outbox.number, idempotency_key, body, attempts, created_ms, due_ms
             FROM outbox JOIN incidents ON incidents.number = incident_number
             WHERE notifier = ?1 ORDER BY outbox.number LIMIT ?2",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![notifier, limit], |row| {
            let delivery = Delivery {
                number: row.get(0)?,
                idempotency_key: row.get(1)?,
                body: row.get(2)?,
                attempts: row.get(3)?,
                created_ms: row.get(4)?,
            };
            Ok((row.get::<_, UnixMs>(5)?, delivery))
        })?;
        let rows: Vec<(UnixMs, Delivery)> = rows.collect::<Result<_, _>>()?;
        Ok(rows
            .into_iter()
            .take_while(|(due_ms, _)| *due_ms <= now_ms)
            .map(|(_, delivery)| delivery)
            .collect())
    }

    /// When the oldest delivery of `notifier` is due; none when nothing waits.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn next_due_ms(&self, notifier: &str) -> Result<Option<UnixMs>, StoreError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT due_ms FROM outbox WHERE notifier = ?1 ORDER BY number LIMIT 1")?;
        let mut rows = statement.query([notifier])?;
        Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
    }

    /// Writes down what became of an attempt.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn finish_delivery(&mut self, number: i64, outcome: Outcome) -> Result<(), StoreError> {
        match outcome {
            Outcome::Done => self.connection.execute("DELETE FROM outbox WHERE number = ?1", [number])?,
            Outcome::Retry { due_ms } => self.connection.execute(
                "UPDATE outbox SET attempts = attempts + 1, due_ms = ?2 WHERE number = ?1",
                params![number, due_ms],
            )?,
        };
        Ok(())
    }

    /// Deliveries that wait, over all notifiers.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn outbox_rows(&self) -> Result<u64, StoreError> {
        let rows: i64 = self.connection.query_row("SELECT count(*) FROM outbox", [], |row| row.get(0))?;
        Ok(rows.unsigned_abs())
    }
}
