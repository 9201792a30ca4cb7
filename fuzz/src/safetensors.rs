//! Fuzzes tensor files of any origin.

use std::cell::RefCell;

use trainer::tensors::{adopt_model, decode_model, decode_optimizer, header};
use trainer::{HostOptimizer, Layout, OptimizerConfig};

/// A file is read completely or refused. The first byte selects whether the rest is a file, or a header's text, to
/// which the length and as many bytes as the layout has are added.
pub fn run(data: &[u8]) {
    let Some((mode, data)) = data.split_first() else { return };
    let layout = layout();
    let file = if mode % 2 == 0 { data.to_vec() } else { with_length(data, layout.elements) };
    let mut parameters = vec![0.0; layout.elements];
    if let Ok(header) = header(&file) {
        let elements = header.shapes.values().map(|shape| shape.iter().product::<usize>()).sum::<usize>();
        assert!(elements <= 8 * file.len(), "{elements} elements in {} bytes", file.len());
    }
    let _ = decode_model(&file, &layout, &mut parameters);
    let before = parameters.clone();
    if adopt_model(&file, &layout, &mut parameters, |name| name.starts_with("head.")).is_err() {
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&before), bits(&parameters), "refused, and yet something was taken");
    }
    OPTIMIZER.with_borrow_mut(|optimizer| drop(decode_optimizer(&file, optimizer)));
}

thread_local! {
    static OPTIMIZER: RefCell<HostOptimizer> = {
        let config = OptimizerConfig::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
        RefCell::new(HostOptimizer::new(config, &layout()).expect("an optimizer"))
    };
}

fn layout() -> Layout {
    let mut layout = Layout::default();
    layout.push("hidden.weight".to_owned(), vec![2, 3], true);
    layout.push("head.bias".to_owned(), vec![2], false);
    layout
}

fn with_length(header: &[u8], elements: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header);
    file.resize(file.len() + elements * 4, 1);
    file
}
