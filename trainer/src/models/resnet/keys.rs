//! `[model]` keys of a resnet.

use serde::Deserialize;

use crate::error::TrainerError;

#[derive(Deserialize, Debug)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Keys {
    depth: usize,
    width: Option<usize>,
    pub(super) groups: usize,
    pub(super) label_smoothing: f64,
    pub(super) class_weights: Vec<f64>,
}

impl Default for Keys {
    fn default() -> Self {
        Self { depth: 8, width: None, groups: 8, label_smoothing: 0.0, class_weights: Vec::new() }
    }
}

/// `model.depth`: number of layers with weights, not counting shortcuts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Depth {
    /// 6n + 2: the networks for CIFAR-10.
    Small {
        /// Blocks per stage.
        n: usize,
    },
    /// The smallest network for ImageNet.
    Eighteen,
}

impl Depth {
    /// Number of stages, and of blocks per stage.
    pub(super) fn stages(self) -> (usize, usize) {
        match self {
            Self::Small { n } => (3, n),
            Self::Eighteen => (4, 2),
        }
    }

    /// Whether shortcuts have convolutions.
    pub(super) fn projects(self) -> bool {
        self == Self::Eighteen
    }
}

impl Keys {
    /// The depth, and the channels of the first stage.
    pub(super) fn size(&self) -> Result<(Depth, usize), TrainerError> {
        let (depth, published) = match self.depth {
            8 | 14 | 20 => (Depth::Small { n: (self.depth - 2) / 6 }, 16),
            18 => (Depth::Eighteen, 64),
            other => {
                return Err(TrainerError::Config(format!(
                    "model.depth = {other}: allowed are 8, 14, 18, 20"
                )));
            }
        };
        let width = self.width.unwrap_or(published);
        if width == 0 || self.groups == 0 || !width.is_multiple_of(self.groups) {
            return Err(TrainerError::Config(format!(
                "model.width = {width}, model.groups = {}: the width must be a multiple of the groups, both at least 1",
                self.groups
            )));
        }
        Ok((depth, width))
    }
}
