//! The tables, and how a database comes from one version of them to the next.
//! It must never change a step that was released: a new version is a new step at the end of the list.
//! The hard case is a crash between steps: each runs in one transaction that also sets `user_version`.

use rusqlite::{Connection, TransactionBehavior};

use super::StoreError;

/// Step n brings the schema from version n to n + 1.
const STEPS: &[&str] = &["
    -- The core's state in the parts that it names: sessions, regions, windows, incidents, what was learned.
    CREATE TABLE core_parts (
        key TEXT PRIMARY KEY,
        body TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    -- Every state that an incident entered.
    CREATE TABLE incidents (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL,
        state TEXT NOT NULL,
        written_ms INTEGER NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
    CREATE INDEX incidents_id ON incidents (id);
    CREATE INDEX incidents_written ON incidents (written_ms);
    -- Every decision not to notify, with its evidence.
    CREATE TABLE ledger (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL,
        written_ms INTEGER NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
    CREATE INDEX ledger_id ON ledger (id);
    CREATE INDEX ledger_written ON ledger (written_ms);
    -- One row for each state that a notifier has still to be told.
    CREATE TABLE outbox (
        number INTEGER PRIMARY KEY,
        notifier TEXT NOT NULL,
        idempotency_key TEXT NOT NULL,
        incident_number INTEGER NOT NULL REFERENCES incidents (number) ON DELETE CASCADE,
        attempts INTEGER NOT NULL DEFAULT 0,
        due_ms INTEGER NOT NULL,
        created_ms INTEGER NOT NULL,
        UNIQUE (notifier, idempotency_key)
    ) STRICT;
    CREATE INDEX outbox_due ON outbox (notifier, number);
    -- Enrolment tokens, by the SHA-256 of their secret.
    CREATE TABLE tokens (
        secret_hash BLOB PRIMARY KEY,
        regions TEXT NOT NULL,
        replaces TEXT NOT NULL,
        created_ms INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL,
        used_ms INTEGER,
        used_by TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE agents (
        agent TEXT PRIMARY KEY,
        key_fingerprint BLOB NOT NULL,
        regions TEXT NOT NULL,
        enrolled_ms INTEGER NOT NULL,
        not_after_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    -- Imported calendars as text, because recurrences without end are expanded anew as time goes on.
    CREATE TABLE calendars (
        name TEXT PRIMARY KEY,
        imported_ms INTEGER NOT NULL,
        body TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE silences (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        until_ms INTEGER NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
    -- Changes whenever the calendars or silences do, so that a running aggregator notices what another process wrote.
    CREATE TABLE versions (
        name TEXT PRIMARY KEY,
        version INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    INSERT INTO versions (name, version) VALUES ('calendars', 0), ('silences', 0);
", "
    -- What each state was decided from, so that it can be decided again.
    ALTER TABLE incidents ADD COLUMN basis TEXT;
    -- What operators say an incident was; the latest word holds.
    CREATE TABLE labels (
        id TEXT PRIMARY KEY,
        label TEXT NOT NULL,
        author TEXT NOT NULL,
        comment TEXT NOT NULL,
        written_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
", "
    -- The key that an agent asked for a certificate for and has not used yet; and when its certificates were revoked.
    ALTER TABLE agents ADD COLUMN next_fingerprint BLOB;
    ALTER TABLE agents ADD COLUMN revoked_ms INTEGER;
    INSERT INTO versions (name, version) VALUES ('agents', 0);
", "
    -- People who may use the console and the API, their passwords as Argon2id only.
    CREATE TABLE users (
        name TEXT PRIMARY KEY,
        password_hash TEXT NOT NULL,
        scope TEXT NOT NULL,
        created_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    -- Their log-ins, and the tokens of scripts: found by a handle, proven by a secret of which only the SHA-256 stands here.
    CREATE TABLE console_sessions (
        handle BLOB PRIMARY KEY,
        secret_hash BLOB NOT NULL,
        user TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
        created_ms INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX console_sessions_user ON console_sessions (user);
    CREATE TABLE api_tokens (
        name TEXT PRIMARY KEY,
        handle BLOB NOT NULL UNIQUE,
        secret_hash BLOB NOT NULL,
        scope TEXT NOT NULL,
        created_ms INTEGER NOT NULL,
        expires_ms INTEGER
    ) STRICT, WITHOUT ROWID;
"];

/// The version that this program writes.
pub(super) fn known() -> i64 {
    i64::try_from(STEPS.len()).unwrap_or(i64::MAX)
}

/// Brings the schema up to date.
///
/// # Errors
/// [`StoreError::Newer`] for a database of a later program, or what SQLite says.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let known = known();
    // Immediate: of two processes that start together, the second waits here and then finds the work done.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    for step in &STEPS[usize::try_from(found).unwrap_or(0)..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(())
}
