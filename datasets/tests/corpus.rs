//! Replays the fuzzing corpus (`fuzz/corpus`).

#![allow(unreachable_pub, reason = "the modules are those of the fuzz targets")]

#[path = "../../fuzz/src/data.rs"]
mod data;
#[path = "../../fuzz/src/replay.rs"]
mod replay;

#[test]
fn csv() {
    replay::replay("csv", data::csv);
}

#[test]
fn parquet() {
    replay::replay("parquet", data::parquet);
}

#[test]
fn idx() {
    replay::replay("idx", data::idx);
}

#[test]
fn image() {
    replay::replay("image", data::image);
}

#[test]
fn tokenizer() {
    replay::replay("tokenizer", data::tokenizer);
}

#[test]
fn archive() {
    replay::replay("archive", data::archive);
}

/// A target's name and its entry point.
type Target = (&'static str, fn(&[u8]));

/// Mutates the corpus without a fuzzer, for `BONFIRE_FUZZ_SECONDS` seconds per target; the current input is saved in
/// the temporary folder, to diagnose crashes.
#[test]
#[ignore = "runs for as long as it is told to"]
fn changed_inputs_are_read_or_refused() {
    let seconds = std::env::var("BONFIRE_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let only = std::env::var("BONFIRE_FUZZ_TARGET").unwrap_or_default();
    let targets: [Target; 6] = [
        ("csv", data::csv),
        ("parquet", data::parquet),
        ("idx", data::idx),
        ("image", data::image),
        ("tokenizer", data::tokenizer),
        ("archive", data::archive),
    ];
    for (name, run) in targets.into_iter().filter(|(name, _)| only.is_empty() || *name == only) {
        let mut inputs = inputs_of(name);
        let ends = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
        let (mut random, mut count) = (Random(0x9e37_79b9_7f4a_7c15), 0u64);
        while std::time::Instant::now() < ends {
            let mut input = inputs[random.below(inputs.len())].clone();
            for _ in 0..=random.below(6) {
                random.change(&mut input);
            }
            std::fs::write(std::env::temp_dir().join(format!("bonfire-fuzz-{name}")), &input)
                .expect("written");
            run(&input);
            count += 1;
            // Mutate some further.
            if count % 64 == 0 && inputs.len() < 4_096 {
                inputs.push(input);
            }
        }
        eprintln!("{name}: {count} inputs in {seconds} s");
    }
}

fn inputs_of(target: &str) -> Vec<Vec<u8>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let files = std::fs::read_dir(folder).expect("listed").map(|file| file.expect("listed").path());
    files.map(|path| std::fs::read(path).expect("read")).collect()
}

/// Xorshift (Marsaglia, "Xorshift RNGs", 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len());
        let byte = [0, 1, 0x7f, 0x80, 0xff, self.below(256) as u8][self.below(6)];
        let length = 1 + self.below(8);
        let end = (at + length).min(input.len());
        match self.below(6) {
            0 | 1 if !input.is_empty() => input[at] = byte,
            2 if !input.is_empty() => input[at] ^= 1 << self.below(8),
            3 => input.insert(at, byte),
            4 if !input.is_empty() => drop(input.drain(at..end)),
            5 => {
                let piece = input[at..end].to_vec();
                let to = self.below(input.len());
                input.splice(to..to, piece);
            }
            _ => input.truncate(at),
        }
    }
}
