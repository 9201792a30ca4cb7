//! The commands `add`, `log`, `verify`, `checkout` and `show` on versions, as processes.

mod support;

use std::process::Stdio;
use std::time::Duration;

use datasets::registry::resolve;
use support::place::{Place, damage, walk};

#[test]
fn a_folder_goes_in_and_comes_out_with_the_same_bytes() {
    let place = Place::new();
    place.write("d/a.csv", "x,y\n1,2\n");
    place.write("d/s/b.bin", vec![7; 3 << 20]);
    place.write("d/s/empty", "");
    let said = place.says(&["add", "d", "--name", "ds", "-m", "the first"]);
    assert!(said.starts_with("ds@1  md5 ") && said.contains(".dir, 3 files, 3145736 bytes"), "{said}");
    place.says(&["checkout", "ds", "out"]);
    for file in ["a.csv", "s/b.bin", "s/empty"] {
        let read = |folder: &str| std::fs::read(place.path(folder).join(file)).expect("read");
        assert!(read("d") == read("out"), "{file}");
    }
    assert!(place.says(&["verify"]).contains("1 version, 4 files, "));
    // Also into an empty folder; into a non-empty one only with --force, which keeps other files.
    std::fs::create_dir(place.path("empty")).expect("made");
    place.says(&["checkout", "ds@1", "empty"]);
    place.write("full/mine", "mine");
    place.write("full/a.csv", "mine");
    assert!(place.fails(&["checkout", "ds", "full"], 2).contains("not empty"));
    place.says(&["checkout", "ds", "full", "--force"]);
    assert_eq!(std::fs::read(place.path("full/mine")).expect("read"), b"mine");
    assert_eq!(std::fs::read(place.path("full/a.csv")).expect("read"), b"x,y\n1,2\n");
    assert!(walk(&place.path(".bonfire/datasets/tmp")).iter().all(|path| path.ends_with("tmp/lock")));
}

#[test]
fn the_same_bytes_make_no_new_version_and_others_do() {
    let place = Place::new();
    place.write("t.csv", "x,y\n1,2\n3,4\n");
    assert!(place.says(&["add", "t.csv", "--name", "t"]).starts_with("t@1  md5 "));
    assert!(place.says(&["add", "t.csv", "--name", "t"]).starts_with("t@1 has these bytes already"));
    place.write("t.csv", "x,y\n1,2\n");
    assert!(place.says(&["add", "t.csv", "--name", "t"]).starts_with("t@2"));
    place.write("t.csv", "x,y\n1,2\n3,4\n");
    assert!(place.says(&["add", "t.csv", "--name", "t"]).ends_with("the same bytes as t@1\n"));
    assert_eq!(place.manifests(), 3);
    let log: serde_json::Value =
        serde_json::from_str(&place.says(&["log", "t", "--output", "json"])).expect("JSON");
    let versions: Vec<_> = log.as_array().expect("a list").iter().map(|one| &one["version"]).collect();
    assert_eq!(versions, [1, 2, 3]);
    assert_eq!((&log[1]["parent"]["version"], &log[1]["by"]), (&1.into(), &"ann".into()));
    assert_eq!(log[1]["parent"]["digest"], log[0]["digest"]);
    let text = place.says(&["log"]);
    assert!(text.starts_with("version  digest    files  bytes  when"), "{text}");
    assert_eq!(text.lines().count(), 4);
}

#[test]
fn a_manifest_has_its_fields_in_their_order() {
    let place = Place::new();
    place.write("d/a", "1");
    place.says(&["add", "d", "--name", "ds", "-m", "why"]);
    place.write("d/a", "2");
    place.says(&["add", "d", "--name", "ds", "-m", "why"]);
    let text =
        std::fs::read_to_string(place.path(".bonfire/datasets/manifests/ds/000002.json")).expect("read");
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let keys: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    let order =
        ["format", "name", "version", "digest", "bytes", "at", "by", "from", "message", "parent", "files"];
    assert_eq!(keys, order);
    let keys: Vec<&str> = value["files"][0].as_object().expect("a file").keys().map(String::as_str).collect();
    assert_eq!(keys, ["path", "bytes", "md5", "blake3"]);
}

