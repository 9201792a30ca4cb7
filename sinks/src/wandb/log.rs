//! The framing of a `.wandb` file: LevelDB's log format with a header.
//!
//! Blocks of 32 KiB; the file's header is at the start of the first one. A record is one chunk, or several if it
//! crosses block boundaries: CRC-32 (IEEE, of type and data), u16 length, u8 type, data; little-endian.

/// The file header: ":W&B", the magic number 0xBEE1, version 0.
pub(super) const HEADER: [u8; 7] = *b":W&B\xe1\xbe\0";

const BLOCK_BYTES: usize = 32 << 10;
const CHUNK_HEADER_BYTES: usize = 7;

/// Chunk types: a whole record, its beginning, middle, end.
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// Appends a record's chunks to `out`, which begins at `position` of the file.
pub(super) fn push(mut data: &[u8], position: u64, out: &mut Vec<u8>) {
    let mut is_first = true;
    loop {
        let in_block = (position as usize + out.len()) % BLOCK_BYTES;
        let left = BLOCK_BYTES - in_block;
        if left < CHUNK_HEADER_BYTES {
            out.resize(out.len() + left, 0);
            continue;
        }
        let (part, rest) = data.split_at(data.len().min(left - CHUNK_HEADER_BYTES));
        let kind = match (is_first, rest.is_empty()) {
            (true, true) => FULL,
            (true, false) => FIRST,
            (false, false) => MIDDLE,
            (false, true) => LAST,
        };
        let mut crc = crc32fast::Hasher::new();
        crc.update(&[kind]);
        crc.update(part);
        out.extend_from_slice(&crc.finalize().to_le_bytes());
        // At most a block, which is less than 64 KiB.
        out.extend_from_slice(&(part.len() as u16).to_le_bytes());
        out.push(kind);
        out.extend_from_slice(part);
        if rest.is_empty() {
            return;
        }
        (data, is_first) = (rest, false);
    }
}

#[cfg(test)]
pub(super) fn read(bytes: &[u8]) -> Vec<Vec<u8>> {
    assert_eq!(bytes[..7], HEADER);
    let (mut position, mut records, mut open) = (7, Vec::new(), None::<Vec<u8>>);
    while position < bytes.len() {
        let left = BLOCK_BYTES - position % BLOCK_BYTES;
        if left < CHUNK_HEADER_BYTES {
            assert!(bytes[position..position + left].iter().all(|byte| *byte == 0));
            position += left;
            continue;
        }
        let header = &bytes[position..position + 7];
        let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
        assert!(length + 7 <= left, "a chunk ends with its block");
        let data = &bytes[position + 6..position + 7 + length];
        assert_eq!(header[..4], crc32fast::hash(data).to_le_bytes());
        match (header[6], &mut open) {
            (FULL, None) => records.push(data[1..].to_vec()),
            (FIRST, None) => open = Some(data[1..].to_vec()),
            (MIDDLE, Some(record)) => record.extend_from_slice(&data[1..]),
            (LAST, Some(record)) => {
                record.extend_from_slice(&data[1..]);
                records.extend(open.take());
            }
            (kind, open) => panic!("a chunk of type {kind} where {open:?} is open"),
        }
        position += 7 + length;
    }
    assert!(open.is_none());
    records
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Records of any length round-trip, also when they end exactly at a block boundary or a few bytes off.
        #[test]
        fn records_come_back(
            lengths in proptest::collection::vec(
                prop_oneof![0..40usize, 32_700..32_800usize, 65_400..65_600usize, 0..100_000usize], 0..12),
        ) {
            let mut file = HEADER.to_vec();
            let record = |(index, length): (usize, &usize)| vec![index as u8 + 1; *length];
            let records: Vec<Vec<u8>> = lengths.iter().enumerate().map(record).collect();
            for record in &records {
                let mut out = Vec::new();
                push(record, file.len() as u64, &mut out);
                file.extend(out);
            }
            prop_assert!(read(&file) == records);
        }
    }
}
