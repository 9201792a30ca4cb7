//! Writes below a folder that may contain untrusted symlinks, without following any of them.
//!
//! Each folder is opened relative to its parent, without following symlinks, so a symlink placed meanwhile is not
//! followed, as it could be between checking a path and using it. The root itself may be a symlink: whoever names it
//! means its target.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// A root folder that writes can't escape.
#[derive(Debug)]
pub(crate) struct SandboxedFolder {
    root: PathBuf,
    folder: imp::Folder,
}

/// An open folder below the root.
#[derive(Debug)]
pub(crate) struct OpenFolder {
    path: PathBuf,
    folder: imp::Folder,
}

#[derive(Debug)]
pub(crate) enum SandboxError {
    /// The path is a symlink.
    Link(PathBuf),
    /// A file-system error.
    Io(PathBuf, io::Error),
}

impl SandboxedFolder {
    /// Opens an existing folder.
    pub(crate) fn open(root: &Path) -> Result<Self, SandboxError> {
        let folder = imp::Folder::open(root).map_err(|why| SandboxError::Io(root.to_owned(), why))?;
        Ok(Self { root: root.to_owned(), folder })
    }

    /// Opens the parent folder of a relative path, creating missing folders; also returns the file name.
    pub(crate) fn folder_of<'a>(&self, relative: &'a str) -> Result<(OpenFolder, &'a str), SandboxError> {
        let (parents, name) = relative.rsplit_once('/').unwrap_or(("", relative));
        let mut path = self.root.clone();
        let mut folder = self.folder.again().map_err(|why| SandboxError::Io(path.clone(), why))?;
        for part in parents.split('/').filter(|part| !part.is_empty()) {
            path.push(part);
            let is_link = || path.symlink_metadata().is_ok_and(|found| found.file_type().is_symlink());
            folder = match folder.enter(part) {
                Err(_) if is_link() => return Err(SandboxError::Link(path)),
                entered => entered.map_err(|why| SandboxError::Io(path.clone(), why))?,
            };
        }
        Ok((OpenFolder { path, folder }, name))
    }
}

impl OpenFolder {
    /// Creates a new file. Fails if anything, including a symlink, has this name.
    pub(crate) fn create(&self, name: &str) -> io::Result<File> {
        self.folder.create(name)
    }

    /// Renames a file within this folder. Replaces a symlink of that name rather than following it.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.folder.rename(from, to)
    }

    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        self.folder.remove(name)
    }

    /// Whether anything, including a symlink, has this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.path.join(name).symlink_metadata().is_ok()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(unix)]
mod imp {
    use std::fs::File;
    use std::io;
    use std::os::fd::OwnedFd;
    use std::path::Path;

    use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, renameat, unlinkat};
    use rustix::io::Errno;

    #[derive(Debug)]
    pub(super) struct Folder(OwnedFd);

    const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

    impl Folder {
        pub(super) fn open(path: &Path) -> io::Result<Self> {
            Ok(Self(openat(CWD, path, FOLDER, Mode::empty())?))
        }

        pub(super) fn again(&self) -> io::Result<Self> {
            Ok(Self(self.0.try_clone()?))
        }

        pub(super) fn enter(&self, name: &str) -> io::Result<Self> {
            let open = || openat(&self.0, name, FOLDER | OFlags::NOFOLLOW, Mode::empty());
            match open() {
                Err(Errno::NOENT) => {
                    match mkdirat(&self.0, name, Mode::from_raw_mode(0o777)) {
                        // Another thread created it first.
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(why) => return Err(why.into()),
                    }
                    Ok(Self(open()?))
                }
                opened => Ok(Self(opened?)),
            }
        }

        pub(super) fn create(&self, name: &str) -> io::Result<File> {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            Ok(File::from(openat(&self.0, name, flags, Mode::from_raw_mode(0o666))?))
        }

        pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            Ok(renameat(&self.0, from, &self.0, to)?)
        }

        pub(super) fn remove(&self, name: &str) -> io::Result<()> {
            Ok(unlinkat(&self.0, name, AtFlags::empty())?)
        }
    }
}

/// Without openat, each folder is checked before it is used.
#[cfg(not(unix))]
mod imp {
    use std::fs::{File, OpenOptions};
    use std::io;
    use std::path::{Path, PathBuf};

    #[derive(Debug)]
    pub(super) struct Folder(PathBuf);

    impl Folder {
        pub(super) fn open(path: &Path) -> io::Result<Self> {
            if !path.is_dir() {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            Ok(Self(path.to_owned()))
        }

        pub(super) fn again(&self) -> io::Result<Self> {
            Ok(Self(self.0.clone()))
        }

        pub(super) fn enter(&self, name: &str) -> io::Result<Self> {
            let path = self.0.join(name);
            match path.symlink_metadata() {
                Err(why) if why.kind() == io::ErrorKind::NotFound => match std::fs::create_dir(&path) {
                    Err(why) if why.kind() != io::ErrorKind::AlreadyExists => return Err(why),
                    _ => {}
                },
                found if !found?.file_type().is_dir() => return Err(io::ErrorKind::NotADirectory.into()),
                _ => {}
            }
            Ok(Self(path))
        }

        pub(super) fn create(&self, name: &str) -> io::Result<File> {
            OpenOptions::new().write(true).create_new(true).open(self.0.join(name))
        }

        pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            std::fs::rename(self.0.join(from), self.0.join(to))
        }

        pub(super) fn remove(&self, name: &str) -> io::Result<()> {
            std::fs::remove_file(self.0.join(name))
        }
    }
}
