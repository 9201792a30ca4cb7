//! Replays the stored fuzzing corpora on this crate's decoders (fuzz/README.md).

#![allow(unreachable_pub, reason = "the modules are those of the fuzz targets")]

#[path = "../../fuzz/src/journal.rs"]
mod journal;
#[path = "../../fuzz/src/replay.rs"]
mod replay;

#[test]
fn journal_corpus() {
    replay::replay("journal", journal::run);
}
