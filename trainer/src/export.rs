//! Exports a trained model: safetensors with everything needed to use it in the metadata.

use crate::layout::Layout;
use crate::tensors::{Metadata, encode_model};

/// Metadata of an exported model. All values are text or JSON, under the keys named here.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ExportInfo {
    /// `labels`: class names in output order; empty for a regression.
    pub labels: Vec<String>,
    /// `normalisation`: scaling of inputs (and targets), as JSON.
    pub normalisation: serde_json::Value,
    /// `config`: the resolved configuration, as TOML.
    pub config: String,
    /// `lineage`: run, step, dataset and digests, as JSON.
    pub lineage: serde_json::Value,
}

/// Serialises the export.
#[must_use]
pub fn safetensors(layout: &Layout, parameters: &[f32], info: &ExportInfo) -> Vec<u8> {
    let metadata: Metadata = [
        // Expected by PyTorch's readers.
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
