//! Small files with large contents are refused with an error that names them, before memory is allocated; tested with
//! the real program under a limit of its address space.
#![cfg(target_os = "linux")]

mod support;

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

use datasets::DataPlan;
use flate2::Compression as Level;
use flate2::write::{GzEncoder, ZlibEncoder};
use parquet::basic::{Compression, Encoding, GzipLevel, ZstdLevel};
use support::*;

/// Address-space limit in KiB: code, threads, and headroom on top of the budget.
const LIMIT_KIB: u64 = 400 << 10;
/// Bytes of refused contents: more than the limit.
const MUCH: usize = 200_000_000;
/// Memory budget in megabytes.
const BUDGET: &str = "50";

/// Exit code (-1 if killed by a signal), stdout and stderr.
fn limited(args: &[&str]) -> (i32, String, String) {
    let output = Command::new("sh")
        .args(["-c", "ulimit -v \"$LIMIT\"; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_datasets")])
        .args(args)
        .env("LIMIT", LIMIT_KIB.to_string())
        .env("MALLOC_ARENA_MAX", "2")
        .env_remove("BONFIRE_DATASETS")
        .output()
        .expect("run");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// Expects `datasets show` to refuse this file for lack of memory, in one line.
fn refuses(path: &Path) {
    let (code, _, said) = limited(&["show", &path.display().to_string(), "--memory-mb", BUDGET]);
    assert_eq!(code, 3, "{}: {said}", path.display());
    for words in ["would take ", " MB of memory, where 50 MB are allowed", "dataset.memory_mb", "--memory-mb"]
    {
        assert!(said.contains(words), "{}: {said}", path.display());
    }
    assert!(said.len() < 1_000 && said.lines().count() == 1, "{said}");
}

/// A sparse file: these bytes, then zeros that take no disk space.
fn sparse(root: &Path, name: &str, bytes: &[u8], length: u64) -> std::path::PathBuf {
    let path = write(root, name, bytes);
    File::options().write(true).open(&path).expect("opened").set_len(length).expect("set");
    path
}

/// A single-colour PNG, compressed row by row.
fn png(side: u32) -> Vec<u8> {
    let chunk = |kind: &[u8], data: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(kind);
        crc.update(data);
        [&(data.len() as u32).to_be_bytes(), kind, data, &crc.sum().to_be_bytes()].concat()
    };
    let mut pixels = ZlibEncoder::new(Vec::new(), Level::fast());
    let row = vec![0; 1 + 3 * side as usize];
    (0..side).for_each(|_| pixels.write_all(&row).expect("compressed"));
    let header = [&side.to_be_bytes()[..], &side.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    [
        b"\x89PNG\r\n\x1a\n".to_vec(),
        chunk(b"IHDR", &header),
        chunk(b"IDAT", &pixels.finish().expect("compressed")),
        chunk(b"IEND", b""),
    ]
    .concat()
}

/// A parquet file of two rows, the first with a text of `bytes` bytes.
fn one_long_text(bytes: usize, compression: Compression, encoding: Option<Encoding>) -> Vec<u8> {
    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;

    let schema = "message table { required binary text (UTF8); required int64 y; }";
    let schema = std::sync::Arc::new(parquet::schema::parser::parse_message_type(schema).expect("a schema"));
    let mut properties =
        WriterProperties::builder().set_compression(compression).set_dictionary_enabled(encoding.is_none());
    if let Some(encoding) = encoding {
        properties = properties.set_column_encoding("text".into(), encoding);
    }
    let properties = properties.set_statistics_enabled(parquet::file::properties::EnabledStatistics::None);
    let mut file = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut file, schema, std::sync::Arc::new(properties.build()))
        .expect("a writer");
    let mut group = writer.next_row_group().expect("a group");
    let mut column = group.next_column().expect("read").expect("text");
    let texts = [ByteArray::from(vec![b'x'; bytes]), ByteArray::from("y")];
    column.typed::<ByteArrayType>().write_batch(&texts, None, None).expect("written");
    column.close().expect("closed");
    let mut column = group.next_column().expect("read").expect("y");
    column.typed::<Int64Type>().write_batch(&[0, 1], None, None).expect("written");
    column.close().expect("closed");
    group.close().expect("closed");
    writer.close().expect("closed");
    file
}

#[test]
fn an_image_of_one_colour_is_refused_by_its_header() {
    let dir = folder();
    // 13,000 x 13,000 pixels of three bytes in half a megabyte.
    let bytes = png(13_000);
    assert!(bytes.len() < 3_000_000, "{}", bytes.len());
    for class in ["a", "b"] {
        write(dir.path(), &format!("images/{class}/1.png"), &bytes);
    }
    refuses(&dir.path().join("images"));
    // A small image determines the shape; the large ones would be resized.
    write(dir.path(), "images/a/0.png", &encoded(image::ImageFormat::Png, &pixels(1), [3, 4]));
    refuses(&dir.path().join("images"));
}

