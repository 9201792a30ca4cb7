//! A replica with corrupted memory: detected at the next step, evicted by name, and its possible damage recomputed.

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use support::{Place, signal, steps_committed, until, wait};

/// Steps so small that parameters stay near checkpoint 0, by which they are found in a process's memory.
const RUN: [&str; 8] = [
    "--set",
    "train.epochs=500",
    "--set",
    "optimizer.learning_rate=0.00001",
    "--set",
    "checkpoint.every=100 steps",
    "--set",
    "elastic.lease=30s",
];
/// Number of consecutive parameters to search for.
const PATTERN: usize = 64;
/// No parameter moves this far in such a run; initial weights are several times as large.
const NEAR: f32 = 0.02;

#[test]
fn a_flipped_bit_in_one_replica_is_found_and_the_digest_is_that_of_a_sound_run() {
    let place = Place::new();
    place.complete(&[&RUN[..], &["--set", "run.name=whole"]].concat());
    // No step is done without all three: of two that differ it would be unknown which one is right.
    let run = [&RUN[..], &["--local-workers", "0", "--set", "elastic.min_workers=3"]].concat();
    let child = place.coordinator(&run).spawn().expect("started");
    until("the coordinator says where it is", || place.run_dir("small").join("address").exists());
    let address = std::fs::read_to_string(place.run_dir("small").join("address")).expect("its address");
    let url = address.trim();
    let start = |name| {
        let arguments = ["--coordinator", url, "--name", name, "--device", "cpu"];
        place.worker(&arguments).spawn().expect("started")
    };
    let workers = ["sound", "also-sound", "damaged"].map(start);
    until("they have committed steps", || steps_committed(&place) > 20);

    let damaged = workers[2].id();
    signal(damaged, "STOP");
    let wanted =
        first_parameters(&place.run_dir("small").join("checkpoints/step-00000000/model.safetensors"));
    let flipped = flip(damaged, &wanted);
    signal(damaged, "CONT");
    assert!(flipped > 0, "its parameters were not found in its memory");

    let output = wait(child);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(place.digest("small"), place.digest("whole"));
    let record = place.record("small");
    let events: Vec<&str> = record["events"]
        .as_array()
        .expect("events")
        .iter()
        .filter_map(|event| event["text"].as_str())
        .collect();
    let is_paid_for =
        |event: &serde_json::Value| event["event"] == "rewind" && event["cost_seconds"].as_f64() > Some(0.0);
    assert!(
        record["events"].as_array().expect("events").iter().any(is_paid_for),
        "what that cost: {record:#}"
    );
    let blames = |text: &&str| text.contains("damaged deviates from the strict majority");
    assert!(events.iter().any(blames), "{events:?}");
    for worker in workers {
        assert_eq!(wait(worker).status.code(), Some(0));
    }
}

/// The first parameters of the first layer in memory layout: `[in, out]`, whereas the file has `[out, in]`.
fn first_parameters(model: &Path) -> Vec<f32> {
    let bytes = std::fs::read(model).expect("version 0");
    let (length, rest) = bytes.split_at(8);
    let length = u64::from_le_bytes(length.try_into().expect("eight bytes")) as usize;
    let header: serde_json::Value = serde_json::from_slice(&rest[..length]).expect("a header");
    let tensor = &header["hidden.0.weight"];
    let number = |value: &serde_json::Value| value.as_u64().expect("a number") as usize;
    let (outputs, inputs) = (number(&tensor["shape"][0]), number(&tensor["shape"][1]));
    let data = &rest[length + number(&tensor["data_offsets"][0])..];
    let at = |output: usize, input: usize| {
        let from = (output * inputs + input) * 4;
        f32::from_le_bytes(data[from..from + 4].try_into().expect("four bytes"))
    };
    (0..PATTERN).map(|i| at(i % outputs, i / outputs)).collect()
}

/// Flips one bit of every copy of these parameters in a process's memory; returns the number of copies.
fn flip(pid: u32, wanted: &[f32]) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("its maps");
    let memory = File::options().read(true).write(true).open(format!("/proc/{pid}/mem")).expect("its memory");
    let mut flipped = 0;
    for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
        let range = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let [from, to] = [range.0, range.1].map(|hex| u64::from_str_radix(hex, 16).expect("an address"));
        let mut bytes = vec![0; (to - from) as usize];
        // Some mappings can't be read: none of those holds parameters.
        if memory.read_exact_at(&mut bytes, from).is_err() {
            continue;
        }
        let values: Vec<f32> =
            bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
        let is_here =
            |window: &[f32]| window.iter().zip(wanted).all(|(here, there)| (here - there).abs() < NEAR);
        for (index, _) in values.windows(PATTERN).enumerate().filter(|(_, window)| is_here(window)) {
            // A low bit of the exponent: the value stays finite, and the replica diverges.
            let value = f32::from_bits(values[index + 1].to_bits() ^ (1 << 23));
            let at = from + (index as u64 + 1) * 4;
            memory.write_all_at(&value.to_le_bytes(), at).expect("written");
            flipped += 1;
        }
    }
    flipped
}
