//! Enrolment: tokens, the exchange of a token or of a present certificate for another one, and whose certificates are good.
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
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use vedette_common::AgentId;
use vedette_common::limits::TOKEN_SECRET_BYTES;
use vedette_common::wire::{Enroll, Enrolled, RefuseReason, Renew};

use crate::ca::{Authority, CaError, SigningRequest};
use crate::identity::{ALL_REGIONS, Identity, Regions};
use crate::limits::{AGENT_CERTIFICATE_VALIDITY, STANDING_CHECK};
use crate::state_folder::{StateError, StateFolder};
use crate::store::{EnrolledAgent, NewToken, Store, StoreClosed, StoreError, StoreHandle, TokenError};

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
    /// Another certificate was asked for in the name of another agent.
    #[error("agent {0} asked for a certificate in another's name")]
    OtherAgent(AgentId),
    /// Another certificate was asked for with one whose CA is trusted no more.
    #[error("agent {0} asked for a certificate with one of a CA's key that is trusted no more")]
    Distrusted(AgentId),
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
            Self::Token(TokenError::Revoked(_)) => RefuseReason::Revoked,
            Self::OtherAgent(_) | Self::Distrusted(_) => RefuseReason::WrongIdentity,
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

/// What a verified certificate is worth now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its agent may speak.
    Good,
    /// Its agent has enrolled with another key since, or uses the one that it asked for.
    OldKey,
    /// Its agent was revoked.
    Revoked,
    /// It is past its time.
    Expired,
    /// The key of the CA that signed it is trusted no more.
    Distrusted,
}

