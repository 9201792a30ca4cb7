//! One sink over one run's folder: decides what to send next.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use run_record::follow::{self, Chunk, FollowError};
use run_record::{RunRecord, RunStatus};

use super::folder::RunFolder;
use super::state::StateFile;
use super::{Sink, SinkError, SinkState, Source};

/// Maximum lines per batch: MLflow accepts no more metrics at once.
pub(crate) const LINES_MAX: usize = 1_000;

/// Minimum time between two uploads of `run.json`, which is written with every checkpoint.
const RECORD_EVERY: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TurnOutcome {
    /// Something was sent, and more is pending.
    More,
    /// Everything so far was sent.
    Idle,
    /// Everything of a finished run was sent.
    Done,
}

pub(crate) struct Worker {
    sink: Box<dyn Sink>,
    run: RunFolder,
    file: StateFile,
    state: SinkState,
    begun: bool,
    record_sent: Option<Instant>,
    /// By file, the offset up to which bad lines were reported.
    told: BTreeMap<&'static str, u64>,
    remarks: Vec<String>,
}

impl Worker {
    /// Opens and locks the state.
    pub(crate) fn open(sink: Box<dyn Sink>, run: RunFolder) -> Result<Self, (Box<dyn Sink>, SinkError)> {
        match StateFile::open(&run, sink.as_ref()) {
            Ok((file, state)) => Ok(Self {
                sink,
                run,
                file,
                state,
                begun: false,
                record_sent: None,
                told: BTreeMap::new(),
                remarks: Vec::new(),
            }),
            Err(why) => Err((sink, why)),
        }
    }

    /// Where people can view the run.
    pub(crate) fn place(&self) -> String {
        self.sink.place(&self.run, &self.state)
    }

    pub(crate) fn state(&self) -> &SinkState {
        &self.state
    }

    /// Messages for people since the last call.
    pub(crate) fn remarks(&mut self) -> Vec<String> {
        std::mem::take(&mut self.remarks)
    }

    /// Sends the next pending item. `ending`: nothing more will be added to the folder.
    pub(crate) fn turn(&mut self, ending: bool) -> Result<TurnOutcome, SinkError> {
        let result = self.send(ending);
        self.remarks.extend(self.sink.remarks());
        match &result {
            Ok(_) => (self.state.attempts, self.state.last_error) = (0, None),
            Err(why) => {
                self.state.attempts = self.state.attempts.saturating_add(1);
                self.state.last_error = Some(why.to_string());
            }
        }
        let saved = self.file.save(&self.state);
        result.and_then(|turn| saved.map(|()| turn))
    }

    fn send(&mut self, ending: bool) -> Result<TurnOutcome, SinkError> {
        if !self.begun {
            self.sink.begin(&self.run, &mut self.state)?;
            if !self.run.is_over()? {
                self.state.finished.clear();
            }
            self.begun = true;
            return Ok(TurnOutcome::More);
        }
        let params = self.run.mark("config.toml");
        if self.state.params != params {
            self.sink.params(&self.run, &mut self.state)?;
            self.state.params = params;
            return Ok(TurnOutcome::More);
        }
        for source in Source::ALL {
            let chunk = self.read(source)?;
            if self.take(source, &chunk)? && chunk.is_more {
                return Ok(TurnOutcome::More);
            }
        }
        self.record(ending)?;
        if !ending {
            return Ok(TurnOutcome::Idle);
        }
        self.finish()
    }

    /// Reads the pending lines, without values that were sent before the file was truncated.
    fn read(&mut self, source: Source) -> Result<Chunk, SinkError> {
        let path = self.run.file(source.file());
        let mut chunk = match follow::read(&path, self.state.offset(source), LINES_MAX) {
            Ok(chunk) => chunk,
            Err(cut @ FollowError::Cut { length, .. }) => {
                self.remarks.push(format!("{cut}; what was sent stays, what is new is sent"));
                self.state.cut(source, length);
                return self.read(source);
            }
            Err(why) => return Err(SinkError::Retry(why.to_string())),
        };
        let told = self.told.entry(source.file()).or_default();
        for bad in chunk.bad.iter().filter(|bad| bad.start >= *told) {
            let remark = format!(
                "{}, offset {}: not a metric ({:?}), passed over",
                path.display(),
                bad.start,
                bad.text
            );
            self.remarks.push(remark);
        }
        *told = chunk.end.max(*told);
        if let Some(already) = self.state.already.get(source.file()) {
            let is_new = |key: &str, step: u64| already.get(key).is_none_or(|newest| step > *newest);
            chunk.lines.retain(|line| is_new(&line.metric.key, line.metric.step));
        }
        Ok(chunk)
    }

    /// Whether any line was taken or skipped.
    fn take(&mut self, source: Source, chunk: &Chunk) -> Result<bool, SinkError> {
        let before = self.state.offset(source);
        let taken = match chunk.lines.as_slice() {
            [] => 0,
            lines => self.sink.metrics(source, lines, &mut self.state)?.min(lines.len()),
        };
        let newest = self.state.newest.entry(source.file().to_owned()).or_default();
        for line in &chunk.lines[..taken] {
            match newest.get_mut(&line.metric.key) {
                Some(step) => *step = line.metric.step.max(*step),
                None => drop(newest.insert(line.metric.key.clone(), line.metric.step)),
            }
        }
        let offset = chunk.lines.get(taken).map_or(chunk.end, |line| line.start);
        self.state.metrics += taken as u64;
        self.state.offsets.insert(source.file().to_owned(), offset);
        Ok(offset != before || taken > 0)
    }

    fn record(&mut self, ending: bool) -> Result<(), SinkError> {
        let is_due = ending || self.record_sent.is_none_or(|sent| sent.elapsed() >= RECORD_EVERY);
        let mark = self.run.mark(RunRecord::FILE);
        if is_due && mark != self.state.record {
            self.sink.record(&self.run, &mut self.state)?;
            self.state.record = mark;
            self.record_sent = Some(Instant::now());
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<TurnOutcome, SinkError> {
        let status = self.run.record()?.status;
        if status == RunStatus::Running {
            return Ok(TurnOutcome::Done);
        }
        let mark = format!("{status:?} {}", self.state.record);
        if self.state.finished != mark {
            let rest = self.read(Source::Metrics)?;
            self.sink.finish(&self.run, &rest.lines, &mut self.state)?;
            self.state.finished = mark;
        }
        Ok(TurnOutcome::Done)
    }
}
