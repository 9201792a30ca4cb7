//! Folders of images: a folder for each class, PNG and JPEG files in it, decoded to bytes of one shape.

use std::io::Cursor;
use std::path::Path;

use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::error::DataError;
use crate::files::{length, read_known};
use crate::listing::FileEntry;
use crate::memory_budget::{MemoryBudget, MemoryLease, OverBudget, read_at_most};

/// What a byte of an image file decodes to at most, in bytes: deflate makes 1032 of one, JPEG a block of 64 of a few
/// bits. A header that promises more lies.
const INFLATION_MAX: u64 = 2_048;
/// Bytes that a decoder may take beside the pixels: for a colour profile, say, which is not used.
const DECODER_BYTES: u64 = 16_000_000;
/// What decoding a JPEG takes, in bytes of its pixels: the coefficients of all blocks, of two bytes each, where it comes in
/// several passes; and the pixels.
const JPEG_TIMES: u64 = 3;
/// Bytes of a pixel between the two passes of scaling: four floats.
const SCALED_PIXEL_BYTES: u64 = 16;
/// Images at most that are decoded before any of them is put where it stays.
const AT_ONCE_MAX: u64 = 64;
/// The part of the budget that they may take.
const AT_ONCE_PART: u64 = 8;

/// Channels that an image is made to have: grey, colour, colour with transparency.
pub(crate) const CHANNELS: [usize; 3] = [1, 3, 4];

/// What the header of an image says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) has_colour: bool,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

/// Why an image is not decoded.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum ImageError {
    /// It is damaged, or no image.
    Bad(String),
    /// It is an image of another size.
    Size(String),
    /// Decoding it takes more memory than it may. It is never left out for that: what is left out must not depend on a
    /// machine's memory.
    Memory(OverBudget),
}

/// Whether a file is an image by its name.
pub(crate) fn is_image(path: &str) -> bool {
    let Some(extension) = Path::new(path).extension() else { return false };
    ["png", "jpg", "jpeg"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// The class of an image's path: the folder that it lies in, below the dataset's.
pub(crate) fn class(path: &str) -> Option<&str> {
    path.split_once('/').map(|(class, _)| class)
}

/// Reads the header alone, from the beginning of the file; of a JPEG the decoder has the whole file for that.
pub(crate) fn probe(path: &Path, memory: &MemoryBudget) -> Result<Header, ImageError> {
    let bad = |why: String| ImageError::Bad(why);
    let bytes = length(path).map_err(|why| bad(why.to_string()))?;
    let _lease = memory.lease(bytes).map_err(ImageError::Memory)?;
    let reader = ImageReader::open(path).map_err(|why| bad(why.to_string()))?;
    let mut reader = reader.with_guessed_format().map_err(|why| bad(why.to_string()))?;
    reader.limits(limits());
    let decoder = guarded(|| reader.into_decoder().map_err(|why| why.to_string())).map_err(bad)?;
    Ok(header(&decoder))
}

fn limits() -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(DECODER_BYTES);
    limits
}

fn header(decoder: &impl ImageDecoder) -> Header {
    let (width, height) = decoder.dimensions();
    let grey = [ColorType::L8, ColorType::La8, ColorType::L16, ColorType::La16];
    Header {
        has_colour: !grey.contains(&decoder.color_type()),
        height: height as usize,
        width: width as usize,
    }
}

/// Decodes an image to the channels of the shape, then rows, then columns. Transparency is dropped unless there are four
/// channels, colour becomes grey (ITU-R BT.709 luma) if there is one.
///
/// The file's own bytes are in a lease of the budget, which then is for all that decoding takes.
pub(crate) fn decode(
    bytes: &[u8],
    lease: MemoryLease,
    shape: [usize; 3],
    resize: bool,
    memory: &MemoryBudget,
) -> Result<Vec<u8>, ImageError> {
    let bad = |why: String| ImageError::Bad(format!("the image can't be decoded: {why}"));
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let mut reader = reader.map_err(|why| bad(why.to_string()))?;
    reader.limits(limits());
    let is_jpeg = reader.format() == Some(ImageFormat::Jpeg);
    let decoder = guarded(|| reader.into_decoder().map_err(|why| why.to_string())).map_err(bad)?;
    let [channels, height, width] = shape;
    let found = header(&decoder);
    if decoder.total_bytes() > (bytes.len() as u64).saturating_mul(INFLATION_MAX) {
        let promised = format!("{} x {} pixels", found.height, found.width);
        return Err(bad(format!("its header promises {promised}, which {} bytes can't hold", bytes.len())));
    }
    if !resize && [found.height, found.width] != [height, width] {
        return Err(ImageError::Size(format!(
            "the image is {} x {} (height x width) where {height} x {width} is expected: resize it, or set \
             dataset.resize = true (or dataset.on_bad = \"skip\" to leave such images out)",
            found.height, found.width
        )));
    }
    if let Some(why) = cut_short(bytes) {
        return Err(bad(why.to_owned()));
    }
    let decoded = decoder.total_bytes().saturating_mul(if is_jpeg { JPEG_TIMES } else { 1 });
    let takes = (bytes.len() as u64).saturating_mul(2).saturating_add(decoded);
    let takes = takes.saturating_add(beside(found, decoder.color_type(), shape));
    // One at a time: see `MemoryBudget::lease`.
    drop(lease);
    let _lease = memory.lease(takes).map_err(ImageError::Memory)?;
    let image =
        guarded(|| DynamicImage::from_decoder(decoder).map_err(|why| why.to_string())).map_err(bad)?;
    let image = scaled(image, height as u32, width as u32);
    let interleaved = match channels {
        1 => return Ok(image.into_luma8().into_raw()),
        4 => image.into_rgba8().into_raw(),
        _ => image.into_rgb8().into_raw(),
    };
    let mut pixels = Vec::with_capacity(interleaved.len());
    for channel in 0..channels {
        pixels.extend(interleaved.iter().skip(channel).step_by(channels));
    }
    Ok(pixels)
}

/// How many images of so many bytes may be decoded before any of them is put where it stays. Their memory is held.
pub(crate) fn at_once(bytes: usize, memory: &MemoryBudget) -> Result<usize, OverBudget> {
    let bytes = (bytes as u64).max(1);
    let count = (memory.limit() / AT_ONCE_PART / bytes).clamp(1, AT_ONCE_MAX);
    memory.hold(count.saturating_mul(bytes))?;
    Ok(count as usize)
}

/// Bytes that scaling to the shape, and putting channel after channel, take beside the decoded pixels.
fn beside(found: Header, colour: ColorType, [channels, height, width]: [usize; 3]) -> u64 {
    let product = |sides: &[usize]| sides.iter().fold(1u64, |all, side| all.saturating_mul(*side as u64));
    let is_scaled = [found.height, found.width] != [height, width];
    let scaled = match is_scaled {
        true => {
            product(&[found.width, height]).saturating_add(product(&[width, height])) * SCALED_PIXEL_BYTES
        }
        false => 0,
    };
    let is_as_wanted =
        matches!((colour, channels), (ColorType::L8, 1) | (ColorType::Rgb8, 3) | (ColorType::Rgba8, 4));
    let pixels = product(&[channels, height, width]);
    let converted = if is_as_wanted && !is_scaled { 0 } else { pixels };
    let parted = if channels == 1 { 0 } else { pixels };
    scaled.saturating_add(converted).saturating_add(parted)
}

/// Decodes by the image crate's decoders. A panic of theirs is an error of the file here: one image of millions must not end
/// the thread that feeds a run, without a word on which it was.
fn guarded<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err("the decoder gave up on it".to_owned()))
}

