//! `worker --check-task`: whether this program can train a run, asked before the run exists.
//!
//! The query is one JSON object on standard input: `config` (the run's configuration, TOML), `data_plan` (JSON in a
//! string), and `init` (the file of `init.from`, if there is one). The reply is one line of JSON on standard output:
//! `{"task","parameters","device"}`, or `{"task","code","message"}` with the exit code, which is this
//! program's too. It reports the errors that the run's first worker would find before step 0, as far as that needs no
//! sample.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use configs::Config;
use datasets::DataPlan;
use protocol::messages::Failure;
use serde::Deserialize;
use serde_json::{Value, json};
use trainer::{DeviceSpec, Registry};

use crate::captured_stderr::quietly;
use crate::failure::{fail, failure};
use crate::{data, member, state};

/// Longest query: a data plan names every file of a folder.
const QUESTION_BYTES_MAX: u64 = 1 << 30;

#[derive(Deserialize)]
struct CheckRequest {
    config: String,
    data_plan: String,
    #[serde(default)]
    init: Option<PathBuf>,
}

/// Reads the query, replies, and returns the exit code.
pub(crate) fn main(registry: &Registry, device: &DeviceSpec) -> ExitCode {
    trainer::device::use_one_thread();
    let (answer, code) = read(std::io::stdin().lock()).map_or_else(
        |failure| refusal("", &failure),
        |(question, config)| answer(registry, device, &question, &config),
    );
    printable::print_json(answer);
    ExitCode::from(code)
}

fn read(from: impl Read) -> Result<(CheckRequest, Config), Failure> {
    let wrong = |why: String| fail(2, format!("the question on standard input: {why}"));
    let question: CheckRequest =
        serde_json::from_reader(from.take(QUESTION_BYTES_MAX)).map_err(|why| wrong(why.to_string()))?;
    let config = Config::parse(&question.config, "the run's configuration", &[])
        .map_err(|why| fail(2, why.to_string()))?;
    Ok((question, config))
}

fn answer(registry: &Registry, device: &DeviceSpec, question: &CheckRequest, config: &Config) -> (Value, u8) {
    let task = &config.model.kind;
    match try_out(registry, device, question, config) {
        Ok((parameters, device)) => (json!({ "task": task, "parameters": parameters, "device": device }), 0),
        Err(failure) => refusal(task, &failure),
    }
}

fn refusal(task: &str, failure: &Failure) -> (Value, u8) {
    (json!({ "task": task, "code": failure.code, "message": failure.message }), failure.code)
}

/// Builds the model as a worker does; returns its number of parameters, and the device.
fn try_out(
    registry: &Registry,
    device: &DeviceSpec,
    question: &CheckRequest,
    config: &Config,
) -> Result<(usize, String), Failure> {
    let plan: DataPlan = serde_json::from_str(&question.data_plan)
        .map_err(|why| fail(3, format!("the dataset's plan can't be read: {why}")))?;
    let device = quietly(|| trainer::device::open(device)).map_err(|error| failure(&error))?;
    let spec = data::spec(&plan, config.train.precision);
    let (mut engine, _) = member::build(registry, config, &spec, &device)?;
    if !config.init.freeze.is_empty() {
        member::freeze(engine.as_mut(), config)?;
    }
    if let Some(path) = &question.init {
        let bytes = std::fs::read(path).map_err(|why| fail(3, format!("{}: {why}", path.display())))?;
        let layout = engine.layout();
        state::adopt(&bytes, layout, &config.init, &mut vec![0.0; layout.elements])?;
    }
    Ok((engine.layout().elements, device.info().spec.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(set: &[&str]) -> (Value, u8) {
        let (_, dir) = data::tests::of_form("csv", 20, |_| {});
        let text = format!("[dataset]\nuri = {:?}\n[train]\nepochs = 1", dir.path().join("table.csv"));
        let set: Vec<String> = set.iter().map(|flag| (*flag).to_owned()).collect();
        let config = Config::parse(&text, "t.toml", &set).expect("a configuration");
        let plan = DataPlan::prepare(&config.dataset, None).expect("a plan");
        let question = json!({
            "config": config.to_toml(), "data_plan": serde_json::to_string(&plan).expect("JSON"),
        });
        let (question, config) = read(question.to_string().as_bytes()).expect("read");
        answer(&Registry::builtin(), &DeviceSpec::Cpu, &question, &config)
    }

    #[test]
    fn what_can_be_trained_says_its_size() {
        let (answer, code) = asked(&["model.hidden=[3]"]);
        // One feature to 3 units to 2 labels, with biases.
        assert_eq!((answer["parameters"].as_u64(), code), (Some(14), 0), "{answer}");
    }

    #[test]
    fn a_name_that_is_none_and_data_that_dont_fit_are_refused_with_code_2() {
        let (answer, code) = asked(&["model.kind=resnt"]);
        let said = answer["message"].as_str().unwrap_or_default();
        assert!(code == 2 && said.contains("did you mean \"resnet\"?"), "{answer}");
        let (answer, code) = asked(&["model.kind=gpt"]);
        assert!(code == 2 && answer["message"].is_string(), "{answer}");
        let failure = read("{}".as_bytes()).err().expect("no question");
        assert!(failure.code == 2 && failure.message.contains("config"), "{failure:?}");
    }
}
