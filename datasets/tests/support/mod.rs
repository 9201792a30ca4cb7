//! Small real files of every format.
#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod place;

use std::io::Write;
use std::path::{Path, PathBuf};

use datasets::{AugmentKey, Batch, DataPlan, Dataset};

/// The first epoch of some run.
pub(crate) const KEY: AugmentKey = AugmentKey { seed: 42, epoch: 0 };

pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// A dataset configuration for a path.
pub(crate) fn config(format: &str, path: &Path) -> configs::Dataset {
    configs::Dataset {
        uri: path.display().to_string(),
        format: format.to_owned(),
        ..configs::Dataset::default()
    }
}

/// Writes a file, creating its parent folders.
pub(crate) fn write(root: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    std::fs::write(&path, bytes).expect("written");
    path
}

/// An idx file of unsigned bytes.
pub(crate) fn idx(sizes: &[u32], numbers: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, u8::try_from(sizes.len()).expect("few")];
    bytes.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
    bytes.extend_from_slice(numbers);
    bytes
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("compressed");
    encoder.finish().expect("compressed")
}

/// A grey image of 3 x 4 pixels, unique to its number.
pub(crate) fn pixels(number: usize) -> Vec<u8> {
    let pixel = |at: usize| (number * 7 + at * 13 + (at % 3) * number) as u8;
    std::iter::once(number as u8).chain((1..12).map(pixel)).collect()
}

/// A miniature MNIST: images of 3 x 4 pixels, the first being the image's number; labels cycle through 0, 1 and 2.
pub(crate) fn mnist(root: &Path, count: usize, is_gzip: bool) {
    let numbers: Vec<u8> = (0..count).flat_map(pixels).collect();
    let labels: Vec<u8> = (0..count).map(|number| (number % 3) as u8).collect();
    let images = idx(&[count as u32, 3, 4], &numbers);
    let labels = idx(&[count as u32], &labels);
    let (end, images, labels) =
        if is_gzip { (".gz", gzip(&images), gzip(&labels)) } else { ("", images, labels) };
    write(root, &format!("train-images-idx3-ubyte{end}"), &images);
    write(root, &format!("train-labels-idx1-ubyte{end}"), &labels);
}

/// Encodes a grey image.
pub(crate) fn encoded(format: image::ImageFormat, pixels: &[u8], [height, width]: [u32; 2]) -> Vec<u8> {
    let image = image::GrayImage::from_raw(width, height, pixels.to_vec()).expect("pixels");
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).expect("encoded");
    bytes.into_inner()
}

/// A folder of PNG files: `count` of class `cat` and as many of class `dog`; the first pixel is the image's number.
pub(crate) fn pets(root: &Path, count: usize) {
    for number in 0..2 * count {
        let class = if number < count { "cat" } else { "dog" };
        let bytes = encoded(image::ImageFormat::Png, &pixels(number), [3, 4]);
        write(root, &format!("{class}/{number:03}.png"), &bytes);
    }
}

/// The error on planning or opening the data; "fine" if there is none.
pub(crate) fn refused(config: &configs::Dataset) -> String {
    let said = match DataPlan::prepare(config, None) {
        Ok(plan) => match Dataset::open(&plan, Path::new(&plan.path)) {
            Ok(_) => "fine".to_owned(),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    said.replace(&format!("{}/", config.uri), "").replace(&config.uri, "data")
}

/// Plans and opens a dataset, with the plan passed through JSON.
pub(crate) fn open(config: &configs::Dataset) -> (DataPlan, Dataset) {
    let plan = DataPlan::prepare(config, None).expect("planned");
    let json = serde_json::to_string(&plan).expect("JSON");
    let shipped: DataPlan = serde_json::from_str(&json).expect("a plan");
    assert_eq!(shipped, plan, "to the last bit");
    assert_eq!(serde_json::to_string(&shipped).expect("JSON"), json, "in the same order");
    let dataset = Dataset::open(&shipped, Path::new(&plan.path)).expect("opened");
    assert_eq!((dataset.training_len(), dataset.evaluation_len()), plan.split_lengths());
    (plan, dataset)
}

/// All training and validation samples, gathered in batches of three.
pub(crate) fn epoch(dataset: &Dataset, key: AugmentKey) -> (Batch, Batch) {
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

/// A parquet file of `rows` rows: a number `n` (null in every fifth), digits as text `code`, and two classes `y`.
pub(crate) fn parquet(rows: usize, compression: parquet::basic::Compression) -> Vec<u8> {
    use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;

    let schema = "message table { optional double n; required binary code (UTF8); required int64 y; }";
    let schema = std::sync::Arc::new(parquet::schema::parser::parse_message_type(schema).expect("a schema"));
    let properties = std::sync::Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).expect("a writer");
    let mut group = writer.next_row_group().expect("a group");
    let present: Vec<i16> = (0..rows).map(|row| i16::from(row % 5 != 4)).collect();
    let numbers: Vec<f64> = (0..rows).filter(|row| row % 5 != 4).map(|row| row as f64 / 2.0).collect();
    let codes: Vec<ByteArray> = (0..rows).map(|row| ByteArray::from(["007", "7"][row % 2])).collect();
    let classes: Vec<i64> = (0..rows).map(|row| (row % 3 == 0).into()).collect();
    let mut column = group.next_column().expect("read").expect("n");
    column.typed::<DoubleType>().write_batch(&numbers, Some(&present), None).expect("written");
    column.close().expect("closed");
    let mut column = group.next_column().expect("read").expect("code");
    column.typed::<ByteArrayType>().write_batch(&codes, None, None).expect("written");
    column.close().expect("closed");
    let mut column = group.next_column().expect("read").expect("y");
    column.typed::<Int64Type>().write_batch(&classes, None, None).expect("written");
    column.close().expect("closed");
    group.close().expect("closed");
    writer.close().expect("closed");
    bytes
}
