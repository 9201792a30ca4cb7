//! Replays the fuzzing corpus on this crate's parsers (fuzz/README.md).

#![allow(unreachable_pub, reason = "the modules are those of the fuzz targets")]

#[path = "../../fuzz/src/replay.rs"]
mod replay;
#[path = "../../fuzz/src/safetensors.rs"]
mod safetensors;

#[test]
fn safetensors_corpus() {
    replay::replay("safetensors", safetensors::run);
}
