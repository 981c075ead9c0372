//! The pulse of the core's task: whether it turns, for the service manager's watchdog.
//! It must never beat for another task than the one it is about. The hard case is a disk that refuses: the task still turns, and beats.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use crate::limits::TURN_MAX;

/// When the driver last turned: a driver that hangs is noticed by that.
#[derive(Debug)]
pub struct Pulse {
    begun: Instant,
    beat_ms: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { begun: Instant::now(), beat_ms: AtomicU64::new(0) }
    }
}

impl Pulse {
    fn ms_at(&self, now: Instant) -> u64 {
        u64::try_from(now.duration_since(self.begun).as_millis()).unwrap_or(u64::MAX)
    }

    /// The driver has turned at `now`.
    pub fn beat(&self, now: Instant) {
        self.beat_ms.store(self.ms_at(now), Ordering::Relaxed);
    }

    /// Whether it turned within [`TURN_MAX`] before `now`.
    pub fn is_alive(&self, now: Instant) -> bool {
        let still_ms = self.ms_at(now).saturating_sub(self.beat_ms.load(Ordering::Relaxed));
        u128::from(still_ms) <= TURN_MAX.as_millis()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_driver_that_hangs_is_no_longer_alive() {
        let pulse = Pulse::default();
        let turned = pulse.begun + Duration::from_secs(100);
        assert!(!pulse.is_alive(turned), "it never turned");
        pulse.beat(turned);
        assert!(pulse.is_alive(turned + TURN_MAX));
        assert!(!pulse.is_alive(turned + TURN_MAX + Duration::from_millis(1)));
    }
}