#[test]
fn images_that_fit_one_by_one_are_read_however_many_they_are() {
    let dir = folder();
    // Each takes 27 MB while decoding, with a budget of 50: threads wait for each other.
    let bytes = png(2_100);
    for number in 0..12 {
        write(dir.path(), &format!("images/{}/{number}.png", ["a", "b"][number % 2]), &bytes);
    }
    let path = dir.path().join("images").display().to_string();
    let (code, said, why) = limited(&["show", &path, "--memory-mb", BUDGET]);
    assert_eq!(code, 0, "{why}");
    assert!(
        said.contains("images: 12 images of 1 channel") || said.contains("12 images of 3 channels"),
        "{said}"
    );
}

#[test]
fn numbers_that_were_compressed_are_refused_by_their_header() {
    let dir = folder();
    let count = (MUCH / 10_000) as u32;
    let mut images = GzEncoder::new(Vec::new(), Level::fast());
    images.write_all(&idx(&[count, 100, 100], &[])).expect("compressed");
    let image = vec![0; 10_000];
    (0..count).for_each(|_| images.write_all(&image).expect("compressed"));
    let labels: Vec<u8> = (0..count).map(|number| (number % 2) as u8).collect();
    write(dir.path(), "idx/train-images-idx3-ubyte.gz", &images.finish().expect("compressed"));
    write(dir.path(), "idx/train-labels-idx1-ubyte.gz", &gzip(&idx(&[count], &labels)));
    refuses(&dir.path().join("idx"));
    // And a file that is itself too large.
    sparse(dir.path(), "plain/train-images-idx3-ubyte", &idx(&[count, 100, 100], &[]), MUCH as u64);
    write(dir.path(), "plain/train-labels-idx1-ubyte", &idx(&[count], &labels));
    refuses(&dir.path().join("plain"));
}

#[test]
fn a_page_of_a_parquet_file_is_refused_by_its_header() {
    let dir = folder();
    let zstd = Compression::ZSTD(ZstdLevel::default());
    for (name, compression, encoding) in [
        ("dictionary", zstd, None),
        ("plain", Compression::SNAPPY, Some(Encoding::PLAIN)),
        ("gzip", Compression::GZIP(GzipLevel::default()), Some(Encoding::PLAIN)),
        ("lengths", zstd, Some(Encoding::DELTA_LENGTH_BYTE_ARRAY)),
        ("prefixes", zstd, Some(Encoding::DELTA_BYTE_ARRAY)),
    ] {
        let bytes = one_long_text(MUCH, compression, encoding);
        refuses(&write(dir.path(), &format!("{name}.parquet"), &bytes));
        // One that fits is read.
        let bytes = one_long_text(1_000_000, compression, encoding);
        let path = write(dir.path(), &format!("{name}.parquet"), &bytes).display().to_string();
        let (code, _, said) = limited(&["show", &path, "--memory-mb", BUDGET]);
        assert_eq!((code, said.as_str()), (0, ""), "{name}");
    }
    // A file that declares nearly all of itself as metadata.
    let path = sparse(dir.path(), "metadata.parquet", b"PAR1", 40_000_000);
    let mut file = File::options().write(true).open(&path).expect("opened");
    file.seek(SeekFrom::End(-8)).expect("there");
    file.write_all(&[&39_000_000u32.to_le_bytes()[..], b"PAR1"].concat()).expect("written");
    refuses(&path);
}

#[test]
fn a_gzipped_page_that_holds_more_than_its_header_says_is_refused() {
    let dir = folder();
    let gzip = Compression::GZIP(GzipLevel::default());
    let (small, large) =
        (one_long_text(9, gzip, Some(Encoding::PLAIN)), one_long_text(MUCH, gzip, Some(Encoding::PLAIN)));
    // The uncompressed size follows the page's type, and both sizes are varints of at most five bytes: give the large
    // file's page the small one's size.
    let at = large.windows(2).position(|pair| pair == [0x15, 0x00]).expect("a page") + 2;
    let own = small.windows(2).position(|pair| pair == [0x15, 0x00]).expect("a page") + 2;
    let length = |bytes: &[u8]| bytes.iter().position(|byte| byte & 0x80 == 0).expect("an end") + 1;
    let mut lies = large.clone();
    let room = length(&large[at + 1..]);
    // Padded to the width of the true number by zero groups with the continuation bit set.
    let mut number = small[own + 1..own + 1 + length(&small[own + 1..])].to_vec();
    while number.len() < room {
        *number.last_mut().expect("one") |= 0x80;
        number.push(0);
    }
    lies[at + 1..at + 1 + room].copy_from_slice(&number);
    let path = write(dir.path(), "t.parquet", &lies).display().to_string();
    let (code, _, said) = limited(&["show", &path, "--memory-mb", BUDGET]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("a page holds more than its header says"), "{said}");
}

