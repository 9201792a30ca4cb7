//! The coordinator's command line. Its doc comments are the `--help` text.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use wire::tls::Security;

use crate::control::access::token_table::Role;

/// Of every command.
const EXIT_CODES: &str = "Exit codes: 0 done; 2 configuration, command line, refused, or address in use; 3 data or \
                          version missing or wrong; 4 failed, or the other side is lost; 130 interrupted, resumable.";

/// Elastic distributed training: shards a dataset to workers and keeps the run.
#[derive(Parser, Debug)]
#[command(
    name = "coordinator",
    version,
    after_help = EXIT_CODES,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub(crate) struct Cli {
    /// Something else than training.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Training.
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// What `coordinator --config FILE` takes.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// The run's configuration, such as configs/digits.toml
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) config: Option<PathBuf>,
    /// Go on with the run of this name (or the newest of this file), from its newest version
    #[arg(long)]
    pub(crate) resume: bool,
    /// Worker processes to start on this machine, instead of local.workers; 0 waits for workers from elsewhere
    #[arg(long, value_name = "N")]
    pub(crate) local_workers: Option<u32>,
    /// Override one key, such as --set train.epochs=5 (the value is read as TOML, else as a string)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Control address; the default is 127.0.0.1 and a free port
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,
    /// What goes to standard output
    #[arg(long, value_enum, default_value_t = OutputForm::Text)]
    pub(crate) output: OutputForm,
    /// Keep the run's token in this file, and take it from there if it exists
    #[arg(long, value_name = "F")]
    pub(crate) token_file: Option<PathBuf>,
    /// Start the coordinator again if it dies: the run goes on with the workers that it has
    #[arg(long)]
    pub(crate) supervise: bool,
    /// What encrypts its ports
    #[command(flatten)]
    pub(crate) security: ServerSecurity,
    /// Ask workers and people for a certificate that this authority has signed (a file of certificates)
    #[arg(long, value_name = "F", conflicts_with = "insecure")]
    pub(crate) tls_ca: Option<PathBuf>,
}

/// How a command that listens is spoken to: off loopback under TLS, with a certificate that it makes itself.
#[derive(Args, Clone, Default, Debug)]
pub(crate) struct ServerSecurity {
    /// Speak TLS on loopback too
    #[arg(long, conflicts_with = "insecure")]
    pub(crate) tls: bool,
    /// Show this certificate (with those that have signed it) instead of one that is made here
    #[arg(long, value_name = "F", requires = "tls_key", conflicts_with = "insecure")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "F", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Encrypt nothing off loopback either: whoever is on the network between reads the token, the data and the model, and can
    /// change them
    #[arg(long)]
    pub(crate) insecure: bool,
}

/// How a command that calls a coordinator trusts it.
#[derive(Args, Clone, Default, Debug)]
pub(crate) struct ClientSecurity {
    /// Trust the coordinator's certificate by this authority and its name, rather than by the fingerprint beside the token
    #[arg(long, value_name = "F")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// A certificate to show, where the run asks for one
    #[arg(long, value_name = "F", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "F", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Speak http:// to another machine: whoever is on the network between reads the token
    #[arg(long)]
    pub(crate) insecure: bool,
}

impl From<&ClientSecurity> for Security {
    fn from(own: &ClientSecurity) -> Self {
        Self {
            ca: own.tls_ca.clone(),
            certificate: own.tls_cert.clone(),
            key: own.tls_key.clone(),
            insecure: own.insecure,
        }
    }
}

/// Form of standard output.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OutputForm {
    /// For people; a run shows bars on a terminal, plain lines otherwise
    Text,
    /// For scripts; of a run a line for each metric and event
    Json,
}

