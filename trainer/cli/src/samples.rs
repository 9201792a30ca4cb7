//! Converts rows for the engine.

use datasets::{Batch, DataPlan, Output};
use trainer::{Categories, DataSpec, HostBatch, HostData, OutputSpec, Target};

/// The data's shapes and labels for the trainer.
pub(crate) fn spec(plan: &DataPlan) -> DataSpec {
    let input = match (&plan.output, plan.image_shape) {
        (Output::Tokens { window, .. }, _) => vec![*window as usize],
        (_, Some(shape)) => shape.to_vec(),
        (_, None) => vec![plan.features()],
    };
    let output = match &plan.output {
        Output::Classes { labels } => OutputSpec::Classes(labels.clone()),
        Output::Values { .. } => OutputSpec::Values(plan.targets()),
        Output::Tokens { vocabulary, .. } => OutputSpec::Tokens { vocabulary: *vocabulary as usize },
    };
    let categories = plan.categories().into_iter();
    let categories = categories.map(|(place, codes)| Categories { place, codes }).collect();
    DataSpec::new(input, output).with_categories(categories)
}

/// Copies rows into a reused batch.
pub(crate) fn fill(rows: &Batch, batch: &mut HostBatch) {
    if let HostData::F32(features) = &mut batch.x.data {
        features.clone_from(&rows.features);
    }
    if let HostData::I64(tokens) = &mut batch.x.data {
        tokens.clear();
        tokens.extend(rows.tokens.iter().map(|token| i64::from(*token)));
    }
    match &mut batch.y {
        Target::Labels(labels) | Target::Tokens(labels) => {
            labels.clear();
            labels.extend(rows.labels.iter().map(|label| i64::from(*label)));
        }
        Target::Values { data, .. } => data.clone_from(&rows.values),
        Target::Unknown => {}
    }
    batch.set_count(rows.count);
}
