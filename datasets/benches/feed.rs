//! Cost of data before the model sees them: `taskset -c 0 cargo bench --workspace --bench feed` for one core.
//!
//! For each format: planning (the coordinator, once), opening (each worker, once), and gathering samples in an epoch's
//! order in batches of 32, as the worker's feed does. Then `datasets add` of 10,000 files, compared to plain `md5sum`.
//! Data are synthetic; images are a gradient with noise, so that PNG and JPEG have work to do.

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use datasets::{AugmentKey, Batch, DataPlan, Dataset};
use image::ImageFormat;
use support::{config, folder, gzip, idx, write};

/// Samples per batch.
const BATCH: usize = 32;
/// Duration of gathering, after a warm-up epoch.
const SECONDS: f64 = 1.0;
/// Number of files added, and their size.
const FILES: usize = 10_000;
const FILE_BYTES: usize = 10_000;

fn main() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{threads} threads; batches of {BATCH}");
    println!("{:<34} {:>10} {:>10} {:>14} {:>12}", "form", "plan, s", "open, s", "samples/s", "MB/s of f32");
    tables();
    images();
    texts();
    added();
}

fn tables() {
    let dir = folder();
    let row = |row: usize| {
        let numbers: String =
            (0..32).map(|column| format!("{:.3},", (row * 31 + column * 17) as f64 / 7.0 % 100.0)).collect();
        format!("{numbers}{}\n", row % 3)
    };
    let names: String = (0..32).map(|column| format!("c{column},")).collect();
    let text = format!("{names}y\n{}", (0..50_000).map(row).collect::<String>());
    let path = write(dir.path(), "t.csv", text.as_bytes());
    measure("csv, 50,000 rows of 32 numbers", &config("csv", &path));
    let bytes = support::parquet(200_000, parquet::basic::Compression::SNAPPY);
    let path = write(dir.path(), "t.parquet", &bytes);
    measure("parquet, 200,000 rows of 2 columns", &config("parquet", &path));
}

/// A grey image unique to its number.
fn picture(number: usize, side: usize) -> Vec<u8> {
    let pixel = |at: usize| {
        ((at % side + at / side) as u8).wrapping_add(((number * 7_919 + at * 104_729) >> 5) as u8 & 15)
    };
    (0..side * side).map(pixel).collect()
}

fn images() {
    let dir = folder();
    let count = 20_000;
    let pixels: Vec<u8> = (0..count).flat_map(|number| picture(number, 28)).collect();
    let labels: Vec<u8> = (0..count).map(|number| (number % 10) as u8).collect();
    write(dir.path(), "train-images-idx3-ubyte.gz", &gzip(&idx(&[count as u32, 28, 28], &pixels)));
    write(dir.path(), "train-labels-idx1-ubyte.gz", &gzip(&idx(&[count as u32], &labels)));
    let of_idx = config("idx", dir.path());
    measure("idx.gz, 20,000 of 28 x 28", &of_idx);
    let augment = configs::Augment { shift: 2, flip: true, crop: 0 };
    measure_augmented("  the same, shifted and flipped", &of_idx, &augment);
    for (name, format) in [("png", ImageFormat::Png), ("jpeg", ImageFormat::Jpeg)] {
        let dir = folder();
        for number in 0..2_000 {
            let image = support::encoded(format, &picture(number, 128), [128, 128]);
            write(dir.path(), &format!("{}/{number}.{name}", ["a", "b"][number % 2]), &image);
        }
        let held = config("images", dir.path());
        measure(&format!("{name}, 2,000 of 128 x 128, held"), &held);
        measure("  decoded as they are read", &configs::Dataset { cache_mb: 0, ..held });
    }
}

