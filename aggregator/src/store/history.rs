//! Reading back what happened: incidents with every state they entered, and the ledger. For the API, the console and `explain`.
//! It must never return without a bound. The hard case is an id that names nothing: that is an empty list, not an error.

use rusqlite::{Row, params};

use super::{Store, StoreError, UnixMs};

/// One state that an incident entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    /// Order in which states were committed.
    pub number: i64,
    /// The incident.
    pub id: String,
    /// `open`, `suppressed` or `resolved`.
    pub state: String,
    /// When it was committed.
    pub written_ms: UnixMs,
    /// The alarm object as JSON, exactly as notifiers get it.
    pub body: String,
    /// What the state was decided from, as JSON, where it was asked for and there is something.
    pub basis: Option<String>,
}

/// One decision not to notify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerRow {
    /// Order in which decisions were committed.
    pub number: i64,
    /// The incident.
    pub id: String,
    /// When it was committed.
    pub written_ms: UnixMs,
    /// The entry as JSON.
    pub body: String,
}

/// States of one incident in one answer. A state has up to 56 KB of grounds, and an incident may come back a dozen times a day for months.
const STATES_MAX: usize = 200;
/// Without the basis, which is large and wanted for one incident at a time.
const INCIDENT_COLUMNS: &str = "number, id, state, written_ms, body, NULL";
const LEDGER_COLUMNS: &str = "number, id, written_ms, body";

impl Store {
    /// The latest `STATES_MAX` states that the incident `id` entered, the first of them first.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn incident(&self, id: &str) -> Result<Vec<Incident>, StoreError> {
        let sql = "SELECT * FROM (SELECT number, id, state, written_ms, body, basis FROM incidents
            WHERE id = ?1 ORDER BY number DESC LIMIT ?2) ORDER BY number";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map(params![id, row_limit(STATES_MAX)], incident_row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Hands every state of every incident to `take`, in the order of their commits; one at a time is in memory.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn each_state(&self, mut take: impl FnMut(Incident)) -> Result<(), StoreError> {
        let sql = format!("SELECT {INCIDENT_COLUMNS} FROM incidents ORDER BY number");
        let mut statement = self.connection.prepare_cached(&sql)?;
        for row in statement.query_map([], incident_row)? {
            take(row?);
        }
        Ok(())
    }

    /// The last state of the `limit` incidents whose state changed last, the latest first.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn latest_incidents(&self, limit: usize) -> Result<Vec<Incident>, StoreError> {
        let sql = format!(
            "SELECT {INCIDENT_COLUMNS} FROM incidents WHERE number IN
             (SELECT max(number) FROM incidents GROUP BY id) ORDER BY number DESC LIMIT ?1"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map([row_limit(limit)], incident_row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The last state of incidents that are over, the latest first, `limit` at most, each with whether people were ever notified.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn ended_incidents(&self, limit: usize) -> Result<Vec<(Incident, bool)>, StoreError> {
        let sql = format!(
            "SELECT {INCIDENT_COLUMNS},
             EXISTS (SELECT 1 FROM incidents AS told WHERE told.id = incidents.id AND told.state = 'open')
             FROM incidents WHERE state = 'resolved' AND NOT EXISTS
             (SELECT 1 FROM incidents AS later WHERE later.id = incidents.id AND later.number > incidents.number)
             ORDER BY number DESC LIMIT ?1"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map([row_limit(limit)], |row| Ok((incident_row(row)?, row.get(6)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The latest `STATES_MAX` ledger entries of the incident `id`, the first of them first.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn ledger(&self, id: &str) -> Result<Vec<LedgerRow>, StoreError> {
        let sql = format!(
            "SELECT * FROM (SELECT {LEDGER_COLUMNS} FROM ledger WHERE id = ?1 ORDER BY number DESC LIMIT ?2)
             ORDER BY number"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map(params![id, row_limit(STATES_MAX)], ledger_row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The last `limit` ledger entries, the latest first.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn latest_ledger(&self, limit: usize) -> Result<Vec<LedgerRow>, StoreError> {
        let sql = format!("SELECT {LEDGER_COLUMNS} FROM ledger ORDER BY number DESC LIMIT ?1");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map([row_limit(limit)], ledger_row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Removes incidents whose last state is `resolved` and older than `before_ms`, and ledger entries as old; gives the number of rows.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn forget_history(&mut self, before_ms: UnixMs) -> Result<usize, StoreError> {
        let incidents = self.connection.execute(
            "DELETE FROM incidents WHERE id IN (SELECT id FROM incidents WHERE state = 'resolved' AND written_ms < ?1
             AND number IN (SELECT max(number) FROM incidents GROUP BY id))",
            params![before_ms],
        )?;
        let ledger =
            self.connection.execute("DELETE FROM ledger WHERE written_ms < ?1", params![before_ms])?;
        self.connection.execute("DELETE FROM labels WHERE id NOT IN (SELECT id FROM incidents)", [])?;
        let silences = self.connection.execute("DELETE FROM silences WHERE until_ms < ?1", [before_ms])?;
        Ok(incidents + ledger + silences)
    }
}

fn row_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn incident_row(row: &Row<'_>) -> rusqlite::Result<Incident> {
    Ok(Incident {
        number: row.get(0)?,
        id: row.get(1)?,
        state: row.get(2)?,
        written_ms: row.get(3)?,
        body: row.get(4)?,
        basis: row.get(5)?,
    })
}

fn ledger_row(row: &Row<'_>) -> rusqlite::Result<LedgerRow> {
    Ok(LedgerRow { number: row.get(0)?, id: row.get(1)?, written_ms: row.get(2)?, body: row.get(3)? })
}
