//! The idx format, as used by MNIST: two zero bytes, the element type and the number of dimensions; the sizes, as
//! big-endian u32; the elements (Y. LeCun, C. Cortes, C. Burges, "The MNIST database", section "FILE FORMATS").
//! Optionally gzipped.

use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::error::DataError;
use crate::labels::ordered;
use crate::memory_budget::MemoryBudget;

/// Element type "unsigned byte", the only one used for images and labels.
const UNSIGNED_BYTE: u8 = 0x08;
/// Maximum deflate expansion of a byte: 258 bytes per two bits, and a few for rounding.
const INFLATION_MAX: u64 = 1_040;

/// Memory of an image in addition to its pixels: its label index, and its place in a split and in a sampler.
const ROW_BYTES: u64 = 40;

/// Expected dimensions of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dimensions {
    /// One label per image.
    Labels,
    /// Number, height, width; or number, channels, height, width.
    Images,
}

impl Dimensions {
    fn allow(self, found: u8) -> bool {
        match self {
            Self::Labels => found == 1,
            Self::Images => matches!(found, 3 | 4),
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Labels => "labels have 1",
            Self::Images => "images have 3 (number, height, width) or 4 (number, channels, height, width)",
        }
    }
}

/// The contents of an idx file.
#[derive(PartialEq, Debug)]
pub(crate) struct Idx {
    pub(crate) sizes: Vec<usize>,
    /// Elements in row-major order; as many as the product of `sizes`.
    pub(crate) numbers: Vec<u8>,
}

impl Idx {
    /// Parses an array of unsigned bytes with these dimensions and no trailing data.
    pub(crate) fn parse(
        path: &Path,
        bytes: &[u8],
        dimensions: Dimensions,
        memory: &MemoryBudget,
    ) -> Result<Self, DataError> {
        let is_gzip = bytes.starts_with(&[0x1f, 0x8b]);
        let inflation = if is_gzip { INFLATION_MAX } else { 1 };
        // Trust the header only if the file is large enough to hold what it declares.
        let most = (bytes.len() as u64).saturating_mul(inflation);
        let reader: Box<dyn Read + '_> =
            if is_gzip { Box::new(MultiGzDecoder::new(bytes)) } else { Box::new(bytes) };
        let mut source = Source { path, reader, offset: 0 };
        let sizes = source.sizes(dimensions)?;
        let promised = sizes.iter().try_fold(1u64, |all, size| all.checked_mul(*size as u64));
        let Some(promised) = promised.filter(|promised| *promised <= most) else {
            return Err(
                source.error(4, format!("the header promises {sizes:?} numbers, which the file can't hold"))
            );
        };
        memory.hold(promised).map_err(|why| why.of(path))?;
        let numbers = source.read(promised)?;
        if (numbers.len() as u64) < promised {
            let problem = format!("the file ends here, where {sizes:?} numbers take {promised} bytes");
            return Err(source.error(source.offset, problem));
        }
        let end = source.offset;
        if !source.read(1)?.is_empty() {
            return Err(source.error(end, format!("the file goes on after its {sizes:?} numbers")));
        }
        Ok(Self { sizes, numbers })
    }

    /// Channels, height and width of images.
    pub(crate) fn shape(&self) -> [usize; 3] {
        match self.sizes[..] {
            [_, channels, height, width] => [channels, height, width],
            [_, height, width] => [1, height, width],
            _ => [0; 3],
        }
    }
}

/// The decompressed contents of a file as a stream.
struct Source<'a> {
    path: &'a Path,
    reader: Box<dyn Read + 'a>,
    offset: u64,
}

