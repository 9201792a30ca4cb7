//! Text as windows of bytes, and csv files with skipped rows.

mod support;

use std::path::Path;

use configs::OnBad;
use datasets::{DataPlan, Dataset, Format, Output};
use support::*;

/// Bytes that differ from their neighbours.
fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at * 31 % 251) as u8).collect()
}

#[test]
fn windows_do_not_overlap_and_targets_are_one_further_on() {
    let dir = folder();
    let text = bytes(103);
    let path = write(dir.path(), "t.txt", &text);
    let config = configs::Dataset { window: 10, ..config("text", &path) };
    let (plan, dataset) = open(&config);
    assert_eq!(plan.output, Output::Tokens { vocabulary: 256, window: 10 });
    assert_eq!((plan.rows, plan.split_lengths(), plan.features()), (10, (8, 2), 10));
    let Format::Text(form) = &plan.form else { panic!("text") };
    assert_eq!((form.tokens, form.tail), (103, 2));
    let (training, validation) = epoch(&dataset, KEY);
    let inputs = [training.tokens, validation.tokens].concat();
    let targets = [training.labels, validation.labels].concat();
    let expected: Vec<u32> = text.iter().copied().map(u32::from).collect();
    assert_eq!(inputs, expected[..100], "each window once, the end held out");
    assert_eq!(targets, expected[1..101]);
}

#[test]
fn a_folder_is_read_in_the_order_of_its_names() {
    let dir = folder();
    let text = bytes(64);
    write(dir.path(), "b.txt", &text[40..]);
    write(dir.path(), "a.txt", &text[..40]);
    write(dir.path(), "notes.md", b"no part of the text");
    let (plan, dataset) =
        open(&configs::Dataset { window: 7, validation: 0.0, ..config("text", dir.path()) });
    let (training, _) = epoch(&dataset, KEY);
    assert_eq!(training.tokens, text[..63].iter().copied().map(u32::from).collect::<Vec<_>>());
    assert_eq!((plan.is_folder(), plan.files().len()), (true, 3));
    write(dir.path(), "b.txt", &text[41..]);
    let said = Dataset::open(&plan, dir.path()).expect_err("changed").to_string();
    assert!(said.contains("b.txt has changed"), "{said}");
}

#[test]
fn a_text_that_fills_no_window_is_refused() {
    let dir = folder();
    let path = write(dir.path(), "t.txt", b"short");
    let mut config = config("text", &path);
    assert_eq!(
        refused(&config),
        "data: 5 bytes of text, where a window of 128 tokens and the token after it take 129: set a smaller \
         dataset.window"
    );
    config.window = 4;
    assert!(
        refused(&config).contains("are 1 windows of 4 tokens, too few to hold out"),
        "{}",
        refused(&config)
    );
    config.validation = 0.0;
    assert_eq!(refused(&config), "fine");
    let empty = folder();
    let config = support::config("text", empty.path());
    assert_eq!(refused(&config), "data: there is no .txt file in this folder");
}

#[test]
fn ragged_rows_are_left_out_where_that_is_asked() {
    let dir = folder();
    let good: String = (0..20).map(|row| format!("{row},{}\n", ["x", "y"][row % 2])).collect();
    let text = format!("a,b\n1\n{good}1,2,3\n").into_bytes();
    let path = write(dir.path(), "t.csv", &[&text[..], b"7,\xff\n"].concat());
    let mut config = config("csv", &path);
    assert_eq!(refused(&config), "data, line 2: 1 field where the table has 2 columns");
    config.on_bad = OnBad::Skip;
    config.normalise = configs::Normalise::None;
    let (plan, dataset) = open(&config);
    let skipped = plan.form.skipped().expect("skipped");
    assert_eq!((plan.rows, skipped.count), (20, 3));
    assert_eq!(skipped.listed, ["line 2", "line 23", "line 24"]);
    let (training, validation) = epoch(&dataset, KEY);
    let mut all = [training.features, validation.features].concat();
    all.sort_by(f32::total_cmp);
    assert_eq!(all, (0..20u8).map(f32::from).collect::<Vec<_>>(), "each row once");
    let said = plan.read_for_prediction(&path).expect_err("a prediction for each row").to_string();
    assert!(said.contains("line 2"), "{said}");
}

#[test]
fn the_real_text_has_the_windows_that_its_length_says() {
    // This source file serves as the text.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/text.rs");
    let length = std::fs::metadata(&path).expect("this file").len();
    let plan = DataPlan::prepare(&config("text", &path), None).expect("planned");
    assert_eq!(plan.rows, (length - 1) / 128);
}
