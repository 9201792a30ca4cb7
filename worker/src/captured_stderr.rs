//! Captures what other libraries write to standard error while a device is opened: drivers and loaders report
//! problems there that don't concern a user, such as a missing desktop.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Stderr};
use std::os::fd::OwnedFd;

use rustix::fs::MemfdFlags;
use rustix::stdio::dup2_stderr;

/// Further bytes aren't read.
const BYTES_MAX: u64 = 64 << 10;

/// Runs `open` with standard error captured, and logs the captured lines: as warnings if `open` failed, else as debug
/// output. With `RUST_LOG=debug` nothing is captured, so that a crash loses no output. The log has a standard error
/// of its own ([`own_stderr`]).
pub(crate) fn quietly<T, E>(open: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    if tracing::enabled!(tracing::Level::DEBUG) {
        return open();
    }
    let Ok(apart) = CapturedStderr::begin() else { return open() };
    let opened = open();
    let said = apart.end();
    if opened.is_err() {
        said.lines().for_each(|line| tracing::warn!("while the device was opened: {line}"));
    }
    opened
}

/// A duplicate of standard error for the log, unaffected by [`quietly`].
pub(crate) fn own_stderr() -> Result<File, Stderr> {
    rustix::io::dup(std::io::stderr()).map(File::from).map_err(|_| std::io::stderr())
}

/// Redirects standard error to a file in memory until dropped.
struct CapturedStderr {
    stderr: OwnedFd,
    said: File,
}

impl CapturedStderr {
    fn begin() -> rustix::io::Result<Self> {
        let said = File::from(rustix::fs::memfd_create("stderr", MemfdFlags::CLOEXEC)?);
        let stderr = rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), 0)?;
        dup2_stderr(&said)?;
        Ok(Self { stderr, said })
    }

    fn end(mut self) -> String {
        let mut bytes = Vec::new();
        let _ = dup2_stderr(&self.stderr);
        // Ignore read errors: the capture is best effort.
        let _ = self.said.seek(SeekFrom::Start(0));
        let _ = (&self.said).take(BYTES_MAX).read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for CapturedStderr {
    fn drop(&mut self) {
        let _ = dup2_stderr(&self.stderr);
    }
}
