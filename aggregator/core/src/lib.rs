//! The deterministic core of the aggregator: session, region, correlate, verdict, incident.
