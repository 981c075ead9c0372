//! Where a broker listens, as its address says.
//! It must never hold a secret: a user in the address is refused. The hard case is IPv6, whose colons are no port.

/// Where a broker listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Whether TLS protects the way.
    pub tls: bool,
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Broker {
    /// Reads `mqtt://HOST[:1883]` or `mqtts://HOST[:8883]`.
    #[must_use]
    pub fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let (tls, port) = match scheme {
            "mqtt" => (false, 1883),
            "mqtts" => (true, 8883),
            _ => return None,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, digits)) if !digits.ends_with(']') => (host, digits.parse().ok()?),
            _ => (rest, port),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let plain = !host.is_empty() && !host.contains(['/', '@', ' ', '?', '#']);
        (plain && port != 0).then(|| Self { tls, host: host.to_owned(), port })
    }
}
