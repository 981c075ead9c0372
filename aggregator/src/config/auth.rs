//! Who may use console and API: whether they must log in, for how long, and which proxies are believed.
//!
//! Owns the keys of `[auth]` and of the console's TLS. Must never hold a secret: users and tokens are made by commands and stand as hashes in the
//! store. The hard case is an address that other machines reach: it is closed unless the config says `"none"` in so many words.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Listen, Memory, Problems, check_range, path};
use crate::auth::password::CHECK_KIBIBYTES;
use crate::limits::PASSWORD_CHECKS_MAX;

/// Who may use console and API.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// Whether reading needs a log-in or a token; default auto. Changes always do.
    pub mode: AuthMode,
    /// How long a log-in lasts, in seconds, 60 to 31,536,000; default 43,200 (12 hours).
    pub session_s: u32,
    /// Whether `/metrics` needs neither; default false.
    pub metrics_open: bool,
    /// Addresses of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed; default none.
    pub proxies: Vec<IpAddr>,
}

impl Default for Auth {
    fn default() -> Self {
        Self { mode: AuthMode::Auto, session_s: 43_200, metrics_open: false, proxies: Vec::new() }
    }
}

/// Whether reading needs a log-in or a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMode {
    /// Unless `listen.http` is on loopback.
    Auto,
    /// Always: for a proxy on this machine that lets everybody through.
    Required,
    /// Never: something in front does it.
    None,
}

/// Files for TLS at the console's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpTls<'a> {
    /// The certificate and those above it, PEM.
    pub certificate: &'a PathBuf,
    /// Its private key, PEM.
    pub key: &'a PathBuf,
}

impl Listen {
    /// The files for TLS, if the console speaks it.
    #[must_use]
    pub fn http_tls(&self) -> Option<HttpTls<'_>> {
        let (certificate, key) = (self.http_certificate_file.as_ref()?, self.http_key_file.as_ref()?);
        Some(HttpTls { certificate, key })
    }

    pub(super) fn tls_problems(&self, problems: &mut Problems) {
        let halves = [
            ("http_certificate_file", &self.http_certificate_file, &self.http_key_file, "http_key_file"),
            ("http_key_file", &self.http_key_file, &self.http_certificate_file, "http_certificate_file"),
        ];
        for (name, file, other, missing) in halves {
            if file.is_some() && other.is_none() {
                problems.push((path(&["listen", name]), format!("is of no use without {missing}")));
            }
        }
    }
}

impl Auth {
    pub(super) fn problems(&self, problems: &mut Problems) {
        check_range(problems, &["auth", "session_s"], self.session_s.into(), 60, 31_536_000);
    }
}

/// What log-ins may need at worst, whatever the config says: passwords being checked fill this much.
pub(super) fn memory() -> Memory {
    let bytes_each = u64::from(CHECK_KIBIBYTES) * 1_024;
    Memory { limit: "auth (passwords checked)", items: PASSWORD_CHECKS_MAX as u64, bytes_each }
}
