//! Converts downloads with a format of their own to one that runs can read.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde::Deserialize;

use crate::quote::quoted;
use crate::registry::RegistryError;

/// Bytes of a CIFAR-10 image: red, green and blue planes of 32 x 32, row by row.
const PIXELS: usize = 3 * 32 * 32;
/// Maximum images per split; the published archive has 50,000 for training.
const RECORDS_MAX: u64 = 60_000;
/// Maximum entries of an archive; the published one has 9.
const ENTRIES_MAX: u64 = 64;
/// Maximum unpacked size in bytes: all images of both splits, and as much again for skipped entries.
const UNPACKED_BYTES_MAX: u64 = 4 * RECORDS_MAX * (PIXELS as u64 + 1);

/// How a file is unpacked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unpack {
    /// The binary version of CIFAR-10 in a gzipped tar archive: `data_batch_1.bin` to `data_batch_5.bin` and
    /// `test_batch.bin`, with a label byte and the pixels for each image (A. Krizhevsky, "The CIFAR-10 dataset",
    /// section "Binary version").
    Cifar10,
}

/// Unpacks an archive into the folder `idx` next to it: idx files of images and labels, for training and for testing.
/// An existing folder is kept as it is.
///
/// # Errors
/// If the archive can't be read or isn't the expected one, or the disk is full.
pub fn unpack(what: Unpack, archive: &Path) -> Result<PathBuf, RegistryError> {
    let Unpack::Cifar10 = what;
    let folder = archive.with_file_name("idx");
    if folder.is_dir() {
        return Ok(folder);
    }
    let partial = archive.with_file_name(format!(".idx.{}", std::process::id()));
    let unpacked = cifar10(archive, &partial)
        .and_then(|()| std::fs::rename(&partial, &folder).map_err(RegistryError::at(&folder)));
    if unpacked.is_err() {
        let _ = std::fs::remove_dir_all(&partial);
    }
    unpacked.map(|()| folder)
}

fn cifar10(archive: &Path, folder: &Path) -> Result<(), RegistryError> {
    // A fresh folder: nothing is written through an existing file or symlink.
    std::fs::create_dir(folder).map_err(RegistryError::at(folder))?;
    let mut parts = [SplitWriter::create(folder, "train")?, SplitWriter::create(folder, "test")?];
    let file = File::open(archive).map_err(RegistryError::at(archive))?;
    let wrong = |problem: String| RegistryError::wrong(archive, problem);
    let broken = |why: std::io::Error| wrong(format!("this is no tar archive: {why}"));
    let mut tar = tar::Archive::new(LimitedReader { inner: GzDecoder::new(file), left: UNPACKED_BYTES_MAX });
    let mut names = BTreeSet::new();
    // Raw: GNU long-name entries are listed like any other, not read into memory.
    for (number, entry) in (1u64..).zip(tar.entries().map_err(broken)?.raw(true)) {
        let mut entry = entry.map_err(broken)?;
        if number > ENTRIES_MAX {
            return Err(wrong(format!("there are more than {ENTRIES_MAX} files in it")));
        }
        let path = entry.path().map_err(broken)?.into_owned();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // The entries may come in any order: the numbering of the images is arbitrary.
        let part = match name.as_str() {
            name if name.starts_with("data_batch_") && name.ends_with(".bin") => &mut parts[0],
            "test_batch.bin" => &mut parts[1],
            _ => continue,
        };
        if !entry.header().entry_type().is_file() {
            return Err(wrong(format!("{} is no plain file in it", quoted(&name))));
        }
        if !names.insert(name.clone()) {
            return Err(wrong(format!("{} is in it twice", quoted(&name))));
        }
        let records = entry.size() / (PIXELS as u64 + 1);
        if entry.size() % (PIXELS as u64 + 1) != 0 {
            let problem =
                format!("{} has {} bytes, images have {} each", quoted(&name), entry.size(), PIXELS + 1);
            return Err(wrong(problem));
        }
        if part.labels.len() as u64 + records > RECORDS_MAX {
            return Err(wrong(format!("there are more than {RECORDS_MAX} images for {} in it", part.name)));
        }
        let mut record = [0; PIXELS + 1];
        for number in 0..records {
            let at = |why: String| wrong(format!("{}, image {number}: {why}", quoted(&name)));
            entry.read_exact(&mut record).map_err(|why| at(why.to_string()))?;
            if record[0] > 9 {
                return Err(at(format!("the label is {}, not 0 to 9", record[0])));
            }
            part.push(&record)?;
        }
    }
    if let Some(part) = parts.iter().find(|part| part.labels.is_empty()) {
        return Err(wrong(format!("there are no images for {} in it", part.name)));
    }
    parts.into_iter().try_for_each(|part| part.finish(folder))
}

/// Limits the number of bytes read.
struct LimitedReader<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for LimitedReader<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(into)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            std::io::Error::other(format!(
                "it unpacks to more than {UNPACKED_BYTES_MAX} bytes, which this dataset hasn't"
            ))
        })?;
        Ok(read)
    }
}

/// Writes the images of one split as they come.
struct SplitWriter {
    name: &'static str,
    path: PathBuf,
    images: BufWriter<File>,
    labels: Vec<u8>,
}

impl SplitWriter {
    fn create(folder: &Path, name: &'static str) -> Result<Self, RegistryError> {
        let path = folder.join(format!("{name}-images-idx4-ubyte"));
        let mut images = BufWriter::new(File::create(&path).map_err(RegistryError::at(&path))?);
        images.write_all(&header(0)).map_err(RegistryError::at(&path))?;
        Ok(Self { name, path, images, labels: Vec::new() })
    }

    fn push(&mut self, record: &[u8; PIXELS + 1]) -> Result<(), RegistryError> {
        self.labels.push(record[0]);
        self.images.write_all(&record[1..]).map_err(RegistryError::at(&self.path))
    }

    /// Writes the header, now that the number of images is known.
    fn finish(mut self, folder: &Path) -> Result<(), RegistryError> {
        let count = u32::try_from(self.labels.len()).unwrap_or(u32::MAX);
        let written = self
            .images
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.images.write_all(&header(count)))
            .and_then(|()| self.images.flush())
            .and_then(|()| self.images.get_ref().sync_all());
        written.map_err(RegistryError::at(&self.path))?;
        let path = folder.join(format!("{}-labels-idx1-ubyte", self.name));
        let bytes = [&[0, 0, 8, 1], count.to_be_bytes().as_slice(), &self.labels].concat();
        let written =
            File::create(&path).and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()));
        written.map_err(RegistryError::at(&path))
    }
}

/// The idx header of images: number, channels, height, width.
fn header(count: u32) -> Vec<u8> {
    let mut header = vec![0, 0, 8, 4];
    header.extend([count, 3, 32, 32].iter().flat_map(|size| size.to_be_bytes()));
    header
}
