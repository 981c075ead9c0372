//! Who this agent is: its name, and its key and certificate in the state folder.
//!
//! Must never write a key where others can read it, take one from where they could, nor take a key for one of a certificate it
//! does not belong to; nor must reading wait for anybody, or need a medium that can be written. The
//! hard case is a stop in the middle of storing, or a second process that stores at the same time: what came stands whole
//! in one file first, and that file counts for as long as it is there.

mod key;
mod token;

pub use key::NewKey;
pub use token::{FINGERPRINT_BYTES, LOCAL_TOKEN_FILE, Token};

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use vedette_common::ids::AgentId;
use vedette_common::limits::AGENT_ID_BYTES_MAX;

use crate::validity::Validity;

/// The private key, PEM, readable by its owner only.
pub const KEY_FILE: &str = "agent.key";
/// The agent's certificate, PEM.
pub const CERTIFICATE_FILE: &str = "agent.crt";
/// The aggregator's certificate authority, PEM.
pub const CA_FILE: &str = "ca.crt";
/// Key, certificate and authority together, PEM, until they stand in the three files above.
const INCOMING_FILE: &str = "identity.new";
/// The key that a certificate was asked for, PEM, until there is one: if the answer is lost, the next request is for the same key, which the
/// aggregator knows by then.
const NEXT_KEY_FILE: &str = "agent.key.next";
/// How each certificate begins in PEM (RFC 7468).
const CERTIFICATE_BEGINS: &str = "-----BEGIN CERTIFICATE-----";
/// Held while the identity is stored.
const LOCK_FILE: &str = "identity.lock";
/// Attempts to get the lock, and the pause between two; who holds it writes four files.
const LOCK_ATTEMPTS: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Readings of the identity until one was not disturbed by another process that stores.
const READINGS_MAX: u32 = 8;
/// The agent's name once chosen.
pub const AGENT_ID_FILE: &str = "agent-id";
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
    /// Another process stores an identity and does not come to an end.
    #[error("{}: another process holds it; is a `vedette-agent enroll` stopped in the middle?", path.display())]
    Busy {
        /// The lock.
        path: PathBuf,
    },
    /// The key can be read or changed by others.
    #[error("{}: has mode {mode:04o}, which lets others at the key: chmod 600", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// What the aggregator answered is of no use; nothing was stored.
    #[error("what the aggregator answered is no identity for this agent's key: {0}")]
    Unfit(&'static str),
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

impl Identity {
    /// Whether it is time to ask for another certificate. One whose validity cannot be read is left to whoever verifies it.
    #[must_use]
    pub fn is_renewal_due(&self, now: SystemTime) -> bool {
        let now_s = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let certificate = self.chain.first();
        let due = |certificate: &CertificateDer<'_>| {
            let spread = Sha256::digest(certificate)[0];
            Validity::of(certificate)
                .is_some_and(|validity| now_s.cast_signed() >= validity.renewal_s(spread))
        };
        certificate.is_some_and(due)
    }
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

    /// The stored identity; none when this agent has not enrolled. Waits for nobody.
    ///
    /// # Errors
    /// [`IdentityError`] when there is one and it cannot be read.
    pub fn identity(&self) -> Result<Option<Identity>, IdentityError> {
        let mut readings = 0;
        loop {
            readings += 1;
            if let Some(incoming) = self.read(INCOMING_FILE)? {
                self.check_mode(INCOMING_FILE)?;
                let identity = self.parse_incoming(&incoming)?;
                self.settle_if_nobody_does(&incoming);
                return Ok(Some(identity));
            }
            let certificate = self.read(CERTIFICATE_FILE)?;
            let found = self.stored(certificate.as_deref());
            // A process that stored meanwhile has left its whole identity, or another certificate.
            let is_whole = self.read(INCOMING_FILE)?.is_none() && self.read(CERTIFICATE_FILE)? == certificate;
            if is_whole || readings == READINGS_MAX {
                return found;
            }
        }
    }

    /// The identity of the three files, of which this is the certificate.
    fn stored(&self, certificate: Option<&[u8]>) -> Result<Option<Identity>, IdentityError> {
        let Some(certificate) = certificate else { return Ok(None) };
        let chain = self.certificates(CERTIFICATE_FILE, certificate)?;
        let ca = self.read(CA_FILE)?.ok_or_else(|| self.pem(CA_FILE, "certificate"))?;
        let roots = self.certificates(CA_FILE, &ca)?;
        let key = self.read(KEY_FILE)?.unwrap_or_default();
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| self.pem(KEY_FILE, "private key"))?;
        self.check_mode(KEY_FILE)?;
        Ok(Some(Identity { chain, key, roots }))
    }

    /// Stores what enrolment or renewal gave, in place of what was there.
    ///
    /// # Errors
    /// [`IdentityError`] when it is no identity for this key, or a file cannot be written; what was there then stays.
    pub fn store_identity(&self, key_pem: &str, certificate: &[u8], ca: &[u8]) -> Result<(), IdentityError> {
        check_fit(key_pem, certificate, ca)?;
        let _lock = self.lock()?;
        let incoming =
            [key_pem.trim_end(), "\n", &certificate_pem(certificate), &certificate_pem(ca)].concat();
        self.write(INCOMING_FILE, incoming.as_bytes())?;
        // It counts from here on, wherever it stands.
        let _ = self.settle(&incoming);
        let _ = fs::remove_file(self.path.join(NEXT_KEY_FILE));
        Ok(())
    }

    /// The key to ask a certificate for: the one that was asked for before, if no answer was stored since, else a new one.
    ///
    /// # Errors
    /// [`IdentityError`] when none can be made or kept.
    pub fn next_key(&self, agent: &AgentId) -> Result<NewKey, IdentityError> {
        if let Some(kept) = self.read(NEXT_KEY_FILE)?
            && let Some(kept) = str::from_utf8(&kept).ok().and_then(|pem| NewKey::of(pem, agent).ok())
        {
            self.check_mode(NEXT_KEY_FILE)?;
            return Ok(kept);
        }
        let new = NewKey::generate(agent)?;
        self.write(NEXT_KEY_FILE, new.key_pem.as_bytes())?;
        Ok(new)
    }

    /// Settles what came, unless another process is about to. On a medium that cannot be written it stays where it is, which is as good.
    fn settle_if_nobody_does(&self, incoming: &[u8]) {
        let Ok(Some(_lock)) = self.try_lock() else { return };
        // Another process may have stored a newer one before the lock was ours.
        if matches!(self.read(INCOMING_FILE), Ok(Some(now)) if now == incoming) {
            let _ = self.settle(&String::from_utf8_lossy(incoming));
        }
    }

    /// That nobody but its owner can read or change a file with a key.
    fn check_mode(&self, name: &str) -> Result<(), IdentityError> {
        let path = self.path.join(name);
        let mode = match fs::metadata(&path) {
            Ok(metadata) => metadata.mode() & 0o7777,
            // It was settled a moment ago.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(cause) => return Err(IdentityError::File { path, cause }),
        };
        if mode & 0o077 == 0 { Ok(()) } else { Err(IdentityError::Open { path, mode }) }
    }

    /// Puts what came into the files where people look for it.
    fn settle(&self, incoming: &str) -> Result<(), IdentityError> {
        let places: Vec<usize> = incoming.match_indices(CERTIFICATE_BEGINS).map(|(at, _)| at).collect();
        let [certificate, ca] = places[..] else { return Err(self.pem(INCOMING_FILE, "identity")) };
        let files =
            [(KEY_FILE, 0..certificate), (CERTIFICATE_FILE, certificate..ca), (CA_FILE, ca..incoming.len())];
        for (name, part) in files {
            self.write(name, incoming[part].as_bytes())?;
        }
        let path = self.path.join(INCOMING_FILE);
        fs::remove_file(&path).map_err(|cause| IdentityError::File { path, cause })
    }

    fn parse_incoming(&self, incoming: &[u8]) -> Result<Identity, IdentityError> {
        let wrong = || self.pem(INCOMING_FILE, "identity");
        let key = PrivateKeyDer::from_pem_slice(incoming).map_err(|_| wrong())?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(incoming).collect();
        let [certificate, ca] = <[_; 2]>::try_from(found.map_err(|_| wrong())?).map_err(|_| wrong())?;
        Ok(Identity { chain: vec![certificate], key, roots: vec![ca] })
    }

    /// Keeps other processes of this agent from storing for as long as the file is open.
    fn lock(&self) -> Result<fs::File, IdentityError> {
        for _ in 0..LOCK_ATTEMPTS {
            if let Some(lock) = self.try_lock()? {
                return Ok(lock);
            }
            std::thread::sleep(LOCK_PAUSE);
        }
        Err(IdentityError::Busy { path: self.path.join(LOCK_FILE) })
    }

    /// The same at once; none while another process has it.
    fn try_lock(&self) -> Result<Option<fs::File>, IdentityError> {
        let path = self.path.join(LOCK_FILE);
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
        let locked = file.map_err(fs::TryLockError::Error).and_then(|file| file.try_lock().map(|()| file));
        match locked {
            Ok(file) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(cause)) => Err(IdentityError::File { path, cause }),
        }
    }

    /// The certificates in the text of a file.
    fn certificates(&self, name: &str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
        match found {
            Ok(found) if !found.is_empty() => Ok(found),
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
            // One that was left there keeps its mode.
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            // A name that changed is safe from a power cut once its folder is.
            fs::File::open(&self.path)?.sync_all()
        };
        write().map_err(|cause| IdentityError::File { path: path.clone(), cause })
    }
}

