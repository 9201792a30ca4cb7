//! Losses as sums over samples or tokens, by kind of target.

use burn::tensor::activation;
use burn::tensor::{DType, Int, Tensor, TensorData};

use crate::error::TrainerError;
use crate::host::{DataSpec, HostBatch, OutputSpec, Target};
use crate::ordered_sum::ordered_sum;
use crate::scored::Scored;

impl Scored {
    /// The standard loss by kind of target: cross entropy of logits `[samples, labels]`; for tokens, of logits
    /// `[samples * window, vocabulary]`; for values `[samples, width]`, the squared error averaged over a sample's
    /// values. Computed in f32, and summed over samples or tokens in a fixed order.
    ///
    /// # Errors
    /// If the outputs don't have the targets' shape, a label is out of range, or the targets are unknown.
    pub fn by_target(outputs: Tensor<2>, batch: &HostBatch) -> Result<Self, TrainerError> {
        if !matches!(batch.y, Target::Tokens(_)) {
            return Loss::default().score(outputs, batch);
        }
        let targets = batch.token_targets(&outputs.device())?;
        let ([rows, width], [tokens, _]) = (outputs.dims(), targets.dims());
        if rows != tokens {
            return Err(TrainerError::Shape(format!("logits [{rows}, {width}] for {tokens} tokens")));
        }
        batch.check_tokens(width)?;
        Ok(score_tokens(outputs, targets))
    }
}

/// Summed loss: cross entropy of labels, or the mean squared error over a sample's values.
#[derive(Debug, Default)]
pub(crate) struct Loss {
    smoothing: f64,
    /// Class weights; empty means 1 for each.
    weights: Vec<f64>,
}

impl Loss {
    /// From `model.label_smoothing` and `model.class_weights`, which are only valid for classification.
    pub(crate) fn new(smoothing: f64, weights: Vec<f64>, data: &DataSpec) -> Result<Self, TrainerError> {
        let refuse = |message: String| Err(TrainerError::Config(message));
        if !(0.0..1.0).contains(&smoothing) {
            return refuse(format!(
                "model.label_smoothing = {smoothing}: allowed are values from 0 to below 1"
            ));
        }
        let OutputSpec::Classes(labels) = &data.output else {
            if smoothing > 0.0 || !weights.is_empty() {
                return refuse(
                    "model.label_smoothing and model.class_weights are for classifications; the dataset's target is \
                     no label: remove them"
                        .to_owned(),
                );
            }
            return Ok(Self { smoothing, weights });
        };
        if !weights.is_empty() && weights.len() != labels.len() {
            return refuse(format!(
                "model.class_weights lists {} weights; the dataset has {} labels, in this order: {}",
                weights.len(),
                labels.len(),
                shortened(labels)
            ));
        }
        match weights.iter().find(|weight| !((**weight as f32).is_finite() && **weight >= 0.0)) {
            Some(weight) => {
                refuse(format!("model.class_weights holds {weight}: allowed are finite values from 0"))
            }
            None if !weights.is_empty() && weights.iter().all(|weight| *weight == 0.0) => {
                refuse("model.class_weights are all 0: there would be nothing to learn".to_owned())
            }
            None => Ok(Self { smoothing, weights }),
        }
    }

    /// The loss of a batch's outputs, `[count, width]`, computed in f32 regardless of their type. The weight is the
    /// number of samples, independent of class weights, so that accuracies are unaffected.
    pub(crate) fn score(&self, outputs: Tensor<2>, batch: &HostBatch) -> Result<Scored, TrainerError> {
        let outputs = outputs.cast(DType::F32);
        let [count, width] = outputs.dims();
        let loss = match &batch.y {
            Target::Labels(labels) => {
                check_labels(labels, count, width)?;
                self.cross_entropy(outputs.clone(), labels)
            }
            Target::Values { width: given, data } => {
                if *given != width || data.len() != count * width {
                    return Err(TrainerError::Shape(format!(
                        "{} target values, {given} a sample, for {count} samples of {width} outputs",
                        data.len()
                    )));
                }
                squared_error(outputs.clone(), data)
            }
            Target::Tokens(_) => {
                return Err(TrainerError::Shape("the model takes no tokens as targets".to_owned()));
            }
            Target::Unknown => {
                return Err(TrainerError::Shape(
                    "the batch has no targets to compute a loss from".to_owned(),
                ));
            }
        };
        Ok(Scored { loss, weight: count as f64, outputs })
    }

