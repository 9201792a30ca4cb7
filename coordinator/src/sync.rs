//! std's locks and atomics. Modules that a model checker tries in all interleavings (`loom/`) take them from here, where it
//! puts its own.

pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, atomic};
