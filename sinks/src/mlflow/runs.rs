//! The experiment and the run on the server: found, created, or taken over from another creator.

use serde_json::{Value, json};

use super::http::Answer;
use super::target::Experiment;
use super::{Mlflow, RUN_ID_TAG, millis, tags};
use crate::{RunFolder, SinkError, SinkState};

/// The tag that also sets a run's name.
const RUN_NAME_TAG: &str = "mlflow.runName";

impl Mlflow {
    /// The run of this folder, which is created if it doesn't exist.
    pub(super) fn run(&self, run: &RunFolder, state: &mut SinkState) -> Result<Value, SinkError> {
        if !state.run.is_empty() {
            return self.known(&state.run);
        }
        if let Some(id) = &self.target.run {
            return self.take_over(run, id, state);
        }
        let experiment = self.experiment()?;
        match self.find(&experiment, &run.record()?.id)? {
            Some(found) => Ok(found),
            None => self.create(run, &experiment),
        }
    }

    /// The experiment's id; it is created if it doesn't exist.
    fn experiment(&self) -> Result<String, SinkError> {
        let name = match &self.target.experiment {
            Experiment::Named(name) => name,
            Experiment::Numbered(id) => return self.numbered(id),
            Experiment::Both { name, id } => return self.both(name, id),
        };
        let path = "experiments/get-by-name";
        // Another run may create it concurrently.
        for _ in 0..2 {
            match self.client.get(path, &[("experiment_name", name)])? {
                Answer::Good(found) => return self.active(path, &found),
                Answer::Absent(_) | Answer::Exists => {}
            }
            let made = self.client.post("experiments/create", &json!({ "name": name }))?;
            if let Answer::Good(made) = made {
                return self.text(path, &made["experiment_id"]);
            }
        }
        let destination = self.target.destination();
        Err(SinkError::Retry(format!("{destination}: the experiment comes and goes")))
    }

    fn numbered(&self, id: &str) -> Result<String, SinkError> {
        let path = "experiments/get";
        match self.client.get(path, &[("experiment_id", id)])? {
            Answer::Good(found) => self.active(path, &found),
            Answer::Absent(_) | Answer::Exists => {
                let why = format!(
                    "there is no experiment {id}, as MLFLOW_EXPERIMENT_ID has it: correct it, or unset it and set \
                     tracker.mlflow_experiment to a name"
                );
                Err(self.client.refused(path, &why))
            }
        }
    }

    /// Like MLflow's client, refuses a name and an id that disagree.
    fn both(&self, name: &str, id: &str) -> Result<String, SinkError> {
        let path = "experiments/get-by-name";
        let found = match self.client.get(path, &[("experiment_name", name)])? {
            Answer::Good(found) if found["experiment"]["experiment_id"] == id => {
                return self.active(path, &found);
            }
            Answer::Good(found) => {
                format!("is experiment {}", self.text(path, &found["experiment"]["experiment_id"])?)
            }
            Answer::Absent(_) | Answer::Exists => "isn't there".to_owned(),
        };
        let why = format!(
            "MLFLOW_EXPERIMENT_NAME is {name:?}, which {found}, and MLFLOW_EXPERIMENT_ID is {id}: unset one of them"
        );
        Err(self.client.refused(path, &why))
    }

    fn active(&self, path: &str, found: &Value) -> Result<String, SinkError> {
        let experiment = &found["experiment"];
        if experiment["lifecycle_stage"] == "deleted" {
            let why = format!(
                "the experiment {:?} was deleted: restore it (mlflow experiments restore), or choose another one with \
                 tracker.mlflow_experiment",
                experiment["name"].as_str().unwrap_or_default()
            );
            return Err(self.client.refused(path, &why));
        }
        self.text(path, &experiment["experiment_id"])
    }

    /// An existing run with this id that the state doesn't know, after a crash between creating and saving.
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
        let name = self.target.run_name.as_ref().unwrap_or(&record.run);
        let mut tags = tags::origin(run)?;
        tags.push(tags::tag(RUN_NAME_TAG, name));
        let body = json!({
            "experiment_id": experiment, "run_name": name, "user_id": tags::user(),
            "start_time": millis(run.began()?), "tags": tags,
        });
        Ok(self.client.send("runs/create", &body)?["run"].clone())
    }

    /// Takes over a run that somebody created for this one and keeps its name. A run with another run's metrics is
    /// refused.
    fn take_over(&self, run: &RunFolder, id: &str, state: &mut SinkState) -> Result<Value, SinkError> {
        let (found, own) = (self.known(id)?, run.record()?.id);
        let tags = found["data"]["tags"].as_array().into_iter().flatten();
        let other = tags.filter(|tag| tag["key"] == RUN_ID_TAG).find(|tag| tag["value"] != own.as_str());
        if let Some(other) = other {
            let why = format!(
                "MLFLOW_RUN_ID is {id}, and that has the numbers of another run already ({RUN_ID_TAG} {}): unset it, and \
                 this run gets one of its own",
                other["value"].as_str().unwrap_or_default()
            );
            return Err(self.client.refused("runs/get", &why));
        }
        id.clone_into(&mut state.run);
        let mut tags = tags::origin(run)?;
        tags.extend(self.target.run_name.as_ref().map(|name| tags::tag(RUN_NAME_TAG, name)));
        let logged = self.log_batch(state, "tags", &tags);
        if logged.is_err() {
            // The takeover failed.
            state.run.clear();
        }
        logged.map(|()| found)
    }

    /// The run that the state names, which may have been deleted meanwhile.
    pub(super) fn known(&self, id: &str) -> Result<Value, SinkError> {
        let path = "runs/get";
        let gone = |how: &str| {
            let way_out = if self.target.run.is_some() {
                "unset MLFLOW_RUN_ID or set it to another run"
            } else {
                "to send it anew, move its state away (the run's folder, tracker/*.json) or choose another experiment"
            };
            Err(self.client.refused(path, &format!("run {id} {how}; {way_out}")))
        };
        match self.client.get(path, &[("run_id", id)])? {
            Answer::Good(found) if found["run"]["info"]["lifecycle_stage"] == "deleted" => {
                gone("was deleted (mlflow runs restore brings it back)")
            }
            Answer::Good(found) => Ok(found["run"].clone()),
            Answer::Absent(_) | Answer::Exists => gone("is no longer there"),
        }
    }
}
