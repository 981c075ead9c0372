//! The session: doing what the link asks for over one connection at a time.
//!
//! It must never hold a record that the spool does not hold too. The hard case is two ways: a failure on one leads to the
//! other, and from the other the way goes back to the preferred one as soon as that stands, without a gap in between.

use std::pin::Pin;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::time::Instant;
use vedette_agent_core::link::{LinkError, LinkOutput, Received};
use vedette_common::limits::FRAME_BYTES_MAX;
use vedette_common::wire::RefuseReason;

use super::quic::UplinkError;
use super::{BATCH_BYTES_MAX, Connection, Loss, REVOKED_REST, SEND_TIMEOUT, Uplink};
use crate::config::Transport;
use crate::engine::Engine;

/// How often the pause before the preferred way is tried again doubles at most.
const RETURN_DOUBLINGS_MAX: u32 = 4;

/// An attempt to connect, under way beside the present connection.
type Attempt<'a> = Pin<Box<dyn Future<Output = Result<Connection, Loss>> + Send + 'a>>;

/// The connection and what is on its way into it.
pub(super) struct Session<'a> {
    uplink: &'a Uplink,
    engine: &'a Engine,
    pub(super) connected: Option<Connection>,
    /// By which way.
    way: Transport,
    /// Connections in a row on which the aggregator did not answer.
    failures: usize,
    /// Whether it has answered on this one. A broker that is there says nothing of the aggregator behind it.
    answered: bool,
    /// When the agent was told that it is revoked, and with which certificate.
    revoked: Option<(Instant, Option<CertificateDer<'static>>)>,
    /// When the preferred way is tried again beside the one that carries.
    returns_at: Option<Instant>,
    /// That attempt.
    returning: Option<Attempt<'a>>,
    /// Attempts in a row that led nowhere.
    returns_failed: u32,
    frame: Box<[u8; FRAME_BYTES_MAX]>,
    batch: Vec<u8>,
}

impl<'a> Session<'a> {
    pub(super) fn new(uplink: &'a Uplink) -> Self {
        let batch = Vec::with_capacity(BATCH_BYTES_MAX);
        let frame = Box::new([0; FRAME_BYTES_MAX]);
        Self {
            uplink,
            engine: &uplink.engine,
            connected: None,
            way: uplink.settings.kind.after(0),
            failures: 0,
            answered: false,
            revoked: None,
            returns_at: None,
            returning: None,
            returns_failed: 0,
            frame,
            batch,
        }
    }

    pub(super) async fn run(&mut self) {
        loop {
            match self.engine.poll_link(&mut self.frame) {
                Some(LinkOutput::Connect) => self.connect().await,
                Some(LinkOutput::Send(length)) => {
                    self.batch.extend_from_slice(&self.frame[..length]);
                    if self.batch.len() + FRAME_BYTES_MAX > BATCH_BYTES_MAX {
                        self.flush().await;
                    }
                }
                Some(LinkOutput::Close) => self.close().await,
                None => {
                    self.flush().await;
                    self.wait().await;
                }
            }
        }
    }

    async fn connect(&mut self) {
        self.batch.clear();
        if self.rests() {
            return self.engine.disconnected();
        }
        let transport = self.uplink.settings.kind.after(self.failures);
        // A failure is that of the way that is tried.
        self.way = transport;
        match self.uplink.connect(transport).await {
            Ok(connected) => {
                self.connected = Some(connected);
                if transport != self.preferred() {
                    self.plan_return();
                }
                self.engine.connected();
                // The handshake was the last of what happens seldom.
                if let Err(error) = crate::pages::give_back_now_and_then() {
                    tracing::debug!(%error, "pages of the program could not be given back");
                }
            }
            Err(error) => {
                tracing::warn!(?transport, %error, "the aggregator cannot be reached");
                self.forget();
                self.engine.disconnected();
            }
        }
    }

    /// Whether the agent was revoked, and nothing has changed since.
    fn rests(&mut self) -> bool {
        let rests = |(since, certificate): &(Instant, Option<CertificateDer<'static>>)| {
            since.elapsed() < REVOKED_REST && *certificate == self.uplink.certificate()
        };
        self.revoked = self.revoked.take().filter(rests);
        self.revoked.is_some()
    }

    /// There is no connection any more. After one that the aggregator answered on, the preferred way is tried first.
    fn forget(&mut self) {
        self.batch.clear();
        if self.way == self.preferred() && !self.answered {
            self.returns_failed = self.returns_failed.saturating_add(1);
        }
        self.connected = None;
        (self.returns_at, self.returning) = (None, None);
        self.failures = if self.answered { 0 } else { self.failures.wrapping_add(1) };
        self.answered = false;
    }

    fn preferred(&self) -> Transport {
        self.uplink.settings.kind.after(0)
    }

