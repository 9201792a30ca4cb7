//! Memory that the pages of a parquet file need, from their headers: known before anything is decompressed.
//!
//! A page's header declares its decompressed size and number of values. The parquet crate trusts both, so they are
//! checked first. Headers are encoded in Thrift's compact protocol
//! (<https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>, `PageHeader`).

use std::io::Read;

use flate2::read::MultiGzDecoder;
use parquet::basic::Compression;
use parquet::file::metadata::ColumnChunkMetaData;

/// Memory of a dictionary value in addition to its bytes: a reference to them.
const VALUE_BYTES: u64 = 40;
/// Memory per length in the encodings that store lengths separately.
const LENGTH_BYTES: u64 = 8;
/// Maximum nesting of structs in a page header; the format has three levels.
const DEPTH_MAX: u32 = 16;

/// Format numbers of the encodings that store lengths separately: DELTA_LENGTH_BYTE_ARRAY, DELTA_BYTE_ARRAY.
const DELTA_LENGTHS: i64 = 6;
const DELTA_BYTES: i64 = 7;

/// Memory needed to read a column chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct ChunkMemory {
    /// In-memory size of its dictionary.
    pub(super) dictionary: u64,
    /// In-memory size of its largest page.
    pub(super) page: u64,
    /// Whether values may share a prefix with their predecessor, so that each may be as long as a page.
    pub(super) has_prefixes: bool,
    /// Whether lengths are stored separately; their number is declared within the page.
    pub(super) has_lengths: bool,
}

/// Declared properties of a page.
#[derive(Clone, Copy, Default)]
struct Header {
    kind: i64,
    uncompressed: u64,
    compressed: u64,
    values: u64,
    encoding: i64,
}

/// Scans all page headers of a column chunk.
pub(super) fn takes(file: &[u8], chunk: &ColumnChunkMetaData) -> Result<ChunkMemory, String> {
    let start = chunk.dictionary_page_offset().filter(|at| *at > 0).unwrap_or(chunk.data_page_offset());
    let range = usize::try_from(start).ok().zip(usize::try_from(chunk.compressed_size()).ok());
    let bytes = range.and_then(|(start, length)| file.get(start..start.checked_add(length)?));
    let mut rest = bytes.ok_or("a column lies outside of the file")?;
    let mut takes = ChunkMemory::default();
    let is_compressed = chunk.compression() != Compression::UNCOMPRESSED;
    while !rest.is_empty() {
        let mut thrift = Thrift { rest };
        let header = thrift.header().ok_or("the header of a page is damaged")?;
        rest = thrift.rest;
        let length = usize::try_from(header.compressed).ok().filter(|length| *length <= rest.len());
        let (page, after) = rest.split_at(length.ok_or("a page is longer than its column")?);
        rest = after;
        // The decompressor reads gzip to its end, whatever the header declares.
        if matches!(chunk.compression(), Compression::GZIP(_)) && holds_more(page, header.uncompressed) {
            return Err("a page holds more than its header says".to_owned());
        }
        let bytes = if is_compressed { header.uncompressed } else { 0 };
        if header.kind == 2 {
            takes.dictionary = bytes.saturating_add(header.values.saturating_mul(VALUE_BYTES));
            continue;
        }
        let has_lengths = matches!(header.encoding, DELTA_LENGTHS | DELTA_BYTES);
        let lengths = if has_lengths { header.values.saturating_mul(LENGTH_BYTES) } else { 0 };
        takes.page = takes.page.max(header.uncompressed.saturating_add(lengths));
        takes.has_lengths |= has_lengths;
        takes.has_prefixes |= header.encoding == DELTA_BYTES;
    }
    Ok(takes)
}

/// Whether gzipped data expand to more than `expected` bytes. Damaged data are left for the reader to report.
fn holds_more(page: &[u8], expected: u64) -> bool {
    let read =
        std::io::copy(&mut MultiGzDecoder::new(page).take(expected.saturating_add(1)), &mut std::io::sink());
    read.is_ok_and(|read| read > expected)
}

/// Whether a footer is a struct whose lists have no more elements than bytes. The parquet crate steps through as many
/// elements as a list declares, which a footer of a kilobyte can make a second's work.
pub(super) fn is_sound(footer: &[u8]) -> bool {
    const STRUCT: u8 = 12;
    Thrift { rest: footer }.skip(STRUCT, 0).is_some()
}

/// Parser of Thrift's compact protocol; `None` means truncated or invalid.
struct Thrift<'a> {
    rest: &'a [u8],
}

