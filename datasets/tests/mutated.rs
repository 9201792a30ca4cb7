//! Real files with bytes changed, removed or inserted are read or refused, without panics.

mod support;

use std::path::Path;

use datasets::fetch::Catalog;
use datasets::registry::{NoProgress, Reference, Registry, Request};
use datasets::{Batch, DataPlan, Dataset};
use image::ImageFormat;
use proptest::prelude::*;
use support::*;

/// A mutation of a file.
#[derive(Clone, Debug)]
enum Change {
    Set(usize, u8),
    Cut(usize),
    Insert(usize, u8),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let at = 0usize..4_000;
    let change = prop_oneof![
        4 => (prop_oneof![0usize..32, at.clone()], any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        1 => at.clone().prop_map(Change::Cut),
        1 => (at, any::<u8>()).prop_map(|(at, byte)| Change::Insert(at, byte)),
    ];
    prop::collection::vec(change, 1..6)
}

fn mutated(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let length = bytes.len();
        match change {
            Change::Set(at, byte) if length > 0 => bytes[at % length] = *byte,
            Change::Set(..) => {}
            Change::Cut(at) => bytes.truncate(at % (length + 1)),
            Change::Insert(at, byte) => bytes.insert(at % (length + 1), *byte),
        }
    }
    bytes
}

/// A file written by another program.
fn foreign(name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::read(root.join("tests/vectors/files").join(name)).expect("read")
}

/// The first lines of a file in this crate.
fn lines(name: &str, count: usize) -> Vec<u8> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("read");
    text.split_inclusive('\n').take(count).collect::<String>().into_bytes()
}

