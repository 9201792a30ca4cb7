//! Implements [`Engine`] for a task on a device.

use std::borrow::Cow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData, Transaction};

use configs::Precision;

use crate::device::OpenDevice;
use crate::engine::{Engine, GradientSink};
use crate::error::TrainerError;
use crate::guard;
use crate::host::{DataSpec, HostBatch};
use crate::layout::Layout;
use crate::module_walk::{self, Gradients, Reader, Writer};
use crate::precision;
use crate::scored::{HostScored, Scored};
use crate::task::{ModelConfig, Task};

/// burn has one random generator per process and backend. This lock is held from seeding to the last draw. Parameters
/// draw their initial values lazily, so it also covers building, reading and writing them.
static RANDOM: Mutex<()> = Mutex::new(());

fn sole_draw() -> MutexGuard<'static, ()> {
    RANDOM.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct TaskEngine<T: Task> {
    task: T,
    /// On the training device. `None` after it was lost to a panic.
    model: Option<T::Model>,
    layout: Layout,
    /// One flag per parameter.
    frozen: Vec<bool>,
    name: String,
    /// Without autodiff: dropout is off and nothing is kept for a backward pass.
    plain: Device,
    training: Device,
}

impl<T: Task> TaskEngine<T> {
    pub(crate) fn new(
        config: &ModelConfig,
        data: &DataSpec,
        device: &OpenDevice,
    ) -> Result<Self, TrainerError> {
        let task = T::new(config, data)?;
        let name = device.info().spec.to_string();
        let plain = device.device().clone();
        let training = plain.clone().autodiff();
        let (model, layout) = guard::catch("building the model", &name, 0, || {
            let _sole = sole_draw();
            let model = task.model(&training);
            let layout = module_walk::layout(&model, task.model(&training))?;
            Ok((model, layout))
        })?;
        let frozen = vec![false; layout.parameters.len()];
        Ok(Self { task, model: Some(model), layout, frozen, name, plain, training })
    }

    fn model(&self) -> Result<&T::Model, TrainerError> {
        self.model.as_ref().ok_or_else(|| lost(&self.name))
    }

    fn check_length(&self, length: usize) -> Result<(), TrainerError> {
        if length == self.layout.elements {
            return Ok(());
        }
        Err(TrainerError::Shape(format!("{length} elements for a model of {}", self.layout.elements)))
    }

    /// Reads loss sum and outputs back to the host, after the tensors already in `transaction` (without autodiff, like
    /// gradients: a transaction takes tensors of one kind).
    fn read_back(
        &self,
        transaction: Transaction,
        scored: Scored,
    ) -> Result<(Vec<TensorData>, f64, usize), TrainerError> {
        let [_, width] = scored.outputs.dims();
        let data = transaction
            .register(scored.outputs.cast(DType::F32).without_autodiff())
            .register(scored.loss.cast(DType::F32).without_autodiff())
            .try_execute()
            .map_err(|error| guard::failure("reading results", &self.name, 0, error.to_string()))?;
        Ok((data, scored.weight, width))
    }

    fn sums(
        &self,
        batch: &HostBatch,
        data: &[TensorData],
        (weight, width): (f64, usize),
        evaluation: bool,
    ) -> Result<Vec<f64>, TrainerError> {
        let [.., outputs, loss] = data else { return Err(self.unreadable("nothing came back")) };
        let loss = self.slice(loss)?.first().copied().unwrap_or(f32::NAN);
        let outputs = self.slice(outputs)?;
        let scored = HostScored { loss_sum: f64::from(loss), weight, outputs, width, evaluation };
        Ok(self.task.sums(batch, &scored))
    }

    fn slice<'a>(&self, data: &'a TensorData) -> Result<&'a [f32], TrainerError> {
        data.as_slice::<f32>().map_err(|error| self.unreadable(&format!("{error:?}")))
    }

    fn unreadable(&self, detail: &str) -> TrainerError {
        guard::failure("reading results as f32", &self.name, 0, detail.to_owned())
    }
}

fn lost(name: &str) -> TrainerError {
    guard::failure("going on after a panic", name, 0, "the model was lost; build it again".to_owned())
}

