//! Who this agent is: its name, its key and certificate in the state folder, and the token it enrols with.
//!
//! Must never write a key where others can read it, nor leave a key beside a certificate it does not belong to. The
//! hard case is a stop in the middle of storing: the certificate is removed first and written last, so that its
//! presence says the three files belong together.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use vedette_common::ids::AgentId;
use vedette_common::limits::{AGENT_ID_BYTES_MAX, TOKEN_SECRET_BYTES};

/// The private key, PEM, readable by its owner only.
pub const KEY_FILE: &str = "agent.key";
/// The agent's certificate, PEM.
pub const CERTIFICATE_FILE: &str = "agent.crt";
/// The aggregator's certificate authority, PEM.
pub const CA_FILE: &str = "ca.crt";
/// The agent's name once chosen.
pub const AGENT_ID_FILE: &str = "agent-id";
/// The token in an aggregator's state folder for agents of the same user.
pub const LOCAL_TOKEN_FILE: &str = "enrolment-token";

/// Bytes of the fingerprint in a token: SHA-256.
pub const FINGERPRINT_BYTES: usize = 32;
/// How every token begins.
const TOKEN_PREFIX: &str = "vdt1.";
/// Bytes of a file that is read as a name, a token or a certificate; longer is not one.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// What is wrong with the identity of an agent.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file or folder could not be read or written.
    #[error("{}: {cause}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A file that should hold PEM does not.
    #[error("{}: holds no {wanted} in PEM; remove it and enrol again", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
    },
    /// The stored name is none.
    #[error("{}: {cause}", path.display())]
    AgentId {
        /// Where it stands.
        path: PathBuf,
        /// What is wrong with it.
        cause: vedette_common::ids::IdError,
    },
    /// A token that is none.
    #[error(
        "this is no token: it begins with \"vdt1.\" and has 69 characters; make one with `vedette-aggregator token create`"
    )]
    Token,
    /// The key or the signing request could not be made.
    #[error("the key could not be made: {0}")]
    Key(#[from] rcgen::Error),
}

/// What an agent shows and whom it trusts.
#[derive(Debug)]
pub struct Identity {
    /// The agent's certificate, the chain's first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of that certificate.
    pub key: PrivateKeyDer<'static>,
    /// The authorities whose aggregators are trusted.
    pub roots: Vec<CertificateDer<'static>>,
}

/// The folder that holds the identity and the spool.
#[derive(Clone, Debug)]
pub struct StateFolder {
    path: PathBuf,
}

impl StateFolder {
    /// Opens the folder, and makes it with owner-only permissions if there is none.
    ///
    /// # Errors
    /// [`IdentityError::File`] when it cannot be made.
    pub fn open(path: &Path) -> Result<Self, IdentityError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|cause| IdentityError::File { path: path.into(), cause })?;
        Ok(Self { path: path.into() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The agent's name: the configured one, else the stored one, else this machine's host name, which is then stored.
    ///
    /// # Errors
    /// [`IdentityError`] when the stored name cannot be read or is none, or the chosen one cannot be stored.
    pub fn agent_id(&self, configured: Option<&str>) -> Result<AgentId, IdentityError> {
        let path = self.path.join(AGENT_ID_FILE);
        let parse = |text: &str| {
            AgentId::parse(text.trim()).map_err(|cause| IdentityError::AgentId { path: path.clone(), cause })
        };
        if let Some(name) = configured {
            return parse(name);
        }
        if let Some(stored) = self.read(AGENT_ID_FILE)? {
            return parse(&String::from_utf8_lossy(&stored));
        }
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = agent_id_from(&host);
        self.write(AGENT_ID_FILE, name.as_bytes())?;
        parse(&name)
    }

    /// The stored identity; none when this agent has not enrolled.
    ///
    /// # Errors
    /// [`IdentityError`] when there is one and it cannot be read.
    pub fn identity(&self) -> Result<Option<Identity>, IdentityError> {
        let Some(chain) = self.certificates(CERTIFICATE_FILE)? else { return Ok(None) };
        let roots = self.certificates(CA_FILE)?.ok_or_else(|| self.pem(CA_FILE, "certificate"))?;
        let key = self.read(KEY_FILE)?.unwrap_or_default();
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| self.pem(KEY_FILE, "private key"))?;
        Ok(Some(Identity { chain, key, roots }))
    }

    /// Stores what enrolment gave, in place of what was there.
    ///
    /// # Errors
    /// [`IdentityError::File`] when a file cannot be written; the agent is then not enrolled.
    pub fn store_identity(&self, key_pem: &str, certificate: &[u8], ca: &[u8]) -> Result<(), IdentityError> {
        let path = self.path.join(CERTIFICATE_FILE);
        match fs::remove_file(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                return Err(IdentityError::File { path, cause });
            }
            _ => {}
        }
        self.write(KEY_FILE, key_pem.as_bytes())?;
        self.write(CA_FILE, certificate_pem(ca).as_bytes())?;
        self.write(CERTIFICATE_FILE, certificate_pem(certificate).as_bytes())
    }

    fn certificates(&self, name: &str) -> Result<Option<Vec<CertificateDer<'static>>>, IdentityError> {
        let Some(text) = self.read(name)? else { return Ok(None) };
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        match found {
            Ok(found) if !found.is_empty() => Ok(Some(found)),
            _ => Err(self.pem(name, "certificate")),
        }
    }

    fn pem(&self, name: &str, wanted: &'static str) -> IdentityError {
        IdentityError::Pem { path: self.path.join(name), wanted }
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, IdentityError> {
        read_bounded(&self.path.join(name))
    }

    /// Writes beside, then renames: a reader sees the old file or the new one, never half of one.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), IdentityError> {
        let (path, beside) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let write = || {
            let mut options = fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&beside, &path)
        };
        write().map_err(|cause| IdentityError::File { path: path.clone(), cause })
    }
}

