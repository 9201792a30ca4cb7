//! The files themselves, each once, named by its MD5.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use md5::{Digest, Md5};

use super::Registry;
use super::error::RegistryError;
use super::progress::Progress;
use super::source::SourceFile;
use super::workspace::Workspace;
use crate::digest::{hexadecimal, md5_of_bytes};
use crate::listing::FileEntry;

/// A file of so many bytes is read at once, hashed and written; a larger one is hashed first and copied if it is new.
const WHOLE_BYTES_MAX: u64 = 1 << 20;
/// Bytes that are read at a time.
const CHUNK_BYTES: usize = 1 << 18;

/// The names of what is in a folder, in no order; none if it isn't there.
pub(super) fn names_in(folder: &Path) -> Result<Vec<String>, RegistryError> {
    let entries = match std::fs::read_dir(folder) {
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(RegistryError::at(folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        // A name that is not UTF-8 is none that this program gave.
        names.extend(entry.map_err(RegistryError::at(folder))?.file_name().into_string().ok());
    }
    Ok(names)
}

/// What is read, hashed and counted on the way through.
pub(super) struct Copied {
    pub(super) md5: String,
    pub(super) bytes: u64,
}

/// Reads to the end, hashing; what is read goes `into`.
pub(super) fn hash_through(
    mut from: impl Read,
    mut into: impl Write,
    progress: &dyn Progress,
) -> std::io::Result<Copied> {
    let mut hasher = Md5::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut bytes = 0;
    loop {
        let read = match from.read(&mut chunk) {
            Ok(0) => return Ok(Copied { md5: hexadecimal(&hasher.finalize()), bytes }),
            Ok(read) => read,
            Err(why) if why.kind() == ErrorKind::Interrupted => continue,
            Err(why) => return Err(why),
        };
        hasher.update(&chunk[..read]);
        into.write_all(&chunk[..read])?;
        bytes += read as u64;
        progress.bytes(read as u64);
    }
}

impl Registry {
    /// Takes a file's bytes in, unless they are there, and says what they are.
    pub(super) fn take_in(
        &self,
        file: &SourceFile,
        workspace: &Workspace,
        progress: &dyn Progress,
    ) -> Result<FileEntry, RegistryError> {
        let at = || RegistryError::at(&file.path);
        let (md5, bytes) = if file.bytes <= WHOLE_BYTES_MAX {
            let content = std::fs::read(&file.path).map_err(at())?;
            progress.bytes(content.len() as u64);
            (self.take_in_bytes(&content, workspace)?, content.len() as u64)
        } else {
            let source = File::open(&file.path).map_err(at())?;
            let hashed = hash_through(source, std::io::sink(), progress).map_err(at())?;
            if !self.has(&hashed.md5, hashed.bytes) {
                self.copy_in(&file.path, &hashed, workspace)?;
            }
            (hashed.md5, hashed.bytes)
        };
        progress.file();
        Ok(FileEntry { path: file.relative.clone(), bytes, md5 })
    }

    /// Takes bytes in, unless they are there, and returns their MD5.
    fn take_in_bytes(&self, content: &[u8], workspace: &Workspace) -> Result<String, RegistryError> {
        let md5 = md5_of_bytes(content);
        self.take_in_as(&md5, content, workspace)?;
        Ok(md5)
    }

    /// Takes bytes in under a name, unless they are there.
    pub(super) fn take_in_as(
        &self,
        name: &str,
        content: &[u8],
        workspace: &Workspace,
    ) -> Result<(), RegistryError> {
        if self.has(name, content.len() as u64) {
            return Ok(());
        }
        let temporary = workspace.path();
        let mut file = create(&temporary)?;
        file.write_all(content).and_then(|()| settle(&file)).map_err(RegistryError::at(&temporary))?;
        self.publish(&temporary, name)
    }

    /// Copies a file in. A file system that can share blocks (btrfs, XFS) shares them; what counts is that the bytes
    /// under the name are the bytes that were hashed, so they are hashed as they arrive.
    fn copy_in(&self, path: &Path, expected: &Copied, workspace: &Workspace) -> Result<(), RegistryError> {
        let source = File::open(path).map_err(RegistryError::at(path))?;
        let temporary = workspace.path();
        let file = create(&temporary)?;
        let quiet = &super::Quiet;
        let copied = if shares_blocks(&source, &file) {
            File::open(&temporary).and_then(|copy| hash_through(copy, std::io::sink(), quiet))
        } else {
            hash_through(source, &file, quiet)
        };
        let copied = copied.map_err(RegistryError::at(&temporary))?;
        settle(&file).map_err(RegistryError::at(&temporary))?;
        if copied.md5 != expected.md5 {
            return Err(RegistryError::wrong(
                path,
                "the file changed while it was read; add it again when nobody writes to it",
            ));
        }
        self.publish(&temporary, &expected.md5)
    }

    /// Gives finished bytes their name. Whoever did so at the same time had the same bytes.
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

    /// Whether so many bytes are there under this name. One that was cut is taken in anew; `verify` reads them all.
    fn has(&self, name: &str, bytes: u64) -> bool {
        std::fs::metadata(self.object(name)).is_ok_and(|found| found.is_file() && found.len() == bytes)
    }
}

/// Makes a file that is read-only once it is closed, as DVC's are: nobody edits history by mistake.
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

/// On Linux [`sync`] makes all files durable at once, instead of waiting for the disk once per file.
#[cfg(target_os = "linux")]
fn settle(_: &File) -> std::io::Result<()> {
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn settle(file: &File) -> std::io::Result<()> {
    file.sync_all()
}

/// Makes all that was written to the file system of this folder durable.
#[cfg(target_os = "linux")]
pub(super) fn sync(root: &Path) -> Result<(), RegistryError> {
    let folder = File::open(root).map_err(RegistryError::at(root))?;
    rustix::fs::syncfs(&folder).map_err(|why| RegistryError::at(root)(why.into()))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn sync(_: &Path) -> Result<(), RegistryError> {
    Ok(())
}
