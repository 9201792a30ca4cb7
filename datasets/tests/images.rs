//! Images, in idx format and as folders of files: samples, splits, scaling, augmentation, errors.

mod support;

use std::path::Path;

use configs::{Augment, Normalise, OnBad};
use datasets::{AugmentKey, Batch, DataPlan, Dataset, Format, Output};
use image::ImageFormat;
use support::*;

/// Sorted numbers of the images, which are their first pixels.
fn numbers(batches: &[&Batch]) -> Vec<usize> {
    let first =
        |batch: &&Batch| batch.features.chunks(12).map(|image| (image[0] * 255.0).round() as usize).collect();
    let mut all: Vec<usize> = batches.iter().map(first).collect::<Vec<Vec<_>>>().concat();
    all.sort_unstable();
    all
}

#[test]
fn idx_files_are_read_plain_and_gzipped_from_folder_and_file() {
    for is_gzip in [false, true] {
        let dir = folder();
        mnist(dir.path(), 20, is_gzip);
        let mut config = config("idx", dir.path());
        config.normalise = Normalise::None;
        let (plan, dataset) = open(&config);
        assert_eq!((plan.rows, plan.features(), plan.image_shape), (20, 12, Some([1, 3, 4])));
        assert_eq!(plan.labels(), ["0", "1", "2"]);
        let (training, validation) = epoch(&dataset, KEY);
        assert_eq!((training.count, validation.count), (16, 4));
        assert_eq!(numbers(&[&training, &validation]), (0..20).collect::<Vec<_>>(), "each image once");
        for (image, label) in training.features.chunks(12).zip(&training.labels) {
            let number = (image[0] * 255.0).round() as usize;
            assert_eq!(*label as usize, number % 3);
            assert_eq!(
                image,
                pixels(number).iter().map(|p| (f64::from(*p) / 255.0) as f32).collect::<Vec<_>>()
            );
        }
        // Naming only the file of images finds both files.
        let end = if is_gzip { ".gz" } else { "" };
        let file = dir.path().join(format!("train-images-idx3-ubyte{end}"));
        let (by_file, _) = open(&configs::Dataset { uri: file.display().to_string(), ..config });
        Dataset::open(&by_file, &file).expect("opened by its file too");
        assert_eq!((by_file.files(), &by_file.digest), (plan.files(), &plan.digest));
    }
}

#[test]
fn idx_images_in_colour_have_their_channels_one_after_another() {
    let dir = folder();
    // Values distinct across channels: 10 images of 3 x 2 x 2.
    let pixels = |number: usize| (0..12).map(move |at| (number * 12 + at) as u8);
    let bytes: Vec<u8> = (0..10).flat_map(pixels).collect();
    let images = write(dir.path(), "train-images-idx4-ubyte", &idx(&[10, 3, 2, 2], &bytes));
    write(dir.path(), "train-labels-idx1-ubyte", &idx(&[10], &[0, 1, 0, 1, 0, 1, 0, 1, 0, 1]));
    let none = configs::Dataset { normalise: Normalise::None, ..config("idx", dir.path()) };
    let (plan, dataset) = open(&none);
    assert_eq!((plan.image_shape, plan.features()), (Some([3, 2, 2]), 12));
    let (training, validation) = epoch(&dataset, KEY);
    let first = training.features.chunks(12).chain(validation.features.chunks(12));
    for image in first {
        let number = (image[0] * 255.0 / 12.0).round() as usize;
        let expected: Vec<f32> = pixels(number).map(|p| (f64::from(p) / 255.0) as f32).collect();
        assert_eq!(image, expected);
    }
    let (plan, dataset) = open(&configs::Dataset { normalise: Normalise::Standard, ..none });
    let (training, _) = epoch(&dataset, KEY);
    let mean_of = |channel: usize| {
        let values = training.features.chunks(12).flat_map(|image| &image[4 * channel..4 * channel + 4]);
        values.sum::<f32>() / (4 * training.count) as f32
    };
    assert!((0..3).all(|channel| mean_of(channel).abs() < 1e-5), "each channel by its own mean");
    let rows = plan.read_for_prediction(&images).expect("images");
    let known: Vec<&[f32]> = rows.features.chunks(12).collect();
    assert!(
        rows.count == 10 && training.features.chunks(12).all(|image| known.contains(&image)),
        "as they were trained on"
    );
    let two = idx(&[10, 2, 2, 3], &bytes);
    write(dir.path(), "train-images-idx4-ubyte", &two);
    let said = refused(&config("idx", dir.path()));
    assert_eq!(said, "data: train-images-idx4-ubyte has images of 2 channels, expected 1, 3 or 4");
}

