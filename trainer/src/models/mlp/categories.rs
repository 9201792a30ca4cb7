//! Categorical features of a table: an embedding for each, alongside the numeric features.

use burn::nn::{Embedding, EmbeddingConfig, Initializer};
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::super::head;
use crate::error::TrainerError;
use crate::host::{Categories, DataSpec, HostBatch};
use crate::precision::embed;

/// Standard deviation of an embedding's initial values (fastai/fastai, `fastai/layers.py`, `Embedding`, which truncates
/// the normal distribution at two deviations; this code doesn't).
const DEVIATION: f64 = 0.01;
/// Maximum width of an embedding, unless set explicitly (as in [`width_by_rule`]).
const WIDTH_MAX: f64 = 600.0;

/// Categorical features and the widths of their embeddings.
#[derive(Debug)]
pub(super) struct Columns {
    /// Number of features per row.
    features: usize,
    /// The categorical features, by index, and the width of each one's embedding.
    coded: Vec<(Categories, usize)>,
}

/// min(600, round(1.6 n^0.56)) for n codes (fastai/fastai, `fastai/tabular/model.py`, `emb_sz_rule`).
fn width_by_rule(codes: usize) -> usize {
    (1.6 * (codes as f64).powf(0.56)).round().clamp(1.0, WIDTH_MAX) as usize
}

impl Columns {
    /// The data's columns, with embeddings of this width, or by the rule.
    pub(super) fn new(data: &DataSpec, width: Option<usize>) -> Result<Self, TrainerError> {
        let features: usize = data.input.iter().product();
        let mut places = data.categories.iter().map(|category| category.place);
        let is_in_order =
            places.clone().is_sorted_by(|a, b| a < b) && places.next_back().is_none_or(|p| p < features);
        if !is_in_order || data.categories.iter().any(|category| category.codes == 0) {
            return Err(TrainerError::Config(format!(
                "the dataset's categories {:?} are not places in order among {features} features",
                data.categories
            )));
        }
        if width == Some(0) {
            return Err(TrainerError::Config("model.embedding = 0: allowed are widths from 1".to_owned()));
        }
        let own = |category: &Categories| width.unwrap_or_else(|| width_by_rule(category.codes));
        let coded = data.categories.iter().map(|category| (*category, own(category))).collect();
        Ok(Self { features, coded })
    }

    /// Input width of the first layer.
    pub(super) fn width(&self) -> usize {
        self.features - self.coded.len() + self.coded.iter().map(|(_, width)| width).sum::<usize>()
    }

    /// One embedding per categorical column.
    pub(super) fn embeddings(&self, device: &Device) -> Vec<Embedding> {
        let normal = Initializer::Normal { mean: 0.0, std: DEVIATION };
        let embedding = |(category, width): &(Categories, usize)| {
            EmbeddingConfig::new(category.codes, *width).with_initializer(normal.clone()).init(device)
        };
        self.coded.iter().map(embedding).collect()
    }

    /// The numeric features of each row, followed by the embeddings of its codes, `[count, width]`.
    pub(super) fn rows(
        &self,
        embeddings: &[Embedding],
        batch: &HostBatch,
        device: &Device,
    ) -> Result<Tensor<2>, TrainerError> {
        if self.coded.is_empty() {
            return head::rows(batch, self.features, device);
        }
        let values = head::values(batch, self.features)?;
        let count = batch.count;
        let mut parts = Vec::with_capacity(1 + self.coded.len());
        if self.coded.len() < self.features {
            let is_number = |place: usize| self.coded.iter().all(|(category, _)| category.place != place);
            let places: Vec<usize> = (0..self.features).filter(|place| is_number(*place)).collect();
            let numbers: Vec<f32> = values
                .chunks_exact(self.features)
                .flat_map(|row| places.iter().map(|place| row[*place]))
                .collect();
            let numbers = TensorData::new(numbers, [count, places.len()]);
            parts.push(Tensor::from_data(numbers, (device, batch.dtype(device))));
        }
        for ((category, width), embedding) in self.coded.iter().zip(embeddings) {
            let codes = codes(values.iter().skip(category.place).step_by(self.features), category)?;
            let codes: Tensor<2, Int> = Tensor::from_data(TensorData::new(codes, [count, 1]), device);
            parts.push(embed(embedding, codes).reshape([count, *width]));
        }
        Ok(Tensor::cat(parts, 1))
    }
}

/// Rejects codes outside of the embedding, which some backends would read out of bounds.
fn codes<'a>(values: impl Iterator<Item = &'a f32>, category: &Categories) -> Result<Vec<i64>, TrainerError> {
    values
        .map(|value| {
            let is_code = *value >= 0.0 && value.fract() == 0.0 && (*value as usize) < category.codes;
            if is_code {
                return Ok(*value as i64);
            }
            Err(TrainerError::Shape(format!(
                "feature {} is {value}, where a code from 0 to {} is expected",
                category.place,
                category.codes - 1
            )))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_those_of_fastai() {
        // emb_sz_rule(n), computed in Python.
        for (codes, width) in [(2, 2), (3, 3), (4, 3), (10, 6), (100, 21), (1_000, 77), (100_000, 600)] {
            assert_eq!(width_by_rule(codes), width, "{codes} codes");
        }
    }

    #[test]
    fn only_whole_numbers_within_the_embedding_are_codes() {
        let category = Categories { place: 4, codes: 3 };
        assert_eq!(codes([0.0, 2.0].iter(), &category).ok(), Some(vec![0, 2]));
        for wrong in [-1.0, 3.0, 0.5, f32::NAN, f32::INFINITY] {
            let said = codes([wrong].iter(), &category).map_err(|error| error.to_string());
            assert!(said.as_ref().is_err_and(|said| said.contains("feature 4")), "{said:?}");
        }
    }
}
