//! The certificate authority: makes itself on first run, signs the aggregator's own certificate and those of agents, and is rotated.
//! It must never write its key anywhere but in the state folder, nor copy a name or a right from a request: regions come from the token.
//! The hard case is rotation while agents hold certificates of former keys. Each new key is also certified by the one before it (a cross
//! certificate), so that old and new agents can verify the server, and each root is accepted until the last certificate under it has expired.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use vedette_common::ids::AgentId;

use crate::identity::{AGENT_URI, IdentityError, REGION_URI, Regions};
use crate::limits::{
    AGENT_CERTIFICATE_VALIDITY, CA_VALIDITY, CLOCK_SKEW, FORMER_CAS_MAX, SERVER_CERTIFICATE_VALIDITY,
    SIGNING_REQUEST_BYTES_MAX,
};
use crate::state_folder::{StateError, StateFolder};

/// The name in the server's certificate, the same on every aggregator: agents pin the CA, not an address.
pub const SERVER_NAME: &str = "vedette-aggregator";
/// The one file of the CA: key and certificate, then for each former root, the latest first, the cross certificate that it gave its follower
/// and the root itself. One file, so one atomic write.
pub(crate) const CA_FILE: &str = "ca.pem";

/// What can go wrong in the CA.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The state folder or the file in it.
    #[error(transparent)]
    State(#[from] StateError),
    /// `ca.pem` is not what this program wrote.
    #[error(
        "{path}: {what}; restore it from a backup, or remove it to start over (every agent must then enrol again)"
    )]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// The signing request is too long.
    #[error("the signing request has {0} bytes, {SIGNING_REQUEST_BYTES_MAX} at most are read")]
    RequestTooLong(usize),
    /// The signing request does not parse, or its signature is wrong.
    #[error("signing request: {0}")]
    Request(String),
    /// The request's key is of a kind that is not accepted.
    #[error("the key of the signing request must be ECDSA P-256 or Ed25519")]
    KeyKind,
    /// The agent asks for the aggregator's own name, to which brokers may give every right.
    #[error("`{SERVER_NAME}` is the aggregator's own name; an agent needs another `agent_id`")]
    ReservedName,
    /// The agent's name in the request is missing or none.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Making a key or a certificate failed.
    #[error("certificate: {0}")]
    Rcgen(#[from] rcgen::Error),
}

/// A certificate that was signed for an agent.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The agent's certificate, DER.
    pub certificate: CertificateDer<'static>,
    /// The CA's certificate, DER: what the agent trusts from now on.
    pub ca: CertificateDer<'static>,
    /// End of validity, Unix seconds.
    pub not_after_s: u64,
}

/// A signing request whose signature was verified: its holder has the key. What it asks for is not yet granted.
#[derive(Debug)]
pub struct SigningRequest {
    /// The agent's name in the request.
    pub agent: AgentId,
    /// SHA-256 of the public key (DER SubjectPublicKeyInfo).
    pub key_fingerprint: [u8; 32],
    public_key: rcgen::PublicKey,
}

impl SigningRequest {
    /// Reads a PKCS #10 request whose common name is the agent's name.
    ///
    /// # Errors
    /// [`CaError`] for a request that is too long, malformed, wrongly signed, of another kind of key, or without a valid agent name.
    pub fn parse(der: &[u8]) -> Result<Self, CaError> {
        if der.len() > SIGNING_REQUEST_BYTES_MAX {
            return Err(CaError::RequestTooLong(der.len()));
        }
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
            .map_err(|error| CaError::Request(error.to_string()))?;
        let algorithm = request.public_key.algorithm();
        if *algorithm != rcgen::PKCS_ECDSA_P256_SHA256 && *algorithm != rcgen::PKCS_ED25519 {
            return Err(CaError::KeyKind);
        }
        let agent = AgentId::parse(requested_name(&request.params)?).map_err(IdentityError::from)?;
        if agent.as_str() == SERVER_NAME {
            return Err(CaError::ReservedName);
        }
        let key_fingerprint = Sha256::digest(request.public_key.subject_public_key_info()).into();
        Ok(Self { agent, key_fingerprint, public_key: request.public_key })
    }
}

fn requested_name(params: &CertificateParams) -> Result<&str, CaError> {
    match params.distinguished_name.get(&DnType::CommonName) {
        Some(DnValue::Utf8String(name)) => Ok(name),
        Some(DnValue::PrintableString(name)) => Ok(name.as_str()),
        _ => Err(IdentityError::NoAgent.into()),
    }
}