/// That what came is an identity: a certificate with a validity, of this very key, and an authority that can be trusted.
fn check_fit(key_pem: &str, certificate: &[u8], ca: &[u8]) -> Result<(), IdentityError> {
    let unfit = IdentityError::Unfit;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| unfit("the key is none"))?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|_| unfit("the key is none"))?;
    Validity::of(certificate).ok_or(unfit("the certificate has no validity"))?;
    let chain = vec![CertificateDer::from(certificate.to_vec())];
    let certified = rustls::sign::CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|_| unfit("the certificate is of another key"))?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(ca.to_vec())).map_err(|_| unfit("the authority has no certificate"))
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
    format!("{CERTIFICATE_BEGINS}\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let set_mode = |mode| {
            fs::set_permissions(folder.path().join(KEY_FILE), fs::Permissions::from_mode(mode)).unwrap();
        };
        set_mode(0o640);
        let error = folder.identity().unwrap_err();
        assert!(error.to_string().contains("agent.key: has mode 0640"), "{error}");
        set_mode(0o600);
        fs::write(folder.path().join(KEY_FILE), "not a key").unwrap();
        assert!(matches!(folder.identity(), Err(IdentityError::Pem { .. })));
    }

    /// A new identity: its key, certificate and authority.
    fn made() -> (String, Vec<u8>) {
        let new = NewKey::generate(&AgentId::parse("edge-1").unwrap()).unwrap();
        let key = rcgen::KeyPair::from_pem(&new.key_pem).unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["a".into()]).unwrap().self_signed(&key).unwrap();
        (new.key_pem, certificate.der().to_vec())
    }

    /// Whether the key in the folder is that of the certificate beside it.
    fn fits(folder: &StateFolder, certificate: &[u8]) -> bool {
        let identity = folder.identity().unwrap().unwrap();
        let key = rcgen::KeyPair::try_from(&identity.key).unwrap();
        let public = rcgen::PublicKeyData::subject_public_key_info(&key);
        *identity.chain[0] == *certificate && certificate.windows(public.len()).any(|window| window == public)
    }

    /// A process that ends between any two of its writes leaves the identity before or the one that came, never parts of both.
    #[test]
    fn an_identity_is_replaced_whole_wherever_the_storing_stops() {
        let ((old_key, old), (new_key, new)) = (made(), made());
        // What the state folder holds of the new identity when it stops: the whole first, then one file after the other.
        for stored in 0..=3 {
            let dir = tempfile::tempdir().unwrap();
            let folder = StateFolder::open(&dir.path().join("state")).unwrap();
            folder.store_identity(&old_key, &old, &old).unwrap();
            let incoming = [new_key.as_str(), &certificate_pem(&new), &certificate_pem(&new)].concat();
            fs::write(folder.path().join(format!("{INCOMING_FILE}.new")), &incoming[..100]).unwrap();
            assert!(fits(&folder, &old), "nothing came yet");
            folder.write(INCOMING_FILE, incoming.as_bytes()).unwrap();
            let files = [(KEY_FILE, new_key.clone()), (CERTIFICATE_FILE, certificate_pem(&new))];
            for (name, text) in files.into_iter().take(stored) {
                folder.write(name, text.as_bytes()).unwrap();
            }
            assert!(fits(&folder, &new), "stopped after {stored} files");
            assert!(!folder.path().join(INCOMING_FILE).exists(), "it is settled");
            assert!(fits(&folder, &new));
        }
    }

    /// As on a medium that went read-only, or while a process that stores was stopped in the middle.
    #[test]
    fn an_identity_is_read_without_the_lock_and_waits_for_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(&dir.path().join("state")).unwrap();
        let (key, certificate) = made();
        folder.store_identity(&key, &certificate, &certificate).unwrap();
        let lock = folder.path().join(LOCK_FILE);
        fs::remove_file(&lock).unwrap();
        assert!(fits(&folder, &certificate));
        assert!(!lock.exists(), "reading makes no file");
        fs::create_dir(&lock).unwrap();
        assert!(fits(&folder, &certificate), "nor needs it one");
        let stored = folder.store_identity(&key, &certificate, &certificate);
        assert!(matches!(stored, Err(IdentityError::File { .. })));
        fs::remove_dir(&lock).unwrap();
        let _held = folder.lock().unwrap();
        assert!(fits(&folder, &certificate));
        let (new_key, new) = made();
        let incoming = [new_key.as_str(), &certificate_pem(&new), &certificate_pem(&new)].concat();
        folder.write(INCOMING_FILE, incoming.as_bytes()).unwrap();
        assert!(fits(&folder, &new), "what another process has begun to store counts");
        assert!(folder.path().join(INCOMING_FILE).exists(), "and is left to it");
        let stored = folder.store_identity(&key, &certificate, &certificate);
        assert!(matches!(stored, Err(IdentityError::Busy { .. })));
    }

    #[test]
    fn what_is_no_identity_for_the_key_replaces_none() {
        let dir = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(&dir.path().join("state")).unwrap();
        let ((key, certificate), (_, other)) = (made(), made());
        folder.store_identity(&key, &certificate, &certificate).unwrap();
        let (next, fitting) = made();
        for (certificate, ca) in [
            (&other[..], &fitting[..]),
            (b"", &fitting),
            (b"none", &fitting),
            (&fitting, b""),
            (&fitting, b"none"),
        ] {
            let stored = folder.store_identity(&next, certificate, ca);
            assert!(matches!(stored, Err(IdentityError::Unfit(_))), "{stored:?}");
        }
        assert!(fits(&folder, &certificate));
    }

    #[test]
    fn a_key_is_asked_for_again_until_its_certificate_is_stored() {
        let dir = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(&dir.path().join("state")).unwrap();
        let agent = AgentId::parse("edge-1").unwrap();
        let asked = folder.next_key(&agent).unwrap();
        assert_eq!(folder.next_key(&agent).unwrap().key_pem, asked.key_pem, "the answer was lost");
        let mode = fs::metadata(folder.path().join(NEXT_KEY_FILE)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let key = rcgen::KeyPair::from_pem(&asked.key_pem).unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["a".into()]).unwrap().self_signed(&key).unwrap();
        folder.store_identity(&asked.key_pem, certificate.der(), certificate.der()).unwrap();
        assert_ne!(folder.next_key(&agent).unwrap().key_pem, asked.key_pem);
        fs::write(folder.path().join(NEXT_KEY_FILE), "torn").unwrap();
        assert_ne!(folder.next_key(&agent).unwrap().key_pem, asked.key_pem);
    }

    #[test]
    fn two_processes_that_store_at_once_leave_one_identity() {
        let dir = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(&dir.path().join("state")).unwrap();
        let identities = [made(), made()];
        std::thread::scope(|scope| {
            for (key, certificate) in &identities {
                let folder = folder.clone();
                scope.spawn(move || {
                    for _ in 0..50 {
                        // Whoever waits for too long is told so, and tries again.
                        let store = || folder.store_identity(key, certificate, certificate);
                        while let Err(error) = store() {
                            assert!(matches!(error, IdentityError::Busy { .. }), "{error}");
                        }
                    }
                });
            }
        });
        assert!(identities.iter().any(|(_, certificate)| fits(&folder, certificate)));
    }

    #[test]
    fn renewal_is_due_after_half_of_a_life_and_not_for_what_is_no_certificate() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["a".into()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2027, 1, 1);
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let with = |der: Vec<u8>| Identity {
            chain: vec![der.into()],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            roots: Vec::new(),
        };
        let at = |day: u64| UNIX_EPOCH + std::time::Duration::from_secs((20_454 + day) * 86_400);
        let identity = with(der);
        assert!(!identity.is_renewal_due(at(0)) && !identity.is_renewal_due(at(182)));
        assert!(identity.is_renewal_due(at(229)) && identity.is_renewal_due(at(1_000)));
        assert!(!with(b"none".to_vec()).is_renewal_due(at(229)));
    }
}
