//! Credentials that change while the aggregator runs: its own certificate, the CA behind it, and the agents that were revoked.
//! It must never end a connection by itself, nor stop showing what it has when something new cannot be read.
//! The hard case is another process that writes (`ca rotate`, `agent revoke`): both leave traces that are looked for every second.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::{Instant, interval};

use crate::ca::{Authority, CA_FILE};
use crate::enroll::Enroller;
use crate::limits::{OPERATIONS_POLL, SERVER_CERTIFICATE_RENEWAL};
use crate::listen::quic::QuicListener;
use crate::state_folder::StateFolder;

/// What shows and checks certificates in a running aggregator.
#[derive(Clone, Debug)]
pub struct Credentials {
    folder: StateFolder,
    listener: Arc<QuicListener>,
    enroller: Arc<Enroller>,
}

/// What tells one content of the CA's file from another without reading it: each is a file of its own that took the place of the one before.
type Trace = Option<(u64, i64, i64)>;

impl Credentials {
    /// The credentials of these.
    #[must_use]
    pub const fn new(folder: StateFolder, listener: Arc<QuicListener>, enroller: Arc<Enroller>) -> Self {
        Self { folder, listener, enroller }
    }

    /// Reads the CA again, as it may have been rotated, and shows a fresh server certificate to new connections.
    ///
    /// # Errors
    /// What is wrong with the CA; the former certificates then stay.
    pub async fn renew(&self) -> anyhow::Result<()> {
        let authority = Arc::new(Authority::open(&self.folder, SystemTime::now())?);
        self.listener.renew(&authority)?;
        self.enroller.replace_authority(authority).await?;
        Ok(())
    }

    /// Notices a rotated CA and revoked agents within a second or two, and makes a new certificate once a day, for ever.
    pub async fn watch(self) {
        let mut ticks = interval(OPERATIONS_POLL);
        // Not known yet, so the first look renews: the CA may have been rotated since the start read it.
        let (mut known, mut renewed) = (None, Instant::now());
        loop {
            ticks.tick().await;
            if let Err(error) = self.enroller.refresh().await {
                tracing::warn!(%error, "cannot look for revoked agents");
            }
            let found = self.trace();
            let is_known = known.as_ref() == Some(&found);
            if is_known && renewed.elapsed() < SERVER_CERTIFICATE_RENEWAL {
                continue;
            }
            // What failed is tried again at the next look: until then a key that was stolen is trusted.
            if let Err(error) = self.renew().await {
                tracing::error!(error = format!("{error:#}"), "the server's certificate is not renewed");
                continue;
            }
            if known.is_some() && !is_known {
                tracing::info!("the CA was rotated; new certificates come from the new key");
            }
            (known, renewed) = (Some(found), Instant::now());
        }
    }

    fn trace(&self) -> Trace {
        let file = std::fs::metadata(self.folder.file(CA_FILE)).ok()?;
        Some((file.ino(), file.mtime(), file.mtime_nsec()))
    }
}
