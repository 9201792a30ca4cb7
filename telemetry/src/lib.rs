//! What a process reports about itself while it runs: metrics for Prometheus ([`prometheus`]), spans for OpenTelemetry
//! ([`traces`]), and readings of its machine ([`system`]).
//!
//! Reporting never holds up training: handles are atomic numbers, queues are bounded and drop what doesn't fit. This
//! crate never trains and never imports burn, `protocol` or `wire`. Begin with [`prometheus::Registry`].

pub mod prometheus;
pub mod system;
pub mod traces;
