//! Turns panics inside burn into errors, and distinguishes exhausted memory from other failures.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::TrainerError;

/// Runs `work`, which calls burn. Values that it borrowed mutably must not be used after a panic.
pub(crate) fn catch<R>(
    during: &str,
    device: &str,
    samples: usize,
    work: impl FnOnce() -> Result<R, TrainerError>,
) -> Result<R, TrainerError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(panic) => Err(failure(during, device, samples, text(&*panic))),
    }
}

/// Classifies a backend's failure by its message.
pub(crate) fn failure(during: &str, device: &str, samples: usize, detail: String) -> TrainerError {
    if speaks_of_memory(&detail) {
        return TrainerError::OutOfMemory { samples, device: device.to_owned(), detail };
    }
    TrainerError::Backend { during: during.to_owned(), device: device.to_owned(), detail }
}

fn text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

/// Phrases in the allocation failures of cubecl and wgpu (from their sources) and of Rust itself.
fn speaks_of_memory(detail: &str) -> bool {
    let detail = detail.to_lowercase();
    [
        "out of memory",
        "outofmemory",
        "can't allocate",
        "memory allocation",
        "capacity overflow",
        "buffertoobig",
    ]
    .iter()
    .any(|phrase| detail.contains(phrase))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(panic: &'static str) -> String {
        catch("a test", "cpu", 32, || -> Result<(), _> { panic!("{panic}") })
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn memory_names_the_key_to_change() {
        let told = message("Can't allocate buffer of size: 9999999999");
        assert!(told.contains("train.microbatch_size") && told.contains("32 samples on cpu"), "{told}");
    }

    #[test]
    fn other_panics_are_passed_on() {
        let told = message("index out of bounds");
        assert!(told.contains("a test on cpu failed: index out of bounds"), "{told}");
        assert!(!told.contains("microbatch_size"), "{told}");
    }
}
