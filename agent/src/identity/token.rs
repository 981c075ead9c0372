//! Tokens: what an agent enrols with, once.
//!
//! Must never show a secret, but to the aggregator that the token names. The hard case is a text that was cut when it was copied: it is none.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use vedette_common::limits::TOKEN_SECRET_BYTES;

use super::{IdentityError, read_bounded};

/// The token in an aggregator's state folder for agents of the same user.
pub const LOCAL_TOKEN_FILE: &str = "enrolment-token";

/// Bytes of the fingerprint in a token: SHA-256.
pub const FINGERPRINT_BYTES: usize = 32;
/// How every token begins.
const TOKEN_PREFIX: &str = "vdt1.";

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
