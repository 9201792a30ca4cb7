//! Small real tables: inference, encoding, and isolation of the statistics from held-out rows.

use std::path::{Path, PathBuf};

use configs::{ColumnKind, DatasetKind, Normalise};
use datasets::{AugmentKey, Batch, DataPlan, Dataset, Feature, Output, Role};
use proptest::prelude::*;

/// Tables are not augmented, so the key doesn't matter.
const KEY: AugmentKey = AugmentKey { seed: 1, epoch: 0 };

fn config(path: &Path) -> configs::Dataset {
    configs::Dataset { uri: path.display().to_string(), ..configs::Dataset::default() }
}

fn file(dir: &tempfile::TempDir, text: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.path().join("t.csv");
    std::fs::write(&path, text).expect("written");
    path
}

#[test]
fn the_digits_are_what_their_source_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("digits/digits.csv");
    let plan = DataPlan::prepare(&config(&path), None).expect("planned");
    assert_eq!((plan.rows, plan.features()), (1_797, 64));
    let labels = (0..10).map(|digit| digit.to_string()).collect();
    assert_eq!(plan.output, Output::Classes { labels });
    assert_eq!(plan.split_lengths(), (1_438, 359));
    let dataset = Dataset::open(&plan, &path).expect("opened");
    let mut batch = Batch::default();
    dataset.gather_training(KEY, &[0, 5, 1_437], &mut batch).expect("gathered");
    assert_eq!((batch.count, batch.features.len(), batch.labels.len()), (3, 192, 3));
    let json = serde_json::to_string(&plan).expect("JSON");
    let shipped: DataPlan = serde_json::from_str(&json).expect("a plan");
    assert_eq!(shipped, plan, "to the last bit");
    assert_eq!(serde_json::to_string(&shipped).expect("JSON"), json, "in the same order");
    Dataset::open(&shipped, &path).expect("opened by a worker");
}

#[test]
fn kinds_are_inferred_missing_values_filled_and_categories_are_codes() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = file(&dir, "age,city,y\n10,\"a, b\",no\n,c,yes\n30,,no\n20,\"say \"\"c\"\"\",yes\n");
    let mut config = config(&path);
    (config.validation, config.normalise) = (0.0, Normalise::None);
    let plan = DataPlan::prepare(&config, None).expect("planned");
    let Some(Feature::Numeric { fill, indicator, .. }) = plan.columns()[0].feature else {
        panic!("age is numeric")
    };
    assert_eq!((fill, indicator), (20.0, true));
    let Some(Feature::Categorical { categories }) = &plan.columns()[1].feature else {
        panic!("city is categorical")
    };
    assert_eq!(categories, &["", "a, b", "c", "say \"c\""]);
    let dataset = Dataset::open(&plan, &path).expect("opened");
    let mut batch = Batch::default();
    dataset.gather_training(KEY, &[1], &mut batch).expect("gathered");
    assert_eq!(batch.features, [20.0, 1.0, 3.0]);
    assert_eq!(plan.categories(), [(2, 5)], "its place in the row, and a code for what is unknown");
    assert_eq!(batch.labels, [1]);

    let unseen = dir.path().join("new.csv");
    std::fs::write(&unseen, "city,age\nelsewhere,1\n").expect("written");
    let batch = plan.read_for_prediction(&unseen).expect("read without a target, in another order");
    assert_eq!(batch.features, [1.0, 0.0, 0.0]);
    std::fs::write(&unseen, "city\nx\n").expect("written");
    let said = plan.read_for_prediction(&unseen).expect_err("a feature is absent").to_string();
    assert!(said.contains("\"age\""), "{said}");
}

