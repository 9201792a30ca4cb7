//! The same work for many files, on threads, with its progress told to whoever looks on.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::error::RegistryError;

/// Threads at most: beyond it a disk gets no faster.
const THREADS_MAX: usize = 16;

/// Someone who looks on. Called from many threads.
pub trait Progress: Sync {
    /// So many files and bytes are to be done.
    fn begin(&self, files: u64, bytes: u64);
    /// So many bytes more are done.
    fn bytes(&self, done: u64);
    /// One file more is done.
    fn file(&self);
}

/// Nobody looks on.
pub struct Quiet;

impl Progress for Quiet {
    fn begin(&self, _: u64, _: u64) {}
    fn bytes(&self, _: u64) {}
    fn file(&self) {}
}

/// Does the work for each item and returns the results in the items' order. After a failure no new item is begun; of
/// several failures that of the first item is returned.
pub(crate) fn map<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, RegistryError> + Sync,
) -> Result<Vec<R>, RegistryError> {
    let threads =
        std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX).min(items.len());
    if threads <= 1 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let has_failed = AtomicBool::new(false);
    let done: Mutex<Vec<(usize, Result<R, RegistryError>)>> = Mutex::new(Vec::with_capacity(items.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut own = Vec::new();
                while !has_failed.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    let result = work(item);
                    has_failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    own.push((index, result));
                }
                done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).append(&mut own);
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_stand_in_the_order_of_the_items() {
        let items: Vec<usize> = (0..1_000).collect();
        assert_eq!(map(&items, |item| Ok(item * 2)).expect("done")[..3], [0, 2, 4]);
        assert!(map(&[] as &[usize], |item| Ok(*item)).expect("done").is_empty());
    }

    #[test]
    fn a_failure_ends_it() {
        let begun = AtomicUsize::new(0);
        let items: Vec<usize> = (0..100_000).collect();
        let error = map(&items, |item| {
            begun.fetch_add(1, Ordering::Relaxed);
            if *item == 3 { Err(RegistryError::Misused("no".to_owned())) } else { Ok(()) }
        });
        assert!(error.is_err());
        assert!(begun.load(Ordering::Relaxed) < items.len(), "the rest was still begun");
    }
}
