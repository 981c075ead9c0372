//! What stands before every route of API and console: who may ask, and what a browser may do with the answer.
//!
//! Must never let a page of another site read an answer or cause a change. The hard cases are a name that resolves to this machine but
//! belongs to somebody else (only addresses, localhost and the config's names are accepted in the Host header), and a browser that sends its
//! cookie with a request that another site made up (a change must come from a page of this very address).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use tokio::sync::Semaphore;

use super::Refusal;
use super::login::SESSION_COOKIE;
use crate::auth::{AuthError, By, Caller, Credentials, Gate, Scope};
use crate::config::Config;
use crate::metrics::Tally;

/// Everything comes from this address; nothing is inline, framed, or sent elsewhere.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
/// What a stranger needs to log in; none of it tells anything.
const OPEN_PATHS: [&str; 4] = ["/login", "/console.css", "/console.js", "/icon.svg"];

/// What the guard knows: the gate, and how many requests are under way; strangers have a part of their own, so that they keep nobody out.
#[derive(Clone)]
pub(super) struct Guard {
    gate: Gate,
    requests: Arc<Semaphore>,
    of_strangers: Arc<Semaphore>,
}

impl Guard {
    /// A guard with the config's limit on requests at a time.
    pub(super) fn new(gate: Gate) -> Self {
        let requests_max = gate.config().limits.requests_max as usize;
        let places = |count| Arc::new(Semaphore::new(count));
        Self { gate, requests: places(requests_max), of_strangers: places(requests_max.div_ceil(4)) }
    }
}

impl Guard {
    /// The places for requests of whoever asks. Who is not known and logs in, or may not even read, sends bodies that may never come.
    fn places(&self, method: &Method, caller: Option<&Caller>) -> &Semaphore {
        let is_stranger = caller.is_none() && (changes(method) || self.gate.is_closed());
        if is_stranger { &self.of_strangers } else { &self.requests }
    }

    fn too_many(&self) -> Response {
        self.gate.metrics().count(Tally::TurnedAway, "too_many");
        let message = "too many requests at a time: see `limits.requests_max`";
        Refusal(StatusCode::SERVICE_UNAVAILABLE, message.into()).into_response()
    }
}

/// Whether a request of this method changes something.
fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Where a request really comes from, and whether it came encrypted: a believed proxy knows better than the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) address: IpAddr,
    pub(super) secure: bool,
}

/// Passes on what may be asked, and marks the answer.
pub(super) async fn guard(
    State(guard): State<Guard>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let mut response = match admit(&guard.gate, peer.ip(), Asked::of(&request)).await {
        Ok((origin, caller)) => {
            let places = guard.places(request.method(), caller.as_ref());
            request.extensions_mut().insert(origin);
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            match places.try_acquire() {
                Ok(_permit) => next.run(request).await,
                Err(_) => guard.too_many(),
            }
        }
        Err((reason, response)) => {
            guard.gate.metrics().count(Tally::TurnedAway, reason);
            *response
        }
    };
    mark(response.headers_mut());
    response
}

