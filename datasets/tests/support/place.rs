//! Runs the `datasets` program in its own working directory.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A working directory with its own registry.
pub(crate) struct Place(pub(crate) tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.0.path().join(relative)
    }

    pub(crate) fn write(&self, relative: &str, content: impl AsRef<[u8]>) {
        let path = self.path(relative);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, content).expect("written");
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_datasets"));
        command.current_dir(self.0.path()).args(arguments).env("USER", "ann").env_remove("BONFIRE_DATASETS");
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("run")
    }

    /// Standard output of a successful call.
    pub(crate) fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), stderr.as_ref()), (Some(0), ""), "{arguments:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// The error line of a failing call.
    pub(crate) fn fails(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("datasets: ") && stderr.trim_end().lines().count() == 1, "{stderr:?}");
        stderr
    }

    pub(crate) fn manifests(&self) -> usize {
        let folder = self.path(".bonfire/datasets/manifests");
        walk(&folder).iter().filter(|path| path.extension().is_some_and(|end| end == "json")).count()
    }

    /// Path of the object with these contents.
    pub(crate) fn object(&self, content: &[u8]) -> PathBuf {
        let files = walk(&self.path(".bonfire/datasets/files"));
        files.into_iter().find(|path| std::fs::read(path).expect("read") == content).expect("the object")
    }
}

pub(crate) fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            files.append(&mut walk(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}

pub(crate) fn damage(path: &Path, content: &[u8]) {
    std::fs::remove_file(path).expect("removed");
    std::fs::write(path, content).expect("written");
}
