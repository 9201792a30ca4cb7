//! The `Authorization` header, built from the same sources as in MLflow's own client (release 3.17).

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::config::{Environment, SinkConfigError};

/// Replaces a secret that a message repeats.
const HIDDEN: &str = "(secret)";
/// Shorter words are no secrets, and redacting them would garble messages.
const SECRET_CHARS_MIN: usize = 4;

/// The header's value, and the words that must never be shown.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) struct Credentials {
    header: Option<String>,
    secrets: Vec<String>,
}

impl Credentials {
    /// In order of precedence: credentials in the URL, user name and password, a token. User name and password are
    /// each looked up in the environment, then in `~/.mlflow/credentials`.
    pub(super) fn find(
        user: Option<(String, String)>,
        environment: Environment<'_>,
    ) -> Result<Self, SinkConfigError> {
        let set = |name: &str| environment(name).filter(|value| !value.is_empty());
        let file = set("HOME").map(|home| PathBuf::from(home).join(".mlflow/credentials"));
        let kept = file.map_or_else(|| Ok(Kept::default()), |file| Kept::read(&file))?;
        let name = set("MLFLOW_TRACKING_USERNAME").or(kept.name);
        let password = set("MLFLOW_TRACKING_PASSWORD").or(kept.password);
        if let Some((name, password)) = user.or_else(|| name.zip(password)) {
            let coded = BASE64_STANDARD.encode(format!("{name}:{password}"));
            return Ok(Self { header: Some(format!("Basic {coded}")), secrets: vec![coded, password] });
        }
        let Some(token) = set("MLFLOW_TRACKING_TOKEN") else { return Ok(Self::default()) };
        if !token.bytes().all(|byte| matches!(byte, b' '..=b'~')) || token.trim() != token {
            return Err(SinkConfigError(
                "MLFLOW_TRACKING_TOKEN can't be sent: it has blanks or a line's end at its beginning or end, or letters that a \
                 header doesn't take. Set it to the token alone"
                    .to_owned(),
            ));
        }
        Ok(Self { header: Some(format!("Bearer {token}")), secrets: vec![token] })
    }

    pub(super) fn header(&self) -> Option<&str> {
        self.header.as_deref()
    }

    /// Redacts our secrets in somebody else's message, which may repeat what we sent.
    pub(super) fn hide(&self, text: &str) -> String {
        let secrets = self.secrets.iter().filter(|secret| secret.chars().count() >= SECRET_CHARS_MIN);
        secrets.fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), HIDDEN))
    }
}

/// The section `[mlflow]` of `~/.mlflow/credentials`.
#[derive(Default)]
struct Kept {
    name: Option<String>,
    password: Option<String>,
}

impl Kept {
    fn read(path: &Path) -> Result<Self, SinkConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(why) => Err(SinkConfigError(format!(
                "{}, where MLflow's clients keep name and password, can't be read: {why}. Mend it or move it away",
                path.display()
            ))),
        }
    }

    /// Parses the common subset of the format of Python's `configparser`.
    fn parse(text: &str) -> Self {
        let (mut kept, mut is_ours) = (Self::default(), false);
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
            if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                is_ours = section == "mlflow";
            } else if let Some((key, value)) = line.split_once(['=', ':']).filter(|_| is_ours) {
                let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
                match key.trim().to_lowercase().as_str() {
                    "mlflow_tracking_username" => kept.name = value,
                    "mlflow_tracking_password" => kept.password = value,
                    _ => {}
                }
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(user: Option<(&str, &str)>, variables: &[(&str, &str)]) -> Result<Option<String>, String> {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let user = user.map(|(name, password)| (name.to_owned(), password.to_owned()));
        let found = Credentials::find(user, &variable).map_err(|why| why.to_string())?;
        Ok(found.header().map(str::to_owned))
    }

    fn basic(text: &str) -> Result<Option<String>, String> {
        Ok(Some(format!("Basic {}", BASE64_STANDARD.encode(text))))
    }

    /// The order was observed on MLflow's client.
    #[test]
    fn the_address_goes_first_then_name_and_password_then_a_token() {
        let token = ("MLFLOW_TRACKING_TOKEN", "t");
        let all = [("MLFLOW_TRACKING_USERNAME", "u"), ("MLFLOW_TRACKING_PASSWORD", "p"), token];
        assert_eq!(find(None, &[]), Ok(None));
        assert_eq!(find(Some(("x", "y")), &all), basic("x:y"));
        assert_eq!(find(None, &all), basic("u:p"));
        assert_eq!(find(None, &[all[0], token]), Ok(Some("Bearer t".into())));
        assert_eq!(find(None, &all[..1]), Ok(None));
        let why = find(None, &[("MLFLOW_TRACKING_TOKEN", "geheim\n")]).expect_err("refused");
        assert!(why.contains("MLFLOW_TRACKING_TOKEN") && !why.contains("geheim"), "{why}");
    }

    #[test]
    fn name_and_password_are_found_in_the_file_of_mlflows_clients() {
        let home = tempfile::tempdir().expect("a folder");
        let at = ("HOME", home.path().to_str().expect("a name"));
        assert_eq!(find(None, &[at]), Ok(None));
        let file = home.path().join(".mlflow/credentials");
        std::fs::create_dir(home.path().join(".mlflow")).expect("made");
        let text = "[other]\nmlflow_tracking_password = no\n# a comment\n[mlflow]\n\
                    MLFLOW_TRACKING_USERNAME = fu\nmlflow_tracking_password: f:p=\n";
        std::fs::write(&file, text).expect("written");
        assert_eq!(find(None, &[at]), basic("fu:f:p="));
        assert_eq!(find(None, &[at, ("MLFLOW_TRACKING_USERNAME", "eu")]), basic("eu:f:p="));
        std::fs::remove_file(&file).expect("removed");
        std::fs::create_dir(&file).expect("a folder in its place");
        let why = find(None, &[at]).expect_err("refused");
        assert!(why.contains(".mlflow/credentials"), "{why}");
    }

    #[test]
    fn what_is_repeated_of_a_secret_is_hidden() {
        let user = Some(("me".to_owned(), "geheim".to_owned()));
        let found = Credentials::find(user, &|_| None).expect("credentials");
        let said = found.hide("bad header Basic bWU6Z2VoZWlt of me, password geheim");
        assert_eq!(said, "bad header Basic (secret) of me, password (secret)");
    }
}