/// The CA with its key.
pub struct Authority {
    key: KeyPair,
    root: CertificateDer<'static>,
    /// The latest first.
    former: Vec<Former>,
}

/// What remains of a CA that was rotated.
#[derive(Clone)]
struct Former {
    /// Its word for the CA that followed it.
    cross: CertificateDer<'static>,
    root: CertificateDer<'static>,
}

impl Former {
    /// Whether a certificate that it signed can still be valid: it signed none after the cross certificate.
    fn serves(&self, now: SystemTime) -> bool {
        let rotated_s = x509_parser::parse_x509_certificate(&self.cross)
            .map_or(0, |(_, cross)| cross.validity().not_before.timestamp().unsigned_abs());
        unix_s(now) < rotated_s + 2 * CLOCK_SKEW.as_secs() + AGENT_CERTIFICATE_VALIDITY.as_secs()
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("former", &self.former.len()).finish_non_exhaustive()
    }
}

impl Authority {
    /// Reads the CA of the state folder, or makes it there on first use. `now` dates a new certificate.
    ///
    /// # Errors
    /// [`CaError::State`] when its file can be read by others, [`CaError::File`] when it is damaged.
    pub fn open(folder: &StateFolder, now: SystemTime) -> Result<Self, CaError> {
        match Self::read(folder, now)? {
            Some(authority) => Ok(authority),
            // Another process may have made it meanwhile.
            None => folder.make(|| match Self::read(folder, now)? {
                Some(authority) => Ok(authority),
                None => Self::begin_anew(folder, now),
            }),
        }
    }

    fn read(folder: &StateFolder, now: SystemTime) -> Result<Option<Self>, CaError> {
        let Some(text) = folder.read(CA_FILE)? else { return Ok(None) };
        let mut authority = Self::from_pem(&text)
            .map_err(|what| CaError::File { path: folder.file(CA_FILE).display().to_string(), what })?;
        authority.former.retain(|former| former.serves(now));
        Ok(Some(authority))
    }

    /// Makes a new key, certified by itself and by the present key, and writes it. The present key is gone then; what it signed stays good.
    ///
    /// # Errors
    /// [`CaError`] when a certificate cannot be made or the file not be written; the present CA then stays in force.
    pub fn rotate(&self, folder: &StateFolder, now: SystemTime) -> Result<Self, CaError> {
        let key = KeyPair::generate()?;
        let params = root_params(&key, now);
        let root = params.self_signed(&key)?.into();
        let cross: CertificateDer<'static> = params.signed_by(&key, &self.issuer()?)?.into();
        let mut former = vec![Former { cross, root: self.root.clone() }];
        former.extend(self.former.iter().filter(|former| former.serves(now)).cloned());
        former.truncate(FORMER_CAS_MAX);
        let next = Self { key, root, former };
        folder.write(CA_FILE, &next.to_pem())?;
        Ok(next)
    }

    /// Makes a new key that owes nothing to those before it, and writes it: for a key that was stolen. Every agent must enrol again.
    ///
    /// # Errors
    /// [`CaError`] when the certificate cannot be made or the file not be written.
    pub fn begin_anew(folder: &StateFolder, now: SystemTime) -> Result<Self, CaError> {
        let authority = Self::new(now)?;
        folder.write(CA_FILE, &authority.to_pem())?;
        Ok(authority)
    }

