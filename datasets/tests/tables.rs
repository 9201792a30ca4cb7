//! Tables, small and real: what is inferred, what is refused, what stays out of the statistics.

use std::path::{Path, PathBuf};

use configs::{ColumnKind, DatasetKind, Normalise};
use datasets::{Batch, Dataset, Feature, Output, Plan};
use proptest::prelude::*;

fn config(path: &Path) -> configs::Dataset {
    configs::Dataset { uri: path.display().to_string(), ..configs::Dataset::default() }
}

fn file(dir: &tempfile::TempDir, text: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.path().join("t.csv");
    std::fs::write(&path, text).expect("written");
    path
}

fn refused(text: impl AsRef<[u8]>, change: impl FnOnce(&mut configs::Dataset)) -> String {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = file(&dir, text);
    let mut config = config(&path);
    change(&mut config);
    let said = match Plan::prepare(&config, None) {
        Ok(plan) => match Dataset::open(&plan, &path) {
            Ok(_) => "fine".to_owned(),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    said.replace(&path.display().to_string(), "t.csv")
        .replace(&path.canonicalize().expect("there").display().to_string(), "t.csv")
}

#[test]
fn the_digits_are_what_their_source_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("digits/digits.csv");
    let plan = Plan::prepare(&config(&path), None).expect("planned");
    assert_eq!((plan.rows, plan.features()), (1_797, 64));
    let labels = (0..10).map(|digit| digit.to_string()).collect();
    assert_eq!(plan.output, Output::Classes { labels });
    assert_eq!(plan.split_lengths(), (1_438, 359));
    let dataset = Dataset::open(&plan, &path).expect("opened");
    let mut batch = Batch::default();
    dataset.gather_training(&[0, 5, 1_437], &mut batch);
    assert_eq!((batch.count, batch.features.len(), batch.labels.len()), (3, 192, 3));
    let json = serde_json::to_string(&plan).expect("JSON");
    let shipped: Plan = serde_json::from_str(&json).expect("a plan");
    Dataset::open(&shipped, &path).expect("opened by a worker");
}

#[test]
fn kinds_are_inferred_missing_values_filled_and_categories_one_hot() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = file(&dir, "age,city,y\n10,\"a, b\",no\n,c,yes\n30,,no\n20,\"say \"\"c\"\"\",yes\n");
    let mut config = config(&path);
    (config.validation, config.normalise) = (0.0, Normalise::None);
    let plan = Plan::prepare(&config, None).expect("planned");
    let Some(Feature::Numeric { fill, .. }) = plan.columns[0].feature else { panic!("age is numeric") };
    assert_eq!(fill, 20.0);
    let Some(Feature::Categorical { categories }) = &plan.columns[1].feature else {
        panic!("city is categorical")
    };
    assert_eq!(categories, &["", "a, b", "c", "say \"c\""]);
    let dataset = Dataset::open(&plan, &path).expect("opened");
    let mut batch = Batch::default();
    dataset.gather_training(&[1], &mut batch);
    assert_eq!(batch.features, [20.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
    assert_eq!(batch.labels, [1]);

    let unseen = dir.path().join("new.csv");
    std::fs::write(&unseen, "city,age\nelsewhere,1\n").expect("written");
    let batch = plan.read_for_prediction(&unseen).expect("read without a target, in another order");
    assert_eq!(batch.features, [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
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
        let plan = Plan::prepare(&config, None).expect("planned");
        let dataset = Dataset::open(&plan, &path).expect("opened");
        // Rows of the validation split, found by their values, are replaced.
        let mut batch = Batch::default();
        dataset.gather_evaluation(&(0..dataset.evaluation_len()).collect::<Vec<_>>(), &mut batch);
        let Some(Feature::Numeric { offset, scale, .. }) = plan.columns[0].feature else { panic!("numeric") };
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
        (plan.columns, Plan::prepare(&config, None).expect("planned").columns)
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
    let plan = Plan::prepare(&config, None).expect("planned");
    let Output::Values { offset, scale } = plan.output else { panic!("fractions are a regression") };
    let dataset = Dataset::open(&plan, &path).expect("opened");
    let mut batch = Batch::default();
    dataset.gather_training(&[0, 3], &mut batch);
    assert!((f64::from(batch.values[0]) * scale + offset - 100.5).abs() < 1e-3);
    assert!((f64::from(batch.values[1]) + f64::from(batch.values[0])).abs() < 1e-6);
}

#[test]
fn what_is_wrong_is_said_with_file_and_line() {
    let none = |_: &mut configs::Dataset| {};
    assert_eq!(refused("", none), "t.csv: the file is empty");
    assert_eq!(refused("a,b\n", none), "t.csv: the table has a first line and no rows");
    assert_eq!(refused("a,b\n1,2\n3\n", none), "t.csv, line 3: 1 fields where the table has 2 columns");
    assert_eq!(refused("a,a\n1,2\n", none), "t.csv, line 1: two columns are named \"a\"");
    assert_eq!(refused(b"a,b\n1,\xff\n", none), "t.csv, line 2: field 2 is not UTF-8");
    let numeric = |c: &mut configs::Dataset| {
        c.columns.insert("a".to_owned(), ColumnKind::Numeric);
    };
    assert_eq!(
        refused("a,b\n1,x\ntwo,y\n", numeric),
        "t.csv, line 3: column \"a\" is numeric, but this field is \"two\""
    );
    let target = |name: &'static str| move |c: &mut configs::Dataset| c.target = Some(name.to_owned());
    assert_eq!(
        refused("age,label\n1,x\n2,y\n", target("lable")),
        "t.csv: dataset.target = \"lable\": no such column; did you mean \"label\"?"
    );
    assert!(refused("a,b\n1,x\n2,x\n3,x\n", none).contains("one label only"));
    assert!(refused("a,b\n1,x\n2,\n3,y\n", none).contains("missing in 1 rows"));
    let regression = |c: &mut configs::Dataset| c.kind = Some(DatasetKind::Regression);
    assert!(refused("a,b\n1,1.5\n2,x\n", regression).starts_with("t.csv, line 3: column \"b\""));
    let shape = |c: &mut configs::Dataset| c.image_shape = Some([1, 2, 2]);
    assert!(refused("a,b\n1,x\n2,y\n", shape).contains("is 4 numbers, but a row has 1"));
    assert!(refused("only\nx\ny\n", none).contains("no column is left"));
}

#[test]
fn a_changed_file_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = file(&dir, "a,b\n1,x\n2,y\n3,x\n");
    let plan = Plan::prepare(&config(&path), None).expect("planned");
    file(&dir, "a,b\n1,x\n2,y\n4,x\n");
    let said = Dataset::open(&plan, &path).expect_err("changed").to_string();
    assert!(said.contains("t.csv has changed") && said.contains(&plan.digest), "{said}");
}

#[test]
fn an_absent_file_says_where_it_was_looked_for() {
    let config = configs::Dataset { uri: "absent.csv".to_owned(), ..configs::Dataset::default() };
    let said = Plan::prepare(&config, Some(Path::new("/etc"))).expect_err("absent").to_string();
    assert!(said.contains("absent.csv") && said.contains("/etc/absent.csv"), "{said}");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = file(&dir, bytes);
        if let Ok(plan) = Plan::prepare(&config(&path), None) {
            let _ = Dataset::open(&plan, &path);
        }
    }

    #[test]
    fn quoted_fields_come_back(words in prop::collection::vec("[ -~]{1,12}", 4..12)) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let rows: String = words.iter().enumerate().map(|(i, word)| {
            format!("\"{}\",{}\n", word.replace('"', "\"\""), ["yes", "no"][i % 2])
        }).collect();
        let path = file(&dir, format!("word,y\n{rows}"));
        let mut config = config(&path);
        config.validation = 0.0;
        config.missing.clear();
        config.columns.insert("word".to_owned(), ColumnKind::Categorical);
        let plan = Plan::prepare(&config, None).expect("planned");
        let Some(Feature::Categorical { categories }) = &plan.columns[0].feature else { panic!("categorical") };
        for word in &words {
            prop_assert!(categories.contains(&word.trim().to_owned()), "{:?}", word);
        }
    }
}
