//! Replays the stored fuzzing corpora on this crate's parsers (fuzz/README.md).

#![allow(unreachable_pub, reason = "the modules are those of the fuzz targets")]

#[path = "../../fuzz/src/convert.rs"]
mod convert;
#[path = "../../fuzz/src/frames.rs"]
mod frames;
#[path = "../../fuzz/src/handshake.rs"]
mod handshake;
#[path = "../../fuzz/src/replay.rs"]
mod replay;

#[test]
fn convert_corpus() {
    replay::replay("convert", convert::run);
}

#[test]
fn frames_corpus() {
    replay::replay("frames", frames::run);
}

#[test]
fn handshake_corpus() {
    replay::replay("handshake", handshake::run);
}
