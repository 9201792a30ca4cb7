//! Exports a run as an offline W&B run, for `wandb sync`: `RUN_DIR/wandb/offline-run-TIME-ID/run-ID.wandb`.
//!
//! A history row has all metrics of a step, so the newest step is held back until the next one begins. The file is a
//! growing body, followed, once the run is over, by the last row, the summary and the exit: a resumed run truncates
//! that end and continues in the same file, which then needs `wandb sync` again.

mod date;
mod files;
mod log;
mod messages;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

use prost::Message;
use run_record::follow::{self, Line};
use run_record::{Metric, RunRecord, RunStatus};
use serde_json::Value;

use super::folder::local;
use super::local_file::{self, BYTES};
use super::worker::LINES_MAX;
use super::{RunFolder, Sink, SinkError, SinkState, Source, origin};
use date::date;
use messages::{Exit, Git, Header, History, Item, Items, Record, Run, Stats, Step, Timestamp, Version};

/// The oldest W&B reader that understands everything written, as in W&B's own files of release 0.31.
const MIN_CONSUMER: &str = "0.70.0";
/// In the state's memo: the start in seconds since 1970, from which the folder's name and all runtimes are derived.
const BEGAN: &str = "began";
/// In the state's memo: whether the run's record included the commit.
const IS_COMMIT_TOLD: &str = "is_commit_told";
/// Subfolder of the offline run for files to upload.
const FILES: &str = "files";
/// The configuration key of the run's origin.
const ORIGIN: &str = "bonfire";
/// Maximum characters of a run's id.
const ID_CHARS: usize = 16;

#[derive(Debug)]
pub(crate) struct Wandb {
    project: String,
    entity: String,
    folder: PathBuf,
    file: PathBuf,
    began: f64,
}

impl Wandb {
    pub(crate) const NAME: &'static str = "wandb";
    pub(crate) const DESTINATION: &'static str = "wandb";

    pub(crate) fn new(run: &RunFolder, project: String, entity: String) -> Self {
        let folder = run.path().join("wandb");
        Self { project, entity, file: folder.clone(), folder, began: 0.0 }
    }

    /// Writes after the body; the state counts the records only if `is_body`.
    fn append(&self, records: Vec<Record>, is_body: bool, state: &mut SinkState) -> Result<(), SinkError> {
        let at = state.number(BYTES).unwrap_or(0);
        let mut num = state.number("records").unwrap_or(0);
        let mut bytes = if at == 0 { log::HEADER.to_vec() } else { Vec::new() };
        for record in records {
            num += 1;
            log::push(&Record { num: num as i64, ..record }.encode_to_vec(), at, &mut bytes);
        }
        let length = local_file::append(&self.file, at, &bytes)?;
        if is_body {
            state.remember(BYTES, length);
            state.remember("records", num);
        }
        Ok(())
    }

    /// The run's own record; its state remembers whether the commit was known.
    fn run_record(&self, run: &RunFolder, config: Items, state: &mut SinkState) -> Result<Record, SinkError> {
        let (record, git) = (run.record()?, run.checkout()?);
        state.remember(IS_COMMIT_TOLD, git.commit.is_some());
        let git = git.commit.map(|commit| Git { commit, remote_url: git.repository.unwrap_or_default() });
        let about = Run {
            run_id: state.run.clone(),
            entity: self.entity.clone(),
            project: self.project.clone(),
            config: Some(config),
            display_name: record.run,
            tags: vec!["bonfire".to_owned()],
            host: std::fs::read_to_string("/etc/hostname").unwrap_or_default().trim().to_owned(),
            start_time: Some(timestamp(self.began)),
            git,
        };
        Ok(Record { run: Some(about), ..Record::default() })
    }

    fn row(&self, lines: &[Line]) -> Record {
        let mut items: Vec<Item> =
            lines.iter().map(|line| nested(&line.metric.key, number(line.metric.value))).collect();
        let newest = &lines[lines.len() - 1].metric;
        items.extend(self.moment(newest));
        let step = Some(Step { num: newest.step as i64 });
        Record { history: Some(History { item: items, step }), ..Record::default() }
    }

    /// The items that W&B itself puts into each row.
    fn moment(&self, metric: &Metric) -> [Item; 3] {
        [
            nested("_step", metric.step.to_string()),
            nested("_timestamp", number(metric.time)),
            nested("_runtime", number(metric.time - self.began)),
        ]
    }

