//! Keys that we draw ourselves: API tokens and sessions. A handle to find it by and a secret to prove it.
//! It must never show its secret but in the text that is handed out once. The hard case is comparing: what is stored is the secret's SHA-256,
//! found by the handle, so that no look-up takes longer for a better guess.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// Begins the text of each key, so that scanners for leaked secrets know it.
const PREFIX: &str = "vdt_";
const HANDLE_BYTES: usize = 12;
const SECRET_BYTES: usize = 32;

/// What a key is found by; no secret.
pub type Handle = [u8; HANDLE_BYTES];

/// A key with its secret of 256 random bits.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    /// What it is found by.
    pub handle: Handle,
    secret: [u8; SECRET_BYTES],
}

impl std::fmt::Debug for Key {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Key").finish_non_exhaustive()
    }
}

impl Key {
    /// A fresh one.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn generate() -> Result<Self, String> {
        let mut key = Self { handle: [0; HANDLE_BYTES], secret: [0; SECRET_BYTES] };
        let filled = getrandom::fill(&mut key.handle).and_then(|()| getrandom::fill(&mut key.secret));
        filled.map_err(|error| format!("the system gives no random numbers: {error}"))?;
        Ok(key)
    }

    /// Reads what [`Key::to_text`] wrote; none for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?;
        let (handle, secret) = bytes.split_first_chunk::<HANDLE_BYTES>()?;
        Some(Self { handle: *handle, secret: secret.try_into().ok()? })
    }

    /// The text for its owner: 63 characters that need no quoting in a header, a cookie or a shell.
    #[must_use]
    pub fn to_text(&self) -> String {
        let bytes = [self.handle.as_slice(), self.secret.as_slice()].concat();
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// What is stored of the secret. It has 256 random bits, so a plain hash is as good as a slow one.
    #[must_use]
    pub fn secret_hash(&self) -> [u8; 32] {
        Sha256::digest(self.secret).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_and_nothing_else_is() {
        let key = Key::generate().unwrap();
        let text = key.to_text();
        assert_eq!(text.len(), 63);
        assert_eq!(Key::parse(&text), Some(key.clone()));
        assert_ne!(Key::generate().unwrap().to_text(), text);
        for bad in ["", "vdt_", "vdt_AAAA", &text[1..], &text[..62], &format!("{text}A"), &format!("{text} ")]
        {
            assert_eq!(Key::parse(bad), None, "{bad}");
        }
        assert!(!format!("{key:?}").contains(&text[20..]), "not shown by accident");
    }
}
