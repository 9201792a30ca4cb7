//! The index over folders that grow, break and vanish.

use std::fs::File;
use std::io::Write;

use run_record::{Metric, RunRecord};

use super::*;
use crate::clients::events::{MetricLine, Pair, RunEvent};
use crate::clients::{self, Durable, Float, Int};
use crate::filter::{Filter, Order};

struct Place {
    dir: tempfile::TempDir,
}

fn record(name: &str, id: &str, status: &str) -> String {
    serde_json::json!({
        "run": name, "id": id, "status": status, "seed": 42, "config_digest": "c", "git_commit": null,
        "dataset": { "name": "digits", "version": "digits@0", "digest": "d0" },
        "final": { "step": 4, "epoch": 1, "samples": 256, "digest": "f", "metrics": { "validation/loss": 0.5 } },
        "members": [], "events": [{ "time": 1.0, "step": 0, "event": "joined", "text": "", "cost_seconds": null }],
        "views": 1, "retries": 0, "exact": true,
    })
    .to_string()
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    fn root(&self) -> &Path {
        self.dir.path()
    }

    fn bonfire(&self, name: &str, status: &str, config: &str) {
        let folder = self.root().join(name);
        std::fs::create_dir_all(&folder).expect("made");
        std::fs::write(folder.join(RunRecord::FILE), record(name, &format!("id-{name}"), status))
            .expect("written");
        std::fs::write(folder.join("config.toml"), config).expect("written");
    }

    fn log(&self, name: &str, file: &str, lines: &str) {
        let path = self.root().join(name).join(file);
        let mut file = File::options().append(true).create(true).open(path).expect("opened");
        file.write_all(lines.as_bytes()).expect("written");
    }

    fn client(&self, experiment: &str, run: &str, events: &[RunEvent]) {
        let path = self.root().join(clients::run_folder(experiment, run)).join(clients::EVENTS);
        for event in events {
            clients::append(&path, event, Durable::Written).expect("appended");
        }
    }
}

fn line(step: u64, key: &str, value: f64) -> String {
    let time = 1000.0 + step as f64;
    Metric { step, epoch: 0.5, samples: step * 2, time, key: key.into(), value }.to_json_line() + "\n"
}

fn steps(reader: &Reader, run: &str, key: &str) -> Vec<i64> {
    reader.points(run, key, 1000).expect("points").step
}

fn ids(reader: &Reader, filter: &str, order: &[&str]) -> Vec<String> {
    let order = order.iter().map(|order| Order::parse(order).expect("an order")).collect();
    let filter = Filter::parse(filter).expect("a filter");
    let select = Select { filter, order, limit: 100, ..Select::default() };
    let page = reader.runs(&select, &[]).expect("runs");
    page.items.into_iter().map(|run| run.id).collect()
}

#[test]
fn a_growing_run_is_followed_and_nothing_is_doubled_over_restarts() {
    let place = Place::new();
    place.bonfire("digits-1", "running", "[model]\nkind = \"cnn\"\nchannels = [1, 2]\n");
    place.log("digits-1", "metrics.jsonl", &(line(1, "train/loss", 2.0) + &line(2, "train/loss", 1.0)));
    let mut index = Index::open(place.root()).expect("opened");
    index.refresh().expect("refreshed");
    let reader = index.reader().expect("a reader");
    assert_eq!(steps(&reader, "id-digits-1", "train/loss"), [1, 2]);
    let whole_line = line(3, "train/loss", 0.5);
    place.log("digits-1", "metrics.jsonl", &whole_line[..10]);
    index.refresh().expect("refreshed");
    assert_eq!(steps(&reader, "id-digits-1", "train/loss"), [1, 2], "a torn line waits");
    place.log("digits-1", "metrics.jsonl", &whole_line[10..]);
    place.log("digits-1", "system.jsonl", &line(300, "system/cpu_utilization_percentage", 7.0));
    let mut again = Index::open(place.root()).expect("opened again");
    again.refresh().expect("refreshed");
    index.refresh().expect("refreshed");
    assert_eq!(steps(&reader, "id-digits-1", "train/loss"), [1, 2, 3]);
    let run = reader.run("id-digits-1").expect("read").expect("there");
    assert_eq!(run.config["model.kind"], "cnn");
    assert_eq!(run.config["model.channels"], "[1,2]");
    assert_eq!(run.summary.experiment, "digits");
    assert_eq!(run.summary.start_ms, Some(1_000), "its first event comes before its first metric");
    let loss = &run.latest[1];
    assert_eq!((loss.value, loss.count, loss.minimum, loss.maximum), (0.5, 3, Some(0.5), Some(2.0)));
    assert_eq!(run.latest[0].key, "system/cpu_utilization_percentage");
    assert_eq!(run.summary.step, Some(3), "readings are no steps");
    assert_eq!(run.damaged_lines, 0);
}

