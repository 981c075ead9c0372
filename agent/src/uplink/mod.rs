//! The way to the aggregator: enrolment, and the connection that carries the link's frames.
//!
//! Owns the ways and the identity that opens them. Must never decide what is sent. The hard case is an aggregator that is away or not set up yet: enrolment is tried again until there is a
//! certificate, and after that the link decides when to connect again. Where the config names two ways, a failure on
//! one leads to the other.

pub mod mqtt;
pub mod quic;
mod session;
pub mod wire;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use vedette_common::AgentId;
use vedette_common::limits::FRAME_BYTES_MAX;
use vedette_common::wire::Frame;

use crate::config::{self, Transport};
use crate::engine::Engine;
use crate::identity::{Identity, IdentityError, StateFolder, Token};
use crate::source::Stop;
use mqtt::{MqttError, Topics};
use quic::UplinkError;
use session::Session;
use wire::Wire;

/// Bytes of frames written at a time when there is a backlog.
pub const BATCH_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;
/// How long a write may wait for the aggregator.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How often enrolment is tried again, and a token looked for.
const ENROLL_RETRY: Duration = Duration::from_secs(1);

/// How often it is looked whether the certificate should be renewed.
const RENEWAL_CHECK: Duration = Duration::from_secs(3_600);
/// How long a revoked agent waits before it asks whether it still is, unless it gets another certificate meanwhile.
const REVOKED_REST: Duration = Duration::from_secs(3_600);
/// How long a certificate is waited for when there is another way to the aggregator.
const ENROLL_PATIENCE: Duration = Duration::from_secs(10);

/// Attempts to enrol of which one is told in the log: one in a minute.
const ATTEMPTS_TOLD: u64 = 60;

/// Why an enrolment failed.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// Key or state folder.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The way to the aggregator, or its refusal.
    #[error(transparent)]
    Uplink(#[from] UplinkError),
}

/// Why there is no connection, or none any more.
#[derive(Debug, thiserror::Error)]
enum Loss {
    #[error(transparent)]
    Quic(#[from] UplinkError),
    #[error(transparent)]
    Mqtt(#[from] MqttError),
    #[error("no certificate yet")]
    NotEnrolled,
}

/// A connection by whichever way.
#[derive(Debug)]
enum Connection {
    Quic(Box<quic::Connected>),
    Mqtt(Box<mqtt::Connected>),
}

impl Connection {
    async fn send(&mut self, frames: &[u8]) -> Result<(), Loss> {
        match self {
            Self::Quic(connected) => Ok(connected.sender.send(frames).await?),
            Self::Mqtt(connected) => Ok(connected.send(frames).await?),
        }
    }

    /// The next frame. Dropping the future in between loses nothing.
    async fn frame(&mut self) -> Result<Frame<'_>, Loss> {
        match self {
            Self::Quic(connected) => Ok(connected.receiver.frame().await?),
            Self::Mqtt(connected) => Ok(connected.frame().await?),
        }
    }

    async fn close(self) {
        match self {
            Self::Quic(connected) => connected.sender.close().await,
            Self::Mqtt(connected) => connected.close().await,
        }
    }
}

/// Obtains a certificate with a token and stores it in the state folder.
///
/// # Errors
/// [`EnrollError`]; the identity is unchanged then. The key that was asked for is kept, and asked for again by the next attempt.
pub async fn enroll(
    folder: &StateFolder,
    agent: &AgentId,
    settings: &config::Uplink,
    token: &Token,
    wire: &Arc<Wire>,
) -> Result<(), EnrollError> {
    let new = folder.next_key(agent)?;
    let enrolled = quic::enroll(target(settings, wire), token, &new.csr_der).await?;
    folder.store_identity(&new.key_pem, &enrolled.certificate_der, &enrolled.ca_der)?;
    Ok(())
}

/// Obtains another certificate, for another key, with the present one, and stores it in its place.
///
/// # Errors
/// [`EnrollError`]; the present certificate then stays.
pub async fn renew(
    folder: &StateFolder,
    agent: &AgentId,
    settings: &config::Uplink,
    identity: &Identity,
    wire: &Arc<Wire>,
) -> Result<(), EnrollError> {
    let new = folder.next_key(agent)?;
    let renewed = quic::renew(target(settings, wire), identity, &new.csr_der).await?;
    folder.store_identity(&new.key_pem, &renewed.certificate_der, &renewed.ca_der)?;
    Ok(())
}

fn target<'a>(settings: &'a config::Uplink, wire: &'a Arc<Wire>) -> quic::Target<'a> {
    quic::Target { address: &settings.address, server_name: &settings.server_name, wire }
}

/// One agent's way to its aggregator.
#[derive(Debug)]
pub struct Uplink {
    /// Pipeline, spool and link.
    pub engine: Arc<Engine>,
    /// Where the aggregator is.
    pub settings: config::Uplink,
    /// Where the identity is kept.
    pub folder: StateFolder,
    /// This agent's name.
    pub agent: AgentId,
    /// The region that it speaks for over MQTT.
    pub region: String,
}

impl Uplink {
    /// Does what the link asks for, enrolling when there is no certificate yet, until `stop`.
    pub async fn run(self, mut stop: Stop) {
        let mut session = Session::new(&self);
        tokio::select! {
            () = session.run() => {}
            () = self.keep_certificate() => {}
            () = stop.stopped() => {}
        }
        if let Some(connected) = session.connected {
            connected.close().await;
        }
    }

