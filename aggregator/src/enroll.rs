//! Enrolment: tokens, and the exchange of a token and a signing request for a certificate.
//! It must never keep or log a token's secret, nor sign for a name or region that the token does not give.
//! The hard case is the first agent beside a new aggregator: a token is left in the state folder, readable by its owner only, and a fresh
//! one follows each use, so that any number of agents of that user enrol by themselves one after the other. It may replace keys:
//! who can read it can read the CA's key beside it, so it grants nothing that its reader did not have.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use vedette_common::limits::TOKEN_SECRET_BYTES;
use vedette_common::wire::{Enroll, Enrolled, RefuseReason};

use crate::ca::{Authority, CaError, SigningRequest};
use crate::identity::{ALL_REGIONS, Identity, Regions};
use crate::limits::AGENT_CERTIFICATE_VALIDITY;
use crate::state_folder::{StateError, StateFolder};
use crate::store::{NewToken, Store, StoreClosed, StoreError, StoreHandle, TokenError};

/// How every token begins.
pub const TOKEN_PREFIX: &str = "vdt1.";
/// The file in the state folder that holds the token for agents of the same user.
pub const LOCAL_TOKEN_FILE: &str = "enrolment-token";
const FINGERPRINT_BYTES: usize = 32;

/// Why an enrolment or the making of a token failed.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The token was not taken.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The signing request was not taken, or signing failed.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// The store's thread is gone.
    #[error(transparent)]
    Closed(#[from] StoreClosed),
    /// The operating system gives no random numbers.
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
    /// The certificate does not fit the message.
    #[error("the certificate has {0} bytes and does not fit the message")]
    TooLong(usize),
}

impl From<StoreError> for EnrollError {
    fn from(error: StoreError) -> Self {
        Self::Token(error.into())
    }
}

impl EnrollError {
    /// What the agent is told. Troubles of our own are told as overload, so that it tries again.
    #[must_use]
    pub const fn refusal(&self) -> RefuseReason {
        match self {
            Self::Token(TokenError::Unknown) => RefuseReason::TokenUnknown,
            Self::Token(TokenError::Used) => RefuseReason::TokenUsed,
            Self::Token(TokenError::Expired) => RefuseReason::TokenExpired,
            Self::Token(TokenError::AgentKnown(_)) => RefuseReason::AgentKnown,
            Self::Ca(CaError::State(_) | CaError::File { .. } | CaError::Rcgen(_)) => {
                RefuseReason::Overloaded
            }
            Self::Ca(_) => RefuseReason::Malformed,
            _ => RefuseReason::Overloaded,
        }
    }
}

/// A token: the fingerprint of the CA that the agent is to trust, and a secret that the CA will know again.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the CA's certificate (DER).
    pub ca_fingerprint: [u8; FINGERPRINT_BYTES],
    /// The secret.
    pub secret: [u8; TOKEN_SECRET_BYTES],
}

impl Token {
    /// A new random token for the CA.
    ///
    /// # Errors
    /// [`EnrollError::Random`] when the operating system gives no random numbers.
    pub fn random(authority: &Authority) -> Result<Self, EnrollError> {
        let mut secret = [0; TOKEN_SECRET_BYTES];
        getrandom::fill(&mut secret).map_err(EnrollError::Random)?;
        Ok(Self { ca_fingerprint: authority.fingerprint(), secret })
    }

    /// The text that people copy: `vdt1.` and base64url of fingerprint and secret.
    #[must_use]
    pub fn to_text(&self) -> String {
        let bytes = [self.ca_fingerprint.as_slice(), &self.secret].concat();
        format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads what [`Token::to_text`] wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim().strip_prefix(TOKEN_PREFIX)?).ok()?;
        let (fingerprint, secret) = bytes.split_first_chunk()?;
        Some(Self { ca_fingerprint: *fingerprint, secret: secret.try_into().ok()? })
    }

    /// What the store keeps of it.
    #[must_use]
    pub fn secret_hash(&self) -> [u8; 32] {
        Sha256::digest(self.secret).into()
    }
}

/// Makes a token and stores it; gives its text, which is nowhere else. `replaces` is the agent whose key it may replace, `*` for any;
/// `ttl` none is for ever.
///
/// # Errors
/// [`EnrollError`] when there are too many tokens, or the store or the random numbers fail.
pub fn create_token(
    store: &mut Store,
    authority: &Authority,
    regions: Regions,
    replaces: Option<String>,
    ttl: Option<Duration>,
) -> Result<Token, EnrollError> {
    let token = Token::random(authority)?;
    let now_ms = unix_ms(SystemTime::now());
    let expires_ms = ttl.map_or(i64::MAX, |ttl| now_ms.saturating_add(duration_ms(ttl)));
    store.create_token(
        &NewToken { secret_hash: token.secret_hash(), regions, replaces, expires_ms },
        now_ms,
    )?;
    Ok(token)
}

