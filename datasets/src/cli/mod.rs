//! The command line: parsing, one file per command, and the output format.

mod add;
mod checkout;
mod diff;
mod fetch;
mod log;
mod progress_bar;
mod show;
mod show_overview;
mod show_version;
mod text;
mod verify;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use datasets::registry::{DEFAULT_DIR, DIR_VARIABLE, Reference, Registry, RegistryError};

/// Looks at datasets, keeps versions of them, compares and fetches them.
///
/// Versions are kept in a registry: a folder, `.bonfire/datasets` under the working directory unless --dir or
/// BONFIRE_DATASETS names another. Its files lie as DVC lays them out, so `dvc remote add -d NAME DIR` takes it as a
/// remote. A version is named NAME (the newest), NAME@3, or NAME@ and 8 or more characters of its digest.
///
/// Exit codes: 0 done, 2 command line, 3 data or version is missing or wrong, 4 a server can't be reached.
#[derive(Parser)]
#[command(name = "datasets", version)]
pub(crate) struct Cli {
    /// The registry's folder
    #[arg(long, global = true, value_name = "DIR", env = DIR_VARIABLE, default_value = DEFAULT_DIR)]
    dir: PathBuf,
    /// Megabytes of memory that reading data may take, as dataset.memory_mb of a configuration
    #[arg(long, global = true, value_name = "N", default_value_t = default_memory_mb(),
        value_parser = clap::value_parser!(u64).range(1..=MEMORY_MB_MAX))]
    memory_mb: u64,
    #[command(subcommand)]
    command: Command,
}

/// The same limit as the configuration key: the product in bytes fits in 64 bits.
const MEMORY_MB_MAX: u64 = 1 << 24;

fn default_memory_mb() -> u64 {
    configs::Dataset::default().memory_mb
}

#[derive(Subcommand)]
enum Command {
    /// Keep a file or folder as a new version; none if the newest has the same bytes
    Add {
        /// The file or folder. Links to files are read through; .git, .hg, .dvc and the registry are left out
        path: PathBuf,
        /// The dataset
        #[arg(long)]
        name: String,
        /// Why, for people
        #[arg(long, short)]
        message: Option<String>,
    },
    /// List the versions: when, who, files, bytes, why
    Log {
        /// One dataset; all if none is named
        name: Option<String>,
        /// The form
        #[arg(long, value_enum, default_value_t = PrintFormat::Text)]
        output: PrintFormat,
    },
    /// Say what data are
    ///
    /// Of a table: rows, columns, types, missing, quantiles, labels, histograms. Of images: sizes, labels, mean and standard
    /// deviation of the pixels. Of a text: lines, tokens and the most frequent ones. Of a version: who added it, its files,
    /// and all that of what is in it.
    Show {
        /// A csv, tsv, parquet, idx or txt file, a folder, or NAME[@VERSION]; a path that exists comes first
        #[arg(value_name = "PATH|NAME[@VERSION]")]
        what: String,
        /// The column that is predicted; the last one if none is named
        #[arg(long)]
        target: Option<String>,
        /// The form
        #[arg(long, value_enum, default_value_t = PrintFormat::Text)]
        output: PrintFormat,
    },
    /// Read every byte again and name what is damaged or missing; exit code 3 if anything is
    Verify {
        /// One version; all if none is named
        #[arg(value_name = "NAME[@VERSION]")]
        version: Option<String>,
    },
    /// Compare two versions: files, and for csv rows and how each column moved
    ///
    /// Columns are compared by their mean, their quantiles, the counts of their categories, and the population stability
    /// index (psi): the sum over bins of (q - p) ln(q / p), over the first version's tenths or the categories, with
    /// missing fields as a bin of their own and 0.0001 for an empty one. Less than 0.1 is little change, more than 0.25
    /// a great one (B. Yurdakul, "Statistical properties of population stability index", Western Michigan University
    /// 2018).
    Diff {
        /// The first: NAME[@VERSION] or a path
        a: String,
        /// The second: NAME[@VERSION] or a path
        b: String,
        /// The form
        #[arg(long, value_enum, default_value_t = PrintFormat::Text)]
        output: PrintFormat,
    },
    /// Copy a version out, checked on the way
    Checkout {
        /// The version
        #[arg(value_name = "NAME[@VERSION]")]
        version: String,
        /// A new or empty folder; for a single file a new file, or a folder to put it in
        dest: PathBuf,
        /// Replace files of the same names; others stay
        #[arg(long)]
        force: bool,
    },
    /// Fetch a public dataset; without a name, list those that are known
    Fetch(fetch::Arguments),
}

/// How a command prints.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrintFormat {
    /// For people
    Text,
    /// One JSON value
    Json,
}

pub(crate) struct Outcome {
    pub(crate) text: String,
    pub(crate) failure: Option<Failure>,
}

/// A failure as one line for stderr, with its exit code.
pub(crate) struct Failure {
    pub(crate) line: String,
    pub(crate) code: u8,
}

impl Cli {
    pub(crate) fn run(self) -> Outcome {
        let memory_mb = self.memory_mb;
        let registry = Registry::at(self.dir).with_memory_mb(memory_mb);
        let result = match self.command {
            Command::Add { path, name, message } => add::run(&registry, path, name, message),
            Command::Log { name, output } => log::run(&registry, name.as_deref(), output),
            Command::Show { what, target, output } => {
                show_version::run(&registry, &what, DataArguments { target, memory_mb }, output)
            }
            Command::Verify { version } => return verify::run(&registry, version.as_deref()),
            Command::Diff { a, b, output } => diff::run(&registry, &a, &b, memory_mb, output),
            Command::Checkout { version, dest, force } => checkout::run(&registry, &version, &dest, force),
            Command::Fetch(arguments) => fetch::run(&arguments),
        };
        match result {
            Ok(text) => Outcome { text, failure: None },
            Err(error) => Outcome { text: String::new(), failure: Some(Failure::of(&error)) },
        }
    }
}

impl Failure {
    pub(crate) fn of(error: &RegistryError) -> Self {
        // File names may contain newlines; a failure is one line.
        let line = error.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Self { line, code: error.exit_code() }
    }
}

/// Options for inspecting data.
#[derive(Clone)]
pub(crate) struct DataArguments {
    pub(crate) target: Option<String>,
    pub(crate) memory_mb: u64,
}

/// A command-line argument that is either an existing path or a version.
pub(crate) enum DataReference {
    Path(PathBuf),
    Version(Reference),
}

impl DataReference {
    /// Existing paths take precedence; anything that looks like a path is one.
    pub(crate) fn by(word: &str) -> Result<Self, RegistryError> {
        let path = PathBuf::from(word);
        let looks_like_path = word.contains('/') || path.extension().is_some() && !word.contains('@');
        if path.exists() || looks_like_path {
            return Ok(Self::Path(path));
        }
        word.parse().map(Self::Version)
    }
}
