//! Progress bar on a terminal; hidden elsewhere.

use datasets::registry::Progress;
use indicatif::{ProgressBar, ProgressStyle};

/// Terminal columns needed to show both the bar and its numbers.
const ROOMY: u16 = 64;

/// Progress in bytes, with the rate. Cleared when dropped, so that the output stands alone.
pub(crate) struct BytesBar {
    bar: ProgressBar,
}

impl BytesBar {
    /// A bar on stderr; hidden if stderr is not a terminal.
    pub(crate) fn new(what: &str) -> Self {
        let bar = ProgressBar::new(0).with_message(printable::line(what).into_owned());
        let columns = rustix::termios::tcgetwinsize(std::io::stderr()).map_or(0, |size| size.ws_col);
        let form = match columns {
            0..ROOMY => "{bytes}/{total_bytes} {wide_msg}",
            ROOMY.. => "{bar:20} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta} {wide_msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(form) {
            bar.set_style(style);
        }
        Self { bar }
    }
}

impl Progress for BytesBar {
    fn begin(&self, _files: u64, bytes: u64) {
        self.bar.set_position(0);
        self.bar.set_length(bytes);
    }

    fn bytes(&self, done: u64) {
        self.bar.inc(done);
    }

    fn file(&self) {}
}

impl Drop for BytesBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
