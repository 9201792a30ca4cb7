//! Digests in DVC's form: the MD5 of a file's bytes.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use md5::{Digest, Md5};

use crate::error::DataError;

/// The MD5 of a file's bytes, in hexadecimal: what `dvc add` would call it.
///
/// # Errors
/// When the file can't be read.
pub fn md5_of_file(path: &Path) -> Result<String, DataError> {
    let error = |source| DataError::Io { file: path.display().to_string(), source };
    let mut hashed = Hashed::new(File::open(path).map_err(error)?);
    let mut chunk = vec![0; 1 << 16];
    while hashed.read(&mut chunk).map_err(error)? > 0 {}
    Ok(hashed.digest().0)
}

/// The MD5 of these bytes, in hexadecimal.
pub(crate) fn md5_of_bytes(bytes: &[u8]) -> String {
    hexadecimal(&Md5::digest(bytes))
}

/// Bytes as a digest is written.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hashes what is read through it, so that the digest is that of the very bytes that were understood.
pub(crate) struct Hashed<R> {
    inner: R,
    hasher: Md5,
    bytes: u64,
}

impl<R: Read> Hashed<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hasher: Md5::new(), bytes: 0 }
    }

    /// The digest of all bytes so far, and their number.
    pub(crate) fn digest(self) -> (String, u64) {
        (hexadecimal(&self.hasher.finalize()), self.bytes)
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.hasher.update(&into[..read]);
        self.bytes += read as u64;
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
