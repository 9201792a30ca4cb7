//! Runs and metrics, kept and shown.