    /// All labels must be within the outputs.
    fn cross_entropy(&self, outputs: Tensor<2>, labels: &[i64]) -> Tensor<1> {
        let ([count, width], device) = (outputs.dims(), outputs.device());
        let logarithms = activation::log_softmax(outputs, 1);
        if self.smoothing == 0.0 && self.weights.is_empty() {
            let labels: Tensor<2, Int> =
                Tensor::from_data(TensorData::new(labels.to_vec(), [count, 1]), &device);
            return ordered_sum(logarithms.gather(1, labels)).neg();
        }
        let counts: Vec<f32> = labels.iter().flat_map(|label| self.coefficients(*label, width)).collect();
        let counts = Tensor::from_data(TensorData::new(counts, [count, width]), &device);
        ordered_sum(logarithms * counts).neg()
    }

    /// Coefficient of each class's log probability for a sample with this label. With smoothing e and weights w of K
    /// classes, it is w e/K for each class, plus w (1 - e) for the label (Szegedy et al. 2015, "Rethinking the
    /// Inception Architecture", section 7; with weights as in torch.nn.functional.cross_entropy).
    fn coefficients(&self, label: i64, classes: usize) -> impl Iterator<Item = f32> {
        let rest = self.smoothing / classes as f64;
        (0..classes).map(move |class| {
            let own = if class as i64 == label { 1.0 - self.smoothing } else { 0.0 };
            (self.weights.get(class).copied().unwrap_or(1.0) * (own + rest)) as f32
        })
    }
}

/// The first names, joined for a message.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    format!("{}{}", shown.join(", "), if names.len() > SHOWN { ", ..." } else { "" })
}

/// `values` must have as many elements as the outputs.
fn squared_error(outputs: Tensor<2>, values: &[f32]) -> Tensor<1> {
    let [count, width] = outputs.dims();
    let values = Tensor::from_data(TensorData::new(values.to_vec(), [count, width]), &outputs.device());
    let errors: Tensor<2> = outputs - values;
    ordered_sum(errors.clone() * errors).div_scalar(width as f32)
}

/// Rejects labels outside of the outputs, which some backends would read out of bounds.
fn check_labels(labels: &[i64], count: usize, classes: usize) -> Result<(), TrainerError> {
    if labels.len() != count {
        return Err(TrainerError::Shape(format!("{} labels for {count} samples", labels.len())));
    }
    let wrong = labels.iter().find(|label| usize::try_from(**label).map_or(true, |label| label >= classes));
    match wrong {
        None => Ok(()),
        Some(label) => {
            Err(TrainerError::Shape(format!("label index {label} is outside of the {classes} labels")))
        }
    }
}

/// Sum of the tokens' cross entropies, computed in f32 regardless of the logits' type. `targets` is `[tokens, 1]`, all
/// within the vocabulary.
pub(crate) fn score_tokens(logits: Tensor<2>, targets: Tensor<2, Int>) -> Scored {
    let logits = logits.cast(DType::F32);
    let [rows, _] = logits.dims();
    let plain = logits.clone().detach();
    let of_target = plain.clone().gather(1, targets.clone());
    let hits = plain.max_dim(1).equal(of_target).float();
    let loss = ordered_sum(activation::log_softmax(logits, 1).gather(1, targets)).neg();
    Scored { loss, weight: rows as f64, outputs: hits }
}