/// Answers enrolments and renewals, and knows whose certificates are good.
#[derive(Debug)]
pub struct Enroller {
    authority: RwLock<Arc<Authority>>,
    agents: RwLock<BTreeMap<String, EnrolledAgent>>,
    /// Held while store and memory change together.
    changing: Mutex<()>,
    /// Moves whenever what is known of an agent changes.
    changes: watch::Sender<i64>,
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
        let (agents, changing, changes) = (RwLock::default(), Mutex::default(), watch::Sender::new(-1));
        let enroller = Self { authority: RwLock::new(authority), agents, changing, changes, store, folder };
        enroller.refresh().await?;
        enroller.leave_local_token().await?;
        Ok(enroller)
    }

    /// The CA that signs now.
    #[must_use]
    pub fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.authority.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes another CA from now on, after a rotation, and leaves a local token for it. Connections with certificates under a key that it trusts
    /// no more end.
    ///
    /// # Errors
    /// [`EnrollError`] when the token cannot be left.
    pub async fn replace_authority(&self, authority: Arc<Authority>) -> Result<(), EnrollError> {
        *self.authority.write().unwrap_or_else(PoisonError::into_inner) = authority;
        self.changes.send_modify(|_| ());
        self.leave_local_token().await
    }

    /// Reads the agents again if another process revoked one.
    ///
    /// # Errors
    /// [`EnrollError`] when the store fails; what was known stays.
    pub async fn refresh(&self) -> Result<(), EnrollError> {
        let version = self.store.with(|store| store.agents_version()).await??;
        if version == *self.changes.borrow() {
            return Ok(());
        }
        let _changing = self.changing.lock().await;
        let agents = self.store.with(|store| store.enrolled_agents()).await??;
        let agents = agents.into_iter().map(|agent| (agent.agent.clone(), agent)).collect();
        *self.agents.write().unwrap_or_else(PoisonError::into_inner) = agents;
        self.changes.send_replace(version);
        Ok(())
    }

    /// Moves whenever an agent's standing may have changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<i64> {
        self.changes.subscribe()
    }

    /// What a verified certificate is worth at `now`. An agent that the store does not know (its database was lost, the CA was not) is taken at
    /// the CA's word.
    #[must_use]
    pub fn standing(&self, identity: &Identity, now: SystemTime) -> Standing {
        if !self.authority().trusts(&identity.issuer) {
            return Standing::Distrusted;
        }
        let agents = self.agents.read().unwrap_or_else(PoisonError::into_inner);
        match agents.get(identity.agent.as_str()) {
            Some(known) if known.revoked_ms.is_some() => Standing::Revoked,
            Some(known) if !known.has_key(&identity.key_fingerprint) => Standing::OldKey,
            _ if unix_ms(now) / 1_000 >= i64::try_from(identity.not_after_s).unwrap_or(i64::MAX) => {
                Standing::Expired
            }
            _ => Standing::Good,
        }
    }

    /// Waits until a certificate that was good is so no longer, and says why.
    pub async fn fallen(&self, identity: &Identity) -> Standing {
        let mut changes = self.changes();
        loop {
            match self.standing(identity, SystemTime::now()) {
                // The wall clock may jump, so an expiry is looked for once in a while.
                Standing::Good => {
                    let left =
                        Duration::from_secs(identity.not_after_s).saturating_sub(unix(SystemTime::now()));
                    drop(timeout(left.min(STANDING_CHECK), changes.changed()).await);
                }
                fallen => return fallen,
            }
        }
    }

    /// The regions that a certificate gives: those that it names, as far as its agent's latest enrolment does.
    #[must_use]
    pub fn regions(&self, identity: &Identity) -> Regions {
        let agents = self.agents.read().unwrap_or_else(PoisonError::into_inner);
        let known = agents.get(identity.agent.as_str());
        known.map_or_else(|| identity.regions.clone(), |known| known.regions.common(&identity.regions))
    }

    /// What an agent that a broker vouches for may speak for of `regions`. An agent that never enrolled is taken at the broker's word.
    ///
    /// # Errors
    /// [`RefuseReason::Revoked`] for an agent that was revoked.
    pub fn regions_by_broker(&self, agent: &AgentId, regions: Regions) -> Result<Regions, RefuseReason> {
        let agents = self.agents.read().unwrap_or_else(PoisonError::into_inner);
        match agents.get(agent.as_str()) {
            Some(known) if known.revoked_ms.is_some() => Err(RefuseReason::Revoked),
            Some(known) => Ok(known.regions.common(&regions)),
            None => Ok(regions),
        }
    }

    /// The agent of a good certificate is there. If it uses the key that it asked for, its former one is good no longer.
    ///
    /// # Errors
    /// [`EnrollError`] when the store fails; both keys then stay good.
    pub async fn greet(&self, identity: &Identity) -> Result<(), EnrollError> {
        let is_next =
            |known: &EnrolledAgent| known.next_fingerprint.as_deref() == Some(&identity.key_fingerprint);
        if !self.known(&identity.agent).as_ref().is_some_and(is_next) {
            return Ok(());
        }
        let _changing = self.changing.lock().await;
        // It may have been revoked or enrolled anew while this waited for its turn.
        let Some(mut known) = self.known(&identity.agent).filter(is_next) else { return Ok(()) };
        let (agent, key) = (identity.agent.clone(), identity.key_fingerprint);
        if self.store.with(move |store| store.settle_agent(&agent, &key)).await?? {
            (known.key_fingerprint, known.next_fingerprint) = (key.to_vec(), None);
            self.remember(known);
        }
        Ok(())
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
        let enrolled_ms = unix_ms(now);
        let not_after_ms = enrolled_ms.saturating_add(duration_ms(AGENT_CERTIFICATE_VALIDITY));
        let changing = self.changing.lock().await;
        let grant = self
            .store
            .with(move |store| store.use_token(&hash, &agent, &key, enrolled_ms, not_after_ms))
            .await??;
        let issued = self.authority().issue_agent(&signing, &grant.regions, now)?;
        self.remember(EnrolledAgent {
            agent: signing.agent.as_str().to_owned(),
            key_fingerprint: key.to_vec(),
            next_fingerprint: None,
            regions: grant.regions,
            enrolled_ms,
            not_after_ms,
            revoked_ms: None,
        });
        drop(changing);
        self.leave_local_token().await?;
        Ok(Enrolled { certificate_der: bounded(&issued.certificate)?, ca_der: bounded(&issued.ca)? })
    }

    /// Exchanges a good certificate and a signing request of the same agent for another certificate. The present key stays good until the other
    /// one is used.
    ///
    /// # Errors
    /// [`EnrollError`] with the reason; nothing changes then.
    pub async fn renew(&self, identity: &Identity, request: &Renew) -> Result<Enrolled, EnrollError> {
        let signing = SigningRequest::parse(&request.csr_der)?;
        if signing.agent != identity.agent {
            return Err(EnrollError::OtherAgent(identity.agent.clone()));
        }
        // What was verified when the connection began may have been under a key that a rotation has put aside since.
        let authority = self.authority();
        if !authority.trusts(&identity.issuer) {
            return Err(EnrollError::Distrusted(identity.agent.clone()));
        }
        let now = SystemTime::now();
        let not_after_ms = unix_ms(now).saturating_add(duration_ms(AGENT_CERTIFICATE_VALIDITY));
        let (present, next) = (identity.clone(), signing.key_fingerprint);
        let _changing = self.changing.lock().await;
        let renewed = self
            .store
            .with(move |store| store.renew_agent(&present, &next, unix_ms(now), not_after_ms))
            .await??;
        let issued = authority.issue_agent(&signing, &renewed.regions, now)?;
        self.remember(renewed);
        Ok(Enrolled { certificate_der: bounded(&issued.certificate)?, ca_der: bounded(&issued.ca)? })
    }

    fn known(&self, agent: &AgentId) -> Option<EnrolledAgent> {
        self.agents.read().unwrap_or_else(PoisonError::into_inner).get(agent.as_str()).cloned()
    }

    fn remember(&self, agent: EnrolledAgent) {
        self.agents.write().unwrap_or_else(PoisonError::into_inner).insert(agent.agent.clone(), agent);
        // The version that was read last stays; whoever waits looks again.
        self.changes.send_modify(|_| ());
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
    duration_ms(unix(at))
}

fn unix(at: SystemTime) -> Duration {
    at.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn duration_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