#[test]
fn a_replaced_file_is_read_again_and_the_first_value_of_a_step_counts() {
    let place = Place::new();
    place.bonfire("digits-1", "running", "");
    let replayed = line(1, "a", 9.0).replace("1001", "2001");
    place.log("digits-1", "metrics.jsonl", &(line(1, "a", 2.0) + &line(2, "a", 1.0) + &replayed));
    let mut index = Index::open(place.root()).expect("opened");
    index.refresh().expect("refreshed");
    let reader = index.reader().expect("a reader");
    assert_eq!(reader.points("id-digits-1", "a", 100).expect("points").value, [2.0, 1.0]);
    std::fs::write(place.root().join("digits-1/metrics.jsonl"), line(5, "b", 3.0)).expect("replaced");
    index.refresh().expect("refreshed");
    assert!(steps(&reader, "id-digits-1", "a").is_empty());
    assert_eq!(steps(&reader, "id-digits-1", "b"), [5]);
    assert_eq!(reader.run("id-digits-1").expect("read").expect("there").latest.len(), 1);
    std::fs::remove_file(place.root().join("digits-1/metrics.jsonl")).expect("removed");
    index.refresh().expect("refreshed");
    assert!(reader.run("id-digits-1").expect("read").expect("there").latest.is_empty());
    std::fs::remove_dir_all(place.root().join("digits-1")).expect("removed");
    index.refresh().expect("refreshed");
    assert!(reader.run("id-digits-1").expect("read").is_none(), "a run that is gone is gone");
    assert_eq!(reader.experiments().expect("read").len(), 1, "and so is its experiment");
}

#[test]
fn damaged_lines_and_records_are_named_and_passed_over() {
    let place = Place::new();
    place.bonfire("digits-1", "completed", "no [toml");
    place.log("digits-1", "metrics.jsonl", &(line(1, "a", 1.0) + "nonsense\n" + &line(2, "a", f64::NAN)));
    std::fs::create_dir_all(place.root().join("broken-1")).expect("made");
    std::fs::write(place.root().join("broken-1/run.json"), "{\"run\": 3").expect("written");
    let mut index = Index::open(place.root()).expect("opened");
    index.refresh().expect("refreshed");
    let said = index.remarks().join("\n");
    assert!(said.contains("broken-1/run.json") && said.contains("metrics.jsonl: 1 lines"), "{said}");
    let reader = index.reader().expect("a reader");
    let run = reader.run("id-digits-1").expect("read").expect("there");
    assert_eq!(run.damaged_lines, 1);
    assert!(run.latest[0].value.is_nan(), "the newest is NaN");
    assert_eq!(run.latest[0].minimum, Some(1.0));
    index.refresh().expect("refreshed");
    assert!(index.remarks().is_empty(), "said once");
}

#[test]
fn names_and_numbers_that_are_out_of_bounds_are_kept_as_they_are() {
    let place = Place::new();
    place.bonfire("digits-1", "running", "");
    let long = "n".repeat(5_000);
    let values = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, 5e-324];
    let lines: String = (1..).zip(values).map(|(step, value)| line(step, &long, value)).collect();
    place.log("digits-1", "metrics.jsonl", &(lines + &line(1, "a\"b\\ \u{1F525}", 0.5)));
    let mut index = Index::open(place.root()).expect("opened");
    index.refresh().expect("refreshed");
    let reader = index.reader().expect("a reader");
    let found = reader.points("id-digits-1", &long, 100).expect("points").value;
    assert!(found[0].is_nan() && found[1..] == values[1..], "{found:?}");
    let run = reader.run("id-digits-1").expect("read").expect("there");
    let known: Vec<(&str, Option<f64>, Option<f64>)> =
        run.latest.iter().map(|metric| (metric.key.as_str(), metric.minimum, metric.maximum)).collect();
    let (least, greatest) = (Some(f64::NEG_INFINITY), Some(f64::INFINITY));
    assert_eq!(known, [("a\"b\\ \u{1F525}", Some(0.5), Some(0.5)), (long.as_str(), least, greatest)]);
    let page = serde_json::to_string(&run).expect("JSON");
    assert!(page.contains("\"-Infinity\"") && !page.contains("NaN,"), "words that JSON has");
    assert!(index.remarks().is_empty());
}