#[test]
fn a_row_that_never_ends_is_refused_with_its_line() {
    let dir = folder();
    let path = sparse(dir.path(), "t.csv", b"a,b\n1,x\n2,\"", MUCH as u64);
    refuses(&path);
    let (_, _, said) = limited(&["show", &path.display().to_string(), "--memory-mb", BUDGET]);
    assert!(said.contains("line 3"), "{said}");
    refuses(&sparse(dir.path(), "first.csv", b"a,b", MUCH as u64));
    // Many distinct short texts in one column.
    let mut text = "a,y\n".to_owned();
    for row in 0..9_000 {
        text.push_str(&format!("{row}{},{}\n", "x".repeat(9_000), row % 2));
    }
    refuses(&write(dir.path(), "texts.csv", text.as_bytes()));
}

#[test]
fn numbers_of_a_wide_table_are_forgotten_before_it_is_refused() {
    let dir = folder();
    // 2,000 columns of 200 distinct numbers: 30 MB as texts, 2 MB as numbers.
    let mut text: String = (0..2_000).map(|column| format!("c{column},")).collect::<String>() + "y\n";
    for row in 0..200 {
        (0..2_000).for_each(|column| text.push_str(&format!("{}.5,", row * 2_000 + column)));
        text.push_str(&format!("{}\n", row % 2));
    }
    let path = write(dir.path(), "t.csv", text.as_bytes());
    let plan = DataPlan::prepare(&configs::Dataset { memory_mb: 12, ..config("csv", &path) }, None)
        .expect("planned");
    let roomy = DataPlan::prepare(&config("csv", &path), None).expect("planned");
    assert_eq!((plan.columns(), &plan.output), (roomy.columns(), &roomy.output));
    let too_little = DataPlan::prepare(&configs::Dataset { memory_mb: 1, ..config("csv", &path) }, None);
    assert!(matches!(too_little, Err(datasets::DataError::Memory { .. })), "{too_little:?}");
}

#[test]
fn texts_tokenizers_and_manifests_are_refused_by_their_size() {
    let dir = folder();
    let refused = |config: &configs::Dataset| {
        let said = DataPlan::prepare(&configs::Dataset { memory_mb: 50, ..config.clone() }, None)
            .expect_err("too much");
        assert!(matches!(said, datasets::DataError::Memory { .. }), "{said}");
    };
    let text = sparse(dir.path(), "t.txt", b"text", MUCH as u64);
    refused(&config("text", &text));
    let small = write(dir.path(), "s.txt", b"text");
    let tokenizer = sparse(dir.path(), "tokenizer.json", b"{", 100_000_000);
    refused(&configs::Dataset { tokenizer: Some(tokenizer), ..config("text", &small) });
    let manifest = sparse(dir.path(), "registry/manifests/d/000001.json", b"{", MUCH as u64);
    let registry = dir.path().join("registry").display().to_string();
    for command in [vec!["show", "d"], vec!["checkout", "d@1", "out"], vec!["log", "d"], vec!["verify", "d"]]
    {
        let args = [command.as_slice(), &["--dir", &registry, "--memory-mb", BUDGET]].concat();
        let (code, _, said) = limited(&args);
        assert_eq!(code, 3, "{command:?}: {said}");
        assert!(said.contains(&manifest.display().to_string()) && said.contains("--memory-mb"), "{said}");
    }
}

#[test]
fn a_message_quotes_a_line_of_its_input_at_most() {
    let dir = folder();
    let long = "y".repeat(3_000_000);
    let check = |name: &str, text: String| {
        let path = write(dir.path(), name, text.as_bytes()).display().to_string();
        let (_, said, why) = limited(&["show", &path]);
        assert!(said.len() + why.len() < 8_000, "{name}: {} and {} bytes", said.len(), why.len());
    };
    check("name.csv", format!("{long},{long}\n1,2\n"));
    check("label.csv", format!("a,b\n1,{long}\n2,{long}\n"));
    check("field.csv", format!("a,b\n1,x\n{long},y\n"));
    check("quote.csv", format!("a,b\n1,x\n2,\"{long}\n{long}\n"));
    check("good.csv", format!("{long},b\n1,x{long}\n2,y\n3,y\n4,x{long}\n"));
    let path = write(dir.path(), "long.toml", format!("{long} = 1\n").as_bytes()).display().to_string();
    let (code, _, said) = limited(&["fetch", "x", "--table", &path]);
    assert!(code == 2 && said.len() < 2_000, "{code}: {} bytes", said.len());
}
