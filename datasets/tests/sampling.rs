//! Draws with replacement, and class weights: on real files, through a worker's dataset.

mod support;

use configs::{DatasetKind, Sampling};
use datasets::{AugmentKey, Batch, DataPlan, Dataset, Role};
use support::*;

/// The draws of one epoch, as a worker gathers them.
fn draws(dataset: &Dataset, epoch: u64) -> Batch {
    let mut batch = Batch::default();
    let all: Vec<u64> = (0..dataset.training_len()).collect();
    dataset.gather_training(AugmentKey { seed: 42, epoch }, &all, &mut batch).expect("gathered");
    batch
}

/// 600 rows: every tenth has the label "rare"; weights cycle through 0, 1, 2 and 5.
fn table() -> String {
    let row = |row: usize| {
        let label = if row.is_multiple_of(10) { "rare" } else { "usual" };
        format!("{row},{},{label}\n", [0, 1, 2, 5][row % 4])
    };
    format!("x,w,label\n{}", (0..600).map(row).collect::<String>())
}

#[test]
fn balanced_draws_have_each_label_as_often() {
    let dir = folder();
    let path = write(dir.path(), "t.csv", table().as_bytes());
    let config = configs::Dataset { sampling: Sampling::Balanced, ..config("csv", &path) };
    let (plan, dataset) = open(&config);
    assert_eq!(plan.label_counts.iter().sum::<u64>(), 480);
    let mut counts = [0f64; 2];
    for epoch in 0..40 {
        draws(&dataset, epoch).labels.iter().for_each(|label| counts[*label as usize] += 1.0);
    }
    let expected = (counts[0] + counts[1]) / 2.0;
    let chi: f64 = counts.iter().map(|count| (count - expected) * (count - expected) / expected).sum();
    // 99.99 % quantile for 1 degree of freedom.
    assert!(chi < 15.1, "{counts:?}");
    assert_eq!(draws(&dataset, 3), draws(&dataset, 3));
    assert_ne!(draws(&dataset, 3), draws(&dataset, 4));
}

#[test]
fn weighted_draws_come_by_the_column_which_is_no_feature() {
    let dir = folder();
    let path = write(dir.path(), "t.csv", table().as_bytes());
    let config = configs::Dataset {
        sampling: Sampling::Weighted,
        weight_column: Some("w".to_owned()),
        normalise: configs::Normalise::None,
        ..config("csv", &path)
    };
    let (plan, dataset) = open(&config);
    let roles: Vec<Role> = plan.columns().iter().map(|column| column.role).collect();
    assert_eq!(roles, [Role::Feature, Role::Weight, Role::Target]);
    assert_eq!(plan.features(), 1);
    let mut of_weights = [0f64; 4];
    for epoch in 0..40 {
        let batch = draws(&dataset, epoch);
        assert_eq!((batch.count, batch.features.len()), (480, 480));
        batch.features.iter().for_each(|row| of_weights[*row as usize % 4] += 1.0);
    }
    let rows_of = |weight: usize| {
        let each = |row: &f32| *row as usize % 4 == weight;
        let plain = configs::Dataset { sampling: Sampling::Each, weight_column: None, ..config.clone() };
        let plain =
            configs::Dataset { columns: [("w".to_owned(), configs::ColumnKind::Ignore)].into(), ..plain };
        epoch(&open(&plain).1, KEY).0.features.iter().filter(|row| each(row)).count() as f64
    };
    let masses = [0.0, rows_of(1), 2.0 * rows_of(2), 5.0 * rows_of(3)];
    let (draws, total) = (of_weights.iter().sum::<f64>(), masses.iter().sum::<f64>());
    let chi: f64 = of_weights
        .iter()
        .zip(masses)
        .skip(1)
        .map(|(found, mass)| {
            let expected = draws * mass / total;
            (found - expected) * (found - expected) / expected
        })
        .sum();
    // 99.99 % quantile for 2 degrees of freedom.
    assert!(of_weights[0] == 0.0 && chi < 18.4, "{of_weights:?} for {masses:?}");
    // Evaluation visits each held-out row once, regardless of weights.
    let (_, validation) = epoch(&dataset, KEY);
    let mut rows = validation.features.clone();
    rows.sort_by(f32::total_cmp);
    rows.dedup();
    assert_eq!((rows.len(), validation.count), (120, 120));
}

#[test]
fn a_weight_column_of_another_file_may_be_absent() {
    let dir = folder();
    let path = write(dir.path(), "t.csv", table().as_bytes());
    let config = configs::Dataset {
        sampling: Sampling::Weighted,
        weight_column: Some("w".to_owned()),
        ..config("csv", &path)
    };
    let (plan, _) = open(&config);
    let other = write(dir.path(), "o.csv", b"x,label\n1,rare\n2,usual\n");
    assert_eq!(plan.read_for_evaluation(&other).expect("read").labels, [0, 1]);
    assert_eq!(plan.read_for_prediction(&other).expect("read").count, 2);
}

