//! Enforces the dependency directions of the crates and the "never imports" table of the architecture, for direct
//! dependencies.

use std::collections::BTreeSet;
use std::path::Path;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// The in-house crates that each crate may import; all others are forbidden.
const DIRECTIONS: &[(&str, &[&str])] = &[
    ("printable", &[]),
    ("protocol", &[]),
    ("wire", &["protocol"]),
    ("store", &[]),
    ("configs", &[]),
    ("datasets", &["printable", "store", "configs"]),
    ("trainer", &["configs"]),
    ("trainer-cli", &["printable", "store", "configs", "datasets", "trainer", "run-record"]),
    ("run-record", &["printable", "store"]),
    ("bounded-http", &[]),
    ("telemetry", &["run-record", "bounded-http"]),
    ("sinks", &["printable", "store", "configs", "run-record"]),
    ("tracker", &["printable", "store", "run-record", "bounded-http"]),
    (
        "coordinator",
        &[
            "printable",
            "protocol",
            "wire",
            "store",
            "configs",
            "datasets",
            "run-record",
            "bounded-http",
            "telemetry",
            "sinks",
            "tracker",
        ],
    ),
    (
        "worker",
        &[
            "printable",
            "protocol",
            "wire",
            "store",
            "configs",
            "datasets",
            "trainer",
            "run-record",
            "bounded-http",
            "telemetry",
        ],
    ),
    ("sim", ALL),
    ("benches", ALL),
];

/// Crates that test or benchmark the whole may import everything.
const ALL: &[&str] = &[
    "printable",
    "protocol",
    "wire",
    "store",
    "configs",
    "datasets",
    "trainer",
    "run-record",
    "bounded-http",
    "telemetry",
    "sinks",
    "tracker",
    "coordinator",
    "worker",
];

/// External crates that a crate never imports; a name stands for all crates whose names begin with it.
const NEVER: &[(&str, &[&str])] = &[
    ("protocol", &["tokio", "tonic", "prost", "burn"]),
    ("wire", &["burn"]),
    ("store", &["burn", "tonic"]),
    ("configs", &["burn", "tonic", "tokio", "prost"]),
    ("datasets", &["burn", "tonic"]),
    ("trainer", &["tokio", "tonic"]),
    ("run-record", &["burn", "tokio", "tonic"]),
    ("bounded-http", &["burn", "tonic"]),
    ("telemetry", &["burn", "tonic", "rusqlite"]),
    ("sinks", &["burn", "tonic", "rusqlite"]),
    ("tracker", &["burn", "tonic", "ureq"]),
    ("coordinator", &["burn"]),
];

/// Names that `protocol`'s sources never contain: I/O, clocks, threads, and maps whose order differs from run to run.
const NEVER_IN_PROTOCOL: &[&str] = &[
    "std::net",
    "std::fs",
    "std::io",
    "std::env",
    "std::process",
    "std::thread",
    "std::time",
    "Instant::now",
    "SystemTime",
    "HashMap",
    "HashSet",
    "thread_local",
    "println!",
    "RandomState",
];

fn workspace() -> Metadata {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    MetadataCommand::new().manifest_path(manifest).no_deps().exec().expect("cargo metadata of the workspace")
}

/// Names of the direct dependencies that are part of the crate's library or binary.
fn imports(package: &Package) -> BTreeSet<&str> {
    let is_import = |kind| matches!(kind, DependencyKind::Normal);
    package.dependencies.iter().filter(|d| is_import(d.kind)).map(|d| d.name.as_str()).collect()
}

fn package<'a>(metadata: &'a Metadata, name: &str) -> &'a Package {
    let found = metadata.packages.iter().find(|package| package.name.as_str() == name);
    found.unwrap_or_else(|| panic!("the workspace has no package {name}"))
}

#[test]
fn every_crate_has_its_directions() {
    let metadata = workspace();
    for package in &metadata.packages {
        let name = package.name.as_str();
        let is_example = package.manifest_path.as_str().contains("/examples/");
        assert!(
            is_example || DIRECTIONS.iter().any(|(known, _)| *known == name),
            "{name} is new: say in sim/tests/layering.rs and ARCHITECTURE.md what it may import"
        );
    }
}

#[test]
fn crates_import_only_along_the_directions() {
    let metadata = workspace();
    let in_house: BTreeSet<&str> = DIRECTIONS.iter().map(|(name, _)| *name).collect();
    for (name, allowed) in DIRECTIONS {
        for import in imports(package(&metadata, name)).intersection(&in_house) {
            assert!(allowed.contains(import), "{name} imports {import}; it may import {allowed:?}");
        }
    }
}

#[test]
fn crates_never_import_what_they_must_not() {
    let metadata = workspace();
    for (name, never) in NEVER {
        for import in imports(package(&metadata, name)) {
            let broken =
                never.iter().find(|word| import == **word || import.starts_with(&format!("{word}-")));
            assert_eq!(broken, None, "{name} imports {import}");
        }
    }
}

#[test]
fn a_worker_links_no_database_no_tracker_and_no_sink() {
    let metadata = workspace();
    let mut linked: BTreeSet<&str> = BTreeSet::from(["worker"]);
    let mut open = vec!["worker"];
    while let Some(name) = open.pop() {
        for import in imports(package(&metadata, name)) {
            let is_new = linked.insert(import);
            if is_new && DIRECTIONS.iter().any(|(known, _)| *known == import) {
                open.push(import);
            }
        }
    }
    assert!(linked.contains("telemetry"), "the walk follows the crates: {linked:?}");
    for never in ["tracker", "sinks", "rusqlite", "coordinator"] {
        assert!(!linked.contains(never), "a worker links {never}");
    }
}

#[test]
fn protocol_names_no_io_no_clock_no_thread_and_no_unordered_map() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/src");
    let mut folders = vec![sources];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let text = std::fs::read_to_string(&path).expect("a source file");
            for (number, line) in text.lines().enumerate() {
                let code = line.split("//").next().unwrap_or(line);
                for word in NEVER_IN_PROTOCOL {
                    assert!(!code.contains(word), "{}:{}: {word}", path.display(), number + 1);
                }
            }
        }
    }
    assert!(files > 10, "only {files} files of protocol were read");
}

/// All output to a terminal or a log goes through `printable`, which escapes control characters.
#[test]
fn programs_print_through_printable_alone() {
    // `stdout()` and `stderr()` themselves are used elsewhere to detect terminals.
    let raw = ["println!(", "eprintln!(", "print!(", "eprint!(", "dbg!("];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let crates = [
        "store",
        "configs",
        "datasets",
        "trainer",
        "trainer/cli",
        "tracker",
        "wire",
        "coordinator",
        "worker",
    ];
    for sources in crates.map(|name| root.join(name).join("src")) {
        for path in rust_files(&sources) {
            let text = std::fs::read_to_string(&path).expect("a source file");
            // Unit tests are at the end of a file.
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for (number, line) in code.lines().enumerate() {
                let line = line.split("//").next().unwrap_or(line);
                let is_raw = raw.iter().any(|word| line.contains(word));
                assert!(!is_raw, "{}:{}: print by `printable`", path.display(), number + 1);
            }
        }
    }
}

fn rust_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found
}
