//! State shared by all requests: the index behind a lock, its readers, and a bounded queue for both.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bounded_http::Access;
use tokio::sync::{Semaphore, watch};

use super::Failure;
use super::load::Load;
use crate::index::{Index, IndexError, Item, LockWait, Reader};

/// Maximum number of requests that use the index concurrently; SQLite's readers don't wait for its writer.
const WORKERS: usize = 4;

/// Maximum number of queued requests: further ones are told to retry.
const WAITING_MAX: usize = 256;

/// Maximum number of open streams.
const STREAMS_MAX: usize = 64;

/// Minimum time between two scans of the folders; they also take at most a fifth of the time.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The embedded tracker over a runs folder; clones share it.
#[derive(Clone, Debug)]
pub struct Tracker {
    shared: Arc<Shared>,
}

struct Shared {
    root: PathBuf,
    access: Option<Arc<dyn Access>>,
    index: Mutex<Index>,
    looked: Mutex<Option<(Instant, Duration)>>,
    /// Items with appended events that are not indexed yet. Only changed under the index's lock.
    behind: Mutex<Vec<Item>>,
    readers: Mutex<Vec<Reader>>,
    /// How often a damaged index was rebuilt. Only changed under the index's lock.
    mended: AtomicUsize,
    turns: Semaphore,
    waiting: AtomicUsize,
    streams: Arc<Semaphore>,
    load: Load,
    closed: watch::Sender<bool>,
    remark: Box<dyn Fn(&str) + Send + Sync>,
}

impl Debug for Shared {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Shared").field("root", &self.root).finish_non_exhaustive()
    }
}

/// Locks a mutex even after a panic: an open transaction was rolled back.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tracker {
    /// Opens the index of a runs folder. `remark` receives messages for people, such as about a damaged index; it must
    /// not block. Without `access`, only this machine is served, with full permissions.
    ///
    /// # Errors
    /// When the file system or SQLite fails.
    pub fn open(
        runs: &Path,
        access: Option<Arc<dyn Access>>,
        remark: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Self, IndexError> {
        let mut index = Index::open(runs)?;
        index.remarks().iter().for_each(|said| remark(said));
        let shared = Shared {
            root: runs.to_owned(),
            access,
            index: Mutex::new(index),
            looked: Mutex::new(None),
            behind: Mutex::default(),
            readers: Mutex::default(),
            mended: AtomicUsize::new(0),
            turns: Semaphore::new(WORKERS),
            waiting: AtomicUsize::new(0),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            load: Load::default(),
            closed: watch::Sender::new(false),
            remark: Box::new(remark),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Ends the streams, so that the server can shut down. Their last events follow one more scan of the folders.
    pub fn close(&self) {
        *lock(&self.shared.looked) = None;
        self.shared.closed.send_replace(true);
    }

    pub(super) fn root(&self) -> &Path {
        &self.shared.root
    }

    pub(super) fn access(&self) -> Option<&dyn Access> {
        self.shared.access.as_deref()
    }

    pub(super) fn closed(&self) -> watch::Receiver<bool> {
        self.shared.closed.subscribe()
    }

    pub(super) fn streams(&self) -> &Arc<Semaphore> {
        &self.shared.streams
    }

    /// Lowers the maximum number of streams to `most`, so that other requests can get connections, too.
    pub(super) fn bound_streams(&self, most: usize) {
        let streams = &self.shared.streams;
        streams.forget_permits(streams.available_permits().saturating_sub(most.max(1)));
    }

    pub(super) fn load(&self) -> &Load {
        &self.shared.load
    }

    /// Reads from the index, after a recent scan of the folders.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        what: impl FnOnce(&Reader) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.in_turn(move |shared| {
            shared.look()?;
            shared.catch_up()?;
            shared.with_reader(what)
        })
        .await
    }

    /// Changes the folders, and the index with them.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Index) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.in_turn(move |shared| {
            shared.look()?;
            let mut index = lock(&shared.index);
            let done = what(&mut index);
            shared.tell(&mut index);
            done
        })
        .await
    }

    /// Appends frequent single events to a client's file. The index follows at the next scan, or before the next read:
    /// so readers see the same, and a thousand such requests cost the index as much as one.
    ///
    /// Short appends run on the serving thread unless they would have to wait: a round trip to another thread takes
    /// several times as long as the append.
    pub(super) async fn append(
        &self,
        is_short: bool,
        what: impl Fn(&mut Index, LockWait) -> Result<Option<Item>, Failure> + Send + 'static,
    ) -> Result<(), Failure> {
        if is_short {
            match self.shared.append_at_once(&what) {
                Ok(true) => return Ok(()),
                Err(failure) if !failure.is_damage() => return Err(failure),
                // The other path waits for the lock and rebuilds the index.
                Ok(false) | Err(_) => {}
            }
        }
        self.in_turn(move |shared| {
            shared.look()?;
            let mut index = lock(&shared.index);
            let item = what(&mut index, LockWait::Yes)?;
            shared.is_behind(item);
            Ok(())
        })
        .await
    }

    /// Runs blocking work on a blocking thread, a few at once; further requests queue.
    async fn in_turn<T: Send + 'static>(
        &self,
        what: impl FnOnce(&Shared) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let shared = Arc::clone(&self.shared);
        if shared.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            shared.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Failure::busy(format!("{WAITING_MAX} requests are waiting: try again in a moment")));
        }
        let waiting = Waiting(&shared.waiting);
        let turn = shared.turns.acquire().await;
        drop(waiting);
        let Ok(_turn) = turn else { return Err(Failure::busy("the tracker is closing")) };
        let worker = Arc::clone(&shared);
        let done = tokio::task::spawn_blocking(move || worker.mending(what)).await;
        done.unwrap_or_else(|why| Err(Failure::internal(format!("the request broke off: {why}"))))
    }
}

