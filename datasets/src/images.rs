//! Folders of images: a folder for each class, PNG and JPEG files in it, decoded to bytes of one shape.

use std::io::Cursor;
use std::path::Path;

use image::{ColorType, DynamicImage, ImageDecoder, ImageReader};

use crate::error::DataError;
use crate::files::read_known;
use crate::listing::FileEntry;

/// What a byte of an image file decodes to at most, in bytes: deflate makes 1032 of one, JPEG a block of 64 of a few
/// bits. A header that promises more lies.
const INFLATION_MAX: u64 = 2_048;
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
pub(crate) enum Refused {
    /// It is damaged, or no image.
    Bad(String),
    /// It is an image of another size.
    Size(String),
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

/// Reads the header alone, from the beginning of the file.
pub(crate) fn probe(path: &Path) -> Result<Header, String> {
    let reader = ImageReader::open(path).map_err(|why| why.to_string())?;
    let decoder = reader
        .with_guessed_format()
        .map_err(|why| why.to_string())?
        .into_decoder()
        .map_err(|why| why.to_string())?;
    Ok(header(&decoder))
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
pub(crate) fn decode(bytes: &[u8], shape: [usize; 3], resize: bool) -> Result<Vec<u8>, Refused> {
    let bad = |why: String| Refused::Bad(format!("the image can't be decoded: {why}"));
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let decoder =
        reader.map_err(|why| bad(why.to_string()))?.into_decoder().map_err(|why| bad(why.to_string()))?;
    let [channels, height, width] = shape;
    let found = header(&decoder);
    if decoder.total_bytes() > (bytes.len() as u64).saturating_mul(INFLATION_MAX) {
        let promised = format!("{} x {} pixels", found.height, found.width);
        return Err(bad(format!("its header promises {promised}, which {} bytes can't hold", bytes.len())));
    }
    if !resize && [found.height, found.width] != [height, width] {
        return Err(Refused::Size(format!(
            "the image is {} x {} (height x width) where {height} x {width} is expected: resize it, or set \
             dataset.resize = true (or dataset.on_bad = \"skip\" to leave such images out)",
            found.height, found.width
        )));
    }
    if let Some(why) = cut_short(bytes) {
        return Err(bad(why.to_owned()));
    }
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
) -> Result<Vec<u8>, DataError> {
    let bytes = read_known(path, entry)?;
    decode(&bytes, shape, resize).map_err(|why| refusal(path, why))
}

/// The error about a file.
pub(crate) fn refusal(path: &Path, why: Refused) -> DataError {
    let (Refused::Bad(problem) | Refused::Size(problem)) = why;
    DataError::File { file: path.display().to_string(), problem }
}
