//! Images, text and categories through real processes: the same digest for any number of workers, and across a resume in mid-epoch.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use support::{DEADLINE, Place, wait};

/// A folder with a configuration for these data and this model.
fn place(dataset: &str, model: &str) -> Place {
    let place = Place::new();
    let config = format!(
        "[run]\nname = \"small\"\n\n[dataset]\nvalidation = 0.25\n{dataset}\n\n[train]\nepochs = 3\nbatch_size = 10\n\
         microbatch_size = 3\n\n[model]\n{model}\n\n[checkpoint]\nevery = \"1 steps\"\nkeep = 100\n\n[local]\n\
         workers = 1\ndevices = \"cpu\"\n"
    );
    std::fs::write(place.path().join("run.toml"), config).expect("written");
    place
}

/// Images of 8 x 8 pixels in idx form, and their labels.
fn write_idx(dir: &Path, images: u32) {
    let mut pixels = vec![0, 0, 8, 3];
    [images, 8, 8].iter().for_each(|size| pixels.extend(size.to_be_bytes()));
    pixels.extend((0..images * 64).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8));
    let mut labels = vec![0, 0, 8, 1];
    labels.extend(images.to_be_bytes());
    labels.extend((0..images).map(|image| (image % 3) as u8));
    std::fs::write(dir.join("small-images-idx3-ubyte"), pixels).expect("written");
    std::fs::write(dir.join("small-labels-idx1-ubyte"), labels).expect("written");
}

/// The digest of 1 worker is that of 2 and 3, and that of a run that is interrupted and resumed.
fn check(place: &Place) {
    for workers in 1..=3 {
        let (name, count) = (format!("of-{workers}"), workers.to_string());
        place.complete(&["--set", &format!("run.name={name}"), "--local-workers", &count]);
        assert_eq!(place.digest(&name), place.digest("of-1"), "{workers} workers");
    }
    let child = place.coordinator(&["--local-workers", "2"]).spawn().expect("started");
    let began = Instant::now();
    // A step's version may be passed over while the one before is being written.
    let versions = || {
        let folder = std::fs::read_dir(place.run_dir("small").join("checkpoints"));
        folder.map_or(0, |entries| {
            entries.flatten().filter(|e| e.path().join("manifest.json").is_file()).count()
        })
    };
    while versions() < 3 {
        assert!(began.elapsed() < DEADLINE, "no third version within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.is_ok_and(|status| status.success()));
    let code = wait(child).status.code();
    assert!(matches!(code, Some(0 | 130)), "{code:?}");
    let log = std::fs::read_to_string(place.run_dir("of-1").join("logs/worker-0.log")).expect("its log");
    assert!(!log.contains("other bits"), "a microbatch that is computed again has the same bits: {log}");
    place.complete(&["--resume", "--local-workers", "1"]);
    assert_eq!(place.digest("small"), place.digest("of-1"), "resumed");
}

#[test]
fn a_cnn_on_augmented_idx_images() {
    let place = place(
        "uri = \"small-images-idx3-ubyte\"\nformat = \"idx\"\n\n[augment]\nshift = 1\nflip = true",
        "kind = \"cnn\"\nchannels = [4]\nhidden = 8\ndropout = 0.1",
    );
    write_idx(place.path(), 60);
    check(&place);
}

#[test]
fn a_resnet_on_idx_images() {
    let place = place(
        "uri = \"small-images-idx3-ubyte\"\nformat = \"idx\"",
        "kind = \"resnet\"\ndepth = 8\nwidth = 8\ngroups = 4",
    );
    write_idx(place.path(), 60);
    check(&place);
}

#[test]
fn a_gpt_on_text() {
    let place = place(
        "uri = \"text.txt\"\nformat = \"text\"\nwindow = 8",
        "kind = \"gpt\"\nlayers = 1\nheads = 2\nwidth = 16\ndropout = 0.1",
    );
    let text: String = (0..70).map(|line| format!("line {line} of a text\n")).collect();
    std::fs::write(place.path().join("text.txt"), text).expect("written");
    check(&place);
}

/// The preset itself: texts are embedded, fields are missing, and the answer is right.
#[test]
fn the_penguins_of_the_preset() {
    let place = Place::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (preset, table) = (root.join("configs/tabular.toml"), root.join("datasets/penguins/penguins.csv"));
    let preset = std::fs::read_to_string(preset).expect("the preset");
    std::fs::write(place.path().join("run.toml"), format!("{preset}\n[run]\nname = \"small\"\n"))
        .expect("written");
    let uri = format!("dataset.uri={}", table.display());
    for workers in ["1", "2"] {
        let name = format!("run.name=of-{workers}");
        place.complete(&["--set", &uri, "--set", &name, "--local-workers", workers]);
    }
    assert_eq!(place.digest("of-1"), place.digest("of-2"));
    let accuracy = &place.record("of-1")["final"]["metrics"]["validation/accuracy"];
    assert!(accuracy.as_f64().is_some_and(|accuracy| accuracy >= 0.97), "{accuracy}");

    // Without its species, with an island and a sex that nobody has seen: a new table is read as the run's was.
    let rows = std::fs::read_to_string(&table).expect("the penguins");
    let bare: String = rows
        .lines()
        .take(40)
        .map(|row| row.split_once(',').map_or("", |(_, rest)| rest))
        .fold(String::new(), |text, row| {
            text + &row.replace("Torgersen", "Atlantis").replace("female", "unknown") + "\n"
        });
    std::fs::write(place.path().join("new.csv"), bare).expect("written");
    let trainer = Path::new(env!("CARGO_BIN_EXE_coordinator")).with_file_name("trainer");
    let command = |words: &[&str]| {
        let output = std::process::Command::new(&trainer).args(words).current_dir(place.path()).output();
        let output = output.expect("the trainer starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let answer = command(&["predict", "runs/of-1", "--input", "new.csv", "--output", "json"]);
    let labels: Vec<&str> = answer.lines().filter(|line| line.contains("\"label\":\"Adelie\"")).collect();
    assert!(labels.len() >= 35, "of 39 Adelie penguins:\n{answer}");
    assert!(command(&["eval", "runs/of-2"]).contains("as the run logged, to the last bit"));
    let export = place.run_dir("of-2").join("exports/safetensors/model.safetensors");
    let export = String::from_utf8_lossy(&std::fs::read(export).expect("the export")).into_owned();
    assert!(
        export.contains("\"embeddings.0.weight\":{\"dtype\":\"F32\",\"shape\":[4,3]"),
        "island: 3 texts and unknown"
    );
}
