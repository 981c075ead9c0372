//! Passwords: Argon2id (RFC 9106) with 19 MiB, two passes and one lane, kept as a PHC string.
//! It must never store or show a password. The hard case is a name that does not exist: a decoy is checked in its place,
//! so that an answer takes as long.

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};

use super::AuthError;

/// Bytes that a password has at least: long enough that a limited number of guesses is hopeless.
pub const PASSWORD_BYTES_MIN: usize = 12;
/// Bytes that a password has at most.
pub const PASSWORD_BYTES_MAX: usize = 1_024;
/// Kibibytes that one check fills; OWASP's advice for Argon2id.
pub const CHECK_KIBIBYTES: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// The stored form of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(argon2::password_hash::phc::PasswordHash);

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("PasswordHash").finish_non_exhaustive()
    }
}

impl PasswordHash {
    /// Hashes `password` with a fresh salt.
    ///
    /// # Errors
    /// [`AuthError::System`] when there is no randomness or no memory.
    pub fn new(password: &str) -> Result<Self, AuthError> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt)
            .map_err(|error| AuthError::System(format!("the system gives no random numbers: {error}")))?;
        let hashed = hasher()?.hash_password_with_salt(password.as_bytes(), &salt);
        hashed.map(Self).map_err(|error| AuthError::System(format!("the password cannot be hashed: {error}")))
    }

    /// What nobody's password matches: its own is drawn and forgotten.
    ///
    /// # Errors
    /// As [`PasswordHash::new`].
    pub fn decoy() -> Result<Self, AuthError> {
        Self::new(&super::secret::Key::generate().map_err(AuthError::System)?.to_text())
    }

    /// Reads the PHC string; none for what this program did not write.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        argon2::password_hash::phc::PasswordHash::new(text).ok().map(Self)
    }

    /// The PHC string: `$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH`.
    #[must_use]
    pub fn to_text(&self) -> String {
        self.0.to_string()
    }

    /// Whether it is of `password`; takes tens of milliseconds and 19 MiB, and compares in constant time.
    #[must_use]
    pub fn is_of(&self, password: &str) -> bool {
        // The length is looked at last: a password that cannot be right takes as long as one that could.
        let same = hasher().is_ok_and(|hasher| hasher.verify_password(password.as_bytes(), &self.0).is_ok());
        same && password.len() <= PASSWORD_BYTES_MAX
    }
}

/// What is wrong with a new password; none when it will do.
#[must_use]
pub fn problem(password: &str) -> Option<String> {
    (!(PASSWORD_BYTES_MIN..=PASSWORD_BYTES_MAX).contains(&password.len()))
        .then(|| format!("a password has {PASSWORD_BYTES_MIN} to {PASSWORD_BYTES_MAX} bytes"))
}

fn hasher() -> Result<Argon2<'static>, AuthError> {
    let params = Params::new(CHECK_KIBIBYTES, PASSES, LANES, None);
    let params = params.map_err(|error| AuthError::System(format!("Argon2: {error}")))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_password_alone_matches_after_being_stored() {
        let hash = PasswordHash::new("correct horse battery").unwrap();
        let text = hash.to_text();
        assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
        let read = PasswordHash::read(&text).unwrap();
        assert!(read.is_of("correct horse battery"));
        for wrong in ["", "correct horse batter", "correct horse battery ", "Correct horse battery"] {
            assert!(!read.is_of(wrong), "{wrong}");
        }
        assert_ne!(PasswordHash::new("correct horse battery").unwrap().to_text(), text, "a salt of its own");
        assert!(!PasswordHash::decoy().unwrap().is_of(""));
        assert_eq!(PasswordHash::read("plain text"), None);
    }

    #[test]
    fn short_and_endless_passwords_are_refused() {
        assert!(problem("short").is_some() && problem(&"x".repeat(1_025)).is_some());
        assert_eq!(problem("twelve bytes"), None);
    }
}
