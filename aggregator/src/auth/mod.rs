//! Who asks: people by name and password, scripts by token, and what each may do.
//!
//! Owns sessions, tokens and the limit on attempts. Must never keep, log or compare a secret in the clear: passwords are stored as
//! Argon2id, random secrets as SHA-256, and every check takes the same way whether the name exists or not. The hard case is somebody
//! who guesses: a wrong attempt makes its address wait ever longer, and only so many passwords are hashed at a time.

pub mod attempts;
pub mod password;
pub mod secret;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use subtle::ConstantTimeEq;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::clock::Clock;
use crate::config::{AuthMode, Config};
use crate::enroll::unix_ms;
use crate::limits::{LOGIN_ATTEMPTS_MAX, PASSWORD_CHECK_WAIT, PASSWORD_CHECKS_MAX};
use crate::metrics::{Metrics, Tally};
use crate::store::{KeyRow, StoreClosed, StoreError, StoreHandle};
use attempts::Attempts;
use password::PasswordHash;
use secret::Key;

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// See everything.
    Read,
    /// Also silence and label.
    Write,
}

impl Scope {
    /// Its name in the store, the API and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }

    /// The scope of that name. A damaged row must not become a right, so anything else only reads.
    #[must_use]
    pub fn of(name: &str) -> Self {
        if name == "write" { Self::Write } else { Self::Read }
    }
}

/// How somebody showed who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// A browser's cookie, which it also sends when another site makes it ask.
    Session,
    /// A token in the `Authorization` header, which nobody sends unknowingly.
    Token,
}

/// Somebody who is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user, or `token:` and the token's name.
    pub name: String,
    /// What they may do.
    pub scope: Scope,
    /// How they showed it.
    pub by: By,
}

/// What a request brings to show who asks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// The `Authorization` header. Schemes other than Bearer are not ours: a proxy before this may have asked for them.
    pub authorization: Option<&'a str>,
    /// The value of our cookie.
    pub cookie: Option<&'a str>,
}

/// Why somebody is not let in.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No token of ours, an expired or a removed one.
    #[error("the Authorization header holds no valid token: `vedette-aggregator token api create` makes one")]
    Token,
    /// Wrong name or wrong password: which of them is not said.
    #[error("name or password is wrong")]
    Password,
    /// Too many wrong attempts from one address.
    #[error("too many wrong attempts from this address; try again in {0} s")]
    Wait(u64),
    /// Too many passwords to check.
    #[error("too many log-ins at a time; try again")]
    Busy,
    /// The store does not answer.
    #[error(transparent)]
    Closed(#[from] StoreClosed),
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system gives no random numbers, or a hash cannot be made.
    #[error("{0}")]
    System(String),
}

/// Decides who somebody is; clones share everything.
#[derive(Clone)]
pub struct Gate {
    config: watch::Receiver<Arc<Config>>,
    exposed: bool,
    tls: bool,
    reads: StoreHandle,
    writes: StoreHandle,
    clock: Clock,
    attempts: Arc<Mutex<Attempts<IpAddr>>>,
    checks: Arc<Semaphore>,
    decoy: Arc<PasswordHash>,
    metrics: Metrics,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Gate").field("exposed", &self.exposed).finish_non_exhaustive()
    }
}

impl Gate {
    /// A gate before the address that `config` says at the start.
    ///
    /// # Errors
    /// [`AuthError::System`] when there is no randomness.
    pub fn new(
        config: watch::Receiver<Arc<Config>>,
        reads: StoreHandle,
        writes: StoreHandle,
        metrics: Metrics,
    ) -> Result<Self, AuthError> {
        let (exposed, tls) = {
            let listen = &config.borrow().listen;
            (!listen.http.ip().is_loopback(), listen.http_tls().is_some())
        };
        Ok(Self {
            config,
            exposed,
            tls,
            reads,
            writes,
            clock: Clock::start(),
            attempts: Arc::new(Mutex::new(Attempts::new(LOGIN_ATTEMPTS_MAX))),
            checks: Arc::new(Semaphore::new(PASSWORD_CHECKS_MAX)),
            decoy: Arc::new(PasswordHash::decoy()?),
            metrics,
        })
    }

