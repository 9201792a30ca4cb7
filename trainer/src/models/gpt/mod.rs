//! A transformer that predicts the next token: GPT-2's architecture.

mod block;
mod keys;
mod positions;

use burn::module::Module;
use burn::nn::{
    Dropout, DropoutConfig, Embedding, EmbeddingConfig, Initializer, LayerNorm, LayerNormConfig, Linear,
    LinearConfig,
};
use burn::tensor::{Device, Int, Tensor, TensorData};

use self::block::Block;
use self::keys::{Keys, Positions, Size};
use self::positions::{BlockContext, causal_mask, rotation};
use super::head;
use crate::error::TrainerError;
use crate::host::{DataSpec, HostBatch, HostData, OutputSpec, Target};
use crate::loss::score_tokens;
use crate::precision::{embed, normalise};
use crate::scored::Scored;
use crate::task::{ModelConfig, Task};

/// Standard deviation of GPT-2's initial weights (Radford et al. 2018, section 4.1; openai/gpt-2, `src/model.py`).
const DEVIATION: f64 = 0.02;

/// `model.kind = "gpt"`: token embeddings, `layers` pre-norm blocks of causal self-attention with `heads` heads and of
/// two dense layers with GELU in between, a final normalisation, and the logits of the next token at each position.
///
/// The architecture is that of GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners",
/// section 2.3) with the exact GELU. Initial values are as theirs: normal with deviation 0.02, divided by sqrt(2
/// layers) for layers that end in the residual; biases 0, normalisations 1 and 0. `positions = "rotary"` rotates
/// queries and keys (Su et al. 2021, "RoFormer", section 3.4) instead of learning position embeddings. `tied = true`
/// reuses the token embeddings as the output weight, as GPT-2 does; otherwise the output has its own weight. `dropout`
/// applies to the embeddings, the attention weights and both branches of each block.
#[derive(Debug)]
pub struct Gpt {
    size: Size,
    positions: Positions,
    tied: bool,
    dropout: f64,
    vocabulary: usize,
    window: usize,
}

/// The module: `tokens.weight`, `positions.weight` (if learned), `blocks.0.norm1.gamma`,
/// `blocks.0.attention.query.weight`, ..., `norm.gamma`, `norm.beta`, `head.weight` (if not tied).
#[derive(Module, Debug)]
pub struct GptModel {
    tokens: Embedding,
    positions: Option<Embedding>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Option<Linear>,
    dropout: Dropout,
}

impl Task for Gpt {
    type Model = GptModel;

    fn new(config: &ModelConfig, data: &DataSpec) -> Result<Self, TrainerError> {
        let keys: Keys = config.keys()?;
        let size = keys.size()?;
        head::check_dropout(keys.dropout)?;
        let (OutputSpec::Tokens { vocabulary }, &[window]) = (&data.output, data.input.as_slice()) else {
            return Err(TrainerError::Config(
                "model.kind = \"gpt\" predicts the next token of a text; the dataset is none: use \"mlp\" for tables, \
                 \"cnn\" or \"resnet\" for images"
                    .to_owned(),
            ));
        };
        if *vocabulary < 2 || window == 0 {
            return Err(TrainerError::Config(format!(
                "model.kind = \"gpt\" needs at least 2 tokens and a window of at least 1; the dataset has {vocabulary} \
                 tokens and a window of {window}"
            )));
        }
        let Keys { positions, tied, dropout, .. } = keys;
        Ok(Self { size, positions, tied, dropout, vocabulary: *vocabulary, window })
    }