/// Sees to it that the state folder holds a token that can be used; gives the hash of its secret.
///
/// # Errors
/// [`EnrollError`] when the folder, the store or the random numbers fail.
pub fn leave_local_token(
    store: &mut Store,
    folder: &StateFolder,
    authority: &Authority,
) -> Result<[u8; 32], EnrollError> {
    if let Some(token) = folder.read(LOCAL_TOKEN_FILE)?.as_deref().and_then(Token::parse) {
        let usable = store.token_is_usable(&token.secret_hash(), unix_ms(SystemTime::now()))?;
        if usable && token.ca_fingerprint == authority.fingerprint() {
            return Ok(token.secret_hash());
        }
    }
    let token = create_token(store, authority, Regions::all(), Some(ALL_REGIONS.to_owned()), None)?;
    folder.write(LOCAL_TOKEN_FILE, &format!("{}\n", token.to_text()))?;
    Ok(token.secret_hash())
}

/// Answers enrolments, and knows which key each agent enrolled with.
#[derive(Debug)]
pub struct Enroller {
    authority: RwLock<Arc<Authority>>,
    keys: RwLock<BTreeMap<String, [u8; 32]>>,
    store: StoreHandle,
    folder: StateFolder,
}

impl Enroller {
    /// Starts with the agents that the store knows, and leaves the local token.
    ///
    /// # Errors
    /// [`EnrollError`] when the folder or the store fails.
    pub async fn start(
        authority: Arc<Authority>,
        store: StoreHandle,
        folder: StateFolder,
    ) -> Result<Self, EnrollError> {
        let agents = store.with(|store| store.enrolled_agents()).await??;
        let keys = agents.into_iter().map(|agent| (agent.agent, agent.key_fingerprint)).collect();
        let enroller = Self { authority: RwLock::new(authority), keys: RwLock::new(keys), store, folder };
        enroller.leave_local_token().await?;
        Ok(enroller)
    }

    /// The CA that signs now.
    #[must_use]
    pub fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.authority.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes another CA from now on, after a rotation, and leaves a local token for it.
    ///
    /// # Errors
    /// [`EnrollError`] when the token cannot be left.
    pub async fn replace_authority(&self, authority: Arc<Authority>) -> Result<(), EnrollError> {
        *self.authority.write().unwrap_or_else(PoisonError::into_inner) = authority;
        self.leave_local_token().await
    }

    /// Whether the key in a verified certificate is the one that the agent enrolled with last. An agent that the store does not know
    /// (its database was lost, the CA was not) is taken at the CA's word.
    #[must_use]
    pub fn is_current(&self, identity: &Identity) -> bool {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.get(identity.agent.as_str()).is_none_or(|key| *key == identity.key_fingerprint)
    }

    /// Exchanges a token and a signing request for a certificate.
    ///
    /// # Errors
    /// [`EnrollError`] with the reason; the token is used up only when a certificate was due.
    pub async fn enroll(&self, request: &Enroll) -> Result<Enrolled, EnrollError> {
        let signing = SigningRequest::parse(&request.csr_der)?;
        let hash: [u8; 32] = Sha256::digest(request.token_secret).into();
        let (agent, key) = (signing.agent.clone(), signing.key_fingerprint);
        let now = SystemTime::now();
        let not_after_ms = unix_ms(now).saturating_add(duration_ms(AGENT_CERTIFICATE_VALIDITY));
        let grant = self
            .store
            .with(move |store| store.use_token(&hash, &agent, &key, unix_ms(now), not_after_ms))
            .await??;
        let issued = self.authority().issue_agent(&signing, &grant.regions, now)?;
        self.remember(&signing);
        self.leave_local_token().await?;
        Ok(Enrolled { certificate_der: bounded(&issued.certificate)?, ca_der: bounded(&issued.ca)? })
    }

    fn remember(&self, signing: &SigningRequest) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.insert(signing.agent.as_str().to_owned(), signing.key_fingerprint);
    }

    async fn leave_local_token(&self) -> Result<(), EnrollError> {
        let (folder, authority) = (self.folder.clone(), self.authority());
        self.store.with(move |store| leave_local_token(store, &folder, &authority)).await??;
        Ok(())
    }
}

fn bounded<const N: usize>(der: &[u8]) -> Result<heapless::Vec<u8, N>, EnrollError> {
    heapless::Vec::from_slice(der).map_err(|_| EnrollError::TooLong(der.len()))
}

/// Milliseconds since 1970, saturating.
#[must_use]
pub fn unix_ms(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH).map_or(0, duration_ms)
}

fn duration_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
