//! `trainer predict`: predicts the target of each row of a table, or of each image, in the target's own terms.

use std::fmt::Write;

use datasets::{Batch, DataPlan, Output};
use serde_json::{Value, json};
use trainer::{HostBatch, Registry, Target};

use crate::cli::{OutputForm, Predict};
use crate::failure::Failure;
use crate::model::Model;
use crate::run::Run;
use crate::samples;

/// Prediction for a row.
#[derive(PartialEq, Debug)]
enum Predicted {
    /// A classification.
    Label {
        /// Index of the most probable label.
        index: usize,
        /// Probabilities of all labels.
        probabilities: Vec<f64>,
        /// The model's outputs, whose softmax gives the probabilities.
        logits: Vec<f32>,
    },
    /// A value in the target's own unit.
    Value(f64),
}

/// Predicts every row of the table, or every image.
pub(crate) fn predict(ask: &Predict, registry: &Registry) -> Result<String, Failure> {
    let run = Run::open(&ask.source.run_dir, ask.source.memory)?;
    let version = run.version(ask.source.version, ask.source.verify_key.as_deref())?;
    let plan = run.plan()?;
    if !ask.input.exists() {
        return Err(Failure::data(format!("--input {}: no such file or folder", ask.input.display())));
    }
    let rows = plan.read_for_prediction(&ask.input)?;
    let files = plan.files_for_prediction(&ask.input)?;
    let mut model = Model::load(&run, &plan, &version, &ask.device, registry)?;
    let microbatch = run.config.train.evaluation_microbatch() as usize;
    let mut predicted = Vec::with_capacity(rows.count);
    let mut batch = HostBatch::empty(&samples::spec(&plan));
    batch.y = Target::Unknown;
    let width = plan.features();
    for start in (0..rows.count).step_by(microbatch.max(1)) {
        let end = rows.count.min(start + microbatch.max(1));
        let features = rows.features[start * width..end * width].to_vec();
        samples::fill(&Batch { count: end - start, features, ..Batch::default() }, &mut batch);
        predicted.extend(read(&plan.output, &model.engine.predict(&batch)?));
    }
    Ok(match ask.output {
        OutputForm::Table => table(&plan, &predicted, &files),
        OutputForm::Json => printable::json(&lines(&plan, &predicted, &files)).into_owned(),
    })
}

/// Converts the model's outputs to the target's own terms.
fn read(output: &Output, outputs: &[f32]) -> Vec<Predicted> {
    match output {
        Output::Classes { labels } => {
            let classes = labels.len().max(1);
            let probabilities = trainer::probabilities(outputs, classes);
            let label = |(logits, probabilities): (&[f32], &[f64])| {
                // As in evaluation: the first of the largest outputs.
                let first = |best: usize, at: usize| if logits[at] > logits[best] { at } else { best };
                Predicted::Label {
                    index: (0..logits.len()).fold(0, first),
                    probabilities: probabilities.to_vec(),
                    logits: logits.to_vec(),
                }
            };
            outputs.chunks(classes).zip(probabilities.chunks(classes)).map(label).collect()
        }
        Output::Values { offset, scale } => {
            outputs.iter().map(|y| Predicted::Value(f64::from(*y) * scale + offset)).collect()
        }
        // Text has no rows to predict; reading it has failed already.
        Output::Tokens { .. } => Vec::new(),
    }
}

fn label(labels: &[String], index: usize) -> &str {
    labels.get(index).map_or("", String::as_str)
}

/// One line per row, which begins with the row number, or with the file of an image.
fn table(plan: &DataPlan, predicted: &[Predicted], files: &[String]) -> String {
    let plain = |text: &String| printable::line(text).into_owned();
    let target = plain(&plan.targets().join(", "));
    let labels: Vec<String> = plan.labels().iter().map(plain).collect();
    let files: Vec<String> = files.iter().map(plain).collect();
    let first = labels.iter().map(|label| label.chars().count()).chain([target.chars().count(), 5]).max();
    let width = first.unwrap_or(5);
    let longest = files.iter().map(|file| file.chars().count()).max();
    let name = |row: usize| match (files.get(row), longest) {
        (Some(file), Some(longest)) => format!("{file:<longest$}"),
        _ => format!("{:>6}", row + 1),
    };
    let head = longest.map_or_else(|| format!("{:>6}", "row"), |longest| format!("{:<longest$}", "file"));
    let mut text = match &plan.output {
        Output::Classes { .. } => format!("{head}  {target:<width$}  probability\n"),
        Output::Values { .. } | Output::Tokens { .. } => format!("{head}  {target}\n"),
    };
    for (row, predicted) in predicted.iter().enumerate() {
        let row = name(row);
        // Writing to a String can't fail.
        let _ = match predicted {
            Predicted::Label { index, probabilities, .. } => {
                let probability = probabilities.get(*index).copied().unwrap_or(f64::NAN);
                writeln!(text, "{row}  {:<width$}  {probability:.4}", label(&labels, *index))
            }
            Predicted::Value(value) => writeln!(text, "{row}  {value}"),
        };
    }
    text
}

fn lines(plan: &DataPlan, predicted: &[Predicted], files: &[String]) -> String {
    let labels = plan.labels();
    let mut text = String::new();
    for (row, predicted) in (1usize..).zip(predicted) {
        let mut line = match predicted {
            Predicted::Label { index, probabilities, logits } => {
                let all: serde_json::Map<String, Value> = labels
                    .iter()
                    .cloned()
                    .zip(probabilities.iter().map(|p| run_record::to_json(*p)))
                    .collect();
                let probability = probabilities.get(*index).copied().unwrap_or(f64::NAN);
                json!({
                    "row": row, "label": label(labels, *index),
                    "probability": run_record::to_json(probability), "probabilities": all,
                    "logits": logits.iter().map(|x| run_record::to_json(f64::from(*x))).collect::<Vec<_>>(),
                })
            }
            Predicted::Value(value) => json!({ "row": row, "value": run_record::to_json(*value) }),
        };
        if let (Some(file), Some(line)) = (files.get(row - 1), line.as_object_mut()) {
            line.insert("file".to_owned(), json!(file));
        }
        let _ = writeln!(text, "{line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_in_its_own_unit() {
        let output = Output::Values { offset: 10.0, scale: 4.0 };
        assert_eq!(read(&output, &[0.5, -1.0]), [Predicted::Value(12.0), Predicted::Value(6.0)]);
    }

    #[test]
    fn the_label_is_the_first_of_the_greatest() {
        let output = Output::Classes { labels: vec!["a".into(), "b".into()] };
        let found = read(&output, &[1.0, 1.0, 0.0, 5.0]);
        assert!(
            matches!(&found[0], Predicted::Label { index: 0, probabilities, .. } if *probabilities == [0.5, 0.5])
        );
        assert!(
            matches!(&found[1], Predicted::Label { index: 1, probabilities, .. } if probabilities[1] > 0.99)
        );
    }
}
