//! The sinks' threads. Training only pays for [`Sinks::notify`]: a lock that is never held for long.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{BufRead, Seek, SeekFrom};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::worker::{TurnOutcome, Worker};
use super::{RunFolder, Sink, SinkConfig, SinkError, SinkState, Source};

/// Minimum time between two checks of the folder: lines added meanwhile go in one batch.
const LOOKS_APART: Duration = Duration::from_secs(1);
/// Time between two checks without a notification: `system.jsonl` and `run.json` change as well.
const LOOKS_UNASKED: Duration = Duration::from_secs(5);
/// The pause after the first failure; it doubles with each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// Maximum pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A shorter pause while the end of a run is being waited for.
const PAUSE_AT_END: Duration = Duration::from_millis(250);

/// Maximum number of pending messages of all sinks; further remarks are dropped.
const SAID_MAX: usize = 256;

/// At the end of a run, progress extends the wait to at most this many times the given patience.
const PATIENCE_TIMES_MAX: u32 = 4;

/// The sinks of a run, each in a thread of its own.
#[derive(Debug)]
pub struct Sinks {
    shared: Arc<Shared>,
    said: Receiver<SinkMessage>,
    threads: Vec<(String, SinkConfig)>,
    run: RunFolder,
}

/// Data that a sink had not sent when waiting for the end of the run timed out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsent {
    /// The name of the sink, as in `tracker.sinks`.
    pub sink: String,
    /// What is left, why, and how to send it later: a sentence for people.
    pub text: String,
}

/// A message from a sink's thread.
#[derive(Debug)]
enum SinkMessage {
    /// A message for people.
    Remark(String),
    /// Since the run's end something was taken, and more is left.
    Taken,
    /// The thread ended; `Some` gives the reason if not everything was sent.
    Ended(String, Option<String>),
}

