//! Structured logs on standard error, at a limited rate.
//!
//! Owns the subscriber and the limit. Must never block the data path for a message that repeats: past the limit a line
//! is counted and not formatted. The hard case is a flood from one place (a client that sends garbage): it may not
//! push out the lines of other places, so each place in the program has a budget of its own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat, LogLevel};

/// How long a place's budget lasts.
const PERIOD: Duration = Duration::from_secs(10);

/// The level in force, as a number from 0 (error) to 4 (trace); changed by a reload.
static LEVEL: AtomicU8 = AtomicU8::new(2);
/// Lines that the rate limit held back since the start.
static SUPPRESSED: AtomicU64 = AtomicU64::new(0);

/// Begins logging for the whole process. A second call, as in tests, only sets the level.
pub fn start(settings: &Log) {
    set_level(settings.level);
    let limit = RateLimit { repeats_max: settings.repeats_max, places: Mutex::default() };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry();
    // A subscriber that is already there, as in a second agent of one process, stays.
    let _ = match settings.format {
        LogFormat::Text => registry.with(lines.with_ansi(false).with_filter(limit)).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true).with_filter(limit)).try_init(),
    };
}

/// Changes the least severe level that is written, at once.
pub fn set_level(level: LogLevel) {
    LEVEL.store(level as u8, Ordering::Relaxed);
    tracing::callsite::rebuild_interest_cache();
}

/// Lines that the rate limit held back since the start.
#[must_use]
pub fn suppressed() -> u64 {
    SUPPRESSED.load(Ordering::Relaxed)
}

fn level() -> LevelFilter {
    match LEVEL.load(Ordering::Relaxed) {
        0 => LevelFilter::ERROR,
        1 => LevelFilter::WARN,
        2 => LevelFilter::INFO,
        3 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    }
}

/// Lets a place in the program write `repeats_max` lines in each period. As many places as the program has, no more.
struct RateLimit {
    repeats_max: u32,
    places: Mutex<HashMap<Identifier, (Instant, u32)>>,
}

impl RateLimit {
    fn admits(&self, place: Identifier, now: Instant) -> bool {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let (began, lines) = places.entry(place).or_insert((now, 0));
        if now.duration_since(*began) >= PERIOD {
            (*began, *lines) = (now, 0);
        }
        *lines = lines.saturating_add(1);
        *lines <= self.repeats_max
    }
}

impl<S: Subscriber> Filter<S> for RateLimit {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        // Libraries below speak up only when something is wrong; their debug lines would drown ours.
        let ours = metadata.target().starts_with("vedette");
        *metadata.level() <= if ours { level() } else { level().min(LevelFilter::WARN) }
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let admitted = self.admits(event.metadata().callsite(), Instant::now());
        if !admitted {
            SUPPRESSED.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(level())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Callsite;

    struct Place;
    static PLACE: Place = Place;
    impl Callsite for Place {
        fn set_interest(&self, _: tracing::subscriber::Interest) {}
        fn metadata(&self) -> &Metadata<'_> {
            unreachable!("only the identity of the place is used")
        }
    }

    #[test]
    fn a_place_has_its_budget_in_each_period() {
        let limit = RateLimit { repeats_max: 2, places: Mutex::default() };
        let place = Identifier(&PLACE);
        let now = Instant::now();
        assert!(limit.admits(place.clone(), now) && limit.admits(place.clone(), now));
        assert!(!limit.admits(place.clone(), now + PERIOD / 2));
        assert!(limit.admits(place, now + PERIOD));
    }
}