    /// Whether only those who are known may read.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        is_closed(self.config.borrow().auth.mode, self.exposed)
    }

    /// Whether the metrics page is behind the gate too.
    #[must_use]
    pub fn hides_metrics(&self) -> bool {
        self.is_closed() && !self.config.borrow().auth.metrics_open
    }

    /// The names that are served, and the addresses of proxies that are believed.
    pub(crate) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }

    /// Whether this process itself speaks TLS.
    #[must_use]
    pub const fn speaks_tls(&self) -> bool {
        self.tls
    }

    /// Where to count.
    pub(crate) const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Who sends this; none for a stranger, and for a session that is over.
    ///
    /// # Errors
    /// [`AuthError::Token`] for a Bearer token that is none of ours.
    pub async fn caller(&self, credentials: Credentials<'_>) -> Result<Option<Caller>, AuthError> {
        if let Some(token) = credentials.authorization.and_then(bearer) {
            let token = Key::parse(token).ok_or(AuthError::Token)?;
            let row = self.reads.with(move |store| store.api_token(&token.handle)).await??;
            let row = self.proven(row, &token).ok_or(AuthError::Token)?;
            let name = format!("token:{}", row.name);
            return Ok(Some(Caller { name, scope: Scope::of(&row.scope), by: By::Token }));
        }
        let Some(session) = credentials.cookie.and_then(Key::parse) else { return Ok(None) };
        let row = self.reads.with(move |store| store.console_session(&session.handle)).await??;
        let caller = |row: KeyRow| Caller { name: row.name, scope: Scope::of(&row.scope), by: By::Session };
        Ok(self.proven(row, &session).map(caller))
    }

    /// The row, if the key's secret is the one it was made with and it has not expired.
    fn proven(&self, row: Option<KeyRow>, key: &Key) -> Option<KeyRow> {
        let row = row.unwrap_or_else(KeyRow::nobody);
        let same: bool = row.secret_hash.ct_eq(&key.secret_hash()).into();
        let lives = row.expires_ms.is_none_or(|end| end > self.clock.now().wall.0);
        (same && lives).then_some(row)
    }

    /// Opens a session for who knows the password of `user`.
    ///
    /// # Errors
    /// [`AuthError`]: wrong, too often wrong, or the store.
    pub async fn log_in(&self, address: IpAddr, user: String, password: String) -> Result<Key, AuthError> {
        let address = attempts::network(address);
        let result = self.try_log_in(address, user, password).await;
        // What says nothing of the password is no guess.
        if !matches!(result, Err(AuthError::Password | AuthError::Wait(_))) {
            self.attempts().undo(&address);
        }
        let outcome = match &result {
            Ok(_) => "done",
            Err(AuthError::Password) => "wrong",
            Err(AuthError::Wait(_)) => "too_often",
            Err(AuthError::Busy) => "busy",
            Err(_) => "failed",
        };
        self.metrics.count(Tally::LogIn, outcome);
        result
    }

    async fn try_log_in(&self, address: IpAddr, user: String, password: String) -> Result<Key, AuthError> {
        self.attempts().begin(address, self.clock.now().mono).map_err(AuthError::Wait)?;
        let permit = timeout(PASSWORD_CHECK_WAIT, Arc::clone(&self.checks).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else { return Err(AuthError::Busy) };
        let wanted = user.clone();
        let stored = self.reads.with(move |store| store.password_hash(&wanted)).await??;
        let hash = stored.as_deref().and_then(PasswordHash::read);
        let hash = hash.map_or_else(|| Arc::clone(&self.decoy), Arc::new);
        self.metrics.password_checks.inc();
        let check = tokio::task::spawn_blocking(move || hash.is_of(&password));
        let right = check.await.map_err(|error| AuthError::System(error.to_string()))?;
        drop(permit);
        let Some(checked) = stored.filter(|_| right) else {
            tracing::warn!(%address, "log-in refused: name or password is wrong");
            return Err(AuthError::Password);
        };
        let key = Key::generate().map_err(AuthError::System)?;
        let (handle, secret_hash, name) = (key.handle, key.secret_hash(), user.clone());
        let now_ms = unix_ms(SystemTime::now());
        let expires_ms = now_ms + i64::from(self.config().auth.session_s) * 1_000;
        let row = KeyRow { handle, secret_hash, name, scope: String::new(), expires_ms: Some(expires_ms) };
        if !self.writes.with(move |store| store.open_session(&row, &checked, now_ms)).await?? {
            tracing::warn!(%address, "log-in refused: the password was changed meanwhile");
            return Err(AuthError::Password);
        }
        tracing::info!(user, %address, "logged in");
        Ok(key)
    }

    /// Ends a session for good.
    ///
    /// # Errors
    /// What the store says.
    pub async fn log_out(&self, cookie: Option<&str>) -> Result<(), AuthError> {
        if let Some(session) = cookie.and_then(Key::parse) {
            self.writes.with(move |store| store.close_session(&session.handle)).await??;
        }
        Ok(())
    }

    /// How long a session lasts.
    #[must_use]
    pub fn session_lasts(&self) -> Duration {
        Duration::from_secs(self.config().auth.session_s.into())
    }

    fn attempts(&self) -> std::sync::MutexGuard<'_, Attempts<IpAddr>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether only those who are known may read, for an address that is `exposed` to other machines or not.
#[must_use]
pub const fn is_closed(mode: AuthMode, exposed: bool) -> bool {
    match mode {
        AuthMode::Auto => exposed,
        AuthMode::Required => true,
        AuthMode::None => false,
    }
}

/// The token of an `Authorization` header.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
