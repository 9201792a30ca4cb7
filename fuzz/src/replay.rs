//! Replays the kept corpora in plain tests.

use std::path::Path;

/// Runs the reader on each file of `fuzz/corpus/TARGET`.
///
/// # Panics
/// When the corpus is empty, or the reader panics; standard error then ends with the file's name.
pub fn replay(target: &str, reader: fn(&[u8])) {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder =
        manifest.ancestors().map(|folder| folder.join("fuzz/corpus").join(target)).find(|it| it.is_dir());
    let folder = folder.unwrap_or_else(|| panic!("there is no fuzz/corpus/{target}"));
    let mut files: Vec<_> =
        std::fs::read_dir(&folder).expect("listed").map(|file| file.expect("listed").path()).collect();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.sort();
    for file in files {
        eprintln!("{}", file.display());
        reader(&std::fs::read(&file).expect("read"));
    }
}