#[test]
fn pixels_are_scaled_by_the_training_split_alone() {
    let dir = folder();
    mnist(dir.path(), 50, false);
    let (plan, dataset) = open(&config("idx", dir.path()));
    let (training, validation) = epoch(&dataset, KEY);
    let moments = |batch: &Batch| {
        let numbers: Vec<f64> = batch.features.iter().map(|x| f64::from(*x)).collect();
        let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
        let squares: f64 = numbers.iter().map(|x| (x - mean).powi(2)).sum();
        (mean, (squares / numbers.len() as f64).sqrt())
    };
    let (mean, deviation) = moments(&training);
    assert!(mean.abs() < 1e-6 && (deviation - 1.0).abs() < 1e-6, "{mean}, {deviation}");
    assert!(moments(&validation).0.abs() > 1e-6, "the held out images had no part in it");
    let Format::Idx(idx) = &plan.form else { panic!("idx") };
    assert_eq!(plan.normalisation(None)["pixels"][0]["offset"], idx.scaling[0].offset);
}

#[test]
fn a_folder_of_images_is_read_from_memory_and_from_files_alike() {
    let dir = folder();
    pets(dir.path(), 10);
    write(dir.path(), "README.md", b"not a sample, but a part of the data");
    let config = configs::Dataset { normalise: Normalise::None, ..config("images", dir.path()) };
    let (plan, dataset) = open(&config);
    assert_eq!((plan.rows, plan.image_shape, plan.files().len()), (20, Some([1, 3, 4]), 21));
    assert_eq!(plan.output, Output::Classes { labels: vec!["cat".to_owned(), "dog".to_owned()] });
    assert!(plan.is_folder() && plan.digest.ends_with(".dir"), "{}", plan.digest);
    let (training, validation) = epoch(&dataset, KEY);
    assert_eq!(numbers(&[&training, &validation]), (0..20).collect::<Vec<_>>(), "each image once");
    for (image, label) in training.features.chunks(12).zip(&training.labels) {
        assert_eq!(*label == 1, (image[0] * 255.0).round() as usize >= 10);
    }
    let (_, standardised) = open(&configs::Dataset { normalise: Normalise::Standard, ..config.clone() });
    let scaled = epoch(&standardised, KEY).0.features;
    let mean = scaled.iter().map(|x| f64::from(*x)).sum::<f64>() / scaled.len() as f64;
    assert!(mean.abs() < 1e-6, "scaled by the training split alone: {mean}");
    let (uncached, from_files) = open(&configs::Dataset { cache_mb: 0, ..config });
    assert_eq!(uncached.digest, plan.digest);
    assert_eq!(epoch(&from_files, KEY), (training, validation));
    // A file that changes during a run is detected, not trained on.
    write(dir.path(), "cat/000.png", &encoded(ImageFormat::Png, &pixels(99), [3, 4]));
    let all: Vec<u64> = (0..from_files.training_len()).collect();
    let rest: Vec<u64> = (0..from_files.evaluation_len()).collect();
    let mut batch = Batch::default();
    let gathered = from_files
        .gather_training(KEY, &all, &mut batch)
        .and_then(|()| from_files.gather_evaluation(&rest, &mut batch));
    let said = gathered.expect_err("changed").to_string();
    assert!(said.contains("cat/000.png has changed"), "{said}");
    let said = Dataset::open(&plan, dir.path()).expect_err("changed").to_string();
    assert!(said.contains("cat/000.png has changed"), "{said}");
}

