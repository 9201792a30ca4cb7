//! A run in an MLflow server, over its REST interface (release 3.17).
//!
//! Requests may be made twice: a run is found again by its tag `bonfire.run_id`, parameters that are there aren't sent
//! again, tags are written over, and MLflow drops a metric that it has with the same step, time and value.

mod address;
mod artifacts;
mod http;
mod names;
mod tags;
#[cfg(test)]
mod tests;

use serde_json::{Value, json};

pub(crate) use address::Address;
use http::{Answer, Client};

use super::{RunFolder, Sink, SinkError, SinkState, Source};
use crate::follow::Line;
use crate::{RunStatus, to_json};

/// Parameters or tags of a request.
const ENTITIES_MAX: usize = 100;
/// The tag by which a run is found again.
const RUN_ID_TAG: &str = "bonfire.run_id";

/// An MLflow server.
#[derive(Debug)]
pub(crate) struct Mlflow {
    client: Client,
    destination: String,
    experiment: String,
}

impl Mlflow {
    pub(crate) const NAME: &'static str = "mlflow";

    pub(crate) fn new(address: Address, experiment: String) -> Self {
        let destination = Self::destination_of(&address, &experiment);
        Self { client: Client::new(address), destination, experiment }
    }

    pub(crate) fn destination_of(address: &Address, experiment: &str) -> String {
        format!("{}, experiment {experiment}", address.shown())
    }

    /// The experiment's id, which is made if it isn't there.
    fn experiment(&self) -> Result<String, SinkError> {
        let path = "experiments/get-by-name";
        // Another run may make it at the same moment.
        for _ in 0..2 {
            match self.client.get(path, &[("experiment_name", &self.experiment)])? {
                Answer::Good(found) if found["experiment"]["lifecycle_stage"] == "deleted" => {
                    let why = format!(
                        "the experiment {:?} was deleted: restore it (mlflow experiments restore), or choose another \
                         one with tracker.mlflow_experiment",
                        self.experiment
                    );
                    return Err(self.client.refused(path, &why));
                }
                Answer::Good(found) => return self.text(path, &found["experiment"]["experiment_id"]),
                Answer::Absent(_) | Answer::Exists => {}
            }
            let made = self.client.post("experiments/create", &json!({ "name": self.experiment }))?;
            if let Answer::Good(made) = made {
                return self.text(path, &made["experiment_id"]);
            }
        }
        Err(SinkError::Retry(format!(
            "{}: the experiment {:?} comes and goes",
            self.destination, self.experiment
        )))
    }

    /// The run of this id that is there already, though the state doesn't say so: a crash came between.
    fn find(&self, experiment: &str, id: &str) -> Result<Option<Value>, SinkError> {
        if id.is_empty() {
            return Ok(None);
        }
        let search = json!({
            "experiment_ids": [experiment], "run_view_type": "ACTIVE_ONLY", "max_results": 1,
            "filter": format!("tags.`{RUN_ID_TAG}` = '{}'", id.replace('\'', "")),
        });
        Ok(self.client.send("runs/search", &search)?["runs"].get(0).cloned())
    }

    fn create(&self, run: &RunFolder, experiment: &str) -> Result<Value, SinkError> {
        let record = run.record()?;
        let body = json!({
            "experiment_id": experiment, "run_name": record.run, "user_id": tags::user(),
            "start_time": millis(run.began()?), "tags": tags::origin(run)?,
        });
        Ok(self.client.send("runs/create", &body)?["run"].clone())
    }

    /// The run that the state names, which may have been deleted meanwhile.
    fn known(&self, id: &str) -> Result<Value, SinkError> {
        let path = "runs/get";
        let gone = |how: &str| {
            let why = format!(
                "run {id} {how}; to send it anew, move its state away (the run's folder, tracker/*.json) or choose \
                 another experiment"
            );
            Err(self.client.refused(path, &why))
        };
        match self.client.get(path, &[("run_id", id)])? {
            Answer::Good(found) if found["run"]["info"]["lifecycle_stage"] == "deleted" => {
                gone("was deleted (mlflow runs restore brings it back)")
            }
            Answer::Good(found) => Ok(found["run"].clone()),
            Answer::Absent(_) | Answer::Exists => gone("is no longer there"),
        }
    }

    fn text(&self, path: &str, value: &Value) -> Result<String, SinkError> {
        value.as_str().map(str::to_owned).ok_or_else(|| {
            self.client.refused(path, "the answer lacks what MLflow's has: is this an MLflow server?")
        })
    }

    fn log_batch(&self, state: &SinkState, kind: &str, all: &[Value]) -> Result<(), SinkError> {
        let path = "runs/log-batch";
        for part in all.chunks(if kind == "metrics" { all.len().max(1) } else { ENTITIES_MAX }) {
            let body = json!({ "run_id": state.run, kind: part });
            match self.client.post(path, &body) {
                Ok(Answer::Good(_)) => {}
                // A run that is deleted for good, or one in the waste bin: `known` says which.
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

    /// Parameters can't be changed once they are there: a key that may change from start to start and did becomes a tag.
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

    fn log_inputs(&self, run: &RunFolder, state: &SinkState) -> Result<(), SinkError> {
        let body = json!({ "run_id": state.run, "datasets": tags::inputs(run)? });
        self.client.send("runs/log-inputs", &body).map(drop)
    }
}

impl Sink for Mlflow {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn destination(&self) -> String {
        self.destination.clone()
    }

    fn begin(&mut self, run: &RunFolder, state: &mut SinkState) -> Result<(), SinkError> {
        let found = if state.run.is_empty() {
            let experiment = self.experiment()?;
            match self.find(&experiment, &run.record()?.id)? {
                Some(found) => found,
                None => self.create(run, &experiment)?,
            }
        } else {
            self.known(&state.run)?
        };
        let info = &found["info"];
        state.run = self.text("runs/create", &info["run_id"])?;
        state.remember("experiment", info["experiment_id"].clone());
        state.remember("artifacts", info["artifact_uri"].clone());
        if !run.is_over()? && info["status"] != "RUNNING" {
            // It is resumed.
            let body = json!({ "run_id": state.run, "status": "RUNNING" });
            self.client.send("runs/update", &body)?;
        }
        Ok(())
    }

    fn params(&mut self, run: &RunFolder, state: &mut SinkState) -> Result<(), SinkError> {
        self.log_params(run, state)?;
        self.log_inputs(run, state)?;
        self.artifacts(run, state, &artifacts::at_begin(run))
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
        self.log_batch(state, "tags", &tags::standing(run)?)
    }

    fn finish(&mut self, run: &RunFolder, _: &[Line], state: &mut SinkState) -> Result<(), SinkError> {
        self.artifacts(run, state, &artifacts::at_end(run))?;
        let status = match run.record()?.status {
            RunStatus::Running => "RUNNING",
            RunStatus::Completed => "FINISHED",
            RunStatus::Failed => "FAILED",
            RunStatus::Interrupted => "KILLED",
        };
        let ended = millis(run.modified(crate::RunRecord::FILE));
        let body = json!({ "run_id": state.run, "status": status, "end_time": ended });
        self.client.send("runs/update", &body).map(drop)
    }

    fn place(&self, _: &RunFolder, state: &SinkState) -> String {
        let experiment = state.text("experiment").unwrap_or_default();
        format!("{}/#/experiments/{experiment}/runs/{}", self.client.address(), state.run)
    }
}

/// Milliseconds since 1970 of seconds: the same for the same line, whenever it is sent.
fn millis(seconds: f64) -> i64 {
    (seconds * 1e3).round() as i64
}
