//! A user-set memory budget for reading data, checked before memory is allocated.
//!
//! A file's contents may be a thousand times its size: an image of a single colour, or compressed zeros. So each reader
//! declares its needs first, and whatever exceeds the budget is refused with an error that names the file, before the
//! operating system kills the process without one. Only memory that grows with the data counts; fixed-size buffers
//! don't.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::DataError;

/// Bytes per megabyte, as in `dataset.memory_mb`.
const MEGABYTE: u64 = 1_000_000;

/// A memory budget. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct MemoryBudget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: u64,
    taken: Mutex<MemoryUse>,
    /// Notified when memory is released.
    freed: Condvar,
}

#[derive(Debug, Default)]
struct MemoryUse {
    /// Bytes held for the lifetime of the budget or of a [`HeldMemory`].
    held: u64,
    /// Bytes leased temporarily.
    leased: u64,
}

/// A refused request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OverBudget {
    pub(crate) takes: u64,
    pub(crate) limit: u64,
}

impl OverBudget {
    pub(crate) fn of(self, path: &Path) -> DataError {
        DataError::Memory { file: path.display().to_string(), takes: self.takes, limit: self.limit }
    }
}

/// Memory leased by one of several threads; returned on drop.
#[derive(Debug)]
pub(crate) struct MemoryLease {
    memory: MemoryBudget,
    bytes: u64,
}

/// Memory held until dropped.
#[derive(Debug)]
pub(crate) struct HeldMemory {
    memory: MemoryBudget,
    bytes: u64,
}

impl MemoryBudget {
    pub(crate) fn megabytes(count: u64) -> Self {
        let limit = count.saturating_mul(MEGABYTE);
        Self(Arc::new(Shared { limit, taken: Mutex::default(), freed: Condvar::new() }))
    }

    /// Total budget in bytes.
    pub(crate) fn limit(&self) -> u64 {
        self.0.limit
    }

    /// Bytes not held; leases don't count.
    pub(crate) fn left(&self) -> u64 {
        self.0.limit.saturating_sub(self.taken().held)
    }

    /// Takes memory for the lifetime of the budget, for data that is kept.
    pub(crate) fn hold(&self, bytes: u64) -> Result<(), OverBudget> {
        let mut taken = self.taken();
        let takes = taken.held.saturating_add(bytes);
        if takes > self.0.limit {
            return Err(OverBudget { takes, limit: self.0.limit });
        }
        taken.held = takes;
        Ok(())
    }

    /// Takes memory for the lifetime of the returned value.
    pub(crate) fn holding(&self, bytes: u64) -> Result<HeldMemory, OverBudget> {
        self.hold(bytes)?;
        Ok(HeldMemory { memory: self.clone(), bytes })
    }

    /// Returns part of the held memory.
    pub(crate) fn release(&self, bytes: u64) {
        let mut taken = self.taken();
        taken.held = taken.held.saturating_sub(bytes);
        self.0.freed.notify_all();
    }

    /// Takes memory temporarily. Waits for the leases of other threads if necessary, but refuses what doesn't fit next
    /// to the held memory; so refusals don't depend on the number of threads. A thread may have only one lease at a
    /// time: with two, threads could deadlock.
    pub(crate) fn lease(&self, bytes: u64) -> Result<MemoryLease, OverBudget> {
        let mut taken = self.taken();
        loop {
            let takes = taken.held.saturating_add(bytes);
            if takes > self.0.limit {
                return Err(OverBudget { takes, limit: self.0.limit });
            }
            if takes.saturating_add(taken.leased) <= self.0.limit {
                taken.leased += bytes;
                return Ok(MemoryLease { memory: self.clone(), bytes });
            }
            taken = self.0.freed.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn taken(&self) -> MutexGuard<'_, MemoryUse> {
        // Two plain numbers, still valid after a thread panicked.
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HeldMemory {
    fn drop(&mut self) {
        self.memory.release(self.bytes);
    }
}

impl Drop for MemoryLease {
    fn drop(&mut self) {
        self.memory.taken().leased -= self.bytes;
        self.memory.0.freed.notify_all();
    }
}

/// Reads a file of at most `most` bytes, no more than its initial length: a file that grows meanwhile is an error.
pub(crate) fn read_at_most(path: &Path, most: u64) -> Result<Result<Vec<u8>, OverBudget>, DataError> {
    let io = |source| DataError::Io { file: path.display().to_string(), source };
    let file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    if length > most {
        return Ok(Err(OverBudget { takes: length, limit: most }));
    }
    // Allocate once, so that the vector never doubles.
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    file.take(length.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > length {
        let problem = "the file grew while it was read".to_owned();
        return Err(DataError::File { file: path.display().to_string(), problem });
    }
    Ok(Ok(bytes))
}

/// Reads a file if `times` its size, for the bytes and what is made of them, fits in the budget.
pub(crate) fn read_whole(
    path: &Path,
    memory: &MemoryBudget,
    times: u64,
) -> Result<(Vec<u8>, HeldMemory), DataError> {
    let io = |source| DataError::Io { file: path.display().to_string(), source };
    let length = std::fs::metadata(path).map_err(io)?.len();
    let holding = memory.holding(length.saturating_mul(times)).map_err(|why| why.of(path))?;
    let bytes = read_at_most(path, length)?.map_err(|why| why.of(path))?;
    Ok((bytes, holding))
}

/// Reads a file that isn't data, for other crates, if `times` its size, for the bytes and what is made of them, is
/// within `memory_mb` megabytes (10^6 bytes).
///
/// # Errors
/// If it can't be read, or exceeds the limit.
pub fn read_within(path: &Path, memory_mb: u64, times: u64) -> Result<Vec<u8>, DataError> {
    read_whole(path, &MemoryBudget::megabytes(memory_mb), times).map(|(bytes, _)| bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_stays_and_what_is_leased_comes_back() {
        let memory = MemoryBudget::megabytes(10);
        memory.hold(4 * MEGABYTE).expect("fits");
        let lease = memory.lease(6 * MEGABYTE).expect("fits");
        assert_eq!(memory.hold(7 * MEGABYTE).expect_err("too much").takes, 11 * MEGABYTE);
        drop(lease);
        let holding = memory.holding(6 * MEGABYTE).expect("fits again");
        assert_eq!(memory.left(), 0);
        let refused = memory.lease(1).expect_err("too much");
        assert_eq!(refused, OverBudget { takes: 10 * MEGABYTE + 1, limit: 10 * MEGABYTE });
        drop(holding);
        assert_eq!(memory.left(), 6 * MEGABYTE);
    }

    #[test]
    fn threads_wait_for_each_other_rather_than_being_refused() {
        let memory = MemoryBudget::megabytes(1);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let lease = memory.lease(MEGABYTE * 2 / 3).expect("fits alone");
                        std::thread::yield_now();
                        drop(lease);
                    }
                });
            }
        });
        assert_eq!(memory.taken().leased, 0);
    }
}
