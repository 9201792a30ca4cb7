//! Walks over a module's float parameters, always in the order of the flat buffer.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData, Transaction};

use crate::error::TrainerError;
use crate::layout::Layout;

/// The layout of a module, if members can keep it identical. `probe` is a second instance of the same module.
///
/// # Errors
/// If the module has running state (as BatchNorm has), tensors that aren't f32, a shared parameter, or no parameters.
pub(crate) fn layout<M: Module>(model: &M, probe: M) -> Result<Layout, TrainerError> {
    refuse_running_state(probe)?;
    let mut plan = Planner::default();
    model.visit(&mut plan);
    if let Some(refusal) = plan.refusal {
        return Err(TrainerError::Model(refusal));
    }
    if plan.layout.elements == 0 {
        return Err(TrainerError::Model("the model has no parameters to train".to_owned()));
    }
    Ok(plan.layout)
}

/// Running state never requires a gradient, even after `set_require_grad(true)`, which distinguishes it from frozen
/// parameters. (A clone can't serve as the probe: it shares uninitialised parameters, which would be thawed too.)
fn refuse_running_state<M: Module>(probe: M) -> Result<(), TrainerError> {
    let mut search = RunningState::default();
    probe.set_require_grad(true).visit(&mut search);
    match search.found {
        None => Ok(()),
        Some((layer, state)) => Err(TrainerError::Model(format!(
            "layer {layer:?} keeps running state ({state:?}) that changes in the forward pass, so a retried step would \
             count it twice: use GroupNorm or LayerNorm in place of BatchNorm"
        ))),
    }
}

/// Position of the walk: field names, and the kinds of the structs that contain them.
#[derive(Default)]
struct Path {
    names: Vec<String>,
    holders: Vec<String>,
}

impl Path {
    fn enter(&mut self, name: &str, holder: &str) {
        self.names.push(name.to_owned());
        self.holders.push(holder.to_owned());
    }

    fn exit(&mut self) {
        self.names.pop();
        self.holders.pop();
    }

    fn name(&self) -> String {
        self.names.join(".")
    }

    /// Whether this is a Linear's weight, which PyTorch stores as [out, in].
    fn is_linear_weight(&self) -> bool {
        self.names.last().is_some_and(|name| name == "weight")
            && self.holders.last().is_some_and(|holder| holder == "Struct:Linear")
    }
}

#[derive(Default)]
struct Planner {
    path: Path,
    layout: Layout,
    seen: Vec<ParamId>,
    refusal: Option<String>,
}

impl Planner {
    fn refuse(&mut self, why: &str) {
        let name = self.path.name();
        self.refusal.get_or_insert_with(|| format!("parameter {name:?} {why}"));
    }
}

impl ModuleVisitor for Planner {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.seen.contains(&param.id) {
            self.refuse("is in the module twice: share it by reference in the forward pass instead");
        }
        self.seen.push(param.id);
        let transposed = D == 2 && self.path.is_linear_weight();
        self.layout.push(self.path.name(), param.lazy_shape().to_vec(), transposed);
    }

    fn visit_int<const D: usize>(&mut self, _param: &Param<Tensor<D, Int>>) {
        self.refuse("holds integers, which versions don't carry: make it in the forward pass instead");
    }

    fn visit_bool<const D: usize>(&mut self, _param: &Param<Tensor<D, Bool>>) {
        self.refuse("holds booleans, which versions don't carry: make it in the forward pass instead");
    }
}

#[derive(Default)]
struct RunningState {
    path: Path,
    /// Names of the layer and of the state.
    found: Option<(String, String)>,
}

impl ModuleVisitor for RunningState {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.found.is_none() && param.is_initialized() && !param.base().is_require_grad() {
            let names = &self.path.names;
            let (layer, state) = names.split_at(names.len().saturating_sub(1));
            self.found = Some((layer.join("."), state.join(".")));
        }
    }
}

/// Copies parameters to the host, in a single read-back.
pub(crate) struct Reader {
    transaction: Option<Transaction>,
}

impl Reader {
    /// `out` must be as long as the layout.
    pub(crate) fn read<M: Module>(model: &M, out: &mut [f32]) -> Result<(), TrainerError> {
        let mut reader = Self { transaction: Some(Transaction::default()) };
        model.visit(&mut reader);
        let unreadable = |detail: String| TrainerError::Model(format!("parameters can't be read: {detail}"));
        let all = reader
            .transaction
            .unwrap_or_default()
            .try_execute()
            .map_err(|error| unreadable(error.to_string()))?;
        let mut rest = out;
        for data in &all {
            let values = data.as_slice::<f32>().map_err(|error| unreadable(format!("{error:?}")))?;
            let (region, after) = rest
                .split_at_mut_checked(values.len())
                .ok_or_else(|| unreadable("more elements than the layout has".to_owned()))?;
            region.copy_from_slice(values);
            rest = after;
        }
        Ok(())
    }
}

impl ModuleVisitor for Reader {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.base().without_autodiff();
        self.transaction = self.transaction.take().map(|transaction| transaction.register(tensor));
    }
}

/// Replaces parameters by those of the flat buffer.
pub(crate) struct Writer<'a> {
    rest: &'a [f32],
    frozen: std::slice::Iter<'a, bool>,
    device: &'a Device,
}

impl<'a> Writer<'a> {
    /// `flat` is as long as the layout; `frozen` has a flag for each parameter.
    pub(crate) fn new(flat: &'a [f32], frozen: &'a [bool], device: &'a Device) -> Self {
        Self { rest: flat, frozen: frozen.iter(), device }
    }
}

impl ModuleMapper for Writer<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let is_frozen = self.frozen.next().copied().unwrap_or(false);
        param.map(|old| {
            let shape = old.shape();
            let (values, rest) = self.rest.split_at(shape.num_elements());
            self.rest = rest;
            let tensor = Tensor::<D>::from_data(TensorData::new(values.to_vec(), shape), self.device);
            tensor.set_require_grad(old.is_require_grad() && !is_frozen)
        })
    }
}

/// Extracts the gradients of a backward pass, in layout order.
pub(crate) struct Gradients<'a> {
    gradients: &'a mut burn::tensor::Gradients,
    transaction: Option<Transaction>,
    number: usize,
    present: Vec<usize>,
}

impl<'a> Gradients<'a> {
    /// A single read-back for all gradients, and the numbers of the parameters that have one.
    pub(crate) fn register<M: Module>(
        model: &M,
        gradients: &'a mut burn::tensor::Gradients,
    ) -> (Transaction, Vec<usize>) {
        let transaction = Some(Transaction::default());
        let mut walk = Self { gradients, transaction, number: 0, present: Vec::new() };
        model.visit(&mut walk);
        (walk.transaction.unwrap_or_default(), walk.present)
    }
}

impl ModuleVisitor for Gradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.base().grad_remove(self.gradients) {
            self.present.push(self.number);
            self.transaction = self.transaction.take().map(|transaction| transaction.register(gradient));
        }
        self.number += 1;
    }
}