/// The image in this size. A triangle filter as wide as the reduction, so no pixel is left out of a smaller one.
fn scaled(image: DynamicImage, height: u32, width: u32) -> DynamicImage {
    if (image.height(), image.width()) == (height, width) {
        return image;
    }
    image.resize_exact(width, height, image::imageops::FilterType::Triangle)
}

/// A JPEG file that ends too early is decoded all the same, in grey from there on: this is seen by its missing end mark.
/// Within coded pixels such a mark can't occur; what is before them (a small preview) has its own.
fn cut_short(bytes: &[u8]) -> Option<&'static str> {
    if !bytes.starts_with(&[0xff, 0xd8]) {
        return None;
    }
    let last = |mark: u8| bytes.windows(2).rposition(|pair| pair == [0xff, mark]);
    let (start_of_scan, end_of_image) = (last(0xda), last(0xd9));
    (end_of_image < start_of_scan || end_of_image.is_none()).then_some("the file ends within its pixels")
}

/// Decodes a file that is in a plan.
pub(crate) fn decode_known(
    path: &Path,
    entry: &FileEntry,
    shape: [usize; 3],
    resize: bool,
    memory: &MemoryBudget,
) -> Result<Vec<u8>, DataError> {
    let lease = memory.lease(entry.bytes).map_err(|why| why.of(path))?;
    let bytes = read_known(path, entry)?;
    decode(&bytes, lease, shape, resize, memory).map_err(|why| refusal(path, why))
}

/// Decodes any file.
pub(crate) fn decode_file(
    path: &Path,
    shape: [usize; 3],
    resize: bool,
    memory: &MemoryBudget,
) -> Result<Vec<u8>, DataError> {
    let length = length(path)?;
    let lease = memory.lease(length).map_err(|why| why.of(path))?;
    let bytes = read_at_most(path, length)?.map_err(|why| why.of(path))?;
    decode(&bytes, lease, shape, resize, memory).map_err(|why| refusal(path, why))
}

/// The error about a file.
pub(crate) fn refusal(path: &Path, why: ImageError) -> DataError {
    match why {
        ImageError::Bad(problem) | ImageError::Size(problem) => {
            DataError::File { file: path.display().to_string(), problem }
        }
        ImageError::Memory(why) => why.of(path),
    }
}