/// Plans, opens and gathers everything; errors must have a message.
fn survives(config: &configs::Dataset) -> Result<(), TestCaseError> {
    let plan = match DataPlan::prepare(config, None) {
        Ok(plan) => plan,
        Err(why) => {
            prop_assert!(!why.to_string().is_empty());
            return Ok(());
        }
    };
    let dataset =
        Dataset::open(&plan, Path::new(&plan.path)).map_err(|why| TestCaseError::fail(why.to_string()))?;
    let mut batch = Batch::default();
    let all: Vec<u64> = (0..dataset.training_len()).collect();
    dataset.gather_training(KEY, &all, &mut batch).map_err(|why| TestCaseError::fail(why.to_string()))?;
    prop_assert_eq!(batch.count, all.len());
    prop_assert_eq!(batch.features.len() + batch.tokens.len(), all.len() * plan.features());
    prop_assert!(batch.features.iter().all(|number| number.is_finite()));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn idx(changes in changes(), is_gzip: bool, of_labels: bool) {
        let dir = folder();
        mnist(dir.path(), 8, is_gzip);
        let name = if of_labels { "train-labels-idx1-ubyte" } else { "train-images-idx3-ubyte" };
        let path = dir.path().join(if is_gzip { format!("{name}.gz") } else { name.to_owned() });
        let bytes = std::fs::read(&path).expect("read");
        std::fs::write(&path, mutated(bytes, &changes)).expect("written");
        survives(&config("idx", dir.path()))?;
    }

    #[test]
    fn idx_in_colour(changes in changes()) {
        let dir = folder();
        write(dir.path(), "labels-idx1-ubyte", &support::idx(&[6], &[0, 1, 0, 1, 0, 1]));
        let images = support::idx(&[6, 3, 2, 2], &(0..72).collect::<Vec<u8>>());
        write(dir.path(), "images-idx4-ubyte", &mutated(images, &changes));
        survives(&config("idx", dir.path()))?;
    }

    #[test]
    fn images(changes in changes(), is_png: bool, skip: bool, resize: bool) {
        let dir = folder();
        pets(dir.path(), 2);
        let format = if is_png { ImageFormat::Png } else { ImageFormat::Jpeg };
        let bytes = mutated(encoded(format, &pixels(5), [3, 4]), &changes);
        write(dir.path(), "cat/zz.png", &bytes);
        let on_bad = if skip { configs::OnBad::Skip } else { configs::OnBad::Stop };
        survives(&configs::Dataset { on_bad, resize, cache_mb: u64::from(is_png), ..config("images", dir.path()) })?;
    }

    #[test]
    fn csv_that_skips(changes in changes()) {
        let dir = folder();
        let text: String = (0..12).map(|row| format!("{row},\"a {row}\",{}\r\n", ["x", "y"][row % 2])).collect();
        let path = write(dir.path(), "t.csv", &mutated(format!("n,t,l\r\n{text}").into_bytes(), &changes));
        survives(&configs::Dataset { on_bad: configs::OnBad::Skip, ..config("csv", &path) })?;
    }

    #[test]
    fn text(changes in changes(), window in 1u32..9) {
        let dir = folder();
        let path = write(dir.path(), "t.txt", &mutated(b"a text that is long enough".to_vec(), &changes));
        survives(&configs::Dataset { window, ..config("text", &path) })?;
    }

    #[test]
    fn text_of_words(changes in changes(), window in 1u32..4, skip: bool, of_tokenizer: bool) {
        let dir = folder();
        let json = r#"{"version":"1.0","pre_tokenizer":{"type":"Whitespace"},"model":{"type":"WordLevel","vocab":
            {"?":0,"a":1,"text":2,"that":3,"is":4},"unk_token":"?"}}"#;
        let (mut text, mut tokenizer) = ("a text that is long enough \u{e9}\n".repeat(3).into_bytes(), json.as_bytes().to_vec());
        let either = if of_tokenizer { &mut tokenizer } else { &mut text };
        *either = mutated(std::mem::take(either), &changes);
        write(dir.path(), "texts/a.txt", &text);
        write(dir.path(), "texts/b.txt", b"a text that is long enough");
        let tokenizer = write(dir.path(), "words.json", &tokenizer);
        let on_bad = if skip { configs::OnBad::Skip } else { configs::OnBad::Stop };
        let config = config("text", &dir.path().join("texts"));
        survives(&configs::Dataset { window, on_bad, tokenizer: Some(tokenizer), ..config })?;
    }

    #[test]
    fn weights_of_a_table(changes in changes(), is_weighted: bool) {
        let dir = folder();
        let text: String = (0..12).map(|row| format!("{row},{},{}\n", row % 4, ["x", "y"][row % 2])).collect();
        let path = write(dir.path(), "t.csv", &mutated(format!("n,w,l\n{text}").into_bytes(), &changes));
        let (sampling, weight_column) = match is_weighted {
            true => (configs::Sampling::Weighted, Some("w".to_owned())),
            false => (configs::Sampling::Balanced, None),
        };
        survives(&configs::Dataset { sampling, weight_column, ..config("csv", &path) })?;
    }

    #[test]
    fn parquet(changes in changes(), is_plain: bool) {
        let dir = folder();
        let compression =
            if is_plain { parquet::basic::Compression::UNCOMPRESSED } else { parquet::basic::Compression::SNAPPY };
        let path = write(dir.path(), "t.parquet", &mutated(support::parquet(20, compression), &changes));
        survives(&config("parquet", &path))?;
    }

    #[test]
    fn images_of_other_programs(
        changes in changes(),
        name in prop::sample::select(vec![
            "colour.png", "palette.png", "grey.png", "clear.png", "one-bit.png", "colour.jpg", "progressive.jpg", "grey.jpg",
        ]),
        is_kept: bool,
    ) {
        let dir = folder();
        write(dir.path(), "a/0.png", &foreign("colour.png"));
        write(dir.path(), "b/0.png", &foreign("grey.png"));
        write(dir.path(), &format!("a/{name}"), &mutated(foreign(name), &changes));
        let on_bad = configs::OnBad::Skip;
        survives(&configs::Dataset { on_bad, cache_mb: u64::from(is_kept), ..config("images", dir.path()) })?;
    }

    #[test]
    fn parquet_of_other_programs(
        changes in changes(),
        name in prop::sample::select(vec!["none", "snappy", "gzip", "zstd", "version-2", "polars"]),
        // The footer, which determines how everything else is read, is at the end.
        from_end: bool,
    ) {
        let dir = folder();
        let bytes = foreign(&format!("{name}.parquet"));
        let length = bytes.len();
        let changes: Vec<Change> = changes
            .into_iter()
            .map(|change| match change {
                Change::Set(at, byte) if from_end => Change::Set(length - 1 - at % length, byte),
                other => other,
            })
            .collect();
        let path = write(dir.path(), "t.parquet", &mutated(bytes, &changes));
        survives(&config("parquet", &path))?;
    }

    #[test]
    fn the_datasets_of_the_presets(changes in changes(), is_digits: bool, skip: bool) {
        let dir = folder();
        let name = if is_digits { "digits/digits.csv" } else { "penguins/penguins.csv" };
        let path = write(dir.path(), "t.csv", &mutated(lines(name, 30), &changes));
        let on_bad = if skip { configs::OnBad::Skip } else { configs::OnBad::Stop };
        survives(&configs::Dataset { on_bad, ..config("csv", &path) })?;
    }

    #[test]
    fn plans(changes in changes(), form in 0usize..4) {
        let dir = folder();
        let config = match form {
            0 => config("csv", &write(dir.path(), "t.csv", &lines("digits/digits.csv", 30))),
            1 => {
                mnist(dir.path(), 8, false);
                config("idx", dir.path())
            }
            2 => {
                pets(dir.path(), 3);
                config("images", dir.path())
            }
            _ => {
                let path = write(dir.path(), "t.txt", b"a text that is long enough");
                configs::Dataset { window: 4, ..config("text", &path) }
            }
        };
        let plan = DataPlan::prepare(&config, None).expect("planned");
        let json = mutated(serde_json::to_vec(&plan).expect("JSON"), &changes);
        let Ok(changed) = serde_json::from_slice::<DataPlan>(&json) else { return Ok(()) };
        let Ok(dataset) = Dataset::open(&changed, Path::new(&plan.path)) else { return Ok(()) };
        let mut batch = Batch::default();
        let all: Vec<u64> = (0..dataset.training_len()).collect();
        let _ = dataset.gather_training(KEY, &all, &mut batch);
        let all: Vec<u64> = (0..dataset.evaluation_len()).collect();
        let _ = dataset.gather_evaluation(&all, &mut batch);
    }

    #[test]
    fn manifests(changes in changes()) {
        let dir = folder();
        let registry = Registry::at(dir.path().join("registry"));
        write(dir.path(), "data/a.txt", b"a");
        write(dir.path(), "data/sub/b.txt", b"b");
        let (by, at) = ("somebody".to_owned(), "2024-01-01T00:00:00Z".to_owned());
        let request = Request { path: dir.path().join("data"), name: "d".to_owned(), message: None, by, at };
        registry.add(&request, &NoProgress).expect("added");
        let manifest = registry.root().join("manifests/d/000001.json");
        let bytes = mutated(std::fs::read(&manifest).expect("read"), &changes);
        std::fs::write(&manifest, bytes).expect("written");
        let reference: Reference = "d".parse().expect("a reference");
        if let Err(why) = registry.find(&reference) {
            prop_assert!(why.to_string().contains("000001.json"), "{why}");
            return Ok(());
        }
        // Metadata may have changed, but not the contents.
        let report = registry.verify(None, &NoProgress).expect("read");
        prop_assert!(report.damages.is_empty(), "{:?}", report.damages);
    }

    #[test]
    fn tables_of_public_datasets(changes in changes()) {
        let dir = folder();
        let table = write(dir.path(), "t.toml", &mutated(lines("src/fetch/catalog.toml", 200), &changes));
        match Catalog::load(Some(&table)) {
            Ok(catalog) => prop_assert!(!catalog.datasets.is_empty()),
            Err(why) => prop_assert!(why.to_string().contains("t.toml"), "{why}"),
        }
    }
}

/// Flips one bit of a day's number in a foreign file.
#[test]
fn a_day_that_no_calendar_has_is_refused() {
    let dir = folder();
    let changes = [Change::Set(428, 6)];
    let path = write(dir.path(), "t.parquet", &mutated(foreign("version-2.parquet"), &changes));
    let why = DataPlan::prepare(&config("parquet", &path), None).expect_err("no such day").to_string();
    assert!(why.contains("t.parquet") && why.contains("has a value that can't be written here"), "{why}");
}