#[test]
fn statistics_come_from_the_training_split_alone() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let rows = |held_out: &str| {
        let text: String = (0..50).map(|i| format!("{},{}\n", i * i, f64::from(i) / 2.0)).collect();
        let path = file(&dir, format!("x,y\n{text}"));
        let mut config = config(&path);
        config.kind = Some(DatasetKind::Regression);
        let plan = DataPlan::prepare(&config, None).expect("planned");
        let dataset = Dataset::open(&plan, &path).expect("opened");
        // Replace the rows of the validation split, found by their values.
        let mut batch = Batch::default();
        dataset
            .gather_evaluation(&(0..dataset.evaluation_len()).collect::<Vec<_>>(), &mut batch)
            .expect("gathered");
        let Some(Feature::Numeric { offset, scale, .. }) = plan.columns()[0].feature else {
            panic!("numeric")
        };
        let replaced: Vec<String> =
            batch.features.iter().map(|x| format!("{}", (f64::from(*x) * scale + offset).round())).collect();
        let changed: String = text
            .lines()
            .map(|line| {
                let (x, y) = line.split_once(',').expect("two fields");
                if replaced.contains(&x.to_owned()) {
                    format!("{held_out},{y}\n")
                } else {
                    format!("{line}\n")
                }
            })
            .collect();
        let path = file(&dir, format!("x,y\n{changed}"));
        let mut config = configs::Dataset { uri: path.display().to_string(), ..config };
        config.kind = Some(DatasetKind::Regression);
        (plan.columns().to_vec(), DataPlan::prepare(&config, None).expect("planned").columns().to_vec())
    };
    let (before, after) = rows("123456789");
    assert_eq!(before, after);
}

#[test]
fn regression_targets_are_standardised_and_can_be_mapped_back() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = file(&dir, "x,y\n1,100.5\n2,200.5\n3,300.5\n4,400.5\n");
    let mut config = config(&path);
    config.validation = 0.0;
    let plan = DataPlan::prepare(&config, None).expect("planned");
    let Output::Values { offset, scale } = plan.output else { panic!("fractions are a regression") };
    let dataset = Dataset::open(&plan, &path).expect("opened");
    let mut batch = Batch::default();
    dataset.gather_training(KEY, &[0, 3], &mut batch).expect("gathered");
    assert!((f64::from(batch.values[0]) * scale + offset - 100.5).abs() < 1e-3);
    assert!((f64::from(batch.values[1]) + f64::from(batch.values[0])).abs() < 1e-6);
}

#[test]
fn what_the_target_is_can_be_said_in_two_ways_and_is_guessed_else() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = |text: &str, change: &dyn Fn(&mut configs::Dataset)| {
        let path = file(&dir, text);
        let mut config = config(&path);
        (config.validation, config.normalise) = (0.0, Normalise::None);
        change(&mut config);
        DataPlan::prepare(&config, None).expect("planned")
    };
    let columns = |kind| move |c: &mut configs::Dataset| c.columns.extend([("b".to_owned(), kind)]);
    let kind = |kind| move |c: &mut configs::Dataset| c.kind = Some(kind);
    let whole = "a,b\n1,1\n2,3\n";
    let classes = |labels: [&str; 2]| Output::Classes { labels: labels.map(str::to_owned).to_vec() };
    let values = Output::Values { offset: 2.0, scale: 1.0 };
    assert_eq!(output(whole, &|_| {}).output, classes(["1", "3"]));
    assert_eq!(output(whole, &columns(ColumnKind::Numeric)).output, values);
    assert_eq!(output(whole, &kind(DatasetKind::Regression)).output, values);
    let fractions = "a,b\n1,1.5\n2,2.5\n";
    assert_eq!(output(fractions, &|_| {}).output, Output::Values { offset: 2.0, scale: 0.5 });
    assert_eq!(output(fractions, &columns(ColumnKind::Categorical)).output, classes(["1.5", "2.5"]));
    assert_eq!(output(fractions, &kind(DatasetKind::Classification)).output, classes(["1.5", "2.5"]));
    // The last column that is not ignored is the target.
    let plan = output("a,y,b\n1,p,1\n2,q,2\n", &columns(ColumnKind::Ignore));
    let roles: Vec<Role> = plan.columns().iter().map(|column| column.role).collect();
    assert_eq!(roles, [Role::Feature, Role::Target, Role::Ignored]);
}