#[test]
fn parquet_and_images_are_drawn_too() {
    let dir = folder();
    let bytes = support::parquet(60, parquet::basic::Compression::UNCOMPRESSED);
    let path = write(dir.path(), "t.parquet", &bytes);
    let weighted = configs::Dataset {
        sampling: Sampling::Weighted,
        weight_column: Some("y".to_owned()),
        target: Some("code".to_owned()),
        ..config("parquet", &path)
    };
    let (plan, dataset) = open(&weighted);
    assert_eq!(plan.targets(), ["code"]);
    assert_eq!(draws(&dataset, 0).count as u64, dataset.training_len());
    pets(&dir.path().join("pets"), 12);
    let augment = configs::Augment { shift: 2, flip: true, crop: 0 };
    for cache_mb in [0, 512] {
        let config = configs::Dataset {
            sampling: Sampling::Balanced,
            cache_mb,
            ..config("images", &dir.path().join("pets"))
        };
        let plan = DataPlan::prepare(&config, None).expect("planned").augmented(&augment).expect("augmented");
        let dataset = Dataset::open(&plan, std::path::Path::new(&plan.path)).expect("opened");
        let mut of_cats = 0;
        let (mut same, mut twice) = (0, 0);
        for epoch in 0..60 {
            let batch = draws(&dataset, epoch);
            of_cats += batch.labels.iter().filter(|label| **label == 0).count();
            let images: Vec<&[f32]> = batch.features.chunks(12).collect();
            for (at, image) in images.iter().enumerate() {
                same += images[..at].iter().filter(|other| *other == image).count();
                twice += at;
            }
        }
        let all = 60 * dataset.training_len() as usize;
        assert!(of_cats.abs_diff(all / 2) < all / 10, "{of_cats} of {all}");
        // If repeated rows were augmented identically, one pair in 19 would be equal.
        assert!(same * 40 < twice, "{same} of {twice} pairs");
    }
}

#[test]
fn what_cannot_be_drawn_is_refused() {
    let dir = folder();
    let check = |text: &str, config: configs::Dataset, expected: &str| {
        let path = write(dir.path(), "t.csv", text.as_bytes());
        let said = refused(&configs::Dataset { uri: path.display().to_string(), validation: 0.0, ..config });
        assert_eq!(said, expected);
    };
    let weighted = |column: &str| configs::Dataset {
        sampling: Sampling::Weighted,
        weight_column: Some(column.to_owned()),
        ..configs::Dataset::default()
    };
    check(
        "x,w,y\n1,1,a\n2,-1,b\n",
        weighted("w"),
        "data, line 3: column \"w\" has the weights of rows, but this one is \"-1\": expected a number from 0",
    );
    check(
        "x,w,y\n1,1,a\n2,,b\n",
        weighted("w"),
        "data, line 3: column \"w\" has the weights of rows, but this one is \"\": expected a number from 0",
    );
    check(
        "x,w,y\n1,1,a\n2,q,b\n",
        weighted("w"),
        "data, line 3: column \"w\" is numeric, but this field is \"q\"",
    );
    check(
        "x,w,y\n1,0,a\n2,0,b\n",
        weighted("w"),
        "data: dataset.weight_column = \"w\": all weights of the training split are 0, there is nothing to draw",
    );
    check(
        "x,w,y\n1,0,a\n2,0,b\n",
        weighted("v"),
        "data: dataset.weight_column = \"v\": no such column; columns are x, w, y",
    );
    let balanced = configs::Dataset {
        sampling: Sampling::Balanced,
        kind: Some(DatasetKind::Regression),
        ..configs::Dataset::default()
    };
    check(
        "x,y\n1,0\n2,1\n",
        balanced,
        "data: dataset.sampling = \"balanced\", but these data have no labels",
    );
}

#[test]
fn class_weights_are_those_of_scikit_learn() {
    // sklearn.utils.class_weight.compute_class_weight("balanced", classes=["a", "b", "c"], y=["a"] * 6 + ["b"] * 3 + ["c"]).
    let dir = folder();
    let labels = ["a", "a", "b", "a", "c", "a", "b", "a", "b", "a"];
    let text: String = labels.iter().enumerate().map(|(row, label)| format!("{row},{label}\n")).collect();
    let path = write(dir.path(), "t.csv", format!("x,y\n{text}").as_bytes());
    let (plan, _) = open(&configs::Dataset { validation: 0.0, ..config("csv", &path) });
    assert_eq!(plan.label_counts, [6, 3, 1]);
    assert_eq!(plan.class_weights().expect("weights"), [10.0 / 18.0, 10.0 / 9.0, 10.0 / 3.0]);
    let regression = configs::Dataset {
        kind: Some(DatasetKind::Regression),
        target: Some("x".to_owned()),
        ..config("csv", &path)
    };
    let why = DataPlan::prepare(&regression, None).expect("planned").class_weights().expect_err("no labels");
    assert!(why.to_string().contains("these data have no labels"), "{why}");
    mnist(dir.path(), 9, false);
    let (plan, _) = open(&config("idx", dir.path()));
    assert_eq!(plan.label_counts.iter().sum::<u64>(), plan.split_lengths().0);
    pets(&dir.path().join("pets"), 5);
    let (plan, _) = open(&configs::Dataset { validation: 0.0, ..config("images", &dir.path().join("pets")) });
    assert_eq!(
        (plan.label_counts.as_slice(), plan.class_weights().expect("weights")),
        (&[5, 5][..], vec![1.0, 1.0])
    );
}

#[test]
fn a_plan_of_before_draws_each_row_once() {
    let dir = folder();
    let path = write(dir.path(), "t.csv", table().as_bytes());
    let (plan, dataset) = open(&config("csv", &path));
    let mut json = serde_json::to_value(&plan).expect("JSON");
    let fields = json.as_object_mut().expect("a plan");
    fields.remove("sampling");
    fields.remove("label_counts");
    let old: DataPlan = serde_json::from_value(json).expect("a plan");
    assert_eq!(old.sampling, Sampling::Each);
    let old = Dataset::open(&old, &path).expect("opened");
    assert_eq!(epoch(&old, KEY), epoch(&dataset, KEY));
}