    /// Sets when the preferred way is tried again: later after each attempt that led nowhere, and not all agents at once.
    fn plan_return(&mut self) {
        let seconds =
            u64::from(self.uplink.settings.prefer_again_s) << self.returns_failed.min(RETURN_DOUBLINGS_MAX);
        let jitter = f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX);
        let pause = Duration::from_secs(seconds).mul_f64(1.0 - jitter / 2.0);
        self.returns_at = Some(Instant::now() + pause);
    }

    /// Goes over to the preferred way once it stands. What was on its way over the other is sent again: the aggregator
    /// takes each record once, whichever way it comes.
    async fn return_by(&mut self, attempt: Result<Connection, Loss>) {
        self.returning = None;
        let preferred = match attempt {
            Ok(connected) => connected,
            Err(error) => {
                tracing::debug!(%error, "the preferred way to the aggregator does not stand yet");
                self.returns_failed = self.returns_failed.saturating_add(1);
                return self.plan_return();
            }
        };
        tracing::info!(way = ?self.preferred(), "back on the preferred way to the aggregator");
        self.batch.clear();
        let former = self.connected.replace(preferred);
        (self.way, self.returns_at) = (self.preferred(), None);
        (self.failures, self.answered) = (0, false);
        self.engine.connected();
        if let Some(former) = former {
            former.close().await;
        }
    }

    /// Writes what was gathered.
    async fn flush(&mut self) {
        let Some(connected) = self.connected.as_mut().filter(|_| !self.batch.is_empty()) else { return };
        let sent = tokio::time::timeout(SEND_TIMEOUT, connected.send(&self.batch)).await;
        self.batch.clear();
        if let Err(error) = sent.unwrap_or(Err(UplinkError::TimedOut.into())) {
            self.lose(&error);
        }
    }

    /// Waits for the aggregator, the link's next deadline, something new to send, or the way back to the preferred way.
    async fn wait(&mut self) {
        let deadline = self.engine.link_deadline().map(|at| self.engine.clock().instant(at));
        let deadline = deadline.map_or_else(|| Instant::now() + SEND_TIMEOUT, Instant::from_std);
        if self.returning.is_none() && self.returns_at.is_some_and(|at| at <= Instant::now()) {
            self.returning = Some(Box::pin(self.uplink.connect(self.preferred())));
        }
        let deadline = match self.returns_at.filter(|_| self.returning.is_none()) {
            Some(returns_at) => deadline.min(returns_at),
            None => deadline,
        };
        let engine = self.engine;
        let Some(connected) = &mut self.connected else {
            tokio::select! {
                () = engine.link_woken() => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
            return;
        };
        let event = tokio::select! {
            frame = connected.frame() => match frame {
                Ok(frame) => Event::Received(engine.receive(&frame)),
                Err(error) => Event::Lost(error),
            },
            attempt = outcome(&mut self.returning) => Event::Returned(attempt),
            () = engine.link_woken() => Event::Woken,
            () = tokio::time::sleep_until(deadline) => Event::Woken,
        };
        match event {
            Event::Received(received) => self.hear(received),
            Event::Lost(error) => self.lose(&error),
            Event::Returned(attempt) => Box::pin(self.return_by(attempt)).await,
            Event::Woken => {}
        }
    }

    fn hear(&mut self, received: Result<Received, LinkError>) {
        self.answered = true;
        if self.way == self.preferred() {
            self.returns_failed = 0;
        }
        if received == Ok(Received::Dismissed(RefuseReason::Revoked)) {
            self.revoked = Some((Instant::now(), self.uplink.certificate()));
        }
        report(received);
    }

    fn lose(&mut self, error: &Loss) {
        tracing::warn!(%error, "the connection to the aggregator is lost");
        self.forget();
        self.engine.disconnected();
    }

    async fn close(&mut self) {
        self.flush().await;
        if let Some(connected) = self.connected.take() {
            connected.close().await;
        }
        self.forget();
    }
}

/// What ended a wait.
enum Event {
    Received(Result<Received, LinkError>),
    Lost(Loss),
    Returned(Result<Connection, Loss>),
    Woken,
}

/// What an attempt comes to; never without one.
async fn outcome(attempt: &mut Option<Attempt<'_>>) -> Result<Connection, Loss> {
    match attempt {
        Some(attempt) => attempt.await,
        None => std::future::pending().await,
    }
}

fn report(received: Result<Received, LinkError>) {
    match received {
        Ok(Received::Acknowledged(_)) => {}
        Ok(Received::Calendar) => tracing::info!("took a calendar from the aggregator"),
        Ok(Received::Overloaded(ms)) => tracing::warn!(ms, "the aggregator is overloaded; the link rests"),
        Ok(Received::Refused(reason)) => {
            tracing::warn!(reason = reason.as_str(), "the aggregator refused a record for good");
        }
        Ok(Received::Dismissed(RefuseReason::Revoked)) => {
            tracing::error!(
                "this agent was revoked: nothing is sent any more; `vedette-agent enroll` with a token made for it \
                 (`vedette-aggregator token create --replace AGENT`) takes it back"
            );
        }
        Ok(Received::Dismissed(reason)) => {
            tracing::error!(reason = reason.as_str(), "the aggregator does not want this agent");
        }
        Err(error) => tracing::warn!(%error, "the aggregator sent a frame that makes no sense"),
    }
}
