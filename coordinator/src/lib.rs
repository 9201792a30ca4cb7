//! The driver of the protocol's coordinator machine.
