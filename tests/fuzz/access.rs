//! Fuzzes what a stranger's request brings: cookies, tokens, the Host and Origin headers, and the bodies of changes.
//!
//! The hard case is a name that only looks like ours: it must be refused however it is written.
#![no_main]

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use vedette_aggregator::api::{LabelOrder, SilenceOrder, comes_from_here, is_ours, session_cookie};
use vedette_aggregator::auth::password::PasswordHash;
use vedette_aggregator::auth::secret::Key;

fuzz_target!(|bytes: &[u8]| {
    // Bodies: each is read or refused.
    let _ = serde_json::from_slice::<SilenceOrder>(bytes);
    let _ = serde_json::from_slice::<LabelOrder>(bytes);
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Some(key) = Key::parse(text) {
        assert_eq!(key.to_text(), text, "one key has one text");
    }
    if let Some(hash) = PasswordHash::read(text) {
        assert!(PasswordHash::read(&hash.to_text()).is_some());
    }
    if is_ours(text, &["vedette.example".to_owned()]) {
        assert!(!text.contains("evil") && !text.contains('@'), "{text} is none of our names");
    }
    // Headers: lines of a name and a value.
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    let headers: HeaderMap = pairs
        .filter_map(|(name, value)| {
            Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value).ok()?))
        })
        .collect();
    if let Some(cookie) = session_cookie(&headers) {
        assert!(!cookie.contains(';'));
    }
    if comes_from_here(&headers, false).is_ok()
        && let Some(origin) = headers.get("origin")
    {
        let host = headers.get("host").map_or(&[][..], HeaderValue::as_bytes);
        let origin = origin.as_bytes();
        assert!(origin.len() >= host.len(), "an origin names a whole host");
        assert!(origin[origin.len() - host.len()..].eq_ignore_ascii_case(host), "the origin is another");
    }
});
