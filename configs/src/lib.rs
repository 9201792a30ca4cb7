//! The typed configuration of a run, its checks and messages.
