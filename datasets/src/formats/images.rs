//! Folders of images: one folder per class, with PNG and JPEG files, decoded to bytes of one shape.

use std::io::Cursor;
use std::path::Path;

use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::error::DataError;
use crate::files::{length, read_known};
use crate::listing::FileEntry;
use crate::memory_budget::{MemoryBudget, MemoryLease, OverBudget, read_at_most};

/// Maximum decoded bytes per byte of an image file: deflate expands up to 1032 times, JPEG encodes a block of 64 in a
/// few bits. A header that claims more is wrong.
const INFLATION_MAX: u64 = 2_048;
/// Memory that a decoder may use in addition to the pixels, for example for an unused colour profile.
const DECODER_BYTES: u64 = 16_000_000;
/// Memory for decoding a JPEG, in multiples of its pixel bytes: two-byte coefficients of all blocks if it is
/// progressive, and the pixels.
const JPEG_TIMES: u64 = 3;
/// Bytes per pixel between the two passes of resizing: four floats.
const SCALED_PIXEL_BYTES: u64 = 16;
/// Maximum number of images decoded before they are moved to their destination.
const AT_ONCE_MAX: u64 = 64;
/// Fraction of the memory budget that they may take.
const AT_ONCE_PART: u64 = 8;

/// Supported numbers of channels: grey, RGB, RGBA.
pub(crate) const CHANNELS: [usize; 3] = [1, 3, 4];

/// Contents of an image's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) has_colour: bool,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

/// Why an image was not decoded.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum ImageError {
    /// Damaged, or not an image.
    Bad(String),
    /// An image of another size.
    Size(String),
    /// Decoding exceeds the memory budget. Such images are never skipped: that must not depend on a machine's memory.
    Memory(OverBudget),
}

/// Whether the file extension is that of an image.
pub(crate) fn is_image(path: &str) -> bool {
    let Some(extension) = Path::new(path).extension() else { return false };
    ["png", "jpg", "jpeg"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// The class of an image: its top-level folder within the dataset.
pub(crate) fn class(path: &str) -> Option<&str> {
    path.split_once('/').map(|(class, _)| class)
}

/// Reads the header alone, from the start of the file; for JPEG the decoder reads the whole file.
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

/// Decodes an image to channels x rows x columns of `shape`. Alpha is dropped unless there are four channels; colour
/// becomes grey (ITU-R BT.709 luma) if there is one.
///
/// `lease` covers the file's own bytes; decoding takes a new lease that covers everything.
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
    // One lease at a time: see `MemoryBudget::lease`.
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

/// Number of images of `bytes` each to decode before they are moved to their destination. Their memory is held.
pub(crate) fn at_once(bytes: usize, memory: &MemoryBudget) -> Result<usize, OverBudget> {
    let bytes = (bytes as u64).max(1);
    let count = (memory.limit() / AT_ONCE_PART / bytes).clamp(1, AT_ONCE_MAX);
    memory.hold(count.saturating_mul(bytes))?;
    Ok(count as usize)
}

/// Bytes that resizing and deinterleaving take in addition to the decoded pixels.
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

/// Calls the image crate's decoders and turns their panics into errors: one image of millions must not kill the thread
/// that feeds a run without naming the file.
fn guarded<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err("the decoder gave up on it".to_owned()))
}

/// Resizes the image. The triangle filter is as wide as the reduction, so downscaling uses every pixel.
fn scaled(image: DynamicImage, height: u32, width: u32) -> DynamicImage {
    if (image.height(), image.width()) == (height, width) {
        return image;
    }
    image.resize_exact(width, height, image::imageops::FilterType::Triangle)
}

/// Detects truncated JPEG files, which the decoder fills up with grey, by their missing end marker. The marker can't
/// occur within coded pixels; a preview before them has its own.
fn cut_short(bytes: &[u8]) -> Option<&'static str> {
    if !bytes.starts_with(&[0xff, 0xd8]) {
        return None;
    }
    let last = |mark: u8| bytes.windows(2).rposition(|pair| pair == [0xff, mark]);
    let (start_of_scan, end_of_image) = (last(0xda), last(0xd9));
    (end_of_image < start_of_scan || end_of_image.is_none()).then_some("the file ends within its pixels")
}

/// Decodes a file listed in a data plan.
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

/// Decodes any image file.
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

pub(crate) fn refusal(path: &Path, why: ImageError) -> DataError {
    match why {
        ImageError::Bad(problem) | ImageError::Size(problem) => {
            DataError::File { file: path.display().to_string(), problem }
        }
        ImageError::Memory(why) => why.of(path),
    }
}