impl<T: Task> Engine for TaskEngine<T> {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn initialise(&mut self, seed: u64) -> Result<(), TrainerError> {
        let values = guard::catch("initialising", &self.name, 0, || {
            let cpu = Device::flex();
            let _sole = sole_draw();
            cpu.seed(seed);
            let mut values = vec![0.0; self.layout.elements];
            // Parameters draw their values when first read: in layout order, under the lock.
            Reader::read(&self.task.model(&cpu), &mut values)?;
            Ok(values)
        })?;
        self.write_parameters(&values)
    }

    fn freeze(&mut self, frozen: &[bool]) -> Result<(), TrainerError> {
        if frozen.len() != self.frozen.len() {
            let count = self.frozen.len();
            return Err(TrainerError::Shape(format!("{} flags for {count} parameters", frozen.len())));
        }
        if frozen.iter().all(|frozen| *frozen) {
            return Err(TrainerError::Config(
                "init.freeze means every parameter of the model: nothing would be left to train".to_owned(),
            ));
        }
        self.frozen.copy_from_slice(frozen);
        let mut parameters = vec![0.0; self.layout.elements];
        self.read_parameters(&mut parameters)?;
        self.write_parameters(&parameters)
    }

    fn read_parameters(&mut self, out: &mut [f32]) -> Result<(), TrainerError> {
        self.check_length(out.len())?;
        let model = self.model()?;
        guard::catch("reading parameters", &self.name, 0, || {
            let _sole = sole_draw();
            Reader::read(model, out)
        })
    }

    fn write_parameters(&mut self, parameters: &[f32]) -> Result<(), TrainerError> {
        self.check_length(parameters.len())?;
        let model = self.model.take().ok_or_else(|| lost(&self.name))?;
        let model = guard::catch("writing parameters", &self.name, 0, || {
            let _sole = sole_draw();
            Ok(model.map(&mut Writer::new(parameters, &self.frozen, &self.training)))
        })?;
        self.model = Some(model);
        Ok(())
    }

    fn gradient(
        &mut self,
        batch: &HostBatch,
        key: u64,
        sink: &mut dyn GradientSink,
    ) -> Result<Vec<f64>, TrainerError> {
        let model = self.model()?;
        guard::catch("the gradient of a microbatch", &self.name, batch.count, || {
            let mut scored = {
                let _sole = sole_draw();
                let computing = match batch.precision {
                    Precision::F32 => Cow::Borrowed(model),
                    // Gradients flow back through the casts, so they reach the f32 parameters as f32.
                    half => Cow::Owned(precision::cast(model, precision::dtype(half))),
                };
                self.training.seed(key);
                self.task.forward(&computing, batch, &self.training)?
            };
            scored.loss = scored.loss.cast(DType::F32);
            let mut gradients = scored.loss.backward();
            let (transaction, present) = Gradients::register(model, &mut gradients);
            let (data, weight, width) = self.read_back(transaction, scored)?;
            for (parameter, gradient) in present.iter().zip(&data) {
                let offset = self.layout.parameters[*parameter].offset;
                sink.region(*parameter, offset, self.slice(gradient)?);
            }
            self.sums(batch, &data, (weight, width), false)
        })
    }

    fn evaluate(&mut self, batch: &HostBatch) -> Result<Vec<f64>, TrainerError> {
        let model = self.model()?;
        guard::catch("the evaluation of a microbatch", &self.name, batch.count, || {
            let scored = self.task.forward(&model.valid(), batch, &self.plain)?;
            let (data, weight, width) = self.read_back(Transaction::default(), scored)?;
            self.sums(batch, &data, (weight, width), true)
        })
    }

    fn predict(&mut self, batch: &HostBatch) -> Result<Vec<f32>, TrainerError> {
        let model = self.model()?;
        guard::catch("a prediction", &self.name, batch.count, || {
            let outputs: Tensor<2> = self.task.predict(&model.valid(), batch, &self.plain)?;
            let data = outputs.cast(DType::F32).try_into_data().map_err(|error| {
                guard::failure("a prediction", &self.name, batch.count, error.to_string())
            })?;
            Ok(self.slice(&data)?.to_vec())
        })
    }
}
