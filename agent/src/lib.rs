//! The agent: sources, spool files and uplinks around the deterministic core.