fn mark(headers: &mut HeaderMap) {
    let marks = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Not "no-referrer": with that, a browser hides the origin of our own log-in form too.
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in marks {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// A request that is turned away: the reason to count, and the answer.
type Turned = (&'static str, Box<Response>);

/// What is looked at of a request; its body cannot be shared between threads.
#[derive(Clone, Copy)]
struct Asked<'a> {
    method: &'a Method,
    path: &'a str,
    headers: &'a HeaderMap,
}

impl<'a> Asked<'a> {
    fn of(request: &'a Request) -> Self {
        Self { method: request.method(), path: request.uri().path(), headers: request.headers() }
    }
}

async fn admit(gate: &Gate, peer: IpAddr, asked: Asked<'_>) -> Result<(Origin, Option<Caller>), Turned> {
    let Asked { method, path, headers } = asked;
    let config = gate.config();
    let turned =
        |reason, status, message: &str| (reason, Box::new(Refusal(status, message.into()).into_response()));
    check(headers, &config.listen.http_names)
        .map_err(|message| turned("foreign_site", StatusCode::FORBIDDEN, message))?;
    let origin = origin(gate, &config, peer, headers);
    let changes = changes(method);
    let caller = known(gate, headers).await?;
    if changes && caller.as_ref().is_none_or(|caller| caller.by == By::Session) {
        comes_from_here(headers, origin.secure)
            .map_err(|message| turned("foreign_origin", StatusCode::FORBIDDEN, message))?;
    }
    if OPEN_PATHS.contains(&path) {
        return Ok((origin, caller));
    }
    match &caller {
        None if changes || gate.is_closed() => Err(("unknown", Box::new(ask_for_log_in(path)))),
        Some(caller) if changes && path != "/logout" && caller.scope < Scope::Write => {
            let message = format!("{} may only read; changes need the scope `write`", caller.name);
            Err(turned("scope", StatusCode::FORBIDDEN, &message))
        }
        _ => Ok((origin, caller)),
    }
}

async fn known(gate: &Gate, headers: &HeaderMap) -> Result<Option<Caller>, Turned> {
    gate.caller(credentials(headers)).await.map_err(|error| match error {
        AuthError::Token => ("token", Box::new(challenge(&error.to_string()))),
        error => ("store", Box::new(Refusal::from(error).into_response())),
    })
}

/// For the metrics page, which any name may ask for: a token or a session, where the config wants one.
pub(crate) async fn metrics_guard(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    if gate.hides_metrics() {
        match known(&gate, request.headers()).await {
            Ok(Some(_)) => {}
            Ok(None) => {
                gate.metrics().count(Tally::TurnedAway, "unknown");
                return ask_for_log_in("/metrics");
            }
            Err((reason, response)) => {
                gate.metrics().count(Tally::TurnedAway, reason);
                return *response;
            }
        }
    }
    next.run(request).await
}

/// People are led to the log-in page; scripts are told what is missing.
fn ask_for_log_in(path: &str) -> Response {
    if path == "/" {
        return Redirect::to("/login").into_response();
    }
    challenge("log in at /login, or send `Authorization: Bearer TOKEN`")
}

fn challenge(message: &str) -> Response {
    let mut response = Refusal(StatusCode::UNAUTHORIZED, message.to_owned()).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn credentials(headers: &HeaderMap) -> Credentials<'_> {
    // An Authorization header that is no text is a wrong one, not a missing one.
    let authorization = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
    Credentials { authorization, cookie: session_cookie(headers) }
}

/// The value of our cookie.
#[must_use]
pub fn session_cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    cookies
        .flat_map(|line| line.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='))
        .find(|(name, _)| *name == SESSION_COOKIE)
        .map(|(_, value)| value)
}

fn origin(gate: &Gate, config: &Config, peer: IpAddr, headers: &HeaderMap) -> Origin {
    let direct = Origin { address: peer, secure: gate.speaks_tls() };
    if !config.auth.proxies.contains(&peer.to_canonical()) {
        return direct;
    }
    // The last entry is the one that the proxy itself wrote; earlier ones are its client's claims.
    let address = last(headers, "x-forwarded-for")
        .and_then(|list| list.rsplit(',').next())
        .and_then(|entry| entry.trim().parse().ok())
        .unwrap_or(direct.address);
    let secure = direct.secure || last(headers, "x-forwarded-proto") == Some("https");
    Origin { address, secure }
}

/// A proxy that adds a line of its own, and not an entry, adds it below those of its client.
fn last<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get_all(name).iter().next_back().and_then(|value| value.to_str().ok())
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

/// Whether a change was asked for by a page of this very address: browsers say where a request was made, and nothing else has our cookie.
///
/// Over TLS a page that came without is another site: anybody on the way may have written it.
///
/// # Errors
/// What is wrong with it.
pub fn comes_from_here(headers: &HeaderMap, secure: bool) -> Result<(), &'static str> {
    // What is there and no text is none of ours, and not missing.
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text("host").unwrap_or_default();
    match (text("origin"), text("sec-fetch-site")) {
        (_, Some(site)) if site != "same-origin" => Err("another site may not change anything here"),
        (Some(origin), _) => {
            let plain = || origin.strip_prefix("http://").filter(|_| !secure);
            let from = origin.strip_prefix("https://").or_else(plain);
            let here = from.is_some_and(|from| from.eq_ignore_ascii_case(host));
            here.then_some(()).ok_or("another site may not change anything here")
        }
        (None, Some(_)) => Ok(()),
        (None, None) => {
            Err("a change needs an Origin header of this address, or a token in place of a session")
        }
    }
}

/// Whether the Host header names this very machine: an address, localhost, or a name from the config.
#[must_use]
pub fn is_ours(host: &str, names: &[String]) -> bool {
    let is_port = |text: &str| {
        text.is_empty()
            || text.strip_prefix(':').is_some_and(|port| port.bytes().all(|it| it.is_ascii_digit()))
    };
    if let Some((address, port)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address.parse::<Ipv6Addr>().is_ok() && is_port(port);
    }
    let (name, port) = host.find(':').map_or((host, ""), |at| host.split_at(at));
    let known = |ours: &str| ours.eq_ignore_ascii_case(name);
    let is_known =
        name.parse::<Ipv4Addr>().is_ok() || known("localhost") || names.iter().any(|ours| known(ours));
    is_known && is_port(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        pairs.collect()
    }

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

    /// Found by fuzzing: what followed an address in brackets, or stood for a port, was not looked at.
    #[test]
    fn what_begins_like_an_address_is_not_ours_for_that() {
        for host in [
            "[::1].rebound.example:8460",
            "[::]::.@0..0",
            "[::1]rebound.example",
            "[rebound.example]",
            "127.0.0.1:rebound.example",
            "localhost:8460:1",
            "::1",
        ] {
            assert!(!is_ours(host, &[]), "{host}");
        }
        assert!(is_ours("[::1]", &[]) && is_ours("localhost:", &[]));
    }

    #[test]
    fn scripts_of_other_sites_are_refused_and_links_followed() {
        assert!(check(&headers(&[]), &[]).is_err(), "no Host header");
        assert!(check(&headers(&[("host", "localhost")]), &[]).is_ok());
        let mut foreign = headers(&[("host", "localhost"), ("sec-fetch-site", "cross-site")]);
        assert!(check(&foreign, &[]).is_err());
        foreign.insert("sec-fetch-mode", HeaderValue::from_static("navigate"));
        assert!(check(&foreign, &[]).is_ok());
    }

    #[test]
    fn of_several_lines_of_a_proxy_the_last_is_its_own() {
        let mut lines = headers(&[("x-forwarded-for", "203.0.113.9, 198.51.100.4")]);
        assert_eq!(last(&lines, "x-forwarded-for"), Some("203.0.113.9, 198.51.100.4"));
        lines.append("x-forwarded-for", HeaderValue::from_static("198.51.100.7"));
        assert_eq!(last(&lines, "x-forwarded-for"), Some("198.51.100.7"));
        assert_eq!(last(&lines, "x-forwarded-proto"), None);
    }

    #[test]
    fn a_change_comes_from_a_page_of_this_address() {
        let here = ("host", "vedette.example:8460");
        for good in [
            vec![here, ("origin", "https://vedette.example:8460")],
            vec![here, ("origin", "http://Vedette.Example:8460"), ("sec-fetch-site", "same-origin")],
            vec![here, ("sec-fetch-site", "same-origin")],
        ] {
            assert_eq!(comes_from_here(&headers(&good), false), Ok(()), "{good:?}");
        }
        for bad in [
            vec![here],
            vec![here, ("origin", "null")],
            vec![here, ("origin", "https://evil.example")],
            vec![here, ("origin", "https://vedette.example")],
            vec![here, ("origin", "https://vedette.example:8460.evil.example")],
            vec![here, ("sec-fetch-site", "same-site")],
            vec![here, ("sec-fetch-site", "none")],
            vec![here, ("origin", "https://vedette.example:8460"), ("sec-fetch-site", "cross-site")],
        ] {
            assert!(comes_from_here(&headers(&bad), false).is_err(), "{bad:?}");
        }
        let mut no_text = headers(&[here, ("sec-fetch-site", "same-origin")]);
        no_text.insert("origin", HeaderValue::from_bytes(b"https://vedette.example:61\xf085").unwrap());
        assert!(comes_from_here(&no_text, false).is_err(), "what cannot be read is not missing");
        let encrypted = |scheme| comes_from_here(&headers(&[here, ("origin", scheme)]), true);
        assert_eq!(encrypted("https://vedette.example:8460"), Ok(()));
        assert!(encrypted("http://vedette.example:8460").is_err(), "a page that anybody may have written");
    }

    #[test]
    fn our_cookie_is_found_among_others_and_never_by_a_part_of_its_name() {
        let found = |line: &'static str| session_cookie(&headers(&[("cookie", line)])).map(str::to_owned);
        assert_eq!(found("a=1; vedette_session=vdt_x; b=2").as_deref(), Some("vdt_x"));
        assert_eq!(found("xvedette_session=vdt_x"), None);
        assert_eq!(found("vedette_session"), None);
    }
}
