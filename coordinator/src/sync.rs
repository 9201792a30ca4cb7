//! std's locks and atomics. Modules that the loom models (`loom/`) check import them from here, so that loom can
//! substitute its own.

pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, atomic};