    /// Renews the certificate well before it expires, for ever. The open connection goes on; the next one shows the new certificate.
    async fn keep_certificate(&self) {
        loop {
            if let Ok(Some(identity)) = self.folder.identity()
                && identity.is_renewal_due(SystemTime::now())
            {
                match renew(&self.folder, &self.agent, &self.settings, &identity, self.engine.wire()).await {
                    Ok(()) => tracing::info!(agent = %self.agent, "renewed the certificate"),
                    Err(error) => {
                        tracing::warn!(%error, "the certificate is not renewed; trying again in an hour");
                    }
                }
            }
            tokio::time::sleep(RENEWAL_CHECK).await;
        }
    }

    /// The certificate that the next connection would show.
    fn certificate(&self) -> Option<CertificateDer<'static>> {
        self.folder.identity().ok().flatten()?.chain.into_iter().next()
    }

    /// Connects by `transport`.
    async fn connect(&self, transport: Transport) -> Result<Connection, Loss> {
        let config::Uplink { kind, address, mqtt, .. } = &self.settings;
        match transport {
            Transport::Quic => {
                let patience = if kind.has_other() { ENROLL_PATIENCE } else { Duration::MAX };
                let identity = tokio::time::timeout(patience, self.identity()).await;
                let identity = identity.map_err(|_| Loss::NotEnrolled)?;
                let connected = quic::connect(target(&self.settings, self.engine.wire()), &identity).await?;
                tracing::info!(address, "connected to the aggregator");
                Ok(Connection::Quic(Box::new(connected)))
            }
            Transport::Mqtt => {
                let identity = self.folder.identity().unwrap_or_else(|error| {
                    tracing::error!(%error, "the stored certificate cannot be used");
                    None
                });
                let topics = Topics::new(&self.region, &self.agent);
                let wire = Arc::clone(self.engine.wire());
                let connected = mqtt::connect(mqtt, &self.agent, &topics, identity.as_ref(), wire).await?;
                tracing::info!(url = mqtt.url, "connected to the broker");
                Ok(Connection::Mqtt(Box::new(connected)))
            }
        }
    }

    /// The stored identity, or the one that enrolment gives once a token can be had and the aggregator answers. Read
    /// anew for each connection, so that `enroll` beside a running agent is enough.
    async fn identity(&self) -> Identity {
        let mut attempts: u64 = 0;
        loop {
            let local = is_loopback(&self.settings.address)
                .then(|| Token::left_by_aggregator(&self.settings.aggregator_state_dir))
                .flatten();
            match self.folder.identity() {
                // A local aggregator that began anew has another authority, and its token says so.
                Ok(Some(identity)) if local.as_ref().is_none_or(|token| quic::trusts(&identity, token)) => {
                    return identity;
                }
                Ok(_) if self.enroll_locally(local, attempts).await => continue,
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "the stored certificate cannot be used"),
            }
            attempts += 1;
            tokio::time::sleep(ENROLL_RETRY).await;
        }
    }

    /// Whether there is a certificate now. Says why not at the first attempt and then once in a while.
    async fn enroll_locally(&self, token: Option<Token>, attempts: u64) -> bool {
        let told = attempts.is_multiple_of(ATTEMPTS_TOLD);
        let config::Uplink { address, aggregator_state_dir, .. } = &self.settings;
        let Some(token) = token else {
            if told && is_loopback(address) {
                let folder = aggregator_state_dir.display();
                tracing::info!(%folder, "no certificate yet; waiting for the enrolment token of an aggregator of this user");
            } else if told {
                tracing::warn!(
                    "no certificate yet: run `vedette-agent enroll --aggregator {address} --token TOKEN`"
                );
            }
            return false;
        };
        match enroll(&self.folder, &self.agent, &self.settings, &token, self.engine.wire()).await {
            Ok(()) => tracing::info!(agent = %self.agent, "enrolled with the token that the aggregator left"),
            Err(error) => {
                if told {
                    tracing::warn!(%error, "enrolment failed; trying again");
                }
                return false;
            }
        }
        true
    }
}

/// Whether an address is this machine's own.
fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_known_in_every_spelling() {
        for yes in ["127.0.0.1:8461", "127.8.0.1:1", "[::1]:8461", "localhost:8461"] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in ["10.0.0.1:8461", "example.com:8461", "[2001:db8::1]:8461"] {
            assert!(!is_loopback(no), "{no}");
        }
    }
}
