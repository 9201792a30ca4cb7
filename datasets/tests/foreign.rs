//! Files written by other programs (`vectors/files.py`) have the pixels and rows that those programs read.

mod support;

use std::path::{Path, PathBuf};

use configs::Normalise;
use datasets::DataPlan;
use serde_json::Value;
use support::*;

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/files")
}

/// The expected contents.
fn expected() -> Value {
    let path = files().with_extension("json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("read")).expect("JSON")
}

#[test]
fn images_have_the_pixels_that_pillow_reads() {
    let expected = expected();
    let images = expected["images"].as_object().expect("images");
    for (name, pixels) in images {
        let dir = folder();
        for class in ["a", "b"] {
            std::fs::create_dir_all(dir.path().join(class)).expect("made");
            std::fs::copy(files().join(name), dir.path().join(class).join(name)).expect("copied");
        }
        let (normalise, image_shape) = (Normalise::None, Some([3, 16, 16]));
        let (_, dataset) = open(&configs::Dataset {
            normalise,
            image_shape,
            validation: 0.0,
            ..config("images", dir.path())
        });
        let (batch, _) = epoch(&dataset, KEY);
        let found: Vec<f64> = batch.features[..3 * 256].iter().map(|x| f64::from(*x) * 255.0).collect();
        // Ours are channel-major, Pillow's pixel-major.
        let pixels: Vec<[f64; 3]> = serde_json::from_value(pixels.clone()).expect("pixels");
        let expected = (0..3).flat_map(|channel| pixels.iter().map(move |pixel| pixel[channel]));
        let off: Vec<f64> =
            found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).collect();
        let (worst, mean) =
            (off.iter().copied().fold(0.0, f64::max), off.iter().sum::<f64>() / off.len() as f64);
        // JPEG decoders may differ in rounding and in chroma upsampling.
        let (worst_max, mean_max) = if name.ends_with(".png") { (1e-4, 1e-4) } else { (24.0, 1.5) };
        assert!(worst <= worst_max && mean <= mean_max, "{name}: off by {worst} at worst, {mean} on average");
    }
    assert_eq!(images.len(), 8);
}

#[test]
fn tables_have_the_rows_that_pyarrow_and_polars_wrote() {
    let expected = expected();
    let rows = expected["rows"].as_array().expect("rows");
    let field = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let line = |row: &Value| {
        let fields: Vec<String> = row.as_object().expect("a row").values().map(field).collect();
        fields.join(",") + "\n"
    };
    let names: Vec<&str> = rows[0].as_object().expect("a row").keys().map(String::as_str).collect();
    let dir = folder();
    let text = names.join(",") + "\n" + &rows.iter().map(line).collect::<String>();
    let (as_text, dataset) = open(&config("csv", &write(dir.path(), "t.csv", text.as_bytes())));
    let of_text = epoch(&dataset, KEY);
    assert_eq!((as_text.rows, as_text.targets()), (50, vec!["label".to_owned()]));
    let features = |plan: &DataPlan| serde_json::to_value(plan.columns()).expect("JSON");
    for name in ["none", "snappy", "gzip", "zstd", "version-2", "polars"] {
        let (plan, dataset) = open(&config("parquet", &files().join(format!("{name}.parquet"))));
        assert_eq!((plan.rows, features(&plan)), (50, features(&as_text)), "{name}");
        let found = epoch(&dataset, KEY);
        assert_eq!(found.0.features, of_text.0.features, "{name}");
        assert_eq!((&found.0.labels, &found.1.labels), (&of_text.0.labels, &of_text.1.labels), "{name}");
    }
}
