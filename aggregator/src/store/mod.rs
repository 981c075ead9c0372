//! The store: one SQLite database in WAL mode that holds everything that must survive. The only place that names rusqlite.
//! It owns durability: what [`Store::commit`] returned from is on the disk (`synchronous = FULL`), so an acknowledgement may follow.
//! It must never judge or interpret bodies: alarms, ledger entries and core state are JSON that others define.
//! The hard case is a kill between any two lines: the parts of the core that a record changed, the session's position among them,
//! and what followed from it share one transaction, and everything else happens after it.

mod accounts;
mod agents;
mod commit;
mod copy;
mod history;
mod operations;
mod outbox;
mod schema;
mod thread;
mod tokens;

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;

pub use accounts::{Account, AccountError, KeyRow};
pub use agents::EnrolledAgent;
pub use commit::{Batch, Notified, StoredPart, StoredState};
pub use copy::{CopyError, restore as restore_database};
pub use history::{Incident, LedgerRow};
pub use operations::{CalendarFile, Label, SilenceRow, Versions};
pub use outbox::{Delivery, Outcome};
pub use thread::{StoreClosed, StoreHandle, StoreThread};
pub use tokens::{Grant, NewToken, TokenError};

use crate::state_folder::{StateError, StateFolder};

/// The database's file in the state folder; SQLite puts `-wal` and `-shm` files with the same permissions beside it.
pub const DATABASE_FILE: &str = "vedette.sqlite";
/// How long a writer waits for another process that writes, such as `token create` beside a running aggregator.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What can go wrong in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file's place or permissions.
    #[error(transparent)]
    State(#[from] StateError),
    /// The file was written by a newer version of this program.
    #[error(
        "the database has schema version {found}, this program knows up to {known}: use the newer program"
    )]
    Newer {
        /// The version found.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// A restore was cut short.
    #[error("{0} is there: a restore was cut short; run `vedette-aggregator restore` again")]
    Restoring(PathBuf),
    /// There is no room for another one.
    #[error("there are {max} {what} already, and no room for more: {remedy}")]
    Full {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        max: usize,
        /// What to do about it.
        remedy: &'static str,
    },
    /// SQLite's own error.
    #[error("database: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

/// An open database.
pub struct Store {
    connection: Connection,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the database of the state folder for reading and writing, creates it (mode 0600) or brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError`] when others can read the file, it is newer than this program, or SQLite fails.
    pub fn open(folder: &StateFolder) -> Result<Self, StoreError> {
        let restored = copy::restored(&folder.file(DATABASE_FILE));
        if restored.exists() {
            return Err(StoreError::Restoring(restored));
        }
        // SQLite does not wait for its turn where two processes put a new database into WAL mode.
        folder.make(|| Self::open_alone(folder))
    }

    fn open_alone(folder: &StateFolder) -> Result<Self, StoreError> {
        let connection = Connection::open(folder.reserve(DATABASE_FILE)?)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", "ON")?;
        // Nothing but the state folder may be writable, as in an image.
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        let mut store = Self { connection };
        schema::migrate(&mut store.connection)?;
        Ok(store)
    }
}

/// Unix milliseconds as the store keeps them.
pub(crate) type UnixMs = i64;

#[cfg(test)]
mod tests;
