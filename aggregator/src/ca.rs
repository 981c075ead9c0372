//! The certificate authority: makes itself on first run, signs the aggregator's own certificate and those of agents, and is rotated.
//! It must never write its key anywhere but in the state folder, nor copy a name or a right from a request: regions come from the token.
//! The hard case is rotation while agents hold certificates of the former CA. The new key is then also certified by the former one
//! (a cross certificate), so that both old and new agents can verify the server, and both roots are accepted from agents until the next rotation.

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
    AGENT_CERTIFICATE_VALIDITY, CA_VALIDITY, CLOCK_SKEW, SERVER_CERTIFICATE_VALIDITY,
    SIGNING_REQUEST_BYTES_MAX,
};
use crate::state_folder::{StateError, StateFolder};

/// The name in the server's certificate, the same on every aggregator: agents pin the CA, not an address.
pub const SERVER_NAME: &str = "vedette-aggregator";
/// The one file of the CA: key, certificate, then after a rotation the cross certificate and the former root. One file, so one atomic write.
const CA_FILE: &str = "ca.pem";

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
    former: Option<Former>,
}

/// What remains of the CA before the last rotation.
struct Former {
    cross: CertificateDer<'static>,
    root: CertificateDer<'static>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("rotated", &self.former.is_some()).finish_non_exhaustive()
    }
}

impl Authority {
    /// Reads the CA of the state folder, or makes it there on first use. `now` dates a new certificate.
    ///
    /// # Errors
    /// [`CaError::State`] when its file can be read by others, [`CaError::File`] when it is damaged.
    pub fn open(folder: &StateFolder, now: SystemTime) -> Result<Self, CaError> {
        if let Some(text) = folder.read(CA_FILE)? {
            return Self::from_pem(&text)
                .map_err(|what| CaError::File { path: folder.file(CA_FILE).display().to_string(), what });
        }
        let authority = Self::new(now)?;
        folder.write(CA_FILE, &authority.to_pem())?;
        Ok(authority)
    }

    /// Makes a new key, certified by itself and by the present key, and writes it. The CA before the present one is trusted no longer.
    ///
    /// # Errors
    /// [`CaError`] when a certificate cannot be made or the file not be written; the present CA then stays in force.
    pub fn rotate(&self, folder: &StateFolder, now: SystemTime) -> Result<Self, CaError> {
        let key = KeyPair::generate()?;
        let params = root_params(&key, now);
        let root = params.self_signed(&key)?.into();
        let cross: CertificateDer<'static> = params.signed_by(&key, &self.issuer()?)?.into();
        let next = Self { key, root, former: Some(Former { cross, root: self.root.clone() }) };
        folder.write(CA_FILE, &next.to_pem())?;
        Ok(next)
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

    /// The roots that agents' certificates may come from: the present and, after a rotation, the former.
    pub fn roots(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        std::iter::once(&self.root).chain(self.former.as_ref().map(|former| &former.root))
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
        Ok(Self { key, root, former: None })
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
        let mut certificates = certificates.into_iter();
        let root = certificates.next().ok_or("no certificate")?;
        let former = match (certificates.next(), certificates.next(), certificates.next()) {
            (None, _, _) => None,
            (Some(cross), Some(root), None) => Some(Former { cross, root }),
            _ => return Err("one or three certificates are expected".to_owned()),
        };
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
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
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
}
