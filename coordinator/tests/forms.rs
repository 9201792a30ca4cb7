//! Images, text and categories on real processes: the same digest for any number of workers, and after a mid-epoch
//! resume.

mod support;

use std::path::Path;

use serde_json::Value;
use support::Place;

/// A folder with a configuration for this dataset and model.
fn place(dataset: &str, model: &str) -> Place {
    let place = Place::new();
    let config = format!(
        "[run]\nname = \"small\"\n\n[dataset]\nvalidation = 0.25\n{dataset}\n\n[train]\nsteps = {STEPS}\nbatch_size = 10\n\
         microbatch_size = 3\n\n[schedule]\nkind = \"constant\"\n\n[model]\n{model}\n\n[checkpoint]\nevery = \"1 steps\"\nkeep = 100\n\n[local]\n\
         workers = 1\ndevices = \"cpu\"\n"
    );
    std::fs::write(place.path().join("run.toml"), config).expect("written");
    place
}

/// Writes images of 8 x 8 pixels in idx format, and their labels.
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

/// Steps of a run, and the step after which the other run is cut: within an epoch, after its first samples.
const STEPS: u64 = 15;
const CUT: u64 = 7;

/// The digest of 1 worker equals that of 2 and 3, and that of a run that ends in mid-epoch and is resumed.
fn check(place: &Place) {
    for workers in 1..=3 {
        let (name, count) = (format!("of-{workers}"), workers.to_string());
        place.complete(&["--set", &format!("run.name={name}"), "--local-workers", &count]);
        assert_eq!(place.digest(&name), place.digest("of-1"), "{workers} workers");
        assert_eq!(place.record(&name)["final"]["step"], STEPS);
    }
    place.complete(&["--local-workers", "2", "--set", &format!("train.steps={CUT}")]);
    let metrics = std::fs::read_to_string(place.run_dir("small").join("metrics.jsonl")).expect("metrics");
    let last: Value = serde_json::from_str(metrics.lines().last().expect("a line")).expect("JSON");
    let epoch = last["epoch"].as_f64().expect("an epoch");
    assert!(last["step"] == CUT && epoch.fract() > 0.0, "in mid-epoch: {last}");
    assert_ne!(place.digest("small"), place.digest("of-1"));
    let log = std::fs::read_to_string(place.run_dir("of-1").join("logs/worker-0.log")).expect("its log");
    assert!(!log.contains("other bits"), "a microbatch that is computed again has the same bits: {log}");
    place.complete(&["--resume", "--local-workers", "1"]);
    assert_eq!(place.digest("small"), place.digest("of-1"), "resumed");
}

