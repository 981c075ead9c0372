//! The process's clocks, as the cores want them: monotonic time for order, wall time for people and event time.
//! It must never be read inside a core. The hard case is a wall clock that steps; deadlines are looked at again at least every half second.

use std::time::{Instant, SystemTime};

use vedette_common::{MonoMs, Now, WallMs};

use crate::enroll::unix_ms;

/// Monotonic time counts from its making.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// A clock that begins now.
    #[must_use]
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Both times.
    #[must_use]
    pub fn now(&self) -> Now {
        let mono_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { mono: MonoMs(mono_ms), wall: WallMs(unix_ms(SystemTime::now())) }
    }
}