#[test]
fn missing_fields_are_a_category_that_no_text_can_be() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = file(&dir, "a,y\nNA,p\n\"\",q\nx,p\nnone,q\n");
    let mut config = config(&path);
    config.validation = 0.0;
    config.missing = vec!["NA".to_owned(), "none".to_owned()];
    let plan = DataPlan::prepare(&config, None).expect("planned");
    let Some(Feature::Categorical { categories }) = &plan.columns()[0].feature else { panic!("categorical") };
    assert_eq!(categories, &["", "NA", "x"]);
    let dataset = Dataset::open(&plan, &path).expect("opened");
    let mut batch = Batch::default();
    dataset.gather_training(KEY, &[0, 1, 3], &mut batch).expect("gathered");
    assert_eq!(batch.features, [2.0, 1.0, 2.0]);
}

#[test]
fn only_what_the_training_split_has_makes_codes_and_indicators() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let rows: String = (0..40).map(|row| format!("{row},t{row},{}\n", ["a", "b"][row % 2])).collect();
    let path = file(&dir, format!("x,text,y\n{rows}"));
    let plan = DataPlan::prepare(&config(&path), None).expect("planned");
    let dataset = Dataset::open(&plan, &path).expect("opened");
    let mut batch = Batch::default();
    let all = |count: u64| (0..count).collect::<Vec<_>>();
    dataset.gather_evaluation(&all(dataset.evaluation_len()), &mut batch).expect("gathered");
    assert!(batch.features.chunks(2).all(|row| row[1] == 0.0), "texts of the held-out rows are unknown");
    dataset.gather_training(KEY, &all(dataset.training_len()), &mut batch).expect("gathered");
    let mut codes: Vec<u32> = batch.features.chunks(2).map(|row| row[1] as u32).collect();
    codes.sort_unstable();
    assert_eq!(codes, (1..=32).collect::<Vec<_>>());
    let Some(Feature::Numeric { indicator: false, .. }) = plan.columns()[0].feature else {
        panic!("no number is missing")
    };
    let lacking = plan.read_for_prediction(&file(&dir, "x,text\n,\n")).expect("read");
    assert_eq!(lacking.features[1..], [0.0], "a missing text that the training split never had is unknown");
}

#[test]
fn a_plan_reads_other_files_by_name_and_refuses_what_it_does_not_know() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = file(&dir, "age,size,y\n1,2,red\n3,4,green\n5,6,red\n");
    let mut config = config(&path);
    (config.validation, config.normalise) = (0.0, Normalise::None);
    let plan = DataPlan::prepare(&config, None).expect("planned");
    let evaluated = |text: &str| {
        let result = plan.read_for_evaluation(&file(&dir, text));
        result.map_err(|why| why.to_string().replace(&path.display().to_string(), "t.csv"))
    };
    let batch = evaluated("y,size,age\nred,8,7\n").expect("read");
    assert_eq!((batch.features, batch.labels), (vec![7.0, 8.0], vec![1]));
    let check = |text: &str, expected: &str| assert_eq!(evaluated(text).expect_err("refused"), expected);
    check(
        "age,size,y\n1,2,red\n\n1,2,gren\n",
        "t.csv, line 4: the target \"y\" is \"gren\", which is not a label; did you mean \"green\"?",
    );
    check(
        "age,size,y\n1,2,7\n",
        "t.csv, line 2: the target \"y\" is \"7\", which is not a label; labels are green, red",
    );
    check("age,size,y\n1,2,?\n", "t.csv, line 2: the target \"y\" is missing here");
    check("age,size\n1,2\n", "t.csv: there is no column \"y\", which is the target; columns are age, size");
    check(
        "ages,size,y\n1,2,red\n",
        "t.csv: there is no column \"age\", which the model predicts from; did you mean \"ages\"?",
    );
    check("age,size,y\n1,big,red\n", "t.csv, line 2: column \"size\" is numeric, but this field is \"big\"");
    check(
        "age,size,y\n1,1e99,red\n",
        "t.csv, line 2: column \"size\" is numeric, but 1e99 is not a finite number within +-3.4e38",
    );
}

