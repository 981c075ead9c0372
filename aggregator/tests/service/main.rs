//! The aggregator with real parts: QUIC with mutual TLS on loopback, SQLite on disk, real HTTP receivers, a real process that is killed.
//! It must never sleep and hope; it waits for a condition with a bound. The hard case is proving that something does not happen:
//! each such test first waits for something later that does.

// A test may end at the first surprise.
#![allow(clippy::unwrap_used)]

mod access;
mod agent;
mod attacks;
mod enrolment;
mod frames;
mod notifiers;
mod operations;
mod overload;
#[path = "../../../tests/src/rig/ports.rs"]
#[allow(unreachable_pub, reason = "it is public where the end-to-end tests have it")]
mod ports;
mod program;
mod replayed;
mod restart;
mod silences;
mod traffic;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vedette_aggregator::config::Config;
use vedette_aggregator::enroll::{LOCAL_TOKEN_FILE, Token};
use vedette_aggregator::run::Service;

/// A service with its state in a folder of its own, on ports of the system's choice.
pub(crate) struct Rig {
    pub(crate) service: Service,
    pub(crate) folder: TempDir,
}

/// No notifier at all: a test's standard output is its own.
pub(crate) const QUIET: &str = "[notify]\nstdout = false\n";

pub(crate) fn config(folder: &Path, more: &str) -> Config {
    let text = format!(
        "state_dir = {:?}\n[listen]\nquic = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n{more}",
        folder.join("state")
    );
    Config::parse(Path::new("test.toml"), &text).unwrap()
}

impl Rig {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let service = Service::start(config(folder.path(), QUIET)).await.unwrap();
        Self { service, folder }
    }

    pub(crate) fn quic(&self) -> SocketAddr {
        self.service.quic_address().unwrap()
    }

    /// The token that lies in the state folder now.
    pub(crate) fn local_token(&self) -> Token {
        read_token(self.folder.path())
    }
}

pub(crate) fn read_token(folder: &Path) -> Token {
    let path = folder.join("state").join(LOCAL_TOKEN_FILE);
    Token::parse(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Waits until `condition` holds, a minute at most.
pub(crate) async fn wait_for(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
