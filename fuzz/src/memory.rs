//! Bounds the memory that an input takes. libFuzzer measures the resident size, which misses untouched pages; this
//! counts allocations.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeSet;
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

/// The system allocator, with counters.
pub(crate) struct Counted;

fn take(bytes: usize) {
    let held = HELD.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(held, Ordering::Relaxed);
}

// Safety: all calls go to the system allocator; only counters are added.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both blocks may exist during the move.
        take(size);
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// Runs the reader, and panics if it held more than `bytes_max` bytes at once on top of those held before.
///
/// # Panics
/// If the reader takes more than `bytes_max`.
pub fn bounded(bytes_max: usize, reader: impl FnOnce()) {
    READY.call_once(|| std::panic::set_hook(Box::new(report)));
    let before = HELD.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    reader();
    let took = MOST.load(Ordering::Relaxed).saturating_sub(before);
    assert!(took <= bytes_max, "this input took {took} bytes of memory, more than {bytes_max}");
}

static READY: Once = Once::new();

/// Prints each place of a panic once. Readers catch what libraries panic at and refuse the input, so libfuzzer-sys's own hook,
/// which aborts at once, would find what is no finding; a panic that no reader catches still ends the process.
fn report(panic: &PanicHookInfo<'_>) {
    static PLACES: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    if PLACES.lock().unwrap_or_else(PoisonError::into_inner).insert(place) {
        eprintln!("{panic}");
    }
}
