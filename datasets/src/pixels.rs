//! Images as samples: pixels cached in memory, or files decoded on demand; scaled, and augmented for training.

use std::path::PathBuf;

use configs::{Augment, Normalise};

use crate::augment::{AugmentKey, Draw};
use crate::batch::Batch;
use crate::error::DataError;
use crate::format::Scaling;
use crate::formats::images;
use crate::listing::FileEntry;
use crate::memory_budget::MemoryBudget;
use crate::parallel::in_parallel;
use crate::rounding::settled;
use crate::statistics::positive;

/// Images of one shape with their labels.
#[derive(Debug)]
pub(crate) struct Pixels {
    pub(crate) shape: [usize; 3],
    pub(crate) store: Store,
    pub(crate) labels: Vec<u32>,
    /// Per channel, a lookup table of the scaled pixel values.
    pub(crate) scaled: Vec<[f32; 256]>,
    pub(crate) augment: Augment,
}

/// Where the pixels are kept.
#[derive(Debug)]
pub(crate) enum Store {
    /// Decoded, in the order image, channel, row, column.
    Memory(Vec<u8>),
    /// Decoded on demand from these files.
    Files {
        /// Paths, and entries to verify them against.
        files: Vec<(PathBuf, FileEntry)>,
        /// Whether images are resized to the shape.
        resize: bool,
        /// Images decoded at once, and the memory budget.
        at_once: usize,
        memory: MemoryBudget,
    },
}

impl Pixels {
    /// Appends the features and labels of these rows to a batch, augmented if there is a key. Each row comes with the
    /// number that selects its augmentation.
    pub(crate) fn gather(
        &self,
        key: Option<AugmentKey>,
        rows: impl Iterator<Item = (usize, u64)>,
        out: &mut Batch,
    ) -> Result<(), DataError> {
        let size: usize = self.shape.iter().product();
        let draw = |number| key.map_or_else(Draw::default, |key| Draw::new(&self.augment, key, number));
        match &self.store {
            Store::Memory(pixels) => {
                for (row, number) in rows {
                    self.put(&pixels[row * size..(row + 1) * size], draw(number), &mut out.features);
                    out.labels.push(self.labels[row]);
                }
            }
            Store::Files { files, resize, at_once, memory } => {
                let rows: Vec<(usize, u64)> = rows.collect();
                for rows in rows.chunks(*at_once) {
                    let decoded = in_parallel(rows, |(row, _)| {
                        let (path, entry) = &files[*row];
                        images::decode_known(path, entry, self.shape, *resize, memory)
                    });
                    for ((row, number), decoded) in rows.iter().zip(decoded) {
                        self.put(&decoded?, draw(*number), &mut out.features);
                        out.labels.push(self.labels[*row]);
                    }
                }
            }
        }
        Ok(())
    }

    /// Appends one scaled image.
    fn put(&self, pixels: &[u8], draw: Draw, features: &mut Vec<f32>) {
        let [_, height, width] = self.shape;
        for (scaled, channel) in self.scaled.iter().zip(pixels.chunks_exact(height * width)) {
            if draw == Draw::default() {
                features.extend(channel.iter().map(|value| scaled[usize::from(*value)]));
                continue;
            }
            for y in 0..height {
                features.extend((0..width).map(|x| {
                    let source = draw.source([y, x], [height, width]);
                    scaled[source.map_or(0, |[y, x]| usize::from(channel[y * width + x]))]
                }));
            }
        }
    }
}

/// Per-channel lookup tables of scaled pixel values.
pub(crate) fn tables(scaling: &[Scaling]) -> Vec<[f32; 256]> {
    let scaled =
        |Scaling { offset, scale }: Scaling, value: usize| ((value as f64 / 255.0 - offset) / scale) as f32;
    scaling.iter().map(|channel| std::array::from_fn(|value| scaled(*channel, value))).collect()
}

/// Integer sums over pixels, so independent of order and number of threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PixelSums {
    count: u64,
    sum: u64,
    squares: u64,
    least: u8,
    greatest: u8,
}

impl PixelSums {
    const NONE: Self = Self { count: 0, sum: 0, squares: 0, least: u8::MAX, greatest: 0 };

    fn of(pixels: &[u8]) -> Self {
        let mut sums = Self::NONE;
        for value in pixels {
            let wide = u64::from(*value);
            sums.sum += wide;
            sums.squares += wide * wide;
            sums.least = sums.least.min(*value);
            sums.greatest = sums.greatest.max(*value);
        }
        sums.count = pixels.len() as u64;
        sums
    }

    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.squares += other.squares;
        self.least = self.least.min(other.least);
        self.greatest = self.greatest.max(other.greatest);
    }

    /// Mean and population standard deviation, or minimum and range, of `v / 255`.
    fn scaling(&self, normalise: Normalise) -> Scaling {
        let (offset, scale) = match normalise {
            Normalise::Standard => {
                let [count, sum, squares] = [self.count, self.sum, self.squares].map(u128::from);
                // (count * squares - sum^2) / count^2, with an exact numerator.
                let spread = (count * squares).saturating_sub(sum * sum) as f64;
                let count = self.count.max(1) as f64;
                (self.sum as f64 / count / 255.0, spread.sqrt() / count / 255.0)
            }
            Normalise::Minmax => {
                let (least, greatest) = (f64::from(self.least), f64::from(self.greatest));
                (least / 255.0, (greatest - least) / 255.0)
            }
            Normalise::None => (0.0, 1.0),
        };
        Scaling { offset: settled(offset), scale: positive(scale) }
    }
}

/// Per-channel sums of one image.
pub(crate) fn sums(pixels: &[u8], [_, height, width]: [usize; 3]) -> Vec<PixelSums> {
    pixels.chunks_exact(height * width).map(PixelSums::of).collect()
}

/// Per-channel scaling from the sums of the training images.
pub(crate) fn scaling<S: AsRef<[PixelSums]>>(
    channels: usize,
    images: impl Iterator<Item = S>,
    normalise: Normalise,
) -> Vec<Scaling> {
    let mut totals = vec![PixelSums::NONE; channels];
    for image in images {
        for (total, sums) in totals.iter_mut().zip(image.as_ref()) {
            total.add(sums);
        }
    }
    totals.iter().map(|total| total.scaling(normalise)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_deviation_and_range_of_all_pixels() {
        let images = [sums(&[0, 51, 102, 102], [2, 1, 2]), sums(&[255, 204, 102, 102], [2, 1, 2])];
        let check = |normalise, expected: [(f64, f64); 2]| {
            let found = scaling(2, images.iter(), normalise);
            let expected = expected.map(|(offset, scale)| Scaling { offset, scale });
            assert_eq!(found, expected);
        };
        // 0, 0.2, 1, 0.8: mean 0.5, squared deviations 0.25 + 0.09 + 0.25 + 0.09.
        check(Normalise::Standard, [(0.5, settled(0.17f64.sqrt())), (0.4, 1.0)]);
        check(Normalise::Minmax, [(0.0, 1.0), (0.4, 1.0)]);
        check(Normalise::None, [(0.0, 1.0), (0.0, 1.0)]);
    }

    #[test]
    fn the_table_has_what_each_value_becomes() {
        let table = tables(&[Scaling { offset: 0.5, scale: 0.25 }]);
        assert_eq!((table[0][0], table[0][255], table[0][51]), (-2.0, 2.0, -1.2));
    }
}
