//! A trained model for others: safetensors with everything needed to use it in the metadata.

use crate::layout::Layout;
use crate::tensors::{Metadata, encode_model};

/// What an exported model says about itself. All of it is text or JSON, under the keys named here.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ExportInfo {
    /// `labels`: the class names, in the order of the outputs; empty for a regression.
    pub labels: Vec<String>,
    /// `normalisation`: how inputs (and targets) were scaled, as JSON.
    pub normalisation: serde_json::Value,
    /// `config`: the resolved configuration, as TOML.
    pub config: String,
    /// `lineage`: run, step, dataset and digests, as JSON.
    pub lineage: serde_json::Value,
}

/// The file.
#[must_use]
pub fn safetensors(layout: &Layout, parameters: &[f32], info: &ExportInfo) -> Vec<u8> {
    let metadata: Metadata = [
        // What PyTorch's readers look for.
        ("format", "pt".to_owned()),
        ("labels", serde_json::json!(info.labels).to_string()),
        ("normalisation", info.normalisation.to_string()),
        ("config", info.config.clone()),
        ("lineage", info.lineage.to_string()),
    ]
    .map(|(key, text)| (key.to_owned(), text))
    .into();
    encode_model(layout, parameters, &metadata)
}
