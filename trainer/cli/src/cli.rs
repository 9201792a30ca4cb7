//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use trainer::DeviceSpec;

use crate::version_selector::VersionSelector;

/// Help text of every command.
const EXIT_CODES: &str =
    "Exit codes: 0 done; 2 configuration or command line; 3 data or version missing or wrong; 4 failed.";

/// Uses the models that runs have trained: measures, predicts, exports. No coordinator is needed.
#[derive(Parser, Debug)]
#[command(name = "trainer", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Measure a version on the validation split: the metrics that the run logged for it
    Eval(Eval),
    /// Predict the target of each row of a table, or of each image
    Predict(Predict),
    /// Write a version's model for other programs
    Export(Export),
    /// Write text with a language model, byte by byte
    Sample(Sample),
}

/// Whose model.
#[derive(Args, Debug)]
pub struct Source {
    /// The run's directory
    #[arg(value_name = "RUN_DIR")]
    pub run_dir: PathBuf,
    /// A version by its step, `best` by the metric of checkpoint.best, or `newest`
    #[arg(long, value_name = "STEP|best|newest", default_value = "newest")]
    pub version: VersionSelector,
    /// Take only a version that is signed by one of the public keys in this file (docs/signing.md)
    #[arg(long, value_name = "FILE")]
    pub verify_key: Option<PathBuf>,
    /// How much may be taken
    #[command(flatten)]
    pub memory: Memory,
}

/// What reading files may take.
#[derive(Args, Clone, Copy, Debug)]
pub struct Memory {
    /// Megabytes of memory that reading data may take; by default the run's dataset.memory_mb
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MEMORY_MB_MAX))]
    pub memory_mb: Option<u64>,
}

/// The same limit as the configuration key: the product in bytes fits in 64 bits.
const MEMORY_MB_MAX: u64 = 1 << 24;

/// `trainer eval`
#[derive(Args, Debug)]
pub struct Eval {
    /// Whose model
    #[command(flatten)]
    pub source: Source,
    /// auto, cpu, ndarray, wgpu[:N], vulkan[:N] or cuda[:N]
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: DeviceSpec,
    /// The run's data file, if it is not where it was when the run began
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// OutputForm of the answer
    #[arg(long, value_enum, default_value_t = OutputForm::Table)]
    pub output: OutputForm,
}

/// `trainer predict`
#[derive(Args, Debug)]
pub struct Predict {
    /// Whose model
    #[command(flatten)]
    pub source: Source,
    /// A table, whose columns are found by name and whose target need not be there; or, where the model takes images, a
    /// PNG or JPEG file, a folder of them, or a file in idx form
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// auto, cpu, ndarray, wgpu[:N], vulkan[:N] or cuda[:N]
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: DeviceSpec,
    /// OutputForm of the answer: json is one object a line
    #[arg(long, value_enum, default_value_t = OutputForm::Table)]
    pub output: OutputForm,
}

/// `trainer export`
#[derive(Args, Debug)]
pub struct Export {
    /// Whose model
    #[command(flatten)]
    pub source: Source,
    /// What to write
    #[arg(long, value_enum)]
    pub format: Format,
    /// The folder to write to; by default one below RUN_DIR/exports
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Sign the export with this private key: a file .sig beside it
    #[arg(long, value_name = "KEYFILE")]
    pub sign: Option<PathBuf>,
}

/// `trainer sample`
#[derive(Args, Debug)]
pub struct Sample {
    /// A run's directory, one of its versions, or an export (a folder or its model.safetensors)
    #[arg(value_name = "VERSION-OR-EXPORT")]
    pub source: PathBuf,
    /// Of a run: a version by its step, `best` by the metric of checkpoint.best, or `newest`
    #[arg(long, value_name = "STEP|best|newest")]
    pub version: Option<VersionSelector>,
    /// Take only a version or export that is signed by one of the public keys in this file (docs/signing.md)
    #[arg(long, value_name = "FILE")]
    pub verify_key: Option<PathBuf>,
    /// What the text begins with
    #[arg(long, value_name = "TEXT", default_value = "\n")]
    pub prompt: String,
    /// How many tokens are written after it
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    pub tokens: u64,
    /// What the logits are divided by: below 1 the likely becomes likelier, and 0 takes the likeliest each time
    #[arg(long, value_name = "T", default_value_t = 1.0, value_parser = temperature)]
    pub temperature: f64,
    /// Choose among the K likeliest only
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub top_k: Option<u32>,
    /// The same seed writes the same text
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// How many tokens the model looks back on: by default as many as in training, which a model with rotary positions
    /// doesn't tell
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub window: Option<u32>,
    /// How much may be taken
    #[command(flatten)]
    pub memory: Memory,
    /// auto, cpu, ndarray, wgpu[:N], vulkan[:N] or cuda[:N]
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: DeviceSpec,
}

fn temperature(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0);
    value.ok_or_else(|| "allowed are finite numbers from 0".to_owned())
}

/// Formats of an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// Tensors with names and orientation as PyTorch has them
    Safetensors,
}

/// Forms of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum OutputForm {
    /// For people
    Table,
    /// For scripts
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn versions_are_steps_or_words() {
        let version = |text: &str| {
            let cli = Cli::try_parse_from(["trainer", "eval", "runs/a", "--version", text]);
            match cli.map(|cli| cli.command) {
                Ok(Command::Eval(eval)) => Ok(eval.source.version),
                other => Err(format!("{other:?}")),
            }
        };
        assert_eq!(version("120"), Ok(VersionSelector::Step(120)));
        assert_eq!(version("best"), Ok(VersionSelector::Best));
        assert_eq!(version("newest"), Ok(VersionSelector::Newest));
        for wrong in ["latest", "-1", "1.5", ""] {
            assert!(version(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