#[test]
fn jpeg_and_colour_are_read() {
    let dir = folder();
    let flat = |value: u8| vec![value; 64];
    write(dir.path(), "a/1.jpg", &encoded(ImageFormat::Jpeg, &flat(200), [8, 8]));
    write(dir.path(), "b/1.JPEG", &encoded(ImageFormat::Jpeg, &flat(20), [8, 8]));
    let colour = image::RgbImage::from_fn(8, 8, |x, y| image::Rgb([x as u8, y as u8, 255]));
    colour.save(dir.path().join("b/2.png")).expect("saved");
    let mut config = config("images", dir.path());
    (config.normalise, config.validation) = (Normalise::None, 0.0);
    let (plan, dataset) = open(&config);
    assert_eq!(plan.image_shape, Some([3, 8, 8]), "colour if any has it");
    let (training, _) = epoch(&dataset, KEY);
    assert_eq!(training.labels, [0, 1, 1]);
    for (image, value) in training.features.chunks(192).zip([200.0, 20.0]) {
        assert!(image.iter().all(|x| (x * 255.0 - value).abs() < 2.0), "{image:?}");
    }
    // Order: channels, rows, columns.
    let last = &training.features[2 * 192..];
    assert_eq!((last[1] * 255.0, last[8] * 255.0, last[64 + 8] * 255.0, last[128]), (1.0, 0.0, 1.0, 1.0));
    config.image_shape = Some([1, 8, 8]);
    assert_eq!(open(&config).0.features(), 64);
}

#[test]
fn other_sizes_are_refused_by_name_or_scaled() {
    let dir = folder();
    pets(dir.path(), 3);
    write(dir.path(), "dog/big.png", &encoded(ImageFormat::Png, &[90; 48], [6, 8]));
    let mut config = config("images", dir.path());
    assert_eq!(
        refused(&config),
        "dog/big.png: the image is 6 x 8 (height x width) where 3 x 4 is expected: resize it, or set dataset.resize = \
         true (or dataset.on_bad = \"skip\" to leave such images out)"
    );
    let skip = configs::Dataset { on_bad: OnBad::Skip, ..config.clone() };
    let (plan, _) = open(&skip);
    assert_eq!(
        plan.form.skipped().map(|skipped| skipped.listed.clone()),
        Some(vec!["dog/big.png".to_owned()])
    );
    assert_ne!(plan.identity(), plan.digest, "what is left out is part of what the data are");
    // Skipping would silently lose most of the data.
    let most = configs::Dataset { image_shape: Some([1, 6, 8]), ..skip };
    assert_eq!(
        refused(&most),
        "data: 6 images are not 6 x 8 (height x width), only 1 are: set dataset.image_shape, or dataset.resize = true"
    );
    (config.resize, config.normalise, config.validation) = (true, Normalise::None, 0.0);
    let (plan, dataset) = open(&config);
    assert_eq!((plan.rows, plan.image_shape), (7, Some([1, 3, 4])));
    let (training, _) = epoch(&dataset, KEY);
    let big = &training.features[6 * 12..];
    assert!(big.iter().all(|x| (x * 255.0 - 90.0).abs() < 1.0), "{big:?}");
}

#[test]
fn bad_images_stop_or_are_left_out_once_and_for_all() {
    let dir = folder();
    pets(dir.path(), 5);
    let whole = encoded(ImageFormat::Png, &pixels(1), [3, 4]);
    write(dir.path(), "cat/cut.png", &whole[..whole.len() / 2]);
    write(dir.path(), "dog/text.jpg", b"no image");
    let jpeg = encoded(ImageFormat::Jpeg, &pixels(1), [3, 4]);
    write(dir.path(), "dog/zcut.jpg", &jpeg[..jpeg.len() - 4]);
    let mut config = config("images", dir.path());
    let said = refused(&config);
    assert!(said.starts_with("cat/cut.png: the image can't be decoded: "), "{said}");
    config.on_bad = OnBad::Skip;
    config.normalise = Normalise::None;
    let (plan, dataset) = open(&config);
    let skipped = plan.form.skipped().expect("skipped");
    assert_eq!((skipped.count, plan.rows), (3, 10));
    assert_eq!(skipped.listed, ["cat/cut.png", "dog/text.jpg", "dog/zcut.jpg"]);
    let (training, validation) = epoch(&dataset, KEY);
    assert_eq!(numbers(&[&training, &validation]), (0..10).collect::<Vec<_>>(), "each image once");
}

