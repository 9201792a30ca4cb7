//! Command lines with their secrets redacted.

use super::git::without_credentials;

/// Replaces a secret.
const CUT: &str = "***";

/// Parts of a name that mark its value as a secret.
const SECRET_WORDS: [&str; 7] = ["token", "password", "passwd", "secret", "credential", "api_key", "apikey"];

/// Redacts passwords in URLs, and the values of keys and options whose names mark a secret. The names of files that
/// hold secrets (`--token-file F`) stay.
#[must_use]
pub fn without_secrets(arguments: &[String]) -> Vec<String> {
    let mut is_secret_next = false;
    arguments
        .iter()
        .map(|argument| {
            if std::mem::take(&mut is_secret_next) {
                return CUT.to_owned();
            }
            match argument.split_once('=') {
                Some((name, _)) if names_a_secret(name) => format!("{name}={CUT}"),
                Some((name, value)) => format!("{name}={}", without_credentials(value)),
                None => {
                    is_secret_next = argument.starts_with("--") && names_a_secret(argument);
                    without_credentials(argument)
                }
            }
        })
        .collect()
}

fn names_a_secret(name: &str) -> bool {
    let name = name.rsplit('.').next().unwrap_or(name).to_ascii_lowercase().replace('-', "_");
    !name.ends_with("file") && SECRET_WORDS.iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_cut_and_nothing_else() {
        let given = [
            "coordinator",
            "--token-file",
            "/home/me/token",
            "--set",
            "tracker.api_key=abc",
            "--set",
            "dataset.uri=https://me:hunter2@host/data.csv",
            "--auth-token",
            "s3cret",
            "--password=p",
            "--set",
            "train.epochs=5",
        ];
        let cut = without_secrets(&given.map(str::to_owned));
        let expected = [
            "coordinator",
            "--token-file",
            "/home/me/token",
            "--set",
            "tracker.api_key=***",
            "--set",
            "dataset.uri=https://host/data.csv",
            "--auth-token",
            "***",
            "--password=***",
            "--set",
            "train.epochs=5",
        ];
        assert_eq!(cut, expected);
    }
}