impl Source<'_> {
    /// Reads `count` bytes, or fewer at the end of the file. The caller has checked the memory budget; the vector is
    /// allocated at full size, so it never doubles.
    fn read(&mut self, count: u64) -> Result<Vec<u8>, DataError> {
        let mut bytes = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        let read = self.reader.by_ref().take(count).read_to_end(&mut bytes);
        self.offset += bytes.len() as u64;
        match read {
            Ok(_) => Ok(bytes),
            Err(why) => Err(self.error(self.offset, format!("what follows can't be decompressed: {why}"))),
        }
    }

    fn sizes(&mut self, dimensions: Dimensions) -> Result<Vec<usize>, DataError> {
        let magic = self.read(4)?;
        let [zero, also_zero, kind, found] = magic[..] else {
            return Err(self.error(self.offset, "the file ends within its header".to_owned()));
        };
        if [zero, also_zero] != [0, 0] {
            let expected = if dimensions == Dimensions::Labels { "01" } else { "03 or 04" };
            let problem = format!("no idx file: it begins with {magic:02x?}, not with 00 00 08 {expected}");
            return Err(self.error(0, problem));
        }
        if kind != UNSIGNED_BYTE {
            return Err(self.error(2, format!("numbers of type {kind:#04x}, only bytes (0x08) are read")));
        }
        if !dimensions.allow(found) {
            return Err(self.error(3, format!("{found} dimensions, where {}", dimensions.describe())));
        }
        let sizes = self.read(4 * u64::from(found))?;
        if sizes.len() != 4 * usize::from(found) {
            return Err(self.error(self.offset, "the file ends within its header".to_owned()));
        }
        let size = |bytes: &[u8]| bytes.iter().fold(0, |size, byte| size << 8 | usize::from(*byte));
        Ok(sizes.chunks(4).map(size).collect())
    }

    fn error(&self, offset: u64, problem: String) -> DataError {
        DataError::Byte { file: self.path.display().to_string(), offset, problem }
    }
}

pub(crate) struct LabelledImages {
    /// Channels, height, width.
    pub(crate) shape: [usize; 3],
    /// Pixels in the order image, channel, row, column.
    pub(crate) pixels: Vec<u8>,
    /// Distinct labels, in numeric order.
    pub(crate) names: Vec<String>,
    /// Label index of each image.
    pub(crate) labels: Vec<u32>,
}

impl LabelledImages {
    /// Parses both files and cross-checks them.
    pub(crate) fn parse(
        (images_path, images): (&Path, &[u8]),
        (labels_path, labels): (&Path, &[u8]),
        memory: &MemoryBudget,
    ) -> Result<Self, DataError> {
        let images = Idx::parse(images_path, images, Dimensions::Images, memory)?;
        let labels = Idx::parse(labels_path, labels, Dimensions::Labels, memory)?;
        let (count, shape) = (images.sizes[0], images.shape());
        if labels.numbers.len() != count {
            let problem =
                format!("{} labels, but {count} images in {}", labels.numbers.len(), images_path.display());
            return Err(DataError::Byte { file: labels_path.display().to_string(), offset: 4, problem });
        }
        if images.numbers.is_empty() {
            let [_, height, width] = shape;
            let problem =
                format!("{count} images of {height} x {width} pixels: there is nothing to learn from");
            return Err(DataError::Byte { file: images_path.display().to_string(), offset: 4, problem });
        }
        memory.hold((count as u64).saturating_mul(ROW_BYTES)).map_err(|why| why.of(labels_path))?;
        let mut occurs = [false; 256];
        for label in &labels.numbers {
            occurs[usize::from(*label)] = true;
        }
        let present = (0..=u8::MAX).filter(|label| occurs[usize::from(*label)]);
        let names = ordered(present.clone().map(|label| label.to_string()).collect());
        let mut index = [0; 256];
        for (label, at) in present.zip(0..) {
            index[usize::from(label)] = at;
        }
        let labels = labels.numbers.iter().map(|label| index[usize::from(*label)]).collect();
        Ok(Self { shape, pixels: images.numbers, names, labels })
    }
}