#[test]
fn classes_that_are_none_are_refused() {
    let dir = folder();
    let path = dir.path();
    let config = config("images", path);
    assert_eq!(refused(&config), "data: there is no folder with images here: each class has one");
    let png = encoded(ImageFormat::Png, &pixels(1), [3, 4]);
    write(path, "cat/1.png", &png);
    assert_eq!(refused(&config), "data: there is one label only ([\"cat\"]): there is nothing to learn");
    std::fs::create_dir(path.join("dog")).expect("made");
    assert_eq!(
        refused(&config),
        "data: the class \"dog\" has no images (.png, .jpg, .jpeg): remove its folder, or fill it"
    );
    let bad = write(path, "dog/1.png", b"x");
    let skip = configs::Dataset { on_bad: OnBad::Skip, ..config.clone() };
    assert_eq!(refused(&skip), "data: none of the images of class \"dog\" can be used");
    std::fs::copy(path.join("cat/1.png"), bad).expect("copied");
    assert_eq!(refused(&config), "fine");
    write(path, "3.png", &png);
    assert_eq!(refused(&config), "data: 3.png lies in no class's folder: move it into one, or away");
    let csv = configs::Dataset { format: "csv".to_owned(), ..config };
    assert!(refused(&csv).starts_with("data: this is a folder, dataset.format = \"csv\" is a file"));
}

#[test]
fn broken_idx_files_are_refused_with_file_and_byte() {
    const IMAGES: &str = "train-images-idx3-ubyte";
    const LABELS: &str = "train-labels-idx1-ubyte";
    let check = |name: &str, bytes: &[u8], expected: &str| {
        let dir = folder();
        mnist(dir.path(), 6, false);
        write(dir.path(), name, bytes);
        let said = refused(&config("idx", dir.path())).replace(&dir.path().display().to_string(), "");
        assert_eq!(said, expected);
    };
    let good = idx(&[6, 3, 4], &(0..6).flat_map(pixels).collect::<Vec<_>>());
    check(IMAGES, &good, "fine");
    let at = |offset: usize, problem: &str| format!("{IMAGES}, byte {offset}: {problem}");
    check(IMAGES, b"", &at(0, "the file ends within its header"));
    check(IMAGES, &good[..10], &at(10, "the file ends within its header"));
    check(IMAGES, &good[..87], &at(87, "the file ends here, where [6, 3, 4] numbers take 72 bytes"));
    let one_short = [&good[..], &[0][..]].concat();
    check(IMAGES, &one_short, &at(88, "the file goes on after its [6, 3, 4] numbers"));
    check(
        IMAGES,
        b"a,b,c\n1,2,3\n4,5,6\n",
        &at(0, "no idx file: it begins with [61, 2c, 62, 2c], not with 00 00 08 03 or 04"),
    );
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    check(IMAGES, &with(2, 0x0d), &at(2, "numbers of type 0x0d, only bytes (0x08) are read"));
    let dimensions = "images have 3 (number, height, width) or 4 (number, channels, height, width)";
    check(IMAGES, &with(3, 1), &at(3, &format!("1 dimensions, where {dimensions}")));
    check(
        IMAGES,
        &with(3, 4),
        &at(4, "the header promises [6, 3, 4, 858663] numbers, which the file can't hold"),
    );
    let huge = idx(&[u32::MAX, u32::MAX, u32::MAX], &[0; 100]);
    let sizes = "[4294967295, 4294967295, 4294967295]";
    check(IMAGES, &huge, &at(4, &format!("the header promises {sizes} numbers, which the file can't hold")));
    let zipped = gzip(&good);
    let said_of_half = {
        let dir = folder();
        mnist(dir.path(), 6, false);
        write(dir.path(), IMAGES, &zipped[..zipped.len() / 2]);
        refused(&config("idx", dir.path()))
    };
    assert!(
        said_of_half.contains("byte ") && said_of_half.contains("can't be decompressed"),
        "{said_of_half}"
    );
    check(
        LABELS,
        &idx(&[5], &[0, 1, 2, 0, 1]),
        &format!("{LABELS}, byte 4: 5 labels, but 6 images in {IMAGES}"),
    );
    check(LABELS, &idx(&[6], &[1; 6]), "data: there is one label only ([\"1\"]): there is nothing to learn");
    let dir = folder();
    write(dir.path(), IMAGES, &good);
    assert_eq!(
        refused(&config("idx", dir.path())),
        format!(
            "{IMAGES}: there is no file of labels beside it (looked for {LABELS}): name it in dataset.labels"
        )
    );
    write(dir.path(), "mine", &idx(&[6], &[3, 4, 3, 4, 3, 4]));
    let named = configs::Dataset { labels: Some("mine".to_owned()), ..config("idx", dir.path()) };
    assert_eq!(open(&named).0.labels(), ["3", "4"]);
}

