//! What systemd is told of this process: that it is ready, that it still lives, that it stops (`sd_notify(3)`).
//!
//! Must never matter where there is no systemd: then nothing is said. The hard case is the watchdog: the sign of life
//! comes from the loop that closes windows, so that an agent that hangs is started again.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// The way to systemd, and when the next sign of life is due.
#[derive(Debug)]
pub struct Supervisor {
    /// Twice in each period that systemd waits; none without a watchdog.
    every: Option<Duration>,
    due: Instant,
}

impl Supervisor {
    /// Finds out from the environment what systemd wants to hear.
    #[must_use]
    pub fn find() -> Self {
        Self { every: sd_notify::watchdog_enabled().map(|period| period / 2), due: Instant::now() }
    }

    /// The process is at work.
    pub fn ready(&self) {
        tell(&NotifyState::Ready);
    }

    /// The process lives; called more often than systemd wants to hear it.
    pub fn alive(&mut self) {
        let Some(every) = self.every else { return };
        let now = Instant::now();
        if now >= self.due {
            self.due = now + every;
            tell(&NotifyState::Watchdog);
        }
    }

    /// The process delivers what it has and ends.
    pub fn stopping(&self) {
        tell(&NotifyState::Stopping);
    }
}

fn tell(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::warn!(%error, "systemd could not be told");
    }
}
