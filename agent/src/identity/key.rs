//! Keys of an agent, and the requests to sign them.
//!
//! Must never write a key anywhere: the state folder does. The hard case is a key whose certificate never arrived: it is asked for again.

use vedette_common::AgentId;

use super::IdentityError;

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
        Self::request(&rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?, agent)
    }

    /// A key that was made before, with a new request.
    pub(super) fn of(key_pem: &str, agent: &AgentId) -> Result<Self, IdentityError> {
        Self::request(&rcgen::KeyPair::from_pem(key_pem)?, agent)
    }

    fn request(key: &rcgen::KeyPair, agent: &AgentId) -> Result<Self, IdentityError> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, agent.as_str());
        let request = params.serialize_request(key)?;
        Ok(Self { key_pem: key.serialize_pem(), csr_der: request.der().to_vec() })
    }
}
