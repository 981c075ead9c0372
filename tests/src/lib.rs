//! Simulator, scenarios, end-to-end tests, quality and speed benchmarks, and the demo.