#[test]
fn what_is_damaged_or_missing_is_named() {
    let place = Place::new();
    place.write("d/one", "one");
    place.write("d/two", "two");
    place.write("d/three", "three");
    place.says(&["add", "d", "--name", "ds"]);
    damage(&place.object(b"one"), b"0ne");
    assert!(place.fails(&["checkout", "ds", "out"], 3).contains("damaged, its MD5 is"));
    assert!(!place.path("out").exists());
    std::fs::remove_file(place.object(b"two")).expect("removed");
    let output = place.run(&["verify", "ds"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(said.contains("ds@1  one  damaged: ") && said.contains("ds@1  two  missing: "), "{said}");
    assert!(place.fails(&["verify"], 3).contains("2 files missing or damaged"));
    // Nothing is checked out, not even in part.
    assert!(place.fails(&["checkout", "ds", "out"], 3).contains("ds@1"));
    assert!(!place.path("out").exists());
    let left: Vec<_> =
        std::fs::read_dir(place.0.path()).expect("listed").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    // The fix that the message suggests.
    std::fs::remove_file(place.object(b"0ne")).expect("removed");
    assert!(place.says(&["add", "d", "--name", "ds"]).contains("already"));
    place.says(&["verify"]);
}

#[test]
fn a_damaged_manifest_is_no_version() {
    let place = Place::new();
    place.write("d/one", "one");
    place.says(&["add", "d", "--name", "ds"]);
    let path = place.path(".bonfire/datasets/manifests/ds/000001.json");
    let text = std::fs::read_to_string(&path).expect("read");
    std::fs::write(&path, text.replace("\"one\"", "\"../../one\"")).expect("written");
    for arguments in [&["checkout", "ds", "out"][..], &["log"], &["verify", "ds@1"], &["show", "ds"]] {
        assert!(place.fails(arguments, 3).contains("000001.json: the path"), "{arguments:?}");
    }
    assert!(!place.path("out").exists() && !place.path("../one").exists());
    let output = place.run(&["verify"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("ds@1  (the manifest)  "));
}

#[test]
fn what_is_asked_wrongly_ends_with_2_and_what_is_absent_with_3() {
    let place = Place::new();
    place.write("t.csv", "x,y\n1,2\n3,4\n");
    place.write("empty/.git/x", "");
    assert!(place.fails(&["add", "t.csv", "--name", "../t"], 2).contains("can't be the name"));
    assert!(place.fails(&["add", "absent", "--name", "t"], 3).contains("absent: "));
    assert!(place.fails(&["add", "empty", "--name", "t"], 3).contains("no file in this folder"));
    assert!(place.fails(&["log", "t"], 3).contains("there is no dataset \"t\""));
    assert!(place.fails(&["checkout", "t", "o"], 3).contains("datasets add"));
    place.says(&["add", "t.csv", "--name", "table"]);
    assert!(place.fails(&["log", "tabel"], 3).contains("did you mean \"table\"?"));
    assert!(place.fails(&["show", "table@2"], 3).contains("the newest is table@1"));
    assert!(place.fails(&["verify", "table@x"], 2).contains("no version"));
    assert!(place.fails(&["checkout", "table", "t.csv"], 2).contains("such a file"));
    assert!(place.fails(&["show", "absent.csv"], 3).contains("absent.csv"));
    assert_eq!(place.run(&["add"]).status.code(), Some(2));
    assert_eq!(place.manifests(), 1);
}

#[test]
#[cfg(unix)]
fn links_are_read_through_or_refused() {
    use std::os::unix::fs::symlink;
    let place = Place::new();
    place.write("real/r", "r");
    place.write("d/a", "a");
    symlink("../real/r", place.path("d/link")).expect("linked");
    place.says(&["add", "d", "--name", "ds"]);
    symlink("../real", place.path("d/folder")).expect("linked");
    assert!(place.fails(&["add", "d", "--name", "ds"], 3).contains("link to a folder"));
    std::fs::remove_file(place.path("d/folder")).expect("removed");
    symlink("nowhere", place.path("d/dangling")).expect("linked");
    assert!(place.fails(&["add", "d", "--name", "ds"], 3).contains("dangling"));
    assert_eq!(place.manifests(), 1);
}

#[test]
fn the_registry_is_left_out_of_what_is_added() {
    let place = Place::new();
    place.write("a", "a");
    place.says(&["add", ".", "--name", "all"]);
    assert!(place.says(&["add", ".", "--name", "all"]).contains("already"));
}

#[test]
fn versions_are_shown_and_resolved_by_number_and_digest() {
    let place = Place::new();
    place.write("t.csv", "x,y\n1,a\n3,b\n");
    place.says(&["add", "t.csv", "--name", "table", "-m", "why"]);
    place.write("d/a.txt", "text");
    place.write("d/t.csv", "p,q\n1,a\n3,b\n");
    place.says(&["add", "d", "--name", "folder"]);
    let said = place.says(&["show", "table@1"]);
    let md5 = "6dd01b7bb5c2b0c48dcf6a2b3b9e1c2e".len();
    let digest = said.split("md5 ").nth(1).and_then(|rest| rest.get(..md5)).expect("a digest").to_owned();
    assert!(said.contains("2 rows: ") && said.contains("why\n") && said.contains("labels of y"), "{said}");
    assert_eq!(place.says(&["show", &format!("table@{}", &digest[..8])]), said);
    let said = place.says(&["show", "folder"]);
    assert!(said.contains("  csv  1 file  12 bytes") && said.contains("labels of q"), "{said}");
    assert!(place.says(&["show", "d"]).contains("a.txt"));

    let registry = place.path(".bonfire/datasets");
    let found = |uri: &str| resolve(uri, Some(&registry)).expect("resolved");
    let version = found(&format!("table@{}", &digest[..8])).expect("a version");
    assert_eq!(version.label(), format!("table@{}", &digest[..8]));
    assert!(version.path.ends_with("t.csv"));
    assert_eq!(std::fs::read(&version.path).expect("read"), b"x,y\n1,a\n3,b\n");
    let folder = found("dataset:folder").expect("a version").path;
    assert_eq!(std::fs::read(folder.join("a.txt")).expect("read"), b"text");
    for path in ["table", "t.csv", "file://t.csv", "some/table@1", "https://host/table@1"] {
        assert!(found(path).is_none(), "{path}");
    }
    for (uri, code) in [("dataset:absent", 3), ("table@7", 3), ("dataset:", 2), ("dataset:a/b", 2)] {
        assert_eq!(resolve(uri, Some(&registry)).expect_err(uri).exit_code(), code, "{uri}");
    }
}

#[test]
fn the_environment_and_dir_name_the_registry() {
    let place = Place::new();
    place.write("t.csv", "x\n1\n");
    place.says(&["add", "t.csv", "--name", "t", "--dir", "own"]);
    assert!(!place.path(".bonfire").exists());
    let output = place.command(&["log"]).env("BONFIRE_DATASETS", "own").output().expect("run");
    assert!(String::from_utf8_lossy(&output.stdout).contains("t@1"));
    assert!(place.says(&["log"]).starts_with("there are no datasets in .bonfire/datasets"));
    assert_eq!(place.says(&["log", "--output", "json"]), "[]\n");
}

#[test]
fn two_at_once_make_two_versions() {
    let place = Place::new();
    let names: Vec<String> = (0..6).map(|number| format!("f{number}")).collect();
    for name in &names {
        place.write(name, name);
    }
    let spawn = |name: &String| {
        place.command(&["add", name, "--name", "t"]).stdout(Stdio::null()).spawn().expect("spawned")
    };
    let running: Vec<_> = names.iter().map(spawn).collect();
    for mut process in running {
        assert!(process.wait().expect("ended").success());
    }
    assert_eq!(place.says(&["log", "t"]).lines().count(), 7);
    place.says(&["verify"]);
}

#[test]
fn a_killed_add_leaves_no_version_and_the_next_one_works() {
    let place = Place::new();
    for file in 0..1_500 {
        place.write(&format!("d/{file}"), format!("{file}").repeat(5_000));
    }
    for after_ms in [0, 20, 60, 120] {
        let mut process =
            place.command(&["add", "d", "--name", "ds"]).stdout(Stdio::null()).spawn().expect("spawned");
        std::thread::sleep(Duration::from_millis(after_ms));
        process.kill().expect("killed");
        let is_done = process.wait().expect("ended").success();
        assert_eq!(place.manifests(), usize::from(is_done));
        // Named objects are always complete.
        for object in walk(&place.path(".bonfire/datasets/files")) {
            let name: String =
                object.components().rev().take(2).map(|c| c.as_os_str().to_string_lossy()).rev_concat();
            assert_eq!(datasets::md5_of_file(&object).expect("read"), name.trim_end_matches(".dir"));
        }
    }
    place.says(&["add", "d", "--name", "ds"]);
    place.says(&["verify"]);
    assert!(walk(&place.path(".bonfire/datasets/tmp")).iter().all(|path| path.ends_with("tmp/lock")));
}

/// Concatenates the parts, last one first.
trait RevConcat {
    fn rev_concat(self) -> String;
}

impl<S: AsRef<str>, I: Iterator<Item = S>> RevConcat for I {
    fn rev_concat(self) -> String {
        self.fold(String::new(), |text, part| format!("{}{text}", part.as_ref()))
    }
}
