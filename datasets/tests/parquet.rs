//! Parquet files: inference as for csv, with the file's own types.

mod support;

use configs::{ColumnKind, Normalise};
use datasets::{Feature, Format, Output};
use parquet::basic::{Compression, GzipLevel};
use support::*;

#[test]
fn columns_are_what_the_file_says_and_each_row_comes_once() {
    for compression in
        [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::GZIP(GzipLevel::default())]
    {
        let dir = folder();
        let path = write(dir.path(), "t.parquet", &support::parquet(20, compression));
        let mut config = config("parquet", &path);
        config.normalise = Normalise::None;
        let (plan, dataset) = open(&config);
        assert_eq!((plan.rows, plan.features(), plan.targets()), (20, 3, vec!["y".to_owned()]));
        assert_eq!(plan.output, Output::Classes { labels: vec!["0".to_owned(), "1".to_owned()] });
        assert!(matches!(plan.form, Format::Parquet(_)));
        let [n, code, _] = plan.columns() else { panic!("three columns") };
        let Some(Feature::Numeric { fill, .. }) = n.feature else { panic!("a number") };
        assert_eq!(
            code.feature,
            Some(Feature::Categorical { categories: vec!["007".to_owned(), "7".to_owned()] }),
            "text of digits is text"
        );
        let (training, validation) = epoch(&dataset, KEY);
        // The number, whether it is missing, and the text's code.
        let rows = [training.features, validation.features].concat();
        let missing = rows.chunks(3).filter(|row| row[1] == 1.0);
        assert!(missing.clone().count() == 4 && missing.clone().all(|row| row[0] == fill as f32), "{rows:?}");
        let mut numbers: Vec<f32> = rows.chunks(3).map(|row| row[0]).collect();
        let expected = |row: u8| if row % 5 == 4 { fill as f32 } else { f32::from(row) / 2.0 };
        let mut expected: Vec<f32> = (0..20).map(expected).collect();
        numbers.sort_by(f32::total_cmp);
        expected.sort_by(f32::total_cmp);
        assert_eq!(numbers, expected, "each row once, nulls filled");
        assert_eq!(plan.read_for_prediction(&path).expect("read").count, 20);
    }
}

#[test]
fn what_is_no_parquet_is_refused_by_name_and_row() {
    let dir = folder();
    let whole = support::parquet(20, Compression::SNAPPY);
    let path = write(dir.path(), "t.parquet", b"a,b\n1,2\n");
    let mut config = config("parquet", &path);
    assert!(refused(&config).starts_with("data: this can't be read as parquet: "), "{}", refused(&config));
    write(dir.path(), "t.parquet", &whole[..whole.len() - 9]);
    assert!(refused(&config).starts_with("data: this can't be read as parquet: "), "{}", refused(&config));
    write(dir.path(), "t.parquet", &support::parquet(0, Compression::SNAPPY));
    assert_eq!(refused(&config), "data: the table has no rows");
    write(dir.path(), "t.parquet", &whole);
    config.columns.insert("code".to_owned(), ColumnKind::Numeric);
    assert_eq!(refused(&config), "fine", "a column may be declared otherwise");
    config.target = Some("n".to_owned());
    assert_eq!(
        refused(&config),
        "data, row 5: the target \"n\" is missing here (4 rows in all): remove such rows"
    );
}
