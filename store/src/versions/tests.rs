use std::path::Path;

use proptest::prelude::*;

use super::*;

pub(super) fn manifest(step: u64) -> Manifest {
    Manifest {
        step,
        epoch: 3,
        digest: "d".into(),
        state_digest: "s".into(),
        config_digest: "c".into(),
        dataset_digest: "x".into(),
        created: 1,
        files: Vec::new(),
    }
}

fn write(checkpoints: &Path, step: u64) {
    let mut writer = VersionWriter::begin(checkpoints, step).expect("begun");
    for name in ["model.safetensors", "optimizer.safetensors"] {
        let mut file = writer.file(name).expect("a file");
        // In chunks, as received from a member.
        file.write(name.as_bytes()).expect("written");
        file.write(format!(" of step {step}").as_bytes()).expect("written");
        writer.add(file).expect("durable");
    }
    writer.finish(manifest(step), || true).expect("finished");
}

/// Version 1 is intact, version 2 damaged: finds 1 and rejects 2 for a reason that mentions `name`.
fn check_passed_over(checkpoints: &Path, name: &str, damage: &str) {
    let (found, passed_over) = newest_valid(checkpoints, |_| true, None).expect("listed");
    assert_eq!(found.map(|m| m.step), Some(1), "{name} {damage}");
    assert_eq!(passed_over.len(), 1, "{name} {damage}");
    assert!(passed_over[0].path.ends_with("step-00000002"));
    assert!(passed_over[0].reason.contains(name), "{name} {damage}: {}", passed_over[0]);
}

#[test]
fn damage_at_any_byte_of_any_file_is_found_and_the_version_before_is_used() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    write(dir.path(), 1);
    write(dir.path(), 2);
    for name in ["model.safetensors", "optimizer.safetensors", MANIFEST] {
        let path = folder(dir.path(), 2).join(name);
        let whole = std::fs::read(&path).expect("read");
        for at in 0..whole.len() {
            std::fs::write(&path, &whole[..at]).expect("torn");
            check_passed_over(dir.path(), name, &format!("cut at {at}"));
            for bit in [0, 5, 7] {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                std::fs::write(&path, &flipped).expect("flipped");
                check_passed_over(dir.path(), name, &format!("bit {bit} flipped at {at}"));
            }
            // Pages that were never written read as zeros.
            let mut zeroed = whole.clone();
            zeroed[at..].fill(0);
            std::fs::write(&path, &zeroed).expect("zeroed");
            check_passed_over(dir.path(), name, &format!("zero from {at}"));
        }
        std::fs::write(&path, [&whole[..], b"\n"].concat()).expect("grown");
        check_passed_over(dir.path(), name, "one byte longer");
        if name != MANIFEST {
            std::fs::remove_file(&path).expect("removed");
            check_passed_over(dir.path(), name, "missing");
        }
        std::fs::write(&path, &whole).expect("mended");
    }
    assert_eq!(verify(dir.path(), 2, None).expect("whole again").step, 2);
}

#[test]
fn a_version_in_anothers_place_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    write(dir.path(), 1);
    std::fs::rename(folder(dir.path(), 1), folder(dir.path(), 2)).expect("renamed");
    let said = verify(dir.path(), 2, None).expect_err("another step's").to_string();
    assert!(said.contains("speaks of step 1"), "{said}");
    assert!(verify(dir.path(), 9, None).expect_err("absent").reason.contains("no manifest.json"));
}

/// All states in which a writer can be killed: a folder with some first files and no manifest.
#[test]
fn a_crash_between_files_leaves_no_version() {
    for files in 0..=2 {
        let dir = tempfile::tempdir().expect("a temporary folder");
        write(dir.path(), 1);
        let mut writer = VersionWriter::begin(dir.path(), 2).expect("begun");
        for name in ["model.safetensors", "optimizer.safetensors"].iter().take(files) {
            let mut file = writer.file(name).expect("a file");
            file.write(b"half").expect("written");
            writer.add(file).expect("durable");
        }
        // A killed process runs no destructors.
        std::mem::forget(writer);
        assert_eq!(list(dir.path()).expect("listed"), [1], "after {files} files");
        write(dir.path(), 2);
        let (found, passed_over) = newest_valid(dir.path(), |_| true, None).expect("listed");
        assert_eq!((found.map(|m| m.step), passed_over.len()), (Some(2), 0), "after {files} files");
    }
}

#[test]
fn a_folder_without_a_manifest_is_no_version() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    write(dir.path(), 1);
    std::fs::remove_file(folder(dir.path(), 1).join(MANIFEST)).expect("removed");
    std::fs::create_dir(dir.path().join("step-5")).expect("made");
    std::fs::write(dir.path().join("step-5").join(MANIFEST), "{}").expect("written");
    assert!(list(dir.path()).expect("listed").is_empty());
    // A proper version can still be written.
    write(dir.path(), 1);
    verify(dir.path(), 1, None).expect("whole");
}

