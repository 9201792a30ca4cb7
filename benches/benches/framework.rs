//! One worker through the whole framework against the same model and microbatches in a bare burn loop with burn's own
//! optimizer; two workers against one; memory; the coordinator's cost.
//!
//!     cargo bench --workspace --bench framework

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use benches::{Cost, median, peak_mib, through_the_framework};
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::optim::{AdamConfig, GradientsAccumulator, GradientsParams};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor, TensorData};

const ROUNDS: usize = 5;
const ROWS: usize = 2_048;
const PIXELS: usize = 784;

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    batch: usize,
    microbatch: usize,
    steps: usize,
    model: &'static str,
    parameters: usize,
}

const CASES: [Case; 2] = [
    Case {
        name: "mlp 784-512-256-10",
        batch: 128,
        microbatch: 16,
        steps: 200,
        model: "kind = \"mlp\"\nhidden = [512, 256]\n",
        parameters: 784 * 512 + 512 + 512 * 256 + 256 + 256 * 10 + 10,
    },
    Case {
        name: "cnn 32-64-128-10 on 28x28",
        batch: 64,
        microbatch: 8,
        steps: 60,
        model: "kind = \"cnn\"\nchannels = [32, 64]\nhidden = 128\n",
        parameters: 32 * 9 + 32 + 64 * 32 * 9 + 64 + 3_136 * 128 + 128 + 128 * 10 + 10,
    },
];

fn main() {
    // The bare loop runs in a separate process, so that its memory can be measured.
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--bare") {
        let case = CASES[arguments[at + 1].parse::<usize>().expect("a case")];
        let step_ms = bare(case);
        println!("{step_ms} {}", peak_mib(std::process::id()));
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    write_rows(&dir.path().join("rows.csv"));
    for (index, case) in CASES.into_iter().enumerate() {
        compare(dir.path(), index, case);
    }
}

fn compare(dir: &Path, index: usize, case: Case) {
    let config = dir.join("bench.toml");
    std::fs::write(&config, configuration(case)).expect("written");
    let (mut bare, mut one, mut two) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        bare.push(bare_process(index));
        one.push(through_the_framework(dir, &config, 1, 20).expect("a run"));
        two.push(through_the_framework(dir, &config, 2, 20).expect("a run"));
    }
    let of = |costs: &[Cost], what: fn(&Cost) -> f64| median(costs.iter().map(what).collect());
    let ratio = median(one.iter().zip(&bare).map(|(one, bare)| one.step_ms / bare.0).collect());
    let speedup = median(one.iter().zip(&two).map(|(one, two)| one.step_ms / two.step_ms).collect());
    let step = |cost: &Cost| cost.step_ms;
    println!("{}, batch {}, microbatches of {}", case.name, case.batch, case.microbatch);
    println!("  bare burn loop        {:8.2} ms a step", median(bare.iter().map(|b| b.0).collect()));
    println!("  framework, 1 worker   {:8.2} ms a step, {ratio:.3} of the bare loop", of(&one, step));
    println!(
        "  framework, 2 workers  {:8.2} ms a step, {:.0} samples/s, {speedup:.2} times one worker",
        of(&two, step),
        case.batch as f64 * 1_000.0 / of(&two, step)
    );
    let parameter_mib = case.parameters as f64 * 4.0 / 1_048_576.0;
    let extra = of(&one, |cost| cost.worker_mib) - median(bare.iter().map(|b| b.1).collect());
    let microbatches = case.batch.div_ceil(case.microbatch) as f64;
    println!(
        "  worker's peak memory  {:8.1} MiB, {extra:.1} MiB beyond the bare loop (bound: {:.1} MiB)",
        of(&one, |cost| cost.worker_mib),
        (4.0 + microbatches.log2()) * parameter_mib + 48.0
    );
    println!(
        "  coordinator           {:8.1} MiB, {:.2} ms of processor time a step (1 worker), {:.1} MiB, {:.2} ms (2)",
        of(&one, |cost| cost.coordinator_mib),
        of(&one, |cost| cost.coordinator_cpu_ms),
        of(&two, |cost| cost.coordinator_mib),
        of(&two, |cost| cost.coordinator_cpu_ms),
    );
}

fn configuration(case: Case) -> String {
    format!(
        "[dataset]\nuri = \"rows.csv\"\ntarget = \"label\"\nkind = \"classification\"\nvalidation = 0.0\n\
         image_shape = [1, 28, 28]\nnormalise = \"none\"\n\
         [train]\nsteps = {}\nbatch_size = {}\nmicrobatch_size = {}\nevaluate_every = 0\n\
         [model]\n{}[optimizer]\nkind = \"adam\"\nlearning_rate = 0.001\nweight_decay = 0.0\n\
         [checkpoint]\nevery = \"1h\"\n[export]\nformats = []\n[local]\ndevices = \"cpu\"\n",
        case.steps, case.batch, case.microbatch, case.model
    )
}

