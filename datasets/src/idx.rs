//! The idx form: what MNIST comes in. Two zero bytes, the type of the numbers and the number of dimensions; the sizes, as
//! big-endian u32; the numbers (Y. LeCun, C. Cortes, C. Burges, "The MNIST database", section "FILE FORMATS"). Gzipped
//! or not.

use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::error::DataError;
use crate::infer::ordered;
use crate::memory_budget::MemoryBudget;

/// The type "unsigned byte", the only one that images and labels come in.
const UNSIGNED_BYTE: u8 = 0x08;
/// What deflate makes of a byte at most: 258 bytes of two bits, and a few for rounding.
const INFLATION_MAX: u64 = 1_040;

/// What an image takes beside its pixels: the number of its label, and its place in a split and in a sampler.
const ROW_BYTES: u64 = 40;

/// What a file is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dimensions {
    /// A label each.
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

/// An idx file's sizes and numbers.
#[derive(PartialEq, Debug)]
pub(crate) struct Idx {
    pub(crate) sizes: Vec<usize>,
    /// As many as the sizes' product, the last dimension's next to each other.
    pub(crate) numbers: Vec<u8>,
}

impl Idx {
    /// Reads a file's bytes: an array of unsigned bytes of these dimensions, and nothing after it.
    pub(crate) fn parse(
        path: &Path,
        bytes: &[u8],
        dimensions: Dimensions,
        memory: &MemoryBudget,
    ) -> Result<Self, DataError> {
        let is_gzip = bytes.starts_with(&[0x1f, 0x8b]);
        let inflation = if is_gzip { INFLATION_MAX } else { 1 };
        // What the header promises is believed only if so few bytes can hold it.
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

/// A file's bytes, decompressed, one after another.
struct Source<'a> {
    path: &'a Path,
    reader: Box<dyn Read + 'a>,
    offset: u64,
}

impl Source<'_> {
    /// The next bytes: so many, or fewer if the file ends. The caller knows that there may be memory for them: with room for
    /// all, no vector grows to twice its bytes.
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

/// Images with their labels.
pub(crate) struct LabelledImages {
    /// Channels, height, width.
    pub(crate) shape: [usize; 3],
    /// One image after another, channel by channel, row by row.
    pub(crate) pixels: Vec<u8>,
    /// The distinct labels, in order of their numbers.
    pub(crate) names: Vec<String>,
    /// Index of each image's label.
    pub(crate) labels: Vec<u32>,
}

impl LabelledImages {
    /// Reads both files and holds them against each other.
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

/// The images' file of a folder: the only one with such a name, or the one for training.
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

/// Whether a file is called as images in idx form usually are.
pub(crate) fn is_images_by_name(path: &str) -> bool {
    labels_name(path).is_some()
}

/// The labels' file by the usual names, among these: `images-idx3` (in colour `images-idx4`) becomes `labels-idx1`, gzipped or not.
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

/// What the labels of a file of images are usually called; none if it is not called as images usually are.
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
