//! What all requests share: the index behind a lock, readers, and a bounded queue before both.

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

/// Requests that work on the index at once; SQLite's readers don't wait for its writer.
const WORKERS: usize = 4;

/// Requests that wait for their turn: more are told to come again.
const WAITING_MAX: usize = 256;

/// Streams that are open at once.
const STREAMS_MAX: usize = 64;

/// The folders are looked at no more often than this, and no more than a fifth of the time.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The embedded tracker over a folder of runs; clones share it.
#[derive(Clone, Debug)]
pub struct Tracker {
    shared: Arc<Shared>,
}

struct Shared {
    root: PathBuf,
    access: Option<Arc<dyn Access>>,
    index: Mutex<Index>,
    looked: Mutex<Option<(Instant, Duration)>>,
    /// What was written and is not in the index yet. Only changed under the index's lock.
    behind: Mutex<Vec<Item>>,
    readers: Mutex<Vec<Reader>>,
    /// How often a damaged index was made anew. Only changed under the index's lock.
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

/// The content of a lock, also after a panic: a transaction that was under way is rolled back.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tracker {
    /// Opens the index of a folder of runs. `remark` is told what people should know, such as of a damaged index; it
    /// must not block. Without `access` this machine is served, and may all.
    ///
    /// # Errors
    /// When the file system or SQLite says no.
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

    /// Ends the streams, so that a server can end. What the folders hold by now is looked at once more, for their last word.
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

    /// No more streams than this, where that is fewer: other requests want connections, too.
    pub(super) fn bound_streams(&self, most: usize) {
        let streams = &self.shared.streams;
        streams.forget_permits(streams.available_permits().saturating_sub(most.max(1)));
    }

    pub(super) fn load(&self) -> &Load {
        &self.shared.load
    }

    /// Reads from the index, which has looked at the folders a moment ago.
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

    /// Changes what the folders hold, and the index with them.
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

    /// Appends to a client's file what comes often and one by one. The index takes it in with the next look, or before anybody
    /// reads: so what a reader sees is the same, and a thousand such requests cost the index as much as one.
    ///
    /// What is short is done on the thread that serves where nothing has to be waited for: handing it to another thread and back
    /// takes several times as long as the append.
    pub(super) async fn append(
        &self,
        is_short: bool,
        what: impl Fn(&mut Index, LockWait) -> Result<Option<Item>, Failure> + Send + 'static,
    ) -> Result<(), Failure> {
        if is_short {
            match self.shared.append_at_once(&what) {
                Ok(true) => return Ok(()),
                Err(failure) if !failure.is_damage() => return Err(failure),
                // The other way waits, and mends.
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

    /// Does what blocks on a thread for that, a few at once, the others waiting.
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

/// One that waits; also one whose client goes away meanwhile.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether the folders are to be looked at: when that was done last, and how long it took.
fn is_due(looked: Option<(Instant, Duration)>) -> bool {
    looked.is_none_or(|(when, took)| when.elapsed() > LOOK_EVERY.max(took * 4))
}

impl Shared {
    /// A damaged index is made anew, once for all who found it so, and they are told to ask again.
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

    /// `false`: something is to be waited for, or to be looked at first.
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

    /// The index is to take this in before anybody reads. The caller has the index's lock.
    fn is_behind(&self, item: Option<Item>) {
        let mut behind = lock(&self.behind);
        if let Some(item) = item.filter(|item| !behind.contains(item)) {
            behind.push(item);
        }
    }

    /// Looks at the folders if the last look is long ago. Whoever finds another at it goes on with what is known, but
    /// for the first look, which all wait for.
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

    /// Takes in what was appended since the last look.
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