fn two_clients(place: &Place) {
    let metric =
        |key: &str, value: f64, step: i64| MetricLine(key.into(), Float(value), Int(10 + step), Int(step));
    let pair = |key: &str, value: &str| Pair { key: key.into(), value: value.into() };
    for (run, value) in [("a1", 0.1), ("b2", f64::INFINITY)] {
        place.client(
            "7",
            run,
            &[
                RunEvent::Created {
                    user: "u".into(),
                    name: run.into(),
                    start_ms: 5,
                    tags: vec![pair("t", run)],
                },
                RunEvent::Batch {
                    metrics: vec![metric("x", value, 1), metric("x", value, 1), metric("x", 2.0 * value, 2)],
                    params: vec![pair("lr", "0.1")],
                    tags: vec![],
                },
                RunEvent::Updated { status: Some("FINISHED".into()), end_ms: Some(9), name: None },
            ],
        );
    }
}

#[test]
fn a_deleted_and_a_damaged_index_are_made_anew_with_the_same_content() {
    let place = Place::new();
    place.bonfire("digits-1", "completed", "[train]\nepochs = 2\n");
    place.log("digits-1", "metrics.jsonl", &line(1, "x", 0.7));
    place.log(
        "digits-1",
        "notes.jsonl",
        "{\"tags\":{\"tags\":[{\"key\":\"mlflow.note.content\",\"value\":\"n\"}]}}\n",
    );
    two_clients(&place);
    let dump = |index: &mut Index| {
        index.refresh().expect("refreshed");
        let reader = index.reader().expect("a reader");
        let runs: Vec<String> = ids(&reader, "", &[]);
        let whole: Vec<_> = runs.iter().map(|id| reader.run(id).expect("read").expect("there")).collect();
        // Revisions count the changes that were seen.
        let whole: Vec<_> = whole
            .into_iter()
            .map(|mut run| {
                run.summary.revision = 0;
                serde_json::to_string(&run).expect("JSON")
            })
            .collect();
        (whole, reader.points("a1", "x", 100).expect("points").value, reader.experiments().expect("read"))
    };
    let mut index = Index::open(place.root()).expect("opened");
    let before = dump(&mut index);
    assert_eq!(before.0.len(), 3);
    assert_eq!(before.1, [0.1, 0.2], "exact duplicates are dropped");
    let file = schema::index_path(place.root());
    // Deleted while it is open.
    std::fs::remove_file(&file).expect("removed");
    assert_eq!(dump(&mut index), before);
    drop(index);
    for garbage in [vec![0u8; 5000], b"SQLite format 3\0 and then nothing of the kind".repeat(200)] {
        std::fs::write(&file, garbage).expect("damaged");
        let mut index = Index::open(place.root()).expect("opened");
        assert_eq!(dump(&mut index), before);
        let said = index.remarks().join("");
        assert!(said.contains("made anew") && said.contains("damaged"), "{said}");
    }
    let other = Connection::open(&file).expect("opened");
    other.pragma_update(None, "user_version", 99).expect("set");
    drop(other);
    assert_eq!(dump(&mut Index::open(place.root()).expect("opened")), before, "another schema is made anew");
}

#[test]
fn filters_and_orders_find_runs() {
    let place = Place::new();
    place.bonfire("digits-1", "completed", "[model]\nkind = \"cnn\"\n");
    place.log("digits-1", "metrics.jsonl", &line(1, "x", 0.7));
    place.bonfire("other", "failed", "[model]\nkind = \"mlp\"\n");
    place.log("other", "metrics.jsonl", &line(1, "x", f64::NAN));
    two_clients(&place);
    let mut index = Index::open(place.root()).expect("opened");
    index.refresh().expect("refreshed");
    let reader = index.reader().expect("a reader");
    let found = |filter: &str| {
        let mut found = ids(&reader, filter, &[]);
        found.sort();
        found
    };
    for (filter, expected) in [
        ("metrics.x < 0.5", vec!["a1"]),
        ("metrics.x >= 0.7", vec!["b2", "id-digits-1"]),
        ("metrics.x != 0.2", vec!["b2", "id-digits-1"]),
        ("params.model.kind = 'cnn'", vec!["id-digits-1"]),
        ("params.`model.kind` LIKE 'c%' and status = 'FINISHED'", vec!["id-digits-1"]),
        ("params.model.kind ILIKE 'MLP'", vec!["id-other"]),
        ("params.model.kind LIKE 'MLP'", vec![]),
        ("tags.t IN ('a1', 'zz')", vec!["a1"]),
        ("tags.t IS NULL", vec!["id-digits-1", "id-other"]),
        ("tags.t IS NOT NULL and user_id = 'u'", vec!["a1", "b2"]),
        ("run_id IN ('a1', 'id-other')", vec!["a1", "id-other"]),
        ("start_time < 10", vec!["a1", "b2"]),
        ("datasets.digest = 'd0'", vec!["id-digits-1", "id-other"]),
        ("tags.mlflow.runName = 'other'", vec!["id-other"]),
        ("attributes.artifact_uri LIKE '%/a1/artifacts'", vec!["a1"]),
        ("params.lr = '''; DROP TABLE runs; --'", vec![]),
    ] {
        assert_eq!(found(filter), expected, "{filter}");
    }
    assert_eq!(ids(&reader, "", &["metrics.x ASC"]), ["a1", "id-digits-1", "b2", "id-other"]);
    assert_eq!(ids(&reader, "", &["metrics.x DESC"]), ["b2", "id-digits-1", "a1", "id-other"]);
    assert_eq!(ids(&reader, "tags.t != ''", &["run_name DESC"]), ["b2", "a1"]);
    let wrong = Filter::parse("colour = 'red'").expect("parsed");
    let error =
        reader.runs(&Select { filter: wrong, limit: 1, ..Select::default() }, &[]).expect_err("no attribute");
    assert!(error.to_string().contains("colour"), "{error}");
    let page = reader.runs(&Select { limit: 3, ..Select::default() }, &["metrics.x"]).expect("a page");
    assert_eq!((page.items.len(), page.next), (3, Some(3)));
    let rest = reader.runs(&Select { limit: 3, offset: 3, ..Select::default() }, &[]).expect("a page");
    assert_eq!((rest.items.len(), rest.next), (1, None));
}