    /// SHA-256 of the CA's certificate (DER): what a token pins.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(&self.root).into()
    }

    /// A secret that is the same after a restart and different for each `purpose`.
    #[must_use]
    pub fn derive_secret(&self, purpose: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(purpose.as_bytes());
        hash.update([0]);
        hash.update(self.key.serialized_der());
        hash.finalize().into()
    }

    /// The roots that agents' certificates may come from: the present one, then the former ones.
    pub fn roots(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        std::iter::once(&self.root).chain(self.former.iter().map(|former| &former.root))
    }

    /// Whether one of the roots has this name (DER): each carries a piece of its key's fingerprint.
    #[must_use]
    pub fn trusts(&self, issuer: &[u8]) -> bool {
        let is_named = |root: &CertificateDer<'_>| {
            let parsed = x509_parser::parse_x509_certificate(root);
            parsed.is_ok_and(|(_, root)| root.subject().as_raw() == issuer)
        };
        self.roots().any(is_named)
    }

    /// A new key and certificate for the server, with the chain that old and new agents verify it by.
    ///
    /// # Errors
    /// [`CaError::Rcgen`] when making them fails.
    pub fn issue_server(
        &self,
        now: SystemTime,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CaError> {
        let key = KeyPair::generate()?;
        let mut params = leaf_params(SERVER_NAME, now, SERVER_CERTIFICATE_VALIDITY);
        params.subject_alt_names = vec![SanType::DnsName(SERVER_NAME.try_into()?)];
        // To an MQTT broker the aggregator is a client.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = params.signed_by(&key, &self.issuer()?)?.into();
        let cross = self.former.iter().map(|former| former.cross.clone());
        let chain = [leaf, self.root.clone()].into_iter().chain(cross).collect();
        Ok((chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
    }

    /// Signs a certificate for the key of `request` that names its agent and `regions`.
    ///
    /// # Errors
    /// [`CaError::Rcgen`] when making it fails.
    pub fn issue_agent(
        &self,
        request: &SigningRequest,
        regions: &Regions,
        now: SystemTime,
    ) -> Result<Issued, CaError> {
        let mut params = leaf_params(request.agent.as_str(), now, AGENT_CERTIFICATE_VALIDITY);
        let agent = format!("{AGENT_URI}{}", request.agent.as_str());
        let regions = regions.names().map(|name| format!("{REGION_URI}{name}"));
        params.subject_alt_names = std::iter::once(agent)
            .chain(regions)
            .map(|uri| Ok(SanType::URI(uri.try_into()?)))
            .collect::<Result<_, rcgen::Error>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate: Certificate = params.signed_by(&request.public_key, &self.issuer()?)?;
        let not_after_s = unix_s(now) + AGENT_CERTIFICATE_VALIDITY.as_secs();
        Ok(Issued { certificate: certificate.into(), ca: self.root.clone(), not_after_s })
    }

    fn new(now: SystemTime) -> Result<Self, CaError> {
        let key = KeyPair::generate()?;
        let root = root_params(&key, now).self_signed(&key)?.into();
        Ok(Self { key, root, former: Vec::new() })
    }

    fn issuer(&self) -> Result<Issuer<'static, &KeyPair>, CaError> {
        Ok(Issuer::from_ca_cert_der(&self.root, &self.key)?)
    }

    fn to_pem(&self) -> String {
        let mut text = self.key.serialize_pem();
        let former = self.former.iter().flat_map(|former| [&former.cross, &former.root]);
        for certificate in std::iter::once(&self.root).chain(former) {
            text.push_str(&certificate_pem(certificate));
        }
        text
    }

    fn from_pem(text: &str) -> Result<Self, String> {
        let key = KeyPair::from_pem(text).map_err(|error| format!("no usable private key ({error})"))?;
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| format!("unreadable certificate ({error})"))?;
        let (root, former) = certificates.split_first().ok_or("no certificate")?;
        let (pairs, []) = former.as_chunks() else {
            return Err("a former certificate lacks its cross certificate".to_owned());
        };
        let former = |[cross, root]: &[CertificateDer<'static>; 2]| Former {
            cross: cross.clone(),
            root: root.clone(),
        };
        let (root, former) = (root.clone(), pairs.iter().map(former).collect());
        let (_, parsed) = x509_parser::parse_x509_certificate(&root).map_err(|error| error.to_string())?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err("the key does not belong to the certificate".to_owned());
        }
        Ok(Self { key, root, former })
    }
}

/// A certificate (DER) as PEM text.
#[must_use]
pub fn certificate_pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(certificate);
    let lines = body.as_bytes().chunks(64).map(String::from_utf8_lossy).collect::<Vec<_>>().join("\n");
    format!("-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n")
}

