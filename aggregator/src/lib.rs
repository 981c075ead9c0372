//! The aggregator: listeners, store, notifiers, API, console and replay around the deterministic core.
