//! The stage of an upload: it is incoming, then put in place or given up, and never both.

use crate::sync::atomic::{AtomicU8, Ordering};

const COMING: u8 = 0;
const IN_PLACE: u8 = 1;
const GIVEN_UP: u8 = 2;

/// Shared by the task that waits for the upload and the thread that writes it.
#[derive(Default)]
pub(crate) struct UploadStage(AtomicU8);

impl UploadStage {
    /// Gives the upload up; false if it is in place already.
    pub(crate) fn give_up(&self) -> bool {
        self.leave(GIVEN_UP)
    }

    /// Marks the upload as in place; false if it was given up.
    pub(crate) fn put_in_place(&self) -> bool {
        self.leave(IN_PLACE)
    }

    fn leave(&self, to: u8) -> bool {
        let before = self.0.compare_exchange(COMING, to, Ordering::Relaxed, Ordering::Relaxed);
        before.is_ok() || before == Err(to)
    }
}
