//! Fuzzes data files, with one target per format: accepted data must be a table of finite numbers of the right size.

use std::path::Path;

use datasets::fetch::{Unpack, unpack};
use datasets::{AugmentKey, Batch, DataError, DataPlan, Dataset, TextTokenizer};

/// Memory budget for an input's data, in megabytes: an input is a few kilobytes.
const MEMORY_MB: u64 = 16;
/// Maximum number of rows to gather from an input.
const ROWS_MAX: u64 = 1_000;

/// A csv file; the first byte selects the reader's options.
pub fn csv(data: &[u8]) {
    let Some((mode, text)) = data.split_first() else { return };
    let folder = folder();
    let mut config = config("csv", &write(folder.path(), "t.csv", text));
    config.header = mode & 1 == 0;
    config.delimiter = [',', ';', '\t', '|'][usize::from(mode >> 1) % 4];
    config.on_bad = if mode & 8 == 0 { configs::OnBad::Stop } else { configs::OnBad::Skip };
    config.kind = [None, Some(configs::DatasetKind::Regression)][usize::from(mode >> 4) % 2];
    config.normalise = [configs::Normalise::Standard, configs::Normalise::Minmax][usize::from(mode >> 5) % 2];
    look(&config);
}

/// A parquet file.
pub fn parquet(data: &[u8]) {
    let folder = folder();
    look(&config("parquet", &write(folder.path(), "t.parquet", data)));
}

/// Images and labels in idx format; the first byte gives the labels' share of the rest.
pub fn idx(data: &[u8]) {
    let Some((part, rest)) = data.split_first() else { return };
    let (labels, images) = rest.split_at(rest.len() * usize::from(*part) / 256);
    let folder = folder();
    write(folder.path(), "train-images-idx3-ubyte", images);
    write(folder.path(), "train-labels-idx1-ubyte", labels);
    look(&config("idx", folder.path()));
}

/// A PNG or JPEG file in a folder with another one; the first byte selects scaling and shape.
pub fn image(data: &[u8]) {
    let Some((mode, bytes)) = data.split_first() else { return };
    let folder = folder();
    write(folder.path(), "a/1.png", bytes);
    // A grey pixel.
    const PIXEL: &[u8] =
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0\x3a\x7e\x9b\x55\0\0\0\nIDAT\
        \x78\x9c\x63\x68\0\0\0\x82\0\x81\x77\xcd\x72\xb6\0\0\0\0IEND\xae\x42\x60\x82";
    write(folder.path(), "b/1.png", PIXEL);
    let mut config = config("images", folder.path());
    config.resize = mode & 1 == 0;
    config.on_bad = if mode & 2 == 0 { configs::OnBad::Stop } else { configs::OnBad::Skip };
    config.image_shape =
        [None, Some([1, 3, 4]), Some([3, 4, 3]), Some([4, 1, 1])][usize::from(mode >> 2) % 4];
    config.cache_mb = u64::from(mode >> 4) % 2;
    look(&config);
}

/// A tokenizer's JSON up to the first zero byte, then a text.
pub fn tokenizer(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let Ok(tokenizer) = TextTokenizer::parse(&data[..end]) else { return };
    let text =
        String::from_utf8_lossy(data.get(end + 1..).unwrap_or_default()).into_owned() + "to be, or not";
    let Ok(tokens) = tokenizer.encode(&text) else { return };
    assert!(tokens.iter().all(|token| *token < tokenizer.vocabulary()), "a token beyond the vocabulary");
    let _ = tokenizer.decode(&tokens);
}

/// A tar archive, gzipped here because a fuzzer can't guess the checksums.
pub fn archive(data: &[u8]) {
    let folder = folder();
    let path = write(folder.path(), "a.tar.gz", &gzip(data));
    let outside = |root: &Path| std::fs::read_dir(root).expect("listed").count();
    match unpack(Unpack::Cifar10, &path) {
        Ok(made) => assert_eq!(std::fs::read_dir(made).expect("listed").count(), 4),
        Err(why) => {
            assert!(why.to_string().len() < 8_000, "a message of {} bytes", why.to_string().len());
            assert_eq!(outside(folder.path()), 1, "something is left");
        }
    }
}

/// A gzip file of stored (uncompressed) blocks of up to 65,535 bytes.
fn gzip(data: &[u8]) -> Vec<u8> {
    let mut file = b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec();
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(*byte);
        (0..8).for_each(|_| crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()));
    }
    for block in data.chunks(65_535) {
        let length = block.len() as u16;
        file.push(0);
        file.extend([length.to_le_bytes(), (!length).to_le_bytes()].concat());
        file.extend(block);
    }
    file.extend([1, 0, 0, 0xff, 0xff]);
    file.extend([(!crc).to_le_bytes(), (data.len() as u32).to_le_bytes()].concat());
    file
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn write(root: &Path, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
    std::fs::write(&path, bytes).expect("written");
    path
}

fn config(format: &str, path: &Path) -> configs::Dataset {
    configs::Dataset {
        uri: path.display().to_string(),
        format: format.to_owned(),
        memory_mb: MEMORY_MB,
        ..configs::Dataset::default()
    }
}

/// Plans, sends the plan through JSON, opens and gathers; a refusal must have a message of bounded length.
fn look(config: &configs::Dataset) {
    let refused = |why: DataError| {
        let said = why.to_string();
        assert!(!said.is_empty() && said.len() < 8_000, "a message of {} bytes", said.len());
        assert!(!said.chars().any(char::is_control), "{said:?}");
    };
    let plan = match DataPlan::prepare(config, None) {
        Ok(plan) => plan,
        Err(why) => return refused(why),
    };
    let json = serde_json::to_string(&plan).expect("JSON");
    let shipped: DataPlan = serde_json::from_str(&json).expect("a plan");
    assert_eq!(shipped, plan, "to the last bit");
    let dataset = match Dataset::open(&shipped, Path::new(&plan.path)) {
        Ok(dataset) => dataset,
        // Loading the data may take more memory than planning.
        Err(why @ DataError::Memory { .. }) => return refused(why),
        Err(why) => panic!("planned, but not opened: {why}"),
    };
    assert_eq!((dataset.training_len(), dataset.evaluation_len()), plan.split_lengths());
    let ordinals: Vec<u64> = (0..dataset.training_len().min(ROWS_MAX)).collect();
    let mut batch = Batch::default();
    match dataset.gather_training(AugmentKey { seed: 1, epoch: 0 }, &ordinals, &mut batch) {
        Ok(()) => {}
        Err(why) => return refused(why),
    }
    assert_eq!(batch.count, ordinals.len());
    assert_eq!(batch.features.len(), ordinals.len() * plan.features());
    assert!(batch.features.iter().chain(&batch.values).all(|number| number.is_finite()));
    assert!(batch.labels.iter().all(|label| (*label as usize) < plan.labels().len()));
}
