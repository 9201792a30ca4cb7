//! NVIDIA GPUs, queried through the program that comes with their driver. Without it, nothing is queried.

use std::path::{Path, PathBuf};
use std::time::Duration;

use run_record::provenance::child;

/// Timeout of a query, which may have to wake a sleeping GPU.
const DEADLINE: Duration = Duration::from_secs(3);
/// Maximum bytes of the output: one line for each of sixteen GPUs.
const BYTES_MAX: usize = 16 << 10;
const QUERY: &str = "--query-gpu=index,utilization.gpu,memory.used,memory.total,power.draw";
/// `nvidia-smi` counts memory in 2^20 bytes, MLflow in 10^6.
const MEBIBYTE_IN_MEGABYTES: f64 = 1.048_576;

/// Finds the program on the search path.
pub(super) fn nvidia_smi() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join("nvidia-smi")).find(|program| program.is_file())
}

/// The metrics of all GPUs under MLflow's names; `None` if the program fails.
pub(super) fn ask(program: &Path) -> Option<Vec<(String, f64)>> {
    let arguments = [QUERY, "--format=csv,noheader,nounits"];
    let said = child::ask(program, &arguments, Path::new("/"), BYTES_MAX, DEADLINE)?;
    Some(parse(&String::from_utf8_lossy(&said.bytes)))
}

/// Parses the output; values that a GPU doesn't report ("[N/A]") are left out.
fn parse(text: &str) -> Vec<(String, f64)> {
    let mut values = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let [index, utilization, used, total, power] = fields[..] else { continue };
        let Ok(index) = index.parse::<u32>() else { continue };
        let mut add = |name: &str, value: Option<f64>| {
            if let Some(value) = value.filter(|value| value.is_finite()) {
                values.push((format!("gpu_{index}_{name}"), value));
            }
        };
        let number = |field: &str| field.parse::<f64>().ok();
        add("utilization_percentage", number(utilization));
        add("memory_usage_megabytes", number(used).map(|used| used * MEBIBYTE_IN_MEGABYTES));
        let part = number(used).zip(number(total)).map(|(used, total)| 100.0 * used / total);
        add("memory_usage_percentage", part);
        add("power_usage_watts", number(power));
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_read_and_what_they_lack_is_left_out() {
        let values = parse("0, 37, 1000, 4000, 71.5\n1, 0, 0, 4000, [N/A]\nNo devices were found\n");
        let expected = [
            ("gpu_0_utilization_percentage", 37.0),
            ("gpu_0_memory_usage_megabytes", 1_048.576),
            ("gpu_0_memory_usage_percentage", 25.0),
            ("gpu_0_power_usage_watts", 71.5),
            ("gpu_1_utilization_percentage", 0.0),
            ("gpu_1_memory_usage_megabytes", 0.0),
            ("gpu_1_memory_usage_percentage", 0.0),
        ];
        assert_eq!(values, expected.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn a_program_that_fails_says_nothing() {
        assert_eq!(ask(Path::new("/nonexistent/nvidia-smi")), None);
    }
}
