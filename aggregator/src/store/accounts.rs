//! Who may use console and API: users, their sessions, and tokens for scripts.
//! It must never hold a secret, only hashes. The hard case is a user who is removed or changes the password while logged in: their sessions
//! end in the same transaction.

use rusqlite::{OptionalExtension, Row, TransactionBehavior, params};

use super::{Store, StoreError, UnixMs};
use crate::auth::secret::Handle;
use crate::limits::{API_TOKENS_MAX, SESSIONS_PER_USER_MAX, USERS_MAX};

/// A token or a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// What it is found by.
    pub handle: Handle,
    /// SHA-256 of its secret.
    pub secret_hash: [u8; 32],
    /// The token's name, or the session's user.
    pub name: String,
    /// What it allows; a session allows what its user is allowed when it asks.
    pub scope: String,
    /// When it ends; none for never.
    pub expires_ms: Option<UnixMs>,
}

impl KeyRow {
    /// What no key proves: nothing is known that has this hash.
    #[must_use]
    pub fn nobody() -> Self {
        let (name, scope) = (String::new(), String::new());
        Self { handle: Handle::default(), secret_hash: [0; 32], name, scope, expires_ms: None }
    }
}

/// A user or token as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// What it may do.
    pub scope: String,
    /// When it was made.
    pub created_ms: UnixMs,
    /// When it ends; none for never.
    pub expires_ms: Option<UnixMs>,
}