#[test]
fn histories_come_in_pages_and_runs_side_by_side() {
    let place = Place::new();
    place.bonfire("digits-1", "completed", "a = 1\nb = 2\n");
    let lines: String = (0..25).map(|step| line(step, "x", step as f64)).collect();
    place.log("digits-1", "metrics.jsonl", &lines);
    place.bonfire("digits-2", "completed", "a = 1\nb = 3\n");
    let mut index = Index::open(place.root()).expect("opened");
    index.refresh().expect("refreshed");
    let reader = index.reader().expect("a reader");
    let (mut token, mut read, mut pages) = (String::new(), Vec::new(), 0);
    loop {
        let page = reader.history("id-digits-1", "x", 10, &token).expect("read").expect("a token");
        read.extend(page.points.iter().map(|point| point.step));
        pages += 1;
        match page.next {
            Some(next) => token = next,
            None => break,
        }
    }
    assert_eq!((read, pages), ((0..25).collect(), 3));
    assert!(reader.history("id-digits-1", "x", 10, "nonsense").expect("read").is_none());
    let thinned = reader.points("id-digits-1", "x", 8).expect("points");
    assert!(thinned.is_thinned && thinned.count == 25 && thinned.step.len() <= 8);
    let both = reader.compare(&["id-digits-1", "id-digits-2", "none"]).expect("compared");
    assert_eq!(both.runs.len(), 2);
    let differing: Vec<&str> =
        both.params.iter().filter(|row| row.differs).map(|row| row.key.as_str()).collect();
    assert_eq!(differing, ["b"]);
    assert!(both.metrics[0].values[1].is_none());
}

#[test]
fn a_copy_of_a_run_is_another_run() {
    let place = Place::new();
    place.bonfire("digits-1", "completed", "");
    std::fs::create_dir(place.root().join("copy")).expect("made");
    let record = place.root().join("digits-1").join(RunRecord::FILE);
    std::fs::copy(record, place.root().join("copy").join(RunRecord::FILE)).expect("copied");
    let mut index = Index::open(place.root()).expect("opened");
    index.refresh().expect("refreshed");
    let reader = index.reader().expect("a reader");
    assert_eq!(ids(&reader, "", &[]).len(), 2);
}

#[test]
fn a_replaced_file_of_registered_models_is_read_again() {
    let place = Place::new();
    let line = |name: &str| {
        format!("{{\"created\":{{\"name\":\"{name}\",\"description\":\"\",\"time_ms\":1,\"tags\":[]}}}}\n")
    };
    let mut index = Index::open(place.root()).expect("opened");
    let path = place.root().join(clients::REGISTRY);
    let names = |index: &mut Index| {
        index.refresh().expect("refreshed");
        let reader = index.reader().expect("a reader");
        let registry = reader.document::<clients::documents::Registry>("").expect("read").unwrap_or_default();
        registry.models.into_keys().collect::<Vec<_>>()
    };
    std::fs::write(&path, line("a") + &line("b")).expect("written");
    assert_eq!(names(&mut index), ["a", "b"]);
    std::fs::write(&path, line("c")).expect("replaced");
    assert_eq!(names(&mut index), ["c"]);
    std::fs::remove_file(&path).expect("removed");
    assert!(names(&mut index).is_empty(), "a file that is gone holds nothing");
}
