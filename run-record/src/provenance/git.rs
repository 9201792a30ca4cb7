//! The git checkout around a folder, from the git program; without git, the commit is read from `.git`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::child;

/// Timeout of each git command: enough for a large tree on a slow disk.
const DEADLINE: Duration = Duration::from_secs(5);
/// Maximum bytes of an answer that is a name.
const NAME_BYTES_MAX: usize = 4 << 10;
/// Maximum bytes of a diff that is kept: a larger one is data rather than a change to a program.
pub(crate) const DIFF_BYTES_MAX: usize = 1 << 20;

/// The state of a git checkout.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Git {
    /// The commit.
    pub commit: String,
    /// The branch, if one is checked out.
    pub branch: Option<String>,
    /// The clone URL, without user name and password.
    pub repository: Option<String>,
    /// Whether tracked files were changed; `None` if git gave no answer.
    pub dirty: Option<bool>,
    /// The file next to `run.json` that holds the changes.
    pub diff: Option<String>,
    /// Why there is no such file although there are changes.
    pub diff_left_out: Option<String>,
}

/// Changes to tracked files, as `git apply` takes them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GitDiff(pub Vec<u8>);

/// Queries the checkout around a folder; `None` if there is none.
pub(super) fn ask(directory: &Path, wants_diff: bool) -> Option<(Git, Option<GitDiff>)> {
    let line = |arguments: &[&str]| {
        let said = git(directory, arguments, NAME_BYTES_MAX).filter(|said| !said.is_cut)?;
        let text = String::from_utf8_lossy(&said.bytes).trim().to_owned();
        (!text.is_empty()).then_some(text)
    };
    let Some(commit) = line(&["rev-parse", "--verify", "HEAD"]) else {
        let commit = commit_without_git(directory)?;
        return Some((Git { commit, ..Git::default() }, None));
    };
    // Truncated output already means that there are changes.
    let changed = git(directory, &["status", "--porcelain", "--untracked-files=no"], NAME_BYTES_MAX);
    let mut answer = Git {
        commit,
        branch: line(&["symbolic-ref", "--short", "-q", "HEAD"]),
        repository: line(&["config", "--get", "remote.origin.url"]).map(|url| without_credentials(&url)),
        dirty: changed.map(|said| !said.bytes.is_empty()),
        diff: None,
        diff_left_out: None,
    };
    if answer.dirty != Some(true) {
        return Some((answer, None));
    }
    let diff = if wants_diff { diff(directory) } else { Err("tracker.git_diff = false".to_owned()) };
    answer.diff_left_out = diff.as_ref().err().cloned();
    Some((answer, diff.ok()))
}

fn diff(directory: &Path) -> Result<GitDiff, String> {
    let top = git(directory, &["rev-parse", "--show-toplevel"], NAME_BYTES_MAX)
        .map(|said| PathBuf::from(String::from_utf8_lossy(&said.bytes).trim_end()))
        .filter(|top| top.is_dir())
        .ok_or("git did not name the checkout's folder")?;
    let arguments = ["diff", "--binary", "--no-color", "--no-ext-diff", "--no-textconv", "HEAD"];
    match git(&top, &arguments, DIFF_BYTES_MAX) {
        Some(said) if said.is_cut => Err(format!("it has more than {DIFF_BYTES_MAX} bytes")),
        Some(said) => Ok(GitDiff(said.bytes)),
        None => Err(format!("git diff gave no answer within {} s", DEADLINE.as_secs())),
    }
}

fn git(directory: &Path, arguments: &[&str], bytes_max: usize) -> Option<child::ChildOutput> {
    child::ask(Path::new("git"), arguments, directory, bytes_max, DEADLINE)
}

/// The commit according to `.git`, for machines without a git program.
fn commit_without_git(directory: &Path) -> Option<String> {
    let git = directory.ancestors().map(|dir| dir.join(".git")).find(|git| git.is_dir())?;
    let head = std::fs::read_to_string(git.join("HEAD")).ok()?;
    let Some(name) = head.trim().strip_prefix("ref: ") else { return Some(head.trim().to_owned()) };
    let loose = std::fs::read_to_string(git.join(name)).ok().map(|commit| commit.trim().to_owned());
    loose.or_else(|| {
        let packed = std::fs::read_to_string(git.join("packed-refs")).ok()?;
        packed.lines().find_map(|line| line.strip_suffix(name)?.split_whitespace().next().map(str::to_owned))
    })
}

