//! Work that is spread over threads.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Threads at most: beyond it a disk has nothing more to give.
const THREADS_MAX: usize = 16;

/// What becomes of each item, in their order. Threads take the next item when they are done with one, so one large item
/// keeps only its own thread busy.
pub(crate) fn spread<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = available.min(THREADS_MAX).min(items.len());
    if threads <= 1 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let share = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return done };
            done.push((at, work(item)));
        }
    };
    let mut done: Vec<(usize, R)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(share)).collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.flatten().collect()
    });
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_are_in_order() {
        let items: Vec<usize> = (0..1_000).collect();
        assert_eq!(super::spread(&items, |item| item * 2), (0..2_000).step_by(2).collect::<Vec<_>>());
        assert!(super::spread(&[], |item: &usize| *item).is_empty());
    }
}