    fn model(&self, device: &Device) -> GptModel {
        let Size { layers, heads, width } = self.size;
        let normal = Initializer::Normal { mean: 0.0, std: DEVIATION };
        let embedding =
            |count| EmbeddingConfig::new(count, width).with_initializer(normal.clone()).init(device);
        let head = || {
            LinearConfig::new(width, self.vocabulary)
                .with_bias(false)
                .with_initializer(normal.clone())
                .init(device)
        };
        let dropout = DropoutConfig::new(self.dropout).init();
        let residual = DEVIATION / (2.0 * layers as f64).sqrt();
        GptModel {
            tokens: embedding(self.vocabulary),
            positions: (self.positions == Positions::Learned).then(|| embedding(self.window)),
            blocks: (0..layers)
                .map(|_| Block::new(width, heads, (DEVIATION, residual), &dropout, device))
                .collect(),
            norm: LayerNormConfig::new(width).init(device),
            head: (!self.tied).then(head),
            dropout,
        }
    }

    fn forward(&self, model: &GptModel, batch: &HostBatch, device: &Device) -> Result<Scored, TrainerError> {
        let logits = self.predict(model, batch, device)?;
        let Target::Tokens(targets) = &batch.y else {
            return Err(TrainerError::Shape(
                "the batch has no target tokens to compute a loss from".to_owned(),
            ));
        };
        let rows = logits.dims()[0];
        if targets.len() != rows {
            return Err(TrainerError::Shape(format!("{} target tokens for {rows} positions", targets.len())));
        }
        self.check_tokens(targets)?;
        let targets: Tensor<2, Int> = Tensor::from_data(TensorData::new(targets.clone(), [rows, 1]), device);
        Ok(score_tokens(logits, targets))
    }

    fn predict(
        &self,
        model: &GptModel,
        batch: &HostBatch,
        device: &Device,
    ) -> Result<Tensor<2>, TrainerError> {
        let tokens = self.tokens(batch, device)?;
        let [count, window] = tokens.dims();
        let width = self.size.width;
        let mut x = embed(&model.tokens, tokens);
        if let Some(positions) = &model.positions {
            x = x + positions.weight.val().narrow(0, 0, window).unsqueeze::<3>();
        }
        let mut x = model.dropout.forward(x.reshape([count * window, width]));
        let surroundings = BlockContext {
            count,
            window,
            mask: causal_mask(window, device),
            rotation: (self.positions == Positions::Rotary)
                .then(|| rotation(window, width / self.size.heads, (device, x.dtype()))),
        };
        for block in &model.blocks {
            x = block.forward(x, &surroundings);
        }
        let x = normalise(&model.norm, x, LayerNorm::forward);
        Ok(match &model.head {
            Some(head) => head.forward(x),
            None => x.matmul(model.tokens.weight.val().transpose()),
        })
    }
}

impl Gpt {
    /// The batch's tokens, `[count, window]`. A prediction may have a shorter window than training.
    fn tokens(&self, batch: &HostBatch, device: &Device) -> Result<Tensor<2, Int>, TrainerError> {
        let HostData::I64(tokens) = &batch.x.data else {
            return Err(TrainerError::Shape("the model takes tokens; the batch has f32 inputs".to_owned()));
        };
        let window = tokens.len().checked_div(batch.count).unwrap_or(0);
        if window == 0 || window > self.window || tokens.len() != batch.count * window {
            return Err(TrainerError::Shape(format!(
                "{} tokens for {} samples of a window of 1 to {}",
                tokens.len(),
                batch.count,
                self.window
            )));
        }
        self.check_tokens(tokens)?;
        Ok(Tensor::from_data(TensorData::new(tokens.clone(), [batch.count, window]), device))
    }

    /// Rejects tokens outside of the vocabulary, which some backends would read out of bounds.
    fn check_tokens(&self, tokens: &[i64]) -> Result<(), TrainerError> {
        let is_known = |token: i64| usize::try_from(token).is_ok_and(|token| token < self.vocabulary);
        match tokens.iter().find(|token| !is_known(**token)) {
            None => Ok(()),
            Some(token) => Err(TrainerError::Shape(format!(
                "token {token} is outside of the vocabulary of {}",
                self.vocabulary
            ))),
        }
    }
}