#[test]
fn a_table_without_names_may_lack_the_target_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = file(&dir, "x,1,2\ny,3,4\nx,5,6\n");
    let mut config = config(&path);
    (config.header, config.target) = (false, Some("c0".to_owned()));
    (config.validation, config.normalise) = (0.0, Normalise::None);
    let plan = DataPlan::prepare(&config, None).expect("planned");
    assert_eq!(plan.rows, 3, "the first line is a row");
    let features = |text: &str| plan.read_for_prediction(&file(&dir, text)).map(|batch| batch.features);
    assert_eq!(features("z,7,8\n").expect("whole"), [7.0, 8.0]);
    assert_eq!(features("7,8\n").expect("without the target"), [7.0, 8.0]);
    let said = features("7\n").expect_err("a feature is absent").to_string();
    assert!(said.ends_with("1 columns without names, where the plan has 3, or one less without the target"));
}

#[test]
fn the_buffers_of_a_batch_are_reused() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("digits/digits.csv");
    let plan = DataPlan::prepare(&config(&path), None).expect("planned");
    let dataset = Dataset::open(&plan, &path).expect("opened");
    let mut batch = Batch::default();
    let buffers = |batch: &Batch| (batch.features.as_ptr(), batch.labels.as_ptr(), batch.features.capacity());
    dataset.gather_training(KEY, &(0..64).collect::<Vec<_>>(), &mut batch).expect("gathered");
    let before = buffers(&batch);
    dataset.gather_evaluation(&(0..64).collect::<Vec<_>>(), &mut batch).expect("gathered");
    dataset.gather_training(KEY, &[3, 1, 4], &mut batch).expect("gathered");
    assert_eq!(buffers(&batch), before);
    assert_eq!((batch.count, batch.features.len(), batch.labels.len()), (3, 192, 3));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = file(&dir, bytes);
        if let Ok(plan) = DataPlan::prepare(&config(&path), None) {
            let _ = Dataset::open(&plan, &path);
        }
    }

    #[test]
    fn a_plan_comes_back_from_json_to_the_last_bit(rows in prop::collection::vec((-1e9..1e9f64, -1.0..1.0f64), 5..40)) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let rows: String = rows.iter().map(|(x, y)| format!("{x},{y}\n")).collect();
        let path = file(&dir, format!("x,y\n{rows}"));
        let plan = DataPlan::prepare(&config(&path), None).expect("planned");
        let json = serde_json::to_string(&plan).expect("JSON");
        prop_assert_eq!(serde_json::from_str::<DataPlan>(&json).expect("a plan"), plan);
    }

    #[test]
    fn quoted_fields_come_back(words in prop::collection::vec("[ -~\n\u{e9}]{1,12}", 4..12)) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let rows: String = words.iter().enumerate().map(|(i, word)| {
            format!("\"{}\",{}\n", word.replace('"', "\"\""), ["yes", "no"][i % 2])
        }).collect();
        let path = file(&dir, format!("word,y\n{rows}"));
        let mut config = config(&path);
        config.validation = 0.0;
        config.missing.clear();
        config.columns.insert("word".to_owned(), ColumnKind::Categorical);
        let plan = DataPlan::prepare(&config, None).expect("planned");
        let Some(Feature::Categorical { categories }) = &plan.columns()[0].feature else { panic!("categorical") };
        for word in &words {
            prop_assert!(categories.contains(&word.trim().to_owned()), "{:?}", word);
        }
    }
}
