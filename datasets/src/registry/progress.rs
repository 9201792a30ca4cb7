//! Progress reporting for work on many files.

/// A progress observer, called from many threads.
pub trait Progress: Sync {
    /// Announces the total numbers of files and bytes.
    fn begin(&self, files: u64, bytes: u64);
    /// Reports that `done` more bytes are finished.
    fn bytes(&self, done: u64);
    /// Reports that one more file is finished.
    fn file(&self);
}

/// Ignores all progress.
pub struct NoProgress;

impl Progress for NoProgress {
    fn begin(&self, _: u64, _: u64) {}
    fn bytes(&self, _: u64) {}
    fn file(&self) {}
}
