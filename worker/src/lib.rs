//! The driver of the protocol's worker machine.