/// The same data on both sides: a linear congruential generator is random enough for timing.
fn row(index: usize) -> (Vec<f32>, usize) {
    let mut state = index as u64 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as u32
    };
    ((0..PIXELS).map(|_| (next() % 100) as f32 / 100.0).collect(), index % 10)
}

fn write_rows(path: &Path) {
    let mut text: String = (0..PIXELS).map(|pixel| format!("p{pixel},")).collect();
    text.push_str("label\n");
    for index in 0..ROWS {
        let (pixels, label) = row(index);
        for pixel in pixels {
            let _ = write!(text, "{pixel},");
        }
        let _ = writeln!(text, "{label}");
    }
    std::fs::write(path, text).expect("written");
}

fn bare_process(index: usize) -> (f64, f64) {
    let output = std::process::Command::new(std::env::current_exe().expect("this bench"))
        .args(["--bare", &index.to_string()])
        .env("RAYON_NUM_THREADS", "1")
        .output()
        .expect("the bare loop");
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(numbers.len() == 2, "the bare loop said {text:?} {}", String::from_utf8_lossy(&output.stderr));
    (numbers[0], numbers[1])
}

#[derive(Module, Debug)]
struct Mlp {
    layers: Vec<Linear>,
}

#[derive(Module, Debug)]
struct Cnn {
    convolutions: Vec<Conv2d>,
    hidden: Linear,
    output: Linear,
    pool: MaxPool2d,
}

/// Milliseconds per step of the bare loop, over all steps but the first 20.
fn bare(case: Case) -> f64 {
    let device = Device::flex().autodiff();
    device.seed(42);
    if case.name.starts_with("mlp") {
        let widths = [PIXELS, 512, 256, 10];
        let layers = widths.windows(2).map(|w| LinearConfig::new(w[0], w[1]).init(&device)).collect();
        train(case, &device, Mlp { layers }, |model, x| {
            let last = model.layers.len() - 1;
            model.layers.iter().enumerate().fold(x, |x, (index, layer)| {
                let x = layer.forward(x);
                if index < last { relu(x) } else { x }
            })
        })
    } else {
        let convolution = |from, to| {
            Conv2dConfig::new([from, to], [3, 3]).with_padding(PaddingConfig2d::Same).init(&device)
        };
        let model = Cnn {
            convolutions: vec![convolution(1, 32), convolution(32, 64)],
            hidden: LinearConfig::new(3_136, 128).init(&device),
            output: LinearConfig::new(128, 10).init(&device),
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
        };
        train(case, &device, model, |model, x| {
            let rows = x.dims()[0];
            let x = x.reshape([rows, 1, 28, 28]);
            let x = model.convolutions.iter().fold(x, |x, layer| model.pool.forward(relu(layer.forward(x))));
            model.output.forward(relu(model.hidden.forward(x.flatten(1, 3))))
        })
    }
}

fn train<M: Module>(
    case: Case,
    device: &Device,
    mut model: M,
    forward: impl Fn(&M, Tensor<2>) -> Tensor<2>,
) -> f64 {
    let rows: Vec<(Vec<f32>, usize)> = (0..ROWS).map(row).collect();
    let mut optimizer = AdamConfig::new().init();
    let loss = CrossEntropyLossConfig::new().init(device);
    let mut began = Instant::now();
    for step in 0..case.steps {
        if step == 20 {
            began = Instant::now();
        }
        let mut accumulator = GradientsAccumulator::new();
        for part in 0..case.batch / case.microbatch {
            let start = (step * case.batch + part * case.microbatch) % (ROWS - case.microbatch);
            let batch = &rows[start..start + case.microbatch];
            let pixels: Vec<f32> = batch.iter().flat_map(|(pixels, _)| pixels.iter().copied()).collect();
            let labels: Vec<i64> = batch.iter().map(|(_, label)| *label as i64).collect();
            let x = Tensor::<2>::from_data(TensorData::new(pixels, [batch.len(), PIXELS]), device);
            let y = Tensor::<1, Int>::from_data(TensorData::new(labels, [batch.len()]), device);
            let gradients = loss.forward(forward(&model, x), y).backward();
            accumulator.accumulate(&model, GradientsParams::from_grads(gradients, &model));
        }
        model = optimizer.step(0.001, model, accumulator.grads());
    }
    began.elapsed().as_secs_f64() * 1_000.0 / (case.steps - 20) as f64
}
