//! Who an agent is: its name, the regions it may speak for and the fingerprint of its key.
//! It owns how these stand in a certificate (common name and URI names) and reads them back; it must never trust a certificate,
//! that is the verifier's work before anything here is called.
//! The hard case is a certificate that says two things: an agent name that differs between its places is an error, not a choice.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};
use vedette_common::ids::{AgentId, IdError};
use vedette_common::limits::{NAME_BYTES_MAX, REGIONS_MAX};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// URI name that carries the agent: `vedette:agent:ID`.
pub(crate) const AGENT_URI: &str = "vedette:agent:";
/// URI name that carries one region: `vedette:region:NAME`, or `*` for all regions.
pub(crate) const REGION_URI: &str = "vedette:region:";
/// The name that stands for all regions.
pub const ALL_REGIONS: &str = "*";

/// What is wrong with a name in a certificate, or with the regions of a token.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdentityError {
    /// The bytes are no X.509 certificate.
    #[error("not an X.509 certificate")]
    NotACertificate,
    /// There is no `vedette:agent:ID` name, or it differs from the common name.
    #[error("the certificate names no agent, or two")]
    NoAgent,
    /// The agent's name is not one.
    #[error("agent name: {0}")]
    Agent(#[from] IdError),
    /// No region at all.
    #[error("no region is named; `*` stands for all")]
    NoRegion,
    /// A region's name is empty, too long or has characters that no region has.
    #[error(
        "region `{0}`: a name has 1 to {NAME_BYTES_MAX} characters, none of them white space, `*` alone stands for all"
    )]
    Region(String),
    /// More regions than one agent may speak for.
    #[error("{0} regions are named, {REGIONS_MAX} at most are possible; `*` stands for all")]
    TooManyRegions(usize),
}

/// The regions that an agent may speak for: a set of names, or all of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Regions(BTreeSet<String>);

impl Regions {
    /// Reads region names; `*` among them makes the others needless.
    ///
    /// # Errors
    /// [`IdentityError`] for no name at all, too many names, or a name that is none.
    pub fn parse<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> Result<Self, IdentityError> {
        let names: BTreeSet<String> = names.into_iter().map(|name| name.as_ref().to_owned()).collect();
        if let Some(bad) = names.iter().find(|name| !is_region(name)) {
            return Err(IdentityError::Region(bad.clone()));
        }
        match names.len() {
            0 => Err(IdentityError::NoRegion),
            _ if names.contains(ALL_REGIONS) => Ok(Self::all()),
            count if count > REGIONS_MAX => Err(IdentityError::TooManyRegions(count)),
            _ => Ok(Self(names)),
        }
    }

    /// All regions.
    #[must_use]
    pub fn all() -> Self {
        Self(BTreeSet::from([ALL_REGIONS.to_owned()]))
    }

    /// No region: what a damaged record is read as.
    pub(crate) const fn none() -> Self {
        Self(BTreeSet::new())
    }

    /// Whether this covers all regions.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.0.contains(ALL_REGIONS)
    }

    /// Whether `region` is among them.
    #[must_use]
    pub fn allow(&self, region: &str) -> bool {
        self.is_all() || self.0.contains(region)
    }

    /// The regions that both sets hold.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        match (self.is_all(), other.is_all()) {
            (true, _) => other.clone(),
            (_, true) => self.clone(),
            _ => Self(self.0.intersection(&other.0).cloned().collect()),
        }
    }

    /// The names in order; `*` alone for all.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

fn is_region(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && (name == ALL_REGIONS || name.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '*'))
}

/// What a verified certificate says of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The agent's name.
    pub agent: AgentId,
    /// The regions it may speak for.
    pub regions: Regions,
    /// SHA-256 of its public key (DER SubjectPublicKeyInfo).
    pub key_fingerprint: [u8; 32],
    /// End of the certificate's validity, Unix seconds.
    pub not_after_s: u64,
    /// Who signed it (DER Name): each key of the CA has a name of its own.
    pub issuer: Vec<u8>,
}

impl Identity {
    /// Reads the identity from a certificate that was verified before.
    ///
    /// # Errors
    /// [`IdentityError`] when the certificate was not made by this CA's rules.
    pub fn from_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| IdentityError::NotACertificate)?;
        let uris = uri_names(&certificate)?;
        let named = |prefix: &'static str| uris.iter().filter_map(move |uri| uri.strip_prefix(prefix));
        let mut agents = named(AGENT_URI);
        let agent = match (agents.next(), agents.next()) {
            (Some(agent), None) if Some(agent) == common_name(&certificate) => AgentId::parse(agent)?,
            _ => return Err(IdentityError::NoAgent),
        };
        let key_fingerprint = Sha256::digest(certificate.public_key().raw).into();
        let not_after_s = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
        let (regions, issuer) = (Regions::parse(named(REGION_URI))?, certificate.issuer().as_raw().to_vec());
        Ok(Self { agent, regions, key_fingerprint, not_after_s, issuer })
    }
}

fn common_name<'c>(certificate: &'c X509Certificate<'_>) -> Option<&'c str> {
    certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok())
}

fn uri_names<'c>(certificate: &'c X509Certificate<'_>) -> Result<Vec<&'c str>, IdentityError> {
    let names = certificate.subject_alternative_name().map_err(|_| IdentityError::NotACertificate)?;
    let general = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    Ok(general
        .iter()
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect())
}
