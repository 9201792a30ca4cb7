//! How far the work on many files is, told to whoever looks on.

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
pub struct NoProgress;

impl Progress for NoProgress {
    fn begin(&self, _: u64, _: u64) {}
    fn bytes(&self, _: u64) {}
    fn file(&self) {}
}
