//! The clocks of this process, read in one place and handed to the cores as arguments.
//!
//! Must never be read by a core. The hard case is a wall clock that jumps: order and deadlines come from the
//! monotonic clock, which does not.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use vedette_common::units::{MonoMs, Now, WallMs};

/// Reads both clocks; the monotonic one counts from the making of this value.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock whose monotonic time begins now.
    #[must_use]
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Both clocks at this moment.
    #[must_use]
    pub fn now(&self) -> Now {
        let mono = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { mono: MonoMs(mono), wall: wall_now() }
    }

    /// The instant of a monotonic time, for timers.
    #[must_use]
    pub fn instant(&self, at: MonoMs) -> Instant {
        // A deadline beyond what an instant can say is as good as tomorrow.
        let day = std::time::Duration::from_secs(86_400);
        self.origin.checked_add(std::time::Duration::from_millis(at.0)).unwrap_or(Instant::now() + day)
    }
}

/// The wall clock alone: Unix milliseconds, negative before 1970.
#[must_use]
pub fn wall_now() -> WallMs {
    let ms = |duration: std::time::Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => WallMs(ms(since)),
        Err(before) => WallMs(-ms(before.duration())),
    }
}
