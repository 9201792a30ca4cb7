//! The content store: each file once, keyed by its MD5.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use super::Registry;
use super::error::RegistryError;
use super::progress::Progress;
use super::source::SourceFile;
use super::workspace::Workspace;
use crate::digest::{Digests, Hasher};
use crate::listing::FileEntry;

/// Files up to this size are read, hashed and written in one go; larger ones are hashed first, and copied only if new.
const WHOLE_BYTES_MAX: u64 = 1 << 20;
/// Files must not be written to while they are added.
const GREW: &str = "the file changed while it was read; add it again when nobody writes to it";
const CHUNK_BYTES: usize = 1 << 18;

/// File names in a folder, unordered; empty if the folder doesn't exist.
pub(super) fn names_in(folder: &Path) -> Result<Vec<String>, RegistryError> {
    let entries = match std::fs::read_dir(folder) {
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(RegistryError::at(folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        // This program never creates names that are not UTF-8.
        names.extend(entry.map_err(RegistryError::at(folder))?.file_name().into_string().ok());
    }
    Ok(names)
}

/// Copies everything to `into` while hashing it.
pub(super) fn hash_through(
    mut from: impl Read,
    mut into: impl Write,
    progress: &dyn Progress,
) -> std::io::Result<Digests> {
    let mut hasher = Hasher::default();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = match from.read(&mut chunk) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(read) => read,
            Err(why) if why.kind() == ErrorKind::Interrupted => continue,
            Err(why) => return Err(why),
        };
        hasher.update(&chunk[..read]);
        into.write_all(&chunk[..read])?;
        progress.bytes(read as u64);
    }
}

impl Registry {
    /// Stores a file's contents, unless they are stored already, and returns its entry.
    pub(super) fn take_in(
        &self,
        file: &SourceFile,
        workspace: &Workspace,
        progress: &dyn Progress,
    ) -> Result<FileEntry, RegistryError> {
        let at = || RegistryError::at(&file.path);
        let digests = if file.bytes <= WHOLE_BYTES_MAX {
            let mut content = Vec::with_capacity(usize::try_from(file.bytes).unwrap_or(0) + 1);
            let source = File::open(&file.path).map_err(at())?;
            source.take(WHOLE_BYTES_MAX + 1).read_to_end(&mut content).map_err(at())?;
            if content.len() as u64 > WHOLE_BYTES_MAX {
                return Err(RegistryError::wrong(&file.path, GREW));
            }
            progress.bytes(content.len() as u64);
            let digests = Digests::of_bytes(&content);
            if !self.has(&digests.md5, &digests, &file.path)? {
                self.write_in(&digests.md5, &content, workspace)?;
            }
            digests
        } else {
            let source = File::open(&file.path).map_err(at())?;
            let hashed = hash_through(source, std::io::sink(), progress).map_err(at())?;
            if !self.has(&hashed.md5, &hashed, &file.path)? {
                self.copy_in(&file.path, &hashed, workspace)?;
            }
            hashed
        };
        progress.file();
        Ok(FileEntry::new(file.relative.clone(), digests))
    }

    /// Stores bytes under a name, unless they are stored already.
    pub(super) fn take_in_as(
        &self,
        name: &str,
        content: &[u8],
        workspace: &Workspace,
    ) -> Result<(), RegistryError> {
        if self.has(name, &Digests::of_bytes(content), &self.object(name))? {
            return Ok(());
        }
        self.write_in(name, content, workspace)
    }

    fn write_in(&self, name: &str, content: &[u8], workspace: &Workspace) -> Result<(), RegistryError> {
        let temporary = workspace.path();
        let mut file = create(&temporary)?;
        file.write_all(content).and_then(|()| settle(&file)).map_err(RegistryError::at(&temporary))?;
        self.publish(&temporary, name)
    }

    /// Copies a file into the store, by reflink where the file system supports it (btrfs, XFS). The copy itself is
    /// hashed, since the stored bytes must be those of the digest.
    fn copy_in(&self, path: &Path, expected: &Digests, workspace: &Workspace) -> Result<(), RegistryError> {
        let source = File::open(path).map_err(RegistryError::at(path))?;
        let temporary = workspace.path();
        let file = create(&temporary)?;
        let quiet = &super::NoProgress;
        let copied = if shares_blocks(&source, &file) {
            File::open(&temporary).and_then(|copy| hash_through(copy, std::io::sink(), quiet))
        } else {
            hash_through(source, &file, quiet)
        };
        let copied = copied.map_err(RegistryError::at(&temporary))?;
        settle(&file).map_err(RegistryError::at(&temporary))?;
        if copied != *expected {
            return Err(RegistryError::wrong(path, GREW));
        }
        self.publish(&temporary, &expected.md5)
    }

    /// Renames finished contents to their final name. A concurrent writer of the same name has the same contents.
    fn publish(&self, temporary: &Path, name: &str) -> Result<(), RegistryError> {
        let path = self.object(name);
        match std::fs::rename(temporary, &path) {
            Err(why) if why.kind() == ErrorKind::NotFound => {
                let folder = path.parent().unwrap_or(&path);
                std::fs::create_dir_all(folder).map_err(RegistryError::at(folder))?;
                std::fs::rename(temporary, &path).map_err(RegistryError::at(&path))
            }
            renamed => renamed.map_err(RegistryError::at(&path)),
        }
    }

    /// Whether these contents are stored under this name. They are hashed again: MD5 and size alone would accept a
    /// deliberately colliding file. Truncated or damaged files are stored anew.
    fn has(&self, name: &str, expected: &Digests, added: &Path) -> Result<bool, RegistryError> {
        let path = self.object(name);
        let is_there = std::fs::metadata(&path);
        if !is_there.is_ok_and(|found| found.is_file() && found.len() == expected.bytes) {
            return Ok(false);
        }
        let found = Digests::of_file(&path)?;
        if found == *expected || found.md5 != expected.md5 {
            return Ok(found == *expected);
        }
        Err(RegistryError::wrong(
            added,
            format!(
                "its MD5 {} is that of another file here ({}), but its BLAKE3 is {} and the other's {}: somebody made two files \
                 with one MD5 on purpose, and this registry, which has DVC's layout, holds one of them; trust neither",
                expected.md5,
                path.display(),
                expected.blake3,
                found.blake3
            ),
        ))
    }
}

/// Creates a file that is read-only once closed, as DVC's are, so that history isn't edited by mistake.
fn create(path: &Path) -> Result<File, RegistryError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o444);
    options.open(path).map_err(RegistryError::at(path))
}

#[cfg(target_os = "linux")]
fn shares_blocks(source: &File, copy: &File) -> bool {
    rustix::fs::ioctl_ficlone(copy, source).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn shares_blocks(_: &File, _: &File) -> bool {
    false
}

/// On Linux, [`sync`] makes all files durable at once, instead of waiting for the disk once per file.
#[cfg(target_os = "linux")]
fn settle(_: &File) -> std::io::Result<()> {
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn settle(file: &File) -> std::io::Result<()> {
    file.sync_all()
}

/// Makes everything written to this folder's file system durable.
#[cfg(target_os = "linux")]
pub(super) fn sync(root: &Path) -> Result<(), RegistryError> {
    let folder = File::open(root).map_err(RegistryError::at(root))?;
    rustix::fs::syncfs(&folder).map_err(|why| RegistryError::at(root)(why.into()))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn sync(_: &Path) -> Result<(), RegistryError> {
    Ok(())
}