    /// The run's origin, below one key of its configuration.
    fn origin(&self, run: &RunFolder) -> Result<Record, SinkError> {
        let known = origin::origin(run, &run.record()?)?.into_iter();
        let known: serde_json::Map<String, Value> =
            known.map(|(name, value)| (name.to_owned(), value.into())).collect();
        let update = vec![Item {
            key: ORIGIN.to_owned(),
            value_json: Value::from(known).to_string(),
            ..Item::default()
        }];
        Ok(Record { config: Some(Items { update }), ..Record::default() })
    }

    /// The newest value of each metric, and the run's outcome.
    fn summary(&self, run: &RunFolder) -> Result<(Record, f64), SinkError> {
        let path = run.path().join(Source::Metrics.file());
        let (mut offset, mut values, mut newest) = (0, BTreeMap::new(), None::<Metric>);
        loop {
            let chunk =
                follow::read(&path, offset, LINES_MAX).map_err(|why| SinkError::Retry(why.to_string()))?;
            offset = chunk.end;
            for line in chunk.lines {
                values.insert(line.metric.key.clone(), line.metric.value);
                newest = Some(line.metric);
            }
            if !chunk.is_more {
                break;
            }
        }
        let mut update: Vec<Item> =
            values.into_iter().map(|(key, value)| nested(&key, number(value))).collect();
        update.extend(outcome(&run.record()?).into_iter().map(|(key, value)| nested(key, value.to_string())));
        update.extend(newest.iter().flat_map(|newest| self.moment(newest)));
        let seconds = newest.map_or(0.0, |newest| newest.time - self.began);
        Ok((Record { summary: Some(Items { update }), ..Record::default() }, seconds))
    }
}

impl Sink for Wandb {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn destination(&self) -> String {
        Self::DESTINATION.to_owned()
    }

    fn begin(&mut self, run: &RunFolder, state: &mut SinkState) -> Result<(), SinkError> {
        // The record of a run that has just begun has no start yet: the first assumed value is kept.
        self.began = match state.memo.get(BEGAN).and_then(Value::as_f64) {
            Some(known) => known,
            None => run.began()?,
        };
        let id: String =
            run.record()?.id.chars().filter(char::is_ascii_alphanumeric).take(ID_CHARS).collect();
        let id =
            if id.is_empty() { format!("{:08x}", crc32fast::hash(run.record()?.run.as_bytes())) } else { id };
        let folder = self.folder.join(format!("offline-run-{}-{id}", date(self.began)));
        let files = folder.join(FILES);
        std::fs::create_dir_all(&files).map_err(|why| local(&files, &why))?;
        self.file = folder.join(format!("run-{id}.wandb"));
        let bytes = state.number(BYTES);
        if bytes.is_none_or(|bytes| !local_file::holds(&self.file, bytes)) {
            state.start_over();
            state.run = id;
            state.remember(BEGAN, self.began);
        } else if !run.is_over()? {
            // The run continues: remove the end, and the mark by which `wandb sync` would skip the file.
            local_file::append(&self.file, bytes.unwrap_or(0), &[])?;
            let mut mark = self.file.clone().into_os_string();
            mark.push(".synced");
            let _ = std::fs::remove_file(mark);
        }
        Ok(())
    }

    fn params(&mut self, run: &RunFolder, state: &mut SinkState) -> Result<(), SinkError> {
        let item = |(section, value): (String, toml::Value)| Item {
            key: section,
            value_json: serde_json::to_string(&value).unwrap_or_default(),
            ..Item::default()
        };
        let record = run.record()?;
        let text = |key: &str, value: String| Item {
            key: key.to_owned(),
            value_json: Value::from(value).to_string(),
            ..Item::default()
        };
        let mut update: Vec<Item> = run.config()?.into_iter().map(item).collect();
        update.push(text("config_digest", record.config_digest));
        update.push(text("dataset_version", record.dataset.version));
        let config = Items { update };
        if state.number(BYTES).is_some() {
            return self.append(vec![Record { config: Some(config), ..Record::default() }], true, state);
        }
        let version = Version {
            producer: concat!("bonfire ", env!("CARGO_PKG_VERSION")).to_owned(),
            min_consumer: MIN_CONSUMER.to_owned(),
        };
        let header = Record { header: Some(Header { version_info: Some(version) }), ..Record::default() };
        let about = self.run_record(run, config, state)?;
        self.append(vec![header, about], true, state)
    }

