//! Fuzzes configurations and `--set` flags.

use configs::Config;

/// The input is a file, followed by a flag after each NUL. An accepted configuration must survive being written and
/// read again.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut parts = text.split('\0');
    let file = parts.next().unwrap_or_default();
    let flags: Vec<String> = parts.take(8).map(str::to_owned).collect();
    let config = match Config::parse(file, "run.toml", &flags) {
        Ok(config) => config,
        Err(refused) => {
            assert!(!refused.to_string().is_empty());
            return;
        }
    };
    let written = config.to_toml();
    let again = match Config::parse(&written, "config.toml", &[]) {
        Ok(again) => again,
        Err(refused) => panic!("what was written is refused: {refused}\n{written}"),
    };
    assert_eq!(again.digest(), config.digest());
    assert!(configs::difference(&config, &again).is_empty());
}
