//! Replays the stored fuzzing corpora on this crate's parsers (fuzz/README.md).

#![allow(unreachable_pub, reason = "the modules are those of the fuzz targets")]

#[path = "../../fuzz/src/filter.rs"]
mod filter;
#[path = "../../fuzz/src/mlflow.rs"]
mod mlflow;
#[path = "../../fuzz/src/replay.rs"]
mod replay;

#[test]
fn filter_corpus() {
    replay::replay("filter", filter::run);
}

#[test]
fn mlflow_corpus() {
    replay::replay("mlflow", mlflow::run);
}
