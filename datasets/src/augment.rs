//! Augmentation of training images, redrawn every epoch.
//!
//! A draw depends only on the run's seed, the epoch and the image, so every worker computes the same sample, in any
//! order and batch. Augmentation works on the decoded pixels before they are scaled, so padding is black (0), not the
//! mean.

use configs::Augment;

use crate::error::DataError;
use crate::plan::DataPlan;

/// Domain-separates this random stream from the others of the same seed.
const PURPOSE: u64 = 0x6175_676d_656e_7400;

/// Key of everything random in an epoch's samples: augmentation, and draws with replacement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AugmentKey {
    /// The run's seed.
    pub seed: u64,
    /// Epoch number.
    pub epoch: u64,
}

impl DataPlan {
    /// Sets the augmentation of training images. Evaluation images are never augmented.
    ///
    /// # Errors
    /// If the data are not images, or the images are so small that augmentation could move them out of the frame.
    pub fn augmented(mut self, augment: &Augment) -> Result<Self, DataError> {
        if *augment != Augment::default() {
            self.check_augment(augment)
                .map_err(|problem| DataError::File { file: self.path.clone(), problem })?;
        }
        self.augment = *augment;
        Ok(self)
    }

    fn check_augment(&self, augment: &Augment) -> Result<(), String> {
        let format = self.form.name();
        let (Some([_, height, width]), "idx" | "images") = (self.image_shape, format) else {
            return Err(format!(
                "[augment] is for images (dataset.format \"idx\" or \"images\"), this is {format}"
            ));
        };
        let side = height.min(width);
        for (name, pixels) in [("shift", augment.shift), ("crop", augment.crop)] {
            if pixels as usize >= side {
                return Err(format!(
                    "augment.{name} = {pixels}: the images are {height} x {width}, at most {} is possible",
                    side - 1
                ));
            }
        }
        Ok(())
    }
}

/// Augmentation of one image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Draw {
    /// Mirrors left and right, after shift and crop.
    is_flipped: bool,
    down: AxisMap,
    right: AxisMap,
}

/// Maps a coordinate of the result to its source along one axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct AxisMap {
    /// Applied first: a shift in pixels, padded with black.
    shift: i64,
    /// Applied second: a shift in pixels, padded by reflection (the edge pixel is not repeated).
    crop: i64,
}

impl Draw {
    /// Draws the augmentation of image `row`: its row number, or the draw's number if drawn with replacement.
    pub(crate) fn new(augment: &Augment, key: AugmentKey, row: u64) -> Self {
        let mut stream = Stream(mix(mix(mix(key.seed ^ PURPOSE) ^ mix(key.epoch)) ^ mix(row)));
        let (shift, crop) = (i64::from(augment.shift), i64::from(augment.crop));
        // Everything is always drawn, so that one setting doesn't change the draws of another.
        let is_flipped = stream.next() >> 63 == 1;
        let mut moves = || AxisMap { shift: stream.within(shift), crop: stream.within(crop) };
        Self { is_flipped: augment.flip && is_flipped, down: moves(), right: moves() }
    }

    /// Source coordinates of pixel (y, x) of the result; `None` if it is black.
    pub(crate) fn source(&self, [y, x]: [usize; 2], [height, width]: [usize; 2]) -> Option<[usize; 2]> {
        let x = if self.is_flipped { width - 1 - x } else { x };
        Some([self.down.source(y, height)?, self.right.source(x, width)?])
    }
}

impl AxisMap {
    fn source(self, at: usize, side: usize) -> Option<usize> {
        let side = side as i64;
        let mirrored = (at as i64 + self.crop).abs();
        let mirrored = if mirrored < side { mirrored } else { 2 * (side - 1) - mirrored };
        let source = mirrored + self.shift;
        (0..side).contains(&source).then_some(source as usize)
    }
}

/// The SplitMix64 generator (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
struct Stream(u64);

impl Stream {
    fn next(&mut self) -> u64 {
        let drawn = mix(self.0);
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        drawn
    }

    /// Uniform in `-most..=most`, to within 2^-47.
    fn within(&mut self, most: i64) -> i64 {
        let numbers = u128::from(2 * most.unsigned_abs() + 1);
        ((u128::from(self.next()) * numbers) >> 64) as i64 - most
    }
}

/// SplitMix64's finaliser.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: AugmentKey = AugmentKey { seed: 7, epoch: 3 };

    /// Applies the draw to a row of pixels 1, 2, 3, 4; 0 is black.
    fn row(draw: Draw) -> Vec<usize> {
        (0..4).map(|x| draw.source([0, x], [1, 4]).map_or(0, |[_, x]| x + 1)).collect()
    }

    #[test]
    fn a_row_of_pixels_by_hand() {
        let right = |shift, crop| Draw { right: AxisMap { shift, crop }, ..Draw::default() };
        assert_eq!(row(right(0, 0)), [1, 2, 3, 4]);
        assert_eq!(row(right(1, 0)), [2, 3, 4, 0]);
        assert_eq!(row(right(-2, 0)), [0, 0, 1, 2]);
        assert_eq!(row(right(0, 2)), [3, 4, 3, 2]);
        assert_eq!(row(right(0, -3)), [4, 3, 2, 1]);
        assert_eq!(row(right(1, 1)), [3, 4, 0, 4], "the shift is before the crop");
        assert_eq!(row(Draw { is_flipped: true, ..right(1, 0) }), [0, 4, 3, 2]);
    }

    #[test]
    fn a_draw_depends_on_seed_epoch_and_image() {
        let all = Augment { shift: 1_000, flip: true, crop: 1_000 };
        let draw = |seed, epoch, row| Draw::new(&all, AugmentKey { seed, epoch }, row);
        assert_eq!(draw(7, 3, 5), draw(7, 3, 5));
        for other in [draw(8, 3, 5), draw(7, 4, 5), draw(7, 3, 6), draw(3, 7, 5)] {
            assert_ne!(draw(7, 3, 5), other);
        }
    }

    #[test]
    fn every_move_within_the_bounds_comes_and_one_key_leaves_the_others() {
        let augment = Augment { shift: 2, flip: true, crop: 1 };
        let draws: Vec<Draw> = (0..1_000).map(|row| Draw::new(&augment, KEY, row)).collect();
        let shifts: std::collections::BTreeSet<i64> = draws.iter().map(|draw| draw.down.shift).collect();
        assert_eq!(shifts, (-2..=2).collect());
        let crops: std::collections::BTreeSet<i64> = draws.iter().map(|draw| draw.right.crop).collect();
        assert_eq!(crops, (-1..=1).collect());
        let flipped = draws.iter().filter(|draw| draw.is_flipped).count();
        assert!((430..570).contains(&flipped), "{flipped} of 1000");
        let unflipped = Augment { flip: false, ..augment };
        for (row, draw) in (0..).zip(&draws) {
            assert_eq!(Draw::new(&unflipped, KEY, row), Draw { is_flipped: false, ..*draw });
        }
        assert_eq!(Draw::new(&Augment::default(), KEY, 1), Draw::default(), "nothing is done unless asked");
    }
}