/// The file of images in a folder: the only one with such a name, or the training one.
pub(crate) fn find_images(folder: &Path, paths: &[String]) -> Result<String, DataError> {
    let mut found = paths.iter().filter(|path| labels_name(path).is_some());
    let refuse = |problem| Err(DataError::File { file: folder.display().to_string(), problem });
    match (found.clone().count(), found.next()) {
        (1, Some(path)) => Ok(path.clone()),
        (0, _) | (_, None) => refuse(
            "no file here is named like images in idx form (...images-idx3-ubyte, with or without .gz): name the file \
             in dataset.uri"
                .to_owned(),
        ),
        (count, Some(_)) => {
            let is_training = |path: &&String| file_name(path).starts_with("train");
            let mut training = paths.iter().filter(|path| labels_name(path).is_some()).filter(is_training);
            match (training.next(), training.next()) {
                (Some(path), None) => Ok(path.clone()),
                _ => refuse(format!(
                    "{count} files here are named like images in idx form: name the one that is meant in dataset.uri"
                )),
            }
        }
    }
}

/// Whether a file name matches the usual pattern of idx images.
pub(crate) fn is_images_by_name(path: &str) -> bool {
    labels_name(path).is_some()
}

/// Finds the labels' file by the usual names: `images-idx3` (in colour `-idx4`) becomes `labels-idx1`, gzipped or not.
pub(crate) fn find_labels(folder: &Path, images: &str, paths: &[String]) -> Result<String, DataError> {
    let name = labels_name(images);
    let plain = name.as_deref().map(|name| name.strip_suffix(".gz").unwrap_or(name));
    let candidates: Vec<String> = plain
        .into_iter()
        .flat_map(|plain| [name.clone().unwrap_or_default(), plain.to_owned(), format!("{plain}.gz")])
        .collect();
    candidates.iter().find(|name| paths.contains(name)).cloned().ok_or_else(|| {
        let place: PathBuf = folder.join(images);
        let looked = candidates.get(1).map(|name| format!(" (looked for {name})")).unwrap_or_default();
        let problem = format!("there is no file of labels beside it{looked}: name it in dataset.labels");
        DataError::File { file: place.display().to_string(), problem }
    })
}

/// The usual name of the labels' file; `None` if `images` has an unusual name.
fn labels_name(images: &str) -> Option<String> {
    let (folder, name) = images.rsplit_once('/').map_or(("", images), |(folder, name)| (folder, name));
    let (before, after) = name.rsplit_once("images")?;
    let rest = after.replacen("idx3", "idx1", 1).replacen("idx4", "idx1", 1);
    if rest == after {
        return None;
    }
    let slash = if folder.is_empty() { "" } else { "/" };
    Some(format!("{folder}{slash}{before}labels{rest}"))
}

fn file_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_called_after_their_images() {
        let check = |images, labels: Option<&str>| assert_eq!(labels_name(images).as_deref(), labels);
        check("train-images-idx3-ubyte", Some("train-labels-idx1-ubyte"));
        check("raw/t10k-images.idx3-ubyte.gz", Some("raw/t10k-labels.idx1-ubyte.gz"));
        check("images/labels-idx1-ubyte", None);
        check("train-images-idx4-ubyte", Some("train-labels-idx1-ubyte"));
        check("images.png", None);
    }

    #[test]
    fn the_files_of_a_folder_are_found() {
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let folder = Path::new("d");
        let mnist = strings(&[
            "t10k-images-idx3-ubyte.gz",
            "t10k-labels-idx1-ubyte.gz",
            "train-images-idx3-ubyte.gz",
            "train-labels-idx1-ubyte",
        ]);
        assert_eq!(find_images(folder, &mnist).expect("found"), mnist[2]);
        assert_eq!(find_labels(folder, &mnist[2], &mnist).expect("found"), mnist[3]);
        assert_eq!(find_images(folder, &mnist[..2]).expect("the only one"), mnist[0]);
        let two = strings(&["a-images-idx3-ubyte", "b-images-idx3-ubyte"]);
        let said = find_images(folder, &two).expect_err("two").to_string();
        assert!(said.starts_with("d: 2 files here"), "{said}");
        let said = find_labels(folder, &two[0], &two).expect_err("none").to_string();
        assert!(said.contains("looked for a-labels-idx1-ubyte)"), "{said}");
    }
}
