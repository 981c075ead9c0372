//! What stands before every route of API and console: who may ask, and what a browser may do with the answer.
//!
//! Must never let a page of another site read an answer. The hard case is a name that resolves to this machine but
//! belongs to somebody else: only addresses, localhost and the config's names are accepted in the Host header.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::{Semaphore, watch};

use super::Refusal;
use crate::config::Config;

/// Everything comes from this address; nothing is inline, framed, or sent elsewhere.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What the guard knows: the names that are served, and how many requests are under way.
#[derive(Clone)]
pub(super) struct Guard {
    config: watch::Receiver<Arc<Config>>,
    requests: Arc<Semaphore>,
}

impl Guard {
    /// A guard with the names of the config, and its limit on requests at a time.
    pub(super) fn new(config: watch::Receiver<Arc<Config>>) -> Self {
        let requests_max = config.borrow().limits.requests_max as usize;
        Self { config, requests: Arc::new(Semaphore::new(requests_max)) }
    }
}

/// Passes on what may be asked, and marks the answer.
pub(super) async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let names = guard.config.borrow().listen.http_names.clone();
    let mut response = match (check(request.headers(), &names), guard.requests.try_acquire()) {
        (Ok(()), Ok(_permit)) => next.run(request).await,
        (Err(message), _) => Refusal(StatusCode::FORBIDDEN, message.into()).into_response(),
        (_, Err(_)) => {
            let message = "too many requests at a time: see `limits.requests_max`";
            Refusal(StatusCode::SERVICE_UNAVAILABLE, message.into()).into_response()
        }
    };
    let marks = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in marks {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn check(headers: &HeaderMap, names: &[String]) -> Result<(), &'static str> {
    let host =
        headers.get(header::HOST).and_then(|it| it.to_str().ok()).ok_or("the Host header is missing")?;
    if !is_ours(host, names) {
        return Err(
            "this name is not served: ask for an address or localhost, or add it to `listen.http_names`",
        );
    }
    match headers.get("sec-fetch-site").and_then(|it| it.to_str().ok()) {
        Some("cross-site") if headers.get("sec-fetch-mode").is_none_or(|mode| mode != "navigate") => {
            Err("another site may not read this")
        }
        _ => Ok(()),
    }
}

fn is_ours(host: &str, names: &[String]) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let known = |ours: &str| ours.eq_ignore_ascii_case(name);
    name.parse::<IpAddr>().is_ok() || known("localhost") || names.iter().any(|ours| known(ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_localhost_and_configured_names_are_ours() {
        let names = ["vedette.example".to_owned()];
        for host in ["127.0.0.1:8460", "localhost:8460", "[::1]:8460", "10.0.0.7", "Vedette.Example:80"] {
            assert!(is_ours(host, &names), "{host}");
        }
        for host in ["rebound.example", "localhost.rebound.example:8460", "127.0.0.1.rebound.example", ""] {
            assert!(!is_ours(host, &names), "{host}");
        }
    }

    #[test]
    fn scripts_of_other_sites_are_refused_and_links_followed() {
        let mut headers = HeaderMap::new();
        assert!(check(&headers, &[]).is_err(), "no Host header");
        headers.insert(header::HOST, HeaderValue::from_static("localhost"));
        assert!(check(&headers, &[]).is_ok());
        headers.insert("sec-fetch-site", HeaderValue::from_static("cross-site"));
        assert!(check(&headers, &[]).is_err());
        headers.insert("sec-fetch-mode", HeaderValue::from_static("navigate"));
        assert!(check(&headers, &[]).is_ok());
    }
}
