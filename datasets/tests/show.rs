//! The command `datasets show`.

use std::process::{Command, Output};

fn show(text: &str, more: &[&str]) -> Output {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("t.csv"), text).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_datasets"));
    command.current_dir(dir.path()).args(["show", "t.csv"]).args(more).output().expect("run")
}

#[test]
fn it_prints_what_was_inferred() {
    let rows = "10,\"a, b\",no\n,c,yes\n30,,no\n20,c,yes\n-2.5,c,yes\n";
    let output = show(&format!("age,city,y\n{rows}"), &[]);
    let expected = "\
t@1e9fc7a9  md5 1e9fc7a957468c2ebe750eb582268756, 58 bytes
5 rows: 4 for training, 1 held out
3 columns, 2 numbers a sample

column  kind         missing  values
age     numeric      1        -2.5 to 30
city    categorical  1        2: a, b, c
y       target       0        2 labels

labels of y
  no   2  40.0 %  \u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}
  yes  3  60.0 %  \u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}

numbers  mean    std     min   5%      25%    median  75%   95%   max  histogram
age      14.375  12.038  -2.5  -0.625  6.875  15      22.5  28.5  30   \u{2588}     \u{2588}    \u{2588}   \u{2588}

texts  most frequent  histogram
city   c (60.0 %)     \u{2588}\u{2583}
y      yes (60.0 %)   \u{2588}\u{2586}
";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_number_is_a_target_with_a_range() {
    let output = show("y,x\n1.5,1\n2.5,2\n4,3\n", &["--target", "y"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("y       target   0        1.5 to 4\n"), "{said}");
    assert!(!said.contains("labels"), "{said}");
}

#[test]
fn what_is_wrong_goes_to_stderr_with_code_3() {
    let output = show("a,b\n1,x\n2\n", &[]);
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said, "datasets: t.csv, line 3: 1 field where the table has 2 columns\n");
    assert!(output.stdout.is_empty());
    let output = show("age,b\n1,x\n2,y\n", &["--target", "agee"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("did you mean \"age\"?"));
}