fn texts() {
    let dir = folder();
    let text: String = (0..400_000).map(|line| format!("line {line} of a text\n")).collect();
    let path = write(dir.path(), "t.txt", text.as_bytes());
    measure(
        &format!("text, {:.1} MB, windows of 128 bytes", text.len() as f64 / 1e6),
        &config("text", &path),
    );
    let words =
        (0..10).map(|digit| digit.to_string()).chain(["?", "line", "of", "a", "text"].map(str::to_owned));
    let numbers: serde_json::Map<_, _> = words.zip((0..).map(Into::into)).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0",
        "pre_tokenizer": { "type": "Whitespace" },
        "model": { "type": "WordLevel", "vocab": numbers, "unk_token": "?" },
    });
    let tokenizer = write(dir.path(), "words.json", tokenizer.to_string().as_bytes());
    measure(
        "  windows of 128 words",
        &configs::Dataset { tokenizer: Some(tokenizer), ..config("text", &path) },
    );
}

fn measure(name: &str, config: &configs::Dataset) {
    measure_augmented(name, config, &configs::Augment::default());
}

fn measure_augmented(name: &str, config: &configs::Dataset, augment: &configs::Augment) {
    let began = Instant::now();
    let plan = DataPlan::prepare(config, None).expect("planned").augmented(augment).expect("augmented");
    let planned = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let dataset = Dataset::open(&plan, Path::new(&plan.path)).expect("opened");
    let opened = began.elapsed().as_secs_f64();
    let (mut batch, mut ordinals) = (Batch::default(), Vec::new());
    let samples = dataset.training_len();
    // A stride coprime to the number of samples visits all of them, with jumps as in a shuffle.
    let stride = (samples / 2 + 1..).find(|stride| divisor(*stride, samples) == 1).unwrap_or(1);
    let (mut at, mut gathered, mut began) = (0, 0u64, Instant::now());
    let mut is_warm = false;
    while !is_warm || began.elapsed().as_secs_f64() < SECONDS {
        ordinals.clear();
        for _ in 0..BATCH {
            ordinals.push(at);
            at = (at + stride) % samples;
        }
        let key = AugmentKey { seed: 1, epoch: gathered / samples };
        dataset.gather_training(key, &ordinals, &mut batch).expect("gathered");
        gathered += BATCH as u64;
        if !is_warm && (gathered >= samples || began.elapsed().as_secs_f64() > SECONDS) {
            (is_warm, gathered, began) = (true, 0, Instant::now());
        }
    }
    let rate = gathered as f64 / began.elapsed().as_secs_f64();
    let megabytes = rate * plan.features() as f64 * 4.0 / 1e6;
    println!("{name:<34} {planned:>10.3} {opened:>10.3} {rate:>14.0} {megabytes:>12.0}");
}

fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { divisor(b, a % b) }
}

/// `datasets add` against `md5sum`, both with warm page caches.
fn added() {
    let dir = folder();
    let bytes: Vec<u8> = (0..FILE_BYTES).map(|at| (at * 31 % 251) as u8).collect();
    for number in 0..FILES {
        let own = [number.to_string().as_bytes(), &bytes].concat();
        write(dir.path(), &format!("data/{:03}/{number}", number % 100), &own);
    }
    let sum = || {
        let mut sum = Command::new("sh");
        sum.args(["-c", "find data -type f -print0 | xargs -0 md5sum > sums"]).current_dir(dir.path());
        timed(&mut sum)
    };
    sum();
    let plain = sum();
    let mut add = Command::new(env!("CARGO_BIN_EXE_datasets"));
    add.args(["add", "data", "--name", "many"]).current_dir(dir.path()).stdout(Stdio::null());
    let (first, again) = (timed(&mut add), timed(&mut add));
    println!("\n{FILES} files of {FILE_BYTES} bytes");
    println!("{:<34} {plain:>10.2} s", "md5sum");
    println!(
        "{:<34} {first:>10.2} s, {:.2} times md5sum: hashed, copied, synced",
        "datasets add",
        first / plain
    );
    println!("{:<34} {again:>10.2} s: the same bytes, no new version", "datasets add again");
}

fn timed(command: &mut Command) -> f64 {
    let began = Instant::now();
    assert!(command.status().expect("it runs").success());
    began.elapsed().as_secs_f64()
}
