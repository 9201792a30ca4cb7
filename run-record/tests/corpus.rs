//! Replays the stored fuzzing corpora on this crate's parsers (fuzz/README.md).

#![allow(unreachable_pub, reason = "the modules are those of the fuzz targets")]

#[path = "../../fuzz/src/metrics.rs"]
mod metrics;
#[path = "../../fuzz/src/replay.rs"]
mod replay;
#[path = "../../fuzz/src/run_record.rs"]
mod run_record;

#[test]
fn metrics_corpus() {
    replay::replay("metrics", metrics::run);
}

#[test]
fn run_record_corpus() {
    replay::replay("run_record", run_record::run);
}
