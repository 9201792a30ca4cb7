//! Errors in tables and their configuration: each message, with file and line.

use std::path::{Path, PathBuf};

use configs::{ColumnKind, DatasetKind};
use datasets::{AugmentKey, Batch, Column, DataPlan, Dataset, Feature, Format};

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
    let said = match DataPlan::prepare(&config, None) {
        Ok(plan) => match Dataset::open(&plan, &path) {
            Ok(_) => "fine".to_owned(),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    said.replace(&path.display().to_string(), "t.csv")
}

#[test]
fn a_broken_table_is_refused_with_file_and_line() {
    let check = |text: &[u8], expected: &str| assert_eq!(refused(text, |_| {}), expected);
    check(b"", "t.csv: the file is empty");
    check(b"\n\n", "t.csv: the file is empty");
    check(b"a,b\n", "t.csv: the table has a first line and no rows");
    check(b"a,b\n1,x\n", "t.csv: one row is too few to learn from");
    check(b"a,b\n1,2\n3\n", "t.csv, line 3: 1 field where the table has 2 columns");
    check(b"a,b\r\n1,2\r\n\r\n3,4,5\r\n", "t.csv, line 4: 3 fields where the table has 2 columns");
    check(
        b"a,b\n1,x\n\"2,y\n3,x\n",
        "t.csv, line 3: 1 field where the table has 2 columns: is a quote left open?",
    );
    check(b"a,b,a\n1,2,3\n", "t.csv, line 1: two columns are named \"a\"");
    check(b"a,,b\n1,2,3\n", "t.csv, line 1: column 2 has no name (dataset.header = false if it is a row)");
    check(b"a,b\r\n1,x\r\n2,\xff\r\n", "t.csv, line 3: column \"b\" is not UTF-8 here");
    check(b"a,\xff\n1,x\n", "t.csv, line 1: field 2 is not UTF-8");
    check(
        b"a,b\n1,x\n1e300,y\n3,x\n",
        "t.csv, line 3: column \"a\" is numeric, but 1e300 is not a finite number within +-3.4e38",
    );
    check(
        b"a,b\n1,x\n-inf,y\n3,x\n",
        "t.csv, line 3: column \"a\" is numeric, but -inf is not a finite number within +-3.4e38",
    );
    check(b"only\nx\ny\n", "t.csv: no column is left to predict from");
    check(b"a,b\n1,x\n2,y\n3,x\n", "fine");
}

#[test]
fn a_target_that_cannot_be_learnt_is_refused() {
    let none = |_: &mut configs::Dataset| {};
    assert_eq!(
        refused("a,b\n1,x\n2,\n3,NA\n", none),
        "t.csv, line 3: the target \"b\" is missing here (2 rows in all): remove such rows"
    );
    assert_eq!(
        refused("a,b\n1,x\n2,x\n3,x\n", none),
        "t.csv: the target \"b\" has one label only ([\"x\"]): there is nothing to learn"
    );
    let many: String = (0..1_001).map(|i| format!("1,l{i}\n")).collect();
    assert_eq!(
        refused(format!("a,b\n{many}"), none),
        "t.csv: the target \"b\" has 1001 labels, at most 1000: is it a number (dataset.kind = \"regression\")?"
    );
    let regression = |c: &mut configs::Dataset| c.kind = Some(DatasetKind::Regression);
    assert_eq!(
        refused("a,b\n1,1.5\n2,x\n", regression),
        "t.csv, line 3: column \"b\" is numeric, but this field is \"x\""
    );
    let target = |name: &'static str| move |c: &mut configs::Dataset| c.target = Some(name.to_owned());
    assert_eq!(
        refused("age,label\n1,x\n2,y\n", target("lable")),
        "t.csv: dataset.target = \"lable\": no such column; did you mean \"label\"?"
    );
    assert_eq!(
        refused("age,label\n1,x\n2,y\n", target("zzz")),
        "t.csv: dataset.target = \"zzz\": no such column; columns are age, label"
    );
}

#[test]
fn a_configuration_that_does_not_fit_the_table_is_refused() {
    let declared = |name: &'static str, kind: ColumnKind| {
        move |c: &mut configs::Dataset| {
            c.columns.insert(name.to_owned(), kind);
        }
    };
    assert_eq!(
        refused("a,b\n1,x\ntwo,y\n", declared("a", ColumnKind::Numeric)),
        "t.csv, line 3: column \"a\" is numeric, but this field is \"two\""
    );
    assert_eq!(
        refused("a,b\n,x\n?,y\n", declared("a", ColumnKind::Numeric)),
        "t.csv: column \"a\" has no number in any row: ignore it with dataset.columns"
    );
    assert_eq!(
        refused("age,b\n1,x\n2,y\n", declared("Age", ColumnKind::Numeric)),
        "t.csv: dataset.columns.Age: no such column; did you mean \"age\"?"
    );
    assert_eq!(
        refused("a,b\n1,x\n2,y\n", |c| {
            c.target = Some("b".to_owned());
            c.columns.insert("b".to_owned(), ColumnKind::Ignore);
        }),
        "t.csv: dataset.target = \"b\": dataset.columns ignores it"
    );
    assert_eq!(
        refused("a,b\n1,2\n2,3\n", |c| {
            c.kind = Some(DatasetKind::Regression);
            c.columns.insert("b".to_owned(), ColumnKind::Categorical);
        }),
        "t.csv: dataset.kind = \"regression\", but dataset.columns.b = \"categorical\": remove one of them"
    );
    let shape = |shape| move |c: &mut configs::Dataset| c.image_shape = Some(shape);
    assert_eq!(
        refused("a,b\n1,x\n2,y\n", shape([1, 2, 2])),
        "t.csv: dataset.image_shape = [1, 2, 2] is 4 numbers, but a row has 1"
    );
    assert!(refused("a,b\n1,x\n2,y\n", shape([usize::MAX, 2, 2])).contains("is too many numbers"));
    assert_eq!(
        // Its low byte is that of a semicolon.
        refused("a;b\n1;x\n2;y\n", |c| c.delimiter = '\u{13b}'),
        "t.csv: dataset.delimiter = '\u{13b}': expected one ASCII character, no quote and no end of line"
    );
}

