//! How far an upload is: its bytes come, then it is put in place or given up, and never both.

use crate::sync::atomic::{AtomicU8, Ordering};

const COMING: u8 = 0;
const IN_PLACE: u8 = 1;
const GIVEN_UP: u8 = 2;

/// Shared by whoever waits for the upload and whoever writes it.
#[derive(Default)]
pub(crate) struct UploadStage(AtomicU8);

impl UploadStage {
    /// Nobody waits for it any more; false where it is in place by now.
    pub(crate) fn give_up(&self) -> bool {
        self.leave(GIVEN_UP)
    }

    /// It is in place; false where it was given up.
    pub(crate) fn put_in_place(&self) -> bool {
        self.leave(IN_PLACE)
    }

    fn leave(&self, to: u8) -> bool {
        let before = self.0.compare_exchange(COMING, to, Ordering::Relaxed, Ordering::Relaxed);
        before.is_ok() || before == Err(to)
    }
}
