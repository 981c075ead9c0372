//! Fuzzes what comes with an identity: certificates, signing requests, and tokens as text.
//!
//! A certificate is verified before it is read, but what is read of it must hold for any bytes. The hard case is a certificate
//! that is right but for a few bytes; the corpus holds some.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vedette_agent::validity::Validity;
use vedette_aggregator::ca::{SERVER_NAME, SigningRequest};
use vedette_aggregator::enroll::Token;
use vedette_aggregator::identity::Identity;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(identity) = Identity::from_certificate(bytes) {
        assert!(
            identity.regions.is_all() || identity.regions.names().all(|name| identity.regions.allow(name))
        );
    }
    if let Some(validity) = Validity::of(bytes) {
        assert!(validity.from_s <= validity.until_s);
        assert!((validity.from_s..=validity.until_s).contains(&validity.renewal_s(255)));
    }
    if let Ok(request) = SigningRequest::parse(bytes) {
        assert_ne!(request.agent.as_str(), SERVER_NAME);
    }
    let Ok(text) = str::from_utf8(bytes) else { return };
    let there = Token::parse(text);
    let here = vedette_agent::identity::Token::parse(text).ok();
    assert_eq!(
        there.map(|token| token.secret),
        here.map(|token| token.secret),
        "both sides read tokens alike"
    );
});
