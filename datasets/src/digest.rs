//! Digests in DVC's form: the MD5 of a file's bytes.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use md5::{Digest, Md5};

use crate::error::DataError;

/// The MD5 of a file's bytes, in hexadecimal: what `dvc add` would call it.
///
/// # Errors
/// When the file can't be read.
pub fn md5_of_file(path: &Path) -> Result<String, DataError> {
    let error = |source| DataError::Io { file: path.display().to_string(), source };
    let mut file = File::open(path).map_err(error)?;
    let mut hasher = Md5::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        match file.read(&mut chunk).map_err(error)? {
            0 => break,
            read => hasher.update(&chunk[..read]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
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
