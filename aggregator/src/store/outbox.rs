//! The outbox table: what each notifier has still to be told, in order.
//! It must never lose a delivery without saying so: a full queue gives up its oldest row and reports it.
//! The hard case is a kill between a delivery and its removal: the row is still here and is delivered again, under the same idempotency key.

use rusqlite::{Transaction, params};

use super::{Store, StoreError, UnixMs};

/// What an incident was told as when it first opened; a subquery for a row of `incidents`.
const OPENED: &str =
    "(SELECT opened.body FROM incidents AS opened WHERE opened.id = incidents.id AND opened.state = 'open'
    ORDER BY opened.number LIMIT 1)";

/// One delivery that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its row.
    pub number: i64,
    /// The same for every attempt: incident, state and number of the state.
    pub idempotency_key: String,
    /// The alarm object as JSON.
    pub body: String,
    /// That of the incident's first open state, if it ever opened.
    pub opened: Option<String>,
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
        let sql = format!(
            "SELECT outbox.number, idempotency_key, body, attempts, created_ms, due_ms, {OPENED}
             FROM outbox JOIN incidents ON incidents.number = incident_number
             WHERE notifier = ?1 ORDER BY outbox.number LIMIT ?2"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![notifier, limit], |row| {
            let delivery = Delivery {
                number: row.get(0)?,
                idempotency_key: row.get(1)?,
                body: row.get(2)?,
                attempts: row.get(3)?,
                created_ms: row.get(4)?,
                opened: row.get(6)?,
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

    /// The last and the first open state of incidents that are open, as JSON, the latest first, `limit` at most.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn open_alarms(&self, limit: usize) -> Result<Vec<(String, Option<String>)>, StoreError> {
        let sql = format!(
            "SELECT body, {OPENED} FROM incidents WHERE state = 'open' AND number IN
             (SELECT max(number) FROM incidents GROUP BY id) ORDER BY number DESC LIMIT ?1"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map([limit], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Gives up deliveries put here before `before_ms`, as nobody may be left to make them; how many, by notifier.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn forget_deliveries(&mut self, before_ms: UnixMs) -> Result<Vec<(String, u64)>, StoreError> {
        let transaction = self.connection.transaction()?;
        let given_up = {
            let mut old = transaction
                .prepare("SELECT notifier, count(*) FROM outbox WHERE created_ms < ?1 GROUP BY notifier")?;
            let rows =
                old.query_map([before_ms], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?;
            rows.collect::<Result<_, _>>()?
        };
        transaction.execute("DELETE FROM outbox WHERE created_ms < ?1", [before_ms])?;
        transaction.commit()?;
        Ok(given_up)
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