#[test]
fn augmentation_is_of_training_alone_and_the_same_in_every_order() {
    let dir = folder();
    mnist(dir.path(), 30, false);
    let plain = configs::Dataset { normalise: Normalise::None, ..config("idx", dir.path()) };
    let augment = Augment { shift: 1, flip: true, crop: 1 };
    let plan = DataPlan::prepare(&plain, None).expect("planned").augmented(&augment).expect("images");
    let dataset = Dataset::open(&plan, Path::new(&plan.path)).expect("opened");
    let (_, unaltered) = open(&plain);
    let ((first, validation), (as_is, validation_as_is)) = (epoch(&dataset, KEY), epoch(&unaltered, KEY));
    assert_eq!(validation, validation_as_is);
    assert_eq!(first.labels, as_is.labels);
    assert_ne!(first.features, as_is.features);
    assert_eq!(epoch(&dataset, KEY).0, first, "the same again");
    assert_ne!(epoch(&dataset, AugmentKey { epoch: 1, ..KEY }).0, first, "another epoch");
    assert_ne!(epoch(&dataset, AugmentKey { seed: 1, ..KEY }).0, first, "another seed");
    let mut batch = Batch::default();
    for ordinal in (0..dataset.training_len()).rev() {
        dataset.gather_training(KEY, &[ordinal], &mut batch).expect("gathered");
        let at = ordinal as usize * 12;
        assert_eq!(batch.features, first.features[at..at + 12], "alone as in a batch");
    }
    // Mirroring preserves each row's pixels.
    let flip = Augment { flip: true, ..Augment::default() };
    let plan = DataPlan::prepare(&plain, None).expect("planned").augmented(&flip).expect("images");
    let (flipped, _) = epoch(&Dataset::open(&plan, Path::new(&plan.path)).expect("opened"), KEY);
    let mut turned = 0;
    for (row, before) in flipped.features.chunks(4).zip(as_is.features.chunks(4)) {
        let mirrored: Vec<f32> = before.iter().rev().copied().collect();
        assert!(row == before || row == mirrored);
        turned += usize::from(row != before);
    }
    assert!((20..60).contains(&turned), "{turned} of 72 rows");
}

#[test]
fn augmentation_is_refused_where_it_means_nothing() {
    let dir = folder();
    mnist(dir.path(), 6, false);
    let plan = DataPlan::prepare(&config("idx", dir.path()), None).expect("planned");
    let said = plan.clone().augmented(&Augment { shift: 3, ..Augment::default() }).expect_err("too far");
    assert!(
        said.to_string().ends_with("augment.shift = 3: the images are 3 x 4, at most 2 is possible"),
        "{said}"
    );
    let text = write(dir.path(), "t.csv", b"a,b\n1,x\n2,y\n");
    let plan = DataPlan::prepare(&config("csv", &text), None).expect("planned");
    assert!(plan.clone().augmented(&Augment::default()).is_ok());
    let said =
        plan.augmented(&Augment { flip: true, ..Augment::default() }).expect_err("a table").to_string();
    assert!(
        said.ends_with("[augment] is for images (dataset.format \"idx\" or \"images\"), this is csv"),
        "{said}"
    );
}

#[test]
fn images_are_read_for_prediction() {
    let dir = folder();
    pets(dir.path(), 4);
    let plan = DataPlan::prepare(&config("images", dir.path()), None).expect("planned");
    let one = plan.read_for_prediction(&dir.path().join("dog/004.png")).expect("an image");
    let class = plan.read_for_prediction(&dir.path().join("dog")).expect("a folder");
    assert_eq!((one.count, class.count, class.features.len()), (1, 4, 48));
    assert_eq!(one.features, class.features[..12]);
    let numbers = folder();
    mnist(numbers.path(), 5, true);
    let plan = DataPlan::prepare(&config("idx", numbers.path()), None).expect("planned");
    let all = plan.read_for_prediction(&numbers.path().join("train-images-idx3-ubyte.gz")).expect("images");
    assert_eq!((all.count, all.features.len()), (5, 60));
}