/// Counts a queued request, also one whose client has disconnected.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether the folders are due for a scan: depends on when the last one ended and how long it took.
fn is_due(looked: Option<(Instant, Duration)>) -> bool {
    looked.is_none_or(|(when, took)| when.elapsed() > LOOK_EVERY.max(took * 4))
}

impl Shared {
    /// Rebuilds a damaged index, once for all requests that found it damaged, which are told to retry.
    fn mending<T>(&self, what: impl FnOnce(&Self) -> Result<T, Failure>) -> Result<T, Failure> {
        let mended = self.mended.load(Ordering::SeqCst);
        let failure = match what(self) {
            Err(failure) if failure.is_damage() => failure,
            other => return other,
        };
        let mut index = lock(&self.index);
        if self.mended.load(Ordering::SeqCst) == mended {
            index.make_anew(failure.message())?;
            self.mended.fetch_add(1, Ordering::SeqCst);
            lock(&self.behind).clear();
            lock(&self.readers).clear();
            *lock(&self.looked) = None;
            self.tell(&mut index);
        }
        Err(Failure::busy("the index was damaged and is made anew from the folders of the runs: ask again"))
    }

    /// `false`: the append would have to wait, or a scan is due first.
    fn append_at_once(
        &self,
        what: impl Fn(&mut Index, LockWait) -> Result<Option<Item>, Failure>,
    ) -> Result<bool, Failure> {
        if is_due(*lock(&self.looked)) {
            return Ok(false);
        }
        let Ok(mut index) = self.index.try_lock() else { return Ok(false) };
        let item = what(&mut index, LockWait::No)?;
        let is_done = item.is_some();
        self.is_behind(item);
        Ok(is_done)
    }

    /// Marks an item to be indexed before the next read. The caller holds the index's lock.
    fn is_behind(&self, item: Option<Item>) {
        let mut behind = lock(&self.behind);
        if let Some(item) = item.filter(|item| !behind.contains(item)) {
            behind.push(item);
        }
    }

    /// Scans the folders if a scan is due. A request that finds one in progress continues with the known state, except
    /// for the first scan, for which all requests wait.
    fn look(&self) -> Result<(), Failure> {
        let looked = *lock(&self.looked);
        if !is_due(looked) {
            return Ok(());
        }
        let mut index = match (looked, self.index.try_lock()) {
            (_, Ok(index)) => index,
            (Some(_), Err(_)) => return Ok(()),
            (None, Err(_)) => lock(&self.index),
        };
        if !is_due(*lock(&self.looked)) {
            return Ok(());
        }
        let begun = Instant::now();
        let done = index.refresh();
        if done.is_ok() {
            lock(&self.behind).clear();
        }
        *lock(&self.looked) = Some((Instant::now(), begun.elapsed()));
        self.tell(&mut index);
        Ok(done?)
    }

    /// Indexes the items that were appended to since the last scan.
    fn catch_up(&self) -> Result<(), Failure> {
        if lock(&self.behind).is_empty() {
            return Ok(());
        }
        let mut index = lock(&self.index);
        let items = lock(&self.behind).clone();
        for item in &items {
            index.follow(item)?;
        }
        lock(&self.behind).clear();
        self.tell(&mut index);
        Ok(())
    }

    fn tell(&self, index: &mut Index) {
        for remark in index.remarks() {
            (self.remark)(&remark);
        }
    }

    fn with_reader<T>(&self, what: impl FnOnce(&Reader) -> Result<T, Failure>) -> Result<T, Failure> {
        let kept = lock(&self.readers).pop().filter(Reader::is_current);
        let reader = match kept {
            Some(reader) => reader,
            None => Reader::open(&self.root)?,
        };
        let done = what(&reader);
        let mut readers = lock(&self.readers);
        if readers.len() < WORKERS {
            readers.push(reader);
        }
        done
    }
}