#[derive(Debug, Default)]
struct Shared {
    signal: Mutex<Signal>,
    /// Signalled when there are new metrics.
    fresh: Condvar,
    /// Signalled when the run has ended.
    over: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct Signal {
    generation: u64,
    ending: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Signal> {
        // Nothing panics under this lock, so the signal is always consistent.
        self.signal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the run has ended or the time is up.
    fn pause(&self, span: Duration) -> Signal {
        let until_over = self.over.wait_timeout_while(self.lock(), span, |signal| !signal.ending);
        *until_over.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Waits for a generation newer than `seen`, the end of the run, or the timeout.
    fn wait(&self, seen: u64, span: Duration) -> Signal {
        let idle = |signal: &mut Signal| !signal.ending && signal.generation == seen;
        *self.fresh.wait_timeout_while(self.lock(), span, idle).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Sinks {
    /// Starts a thread for each sink. The run's folder must have its `run.json` and `config.toml`.
    ///
    /// # Errors
    /// When a thread can't be spawned.
    pub fn start(run_dir: &Path, configs: Vec<SinkConfig>) -> std::io::Result<Self> {
        let (shared, run) = (Arc::new(Shared::default()), RunFolder::new(run_dir));
        let (say, said) = mpsc::sync_channel(SAID_MAX);
        let mut threads = Vec::new();
        for config in configs {
            let (sink, shared, run, say) = (config.sink(&run), shared.clone(), run.clone(), say.clone());
            let name = config.name().to_owned();
            let thread = std::thread::Builder::new().name(format!("sink-{name}"));
            thread.spawn(move || Following::new(sink, run, shared, say).run())?;
            threads.push((name, config));
        }
        Ok(Self { shared, said, threads, run })
    }

    /// Reports appended metrics to the sinks. Never waits for one.
    pub fn notify(&self) {
        if self.threads.is_empty() {
            return;
        }
        self.shared.lock().generation += 1;
        self.shared.fresh.notify_all();
    }

    /// Messages for people since the last call: an outage, its end, data that a tracker refused.
    #[must_use]
    pub fn remarks(&mut self) -> Vec<String> {
        let remark = |said| if let SinkMessage::Remark(text) = said { Some(text) } else { None };
        self.said.try_iter().filter_map(remark).collect()
    }

    /// Call after the run's record is final. Sends the rest until no progress is made for `patience`, and for at most
    /// four times that. Returns the messages for people, and the unsent data, which stays in the folder.
    #[must_use]
    pub fn finish(self, patience: Duration) -> (Vec<String>, Vec<Unsent>) {
        let began = Instant::now();
        let end = began + patience.saturating_mul(PATIENCE_TIMES_MAX);
        let mut deadline = began + patience;
        self.shared.lock().ending = true;
        self.shared.fresh.notify_all();
        self.shared.over.notify_all();
        let (mut remarks, mut left) = (Vec::new(), Vec::new());
        let mut open: Vec<&(String, SinkConfig)> = self.threads.iter().collect();
        while !open.is_empty() {
            match self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(SinkMessage::Remark(text)) => remarks.push(text),
                Ok(SinkMessage::Taken) => deadline = end.min(Instant::now() + patience),
                Ok(SinkMessage::Ended(name, why)) => {
                    let ended = open.iter().position(|(open, _)| *open == name);
                    if let (Some(index), Some(why)) = (ended, &why) {
                        left.push(self.left(open[index], why));
                    }
                    ended.map(|index| open.remove(index));
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        for config in open {
            let waited = format!("no end after {:.0} s", began.elapsed().as_secs_f64());
            let why = self.state(config).and_then(|state| state.last_error).unwrap_or(waited);
            left.push(self.left(config, &why));
        }
        (remarks, left)
    }

    fn state(&self, (name, config): &(String, SinkConfig)) -> Option<SinkState> {
        let folder = std::fs::read_dir(self.run.path().join("tracker")).ok()?;
        let states = folder.filter_map(|entry| {
            let path = entry.ok()?.path();
            let is_one = path.extension().is_some_and(|ending| ending == "json");
            serde_json::from_slice::<SinkState>(&std::fs::read(path).ok().filter(|_| is_one)?).ok()
        });
        let destination = config.destination();
        states.into_iter().find(|state| state.sink == *name && state.destination == destination)
    }

    fn left(&self, config: &(String, SinkConfig), why: &str) -> Unsent {
        let path = self.run.file(Source::Metrics.file());
        let offset = self.state(config).map_or(0, |state| state.offset(Source::Metrics));
        let metrics = lines_after(&path, offset).unwrap_or(0);
        let what = if metrics == 0 { "the end of the run".to_owned() } else { format!("{metrics} metrics") };
        let (sink, command) = (config.0.clone(), config.1.push_command(self.run.path()));
        let text = format!("{what} not sent to {sink}: {why}. Send later: {command}");
        Unsent { sink, text }
    }
}

/// Counts a file's lines after an offset, without reading the whole file into memory.
fn lines_after(path: &Path, offset: u64) -> std::io::Result<usize> {
    let mut file = std::io::BufReader::new(std::fs::File::open(path)?);
    file.seek(SeekFrom::Start(offset))?;
    let mut lines = 0;
    loop {
        let buffer = file.fill_buf()?;
        if buffer.is_empty() {
            return Ok(lines);
        }
        lines += buffer.iter().filter(|byte| **byte == b'\n').count();
        let length = buffer.len();
        file.consume(length);
    }
}

/// The work of one thread.
struct Following {
    sink: Option<Box<dyn Sink>>,
    worker: Option<Worker>,
    run: RunFolder,
    name: &'static str,
    shared: Arc<Shared>,
    say: SyncSender<SinkMessage>,
    failed_since: Option<Instant>,
    failures: u32,
    /// Whether the message with the run's location was sent.
    is_place_told: bool,
}

impl Following {
    fn new(sink: Box<dyn Sink>, run: RunFolder, shared: Arc<Shared>, say: SyncSender<SinkMessage>) -> Self {
        let name = sink.name();
        let (failed_since, failures, is_place_told) = (None, 0, false);
        Self { sink: Some(sink), worker: None, run, name, shared, say, failed_since, failures, is_place_told }
    }

    fn run(mut self) {
        let why = self.follow();
        self.say(SinkMessage::Ended(self.name.to_owned(), why));
    }

    fn say(&self, said: SinkMessage) {
        // The receiver is gone only when the process is about to exit.
        let _ = self.say.send(said);
    }

    fn remark(&self, text: &str) {
        // If nobody receives messages for that long, the last error is still in the state in the run's folder.
        let _ = self.say.try_send(SinkMessage::Remark(format!("{}: {text}", self.name)));
    }

    /// Sends until all of a finished run was sent; otherwise returns the reason.
    fn follow(&mut self) -> Option<String> {
        let mut signal = *self.shared.lock();
        loop {
            let result = self.turn(signal.ending);
            for remark in self.worker.as_mut().map(Worker::remarks).unwrap_or_default() {
                self.remark(&remark);
            }
            match result {
                Ok(turn) => {
                    self.works_again();
                    self.tell_place();
                    let seen = signal.generation;
                    signal = match turn {
                        TurnOutcome::Done => return None,
                        TurnOutcome::More => {
                            if signal.ending {
                                self.say(SinkMessage::Taken);
                            }
                            *self.shared.lock()
                        }
                        TurnOutcome::Idle => {
                            let paused = self.shared.pause(LOOKS_APART);
                            let is_fresh = paused.ending || paused.generation != seen;
                            if is_fresh { paused } else { self.shared.wait(seen, LOOKS_UNASKED) }
                        }
                    };
                }
                Err(SinkError::Refused(why)) => {
                    self.remark(&format!("{why}; nothing more is sent there, the run goes on"));
                    return Some(why);
                }
                Err(retry) => signal = self.failed(&retry, signal.ending),
            }
        }
    }

    fn turn(&mut self, ending: bool) -> Result<TurnOutcome, SinkError> {
        if let Some(sink) = self.sink.take() {
            match Worker::open(sink, self.run.clone()) {
                Ok(worker) => {
                    self.worker = Some(worker);
                }
                Err((sink, why)) => {
                    self.sink = Some(sink);
                    return Err(why);
                }
            }
        }
        self.worker.as_mut().map_or(Ok(TurnOutcome::Done), |worker| worker.turn(ending))
    }

    fn works_again(&mut self) {
        if let Some(since) = self.failed_since.take() {
            let tries = if self.failures == 1 { "one try" } else { "several tries" };
            let seconds = since.elapsed().as_secs_f64();
            self.remark(&format!("works again after {tries}, {seconds:.0} s"));
            self.failures = 0;
        }
    }

    fn tell_place(&mut self) {
        if !std::mem::replace(&mut self.is_place_told, true)
            && let Some(worker) = &self.worker
        {
            self.remark(&worker.place());
        }
    }

    fn failed(&mut self, why: &SinkError, ending: bool) -> Signal {
        if self.failed_since.is_none() {
            self.failed_since = Some(Instant::now());
            self.remark(&format!("{why}; what is measured waits in the run's folder"));
        }
        self.failures = self.failures.saturating_add(1);
        if ending {
            // A pause on the condition variable would return at once, since `ending` is set.
            std::thread::sleep(why.pause_asked().unwrap_or(PAUSE_AT_END));
            return *self.shared.lock();
        }
        self.shared.pause(pause_after(why, self.failures, RandomState::new().build_hasher().finish()))
    }
}

/// The pause after `failures` failures in a row, the last of which is `why`; `dice` adds jitter, so that sinks that
/// failed together don't retry together.
pub(crate) fn pause_after(why: &SinkError, failures: u32, dice: u64) -> Duration {
    if let Some(asked) = why.pause_asked() {
        return asked;
    }
    let doubled = PAUSE_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let part = 0.5 + (dice % 1024) as f64 / 2048.0;
    doubled.min(PAUSE_MAX).mul_f64(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_are_spread() {
        let after = |failures, dice| pause_after(&SinkError::Retry(String::new()), failures, dice);
        assert_eq!(after(1, 0), Duration::from_millis(250));
        assert_eq!(after(3, 0), Duration::from_millis(1000));
        for failures in [7, 40, u32::MAX] {
            assert_eq!(after(failures, 0), PAUSE_MAX / 2);
            assert!(after(failures, 1023) < PAUSE_MAX);
        }
        assert!(after(1, 1023) < PAUSE_FIRST);
        let asked = SinkError::RetryIn(String::new(), Duration::from_secs(77));
        assert_eq!(pause_after(&asked, 1, 0), Duration::from_secs(77));
    }
}
