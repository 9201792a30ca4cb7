//! The command line of the worker.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use trainer::DeviceSpec;

/// The same exit codes as the coordinator's.
const EXIT_CODES: &str = "Exit codes: 0 the run is completed; 2 command line, or refused; 3 data or version missing or \
                          wrong; 4 failed, or the coordinator is lost; 130 interrupted.";

/// Computes gradients for a run: joins its coordinator and works until the run ends.
#[derive(Parser, Debug)]
#[command(name = "worker", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// The coordinator's control address, such as https://host:7070
    #[arg(long, value_name = "URL", required_unless_present_any = ["list_devices", "check_task"])]
    pub coordinator: Option<String>,
    /// auto, cpu, ndarray, wgpu, vulkan, cuda, or one of several: wgpu:1
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceSpec,
    /// List the devices that this build can use, one a line, and end
    #[arg(long)]
    pub list_devices: bool,
    /// Read a run's configuration and data plan as JSON on standard input, say as JSON whether this program can train it,
    /// and end (`coordinator check` asks so)
    #[arg(long, conflicts_with = "list_devices")]
    pub check_task: bool,
    /// Name for people; the default is the host's name and the process id
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Address at which other members reach this one; unused while the coordinator reduces
    #[arg(long, value_name = "ADDR")]
    pub advertise: Option<SocketAddr>,
    /// The run's token and the fingerprint of its certificate, if it is not found without being named: RUN_DIR/token
    #[arg(long, value_name = "F")]
    pub token_file: Option<PathBuf>,
    /// Trust the coordinator's certificate by this authority and its name, rather than by the fingerprint beside the token
    #[arg(long, value_name = "F")]
    pub tls_ca: Option<PathBuf>,
    /// A certificate to show, where the run asks for one
    #[arg(long, value_name = "F", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "F", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// How long to try to join before giving up, such as 5m or 30s
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub join_timeout: Duration,
    /// Speak http:// to a coordinator on another machine: whoever is on the network between reads the token, the data and
    /// the model, and can change them
    #[arg(long)]
    pub insecure: bool,
    /// Serve /metrics for Prometheus at this address, such as 127.0.0.1:9465; off this machine under TLS with --tls-cert, to
    /// who shows the token of --token-file
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<SocketAddr>,
    /// Slot in which the coordinator started this process
    #[arg(long, value_name = "N", hide = true)]
    pub slot: Option<u32>,
}

/// Reads "5m", "30s", "500ms", "1h".
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("a duration is a whole number and one of ms, s, m, h, such as 5m".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text:?} does not start with a whole number"))?;
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(|| format!("{text} is too long"))
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
    fn durations() {
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "5", "m", "5 m", "-5s", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(wrong).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn a_coordinator_is_needed_to_work_but_not_to_list() {
        assert!(Cli::try_parse_from(["worker"]).is_err());
        assert!(Cli::try_parse_from(["worker", "--list-devices"]).is_ok());
        assert!(Cli::try_parse_from(["worker", "--check-task", "--device", "cpu"]).is_ok());
        let cli = Cli::try_parse_from(["worker", "--coordinator", "http://127.0.0.1:1", "--slot", "3"]);
        assert_eq!(cli.expect("as the coordinator starts it").slot, Some(3));
    }
}