/// The subject carries a piece of the key's fingerprint, so that the present and the former CA have different names and a verifier can tell them apart.
fn root_params(key: &KeyPair, now: SystemTime) -> CertificateParams {
    let fingerprint = Sha256::digest(key.subject_public_key_info());
    let mut params = dated_params(now, CA_VALIDITY);
    params.distinguished_name = common_name_of(&format!("Vedette CA {}", hex(&fingerprint[..8])));
    // An agent of the oldest root meets the cross certificates of all that followed.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(FORMER_CAS_MAX as u8));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn leaf_params(name: &str, now: SystemTime, validity: Duration) -> CertificateParams {
    let mut params = dated_params(now, validity);
    params.distinguished_name = common_name_of(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

fn dated_params(now: SystemTime, validity: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(unix_s(now).saturating_sub(CLOCK_SKEW.as_secs()));
    params.not_after = epoch + Duration::from_secs(unix_s(now) + validity.as_secs());
    params
}

fn common_name_of(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn unix_s(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Bytes as lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ca_is_made_once_and_a_damaged_file_is_named() {
        let base = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(&base.path().join("state")).unwrap();
        let now = SystemTime::now();
        let made = Authority::open(&folder, now).unwrap();
        assert_eq!(Authority::open(&folder, now).unwrap().fingerprint(), made.fingerprint());
        let other = Authority::new(now).unwrap();
        let key_only = made.key.serialize_pem();
        let swapped = format!("{key_only}{}", certificate_pem(&other.root));
        for (damaged, what) in
            [("", "no usable private key"), (&key_only, "no certificate"), (&swapped, "does not belong")]
        {
            folder.write(CA_FILE, damaged).unwrap();
            let error = Authority::open(&folder, now).unwrap_err().to_string();
            assert!(error.contains("ca.pem") && error.contains(what), "{error}");
        }
    }

    #[test]
    fn a_rotated_ca_reads_back_with_both_roots() {
        let base = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(&base.path().join("state")).unwrap();
        let now = SystemTime::now();
        let first = Authority::open(&folder, now).unwrap();
        let second = first.rotate(&folder, now).unwrap();
        let read = Authority::open(&folder, now).unwrap();
        assert_eq!(read.roots().collect::<Vec<_>>(), [&second.root, &first.root]);
        assert_eq!(read.issue_server(now).unwrap().0.len(), 3, "leaf, root and cross certificate");
    }

    #[test]
    fn former_roots_go_when_their_last_certificate_has_expired_or_there_are_too_many() {
        let base = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(&base.path().join("state")).unwrap();
        let now = SystemTime::now();
        let mut authority = Authority::open(&folder, now).unwrap();
        for rotations in 1..FORMER_CAS_MAX + 3 {
            authority = authority.rotate(&folder, now).unwrap();
            assert_eq!(authority.roots().count(), 1 + rotations.min(FORMER_CAS_MAX));
        }
        let last_day = now + AGENT_CERTIFICATE_VALIDITY;
        assert_eq!(Authority::open(&folder, last_day).unwrap().roots().count(), 1 + FORMER_CAS_MAX);
        assert_eq!(Authority::open(&folder, last_day + 2 * CLOCK_SKEW).unwrap().roots().count(), 1);
        Authority::begin_anew(&folder, now).unwrap();
        assert_eq!(Authority::open(&folder, now).unwrap().roots().count(), 1);
    }

    #[test]
    fn nobody_is_certified_under_the_aggregators_own_name() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name_of(SERVER_NAME);
        let request = params.serialize_request(&key).unwrap();
        assert!(matches!(SigningRequest::parse(request.der()), Err(CaError::ReservedName)));
    }

    #[test]
    fn what_a_request_asks_for_beside_its_name_is_not_granted() {
        let authority = Authority::new(SystemTime::now()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name_of("edge-1");
        params.subject_alt_names = vec![
            SanType::DnsName(SERVER_NAME.try_into().unwrap()),
            SanType::URI(format!("{REGION_URI}us").try_into().unwrap()),
            SanType::URI(format!("{AGENT_URI}edge-2").try_into().unwrap()),
        ];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let request = params.serialize_request(&key).unwrap();
        let request = SigningRequest::parse(request.der()).unwrap();
        let issued =
            authority.issue_agent(&request, &Regions::parse(["uk"]).unwrap(), SystemTime::now()).unwrap();
        let identity = crate::identity::Identity::from_certificate(&issued.certificate).unwrap();
        assert_eq!(identity.agent.as_str(), "edge-1");
        assert_eq!(identity.regions.names().collect::<Vec<_>>(), ["uk"]);
        let (_, certificate) = x509_parser::parse_x509_certificate(&issued.certificate).unwrap();
        assert!(!certificate.is_ca());
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any);
        let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names.len(), 2, "the agent and its region: {names:?}");
    }
}
