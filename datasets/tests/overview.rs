//! `datasets show` of images and text, as text and as JSON.

mod support;

use std::process::{Command, Output};

use support::*;

fn show(dir: &tempfile::TempDir, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_datasets"));
    command.current_dir(dir.path()).arg("show").args(more).output().expect("run")
}

fn said(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(dir: &tempfile::TempDir, what: &str) -> serde_json::Value {
    serde_json::from_str(&said(&show(dir, &[what, "--output", "json"]))).expect("JSON")
}

#[test]
fn idx_images_have_labels_and_pixels() {
    let dir = folder();
    // Two grey values in equal parts: mean and deviation 0.5 of pixels from 0 to 1.
    let pixels: Vec<u8> = (0..8 * 12).map(|at| if at % 2 == 0 { 0 } else { 255 }).collect();
    write(dir.path(), "m/t10k-images-idx3-ubyte", &idx(&[8, 3, 4], &pixels));
    write(dir.path(), "m/t10k-labels-idx1-ubyte", &idx(&[8], &[7, 7, 7, 7, 7, 7, 2, 2]));
    let text = said(&show(&dir, &["m"]));
    let expected = "idx: 8 images of 1 channel, 3 x 4

pixels (0 to 1)  mean  std
  channel 0      0.5   0.5

labels
  2  2  25.0 %  \u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}
  7  6  75.0 %  \u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}
";
    assert!(text.ends_with(expected), "{text}");
    assert!(text.starts_with("m\n2 files\n"), "{text}");
    // The file is shown like its folder.
    assert!(said(&show(&dir, &["m/t10k-images-idx3-ubyte"])).ends_with(expected));
    let json = json(&dir, "m");
    assert_eq!(json["idx"]["labels"], serde_json::json!([["2", 2], ["7", 6]]));
    assert_eq!(json["idx"]["pixels"]["mean"], serde_json::json!([0.5]));
    assert_eq!(json["files"]["count"], 2);
}

#[test]
fn a_channel_that_never_changes_has_no_deviation() {
    let dir = folder();
    for (class, number) in [("a", 1), ("b", 2)] {
        let image = image::RgbImage::from_fn(3, 4, |x, _| image::Rgb([40 * x as u8, 0, 7 * number]));
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, image::ImageFormat::Png).expect("encoded");
        write(dir.path(), &format!("f/{class}/1.png"), &bytes.into_inner());
    }
    let pixels = &json(&dir, "f")["images"]["pixels"];
    assert_eq!((&pixels["mean"][1], &pixels["deviation"][1]), (&0.0.into(), &0.0.into()));
    assert!(pixels["deviation"][0].as_f64() > Some(0.1) && pixels["deviation"][2].as_f64() > Some(0.01));
}

#[test]
fn images_of_several_sizes_are_counted_and_bad_ones_named() {
    let dir = folder();
    pets(&dir.path().join("p"), 3);
    let wide = encoded(image::ImageFormat::Png, &[9; 18], [3, 6]);
    write(dir.path(), "p/cat/wide.png", &wide);
    write(dir.path(), "p/dog/bad.png", b"no image");
    let text = said(&show(&dir, &["p"]));
    for expected in [
        "images: 7 images of 1 channel, 3 x 4\n",
        "2 sizes (height x width): dataset.resize is needed\n  3 x 4  6  85.7 %",
        "1 image that can't be decoded\n  dog/bad.png\n",
        "\nlabels\n  cat  4  57.1 %",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
    let json = json(&dir, "p");
    assert_eq!(json["images"]["pixels"]["sizes"], serde_json::json!([[[3, 4], 6], [[3, 6], 1]]));
    assert_eq!(json["images"]["bad"], serde_json::json!(["dog/bad.png"]));
}

#[test]
fn a_text_has_lines_and_frequent_bytes() {
    let dir = folder();
    write(dir.path(), "t.txt", "aaaa\nbb\nlonger: \u{e9}".as_bytes());
    write(dir.path(), "many/one.txt", &[b"x\n".repeat(300), vec![0xff]].concat());
    write(dir.path(), "many/two.txt", b"y");
    let json_of_one = json(&dir, "t.txt");
    // 18 bytes don't fill a window of 128 tokens: the window is halved until they do.
    assert_eq!(json_of_one["text"]["words"]["lines"], 3);
    let text = said(&show(&dir, &["many"]));
    for expected in [
        "text: 4 windows of 128 tokens, 89 of 602 at the end in none\n",
        "302 lines, the longest of 1 byte; not UTF-8\n",
        "602 tokens of 4 different ones, 256 possible\n",
        "\\n    300  49.8 %",
        "x     300  49.8 %",
        "\\xff  1    0.2 %",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
}

#[test]
fn tables_are_told_to_programs_too() {
    let dir = folder();
    write(dir.path(), "t.tsv", b"x\ty\n1\ta\n2\tb\n4\ta\n");
    let json = json(&dir, "t.tsv");
    assert_eq!((&json["table"]["rows"], &json["table"]["format"]), (&3.into(), &"csv".into()));
    assert_eq!(json["table"]["columns"][0]["numbers"]["max"], 4.0);
    assert_eq!(json["table"]["columns"][1]["counts"], serde_json::json!([["a", 2], ["b", 1]]));
    let bytes = support::parquet(20, parquet::basic::Compression::UNCOMPRESSED);
    write(dir.path(), "t.parquet", &bytes);
    assert!(
        said(&show(&dir, &["t.parquet", "--target", "y"]))
            .contains("code    categorical  0        2: 007, 7\n")
    );
}