    fn metrics(&mut self, source: Source, lines: &[Line], state: &mut SinkState) -> Result<usize, SinkError> {
        let of_one_step = |a: &Line, b: &Line| a.metric.step == b.metric.step;
        if source == Source::System {
            let stats = |row: &[Line]| Record { stats: Some(stats(row)), ..Record::default() };
            // While a run waits, there are several readings at one step.
            let of_one_reading = |a: &Line, b: &Line| a.metric.time == b.metric.time;
            self.append(lines.chunk_by(of_one_reading).map(stats).collect(), true, state)?;
            return Ok(lines.len());
        }
        let rows: Vec<&[Line]> = lines.chunk_by(of_one_step).collect();
        // The newest step may get more metrics; unless it fills a batch by itself.
        let whole = if rows.len() == 1 && lines.len() >= LINES_MAX { 1 } else { rows.len() - 1 };
        if whole > 0 {
            self.append(rows[..whole].iter().map(|row| self.row(row)).collect(), true, state)?;
        }
        Ok(rows[..whole].iter().map(|row| row.len()).sum())
    }

    fn record(&mut self, _: &RunFolder, _: &mut SinkState) -> Result<(), SinkError> {
        Ok(())
    }

    fn finish(&mut self, run: &RunFolder, rest: &[Line], state: &mut SinkState) -> Result<(), SinkError> {
        let mut records: Vec<Record> =
            rest.chunk_by(|a, b| a.metric.step == b.metric.step).map(|row| self.row(row)).collect();
        let (summary, seconds) = self.summary(run)?;
        if state.memo.get(IS_COMMIT_TOLD) == Some(&Value::Bool(false)) && run.checkout()?.commit.is_some() {
            // Git answered after the run had begun. Of repeated records the last one wins.
            let told = state.memo.clone();
            records.push(self.run_record(run, Items::default(), state)?);
            // It belongs to the end, which a resume truncates.
            state.memo = told;
        }
        let files = self.file.with_file_name(FILES);
        records.extend([summary, self.origin(run)?, files::copy(run, &files)?]);
        // W&B's own exit code for a stopped run is 255.
        let exit_code = match run.record()?.status {
            RunStatus::Completed | RunStatus::Running => 0,
            RunStatus::Failed => 1,
            RunStatus::Interrupted => 255,
        };
        let exit = Exit { exit_code, runtime: seconds as i32 };
        records.push(Record { exit: Some(exit), ..Record::default() });
        self.append(records, false, state)
    }

    fn place(&self, _: &RunFolder, _: &SinkState) -> String {
        let folder = self.file.parent().unwrap_or(&self.folder);
        format!("{} (wandb sync {})", self.file.display(), folder.display())
    }
}

/// The run's summary items other than its metrics.
fn outcome(record: &RunRecord) -> [(&'static str, Value); 6] {
    [
        ("bonfire/status", serde_json::json!(record.status)),
        ("bonfire/final_digest", record.final_state.digest.clone().into()),
        ("bonfire/step", record.final_state.step.into()),
        ("bonfire/views", record.views.into()),
        ("bonfire/retries", record.retries.into()),
        ("bonfire/exact", record.exact.into()),
    ]
}

/// A reading of the machine; W&B adds `system/` to every key itself.
fn stats(lines: &[Line]) -> Stats {
    let item = |line: &Line| Item {
        key: line.metric.key.strip_prefix("system/").unwrap_or(&line.metric.key).to_owned(),
        value_json: number(line.metric.value),
        ..Item::default()
    };
    Stats { timestamp: Some(timestamp(lines[0].metric.time)), item: lines.iter().map(item).collect() }
}

/// A key that is a single name, slashes and dots included.
fn nested(key: &str, value_json: String) -> Item {
    Item { nested_key: vec![key.to_owned()], value_json, ..Item::default() }
}

/// W&B's JSON has bare NaN and Infinity.
fn number(value: f64) -> String {
    match run_record::to_json(value) {
        Value::String(word) => word,
        number => number.to_string(),
    }
}

fn timestamp(seconds: f64) -> Timestamp {
    let whole = seconds.floor();
    Timestamp { seconds: whole as i64, nanos: ((seconds - whole) * 1e9) as i32 }
}
