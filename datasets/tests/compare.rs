//! The command `diff`, as a process.

use std::path::Path;
use std::process::{Command, Output};

fn datasets(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_datasets"));
    command.current_dir(dir).args(arguments).env_remove("BONFIRE_DATASETS").output().expect("run")
}

fn says(dir: &Path, arguments: &[&str]) -> String {
    let output = datasets(dir, arguments);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn files_and_rows_and_columns_that_differ_are_named() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let dir = dir.path();
    std::fs::create_dir(dir.join("d")).expect("made");
    let write = |name: &str, text: &str| std::fs::write(dir.join("d").join(name), text).expect("written");
    write("same.txt", "same");
    write("gone.txt", "gone");
    write("t.csv", "id,size,kind\n1,10,a\n2,20,a\n3,,b\n3,,b\n");
    says(dir, &["add", "d", "--name", "ds"]);
    std::fs::remove_file(dir.join("d/gone.txt")).expect("removed");
    write("new.txt", "new");
    // Reordered; one of two equal rows removed, one row added, one column added, one moved.
    write("t.csv", "kind,id,size,more\nb,3,,x\na,2,20,x\na,1,10,x\nc,9,60.5,y\n");
    says(dir, &["add", "d", "--name", "ds"]);
    // PSI of kind, by hand: the terms of b and c are -0.25 ln 0.5 and 0.2499 ln 2500.
    let expected = "\
ds@1 -> ds@2
files: 1 added, 1 removed, 1 changed, 1 the same
  + new.txt  3 bytes
  - gone.txt  4 bytes
  ~ t.csv  37 -> 54 bytes

t.csv: 4 -> 4 rows: 1 added, 1 removed
  + column more
column  missing  mean          5%          median    95%            psi
id      0        2.25 -> 3.75  1.15        2.5       3 -> 8.1       2.129  great change
size    2 -> 1   15 -> 30.167  10.5 -> 11  15 -> 20  19.5 -> 56.45  0.347  great change
kind    0                                                           2.129  great change
counts of id
  3  2 -> 1
  9  0 -> 1
counts of kind
  b  2 -> 1
  c  0 -> 1
";
    assert_eq!(says(dir, &["diff", "ds@1", "ds@2"]), expected);
    let value: serde_json::Value =
        serde_json::from_str(&says(dir, &["diff", "ds@1", "d", "--output", "json"])).expect("JSON");
    let table = &value["tables"][0];
    assert_eq!((&table["rows_added"], &table["rows_removed"]), (&1.into(), &1.into()));
    assert_eq!(table["columns_added"][0], "more");
    let size = &table["columns"][1];
    assert_eq!(
        (&size["mean"][0], &size["missing"][0], &size["missing"][1]),
        (&15.0.into(), &2.into(), &1.into())
    );
    assert_eq!(table["columns"][2]["counts"], serde_json::json!([["b", 2, 1], ["c", 0, 1]]));
    assert_eq!(value["removed"], serde_json::json!([["gone.txt", 4]]));
}

#[test]
fn two_files_are_compared_whatever_their_names() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let dir = dir.path();
    std::fs::write(dir.join("a.csv"), "x,y\n1,2\n2,3\n").expect("written");
    std::fs::write(dir.join("b.csv"), "x,y\n2,3\n1,2\n").expect("written");
    let said = says(dir, &["diff", "a.csv", "b.csv"]);
    assert!(
        said.contains("2 -> 2 rows: 0 added, 0 removed") && said.contains("0.000  little change"),
        "{said}"
    );
    std::fs::write(dir.join("b.csv"), "x,y\n2,3\n1\n").expect("written");
    let said = says(dir, &["diff", "a.csv", "b.csv"]);
    assert!(said.contains("a.csv is not compared by rows: ") && said.contains("line 3"), "{said}");
    assert!(says(dir, &["diff", "a.csv", "a.csv"]).contains("0 changed, 1 the same"));
    let output = datasets(dir, &["diff", "a.csv", "absent@1"]);
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn images_are_compared_by_class_and_tables_of_types_by_rows() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let dir = dir.path();
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/files");
    let copy = |from: &str, to: &str| {
        let to = dir.join("d").join(to);
        std::fs::create_dir_all(to.parent().expect("a folder")).expect("made");
        std::fs::copy(vectors.join(from), to).expect("copied");
    };
    let labels = |labels: &[u8]| {
        let bytes = [&[0, 0, 8, 1, 0, 0, 0, labels.len() as u8], labels].concat();
        std::fs::write(dir.join("d/x-labels-idx1-ubyte"), bytes).expect("written");
    };
    copy("grey.png", "cat/0.png");
    copy("grey.png", "dog/0.png");
    copy("colour.png", "dog/1.png");
    copy("snappy.parquet", "t.parquet");
    labels(&[0, 1, 1]);
    says(dir, &["add", "d", "--name", "ds"]);
    copy("colour.jpg", "cat/1.jpg");
    copy("zstd.parquet", "t.parquet");
    std::fs::remove_file(dir.join("d/dog/1.png")).expect("removed");
    labels(&[0, 0, 1]);
    says(dir, &["add", "d", "--name", "ds"]);
    let said = says(dir, &["diff", "ds@1", "ds@2"]);
    let classes = "\nimages of each class\n  0 in x-labels-idx1-ubyte  1 -> 2\n  1 in x-labels-idx1-ubyte  2 -> 1\n  \
                   cat                       1 -> 2\n  dog                       2 -> 1\n";
    assert!(said.contains(classes), "{said}");
    assert!(
        said.contains("t.parquet: 50 -> 50 rows: 0 added, 0 removed"),
        "written otherwise, the same rows: {said}"
    );
    assert!(said.contains("number  8 -> 8") || said.contains("number  7"), "{said}");
}
