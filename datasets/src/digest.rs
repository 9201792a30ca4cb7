//! Digests of files: MD5, the key in DVC, and BLAKE3, for integrity, since MD5 collisions can be forged.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use md5::{Digest, Md5};

use crate::error::DataError;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Digests {
    /// Hexadecimal.
    pub(crate) md5: String,
    /// Hexadecimal.
    pub(crate) blake3: String,
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

/// Computes both digests incrementally.
#[derive(Default)]
pub(crate) struct Hasher {
    md5: Md5,
    /// Boxed because it takes two kilobytes.
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

/// MD5 of a file in hexadecimal, as `dvc add` computes it.
///
/// # Errors
/// If the file can't be read.
pub fn md5_of_file(path: &Path) -> Result<String, DataError> {
    Digests::of_file(path).map(|digests| digests.md5)
}

/// MD5 of `bytes` in hexadecimal.
pub(crate) fn md5_of_bytes(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}

/// Hashes everything read through it, so that the digest covers exactly the bytes that were parsed.
pub(crate) struct Hashed<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Hashed<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hasher: Hasher::default() }
    }

    /// The digests of all bytes read so far.
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
        // Example from DVC's documentation: the MD5 of "hello\n".
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("f");
        std::fs::write(&path, "hello\n").expect("written");
        assert_eq!(super::md5_of_file(&path).expect("read"), "b1946ac92492d2347c6235b4d2611184");
    }
}
