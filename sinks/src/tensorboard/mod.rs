//! Exports a run as a TensorBoard event file: `RUN_DIR/tensorboard/events.out.tfevents.*`.
//!
//! Scalars are 32 bits wide there. A resumed run continues in its file.

mod messages;
mod record;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use prost::Message;
use run_record::follow::Line;
use run_record::{EventRecord, RunStatus};

use super::local_file::{self, BYTES};
use super::{RunFolder, Sink, SinkError, SinkState, Source, origin};
use messages::{Dimension, Event, Metadata, PluginData, Shape, Summary, Tensor, Value};

/// The subfolder of the run's folder.
const FOLDER: &str = "tensorboard";
/// The tag of the event texts; in the state's memo, the time of the newest one.
const EVENTS: &str = "events";
/// Kinds of events whose cost is known only when they are over.
const COST_COMES_LATER: [&str; 3] = ["waiting", "rewind", "restart"];
/// Kinds of events that count consecutive repetitions.
const REPEATED: [&str; 2] = ["refused", "warning"];
/// `DataType.DT_STRING`.
const DT_STRING: i32 = 7;

#[derive(Debug)]
pub(crate) struct TensorBoard {
    folder: PathBuf,
    file: PathBuf,
}

impl TensorBoard {
    pub(crate) const NAME: &'static str = "tensorboard";
    pub(crate) const DESTINATION: &'static str = "tensorboard";

    pub(crate) fn new(run: &RunFolder) -> Self {
        let folder = run.path().join(FOLDER);
        Self { file: folder.clone(), folder }
    }

    fn append(&self, events: &[Event], state: &mut SinkState) -> Result<(), SinkError> {
        let mut bytes = Vec::new();
        for event in events {
            record::push(&event.encode_to_vec(), &mut bytes);
        }
        let length = local_file::append(&self.file, state.number(BYTES).unwrap_or(0), &bytes)?;
        state.remember(BYTES, length);
        Ok(())
    }
}

impl Sink for TensorBoard {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn destination(&self) -> String {
        Self::DESTINATION.to_owned()
    }

    fn begin(&mut self, run: &RunFolder, state: &mut SinkState) -> Result<(), SinkError> {
        std::fs::create_dir_all(&self.folder).map_err(|why| super::folder::local(&self.folder, &why))?;
        let began = run.began()?;
        // The number is the start time, as readers expect it. The name comes from the state where possible, since the
        // record of a run that has just begun has no start yet.
        let name = match state.run.as_str() {
            "" => format!("events.out.tfevents.{:010}.{}", began as u64, run.record()?.run),
            known => known.to_owned(),
        };
        self.file = self.folder.join(&name);
        if let Some(bytes) = state.number(BYTES)
            && local_file::holds(&self.file, bytes)
        {
            return Ok(());
        }
        state.start_over();
        state.run = name;
        let version = Some("brain.Event:2".to_owned());
        self.append(&[Event { wall_time: began, file_version: version, ..Event::default() }], state)
    }

    fn params(&mut self, run: &RunFolder, state: &mut SinkState) -> Result<(), SinkError> {
        let lines = run.params()?.into_iter().map(|(key, value)| format!("    {key} = {value}\n"));
        let text =
            said("config", lines.collect(), run.modified("config.toml"), run.record()?.final_state.step);
        self.append(&[text], state)
    }

    fn metrics(&mut self, _: Source, lines: &[Line], state: &mut SinkState) -> Result<usize, SinkError> {
        let of_one_row =
            |a: &Line, b: &Line| a.metric.step == b.metric.step && a.metric.time == b.metric.time;
        let event = |row: &[Line]| {
            let value = |line: &Line| Value {
                tag: line.metric.key.clone(),
                simple_value: Some(line.metric.value as f32),
                ..Value::default()
            };
            let summary = Some(Summary { value: row.iter().map(value).collect() });
            let (wall_time, step) = (row[0].metric.time, row[0].metric.step as i64);
            Event { wall_time, step, summary, file_version: None }
        };
        let events: Vec<Event> = lines.chunk_by(of_one_row).map(event).collect();
        self.append(&events, state)?;
        Ok(lines.len())
    }

    /// Writes events as texts at their steps, each once and in order: an event whose cost isn't known yet, or that may
    /// still be repeated, is held back, with those after it, until it is final.
    fn record(&mut self, run: &RunFolder, state: &mut SinkState) -> Result<(), SinkError> {
        let told = state.memo.get(EVENTS).and_then(serde_json::Value::as_f64).unwrap_or(f64::NEG_INFINITY);
        let record = run.record()?;
        let is_over = record.status != RunStatus::Running;
        let last = record.events.len().saturating_sub(1);
        let settled = |(index, event): &(usize, &EventRecord)| {
            let costs_more = COST_COMES_LATER.contains(&event.event.as_str()) && event.cost_seconds.is_none();
            let may_repeat = *index == last && REPEATED.contains(&event.event.as_str());
            is_over || !(costs_more || may_repeat)
        };
        let text = |event: &EventRecord| {
            let cost = event.cost_seconds.map(|seconds| format!(" ({seconds:.1} s)")).unwrap_or_default();
            let again = if event.repeated > 0 {
                format!(" (and {} times more)", event.repeated)
            } else {
                String::new()
            };
            said(EVENTS, format!("{}: {}{again}{cost}", event.event, event.text), event.time, event.step)
        };
        let untold = record.events.iter().enumerate().filter(|(_, event)| event.time > told);
        let events: Vec<&EventRecord> = untold.take_while(settled).map(|(_, event)| event).collect();
        let new: Vec<Event> = events.iter().copied().map(text).collect();
        let newest = events.iter().map(|event| event.time).fold(told, f64::max);
        if new.is_empty() {
            return Ok(());
        }
        self.append(&new, state)?;
        state.remember(EVENTS, newest);
        Ok(())
    }

    fn finish(&mut self, run: &RunFolder, _: &[Line], state: &mut SinkState) -> Result<(), SinkError> {
        let record = run.record()?;
        let stands = [
            ("status", format!("{:?}", record.status).to_lowercase()),
            ("final_digest", record.final_state.digest.clone()),
            ("config_digest", record.config_digest.clone()),
            ("dataset", record.dataset.version.clone()),
            ("seed", record.seed.to_string()),
            ("views", record.views.to_string()),
            ("retries", record.retries.to_string()),
        ];
        let known = stands.into_iter().chain(origin::origin(run, &record)?);
        let lines: String = known.map(|(name, value)| format!("    {name} = {value}\n")).collect();
        let ended = run.modified(run_record::RunRecord::FILE);
        self.append(&[said("run", lines, ended, record.final_state.step)], state)
    }

    fn place(&self, _: &RunFolder, _: &SinkState) -> String {
        format!("{} (tensorboard --logdir {})", self.file.display(), self.folder.display())
    }
}

/// A text for TensorBoard's "Text" page.
fn said(tag: &str, text: String, wall_time: f64, step: u64) -> Event {
    let tensor = Tensor {
        dtype: DT_STRING,
        shape: Some(Shape { dim: vec![Dimension { size: 1 }] }),
        string_val: vec![text.into_bytes()],
    };
    let plugin = PluginData { plugin_name: "text".to_owned() };
    let value = Value {
        tag: tag.to_owned(),
        tensor: Some(tensor),
        metadata: Some(Metadata { plugin_data: Some(plugin) }),
        ..Value::default()
    };
    Event { wall_time, step: step as i64, summary: Some(Summary { value: vec![value] }), file_version: None }
}
