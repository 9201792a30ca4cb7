//! `trainer sample`: generates text with a language model, streaming token by token.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use configs::Config;
use datasets::TextTokenizer;
use store::signing::TrustedKeys;
use store::versions;
use trainer::{DataSpec, Engine, HostBatch, HostData, ModelConfig, OutputSpec, Registry, Target, tensors};

use crate::alphabet::Alphabet;
use crate::cli::{Memory, Sample};
use crate::failure::Failure;
use crate::model::read_model;
use crate::run::{Run, trusted_keys};
use crate::version_selector::VersionSelector;

/// Name of the model's file in versions and exports.
const MODEL_FILE: &str = "model.safetensors";

/// Writes the prompt and its continuation, each byte as soon as it is complete, and a final newline.
pub(crate) fn sample(ask: &Sample, registry: &Registry, out: &mut dyn Write) -> Result<(), Failure> {
    let (mut writer, alphabet) = Writer::load(ask, registry)?;
    let mut text = alphabet.prompt(&ask.prompt, writer.vocabulary)?;
    let mut spelling = alphabet.spelling(&text)?;
    let mut draws = Draws(ask.seed);
    let mut written = out.write_all(ask.prompt.as_bytes()).and_then(|()| out.flush());
    for _ in 0..ask.tokens {
        if written.is_err() {
            break;
        }
        let token = choose(&writer.logits(&text)?, ask.temperature, ask.top_k, draws.next());
        text.push(token as i64);
        written = out.write_all(&spelling.next(token)?).and_then(|()| out.flush());
    }
    match written.and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        // The reader has closed the pipe.
        Err(why) if why.kind() != ErrorKind::BrokenPipe => {
            Err(Failure { code: 4, message: format!("standard output: {why}") })
        }
        _ => Ok(()),
    }
}

/// A model that continues a text.
struct Writer {
    engine: Box<dyn Engine>,
    batch: HostBatch,
    vocabulary: usize,
    /// Context length in tokens.
    window: usize,
}

impl Writer {
    fn load(ask: &Sample, registry: &Registry) -> Result<(Self, Alphabet), Failure> {
        let verify_key = ask.verify_key.as_deref();
        let Found { path, config, tokenizer } = find(&ask.source, ask.version, verify_key, ask.memory)?;
        let named = |what: &dyn std::fmt::Display| Failure::data(format!("{}: {what}", path.display()));
        let memory_mb = ask.memory.memory_mb.unwrap_or(configs::Dataset::default().memory_mb);
        let bytes = read_model(&path, None, memory_mb)?;
        let header = tensors::header(&bytes).map_err(|why| named(&why))?;
        let config = match (config, header.metadata.get("config")) {
            (Some(config), _) => config,
            (None, Some(text)) => Config::parse(text, &path.display().to_string(), &[])
                .map_err(|why| Failure::usage(why.to_string()))?,
            (None, None) => {
                return Err(named(
                    &"it doesn't say how its model is built: neither its metadata nor a config.toml two folders \
                      above; name a run's directory or an export",
                ));
            }
        };
        let kind = &config.model.kind;
        let rows = |tensor: &str| header.shapes.get(tensor).and_then(|shape| shape.first()).copied();
        let Some(vocabulary) = rows("tokens.weight") else {
            return Err(Failure::usage(format!(
                "{}: a model of kind {kind:?} without token embeddings writes no text; a \"gpt\" does",
                path.display()
            )));
        };
        let alphabet = match tokenizer {
            Some(tokenizer) => Alphabet::Tokenizer(Box::new(tokenizer)),
            None => Alphabet::of_metadata(&header.metadata).map_err(|why| named(&why))?,
        };
        if vocabulary > alphabet.size() {
            return Err(Failure::usage(format!(
                "{}: its vocabulary of {vocabulary} tokens is more than the {} that can be written: its tokenizer isn't \
                 known here; name the run's directory, or the export",
                path.display(),
                alphabet.size()
            )));
        }
        let asked = ask.window.map(|window| window as usize);
        let (window, seen) = match (rows("positions.weight"), asked) {
            (Some(trained), Some(asked)) if asked > trained => {
                return Err(Failure::usage(format!(
                    "--window {asked}: the model was trained with a window of {trained}, and has no embeddings beyond"
                )));
            }
            (Some(trained), asked) => (trained, asked.unwrap_or(trained)),
            (None, Some(asked)) => (asked, asked),
            (None, None) => {
                return Err(Failure::usage(
                    "the model has rotary positions, which don't tell its window: name it with --window",
                ));
            }
        };
        let device = trainer::device::open(&ask.device)?;
        let model = ModelConfig::new(kind, &config.model.keys)?;
        let data = DataSpec::new(vec![window], OutputSpec::Tokens { vocabulary });
        let mut engine = registry.build(kind, &model, &data, &device)?;
        let mut parameters = vec![0.0; engine.layout().elements];
        tensors::decode_model(&bytes, engine.layout(), &mut parameters).map_err(|why| named(&why))?;
        engine.write_parameters(&parameters)?;
        let mut batch = HostBatch::empty(&data);
        batch.y = Target::Unknown;
        batch.set_count(1);
        Ok((Self { engine, batch, vocabulary, window: seen }, alphabet))
    }

