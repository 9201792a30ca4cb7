//! Small real files of every form.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::Write;
use std::path::{Path, PathBuf};

use datasets::{AugmentKey, Batch, Dataset, Plan};

/// The first epoch of some run.
pub const KEY: AugmentKey = AugmentKey { seed: 42, epoch: 0 };

/// A temporary folder.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// The configuration of data at a path.
pub fn config(format: &str, path: &Path) -> configs::Dataset {
    configs::Dataset {
        uri: path.display().to_string(),
        format: format.to_owned(),
        ..configs::Dataset::default()
    }
}

/// Writes a file, and the folders that it is in.
pub fn write(root: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    std::fs::write(&path, bytes).expect("written");
    path
}

/// An idx file of unsigned bytes.
pub fn idx(sizes: &[u32], numbers: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, u8::try_from(sizes.len()).expect("few")];
    bytes.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
    bytes.extend_from_slice(numbers);
    bytes
}

/// The bytes, gzipped.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("compressed");
    encoder.finish().expect("compressed")
}

/// A grey image of 3 x 4 pixels that no other number makes.
pub fn pixels(number: usize) -> Vec<u8> {
    let pixel = |at: usize| (number * 7 + at * 13 + (at % 3) * number) as u8;
    std::iter::once(number as u8).chain((1..12).map(pixel)).collect()
}

/// MNIST in small: images of 3 x 4 pixels, of which the first is the image's number, and labels 0 to 2 in turn.
pub fn mnist(root: &Path, count: usize, is_gzip: bool) {
    let numbers: Vec<u8> = (0..count).flat_map(pixels).collect();
    let labels: Vec<u8> = (0..count).map(|number| (number % 3) as u8).collect();
    let images = idx(&[count as u32, 3, 4], &numbers);
    let labels = idx(&[count as u32], &labels);
    let (end, images, labels) =
        if is_gzip { (".gz", gzip(&images), gzip(&labels)) } else { ("", images, labels) };
    write(root, &format!("train-images-idx3-ubyte{end}"), &images);
    write(root, &format!("train-labels-idx1-ubyte{end}"), &labels);
}

/// An image file, by the ending of its name: grey, 3 high and 4 wide.
pub fn encoded(format: image::ImageFormat, pixels: &[u8], [height, width]: [u32; 2]) -> Vec<u8> {
    let image = image::GrayImage::from_raw(width, height, pixels.to_vec()).expect("pixels");
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).expect("encoded");
    bytes.into_inner()
}

/// A folder of PNG files, `count` of class `cat` and as many of class `dog`, the first pixel of each its number.
pub fn pets(root: &Path, count: usize) {
    for number in 0..2 * count {
        let class = if number < count { "cat" } else { "dog" };
        let bytes = encoded(image::ImageFormat::Png, &pixels(number), [3, 4]);
        write(root, &format!("{class}/{number:03}.png"), &bytes);
    }
}

/// What is said about data that are refused when they are planned or opened; "fine" if they are not.
pub fn refused(config: &configs::Dataset) -> String {
    let said = match Plan::prepare(config, None) {
        Ok(plan) => match Dataset::open(&plan, Path::new(&plan.path)) {
            Ok(_) => "fine".to_owned(),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    said.replace(&format!("{}/", config.uri), "").replace(&config.uri, "data")
}

/// Plans and opens.
pub fn open(config: &configs::Dataset) -> (Plan, Dataset) {
    let plan = Plan::prepare(config, None).expect("planned");
    let json = serde_json::to_string(&plan).expect("JSON");
    let shipped: Plan = serde_json::from_str(&json).expect("a plan");
    assert_eq!(shipped, plan, "to the last bit");
    assert_eq!(serde_json::to_string(&shipped).expect("JSON"), json, "in the same order");
    let dataset = Dataset::open(&shipped, Path::new(&plan.path)).expect("opened");
    assert_eq!((dataset.training_len(), dataset.evaluation_len()), plan.split_lengths());
    (plan, dataset)
}

/// All samples of training, and of validation, gathered in threes.
pub fn epoch(dataset: &Dataset, key: AugmentKey) -> (Batch, Batch) {
    let (mut training, mut validation, mut batch) = <(Batch, Batch, Batch)>::default();
    let append = |all: &mut Batch, batch: &Batch| {
        all.count += batch.count;
        all.features.extend_from_slice(&batch.features);
        all.tokens.extend_from_slice(&batch.tokens);
        all.labels.extend_from_slice(&batch.labels);
        all.values.extend_from_slice(&batch.values);
    };
    for ordinals in (0..dataset.training_len()).collect::<Vec<_>>().chunks(3) {
        dataset.gather_training(key, ordinals, &mut batch).expect("gathered");
        append(&mut training, &batch);
    }
    for ordinals in (0..dataset.evaluation_len()).collect::<Vec<_>>().chunks(3) {
        dataset.gather_evaluation(ordinals, &mut batch).expect("gathered");
        append(&mut validation, &batch);
    }
    (training, validation)
}
