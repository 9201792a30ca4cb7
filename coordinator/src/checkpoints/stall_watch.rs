//! Reports operations that take too long: a hanging disk neither answers nor fails, and the thread that waits for it
//! can't report anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Watches one operation at a time.
pub(crate) struct StallWatch {
    began: Instant,
    /// Start of the operation, in milliseconds after `began`, at least 1; 0 while there is none.
    since_ms: Arc<AtomicU64>,
}

impl StallWatch {
    /// Starts a thread that calls `say` with the duration of an operation once it has taken `patience`, and each time
    /// that the duration has doubled. The thread ends when the value is dropped.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub(crate) fn watch(
        patience: Duration,
        say: impl Fn(Duration) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (began, since_ms) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let watched = Arc::downgrade(&since_ms);
        std::thread::Builder::new().name("overdue".to_owned()).spawn(move || {
            let (mut of_ms, mut next) = (0, patience);
            while let Some(since_ms) = watched.upgrade().map(|since_ms| since_ms.load(Ordering::Relaxed)) {
                if since_ms != of_ms {
                    (of_ms, next) = (since_ms, patience);
                }
                let took = began.elapsed().saturating_sub(Duration::from_millis(since_ms));
                if since_ms > 0 && took >= next {
                    say(took);
                    next = took * 2;
                }
                std::thread::sleep(patience / 4);
            }
        })?;
        Ok(Self { began, since_ms })
    }

    /// The operation begins.
    pub(crate) fn begins(&self) {
        let now_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since_ms.store(now_ms.max(1), Ordering::Relaxed);
    }

    /// The operation is over.
    pub(crate) fn ends(&self) {
        self.since_ms.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn what_goes_on_is_said_again_and_again_and_what_is_over_is_not() {
        let (said, heard) = channel();
        let patience = Duration::from_millis(20);
        let say = move |took| {
            let _ = said.send(took);
        };
        let stall_watch = StallWatch::watch(patience, say).expect("a thread");
        std::thread::sleep(3 * patience);
        assert!(heard.try_recv().is_err(), "nothing goes on");
        stall_watch.begins();
        let first = heard.recv_timeout(Duration::from_secs(60)).expect("it is said");
        let second = heard.recv_timeout(Duration::from_secs(60)).expect("it is said again");
        assert!(first >= patience && second >= 2 * first, "{first:?}, {second:?}");
        stall_watch.ends();
        drop(stall_watch);
        // The thread ends with it.
        while heard.recv_timeout(Duration::from_secs(60)).is_ok() {}
    }
}
