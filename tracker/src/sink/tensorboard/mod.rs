//! A run as an event file of TensorBoard: `RUN_DIR/tensorboard/events.out.tfevents.*`.
//!
//! Scalars are 32 bits wide there. A run that is resumed goes on in its file.

mod messages;
mod record;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use prost::Message;

use super::local_file::{self, BYTES};
use super::{RunFolder, Sink, SinkError, SinkState, Source};
use crate::follow::Line;
use messages::{Dimension, Event, Metadata, PluginData, Shape, Summary, Tensor, Value};

/// Of the run's folder.
const FOLDER: &str = "tensorboard";
/// `DataType.DT_STRING`.
const DT_STRING: i32 = 7;

/// An event file.
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
        // The number is the time of the start, as readers expect it. The state knows the name, since the record of a
        // run that has just begun doesn't know its start yet.
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
        let text = Tensor {
            dtype: DT_STRING,
            shape: Some(Shape { dim: vec![Dimension { size: 1 }] }),
            string_val: vec![lines.collect::<String>().into_bytes()],
        };
        let plugin = PluginData { plugin_name: "text".to_owned() };
        let value = Value {
            tag: "config".to_owned(),
            tensor: Some(text),
            metadata: Some(Metadata { plugin_data: Some(plugin) }),
            ..Value::default()
        };
        let step = run.record()?.final_state.step as i64;
        let (wall_time, summary) = (run.modified("config.toml"), Some(Summary { value: vec![value] }));
        self.append(&[Event { wall_time, step, summary, file_version: None }], state)
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

    fn record(&mut self, _: &RunFolder, _: &mut SinkState) -> Result<(), SinkError> {
        Ok(())
    }

    fn finish(&mut self, _: &RunFolder, _: &[Line], _: &mut SinkState) -> Result<(), SinkError> {
        Ok(())
    }

    fn place(&self, _: &RunFolder, _: &SinkState) -> String {
        format!("{} (tensorboard --logdir {})", self.file.display(), self.folder.display())
    }
}