/// A small file's bytes; none when there is no such file.
fn read_bounded(path: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    let read = || {
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(fs::File::open(path)?, FILE_BYTES_MAX), &mut bytes)?;
        Ok::<_, io::Error>(bytes)
    };
    match read() {
        Ok(bytes) => Ok(Some(bytes)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(IdentityError::File { path: path.into(), cause }),
    }
}

/// A host name as an agent id: lower case, other characters as `-`, cut to length; `agent` when nothing is left.
fn agent_id_from(host: &str) -> String {
    let plain =
        |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c.to_ascii_lowercase() } else { '-' };
    let name: String = host.trim().chars().map(plain).collect();
    let name: String = name.trim_start_matches(['.', '_', '-']).chars().take(AGENT_ID_BYTES_MAX).collect();
    if name.is_empty() { "agent".into() } else { name }
}

/// DER as PEM (RFC 7468).
fn certificate_pem(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// What an agent enrols with: the fingerprint of the authority to trust, and a secret that the authority knows.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the authority's certificate (DER).
    pub ca_fingerprint: [u8; FINGERPRINT_BYTES],
    /// The secret.
    pub secret: [u8; TOKEN_SECRET_BYTES],
}

impl std::fmt::Debug for Token {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The secret never reaches a log.
        out.debug_struct("Token").field("ca_fingerprint", &self.ca_fingerprint).finish_non_exhaustive()
    }
}

impl Token {
    /// Reads a token as `token create` prints it: `vdt1.` and base64url of fingerprint and secret.
    ///
    /// # Errors
    /// [`IdentityError::Token`] for anything else.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let bytes = || URL_SAFE_NO_PAD.decode(text.trim().strip_prefix(TOKEN_PREFIX)?).ok();
        let bytes = bytes().ok_or(IdentityError::Token)?;
        let (fingerprint, secret) = bytes.split_first_chunk().ok_or(IdentityError::Token)?;
        let secret = secret.try_into().map_err(|_| IdentityError::Token)?;
        Ok(Self { ca_fingerprint: *fingerprint, secret })
    }

    /// The token that an aggregator of the same user left in its state folder; none when there is none to read.
    #[must_use]
    pub fn left_by_aggregator(state_dir: &Path) -> Option<Self> {
        let text = read_bounded(&state_dir.join(LOCAL_TOKEN_FILE)).ok()??;
        Self::parse(std::str::from_utf8(&text).ok()?).ok()
    }
}

/// A new key with the request to sign it.
#[derive(Debug)]
pub struct NewKey {
    /// The key, PEM.
    pub key_pem: String,
    /// The signing request (PKCS #10, DER), common name = agent id.
    pub csr_der: Vec<u8>,
}

impl NewKey {
    /// Makes an ECDSA P-256 key and a request in the agent's name.
    ///
    /// # Errors
    /// [`IdentityError::Key`] when the key cannot be made.
    pub fn generate(agent: &AgentId) -> Result<Self, IdentityError> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, agent.as_str());
        let request = params.serialize_request(&key)?;
        Ok(Self { key_pem: key.serialize_pem(), csr_der: request.der().to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_host_name_becomes_an_agent_id() {
        for (host, id) in
            [("Edge-7.Example\n", "edge-7.example"), ("__", "agent"), ("", "agent"), ("a b", "a-b")]
        {
            assert_eq!(agent_id_from(host), id);
            AgentId::parse(&agent_id_from(host)).unwrap();
        }
        AgentId::parse(&agent_id_from(&"x".repeat(200))).unwrap();
    }

    #[test]
    fn a_chosen_name_stays() {
        let dir = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(&dir.path().join("state")).unwrap();
        let first = folder.agent_id(None).unwrap();
        assert_eq!(folder.agent_id(None).unwrap(), first);
        assert_eq!(folder.agent_id(Some("other")).unwrap().as_str(), "other");
        fs::write(folder.path().join(AGENT_ID_FILE), "Not Good").unwrap();
        assert!(matches!(folder.agent_id(None), Err(IdentityError::AgentId { .. })));
    }

    #[test]
    fn tokens_are_checked() {
        let bytes = [[7; 48].as_slice()].concat();
        let text = format!("vdt1.{}\n", URL_SAFE_NO_PAD.encode(bytes));
        let token = Token::parse(&text).unwrap();
        assert_eq!((token.ca_fingerprint, token.secret), ([7; 32], [7; 16]));
        for bad in ["", "vdt1.", "vdt2.AAAA", "vdt1.AAAA", "vdt1.%%%"] {
            assert!(matches!(Token::parse(bad), Err(IdentityError::Token)), "{bad}");
        }
    }

    #[test]
    fn an_identity_is_stored_for_its_owner_only_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(&dir.path().join("state")).unwrap();
        assert!(folder.identity().unwrap().is_none());
        let new = NewKey::generate(&AgentId::parse("edge-1").unwrap()).unwrap();
        let key = rcgen::KeyPair::from_pem(&new.key_pem).unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["a".into()]).unwrap().self_signed(&key).unwrap();
        folder.store_identity(&new.key_pem, certificate.der(), certificate.der()).unwrap();
        let identity = folder.identity().unwrap().unwrap();
        assert_eq!(identity.chain[0], *certificate.der());
        assert_eq!(identity.roots[0], *certificate.der());
        let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(KEY_FILE), 0o600);
        fs::write(folder.path().join(KEY_FILE), "not a key").unwrap();
        assert!(matches!(folder.identity(), Err(IdentityError::Pem { .. })));
    }
}
