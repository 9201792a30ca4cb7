//! Rows as the engine takes them.

use datasets::{Batch, Output, Plan};
use trainer::{DataSpec, HostBatch, HostData, OutputSpec, Target};

use crate::failure::Failure;

/// Shapes and names, as the trainer has them.
pub(crate) fn spec(plan: &Plan) -> Result<DataSpec, Failure> {
    let input = plan.image_shape.map_or_else(|| vec![plan.features()], |shape| shape.to_vec());
    let output = match &plan.output {
        Output::Classes { labels } => OutputSpec::Classes(labels.clone()),
        Output::Values { .. } => OutputSpec::Values(plan.targets()),
        Output::Tokens { .. } => {
            return Err(Failure::data("dataset.format = \"text\": this trainer has no model of tokens"));
        }
    };
    Ok(DataSpec { input, output })
}

/// Puts rows into a reused batch for the engine.
pub(crate) fn fill(rows: &Batch, batch: &mut HostBatch) {
    if let HostData::F32(features) = &mut batch.x.data {
        features.clone_from(&rows.features);
    }
    match &mut batch.y {
        Target::Labels(labels) => {
            labels.clear();
            labels.extend(rows.labels.iter().map(|label| i64::from(*label)));
        }
        Target::Values { data, .. } => data.clone_from(&rows.values),
        Target::Unknown => {}
    }
    batch.set_count(rows.count);
}