/// The other commands.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Read a configuration and its dataset, say what would run, and start nothing
    Check {
        /// The configuration
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Override one key
        #[arg(long = "set", value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
    /// Print the commands that repeat a run, and what differs on this machine
    Reproduce(ReproduceArgs),
    /// Say how a run is doing
    Status(RunSelector),
    /// Ask a run to finish its step, write a version and end; it can be resumed
    Stop(RunSelector),
    /// Ask a run for a version after the step in flight
    Checkpoint(RunSelector),
    /// Keys that sign checkpoints and exports (docs/signing.md)
    Key {
        /// What to do with it
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Who may do what with a run
    Token {
        /// What to do with them
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// What runs have logged
    Tracker {
        /// What to do with it
        #[command(subcommand)]
        command: TrackerCommand,
    },
}

/// `coordinator key ...`
#[derive(Subcommand, Debug)]
pub(crate) enum KeyCommand {
    /// Make a key: the private one in FILE, for its owner alone, and the public one in FILE.pub
    Create {
        /// The file, which must not be there yet
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Sign files that were not signed as they were written: FILE.sig beside each
    Sign {
        /// The private key
        #[arg(long, value_name = "KEYFILE")]
        key: PathBuf,
        /// A checkpoint's manifest.json, or a model file
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
    /// Say whether a file, or a checkpoint's folder and all that its manifest names, is signed by a trusted key
    Verify {
        /// A file of one or several public keys
        #[arg(long, value_name = "PUBLIC_KEYS")]
        key: PathBuf,
        /// The file, or the checkpoint's folder
        #[arg(value_name = "PATH")]
        path: PathBuf,
    },
}

/// `coordinator token ...`
#[derive(Subcommand, Debug)]
pub(crate) enum TokenCommand {
    /// Make a token and print its line, which is shown once
    Create(CreateArgs),
    /// Say which tokens there are
    List {
        /// The run's directory: the newest below ./runs if nothing is said
        #[arg(value_name = "RUN_DIR")]
        run_dir: Option<PathBuf>,
        /// Form of the answer
        #[arg(long, value_enum, default_value_t = OutputForm::Text)]
        output: OutputForm,
    },
    /// Make a token good for nothing, at once: a run that goes on hangs up on whoever came with it
    Revoke(RevokeArgs),
}

/// What `coordinator token create` takes.
#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    /// What it is for
    #[arg(long, value_enum)]
    pub(crate) role: Role,
    /// Who gets it, such as gpu-7: for messages and the audit log
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,
    /// After which time it is good for nothing, such as 12h, 30d or 4w; never if nothing is said
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub(crate) expires: Option<Duration>,
    /// The run's directory: the newest below ./runs if nothing is said
    #[arg(value_name = "RUN_DIR")]
    pub(crate) run_dir: Option<PathBuf>,
}

/// What `coordinator token revoke` takes.
#[derive(Args, Debug)]
pub(crate) struct RevokeArgs {
    /// Its name
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The run's directory: the newest below ./runs if nothing is said
    #[arg(value_name = "RUN_DIR")]
    pub(crate) run_dir: Option<PathBuf>,
}

/// Reads "90s", "15m", "12h", "30d", "4w".
fn span(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit_seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return Err("expected a whole number and one of s, m, h, d, w, such as 30d".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text:?} does not start with a whole number"))?;
    let seconds = number.checked_mul(unit_seconds).filter(|seconds| *seconds > 0);
    seconds.map(Duration::from_secs).ok_or_else(|| format!("{text} is no time to come"))
}

/// `coordinator tracker ...`
#[derive(Subcommand, Debug)]
pub(crate) enum TrackerCommand {
    /// Serve a folder of runs to browsers and to MLflow's clients, until Ctrl-C
    Serve(ServeArgs),
    /// Send a run to another tracker: all of it that isn't there yet
    Push(PushArgs),
}

/// What `coordinator tracker push` takes.
#[derive(Args, Debug)]
pub(crate) struct PushArgs {
    /// The run's directory
    #[arg(value_name = "RUN_DIR")]
    pub(crate) run_dir: PathBuf,
    /// The address of an MLflow server (who may write there is said by MLFLOW_TRACKING_USERNAME and
    /// MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN), or wandb, or tensorboard: files in the run's directory
    #[arg(long, value_name = "URL|wandb|tensorboard")]
    pub(crate) to: String,
    /// MLflow's experiment, instead of the run's own or its name without the number
    #[arg(long, value_name = "NAME")]
    pub(crate) experiment: Option<String>,
}

/// What `coordinator tracker serve` takes.
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// The folder of runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub(crate) dir: PathBuf,
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5000")]
    pub(crate) listen: SocketAddr,
    /// The token that requests must carry is in this file: needed for an address off this machine
    #[arg(long, value_name = "F")]
    pub(crate) token_file: Option<PathBuf>,
    /// What encrypts it
    #[command(flatten)]
    pub(crate) security: ServerSecurity,
}

/// What `coordinator reproduce` takes.
#[derive(Args, Debug)]
pub(crate) struct ReproduceArgs {
    /// The run's directory
    #[arg(value_name = "RUN_DIR")]
    pub(crate) run_dir: PathBuf,
    /// Run it again under another name, and compare the final digests: 0 if they are the same, 4 if not
    #[arg(long)]
    pub(crate) start: bool,
}

/// Which run a command means: the newest run below ./runs if nothing is said.
#[derive(Args, Debug)]
pub(crate) struct RunSelector {
    /// The run's directory
    #[arg(value_name = "RUN_DIR", conflicts_with = "connect")]
    pub(crate) run_dir: Option<PathBuf>,
    /// The coordinator's address, such as https://host:port
    #[arg(long, value_name = "URL")]
    pub(crate) connect: Option<String>,
    /// The run's token, if it is not found without being named
    #[arg(long, value_name = "F")]
    pub(crate) token_file: Option<PathBuf>,
    /// How the coordinator is trusted
    #[command(flatten)]
    pub(crate) security: ClientSecurity,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = OutputForm::Text)]
    pub(crate) output: OutputForm,
}