impl Thrift<'_> {
    fn header(&mut self) -> Option<Header> {
        let mut header = Header::default();
        let mut id = 0;
        while let Some(kind) = self.field(&mut id)? {
            match (id, kind) {
                (1, 5) => header.kind = self.number()?,
                (2, 5) => header.uncompressed = u64::try_from(self.number()?).ok()?,
                (3, 5) => header.compressed = u64::try_from(self.number()?).ok()?,
                // The page's own header: data, dictionary, or data v2.
                (5 | 7 | 8, 12) => self.page(id == 8, &mut header)?,
                _ => self.skip(kind, 0)?,
            }
        }
        Some(header)
    }

    fn page(&mut self, is_second_form: bool, header: &mut Header) -> Option<()> {
        let mut id = 0;
        while let Some(kind) = self.field(&mut id)? {
            match (id, kind) {
                (1, 5) => header.values = u64::try_from(self.number()?).ok()?,
                (2, 5) if !is_second_form => header.encoding = self.number()?,
                (4, 5) if is_second_form => header.encoding = self.number()?,
                _ => self.skip(kind, 1)?,
            }
        }
        Some(())
    }

    /// Reads the type of the next field and updates `id`; `Some(None)` at the end of the struct.
    fn field(&mut self, id: &mut i64) -> Option<Option<u8>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Some(None);
        }
        *id = match byte >> 4 {
            0 => self.number()?,
            delta => id.checked_add(i64::from(delta))?,
        };
        Some(Some(byte & 0x0f))
    }

    fn skip(&mut self, kind: u8, depth: u32) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        match kind {
            // Booleans: the type encodes the value.
            1 | 2 => {}
            3 => {
                self.byte()?;
            }
            4..=6 => {
                self.varint()?;
            }
            7 => self.advance(8)?,
            8 => {
                let length = self.varint()?;
                self.advance(length)?;
            }
            9 | 10 => {
                let byte = self.byte()?;
                let count = if byte >> 4 == 15 { self.varint()? } else { u64::from(byte >> 4) };
                for _ in 0..count {
                    // In a list, a boolean takes a byte.
                    if matches!(byte & 0x0f, 1 | 2) {
                        self.byte()?;
                    } else {
                        self.skip(byte & 0x0f, depth + 1)?;
                    }
                }
            }
            12 => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, depth + 1)?;
                }
            }
            _ => return None,
        }
        Some(())
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn advance(&mut self, count: u64) -> Option<()> {
        self.rest = self.rest.get(usize::try_from(count).ok()?..)?;
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A zigzag-encoded number.
    fn number(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

/// Declared numbers of delta-encoded values, for which readers allocate; `values` begins after the levels.
/// `None` if damaged.
pub(super) fn delta_counts(values: &[u8], has_prefixes: bool) -> Option<Vec<u64>> {
    let mut thrift = Thrift { rest: values };
    let first = delta_stream(&mut thrift)?;
    if !has_prefixes {
        return Some(vec![first]);
    }
    // Prefix lengths come first, then suffix lengths.
    Some(vec![first, delta_stream(&mut thrift)?])
}

/// Skips a DELTA_BINARY_PACKED stream and returns its number of values.
fn delta_stream(thrift: &mut Thrift) -> Option<u64> {
    let (block, minis, count) = (thrift.varint()?, thrift.varint()?, thrift.varint()?);
    thrift.varint()?;
    let of_mini = block.checked_div(minis)?;
    if of_mini == 0 {
        return None;
    }
    let mut left = count.saturating_sub(1);
    while left > 0 {
        thrift.varint()?;
        let widths = thrift.rest.get(..usize::try_from(minis).ok()?)?.to_vec();
        thrift.advance(minis)?;
        for width in widths {
            if left == 0 {
                break;
            }
            thrift.advance(of_mini.checked_mul(u64::from(width))?.div_ceil(8))?;
            left = left.saturating_sub(of_mini);
        }
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_protocol() {
        let number = |bytes: &[u8]| Thrift { rest: bytes }.number();
        assert_eq!(number(&[0]), Some(0));
        assert_eq!(number(&[1]), Some(-1));
        assert_eq!(number(&[0x80, 0x01]), Some(64));
        assert_eq!(number(&[0x80]), None, "cut");
        assert_eq!(number(&[0xff; 11]), None, "too long");
    }

    #[test]
    fn a_list_longer_than_its_footer_is_refused() {
        // Field 1: a list of structs, of which each takes a byte at least.
        let footer =
            |count: &[u8], elements: usize| [&[0x19, 0xfc], count, &vec![0; elements], &[0x00]].concat();
        assert!(is_sound(&footer(&[3], 3)));
        assert!(!is_sound(&footer(&[0xff, 0xff, 0xff, 0xff, 0x07], 3)), "2^31 elements in three bytes");
    }

    #[test]
    fn a_header_says_what_a_page_takes() {
        // type 0, uncompressed 1000, compressed 10, {values 7, encoding 6, a list of two strings}
        let bytes = [
            0x15, 0x00, 0x15, 0xd0, 0x0f, 0x15, 0x14, 0x2c, 0x15, 0x0e, 0x15, 0x0c, 0x19, 0x28, 1, b'a', 0,
            0x00, 0x00,
        ];
        let mut thrift = Thrift { rest: &bytes };
        let header = thrift.header().expect("a header");
        assert_eq!((header.kind, header.uncompressed, header.compressed), (0, 1_000, 10));
        assert_eq!((header.values, header.encoding, thrift.rest.len()), (7, 6, 0));
        for cut in 0..bytes.len() {
            assert!(Thrift { rest: &bytes[..cut] }.header().is_none(), "{cut}");
        }
    }

    #[test]
    fn a_stream_of_deltas_says_how_many_it_has() {
        // A block of 128 in 4 miniblocks, 3 values, the first 0; min delta 0, bit widths 1 0 0 0, 32 bits.
        let stream = [0x80, 0x01, 4, 3, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(delta_counts(&stream, false), Some(vec![3]));
        assert_eq!(delta_counts(&[stream, stream].concat(), true), Some(vec![3, 3]));
        assert_eq!(delta_counts(&stream, true), None, "no second stream");
        assert_eq!(delta_counts(&[0x80, 0x01, 0, 3, 0], false), None, "no minis");
    }
}
