//! Versions have DVC's digests, and the registry matches DVC's cache. DVC wrote `vectors/dvc.json` (`vectors/dvc.py`).

use std::path::Path;

use datasets::registry::{NoProgress, Registry, Request};
use serde_json::Value;

fn vectors() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/dvc.json");
    serde_json::from_slice(&std::fs::read(path).expect("the vectors")).expect("JSON")
}

fn write(folder: &Path, files: &Value) {
    for (path, content) in files.as_object().expect("files") {
        let content = match content {
            Value::String(text) => text.clone(),
            Value::Array(parts) => {
                let times = parts[1].as_u64().expect("a count");
                parts[0].as_str().expect("a text").repeat(usize::try_from(times).expect("a count"))
            }
            other => panic!("{other}"),
        };
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, content).expect("written");
    }
}

#[test]
fn folders_have_the_digests_and_listings_of_dvc() {
    let vectors = vectors();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let registry = Registry::at(dir.path().join("registry"));
    let folders = vectors["folders"].as_array().expect("folders");
    assert!(folders.len() >= 6);
    for folder in folders {
        let name = folder["name"].as_str().expect("a name");
        let path = dir.path().join(name);
        write(&path, &folder["files"]);
        let request =
            Request { path, name: name.to_owned(), message: None, by: "ann".to_owned(), at: String::new() };
        let manifest = registry.add(&request, &NoProgress).expect("added").manifest;
        assert_eq!(manifest.digest, folder["digest"].as_str().expect("a digest"), "{name}");
        assert_eq!(manifest.bytes, folder["bytes"].as_u64().expect("bytes"), "{name}");
        let listing = std::fs::read_to_string(registry.object(&manifest.digest)).expect("the listing");
        assert_eq!(listing, folder["listing"].as_str().expect("a listing"), "{name}");
    }
    let report = registry.verify(None, &NoProgress).expect("verified");
    assert_eq!((report.versions, report.damages), (folders.len() as u64, Vec::new()));
}

#[test]
fn a_file_has_its_md5_and_lies_where_dvc_puts_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("hello.txt");
    std::fs::write(&path, "hello\n").expect("written");
    let registry = Registry::at(dir.path().join("registry"));
    let request =
        Request { path, name: "hello".to_owned(), message: None, by: "ann".to_owned(), at: String::new() };
    let manifest = registry.add(&request, &NoProgress).expect("added").manifest;
    assert_eq!(manifest.digest, "b1946ac92492d2347c6235b4d2611184");
    let object = dir.path().join("registry/files/md5/b1/946ac92492d2347c6235b4d2611184");
    assert_eq!(std::fs::read(&object).expect("the object"), b"hello\n");
    assert!(std::fs::metadata(&object).expect("metadata").permissions().readonly(), "DVC's are mode 0444");
}