/// A URL without the user name and password that may precede its host.
#[must_use]
pub fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // A password may itself contain an @: the last one before the path ends it.
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(dir: &Path, arguments: &[&str]) {
        let status = std::process::Command::new("git")
            .args(["-c", "user.name=n", "-c", "user.email=e@e", "-c", "commit.gpgsign=false"])
            .args(arguments)
            .current_dir(dir)
            .stdout(std::process::Stdio::null())
            .status();
        assert!(status.expect("git is there").success(), "git {arguments:?}");
    }

    fn checkout() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary folder");
        run(dir.path(), &["init", "-q", "-b", "trunk"]);
        run(dir.path(), &["remote", "add", "origin", "https://me:pass@word@host/repo.git"]);
        std::fs::create_dir(dir.path().join("sub")).expect("made");
        std::fs::write(dir.path().join("file"), "one\n").expect("written");
        run(dir.path(), &["add", "."]);
        run(dir.path(), &["commit", "-q", "-m", "first"]);
        dir
    }

    #[test]
    fn a_clean_checkout_is_its_commit() {
        let dir = checkout();
        std::fs::write(dir.path().join("untracked"), "x").expect("written");
        let (git, diff) = ask(&dir.path().join("sub"), true).expect("a checkout");
        assert_eq!(git.commit.len(), 40);
        assert_eq!(git.branch.as_deref(), Some("trunk"));
        assert_eq!(git.repository.as_deref(), Some("https://host/repo.git"));
        assert_eq!((git.dirty, diff), (Some(false), None));
        assert_eq!(commit_without_git(&dir.path().join("sub")), Some(git.commit.clone()));
        run(dir.path(), &["pack-refs", "--all"]);
        assert_eq!(commit_without_git(dir.path()), Some(git.commit));
    }

    #[test]
    fn the_diff_makes_the_changes_again_from_wherever_it_was_asked_for() {
        let dir = checkout();
        std::fs::write(dir.path().join("file"), "two\0\n").expect("written");
        let (git, diff) = ask(&dir.path().join("sub"), true).expect("a checkout");
        assert_eq!((git.dirty, git.diff_left_out), (Some(true), None));
        let patch = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(patch.path(), diff.expect("a diff").0).expect("written");
        run(dir.path(), &["checkout", "-q", "."]);
        run(dir.path(), &["apply", &patch.path().display().to_string()]);
        assert_eq!(std::fs::read(dir.path().join("file")).expect("read"), b"two\0\n");
    }

    #[test]
    fn a_diff_that_is_not_wanted_or_too_large_is_left_out_with_the_reason() {
        let dir = checkout();
        let lines: String = (0..200_000).map(|number| format!("{number} x\n")).collect();
        std::fs::write(dir.path().join("file"), lines).expect("written");
        for (wants, reason) in [(false, "git_diff"), (true, "bytes")] {
            let (git, diff) = ask(dir.path(), wants).expect("a checkout");
            assert_eq!((git.dirty, diff), (Some(true), None));
            assert!(git.diff_left_out.as_deref().is_some_and(|said| said.contains(reason)), "{git:?}");
        }
    }

    #[test]
    fn outside_of_a_checkout_there_is_nothing() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(ask(dir.path(), true), None);
    }

    #[test]
    fn addresses_lose_their_passwords() {
        for (url, expected) in [
            ("https://u:p@h/x", "https://h/x"),
            ("https://u:p@q@h:1/x@y", "https://h:1/x@y"),
            ("https://h/x@y", "https://h/x@y"),
            ("git@host:repo", "git@host:repo"),
            ("/a/path", "/a/path"),
        ] {
            assert_eq!(without_credentials(url), expected);
        }
    }
}
