//! `[model]` keys of a gpt.

use serde::Deserialize;

use crate::error::TrainerError;

#[derive(Deserialize, Debug)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Keys {
    preset: Preset,
    layers: Option<usize>,
    heads: Option<usize>,
    width: Option<usize>,
    pub(super) dropout: f64,
    pub(super) positions: Positions,
    pub(super) tied: bool,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            preset: Preset::default(),
            layers: None,
            heads: None,
            width: None,
            dropout: 0.0,
            positions: Positions::default(),
            tied: true,
        }
    }
}

/// `model.preset`: named after the number of parameters, including embeddings of 65 to 256 tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
enum Preset {
    /// The model that nanoGPT's README trains on a CPU (karpathy/nanoGPT, "quick start": 4 layers, 4 heads, width 128).
    #[default]
    #[serde(rename = "0.8M")]
    Tiny,
    /// As `Tiny`, but twice as wide.
    #[serde(rename = "3.3M")]
    Small,
    /// GPT-2 small (Radford et al. 2019, table 2: 12 layers, width 768; 12 heads as in openai/gpt-2's `hparams`).
    #[serde(rename = "124M")]
    Gpt2,
}

/// `model.positions`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Positions {
    /// A learned embedding per position of the window.
    #[default]
    Learned,
    /// Rotary embeddings of queries and keys.
    Rotary,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Size {
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) width: usize,
}

impl Preset {
    fn size(self) -> Size {
        let (layers, heads, width) = match self {
            Self::Tiny => (4, 4, 128),
            Self::Small => (4, 4, 256),
            Self::Gpt2 => (12, 12, 768),
        };
        Size { layers, heads, width }
    }
}

impl Keys {
    /// The preset's sizes, overridden by explicit keys.
    pub(super) fn size(&self) -> Result<Size, TrainerError> {
        let preset = self.preset.size();
        let layers = self.layers.unwrap_or(preset.layers);
        let heads = self.heads.unwrap_or(preset.heads);
        let width = self.width.unwrap_or(preset.width);
        let refuse = |why: &str| {
            Err(TrainerError::Config(format!(
                "model.layers = {layers}, model.heads = {heads}, model.width = {width}: {why}"
            )))
        };
        if layers == 0 || heads == 0 || width == 0 {
            return refuse("each must be at least 1");
        }
        if !width.is_multiple_of(heads) {
            return refuse("the width must be a multiple of the heads");
        }
        if self.positions == Positions::Rotary && !(width / heads).is_multiple_of(2) {
            return refuse("with model.positions = \"rotary\", width / heads must be even");
        }
        Ok(Size { layers, heads, width })
    }
}