#[test]
fn a_changed_file_is_refused_by_name_with_both_digests() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = file(&dir, "a,b\n1,x\n2,y\n3,x\n");
    let plan = DataPlan::prepare(&config(&path), None).expect("planned");
    // One byte changed, one row added, one row broken.
    for text in ["a,b\n1,x\n2,y\n4,x\n", "a,b\n1,x\n2,y\n3,x\n4,x\n", "a,b\n1,x\n2,y\n33x\n"] {
        file(&dir, text);
        let found = datasets::md5_of_file(&path).expect("read");
        let said = Dataset::open(&plan, &path).expect_err("changed").to_string();
        let (path, digest) = (path.display(), &plan.digest);
        let expected = format!(
            "{path} has changed since the run was started: its MD5 is {found}, the run's data have {digest}"
        );
        assert_eq!(said, expected);
    }
}

#[test]
fn an_absent_file_says_where_it_was_looked_for() {
    let config = configs::Dataset { uri: "absent.csv".to_owned(), ..configs::Dataset::default() };
    let said = DataPlan::prepare(&config, Some(Path::new("/etc"))).expect_err("absent").to_string();
    assert!(said.contains("absent.csv") && said.contains("/etc/absent.csv"), "{said}");
}

#[test]
fn a_number_that_scaling_takes_beyond_f32_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = file(&dir, "a,b\n1e-30,x\n2e-30,y\n3e-30,x\n");
    let plan = DataPlan::prepare(&config(&path), None).expect("planned");
    let said = plan.read_for_prediction(&file(&dir, "a\n1e-30\n1e30\n")).expect_err("refused").to_string();
    assert!(said.contains("t.csv, line 3: column \"a\": 1"), "{said}");
    assert!(said.contains("is beyond f32 once it is scaled"), "{said}");
}

fn first(plan: &mut DataPlan) -> &mut Column {
    let Format::Csv(csv) = &mut plan.form else { panic!("a csv file") };
    &mut csv.columns[0]
}

#[test]
fn a_plan_that_contradicts_itself_is_refused_or_harmless() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = file(&dir, "a,b\np,x\nq,y\np,x\n");
    let plan = DataPlan::prepare(&config(&path), None).expect("planned");
    let refused = |change: &dyn Fn(&mut DataPlan)| {
        let mut plan = plan.clone();
        change(&mut plan);
        Dataset::open(&plan, &path).map(|dataset| (dataset, plan.features()))
    };
    let said = refused(&|plan| plan.rows = 4).expect_err("too many rows").to_string();
    assert!(said.ends_with("3 rows, where the plan has 4"), "{said}");
    refused(&|plan| {
        first(plan).feature = Some(Feature::Numeric { offset: 0.0, scale: 0.0, fill: 0.0, indicator: false });
    })
    .expect_err("text as numbers");
    // A duplicate category: samples keep the width given by the plan.
    let twice = Feature::Categorical { categories: ["p", "p", "q"].map(str::to_owned).to_vec() };
    let (dataset, features) = refused(&|plan| first(plan).feature = Some(twice.clone())).expect("opened");
    let mut batch = Batch::default();
    dataset.gather_training(AugmentKey { seed: 1, epoch: 0 }, &[0, 1], &mut batch).expect("gathered");
    assert_eq!(batch.features.len(), 2 * features);
}
