//! Writing below a folder that somebody else may have put links into: no link is followed out of it.
//!
//! Each folder on the way is opened from the one above it, and only if it is none of a link: so nothing that is put there
//! meanwhile leads elsewhere, as it could between a look at a path and the use of it. The folder itself may be a link: whoever
//! names it means what it leads to.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// What goes on below a folder.
#[derive(Debug)]
pub(crate) struct SandboxedFolder {
    root: PathBuf,
    folder: imp::Folder,
}

/// A folder below it, open.
#[derive(Debug)]
pub(crate) struct OpenFolder {
    path: PathBuf,
    folder: imp::Folder,
}

/// Why a file can't be written below a folder.
#[derive(Debug)]
pub(crate) enum SandboxError {
    /// This is a link.
    Link(PathBuf),
    /// The file system says no.
    Io(PathBuf, io::Error),
}

impl SandboxedFolder {
    /// Opens a folder that is there.
    pub(crate) fn open(root: &Path) -> Result<Self, SandboxError> {
        let folder = imp::Folder::open(root).map_err(|why| SandboxError::Io(root.to_owned(), why))?;
        Ok(Self { root: root.to_owned(), folder })
    }

    /// Opens the folder of a file with this relative path, and makes what is missing on the way; and the file's own name.
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
    /// Makes a new file. What has its name already, a link too, is an error.
    pub(crate) fn create(&self, name: &str) -> io::Result<File> {
        self.folder.create(name)
    }

    /// Gives a file of this folder another name in it. A link of that name is replaced, not followed.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.folder.rename(from, to)
    }

    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        self.folder.remove(name)
    }

    /// Whether something, a link too, has this name.
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
                        // Another thread was first.
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

/// Where folders can't be opened, each is looked at before it is used.
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