    /// Logits of the token after this text, as far as the window reaches.
    fn logits(&mut self, text: &[i64]) -> Result<Vec<f32>, Failure> {
        let seen = &text[text.len().saturating_sub(self.window)..];
        self.batch.x.shape[1] = seen.len();
        if let HostData::I64(tokens) = &mut self.batch.x.data {
            tokens.clear();
            tokens.extend_from_slice(seen);
        }
        let mut outputs = self.engine.predict(&self.batch)?;
        Ok(outputs.split_off(outputs.len() - self.vocabulary))
    }
}

/// A model's path, with the configuration and tokenizer of its run, if known.
struct Found {
    path: PathBuf,
    config: Option<Config>,
    tokenizer: Option<TextTokenizer>,
}

impl Found {
    fn of(path: PathBuf, run: Run) -> Result<Self, Failure> {
        let tokenizer = match run.has_plan() {
            true => run.tokenizer(&run.plan()?)?.map(|(tokenizer, _)| tokenizer),
            // Runs that predate stored plans have byte tokens.
            false => None,
        };
        Ok(Self { path, config: Some(run.config), tokenizer })
    }
}

/// Finds the model's file, and the configuration and tokenizer if it belongs to a run.
fn find(
    source: &Path,
    version: Option<VersionSelector>,
    verify_key: Option<&Path>,
    memory: Memory,
) -> Result<Found, Failure> {
    let inside = source.join(MODEL_FILE);
    let file = if source.is_file() { source.to_owned() } else { inside };
    if source.join("config.toml").is_file() || !file.is_file() {
        let run = Run::open(source, memory)?;
        let manifest = run.version(version.unwrap_or(VersionSelector::Newest), verify_key)?;
        let path = versions::folder(&run.checkpoints(), manifest.step).join(MODEL_FILE);
        return Found::of(path, run);
    }
    if version.is_some() {
        return Err(Failure::usage(format!(
            "--version chooses among a run's versions; {} is a single model",
            source.display()
        )));
    }
    // RUN_DIR/checkpoints/step-N/model.safetensors
    let whole = file.canonicalize().unwrap_or_else(|_| file.clone());
    let run = whole.ancestors().nth(3).filter(|dir| dir.join("config.toml").is_file());
    let is_version = whole.parent().is_some_and(|folder| folder.join("manifest.json").is_file());
    if let Some(keys) = verify_key.map(trusted_keys).transpose()? {
        check_signature(&whole, is_version, &keys)?;
    }
    match run.filter(|_| is_version) {
        Some(dir) => Found::of(file, Run::open(dir, memory)?),
        None => Ok(Found { path: file, config: None, tokenizer: None }),
    }
}

/// A version's file is covered by its signed manifest; an export is signed itself.
fn check_signature(file: &Path, is_version: bool, keys: &TrustedKeys) -> Result<(), Failure> {
    if let Some(folder) = file.parent().filter(|_| is_version) {
        return versions::verify_folder(folder, Some(keys))
            .map(drop)
            .map_err(|why| Failure::data(why.to_string()));
    }
    let named = |why: &dyn std::fmt::Display| Failure::data(format!("{} {why}", file.display()));
    let bytes = std::fs::read(file).map_err(|why| named(&why))?;
    keys.verify_file(file, &bytes).map_err(|why| named(&why))
}

/// Selects the token whose share of the cumulative probabilities contains `draw`, in [0, 1).
fn choose(logits: &[f32], temperature: f64, top_k: Option<u32>, draw: f64) -> usize {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    // Most likely first; ties by index.
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    order.truncate(top_k.map_or(usize::MAX, |k| k as usize).max(1));
    let Some(&first) = order.first() else { return 0 };
    if temperature == 0.0 {
        return first;
    }
    let greatest = f64::from(logits[first]);
    let weight = |token: usize| ((f64::from(logits[token]) - greatest) / temperature).exp();
    let total: f64 = order.iter().map(|token| weight(*token)).sum();
    let mut left = draw * total;
    for token in &order {
        left -= weight(*token);
        if left < 0.0 {
            return *token;
        }
    }
    first
}

/// Uniform numbers in [0, 1): the upper 53 bits of SplitMix64 (Steele, Lea, Flood 2014, "Fast Splittable Pseudorandom
/// Number Generators").
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_draw_falls_where_the_probabilities_say() {
        // Probabilities 1/2, 1/4, 1/4, most likely first.
        let logits = [0.0, 2f32.ln(), 0.0];
        let at = |draw| choose(&logits, 1.0, None, draw);
        assert_eq!([0.0, 0.49, 0.51, 0.74, 0.76, 0.999].map(at), [1, 1, 0, 0, 2, 2]);
        assert_eq!(choose(&logits, 0.0, None, 0.9), 1);
        assert_eq!(choose(&logits, 1.0, Some(1), 0.9), 1);
        assert_eq!(choose(&logits, 1.0, Some(2), 0.99), 0);
        // At half the temperature: 4 to 1 to 1.
        assert_eq!([0.66, 0.67].map(|draw| choose(&logits, 0.5, None, draw)), [1, 0]);
    }

    /// The first outputs of the reference implementation for seed 1234567, cut to 53 bits.
    #[test]
    fn draws_are_those_of_splitmix() {
        let mut draws = Draws(1_234_567);
        let expected = [6_457_827_717_110_365_317u64, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        for number in expected {
            assert_eq!(draws.next(), (number >> 11) as f64 / (1u64 << 53) as f64);
        }
    }
}
