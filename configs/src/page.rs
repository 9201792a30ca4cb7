//! Generates KEYS.md.

use std::fmt::Write;

use crate::keys::{KEYS, Kind, MODEL_KEYS, RESERVED, Role};

const HEAD: &str = "\
# Keys of a configuration

A run's *trajectory* keys change its weights: they are frozen when it starts, and `--resume` refuses other values.
*Operational* keys may change from start to start. The *length* may too, unless `schedule.kind = \"cosine\"`, which
depends on it.

`--set section.key=value` overrides any key, as often as needed; the last one counts. The value is read as TOML; what
is no TOML is a string, so `--set optimizer.kind=sgd` needs no quotes (a run that is called 7 does:
`--set 'run.name=\"7\"'`). A name with a dot in it is quoted: `--set 'dataset.columns.\"a.b\"=ignore'`. Of
`train.epochs` and `train.steps` the one that is set replaces the other one of the file.

A key that is unknown, or a value that its key doesn't take, is refused with its place, what is allowed, and the nearest
right key. The *default* is taken where a key is absent; \"-\" stands for none.
";

/// The text of KEYS.md, generated from [`KEYS`], [`MODEL_KEYS`] and [`RESERVED`].
#[must_use]
pub fn page() -> String {
    let mut text = String::from(HEAD);
    let mut section = "";
    for key in KEYS {
        if key.section() != section {
            section = key.section();
            let head = "| key | value | default | | meaning |\n| --- | --- | --- | --- | --- |";
            let _ = write!(text, "\n## `[{section}]`\n\n{head}\n");
        }
        let role = match key.role {
            Role::Trajectory => "trajectory",
            Role::Length => "length",
            Role::Operational => "operational",
        };
        text.push_str(&row(key.name(), key.kind, key.default, role, key.meaning));
        if key.path == "model.kind" {
            for of in MODEL_KEYS {
                text.push_str(&row(
                    of.name,
                    of.kind,
                    of.default,
                    role,
                    &format!("({}) {}", of.model, of.meaning),
                ));
            }
        }
    }
    text.push_str(
        "\nKeys of `[model]` for a kind that is not built in are passed to the task, which checks them.\n",
    );
    text.push_str("\n## Not yet\n\nThese have a name and are refused:\n\n");
    for (path, instead) in RESERVED {
        let _ = writeln!(text, "- `{path}`: {instead}");
    }
    text
}

fn row(name: &str, kind: Kind, default: &str, role: &str, meaning: &str) -> String {
    let default = if default.is_empty() { "-".to_owned() } else { format!("`{default}`") };
    // A bar would end the cell; rustdoc would take brackets for links.
    let plain = |text: &str| text.replace('|', "\\|").replace('[', "\\[").replace(']', "\\]");
    format!("| `{name}` | {} | {default} | {role} | {} |\n", plain(&kind.allowed()), plain(meaning))
}