/// The output of `trainer`, which must exit with code 0.
fn trainer(place: &Place, words: &[&str]) -> String {
    let trainer = Path::new(env!("CARGO_BIN_EXE_coordinator")).with_file_name("trainer");
    let output = std::process::Command::new(trainer).args(words).current_dir(place.path()).output();
    let output = output.expect("the trainer starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
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

/// Checks that the matrix of the last evaluation agrees with its accuracy.
fn confusion_is_of(accuracy: &Value, last: &Value) {
    let matrix = &last["confusion"];
    let labels = matrix["labels"].as_array().map_or(0, Vec::len);
    let rows: Vec<Vec<u64>> = serde_json::from_value(matrix["rows"].clone()).expect("counts");
    assert!(labels > 1 && rows.len() == labels && rows.iter().all(|row| row.len() == labels), "{matrix}");
    let (hits, all): (u64, u64) =
        ((0..labels).map(|label| rows[label][label]).sum(), rows.iter().flatten().sum());
    assert_eq!(accuracy.as_f64(), Some(hits as f64 / all as f64), "{matrix}");
    assert_eq!(matrix["step"], last["step"], "{matrix}");
}

/// The actual preset: categories are embedded, fields are missing, and the predictions are right.
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
    confusion_is_of(accuracy, &place.record("of-1")["final"]);

    // Without its species, with an unseen island and an unseen sex: a new table is read like the run's.
    let rows = std::fs::read_to_string(&table).expect("the penguins");
    let bare: String = rows
        .lines()
        .take(40)
        .map(|row| row.split_once(',').map_or("", |(_, rest)| rest))
        .fold(String::new(), |text, row| {
            text + &row.replace("Torgersen", "Atlantis").replace("female", "unknown") + "\n"
        });
    std::fs::write(place.path().join("new.csv"), bare).expect("written");
    let answer = trainer(&place, &["predict", "runs/of-1", "--input", "new.csv", "--output", "json"]);
    let labels: Vec<&str> = answer.lines().filter(|line| line.contains("\"label\":\"Adelie\"")).collect();
    assert!(labels.len() >= 35, "of 39 Adelie penguins:\n{answer}");
    assert!(trainer(&place, &["eval", "runs/of-2"]).contains("as the run logged, to the last bit"));
    let export = place.run_dir("of-2").join("exports/safetensors/model.safetensors");
    let export = String::from_utf8_lossy(&std::fs::read(export).expect("the export")).into_owned();
    assert!(
        export.contains("\"embeddings.0.weight\":{\"dtype\":\"F32\",\"shape\":[4,3]"),
        "island: 3 texts and unknown"
    );
}

#[test]
fn a_gpt_on_the_words_of_a_tokenizer() {
    let place = place(
        "uri = \"text.txt\"\nformat = \"text\"\nwindow = 8\ntokenizer = \"words.json\"",
        "kind = \"gpt\"\nlayers = 1\nheads = 2\nwidth = 16",
    );
    let text: String = (0..70).map(|line| format!("line {} of a text\n", line % 10)).collect();
    std::fs::write(place.path().join("text.txt"), text).expect("written");
    let words = ["?", "line", "of", "a", "text", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let numbers: serde_json::Map<_, _> =
        words.iter().map(|word| (*word).to_owned()).zip((0..).map(Into::into)).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0",
        "pre_tokenizer": { "type": "Whitespace" },
        "model": { "type": "WordLevel", "vocab": numbers, "unk_token": "?" },
    });
    std::fs::write(place.path().join("words.json"), tokenizer.to_string()).expect("written");
    check(&place);

    // The run and the export each have their own copy: text is generated from either, even without the file.
    std::fs::remove_file(place.path().join("words.json")).expect("removed");
    let sample = |source: &Path| {
        let trainer = Path::new(env!("CARGO_BIN_EXE_coordinator")).with_file_name("trainer");
        let words = ["--prompt", "line 3", "--tokens", "6", "--temperature", "0"];
        let output =
            std::process::Command::new(trainer).arg("sample").arg(source).args(words).output().expect("runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let written = sample(&place.run_dir("of-1"));
    assert_eq!(written, sample(&place.run_dir("of-1").join("exports/safetensors")));
    let known = |word: &str| words.contains(&word);
    assert!(written.starts_with("line 3") && written.split_whitespace().skip(2).all(known), "{written}");
    assert_eq!(written.split_whitespace().count(), 8, "{written}");

    // Another tokenizer means other data: a resume reports that.
    let other = tokenizer.to_string().replace("\"line\":1,\"of\":2", "\"of\":1,\"line\":2");
    assert_ne!(other, tokenizer.to_string());
    std::fs::write(place.path().join("words.json"), other).expect("written");
    let record = place.run_dir("small").join("run.json");
    let running = std::fs::read_to_string(&record).expect("read").replace("\"completed\"", "\"interrupted\"");
    std::fs::write(&record, running).expect("written");
    let (code, _, said) = place.finish(&["--resume"]);
    assert!(code == Some(3) && said.contains("dataset.tokenizer is another one"), "{code:?}: {said}");
}

/// Writes images of two classes, three times as many of one, and one that can't be decoded.
fn write_images(dir: &Path) {
    let image = |number: u8| {
        // A grey PNG of 8 x 8 pixels, not compressed: a zlib stream of one stored block.
        let rows: Vec<u8> = (0..8u8)
            .flat_map(|y| {
                std::iter::once(0).chain(
                    (0..8u8).map(move |x| number.wrapping_mul(31) ^ x.wrapping_mul(37).wrapping_add(y * 11)),
                )
            })
            .collect();
        png(&rows)
    };
    for number in 0..48u8 {
        let class = if number % 4 == 0 { "rare" } else { "usual" };
        std::fs::create_dir_all(dir.join(class)).expect("made");
        std::fs::write(dir.join(class).join(format!("{number:02}.png")), image(number)).expect("written");
    }
    std::fs::write(dir.join("rare/zz.png"), b"no image").expect("written");
}

/// A PNG file (W3C, "Portable Network Graphics", sections 5 and 11) of 8 x 8 grey pixels.
fn png(rows: &[u8]) -> Vec<u8> {
    let mut zlib = vec![0x78, 0x01, 1];
    let length = rows.len() as u16;
    zlib.extend(length.to_le_bytes());
    zlib.extend((!length).to_le_bytes());
    zlib.extend(rows);
    let (a, b) = rows.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    zlib.extend((b << 16 | a).to_be_bytes());
    let mut bytes = vec![0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n'];
    for (kind, data) in
        [(b"IHDR", [8u32.to_be_bytes(), 8u32.to_be_bytes()].concat()), (b"IDAT", zlib), (b"IEND", Vec::new())]
    {
        let data = if kind == b"IHDR" { [data, vec![8, 0, 0, 0, 0]].concat() } else { data };
        bytes.extend((data.len() as u32).to_be_bytes());
        let named = [kind.as_slice(), &data].concat();
        bytes.extend(&named);
        bytes.extend(crc(&named).to_be_bytes());
    }
    bytes
}

/// The checksum of a chunk (section 5.5 there).
fn crc(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

#[test]
fn balanced_draws_of_augmented_images_some_of_them_bad() {
    let place = place(
        "uri = \"images\"\nformat = \"images\"\non_bad = \"skip\"\nsampling = \"balanced\"\ncache_mb = 0\n\n[augment]\nflip = true",
        "kind = \"cnn\"\nchannels = [4]\nhidden = 8",
    );
    write_images(&place.path().join("images"));
    check(&place);
    assert_eq!(place.record("of-1")["dataset"]["skipped"], 1);
    let timings = place.record("of-1")["timings"].clone();
    let seconds = |key: &str| timings[key].as_f64().filter(|seconds| *seconds > 0.0).expect("a time");
    // A checkpoint after each step, except those that were due while another was being written.
    let (snapshots, most, all) =
        (seconds("snapshots"), seconds("snapshot_seconds_max"), seconds("snapshot_seconds"));
    assert!(snapshots >= 1.0 && most <= all + 1e-9 && all <= snapshots * most + 1e-9, "{timings}");
    // Some waiting time remains even if the feed is always ahead, and it is part of the steps.
    let share = seconds("data_wait_seconds") / seconds("member_step_seconds");
    assert!(share < 1.0 && (seconds("data_wait_share") - share).abs() < 1e-9, "{timings}");

    // External images, by name: a folder of them, and a single one.
    let answer = trainer(&place, &["predict", "runs/of-1", "--input", "images/usual"]);
    let names: Vec<&str> = answer.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!((names.len(), names[0], names[1], names[36]), (37, "file", "01.png", "47.png"), "{answer}");
    let answer =
        trainer(&place, &["predict", "runs/of-1", "--input", "images/rare/04.png", "--output", "json"]);
    let answer: Value = serde_json::from_str(&answer).expect("one line");
    assert_eq!((&answer["row"], &answer["file"]), (&1.into(), &"04.png".into()), "{answer}");
    assert!(["rare", "usual"].contains(&answer["label"].as_str().expect("a label")), "{answer}");

    // The bad image is fixed meanwhile, which changes the folder's digest: the resume refuses it.
    let record = place.run_dir("small").join("run.json");
    let running = std::fs::read_to_string(&record).expect("read").replace("\"completed\"", "\"interrupted\"");
    std::fs::write(&record, running).expect("written");
    std::fs::copy(place.path().join("images/rare/00.png"), place.path().join("images/rare/zz.png"))
        .expect("copied");
    let (code, _, said) = place.finish(&["--resume"]);
    assert!(code == Some(3) && said.contains("has changed since the run was started"), "{code:?}: {said}");
}

#[test]
fn images_in_the_order_of_windows() {
    let place = place(
        "uri = \"small-images-idx3-ubyte\"\nformat = \"idx\"\nshuffle = \"window\"\nshuffle_window = 7",
        "kind = \"cnn\"\nchannels = [4]\nhidden = 8",
    );
    write_idx(place.path(), 60);
    check(&place);
}
