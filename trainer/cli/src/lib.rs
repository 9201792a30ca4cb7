//! The trainer command: eval, predict, export, offline.