/// Why an account was not made.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The name is taken.
    #[error("`{0}` exists already: remove it first")]
    Exists(String),
    /// There are as many as there may be.
    #[error("there are {0} already, which is the limit: remove one first")]
    TooMany(usize),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for AccountError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// Adds a user.
    ///
    /// # Errors
    /// [`AccountError`] when the name is taken or there are too many, or what SQLite says.
    pub fn add_user(
        &mut self,
        name: &str,
        password_hash: &str,
        scope: &str,
        now_ms: UnixMs,
    ) -> Result<(), AccountError> {
        self.add_account("users", USERS_MAX, name, |transaction| {
            transaction.execute(
                "INSERT INTO users (name, password_hash, scope, created_ms) VALUES (?1, ?2, ?3, ?4)",
                params![name, password_hash, scope, now_ms],
            )
        })
    }

    /// Gives a user another password and ends their sessions; false when there is no such user.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn change_password(&mut self, name: &str, password_hash: &str) -> Result<bool, StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let rows = transaction
            .execute("UPDATE users SET password_hash = ?2 WHERE name = ?1", params![name, password_hash])?;
        transaction.execute("DELETE FROM console_sessions WHERE user = ?1", [name])?;
        transaction.commit()?;
        Ok(rows > 0)
    }

    /// Removes a user and their sessions; false when there is no such user.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn remove_user(&mut self, name: &str) -> Result<bool, StoreError> {
        Ok(self.connection.execute("DELETE FROM users WHERE name = ?1", [name])? > 0)
    }

    /// The users, by name.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn users(&self) -> Result<Vec<Account>, StoreError> {
        self.accounts("SELECT name, scope, created_ms, NULL FROM users ORDER BY name")
    }

    /// The stored form of a user's password.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn password_hash(&self, name: &str) -> Result<Option<String>, StoreError> {
        let mut statement =
            self.connection.prepare_cached("SELECT password_hash FROM users WHERE name = ?1")?;
        Ok(statement.query_row([name], |row| row.get(0)).optional()?)
    }

    /// Adds a token for a script.
    ///
    /// # Errors
    /// [`AccountError`] when the name is taken or there are too many, or what SQLite says.
    pub fn add_api_token(&mut self, token: &KeyRow, now_ms: UnixMs) -> Result<(), AccountError> {
        self.add_account("api_tokens", API_TOKENS_MAX, &token.name, |transaction| {
            transaction.execute(
                "INSERT INTO api_tokens (name, handle, secret_hash, scope, created_ms, expires_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![token.name, token.handle, token.secret_hash, token.scope, now_ms, token.expires_ms],
            )
        })
    }

    /// Removes a token; false when there is none of that name.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn remove_api_token(&mut self, name: &str) -> Result<bool, StoreError> {
        Ok(self.connection.execute("DELETE FROM api_tokens WHERE name = ?1", [name])? > 0)
    }

    /// The tokens, by name.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn api_tokens(&self) -> Result<Vec<Account>, StoreError> {
        self.accounts("SELECT name, scope, created_ms, expires_ms FROM api_tokens ORDER BY name")
    }

    /// The token with that handle.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn api_token(&self, handle: &Handle) -> Result<Option<KeyRow>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT handle, secret_hash, name, scope, expires_ms FROM api_tokens WHERE handle = ?1",
        )?;
        Ok(statement.query_row([handle], key_row).optional()?)
    }

    /// Opens a session for the user that `session` names, if the password is still the one that was `checked`; sessions that are over, and the
    /// oldest of too many, go. Gives whether it is open.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn open_session(
        &mut self,
        session: &KeyRow,
        checked: &str,
        now_ms: UnixMs,
    ) -> Result<bool, StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute("DELETE FROM console_sessions WHERE expires_ms <= ?1", [now_ms])?;
        let opened = transaction.execute(
            "INSERT INTO console_sessions (handle, secret_hash, user, created_ms, expires_ms)
             SELECT ?1, ?2, name, ?4, ?5 FROM users WHERE name = ?3 AND password_hash = ?6",
            params![session.handle, session.secret_hash, session.name, now_ms, session.expires_ms, checked],
        )?;
        transaction.execute(
            "DELETE FROM console_sessions WHERE handle IN (SELECT handle FROM console_sessions WHERE user = ?1
             ORDER BY created_ms DESC, handle LIMIT -1 OFFSET ?2)",
            params![session.name, SESSIONS_PER_USER_MAX],
        )?;
        transaction.commit()?;
        Ok(opened > 0)
    }

    /// The session with that handle, with the present scope of its user.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn console_session(&self, handle: &Handle) -> Result<Option<KeyRow>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT handle, secret_hash, name, scope, expires_ms
             FROM console_sessions JOIN users ON users.name = user WHERE handle = ?1",
        )?;
        Ok(statement.query_row([handle], key_row).optional()?)
    }

    /// Ends a session; one that is over already is no error.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn close_session(&mut self, handle: &Handle) -> Result<(), StoreError> {
        self.connection.execute("DELETE FROM console_sessions WHERE handle = ?1", [handle])?;
        Ok(())
    }

    /// Whether there is anybody who could be let in: a user, or a token that has not expired.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn has_accounts(&self, now_ms: UnixMs) -> Result<bool, StoreError> {
        Ok(self.connection.query_row(
            "SELECT EXISTS (SELECT 1 FROM users)
             OR EXISTS (SELECT 1 FROM api_tokens WHERE coalesce(expires_ms, ?1 + 1) > ?1)",
            [now_ms],
            |row| row.get(0),
        )?)
    }

    fn add_account(
        &mut self,
        table: &str,
        most: usize,
        name: &str,
        insert: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<usize>,
    ) -> Result<(), AccountError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (count, taken): (i64, bool) = transaction.query_row(
            &format!("SELECT count(*), coalesce(max(name = ?1), 0) FROM {table}"),
            [name],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        if taken {
            return Err(AccountError::Exists(name.to_owned()));
        }
        if usize::try_from(count).is_ok_and(|count| count >= most) {
            return Err(AccountError::TooMany(most));
        }
        insert(&transaction)?;
        transaction.commit()?;
        Ok(())
    }

    fn accounts(&self, sql: &str) -> Result<Vec<Account>, StoreError> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map([], |row| {
            let (name, scope) = (row.get(0)?, row.get(1)?);
            Ok(Account { name, scope, created_ms: row.get(2)?, expires_ms: row.get(3)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

fn key_row(row: &Row<'_>) -> rusqlite::Result<KeyRow> {
    Ok(KeyRow {
        handle: row.get(0)?,
        secret_hash: row.get(1)?,
        name: row.get(2)?,
        scope: row.get(3)?,
        expires_ms: row.get(4)?,
    })
}
