//! Locates the artifacts of a run or a model, and confines access to them: no path leads out of its folder, neither by
//! its components nor by a link.

use std::fs::Metadata;
use std::path::{Path, PathBuf};

use run_record::RunRecord;

use super::Failure;
use super::api::no_run;
use crate::clients;
use crate::clients::documents::LoggedModel;
use crate::index::{Kind, Reader};

/// Files of a run of Bonfire that are exposed: neither its token nor its logs.
const SHOWN: [&str; 7] =
    [RunRecord::FILE, "config.toml", "data.json", "metrics.jsonl", "system.jsonl", "exports", "checkpoints"];

/// `git.diff`, and `git-2.diff` of a later start with other changes.
fn is_diff(name: &str) -> bool {
    let number = name.strip_prefix("git").and_then(|rest| rest.strip_suffix(".diff"));
    number.is_some_and(|number| {
        number.is_empty()
            || number
                .strip_prefix('-')
                .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// A path's components, if none of them leads out of its folder.
pub(super) fn parts(path: &str) -> Result<Vec<&str>, Failure> {
    let is_bad = |part: &str| matches!(part, "" | "." | "..") || part.contains(['\\', '\0']);
    let parts: Vec<&str> = match path.strip_suffix('/').unwrap_or(path) {
        "" => Vec::new(),
        path => path.split('/').collect(),
    };
    if path.starts_with('/') || parts.iter().any(|part| is_bad(part)) {
        return Err(Failure::invalid(format!(
            "Invalid path: {path:?} leads out of its folder, or is no path"
        )));
    }
    Ok(parts)
}

/// The artifacts folder of a run or a model.
pub(super) struct ArtifactLocation {
    folder: PathBuf,
    kind: Kind,
}

impl ArtifactLocation {
    pub(super) fn of_run(reader: &Reader, experiment: &str, id: &str) -> Result<Self, Failure> {
        let row = reader.row(id)?.filter(|row| row.experiment == experiment).ok_or_else(|| no_run(id))?;
        let folder = reader.root().join(&row.folder);
        match row.kind {
            Kind::Bonfire => Ok(Self { folder, kind: row.kind }),
            Kind::Client => Ok(Self { folder: clients::artifacts(&folder), kind: row.kind }),
        }
    }

    pub(super) fn of_model(reader: &Reader, experiment: &str, id: &str) -> Result<Self, Failure> {
        let found = reader.document::<LoggedModel>(id)?.filter(|model| model.experiment == experiment);
        if found.is_none() {
            return Err(Failure::absent(format!("Logged model with ID '{id}' not found.")));
        }
        let folder = clients::artifacts(&reader.root().join(clients::model_folder(experiment, id)));
        Ok(Self { folder, kind: Kind::Client })
    }

    /// Resolves a path such as `EXPERIMENT/RUN/artifacts/a/b` to the owner's location and the remaining path.
    pub(super) fn of_path(reader: &Reader, path: &str) -> Result<(Self, Vec<String>), Failure> {
        let rest = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect();
        match parts(path)?.as_slice() {
            [experiment, "models", model, "artifacts", inside @ ..] => {
                Ok((Self::of_model(reader, experiment, model)?, rest(inside)))
            }
            [experiment, run, "artifacts", inside @ ..] => {
                Ok((Self::of_run(reader, experiment, run)?, rest(inside)))
            }
            _ => Err(Failure::invalid(format!(
                "{path:?} is no artifact's path: EXPERIMENT/RUN/artifacts/.. or EXPERIMENT/models/MODEL/artifacts/.."
            ))),
        }
    }

    fn is_shown(&self, name: &str) -> bool {
        self.kind == Kind::Client || SHOWN.contains(&name) || is_diff(name)
    }

    pub(super) fn at(&self, inside: &[String]) -> Result<PathBuf, Failure> {
        if inside.first().is_some_and(|first| !self.is_shown(first)) {
            return Err(Failure::absent(format!("there is no artifact {:?}", inside.join("/"))));
        }
        let path = inside.iter().fold(self.folder.clone(), |path, part| path.join(part));
        if self.holds(&path) {
            return Ok(path);
        }
        Err(Failure::denied(format!(
            "artifact {:?} is a link, or behind one, that leads out of what is shown: put the file itself in its place",
            inside.join("/")
        )))
    }

    /// Whether a path is still an exposed one once links are resolved. For a path that doesn't exist yet, its nearest
    /// existing ancestor is checked.
    fn holds(&self, path: &Path) -> bool {
        let Ok(folder) = self.folder.canonicalize() else { return true };
        let there = path.ancestors().find_map(|path| path.canonicalize().ok());
        let inside = there.as_deref().and_then(|there| there.strip_prefix(&folder).ok());
        inside.is_some_and(|inside| {
            let first = inside.components().next();
            first.is_none_or(|first| first.as_os_str().to_str().is_some_and(|name| self.is_shown(name)))
        })
    }

    pub(super) fn writable(&self, inside: &[String]) -> Result<PathBuf, Failure> {
        if self.kind == Kind::Bonfire {
            return Err(Failure::denied(
                "the files of a run of Bonfire are its coordinator's: they can be read only",
            ));
        }
        if inside.is_empty() {
            return Err(Failure::invalid("a file's name is missing"));
        }
        self.at(inside)
    }

    /// Names and metadata of a folder's entries, sorted by name; empty if it is not a folder.
    pub(super) fn list(&self, inside: &[String]) -> Result<Vec<(String, Metadata)>, Failure> {
        let mut found = Vec::new();
        let Ok(entries) = std::fs::read_dir(self.at(inside)?) else { return Ok(found) };
        for entry in entries.flatten() {
            let name = entry.file_name().into_string();
            if let (Ok(name), Ok(metadata)) = (name, std::fs::metadata(entry.path()))
                && (!inside.is_empty() || self.is_shown(&name))
                && self.holds(&entry.path())
            {
                found.push((name, metadata));
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diffs_are_shown_and_what_only_looks_like_one_is_not() {
        assert!(["git.diff", "git-2.diff", "git-10.diff"].into_iter().all(is_diff));
        assert!(
            !["git-.diff", "git-token.diff", "token", "git.diff.bak", "git2.diff"].into_iter().any(is_diff)
        );
    }

    #[test]
    fn links_that_lead_out_are_refused_and_others_are_not() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().expect("a folder");
        let at = |path: &str| dir.path().join(path);
        std::fs::create_dir_all(at("disk/exports/real")).expect("made");
        symlink("disk", at("run")).expect("a run's folder may lie elsewhere");
        std::fs::write(at("secret"), "s").expect("written");
        std::fs::write(at("disk/token"), "t").expect("written");
        std::fs::write(at("disk/exports/real/m"), "m").expect("written");
        for (to, link) in [
            ("real", "inner"),
            ("../../secret", "file"),
            ("../..", "folder"),
            ("../token", "hidden"),
            ("nowhere", "dangling"),
        ] {
            symlink(to, at("disk/exports").join(link)).expect("linked");
        }
        let place = ArtifactLocation { folder: at("run"), kind: Kind::Bonfire };
        let asked = |path: &str| place.at(&path.split('/').map(str::to_owned).collect::<Vec<_>>());
        for good in ["exports/real/m", "exports/inner/m", "exports/new/m", "config.toml", "exports/dangling"]
        {
            assert!(asked(good).is_ok(), "{good}");
        }
        for bad in [
            "exports/file",
            "exports/folder",
            "exports/folder/secret",
            "exports/folder/new",
            "exports/hidden",
        ] {
            let why = asked(bad).expect_err("refused");
            assert!(why.message().contains(bad), "{why:?}");
        }
        let listed = place.list(&["exports".to_owned()]).expect("listed");
        assert_eq!(listed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["inner", "real"]);
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for bad in
            ["../x", "a/../../x", "/etc/passwd", "a/./b", "a\\..\\b", "a/\0", "..", "a//b", "a//", "//"]
        {
            assert!(parts(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parts("a/b c/").ok(), Some(vec!["a", "b c"]));
        assert_eq!(parts("").ok(), Some(vec![]));
    }
}
