//! Replays the fuzzing corpus on this crate's parsers (fuzz/README.md).

#![allow(unreachable_pub, reason = "the modules are those of the fuzz targets")]

#[path = "../../fuzz/src/config.rs"]
mod config;
#[path = "../../fuzz/src/replay.rs"]
mod replay;

#[test]
fn config_corpus() {
    replay::replay("config", config::run);
}
