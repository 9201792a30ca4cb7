//! Digests of files: their MD5, by which DVC knows them, and their BLAKE3, which is what is trusted. Two files with one MD5
//! can be made by whoever wants to.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use md5::{Digest, Md5};

use crate::error::DataError;

/// What bytes are known by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Digests {
    /// In hexadecimal.
    pub(crate) md5: String,
    /// In hexadecimal.
    pub(crate) blake3: String,
    /// How many they are.
    pub(crate) bytes: u64,
}

impl Digests {
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    pub(crate) fn of_file(path: &Path) -> Result<Self, DataError> {
        let error = |source| DataError::Io { file: path.display().to_string(), source };
        let mut hashed = Hashed::new(File::open(path).map_err(error)?);
        let mut chunk = vec![0; 1 << 16];
        while hashed.read(&mut chunk).map_err(error)? > 0 {}
        Ok(hashed.digests())
    }
}

/// Makes both digests of bytes that come one after another.
#[derive(Default)]
pub(crate) struct Hasher {
    md5: Md5,
    /// Boxed: it has two kilobytes.
    blake3: Box<blake3::Hasher>,
    bytes: u64,
}

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.blake3.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    pub(crate) fn finish(self) -> Digests {
        let blake3 = self.blake3.finalize().to_hex().to_string();
        Digests { md5: hex::encode(self.md5.finalize()), blake3, bytes: self.bytes }
    }
}

/// The MD5 of a file's bytes, in hexadecimal: what `dvc add` would call it.
///
/// # Errors
/// When the file can't be read.
pub fn md5_of_file(path: &Path) -> Result<String, DataError> {
    Digests::of_file(path).map(|digests| digests.md5)
}

/// The MD5 of these bytes, in hexadecimal.
pub(crate) fn md5_of_bytes(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}

/// Hashes what is read through it, so that the digest is that of the very bytes that were understood.
pub(crate) struct Hashed<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Hashed<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hasher: Hasher::default() }
    }

    /// The digests of all bytes so far.
    pub(crate) fn digests(self) -> Digests {
        self.hasher.finish()
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.hasher.update(&into[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn as_dvc_has_it() {
        // The example of DVC's own documentation form: the MD5 of "hello\n".
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("f");
        std::fs::write(&path, "hello\n").expect("written");
        assert_eq!(super::md5_of_file(&path).expect("read"), "b1946ac92492d2347c6235b4d2611184");
    }
}
