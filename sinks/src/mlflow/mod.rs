//! Exports a run to an MLflow server, over its REST interface (release 3.17).
//!
//! Requests are idempotent: a run is found again by its tag `bonfire.run_id`, existing parameters aren't sent again,
//! tags are overwritten, and MLflow drops duplicates of a metric with the same step, time and value. Metrics go first,
//! so that they arrive even if the server's artifact store fails or the server doesn't support datasets.

mod address;
mod artifacts;
mod credentials;
mod http;
mod names;
mod runs;
mod tags;
mod target;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::BTreeSet;

use run_record::follow::Line;
use run_record::{RunStatus, to_json};
use serde_json::{Value, json};

pub(crate) use address::Address;
use http::{Answer, Client};
pub(crate) use target::Target;

use super::{RunFolder, Sink, SinkError, SinkState, Source};

/// Maximum number of parameters or tags per request.
const ENTITIES_MAX: usize = 100;
/// Maximum bytes of their JSON: MLflow accepts requests of up to a million.
const BYTES_MAX: usize = 900_000;
/// The tag by which a run is found again.
const RUN_ID_TAG: &str = "bonfire.run_id";

#[derive(Debug)]
pub(crate) struct Mlflow {
    client: Client,
    target: Target,
    remarks: Vec<String>,
    /// Files whose refusal was reported, each only once since some change often.
    told: BTreeSet<String>,
}

impl Mlflow {
    pub(crate) const NAME: &'static str = "mlflow";

    pub(crate) fn new(target: Target) -> Self {
        Self {
            client: Client::new(target.address.clone()),
            target,
            remarks: Vec::new(),
            told: BTreeSet::new(),
        }
    }

    fn text(&self, path: &str, value: &Value) -> Result<String, SinkError> {
        value.as_str().map(str::to_owned).ok_or_else(|| {
            self.client.refused(path, "the answer lacks what MLflow's has: is this an MLflow server?")
        })
    }

    fn log_batch(&self, state: &SinkState, kind: &str, all: &[Value]) -> Result<(), SinkError> {
        let path = "runs/log-batch";
        for part in portions(all, if kind == "metrics" { all.len() } else { ENTITIES_MAX }) {
            let body = json!({ "run_id": state.run, kind: part });
            match self.client.post(path, &body) {
                Ok(Answer::Good(_)) => {}
                // The run was deleted for good, or is in the trash: `known` reports which.
                Ok(_) => return self.known(&state.run).map(drop),
                Err(SinkError::Refused(why)) => {
                    self.known(&state.run)?;
                    return Err(SinkError::Refused(why));
                }
                Err(retry) => return Err(retry),
            }
        }
        Ok(())
    }

    /// Existing parameters can't be changed: a key whose value changed since an earlier start becomes a tag.
    fn log_params(&self, run: &RunFolder, state: &SinkState) -> Result<(), SinkError> {
        let there = self.known(&state.run)?;
        let there: Vec<(&str, &str)> = there["data"]["params"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|param| Some((param["key"].as_str()?, param["value"].as_str()?)))
            .collect();
        let (mut params, mut changed) = (Vec::new(), Vec::new());
        for (key, value) in run.params()? {
            let (key, value) = (names::key(&key), names::value(&value, names::PARAM_CHARS_MAX));
            match there.iter().find(|(known, _)| *known == key) {
                None => params.push(json!({ "key": key, "value": value })),
                Some((_, before)) if *before == value => {}
                Some(_) => changed.push(tags::tag(&format!("bonfire.changed.{key}"), &value)),
            }
        }
        self.log_batch(state, "params", &params)?;
        self.log_batch(state, "tags", &changed)
    }

    /// Logs the datasets; a server without support for them still gets the rest.
    fn log_inputs(&mut self, run: &RunFolder, state: &SinkState) -> Result<(), SinkError> {
        let body = json!({ "run_id": state.run, "datasets": tags::inputs(run)? });
        match self.client.send("runs/log-inputs", &body) {
            Ok(_) => Ok(()),
            Err(SinkError::Refused(why)) => {
                self.known(&state.run)?;
                self.remarks
                    .push(format!("{why}; the dataset isn't among the run's inputs there, all else is sent"));
                Ok(())
            }
            Err(retry) => Err(retry),
        }
    }
}

impl Sink for Mlflow {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn destination(&self) -> String {
        self.target.destination()
    }

    fn begin(&mut self, run: &RunFolder, state: &mut SinkState) -> Result<(), SinkError> {
        let found = self.run(run, state)?;
        let info = &found["info"];
        state.run = self.text("runs/create", &info["run_id"])?;
        state.remember("experiment", info["experiment_id"].clone());
        state.remember("artifacts", info["artifact_uri"].clone());
        if !run.is_over()? && info["status"] != "RUNNING" {
            // The run is resumed.
            let body = json!({ "run_id": state.run, "status": "RUNNING" });
            self.client.send("runs/update", &body)?;
        }
        Ok(())
    }

    fn params(&mut self, run: &RunFolder, state: &mut SinkState) -> Result<(), SinkError> {
        self.log_params(run, state)?;
        self.log_inputs(run, state)
    }

    fn metrics(&mut self, _: Source, lines: &[Line], state: &mut SinkState) -> Result<usize, SinkError> {
        let metric = |line: &Line| {
            let metric = &line.metric;
            json!({
                "key": names::key(&metric.key), "value": to_json(metric.value), "step": metric.step,
                "timestamp": millis(metric.time),
            })
        };
        let metrics: Vec<Value> = lines.iter().map(metric).collect();
        self.log_batch(state, "metrics", &metrics)?;
        Ok(lines.len())
    }

    fn record(&mut self, run: &RunFolder, state: &mut SinkState) -> Result<(), SinkError> {
        self.log_batch(state, "tags", &tags::standing(run)?)?;
        self.artifacts(run, state, &artifacts::meanwhile(run))
    }

    fn finish(&mut self, run: &RunFolder, _: &[Line], state: &mut SinkState) -> Result<(), SinkError> {
        let kept = self.artifacts(run, state, &artifacts::at_end(run));
        let status = match run.record()?.status {
            RunStatus::Running => "RUNNING",
            RunStatus::Completed => "FINISHED",
            RunStatus::Failed => "FAILED",
            RunStatus::Interrupted => "KILLED",
        };
        let ended = millis(run.modified(run_record::RunRecord::FILE));
        let body = json!({ "run_id": state.run, "status": status, "end_time": ended });
        self.client.send("runs/update", &body)?;
        kept
    }

    fn remarks(&mut self) -> Vec<String> {
        std::mem::take(&mut self.remarks)
    }

    fn place(&self, _: &RunFolder, state: &SinkState) -> String {
        let experiment = state.text("experiment").unwrap_or_default();
        format!("{}/#/experiments/{experiment}/runs/{}", self.target.shown(), state.run)
    }
}

/// Splits values into requests within the server's limits.
fn portions(all: &[Value], count_max: usize) -> Vec<&[Value]> {
    let (mut portions, mut begin, mut bytes) = (Vec::new(), 0, 0);
    for (index, value) in all.iter().enumerate() {
        let length = value.to_string().len() + 1;
        if index > begin && (index - begin == count_max || bytes + length > BYTES_MAX) {
            portions.push(&all[begin..index]);
            (begin, bytes) = (index, 0);
        }
        bytes += length;
    }
    portions.extend(Some(&all[begin..]).filter(|rest| !rest.is_empty()));
    portions
}

/// Seconds to milliseconds since 1970, deterministically: resending a line gives the same time.
fn millis(seconds: f64) -> i64 {
    (seconds * 1e3).round() as i64
}