#[test]
fn an_unfinished_version_goes_with_its_writer() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut writer = VersionWriter::begin(dir.path(), 3).expect("begun");
    let mut file = writer.file("model.safetensors").expect("a file");
    file.write(b"half").expect("written");
    writer.add(file).expect("durable");
    drop(writer);
    assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0);
}

#[test]
fn retention_keeps_the_newest_and_the_spared() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for step in 1..=6 {
        write(dir.path(), step);
    }
    assert_eq!(retain(dir.path(), 6, 2, &[1]).expect("removed"), [4, 3, 2]);
    assert_eq!(list(dir.path()).expect("listed"), [6, 5, 1]);
    assert_eq!(retain(dir.path(), 6, 0, &[]).expect("removed"), [5, 1], "the newest always stays");
    assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1, "nothing is left of the others");
}

#[test]
fn retention_after_a_step_back_keeps_what_was_written_last() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for step in [10, 20, 30, 40] {
        write(dir.path(), step);
    }
    // The newest is damaged; the run went back to 20 and has written 25.
    std::fs::write(folder(dir.path(), 40).join("model.safetensors"), "damaged").expect("written");
    write(dir.path(), 25);
    assert_eq!(retain(dir.path(), 25, 1, &[10]).expect("removed"), [20]);
    assert_eq!(list(dir.path()).expect("listed"), [40, 30, 25, 10]);
    let (found, passed_over) = newest_valid(dir.path(), |step| step != 30, None).expect("listed");
    assert_eq!(found.map(|manifest| manifest.step), Some(25));
    assert!(passed_over[0].to_string().contains("step-00000040"), "{}", passed_over[0]);
    // The run has passed them.
    write(dir.path(), 45);
    assert_eq!(retain(dir.path(), 45, 1, &[10]).expect("removed"), [40, 30, 25]);
}

#[test]
fn void_versions_are_set_aside_and_not_chosen() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for step in [10, 20, 30] {
        write(dir.path(), step);
    }
    assert!(set_aside(dir.path(), |_| false).expect("nothing is void").is_empty());
    assert_eq!(set_aside(dir.path(), |step| step > 10).expect("set aside"), [30, 20]);
    assert_eq!(list(dir.path()).expect("listed"), [10]);
    let (found, passed_over) = newest_valid(dir.path(), |_| true, None).expect("listed");
    assert_eq!((found.map(|manifest| manifest.step), passed_over.len()), (Some(10), 0));
    let aside = |step: u64| dir.path().join(format!("void-step-{step:08}"));
    assert!(aside(20).join(MANIFEST).is_file() && aside(30).join(MANIFEST).is_file());
    // The next call removes them.
    write(dir.path(), 20);
    assert_eq!(set_aside(dir.path(), |step| step > 10).expect("set aside"), [20]);
    assert!(aside(20).is_dir() && !aside(30).exists());
    assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 2);
}

#[test]
fn only_usable_versions_are_looked_at() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    write(dir.path(), 1);
    write(dir.path(), 2);
    let (found, passed_over) = newest_valid(dir.path(), |step| step < 2, None).expect("listed");
    assert_eq!((found.map(|m| m.step), passed_over.len()), (Some(1), 0));
    let (found, _) = newest_valid(dir.path(), |_| false, None).expect("listed");
    assert!(found.is_none());
}

#[test]
fn the_best_is_by_value_and_ties_go_to_the_older() {
    let values = BTreeMap::from([(1, 0.5), (2, 0.3), (3, 0.3), (4, f64::NAN), (5, f64::NEG_INFINITY)]);
    assert_eq!(best(&values, true), Some(2));
    assert_eq!(best(&values, false), Some(1));
    assert_eq!(best(&BTreeMap::new(), true), None);
}

#[test]
fn a_manifest_is_json_for_others() {
    let bytes = manifest(7).to_bytes().expect("written");
    let parsed: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!(parsed["step"], 7);
    assert!(parsed["files"].is_array() && parsed["check"].as_str().is_some_and(|check| check.len() == 64));
}

proptest! {
    #[test]
    fn manifests_round_trip(step: u64, digest in "\\PC*", names in proptest::collection::vec("[^/\\\\\0]{9,20}", 0..4)) {
        let files: Vec<FileEntry> =
            names.into_iter().map(|name| FileEntry { name, size: step, blake3: digest.clone() }).collect();
        let wanted = Manifest { digest, files, ..manifest(step) };
        prop_assume!(wanted.files.iter().all(|file| file.name != MANIFEST));
        prop_assert_eq!(Manifest::from_bytes(&wanted.to_bytes().expect("written")), Ok(wanted));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Manifest::from_bytes(&bytes).is_err());
    }
}
